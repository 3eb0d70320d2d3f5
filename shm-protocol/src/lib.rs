//! Shared-memory rings, pools, leases and telemetry that join the four kernels.

pub mod error;
pub mod frame;
pub mod pixels;
