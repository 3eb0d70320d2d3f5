//! Faults of device and runtime: the stream goes on with every frame in it, or ends with the right error.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::vpl::{Machine, NODE, calls, give, idrs_of_all, on, picture};
use common::{Keep, small};
use kernel_c_encode::encoder::Encoder;
use kernel_c_encode::error::EncoderError;
use kernel_c_encode::select::open;
use kernel_c_encode::settings::{EncoderSettings, Gop};
use shm_protocol::error::Recovery;
use shm_protocol::frame::Codec;
use std::path::Path;
use std::time::{Duration, Instant};

const FRAMES: u64 = 20;

struct Ran {
    sink: Keep,
    encoder: Box<dyn Encoder>,
    longest: Duration,
    error: Option<EncoderError>,
}

/// Runs a stream until it ends or fails. On hardware: a software runtime may take seconds for a frame.
fn stream(depth: u8) -> Ran {
    let settings =
        EncoderSettings { async_depth: depth, gop: Gop::Infinite, device: Some(NODE.into()), ..small(Codec::H264) };
    let mut encoder = open("vpl", &settings).unwrap().encoder;
    let frames: Vec<Vec<u8>> = (0..FRAMES).map(|index| picture(&settings.format, index)).collect();
    let (mut sink, mut longest, mut error) = (Keep::default(), Duration::ZERO, None);
    for (index, bytes) in frames.iter().enumerate() {
        let begin = Instant::now();
        let result = give(encoder.as_mut(), &settings.format, index as u64, bytes, None, false, &mut sink);
        longest = longest.max(begin.elapsed());
        if let Err(failed) = result {
            error = Some(failed);
            break;
        }
    }
    if error.is_none() {
        error = encoder.flush(&mut sink).err();
    }
    Ran { sink, encoder, longest, error }
}

/// Runs a stream under each of the faults at depth 1 and 4, in processes of their own.
fn under(test: &str, faults: &[&str], check: impl Fn(&str, u8, Ran, &Path)) {
    for depth in [1u8, 4] {
        for fault in faults {
            let depth_text = depth.to_string();
            on(Machine::Hardware, test, &[("FAULTS", fault), ("TEST_DEPTH", &depth_text)], |folder| {
                let depth = std::env::var("QUAD_VPL_FIXTURE_TEST_DEPTH").unwrap().parse().unwrap();
                let fault = std::env::var("QUAD_VPL_FIXTURE_FAULTS").unwrap();
                check(&fault, depth, stream(depth), folder);
            });
            if std::env::var("QUAD_VPL_TEST_CHILD").is_ok() {
                return;
            }
        }
    }
}

#[test]
fn busy_devices_slow_frames_and_short_buffers_are_waited_out_without_an_idr() {
    const TEST: &str = "busy_devices_slow_frames_and_short_buffers_are_waited_out_without_an_idr";
    let faults = [
        "encode:3=busy*50,encode:9..12=busy*5",
        "sync:4=in_execution*20",
        "sync:2..8=busy*7",
        "encode:5..9=short_buffer*3",
        "encode:2..=slow_30",
    ];
    under(TEST, &faults, |fault, depth, ran, _| {
        assert_eq!(ran.error, None, "{fault} at depth {depth}");
        assert_eq!(idrs_of_all(&ran.sink, FRAMES), [0], "{fault} at depth {depth}");
    });
}

#[test]
fn a_device_that_is_lost_is_reset_in_place_and_no_frame_is_missing() {
    const TEST: &str = "a_device_that_is_lost_is_reset_in_place_and_no_frame_is_missing";
    let faults = [
        "encode:6=lost@reset",
        "sync:6=gpu_hang@reset",
        "sync:6=failed@reset",
        "sync:6=short_buffer",
        "encode:6=gpu_hang@reset,encode:12=failed@reset",
    ];
    under(TEST, &faults, |fault, depth, ran, folder| {
        assert_eq!(ran.error, None, "{fault} at depth {depth}");
        let idrs = idrs_of_all(&ran.sink, FRAMES);
        assert_eq!(idrs.len(), 1 + fault.matches(':').count(), "{fault} at depth {depth}: {idrs:?}");
        assert!(idrs[0] == 0 && (3..=7).contains(&idrs[1]), "{fault} at depth {depth}: {idrs:?}");
        assert_eq!(calls(folder, "ENCODE_Init").len(), 1, "one session is enough");
    });
}

#[test]
fn a_reset_that_does_not_help_is_followed_by_a_new_session_and_no_frame_is_missing() {
    const TEST: &str = "a_reset_that_does_not_help_is_followed_by_a_new_session_and_no_frame_is_missing";
    let faults = ["encode:6=lost@session", "sync:6=gpu_hang@session", "encode:6=lost@reset,reset:0..=failed@session"];
    under(TEST, &faults, |fault, depth, ran, folder| {
        assert_eq!(ran.error, None, "{fault} at depth {depth}");
        let idrs = idrs_of_all(&ran.sink, FRAMES);
        assert!(idrs.len() == 2 && (3..=7).contains(&idrs[1]), "{fault} at depth {depth}: {idrs:?}");
        assert_eq!(calls(folder, "ENCODE_Init").len(), 2, "{fault} at depth {depth}");
        assert_eq!(ran.encoder.capabilities().delay_frames, 0, "the new session has its parameters of last resort");
    });
}

