//! Shared-memory rings, pools, leases and telemetry that join the four kernels.
#![cfg_attr(loom, allow(dead_code, reason = "a model drives the core alone"))]

#[cfg(not(loom))]
pub mod attach;
#[cfg(not(loom))]
pub mod clock;
#[cfg(not(loom))]
pub mod control;
#[cfg(all(not(loom), feature = "crash-points"))]
pub mod crash;
#[cfg(not(all(not(loom), feature = "crash-points")))]
pub(crate) mod crash;
#[cfg(not(loom))]
pub mod descriptor;
pub mod error;
#[cfg(not(loom))]
pub mod fdpass;
pub mod frame;
pub(crate) mod futex;
#[cfg(not(loom))]
pub mod input;
pub mod layout;
#[cfg(not(loom))]
pub mod lease;
#[cfg(not(loom))]
pub mod names;
#[cfg(not(loom))]
pub mod observe;
#[cfg(not(loom))]
pub mod output;
#[cfg(not(loom))]
pub mod pixels;
pub(crate) mod planted;
#[cfg(not(loom))]
pub mod pool;
#[cfg(not(loom))]
pub mod preview;
pub mod ring;
#[cfg(not(loom))]
pub mod segment;
pub mod slot;
#[cfg(not(loom))]
pub mod stage;
pub(crate) mod sync;
#[cfg(not(loom))]
pub mod telemetry;
#[cfg(not(loom))]
pub mod words;
