//! Rate control of our own: models, a leaky bucket, a controller for backends that only take a quantiser, and a guard
//! over libraries that exceed their bitrate. Formulas, sources and a plot are in docs/rate-control.md.
//!
//! - [`model`]: quantiser step and λ.
//! - [`satd`]: the complexity of a frame.
//! - [`bits`]: the bits of a frame as a function of complexity and step, learnt.
//! - [`prediction`]: what the next frame is expected to cost.
//! - [`bucket`]: the leaky bucket and the window of one second.
//! - [`controller`]: [`controller::RateController`], one QP per frame.
//! - [`controlled`]: [`controlled::Controlled`], an encoder that only takes a quantiser, driven by a controller.
//! - [`guard`]: [`guard::Guard`], which looks after a library that takes a quantiser.
//! - [`trim`]: [`trim::Trim`], which looks after one that only takes a bitrate.

pub mod bits;
pub mod bucket;
pub mod controlled;
pub mod controller;
pub mod guard;
pub mod mode;
pub mod model;
pub mod prediction;
pub mod satd;
pub mod trim;

#[cfg(test)]
mod tests;
