//! The watch page in a real browser: the picture itself, its return after a death, and who is kept out.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use kernel_a_capture::barcode::read_barcode;
use serde_json::Value;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use system_tests::build::root;
use system_tests::pipeline::{Part, Pipeline, free_rtp_port};
use system_tests::tools::{Owned, browser_driver as driver, finish};

const WIDTH: usize = 1280;
const HEIGHT: usize = 720;

fn started(label: &str) -> Pipeline {
    let mut pipeline = Pipeline::new(label, free_rtp_port());
    pipeline.set("capture.width", "1280").set("capture.height", "720").set("capture.fps", "30");
    pipeline.set("capture.max_latency_ms", "1000").set("encode.backend", "openh264");
    pipeline.start_all();
    pipeline.wait_for_frames(30);
    pipeline
}

fn browser(pipeline: &Pipeline, modules: &Path, options: &[&str]) -> Owned {
    let mut command = Command::new("node");
    command.arg(root().join("tests/fixtures/browser/watch.mjs"));
    command.arg(format!("http://127.0.0.1:{}/", pipeline.http_port)).arg("--modules").arg(modules);
    command.args(["--frames", "60", "--timeout-ms", "40000"]).args(options);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    Owned::spawn(&mut command)
}

/// The last line of what the driver printed; asserts that it was content.
fn report(child: &mut Child, out: &mut dyn std::io::Read, pipeline: &Pipeline) -> Value {
    let mut text = String::new();
    out.read_to_string(&mut text).unwrap();
    let status = finish(child, Duration::from_secs(30));
    let context = || format!("{text}\n{}", pipeline.logs());
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{}", context());
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("{}", context()))
}

/// R, G, B of every pixel.
fn pixels(png: &Path) -> Vec<u8> {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "error", "-nostdin", "-i"]).arg(png).args(["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]);
    let output = command.output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout.len(), WIDTH * HEIGHT * 3, "The canvas has the size of the picture");
    output.stdout
}

/// 75 % bars as the pattern has them at its foot, mirrored: black, blue, red, magenta, green, cyan, yellow, white.
const BARS: [[u8; 3]; 8] =
    [[0, 0, 0], [0, 0, 191], [191, 0, 0], [191, 0, 191], [0, 191, 0], [0, 191, 191], [191, 191, 0], [191, 191, 191]];

#[test]
fn chromium_shows_the_picture_in_its_colours() {
    let Some(modules) = driver("watch_page: the picture") else { return };
    let mut pipeline = started("page");
    let png = pipeline.folder().join("canvas.png");
    let mut child = browser(&pipeline, &modules, &["--canvas", png.to_str().unwrap(), "--settle-ms", "1500"]);
    let mut out = child.0.stdout.take().unwrap();
    let quad = report(&mut child.0, &mut out, &pipeline);
    assert_eq!((quad["width"].as_u64(), quad["height"].as_u64()), (Some(1280), Some(720)), "{quad}");
    assert!(quad["codec"].as_str().unwrap().starts_with("avc1."), "{quad}");
    assert_eq!(quad["complaints"].as_array().map(Vec::len), Some(0), "{quad}");
    assert_eq!((quad["errors"].as_u64(), quad["lost"].as_u64()), (Some(0), Some(0)), "{quad}");
    for kernel in Part::ALL {
        assert_eq!(quad["status"]["kernels"][kernel.short()]["state"], "running", "{quad}");
    }

    let rgb = pixels(&png);
    let at = |x: usize, y: usize| [0, 1, 2].map(|component| rgb[(y * WIDTH + x) * 3 + component]);
    for (number, expected) in BARS.into_iter().enumerate() {
        let seen = at(number * 160 + 80, 690);
        let off = seen.iter().zip(expected).map(|(s, e)| s.abs_diff(e)).max().unwrap();
        assert!(off <= 12, "bar {number} is {seen:?}, expected {expected:?}");
    }
    // The ramp rises from black to white.
    let ramp: Vec<u8> = (0..16).map(|step| at(step * 80 + 40, 610)[1]).collect();
    assert!(ramp.windows(2).all(|pair| pair[0] < pair[1]) && ramp[0] < 20 && ramp[15] > 235, "{ramp:?}");
    // The canvas is full range: its green reads like luma.
    let green: Vec<u8> = rgb.iter().skip(1).step_by(3).copied().collect();
    let code = read_barcode(&green, WIDTH, WIDTH as u32).expect("The barcode is readable on the canvas");
    assert_eq!(Some(code.frame_id), quad["canvasFrameId"].as_u64());
    pipeline.stop();
}

