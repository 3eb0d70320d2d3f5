//! FFmpeg and GStreamer as receivers, and the frame ids in what they decoded.

use crate::streams::format_name;
use crate::tools::{Owned, within};
use kernel_a_capture::barcode::{Barcode, block_side, read_barcode};
use shm_protocol::frame::Codec;
use std::io::Write as _;
use std::net::UdpSocket;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Rows that are kept of a decoded frame: both rows of the barcode.
pub fn strip_rows(width: usize, height: usize) -> usize {
    let side = block_side(width as u32, height as u32).expect("The frame is large enough for a barcode");
    2 * side as usize
}

/// The frame ids burned into 4:2:0 frames of `width` × `height`, one after the other. `None`: unreadable.
pub fn frame_ids(frames: &[u8], width: usize, height: usize) -> Vec<Option<u64>> {
    barcodes(frames, width, height).into_iter().map(|code| code.map(|code| code.frame_id)).collect()
}

/// The barcodes of such frames. `None`: unreadable.
pub fn barcodes(frames: &[u8], width: usize, height: usize) -> Vec<Option<Barcode>> {
    let size = width * height * 3 / 2;
    assert_eq!(frames.len() % size, 0, "A part of a frame");
    frames.chunks_exact(size).map(|frame| read_barcode(&frame[..width * height], width, width as u32)).collect()
}

/// What came out of a decoder.
#[derive(Debug)]
pub struct Decoded {
    /// Frame ids, in the order of output.
    pub ids: Vec<Option<u64>>,
    /// Capture times (the low 48 bits of CLOCK_REALTIME in microseconds), in the same order.
    pub times_us: Vec<Option<u64>>,
    /// What it complained of.
    pub log: String,
}

impl Decoded {
    fn new(frames: &[u8], width: usize, height: usize, log: String) -> Decoded {
        let codes = barcodes(frames, width, height);
        let ids = codes.iter().map(|code| code.map(|code| code.frame_id)).collect();
        Decoded { ids, times_us: codes.iter().map(|code| code.map(|code| code.realtime_us)).collect(), log }
    }

    /// Asserts that every frame was readable and the decoder content, and returns the ids.
    pub fn clean(&self) -> Vec<u64> {
        assert_eq!(self.log.trim(), "", "The decoder complains");
        let unreadable = self.ids.iter().position(Option::is_none);
        assert_eq!(unreadable, None, "A frame without a readable id");
        self.ids.iter().flatten().copied().collect()
    }
}

/// Asserts that ids follow each other without a gap.
pub fn assert_contiguous(ids: &[u64]) {
    let break_at = ids.windows(2).find(|pair| pair[1] != pair[0] + 1);
    assert_eq!(break_at, None, "{} frames from {:?} to {:?}", ids.len(), ids.first(), ids.last());
}

/// Decodes an H.264 stream with FFmpeg and reads the frame ids.
pub fn decode(stream: &[u8], width: usize, height: usize) -> Decoded {
    decode_of(Codec::H264, stream, width, height)
}

/// Decodes a stream of any codec with FFmpeg and reads the frame ids.
pub fn decode_of(codec: Codec, stream: &[u8], width: usize, height: usize) -> Decoded {
    let mut file = tempfile::Builder::new().tempfile().unwrap();
    file.write_all(stream).unwrap();
    let rows = strip_rows(width, height);
    let output = Command::new("ffmpeg")
        .args(["-v", "warning", "-nostdin", "-f", format_name(codec), "-i"])
        .arg(file.path())
        .args(["-fps_mode", "passthrough", "-vf", &format!("crop={width}:{rows}:0:0")])
        .args(["-pix_fmt", "yuv420p", "-f", "rawvideo", "-"])
        .output()
        .unwrap();
    let log = complaints(&String::from_utf8_lossy(&output.stderr));
    Decoded::new(&output.stdout, width, rows, log)
}

/// Lines of an FFmpeg log that are complaints about the stream.
pub fn complaints(log: &str) -> String {
    // The stream has just begun and has no rate yet; we ended it ourselves; what is repeated was said before.
    let harmless = ["not enough frames to estimate rate", "Immediate exit requested", "Last message repeated"];
    let lines = log.lines().filter(|line| !line.trim().is_empty() && !harmless.iter().any(|h| line.contains(h)));
    lines.collect::<Vec<_>>().join("\n")
}

/// A session description for a receiver that must listen before the sender starts.
pub fn hand_written_sdp(port: u16) -> String {
    format!(
        "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=video {port} RTP/AVP 96\r\n\
         a=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"
    )
}

