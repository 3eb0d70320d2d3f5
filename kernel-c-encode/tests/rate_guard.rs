//! The guard over openh264's bitrate, with the library itself.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::{FPS, Keep, Out, encode, nv12};
use kernel_c_encode::backends::software::openh264::OpenH264;
use kernel_c_encode::encoder::{Encoder, LeftOut};
use kernel_c_encode::settings::{EncoderSettings, Gop};
use shm_protocol::frame::{Codec, Colour};

/// Bits of every frame; 0 for one left out.
fn sizes(sink: &Keep) -> Vec<u64> {
    sink.out
        .iter()
        .map(|out| match out {
            Out::Unit(_, bytes) => bytes.len() as u64 * 8,
            Out::Left(..) => 0,
        })
        .collect()
}

/// The fullest second, as a share of the bitrate, windows that begin at or after `from`.
fn fullest_second(sizes: &[u64], kbps: u32, from: usize) -> f64 {
    let windows = sizes[from..].windows(FPS as usize).map(|window| window.iter().sum::<u64>());
    windows.max().unwrap() as f64 / (f64::from(kbps) * 1000.0)
}

#[test]
fn probe() {
    for (noise, kbps) in [(24, 1000), (16, 1000), (24, 2000), (64, 1000), (64, 2000)] {
        let settings = EncoderSettings {
            gop: Gop::Frames(25),
            ..EncoderSettings::live(Codec::H264, nv12(320, 180, FPS, Colour::BT709_LIMITED), kbps)
        };
        for guarded in [false, true] {
            let mut encoder = OpenH264::open(&settings).unwrap();
            if !guarded {
                encoder = encoder.without_guard();
            }
            let mut sink = Keep::default();
            let mut first = None;
            for index in 0..60 {
                encode(&mut encoder, &settings.format, index, index == 11, noise, &mut sink).unwrap();
                if first.is_none() && encoder.guard().is_some_and(|g| g.took_over() > 0) {
                    first = Some(index);
                }
            }
            let s = sizes(&sink);
            println!(
                "{noise} {kbps} {guarded}: {:.3} first {first:?} {:?}",
                fullest_second(&s, kbps, 0),
                s.iter().map(|b| b / 1000).collect::<Vec<_>>()
            );
        }
    }
}
