//! What every kernel binary needs and no media: configuration, logging, pinning, signals, readiness, exit codes.
