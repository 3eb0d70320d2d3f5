//! A clock whose reading costs little beside what it measures.
#![cfg_attr(target_arch = "x86_64", expect(unsafe_code, reason = "the time-stamp counter"))]

use shm_protocol::clock::monotonic_ns;

/// The counter now.
#[cfg(target_arch = "x86_64")]
#[inline(always)]
pub fn now() -> u64 {
    // SAFETY: RDTSC exists on every x86-64; with constant_tsc it runs alike on all cores.
    unsafe { core::arch::x86_64::_rdtsc() }
}

/// The counter now.
#[cfg(not(target_arch = "x86_64"))]
pub fn now() -> u64 {
    monotonic_ns()
}

/// Nanoseconds of a tick, measured against CLOCK_MONOTONIC.
pub fn ns_per_tick() -> f64 {
    const MEASURE_NS: u64 = 50_000_000;
    let (ns, ticks) = (monotonic_ns(), now());
    while monotonic_ns() - ns < MEASURE_NS {
        std::hint::spin_loop();
    }
    let elapsed_ticks = now() - ticks;
    (monotonic_ns() - ns) as f64 / elapsed_ticks as f64
}
