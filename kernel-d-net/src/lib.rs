//! Kernel D: sends access units to viewers.
//!
//! [`run`] takes access units from the bitstream ring; a [`feed`] hands each to the outputs: RTP packets made of
//! it without copying ([`payload`], [`outputs::rtp`], [`transmit`]), one shared copy for browsers
//! ([`outputs::http`]).

pub mod au;
pub mod codecs;
pub mod configured;
pub mod feed;
pub mod files;
pub mod outputs;
pub mod payload;
pub mod run;
pub mod transmit;
pub mod warm;
