//! One suite for every encoder: what the trait promises, whichever backend holds it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::{FPS, Keep, Out, encode, nv12, run, small};
use kernel_c_encode::bitstream::annexb::nal_units;
use kernel_c_encode::bitstream::h264::{SliceHeader, nal_type, type_of};
use kernel_c_encode::bitstream::h264_sps::Sps;
use kernel_c_encode::encoder::{Encoder, LeftOut, PartKind};
use kernel_c_encode::select;
use kernel_c_encode::settings::{EncoderSettings, Gop};
use shm_protocol::frame::{Codec, Colour};

/// Every backend of this build with a codec it makes.
const BACKENDS: [(&str, Codec); 5] = [
    ("openh264", Codec::H264),
    ("x264", Codec::H264),
    ("x265", Codec::Hevc),
    ("svtav1", Codec::Av1),
    ("null", Codec::Null),
];

/// What a run of this suite on another machine is for: a process of its own, with its own environment.
const ONLY: &str = "QUAD_CONFORMANCE_ONLY";

/// Those whose library is on this machine; the others are named as skipped.
fn backends() -> impl Iterator<Item = (&'static str, Codec)> {
    let vpl = [("vpl", Codec::H264), ("vpl", Codec::Hevc), ("vpl", Codec::Av1)];
    let only = std::env::var(ONLY).is_ok();
    let all: Vec<_> = if only { vpl.to_vec() } else { BACKENDS.to_vec() };
    all.into_iter().filter(|(backend, codec)| common::have(backend, *codec))
}

#[test]
fn the_whole_suite_holds_for_vpl_posing_as_a_device_and_on_the_cpu() {
    use common::vpl::{Machine, machine};
    if std::env::var(ONLY).is_ok() {
        return;
    }
    for kind in [Machine::Software, Machine::HardwareAlone] {
        let scratch = tempfile::tempdir().unwrap();
        let mut command = machine(kind, scratch.path(), &[]);
        let output = command.args(["--nocapture", "--test-threads=1"]).env(ONLY, "vpl").output().unwrap();
        let out = String::from_utf8_lossy(&output.stdout);
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{kind:?}\n{out}\n{err}");
        assert!(
            !out.contains("SKIPPED encoder vpl: Encoder vpl is not available: no oneVPL implementation found for h264")
        );
        for line in out.lines().filter(|line| line.starts_with("SKIPPED")) {
            println!("{line}");
        }
    }
}

fn open(backend: &str, settings: &EncoderSettings) -> Box<dyn Encoder> {
    select::open(backend, settings).unwrap().encoder
}

fn idrs(sink: &Keep) -> Vec<u64> {
    sink.units().iter().filter(|(meta, _)| meta.idr).map(|(meta, _)| meta.key.source_id - 1000).collect()
}

#[test]
fn every_frame_comes_out_once_in_order_and_at_once() {
    for (backend, codec) in backends() {
        let settings = small(codec);
        let mut encoder = open(backend, &settings);
        assert_eq!((encoder.name(), encoder.codec()), (backend, codec));
        assert!(!encoder.path().is_empty());
        let delay = u64::from(encoder.capabilities().delay_frames);
        let mut sink = Keep::default();
        for index in 0..40 {
            encode(&mut *encoder, &settings.format, index, false, 8, &mut sink).unwrap();
            assert_eq!(sink.out.len() as u64, (index + 1).saturating_sub(delay), "{backend}");
        }
        encoder.flush(&mut sink).unwrap();
        let keys: Vec<u64> = sink.units().iter().map(|(meta, _)| meta.key.source_id).collect();
        assert_eq!(keys, (1000..1040).collect::<Vec<_>>(), "{backend}");
        let times: Vec<u64> = sink.units().iter().map(|(meta, _)| meta.pts_ns).collect();
        let expected: Vec<u64> = (0..40).map(|i| settings.format.fps.frame_time_ns(i)).collect();
        assert_eq!(times, expected, "{backend}");
    }
}

#[test]
fn the_first_unit_is_an_idr_with_its_configuration() {
    for (backend, codec) in backends() {
        let settings = small(codec);
        let sink = run(&mut *open(backend, &settings), &settings.format, 3, &[], 8);
        let (first, _) = sink.units()[0];
        assert!(first.idr && first.config, "{backend}");
        assert!(sink.units()[1..].iter().all(|(meta, _)| !meta.idr && !meta.config), "{backend}");
    }
}

#[test]
fn an_idr_comes_at_exactly_the_frame_asked_for() {
    for (backend, codec) in backends() {
        let mut settings = small(codec);
        settings.gop = Gop::Infinite;
        let sink = run(&mut *open(backend, &settings), &settings.format, 30, &[7, 8, 21], 8);
        assert_eq!(idrs(&sink), [0, 7, 8, 21], "{backend}");
    }
}

#[test]
fn the_gop_period_counts_from_the_last_idr() {
    for (backend, codec) in backends() {
        let mut settings = small(codec);
        settings.gop = Gop::Frames(10);
        let sink = run(&mut *open(backend, &settings), &settings.format, 40, &[13], 8);
        assert_eq!(idrs(&sink), [0, 10, 13, 23, 33], "{backend}");
        settings.gop = Gop::two_seconds(&settings.format);
        let sink = run(&mut *open(backend, &settings), &settings.format, u64::from(FPS) * 4, &[], 8);
        assert_eq!(idrs(&sink), [0, u64::from(FPS) * 2], "{backend}");
    }
}

