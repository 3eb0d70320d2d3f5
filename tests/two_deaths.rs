//! Frames that lie by reference, and two or four kernels killed in one instant, at random instants.

use nix::sys::signal::Signal;
use serde_json::Value;
use std::time::Duration;
use system_tests::bitstream::units;
use system_tests::picture::shown;
use system_tests::pipeline::{Part, free_rtp_port};
use system_tests::processes::send;
use system_tests::quad::{Quad, said};
use system_tests::random;
use system_tests::receiver::assert_contiguous;
use system_tests::tools::{long, need, within};
use system_tests::wire::{Faults, Wire, in_order, longest_gap};

const PATIENCE: Duration = Duration::from_secs(20);
const WIDTH: usize = 640;
const HEIGHT: usize = 360;

fn pid(status: &Value, part: Part) -> u32 {
    status["kernels"][part.short()]["pid"].as_u64().unwrap_or_default() as u32
}

/// Kills `victims` in this order, `rounds` times, and back to back or some hundred microseconds apart.
fn killed_together(label: &str, sets: &[&[Part]], rounds: usize) {
    if !need(label, &["ffmpeg"]) {
        return;
    }
    let mut random = random::from_environment();
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut quad = Quad::new(label, port);
    quad.pipeline.set("capture.width", "640").set("capture.height", "360").set("capture.policy", "lossless");
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(within(PATIENCE, || wire.units() >= 30));
    let path = quad.status().1["kernels"]["process"]["path"].clone();
    assert_eq!(path, "by reference");
    let mut deaths = 0;
    for round in 0..rounds {
        for victims in sets {
            let status = quad.status().1;
            let pids: Vec<u32> = victims.iter().map(|part| pid(&status, *part)).collect();
            assert!(pids.iter().all(|pid| *pid != 0), "{status}");
            std::thread::sleep(Duration::from_micros(random.u64(..20_000)));
            for pid in &pids {
                send(*pid, Signal::SIGKILL);
                // One round in two: the second dies while the first's end is being noticed.
                std::thread::sleep(Duration::from_micros(if round % 2 == 0 { 0 } else { random.u64(..3_000) }));
            }
            deaths += pids.len();
            let at = wire.units();
            let all_new = || {
                let now = quad.status().1;
                let new = |(part, old): (&Part, &u32)| {
                    let kernel = &now["kernels"][part.short()];
                    kernel["state"] == "running" && pid(&now, *part) != *old
                };
                victims.iter().zip(&pids).all(new)
            };
            assert!(within(PATIENCE, all_new), "{victims:?}: {}", quad.status().1);
            assert!(within(PATIENCE, || wire.units() >= at + 30), "{victims:?}: {}", quad.status().1);
        }
    }
    let status = quad.status().1;
    assert_eq!(status["rings"]["capture"]["dropped"], 0);
    quad.down();

    let packets = wire.packets();
    let (ordered, faults) = in_order(&packets);
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    let made = units(&ordered);
    let stream: Vec<u8> = made.iter().flat_map(|unit| unit.annex_b()).collect();
    let shown = shown(&stream, WIDTH, HEIGHT, 30);
    println!(
        "{label}: {deaths} deaths, {} frames, worst block {}, {} packets repeated, longest gap {:?}",
        made.len(),
        shown.worst,
        faults.repeated,
        longest_gap(&packets)
    );
    let ids = shown.whole();
    assert_eq!((ids.first(), ids.len()), (Some(&1), made.len()));
    assert_contiguous(ids);
}

use Part::{Capture as A, Encode as C, Net as D, Process as B};

/// Rounds of each set.
fn rounds() -> usize {
    if long() { 20 } else { 2 }
}

#[test]
fn neighbours_that_share_frames_by_reference_die_together_and_no_frame_is_lost_or_spoilt() {
    killed_together("neighbours", &[&[A, B], &[B, A], &[B, C], &[C, B], &[A, C], &[C, A]], rounds());
}

#[test]
fn net_and_another_kernel_die_together_and_no_frame_is_lost_or_spoilt() {
    killed_together("netandone", &[&[C, D], &[D, C], &[A, D], &[D, A], &[B, D], &[D, B]], rounds());
}

#[test]
fn all_four_die_in_one_instant_and_no_frame_is_lost_or_spoilt() {
    killed_together("allfour", &[&[A, B, C, D], &[D, C, B, A], &[B, D, A, C]], rounds());
}
