//! A real H.264 stream through the RTP sender over the loopback into FFmpeg, which decodes it. In the middle the
//! sender is dropped and another one goes on with its session; what is decoded must not show it.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use std::{
    io::Read,
    net::{SocketAddr, UdpSocket},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::AtomicU64,
    time::{Duration, Instant},
};

use kernel_d_net::{
    au::AuView,
    outputs::rtp::{
        clock::{Clock, MonotonicClock},
        open::{NewStream, open_stream},
        pacer::PacerConfig,
        parameters::Setup,
        rtcp::REPORT_INTERVAL_NS,
        sdp::SdpDescription,
        sender::{AccessUnit, RtpSender, SendEnd, SenderConfig, Step},
        session::{Resume, SESSION_WORDS},
    },
    payload::PayloadSize,
    transmit::{
        Transmit,
        udp::{UdpConfig, UdpTransmit},
    },
};
use shm_protocol::frame::{Codec, Rational};

const FRAMES: usize = 120;
const FPS: u64 = 60;
/// The frame in whose middle the sender is replaced: an IDR, so that it has many packets.
const REPLACED_AT: usize = 60;
/// Frames sent behind the ones that are compared.
const EXTRA: usize = 20;
const PATIENCE: Duration = Duration::from_secs(40);

type Words<'a> = &'a [AtomicU64];

/// The test stream, or `None` when FFmpeg or its encoder is missing.
fn make_stream(folder: &Path) -> Option<PathBuf> {
    let path = folder.join("stream.h264");
    let source = format!("testsrc2=size=640x360:rate={FPS}");
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "lavfi", "-i", &source, "-frames:v", &FRAMES.to_string()])
        .args(["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-g", "60", "-b:v", "8M"])
        .args(["-x264-params", "aud=1:repeat-headers=1", "-pix_fmt", "yuv420p", "-f", "h264"])
        .arg(&path)
        .status();
    made.is_ok_and(|status| status.success()).then_some(path)
}

/// Splits at access unit delimiters.
fn access_units(stream: &[u8]) -> Vec<&[u8]> {
    let delimiter = [0, 0, 0, 1, 9];
    let starts: Vec<usize> = memchr::memmem::find_iter(stream, &delimiter).collect();
    let ends = starts.iter().copied().skip(1).chain([stream.len()]);
    starts.iter().zip(ends).map(|(start, end)| &stream[*start..end]).collect()
}

/// A pair of ports that nobody holds.
fn free_port() -> u16 {
    loop {
        let port = UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port() & !1;
        if UdpSocket::bind(("127.0.0.1", port)).is_ok() && UdpSocket::bind(("127.0.0.1", port + 1)).is_ok() {
            return port;
        }
    }
}

