//! Where access units go.

pub mod http;
