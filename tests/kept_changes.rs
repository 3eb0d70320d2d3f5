//! What `set` and `swap` changed holds for later processes too, whoever dies; and what a swap refuses.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use system_tests::bitstream::{Unit, units};
use system_tests::build::binaries;
use system_tests::pipeline::{Part, free_rtp_port};
use system_tests::processes::is_gone;
use system_tests::quad::{Quad, said};
use system_tests::tools::within;
use system_tests::wire::{Faults, Wire, in_order};

const PATIENCE: Duration = Duration::from_secs(20);

/// What our own encoder says of itself.
fn identity() -> String {
    let output = Command::new(binaries().join("kernel-c-encode")).arg("--version").output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Another maker's binary: it says `identity`, then does `work`. Its file's name says nothing.
fn maker(folder: &Path, name: &str, identity: &str, work: &str) -> PathBuf {
    let path = folder.join(name);
    let text = format!("#!/bin/sh\nif [ \"$1\" = --version ]; then echo '{identity}'; exit 0; fi\n{work}\n");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn encode(quad: &Quad) -> serde_json::Value {
    quad.status().1["kernels"]["encode"].clone()
}

fn end(pid: &serde_json::Value) {
    kill(Pid::from_raw(pid.as_i64().unwrap() as i32), Signal::SIGKILL).unwrap();
}

/// Another maker's encoder, which is ours and counts its starts.
struct Acme {
    binary: PathBuf,
    starts: PathBuf,
}

impl Acme {
    fn new(quad: &Quad) -> Acme {
        let starts = quad.pipeline.folder().join("starts");
        let work = format!("echo start >> {}\nexec {}/kernel-c-encode \"$@\"", starts.display(), binaries().display());
        let name = identity().replace("kernel-c-encode", "acme-encode");
        Acme { binary: maker(quad.pipeline.folder(), "acme-2026", &name, &work), starts }
    }

    fn started(&self) -> usize {
        std::fs::read_to_string(&self.starts).unwrap_or_default().lines().count()
    }

    /// To it, with a setting.
    fn swap(&self, quad: &Quad) {
        let swap = quad.run(&["swap", "encode", "--binary", self.binary.to_str().unwrap(), "--set", "encode.gop=10"]);
        assert!(swap.status.success(), "{}", said(&swap));
        assert_eq!(self.started(), 1);
    }
}

/// Whether the setting of the swap to [`Acme`] is kept.
fn kept(quad: &Quad) -> bool {
    std::fs::read_to_string(quad.pipeline.runtime().join("overrides.toml"))
        .is_ok_and(|text| text.contains("encode.gop"))
}

/// Kills the encoder and waits for frames of the next one.
fn kill_encoder(quad: &Quad, wire: &Wire) {
    let before = encode(quad);
    end(&before["pid"]);
    let next = || encode(quad)["epoch"].as_u64() > before["epoch"].as_u64();
    assert!(within(PATIENCE, next), "{}", said(&quad.run(&["logs"])));
    let units = wire.units();
    assert!(within(PATIENCE, || wire.units() >= units + 40), "{}", said(&quad.run(&["logs"])));
}

#[test]
fn what_set_and_swap_changed_outlives_kernels_and_supervisor() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = Quad::new("kept", port);
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    let acme = Acme::new(&quad);
    let started = || acme.started();
    assert!(quad.run(&["set", "encode.bitrate_kbps=2345"]).status.success());
    acme.swap(&quad);
    // An IDR every 10 frames at the most, and the bitrate that was set.
    let holds = |since: usize| {
        let packets = wire.packets();
        let (ordered, _) = in_order(&packets[since..]);
        let units: Vec<Unit> = units(&ordered);
        let idrs: Vec<usize> = units.iter().enumerate().filter(|(_, unit)| unit.is_idr()).map(|(at, _)| at).collect();
        assert!(idrs.len() >= 3 && idrs.windows(2).all(|pair| pair[1] - pair[0] <= 10), "{idrs:?} of {}", units.len());
        let encode = encode(&quad);
        assert_eq!(encode["counters"]["target_kbps"], 2345, "{encode}");
    };
    // The predecessor of the swap must be gone, or the death is its business.
    assert!(within(PATIENCE, || kept(&quad)));
    let since = wire.count();
    kill_encoder(&quad, &wire);
    assert_eq!((started(), encode(&quad)["restarts"].as_u64(), encode(&quad)["swaps"].as_u64()), (2, Some(1), Some(1)));
    holds(since);
    // Another supervisor knows of it too.
    end(&quad.status().1["supervisor"]["pid"]);
    assert!(within(PATIENCE, || quad.status().1["supervisor"].is_null()));
    let output = quad.up(&[]);
    assert!(output.status.success() && said(&output).contains("adopted 4 running kernels"), "{}", said(&output));
    let since = wire.count();
    kill_encoder(&quad, &wire);
    assert_eq!((started(), encode(&quad)["restarts"].as_u64(), encode(&quad)["swaps"].as_u64()), (3, Some(2), Some(1)));
    holds(since);
    // A binary that is gone: the stream goes on with the build's own, and one line says so.
    std::fs::remove_file(&acme.binary).unwrap();
    kill_encoder(&quad, &wire);
    kill_encoder(&quad, &wire);
    assert_eq!(started(), 3);
    let log = said(&quad.run(&["logs", "supervisor"]));
    assert_eq!(log.matches("The binary it was swapped to is gone").count(), 1, "{log}");
    quad.down();
    let (_, faults) = in_order(&wire.packets());
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
}

#[test]
fn binaries_that_cannot_take_over_are_refused_before_they_are_started() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = Quad::new("refused", port);
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    let before = encode(&quad);
    let folder = quad.pipeline.folder();
    let net = binaries().join("kernel-d-net");
    let other = maker(folder, "other-layout", "acme-encode 1 (ABI 1.0, layout 0x0000000000000001)", "exec sleep 60");
    let stuck = folder.join("stuck");
    std::fs::write(&stuck, "#!/bin/sh\nexec sleep 60\n").unwrap();
    std::fs::set_permissions(&stuck, std::fs::Permissions::from_mode(0o755)).unwrap();
    for (binary, reason) in [
        (net.as_path(), "is for net, not for encode"),
        (Path::new("/bin/true"), "is no kernel"),
        (other.as_path(), "quad upgrade"),
        (stuck.as_path(), "does not answer --version within 2 s"),
        (Path::new("/etc/passwd"), "cannot be started"),
    ] {
        let since = Instant::now();
        let output = quad.run(&["swap", "encode", "--binary", binary.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(64), "{}", said(&output));
        assert!(said(&output).contains(reason) && said(&output).lines().count() == 1, "{}", said(&output));
        assert!(since.elapsed() < Duration::from_secs(4), "{:?}", since.elapsed());
    }
    // Those that look right and die at once: how they ended is told, and where to read on.
    for (name, work, reason) in [
        ("killed", "kill -9 $$", "its successor ended (SIGKILL): It said nothing; its log is"),
        ("left", "exit 42", "its successor ended (exit 42): It said nothing; its log is"),
        ("said", "echo Licence has expired >&2; exit 69", "missing): Licence has expired"),
    ] {
        let binary = maker(folder, name, &identity(), work);
        let output = quad.run(&["swap", "encode", "--binary", binary.to_str().unwrap()]);
        assert_eq!(output.status.code(), Some(75), "{}", said(&output));
        assert!(said(&output).contains(reason), "{}", said(&output));
    }
    let after = encode(&quad);
    assert_eq!((&after["pid"], &after["swaps"], &after["restarts"]), (&before["pid"], &0.into(), &0.into()));
    let units = wire.units();
    assert!(within(PATIENCE, || wire.units() >= units + 30));
    quad.down();
}

#[test]
fn a_successor_that_dies_at_work_leaves_an_encoder_with_all_its_figures() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = Quad::new("back", port);
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(within(PATIENCE, || wire.units() >= 30));
    let old = encode(&quad);
    let acme = Acme::new(&quad);
    acme.swap(&quad);
    // Within its probation: the predecessor is still there and goes on.
    let new = encode(&quad);
    end(&new["pid"]);
    assert!(
        within(PATIENCE, || encode(&quad)["epoch"] == 3 && encode(&quad)["state"] == "running"),
        "{}",
        encode(&quad)
    );
    let now = encode(&quad);
    assert_eq!((&now["pid"], &now["cpus"], &now["version"]), (&old["pid"], &old["cpus"], &old["version"]), "{now}");
    let units = wire.units();
    assert!(within(PATIENCE, || wire.units() >= units + 30));
    // What starts next is what ran before, with its settings; the epochs of the swap and of its end are no restarts.
    kill_encoder(&quad, &wire);
    let now = encode(&quad);
    assert_eq!((acme.started(), kept(&quad), &now["restarts"], &now["swaps"]), (1, false, &1.into(), &1.into()));
    // It is the one under supervision, also for those who ask now.
    let restart = quad.run(&["restart", "encode"]);
    assert!(restart.status.success(), "{}", said(&restart));
    assert_eq!(quad.status().0, Some(0));
    assert!(Part::ALL.iter().all(|part| quad.status().1["kernels"][part.short()]["state"] == "running"));
    quad.down();
    let (_, faults) = in_order(&wire.packets());
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
}

