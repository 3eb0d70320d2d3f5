//! The VA-API backend when the device fails, on the libva driver of tests/fixtures: the stream goes on with an IDR and
//! no frame is lost, or the error says that the device is. Nothing here says how an Intel device fails.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;
mod fixture;

use common::{FPS, Keep, encode, nv12};
use fixture::{any, decoded, on_a_machine, open};
use kernel_c_encode::error::EncoderError;
use kernel_c_encode::settings::{EncoderSettings, Gop};
use shm_protocol::frame::{Codec, Colour};
use std::time::Duration;
use va_fixture::environment::need;

const FRAMES: u64 = 20;

fn settings(depth: u8) -> EncoderSettings {
    let format = nv12(320, 180, FPS, Colour::BT709_LIMITED);
    let live = EncoderSettings::live(Codec::H264, format, 2000);
    EncoderSettings { gop: Gop::Infinite, async_depth: depth, ..live }
}

/// Encodes 20 frames; every one must come out, in order, and decode. Returns where IDR pictures came.
fn survives(test: &str, depth: u8) -> Vec<u64> {
    let settings = settings(depth);
    let mut encoder = open(&settings).unwrap();
    let mut sink = Keep::default();
    for index in 0..FRAMES {
        encode(&mut *encoder, &settings.format, index, false, 8, &mut sink).unwrap();
    }
    encoder.flush(&mut sink).unwrap();
    let keys: Vec<u64> = sink.units().iter().map(|(meta, _)| meta.key.source_id - 1000).collect();
    assert_eq!(keys, (0..FRAMES).collect::<Vec<_>>(), "every frame once, in order");
    if need(test, &["ffmpeg"]) {
        let raw = decoded(&sink.stream(), ".h264", "yuv420p");
        let (bytes, mut source) = (320 * 180 * 3 / 2, vec![0; settings.format.frame_bytes() as usize]);
        assert_eq!(raw.len(), FRAMES as usize * bytes);
        // Each picture is the one it says it is.
        for index in 0..FRAMES {
            common::fill(&settings.format, index, 8, &mut source);
            let picture = &raw[index as usize * bytes..];
            let stride = settings.format.planes[0].stride as usize;
            let error: u64 =
                (0..320 * 180).map(|i| u64::from(picture[i].abs_diff(source[i / 320 * stride + i % 320]))).sum();
            assert!(error / (320 * 180) < 12, "frame {index}: mean luma error {}", error / (320 * 180));
        }
    }
    sink.units().iter().filter(|(meta, _)| meta.idr).map(|(meta, _)| meta.key.source_id - 1000).collect()
}

#[test]
fn a_busy_device_is_asked_again_and_nothing_changes() {
    let test = "a_busy_device_is_asked_again_and_nothing_changes";
    for fault in
        ["begin:9=busy*3", "end:9=busy*5", "sync:9=busy*3", "map:9=busy*3", "surface:2=busy*2", "context:1=busy"]
    {
        for depth in [1, 3] {
            let case = format!("{fault} {depth}");
            on_a_machine(
                test,
                &case,
                &[("QUAD_VA_FIXTURE_FAULTS", fault)],
                || assert_eq!(survives(test, depth), [0]),
                any,
            );
        }
    }
}

#[test]
fn after_a_failure_the_stream_goes_on_with_an_idr_and_no_frame_is_lost() {
    let test = "after_a_failure_the_stream_goes_on_with_an_idr_and_no_frame_is_lost";
    for fault in [
        "begin:9=failed",
        "end:9=failed",
        "end:9=lost",
        "end:9=lost/display",
        "sync:9=failed",
        "sync:9=lost",
        "sync:9=lost/display",
        "map:9=failed",
        "coded:9=empty",
        "coded:9=overflow",
    ] {
        let case = format!("{fault} 1");
        // Picture 9 is frame 8.
        on_a_machine(test, &case, &[("QUAD_VA_FIXTURE_FAULTS", fault)], || assert_eq!(survives(test, 1), [0, 8]), any);
    }
}

#[test]
fn a_failure_with_several_frames_in_work_loses_none_of_them() {
    let test = "a_failure_with_several_frames_in_work_loses_none_of_them";
    for fault in
        ["end:9=lost", "end:9=lost/display", "sync:9=lost", "sync:9=lost/display", "map:9=failed", "coded:9=overflow"]
    {
        let case = format!("{fault} 4");
        on_a_machine(
            test,
            &case,
            &[("QUAD_VA_FIXTURE_FAULTS", fault)],
            || {
                let idrs = survives(test, 4);
                assert_eq!(idrs.len(), 2, "{idrs:?}");
                // The oldest frame in work becomes the IDR.
                assert!((5..=8).contains(&idrs[1]), "{idrs:?}");
            },
            any,
        );
    }
}

#[test]
fn a_hung_frame_is_over_its_deadline_and_coded_again() {
    let test = "a_hung_frame_is_over_its_deadline_and_coded_again";
    for (fault, depth) in
        [("sync:9=hang", 1), ("sync:9=hang/display", 1), ("sync:9=hang", 4), ("sync:9=hang/display", 4)]
    {
        let case = format!("{fault} {depth}");
        on_a_machine(
            test,
            &case,
            &[("QUAD_VA_FIXTURE_FAULTS", fault)],
            || {
                let idrs = survives(test, depth);
                // With the device itself gone the frames before the hung one are coded again too.
                let lost_with_it = if fault.ends_with("display") { u64::from(depth) - 1 } else { 0 };
                assert!(idrs.len() == 2 && (8 - lost_with_it..=8).contains(&idrs[1]), "{idrs:?}");
            },
            any,
        );
    }
}

