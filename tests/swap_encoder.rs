//! The encoder, and any other kernel, exchanged under the running stream.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use std::io::Write as _;
use std::process::Stdio;
use std::time::Duration;
use system_tests::bitstream::units;
use system_tests::pipeline::{Part, free_rtp_port};
use system_tests::quad::{Quad, said};
use system_tests::receiver::{assert_contiguous, decode};
use system_tests::tools::{have, skip, within};
use system_tests::wire::{Faults, Wire, in_order, longest_gap};

const PATIENCE: Duration = Duration::from_secs(20);

/// Every frame that arrived on the wire, by the id burned into it.
fn decoded_ids(wire: &Wire) -> Vec<u64> {
    let packets = wire.packets();
    let (ordered, faults) = in_order(&packets);
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    let stream: Vec<u8> = units(&ordered).iter().flat_map(|unit| unit.annex_b()).collect();
    decode(&stream, 1280, 720).clean()
}

#[test]
fn swapping_the_encoder_loses_no_frame() {
    if !have("ffmpeg") {
        skip("swap_encoder: decoded frames", "ffmpeg is not installed");
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = Quad::new("swap", port);
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    for swap in 1..=5u64 {
        assert!(within(PATIENCE, || wire.units() as u64 >= 30 * swap));
        let output = quad.run(&["swap", "encode", "--set", &format!("encode.gop={}", 30 * swap)]);
        assert!(output.status.success(), "{}", said(&output));
        let (code, status) = quad.status();
        assert_eq!((code, &status["kernels"]["encode"]["epoch"]), (Some(0), &(swap + 1).into()), "{status}");
    }
    let before = wire.units();
    assert!(within(PATIENCE, || wire.units() >= before + 45));
    // What the last swap set holds for a process that is merely restarted, too.
    let output = quad.run(&["restart", "encode"]);
    assert!(output.status.success(), "{}", said(&output));
    let before = wire.units();
    assert!(within(PATIENCE, || wire.units() >= before + 30));
    quad.down();
    eprintln!("longest gap on the wire: {:?}", longest_gap(&wire.packets()));
    let ids = decoded_ids(&wire);
    assert_eq!(ids.first(), Some(&1));
    assert_contiguous(&ids);
}

#[test]
fn every_kernel_can_be_swapped() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = Quad::new("swapall", port);
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    for part in Part::ALL {
        assert!(within(PATIENCE, || wire.units() >= 30));
        let output = quad.run(&["swap", part.short()]);
        assert!(output.status.success(), "{part:?}: {}", said(&output));
        let before = wire.units();
        assert!(within(PATIENCE, || wire.units() >= before + 30), "{part:?}");
    }
    quad.down();
    let (_, faults) = in_order(&wire.packets());
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
}

#[test]
fn a_swap_of_capture_does_not_wait_for_a_writer_that_is_silent() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut quad = Quad::new("swapfifo", port);
    let path = quad.pipeline.folder().join("frames.y4m");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    quad.pipeline.set("capture.source", "file").set("capture.path", path.to_str().unwrap());
    let mut writer = std::fs::File::options().read(true).write(true).open(&path).unwrap();
    let frame = [b"FRAME\n".as_slice(), &[90; 64 * 64 * 3 / 2]].concat();
    writer.write_all(b"YUV4MPEG2 W64 H64 F30:1 Ip C420\n").unwrap();
    writer.write_all(&frame).unwrap();
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    let epoch = || quad.status().1["kernels"]["capture"]["epoch"].as_u64();
    assert_eq!(epoch(), Some(1));
    let swap = quad.command(&["swap", "capture"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // No frame comes meanwhile.
    assert!(within(Duration::from_secs(12), || epoch() == Some(2)), "{}", said(&quad.run(&["logs", "capture"])));
    writer.write_all(&frame).unwrap();
    let output = swap.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", said(&output));
    assert!(within(PATIENCE, || wire.units() == 2), "{}", wire.units());
    quad.down();
}

#[test]
fn the_epochs_of_a_swap_that_fails_are_no_restarts() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = Quad::new("swapcount", port);
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    let used = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("net.http.listen={}", used.local_addr().unwrap());
    let output = quad.run(&["swap", "net", "--set", &listen]);
    assert!(!output.status.success(), "{}", said(&output));
    let before = wire.units();
    assert!(within(PATIENCE, || wire.units() >= before + 30));
    let net = || quad.status().1["kernels"]["net"].clone();
    // The successor had the lease, and the process before took it back.
    assert!(within(PATIENCE, || net()["restarts"] == 0), "{}", net());
    assert!(net()["epoch"].as_u64() >= Some(3) && net()["swaps"] == 0, "{}", net());
    // What is a restart is counted as one.
    let output = quad.run(&["restart", "net"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(net()["restarts"], 1, "{}", net());
    quad.down();
}

#[test]
fn a_swap_that_fails_leaves_the_old_encoder_at_work() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = Quad::new("swapfail", port);
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    let pid = quad.status().1["kernels"]["encode"]["pid"].clone();
    for (arguments, code, reason) in [
        (vec!["swap", "encode", "--binary", "/bin/true"], 64, "is no kernel"),
        (vec!["swap", "encode", "--binary", "/nonexistent"], 64, "cannot be used"),
        (vec!["swap", "encode", "--set", "encode.codec=mpeg2"], 78, "encode.codec"),
        (vec!["swap", "encode", "--set", "capture.fps=10"], 64, "begin with encode."),
        (vec!["swap", "encoder"], 64, "encoder"),
    ] {
        let output = quad.run(&arguments);
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", said(&output));
        assert!(said(&output).contains(reason), "{arguments:?}: {}", said(&output));
    }
    let before = wire.units();
    assert!(within(PATIENCE, || wire.units() >= before + 30));
    assert_eq!(quad.status().1["kernels"]["encode"]["pid"], pid);
    quad.down();
}

#[test]
fn a_successor_that_cannot_encode_ends_before_it_takes_over() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = Quad::new("swapcold", port);
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    let before = quad.status().1["kernels"]["encode"].clone();
    // The configuration is right in itself; that no encoder does it shows when one is opened.
    let output = quad.run(&["swap", "encode", "--set", "encode.level=1.0"]);
    assert_eq!(output.status.code(), Some(75), "{}", said(&output));
    assert!(said(&output).contains("level"), "{}", said(&output));
    let units = wire.units();
    assert!(within(PATIENCE, || wire.units() >= units + 30));
    let now = quad.status().1["kernels"]["encode"].clone();
    assert_eq!((&now["pid"], &now["epoch"]), (&before["pid"], &before["epoch"]), "the lease never moved");
    quad.down();
}
