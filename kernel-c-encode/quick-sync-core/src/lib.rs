//! Kernel C as a C library: `include/quick_sync_core.h` says what it promises, `docs/c-interface.md` how it is used.
//!
//! What C holds is never an address but a number that [`handle::Table`] looks up: a context that was destroyed, is in
//! use by another thread, or never was, is an error and not a crash. A panic ends at the border ([`border::call`]).

pub mod allocator;
mod api;
mod border;
mod codes;
mod config;
mod context;
mod failure;
mod handle;
mod memory;
mod output;
mod ring;
mod ring_api;
mod surface;
mod types;

pub use api::*;
pub use codes::*;
pub use ring_api::*;
pub use surface::*;
pub use types::*;
