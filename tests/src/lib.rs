//! Real binaries, real SIGKILL, real receivers: what the system tests share.
//!
//! Everything here panics when it fails: it is used by tests alone.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a helper that fails fails its test")]

pub mod bitstream;
pub mod build;
pub mod direct;
pub mod film;
pub mod intel;
pub mod picture;
pub mod pipeline;
pub mod processes;
pub mod quad;
pub mod random;
pub mod receiver;
pub mod streams;
pub mod tools;
pub mod wire;
pub mod y4m;
