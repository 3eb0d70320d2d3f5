//! What the stream of the openh264 backend is: the library's own bytes, with what receivers need around them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::direct::packed;
use common::h264::{first_sps, idr_pic_ids};
use common::openh264::Alone;
use common::stream::Backend;
use common::{FPS, encode, nv12, p010, run, small};
use kernel_c_encode::backends::software::openh264::OpenH264;
use kernel_c_encode::bitstream::annexb::nal_units;
use kernel_c_encode::bitstream::h264::{DELIMITER_BYTES, nal_type, type_of};
use kernel_c_encode::bitstream::h264_sps::Sps;
use kernel_c_encode::encoder::Encoder;
use kernel_c_encode::settings::{EncoderSettings, Gop, H264Profile, RateControl};
use shm_protocol::frame::{ChromaSiting, Codec, Colour, Range};

const BACKEND: Backend =
    Backend { name: "openh264", codec: Codec::H264, open: |settings| Ok(Box::new(OpenH264::open(settings)?)) };

fn stream_with(settings: &EncoderSettings, count: u64, idr_at: &[u64]) -> Vec<u8> {
    BACKEND.run(settings, count, idr_at, 8).stream()
}

#[test]
fn colour_is_signalled_as_carried() {
    let hlg = Colour { matrix: 9, primaries: 9, transfer: 18, range: Range::Full, siting: ChromaSiting::TopLeft };
    let jpeg = Colour { range: Range::Full, siting: ChromaSiting::Center, ..Colour::BT601_LIMITED };
    for colour in [Colour::BT709_LIMITED, Colour::BT601_LIMITED, jpeg, hlg] {
        let mut settings = small(Codec::H264);
        settings.format.colour = colour;
        let sps = first_sps(&stream_with(&settings, 2, &[]));
        let vui = sps.vui.unwrap();
        assert_eq!(vui.colour(), (colour.primaries, colour.transfer, colour.matrix, colour.range));
        let location = (colour.siting != ChromaSiting::Left).then_some((colour.siting as u32, colour.siting as u32));
        assert_eq!(vui.chroma_loc, location);
        assert_eq!(sps.size(), Some((320, 180)));
        let restriction = vui.restriction.unwrap();
        assert_eq!((restriction.max_num_reorder_frames, restriction.max_dec_frame_buffering), (0, 1));
    }
}

#[test]
fn our_writer_makes_the_librarys_own_parameter_set() {
    for profile in [H264Profile::ConstrainedBaseline, H264Profile::Main, H264Profile::High] {
        let mut settings = small(Codec::H264);
        settings.profile = Some(profile);
        let stream = stream_with(&settings, 1, &[]);
        let nal = nal_units(&stream).find(|n| type_of(n.nal[0]) == nal_type::SPS).unwrap().nal;
        let mut written = [0; 256];
        let len = Sps::parse(nal).unwrap().write(nal[0], &mut written).unwrap();
        assert_eq!(&written[..len], nal, "{profile:?}");
    }
}

#[test]
fn the_profile_is_the_one_asked_for() {
    for (profile, idc) in [(H264Profile::ConstrainedBaseline, 66), (H264Profile::Main, 77), (H264Profile::High, 100)] {
        let mut settings = small(Codec::H264);
        settings.profile = Some(profile);
        let sps = first_sps(&stream_with(&settings, 1, &[]));
        assert_eq!(sps.profile_idc, idc);
        if idc == 66 {
            assert_eq!(sps.constraint_flags & 0x40, 0x40, "constraint_set1_flag makes it Constrained Baseline");
        }
    }
}

