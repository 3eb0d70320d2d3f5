//! The encoders.

pub mod null;
pub mod software;
