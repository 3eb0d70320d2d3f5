//! Frame times of a source that has no clock of its own.
//!
//! Frame times lie on one grid: slot `i` begins `i × den / num` seconds after the zero of CLOCK_MONOTONIC. The
//! grid belongs to the machine, not to the process, so a restarted kernel goes on in the rhythm of its
//! predecessor, and slot times come from one division each, so nothing drifts.

use crate::clock;
use crate::error::SourceError;
use shm_protocol::frame::Rational;
use std::sync::atomic::AtomicBool;

/// The grid slot a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PacedSlot {
    /// Number of the slot on the grid.
    pub index: u64,
    /// When the slot begins, CLOCK_MONOTONIC nanoseconds.
    pub deadline_ns: u64,
    /// Slots passed over since the previous frame because we came late.
    pub skipped: u64,
}

/// Gives out grid slots, each at most once, never one that is already over.
#[derive(Debug, Clone)]
pub struct Pacer {
    fps: Rational,
    next: u64,
}

/// The last slot that begins at or before `now_ns`.
fn slot_at(fps: Rational, now_ns: u64) -> u64 {
    // The largest i with floor(i × 1e9 × den / num) ≤ now, so that it agrees with frame_time_ns to the last bit.
    let interval_den = 1_000_000_000 * u128::from(fps.den);
    let slots = ((u128::from(now_ns) + 1) * u128::from(fps.num)).div_ceil(interval_den);
    u64::try_from(slots - 1).unwrap_or(u64::MAX)
}

impl Pacer {
    /// A pacer whose first slot is the first one that begins after `now_ns` (CLOCK_MONOTONIC).
    pub fn new(fps: Rational, now_ns: u64) -> Pacer {
        Pacer { fps, next: slot_at(fps, now_ns) + 1 }
    }

    /// When the next slot begins, CLOCK_MONOTONIC nanoseconds.
    pub fn deadline_ns(&self) -> u64 {
        self.fps.frame_time_ns(self.next)
    }

    /// Takes the slot for a frame made at `now_ns`: the next one, or, for who comes late, the present one.
    pub fn take(&mut self, now_ns: u64) -> PacedSlot {
        let index = self.next.max(slot_at(self.fps, now_ns));
        let slot = PacedSlot { index, deadline_ns: self.fps.frame_time_ns(index), skipped: index - self.next };
        self.next = index + 1;
        slot
    }

    /// Sleeps until the next slot begins and takes it; `None` when `stop` was set first.
    ///
    /// # Errors
    /// [`SourceError::Clock`] when the operating system refuses clock or sleep.
    pub fn wait(&mut self, stop: &AtomicBool) -> Result<Option<PacedSlot>, SourceError> {
        if !clock::sleep_until(self.deadline_ns(), stop)? {
            return Ok(None);
        }
        Ok(Some(self.take(clock::monotonic_ns()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NTSC: Rational = Rational { num: 60000, den: 1001 };

    #[test]
    fn an_hour_of_ntsc_frames_ends_exactly_on_time() {
        let mut pacer = Pacer::new(NTSC, 0);
        let mut last = PacedSlot { index: 0, deadline_ns: 0, skipped: 0 };
        for _ in 0..215_784 {
            last = pacer.take(pacer.deadline_ns());
            assert_eq!(last.skipped, 0);
        }
        // 215784 × 1001 / 60000 s = 3599.9964 s; 215784 rounded intervals of 16683333 ns would be 72 µs short.
        assert_eq!(last.deadline_ns, 3_599_996_400_000);
    }

    #[test]
    fn a_late_source_skips_to_the_present_and_never_bursts() {
        let fps = Rational { num: 100, den: 1 };
        let mut pacer = Pacer::new(fps, 0);
        assert_eq!(pacer.take(10_000_000), PacedSlot { index: 1, deadline_ns: 10_000_000, skipped: 0 });
        assert_eq!(pacer.take(57_000_000), PacedSlot { index: 5, deadline_ns: 50_000_000, skipped: 3 });
        assert_eq!(pacer.deadline_ns(), 60_000_000, "the next frame is a whole slot later, not at once");
    }

    #[test]
    fn a_restarted_pacer_keeps_the_grid_of_its_predecessor() {
        let mut first = Pacer::new(NTSC, 5_000_000_000);
        let taken = first.take(first.deadline_ns());
        let successor = Pacer::new(NTSC, taken.deadline_ns + 1);
        assert_eq!(successor.deadline_ns(), first.deadline_ns());
    }

    #[test]
    fn stop_ends_the_wait() {
        let mut pacer = Pacer::new(Rational { num: 1, den: 3600 }, clock::monotonic_ns().unwrap());
        assert_eq!(pacer.wait(&AtomicBool::new(true)).unwrap(), None);
    }

    proptest! {
        #[test]
        fn the_present_slot_holds_the_present(num in 1u32..1_000_000, den in 1u32..10_000, now_ns in 0u64..1 << 60) {
            let fps = Rational { num, den };
            let index = slot_at(fps, now_ns);
            prop_assert!(fps.frame_time_ns(index) <= now_ns);
            prop_assert!(fps.frame_time_ns(index + 1) > now_ns);
        }

        #[test]
        fn slots_rise_strictly_and_are_never_given_before_their_time(
            num in 1u32..300_000, den in 1u32..2000, steps in proptest::collection::vec(0u64..1 << 34, 1..50),
        ) {
            let fps = Rational { num, den };
            let mut pacer = Pacer::new(fps, 0);
            let mut now_ns = 0;
            let mut last = 0;
            for step in steps {
                now_ns = (now_ns + step).max(pacer.deadline_ns());
                let slot = pacer.take(now_ns);
                prop_assert!(slot.index > last && slot.deadline_ns <= now_ns);
                last = slot.index;
            }
        }
    }
}
