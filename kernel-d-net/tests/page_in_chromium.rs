//! The watch page in a real browser while the codec of the stream changes under it, from streams that FFmpeg made.
#![expect(clippy::unwrap_used, reason = "the helpers of a test fail it")]

mod common;

use std::{
    io::{BufRead as _, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::{Duration, Instant},
};

use common::{FPS, PATIENCE, access_units, make_stream, skip};
use kernel_d_net::{
    codecs::web_codec_string,
    outputs::http::{AuCopy, AuInfo, HttpConfig, HttpOutput, StatusSource, StreamFormat},
};
use serde_json::{Value, json};
use shm_protocol::frame::{Codec, Rational};

/// A key frame every 60 of them.
const FRAMES: usize = 120;

struct NoStatus;

impl StatusSource for NoStatus {
    fn status_json(&self) -> Value {
        json!({ "instance": "test", "kernels": {}, "rings": {}, "latency_us": {}, "outputs": [] })
    }
}

/// A stream of one codec, whole.
struct Stream {
    codec: Codec,
    bytes: Vec<u8>,
}

/// Publishes streams, over and over, the one that `now` names, at their rate. Begins one with its first key frame.
fn publish(output: &HttpOutput, streams: &[Stream], now: &AtomicUsize, over: &AtomicBool) {
    let units: Vec<Vec<&[u8]>> = streams.iter().map(|stream| access_units(stream.codec, &stream.bytes)).collect();
    let (mut which, mut at, mut frame_id) = (usize::MAX, 0, 0);
    let mut next = Instant::now();
    while !over.load(Ordering::Relaxed) {
        let wanted = now.load(Ordering::Relaxed);
        if wanted != which {
            (which, at) = (wanted, 0);
        }
        let unit = units[which][at];
        let idr = at % 60 == 0;
        let codec = web_codec_string(streams[which].codec, units[which][0]).unwrap();
        let format =
            StreamFormat { codec: codec.into(), width: 640, height: 360, fps: Rational::new(FPS as u32, 1).unwrap() };
        let info = AuInfo { frame_id, idr, config: idr, capture_realtime_us: 0, format };
        output.publish(AuCopy::new(info, unit));
        at = (at + 1) % units[which].len();
        frame_id += 1;
        next += Duration::from_nanos(1_000_000_000 / FPS);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
    }
}

/// The browser's driver, when it and the browser are there.
fn driver(test: &str) -> Option<PathBuf> {
    let modules = std::env::var_os("QUAD_NODE_MODULES").map(PathBuf::from);
    let modules = modules.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/node/node_modules"));
    if !modules.join("playwright-core").is_dir() {
        skip(test, "playwright-core is not there (scripts/test fetches it; QUAD_NODE_MODULES names it)");
        return None;
    }
    if !Path::new("/usr/bin/chromium").is_file() {
        skip(test, "chromium is not installed");
        return None;
    }
    modules.parent().map(Path::to_owned)
}

fn browser(modules: &Path, output: &HttpOutput, codecs: &str) -> Option<Child> {
    let mut command = Command::new("node");
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/browser/watch.mjs"));
    command.arg(format!("http://{}/", output.local_addr())).arg("--modules").arg(modules);
    command.args(["--frames", "30", "--timeout-ms", "40000", "--codecs", codecs]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().ok()
}

#[test]
fn the_page_follows_a_change_of_codec_and_says_in_plain_words_what_the_browser_lacks() {
    const TEST: &str = "page_in_chromium: change of codec";
    let Some(modules) = driver(TEST) else { return };
    let folder = tempfile::tempdir().unwrap();
    let ffmpeg = PathBuf::from("ffmpeg");
    let mut streams = Vec::new();
    for codec in [Codec::H264, Codec::Hevc, Codec::Av1] {
        let Some(path) = make_stream(&ffmpeg, codec, FRAMES, folder.path()) else {
            return skip(TEST, "ffmpeg with libx264, libx265 and libsvtav1 is not installed");
        };
        streams.push(Stream { codec, bytes: std::fs::read(path).unwrap() });
    }
    let config = HttpConfig::new("127.0.0.1:0".parse().unwrap());
    let output = HttpOutput::start(config, Arc::new(NoStatus), Arc::new(|| {})).unwrap();
    let (now, over) = (AtomicUsize::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let publisher = scope.spawn(|| publish(&output, &streams, &now, &over));
        // Chromium decodes H.264 and AV1, and has no HEVC decoder of its own.
        let steps = [("avc1", 1), ("!hev1", 2), ("av01", 1), ("!hev1", 0), ("avc1", 0)];
        let Some(mut node) = browser(&modules, &output, &steps.map(|(codec, _)| codec).join(",")) else {
            over.store(true, Ordering::Relaxed);
            return skip(TEST, "node is not installed");
        };
        let lines = BufReader::new(node.stdout.take().unwrap()).lines();
        let (tell, told) = mpsc::channel();
        let reader = scope.spawn(move || lines.map_while(Result::ok).for_each(|line| drop(tell.send(line))));
        let mut seen = Vec::new();
        for (codec, next) in steps {
            let Ok(line) = told.recv_timeout(PATIENCE) else { break };
            let Some((name, page)) = line.strip_prefix("CODEC ").and_then(|rest| rest.split_once(' ')) else {
                println!("{line}");
                break;
            };
            assert_eq!(name, codec);
            seen.push(serde_json::from_str::<Value>(page).unwrap());
            now.store(next, Ordering::Relaxed);
        }
        let status = node.wait().unwrap();
        over.store(true, Ordering::Relaxed);
        publisher.join().unwrap();
        reader.join().unwrap();
        assert!(status.success() && seen.len() == steps.len(), "{} steps: {seen:#?}", seen.len());
        for (page, (codec, _)) in seen.iter().zip(steps) {
            assert_eq!(page["errors"], 0, "{page}");
            // How many units are left out for it is the machine's business; it has to stay connected.
            assert_eq!(page["reconnects"], 0, "{page}");
            let cure = page["cure"].as_str().unwrap_or_default();
            assert_eq!(cure.contains("This browser cannot decode HEVC"), codec.starts_with('!'), "{page}");
        }
        assert_eq!(seen[4]["formats"], 5, "one message of the format for each change");
    });
    output.stop();
}
