//! Clocks: everything is stamped with CLOCK_MONOTONIC; the ring header maps it to the others.

use nix::time::{ClockId, clock_gettime};

fn read_ns(clock: ClockId) -> u64 {
    // The clocks used here cannot fail on Linux; 0 would show as an absurd latency rather than a panic.
    clock_gettime(clock).map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

/// CLOCK_MONOTONIC, nanoseconds.
pub fn monotonic_ns() -> u64 {
    read_ns(ClockId::CLOCK_MONOTONIC)
}

/// CLOCK_REALTIME, nanoseconds since 1970.
pub fn realtime_ns() -> u64 {
    read_ns(ClockId::CLOCK_REALTIME)
}

/// CLOCK_REALTIME − CLOCK_MONOTONIC now, nanoseconds (wrapping).
pub fn realtime_offset_ns() -> u64 {
    realtime_ns().wrapping_sub(monotonic_ns())
}

/// CLOCK_TAI − CLOCK_MONOTONIC now, nanoseconds (wrapping).
pub fn tai_offset_ns() -> u64 {
    read_ns(ClockId::CLOCK_TAI).wrapping_sub(monotonic_ns())
}