/// Waits until somebody has bound the port.
fn wait_for_listener(port: u16, listener: &mut Child) {
    let since = Instant::now();
    while UdpSocket::bind(("0.0.0.0", port)).is_ok() {
        assert!(since.elapsed() < PATIENCE, "FFmpeg does not listen");
        assert!(listener.try_wait().unwrap().is_none(), "FFmpeg ended early");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Hashes of the decoded frames, without timestamps.
fn hashes(framemd5: &str) -> Vec<String> {
    let frames = framemd5.lines().filter(|line| !line.starts_with('#'));
    frames.filter_map(|line| line.rsplit(',').next()).map(|hash| hash.trim().to_owned()).collect()
}

fn open<'a>(words: Words<'a>, to: SocketAddr) -> (RtpSender<Words<'a>, UdpTransmit>, Resume) {
    let config = SenderConfig {
        payload_size: PayloadSize::DEFAULT,
        pacer: PacerConfig::new(true, 8000, 1_000_000_000 / FPS),
        report_interval_ns: REPORT_INTERVAL_NS,
        keyframe_interval_ns: 500_000_000,
    };
    let new = NewStream { payload_type: 96, real_minus_monotonic_ns: 0 };
    open_stream(words, new, &UdpConfig::to(to), &config, MonotonicClock.now_ns()).unwrap()
}

#[test]
fn ffmpeg_decodes_every_frame_although_the_sender_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let Some(stream) = make_stream(folder.path()) else {
        println!("skipped: ffmpeg with libx264 is not installed");
        return;
    };
    let bytes = std::fs::read(&stream).unwrap();
    let units = access_units(&bytes);
    assert_eq!(units.len(), FRAMES);
    let direct = Command::new("ffmpeg").args(["-v", "error", "-i"]).arg(&stream).args(["-f", "framemd5", "-"]).output();
    let expected = hashes(&String::from_utf8(direct.unwrap().stdout).unwrap());
    assert_eq!(expected.len(), FRAMES);

    let memory: Vec<AtomicU64> = (0..SESSION_WORDS).map(|_| AtomicU64::new(0)).collect();
    let to = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (mut sender, how) = open(&memory, to);
    assert_eq!(how, Resume::Created);

    let sdp = folder.path().join("stream.sdp");
    let identity = sender.session().constants().clone();
    let text = SdpDescription {
        name: "test",
        session_id: u64::from(identity.ssrc),
        version: 1,
        destination: to,
        rtcp_port: to.port() + 1,
        ttl: 1,
        payload_type: 96,
        codec: Codec::H264,
        codec_before: None,
        fps: Rational::new(FPS as u32, 1),
        bitrate_kbps: Some(8000),
        parameter_sets: None,
        feedback: false,
        source: Some((identity.ssrc, &identity.cname)),
    };
    std::fs::write(&sdp, text.text()).unwrap();
    let mut ffmpeg = Command::new("ffmpeg")
        .args(["-v", "warning", "-protocol_whitelist", "file,udp,rtp", "-buffer_size", "4000000", "-i"])
        .arg(&sdp)
        .args(["-fps_mode", "passthrough", "-frames:v", &FRAMES.to_string(), "-f", "framemd5", "-"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    wait_for_listener(to.port(), &mut ffmpeg);

    let mut clock = MonotonicClock;
    let start_ns = clock.now_ns();
    // FFmpeg knows a frame to be complete when later ones come: some of the first follow the last.
    for (index, bytes) in units.iter().chain(&units[..EXTRA]).enumerate() {
        let capture_ns = start_ns + index as u64 * 1_000_000_000 / FPS;
        clock.wait_until_ns(capture_ns);
        let au = AccessUnit { view: AuView::of(bytes), key: (index as u64 + 1, 0), capture_ns, codec: Codec::H264 };
        if index == REPLACED_AT {
            sender.begin(&au, clock.now_ns()).unwrap();
            assert_eq!(sender.step(&au, clock.now_ns()).unwrap(), Step::Sent, "more than one batch");
            drop(sender);
            let (successor, how) = open(&memory, to);
            assert_eq!((how, successor.session().constants()), (Resume::Resumed, &identity));
            sender = successor;
        }
        let end = sender.send(&au, &mut clock).unwrap();
        assert!(matches!(end, SendEnd::Done(sent) if sent.dropped == 0), "{end:?}");
    }
    assert_eq!(sender.transmit().path(), "gso");
    assert_eq!(sender.session().totals().burned, 0);
    assert!(sender.rtcp().stats().reports_sent >= 1);
    let Some(Setup::H264 { sps, pps }) = sender.parameters().get() else { panic!("no parameter sets") };
    assert_eq!((sps[0] & 31, pps[0] & 31), (7, 8));

    let since = Instant::now();
    while ffmpeg.try_wait().unwrap().is_none() && since.elapsed() < PATIENCE {
        std::thread::sleep(Duration::from_millis(50));
    }
    let _ = ffmpeg.kill();
    let (mut out, mut log) = (String::new(), String::new());
    ffmpeg.stdout.take().unwrap().read_to_string(&mut out).unwrap();
    ffmpeg.stderr.take().unwrap().read_to_string(&mut log).unwrap();
    ffmpeg.wait().unwrap();
    let received = hashes(&out);
    assert_eq!(received.len(), FRAMES, "{log}");
    assert_eq!(received, expected, "{log}");
    for complaint in ["missed", "bad cseq", "error", "corrupt"] {
        assert!(!log.contains(complaint), "{log}");
    }
}
