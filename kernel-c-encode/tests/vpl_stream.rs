//! What comes out of the vpl backend: the stream itself, IDRs, bitrate, depth.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::vpl::{Machine, NODE, calls, give, idrs_of_all, on, on_node, picture, run_kept};
use common::{FPS, Keep, nv12, run, small};
use kernel_c_encode::bitstream::annexb::nal_units;
use kernel_c_encode::bitstream::h264::{SliceHeader, nal_type, type_of};
use kernel_c_encode::bitstream::h264_sps::Sps;
use kernel_c_encode::encoder::{Encoder, PartKind};
use kernel_c_encode::select::open;
use kernel_c_encode::settings::{EncoderSettings, Gop, RateControl};
use shm_protocol::frame::{Codec, Colour};
use std::process::Command;
use std::time::{Duration, Instant};

fn vpl(settings: &EncoderSettings) -> Box<dyn Encoder> {
    open("vpl", settings).unwrap().encoder
}

fn idr_pic_ids(stream: &[u8]) -> Vec<u32> {
    let sps = nal_units(stream).find(|n| type_of(n.nal[0]) == nal_type::SPS).and_then(|n| Sps::parse(n.nal)).unwrap();
    nal_units(stream).filter_map(|n| SliceHeader::parse(n.nal, &sps)?.idr_pic_id).collect()
}

#[test]
fn every_frame_comes_out_in_its_own_call_and_a_forced_idr_at_the_very_frame() {
    const TEST: &str = "every_frame_comes_out_in_its_own_call_and_a_forced_idr_at_the_very_frame";
    on(Machine::Software, TEST, &[], |_| {
        let settings = small(Codec::H264);
        let mut encoder = vpl(&settings);
        let mut sink = Keep::default();
        for index in 0..30 {
            let bytes = picture(&settings.format, index);
            give(encoder.as_mut(), &settings.format, index, &bytes, None, [7, 8, 20].contains(&index), &mut sink)
                .unwrap();
            assert_eq!(sink.out.len() as u64, index + 1);
        }
        assert_eq!(idrs_of_all(&sink, 30), [0, 7, 8, 20]);
        for (meta, bytes) in sink.units() {
            assert_eq!(meta.parts.as_slice()[0].kind, PartKind::Delimiter);
            assert_eq!((meta.parts.total_bytes() as usize, meta.config), (bytes.len(), meta.idr));
        }
        assert_eq!(idr_pic_ids(&sink.stream()), [0, 1, 0, 1]);
    });
}

#[test]
fn a_stream_that_goes_on_alternates_its_idr_numbers_across_encoders() {
    on(Machine::Software, "a_stream_that_goes_on_alternates_its_idr_numbers_across_encoders", &[], |_| {
        let settings = EncoderSettings { idr_count: 1, ..small(Codec::H264) };
        let kept = run(vpl(&settings).as_mut(), &settings.format, 6, &[3, 5], 8);
        assert_eq!(idr_pic_ids(&kept.stream()), [1, 0, 1]);
    });
}

#[test]
fn an_idr_comes_as_often_as_was_asked_for_counted_from_the_last() {
    on(Machine::Software, "an_idr_comes_as_often_as_was_asked_for_counted_from_the_last", &[], |_| {
        for (gop, forced, expected) in [
            (Gop::Frames(1), vec![], (0..12).collect()),
            (Gop::Frames(5), vec![7], vec![0, 5, 7, 12]),
            (Gop::Infinite, vec![], vec![0]),
        ] {
            let settings = EncoderSettings { gop, ..small(Codec::H264) };
            let count = if gop == Gop::Frames(1) { 12 } else { 16 };
            let kept = run(vpl(&settings).as_mut(), &settings.format, count, &forced, 8);
            assert_eq!(idrs_of_all(&kept, count), expected, "{gop:?}");
        }
    });
}

/// Bits per second of the frames `from..to`.
fn kbps(sink: &Keep, from: usize, to: usize) -> u64 {
    let bytes: usize = sink.units()[from..to].iter().map(|(_, bytes)| bytes.len()).sum();
    bytes as u64 * 8 * u64::from(FPS) / (to - from) as u64 / 1000
}

