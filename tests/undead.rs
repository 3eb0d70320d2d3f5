//! Kernels that hang, and kernels that SIGKILL does not end: the stream goes on without them.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use nix::sys::signal::Signal;
use shm_protocol::lease::{KernelState, LeaseInfo, LeaseTable};
use shm_protocol::observe::RingObserver;
use std::time::{Duration, Instant};
use system_tests::bitstream::units;
use system_tests::pipeline::{Part, free_rtp_port};
use system_tests::processes::{Grip, Undead, go_on, is_gone, send, stop};
use system_tests::quad::{Quad, said};
use system_tests::receiver::{assert_contiguous, decode};
use system_tests::tools::{need, skip, within};
use system_tests::wire::{Faults, Wire, in_order, longest_gap};

const PATIENCE: Duration = Duration::from_secs(20);
/// Silence after which the watchdog kills.
const HANG: Duration = Duration::from_millis(400);
/// Killed and not gone after this: the lease is taken by force, and its successor waits no longer for the end.
const DEATH: Duration = Duration::from_secs(1);
/// The supervisor looks every 50 ms, a new process starts and opens its encoder within 150 ms, and as much again is for
/// a busy machine. Less than a second: a successor that waited once more for the end would not keep to it.
const SLACK: Duration = Duration::from_millis(700);

/// A 720p30 stream from a source that waits, under a watchdog that is quick.
fn up(label: &str, port: u16) -> Quad {
    let mut quad = Quad::new(label, port);
    quad.pipeline.set("capture.policy", "lossless").set("hang_timeout_ms", &HANG.as_millis().to_string());
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    quad
}

fn lease(quad: &Quad, part: Part) -> LeaseInfo {
    let table = LeaseTable::observe(quad.pipeline.instance()).unwrap();
    table.info(table.find(&format!("{}.main", part.short())).unwrap())
}

fn runs_anew(quad: &Quad, part: Part, before: &LeaseInfo) -> bool {
    let now = lease(quad, part);
    now.epoch > before.epoch && now.held && now.state == KernelState::Running && now.pid != before.pid
}

fn log(quad: &Quad, name: &str) -> String {
    std::fs::read_to_string(quad.pipeline.runtime().join(format!("{name}.log"))).unwrap_or_default()
}

/// Every frame id from the first to the last, each once, in pictures that are whole.
fn assert_exactly_once(wire: &Wire) {
    let packets = wire.packets();
    let (ordered, faults) = in_order(&packets);
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    let made = units(&ordered);
    let stream: Vec<u8> = made.iter().flat_map(|unit| unit.annex_b()).collect();
    let ids = decode(&stream, 1280, 720).clean();
    assert_eq!((ids.first(), ids.len()), (Some(&1), made.len()));
    assert_contiguous(&ids);
    println!("{} frames, longest gap on the wire {:?}", ids.len(), longest_gap(&packets));
}

/// Stops an encoder in the middle of a frame, with a buffer claimed.
fn stop_while_it_writes(quad: &Quad, pid: u32) {
    let ring = RingObserver::open(quad.pipeline.instance(), "encode.main").unwrap();
    let caught = within(PATIENCE, || {
        stop(pid);
        if ring.status().writing > 0 {
            return true;
        }
        go_on(pid);
        std::thread::sleep(Duration::from_millis(3));
        false
    });
    assert!(caught, "The encoder was never seen with a claimed buffer");
}

