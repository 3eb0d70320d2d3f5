use super::*;
use crate::attach::{Content, Policy, RingSpec, RoleSpec};
use crate::descriptor::{FrameDetails, FrameHead};
use crate::input::Consumer;
use crate::output::Producer;
use crate::pool::PoolDirectory;
use crate::slot::Key;
use crate::stage::Stage;
use std::path::Path;

/// An instance whose objects go with the test.
struct Instance(String);

impl Instance {
    fn new(test: &str) -> Instance {
        Instance(format!("u{}-{test}", std::process::id()))
    }

    fn table(&self) -> Arc<LeaseTable> {
        LeaseTable::join(&self.0).unwrap()
    }

    fn candidate(&self, kernel: &str) -> Candidate {
        Candidate::enter(&self.table(), kernel, true).unwrap()
    }

    fn lease(&self, kernel: &str) -> Lease {
        let Ok(lease) = self.candidate(kernel).try_activate().unwrap() else { panic!("{kernel} is held") };
        lease.running();
        lease
    }

    fn ring(&self, lease: &Lease, kernel: &str, consumer: &str) -> Producer {
        let spec = RingSpec {
            kernel: kernel.to_owned(),
            content: Content::Pixels,
            policy: Policy::Lossless,
            slots: 4,
            max_latency_ns: 0,
            roles: vec![RoleSpec { kernel: consumer.to_owned(), required: true }],
        };
        Producer::open(lease, &spec, &<Arc<PoolDirectory>>::default()).unwrap().0
    }

    fn attach(&self, lease: &Lease, kernel: &str, producer: &str) -> Consumer {
        let directory = <Arc<PoolDirectory>>::default();
        Consumer::attach(lease, kernel, producer, &directory, Path::new("/nonexistent")).unwrap()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let removed = LeaseTable::remove_if_dead(&self.0);
        assert!(std::thread::panicking() || matches!(removed, Ok(Removal::Removed(_))), "{removed:?}");
    }
}

#[test]
fn objects_without_a_table_are_removed_and_those_of_the_living_are_not() {
    let instance = Instance::new("orphans");
    let lease = instance.lease("capture.main");
    let ring = instance.ring(&lease, "capture.main", "process.main");
    assert_eq!(LeaseTable::remove_if_dead(&instance.0).unwrap(), Removal::StillAlive);
    drop((ring, lease));
    crate::names::unlink(&crate::names::leases(&instance.0));
    assert!(!crate::names::existing(&instance.0).is_empty());
    assert!(matches!(LeaseTable::remove_if_dead(&instance.0).unwrap(), Removal::Removed(_)));
    assert!(crate::names::existing(&instance.0).is_empty());
}

#[test]
fn a_slot_freed_between_the_look_and_the_wait_ends_the_wait() {
    let instance = Instance::new("wait");
    let leases = ["capture.main", "process.main", "encode.main"].map(|kernel| instance.lease(kernel));
    let _capture = instance.ring(&leases[0], "capture.main", "process.main");
    let output = instance.ring(&leases[1], "process.main", "encode.main");
    let input = instance.attach(&leases[1], "process.main", "capture.main");
    let mut encode = instance.attach(&leases[2], "encode.main", "process.main");
    let mut stage = Stage::new(input, output, 0);
    let claim = stage.output.claim().unwrap().unwrap();
    let head = FrameHead { key: Key::whole(1), ..Default::default() };
    stage.output.publish(claim, head, &FrameDetails::default()).unwrap();
    stage.harvest().unwrap();
    let taken = encode.acquire().unwrap().unwrap();
    encode.release(&taken).unwrap();
    const LONG_NS: u64 = 2_000_000_000;
    let begin = monotonic_ns();
    stage.input.wait(0, begin + LONG_NS, Some(&stage.output));
    assert!(monotonic_ns() - begin < LONG_NS / 2, "the release was not heard");
    // And nothing new is no reason to return.
    const SHORT_NS: u64 = 30_000_000;
    let begin = monotonic_ns();
    stage.input.wait(0, begin + SHORT_NS, Some(&stage.output));
    assert!(monotonic_ns() - begin >= SHORT_NS, "the wait does not sleep");
}

#[test]
fn a_lease_that_was_taken_by_force_neither_beats_for_its_successor_nor_stops_it() {
    let instance = Instance::new("pulse");
    let (table, old) = (instance.table(), instance.lease("capture.main"));
    let pulse = old.pulse();
    assert!(pulse.beat());
    assert!(table.force_takeover("capture.main", 1).unwrap());
    let new = instance.lease("capture.main");
    let beat = table.heartbeat_ns(new.index());
    assert!(!pulse.beat());
    assert_eq!(table.heartbeat_ns(new.index()), beat);
    old.stop();
    assert_eq!(table.info(new.index()).state, KernelState::Running);
    new.stop();
}

#[test]
fn an_instance_has_one_supervisor_wherever_that_keeps_its_files() {
    let instance = Instance::new("charge");
    let (one, other) = (instance.table(), instance.table());
    assert!(!other.is_supervised());
    let charge = one.supervise().unwrap().unwrap();
    assert!(other.is_supervised() && other.supervise().unwrap().is_none());
    drop(charge);
    assert!(!other.is_supervised() && other.supervise().unwrap().is_some());
}
