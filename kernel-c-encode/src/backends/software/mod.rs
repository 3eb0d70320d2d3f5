//! Encoders that run on the CPU.

mod dynamic;
pub mod openh264;
mod openh264_library;
mod openh264_rate;
mod planar;
pub mod svtav1;
mod svtav1_library;
mod takes;
pub mod x264;
mod x264_library;
pub mod x265;
mod x265_library;
mod x26x;
