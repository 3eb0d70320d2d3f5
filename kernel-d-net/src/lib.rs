//! Kernel D: sends access units to viewers.

pub mod au;
pub mod outputs;
pub mod payload;
pub mod transmit;
pub mod run;
