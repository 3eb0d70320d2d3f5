//! What a supervisor, its files and its newcomers are exposed to: processes that stand still before they hold a lease,
//! and files that somebody damaged. The stream goes on, as the same stream.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;
use system_tests::pipeline::Part;
use system_tests::quad::{Quad, said};
use system_tests::tools::within;
use system_tests::wire::{Faults, Wire, in_order};

const PATIENCE: Duration = Duration::from_secs(20);

fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).unwrap();
}

/// The stream flows, is whole, and of one sender.
fn ends_whole(quad: &Quad, wire: &Wire) {
    let units = wire.units();
    assert!(within(PATIENCE, || wire.units() >= units + 30), "{}", said(&quad.run(&["logs"])));
    assert!(within(PATIENCE, || quad.status().0 == Some(0)), "{}", quad.status().1);
    quad.down();
    let packets = wire.packets();
    let (_, faults) = in_order(&packets);
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
}

#[test]
fn a_standby_that_stands_still_costs_seconds_and_not_the_stream() {
    let (quad, wire) = Quad::streaming("stillstandby", &["--set", "encode.standby=true"]);
    let standby = || quad.status().1["kernels"]["encode"]["standby_pid"].as_u64();
    assert!(within(PATIENCE, || standby().is_some()));
    send(standby().unwrap() as u32, Signal::SIGSTOP);
    send(quad.pid(Part::Encode), Signal::SIGKILL);
    assert!(
        within(PATIENCE, || quad.log("supervisor").contains("Does not take its lease")),
        "{}",
        quad.log("supervisor")
    );
    // And one that is to make room for a swap need not be able to hear that.
    assert!(within(PATIENCE, || standby().is_some()));
    send(standby().unwrap() as u32, Signal::SIGSTOP);
    let output = quad.run(&["swap", "encode"]);
    assert!(output.status.success(), "{}", said(&output));
    ends_whole(&quad, &wire);
}

#[test]
fn damaged_files_of_the_runtime_directory_neither_stop_the_stream_nor_its_supervision() {
    let (quad, wire) = Quad::streaming("files", &[]);
    let runtime = quad.pipeline.runtime();
    let supervisor = quad.supervisor();
    std::fs::write(runtime.join("supervisor.pid"), [0xff; 200]).unwrap();
    let healed =
        || std::fs::read_to_string(runtime.join("supervisor.pid")).is_ok_and(|t| t == format!("{supervisor}\n"));
    assert!(within(PATIENCE, healed));
    // What was set is lost and said to be; the kernel starts all the same.
    std::fs::write(runtime.join("overrides.toml"), "{{{{").unwrap();
    let killed = quad.pid(Part::Encode);
    send(killed, Signal::SIGKILL);
    assert!(within(PATIENCE, || quad.log("encode.main").contains("what was set before is not in effect")));
    let told = || quad.status().1["kernels"]["encode"]["message"].as_str().is_some_and(|m| m.contains("overrides"));
    assert!(within(PATIENCE, told), "the status says so too: {}", quad.status().1);
    let units = wire.units();
    assert!(within(PATIENCE, || wire.units() >= units + 30), "{}", quad.log("encode.main"));
    // The damaged file is still there when the supervisor begins anew in its process, and when another one comes, whose
    // settings of live keys are to be written to that very file. Neither may leave the kernels alone.
    std::fs::remove_file(runtime.join("supervisor.pid")).unwrap();
    assert!(within(PATIENCE, healed), "{}", quad.log("supervisor"));
    send(supervisor, Signal::SIGKILL);
    assert!(within(PATIENCE, || quad.status().1["supervisor"].is_null()));
    std::fs::write(runtime.join("overrides.toml"), "{{{{").unwrap();
    let output = quad.up(&[]);
    assert!(output.status.success() && said(&output).contains("adopted 4 running kernels"), "{}", said(&output));
    assert!(said(&output).contains("overrides.toml held is not in effect"), "{}", said(&output));
    let supervisor = quad.supervisor();
    let killed = quad.pid(Part::Capture);
    send(killed, Signal::SIGKILL);
    assert!(within(PATIENCE, || quad.pid(Part::Capture) != killed && quad.status().0 == Some(0)));
    // The whole directory goes, with the log and the socket; the same process supervises anew.
    std::fs::remove_dir_all(&runtime).unwrap();
    assert!(within(PATIENCE, || runtime.join("supervisor.sock").exists()));
    let killed = quad.pid(Part::Process);
    send(killed, Signal::SIGKILL);
    assert!(within(PATIENCE, || quad.pid(Part::Process) != killed && quad.status().0 == Some(0)));
    assert_eq!(quad.supervisor(), supervisor);
    ends_whole(&quad, &wire);
}

#[test]
fn a_session_lost_together_with_the_lease_table_is_written_anew_before_its_sender_ends() {
    let (quad, wire) = Quad::streaming("together", &[]);
    for object in ["leases", "net.main.session"] {
        std::fs::remove_file(format!("/dev/shm/quad.{}.{object}", quad.pipeline.instance())).unwrap();
    }
    let renewed = || quad.log("supervisor").contains("was removed while the instance ran");
    assert!(within(PATIENCE, renewed), "{}", quad.log("supervisor"));
    ends_whole(&quad, &wire);
    let senders: std::collections::BTreeSet<u32> = wire.packets().iter().map(|packet| packet.ssrc).collect();
    assert_eq!(senders.len(), 1, "another stream began");
}
