//! Real film through all four processes: FFmpeg receives every frame once and in order, and what is on the wire is
//! what the encoder library makes of the same frames when it is used directly.

use std::time::Duration;
use system_tests::bitstream::{nal, nal_type, units};
use system_tests::direct;
use system_tests::film::receive_every_frame;
use system_tests::pipeline::{Part, Pipeline, free_rtp_port};
use system_tests::receiver::Receiver;
use system_tests::tools::{clip, need, within};
use system_tests::wire::{Faults, Wire, in_order};
use system_tests::y4m::Clip;

#[test]
fn ffmpeg_receives_every_frame_of_the_clip_once_and_in_order() {
    receive_every_frame("clip_to_ffmpeg", &["ffmpeg"], Receiver::ffmpeg);
}

#[test]
fn the_stream_is_to_the_bit_what_the_library_makes_of_the_same_frames() {
    const BITRATE_KBPS: i32 = 40_000;
    const NAME: &str = "the_stream_is_to_the_bit_what_the_library_makes_of_the_same_frames";
    if !need(NAME, &["ffmpeg"]) {
        return;
    }
    let Some(path) = clip(NAME) else { return };
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut pipeline = Pipeline::new("bits", port);
    let film = Clip::decode(&path, pipeline.folder());
    let file = pipeline.write("film.y4m", &film.bytes(film.frames.len()));
    let gop = 50;
    pipeline.set("capture.source", "file").set("capture.path", file.to_str().unwrap());
    pipeline.set("capture.policy", "lossless").set("net.rtp.pacing", "false");
    pipeline.set("encode.backend", "openh264").set("encode.level", "4.1").set("encode.threads", "1");
    // A bitrate at which this film stays below it by itself: where the library overshoots, the guard is at work.
    pipeline.set("encode.bitrate_kbps", &BITRATE_KBPS.to_string()).set("encode.gop", &gop.to_string());
    pipeline.start_all();
    let all = within(Duration::from_secs(60), || wire.units() >= film.frames.len());
    assert!(all, "{} of {} frames; {}", wire.units(), film.frames.len(), pipeline.logs());
    pipeline.stop();

    let packets = wire.packets();
    let (ordered, faults) = in_order(&packets);
    assert_eq!(faults, Faults::default());
    let ours = units(&ordered);
    let settings = direct::Settings {
        width: film.width,
        height: film.height,
        fps: film.fps.0 as f32 / film.fps.1 as f32,
        bitrate_kbps: BITRATE_KBPS,
        gop,
        interval_ns: 1_000_000_000 * u64::from(film.fps.1) / u64::from(film.fps.0),
    };
    let theirs = direct::encode(&settings, &film.frames);
    assert_eq!(ours.len(), theirs.len());
    for (index, (unit, direct)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(unit.is_idr(), index % gop as usize == 0, "frame {index}");
        // The delimiter that kernel C puts in front is its own; on the wire the marker bit does its work.
        let made: Vec<Vec<u8>> = unit.nals.iter().filter(|n| nal_type(n) != nal::DELIMITER).cloned().collect();
        let same = made == *direct;
        let types = |nals: &[Vec<u8>]| nals.iter().map(|n| (nal_type(n), n.len())).collect::<Vec<_>>();
        assert!(same, "frame {index}: ours {:?}, the library's {:?}", types(&made), types(direct));
    }
    assert!(!pipeline.alive(Part::Encode));
}