#[test]
fn a_frame_over_its_deadline_is_taken_for_a_hang() {
    const TEST: &str = "a_frame_over_its_deadline_is_taken_for_a_hang";
    under(TEST, &["sync:6=hang@reset", "sync:6=hang@session"], |fault, depth, ran, _| {
        assert_eq!(ran.error, None, "{fault} at depth {depth}");
        let idrs = idrs_of_all(&ran.sink, FRAMES);
        assert!(idrs.len() == 2 && (3..=7).contains(&idrs[1]), "{fault} at depth {depth}: {idrs:?}");
        // Below the supervisor's hang_timeout_ms, with room for what the machine does besides.
        assert!(ran.longest < Duration::from_secs(4), "{fault} at depth {depth}: {:?}", ran.longest);
    });
}

#[test]
fn a_device_that_stays_lost_ends_with_an_error_that_asks_for_a_new_process() {
    const TEST: &str = "a_device_that_stays_lost_ends_with_an_error_that_asks_for_a_new_process";
    under(
        TEST,
        &["encode:6=lost@never", "sync:6=hang@never", "sync:6=failed@never", "encode:6=busy*1000000"],
        |fault, depth, ran, _| {
            let error = ran.error.unwrap();
            assert!(matches!(error, EncoderError::DeviceLost { .. }), "{fault} at depth {depth}: {error}");
            assert_eq!((error.exit_code(), error.recovery()), (75, Recovery::Restart));
            assert!(error.to_string().contains(", then "), "{error}");
            let whole = ran.sink.units().len() as u64;
            assert!(whole >= 3, "{fault} at depth {depth}: what was done is out");
            assert_eq!(idrs_of_all(&ran.sink, whole), [0]);
        },
    );
}

#[test]
fn a_reset_can_be_asked_for_and_the_stream_goes_on_with_an_idr() {
    on(Machine::Hardware, "a_reset_can_be_asked_for_and_the_stream_goes_on_with_an_idr", &[], |_| {
        for depth in [1, 3] {
            let settings = EncoderSettings {
                async_depth: depth,
                gop: Gop::Infinite,
                device: Some(NODE.into()),
                ..small(Codec::H264)
            };
            let mut encoder = open("vpl", &settings).unwrap().encoder;
            let frames: Vec<Vec<u8>> = (0..10).map(|index| picture(&settings.format, index)).collect();
            let mut sink = Keep::default();
            for (index, bytes) in frames.iter().enumerate() {
                if index == 5 {
                    encoder.emergency_reset().unwrap();
                }
                give(encoder.as_mut(), &settings.format, index as u64, bytes, None, false, &mut sink).unwrap();
            }
            encoder.flush(&mut sink).unwrap();
            let idrs = idrs_of_all(&sink, 10);
            assert!(idrs.len() == 2 && (2..=5).contains(&idrs[1]), "depth {depth}: {idrs:?}");
        }
    });
}

#[test]
fn after_a_loss_the_frame_that_was_refused_is_outside_and_those_before_it_come_out_after_a_reset() {
    const TEST: &str = "after_a_loss_the_frame_that_was_refused_is_outside_and_those_before_it_come_out_after_a_reset";
    // The backend's own new session fails, the one of the reset that is asked for does not.
    let faults = ["encode:6=lost@session,init:1=failed", "sync:6=gpu_hang@session,init:1=failed"];
    under(TEST, &faults, |fault, depth, mut ran, _| {
        assert!(matches!(ran.error, Some(EncoderError::DeviceLost { .. })), "{fault} at depth {depth}");
        assert_eq!(ran.encoder.emergency_reset(), Ok(true), "{fault} at depth {depth}");
        ran.encoder.flush(&mut ran.sink).unwrap();
        // Frame 6 is refused at depth 1; deeper, whichever was given when it was found out.
        let came_out = ran.sink.units().len() as u64;
        assert!(if depth == 1 { came_out == 6 } else { (6..=11).contains(&came_out) }, "{fault}: {came_out}");
        let settings = EncoderSettings { gop: Gop::Infinite, device: Some(NODE.into()), ..small(Codec::H264) };
        let bytes = picture(&settings.format, came_out);
        give(ran.encoder.as_mut(), &settings.format, came_out, &bytes, None, false, &mut ran.sink).unwrap();
        ran.encoder.flush(&mut ran.sink).unwrap();
        let idrs = idrs_of_all(&ran.sink, came_out + 1);
        assert_eq!(idrs.len(), 2, "{fault} at depth {depth}: {idrs:?}");
    });
}