#[test]
fn a_kernel_that_hangs_is_replaced_in_time_and_nothing_is_lost() {
    if !need("hangs", &["ffmpeg"]) {
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = up("hang", port);
    for part in Part::ALL {
        let at = wire.units();
        assert!(within(PATIENCE, || wire.units() >= at + 15), "{part:?}");
        let before = lease(&quad, part);
        send(before.pid, Signal::SIGSTOP);
        let since = Instant::now();
        assert!(within(PATIENCE, || runs_anew(&quad, part, &before)), "{part:?}: {}", log(&quad, "supervisor"));
        let took = since.elapsed();
        println!("{part:?} hangs: replaced after {took:?}");
        assert!(took >= HANG - HANG / 4 && took < HANG + Duration::from_millis(900), "{part:?}: {took:?}");
        assert!(is_gone(before.pid));
    }
    let at = wire.units();
    assert!(within(PATIENCE, || wire.units() >= at + 30));
    quad.down();
    assert_exactly_once(&wire);
}

/// Its other threads live, its process is not stopped, and its loop does not turn.
#[cfg(target_arch = "x86_64")]
fn a_loop_spins(quad: &Quad, wire: &Wire, parts: &[Part]) {
    for part in parts {
        let at = wire.units();
        assert!(within(PATIENCE, || wire.units() >= at + 15), "{part:?}");
        let before = lease(quad, *part);
        assert!(within(PATIENCE, || system_tests::processes::spin(before.pid)), "{part:?} is not to be had");
        let since = Instant::now();
        assert!(within(PATIENCE, || runs_anew(quad, *part, &before)), "{part:?}: {}", log(quad, "supervisor"));
        let took = since.elapsed();
        println!("{part:?} spins: replaced after {took:?}");
        assert!(took < HANG + Duration::from_millis(900), "{part:?}: {took:?}");
    }
    let at = wire.units();
    assert!(within(PATIENCE, || wire.units() >= at + 30));
}

#[test]
#[cfg(target_arch = "x86_64")]
fn a_kernel_whose_loop_spins_is_replaced_in_time_and_nothing_is_lost() {
    if !need("spinning loops", &["ffmpeg"]) {
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = up("spin", port);
    a_loop_spins(&quad, &wire, &Part::ALL);
    quad.down();
    assert_exactly_once(&wire);
}

/// A file source has a thread that beats while a pipe's writer is slow: it must not beat for a loop that hangs.
#[test]
#[cfg(target_arch = "x86_64")]
fn a_file_source_whose_loop_spins_is_replaced_too() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut quad = Quad::new("spinfile", port);
    let mut clip = b"YUV4MPEG2 W1280 H720 F30:1 Ip C420\n".to_vec();
    for grey in [60, 90, 120] {
        clip.extend_from_slice(b"FRAME\n");
        clip.extend(std::iter::repeat_n(grey, 1280 * 720 * 3 / 2));
    }
    let path = quad.pipeline.write("clip.y4m", &clip);
    quad.pipeline.set("capture.source", "file").set("capture.path", &path.display().to_string());
    quad.pipeline.set("capture.loop", "true").set("capture.barcode", "true");
    quad.pipeline.set("capture.policy", "lossless").set("hang_timeout_ms", &HANG.as_millis().to_string());
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    a_loop_spins(&quad, &wire, &[Part::Capture, Part::Capture]);
    quad.down();
    assert_exactly_once(&wire);
}

#[test]
fn a_source_that_gives_frames_more_seldom_than_a_heart_must_beat_is_not_taken_for_hung() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut quad = Quad::new("seldom", port);
    quad.pipeline.set("capture.fps", "1").set("hang_timeout_ms", &HANG.as_millis().to_string());
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(within(PATIENCE, || wire.units() >= 3));
    assert_eq!(lease(&quad, Part::Capture).epoch, 1, "{}", log(&quad, "supervisor"));
    quad.down();
}

