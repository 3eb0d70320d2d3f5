//! The engines there are. Every one passes the same conformance suite.

pub mod cpu;
