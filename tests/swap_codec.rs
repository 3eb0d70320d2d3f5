//! The codec of the running stream exchanged: the RTP stream and the watch page go on, and whoever cannot follow is told.

#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use serde_json::Value;
use shm_protocol::frame::Codec;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;
use system_tests::build::binaries;
use system_tests::build::root;
use system_tests::pipeline::{Part, free_rtp_port};
use system_tests::quad::{Quad, said};
use system_tests::receiver::{assert_contiguous, complaints, decode_of};
use system_tests::streams::{file_name, format_name, payload_type, prepare, received};
use system_tests::tools::{Owned, browser_driver, finish, have, need, skip, within};
use system_tests::wire::{Faults, Packet, Wire, in_order_of_source, longest_gap};

const PATIENCE: Duration = Duration::from_secs(20);
/// The kernel C that publishes prepared streams.
const PREPARED: &str = env!("CARGO_BIN_EXE_prepared-encoder");
/// What the stream is swapped to, one after the other; it begins with H.264.
const SWAPS: [Codec; 3] = [Codec::Hevc, Codec::Av1, Codec::H264];

/// Comes up with H.264, swaps through all codecs with these further arguments of `quad swap`, checks what is told of
/// each change, and gives every packet in order.
fn swap_through_all(quad: &Quad, wire: &Wire, more: &[&str]) -> Vec<Packet> {
    let sdp = quad.pipeline.sdp();
    let described = |text: &str| std::fs::read_to_string(&sdp).unwrap_or_default().contains(text);
    assert!(within(PATIENCE, || wire.units() >= 30), "{}", said(&quad.run(&["logs"])));
    let mut before = Codec::H264;
    for codec in SWAPS {
        let set = format!("encode.codec={}", codec.name());
        let arguments = ["swap", "encode", "--set", &set].into_iter().chain(more.iter().copied()).collect::<Vec<_>>();
        let output = quad.run(&arguments);
        assert!(output.status.success(), "{codec:?}: {}", said(&output));
        let of_codec = || wire.packets().iter().rev().take_while(|p| p.payload_type == payload_type(codec)).count();
        assert!(within(PATIENCE, || of_codec() > 30), "{codec:?}: {}", said(&quad.run(&["logs"])));
        let units = wire.units();
        assert!(within(PATIENCE, || wire.units() >= units + 30), "{codec:?}: {}", said(&quad.run(&["logs"])));
        // The description is another one, and says so.
        let media = format!("RTP/AVP {}\r\n", payload_type(codec));
        let change = format!("i=The codec changed from {} to {}: open this", before.name(), codec.name());
        assert!(within(PATIENCE, || described(&media) && described(&change)), "{:?}", std::fs::read_to_string(&sdp));
        let rtp = |status: &Value| status["outputs"][0].clone();
        let told = || rtp(&quad.status().1)["codec"] == codec.name();
        assert!(within(PATIENCE, told), "{}", rtp(&quad.status().1));
        let note = rtp(&quad.status().1)["note"].clone();
        assert!(note.as_str().unwrap_or_default().contains(&format!("to {}: receivers open", codec.name())), "{note}");
        assert!(quad.log("net.main").contains("The codec of the RTP stream changed"), "{}", quad.log("net.main"));
        before = codec;
    }
    // Ids begin with 1 and rise by 1: when kernel D has sent as many units as the last one says, none was lost. The wire
    // then shows whether they arrived.
    let whole = || {
        let status = quad.status().1;
        status["rings"]["encode.main"]["last_frame_id"] == status["kernels"]["net"]["frames"]
    };
    assert!(within(PATIENCE, whole), "{}", quad.status().1);
    let packets = wire.packets();
    let (ordered, faults) = in_order_of_source(&packets);
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    eprintln!("longest gap on the wire: {:?}", longest_gap(&packets));
    ordered.into_iter().cloned().collect()
}

/// The packets of each codec, in the order in which the codecs came.
fn segments(packets: &[Packet]) -> Vec<Vec<&Packet>> {
    packets.chunk_by(|a, b| a.payload_type == b.payload_type).map(|run| run.iter().collect()).collect()
}

/// The codecs that the stream had, in order.
fn expected_codecs() -> Vec<Codec> {
    [Codec::H264].into_iter().chain(SWAPS).collect()
}

/// A Quad that finds prepared streams of all codecs in its folder; `None`, and said, when FFmpeg cannot make them.
fn prepared(test: &str, label: &str, port: u16) -> Option<Quad> {
    let mut quad = Quad::new(label, port);
    let folder = quad.pipeline.folder().to_owned();
    for codec in [Codec::H264, Codec::Hevc, Codec::Av1] {
        if prepare(codec, 120, &folder).is_none() {
            skip(test, &format!("ffmpeg cannot make {}", file_name(codec)));
            return None;
        }
    }
    quad.set_variable("QUAD_PREPARED", folder.to_str().unwrap());
    quad.pipeline.set("capture.policy", "lossless").set("encode.backend", "auto");
    Some(quad)
}

