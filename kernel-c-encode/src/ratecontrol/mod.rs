//! Rate control of our own: models, a leaky bucket, a controller for backends that only take a quantiser, and a guard
//! over libraries that exceed their bitrate. Formulas, sources and a plot are in docs/rate-control.md.
//!
//! - [`model`]: quantiser step, λ, and bits as a function of complexity and step.
//! - [`satd`]: the complexity of a frame.
//! - [`bucket`]: the leaky bucket and the window of one second.
//! - [`controller`]: [`controller::RateController`], one QP per frame.
//! - [`controlled`]: [`controlled::Controlled`], an encoder that only takes a quantiser, driven by a controller.
//! - [`guard`]: [`guard::Guard`], which looks after a library.

pub mod bucket;
pub mod controlled;
pub mod controller;
pub mod guard;
pub mod mode;
pub mod model;
pub mod satd;

#[cfg(test)]
mod tests;
