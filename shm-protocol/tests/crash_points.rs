//! Death at every numbered crash point, singly and in pairs (a death, then a death of the recovery), with
//! real processes over real objects, and what the survivors find.
#![cfg(feature = "crash-points")]
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

mod common;

use common::*;
use shm_protocol::attach::Policy;
use shm_protocol::crash;
use shm_protocol::descriptor::{FrameDetails, StreamFormat, TombstoneReason};
use shm_protocol::error::ObjectError;
use shm_protocol::input::Consumer;
use shm_protocol::output::Producer;
use shm_protocol::pool::PoolKind;
use shm_protocol::stage::{Next, Stage};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const CAPTURE: &str = "capture.main";
const PROCESS: &str = "process.main";
const ENCODE: &str = "encode.main";
const PREVIEW: &str = "encode.preview";

/// One kernel's work from its start to its end. Every start is the same code: what a predecessor that
/// died left is repaired, then the work goes on.
type Scenario = fn(&World);

struct World {
    instance: Instance,
    ledger: Ledger,
}

impl World {
    fn new(test: &str, ledger: Ledger) -> World {
        ledger.0.clear();
        World { instance: Instance::new(test), ledger }
    }
}

// ---- scenarios ----------------------------------------------------------------------------------

/// Frames a producer publishes in all.
const FRAMES: u64 = 4;

/// The format of frame `id`: the second half is larger, so that the pool changes its generation.
fn format_at(id: u64) -> shm_protocol::frame::VideoFormat {
    format_of(if id <= FRAMES / 2 { 64 } else { 128 })
}

fn open_capture(w: &World, policy: Policy, slots: usize) -> (shm_protocol::lease::Lease, Producer) {
    let lease = w.instance.lease(CAPTURE);
    let ring = spec(CAPTURE, &[(PROCESS, true), (PREVIEW, false)], policy, slots);
    let (producer, _) = Producer::open(&lease, &ring, &directory()).unwrap();
    check_ring(&w.instance, CAPTURE, true, "at the end of recovery");
    (lease, producer)
}

/// Publishes up to frame `last`, going on where the ring ends. Position and key must agree: a source
/// that is read on from a later place has lost a frame, from an earlier one doubles it.
fn publish_up_to(w: &World, producer: &mut Producer, last: u64) {
    while producer.last_key().id() < last {
        let id = producer.last_key().id() + 1;
        assert_eq!(producer.source_position(), (id - 1) * 10, "the source is read on from the wrong place");
        let format = format_at(id);
        // Buffers grow by whole pages: the formats differ by more than one.
        producer.set_pool(PoolKind::PosixShm, format.frame_bytes(), &w.instance.dir).unwrap();
        producer.set_format(&StreamFormat::Video(format)).unwrap();
        assert!(produce(producer, id, &format), "no room for {id}");
    }
}

/// Lease, ring and roles made or adopted, pool and formats, a claim given back, frames published.
fn producer(w: &World) {
    let (lease, mut producer) = open_capture(w, Policy::Lossless, 6);
    producer.set_pool(PoolKind::PosixShm, 4096, &w.instance.dir).unwrap();
    let claim = producer.claim().unwrap().unwrap();
    producer.abort(claim).unwrap();
    publish_up_to(w, &mut producer, FRAMES);
    lease.stop();
}

/// A live ring that is full: revoke, drop of expired frames, skip of a role that nobody needs.
fn live_producer(w: &World) {
    let lease = w.instance.lease(CAPTURE);
    let mut ring = spec(CAPTURE, &[(PROCESS, true), (PREVIEW, false)], Policy::Live, 2);
    ring.max_latency_ns = 1;
    let (mut producer, _) = Producer::open(&lease, &ring, &directory()).unwrap();
    // The required role lives and is slow: nothing bridges a death, so frames may grow too old.
    let process = w.instance.lease(PROCESS);
    let slow = Consumer::attach(&process, PROCESS, CAPTURE, &directory(), &w.instance.dir).unwrap();
    slow.set_bridging(false);
    // The role that is not required attaches and takes nothing.
    let preview = w.instance.lease(PREVIEW);
    let consumer = Consumer::attach(&preview, PREVIEW, CAPTURE, &directory(), &w.instance.dir).unwrap();
    publish_up_to(w, &mut producer, FRAMES);
    consumer.set_bridging(false);
    producer.drop_expired().unwrap();
    consumer.retire().unwrap();
    lease.stop();
}

