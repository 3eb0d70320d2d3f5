//! The codec of the running stream exchanged: the RTP stream and the watch page go on, and whoever cannot follow is told.

use serde_json::Value;
use shm_protocol::frame::Codec;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use system_tests::pipeline::free_rtp_port;
use system_tests::quad::{Quad, said};
use system_tests::receiver::{assert_contiguous, complaints, decode_of};
use system_tests::streams::{file_name, format_name, payload_type, prepare, received};
use system_tests::tools::{have, need, skip, within};
use system_tests::wire::{Faults, Packet, Wire, in_order_of_source, longest_gap};

const PATIENCE: Duration = Duration::from_secs(20);
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
    // The last id that the encoder published is the number of units on the wire: none of them is missing. Counted
    // first, so that a lost one cannot be made up for by one sent meanwhile.
    let whole = || {
        let units = wire.units() as u64;
        quad.status().1["rings"]["encode"]["last_frame_id"].as_u64() == Some(units)
    };
    assert!(within(PATIENCE, whole), "{} units: {}", wire.units(), quad.status().1["rings"]);
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

#[test]
fn a_change_of_codec_keeps_the_rtp_stream_and_is_told_everywhere() {
    const TEST: &str = "swap_codec: prepared streams";
    if !need(TEST, &["ffmpeg"]) {
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut quad = Quad::new("swapcodec", port);
    let folder = quad.pipeline.folder().to_owned();
    for codec in [Codec::H264, Codec::Hevc, Codec::Av1] {
        if prepare(codec, 120, &folder).is_none() {
            return skip(TEST, &format!("ffmpeg cannot make {}", file_name(codec)));
        }
    }
    quad.set_variable("QUAD_PREPARED", folder.to_str().unwrap());
    quad.pipeline.set("capture.policy", "lossless").set("encode.backend", "auto");
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    let packets = swap_through_all(&quad, &wire, &["--binary", env!("CARGO_BIN_EXE_prepared-encoder")]);
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

/// Whether a library is installed where the loader finds it.
fn has_library(name: &str) -> bool {
    let listed = Command::new("ldconfig").arg("-p").output().map(|output| output.stdout).unwrap_or_default();
    String::from_utf8_lossy(&listed).contains(name)
}

#[test]
fn swapping_the_encoder_across_codecs_loses_no_frame() {
    const TEST: &str = "swap_codec: real encoders";
    if !have("ffmpeg") {
        return skip(TEST, "ffmpeg is not installed");
    }
    for library in ["libx265.so", "libSvtAv1Enc.so"] {
        if !has_library(library) {
            return skip(TEST, &format!("{library} is not installed"));
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
