//! What the stream of the x264 backend is: the library's own bytes, with what receivers need around them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::direct::{self, Direct};
use common::{FPS, encode, have, nv12, run, small};
use kernel_c_encode::backends::software::x264::X264;
use kernel_c_encode::bitstream::annexb::nal_units;
use kernel_c_encode::bitstream::h264::{DELIMITER_BYTES, SliceHeader, nal_type, type_of};
use kernel_c_encode::bitstream::h264_sps::Sps;
use kernel_c_encode::encoder::{EncodeInput, Encoder, Key};
use kernel_c_encode::settings::{EncoderSettings, Entropy, Gop, H264Profile, Preset, RateControl, X26xPreset};
use kernel_c_encode::warm::{open_for_warm_up, warm_up};
use shm_protocol::frame::{Codec, Colour, PixelFormat, Rational, VideoFormat};
use shm_protocol::pixels::PixelsRead;

fn there() -> bool {
    have("x264", Codec::H264)
}

fn first_sps(stream: &[u8]) -> Sps {
    nal_units(stream)
        .find(|n| type_of(n.nal[0]) == nal_type::SPS)
        .and_then(|n| Sps::parse(n.nal))
        .expect("the stream begins with a readable SPS")
}

fn idr_pic_ids(stream: &[u8]) -> Vec<u32> {
    let sps = first_sps(stream);
    nal_units(stream).filter_map(|n| SliceHeader::parse(n.nal, &sps)?.idr_pic_id).collect()
}

fn stream_with(settings: &EncoderSettings, count: u64, idr_at: &[u64]) -> Vec<u8> {
    run(&mut X264::open(settings).unwrap(), &settings.format, count, idr_at, 8).stream()
}

/// The unit without SEI, in which the library describes itself in the first one.
fn without_sei(unit: &[u8]) -> Vec<u8> {
    let kept = nal_units(unit).filter(|n| type_of(n.nal[0]) != nal_type::SEI);
    kept.flat_map(|n| n.with_start_code.to_vec()).collect()
}

#[test]
fn every_unit_is_the_librarys_behind_a_delimiter() {
    if !there() {
        return;
    }
    let Some(direct) = Direct::build("x264", Some(("x264.h", "libx264-dev"))) else { return };
    let format = nv12(640, 360, FPS, Colour::BT709_LIMITED);
    let live = EncoderSettings { gop: Gop::Frames(25), ..EncoderSettings::live(Codec::H264, format, 1000) };
    let common = "fps=30/1 keyint=25 scenecut=0 videoformat=undef fullrange=off colorprim=bt709 transfer=bt709 \
                  colormatrix=bt709 level=3.0";
    let sliced = EncoderSettings { threads: 2, slices: 4, ..live.clone() };
    let slices = EncoderSettings { slices: 3, preset: Preset::Named(X26xPreset::Ultrafast), ..live.clone() };
    let quality = EncoderSettings { rate_control: RateControl::ConstantQuality, qp: 30, ..live.clone() };
    for (settings, preset, options) in [
        (&live, "superfast", "threads=1 bitrate=1000 vbv-maxrate=1000 vbv-bufsize=500"),
        (&sliced, "superfast", "threads=4 sliced-threads=1 bitrate=1000 vbv-maxrate=1000 vbv-bufsize=500"),
        (&slices, "ultrafast", "threads=1 slices=3 bitrate=1000 vbv-maxrate=1000 vbv-bufsize=500"),
        (&quality, "superfast", "threads=1 crf=30"),
    ] {
        let settings = EncoderSettings { level_idc: Some(30), ..settings.clone() };
        let ours = run(&mut X264::open(&settings).unwrap(), &format, 60, &[11], 24);
        let theirs = direct.encode(&format, 60, &[preset, ",11,"], &format!("{common} {options}"), 24);
        assert_eq!(ours.units().len(), theirs.len());
        for ((meta, bytes), direct) in ours.units().into_iter().zip(theirs) {
            let direct = if meta.key.source_id == 1000 { without_sei(&direct) } else { direct };
            assert!(!direct.is_empty());
            assert!(bytes[DELIMITER_BYTES..] == direct, "frame {}: {options}", meta.key.source_id);
        }
    }
}