#[test]
fn the_picture_is_back_within_a_second_after_the_death_of_net() {
    let Some(modules) = driver("watch_page: return after a death") else { return };
    let mut pipeline = started("back");
    let mut child = browser(&pipeline, &modules, &["--watch-ms", "6000"]);
    let mut out = BufReader::new(child.0.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    assert_eq!(line.trim(), "WATCHING", "{}", pipeline.logs());
    std::thread::sleep(Duration::from_secs(2));
    pipeline.kill(Part::Net);
    pipeline.start(Part::Net);
    let quad = report(&mut child.0, &mut out, &pipeline);
    println!("SIGKILL of net: {} ms without a new picture", quad["longestFreezeMs"]);
    assert_eq!((quad["reconnects"].as_u64(), quad["freezeEnded"].as_bool()), (Some(1), Some(true)), "{quad}");
    assert!(quad["longestFreezeMs"].as_f64().unwrap() < 1000.0, "{quad}");
    assert_eq!(quad["errors"], 0, "{quad}");
    pipeline.stop();
}

#[test]
fn pages_of_other_sites_are_kept_out() {
    let mut pipeline = started("guard");
    let upgrade = "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let own = format!("Origin: http://127.0.0.1:{}\r\n", pipeline.http_port);
    let code = |path: &str, host: Option<&str>, headers: &str| pipeline.get(path, host, headers).unwrap().0;
    assert_eq!(code("/", None, ""), 200);
    assert_eq!(code("/api/status", None, ""), 200);
    assert_eq!(code("/api/status", None, &own), 200);
    assert_eq!(code("/api/status", Some("evil.example"), ""), 421);
    assert_eq!(code("/", Some("evil.example"), ""), 421);
    assert_eq!(code("/api/status", None, "Origin: http://evil.example\r\n"), 403);
    assert_eq!(code("/ws", None, &format!("Origin: http://evil.example\r\n{upgrade}")), 403);
    assert_eq!(code("/ws", Some("evil.example"), &format!("{own}{upgrade}")), 421);
    assert_eq!(code("/no/such/page", None, ""), 404);
    let (found, metrics) = pipeline.get("/metrics", None, "").unwrap();
    assert!(found == 200 && metrics.contains("# TYPE ") && metrics.contains("quad_"), "{metrics}");
    pipeline.stop();
}

#[test]
fn slow_and_broken_clients_disturb_nobody() {
    use std::io::Write as _;
    let mut pipeline = started("slow");
    // Twenty that connect and say nothing, and one that never ends its header.
    let address = ("127.0.0.1", pipeline.http_port);
    let mut idle: Vec<_> = (0..20).map(|_| std::net::TcpStream::connect(address).unwrap()).collect();
    idle[0].write_all(b"GET / HTTP/1.1\r\nHost: 127").unwrap();
    idle[1].write_all(&[0xFF; 4096]).unwrap();
    let before = pipeline.status().unwrap()["kernels"]["net"]["frames"].as_u64().unwrap();
    pipeline.wait_for_frames(before + 60);
    let status = pipeline.status().unwrap();
    assert_eq!(status["kernels"]["process"]["dropped"], 0, "{status}");
    drop(idle);
    pipeline.stop();
}
