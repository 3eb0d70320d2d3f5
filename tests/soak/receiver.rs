//! FFmpeg and GStreamer, unmodified, decoding the stream into a pipe for the whole run.

use crate::picture::{Pictures, Verdict};
use crate::wire::Outlet;
use anyhow::{Context as _, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use system_tests::pipeline::free_rtp_port;
use system_tests::receiver::{GST_DEBUG, complaints, hand_written_sdp, is_bound, strip_rows};
use system_tests::tools::within;

/// Which receivers watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Program {
    /// FFmpeg.
    Ffmpeg,
    /// GStreamer with rtpbin.
    Gstreamer,
    /// One of each.
    Both,
}

impl Program {
    /// Each by itself.
    pub fn each(self) -> Vec<Program> {
        match self {
            Program::Both => vec![Program::Ffmpeg, Program::Gstreamer],
            one => vec![one],
        }
    }

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Program::Ffmpeg => "ffmpeg",
            Program::Gstreamer => "gstreamer",
            Program::Both => "both",
        }
    }

    /// The executable it needs.
    pub const fn executable(self) -> &'static str {
        match self {
            Program::Gstreamer => "gst-launch-1.0",
            _ => "ffmpeg",
        }
    }
}

type Said = Arc<Mutex<Vec<(Instant, String)>>>;

/// A receiver at work.
pub struct Receiver {
    /// Which.
    pub program: Program,
    /// The way to it.
    pub outlet: Arc<Outlet>,
    child: Child,
    pictures: Arc<Mutex<Pictures>>,
    said: Said,
    threads: Vec<JoinHandle<()>>,
}

/// Size of the stream's pictures.
#[derive(Debug, Clone, Copy)]
pub struct Size {
    /// Pixels in a row.
    pub width: usize,
    /// Rows.
    pub height: usize,
}

impl Size {
    /// Rows that are looked at: all of a small picture, else the top with the barcode and the text.
    fn rows(self) -> usize {
        const WHOLE: usize = 1280 * 720;
        if self.width * self.height <= WHOLE {
            return self.height;
        }
        (self.height / 4).next_multiple_of(16).max(strip_rows(self.width, self.height)).min(self.height)
    }

    /// How often a picture is compared sample by sample: two cores must decode the stream beside that.
    fn compare_every(self) -> u64 {
        const SMALL: usize = 640 * 360;
        if self.width * self.height <= SMALL { 1 } else { 8 }
    }
}

