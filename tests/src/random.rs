//! Random instants that can be had again.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

/// A splitmix64 generator. Its first state is printed, and can be given as `QUAD_SEED`.
#[derive(Debug)]
pub struct Random {
    state: u64,
}

impl Random {
    /// Seeded by `QUAD_SEED`, or by the clock.
    pub fn from_environment() -> Random {
        let given = std::env::var("QUAD_SEED").ok().map(|text| text.parse().unwrap());
        let seed = given.unwrap_or_else(|| shm_protocol::clock::realtime_ns() / 1000);
        println!("QUAD_SEED={seed}");
        Random { state: seed }
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % end
    }
}
