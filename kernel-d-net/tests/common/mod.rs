//! Streams that FFmpeg makes, the sender that carries them, and FFmpeg as their receiver.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use std::{
    io::Read as _,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use kernel_d_net::{
    outputs::rtp::{
        clock::{Clock, MonotonicClock},
        open::{NewStream, open_stream},
        pacer::PacerConfig,
        payload_type::payload_type,
        rtcp::REPORT_INTERVAL_NS,
        sdp::SdpDescription,
        sender::{RtpSender, SenderConfig},
        session::Resume,
    },
    payload::PayloadSize,
    transmit::udp::{UdpConfig, UdpTransmit},
};
use shm_protocol::frame::{Codec, Rational};

pub const FPS: u64 = 60;
pub const PATIENCE: Duration = Duration::from_secs(40);
/// Payload type of H.264.
pub const FIRST_TYPE: u8 = 96;

pub type Words<'a> = &'a [AtomicU64];

/// Says that a test did not run and why: on standard output and in the file named by `QUAD_SKIP_FILE`.
pub fn skip(test: &str, why: &str) {
    println!("skipped: {test}: {why}");
    if let Some(path) = std::env::var_os("QUAD_SKIP_FILE") {
        use std::io::Write as _;
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        writeln!(file.unwrap(), "SKIPPED {test}: {why}").unwrap();
    }
}

/// An FFmpeg that knows AV1 over RTP, which 8.0 is the first to: `QUAD_FFMPEG`, or the one on the path.
pub fn newer_ffmpeg() -> Option<PathBuf> {
    const FIRST_MAJOR: u32 = 8;
    let given = std::env::var_os("QUAD_FFMPEG").map(PathBuf::from);
    given.into_iter().chain([PathBuf::from("ffmpeg")]).find(|program| {
        let version = Command::new(program).arg("-version").output().ok().map(|output| output.stdout);
        let text = String::from_utf8(version.unwrap_or_default()).unwrap_or_default();
        let number = text.strip_prefix("ffmpeg version ").unwrap_or_default().trim_start_matches('n');
        let major = number.split(|c: char| !c.is_ascii_digit()).next().and_then(|major| major.parse::<u32>().ok());
        major.is_some_and(|major| major >= FIRST_MAJOR)
    })
}

/// A stream of `frames` pictures of 640×360 with a key frame every 60, or `None` when `ffmpeg` or its encoder is
/// missing.
pub fn make_stream(ffmpeg: &Path, codec: Codec, frames: usize, folder: &Path) -> Option<PathBuf> {
    let (format, encoder): (&str, &[&str]) = match codec {
        Codec::H264 => {
            let parameters = "aud=1:repeat-headers=1";
            ("h264", &["libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-x264-params", parameters])
        }
        Codec::Hevc => {
            let parameters = "aud=1:repeat-headers=1:open-gop=0:keyint=60:min-keyint=60:scenecut=0:log-level=error";
            ("hevc", &["libx265", "-preset", "ultrafast", "-tune", "zerolatency", "-x265-params", parameters])
        }
        // Its low-delay mode has no variable bitrate.
        Codec::Av1 => {
            ("obu", &["libsvtav1", "-b:v", "0", "-crf", "30", "-preset", "10", "-svtav1-params", "pred-struct=1"])
        }
        Codec::Null => return None,
    };
    let path = folder.join(format!("stream.{format}"));
    let source = format!("testsrc2=size=640x360:rate={FPS}");
    let made = Command::new(ffmpeg)
        .args(["-v", "error", "-y", "-f", "lavfi", "-i", &source, "-frames:v", &frames.to_string()])
        .args(["-pix_fmt", "yuv420p", "-g", "60", "-b:v", "8M"])
        .arg("-c:v")
        .args(encoder)
        .args(["-f", format])
        .arg(&path)
        .stderr(Stdio::null())
        .status();
    made.is_ok_and(|status| status.success()).then_some(path)
}

/// Splits a stream at its delimiters, with which every access unit begins.
pub fn access_units(codec: Codec, stream: &[u8]) -> Vec<&[u8]> {
    let starts: Vec<usize> = match codec {
        Codec::H264 => memchr::memmem::find_iter(stream, &[0, 0, 0, 1, 9]).collect(),
        Codec::Hevc => memchr::memmem::find_iter(stream, &[0, 0, 0, 1, 0x46]).collect(),
        Codec::Av1 => obus(stream).filter(|(_, kind)| *kind == 2).map(|(at, _)| at).collect(),
        Codec::Null => Vec::new(),
    };
    let ends = starts.iter().copied().skip(1).chain([stream.len()]);
    starts.iter().zip(ends).map(|(start, end)| &stream[*start..end]).collect()
}

