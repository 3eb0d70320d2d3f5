//! A kernel that is away for longer than the rings bridge: a live source loses exactly what did not fit, which is
//! counted, and the backlog is caught up; a lossless one waits and loses nothing.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use nix::sys::signal::Signal;
use serde_json::Value;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use system_tests::bitstream::{Unit, units};
use system_tests::pipeline::{Part, free_rtp_port};
use system_tests::processes::{go_on, is_gone, send, stop};
use system_tests::quad::{Quad, said};
use system_tests::receiver::{assert_contiguous, decode};
use system_tests::tools::{need, within};
use system_tests::wire::{Faults, Packet, Wire, in_order, longest_gap};

const PATIENCE: Duration = Duration::from_secs(20);
/// Sixteen slots bridge 533 ms at 30 fps, two rings of pixels some more.
const ABSENCE: Duration = Duration::from_millis(1500);
/// Lost and kept at the least: 45 frames are due, and 16 of them fit.
const SOME: usize = 10;
/// A frame that arrives this much later than the quickest one is not caught up.
const LATE: Duration = Duration::from_millis(50);

/// Kills `part` and keeps its supervisor from noticing for `absence`.
fn away(quad: &Quad, part: Part, absence: Duration) {
    let (supervisor, victim) = (quad.supervisor(), quad.pid(part));
    stop(supervisor);
    send(victim, Signal::SIGKILL);
    assert!(within(PATIENCE, || is_gone(victim)));
    std::thread::sleep(absence);
    go_on(supervisor);
}

fn stream(wire: &Wire) -> (Vec<Packet>, Vec<Unit>) {
    let packets = wire.packets();
    let (ordered, faults) = in_order(&packets);
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    let made = units(&ordered);
    (packets, made)
}

/// How much later than the quickest frame each one arrived, by its RTP timestamp, with its arrival.
fn lateness(packets: &[Packet]) -> Vec<(Instant, Duration)> {
    let first = &packets[0];
    let travel = |packet: &Packet| {
        let captured_ms = f64::from(packet.timestamp.wrapping_sub(first.timestamp) as i32) / 90.0;
        (packet.at - first.at).as_secs_f64() * 1000.0 - captured_ms
    };
    let ends: Vec<&Packet> = packets.iter().filter(|packet| packet.marker).collect();
    let quickest = ends.iter().map(|packet| travel(packet)).fold(f64::INFINITY, f64::min);
    ends.iter().map(|p| (p.at, Duration::from_secs_f64((travel(p) - quickest).max(0.0) / 1000.0))).collect()
}

fn dropped(status: &Value) -> u64 {
    // What kernel A gave up, and what B had passed on or made and C never took.
    ["capture", "process"].map(|kernel| status["kernels"][kernel]["dropped"].as_u64().unwrap()).iter().sum()
}

