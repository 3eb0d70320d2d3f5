//! Streams through the RTP sender into GStreamer, which has depacketisers of its own: HEVC alone, and a stream whose
//! codec changes in the middle, which a receiver follows by the payload type.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it")]

mod common;

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use common::{FIRST_TYPE, FPS, PATIENCE, access_units, free_port, make_stream, open, skip, wait_for_listener};
use kernel_d_net::{
    au::AuView,
    outputs::rtp::{
        clock::{Clock, MonotonicClock},
        payload_type::payload_type,
        sender::{AccessUnit, SendEnd},
        session::SESSION_WORDS,
    },
};
use shm_protocol::frame::Codec;

const FRAMES: usize = 60;
/// Bytes of a decoded frame, 640×360 in 4:2:0.
const FRAME_BYTES: usize = 640 * 360 * 3 / 2;

/// The elements from packets of a codec to raw frames in `file`.
fn branch(codec: Codec, file: &Path) -> String {
    let (name, depacketiser, parser, decoder) = match codec {
        Codec::H264 => ("H264", "rtph264depay", "h264parse", "avdec_h264"),
        _ => ("H265", "rtph265depay", "h265parse", "avdec_h265"),
    };
    format!(
        "queue max-size-buffers=0 max-size-bytes=0 max-size-time=0 ! capssetter \
         caps=application/x-rtp,media=video,clock-rate=90000,encoding-name={name} ! {depacketiser} ! {parser} ! \
         {decoder} ! videoconvert ! video/x-raw,format=I420 ! filesink async=false buffer-mode=2 location={}",
        file.display()
    )
}

fn source(port: u16) -> String {
    format!("udpsrc port={port} buffer-size=4000000 caps=application/x-rtp,media=video,clock-rate=90000")
}

fn gstreamer(line: &str, port: u16) -> Option<Child> {
    let mut command = Command::new("gst-launch-1.0");
    command.args(["-q", "-e"]).args(line.split_ascii_whitespace());
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().ok()?;
    wait_for_listener(port, &mut child);
    Some(child)
}

/// Whether GStreamer and all of its elements are there.
fn has_elements(names: &[&str]) -> bool {
    names.iter().all(|name| {
        let found = Command::new("gst-inspect-1.0").args(["--exists", name]).status();
        found.is_ok_and(|status| status.success())
    })
}

/// Waits until at least so many frames are in the files and no more come, ends GStreamer in order and gives what it
/// wrote.
fn finish(mut child: Child, files: &[(&Path, usize)]) -> Vec<Vec<u8>> {
    /// What is under way after the last packet takes milliseconds; a loaded machine may need a multiple.
    const QUIET: Duration = Duration::from_millis(1500);
    let since = Instant::now();
    let written = |file: &Path| std::fs::metadata(file).map_or(0, |meta| meta.len() as usize);
    let (mut last, mut grown) = (0, Instant::now());
    while since.elapsed() < PATIENCE {
        let total: usize = files.iter().map(|(file, _)| written(file)).sum();
        if total != last {
            (last, grown) = (total, Instant::now());
        }
        let enough = files.iter().all(|(file, frames)| written(file) >= frames * FRAME_BYTES);
        if enough && grown.elapsed() > QUIET {
            break;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let pid = nix::unistd::Pid::from_raw(child.id() as i32);
    let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
    let since = Instant::now();
    while child.try_wait().unwrap().is_none() && since.elapsed() < Duration::from_secs(5) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    child.wait().unwrap();
    files.iter().map(|(file, _)| std::fs::read(file).unwrap_or_default()).collect()
}

/// Raw frames as FFmpeg decodes them from a file.
fn decoded(stream: &Path) -> Vec<u8> {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-i"]).arg(stream);
    command.args(["-fps_mode", "passthrough", "-pix_fmt", "yuv420p", "-f", "rawvideo", "-"]);
    command.output().unwrap().stdout
}

/// Sends the units at their rate within one stream. Each has the codec it comes with.
fn send<'a>(to: SocketAddr, units: impl Iterator<Item = (Codec, &'a [u8])>) {
    let memory: Vec<AtomicU64> = (0..SESSION_WORDS).map(|_| AtomicU64::new(0)).collect();
    let (mut sender, _) = open(&memory, to);
    let mut clock = MonotonicClock;
    let start_ns = clock.now_ns();
    for (index, (codec, bytes)) in units.enumerate() {
        let capture_ns = start_ns + index as u64 * 1_000_000_000 / FPS;
        clock.wait_until_ns(capture_ns);
        let au = AccessUnit { view: AuView::of(bytes), key: (index as u64 + 1, 0), capture_ns, codec };
        let end = sender.send(&au, &mut clock).unwrap();
        assert!(matches!(end, SendEnd::Done(sent) if sent.dropped == 0), "{end:?}");
    }
}

