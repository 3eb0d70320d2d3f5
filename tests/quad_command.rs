//! The user's command around the real kernels: up, status, supervision, set, down.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::TcpListener;
use std::time::{Duration, Instant};
use system_tests::bitstream::units;
use system_tests::pipeline::{Part, free_rtp_port};
use system_tests::quad::{Quad, said};
use system_tests::receiver::{assert_contiguous, decode};
use system_tests::tools::{have, skip, within};
use system_tests::wire::{Faults, Wire, in_order};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn up_streams_and_down_leaves_nothing() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = Quad::new("up", port);
    let since = Instant::now();
    let output = quad.up(&[]);
    let took = since.elapsed();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("up took {took:?}: {text}");
    assert!(text.contains(&format!("http://127.0.0.1:{}/", quad.pipeline.http_port)), "{text}");
    assert!(text.contains("ffplay") && text.contains(quad.pipeline.sdp().to_str().unwrap()), "{text}");
    // The goal is 2 s; a machine that also runs other tests is given more.
    assert!(took < Duration::from_secs(6), "{took:?}");
    assert!(within(PATIENCE, || wire.units() >= 30));
    let (code, status) = quad.status();
    assert_eq!(code, Some(0), "{status}");
    let again = quad.up(&[]);
    assert_eq!(again.status.code(), Some(64), "{}", said(&again));
    assert!(said(&again).contains("already running"), "{}", said(&again));
    quad.down();
    assert_eq!(quad.status().0, Some(2));
}

/// Help is there before anything is built, and says the same as afterwards.
#[test]
fn help_is_there_at_once_also_where_nothing_is_built() {
    let folder = tempfile::tempdir().unwrap();
    let nowhere = folder.path().join("nothing-is-built");
    let script = |arguments: &[&str]| {
        let mut command = std::process::Command::new(system_tests::build::root().join("scripts/quad"));
        command.args(arguments).env_remove("QUAD_BIN_DIR").env("CARGO_TARGET_DIR", &nowhere).output().unwrap()
    };
    let built = std::process::Command::new(system_tests::build::binaries().join("quadctl")).arg("--help").output();
    let built = String::from_utf8(built.unwrap().stdout).unwrap();
    assert!(built.contains("\n  bench "), "{built}");
    for arguments in [["--help"].as_slice(), &["-h"], &["up", "--help"], &["bench", "-h"]] {
        let output = script(arguments);
        assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        assert_eq!(String::from_utf8_lossy(&output.stdout), built, "scripts/quad: usage");
    }
    assert!(!nowhere.exists(), "nothing was built");
}

