//! Encoders that run on the CPU.

pub mod openh264;
mod openh264_library;