#[test]
fn consecutive_idr_pictures_differ_in_their_id_also_across_restarts() {
    let mut settings = small(Codec::H264);
    settings.gop = Gop::Infinite;
    let mut ids = Vec::new();
    // Runs with 1, 2, 3 and 1 IDR pictures, each going on where the last one ended.
    for idr_at in [&[][..], &[2], &[2, 3], &[]] {
        settings.idr_count = ids.len() as u32;
        ids.extend(idr_pic_ids(&stream_with(&settings, 5, idr_at)));
    }
    assert_eq!(ids.len(), 7);
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
    let parity: Vec<u32> = ids.iter().map(|id| id % 2).collect();
    assert_eq!(parity, [1, 0, 1, 0, 1, 0, 1], "{ids:?}");
}

#[test]
fn an_encoder_that_was_warmed_up_goes_on_as_a_new_one_would() {
    BACKEND.goes_on_after_warming_up(0..4, |kept, cold| {
        let parity = |kept: &common::Keep| idr_pic_ids(&kept.stream()).iter().map(|id| id % 2).collect::<Vec<_>>();
        assert_eq!(parity(kept), parity(cold));
        assert_eq!(first_sps(&kept.stream()), first_sps(&cold.stream()));
        // The rate control saw the private picture, which costs the stream nothing.
        let len = |kept: &common::Keep| kept.units()[0].1.len();
        assert!(len(kept) < 2 * len(cold), "{} and {} bytes", len(kept), len(cold));
    });
}

#[test]
fn a_stream_that_goes_on_differs_from_a_new_one_in_the_idr_id_only() {
    let mut settings = small(Codec::H264);
    let fresh = run(&mut OpenH264::open(&settings).unwrap(), &settings.format, 20, &[9], 8);
    settings.idr_count = 1;
    let later = run(&mut OpenH264::open(&settings).unwrap(), &settings.format, 20, &[9], 8);
    for ((meta, a), (_, b)) in fresh.units().into_iter().zip(later.units()) {
        if meta.idr {
            assert_ne!(a, b);
        } else {
            assert_eq!(a, b, "frame {}", meta.key.source_id);
        }
    }
}

#[test]
fn i420_and_nv12_of_the_same_picture_give_the_same_stream() {
    BACKEND.does_not_care_whether_chroma_is_interleaved((320 * 180 / 2, 0));
}

#[test]
fn the_bitrate_follows_its_setting_within_a_second() {
    let format = nv12(1280, 720, FPS, Colour::BT709_LIMITED);
    let settings = EncoderSettings {
        max_bitrate_kbps: 12_000,
        gop: Gop::Infinite,
        ..EncoderSettings::live(Codec::H264, format, 2000)
    };
    let mut encoder = OpenH264::open(&settings).unwrap();
    let mut sink = common::Keep::default();
    let mut index = 0;
    for (step, kbps) in [2000, 8000, 2000].into_iter().enumerate() {
        encoder.set_bitrate(kbps, 0).unwrap();
        for second in 0..3 {
            let from = sink.out.len();
            for _ in 0..FPS {
                encode(&mut encoder, &format, index, false, 24, &mut sink).unwrap();
                index += 1;
            }
            let bits: usize = sink.units()[from..].iter().map(|(_, bytes)| bytes.len() * 8).sum();
            let ratio = bits as f64 / (f64::from(kbps) * 1000.0);
            println!("{kbps} kb/s, second {second}: {ratio:.2} of it");
            // The first second of the stream holds its IDR, which the rate control pays back in the second one.
            let settled = step > 0 || second == 2;
            assert!(!settled || (0.75..=1.25).contains(&ratio), "{kbps} kb/s, second {second}: {ratio:.2}");
        }
    }
    assert_eq!(sink.units().iter().filter(|(meta, _)| meta.idr).count(), 1, "no restart");
}

#[test]
fn rates_above_what_the_library_knows_hold_the_bitrate_too() {
    let format = nv12(640, 360, 120, Colour::BT709_LIMITED);
    let settings = EncoderSettings::live(Codec::H264, format, 3000);
    let sink = run(&mut OpenH264::open(&settings).unwrap(), &format, 240, &[], 24);
    let bits: usize = sink.units()[120..].iter().map(|(_, bytes)| bytes.len() * 8).sum();
    assert!((2_250_000..=3_750_000).contains(&bits), "{bits} bits in a second at 3 Mb/s");
}

