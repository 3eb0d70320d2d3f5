//! Frames of another size in the session that is there: a new sequence, and neither a new session nor a lost frame.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::vpl::{Machine, NODE, Pool, calls, give, idrs_of_all, on, on_node, picture};
use common::{FPS, Keep, nv12, small};
use kernel_c_encode::bitstream::annexb::nal_units;
use kernel_c_encode::bitstream::h264::{SliceHeader, nal_type, type_of};
use kernel_c_encode::bitstream::h264_sps::Sps;
use kernel_c_encode::encoder::Encoder;
use kernel_c_encode::error::EncoderError;
use kernel_c_encode::select::open;
use kernel_c_encode::settings::{EncoderSettings, Gop};
use shm_protocol::frame::{Codec, Colour, VideoFormat};
use std::path::Path;
use std::process::Command;

/// Frames of each size.
const EACH: u64 = 8;

fn vpl(settings: &EncoderSettings) -> Box<dyn Encoder> {
    open("vpl", settings).unwrap().encoder
}

fn sized(settings: &EncoderSettings, (width, height): (u32, u32)) -> EncoderSettings {
    EncoderSettings { format: nv12(width, height, FPS, Colour::BT709_LIMITED), ..settings.clone() }
}

/// Encodes frames of all these sizes one after the other by one encoder, as kernel C does.
fn encode_all(settings: &EncoderSettings, sizes: &[(u32, u32)], sink: &mut Keep) -> Box<dyn Encoder> {
    let mut encoder = vpl(&sized(settings, sizes[0]));
    let mut index = 0;
    for (number, size) in sizes.iter().enumerate() {
        let wanted = sized(settings, *size);
        assert!(number == 0 || encoder.change_size(&wanted), "{size:?} is taken");
        let frames: Vec<Vec<u8>> = (index..index + EACH).map(|index| picture(&wanted.format, index)).collect();
        for bytes in &frames {
            give(encoder.as_mut(), &wanted.format, index, bytes, None, index % EACH == 0, sink).unwrap();
            index += 1;
        }
        encoder.flush(sink).unwrap();
    }
    encoder
}

/// What FFmpeg decodes of a stream: frames of I420.
fn decoded(folder: &Path, codec: Codec, stream: &[u8]) -> Vec<u8> {
    let file = folder.join(format!("stream.{}", if codec == Codec::Av1 { "obu" } else { codec.name() }));
    std::fs::write(&file, stream).unwrap();
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.env_remove("LD_PRELOAD").args(["-hide_banner", "-nostdin", "-v", "warning", "-i"]).arg(&file);
    let output = ffmpeg.args(["-f", "rawvideo", "-pix_fmt", "yuv420p", "-fps_mode", "passthrough", "-"]).output();
    let output = output.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    output.stdout
}

/// Asserts that the luma of decoded frames is that of the pictures from `first` on.
fn assert_pictures(frames: &[u8], format: &VideoFormat, first: u64) {
    let (width, height) = (format.width as usize, format.height as usize);
    assert_eq!(frames.len(), EACH as usize * width * height * 3 / 2, "{width}x{height}");
    for (index, frame) in frames.chunks_exact(width * height * 3 / 2).enumerate() {
        let source = picture(format, first + index as u64);
        let stride = format.planes[0].stride as usize;
        let differences = (0..height).flat_map(|y| {
            source[y * stride..y * stride + width]
                .iter()
                .zip(&frame[y * width..])
                .map(|(a, b)| u64::from(a.abs_diff(*b)))
        });
        let mean = differences.sum::<u64>() / (width * height) as u64;
        // The picture beside the one meant differs by 12 and more.
        assert!(mean <= 6, "frame {index} of {width}x{height} is {mean} off on average");
    }
}

#[test]
fn a_new_size_is_a_new_sequence_in_the_same_session_and_no_frame_is_missing() {
    const TEST: &str = "a_new_size_is_a_new_sequence_in_the_same_session_and_no_frame_is_missing";
    const SIZES: [(u32, u32); 3] = [(640, 360), (320, 180), (640, 352)];
    for (codec, depth) in [(Codec::H264, 1), (Codec::H264, 3), (Codec::Hevc, 1), (Codec::Av1, 3)] {
        let variables = [("TEST_CODEC", codec.name()), ("TEST_DEPTH", if depth == 1 { "1" } else { "3" })];
        on(Machine::Hardware, TEST, &variables, |folder| {
            let named = std::env::var("QUAD_VPL_FIXTURE_TEST_CODEC").unwrap();
            let codec = [Codec::H264, Codec::Hevc, Codec::Av1].into_iter().find(|c| c.name() == named).unwrap();
            let async_depth = std::env::var("QUAD_VPL_FIXTURE_TEST_DEPTH").unwrap().parse().unwrap();
            let device = Some(NODE.into());
            let settings =
                EncoderSettings { async_depth, device, gop: Gop::Infinite, bitrate_kbps: 4000, ..small(codec) };
            if let Err(error @ EncoderError::Unavailable { .. }) = open("vpl", &settings).map(drop) {
                return common::skip(&format!("{TEST} with {named}"), &error.to_string());
            }
            let sessions = calls(folder, "MFXInitialize").len();
            let mut sink = Keep::default();
            let encoder = encode_all(&settings, &SIZES, &mut sink);
            assert_eq!(idrs_of_all(&sink, 3 * EACH), [0, EACH, 2 * EACH], "{named}");
            assert!(sink.units().iter().all(|(meta, _)| meta.config == meta.idr), "each with its parameter sets");
            let resets = calls(folder, "ENCODE_Reset");
            let sizes: Vec<_> = resets.iter().map(|call| (&call["in"]["CropW"], &call["in"]["CropH"])).collect();
            assert_eq!(format!("{sizes:?}"), "[(Number(320), Number(180)), (Number(640), Number(352))]");
            assert!(resets.iter().all(|call| call["status"] == 0 && call["unsynced"] == 0), "{resets:?}");
            assert_eq!(calls(folder, "MFXInitialize").len(), sessions + 1, "one session for all of them");
            drop(encoder);
            if Command::new("ffmpeg").arg("-version").output().is_err() {
                return common::skip(TEST, "ffmpeg is not installed");
            }
            let units = sink.units();
            for (number, size) in SIZES.into_iter().enumerate() {
                let of_size = &units[number * EACH as usize..][..EACH as usize];
                let stream: Vec<u8> = of_size.iter().flat_map(|(_, bytes)| bytes.to_vec()).collect();
                let frames = decoded(folder, codec, &stream);
                assert_pictures(&frames, &sized(&settings, size).format, number as u64 * EACH);
            }
        });
        if std::env::var("QUAD_VPL_TEST_CHILD").is_ok() {
            return;
        }
    }
}

