//! Encoders that run on the CPU.

pub mod openh264;
mod openh264_library;
mod openh264_rate;
pub mod svtav1;
pub mod x264;
pub mod x265;
