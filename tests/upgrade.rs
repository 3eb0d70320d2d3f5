//! `quad upgrade` between two builds: kernel by kernel where they share the rings' layout, else by a restart of all that
//! keeps the RTP stream.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use system_tests::bitstream::units;
use system_tests::build::{binaries, root};
use system_tests::pipeline::{Part, free_rtp_port};
use system_tests::quad::{Quad, said};
use system_tests::receiver::{assert_contiguous, decode};
use system_tests::tools::{need, within};
use system_tests::wire::{Faults, Wire, in_order, longest_gap};

const PATIENCE: Duration = Duration::from_secs(20);
const PROGRAMS: [&str; 5] = ["kernel-a-capture", "kernel-b-process", "kernel-c-encode", "kernel-d-net", "quadctl"];
/// A quarter of 720p: these builds are made to be made quickly, not to be quick.
const SIZE: (usize, usize) = (640, 360);

/// The binaries of another build: its version carries `mark`, and with `salt` its rings have another layout.
fn build(mark: &str, salt: bool) -> PathBuf {
    // Of the profile that this test was built with.
    let own = std::env::current_exe().unwrap();
    let profile = own.parent().unwrap().parent().unwrap();
    let target = profile.parent().unwrap().join("upgrade").join(mark);
    let made = target.join("debug");
    if !made.exists() {
        seed(profile, &made);
    }
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(["build", "--locked", "-q"]).env("CARGO_TARGET_DIR", &target);
    command.args(PROGRAMS.iter().flat_map(|package| ["-p", package]));
    // The optimiser takes most of the time of a build; only the pattern's pixels need it.
    for package in ["shm-protocol", "kernel-host", "kernel-b-process", "kernel-c-encode", "kernel-d-net", "quadctl"] {
        command.args(["--config", &format!("profile.dev.package.{package}.opt-level=0")]);
    }
    command.env("QUAD_BUILD", mark).env_remove("QUAD_LAYOUT_SALT").stdout(Stdio::null());
    if salt {
        command.env("QUAD_LAYOUT_SALT", mark);
    }
    assert!(command.status().unwrap().success(), "The build {mark} fails");
    made
}

/// Fills a target directory with the dependencies that were built already, so that only our own packages are left to
/// build. What Cargo replaces is linked, what it writes into is copied. Without it the build only takes longer.
fn seed(from: &Path, to: &Path) {
    std::fs::create_dir_all(to.join("deps")).unwrap();
    let ours = ["shm_protocol", "kernel_", "quad", "system_tests"];
    for entry in std::fs::read_dir(from.join("deps")).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let library = name.strip_prefix("lib").is_some_and(|rest| !ours.iter().any(|own| rest.starts_with(own)));
        if library && !name.ends_with(".d") {
            // Gone in between: then it is built.
            let _ = std::fs::hard_link(entry.path(), to.join("deps").join(name));
        }
    }
    for folder in ["build", ".fingerprint"] {
        let _ = Command::new("cp").arg("-a").arg(from.join(folder)).arg(to).status();
    }
}

fn quad(label: &str, port: u16) -> Quad {
    let mut quad = Quad::new(label, port);
    quad.pipeline.set("capture.width", &SIZE.0.to_string()).set("capture.height", &SIZE.1.to_string());
    quad
}

/// Every kernel's figure of that name.
fn figures(quad: &Quad, name: &str) -> [serde_json::Value; 4] {
    let status = quad.status().1;
    Part::ALL.map(|part| status["kernels"][part.short()][name].clone())
}

/// Frame ids of everything that arrived, which no decoder may complain about.
fn decoded(wire: &Wire) -> Vec<u64> {
    let packets = wire.packets();
    let (ordered, faults) = in_order(&packets);
    // One source, no gap in the sequence numbers, rising timestamps, and what came again came with the same bytes.
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    eprintln!("longest gap on the wire: {:?}", longest_gap(&packets));
    let stream: Vec<u8> = units(&ordered).iter().flat_map(|unit| unit.annex_b()).collect();
    decode(&stream, SIZE.0, SIZE.1).clean()
}

