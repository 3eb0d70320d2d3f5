//! Kernel A: captures frames into the first ring.
//!
//! A [`source::Source`] makes frames: it waits for the time of the next one, then fills a buffer that the ring
//! loop claimed for it. Sources know nothing of rings; the ring loop knows nothing of where pixels come from.

pub mod barcode;
pub mod clock;
pub mod error;
pub mod open;
pub mod pacing;
pub mod paint;
pub mod run;
pub mod source;
pub mod sources;
pub mod warm;
