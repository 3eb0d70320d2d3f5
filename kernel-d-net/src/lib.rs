//! Kernel D: sends access units to viewers.

pub mod outputs;
