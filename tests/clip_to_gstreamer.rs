//! Real film through all four processes into GStreamer, with and without a jitter buffer.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use std::time::Duration;
use system_tests::pipeline::{Pipeline, free_rtp_port};
use system_tests::receiver::{Receiver, assert_contiguous};
use system_tests::tools::{clip, need, within};
use system_tests::y4m::Clip;

/// What follows the clip: elements may keep a frame until the next one begins.
const FOLLOWING: usize = 30;

fn receive(test: &str, elements: &str) {
    if !need(test, &["ffmpeg", "gst-launch-1.0"]) {
        return;
    }
    let Some(path) = clip(test) else { return };
    let port = free_rtp_port();
    let mut pipeline = Pipeline::new("gst", port);
    let film = Clip::decode(&path, pipeline.folder());
    let count = film.frames.len() + FOLLOWING;
    let fifo = pipeline.folder().join("film.fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    pipeline.set("capture.source", "file").set("capture.path", fifo.to_str().unwrap());
    pipeline.set("capture.policy", "lossless").set("capture.barcode", "true").set("encode.backend", "openh264");
    let receiver = Receiver::gstreamer(pipeline.folder(), port, elements, film.width, film.height);
    pipeline.start_all();
    film.play(&fifo, count);
    pipeline.wait_for_frames(count as u64);
    let came = within(Duration::from_secs(10), || receiver.frames() >= film.frames.len());
    let decoded = receiver.finish();
    assert!(came, "{} of {count}: {}\n{}", decoded.ids.len(), decoded.log, pipeline.logs());
    pipeline.stop();
    let ids = decoded.clean();
    assert_eq!(ids.first(), Some(&1));
    assert_contiguous(&ids);
    assert!((film.frames.len()..=count).contains(&ids.len()), "{} frames of {count}", ids.len());
}

#[test]
fn gstreamer_receives_every_frame_of_the_clip_once_and_in_order() {
    receive("clip_to_gstreamer", "rtpjitterbuffer");
}

#[test]
fn gstreamer_with_rtpbin_receives_every_frame_of_the_clip_once_and_in_order() {
    receive("clip_to_gstreamer with rtpbin", "rtpbin");
}