#[test]
fn the_supervisor_restarts_whatever_is_killed() {
    if !have("ffmpeg") {
        skip("quad_command: killed kernels", "ffmpeg is not installed");
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = Quad::new("supervised", port);
    let output = quad.up(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    for part in [Part::Net, Part::Encode, Part::Process] {
        assert!(within(PATIENCE, || wire.units() >= 30));
        let before = wire.units();
        let pid = quad.status().1["kernels"][part.short()]["pid"].as_i64().unwrap();
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
        assert!(within(PATIENCE, || wire.units() >= before + 60), "{part:?}: {}", said(&quad.run(&["logs"])));
        let (code, status) = quad.status();
        assert_eq!(code, Some(0), "{status}");
        assert_eq!(status["kernels"][part.short()]["restarts"], 1, "{status}");
    }
    let restarted = quad.run(&["restart", "encode"]);
    assert!(restarted.status.success(), "{}", said(&restarted));
    let before = wire.units();
    assert!(within(PATIENCE, || wire.units() >= before + 30));
    quad.down();
    let packets = wire.packets();
    let (ordered, faults) = in_order(&packets);
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    let stream: Vec<u8> = units(&ordered).iter().flat_map(|unit| unit.annex_b()).collect();
    let ids = decode(&stream, 1280, 720).clean();
    assert_eq!(ids.first(), Some(&1));
    assert_contiguous(&ids);
}

#[test]
fn down_cleans_up_after_a_supervisor_that_was_killed() {
    let quad = Quad::new("orphans", free_rtp_port());
    let output = quad.up(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let (_, status) = quad.status();
    let supervisor = status["supervisor"]["pid"].as_i64().unwrap();
    kill(Pid::from_raw(supervisor as i32), Signal::SIGKILL).unwrap();
    // Kernels do not die with it, and another one adopts them.
    let gone = || quad.status().1["supervisor"].is_null();
    assert!(within(PATIENCE, gone));
    let adopted = quad.up(&[]);
    assert_eq!(adopted.status.code(), Some(0), "{}", said(&adopted));
    let (_, now) = quad.status();
    assert_eq!(now["kernels"]["capture"]["pid"], status["kernels"]["capture"]["pid"]);
    let supervisor = now["supervisor"]["pid"].as_i64().unwrap();
    kill(Pid::from_raw(supervisor as i32), Signal::SIGKILL).unwrap();
    assert!(within(PATIENCE, gone));
    quad.down();
    for part in Part::ALL {
        let pid = now["kernels"][part.short()]["pid"].as_i64().unwrap();
        let path = format!("/proc/{pid}/exe");
        let alive = || std::fs::read_link(&path).is_ok_and(|exe| exe.ends_with(part.binary()));
        assert!(within(Duration::from_secs(2), || !alive()), "{part:?} lives on");
    }
}

#[test]
fn live_keys_are_set_and_others_are_refused() {
    let quad = Quad::new("set", free_rtp_port());
    let output = quad.up(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let set = quad.run(&["set", "encode.bitrate_kbps=2345"]);
    assert!(set.status.success(), "{}", said(&set));
    let followed = || quad.status().1["kernels"]["encode"].to_string().contains("2345");
    assert!(within(PATIENCE, followed), "{}", quad.status().1["kernels"]["encode"]);
    let refused = quad.run(&["set", "capture.fps=25"]);
    assert!(!refused.status.success() && said(&refused).contains("quad swap capture"), "{}", said(&refused));
    quad.down();
}

#[test]
fn what_a_kernel_cannot_do_is_not_kept_by_set_and_ends_no_later_one() {
    let quad = Quad::new("setno", free_rtp_port());
    let output = quad.up(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    // Beyond every level of H.264; no such host (RFC 6761 section 6.4).
    let cases = [("encode.bitrate_kbps=100000000", "encode"), ("net.rtp.destination=nohost.invalid:5004", "net")];
    for (set, kernel) in cases {
        let refused = quad.run(&["set", set]);
        println!("{}", said(&refused));
        assert_eq!(refused.status.code(), Some(78), "{set}: {}", said(&refused));
        let epoch = quad.status().1["kernels"][kernel]["epoch"].as_u64().unwrap();
        let pid = quad.status().1["kernels"][kernel]["pid"].as_i64().unwrap();
        kill(Pid::from_raw(pid as i32), Signal::SIGKILL).unwrap();
        let again = || {
            let status = quad.status().1;
            status["kernels"][kernel]["epoch"].as_u64() > Some(epoch) && status["kernels"][kernel]["state"] == "running"
        };
        assert!(within(PATIENCE, again), "{set}: {}", quad.status().1["kernels"][kernel]);
    }
    quad.down();
}

#[test]
fn an_instance_has_one_supervisor_and_every_command_of_another_directory_says_so() {
    let quad = Quad::new("elsewhere", free_rtp_port());
    let output = quad.up(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let before = quad.status().1;
    let elsewhere = tempfile::tempdir().unwrap();
    let run = |arguments: &[&str]| quad.command(arguments).env("XDG_RUNTIME_DIR", elsewhere.path()).output().unwrap();
    let swap = ["swap", "encode", "--set", "encode.gop=30"];
    for arguments in [&["up"][..], &["down"], &["set", "encode.bitrate_kbps=900"], &["restart", "encode"], &swap] {
        let refused = run(arguments);
        assert_eq!(refused.status.code(), Some(64), "{arguments:?}: {}", said(&refused));
        assert!(said(&refused).contains("XDG_RUNTIME_DIR"), "{arguments:?}: {}", said(&refused));
    }
    let status = run(&["status"]);
    assert!(said(&status).contains("a supervisor with another XDG_RUNTIME_DIR"), "{}", said(&status));
    let after = quad.status().1;
    for kernel in ["capture", "process", "encode", "net"] {
        assert_eq!(after["kernels"][kernel]["pid"], before["kernels"][kernel]["pid"], "{kernel} was touched");
    }
    quad.down();
}

#[test]
fn the_status_names_the_destination_that_was_set() {
    let quad = Quad::new("setto", free_rtp_port());
    let output = quad.up(&[]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let to = format!("127.0.0.1:{}", free_rtp_port());
    let set = quad.run(&["set", &format!("net.rtp.destination={to}")]);
    assert!(set.status.success(), "{}", said(&set));
    let named = || quad.status().1["outputs"].to_string().contains(&to);
    assert!(within(PATIENCE, named), "{}", quad.status().1["outputs"]);
    quad.down();
}

#[test]
fn an_up_that_cannot_work_says_why_and_leaves_nothing() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("net.http.listen={}", holder.local_addr().unwrap());
    let cases: [(&[&str], i32, &str); 9] = [
        (&["--set", "encode.bitrate_kbp=3"], 78, "encode.bitrate_kbps"),
        (&["--set", "foo"], 64, "KEY=VALUE"),
        (&["--set", "capture.cpus=999"], 78, "999"),
        (&["--set", "capture.source=file", "--set", "capture.path=/nonexistent.y4m"], 78, "/nonexistent.y4m"),
        (&["--set", "encode.codec=av1"], 78, "openh264 makes only h264"),
        (&["--set", "encode.backend=vaapi", "--set", "encode.device=/dev/null"], 69, "/dev/null"),
        (&["--set", "encode.intra_refresh=true"], 78, "intra_refresh"),
        (&["--set", "net.rtp.fec=flexfec"], 69, "net.rtp.fec"),
        // Something the start needs is not to be had now.
        (&["--set", &taken], 69, "in use"),
    ];
    for (more, code, text) in cases {
        let quad = Quad::new("fails", free_rtp_port());
        let since = Instant::now();
        let output = quad.up(more);
        println!("{more:?}: {:?} after {:?}: {}", output.status.code(), since.elapsed(), said(&output).trim());
        assert_eq!(output.status.code(), Some(code), "{more:?}: {}", said(&output));
        assert!(said(&output).contains(text), "{more:?}: {}", said(&output));
        assert_eq!(quad.pipeline.objects(), Vec::<String>::new(), "{more:?}");
        assert!(!quad.pipeline.runtime().exists(), "{more:?} leaves its directory");
        assert_eq!(quad.status().0, Some(2), "{more:?}");
    }
}
