//! Random instants that can be had again.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

/// A generator seeded by `QUAD_SEED`, or by the clock. The seed is printed: given as `QUAD_SEED`, it repeats the run.
pub fn from_environment() -> fastrand::Rng {
    let given = std::env::var("QUAD_SEED").ok().map(|text| text.parse().unwrap());
    let seed = given.unwrap_or_else(|| shm_protocol::clock::realtime_ns() / 1000);
    println!("QUAD_SEED={seed}");
    fastrand::Rng::with_seed(seed)
}
