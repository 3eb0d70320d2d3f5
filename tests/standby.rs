//! Warm standbys: the second process of a kernel takes over from the first one's death without the supervisor.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;
use system_tests::pipeline::{Part, free_rtp_port};
use system_tests::quad::{Quad, said};
use system_tests::tools::within;
use system_tests::wire::{Faults, Wire, in_order, longest_gap};

const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn a_standby_takes_over_and_the_stream_goes_on() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = Quad::new("standby", port);
    let output =
        quad.up(&["--set", "process.standby=true", "--set", "encode.standby=true", "--set", "net.standby=true"]);
    assert!(output.status.success(), "{}", said(&output));
    for part in [Part::Process, Part::Encode, Part::Net] {
        let kernel = || quad.status().1["kernels"][part.short()].clone();
        assert!(within(PATIENCE, || kernel()["standby_pid"].is_number()), "{part:?}: {}", kernel());
        let before = kernel();
        let units = wire.units();
        kill(Pid::from_raw(before["pid"].as_i64().unwrap_or_default() as i32), Signal::SIGKILL).ok();
        assert!(within(PATIENCE, || wire.units() >= units + 30), "{part:?}");
        assert!(within(PATIENCE, || kernel()["pid"] == before["standby_pid"]), "{part:?}: {}", kernel());
        // And gets a standby of its own.
        assert!(within(PATIENCE, || kernel()["standby_pid"].is_number()), "{part:?}: {}", kernel());
    }
    quad.down();
    let (_, faults) = in_order(&wire.packets());
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    eprintln!("longest gap on the wire: {:?}", longest_gap(&wire.packets()));
}