#[test]
fn a_supervisor_that_dies_in_a_swaps_probation_leaves_its_end_to_the_next() {
    for proves_itself in [true, false] {
        let (quad, wire) = Quad::streaming("probation", &[]);
        let acme = Acme::new(&quad);
        acme.swap(&quad);
        let supervisor = quad.supervisor();
        kill(Pid::from_raw(supervisor as i32), Signal::SIGKILL).unwrap();
        if !proves_itself {
            end(&encode(&quad)["pid"]);
            let back = || encode(&quad)["epoch"] == 3 && encode(&quad)["state"] == "running";
            assert!(within(PATIENCE, back), "{}", encode(&quad));
        }
        assert!(within(PATIENCE, || quad.status().1["supervisor"].is_null()));
        let output = quad.up(&[]);
        assert!(output.status.success() && said(&output).contains("adopted 4 running kernels"), "{}", said(&output));
        if proves_itself {
            assert!(within(PATIENCE, || kept(&quad)), "{}", quad.log("supervisor"));
        } else {
            let told = || quad.log("supervisor").contains("failed in its probation");
            assert!(within(PATIENCE, told), "{}", quad.log("supervisor"));
        }
        kill_encoder(&quad, &wire);
        assert_eq!((acme.started(), kept(&quad)), if proves_itself { (2, true) } else { (1, false) });
        quad.down();
        let (_, faults) = in_order(&wire.packets());
        assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    }
}

#[test]
fn a_successor_that_dies_when_its_predecessor_has_just_left_is_followed_by_another() {
    let (quad, wire) = Quad::streaming("justleft", &[]);
    let old = encode(&quad);
    assert!(quad.run(&["swap", "encode"]).status.success());
    let new = encode(&quad);
    // So that it learns of both ends at once.
    let supervisor = Pid::from_raw(quad.supervisor() as i32);
    kill(supervisor, Signal::SIGSTOP).unwrap();
    let gone = |process: &serde_json::Value| is_gone(process["pid"].as_u64().unwrap() as u32);
    assert!(within(PATIENCE, || gone(&old)));
    end(&new["pid"]);
    assert!(within(PATIENCE, || gone(&new)));
    kill(supervisor, Signal::SIGCONT).unwrap();
    let units = wire.units();
    assert!(within(PATIENCE, || wire.units() >= units + 30), "{}", quad.log("supervisor"));
    quad.down();
}