#[test]
fn consecutive_idr_pictures_differ_in_their_id_also_across_restarts() {
    if !there() {
        return;
    }
    let mut settings = small(Codec::H264);
    settings.gop = Gop::Infinite;
    let mut ids = Vec::new();
    // Runs with 1, 2, 3 and 1 IDR pictures, each going on where the last one ended.
    for idr_at in [&[][..], &[2], &[2, 3], &[]] {
        settings.idr_count = ids.len() as u32;
        ids.extend(idr_pic_ids(&stream_with(&settings, 5, idr_at)));
    }
    assert_eq!(ids, [0, 1, 0, 1, 0, 1, 0]);
}

#[test]
fn a_stream_that_goes_on_is_that_of_a_new_encoder_but_for_its_idr_ids() {
    if !there() {
        return;
    }
    let format = nv12(640, 360, FPS, Colour::BT709_LIMITED);
    for (entropy, slices) in [(Entropy::Cabac, 1), (Entropy::Cavlc, 1), (Entropy::Cabac, 3), (Entropy::Cavlc, 3)] {
        let settings = EncoderSettings {
            entropy: Some(entropy),
            slices,
            gop: Gop::Frames(7),
            ..EncoderSettings::live(Codec::H264, format, 1000)
        };
        let fresh = run(&mut X264::open(&settings).unwrap(), &format, 30, &[9], 24);
        let settings = EncoderSettings { idr_count: 1, ..settings };
        let later = run(&mut X264::open(&settings).unwrap(), &format, 30, &[9], 24);
        for ((meta, a), (_, b)) in fresh.units().into_iter().zip(later.units()) {
            assert_eq!(a == b, !meta.idr, "frame {}", meta.key.source_id);
        }
        let ids = |kept: &common::Keep| idr_pic_ids(&kept.stream());
        assert!(ids(&fresh).iter().zip(ids(&later)).all(|(a, b)| a + b == 1), "{:?}", ids(&later));
        // Whatever moved is still the same picture: a decoder sees no difference.
        let (a, b) = (direct::decoded("h264", &fresh.stream()), direct::decoded("h264", &later.stream()));
        if let (Some(a), Some(b)) = (a, b) {
            assert_eq!(a.len(), 30 * 640 * 360 * 3 / 2);
            assert!(a == b, "{entropy:?}, {slices} slices");
        }
    }
}

#[test]
fn an_encoder_that_was_warmed_up_goes_on_as_a_new_one_would() {
    if !there() {
        return;
    }
    let mut settings = small(Codec::H264);
    settings.gop = Gop::Infinite;
    let mut bytes = vec![0; settings.format.frame_bytes() as usize];
    common::fill(&settings.format, 0, 8, &mut bytes);
    for idr_count in 0..4 {
        settings.idr_count = idr_count;
        let mut warm = open_for_warm_up("x264", &settings).unwrap();
        warm_up(warm.as_mut(), PixelsRead::from_slice(&settings.format, &bytes).unwrap()).unwrap();
        let kept = run(warm.as_mut(), &settings.format, 5, &[0, 3], 8);
        let cold = run(&mut X264::open(&settings).unwrap(), &settings.format, 5, &[3], 8);
        let kinds = |kept: &common::Keep| kept.units().iter().map(|(m, _)| (m.key, m.idr)).collect::<Vec<_>>();
        assert_eq!(kinds(&kept), kinds(&cold));
        assert_eq!(idr_pic_ids(&kept.stream()), idr_pic_ids(&cold.stream()), "{idr_count} IDR pictures before");
        assert_eq!(first_sps(&kept.stream()), first_sps(&cold.stream()));
    }
}

