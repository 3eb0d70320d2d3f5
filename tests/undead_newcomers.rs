//! Processes that are killed before they hold their lease, and do not die: another takes their place.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use nix::sys::signal::Signal;
use shm_protocol::lease::{KernelState, LeaseInfo, LeaseTable};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::time::{Duration, Instant};
use system_tests::build::binaries;
use system_tests::pipeline::Part;
use system_tests::processes::{Grip, Undead, is_gone, is_stopped, send, stop};
use system_tests::quad::{Quad, said};
use system_tests::tools::{skip, within};
use system_tests::wire::{Faults, Wire, in_order};

const PATIENCE: Duration = Duration::from_secs(20);
/// A newcomer has 3 s to take its lease, is given up 1 s after it was killed, and its successor waits for none of it.
const SUCCEEDED: Duration = Duration::from_millis(6500);

fn lease(quad: &Quad) -> LeaseInfo {
    let table = LeaseTable::observe(quad.pipeline.instance()).unwrap();
    table.info(table.find("encode.main").unwrap())
}

/// Another epoch runs, of a process that is neither of these.
fn succeeded(quad: &Quad, before: &LeaseInfo, undead: u32) {
    let since = Instant::now();
    let runs = || {
        let now = lease(quad);
        now.epoch > before.epoch && now.state == KernelState::Running && now.held && now.pid != undead
    };
    assert!(within(PATIENCE, runs), "{}", quad.log("supervisor"));
    println!("succeeded after {:?}", since.elapsed());
    assert!(since.elapsed() < SUCCEEDED, "{:?}: {}", since.elapsed(), quad.log("supervisor"));
    assert!(!is_gone(undead));
}

/// The stream flows, is whole, and nothing is left.
fn ends_whole(quad: &Quad, wire: &Wire) {
    let units = wire.units();
    assert!(within(PATIENCE, || wire.units() >= units + 30), "{}", said(&quad.run(&["logs"])));
    assert!(within(PATIENCE, || quad.status().0 == Some(0)), "{}", quad.status().1);
    quad.down();
    let (_, faults) = in_order(&wire.packets());
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
}

fn seize(pid: u32) -> Option<Undead> {
    Undead::seize(pid, Grip::Tracer).inspect_err(|why| skip("a newcomer that does not die", why)).ok()
}

/// It has the candidacy, too, which its successor needs.
#[test]
fn a_standby_that_does_not_die_before_it_has_the_lease_is_succeeded() {
    let (quad, wire) = Quad::streaming("undeadstandby", &["--set", "encode.standby=true"]);
    assert!(within(PATIENCE, || lease(&quad).candidate_ready));
    let before = lease(&quad);
    stop(before.candidate_pid);
    let Some(undead) = seize(before.candidate_pid) else { return };
    send(before.pid, Signal::SIGKILL);
    succeeded(&quad, &before, undead.pid());
    assert!(quad.log("supervisor").contains("another takes its place"), "{}", quad.log("supervisor"));
    // Its standby comes as ever.
    assert!(within(PATIENCE, || lease(&quad).candidate_ready));
    let standby = u64::from(lease(&quad).candidate_pid);
    assert!(within(PATIENCE, || quad.status().1["kernels"]["encode"]["standby_pid"] == standby));
    undead.release();
    ends_whole(&quad, &wire);
}

/// Simulated: an encoder that stands still as the first thing it does.
#[test]
fn a_fresh_process_that_does_not_die_before_it_has_the_lease_is_succeeded() {
    let (quad, wire) = Quad::streaming("undeadfresh", &[]);
    let (order, path) = (quad.pipeline.folder().join("stand-still"), quad.pipeline.folder().join("encoder"));
    let encoder = binaries().join("kernel-c-encode");
    let version = Command::new(&encoder).arg("--version").output().unwrap().stdout;
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo '{}' && exit\n[ -e {} ] && kill -STOP $$\nexec {} \"$@\"\n",
        String::from_utf8_lossy(&version).trim(),
        order.display(),
        encoder.display()
    );
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    let output = quad.run(&["swap", "encode", "--binary", path.to_str().unwrap()]);
    assert!(output.status.success(), "{}", said(&output));
    // The predecessor leaves after the successor's probation.
    std::thread::sleep(Duration::from_millis(1500));
    let before = lease(&quad);
    std::fs::write(&order, "").unwrap();
    send(before.pid, Signal::SIGKILL);
    let file = quad.pipeline.runtime().join("encode.main.pid");
    let newcomer =
        || std::fs::read_to_string(&file).ok()?.lines().next()?.parse().ok().filter(|pid| *pid != before.pid);
    assert!(within(PATIENCE, || newcomer().is_some_and(is_stopped)));
    let Some(undead) = newcomer().and_then(seize) else { return };
    std::fs::remove_file(&order).unwrap();
    succeeded(&quad, &before, undead.pid());
    // The supervisor has nothing more to do with it.
    std::thread::sleep(Duration::from_secs(4));
    assert_eq!(quad.log("supervisor").matches("Does not take its lease").count(), 1, "{}", quad.log("supervisor"));
    undead.release();
    let killed = quad.pid(Part::Encode);
    send(killed, Signal::SIGKILL);
    assert!(within(PATIENCE, || quad.pid(Part::Encode) != killed));
    ends_whole(&quad, &wire);
}

/// Simulated: the supervisor's death between the takeover by force and the start of the next process.
#[test]
fn a_process_that_lost_its_lease_by_force_is_not_adopted_by_the_next_supervisor() {
    let (quad, wire) = Quad::streaming("undeadforced", &[]);
    let before = lease(&quad);
    let Some(undead) = seize(before.pid) else { return };
    send(quad.supervisor(), Signal::SIGKILL);
    assert!(within(PATIENCE, || quad.status().1["supervisor"].is_null()));
    send(before.pid, Signal::SIGKILL);
    assert!(within(PATIENCE, || undead.is_held()));
    let table = LeaseTable::observe(quad.pipeline.instance()).unwrap();
    assert!(table.force_takeover("encode.main", before.epoch).unwrap());
    let output = quad.up(&[]);
    assert!(output.status.success() && said(&output).contains("adopted 3 running kernels"), "{}", said(&output));
    succeeded(&quad, &before, undead.pid());
    assert!(!quad.log("supervisor").contains("Does not take its lease"), "{}", quad.log("supervisor"));
    undead.release();
    ends_whole(&quad, &wire);
}
