//! A swap between two real processes, killed at every numbered point of either, singly and in pairs: whoever is left
//! carries the stream, and a restart does where nobody is.
#![cfg(feature = "crash-points")]
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

mod common;

use common::*;
use shm_protocol::attach::Policy;
use shm_protocol::crash;
use shm_protocol::descriptor::StreamFormat;
use shm_protocol::input::Consumer;
use shm_protocol::lease::{Candidate, Lease, LeaseTable};
use shm_protocol::output::Producer;
use shm_protocol::pool::PoolKind;
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

const CAPTURE: &str = "capture.main";
const PROCESS: &str = "process.main";
/// Frames before the swap, and in all.
const BEFORE: u64 = 4;
const FRAMES: u64 = 8;
/// As long as a holder waits for its successor (kernel-host, handover).
const TAKE_OVER_WITHIN: Duration = Duration::from_millis(50);
/// The same where the successor is to take over for certain, also on a machine that gives it no processor for a while.
const HOWEVER_LONG: Duration = Duration::from_secs(10);
/// Here as long as it takes to see that the successor is done; a second in the product.
const PROBATION: Duration = Duration::from_millis(30);

/// Words that parent and children share: the old one is ready for a swap; there will be none.
const OLD_IS_READY: usize = 0;
const NO_SWAP: usize = 1;

fn open(i: &Instance, lease: &Lease) -> Producer {
    let ring = spec(CAPTURE, &[(PROCESS, true)], Policy::Lossless, 16);
    let (mut producer, _) = Producer::open(lease, &ring, &directory()).unwrap();
    producer.set_pool(PoolKind::PosixShm, format().frame_bytes(), &i.dir).unwrap();
    producer.set_format(&StreamFormat::Video(format())).unwrap();
    producer
}

fn publish_up_to(producer: &mut Producer, last: u64) {
    while producer.last_key().id() < last {
        let id = producer.last_key().id() + 1;
        assert!(produce(producer, id, &format()), "no room for {id}");
    }
}

/// The process that is swapped out, as kernel-host's `Kernel::serve` and `hand_over` are. Dies at point `at`, counted
/// from the moment it could be swapped.
/// `within`: how long its successor may take to take over.
fn old(i: &Instance, shared: SharedWords, at: Option<u64>, within: Duration) {
    let mut lease = i.lease(CAPTURE);
    let mut before = BEFORE;
    loop {
        let mut producer = open(i, &lease);
        lease.running();
        publish_up_to(&mut producer, before);
        if before == BEFORE {
            shared.set(OLD_IS_READY, 1);
            crash::arm(at);
            // Once more is a new epoch, which goes on to the end.
            before = FRAMES;
            while lease.wanted_successor().is_none() && shared.get(NO_SWAP) == 0 {
                lease.beat();
                std::thread::sleep(Duration::from_micros(100));
            }
        }
        if lease.wanted_successor().is_none() {
            publish_up_to(&mut producer, FRAMES);
            lease.stop();
            return;
        }
        drop(producer);
        match hand_over(lease, within) {
            Some(again) => lease = again,
            None => return,
        }
    }
}