#[test]
fn garbage_from_the_driver_is_noticed_and_the_frame_coded_again() {
    let test = "garbage_from_the_driver_is_noticed_and_the_frame_coded_again";
    for fault in ["map:9=garbage", "coded:9=garbage"] {
        on_a_machine(test, fault, &[("QUAD_VA_FIXTURE_FAULTS", fault)], || assert_eq!(survives(test, 1), [0, 8]), any);
    }
}

#[test]
fn a_device_that_no_reset_brings_back_is_said_to_be_lost() {
    let test = "a_device_that_no_reset_brings_back_is_said_to_be_lost";
    for fault in ["sync:5=lost/never", "end:5=lost/never"] {
        on_a_machine(
            test,
            fault,
            &[("QUAD_VA_FIXTURE_FAULTS", fault)],
            || {
                let settings = settings(1);
                let mut encoder = open(&settings).unwrap();
                let mut sink = Keep::default();
                let failed = (0..FRAMES).find_map(|index| {
                    encode(&mut *encoder, &settings.format, index, false, 8, &mut sink)
                        .err()
                        .map(|error| (index, error))
                });
                let (index, error) = failed.unwrap();
                assert_eq!((index, error.exit_code()), (4, 75), "{error}");
                assert!(
                    matches!(error, EncoderError::DeviceLost { .. }) && error.to_string().contains("after a reset"),
                    "{error}"
                );
                assert_eq!(sink.units().len(), 4, "what came out before is whole");
            },
            any,
        );
    }
}

#[test]
fn an_encoder_whose_device_is_gone_says_so_again_and_waits_for_nothing() {
    let test = "an_encoder_whose_device_is_gone_says_so_again_and_waits_for_nothing";
    // No display brings a context any more: nothing is left to wait on.
    let faults = "sync:5=lost/never,context:2=failed,context:3=failed,context:4=failed";
    let body = || {
        let settings = settings(1);
        let mut encoder = open(&settings).unwrap();
        let mut sink = Keep::default();
        let mut errors =
            (0..6).filter_map(|index| encode(&mut *encoder, &settings.format, index, false, 8, &mut sink).err());
        let lost = |error: Option<EncoderError>| matches!(error, Some(EncoderError::DeviceLost { .. }));
        assert!(lost(errors.next()) && lost(errors.next()), "at frame 4, and again at the next");
        drop(errors);
        // The frames that were refused are outside: with none inside there is nothing to wait for and nothing to say.
        encoder.collect(&mut sink, Duration::from_millis(1)).unwrap();
        encoder.flush(&mut sink).unwrap();
        assert_eq!(sink.units().len(), 4);
    };
    on_a_machine(test, "", &[("QUAD_VA_FIXTURE_FAULTS", faults)], body, any);
}

#[test]
fn a_device_that_fails_while_it_is_opened_is_an_error_and_no_crash() {
    let test = "a_device_that_fails_while_it_is_opened_is_an_error_and_no_crash";
    for fault in ["context:1=failed", "surface:1=failed", "surface:2=failed"] {
        on_a_machine(
            test,
            fault,
            &[("QUAD_VA_FIXTURE_FAULTS", fault)],
            || {
                let error = open(&settings(1)).map(|_| ()).unwrap_err();
                assert!(matches!(error, EncoderError::DeviceLost { .. }), "{error}");
            },
            any,
        );
    }
}

#[test]
fn a_reset_can_be_asked_for_also_after_a_loss_and_the_stream_goes_on_with_an_idr() {
    let test = "a_reset_can_be_asked_for_also_after_a_loss_and_the_stream_goes_on_with_an_idr";
    // The picture, and the first one after each of the three steps of the backend's own reset.
    let often = "end:9=failed*4";
    for (fault, depth) in [("", 1), ("", 3), (often, 1), (often, 3)] {
        on_a_machine(
            test,
            &format!("{fault} {depth}"),
            &[("QUAD_VA_FIXTURE_FAULTS", fault)],
            || {
                let settings = settings(depth);
                let mut encoder = open(&settings).unwrap();
                let mut sink = Keep::default();
                for index in 0..FRAMES {
                    if fault.is_empty() && index == 8 {
                        assert_eq!(encoder.emergency_reset(), Ok(true));
                    }
                    let given = encode(&mut *encoder, &settings.format, index, false, 8, &mut sink);
                    if let Err(error) = given {
                        assert!(matches!(error, EncoderError::DeviceLost { .. }), "{error}");
                        assert_eq!(encoder.emergency_reset(), Ok(true));
                        encode(&mut *encoder, &settings.format, index, false, 8, &mut sink).unwrap();
                    }
                }
                encoder.flush(&mut sink).unwrap();
                let keys: Vec<u64> = sink.units().iter().map(|(meta, _)| meta.key.source_id - 1000).collect();
                assert_eq!(keys, (0..FRAMES).collect::<Vec<_>>(), "every frame once, in order");
                let units = sink.units();
                let idrs: Vec<u64> =
                    units.iter().filter(|(meta, _)| meta.idr).map(|(meta, _)| meta.key.source_id - 1000).collect();
                assert!(idrs.len() == 2 && (6..=8).contains(&idrs[1]), "{idrs:?}");
            },
            any,
        );
    }
}