/// Start and type of every OBU of a stream in which all have sizes and none an extension.
fn obus(stream: &[u8]) -> impl Iterator<Item = (usize, u8)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let (start, header) = (at, *stream.get(at)?);
        assert_eq!(header & 0x87, 2, "an OBU with a size and without an extension");
        at += 1;
        let mut size = 0;
        for shift in (0..).step_by(7) {
            size |= usize::from(stream[at] & 0x7f) << shift;
            at += 1;
            if stream[at - 1] & 0x80 == 0 {
                break;
            }
        }
        at += size;
        Some((start, header >> 3))
    })
}

/// A pair of ports that nobody holds.
pub fn free_port() -> u16 {
    loop {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() & !1;
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

/// Waits until somebody has bound the port.
pub fn wait_for_listener(port: u16, listener: &mut Child) {
    let since = Instant::now();
    while UdpSocket::bind(("0.0.0.0", port)).is_ok() {
        assert!(since.elapsed() < PATIENCE, "The receiver does not listen");
        assert!(listener.try_wait().unwrap().is_none(), "The receiver ended early");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Hashes of the decoded frames, without timestamps.
pub fn hashes(framemd5: &str) -> Vec<String> {
    let frames = framemd5.lines().filter(|line| !line.starts_with('#'));
    frames.filter_map(|line| line.rsplit(',').next()).map(|hash| hash.trim().to_owned()).collect()
}

/// Hashes of the frames that `ffmpeg` decodes from a file.
pub fn decode_file(ffmpeg: &Path, path: &Path) -> Vec<String> {
    let mut command = Command::new(ffmpeg);
    command.args(["-v", "error", "-i"]).arg(path).args(["-fps_mode", "passthrough", "-f", "framemd5", "-"]);
    hashes(&String::from_utf8(command.output().unwrap().stdout).unwrap())
}

/// A sender to `to`, of a new stream or of the one in `words`.
pub fn open<'a>(words: Words<'a>, to: SocketAddr) -> (RtpSender<Words<'a>, UdpTransmit>, Resume) {
    let config = SenderConfig {
        payload_size: PayloadSize::DEFAULT,
        pacer: PacerConfig::new(true, 8000, 1_000_000_000 / FPS),
        report_interval_ns: REPORT_INTERVAL_NS,
        keyframe_interval_ns: 500_000_000,
    };
    let new = NewStream { payload_type: FIRST_TYPE, real_minus_monotonic_ns: 0 };
    open_stream(words, new, &UdpConfig::to(to), &config, MonotonicClock.now_ns()).unwrap()
}

/// The description of the stream that `sender` sends to `to`.
pub fn description(sender: &RtpSender<Words<'_>, UdpTransmit>, to: SocketAddr, codec: Codec) -> String {
    let identity = sender.session().constants();
    SdpDescription {
        name: "test",
        session_id: u64::from(identity.ssrc),
        version: 1,
        destination: to,
        rtcp_port: to.port() + 1,
        ttl: 1,
        payload_type: payload_type(identity.payload_type, codec),
        codec,
        codec_before: None,
        fps: Rational::new(FPS as u32, 1),
        bitrate_kbps: Some(8000),
        parameter_sets: sender.parameters().get(),
        feedback: false,
        source: Some((identity.ssrc, &identity.cname)),
    }
    .text()
}

/// FFmpeg, which listens as the description says and decodes the first `frames` frames.
pub struct Receiver(Child);

impl Receiver {
    pub fn start(ffmpeg: &Path, sdp: &Path, port: u16, frames: usize) -> Receiver {
        let child = Command::new(ffmpeg)
            .args(["-v", "warning", "-protocol_whitelist", "file,udp,rtp", "-buffer_size", "4000000", "-i"])
            .arg(sdp)
            .args(["-fps_mode", "passthrough", "-frames:v", &frames.to_string(), "-f", "framemd5", "-"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn();
        let mut receiver = Receiver(child.unwrap());
        wait_for_listener(port, &mut receiver.0);
        receiver
    }

    /// Hashes of what it decoded, and what it said.
    pub fn finish(mut self) -> (Vec<String>, String) {
        let since = Instant::now();
        while self.0.try_wait().unwrap().is_none() && since.elapsed() < PATIENCE {
            std::thread::sleep(Duration::from_millis(50));
        }
        let _ = self.0.kill();
        let (mut out, mut log) = (String::new(), String::new());
        self.0.stdout.take().unwrap().read_to_string(&mut out).unwrap();
        self.0.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        self.0.wait().unwrap();
        (hashes(&out), log)
    }
}