/// A sink two frames deep: takes, reads, notes, releases.
fn consumer(w: &World) {
    sink(w, PROCESS, CAPTURE);
}

fn sink(w: &World, kernel: &str, upstream: &str) {
    let lease = w.instance.lease(kernel);
    let mut input = Consumer::attach(&lease, kernel, upstream, &directory(), &w.instance.dir).unwrap();
    let mut waiting = None;
    loop {
        let next = input.acquire().unwrap();
        if let Some(taken) = &next {
            assert_eq!(pixels_id(&mut input, taken), taken.head.key.id(), "pixels of another frame");
        }
        let ended = next.is_none();
        if let Some(done) = std::mem::replace(&mut waiting, next) {
            w.ledger.finish(done.head.key.id());
            input.release(&done).unwrap();
        }
        if ended {
            lease.stop();
            return;
        }
    }
}

fn open_stage(w: &World, slots: usize) -> (shm_protocol::lease::Lease, Stage) {
    let lease = w.instance.lease(PROCESS);
    let pools = directory();
    let ring = spec(PROCESS, &[(ENCODE, true)], Policy::Lossless, slots);
    let (output, _) = Producer::open(&lease, &ring, &pools).unwrap();
    let input = Consumer::attach(&lease, PROCESS, CAPTURE, &pools, &w.instance.dir).unwrap();
    (lease, Stage::new(input, output, 0))
}

/// Makes of every frame what a stage by reference does; every third frame becomes a tombstone.
/// `false`: the output is full.
fn stage_turn(stage: &mut Stage) -> Option<bool> {
    let Next::Frame(taken) = stage.next_frame().unwrap() else { return None };
    let format = stage.input.format(&taken).unwrap();
    stage.output.set_format(&format).unwrap();
    let pool = stage.input.pool(&taken).unwrap();
    stage.name_pool(pool.spec()).unwrap();
    let id = taken.head.key.id();
    Some(if id % 3 == 0 {
        stage.tombstone(&taken, TombstoneReason::RateConversion).unwrap()
    } else {
        assert_eq!(pixels_id(&mut stage.input, &taken), id);
        stage.pass(&taken, &FrameDetails { source_position: id * 10, ..Default::default() }).unwrap()
    })
}

/// The stage, and the encoder that reads what it passed on.
fn stage_by_reference(w: &World) {
    let (lease, mut stage) = open_stage(w, 6);
    while let Some(room) = stage_turn(&mut stage) {
        assert!(room);
    }
    check_references(&w.instance, (PROCESS, 0), CAPTURE, "before the encoder reads");
    encode_all(w);
    stage.harvest().unwrap();
    lease.stop();
}

/// Reads everything on the stage's ring, tombstones too.
fn encode_all(w: &World) {
    let lease = w.instance.lease(ENCODE);
    let mut input = Consumer::attach(&lease, ENCODE, PROCESS, &directory(), &w.instance.dir).unwrap();
    while let Some(taken) = input.acquire().unwrap() {
        read_passed(&mut input, &taken);
        w.ledger.finish(taken.head.key.id());
        input.release(&taken).unwrap();
    }
    lease.stop();
}

fn read_passed(input: &mut Consumer, taken: &shm_protocol::input::Taken) {
    let id = taken.head.key.id();
    if !taken.head.has(shm_protocol::descriptor::flag::TOMBSTONE) {
        assert_eq!(pixels_id(input, taken), id, "the pixels of a passed frame were given away");
    }
}

/// Two starts in a row, as a restart in order is.
fn lease(w: &World) {
    for _ in 0..2 {
        let table = w.instance.table();
        let candidate = shm_protocol::lease::Candidate::enter(&table, CAPTURE, true).unwrap();
        candidate.ready();
        let lease = candidate.activate().unwrap();
        assert!(lease.is_current());
        lease.running();
        // The highest epoch ever held, kept outside: each holder's must be above it.
        assert!(lease.epoch() > w.ledger.0.get(2000), "epoch {} was held before", lease.epoch());
        w.ledger.0.set(2000, lease.epoch());
        lease.stop();
    }
}

// ---- before and after ---------------------------------------------------------------------------

fn nothing(_: &World) {}

