//! The two clocks a captured frame is stamped with, and a sleep that a stop request ends early.

use crate::error::SourceError;
use nix::errno::Errno;
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest time a waiting source goes without looking at its stop flag. Short enough that a stop feels
/// immediate, long enough that an idle 1 fps source wakes 20 times a second and costs nothing measurable.
pub const STOP_POLL_NS: u64 = 50_000_000;

fn nanoseconds(time: TimeSpec) -> u64 {
    let duration = Duration::from(time);
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// CLOCK_MONOTONIC, nanoseconds.
///
/// # Errors
/// [`SourceError::Clock`] when the operating system refuses the clock, which Linux never does.
pub fn monotonic_ns() -> Result<u64, SourceError> {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map(nanoseconds).map_err(SourceError::Clock)
}

/// CLOCK_REALTIME, microseconds since 1970-01-01 00:00:00 UTC.
///
/// # Errors
/// [`SourceError::Clock`] when the operating system refuses the clock, which Linux never does.
pub fn realtime_us() -> Result<u64, SourceError> {
    clock_gettime(ClockId::CLOCK_REALTIME).map(|time| nanoseconds(time) / 1000).map_err(SourceError::Clock)
}

/// Sleeps until CLOCK_MONOTONIC reaches `deadline_ns`. Returns false when `stop` was set first; `stop` is
/// looked at before sleeping and every [`STOP_POLL_NS`].
///
/// # Errors
/// [`SourceError::Clock`] when the operating system refuses the sleep.
pub fn sleep_until(deadline_ns: u64, stop: &AtomicBool) -> Result<bool, SourceError> {
    loop {
        if stop.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let now_ns = monotonic_ns()?;
        if now_ns >= deadline_ns {
            return Ok(true);
        }
        let until = TimeSpec::from_duration(Duration::from_nanos(deadline_ns.min(now_ns + STOP_POLL_NS)));
        match clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &until) {
            // A signal may be the stop request: look at the flag at once.
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(SourceError::Clock(errno)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_ends_at_its_deadline_not_before() {
        let deadline_ns = monotonic_ns().unwrap() + 5_000_000;
        assert!(sleep_until(deadline_ns, &AtomicBool::new(false)).unwrap());
        assert!(monotonic_ns().unwrap() >= deadline_ns);
    }

    #[test]
    fn stop_ends_a_long_sleep_within_the_poll_interval() {
        let stop = AtomicBool::new(false);
        let start_ns = monotonic_ns().unwrap();
        std::thread::scope(|scope| {
            let sleeper = scope.spawn(|| sleep_until(start_ns + 60_000_000_000, &stop).unwrap());
            std::thread::sleep(Duration::from_millis(5));
            stop.store(true, Ordering::Relaxed);
            assert!(!sleeper.join().unwrap(), "a stopped sleep says so");
        });
        assert!(monotonic_ns().unwrap() - start_ns < 10_000_000_000);
    }
}
