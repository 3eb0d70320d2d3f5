//! Serves the watch page with a test picture that FFmpeg encodes, and an invented status: to work on the page without
//! the other kernels. `cargo run -p kernel-d-net --example http_demo [ADDRESS [TOKEN]]`, needs `ffmpeg` with libx264.

use std::io::Read;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use kernel_d_net::codecs::web_codec_string;
use kernel_d_net::outputs::http::{AuCopy, AuInfo, HttpConfig, HttpOutput, StatusSource, StreamFormat};
use serde_json::{Value, json};
use shm_protocol::frame::{Codec, Rational};

const FPS: u32 = 60;
const WIDTH: u32 = 1280;
const HEIGHT: u32 = 720;

/// A status that looks like a healthy pipeline after one swap of the encoder.
struct Invented {
    frames: AtomicU64,
    started: Instant,
    address: String,
}

impl StatusSource for Invented {
    fn status_json(&self) -> Value {
        let frames = self.frames.load(Ordering::Relaxed);
        let t = self.started.elapsed().as_secs_f64();
        let swing = |mean: f64, part: f64, speed: f64| mean * (1.0 + part * (t * speed).sin());
        let kernel = |pid: u32, backend: &str, epoch: u32, cpu: f64| {
            json!({ "pid": pid, "state": "running", "epoch": epoch, "restarts": epoch - 1, "backend": backend, "cpus": [0],
                    "cpu_percent": cpu, "fps": swing(60.0, 0.002, 2.0), "frames": frames, "dropped": 0, "errors": 0 })
        };
        let stage = |p50: f64, wait: f64| json!({ "p50": p50, "p95": p50 * 1.3, "p99": p50 * 1.7, "max": p50 * 2.4, "wait_us": wait });
        let mut encode = kernel(4213, "x264", 2, swing(46.0, 0.1, 0.9));
        encode["codec"] = json!("h264");
        let wire = swing(6300.0, 0.04, 0.8);
        json!({
            "instance": "demo",
            "kernels": { "capture": kernel(4211, "pattern", 1, swing(7.0, 0.1, 1.1)), "process": kernel(4212, "cpu", 1, swing(3.2, 0.2, 0.7)),
                         "encode": encode, "net": kernel(4214, "udp", 1, swing(2.4, 0.2, 1.3)) },
            "rings": { "capture": { "slots": 16, "ready": frames % 2, "last_frame_id": frames },
                       "process": { "slots": 16, "ready": 1 + frames % 3, "last_frame_id": frames },
                       "encode.main": { "slots": 32, "ready": frames % 2, "last_frame_id": frames } },
            "latency_us": { "capture_to_wire": { "p50": wire, "p95": wire * 1.35, "p99": wire * 1.7, "max": wire * 2.3 },
                            "capture": stage(410.0, 0.0), "process": stage(swing(620.0, 0.05, 1.0), 55.0),
                            "encode": stage(swing(4300.0, 0.06, 0.8), 210.0), "net": stage(480.0, 60.0) },
            "outputs": [ { "kind": "http", "url": self.address } ],
        })
    }
}

fn encoder() -> Command {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-hide_banner", "-loglevel", "error", "-re", "-f", "lavfi", "-i"]);
    ffmpeg.arg(format!("testsrc2=size={WIDTH}x{HEIGHT}:rate={FPS}"));
    ffmpeg.args(["-c:v", "libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-profile:v", "baseline"]);
    ffmpeg.args(["-pix_fmt", "yuv420p", "-g", "30", "-b:v", "8M", "-maxrate", "8M", "-bufsize", "4M"]);
    ffmpeg.args(["-bsf:v", "h264_metadata=aud=insert", "-f", "h264", "pipe:1"]);
    ffmpeg.stdin(Stdio::null()).stdout(Stdio::piped());
    ffmpeg
}

/// Splits an Annex-B stream at access unit delimiters (NAL type 9).
struct AccessUnits<R> {
    input: R,
    buffer: Vec<u8>,
}

impl<R: Read> AccessUnits<R> {
    fn next(&mut self) -> std::io::Result<Option<Vec<u8>>> {
        const DELIMITER: [u8; 5] = [0, 0, 0, 1, 9];
        let mut chunk = vec![0; 64 << 10];
        loop {
            let end = self.buffer.windows(5).skip(1).position(|bytes| bytes == DELIMITER);
            if let Some(end) = end {
                let rest = self.buffer.split_off(end + 1);
                return Ok(Some(std::mem::replace(&mut self.buffer, rest)));
            }
            let read = self.input.read(&mut chunk)?;
            if read == 0 {
                return Ok(None);
            }
            self.buffer.extend_from_slice(&chunk[..read]);
        }
    }
}

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let listen = arguments.next().unwrap_or_else(|| "127.0.0.1:8080".into());
    let mut config = HttpConfig::new(listen.parse().context("ADDRESS is IP:PORT")?);
    config.token = arguments.next();
    let status = Arc::new(Invented { frames: AtomicU64::new(0), started: Instant::now(), address: listen });
    let source: Arc<dyn StatusSource> = Arc::clone(&status) as Arc<dyn StatusSource>;
    let output = HttpOutput::start(config, source, Arc::new(|| eprintln!("IDR asked for")))?;
    println!("http://{}/", output.local_addr());

    let mut ffmpeg = encoder().spawn().context("Cannot start ffmpeg")?;
    let input = ffmpeg.stdout.take().context("ffmpeg without stdout")?;
    let mut access_units = AccessUnits { input, buffer: Vec::new() };
    let mut format: Option<StreamFormat> = None;
    // A whole stream is behind the first picture by one access unit: the splitter sees an end only at the next start.
    let interval_us = Duration::from_secs(1).as_micros() as u64 / u64::from(FPS);
    while let Some(bytes) = access_units.next()? {
        let codec = web_codec_string(Codec::H264, &bytes);
        let idr = codec.is_some();
        if let (Some(codec), None) = (codec, &format) {
            let fps = Rational::new(FPS, 1).context("a rate")?;
            format = Some(StreamFormat { codec: codec.into(), width: WIDTH, height: HEIGHT, fps });
        }
        let frame_id = status.frames.fetch_add(1, Ordering::Relaxed);
        let Some(format) = format.clone().filter(|_| output.viewers() > 0) else { continue };
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64;
        let info = AuInfo { frame_id, idr, config: idr, capture_realtime_us: now_us - interval_us, format };
        output.publish(AuCopy::new(info, &bytes));
    }
    output.stop();
    ffmpeg.wait()?;
    Ok(())
}