fn an_encoder_that_does_not_die(grip: Grip) {
    if !need("undead encoder", &["ffmpeg"]) {
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = up("undead", port);
    assert!(within(PATIENCE, || wire.units() >= 30));
    let before = lease(&quad, Part::Encode);
    let ring = RingObserver::open(quad.pipeline.instance(), "encode.main").unwrap();
    stop_while_it_writes(&quad, before.pid);
    let since = Instant::now();
    let undead = match Undead::seize(before.pid, grip) {
        Ok(undead) => undead,
        Err(why) => {
            skip(&format!("an encoder that does not die ({grip:?})"), &why);
            go_on(before.pid);
            return;
        }
    };
    assert!(within(PATIENCE, || undead.is_held()), "The watchdog killed it");
    assert!(within(PATIENCE, || runs_anew(&quad, Part::Encode, &before)), "{}", log(&quad, "supervisor"));
    let took = since.elapsed();
    println!("{grip:?}: forced out and succeeded after {took:?}");
    assert!(took < HANG + DEATH + SLACK, "{took:?}");
    assert!(log(&quad, "supervisor").contains("its lease is taken from it"), "{}", log(&quad, "supervisor"));
    // Forced out once: its successor is nobody's victim.
    let successor = lease(&quad, Part::Encode);

    // The ring goes round without the buffer that may still be written, and says so.
    let at = wire.units();
    assert!(within(PATIENCE, || wire.units() >= at + 60), "{}", log(&quad, "encode.main"));
    assert_eq!(ring.status().quarantined, 1);
    let (_, status) = quad.status();
    assert_eq!(status["rings"]["encode.main"]["quarantined"], 1, "{status}");
    assert!(!is_gone(before.pid));
    assert_eq!(lease(&quad, Part::Encode).pid, successor.pid);

    // Gone at last: the buffer is used again.
    undead.release();
    assert!(within(PATIENCE, || is_gone(before.pid)));
    assert!(within(Duration::from_secs(3), || ring.status().quarantined == 0), "{:?}", ring.status());
    let at = wire.units();
    assert!(within(PATIENCE, || wire.units() >= at + 30));
    assert_eq!(lease(&quad, Part::Encode).pid, successor.pid);
    assert_eq!(quad.status().0, Some(0));
    drop(ring);
    quad.down();
    assert_exactly_once(&wire);
}

#[test]
fn an_encoder_held_on_its_way_out_is_succeeded_and_its_buffer_comes_back_when_it_is_gone() {
    an_encoder_that_does_not_die(Grip::Tracer);
}

#[test]
fn an_encoder_in_a_frozen_control_group_is_succeeded_and_its_buffer_comes_back_when_it_is_gone() {
    an_encoder_that_does_not_die(Grip::Freezer);
}

/// Capture and process have no buffer claimed most of the time; that the stream goes on is what counts.
#[test]
fn the_stream_goes_on_beside_a_capture_or_process_kernel_that_does_not_die() {
    if !need("undead capture and process", &["ffmpeg"]) {
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = up("undeadab", port);
    for part in [Part::Process, Part::Capture] {
        let at = wire.units();
        assert!(within(PATIENCE, || wire.units() >= at + 15));
        let before = lease(&quad, part);
        let Ok(undead) = Undead::seize(before.pid, Grip::Tracer) else {
            skip("a capture or process kernel that does not die", "tracing is not allowed here");
            return;
        };
        send(before.pid, Signal::SIGKILL);
        assert!(within(PATIENCE, || undead.is_held()));
        assert!(within(PATIENCE, || runs_anew(&quad, part, &before)), "{part:?}: {}", log(&quad, "supervisor"));
        let at = wire.units();
        assert!(within(PATIENCE, || wire.units() >= at + 45), "{part:?}");
        assert!(!is_gone(before.pid));
        drop(undead);
        assert!(within(PATIENCE, || is_gone(before.pid)));
    }
    let at = wire.units();
    assert!(within(PATIENCE, || wire.units() >= at + 30));
    quad.down();
    assert_exactly_once(&wire);
}

/// It keeps its ports: its successor cannot have them, says so, and tries again until it can.
#[test]
fn a_net_kernel_that_does_not_die_is_succeeded_as_soon_as_its_ports_are_free() {
    if !need("undead net", &["ffmpeg"]) {
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = up("undeadnet", port);
    assert!(within(PATIENCE, || wire.units() >= 30));
    let before = lease(&quad, Part::Net);
    let Ok(undead) = Undead::seize(before.pid, Grip::Tracer) else {
        skip("a net kernel that does not die", "tracing is not allowed here");
        return;
    };
    send(before.pid, Signal::SIGKILL);
    assert!(within(PATIENCE, || undead.is_held()));
    assert!(within(PATIENCE, || log(&quad, "net.main").contains("in use")), "{}", log(&quad, "net.main"));
    std::thread::sleep(Duration::from_secs(4));
    let starts = log(&quad, "net.main").matches("Started").count();
    println!("{starts} starts of net meanwhile");
    assert!(starts < 25, "{starts} starts: it is spaced out");
    undead.release();
    let since = Instant::now();
    let at = wire.units();
    assert!(within(PATIENCE, || wire.units() >= at + 30), "{}", log(&quad, "net.main"));
    println!("on the wire again {:?} after the ports were free", since.elapsed());
    // The longest pause between two restarts is five seconds.
    assert!(since.elapsed() < Duration::from_secs(10));
    quad.down();
    assert_exactly_once(&wire);
}