#[test]
fn a_bitrate_above_the_level_is_refused_with_the_limit() {
    // 320x180 at 30/s is level 2.1 by the 4 Mb/s it may be raised to, which carries a fifth more with NAL headers.
    BACKEND.refuses_bitrates_that_cannot_be(4800, "1 to 4800 kb/s at level 21; a swap with a higher max_bitrate_kbps");
}

#[test]
fn constant_qp_spends_fewer_bits_at_a_higher_qp_and_has_no_bitrate() {
    let sizes = [20, 40].map(|qp| {
        let settings = EncoderSettings { rate_control: RateControl::ConstantQp, qp, ..small(Codec::H264) };
        let mut encoder = OpenH264::open(&settings).unwrap();
        assert!(!encoder.capabilities().live_bitrate);
        assert!(encoder.set_bitrate(1000, 0).is_err());
        run(&mut encoder, &settings.format, 10, &[], 24).stream().len()
    });
    assert!(sizes[0] > sizes[1] * 2, "{sizes:?}");
}

#[test]
fn what_it_cannot_encode_is_refused_in_words() {
    let size = |width, height| move |s: &mut EncoderSettings| s.format = nv12(width, height, 60, Colour::BT709_LIMITED);
    BACKEND.refuses(&[
        (
            &|s| s.format = p010(320, 180, 60, Colour::BT709_LIMITED),
            "Encoder openh264 cannot take p010 frames: allowed is nv12 or i420 (8 bit)",
        ),
        (&size(7680, 4320), "7680x4320"),
        (&size(8704, 16), "8704x16"),
        (&size(14, 64), "14x64"),
        (&size(64, 14), "H.264 level 5.2"),
        (&|s| s.rate_control = RateControl::ConstantQuality, "cbr, vbr or cqp"),
        (&|s| s.threads = 5, "0 to 4"),
        (&|s| s.level_idc = Some(99), "10 to 52"),
    ]);
}

#[test]
fn sizes_that_are_no_multiple_of_a_macroblock_are_cropped() {
    for (width, height) in [(16, 16), (18, 16), (322, 182), (1920, 1080), (4096, 2304)] {
        let format = nv12(width, height, FPS, Colour::BT709_LIMITED);
        let settings = EncoderSettings::live(Codec::H264, format, 4000);
        let stream = stream_with(&settings, 1, &[]);
        assert_eq!(first_sps(&stream).size(), Some((width, height)));
    }
}

#[test]
fn slices_and_threads_repeat_to_the_bit() {
    let format = nv12(640, 360, FPS, Colour::BT709_LIMITED);
    let settings = EncoderSettings { threads: 2, slices: 4, ..EncoderSettings::live(Codec::H264, format, 2000) };
    let first = stream_with(&settings, 20, &[7]);
    assert_eq!(first, stream_with(&settings, 20, &[7]));
    let slices = nal_units(&first).filter(|n| [1, 5].contains(&type_of(n.nal[0]))).count();
    assert_eq!(slices, 80);
}

#[test]
fn every_unit_is_the_librarys_behind_a_delimiter() {
    let settings = EncoderSettings { gop: Gop::Frames(25), ..small(Codec::H264) };
    let ours = run(&mut OpenH264::open(&settings).unwrap(), &settings.format, 60, &[11], 24);
    // 320x180 at 30/s is level 1.3 by size and 2.1 by the 4 Mb/s it may be raised to.
    let mut alone = Alone::open(&settings.format, 1000, openh264_sys2::LEVEL_2_1, 25);
    assert_eq!(ours.units().len(), 60);
    for (index, (meta, bytes)) in (0..).zip(ours.units()) {
        let direct = alone.encode(index, &mut packed(&settings.format, index, 24), index == 11).unwrap();
        assert_eq!(&bytes[DELIMITER_BYTES..], direct, "frame {}", meta.key.source_id);
    }
}
