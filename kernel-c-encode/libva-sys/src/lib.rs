//! Bindings of libva 2.17 (VA-API 1.17) and of its driver interface, opened at run time ([`Functions`]). Written by
//! `scripts/bindgen` from the headers.
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

pub use bindings::*;

/// Name of the library.
pub const LIBRARY: &str = "libva.so.2";
/// Name of the library that opens render nodes.
pub const DRM_LIBRARY: &str = "libva-drm.so.2";