fn hand_over(lease: Lease, within: Duration) -> Option<Lease> {
    let table = Arc::clone(lease.table());
    let yielded = lease.yield_to_candidate();
    let began = Instant::now();
    while yielded.successor_epoch().is_none() {
        if began.elapsed() > within {
            yielded.kill_successor();
            break;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    let candidate = Candidate::enter(&table, CAPTURE, true).unwrap();
    candidate.ready();
    let (send, receive) = channel();
    std::thread::spawn(move || send.send(candidate.activate().unwrap()));
    let mut proven = None;
    loop {
        match receive.recv_timeout(Duration::from_millis(2)) {
            Ok(lease) => return Some(lease),
            Err(_) if last_frame(table.instance()) > BEFORE => {
                let since = *proven.get_or_insert_with(Instant::now);
                if since.elapsed() > PROBATION {
                    return None;
                }
            }
            Err(_) => assert!(began.elapsed() < 2 * HOWEVER_LONG, "nobody publishes and nobody lets go"),
        }
    }
}

fn last_frame(instance: &str) -> u64 {
    shm_protocol::observe::RingObserver::open(instance, CAPTURE).map_or(0, |ring| ring.status().last_frame_id)
}

/// The process that is swapped in, and any that is started: it takes the lease when it can.
fn new(i: &Instance, at: Option<u64>) {
    crash::arm(at);
    let table = i.table();
    let candidate = Candidate::enter(&table, CAPTURE, true).unwrap();
    candidate.ready();
    let lease = candidate.activate().unwrap();
    let mut producer = open(i, &lease);
    lease.running();
    publish_up_to(&mut producer, FRAMES);
    lease.stop();
}

/// One swap. `old_at`, `new_at`: where each dies. Returns how each ended, and whether a restart was needed.
fn swap(name: &str, old_at: Option<u64>, new_at: Option<u64>) -> (End, End, bool) {
    let i = Instance::new(name);
    let shared = SharedWords::new(512);
    // Somebody keeps the instance alive, as the supervisor does.
    let table = i.table();
    // One that is to die may do so before it takes over.
    let within = if new_at.is_none() { HOWEVER_LONG } else { TAKE_OVER_WITHIN };
    let mut first = Child::spawn(|| old(&i, shared, old_at, within));
    let limit = Instant::now() + 3 * HOWEVER_LONG;
    while shared.get(OLD_IS_READY) == 0 {
        assert!(first.is_running() && Instant::now() < limit, "{name}: the old one does not start");
        std::thread::sleep(Duration::from_micros(100));
    }
    let mut second = Child::spawn(|| new(&i, new_at));
    // The supervisor's part: the wish once the successor waits, and its withdrawal when that is gone.
    let mut ends = (None, None);
    while ends.0.is_none() || ends.1.is_none() {
        assert!(Instant::now() < limit, "{name}: neither ends: {ends:?}, {:?}", table.kernels());
        if ends.0.is_none() {
            ends.0 = first.ended();
        }
        if ends.1.is_none() {
            ends.1 = second.ended();
            if ends.1.is_some() {
                shared.set(NO_SWAP, 1);
            }
        }
        let info = LeaseTable::info(&table, table.find(CAPTURE).unwrap());
        if info.candidate_ready && info.candidate_pid as i32 == second.pid && info.epoch == 1 {
            table.wish(CAPTURE, info.candidate_ticket);
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    let (first, second) = (ends.0.unwrap(), ends.1.unwrap());
    let restart = last_frame(&i.name) < FRAMES;
    if restart {
        assert_eq!(Child::spawn(|| new(&i, None)).join(), End::Exit(0), "{name}: the restart");
    }
    check_ring(&i, CAPTURE, true, name);
    check_objects(&i, name);
    let reader = i.lease(PROCESS);
    let mut input = Consumer::attach(&reader, PROCESS, CAPTURE, &directory(), &i.dir).unwrap();
    let mut ids = Vec::new();
    while let Some(taken) = input.acquire().unwrap() {
        assert_eq!(pixels_id(&mut input, &taken), taken.head.key.id(), "{name}: pixels of another frame");
        ids.push(taken.head.key.id());
        input.release(&taken).unwrap();
    }
    assert_eq!(ids, (1..=FRAMES).collect::<Vec<_>>(), "{name}");
    reader.stop();
    check_quiet(&i, CAPTURE, name);
    let info = table.info(table.find(CAPTURE).unwrap());
    assert!(!info.held, "{name}: {info:?}");
    (first, second, restart)
}

const DEAD: End = End::Signal(libc::SIGKILL);

#[test]
fn a_swap_without_deaths_leaves_the_stream_to_the_new_one() {
    assert_eq!(swap("plain", None, None), (End::Exit(0), End::Exit(0), false));
}

#[test]
fn the_old_one_carries_on_wherever_its_successor_dies() {
    let mut deaths = 0;
    for at in 0.. {
        let (first, second, restart) = swap(&format!("new{at}"), None, Some(at));
        if second != DEAD {
            break;
        }
        deaths += 1;
        assert_eq!((first, restart), (End::Exit(0), false), "successor killed at its point {at}");
    }
    println!("{deaths} deaths of the successor");
    assert!(deaths > 60, "the hooks are gone: {deaths}");
}

#[test]
fn the_new_one_carries_on_wherever_its_predecessor_dies_in_the_swap() {
    let mut deaths = 0;
    for at in 0.. {
        let (first, second, restart) = swap(&format!("old{at}"), Some(at), None);
        if first != DEAD {
            break;
        }
        deaths += 1;
        assert_eq!((second, restart), (End::Exit(0), false), "predecessor killed at its point {at}");
    }
    println!("{deaths} deaths of the predecessor");
    assert!(deaths > 4, "the hooks are gone: {deaths}");
}

#[test]
fn both_may_die_anywhere_in_a_swap_and_a_restart_carries_on() {
    let seconds = std::env::var("QUAD_PAIR_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    let (budget, begin) = (Duration::from_secs(seconds), Instant::now());
    // The old one's points: before and in the yield, its candidacy, and all of a takeover when its successor fails.
    let (old_points, new_points) = (48, 110);
    let (mut done, mut both, mut restarts) = (0, 0, 0);
    for pair in scattered(old_points * new_points, 11) {
        if begin.elapsed() > budget {
            break;
        }
        let (old_at, new_at) = ((pair / new_points) as u64, (pair % new_points) as u64);
        let (first, second, restart) = swap(&format!("p{old_at}x{new_at}"), Some(old_at), Some(new_at));
        done += 1;
        both += usize::from((first, second) == (DEAD, DEAD));
        restarts += usize::from(restart);
        assert!(!restart || (first, second) == (DEAD, DEAD), "{old_at}, {new_at}: somebody lived and did not go on");
    }
    println!("{done} pairs, in {both} both died, {restarts} restarts");
    assert!(done >= 100 && both > 10 && restarts > 10, "{done}, {both}, {restarts}");
}

/// The holder is killed while a standby waits for its end, and the supervisor's restart queues behind the standby.
/// `at`: where the standby dies. Returns how the standby ended.
fn taken_over(name: &str, at: u64) -> End {
    let i = Instance::new(name);
    let shared = SharedWords::new(512);
    let table = i.table();
    let first = Child::spawn(|| old(&i, shared, None, TAKE_OVER_WITHIN));
    shared.wait_for(OLD_IS_READY, 1);
    let mut standby = Child::spawn(|| new(&i, Some(at)));
    let limit = Instant::now() + Duration::from_secs(10);
    let mut early = None;
    let index = table.find(CAPTURE).unwrap();
    let waits = |pid: i32| {
        let info = table.info(index);
        info.candidate_ready && info.candidate_pid as i32 == pid
    };
    while early.is_none() && !waits(standby.pid) {
        assert!(Instant::now() < limit, "{name}: no standby");
        early = standby.ended();
        std::thread::sleep(Duration::from_micros(100));
    }
    let restart = Child::spawn(|| new(&i, None));
    assert_eq!(first.kill_and_join(), DEAD);
    let ended = early.unwrap_or_else(|| standby.join());
    assert_eq!(restart.join(), End::Exit(0), "{name}");
    check_ring(&i, CAPTURE, true, name);
    check_objects(&i, name);
    assert_eq!(last_frame(&i.name), FRAMES, "{name}");
    let info = table.info(index);
    assert!(!info.held && info.epoch >= 2, "{name}: {info:?}");
    ended
}

#[test]
fn a_standby_may_die_anywhere_in_its_takeover_and_the_restart_behind_it_carries_on() {
    let mut deaths = 0;
    for at in 0.. {
        if taken_over(&format!("standby{at}"), at) != DEAD {
            break;
        }
        deaths += 1;
    }
    println!("{deaths} deaths of the standby");
    assert!(deaths > 60, "the hooks are gone: {deaths}");
}