#[test]
fn a_build_of_the_same_layout_takes_over_kernel_by_kernel_and_no_frame_is_lost() {
    if !need("upgrade: rolling", &["ffmpeg"]) {
        return;
    }
    let next = build("second", false);
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = quad("rolling", port);
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(within(PATIENCE, || wire.units() >= 30));
    let supervisor = quad.status().1["supervisor"]["pid"].clone();
    let before = figures(&quad, "version");
    let output = quad.run(&["upgrade", "--binaries", next.to_str().unwrap()]);
    eprintln!("{}", said(&output));
    assert!(output.status.success(), "{}{}", said(&output), said(&quad.run(&["logs"])));
    for (version, old) in figures(&quad, "version").iter().zip(&before) {
        assert_eq!(version.as_str().unwrap(), format!("{}+second", old.as_str().unwrap()));
    }
    let (code, status) = quad.status();
    assert_eq!((code, &status["supervisor"]["pid"]), (Some(0), &supervisor), "{status}");
    assert_eq!((figures(&quad, "restarts"), figures(&quad, "swaps")), ([0; 4].map(Into::into), [1; 4].map(Into::into)));
    let program = std::fs::read_link(format!("/proc/{supervisor}/exe")).unwrap();
    assert_eq!(program, next.join("quadctl").canonicalize().unwrap());
    // Later starts are of the new build too, and the old supervisor's children are taken leave of.
    let units_before = wire.units();
    let output = quad.run(&["restart", "encode"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(within(PATIENCE, || wire.units() >= units_before + 45), "{}", said(&quad.run(&["logs"])));
    assert!(figures(&quad, "version").iter().all(|version| version.as_str().unwrap().ends_with("+second")));
    quad.down();
    let ids = decoded(&wire);
    assert_eq!(ids.first(), Some(&1));
    assert_contiguous(&ids);
}

#[test]
fn a_build_of_another_layout_restarts_all_and_the_rtp_stream_goes_on() {
    if !need("upgrade: another layout", &["ffmpeg"]) {
        return;
    }
    let next = build("third", true);
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = quad("layout", port);
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(within(PATIENCE, || wire.units() >= 30));
    // A single kernel of it is refused before it is started.
    let encoder = next.join("kernel-c-encode");
    let refused = quad.run(&["swap", "encode", "--binary", encoder.to_str().unwrap()]);
    assert_eq!(refused.status.code(), Some(64), "{}", said(&refused));
    assert!(said(&refused).contains("quad upgrade"), "{}", said(&refused));
    let output = quad.run(&["upgrade", "--binaries", next.to_str().unwrap()]);
    eprintln!("{}", said(&output));
    assert!(output.status.success(), "{}{}", said(&output), said(&quad.run(&["logs"])));
    let before = wire.units();
    assert!(within(PATIENCE, || wire.units() >= before + 60), "{}", said(&quad.run(&["logs"])));
    assert!(figures(&quad, "version").iter().all(|version| version.as_str().unwrap().ends_with("+third")));
    quad.down();
    let ids = decoded(&wire);
    assert_eq!(ids.first(), Some(&1));
    assert!(ids.windows(2).all(|pair| pair[0] < pair[1]), "Frame ids rise across the restart");
    let jumps = ids.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
    assert!(jumps <= 1, "Only the restart itself costs frames: {jumps} gaps");
}

#[test]
fn an_upgrade_to_what_is_no_build_touches_nothing() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = quad("nobuild", port);
    assert_eq!(quad.run(&["upgrade"]).status.code(), Some(69), "Nothing runs");
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(within(PATIENCE, || wire.units() >= 10));
    let before = figures(&quad, "pid");
    let folder = quad.pipeline.folder().join("build");
    std::fs::create_dir(&folder).unwrap();
    let refused = |what: &str, text: &str| {
        let output = quad.run(&["upgrade", "--binaries", folder.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(64), "{what}: {}", said(&output));
        assert!(said(&output).contains(text), "{what}: {}", said(&output));
    };
    refused("an empty directory", "quadctl cannot be started");
    for program in PROGRAMS {
        std::os::unix::fs::symlink(binaries().join("kernel-d-net"), folder.join(program)).unwrap();
    }
    refused("a kernel in quadctl's place", "is not quadctl");
    std::fs::remove_file(folder.join("quadctl")).unwrap();
    std::os::unix::fs::symlink(binaries().join("quadctl"), folder.join("quadctl")).unwrap();
    refused("net in the place of all kernels", "is for net, not for capture");
    assert_eq!(figures(&quad, "pid"), before);
    let units_before = wire.units();
    assert!(within(PATIENCE, || wire.units() >= units_before + 10));
    quad.down();
}

#[test]
fn an_upgrade_whose_encoder_never_starts_is_taken_back() {
    use std::os::unix::fs::PermissionsExt as _;
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = quad("takenback", port);
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(within(PATIENCE, || wire.units() >= 10));
    let folder = quad.pipeline.folder().join("build");
    std::fs::create_dir(&folder).unwrap();
    for program in PROGRAMS {
        std::os::unix::fs::symlink(binaries().join(program), folder.join(program)).unwrap();
    }
    // It says all the right things and then does nothing.
    let encoder = folder.join("kernel-c-encode");
    let real = binaries().join("kernel-c-encode");
    let script = format!(
        "#!/bin/bash\nfor word in \"$@\"; do case $word in --version | --check) exec {} \"$@\" ;; esac; done\nexec sleep 60\n",
        real.display()
    );
    std::fs::remove_file(&encoder).unwrap();
    std::fs::write(&encoder, script).unwrap();
    std::fs::set_permissions(&encoder, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = quad.run(&["upgrade", "--binaries", folder.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(75), "{}", said(&output));
    assert!(said(&output).contains("of the old build again"), "{}", said(&output));
    // What starts anew is what worked.
    let killed = quad.pid(Part::Encode);
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(killed as i32), nix::sys::signal::Signal::SIGKILL).unwrap();
    let units_before = wire.units();
    assert!(within(PATIENCE, || wire.units() >= units_before + 30), "{}", said(&quad.run(&["logs"])));
    quad.down();
    let (_, faults) = in_order(&wire.packets());
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
}