fn change_rate(settings: &EncoderSettings) -> (Keep, bool) {
    let mut encoder = vpl(settings);
    let mut sink = Keep::default();
    let mut bytes = vec![0; settings.format.frame_bytes() as usize];
    for index in 0..180 {
        match index {
            60 => encoder.set_bitrate(2_000, 0).unwrap(),
            120 => encoder.set_bitrate(500, 0).unwrap(),
            _ => {}
        }
        common::fill(&settings.format, index, 64, &mut bytes);
        give(encoder.as_mut(), &settings.format, index, &bytes, None, false, &mut sink).unwrap();
    }
    (sink, encoder.capabilities().live_bitrate)
}

#[test]
fn the_bitrate_changes_within_a_second_and_without_an_idr_where_the_runtime_can() {
    const TEST: &str = "the_bitrate_changes_within_a_second_and_without_an_idr_where_the_runtime_can";
    on(Machine::Software, TEST, &[], |folder| {
        let settings = EncoderSettings { gop: Gop::Infinite, bitrate_kbps: 500, ..small(Codec::H264) };
        let (sink, live) = change_rate(&settings);
        assert_eq!((idrs_of_all(&sink, 180), live), (vec![0], true));
        let rates = [kbps(&sink, 30, 60), kbps(&sink, 90, 120), kbps(&sink, 150, 180)];
        for (rate, asked) in rates.into_iter().zip([500, 2_000, 500]) {
            assert!((asked * 7 / 10..=asked * 13 / 10).contains(&rate), "{rates:?}");
        }
        assert_eq!(calls(folder, "ENCODE_Reset").len(), 2);
    });
}

#[test]
fn where_a_runtime_needs_a_new_sequence_for_its_bitrate_an_idr_follows_and_is_announced() {
    const TEST: &str = "where_a_runtime_needs_a_new_sequence_for_its_bitrate_an_idr_follows_and_is_announced";
    on(Machine::Software, TEST, &[("LIMITS", "live_bitrate=no")], |_| {
        let settings = EncoderSettings { gop: Gop::Infinite, bitrate_kbps: 500, ..small(Codec::H264) };
        let (sink, live) = change_rate(&settings);
        assert_eq!((idrs_of_all(&sink, 180), live), (vec![0, 60, 120], false));
    });
}

#[test]
fn a_bitrate_that_cannot_be_is_refused_and_the_stream_goes_on() {
    on(Machine::Software, "a_bitrate_that_cannot_be_is_refused_and_the_stream_goes_on", &[], |_| {
        let settings = small(Codec::H264);
        let mut encoder = vpl(&settings);
        for kbps in [0, 400_001, 399_999] {
            assert_eq!(encoder.set_bitrate(kbps, 0).unwrap_err().exit_code(), 78, "{kbps}");
        }
        let mut sink = Keep::default();
        run_kept(encoder.as_mut(), &settings.format, 4, &[], &mut sink);
        assert_eq!(idrs_of_all(&sink, 4), [0]);
        let settings = EncoderSettings { rate_control: RateControl::ConstantQp, qp: 30, ..settings };
        assert!(vpl(&settings).set_bitrate(1000, 0).unwrap_err().to_string().contains("holds no bitrate"));
    });
}

#[test]
fn with_depth_frames_stay_inside_and_come_out_in_the_order_of_their_keys() {
    const TEST: &str = "with_depth_frames_stay_inside_and_come_out_in_the_order_of_their_keys";
    on(Machine::Software, TEST, &[("FAULTS", "encode:0..=slow_20")], |_| {
        let settings = EncoderSettings { async_depth: 4, ..small(Codec::H264) };
        let mut encoder = vpl(&settings);
        assert_eq!(encoder.capabilities().delay_frames, 4);
        let mut sink = Keep::default();
        let frames: Vec<Vec<u8>> = (0..24).map(|index| picture(&settings.format, index)).collect();
        let mut most = 0;
        for (index, bytes) in frames.iter().enumerate() {
            let forced = index == 13;
            give(encoder.as_mut(), &settings.format, index as u64, bytes, None, forced, &mut sink).unwrap();
            most = most.max(index + 1 - sink.out.len());
        }
        assert!((2..=4).contains(&most), "{most} were inside at a time");
        let before = sink.out.len();
        encoder.collect(&mut sink, Duration::from_millis(500)).unwrap();
        assert!(sink.out.len() > before, "one that was inside is waited for");
        encoder.flush(&mut sink).unwrap();
        assert_eq!(idrs_of_all(&sink, 24), [0, 13]);
    });
}