/// A ring of frames for the scenarios that read.
fn frames_upstream(w: &World) {
    let (lease, mut producer) = open_capture(w, Policy::Lossless, 6);
    publish_up_to(w, &mut producer, FRAMES);
    lease.stop();
}

fn after_producer(w: &World, what: &str) {
    check_ring(&w.instance, CAPTURE, true, what);
    check_objects(&w.instance, what);
    consumer(w);
    w.ledger.check_lossless(FRAMES, what);
    check_quiet(&w.instance, CAPTURE, what);
}

fn after_live(w: &World, what: &str) {
    check_ring(&w.instance, CAPTURE, true, what);
    check_objects(&w.instance, what);
    consumer(w);
    let ids = w.ledger.ids();
    assert!(ids.windows(2).all(|p| p[0] < p[1]), "{what}: {ids:?}");
    check_quiet(&w.instance, CAPTURE, what);
}

fn after_consumer(w: &World, what: &str) {
    w.ledger.check_lossless(FRAMES, what);
    check_quiet(&w.instance, CAPTURE, what);
}

fn after_stage(w: &World, what: &str) {
    w.ledger.check_lossless(FRAMES, what);
    check_quiet(&w.instance, PROCESS, what);
    check_quiet(&w.instance, CAPTURE, what);
    check_objects(&w.instance, what);
}

fn after_lease(w: &World, what: &str) {
    let info = &w.instance.table().kernels()[0];
    assert!(!info.held, "{what}: {info:?}");
    assert_eq!(info.epoch, w.ledger.0.get(2000), "{what}");
}

struct Case {
    name: &'static str,
    before: Scenario,
    scenario: Scenario,
    after: fn(&World, &str),
}

const CASES: [Case; 5] = [
    Case { name: "producer", before: nothing, scenario: producer, after: after_producer },
    Case { name: "live", before: nothing, scenario: live_producer, after: after_live },
    Case { name: "consumer", before: frames_upstream, scenario: consumer, after: after_consumer },
    Case { name: "stage", before: frames_upstream, scenario: stage_by_reference, after: after_stage },
    Case { name: "lease", before: nothing, scenario: lease, after: after_lease },
];

fn case(name: &str) -> &'static Case {
    CASES.iter().find(|c| c.name == name).unwrap()
}

/// Runs the scenario in a child that dies at point `at`; `false`: it ended before it came there.
fn die_at(w: &World, scenario: Scenario, at: u64) -> bool {
    let child = Child::spawn(|| {
        crash::arm(Some(at));
        scenario(w);
    });
    match child.join() {
        End::Signal(libc::SIGKILL) => true,
        End::Exit(0) => false,
        other => panic!("point {at}: {other:?}"),
    }
}

/// A watchdog that looks between any two steps of a start must not take the newcomer for a hung holder: it would kill
/// a healthy process.
#[test]
fn a_starting_holder_never_looks_as_if_it_had_been_silent() {
    use shm_protocol::lease::KernelState;
    let case = case("lease");
    let ledger = Ledger::new();
    let mut seen = 0;
    for number in 0..points(case).len() as u64 {
        let w = World::new(&format!("silent{number}"), ledger);
        assert!(die_at(&w, lease, number));
        let table = w.instance.table();
        let Some(info) = table.find(CAPTURE).map(|index| table.info(index)) else { continue };
        if matches!(info.state, KernelState::Recovering | KernelState::Running) {
            seen += 1;
            let silent_ms = shm_protocol::clock::monotonic_ns().saturating_sub(info.heartbeat_ns) / 1_000_000;
            assert!(silent_ms < 10_000, "point {number}: silent for {silent_ms} ms as it seems");
        }
    }
    assert!(seen > 3, "the states in question were seen");
}

/// The points a scenario passes from a fresh start.
fn points(case: &Case) -> Vec<&'static str> {
    let w = World::new("count", Ledger::new());
    (case.before)(&w);
    crash::record(|| (case.scenario)(&w))
}

fn singles(name: &str) {
    let case = case(name);
    let points = points(case);
    let mut by_name = BTreeMap::new();
    for point in &points {
        *by_name.entry(*point).or_insert(0) += 1;
    }
    println!("{name}: {} crash points of {} kinds: {by_name:?}", points.len(), by_name.len());
    assert!(points.len() > 10, "the hooks are gone");
    let ledger = Ledger::new();
    for (number, point) in points.iter().enumerate() {
        let w = World::new(&format!("{name}{number}"), ledger);
        (case.before)(&w);
        assert!(die_at(&w, case.scenario, number as u64), "point {number} was not reached");
        let what = format!("killed at {number} ({point})");
        (case.scenario)(&w);
        (case.after)(&w, &what);
    }
    println!("{name}: {} single deaths survived", points.len());
}

