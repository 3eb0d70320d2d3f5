//! What the VA-API backend refuses, and how it says so.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;
mod fixture;

use common::{FPS, nv12, small};
use fixture::{any, on_a_machine, open};
use kernel_c_encode::error::EncoderError;
use kernel_c_encode::select;
use kernel_c_encode::settings::{EncoderSettings, Entropy, H264Profile, Preset, RateControl};
use shm_protocol::frame::{Codec, Colour, PixelFormat, Rational, VideoFormat};
use std::path::PathBuf;

/// The error of settings changed so.
fn refusal(change: impl Fn(&mut EncoderSettings)) -> EncoderError {
    let mut settings = small(Codec::H264);
    change(&mut settings);
    open(&settings).map(|_| ()).unwrap_err()
}

#[test]
fn what_the_device_does_not_have_is_named_with_what_it_has() {
    let test = "what_the_device_does_not_have_is_named_with_what_it_has";
    let machine = [
        ("QUAD_VA_FIXTURE_MAX_SIZE", "1920x1088"),
        ("QUAD_VA_FIXTURE_MAX_SLICES", "4"),
        ("QUAD_VA_FIXTURE_INTRA_REFRESH", "no"),
        ("QUAD_VA_FIXTURE_RC", "cbr"),
    ];
    on_a_machine(
        test,
        "lesser",
        &machine,
        || {
            let said = |change: &dyn Fn(&mut EncoderSettings), text: &str| {
                let error = refusal(change);
                assert!(error.to_string().contains(text), "{error}");
                assert_eq!(error.exit_code(), 78, "{error}");
            };
            said(&|s| s.format = nv12(3840, 2160, FPS, Colour::BT709_LIMITED), "3840x2160");
            said(&|s| s.format = nv12(3840, 2160, FPS, Colour::BT709_LIMITED), "to 1920x1088 on this device");
            said(&|s| s.slices = 5, "slices = 5");
            said(&|s| s.intra_refresh = true, "no rolling intra refresh");
            said(&|s| s.rate_control = RateControl::Variable, "allowed is cbr on this device");
            said(&|s| s.preset = Preset::Number(200), "preset = 200");
        },
        any,
    );
}

#[test]
fn what_no_device_has_is_refused_by_name() {
    let test = "what_no_device_has_is_refused_by_name";
    on_a_machine(
        test,
        "any",
        &[],
        || {
            let said = |change: &dyn Fn(&mut EncoderSettings), text: &str| {
                let error = refusal(change);
                assert!(error.to_string().contains(text), "{error}");
                assert_eq!(error.exit_code(), 78, "{error}");
            };
            let fps = Rational::new(30, 1).unwrap();
            let p010 = VideoFormat::packed(PixelFormat::P010, 320, 180, fps, Colour::BT709_LIMITED).unwrap();
            said(&|s| s.format = p010, "cannot take p010 frames");
            said(&|s| s.format.width = 319, "an even width");
            said(&|s| s.bitrate_kbps = 0, "bitrate_kbps = 0");
            said(&|s| (s.level_idc, s.bitrate_kbps) = (Some(30), 50_000), "kb/s at level 30");
            said(&|s| s.level_idc = Some(33), "level_idc = 33");
            said(&|s| s.tile_columns = 2, "no tiles");
            said(&|s| (s.profile, s.entropy) = (Some(H264Profile::ConstrainedBaseline), Some(Entropy::Cabac)), "cavlc");
            said(&|s| s.codec = Codec::Null, "codec = null");
            said(&|s| (s.codec, s.slices) = (Codec::Av1, 4), "no slices");
            let mut encoder = open(&small(Codec::H264)).unwrap();
            assert!(encoder.set_bitrate(0, 0).unwrap_err().to_string().contains("bitrate_kbps = 0"));
            assert!(encoder.set_bitrate(300_000, 0).unwrap_err().to_string().contains("at level"));
        },
        any,
    );
}

#[test]
fn a_codec_that_the_device_lacks_is_unavailable_and_the_device_named() {
    let test = "a_codec_that_the_device_lacks_is_unavailable_and_the_device_named";
    on_a_machine(
        test,
        "none",
        &[("QUAD_VA_FIXTURE_H264", "none")],
        || {
            let error = refusal(|_| ());
            assert_eq!(error.exit_code(), 69);
            assert!(error.to_string().contains("/dev/null") && error.to_string().contains("h264"), "{error}");
        },
        any,
    );
}

#[test]
fn without_a_device_the_reason_and_a_cure_are_told() {
    // No driver in the environment here: whatever this machine has, /dev/zero is no render node.
    let settings = EncoderSettings { device: Some(PathBuf::from("/dev/zero")), ..small(Codec::H264) };
    let error = select::open("vaapi", &settings).map(|_| ()).unwrap_err();
    assert_eq!(error.exit_code(), 69, "{error}");
    assert!(error.to_string().contains("Set encode.backend"), "{error}");
}
