//! HEVC by the vpl backend: 10 bit, tiles, bitrates beyond 16 bits.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::vpl::{Machine, NODE, calls, ext, give, idrs_of_all, on, picture, run_kept};
use common::{FPS, Keep, nv12, skip, small};
use kernel_c_encode::bitstream::annexb::nal_units;
use kernel_c_encode::bitstream::hevc;
use kernel_c_encode::encoder::Encoder;
use kernel_c_encode::error::EncoderError;
use kernel_c_encode::select::open;
use kernel_c_encode::settings::EncoderSettings;
use shm_protocol::frame::{Codec, Colour, PixelFormat, Rational, VideoFormat};

/// The encoder; says so when the runtime has no HEVC on this machine.
fn hevc(test: &str, settings: &EncoderSettings) -> Option<Box<dyn Encoder>> {
    match open("vpl", settings) {
        Ok(opened) => Some(opened.encoder),
        Err(error @ EncoderError::Unavailable { .. }) => {
            skip(test, &error.to_string());
            None
        }
        Err(error) => panic!("{error}"),
    }
}

#[test]
fn ten_bits_go_in_as_surfaces_and_by_pointers_and_make_the_same_main10_stream() {
    const TEST: &str = "ten_bits_go_in_as_surfaces_and_by_pointers_and_make_the_same_main10_stream";
    on(Machine::Hardware, TEST, &[], |folder| {
        let fps = Rational::new(FPS, 1).unwrap();
        let format = VideoFormat::packed(PixelFormat::P010, 320, 180, fps, Colour::BT709_LIMITED).unwrap();
        let mut streams = Vec::new();
        for device in [Some(NODE.into()), None] {
            let settings = EncoderSettings { device, ..EncoderSettings::live(Codec::Hevc, format, 1000) };
            let Some(mut encoder) = hevc(TEST, &settings) else { return };
            let mut sink = Keep::default();
            run_kept(encoder.as_mut(), &format, 8, &[5], &mut sink);
            assert_eq!(idrs_of_all(&sink, 8), [0, 5]);
            assert_eq!(encoder.copied_bytes(), 8 * 2 * 320 * 180 * 3 / 2);
            streams.push(sink.stream());
        }
        assert!(streams[0] == streams[1]);
        let sps = nal_units(&streams[0]).find(|unit| hevc::type_of(unit.nal[0]) == hevc::nal_type::SPS).unwrap();
        // Two bytes of header, one of ids and flags, then general_profile_space, tier and profile (7.3.1.1, 7.3.3).
        assert_eq!(sps.nal[3] & 0x1f, 2, "Main 10");
        let init = calls(folder, "ENCODE_Init");
        assert!(init[0]["in"].to_string().contains("\"Shift\":1"), "{}", init[0]["in"]);
    });
}

#[test]
fn tiles_are_told_to_the_runtime() {
    on(Machine::Software, "tiles_are_told_to_the_runtime", &[], |folder| {
        let format = nv12(1024, 256, FPS, Colour::BT709_LIMITED);
        let settings = EncoderSettings { tile_columns: 4, tile_rows: 2, format, ..small(Codec::Hevc) };
        let Some(encoder) = hevc("tiles_are_told_to_the_runtime", &settings) else { return };
        assert!(!encoder.path().contains("slices"), "{}", encoder.path());
        let init = calls(folder, "ENCODE_Init");
        assert_eq!(ext(&init[0]["in"], "mfxExtHEVCTiles", "NumTileColumns"), Some(4), "{}", init[0]["in"]);
        assert_eq!(ext(&init[0]["in"], "mfxExtHEVCTiles", "NumTileRows"), Some(2));
    });
}

#[test]
fn bitrates_beyond_16_bits_change_live_under_one_multiplier() {
    const TEST: &str = "bitrates_beyond_16_bits_change_live_under_one_multiplier";
    on(Machine::Software, TEST, &[], |folder| {
        let settings = EncoderSettings { bitrate_kbps: 60_000, max_bitrate_kbps: 240_000, ..small(Codec::Hevc) };
        let Some(mut encoder) = hevc(TEST, &settings) else { return };
        let (mut sink, picture) = (Keep::default(), picture(&settings.format, 0));
        for (index, kbps) in [240_000, 60_000].into_iter().enumerate() {
            give(encoder.as_mut(), &settings.format, index as u64, &picture, None, false, &mut sink).unwrap();
            encoder.set_bitrate(kbps, 0).unwrap();
        }
        let resets = calls(folder, "ENCODE_Reset");
        assert_eq!(resets.len(), 2, "each at the first try");
        for (reset, kbps) in resets.iter().zip([240_000u64, 60_000]) {
            let text = reset["in"].to_string();
            assert!(text.contains("\"BRCParamMultiplier\":4"), "{text}");
            let field = "\"TargetKbps|QPP|ICQQuality\":";
            let rest = &text[text.find(field).unwrap() + field.len()..];
            let target: u64 = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap();
            assert_eq!(target, kbps / 4);
            assert_eq!(ext(&reset["in"], "mfxExtEncoderResetOption", "StartNewSequence"), Some(32));
        }
        assert!(encoder.capabilities().live_bitrate);
    });
}