/// Seconds for the pairs of one scenario; the order is scattered, so a sample covers all places.
fn pair_budget() -> Duration {
    let seconds = std::env::var("QUAD_PAIR_SECONDS").ok().and_then(|s| s.parse().ok()).unwrap_or(20);
    Duration::from_secs(seconds)
}

fn pairs(name: &str) {
    let case = case(name);
    let points = points(case);
    let ledger = Ledger::new();
    let n = points.len();
    let (mut done, mut double, begin) = (0usize, 0usize, Instant::now());
    for pair in scattered(n * n, 7) {
        if begin.elapsed() > pair_budget() {
            break;
        }
        let (first, second) = (pair / n, pair % n);
        let w = World::new(&format!("{name}{pair}"), ledger);
        (case.before)(&w);
        assert!(die_at(&w, case.scenario, first as u64), "point {first} was not reached");
        double += usize::from(die_at(&w, case.scenario, second as u64));
        let what = format!("killed at {first} ({}), its recovery at {second}", points[first]);
        (case.scenario)(&w);
        (case.after)(&w, &what);
        done += 1;
    }
    println!(
        "{name}: {done} of {} pairs, in {double} of them the recovery died too, {:.1} s",
        n * n,
        begin.elapsed().as_secs_f32()
    );
    assert!(done >= (n * n).min(100), "only {done} pairs in {:?}", pair_budget());
}

macro_rules! case_tests {
    ($($name:literal: $single:ident, $pair:ident;)*) => {$(
        #[test]
        fn $single() { singles($name); }
        #[test]
        fn $pair() { pairs($name); }
    )*};
}
case_tests! {
    "producer": a_producer_dies_at_every_point, a_producer_and_its_recovery_die;
    "live": a_live_producer_dies_at_every_point, a_live_producer_and_its_recovery_die;
    "consumer": a_consumer_dies_at_every_point, a_consumer_and_its_recovery_die;
    "stage": a_stage_by_reference_dies_at_every_point, a_stage_and_its_recovery_die;
    "lease": a_holder_dies_at_every_point, a_holder_and_its_successor_die;
}

// ---- with peers running -------------------------------------------------------------------------

/// Frames that flow while one side is killed.
const FLOW: u64 = 24;
const STEP: Duration = Duration::from_millis(20);

fn soon() -> u64 {
    shm_protocol::clock::monotonic_ns() + STEP.as_nanos() as u64
}

/// Publishes up to FLOW, waiting for room.
fn flowing_producer(w: &World) {
    let (lease, mut producer) = open_capture(w, Policy::Lossless, 4);
    let format = format();
    producer.set_pool(PoolKind::PosixShm, format.frame_bytes(), &w.instance.dir).unwrap();
    producer.set_format(&StreamFormat::Video(format)).unwrap();
    while producer.last_key().id() < FLOW {
        let id = producer.last_key().id() + 1;
        assert_eq!(producer.source_position(), (id - 1) * 10);
        if !produce(&mut producer, id, &format) {
            producer.wait_for_room(soon());
        }
    }
    lease.stop();
}

fn attach_when_there(w: &World, lease: &shm_protocol::lease::Lease, kernel: &str, upstream: &str) -> Consumer {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        match Consumer::attach(lease, kernel, upstream, &directory(), &w.instance.dir) {
            Ok(input) => return input,
            Err(ObjectError::Missing { .. }) if Instant::now() < end => std::thread::sleep(Duration::from_micros(100)),
            Err(error) => panic!("{error}"),
        }
    }
}

/// Reads until frame FLOW.
fn flowing_sink(w: &World, kernel: &str, upstream: &str) {
    let lease = w.instance.lease(kernel);
    let mut input = attach_when_there(w, &lease, kernel, upstream);
    while w.ledger.last() < FLOW || input.backlog() > 0 {
        match input.acquire().unwrap() {
            Some(taken) => {
                read_passed(&mut input, &taken);
                w.ledger.finish(taken.head.key.id());
                input.release(&taken).unwrap();
            }
            None => input.wait(0, soon(), None),
        }
    }
    lease.stop();
}