#[test]
fn the_parameter_sets_say_the_new_size_and_the_idr_numbers_go_on() {
    const TEST: &str = "the_parameter_sets_say_the_new_size_and_the_idr_numbers_go_on";
    on(Machine::Software, TEST, &[], |_| {
        let mut sink = Keep::default();
        // Nothing before it: both sides become smaller, then one grows again.
        let sizes = [(640, 360), (322, 182), (322, 360)];
        encode_all(&EncoderSettings { gop: Gop::Infinite, ..small(Codec::H264) }, &sizes, &mut sink);
        let stream = sink.stream();
        let sets: Vec<Sps> = nal_units(&stream)
            .filter(|n| type_of(n.nal[0]) == nal_type::SPS)
            .filter_map(|n| Sps::parse(n.nal))
            .collect();
        let seen: Vec<_> = sets.iter().filter_map(Sps::size).collect();
        assert_eq!(seen, sizes);
        let ids: Vec<u32> =
            nal_units(&stream).filter_map(|n| SliceHeader::parse(n.nal, &sets[0])?.idr_pic_id).collect();
        assert_eq!(ids, [0, 1, 0]);
    });
}

#[test]
fn what_init_made_no_room_for_needs_another_session() {
    on(Machine::Software, "what_init_made_no_room_for_needs_another_session", &[], |folder| {
        let settings = EncoderSettings { gop: Gop::Infinite, ..small(Codec::H264) };
        for (size, why) in [((640, 180), "wider"), ((320, 200), "higher"), ((8, 8), "below the device")] {
            assert!(!vpl(&settings).change_size(&sized(&settings, size)), "{why}");
        }
        assert!(calls(folder, "ENCODE_Reset").is_empty(), "Query is asked before");
        let mut encoder = vpl(&settings);
        let wanted = EncoderSettings { slices: 2, ..sized(&settings, (160, 90)) };
        assert!(!encoder.change_size(&wanted), "more than the size");
        // Nothing of that was in its way.
        let bytes = picture(&settings.format, 0);
        give(encoder.as_mut(), &settings.format, 0, &bytes, None, false, &mut Keep::default()).unwrap();
    });
}

#[test]
fn a_device_that_is_lost_over_a_new_size_gives_way_to_another_session() {
    const TEST: &str = "a_device_that_is_lost_over_a_new_size_gives_way_to_another_session";
    on(Machine::Software, TEST, &[("FAULTS", "reset:0=lost")], |_| {
        let settings = EncoderSettings { gop: Gop::Infinite, ..small(Codec::H264) };
        let mut encoder = vpl(&settings);
        let wanted = sized(&settings, (160, 96));
        assert!(!encoder.change_size(&wanted));
        drop(encoder);
        let (mut encoder, mut sink) = (vpl(&wanted), Keep::default());
        give(encoder.as_mut(), &wanted.format, 0, &picture(&wanted.format, 0), None, true, &mut sink).unwrap();
        assert_eq!(idrs_of_all(&sink, 1), [0]);
    });
}

#[test]
fn imported_frames_of_another_size_are_imported_anew_and_nothing_is_copied() {
    const TEST: &str = "imported_frames_of_another_size_are_imported_anew_and_nothing_is_copied";
    on(Machine::Hardware, TEST, &[], |_| {
        let (large, smaller) = (on_node(640, 352), on_node(320, 192));
        let mut encoder = vpl(&large);
        let mut sink = Keep::default();
        let pools = [Pool::new(large.format), Pool::new(smaller.format)];
        for index in 0..6 {
            pools[0].give(encoder.as_mut(), index, 1, &pools[0].pictures[index as usize % 4], &mut sink);
        }
        encoder.flush(&mut sink).unwrap();
        assert!(encoder.change_size(&smaller));
        for index in 6..12 {
            pools[1].give(encoder.as_mut(), index, 2, &pools[1].pictures[index as usize % 4], &mut sink);
        }
        encoder.flush(&mut sink).unwrap();
        assert_eq!(idrs_of_all(&sink, 12), [0, 6]);
        assert_eq!(encoder.copied_bytes(), 0, "{}", encoder.path());
    });
}
