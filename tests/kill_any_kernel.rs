//! SIGKILL of each kernel in the middle of a stream: receivers see a pause and nothing else.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use std::time::Duration;
use system_tests::bitstream::units;
use system_tests::pipeline::{Part, Pipeline, free_rtp_port};
use system_tests::receiver::{Receiver, assert_contiguous, decode};
use system_tests::tools::{need, within};
use system_tests::wire::{Faults, Wire, in_order, longest_gap};

const WIDTH: usize = 1280;
const HEIGHT: usize = 720;
/// Frames before and after a death.
const FRAMES: usize = 60;
/// How often a kernel is killed.
const DEATHS: usize = 2;

fn pipeline(label: &str, port: u16) -> Pipeline {
    let mut pipeline = Pipeline::new(label, port);
    pipeline.set("capture.width", "1280").set("capture.height", "720").set("encode.backend", "openh264");
    // A busy machine may keep a living kernel from its core for longer than three frames: that is no loss of ours.
    pipeline.set("capture.max_latency_ms", "2000");
    pipeline
}

/// Kills a kernel and starts it again at once, as its supervisor does; then waits for the stream to go on.
fn die(pipeline: &mut Pipeline, part: Part, units: &dyn Fn() -> usize) {
    let before = units();
    pipeline.kill(part);
    pipeline.start(part);
    let on = within(Duration::from_secs(20), || units() >= before + FRAMES);
    assert!(on, "{} of {} frames after the death of {part:?}: {}", units() - before, FRAMES, pipeline.logs());
}

/// What must hold after the death of `part`.
fn assert_ids(part: Part, ids: &[u64]) {
    if part == Part::Capture {
        let back = ids.windows(2).find(|pair| pair[1] <= pair[0]);
        assert_eq!(back, None, "Ids rise for ever");
        assert_eq!(ids.first(), Some(&1));
    } else {
        assert_eq!(ids.first(), Some(&1));
        assert_contiguous(ids);
    }
}

fn on_the_wire(part: Part) {
    if !need(&format!("kill {}", part.short()), &["ffmpeg"]) {
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut pipeline = pipeline(part.short(), port);
    pipeline.start_all();
    assert!(within(Duration::from_secs(20), || wire.units() >= FRAMES), "{}", pipeline.logs());
    for _ in 0..DEATHS {
        die(&mut pipeline, part, &|| wire.units());
    }
    let status = pipeline.status().unwrap();
    let kernel = &status["kernels"][part.short()];
    assert_eq!((kernel["state"].as_str(), kernel["epoch"].as_u64()), (Some("running"), Some(1 + DEATHS as u64)));
    pipeline.stop();

    let packets = wire.packets();
    println!("SIGKILL of {}: longest gap between frames on the wire {:?}", part.short(), longest_gap(&packets));
    let (ordered, faults) = in_order(&packets);
    // What a dead sender had sent and not yet noted is sent again, byte for byte, under its old numbers.
    let allowed =
        if part == Part::Net { Faults { repeated: faults.repeated, ..Faults::default() } } else { Faults::default() };
    assert_eq!(faults, allowed);
    let made = units(&ordered);
    let stream: Vec<u8> = made.iter().flat_map(|unit| unit.annex_b()).collect();
    let ids = decode(&stream, WIDTH, HEIGHT).clean();
    assert_eq!(ids.len(), made.len());
    assert_ids(part, &ids);
}

fn in_ffmpeg(part: Part) {
    if !need(&format!("kill {} under FFmpeg", part.short()), &["ffmpeg"]) {
        return;
    }
    let port = free_rtp_port();
    let mut pipeline = pipeline(part.short(), port);
    let receiver = Receiver::ffmpeg(pipeline.folder(), port, WIDTH, HEIGHT);
    pipeline.start_all();
    assert!(within(Duration::from_secs(20), || receiver.frames() >= FRAMES), "{}", pipeline.logs());
    die(&mut pipeline, part, &|| receiver.frames());
    let decoded = receiver.finish();
    pipeline.stop();
    assert_ids(part, &decoded.clean());
}

#[test]
fn killing_capture_is_a_pause_on_the_wire() {
    on_the_wire(Part::Capture);
}

#[test]
fn killing_process_is_a_pause_on_the_wire() {
    on_the_wire(Part::Process);
}

#[test]
fn killing_encode_is_a_pause_on_the_wire() {
    on_the_wire(Part::Encode);
}

#[test]
fn killing_net_is_a_pause_on_the_wire() {
    on_the_wire(Part::Net);
}

#[test]
fn killing_capture_is_a_pause_for_ffmpeg() {
    in_ffmpeg(Part::Capture);
}

#[test]
fn killing_process_is_a_pause_for_ffmpeg() {
    in_ffmpeg(Part::Process);
}

#[test]
fn killing_encode_is_a_pause_for_ffmpeg() {
    in_ffmpeg(Part::Encode);
}

#[test]
fn killing_net_is_a_pause_for_ffmpeg() {
    in_ffmpeg(Part::Net);
}