#[test]
fn a_change_of_codec_keeps_the_rtp_stream_and_is_told_everywhere() {
    const TEST: &str = "swap_codec: prepared streams";
    if !need(TEST, &["ffmpeg"]) {
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let Some(quad) = prepared(TEST, "swapcodec", port) else { return };
    let folder = quad.pipeline.folder().to_owned();
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    let packets = swap_through_all(&quad, &wire, &["--binary", PREPARED]);
    quad.down();
    let parts = segments(&packets);
    assert_eq!(
        parts.iter().map(|part| part[0].payload_type).collect::<Vec<_>>(),
        expected_codecs().iter().map(|c| payload_type(*c)).collect::<Vec<_>>()
    );
    for (part, codec) in parts.iter().zip(expected_codecs()) {
        let units = received(codec, part);
        let (frames, log) = decoded_frames(codec, &units.concat(), &folder);
        assert_eq!((frames, log.as_str()), (units.len(), ""), "{codec:?}");
    }
}

#[test]
fn the_watch_page_follows_a_swap_of_the_codec_or_says_what_the_browser_lacks() {
    const TEST: &str = "swap_codec: the watch page";
    let Some(modules) = browser_driver(TEST) else { return };
    let port = free_rtp_port();
    let Some(quad) = prepared(TEST, "swappage", port) else { return };
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    // Chromium decodes H.264 and AV1, and has no HEVC decoder of its own.
    let steps = ["avc1", "!hev1", "av01", "avc1"];
    let mut command = Command::new("node");
    command.arg(root().join("tests/fixtures/browser/watch.mjs"));
    command.arg(format!("http://127.0.0.1:{}/", quad.pipeline.http_port)).arg("--modules").arg(modules);
    command.args(["--frames", "30", "--timeout-ms", "40000", "--codecs", &steps.join(",")]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    let mut child = Owned::spawn(&mut command);
    let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines();
    for (number, step) in steps.into_iter().enumerate() {
        let line = lines.next().unwrap().unwrap();
        let page = line.strip_prefix(&format!("CODEC {step} ")).unwrap_or_else(|| panic!("{step}: {line}"));
        let page: Value = serde_json::from_str(page).unwrap();
        assert_eq!((page["errors"].as_u64(), page["reconnects"].as_u64()), (Some(0), Some(0)), "{page}");
        let cure = page["cure"].as_str().unwrap_or_default();
        assert_eq!(cure.contains("This browser cannot decode HEVC"), step.starts_with('!'), "{page}");
        if let Some(next) = SWAPS.get(number) {
            let set = format!("encode.codec={}", next.name());
            let output = quad.run(&["swap", "encode", "--binary", PREPARED, "--set", &set]);
            assert!(output.status.success(), "{}", said(&output));
        }
    }
    let status = finish(&mut child.0, PATIENCE);
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    quad.down();
}

/// How many frames FFmpeg decodes, and what it complains of.
fn decoded_frames(codec: Codec, stream: &[u8], folder: &Path) -> (usize, String) {
    let path = folder.join("segment");
    std::fs::write(&path, stream).unwrap();
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "warning", "-nostdin", "-f", format_name(codec), "-i"]).arg(&path);
    let output = command.args(["-fps_mode", "passthrough", "-f", "framemd5", "-"]).output().unwrap();
    let frames = String::from_utf8_lossy(&output.stdout).lines().filter(|line| !line.starts_with('#')).count();
    (frames, complaints(&String::from_utf8_lossy(&output.stderr)))
}

/// Whether kernel C has an encoder of this codec here, by its own trial.
fn encodes(codec: Codec) -> bool {
    let output = Command::new(binaries().join(Part::Encode.binary())).arg("--support").output().unwrap();
    let rows: Vec<Value> = serde_json::from_slice(&output.stdout).unwrap();
    rows.iter().any(|row| row["codec"] == codec.name() && row["rate_control"] == "cbr" && row["usable"] == true)
}

#[test]
fn swapping_the_encoder_across_codecs_loses_no_frame() {
    const TEST: &str = "swap_codec: real encoders";
    if !have("ffmpeg") {
        return skip(TEST, "ffmpeg is not installed");
    }
    for codec in [Codec::Hevc, Codec::Av1] {
        if !encodes(codec) {
            return skip(TEST, &format!("there is no encoder of {} here", codec.name()));
        }
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut quad = Quad::new("swapreal", port);
    quad.pipeline.set("capture.policy", "lossless").set("encode.backend", "auto");
    // Small and slow enough for an HEVC and an AV1 encoder on two cores, and for a barcode.
    quad.pipeline.set("capture.width", "640").set("capture.height", "360").set("capture.fps", "15");
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    let packets = swap_through_all(&quad, &wire, &[]);
    quad.down();
    let parts = segments(&packets);
    assert_eq!(parts.len(), expected_codecs().len());
    let mut ids = Vec::new();
    for (part, codec) in parts.iter().zip(expected_codecs()) {
        ids.extend(decode_of(codec, &received(codec, part).concat(), 640, 360).clean());
    }
    assert_eq!(ids.first(), Some(&1));
    assert_contiguous(&ids);
}
