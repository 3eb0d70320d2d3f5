//! Sleeping and waking on a [`Bell`]: a 32-bit word of its own, never the state word.
//!
//! Ringing costs one atomic addition; the syscall is spared while nobody sleeps. The order matters and
//! was model-checked: the waiter bit is cleared before the wake, never after (after would lose a waiter
//! that came in between).

use crate::layout::Bell;
use crate::planted::planted;
use crate::sync::Ordering;

/// Bit 0 of a bell: somebody sleeps or is about to.
const WAITER: u32 = 1;
/// One ring; leaves bit 0 alone.
const RING: u32 = 2;

/// A bell's value before a look at the slots, so that a ring during the look is noticed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Heard(pub(crate) u32);

impl Bell {
    /// Rings: whoever sleeps here wakes, whoever is about to sleep looks again.
    pub(crate) fn ring(&self) {
        // SYNC: bell (release side): what was published before the ring is seen by whoever hears it.
        let old = self.word.fetch_add(RING, Ordering::AcqRel);
        if old & WAITER != 0 {
            if planted!(WakeThenClear) {
                self.wake_all();
            }
            self.word.fetch_and(!WAITER, Ordering::AcqRel);
            if !planted!(WakeThenClear) {
                self.wake_all();
            }
        }
    }

    /// Rings without looking: after a death nobody knows who sleeps.
    pub(crate) fn ring_unconditionally(&self) {
        // SYNC: bell (release side)
        self.word.fetch_add(RING, Ordering::AcqRel);
        self.word.fetch_and(!WAITER, Ordering::AcqRel);
        self.wake_all();
    }

    /// Notes the bell before a look at what it announces.
    pub(crate) fn listen(&self) -> Heard {
        // SYNC: bell (acquire side)
        Heard(self.word.load(Ordering::Acquire))
    }

    /// Announces a sleeper. `None`: it rang since `heard`, look again instead of sleeping.
    pub(crate) fn announce(&self, heard: Heard) -> Option<u32> {
        let armed = heard.0 | WAITER;
        // SYNC: bell (acquire side)
        self.word.compare_exchange(heard.0, armed, Ordering::AcqRel, Ordering::Acquire).is_ok().then_some(armed)
    }
}

#[cfg(not(loom))]
mod os {
    use super::Heard;
    use crate::layout::Bell;
    use rustix::thread::futex;
    use rustix::time::Timespec;

    fn absolute(deadline_ns: u64) -> Timespec {
        Timespec { tv_sec: (deadline_ns / 1_000_000_000) as i64, tv_nsec: (deadline_ns % 1_000_000_000) as _ }
    }

    impl Bell {
        pub(super) fn wake_all(&self) {
            // Not FUTEX_PRIVATE: the sleepers are other processes. An error here (a torn-down mapping) would
            // be seen by them at their deadline.
            let _ = futex::wake(&self.word, futex::Flags::empty(), i32::MAX as u32);
        }

        /// Sleeps until the bell rings or CLOCK_MONOTONIC reaches `deadline_ns`. Returns at once when it
        /// rang since `heard`. A spurious return is harmless: callers look again.
        pub(crate) fn sleep(&self, heard: Heard, deadline_ns: u64) {
            let Some(armed) = self.announce(heard) else { return };
            // FUTEX_WAIT_BITSET takes an absolute CLOCK_MONOTONIC deadline (FUTEX_WAIT a relative one).
            let all_bits = std::num::NonZeroU32::MAX;
            let _ =
                futex::wait_bitset(&self.word, futex::Flags::empty(), armed, Some(&absolute(deadline_ns)), all_bits);
        }
    }

    /// Sleeps until either bell rings or CLOCK_MONOTONIC reaches `deadline_ns`.
    pub(crate) fn sleep_on_two(first: (&Bell, Heard), second: (&Bell, Heard), deadline_ns: u64) {
        let (Some(a), Some(b)) = (first.0.announce(first.1), second.0.announce(second.1)) else { return };
        let entry = |bell: &Bell, value: u32| {
            let mut wait = futex::Wait::new();
            wait.val = u64::from(value);
            wait.uaddr = futex::WaitPtr::new(std::ptr::from_ref(&bell.word).cast_mut().cast());
            wait.flags = futex::WaitFlags::SIZE_U32;
            wait
        };
        let waiters = [entry(first.0, a), entry(second.0, b)];
        let clock = rustix::thread::ClockId::Monotonic;
        let slept = futex::waitv(&waiters, futex::WaitvFlags::empty(), Some(&absolute(deadline_ns)), clock);
        if matches!(slept, Err(rustix::io::Errno::NOSYS)) {
            // Before Linux 5.16 there is no futex_waitv: sleep on the first, look at the second soon.
            const LOOK_AGAIN_NS: u64 = 2_000_000;
            first.0.sleep(Heard(a), deadline_ns.min(crate::clock::monotonic_ns() + LOOK_AGAIN_NS));
        }
    }
}
#[cfg(not(loom))]
pub(crate) use os::sleep_on_two;

/// What the operating system does for a futex: it compares and goes to sleep under one lock, and wakes
/// under the same.
#[cfg(loom)]
#[derive(Debug)]
pub(crate) struct ModelFutex {
    wakes: loom::sync::Mutex<u64>,
    sleepers: loom::sync::Condvar,
}

#[cfg(loom)]
impl Bell {
    /// A bell that a model's threads can sleep on.
    #[cfg(test)]
    pub(crate) fn with_futex() -> Bell {
        let futex = ModelFutex { wakes: loom::sync::Mutex::new(0), sleepers: loom::sync::Condvar::new() };
        Bell { futex: Some(futex), ..Bell::new() }
    }

    /// Sleeps until the bell rings. There is no deadline: what only the deadline would wake is a deadlock
    /// to the model.
    #[cfg(test)]
    #[expect(clippy::expect_used, clippy::unwrap_used, reason = "a model's panic is its report")]
    pub(crate) fn sleep(&self, heard: Heard) {
        let Some(armed) = self.announce(heard) else { return };
        let futex = self.futex.as_ref().expect("This bell has no futex");
        let mut wakes = futex.wakes.lock().unwrap();
        if self.word.load(Ordering::Acquire) != armed {
            return;
        }
        let before = *wakes;
        while *wakes == before {
            wakes = futex.sleepers.wait(wakes).unwrap();
        }
    }

    #[expect(clippy::unwrap_used, reason = "a model's panic is its report")]
    fn wake_all(&self) {
        if let Some(futex) = &self.futex {
            *futex.wakes.lock().unwrap() += 1;
            futex.sleepers.notify_all();
        }
    }
}

#[cfg(all(test, loom))]
mod model;
