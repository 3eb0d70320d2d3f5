//! Where access units go: one module per kind of viewer.

pub mod http;
pub mod listed;
pub mod rtp;