#[test]
fn gstreamer_decodes_every_frame_of_hevc() {
    const TEST: &str = "rtp_to_gstreamer: HEVC";
    if !has_elements(&["capssetter", "rtph265depay", "h265parse", "avdec_h265"]) {
        return skip(TEST, "GStreamer with rtph265depay, h265parse and avdec_h265 is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let Some(stream) = make_stream(&PathBuf::from("ffmpeg"), Codec::Hevc, FRAMES, folder.path()) else {
        return skip(TEST, "ffmpeg with libx265 is not installed");
    };
    let port = free_port();
    let out = folder.path().join("out.yuv");
    let line = format!("{} ! {}", source(port), branch(Codec::Hevc, &out));
    let child = gstreamer(&line, port).unwrap();
    let bytes = std::fs::read(&stream).unwrap();
    let units = access_units(Codec::Hevc, &bytes);
    assert_eq!(units.len(), FRAMES);
    send(SocketAddr::from(([127, 0, 0, 1], port)), units.into_iter().map(|unit| (Codec::Hevc, unit)));
    // The decoder keeps a frame or two until the end of the stream, which the interrupt brings.
    let received = finish(child, &[(&out, FRAMES - 4)]).remove(0);
    let expected = decoded(&stream);
    assert_eq!((received.len() / FRAME_BYTES, expected.len() / FRAME_BYTES), (FRAMES, FRAMES));
    assert!(received == expected, "Every frame is the one in the file");
}

#[test]
fn a_receiver_that_goes_by_payload_types_follows_a_change_of_codec_without_a_gap() {
    const TEST: &str = "rtp_to_gstreamer: change of codec";
    let needed = ["capssetter", "rtpptdemux", "rtph264depay", "rtph265depay", "avdec_h264", "avdec_h265", "h265parse"];
    if !has_elements(&needed) {
        return skip(TEST, "GStreamer with rtpptdemux and the depacketisers and decoders is not installed");
    }
    let folder = tempfile::tempdir().unwrap();
    let ffmpeg = PathBuf::from("ffmpeg");
    let make = |codec| make_stream(&ffmpeg, codec, FRAMES, folder.path());
    let (Some(avc), Some(hevc)) = (make(Codec::H264), make(Codec::Hevc)) else {
        return skip(TEST, "ffmpeg with libx264 and libx265 is not installed");
    };
    let port = free_port();
    let outs = [folder.path().join("avc.yuv"), folder.path().join("hevc.yuv")];
    let [avc_type, hevc_type] = [Codec::H264, Codec::Hevc].map(|codec| payload_type(FIRST_TYPE, codec));
    let line = format!(
        "{} ! rtpptdemux name=d d.src_{avc_type} ! {} d.src_{hevc_type} ! {}",
        source(port),
        branch(Codec::H264, &outs[0]),
        branch(Codec::Hevc, &outs[1])
    );
    let child = gstreamer(&line, port).unwrap();
    let [avc_bytes, hevc_bytes] = [&avc, &hevc].map(|stream| std::fs::read(stream).unwrap());
    let before = access_units(Codec::H264, &avc_bytes).into_iter().map(|unit| (Codec::H264, unit));
    let after = access_units(Codec::Hevc, &hevc_bytes).into_iter().map(|unit| (Codec::Hevc, unit));
    send(SocketAddr::from(([127, 0, 0, 1], port)), before.chain(after));
    let received = finish(child, &[(&outs[0], FRAMES - 4), (&outs[1], FRAMES - 4)]);
    for (received, stream) in received.iter().zip([&avc, &hevc]) {
        let expected = decoded(stream);
        assert_eq!((received.len() / FRAME_BYTES, expected.len() / FRAME_BYTES), (FRAMES, FRAMES), "{stream:?}");
        assert!(*received == expected, "Every frame is the one in the file: {stream:?}");
    }
}
