//! The wall clock of all kernels is set an hour on, and back: the stream does not notice.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use nix::sys::signal::Signal;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use system_tests::bitstream::units;
use system_tests::pipeline::{Part, free_rtp_port};
use system_tests::processes::send;
use system_tests::quad::{Quad, said};
use system_tests::receiver::{assert_contiguous, decode};
use system_tests::tools::{need, within};
use system_tests::wire::{Faults, Packet, Wire, in_order};

const PATIENCE: Duration = Duration::from_secs(20);
const HOUR_US: i64 = 3_600_000_000;
/// Frames between two steps; reports come once a second.
const FRAMES: usize = 45;

/// The library that moves a process's clock.
fn stepper(folder: &Path) -> std::path::PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("clock/step.c");
    let library = folder.join("libstep.so");
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source);
    assert!(cc.status().unwrap().success());
    library
}

fn set_clock(file: &Path, seconds: i64) {
    // In place: it is mapped.
    use std::os::unix::fs::FileExt as _;
    let file = std::fs::OpenOptions::new().write(true).create(true).truncate(false).open(file).unwrap();
    file.write_all_at(&seconds.to_ne_bytes(), 0).unwrap();
}

/// How far the time between two frames on the wire differs from that in their timestamps.
fn largest_jump(packets: &[Packet]) -> Duration {
    let ends: Vec<&Packet> = packets.iter().filter(|packet| packet.marker).collect();
    let jump = |pair: &[&Packet]| {
        let stamped = f64::from(pair[1].timestamp.wrapping_sub(pair[0].timestamp)) / 90_000.0;
        ((pair[1].at - pair[0].at).as_secs_f64() - stamped).abs()
    };
    Duration::from_secs_f64(ends.windows(2).map(jump).fold(0.0, f64::max))
}

#[test]
fn a_step_of_the_wall_clock_by_an_hour_moves_neither_timestamps_nor_reports_nor_leases() {
    if !need("clock step", &["ffmpeg", "cc"]) {
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut quad = Quad::new("clock", port);
    let (library, clock) = (stepper(quad.pipeline.folder()), quad.pipeline.folder().join("step"));
    set_clock(&clock, 0);
    quad.set_variable("LD_PRELOAD", &library.display().to_string());
    quad.set_variable("QUAD_CLOCK_STEP", &clock.display().to_string());
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    let flow = |what: &str| {
        let at = wire.units();
        assert!(within(PATIENCE, || wire.units() >= at + FRAMES), "{what}: {}", quad.status().1);
        assert_eq!(quad.status().0, Some(0), "{what}");
    };
    let pids = Part::ALL.map(|part| quad.pid(part));
    flow("before");
    set_clock(&clock, 3600);
    flow("an hour on");
    set_clock(&clock, -3600);
    flow("two hours back");
    // Nobody was taken for hung; and who starts under the new time goes on with the old stream.
    assert_eq!(Part::ALL.map(|part| quad.pid(part)), pids);
    for part in [Part::Net, Part::Capture, Part::Encode] {
        send(quad.pid(part), Signal::SIGKILL);
        flow("after a death under another time");
    }
    quad.down();

    let packets = wire.packets();
    let (ordered, faults) = in_order(&packets);
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    let stream: Vec<u8> = units(&ordered).iter().flat_map(|unit| unit.annex_b()).collect();
    let decoded = decode(&stream, 1280, 720);
    let times: Vec<i64> = decoded.times_us.iter().map(|time| time.unwrap() as i64).collect();
    let steps: Vec<i64> =
        times.windows(2).map(|pair| pair[1] - pair[0]).filter(|step| step.abs() > HOUR_US / 2).collect();
    // It was stepped: the wall clock burned into the picture shows it.
    assert_eq!(steps.len(), 2, "{steps:?}");
    assert!(steps[0] > HOUR_US - 5_000_000 && steps[1] < 5_000_000 - 2 * HOUR_US, "{steps:?}");
    assert_contiguous(&decoded.clean());
    let jump = largest_jump(&packets);
    println!("largest difference between time on the wire and in timestamps: {jump:?}");
    assert!(jump < Duration::from_secs(2), "{jump:?}");

    // A report pairs wall clock and timestamp; the pairing is that of the stream's beginning, for all of its life.
    let reports = wire.reports();
    assert!(reports.len() >= 4, "{} reports", reports.len());
    let first = reports[0];
    for report in &reports {
        let wall = (report.ntp.wrapping_sub(first.ntp)) as f64 / 4_294_967_296.0;
        let stamped = f64::from(report.rtp_timestamp.wrapping_sub(first.rtp_timestamp)) / 90_000.0;
        assert!((wall - stamped).abs() < 0.001, "{wall} s of wall clock, {stamped} s of timestamps");
        assert_eq!(report.ssrc, packets[0].ssrc);
    }
}
