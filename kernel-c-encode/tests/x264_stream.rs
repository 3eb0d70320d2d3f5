//! What the stream of the x264 backend is: the library's own bytes, with what receivers need around them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::direct::{self, Direct};
use common::h264::{first_sps, idr_pic_ids};
use common::stream::Backend;
use common::{FPS, nv12, p010, small};
use kernel_c_encode::backends::software::x264;
use kernel_c_encode::bitstream::annexb::nal_units;
use kernel_c_encode::bitstream::h264::{DELIMITER_BYTES, nal_type, type_of};
use kernel_c_encode::settings::{EncoderSettings, Entropy, Gop, H264Profile, Preset, RateControl, X26xPreset};
use shm_protocol::frame::{Codec, Colour};

const BACKEND: Backend = Backend { name: "x264", codec: Codec::H264, open: x264::open };

fn stream_with(settings: &EncoderSettings, count: u64, idr_at: &[u64]) -> Vec<u8> {
    BACKEND.run(settings, count, idr_at, 8).stream()
}

/// The unit without SEI, in which the library describes itself in the first one.
fn without_sei(unit: &[u8]) -> Vec<u8> {
    let kept = nal_units(unit).filter(|n| type_of(n.nal[0]) != nal_type::SEI);
    kept.flat_map(|n| n.with_start_code.to_vec()).collect()
}

#[test]
fn every_unit_is_the_librarys_behind_a_delimiter() {
    if !BACKEND.there() {
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
        let mut theirs = direct.encode(&format, 60, &[preset, ",11,"], &format!("{common} {options}"), 24);
        theirs[0] = without_sei(&theirs[0]);
        BACKEND.gives_the_librarys_own(&settings, DELIMITER_BYTES, &theirs, options);
    }
}

#[test]
fn consecutive_idr_pictures_differ_in_their_id_also_across_restarts() {
    if !BACKEND.there() {
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
    if !BACKEND.there() {
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
        let fresh = BACKEND.run(&settings, 30, &[9], 24);
        let settings = EncoderSettings { idr_count: 1, ..settings };
        let later = BACKEND.run(&settings, 30, &[9], 24);
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
    if !BACKEND.there() {
        return;
    }
    BACKEND.goes_on_after_warming_up(0..4, |kept, cold| {
        assert_eq!(idr_pic_ids(&kept.stream()), idr_pic_ids(&cold.stream()));
        assert_eq!(first_sps(&kept.stream()), first_sps(&cold.stream()));
    });
}

#[test]
fn i420_and_nv12_of_the_same_picture_give_the_same_stream() {
    if !BACKEND.there() {
        return;
    }
    BACKEND.does_not_care_whether_chroma_is_interleaved((0, 0));
}

#[test]
fn the_bitrate_follows_its_setting_within_a_second_without_an_idr() {
    if !BACKEND.there() {
        return;
    }
    let format = nv12(1280, 720, FPS, Colour::BT709_LIMITED);
    let settings = EncoderSettings {
        max_bitrate_kbps: 12_000,
        gop: Gop::Infinite,
        ..EncoderSettings::live(Codec::H264, format, 2000)
    };
    direct::follows_its_bitrate(BACKEND.open(&settings).as_mut(), &format, [2000, 8000, 2000], (false, 1.25));
}

#[test]
fn a_bitrate_above_the_level_is_refused_with_the_limit() {
    if !BACKEND.there() {
        return;
    }
    // 320x180 at 30/s is level 2.1 by the 4 Mb/s it may be raised to, which carries a fifth more with NAL headers.
    BACKEND.refuses_bitrates_that_cannot_be(4800, "1 to 4800 kb/s at level 21; a swap with a higher max_bitrate_kbps");
}

#[test]
fn profile_and_entropy_are_those_asked_for() {
    if !BACKEND.there() {
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
}

#[test]
fn a_frames_own_quantiser_is_followed_while_no_bitrate_is_held() {
    if !BACKEND.there() {
        return;
    }
    BACKEND.follows_a_frames_own_quantiser();
}

#[test]
fn intra_refresh_renews_the_picture_without_an_idr() {
    if !BACKEND.there() {
        return;
    }
    let settings = EncoderSettings { intra_refresh: true, gop: Gop::Frames(10), ..small(Codec::H264) };
    let sink = BACKEND.run(&settings, 40, &[25], 8);
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
    if !BACKEND.there() {
        return;
    }
    BACKEND.refuses(&[
        (
            &|s| s.format = p010(320, 180, 60, Colour::BT709_LIMITED),
            "Encoder x264 cannot take p010 frames: allowed is nv12 or i420 (8 bit",
        ),
        (&|s| s.format = nv12(14, 64, 60, Colour::BT709_LIMITED), "14x64"),
        (&|s| s.slices = 13, "at most one per row of macroblocks (12)"),
        (&|s| s.preset = Preset::Number(10), "0 (ultrafast) to 9"),
        (&|s| s.format.colour.primaries = 22, "colour.primaries = 22"),
        (&|s| (s.rate_control, s.qp) = (RateControl::ConstantQuality, 0), "0 is lossless"),
        (&|s| s.async_depth = 2, "async_depth = 2"),
        (&|s| s.level_idc = Some(99), "10 to 52"),
        (
            &|s| (s.profile, s.entropy) = (Some(H264Profile::ConstrainedBaseline), Some(Entropy::Cabac)),
            "cavlc with profile baseline",
        ),
    ]);
}

#[test]
fn sizes_that_are_no_multiple_of_a_macroblock_are_cropped() {
    if !BACKEND.there() {
        return;
    }
    for (width, height) in [(16, 16), (18, 16), (322, 182), (1920, 1080), (4096, 2304), (7680, 4320)] {
        let format = nv12(width, height, FPS, Colour::BT709_LIMITED);
        let settings = EncoderSettings::live(Codec::H264, format, 4000);
        assert_eq!(first_sps(&stream_with(&settings, 1, &[])).size(), Some((width, height)));
    }
}
