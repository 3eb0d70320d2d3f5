//! What the stream of the x265 backend is: the library's own bytes, with what receivers need around them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::direct::{self, Direct};
use common::stream::Backend;
use common::{FPS, nv12, p010, small};
use kernel_c_encode::backends::software::x265;
use kernel_c_encode::bitstream::annexb::nal_units;
use kernel_c_encode::bitstream::hevc::{DELIMITER_BYTES, nal_type, type_of};
use kernel_c_encode::settings::{EncoderSettings, Gop, Preset, RateControl, X26xPreset};
use shm_protocol::frame::{Codec, Colour};

const BACKEND: Backend = Backend { name: "x265", codec: Codec::Hevc, open: x265::open };

#[test]
fn every_unit_is_the_librarys_behind_a_delimiter_with_8_and_10_bit() {
    if !BACKEND.there() {
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
            let theirs = direct.encode(&format, 40, &[bits, preset, ",11,"], &format!("{common} {options}"), 24);
            BACKEND.gives_the_librarys_own(settings, DELIMITER_BYTES, &theirs, &format!("{bits} bit: {options}"));
        }
    }
}

#[test]
fn ten_bits_reach_the_decoder() {
    if !BACKEND.there() {
        return;
    }
    let format = p010(320, 180, FPS, Colour::BT709_LIMITED);
    let settings = EncoderSettings {
        rate_control: RateControl::ConstantQp,
        qp: 4,
        ..EncoderSettings::live(Codec::Hevc, format, 600)
    };
    let sink = BACKEND.run(&settings, 3, &[], 8);
    let Some(decoded) = direct::decoded("hevc", &sink.stream()) else { return };
    assert_eq!(decoded.len(), 3 * 320 * 180 * 3);
    direct::same_p010_luma(&format, 2, 8, &decoded[2 * 320 * 180 * 3..]);
}

#[test]
fn i420_and_nv12_of_the_same_picture_give_the_same_stream() {
    if !BACKEND.there() {
        return;
    }
    BACKEND.does_not_care_whether_chroma_is_interleaved((320 * 180 / 2, 0));
}

#[test]
fn an_idr_carries_its_parameter_sets_and_every_unit_one_slice() {
    if !BACKEND.there() {
        return;
    }
    let settings = EncoderSettings { gop: Gop::Frames(12), ..small(Codec::Hevc) };
    let sink = BACKEND.run(&settings, 30, &[5], 8);
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
    if !BACKEND.there() {
        return;
    }
    let format = nv12(640, 360, FPS, Colour::BT709_LIMITED);
    let settings = EncoderSettings {
        max_bitrate_kbps: 12_000,
        gop: Gop::Infinite,
        ..EncoderSettings::live(Codec::Hevc, format, 500)
    };
    direct::follows_its_bitrate(BACKEND.open(&settings).as_mut(), &format, [500, 2000, 500], (true, 1.25));
}

#[test]
fn an_encoder_that_was_warmed_up_goes_on_as_a_new_one_would() {
    if !BACKEND.there() {
        return;
    }
    BACKEND.goes_on_after_warming_up(0..1, |kept, cold| {
        assert!(kept.units()[0].1.len() < 2 * cold.units()[0].1.len());
    });
}

#[test]
fn a_frames_own_quantiser_is_followed_while_no_bitrate_is_held() {
    if !BACKEND.there() {
        return;
    }
    BACKEND.follows_a_frames_own_quantiser();
}

#[test]
fn what_it_cannot_encode_is_refused_in_words() {
    if !BACKEND.there() {
        return;
    }
    BACKEND.refuses(&[
        (&|s| s.format = nv12(30, 64, 60, Colour::BT709_LIMITED), "30x64"),
        (&|s| s.format = nv12(8192, 4400, 60, Colour::BT709_LIMITED), "8192x4400"),
        (&|s| s.slices = 2, "1 for backend x265"),
        (&|s| s.tile_columns = 2, "tile_columns = 2"),
        (&|s| s.preset = Preset::Number(10), "0 (ultrafast) to 9"),
        (&|s| s.format.colour.transfer = 19, "colour.transfer = 19"),
        (&|s| s.level_idc = Some(99), "10 to 62"),
        (&|s| s.level_idc = Some(10), "one that carries the size"),
        (&|s| (s.level_idc, s.bitrate_kbps) = (Some(30), 9000), "at most 6000 kb/s at level 30"),
    ]);
}

#[test]
fn a_bitrate_above_the_level_is_refused_with_the_limit() {
    if !BACKEND.there() {
        return;
    }
    // 320x180 at 30/s is level 3 by the 4 Mb/s it may be raised to.
    BACKEND.refuses_bitrates_that_cannot_be(6000, "1 to 6000 kb/s at level 30; a swap with a higher max_bitrate_kbps");
}

#[test]
fn every_size_from_one_unit_on_is_decoded_at_that_size() {
    if !BACKEND.there() {
        return;
    }
    for (width, height) in [(32, 32), (34, 62), (64, 64), (322, 182), (1280, 720)] {
        for preset in [Preset::Fast, Preset::Quality] {
            let format = nv12(width, height, FPS, Colour::BT709_LIMITED);
            let settings = EncoderSettings { preset, ..EncoderSettings::live(Codec::Hevc, format, 1000) };
            let stream = BACKEND.run(&settings, 1, &[], 8).stream();
            let Some(decoded) = direct::decoded("hevc", &stream) else { return };
            assert_eq!(decoded.len(), (width * height * 3 / 2) as usize, "{width}x{height} {preset:?}");
        }
    }
}
