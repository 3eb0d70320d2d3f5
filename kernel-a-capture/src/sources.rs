//! The sources this build has.

pub mod file;
pub mod pattern;