#[test]
fn parts_cover_the_unit_without_gaps() {
    for (backend, codec) in backends() {
        for slices in [1, 2, 4] {
            let mut settings = small(codec);
            settings.format = nv12(640, 360, FPS, Colour::BT709_LIMITED);
            match codec {
                // Tiles in place of slices.
                Codec::Av1 => settings.tile_columns = slices,
                // More than one would hold a frame back; the fixture behind vpl encodes with x265.
                Codec::Hevc if backend == "x265" || backend == "vpl" => settings.slices = 1,
                _ => settings.slices = slices,
            }
            let sink = run(&mut *open(backend, &settings), &settings.format, 5, &[3], 8);
            for (meta, bytes) in sink.units() {
                assert_eq!(meta.parts.total_bytes() as usize, bytes.len(), "{backend}");
                let parts = meta.parts.as_slice();
                assert!(parts.windows(2).all(|p| p[0].offset + p[0].len == p[1].offset), "{backend}");
                if codec != Codec::Null {
                    let parts_of = |kind| parts.iter().filter(|p| p.kind == kind).count();
                    assert_eq!(parts_of(PartKind::Delimiter), 1, "{backend}");
                    assert_eq!(parts_of(PartKind::ParameterSets), usize::from(meta.idr), "{backend}");
                    // All tiles of AV1 lie in one unit.
                    let slices = if codec == Codec::Av1 { 1 } else { usize::from(settings.slices) };
                    assert_eq!(parts_of(PartKind::Slice), slices, "{backend}");
                }
            }
        }
    }
}

#[test]
fn h264_units_have_delimiter_parameter_sets_and_no_b_frames() {
    for (backend, codec) in backends().filter(|(_, codec)| *codec == Codec::H264) {
        let mut settings = small(codec);
        settings.gop = Gop::Frames(12);
        let sink = run(&mut *open(backend, &settings), &settings.format, 40, &[5], 8);
        let mut sps: Option<Sps> = None;
        let mut last_order = None;
        for (meta, bytes) in sink.units() {
            let types: Vec<u8> = nal_units(bytes).map(|n| type_of(n.nal[0])).collect();
            let expected: &[u8] = if meta.idr {
                &[nal_type::DELIMITER, nal_type::SPS, nal_type::PPS, nal_type::IDR_SLICE]
            } else {
                &[nal_type::DELIMITER, nal_type::SLICE]
            };
            assert_eq!(types, expected, "{backend}");
            assert_eq!(meta.config, meta.idr);
            // primary_pic_type: 0 promises I slices only, 1 I and P slices.
            let delimiter = nal_units(bytes).next().unwrap().nal;
            assert_eq!(delimiter[1] >> 5, u8::from(!meta.idr), "{backend}");
            for unit in nal_units(bytes) {
                if type_of(unit.nal[0]) == nal_type::SPS {
                    sps = Sps::parse(unit.nal);
                }
            }
            let sps = sps.expect("the SPS is readable");
            let restriction = sps.vui.and_then(|v| v.restriction).expect("decoders are told what to hold back");
            assert_eq!(restriction.max_num_reorder_frames, 0);
            let slice = nal_units(bytes).last().and_then(|n| SliceHeader::parse(n.nal, &sps)).unwrap();
            assert_ne!(slice.slice_type, 1, "no B slices");
            // Output order follows coding order: the picture order count rises from each IDR on.
            let order = slice.poc_lsb.unwrap_or(slice.frame_num);
            assert!(meta.idr || last_order < Some(order), "{backend}: {last_order:?} then {order}");
            last_order = Some(order);
        }
    }
}

#[test]
fn a_unit_the_ring_cannot_hold_is_told_and_the_next_one_is_an_idr() {
    for (backend, codec) in backends() {
        let mut settings = small(codec);
        settings.gop = Gop::Infinite;
        let mut encoder = open(backend, &settings);
        let mut sink = Keep::default();
        encode(&mut *encoder, &settings.format, 0, false, 8, &mut sink).unwrap();
        sink.limit = 10;
        assert!(encode(&mut *encoder, &settings.format, 1, false, 8, &mut sink).is_err(), "{backend}");
        sink.limit = usize::MAX;
        encode(&mut *encoder, &settings.format, 2, false, 8, &mut sink).unwrap();
        encode(&mut *encoder, &settings.format, 3, false, 8, &mut sink).unwrap();
        assert!(matches!(sink.out[1], Out::Left(key, LeftOut::TooLarge) if key.source_id == 1001), "{backend}");
        assert_eq!(idrs(&sink), [0, 2], "{backend}");
    }
}

#[test]
fn settings_out_of_range_are_refused_with_their_name() {
    for (backend, codec) in backends() {
        let refused = |change: &dyn Fn(&mut EncoderSettings), text: &str| {
            let mut settings = small(codec);
            change(&mut settings);
            let error = select::open(backend, &settings).expect_err(text).to_string();
            assert!(error.contains(text), "{backend}: {error}");
        };
        refused(&|s| s.bitrate_kbps = 0, "bitrate_kbps = 0");
        refused(&|s| s.format.width = 319, "an even width");
        refused(&|s| s.format.height = 181, "an even height");
        refused(&|s| s.format.width = 20_000, "sides from 1 to 16384");
        refused(&|s| s.format.width = 0, "sides from 1 to 16384");
        let (other, named) =
            if codec == Codec::Av1 { (Codec::Hevc, "codec = hevc") } else { (Codec::Av1, "codec = av1") };
        // vpl makes every codec its runtime has.
        if backend != "vpl" {
            refused(&|s| s.codec = other, named);
        }
        refused(&|s| s.gop = Gop::Frames(0), "at least 1 frame");
        let mut encoder = open(backend, &small(codec));
        assert!(encoder.set_bitrate(0, 0).unwrap_err().to_string().contains("bitrate_kbps = 0"));
    }
}