impl Receiver {
    /// Starts one and returns when it listens.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(program: Program, size: Size, fps: u32, folder: &Path) -> Result<Receiver> {
        let port = free_rtp_port();
        let (mut command, rows, chroma) = match program {
            Program::Gstreamer => (gstreamer(port), size.height, size.width * size.height / 2),
            _ => (ffmpeg(port, size, folder)?, size.rows(), 0),
        };
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().with_context(|| format!("Cannot start {}", program.executable()))?;
        let pictures = Pictures::new(size.width, size.height, fps, size.compare_every());
        let (pictures, said) = (Arc::new(Mutex::new(pictures)), Said::default());
        let outlet = Outlet::new(port);
        let mut threads = Vec::new();
        if let Some(stderr) = child.stderr.take() {
            let said = Arc::clone(&said);
            threads.push(std::thread::spawn(move || listen(stderr, &said)));
        }
        if let Some(stdout) = child.stdout.take() {
            let shared = (Arc::clone(&pictures), Arc::clone(&said), Arc::clone(&outlet));
            let luma = size.width * rows;
            threads.push(std::thread::spawn(move || {
                let (pictures, said, outlet) = shared;
                if let Err(error) = watch(stdout, luma, chroma, &pictures, &outlet) {
                    push(&said, format!("the soak's own reader: {error}"));
                }
            }));
        }
        let mut receiver = Receiver { program, outlet, child, pictures, said, threads };
        let listens = within(Duration::from_secs(20), || is_bound(port) || receiver.ended());
        if !listens || receiver.ended() {
            bail!("{} does not listen: {:?}", program.name(), receiver.complaints());
        }
        Ok(receiver)
    }

    fn ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// What it complained of, and when.
    pub fn complaints(&self) -> Vec<(Instant, String)> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Complaints of more than that packets came again, of which there were `repeated`: that FFmpeg leaves them out is
    /// what it should do.
    pub fn serious(&self, repeated: u64) -> Vec<(Instant, String)> {
        let mut allowed = repeated;
        let mut serious = self.complaints();
        serious.retain(|(_, line)| {
            let harmless = allowed > 0 && line.contains("dropping old packet received too late");
            allowed -= u64::from(harmless);
            !harmless
        });
        serious
    }

    /// What its pictures say so far.
    pub fn verdict(&self) -> Verdict {
        self.pictures.lock().unwrap_or_else(PoisonError::into_inner).verdict.clone()
    }

    /// Ends it in order, so that nothing stays in its decoder: FFmpeg has heard RTCP's goodbye, GStreamer takes an
    /// interrupt for the end of the stream.
    pub fn finish(&mut self) {
        if self.program == Program::Ffmpeg {
            within(Duration::from_secs(5), || self.ended());
        }
        // FFmpeg looks up from a quiet socket at the second signal only.
        for patience in [Duration::from_secs(1), Duration::from_secs(10)] {
            let _ = kill(Pid::from_raw(self.child.id() as i32), Signal::SIGINT);
            if within(patience, || self.ended()) {
                break;
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn ffmpeg(port: u16, size: Size, folder: &Path) -> Result<Command> {
    let sdp = folder.join("receiver.sdp");
    std::fs::write(&sdp, hand_written_sdp(port))?;
    let mut command = Command::new("ffmpeg");
    command
        .args(["-v", "warning", "-nostdin", "-protocol_whitelist", "file,udp,rtp", "-buffer_size", "4000000"])
        .args(["-analyzeduration", "1000000", "-i"])
        .arg(&sdp)
        // The plane as it is: a conversion to grey would stretch its range.
        .args(["-vf", &format!("crop={}:{}:0:0,extractplanes=y", size.width, size.rows())])
        // Capture times are no multiples of a frame interval: counted in frames, two could fall together.
        .args(["-fps_mode", "passthrough", "-enc_time_base", "1:90000"])
        .args(["-pix_fmt", "gray", "-f", "rawvideo", "-flush_packets", "1", "pipe:1"]);
    Ok(command)
}

fn gstreamer(port: u16) -> Command {
    let caps = "caps=application/x-rtp,media=video,clock-rate=90000,encoding-name=H264,payload=96";
    let mut command = Command::new("gst-launch-1.0");
    // -e: an interrupt ends the stream in order.
    command
        .args(["-q", "-e", "udpsrc", &format!("port={port}"), "buffer-size=4000000", caps])
        .args("! rtpbin ! rtph264depay ! h264parse ! avdec_h264 ! videoconvert".split(' '))
        .args("! video/x-raw,format=I420 ! fdsink fd=1 sync=false".split(' '))
        .env("GST_DEBUG", GST_DEBUG)
        .env("GST_DEBUG_NO_COLOR", "1");
    command
}

/// What GStreamer says when a stream was held back for a second and then comes faster than real time until it has caught
/// up: it sets its clock anew, and the times it gives pictures overlap for a moment. No packet and no picture is touched.
const CLOCK_NEWS: [&str; 2] = ["too big, reset skew", "decreasing timestamp"];

fn push(said: &Said, line: String) {
    said.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), line));
}

fn listen(stderr: ChildStderr, said: &Said) {
    for line in BufReader::new(stderr).lines().map_while(Result::ok) {
        let line = complaints(&line);
        if !line.is_empty() && !CLOCK_NEWS.iter().any(|news| line.contains(news)) {
            push(said, line);
        }
    }
}

fn watch(mut from: impl Read, luma: usize, chroma: usize, pictures: &Mutex<Pictures>, outlet: &Outlet) -> Result<()> {
    let mut picture = vec![0; luma + chroma];
    loop {
        match from.read_exact(&mut picture) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error.into()),
        }
        pictures.lock().unwrap_or_else(PoisonError::into_inner).add(&picture[..luma]);
        outlet.decoded.fetch_add(1, Ordering::Relaxed);
    }
}
