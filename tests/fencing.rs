//! Revoked holders: real kernels whose lease was given to somebody else while they stood still. They end with 3 and
//! have changed no byte of a ring or a session.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use shm_protocol::lease::{Candidate, LeaseTable};
use shm_protocol::observe::RingObserver;
use std::os::unix::fs::FileExt as _;
use std::time::Duration;
use system_tests::pipeline::{Part, Pipeline, free_rtp_port};
use system_tests::processes::{go_on, stop, was_asleep};
use system_tests::quad::{Quad, said};
use system_tests::random;
use system_tests::tools::{long, within};
use system_tests::wire::Wire;

const PATIENCE: Duration = Duration::from_secs(20);
/// A loop sleeps for 50 ms at the most, and looks at its ring then.
const FENCED_WITHIN: Duration = Duration::from_secs(1);
/// The header of the lease table and each record; the epoch is a record's first word (docs/PROTOCOL.md).
const RECORD_BYTES: u64 = 256;

fn name(part: Part) -> String {
    format!("{}.main", part.short())
}

/// What no revoked process may touch: every object but the lease table, where a heart may beat once more, telemetry
/// pages, which belong to one process and go with it, and pixels: a store into a buffer cannot be fenced, which is why
/// a holder that does not die has its buffers set aside.
fn guarded_bytes(pipeline: &Pipeline) -> Vec<(String, Vec<u8>)> {
    let guarded = |name: &String| !name.ends_with(".leases") && !name.contains(".tm") && !name.contains(".pool");
    let read = |name: String| {
        let bytes = std::fs::read(format!("/dev/shm/{name}")).unwrap();
        (name, bytes)
    };
    pipeline.objects().into_iter().filter(guarded).map(read).collect()
}

fn assert_unchanged(before: &[(String, Vec<u8>)], after: &[(String, Vec<u8>)], what: &str) {
    for ((name, before), (again, after)) in before.iter().zip(after) {
        assert_eq!(name, again, "{what}");
        let changed: Vec<usize> =
            (0..before.len() / 8).filter(|w| before[8 * w..][..8] != after[8 * w..][..8]).collect();
        assert!(changed.is_empty(), "{what}: words {changed:?} of {name} changed");
    }
    assert_eq!(before.len(), after.len(), "{what}");
}

fn started(label: &str) -> (Pipeline, Wire) {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut pipeline = Pipeline::new(label, port);
    pipeline.set("capture.policy", "lossless").set("capture.width", "640").set("capture.height", "360");
    pipeline.start_all();
    assert!(within(PATIENCE, || wire.units() >= 30), "{}", pipeline.logs());
    (pipeline, wire)
}

/// Gives `part`'s lease to nobody: the epoch rises, as a successor makes it rise.
fn revoke(pipeline: &Pipeline, part: Part) {
    let table = LeaseTable::observe(pipeline.instance()).unwrap();
    let index = table.find(&name(part)).unwrap();
    let path = format!("/dev/shm/quad.{}.leases", pipeline.instance());
    let file = std::fs::OpenOptions::new().write(true).open(path).unwrap();
    let before = table.info(index).epoch;
    file.write_all_at(&(before + 1).to_ne_bytes(), RECORD_BYTES * (1 + index as u64)).unwrap();
    assert_eq!(table.info(index).epoch, before + 1, "The offset in this test is wrong");
}

/// Stops a kernel at a random instant between two ring operations: one that is under way is not the next one, and goes
/// on where it stood. An encoder in the middle of a frame is such an instant, too: it publishes after it is revoked.
fn stop_between_operations(pipeline: &Pipeline, part: Part, random: &mut fastrand::Rng) -> bool {
    let pid = pipeline.pid(part);
    let ring = RingObserver::open(pipeline.instance(), "encode.main").unwrap();
    let mut writes = false;
    let caught = within(PATIENCE, || {
        std::thread::sleep(Duration::from_micros(random.u64(..5_000)));
        stop(pid);
        writes = part == Part::Encode && ring.status().writing > 0;
        let between = writes || was_asleep(pid);
        if !between {
            go_on(pid);
        }
        between
    });
    assert!(caught, "{part:?} is never between two operations");
    writes
}

