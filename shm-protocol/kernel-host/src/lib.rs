//! What every kernel binary needs and no media: configuration, logging, pinning, signals, readiness, exit codes.

pub mod config;
pub mod name;
pub mod pin;