#[test]
fn a_frame_that_a_runtime_holds_back_comes_out_when_the_source_falls_silent() {
    const TEST: &str = "a_frame_that_a_runtime_holds_back_comes_out_when_the_source_falls_silent";
    on(Machine::Software, TEST, &[("LIMITS", "hold_back=yes")], |_| {
        for depth in [1, 3] {
            let settings = EncoderSettings { async_depth: depth, gop: Gop::Infinite, ..small(Codec::H264) };
            let (mut encoder, mut sink) = (vpl(&settings), Keep::default());
            let frames: Vec<Vec<u8>> = (0..8).map(|index| picture(&settings.format, index)).collect();
            let bytes = |index: u64| &frames[index as usize];
            for index in 0..4 {
                give(encoder.as_mut(), &settings.format, index, bytes(index), None, false, &mut sink).unwrap();
            }
            assert!(sink.out.len() < 4, "one is held back");
            // A source that is merely late does not cost an IDR.
            encoder.collect(&mut sink, Duration::from_millis(1)).unwrap();
            give(encoder.as_mut(), &settings.format, 4, bytes(4), None, false, &mut sink).unwrap();
            let begin = Instant::now();
            while sink.out.len() < 5 {
                assert!(begin.elapsed() < Duration::from_secs(20), "frame 4 is stuck at depth {depth}");
                encoder.collect(&mut sink, Duration::from_millis(1)).unwrap();
            }
            assert!(begin.elapsed() >= Duration::from_millis(90), "three frame intervals of 30 fps");
            for index in 5..8 {
                give(encoder.as_mut(), &settings.format, index, bytes(index), None, false, &mut sink).unwrap();
            }
            encoder.flush(&mut sink).unwrap();
            // A runtime that was drained begins anew.
            assert_eq!(idrs_of_all(&sink, 8), [0, 5], "depth {depth}");
        }
    });
}

#[test]
fn a_change_of_the_bitrate_with_frames_inside_loses_none() {
    const TEST: &str = "a_change_of_the_bitrate_with_frames_inside_loses_none";
    on(Machine::Software, TEST, &[("FAULTS", "encode:0..=slow_10")], |_| {
        let settings = EncoderSettings { async_depth: 4, ..small(Codec::H264) };
        let mut encoder = vpl(&settings);
        let mut sink = Keep::default();
        let frames: Vec<Vec<u8>> = (0..20).map(|index| picture(&settings.format, index)).collect();
        for (index, bytes) in frames.iter().enumerate() {
            if index % 6 == 5 {
                encoder.set_bitrate(500 + 100 * index as u32, 0).unwrap();
            }
            give(encoder.as_mut(), &settings.format, index as u64, bytes, None, false, &mut sink).unwrap();
        }
        encoder.flush(&mut sink).unwrap();
        assert_eq!(idrs_of_all(&sink, 20), [0]);
    });
}

#[test]
fn an_access_unit_that_is_too_large_is_left_out_and_an_idr_follows() {
    use common::Out;
    for depth in [1, 3] {
        let test = "an_access_unit_that_is_too_large_is_left_out_and_an_idr_follows";
        on(Machine::Software, test, &[], |_| {
            let settings = EncoderSettings { async_depth: depth, gop: Gop::Infinite, ..small(Codec::H264) };
            let mut encoder = vpl(&settings);
            let mut sink = Keep::default();
            let frames: Vec<Vec<u8>> = (0..12).map(|index| picture(&settings.format, index)).collect();
            let mut errors = 0;
            for (index, bytes) in frames.iter().enumerate() {
                sink.limit = if index == 6 { 40 } else { usize::MAX };
                errors += u32::from(
                    give(encoder.as_mut(), &settings.format, index as u64, bytes, None, false, &mut sink).is_err(),
                );
            }
            sink.limit = usize::MAX;
            encoder.flush(&mut sink).unwrap();
            assert_eq!(errors, 1);
            assert_eq!(sink.out.len(), 12, "every frame has its outcome");
            let gone = sink.out.iter().position(|out| matches!(out, Out::Left(..))).unwrap();
            assert!(sink.out[..gone].iter().all(|out| matches!(out, Out::Unit(..))));
            assert!(matches!(&sink.out[gone + 1], Out::Unit(meta, _) if meta.idr), "depth {depth}: {gone}");
        });
        if std::env::var("QUAD_VPL_TEST_CHILD").is_ok() {
            return;
        }
    }
}