fn live(part: Part) {
    if !need("live: a long absence", &["ffmpeg"]) {
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut quad = Quad::new("live", port);
    quad.pipeline.set("hang_timeout_ms", "5000");
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(within(PATIENCE, || wire.units() >= 60));
    away(&quad, part, ABSENCE);
    let back = Instant::now();
    let at = wire.units();
    assert!(within(PATIENCE, || wire.units() >= at + 120));
    assert_eq!(quad.status().0, Some(0));
    // What is counted and what arrived are compared where nothing is under way any more: a busy machine may drop a frame
    // at any time, also between the two looks.
    let capture = quad.pid(Part::Capture);
    stop(capture);
    let last = || quad.status().1["rings"]["capture"]["last_frame_id"].as_u64();
    let drained = || (last(), wire.units());
    let mut before = (None, 0);
    assert!(within(PATIENCE, || {
        std::thread::sleep(Duration::from_millis(200));
        let now = drained();
        std::mem::replace(&mut before, now) == now
    }));
    let status = quad.status().1;
    go_on(capture);
    quad.down();
    let last_id = before.0.unwrap();

    let (packets, made) = stream(&wire);
    let bytes: Vec<u8> = made.iter().flat_map(Unit::annex_b).collect();
    let ids = decode(&bytes, 1280, 720).clean();
    assert_eq!(ids.len(), made.len());
    // What came after the look is left out of it.
    let ids: Vec<u64> = ids.into_iter().filter(|id| *id <= last_id).collect();
    let back_steps = ids.windows(2).find(|pair| pair[1] <= pair[0]);
    assert_eq!(back_steps, None, "A frame twice or out of order");
    let lost = last_id - ids.first().unwrap() + 1 - ids.len() as u64;
    let late = lateness(&packets);
    // Those that waited in the rings, and the first behind them that is on time again. Later ones may be late, and lost,
    // for what the machine does besides.
    let after = || late.iter().filter(|(at, _)| *at > back);
    let waited = after().filter(|(_, late)| *late > LATE).count();
    let caught_up = after().skip_while(|(_, late)| *late <= LATE).find(|(_, late)| *late <= LATE);
    let caught_up = caught_up.map(|(at, _)| *at - back);
    println!(
        "{part:?} away for {ABSENCE:?}: {lost} frames lost, {} counted; longest gap {:?}; caught up {caught_up:?} after \
         its successor could start; slowest frame {:?}",
        dropped(&status),
        longest_gap(&packets),
        late.iter().map(|(_, late)| *late).max().unwrap()
    );
    assert_eq!(lost, dropped(&status), "{status}");
    let at_once = ids.windows(2).map(|pair| pair[1] - pair[0] - 1).max();
    assert!(at_once >= Some(SOME as u64), "{at_once:?} frames were given up in a row");
    assert!(waited >= SOME, "{waited} frames waited");
    assert!(caught_up.is_some(), "No frame is on time any more");
}

#[test]
fn a_live_source_loses_exactly_what_did_not_fit_while_process_was_away_and_it_is_counted() {
    live(Part::Process);
}

#[test]
fn a_live_source_loses_exactly_what_did_not_fit_while_encode_was_away_and_it_is_counted() {
    live(Part::Encode);
}

const WIDTH: usize = 640;
const HEIGHT: usize = 360;
/// Frames of the clip, each of another grey.
const CLIP: u64 = 24;

fn grey(number: u64) -> u8 {
    40 + (number % CLIP) as u8 * 8
}

fn clip(quad: &Quad) -> PathBuf {
    let mut bytes = format!("YUV4MPEG2 W{WIDTH} H{HEIGHT} F30:1 Ip C420\n").into_bytes();
    for number in 0..CLIP {
        bytes.extend_from_slice(b"FRAME\n");
        bytes.extend(std::iter::repeat_n(grey(number), WIDTH * HEIGHT));
        bytes.extend(std::iter::repeat_n(128, WIDTH * HEIGHT / 2));
    }
    quad.pipeline.write("clip.y4m", &bytes)
}

/// Mean luma of the lower half of every picture.
fn greys(stream: &[u8]) -> Vec<u8> {
    let mut decoder = Command::new("ffmpeg")
        .args(["-v", "error", "-f", "h264", "-i", "-", "-fps_mode", "passthrough"])
        .args(["-vf", &format!("crop={WIDTH}:{}:0:{},scale=16:16:flags=area", HEIGHT / 2, HEIGHT / 2)])
        .args(["-pix_fmt", "yuv420p", "-f", "rawvideo", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut into = decoder.stdin.take().unwrap();
    let stream = stream.to_vec();
    let feeder = std::thread::spawn(move || into.write_all(&stream).unwrap());
    let output = decoder.wait_with_output().unwrap();
    feeder.join().unwrap();
    let mean = |frame: &[u8]| (frame[..256].iter().map(|p| u32::from(*p)).sum::<u32>() / 256) as u8;
    output.stdout.chunks_exact(384).map(mean).collect()
}

#[test]
fn a_lossless_file_loses_nothing_however_long_a_kernel_is_away() {
    if !need("lossless: long absences", &["ffmpeg"]) {
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut quad = Quad::new("lossless", port);
    let path = clip(&quad);
    quad.pipeline.set("capture.source", "file").set("capture.path", &path.display().to_string());
    quad.pipeline.set("capture.loop", "true").set("capture.barcode", "true").set("capture.policy", "lossless");
    quad.pipeline.set("hang_timeout_ms", "5000");
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    for part in [Part::Process, Part::Encode, Part::Net, Part::Capture] {
        let at = wire.units();
        assert!(within(PATIENCE, || wire.units() >= at + 30));
        away(&quad, part, ABSENCE);
        let at = wire.units();
        assert!(within(PATIENCE, || wire.units() >= at + 60), "{part:?}: {}", quad.status().1);
    }
    let status = quad.status().1;
    assert_eq!(dropped(&status), 0, "{status}");
    quad.down();
    let (_, made) = stream(&wire);
    let bytes: Vec<u8> = made.iter().flat_map(Unit::annex_b).collect();
    let ids = decode(&bytes, WIDTH, HEIGHT).clean();
    assert_eq!((ids.first(), ids.len()), (Some(&1), made.len()));
    assert_contiguous(&ids);
    // And the file was read on where it was: no picture of it left out or shown twice.
    let greys = greys(&bytes);
    assert_eq!(greys.len(), ids.len());
    let wrong = ids.iter().zip(&greys).find(|(id, shown)| grey(**id - 1).abs_diff(**shown) > 3);
    assert_eq!(wrong, None, "Frame id and grey of its picture");
    println!("{} frames of a file, none lost", ids.len());
}
