//! Warm standbys: the second process of a kernel is prepared, and takes over from the first one's death alone.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shm_protocol::lease::{LeaseInfo, LeaseTable};
use std::time::Duration;
use system_tests::pipeline::{Part, free_rtp_port};
use system_tests::quad::{Quad, said};
use system_tests::tools::within;
use system_tests::wire::{Faults, Wire, in_order, longest_gap};

const PATIENCE: Duration = Duration::from_secs(20);
/// Kernels that can have a standby, and what theirs says that it has prepared.
const STANDBYS: [(Part, &str); 3] =
    [(Part::Process, "by reference"), (Part::Encode, "openh264 1280x720"), (Part::Net, "all but session and ports")];

/// An instance with all three standbys, seen through its lease table: no supervisor is asked.
struct Setup {
    table: std::sync::Arc<LeaseTable>,
    quad: Quad,
}

impl Setup {
    fn up(label: &str, port: u16, more: &[&str]) -> Setup {
        let quad = Quad::new(label, port);
        let standbys = ["--set", "process.standby=true", "--set", "encode.standby=true", "--set", "net.standby=true"];
        let output = quad.up(&[&standbys, more].concat());
        assert!(output.status.success(), "{}", said(&output));
        let table = LeaseTable::observe(quad.pipeline.instance()).unwrap();
        Setup { table, quad }
    }

    fn info(&self, part: Part) -> LeaseInfo {
        self.table.info(self.table.find(&format!("{}.main", part.short())).unwrap())
    }

    /// The pid of a standby that says that it is ready.
    fn standby(&self, part: Part) -> u32 {
        assert!(within(PATIENCE, || self.info(part).candidate_ready), "{part:?}: {:?}", self.info(part));
        self.info(part).candidate_pid
    }

    /// How many processes of a kernel said that they are prepared.
    fn prepared(&self, part: Part, what: &str) -> usize {
        let log = self.quad.pipeline.runtime().join(format!("{}.main.log", part.short()));
        let text = std::fs::read_to_string(log).unwrap();
        text.lines().filter(|line| line.contains("Prepared") && line.contains(what)).count()
    }
}

/// A process that stands still until this is dropped.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: i64) -> Stopped {
        let pid = Pid::from_raw(pid as i32);
        kill(pid, Signal::SIGSTOP).unwrap();
        assert!(within(PATIENCE, || Stopped::state(pid) == Some('T')));
        Stopped(pid)
    }

    fn state(pid: Pid) -> Option<char> {
        std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?.rsplit_once(") ")?.1.chars().next()
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

#[test]
fn a_standby_takes_over_while_the_supervisor_stands_still() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let setup = Setup::up("standby", port, &[]);
    let supervisor = setup.quad.status().1["supervisor"]["pid"].as_i64().unwrap();
    for (part, _) in STANDBYS {
        let standby = setup.standby(part);
        let before = setup.info(part);
        assert_ne!(before.pid, standby);
        let stopped = Stopped::new(supervisor);
        let units = wire.units();
        kill(Pid::from_raw(before.pid as i32), Signal::SIGKILL).unwrap();
        assert!(within(PATIENCE, || wire.units() >= units + 30), "{part:?}");
        let now = setup.info(part);
        assert_eq!((now.pid, now.epoch), (standby, before.epoch + 1), "{part:?}");
        assert_eq!(Stopped::state(stopped.0), Some('T'), "the supervisor had no part in it");
        assert!(!now.candidate_ready, "{part:?}: nobody starts another meanwhile");
        drop(stopped);
        let next = setup.standby(part);
        assert!(next != standby && next != before.pid, "{part:?}");
        assert!(within(PATIENCE, || setup.quad.status().1["kernels"][part.short()]["standby_pid"] == next));
    }
    setup.quad.down();
    let (_, faults) = in_order(&wire.packets());
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    eprintln!("longest gap on the wire: {:?}", longest_gap(&wire.packets()));
}

#[test]
fn a_standby_is_prepared_before_it_says_that_it_is_ready() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let setup = Setup::up("prepared", port, &[]);
    for (part, what) in STANDBYS {
        for death in 1..=2 {
            let _ready = setup.standby(part);
            if death == 1 {
                // Started with the stream: it is ready while there is nothing to prepare for, and prepares after that.
                assert!(within(PATIENCE, || setup.prepared(part, what) == 1), "{part:?}");
            }
            // Read after it said so: what is in the log now was there before.
            assert_eq!(setup.prepared(part, what), death, "{part:?}");
            let (units, epoch) = (wire.units(), setup.info(part).epoch);
            assert!(setup.table.kill_holder(&format!("{}.main", part.short()), epoch));
            assert!(within(PATIENCE, || setup.info(part).epoch > epoch && wire.units() >= units + 15), "{part:?}");
        }
    }
    // What was prepared is what was used, in the second and third encoder alike.
    let log = std::fs::read_to_string(setup.quad.pipeline.runtime().join("encode.main.log")).unwrap();
    let used: Vec<bool> =
        log.lines().filter(|line| line.contains("Encoding")).map(|line| line.contains("prepared=true")).collect();
    assert_eq!(used, [false, true, true], "{log}");
    setup.quad.down();
}

#[test]
fn a_standby_follows_a_stream_that_changes_while_it_waits() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let setup = Setup::up("follow", port, &[]);
    let _ready = setup.standby(Part::Encode);
    // Another size of frame: other pools, another format, other encoders.
    let output = setup.quad.run(&["swap", "capture", "--set", "capture.width=640", "--set", "capture.height=360"]);
    assert!(output.status.success(), "{}", said(&output));
    let follows = || setup.prepared(Part::Encode, "openh264 640x360") >= 1;
    assert!(within(PATIENCE, follows), "the standby prepared itself anew");
    let (units, epoch) = (wire.units(), setup.info(Part::Encode).epoch);
    assert!(setup.table.kill_holder("encode.main", epoch));
    assert!(within(PATIENCE, || setup.info(Part::Encode).epoch > epoch && wire.units() >= units + 30));
    let log = std::fs::read_to_string(setup.quad.pipeline.runtime().join("encode.main.log")).unwrap();
    let last = log.lines().rfind(|line| line.contains("Encoding")).unwrap();
    assert!(last.contains("width=640") && last.contains("prepared=true"), "{last}");
    setup.quad.down();
    let (_, faults) = in_order(&wire.packets());
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
}

#[test]
fn a_standby_that_converts_has_run_its_engine_once() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let setup = Setup::up("convert", port, &["--set", "process.width=640", "--set", "process.height=360"]);
    let _ready = setup.standby(Part::Process);
    assert!(within(PATIENCE, || setup.prepared(Part::Process, "ran on a private frame") == 1));
    let (units, epoch) = (wire.units(), setup.info(Part::Process).epoch);
    assert!(setup.table.kill_holder("process.main", epoch));
    assert!(within(PATIENCE, || setup.info(Part::Process).epoch > epoch && wire.units() >= units + 30));
    setup.quad.down();
    let (_, faults) = in_order(&wire.packets());
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
}