/// Whether somebody listens on a UDP port.
pub fn is_bound(port: u16) -> bool {
    UdpSocket::bind(("0.0.0.0", port)).is_err()
}

/// Errors of every element, warnings of those that see the stream (plugins also warn of devices that are not there).
pub const GST_DEBUG: &str = "1,rtpjitterbuffer:2,rtph264depay:2,rtpbasedepayload:2,h264parse:2,libav:2,videodecoder:2";

/// A receiver that writes raw 4:2:0 frames into a file.
pub struct Receiver {
    child: Owned,
    folder: std::path::PathBuf,
    width: usize,
    rows: usize,
}

impl Receiver {
    /// FFmpeg, listening on `port`. It keeps the rows of the barcode only.
    pub fn ffmpeg(folder: &Path, port: u16, width: usize, height: usize) -> Receiver {
        let rows = strip_rows(width, height);
        let sdp = folder.join("receiver.sdp");
        std::fs::write(&sdp, hand_written_sdp(port)).unwrap();
        let mut command = Command::new("ffmpeg");
        command
            .args(["-v", "warning", "-protocol_whitelist", "file,udp,rtp", "-buffer_size", "4000000"])
            .args(["-analyzeduration", "1000000", "-i"])
            .arg(&sdp)
            .args(["-fps_mode", "passthrough", "-vf", &format!("crop={width}:{rows}:0:0")])
            // Capture times are no multiples of a frame interval: counted in frames, two could fall together.
            .args(["-enc_time_base", "1:90000"])
            .args(["-pix_fmt", "yuv420p", "-f", "rawvideo", "-flush_packets", "1", "-y"])
            .arg(folder.join("received.yuv"));
        Receiver::start(command, folder, port, width, rows)
    }

    /// GStreamer with `elements` between the source of packets and the decoder.
    pub fn gstreamer(folder: &Path, port: u16, elements: &str, width: usize, height: usize) -> Receiver {
        let caps = "application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96";
        let line = format!(
            "udpsrc port={port} buffer-size=4000000 caps=\"{caps}\" ! {elements} ! rtph264depay ! h264parse ! \
             avdec_h264 ! videoconvert ! video/x-raw,format=I420 ! filesink buffer-mode=2 location={}",
            folder.join("received.yuv").display()
        );
        let mut command = Command::new("gst-launch-1.0");
        // -e: an interrupt ends the stream in order, so that nothing stays in the decoder.
        command.args(["-q", "-e"]).args(split_words(&line)).env("GST_DEBUG", GST_DEBUG).env("GST_DEBUG_NO_COLOR", "1");
        Receiver::start(command, folder, port, width, height)
    }

    fn start(mut command: Command, folder: &Path, port: u16, width: usize, rows: usize) -> Receiver {
        let log = std::fs::File::create(folder.join("receiver.log")).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let mut child = Owned::spawn(&mut command);
        let listens = within(Duration::from_secs(20), || is_bound(port) || child.0.try_wait().unwrap().is_some());
        assert!(listens && child.0.try_wait().unwrap().is_none(), "The receiver does not listen");
        Receiver { child, folder: folder.to_owned(), width, rows }
    }

    fn path(&self) -> std::path::PathBuf {
        self.folder.join("received.yuv")
    }

    /// Whole frames written so far.
    pub fn frames(&self) -> usize {
        let bytes = std::fs::metadata(self.path()).map_or(0, |meta| meta.len());
        bytes as usize / (self.width * self.rows * 3 / 2)
    }

    /// Ends it in order and reads what it decoded.
    pub fn finish(mut self) -> Decoded {
        // FFmpeg looks up from a quiet socket at the second signal only.
        for patience in [Duration::from_secs(1), Duration::from_secs(10)] {
            let pid = nix::unistd::Pid::from_raw(self.child.0.id() as i32);
            let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT);
            if within(patience, || self.child.0.try_wait().unwrap().is_some()) {
                break;
            }
        }
        let mut frames = std::fs::read(self.path()).unwrap_or_default();
        frames.truncate(self.frames() * self.width * self.rows * 3 / 2);
        let log = std::fs::read_to_string(self.folder.join("receiver.log")).unwrap_or_default();
        Decoded::new(&frames, self.width, self.rows, complaints(&log))
    }
}

/// Words of a line; quotes keep what is between them together.
fn split_words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quoted = false;
    for character in line.chars() {
        match character {
            '"' => quoted = !quoted,
            ' ' if !quoted => words.push(String::new()),
            other => words.last_mut().unwrap().push(other),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}