#[test]
fn i420_and_nv12_of_the_same_picture_give_the_same_stream() {
    if !there() {
        return;
    }
    let settings = small(Codec::H264);
    let format = settings.format;
    let planar = VideoFormat::packed(PixelFormat::I420, 320, 180, format.fps, format.colour).unwrap();
    let mut from_nv12 = X264::open(&settings).unwrap();
    let mut from_i420 = X264::open(&EncoderSettings { format: planar, ..settings }).unwrap();
    let (mut a, mut b) = (common::Keep::default(), common::Keep::default());
    for index in 0..10 {
        let (bytes, other) = direct::nv12_and_i420(&format, &planar, index, 8);
        let key = Key { source_id: 1000 + index, sub: 0 };
        let input =
            |pixels| EncodeInput { pixels, memory: None, qp: None, key, pts_ns: index, force_idr: false, idr_count: 0 };
        from_nv12.encode(&input(PixelsRead::from_slice(&format, &bytes).unwrap()), &mut a).unwrap();
        from_i420.encode(&input(PixelsRead::from_slice(&planar, &other).unwrap()), &mut b).unwrap();
    }
    assert!(!a.stream().is_empty());
    assert_eq!(a.stream(), b.stream());
}

#[test]
fn the_bitrate_follows_its_setting_within_a_second_without_an_idr() {
    if !there() {
        return;
    }
    let format = nv12(1280, 720, FPS, Colour::BT709_LIMITED);
    let settings = EncoderSettings {
        max_bitrate_kbps: 12_000,
        gop: Gop::Infinite,
        ..EncoderSettings::live(Codec::H264, format, 2000)
    };
    let mut encoder = X264::open(&settings).unwrap();
    direct::follows_its_bitrate(&mut encoder, &format, [2000, 8000, 2000], (false, 1.25));
}

#[test]
fn a_bitrate_above_the_level_is_refused_with_the_limit() {
    if !there() {
        return;
    }
    let mut encoder = X264::open(&small(Codec::H264)).unwrap();
    encoder.set_bitrate(4000, 0).unwrap();
    let error = encoder.set_bitrate(300_000, 0).unwrap_err().to_string();
    assert!(error.contains("kb/s at level"), "{error}");
    let settings = EncoderSettings { level_idc: Some(99), ..small(Codec::H264) };
    assert!(X264::open(&settings).unwrap_err().to_string().contains("10 to 52"));
}

#[test]
fn profile_and_entropy_are_those_asked_for() {
    if !there() {
        return;
    }
    for preset in [Preset::Fast, Preset::Named(X26xPreset::Ultrafast), Preset::Quality, Preset::Number(2)] {
        for (profile, entropies, idc) in [
            (H264Profile::ConstrainedBaseline, &[None, Some(Entropy::Cavlc)][..], 66),
            (H264Profile::Main, &[None, Some(Entropy::Cavlc), Some(Entropy::Cabac)], 77),
            (H264Profile::High, &[None, Some(Entropy::Cavlc), Some(Entropy::Cabac)], 100),
        ] {
            for &entropy in entropies {
                let settings = EncoderSettings { profile: Some(profile), entropy, preset, ..small(Codec::H264) };
                let stream = stream_with(&settings, 2, &[]);
                assert_eq!(first_sps(&stream).profile_idc, idc, "{profile:?} {entropy:?} {preset:?}");
                let pps = nal_units(&stream).find(|n| type_of(n.nal[0]) == nal_type::PPS).unwrap().nal;
                // Both ids are 0, one bit each; the third is entropy_coding_mode_flag (7.3.2.2).
                let cabac = entropy.map_or(idc != 66, |entropy| entropy == Entropy::Cabac);
                assert_eq!((pps[1] >> 6, pps[1] >> 5 & 1 == 1), (3, cabac), "{profile:?} {entropy:?} {preset:?}");
            }
        }
    }
    let settings = EncoderSettings {
        profile: Some(H264Profile::ConstrainedBaseline),
        entropy: Some(Entropy::Cabac),
        ..small(Codec::H264)
    };
    assert!(X264::open(&settings).unwrap_err().to_string().contains("cavlc with profile baseline"));
}

