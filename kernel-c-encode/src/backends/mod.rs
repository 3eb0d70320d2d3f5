//! The encoders.

pub mod intel;
pub mod null;
pub mod software;