fn flowing_consumer(w: &World) {
    flowing_sink(w, PROCESS, CAPTURE);
}

fn flowing_encoder(w: &World) {
    flowing_sink(w, ENCODE, PROCESS);
}

/// Passes frames by reference until FLOW is passed and everything is released.
fn flowing_stage(w: &World) {
    let lease = w.instance.lease(PROCESS);
    let pools = directory();
    let (output, _) = Producer::open(&lease, &spec(PROCESS, &[(ENCODE, true)], Policy::Lossless, 3), &pools).unwrap();
    let input = attach_when_there(w, &lease, PROCESS, CAPTURE);
    let mut stage = Stage::new(input, output, 0);
    let mut pending = None;
    while stage.output.last_key().id() < FLOW || stage.held() > 0 || stage.input.backlog() > 0 {
        stage.harvest().unwrap();
        let Some(taken) = pending.take().or_else(|| match stage.next_frame().unwrap() {
            Next::Frame(taken) => Some(taken),
            Next::Empty => None,
        }) else {
            stage.input.wait(0, soon(), Some(&stage.output));
            continue;
        };
        let format = stage.input.format(&taken).unwrap();
        stage.output.set_format(&format).unwrap();
        let pool = stage.input.pool(&taken).unwrap();
        stage.name_pool(pool.spec()).unwrap();
        let details = FrameDetails { source_position: taken.head.key.id() * 10, ..Default::default() };
        if !stage.pass(&taken, &details).unwrap() {
            stage.output.wait_for_room(soon());
            pending = Some(taken);
        }
    }
    lease.stop();
}

/// Kills `victim` at every point it passes while `peers` run all the time, then lets it finish.
fn with_peers_running(test: &str, victim: Scenario, peers: &[Scenario], rings: &[&str]) {
    let ledger = Ledger::new();
    let mut deaths = 0u64;
    let mut last_reached = true;
    // How many points a run passes depends on who is faster; a run that ends in order is the last but
    // for a margin.
    let mut missed = 0;
    let budget = Instant::now() + 2 * pair_budget();
    for at in 0.. {
        let w = World::new(&format!("{test}{at}"), ledger);
        let running: Vec<Child> = peers.iter().map(|peer| Child::spawn(|| peer(&w))).collect();
        last_reached = die_at(&w, victim, at);
        if last_reached {
            deaths += 1;
            assert_eq!(Child::spawn(|| victim(&w)).join(), End::Exit(0), "the successor after a death at {at}");
        } else {
            missed += 1;
        }
        for peer in running {
            assert_eq!(peer.join(), End::Exit(0), "a peer after a death at {at}");
        }
        let what = format!("killed at {at} with peers running");
        ledger.check_lossless(FLOW, &what);
        for ring in rings {
            check_quiet(&w.instance, ring, &what);
        }
        if missed > 3 || Instant::now() > budget {
            break;
        }
    }
    println!("{test}: {deaths} deaths with peers running, every frame once and in order");
    assert!(deaths > 50, "only {deaths} deaths; the last was {last_reached}");
}

#[test]
fn a_live_reader_survives_every_death_of_its_producer() {
    with_peers_running("flowp", flowing_producer, &[flowing_consumer], &[CAPTURE]);
}

#[test]
fn a_live_producer_survives_every_death_of_its_reader() {
    with_peers_running("flowc", flowing_consumer, &[flowing_producer], &[CAPTURE]);
}

#[test]
fn source_and_encoder_survive_every_death_of_the_stage_between_them() {
    with_peers_running("flows", flowing_stage, &[flowing_producer, flowing_encoder], &[CAPTURE, PROCESS]);
}

#[test]
fn a_stage_survives_every_death_of_the_encoder_that_reads_its_references() {
    with_peers_running("flowe", flowing_encoder, &[flowing_producer, flowing_stage], &[CAPTURE, PROCESS]);
}

// ---- descriptors handed over --------------------------------------------------------------------