#[test]
fn a_frames_own_quantiser_is_followed_while_no_bitrate_is_held() {
    if !there() {
        return;
    }
    let settings = EncoderSettings { rate_control: RateControl::ConstantQp, qp: 30, ..small(Codec::H264) };
    let mut encoder = X264::open(&settings).unwrap();
    assert!(encoder.capabilities().frame_qp && !encoder.capabilities().live_bitrate);
    assert!(encoder.set_bitrate(1000, 0).is_err());
    let len = direct::sizes_by_quantiser(&mut encoder, &settings.format, &[None, Some(30), Some(45), Some(12), None]);
    // The arithmetic coder starts from another idr_pic_id: a byte more or less.
    assert!(len[0].abs_diff(len[1]) <= 2 && len[0].abs_diff(len[4]) <= 2, "{len:?}");
    assert!(len[2] * 2 < len[0] && len[0] * 2 < len[3], "{len:?}");
}

#[test]
fn intra_refresh_renews_the_picture_without_an_idr() {
    if !there() {
        return;
    }
    let settings = EncoderSettings { intra_refresh: true, gop: Gop::Frames(10), ..small(Codec::H264) };
    let sink = run(&mut X264::open(&settings).unwrap(), &settings.format, 40, &[25], 8);
    let idrs: Vec<u64> = sink.units().iter().filter(|(m, _)| m.idr).map(|(m, _)| m.key.source_id - 1000).collect();
    assert_eq!(idrs, [0, 25]);
    // Each renewal begins with a recovery point (SEI payload type 6).
    let points: Vec<u64> = sink
        .units()
        .iter()
        .filter(|(_, bytes)| nal_units(bytes).any(|n| type_of(n.nal[0]) == nal_type::SEI && n.nal[1] == 6))
        .map(|(m, _)| m.key.source_id - 1000)
        .collect();
    assert!(points.len() >= 3, "{points:?}");
}

#[test]
fn what_it_cannot_encode_is_refused_in_words() {
    if !there() {
        return;
    }
    let refuse = |change: &dyn Fn(&mut EncoderSettings), text: &str| {
        let mut settings = small(Codec::H264);
        change(&mut settings);
        let error = X264::open(&settings).unwrap_err();
        assert!(error.to_string().contains(text) && error.exit_code() == 78, "{error}");
    };
    let fps = Rational::new(60, 1).unwrap();
    let ten_bit = VideoFormat::packed(PixelFormat::P010, 320, 180, fps, Colour::BT709_LIMITED).unwrap();
    refuse(&|s| s.format = ten_bit, "Encoder x264 cannot take p010 frames: allowed is nv12 or i420 (8 bit");
    refuse(&|s| s.format = nv12(14, 64, 60, Colour::BT709_LIMITED), "14x64");
    refuse(&|s| s.slices = 13, "at most one per row of macroblocks (12)");
    refuse(&|s| s.preset = Preset::Number(10), "0 (ultrafast) to 9");
    refuse(&|s| s.format.colour.primaries = 22, "colour.primaries = 22");
    refuse(&|s| (s.rate_control, s.qp) = (RateControl::ConstantQuality, 0), "0 is lossless");
    refuse(&|s| s.async_depth = 2, "async_depth = 2");
    let mut encoder = X264::open(&small(Codec::H264)).unwrap();
    let other = nv12(320, 182, FPS, Colour::BT709_LIMITED);
    let error = encode(&mut encoder, &other, 0, false, 8, &mut common::Keep::default()).unwrap_err();
    assert!(error.to_string().contains("320x182") && error.to_string().contains("320x180"), "{error}");
}

#[test]
fn sizes_that_are_no_multiple_of_a_macroblock_are_cropped() {
    if !there() {
        return;
    }
    for (width, height) in [(16, 16), (18, 16), (322, 182), (1920, 1080), (4096, 2304), (7680, 4320)] {
        let format = nv12(width, height, FPS, Colour::BT709_LIMITED);
        let settings = EncoderSettings::live(Codec::H264, format, 4000);
        assert_eq!(first_sps(&stream_with(&settings, 1, &[])).size(), Some((width, height)));
    }
}
