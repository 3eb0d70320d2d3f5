//! The VA-API backend on the libva driver of tests/fixtures, which checks every parameter and codes with a software
//! encoder. Nothing here says how an Intel device behaves.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;
mod fixture;

use common::{FPS, nv12, run};
use fixture::{decoded, on_a_machine, open, refused};
use kernel_c_encode::settings::{EncoderSettings, Gop, RateControl};
use shm_protocol::frame::{Codec, Colour};
use va_fixture::environment::need;

const FRAMES: u64 = 90;

/// A stream of 90 frames with IDR pictures asked for at 20 and 21, decoded.
fn ninety_frames(settings: &EncoderSettings, suffix: &str) {
    let mut encoder = open(settings).unwrap();
    let sink = run(&mut *encoder, &settings.format, FRAMES, &[20, 21], 8);
    let idrs: Vec<u64> =
        sink.units().iter().filter(|(meta, _)| meta.idr).map(|(meta, _)| meta.key.source_id - 1000).collect();
    let keys: Vec<u64> = sink.units().iter().map(|(meta, _)| meta.key.source_id - 1000).collect();
    assert_eq!(keys, (0..FRAMES).collect::<Vec<_>>());
    assert_eq!(idrs, [0, 20, 21], "{settings:?}");
    let ten_bit = settings.bit_depth() == 10;
    let raw = decoded(&sink.stream(), suffix, if ten_bit { "yuv420p10le" } else { "yuv420p" });
    let (width, height) = (settings.format.width as usize, settings.format.height as usize);
    let frame_bytes = width * height * 3 / 2 * if ten_bit { 2 } else { 1 };
    assert_eq!(raw.len(), FRAMES as usize * frame_bytes, "{settings:?}");
    // The picture itself: the mean error of luma in the last frame.
    if !ten_bit {
        let mut source = vec![0; settings.format.frame_bytes() as usize];
        common::fill(&settings.format, FRAMES - 1, 8, &mut source);
        let last = &raw[(FRAMES as usize - 1) * frame_bytes..];
        let stride = settings.format.planes[0].stride as usize;
        let error: u64 =
            (0..width * height).map(|i| u64::from(last[i].abs_diff(source[i / width * stride + i % width]))).sum();
        assert!(error / ((width * height) as u64) < 12, "mean luma error {}", error / ((width * height) as u64));
    }
    assert!(encoder.path().starts_with("copied once into a mapped surface"), "{}", encoder.path());
    assert_eq!(encoder.copied_bytes(), FRAMES * (width * height * 3 / 2 * if ten_bit { 2 } else { 1 }) as u64);
}

fn settings(codec: Codec, size: (u32, u32), rate_control: RateControl) -> EncoderSettings {
    let format = nv12(size.0, size.1, FPS, Colour::BT709_LIMITED);
    EncoderSettings { gop: Gop::Infinite, rate_control, ..EncoderSettings::live(codec, format, 2000) }
}

#[test]
fn ninety_frames_of_h264_decode_in_every_rate_mode() {
    let test = "ninety_frames_of_h264_decode_in_every_rate_mode";
    if !need(test, &["ffmpeg"]) {
        return;
    }
    for rate in [RateControl::Constant, RateControl::Variable, RateControl::ConstantQp, RateControl::ConstantQuality] {
        for size in [(320, 180), (642, 362)] {
            let case = format!("{} {size:?}", rate.name());
            let lines = on_a_machine(test, &case, &[], || ninety_frames(&settings(Codec::H264, size, rate), ".h264"));
            assert_eq!(refused(&lines), Vec::<serde_json::Value>::new(), "{case}");
        }
    }
}