/// A producer with a sealed memory pool that serves its descriptors, and stays.
fn memfd_producer(w: &World, ready: SharedWords) {
    let lease = w.instance.lease(CAPTURE);
    let pools = directory();
    let ring = spec(CAPTURE, &[(PROCESS, true), (ENCODE, true)], Policy::Lossless, 4);
    let (mut producer, _) = Producer::open(&lease, &ring, &pools).unwrap();
    let format = format();
    producer.set_pool(PoolKind::Memfd, format.frame_bytes(), &w.instance.dir).unwrap();
    producer.set_format(&StreamFormat::Video(format)).unwrap();
    shm_protocol::fdpass::serve(&w.instance.dir, CAPTURE, pools).unwrap();
    while producer.last_key().id() < 2 {
        let id = producer.last_key().id() + 1;
        produce(&mut producer, id, &format);
    }
    ready.set(0, 1);
    loop {
        // From here on the parent says when the next hand-over is the one to die in.
        if ready.get(2) != 0 && ready.get(3) == 0 {
            crash::arm(Some(ready.get(2) - 1));
            ready.set(3, 1);
        }
        std::thread::sleep(Duration::from_micros(100));
    }
}

/// A reader that maps the pool and hands it on.
fn memfd_reader(w: &World, kernel: &str, ready: SharedWords, stay: bool) {
    let lease = w.instance.lease(kernel);
    let pools = directory();
    let mut input = Consumer::attach(&lease, kernel, CAPTURE, &pools, &w.instance.dir).unwrap();
    let taken = input.acquire().unwrap().unwrap();
    assert_eq!(pixels_id(&mut input, &taken), taken.head.key.id());
    input.release(&taken).unwrap();
    shm_protocol::fdpass::serve(&w.instance.dir, kernel, pools).unwrap();
    ready.set(1, 1);
    if stay {
        loop {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    lease.stop();
}

#[test]
fn a_pool_of_descriptors_outlives_its_producer_killed_in_every_step_of_a_hand_over() {
    let mut deaths = 0;
    // Points of the serving side: before the descriptors leave, after.
    for at in 0..2u64 {
        let w = World::new(&format!("fds{at}"), Ledger::new());
        let ready = SharedWords::new(512);
        let mut capture = Child::spawn(|| memfd_producer(&w, ready));
        ready.wait_for(0, 1);
        let mut process = Child::spawn(|| memfd_reader(&w, PROCESS, ready, true));
        ready.wait_for(1, 1);
        ready.set(2, at + 1);
        ready.wait_for(3, 1);
        // The encoder asks the producer first, which dies in the middle; then the other reader.
        let lease = w.instance.lease(ENCODE);
        let mut input = Consumer::attach(&lease, ENCODE, CAPTURE, &directory(), &w.instance.dir).unwrap();
        let taken = input.acquire().unwrap().unwrap();
        assert_eq!(pixels_id(&mut input, &taken), 1);
        input.release(&taken).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        deaths += usize::from(!capture.is_running());
        assert!(process.is_running());
        drop((input, lease, capture));
        // The producer's successor finds its own pool again with the reader.
        let lease = w.instance.lease(CAPTURE);
        let ring = spec(CAPTURE, &[(PROCESS, true), (ENCODE, true)], Policy::Lossless, 4);
        let (mut producer, _) = Producer::open(&lease, &ring, &directory()).unwrap();
        let reused = producer.set_pool(PoolKind::Memfd, format().frame_bytes(), &w.instance.dir).unwrap();
        assert!(reused, "the pool died with its producer");
    }
    assert_eq!(deaths, 2);
}

#[test]
fn a_reader_killed_in_every_step_of_a_hand_over_does_not_disturb_the_server() {
    let w = World::new("fdc", Ledger::new());
    let ready = SharedWords::new(512);
    let mut capture = Child::spawn(|| memfd_producer(&w, ready));
    ready.wait_for(0, 1);
    let mut deaths = 0;
    for at in 0.. {
        let child = Child::spawn(|| {
            crash::arm(Some(at));
            memfd_reader(&w, ENCODE, SharedWords::new(512), false);
        });
        match child.join() {
            End::Signal(libc::SIGKILL) => deaths += 1,
            End::Exit(0) => break,
            // It had released both frames before it died: nothing is owed any more.
            End::Exit(101)
                if check_ring(&w.instance, CAPTURE, false, "hand-over").slots().iter().all(|s| s.owed() & 2 == 0) =>
            {
                break;
            }
            other => panic!("point {at}: {other:?}"),
        }
    }
    println!("fd hand-over: {deaths} deaths of a reader");
    assert!(deaths > 10 && capture.is_running());
    assert_eq!(Child::spawn(|| memfd_reader(&w, PROCESS, ready, false)).join(), End::Exit(0));
}
