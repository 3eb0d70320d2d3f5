//! Kernel C: encodes frames into access units.
//!
//! A [`encoder::Encoder`] turns the pixels of one frame into the bytes of one access unit, written straight into
//! the buffer of the output ring. [`select::open`] finds the backend a configuration asks for.

pub mod backends;
pub mod bitstream;
pub mod configured;
pub mod encoder;
pub mod encoding;
pub mod error;
pub mod flight;
pub mod ratecontrol;
pub mod run;
pub mod select;
pub mod settings;
pub mod sink;
pub mod support;
pub mod warm;
