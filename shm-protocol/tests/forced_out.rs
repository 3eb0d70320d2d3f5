//! Processes that were killed and do not die: whoever comes after them neither waits for their lease nor for their
//! candidacy. Here they are stopped, which stands for one that a driver keeps from dying.
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

mod common;

use common::*;
use shm_protocol::error::ObjectError;
use shm_protocol::lease::{Candidate, Lease, LeaseTable};
use std::time::{Duration, Instant};

const ENCODE: &str = "encode.main";
/// Words that parent and children share.
const THERE: usize = 0;
const ACTIVE: usize = 1;
const EPOCH: usize = 2;

fn sleep_for_ever() -> ! {
    loop {
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// A process that begins to start and then stands still: as a candidate, or with a lease under which it never ran.
fn stuck(i: &Instance, with_lease: bool) -> Child {
    let shared = SharedWords::new(512);
    let child = Child::spawn(|| {
        let candidate = Candidate::enter(&i.table(), ENCODE, true).unwrap();
        let _held: (Option<Candidate>, Option<Lease>) =
            if with_lease { (None, Some(candidate.activate().unwrap())) } else { (Some(candidate), None) };
        shared.set(THERE, 1);
        sleep_for_ever();
    });
    shared.wait_for(THERE, 1);
    child.signal(libc::SIGSTOP);
    child
}

/// A process that takes the lease when it can, runs, and stays.
fn successor(i: &Instance, shared: SharedWords) -> Child {
    Child::spawn(|| {
        let candidate = Candidate::enter(&i.table(), ENCODE, true).unwrap();
        candidate.ready();
        shared.set(THERE, 1);
        let lease = candidate.activate().unwrap();
        lease.running();
        shared.set(EPOCH, lease.epoch());
        shared.set(ACTIVE, 1);
        sleep_for_ever();
    })
}

/// Until a thread of the child sleeps in a lock call.
fn wait_until_it_queues(child: &Child) {
    let end = Instant::now() + Duration::from_secs(10);
    let number = format!("{} ", libc::SYS_fcntl);
    let queues = || {
        let Ok(threads) = std::fs::read_dir(format!("/proc/{}/task", child.pid)) else { return false };
        let calls = threads.flatten().map(|thread| std::fs::read_to_string(thread.path().join("syscall")));
        calls.flatten().any(|call| call.starts_with(&number))
    };
    while !queues() {
        assert!(Instant::now() < end, "nobody waits for a lock");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// Judged again while a process that just takes the lease has the say, as the supervisor does.
fn patiently(judge: impl Fn() -> Result<bool, ObjectError>) -> bool {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match judge() {
            Err(ObjectError::Busy { .. }) if Instant::now() < end => std::thread::sleep(Duration::from_micros(200)),
            other => return other.unwrap(),
        }
    }
}

#[test]
fn a_candidate_that_does_not_die_keeps_nobody_from_preparing() {
    let i = Instance::new("undeadcand");
    let undead = stuck(&i, false);
    let shared = SharedWords::new(512);
    let next = successor(&i, shared);
    wait_until_it_queues(&next);
    assert_eq!(shared.get(THERE), 0, "two candidates");
    let table = LeaseTable::observe(&i.name).unwrap();
    assert!(!patiently(|| table.force_candidacy(ENCODE, next.pid as u32)), "it is not the candidate");
    assert!(patiently(|| table.force_candidacy(ENCODE, undead.pid as u32)));
    shared.wait_for(ACTIVE, 1);
    assert_eq!(shared.get(EPOCH), 1);
    assert!(!patiently(|| table.force_candidacy(ENCODE, undead.pid as u32)), "it has nothing any more");
    // Nobody yields to it, should it ever go on.
    undead.signal(libc::SIGCONT);
    assert!(!table.kernels()[0].candidate_ready);
}

#[test]
fn a_holder_that_does_not_die_before_it_ran_keeps_nobody_from_succeeding() {
    let i = Instance::new("undeadhold");
    let undead = stuck(&i, true);
    let shared = SharedWords::new(512);
    let next = successor(&i, shared);
    wait_until_it_queues(&next);
    let table = LeaseTable::observe(&i.name).unwrap();
    let forced = Instant::now();
    assert!(patiently(|| table.force_takeover(ENCODE, 1)));
    shared.wait_for(ACTIVE, 1);
    println!("successor at work {:?} after the forced takeover", forced.elapsed());
    assert_eq!(shared.get(EPOCH), 2);
    drop(undead);
}

#[test]
fn a_candidate_whose_predecessor_is_forced_out_stays_the_only_one() {
    let i = Instance::new("onecand");
    let holder = successor(&i, SharedWords::new(512));
    let table = i.table();
    let shared = SharedWords::new(512);
    let standby = {
        while table.kernels().first().is_none_or(|info| info.epoch == 0) {
            std::thread::sleep(Duration::from_millis(1));
        }
        successor(&i, shared)
    };
    shared.wait_for(THERE, 1);
    holder.signal(libc::SIGSTOP);
    // The candidacy was its predecessor's once, and is the standby's now.
    assert!(!patiently(|| table.force_candidacy(ENCODE, holder.pid as u32)));
    assert!(patiently(|| table.force_takeover(ENCODE, 1)));
    shared.wait_for(ACTIVE, 1);
    let info = &table.kernels()[0];
    assert_eq!((info.pid as i32, info.epoch, info.held), (standby.pid, 2, true));
    assert!(Candidate::enter(&table, ENCODE, false).is_ok(), "the candidacy is free once the standby runs");
}

#[cfg(feature = "crash-points")]
#[test]
fn a_judge_may_die_anywhere_in_a_takeover_by_force() {
    use shm_protocol::crash;
    for at in 0.. {
        let i = Instance::new(&format!("judge{at}"));
        let undead = stuck(&i, true);
        let table = i.table();
        let judge = Child::spawn(|| {
            crash::arm(Some(at));
            LeaseTable::observe(&i.name).unwrap().force_takeover(ENCODE, 1).unwrap();
        });
        let ended = judge.join();
        // The next supervisor judges again, unless the lease is free already.
        if table.kernels()[0].held {
            assert!(patiently(|| table.force_takeover(ENCODE, 1)), "death at {at}");
        }
        let shared = SharedWords::new(512);
        let next = successor(&i, shared);
        shared.wait_for(ACTIVE, 1);
        assert_eq!((shared.get(EPOCH), next.pid), (2, table.kernels()[0].pid as i32), "death at {at}");
        drop(undead);
        if ended != End::Signal(libc::SIGKILL) {
            assert_eq!(at, 3, "the hooks are gone");
            break;
        }
    }
}
