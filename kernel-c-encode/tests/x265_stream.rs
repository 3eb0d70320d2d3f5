//! What the stream of the x265 backend is: the library's own bytes, with what receivers need around them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::direct::{self, Direct};
use common::{FPS, encode, have, nv12, p010, run, small};
use kernel_c_encode::backends::software::x265::X265;
use kernel_c_encode::bitstream::annexb::nal_units;
use kernel_c_encode::bitstream::hevc::{DELIMITER_BYTES, nal_type, type_of};
use kernel_c_encode::encoder::{EncodeInput, Encoder, Key};
use kernel_c_encode::settings::{EncoderSettings, Gop, Preset, RateControl, X26xPreset};
use kernel_c_encode::warm::{open_for_warm_up, warm_up};
use shm_protocol::frame::{Codec, Colour, PixelFormat, VideoFormat};
use shm_protocol::pixels::PixelsRead;

fn there() -> bool {
    have("x265", Codec::Hevc)
}

#[test]
fn every_unit_is_the_librarys_behind_a_delimiter_with_8_and_10_bit() {
    if !there() {
        return;
    }
    let Some(direct) = Direct::build("x265", Some(("x265.h", "libx265-dev"))) else { return };
    for (bits, format) in
        [("8", nv12(320, 180, FPS, Colour::BT709_LIMITED)), ("10", p010(320, 180, FPS, Colour::BT709_LIMITED))]
    {
        let live = EncoderSettings { gop: Gop::Frames(15), ..EncoderSettings::live(Codec::Hevc, format, 600) };
        let common = "fps=30/1 keyint=15 videoformat=unknown range=limited colorprim=bt709 transfer=bt709 \
                      colormatrix=bt709 chromaloc=0 high-tier=0 frame-threads=1 repeat-headers=1 \
                      annexb=1 info=0 open-gop=0";
        let quality = EncoderSettings {
            rate_control: RateControl::ConstantQuality,
            qp: 30,
            preset: Preset::Named(X26xPreset::Superfast),
            ..live.clone()
        };
        // With a bitrate the library decides row by row on what its threads have done so far: no two runs are equal.
        let waves = EncoderSettings { threads: 2, ..quality.clone() };
        for (settings, preset, options) in [
            (&live, "ultrafast", "wpp=0 pools=none level-idc=2.1 bitrate=600 vbv-maxrate=600 vbv-bufsize=300"),
            (&waves, "superfast", "wpp=1 pools=2 crf=30"),
            (&quality, "superfast", "wpp=0 pools=none crf=30"),
        ] {
            let ours = run(&mut X265::open(settings).unwrap(), &format, 40, &[11], 24);
            let theirs = direct.encode(&format, 40, &[bits, preset, ",11,"], &format!("{common} {options}"), 24);
            assert_eq!(ours.units().len(), theirs.len());
            for ((meta, bytes), direct) in ours.units().into_iter().zip(theirs) {
                assert!(!direct.is_empty());
                let frame = meta.key.source_id;
                assert!(bytes[DELIMITER_BYTES..] == direct, "frame {frame}, {bits} bit: {options}");
            }
        }
    }
}

#[test]
fn ten_bits_reach_the_decoder() {
    if !there() {
        return;
    }
    let format = p010(320, 180, FPS, Colour::BT709_LIMITED);
    let settings = EncoderSettings {
        rate_control: RateControl::ConstantQp,
        qp: 4,
        ..EncoderSettings::live(Codec::Hevc, format, 600)
    };
    let sink = run(&mut X265::open(&settings).unwrap(), &format, 3, &[], 8);
    let Some(decoded) = direct::decoded("hevc", &sink.stream()) else { return };
    assert_eq!(decoded.len(), 3 * 320 * 180 * 3);
    direct::same_p010_luma(&format, 2, 8, &decoded[2 * 320 * 180 * 3..]);
}

#[test]
fn i420_and_nv12_of_the_same_picture_give_the_same_stream() {
    if !there() {
        return;
    }
    let settings = small(Codec::Hevc);
    let format = settings.format;
    let planar = VideoFormat::packed(PixelFormat::I420, 320, 180, format.fps, format.colour).unwrap();
    let mut from_nv12 = X265::open(&settings).unwrap();
    let mut from_i420 = X265::open(&EncoderSettings { format: planar, ..settings }).unwrap();
    let (mut a, mut b) = (common::Keep::default(), common::Keep::default());
    for index in 0..6 {
        let (bytes, other) = direct::nv12_and_i420(&format, &planar, index, 8);
        let key = Key { source_id: 1000 + index, sub: 0 };
        let input =
            |pixels| EncodeInput { pixels, memory: None, qp: None, key, pts_ns: index, force_idr: false, idr_count: 0 };
        from_nv12.encode(&input(PixelsRead::from_slice(&format, &bytes).unwrap()), &mut a).unwrap();
        from_i420.encode(&input(PixelsRead::from_slice(&planar, &other).unwrap()), &mut b).unwrap();
    }
    assert!(!a.stream().is_empty());
    assert_eq!(a.stream(), b.stream());
    assert_eq!((from_nv12.copied_bytes(), from_i420.copied_bytes()), (6 * 320 * 180 / 2, 0));
}

