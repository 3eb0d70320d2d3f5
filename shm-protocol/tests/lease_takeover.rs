//! Who holds a lease, when: successors that race, holders that are stopped, killed, forced out, and pids
//! that were given to somebody else.
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]
#![allow(unsafe_code, reason = "raw words of the lease table")]

mod common;

use common::*;
use shm_protocol::attach::Policy;
use shm_protocol::error::ObjectError;
use shm_protocol::lease::{Candidate, LeaseTable, Removal};
use shm_protocol::output::Producer;
use shm_protocol::ring::RingError;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const ENCODE: &str = "encode.main";
/// Words of the lease table: a header and records of 256 bytes; see `lease/record.rs`.
const RECORD_WORDS: usize = 256 / 8;
const START_TIME: usize = RECORD_WORDS + 10;

fn now() -> u64 {
    shm_protocol::clock::monotonic_ns()
}

fn sleep_for_ever() {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A child that holds ENCODE and sets word 0 once it does.
fn holder(i: &Instance, shared: SharedWords) -> Child {
    let child = Child::spawn(|| {
        let _lease = i.lease(ENCODE);
        shared.set(0, 1);
        sleep_for_ever();
    });
    shared.wait_for(0, 1);
    child
}

/// A child that becomes the candidate (word 1), then the holder (words 3 to 5 tell of it; word 2, the time, comes
/// last: whoever has seen it may read the others), and stays.
fn successor(i: &Instance, shared: SharedWords) -> Child {
    Child::spawn(|| {
        let table = i.table();
        let candidate = Candidate::enter(&table, ENCODE, true).unwrap();
        candidate.ready();
        shared.set(1, shared.get(1) + 1);
        let lease = candidate.activate().unwrap();
        let active = now();
        shared.set(3, lease.epoch());
        shared.set(4, u64::from(lease.bridged_death()));
        shared.set(5, u64::from(std::process::id()));
        shared.set(2, active);
        lease.running();
        sleep_for_ever();
    })
}

/// Until the child's waiting thread sleeps in fcntl.
fn wait_until_it_waits(child: &Child) {
    let end = Instant::now() + Duration::from_secs(10);
    let waits = || {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", child.pid)) else { return false };
        let number = format!("{} ", libc::SYS_fcntl);
        threads
            .flatten()
            .any(|t| std::fs::read_to_string(t.path().join("syscall")).is_ok_and(|s| s.starts_with(&number)))
    };
    while !waits() {
        assert!(Instant::now() < end, "nobody waits for the lock");
        std::thread::sleep(Duration::from_micros(100));
    }
}

#[test]
fn of_two_successors_one_is_active_and_the_other_the_candidate() {
    for round in 0..20 {
        let i = Instance::new(&format!("two{round}"));
        let shared = SharedWords::new(512);
        let first = holder(&i, shared);
        let successors = [successor(&i, shared), successor(&i, shared)];
        shared.wait_for(1, 1);
        drop(first); // killed
        // The loser becomes the candidate only once the winner has recovered and runs.
        shared.wait_for(2, 1);
        shared.wait_for(1, 2);
        let info = &i.table().kernels()[0];
        assert!(info.held && info.epoch == 2, "{info:?}");
        assert_eq!(shared.get(3), 2);
        assert_eq!(shared.get(4), 1, "a death is a death");
        let winner = shared.get(5) as i32;
        let [a, b] = successors;
        let (winner, loser) = if a.pid == winner { (a, b) } else { (b, a) };
        assert_eq!(loser.pid as u32, info.candidate_pid);
        assert_eq!(winner.pid as u32, info.pid);
        shared.set(2, 0);
        drop(winner);
        shared.wait_for(2, 1);
        assert_eq!((shared.get(3), shared.get(5)), (3, loser.pid as u64));
    }
}

#[test]
fn a_death_wakes_the_waiting_successor_at_once() {
    const ROUNDS: usize = 40;
    let mut latencies_us: Vec<u64> = (0..ROUNDS)
        .map(|round| {
            let i = Instance::new(&format!("lat{round}"));
            let shared = SharedWords::new(512);
            let first = holder(&i, shared);
            let second = successor(&i, shared);
            wait_until_it_waits(&second);
            let killed = now();
            drop(first);
            shared.wait_for(2, 1);
            (shared.get(2) - killed) / 1000
        })
        .collect();
    latencies_us.sort_unstable();
    let median = latencies_us[ROUNDS / 2];
    println!(
        "SIGKILL of the holder to its successor being active: median {median} µs, worst {} µs",
        latencies_us[ROUNDS - 1]
    );
    assert!(median < 50_000, "{latencies_us:?}");
}

#[test]
fn a_stopped_holder_is_killed_and_succeeded() {
    let i = Instance::new("stopped");
    let shared = SharedWords::new(512);
    let first = holder(&i, shared);
    first.signal(libc::SIGSTOP);
    let second = successor(&i, shared);
    wait_until_it_waits(&second);
    let table = LeaseTable::observe(&i.name).unwrap();
    let (_, info) = table.verified_pidfd(ENCODE).unwrap();
    assert_eq!((info.pid as i32, info.epoch), (first.pid, 1));
    assert!(!table.kill_holder(ENCODE, 7), "another epoch than the one judged");
    assert!(table.kill_holder(ENCODE, 1));
    assert_eq!(first.join(), End::Signal(libc::SIGKILL));
    shared.wait_for(2, 1);
    assert_eq!(shared.get(3), 2);
}

#[test]
fn a_pid_of_another_process_is_never_signalled() {
    let i = Instance::new("pid");
    let shared = SharedWords::new(512);
    let mut first = holder(&i, shared);
    let table = LeaseTable::observe(&i.name).unwrap();
    assert!(table.verified_pidfd(ENCODE).is_some());
    // The process of that pid began at another time than the record says: it is not the holder.
    let raw = SharedFile::map(&i.path("leases"), 4096);
    let started = raw.words()[START_TIME].load(Ordering::SeqCst);
    assert_eq!(Some(started), shm_protocol::lease::start_time(first.pid as u32), "the offset in this test is wrong");
    raw.words()[START_TIME].store(started + 1, Ordering::SeqCst);
    assert!(table.verified_pidfd(ENCODE).is_none());
    assert!(!table.kill_holder(ENCODE, 1));
    raw.words()[START_TIME].store(started, Ordering::SeqCst);
    std::thread::sleep(Duration::from_millis(20));
    assert!(first.is_running());
    // Without a holder there is nobody to signal, whatever the record says.
    drop(first);
    assert!(!table.kill_holder(ENCODE, 1));
}

#[test]
fn a_holder_that_does_not_die_is_forced_out_and_its_buffers_are_set_aside() {
    let i = Instance::new("forced");
    let shared = SharedWords::new(512);
    let ring = spec(ENCODE, &[("net.main", true)], Policy::Lossless, 4);
    let old = Child::spawn(|| {
        let lease = i.lease(ENCODE);
        let (mut producer, _) = Producer::open(&lease, &ring, &directory()).unwrap();
        let _writing = producer.claim().unwrap().unwrap();
        shared.set(0, 1);
        shared.wait_for(10, 1);
        // Alive again after it was forced out: every operation is fenced.
        let fenced = matches!(producer.claim(), Err(RingError::Fenced { mine: 1, current: 2 }));
        shared.set(11, 1 + u64::from(fenced));
        sleep_for_ever();
    });
    shared.wait_for(0, 1);
    old.signal(libc::SIGSTOP); // stands for one that a driver keeps from dying
    let new = Child::spawn(|| {
        let table = i.table();
        let candidate = Candidate::enter(&table, ENCODE, true).unwrap();
        shared.set(1, 1);
        let lease = candidate.activate().unwrap();
        assert!(lease.bridged_death() && lease.predecessor_lingers());
        let (mut producer, recovered) = Producer::open(&lease, &ring, &directory()).unwrap();
        lease.running();
        assert_eq!((recovered.aborted, recovered.quarantined), (1, 1));
        // The ring goes on without the slot, and has it back once the old process is gone.
        let claims: Vec<_> = std::iter::from_fn(|| producer.claim().unwrap()).collect();
        assert_eq!(claims.len(), 3);
        shared.set(2, 1);
        shared.wait_for(12, 1);
        assert_eq!(producer.end_quarantine().unwrap(), 1);
        assert!(producer.claim().unwrap().is_some());
        lease.stop();
    });
    wait_until_it_waits(&new);
    let table = LeaseTable::observe(&i.name).unwrap();
    let forced = Instant::now();
    assert!(!table.force_takeover(ENCODE, 2).unwrap(), "another epoch than the one judged");
    assert!(table.force_takeover(ENCODE, 1).unwrap());
    let second = table.force_takeover(ENCODE, 1);
    assert!(matches!(second, Ok(false) | Err(ObjectError::Busy { .. })), "a second judge: {second:?}");
    assert!(!table.kill_holder(ENCODE, 1), "it holds nothing any more");
    shared.wait_for(2, 1);
    println!("forced takeover after {:?}", forced.elapsed());
    assert!(forced.elapsed() < Duration::from_millis(500), "waited again for a process that does not die");
    assert_eq!(RawRing::read(&i, ENCODE).count(QUARANTINED), 1);
    let before = std::fs::read(i.path(ENCODE)).unwrap();
    old.signal(libc::SIGCONT);
    shared.set(10, 1);
    shared.wait_for(11, 1);
    assert_eq!(shared.get(11), 2, "a forced-out holder was not fenced");
    assert!(before == std::fs::read(i.path(ENCODE)).unwrap(), "a forced-out holder changed its old ring");
    let info = &table.kernels()[0];
    assert!(info.held && info.epoch == 2);
    drop(old);
    shared.set(12, 1);
    assert_eq!(new.join(), End::Exit(0));
}

#[test]
fn a_dead_candidate_is_not_yielded_to() {
    let i = Instance::new("wish");
    let shared = SharedWords::new(512);
    let lease = i.lease(ENCODE);
    let candidate = Child::spawn(|| {
        let candidate = Candidate::enter(&i.table(), ENCODE, true).unwrap();
        shared.set(1, candidate.ready());
        sleep_for_ever();
    });
    shared.wait_for(1, 1);
    assert_eq!(lease.wanted_successor(), None, "nobody asked for it");
    lease.table().wish(ENCODE, shared.get(1));
    assert_eq!(lease.wanted_successor(), Some(shared.get(1)));
    drop(candidate);
    assert_eq!(lease.wanted_successor(), None, "READY outlived the candidate");
    // A second swap while one runs is told so, and a new candidate is a new ticket.
    let next = Candidate::enter(lease.table(), ENCODE, false).unwrap();
    assert!(matches!(Candidate::enter(lease.table(), ENCODE, false), Err(ObjectError::Busy { .. })));
    assert!(next.ready() > shared.get(1));
    assert_eq!(lease.wanted_successor(), None, "the wish was for another ticket");
}

#[test]
fn objects_go_only_when_nobody_lives_and_other_instances_stay() {
    let (i, other) = (Instance::new("gone"), Instance::new("gone2"));
    let shared = SharedWords::new(512);
    let _other = other.lease(ENCODE);
    let count = || shm_protocol::names::existing(&other.name);
    let kept = count();
    let first = holder(&i, shared);
    assert_eq!(LeaseTable::remove_if_dead(&i.name).unwrap(), Removal::StillAlive);
    // A table of another ABI is in use all the same.
    let raw = SharedFile::map(&i.path("leases"), 4096);
    raw.words()[1].store(99, Ordering::SeqCst);
    assert!(matches!(LeaseTable::observe(&i.name), Err(ObjectError::Mismatch { .. })));
    assert_eq!(LeaseTable::remove_if_dead(&i.name).unwrap(), Removal::StillAlive);
    first.signal(libc::SIGSTOP);
    assert_eq!(LeaseTable::remove_if_dead(&i.name).unwrap(), Removal::StillAlive, "stopped is not dead");
    drop(first);
    assert_eq!(LeaseTable::remove_if_dead(&i.name).unwrap(), Removal::Removed(1));
    assert!(shm_protocol::names::existing(&i.name).is_empty());
    assert_eq!(count(), kept, "another instance was touched");
    assert_eq!(LeaseTable::remove_if_dead(&i.name).unwrap(), Removal::Removed(0));
}

#[test]
fn joining_and_removing_at_once_never_leaves_a_kernel_without_its_table() {
    let i = Instance::new("race");
    let shared = SharedWords::new(512);
    let removers: Vec<Child> = (0..2)
        .map(|_| {
            Child::spawn(|| {
                while shared.get(0) == 0 {
                    LeaseTable::remove_if_dead(&i.name).unwrap();
                }
            })
        })
        .collect();
    let mut joined = 0;
    for _ in 0..2000 {
        match LeaseTable::join(&i.name) {
            Ok(table) => {
                joined += 1;
                assert!(table.is_linked(), "removed under a kernel that lives");
                std::thread::yield_now();
                assert!(table.is_linked(), "removed under a kernel that lives");
            }
            Err(ObjectError::Busy { .. } | ObjectError::Missing { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    shared.set(0, 1);
    println!("joined {joined} times while two others removed");
    assert!(joined > 1000);
    for remover in removers {
        assert_eq!(remover.join(), End::Exit(0));
    }
}
