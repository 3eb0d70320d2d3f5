//! Bindings of Intel's oneVPL, API 2.8, for its dispatcher `libvpl.so.2`, which is opened at run time
//! ([`Dispatcher`]). Written by `scripts/bindgen` from the headers, without the newer structures of [`import`].
#![expect(unsafe_code, reason = "calls C through symbols looked up at run time")]
#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    clippy::all,
    clippy::undocumented_unsafe_blocks,
    clippy::unwrap_used,
    clippy::expect_used,
    unsafe_op_in_unsafe_fn,
    reason = "generated from C headers"
)]

mod bindings;
pub mod import;

pub use bindings::*;

/// Name of the dispatcher's library.
pub const LIBRARY: &str = "libvpl.so.2";