#[test]
fn an_idr_carries_its_parameter_sets_and_every_unit_one_slice() {
    if !there() {
        return;
    }
    let settings = EncoderSettings { gop: Gop::Frames(12), ..small(Codec::Hevc) };
    let sink = run(&mut X265::open(&settings).unwrap(), &settings.format, 30, &[5], 8);
    for (meta, bytes) in sink.units() {
        let types: Vec<u8> = nal_units(bytes).map(|n| type_of(n.nal[0])).collect();
        let (delimiter, slices) = types.split_first().unwrap();
        assert_eq!(*delimiter, nal_type::DELIMITER);
        if meta.idr {
            let (sets, slice) = slices.split_at(3);
            assert_eq!(sets, [nal_type::VPS, nal_type::SPS, nal_type::PPS]);
            assert!(matches!(slice, [nal_type::IDR_W_RADL | nal_type::IDR_N_LP]), "{slice:?}");
        } else {
            // TRAIL_R: a picture others refer to. B pictures nobody refers to would be TRAIL_N, 0.
            assert_eq!(slices, [1], "frame {}", meta.key.source_id);
        }
    }
}

#[test]
fn the_bitrate_follows_its_setting_within_a_second_behind_an_idr() {
    if !there() {
        return;
    }
    let format = nv12(640, 360, FPS, Colour::BT709_LIMITED);
    let settings = EncoderSettings {
        max_bitrate_kbps: 12_000,
        gop: Gop::Infinite,
        ..EncoderSettings::live(Codec::Hevc, format, 500)
    };
    direct::follows_its_bitrate(&mut X265::open(&settings).unwrap(), &format, [500, 2000, 500], (true, 1.25));
}

#[test]
fn an_encoder_that_was_warmed_up_goes_on_as_a_new_one_would() {
    if !there() {
        return;
    }
    let settings = EncoderSettings { gop: Gop::Infinite, ..small(Codec::Hevc) };
    let mut bytes = vec![0; settings.format.frame_bytes() as usize];
    common::fill(&settings.format, 0, 8, &mut bytes);
    let mut warm = open_for_warm_up("x265", &settings).unwrap();
    warm_up(warm.as_mut(), PixelsRead::from_slice(&settings.format, &bytes).unwrap()).unwrap();
    let kept = run(warm.as_mut(), &settings.format, 5, &[0, 3], 8);
    let cold = run(&mut X265::open(&settings).unwrap(), &settings.format, 5, &[3], 8);
    let kinds = |kept: &common::Keep| kept.units().iter().map(|(m, _)| (m.key, m.idr)).collect::<Vec<_>>();
    assert_eq!(kinds(&kept), kinds(&cold));
    assert!(kept.units()[0].1.len() < 2 * cold.units()[0].1.len());
}

#[test]
fn a_frames_own_quantiser_is_followed_while_no_bitrate_is_held() {
    if !there() {
        return;
    }
    let settings = EncoderSettings { rate_control: RateControl::ConstantQp, qp: 30, ..small(Codec::Hevc) };
    let mut encoder = X265::open(&settings).unwrap();
    assert!(encoder.capabilities().frame_qp && !encoder.capabilities().live_bitrate);
    assert!(encoder.set_bitrate(1000, 0).is_err());
    let len = direct::sizes_by_quantiser(&mut encoder, &settings.format, &[None, Some(30), Some(45), Some(12), None]);
    assert!(len[0].abs_diff(len[1]) <= 2 && len[0].abs_diff(len[4]) <= 2, "{len:?}");
    assert!(len[2] * 2 < len[0] && len[0] * 2 < len[3], "{len:?}");
}

#[test]
fn what_it_cannot_encode_is_refused_in_words() {
    if !there() {
        return;
    }
    let refuse = |change: &dyn Fn(&mut EncoderSettings), text: &str| {
        let mut settings = small(Codec::Hevc);
        change(&mut settings);
        let error = X265::open(&settings).unwrap_err();
        assert!(error.to_string().contains(text) && error.exit_code() == 78, "{error}");
    };
    refuse(&|s| s.format = nv12(30, 64, 60, Colour::BT709_LIMITED), "30x64");
    refuse(&|s| s.format = nv12(8192, 4400, 60, Colour::BT709_LIMITED), "8192x4400");
    refuse(&|s| s.slices = 2, "1 for backend x265");
    refuse(&|s| s.tile_columns = 2, "tile_columns = 2");
    refuse(&|s| s.preset = Preset::Number(10), "0 (ultrafast) to 9");
    refuse(&|s| s.level_idc = Some(99), "10 to 62");
    refuse(&|s| s.level_idc = Some(10), "one that carries the size");
    refuse(&|s| (s.level_idc, s.bitrate_kbps) = (Some(30), 9000), "at most 6000 kb/s at level 30");
    let mut encoder = X265::open(&small(Codec::Hevc)).unwrap();
    let error = encoder.set_bitrate(300_000, 0).unwrap_err().to_string();
    assert!(error.contains("kb/s at level"), "{error}");
    let other = nv12(320, 182, FPS, Colour::BT709_LIMITED);
    let error = encode(&mut encoder, &other, 0, false, 8, &mut common::Keep::default()).unwrap_err();
    assert!(error.to_string().contains("320x182") && error.to_string().contains("320x180"), "{error}");
}

#[test]
fn every_size_from_one_unit_on_is_decoded_at_that_size() {
    if !there() {
        return;
    }
    for (width, height) in [(32, 32), (34, 62), (64, 64), (322, 182), (1280, 720)] {
        for preset in [Preset::Fast, Preset::Quality] {
            let format = nv12(width, height, FPS, Colour::BT709_LIMITED);
            let settings = EncoderSettings { preset, ..EncoderSettings::live(Codec::Hevc, format, 1000) };
            let stream = run(&mut X265::open(&settings).unwrap(), &format, 1, &[], 8).stream();
            let Some(decoded) = direct::decoded("hevc", &stream) else { return };
            assert_eq!(decoded.len(), (width * height * 3 / 2) as usize, "{width}x{height} {preset:?}");
        }
    }
}
