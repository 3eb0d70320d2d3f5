//! Real film through all four processes to a real receiver.

use crate::pipeline::{Pipeline, free_rtp_port};
use crate::receiver::{Receiver, assert_contiguous};
use crate::tools::{clip, need, within};
use crate::y4m::Clip;
use std::path::Path;
use std::time::Duration;

/// What follows the clip, frames: parsers know a frame to be whole when the next one begins, and decoders work on a few
/// at a time; with this behind it, all of the clip comes out.
const FOLLOWING: usize = 30;

/// Plays the clip, losslessly and at its own rate, to the receiver that `start` makes of a folder, port, width and
/// height. Every frame of the clip must come, once and in order.
pub fn receive_every_frame(test: &str, tools: &[&str], start: impl FnOnce(&Path, u16, usize, usize) -> Receiver) {
    if !need(test, tools) {
        return;
    }
    let Some(path) = clip(test) else { return };
    let port = free_rtp_port();
    let mut pipeline = Pipeline::new("film", port);
    let film = Clip::decode(&path, pipeline.folder());
    let count = film.frames.len() + FOLLOWING;
    let fifo = pipeline.folder().join("film.fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    pipeline.set("capture.source", "file").set("capture.path", fifo.to_str().unwrap());
    pipeline.set("capture.policy", "lossless").set("capture.barcode", "true").set("encode.backend", "openh264");
    let receiver = start(pipeline.folder(), port, film.width, film.height);
    pipeline.start_all();
    // The receiver listens and all four run: now the film begins.
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
