//! Kernel B: processes pixels, or passes them on by reference.
//!
//! [`engine::plan`] decides from the input's format and the wishes whether pixels must be touched at all;
//! an [`engine::Engine`] carries out what was planned.

pub mod color;
pub mod configured;
pub mod engine;
pub mod engines;
pub mod error;
pub mod run;
pub mod warm;