#[test]
fn system_memory_is_read_in_place_where_it_is_aligned_and_copied_once_where_it_is_not() {
    const TEST: &str = "system_memory_is_read_in_place_where_it_is_aligned_and_copied_once_where_it_is_not";
    on(Machine::Software, TEST, &[], |_| {
        // A page before, so that the picture begins at one whatever the allocator does.
        let settings = EncoderSettings { format: nv12(640, 352, FPS, Colour::BT709_LIMITED), ..small(Codec::H264) };
        let mut encoder = vpl(&settings);
        let mut bytes = vec![0; settings.format.frame_bytes() as usize + 4096];
        let shift = bytes.as_ptr().align_offset(4096);
        common::fill(&settings.format, 0, 8, &mut bytes[shift..]);
        let mut sink = Keep::default();
        give(encoder.as_mut(), &settings.format, 0, &bytes[shift..], None, false, &mut sink).unwrap();
        assert_eq!(encoder.copied_bytes(), 0);
        assert!(encoder.path().contains("read in place, nothing copied"), "{}", encoder.path());
        let settings = small(Codec::H264);
        let mut encoder = vpl(&settings);
        run_kept(encoder.as_mut(), &settings.format, 3, &[], &mut Keep::default());
        assert_eq!(encoder.copied_bytes(), 3 * 320 * 180 * 3 / 2);
        assert!(encoder.path().contains("copied once into system memory"), "{}", encoder.path());
    });
}

#[test]
fn frames_without_memory_of_their_own_are_copied_once_into_a_mapped_surface() {
    const TEST: &str = "frames_without_memory_of_their_own_are_copied_once_into_a_mapped_surface";
    on(Machine::Hardware, TEST, &[], |_| {
        let settings = EncoderSettings { device: Some(NODE.into()), ..small(Codec::H264) };
        let mut encoder = vpl(&settings);
        let mut sink = Keep::default();
        run_kept(encoder.as_mut(), &settings.format, 10, &[4], &mut sink);
        assert_eq!(idrs_of_all(&sink, 10), [0, 4]);
        assert_eq!(encoder.copied_bytes(), 10 * 320 * 180 * 3 / 2);
        assert!(encoder.path().contains("copied once into a mapped surface"), "{}", encoder.path());
        // The same pictures by either path are the same stream.
        let settings = EncoderSettings { device: None, ..settings };
        let mut by_pointer = vpl(&settings);
        assert!(by_pointer.path().contains("system memory"), "{}", by_pointer.path());
        let mut other = Keep::default();
        run_kept(by_pointer.as_mut(), &settings.format, 10, &[4], &mut other);
        assert!(sink.stream() == other.stream());
    });
}

#[test]
fn ffmpeg_decodes_a_stream_with_a_device_lost_in_it_without_a_warning() {
    const TEST: &str = "ffmpeg_decodes_a_stream_with_a_device_lost_in_it_without_a_warning";
    if Command::new("ffmpeg").arg("-version").output().is_err() {
        return common::skip(TEST, "ffmpeg is not installed");
    }
    on(Machine::Hardware, TEST, &[("FAULTS", "encode:20=lost@reset,sync:50=gpu_hang@session")], |folder| {
        let settings = EncoderSettings { async_depth: 3, gop: Gop::Infinite, ..on_node(320, 180) };
        let (mut encoder, mut sink) = (vpl(&settings), Keep::default());
        run_kept(encoder.as_mut(), &settings.format, 90, &[70], &mut sink);
        let idrs = idrs_of_all(&sink, 90);
        assert_eq!((idrs.len(), idrs[0], idrs[3]), (4, 0, 70), "{idrs:?}");
        assert_eq!(idr_pic_ids(&sink.stream()), [0, 1, 0, 1]);
        let file = folder.join("lost.h264");
        std::fs::write(&file, sink.stream()).unwrap();
        let args = ["-hide_banner", "-nostdin", "-v", "warning", "-err_detect", "explode", "-i"];
        let raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-fps_mode", "passthrough", "-"];
        let mut ffmpeg = Command::new("ffmpeg");
        let output = ffmpeg.env_remove("LD_PRELOAD").args(args).arg(&file).args(raw).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stderr), "");
        assert_eq!(output.stdout.len(), 90 * 320 * 180 * 3 / 2);
    });
}