/// Lets the revoked one go on while everybody else stands, and compares.
fn ends_fenced_and_changes_nothing(pipeline: &mut Pipeline, part: Part, what: &str) {
    for other in Part::ALL {
        if other != part {
            stop(pipeline.pid(other));
        }
    }
    let before = guarded_bytes(pipeline);
    assert!(before.len() >= 4, "three rings and a session: {:?}", pipeline.objects());
    go_on(pipeline.pid(part));
    let ended = pipeline.wait(part, FENCED_WITHIN);
    assert_eq!(ended.and_then(|status| status.code()), Some(3), "{what}: {}", pipeline.log(part));
    assert_unchanged(&before, &guarded_bytes(pipeline), what);
    for other in Part::ALL {
        if other != part {
            go_on(pipeline.pid(other));
        }
    }
}

#[test]
fn a_revoked_kernel_of_any_kind_ends_with_three_and_changes_no_byte_of_a_ring_or_session() {
    let mut random = random::from_environment();
    let (mut pipeline, wire) = started("fence");
    let rounds = if long() { 25 } else { 5 };
    let mut writing = 0;
    for round in 0..rounds {
        for part in Part::ALL {
            writing += usize::from(stop_between_operations(&pipeline, part, &mut random));
            revoke(&pipeline, part);
            ends_fenced_and_changes_nothing(&mut pipeline, part, &format!("{part:?}, round {round}"));
            // Its successor finds everything in order.
            pipeline.start(part);
            let at = wire.units();
            assert!(within(PATIENCE, || wire.units() >= at + 20), "{part:?}: {}", pipeline.logs());
        }
    }
    println!("the encoder was in the middle of a frame {writing} times of {rounds}");
    pipeline.stop();
}

/// The same with all that belongs to it: taken by force, and a successor that holds the lease.
#[test]
fn a_kernel_whose_lease_was_taken_by_force_is_fenced_by_its_successor() {
    let (mut pipeline, wire) = started("force");
    let part = Part::Encode;
    stop_between_operations(&pipeline, part, &mut random::from_environment());
    let table = LeaseTable::join(pipeline.instance()).unwrap();
    assert!(table.force_takeover(&name(part), 1).unwrap());
    let candidate = Candidate::enter(&table, &name(part), false).unwrap();
    let Ok(lease) = candidate.try_activate().unwrap() else { panic!("The lease is still held") };
    assert!(lease.predecessor_lingers() && lease.epoch() == 2);
    lease.running();
    ends_fenced_and_changes_nothing(&mut pipeline, part, "taken by force");
    drop((lease, table));
    pipeline.start(part);
    let at = wire.units();
    assert!(within(PATIENCE, || wire.units() >= at + 20), "{}", pipeline.logs());
    pipeline.stop();
}

/// Fenced means that another holds the lease. Should nobody, because that one died too, the stream must not wait for a
/// person.
#[test]
fn a_fenced_kernel_without_a_successor_is_followed_by_another() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut quad = Quad::new("fenced", port);
    quad.pipeline.set("capture.policy", "lossless");
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(within(PATIENCE, || wire.units() >= 30));
    revoke(&quad.pipeline, Part::Encode);
    let log = || std::fs::read_to_string(quad.pipeline.runtime().join("supervisor.log")).unwrap();
    assert!(within(PATIENCE, || log().contains("fenced by a successor")), "{}", log());
    let at = wire.units();
    assert!(within(PATIENCE, || wire.units() >= at + 30), "{}", log());
    assert!(within(PATIENCE, || quad.status().0 == Some(0)), "{}", quad.status().1);
    quad.down();
}
