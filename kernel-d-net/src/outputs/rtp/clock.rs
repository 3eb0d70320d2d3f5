//! Time as the sender sees it: given by the caller, so that tests and event loops can have their own.

use nix::{
    sys::time::TimeSpec,
    time::{ClockId, ClockNanosleepFlags, clock_gettime, clock_nanosleep},
};

/// Tells the time and waits.
pub trait Clock {
    /// CLOCK_MONOTONIC, nanoseconds.
    fn now_ns(&mut self) -> u64;

    /// Waits until that time, or not quite (the caller looks again). False: stop sending now; the session remembers
    /// how far it came.
    fn wait_until_ns(&mut self, until_ns: u64) -> bool;
}

/// The system's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct MonotonicClock;

impl Clock for MonotonicClock {
    fn now_ns(&mut self) -> u64 {
        // It cannot fail for CLOCK_MONOTONIC; 0 would only make the pacer send.
        clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
    }

    fn wait_until_ns(&mut self, until_ns: u64) -> bool {
        let time = TimeSpec::new((until_ns / 1_000_000_000) as i64, (until_ns % 1_000_000_000) as i64);
        // An interrupted sleep ends early, which the caller allows for.
        let _ = clock_nanosleep(ClockId::CLOCK_MONOTONIC, ClockNanosleepFlags::TIMER_ABSTIME, &time);
        true
    }
}
