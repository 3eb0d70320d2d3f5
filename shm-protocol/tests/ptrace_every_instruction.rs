//! SIGKILL after every single machine instruction of the core operations: a child is single-stepped to
//! instruction n and killed there, its successor recovers, and the invariants are read from the raw bytes.
//! Crash points say "between any two atomic steps"; this says "anywhere".
//!
//! What a dead process leaves is shared memory, names and locks. They change at a store to the mapping or
//! in a system call and nowhere else, so the instructions fall into classes: all within one leave the very
//! same state. The first pass steps through the whole operation and finds the classes; then a child is
//! killed in each of them, and, as far as time allows (a step costs 40 µs where a hypervisor takes part),
//! after each single instruction too.
#![cfg(target_arch = "x86_64")]
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]
#![allow(unsafe_code, reason = "ptrace is a raw system call")]

mod common;

use common::*;
use shm_protocol::attach::Policy;
use shm_protocol::descriptor::{FrameDetails, FrameHead, StreamFormat};
use shm_protocol::input::Consumer;
use shm_protocol::lease::Lease;
use shm_protocol::output::Producer;
use shm_protocol::pool::PoolKind;
use shm_protocol::slot::Key;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const CAPTURE: &str = "capture.main";
const PROCESS: &str = "process.main";
/// Which instruction of a class is the one to die after.
const SEED: usize = 11;

fn open(instance: &Instance, lease: &Lease) -> Producer {
    let ring = spec(CAPTURE, &[(PROCESS, true)], Policy::Lossless, 4);
    Producer::open(lease, &ring, &directory()).unwrap().0.tap(|producer| {
        producer.set_pool(PoolKind::PosixShm, format().frame_bytes(), &instance.dir).unwrap();
        producer.set_format(&StreamFormat::Video(format())).unwrap();
    })
}

trait Tap: Sized {
    fn tap(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}
impl Tap for Producer {}

fn attach(instance: &Instance, lease: &Lease) -> Consumer {
    Consumer::attach(lease, PROCESS, CAPTURE, &directory(), &instance.dir).unwrap()
}

/// The tracer stops the child here: the beginning and the end of what is stepped through.
fn marker() {
    // SAFETY: stops this process; its tracer goes on with it.
    unsafe { libc::kill(libc::getpid(), libc::SIGSTOP) };
}

fn head(producer: &Producer, claim: &shm_protocol::output::Claim) -> FrameHead {
    let buffer = producer.extent(claim, 0, format().frame_bytes() as u32);
    FrameHead { key: Key::whole(producer.last_key().id() + 1), buffer, ..Default::default() }
}

/// The last id a reader noted: what a durable output would know of.
const NOTED: usize = 0;

/// An operation between two markers, with what comes before it.
type Operation = fn(&Instance, SharedWords);

fn claim(i: &Instance, _: SharedWords) {
    let lease = i.lease(CAPTURE);
    let mut producer = open(i, &lease);
    marker();
    let claim = producer.claim();
    marker();
    drop(claim);
}

fn publish(i: &Instance, _: SharedWords) {
    let lease = i.lease(CAPTURE);
    let mut producer = open(i, &lease);
    let claim = producer.claim().unwrap().unwrap();
    let head = head(&producer, &claim);
    let details = FrameDetails { source_position: head.key.id(), ..Default::default() };
    producer.buffer(&claim)[..8].copy_from_slice(&head.key.id().to_le_bytes());
    marker();
    let published = producer.publish(claim, head, &details);
    marker();
    assert!(published.unwrap());
}

fn acquire(i: &Instance, _: SharedWords) {
    let lease = i.lease(PROCESS);
    let mut consumer = attach(i, &lease);
    marker();
    let taken = consumer.acquire();
    marker();
    assert!(taken.unwrap().is_some());
}

fn release(i: &Instance, noted: SharedWords) {
    let lease = i.lease(PROCESS);
    let mut consumer = attach(i, &lease);
    let taken = consumer.acquire().unwrap().unwrap();
    noted.set(NOTED, noted.get(NOTED).max(taken.head.key.id()));
    marker();
    let released = consumer.release(&taken);
    marker();
    released.unwrap();
}

/// A predecessor left a slot in the middle of a claim.
fn recover(i: &Instance, _: SharedWords) {
    let lease = i.lease(CAPTURE);
    let mut producer = open(i, &lease);
    let _left = producer.claim();
    drop((producer, lease));
    let lease = i.lease(CAPTURE);
    let ring = spec(CAPTURE, &[(PROCESS, true)], Policy::Lossless, 4);
    let pools = directory();
    marker();
    let opened = Producer::open(&lease, &ring, &pools);
    marker();
    assert_eq!(opened.unwrap().1.aborted, 1);
}

fn attaching(i: &Instance, _: SharedWords) {
    let lease = i.lease(PROCESS);
    let pools = directory();
    marker();
    let consumer = Consumer::attach(&lease, PROCESS, CAPTURE, &pools, &i.dir);
    marker();
    assert!(consumer.is_ok());
}

fn takeover(i: &Instance, _: SharedWords) {
    let table = i.table();
    let candidate = shm_protocol::lease::Candidate::enter(&table, CAPTURE, true).unwrap();
    candidate.ready();
    marker();
    let lease = candidate.try_activate();
    if let Ok(Ok(lease)) = &lease {
        lease.running();
    }
    marker();
}

/// A holder yields in order.
fn hand_over(i: &Instance, _: SharedWords) {
    let lease = i.lease(CAPTURE);
    marker();
    lease.stop();
    marker();
}

fn ptrace(request: libc::c_uint, pid: i32) -> i64 {
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: none of the requests used here takes an address or data.
    unsafe { libc::ptrace(request, pid, nothing, nothing) }
}

/// Waits for the child's next stop; the signal that stopped it, `None` when it ended.
fn stop_of(pid: i32) -> Option<i32> {
    let mut status = 0;
    // SAFETY: waits for our own child.
    let got = unsafe { libc::waitpid(pid, &mut status, 0) };
    (got == pid && libc::WIFSTOPPED(status)).then(|| libc::WSTOPSIG(status))
}

/// Brings a child to its first marker. `None`: tracing is not permitted here.
fn traced(i: &Instance, operation: Operation, noted: SharedWords) -> Option<Child> {
    const REFUSED: i32 = 77;
    let child = Child::spawn(|| {
        if ptrace(libc::PTRACE_TRACEME, 0) != 0 {
            // SAFETY: ends the child.
            unsafe { libc::_exit(REFUSED) };
        }
        operation(i, noted);
    });
    (stop_of(child.pid) == Some(libc::SIGSTOP)).then_some(child)
}

/// The shared words that a dead process leaves: the ring's header and slots, and the leases.
struct Watch {
    maps: [SharedFile; 2],
    seen: Vec<u64>,
}

impl Watch {
    fn new(i: &Instance) -> Watch {
        let slots_end = (at::SLOT_0 + 4 * at::SLOT_WORDS) * 8;
        let maps = [SharedFile::map(&i.path(CAPTURE), slots_end), SharedFile::map(&i.path("leases"), 4096)];
        let mut watch = Watch { maps, seen: Vec::new() };
        watch.changed();
        watch
    }

    /// Whether anything is different from the last look.
    fn changed(&mut self) -> bool {
        let words = || self.maps.iter().flat_map(|map| map.words().iter().map(|w| w.load(Ordering::Relaxed)));
        if self.seen.len() == words().count() && words().eq(self.seen.iter().copied()) {
            return false;
        }
        self.seen = words().collect();
        true
    }
}

/// Whether the child's next instruction is a system call (0f 05).
fn at_system_call(child: &Child) -> bool {
    let rip = std::mem::offset_of!(libc::user_regs_struct, rip);
    // SAFETY: reads a register and a word of text of our traced child.
    unsafe {
        let at = libc::ptrace(libc::PTRACE_PEEKUSER, child.pid, rip, 0);
        libc::ptrace(libc::PTRACE_PEEKTEXT, child.pid, at, 0) & 0xffff == 0x050f
    }
}

/// One instruction. `None`: the second marker was reached; else whether the shared state may have changed.
fn step(child: &Child, watch: &mut Watch) -> Option<bool> {
    let system_call = at_system_call(child);
    assert_eq!(ptrace(libc::PTRACE_SINGLESTEP, child.pid), 0);
    match stop_of(child.pid) {
        Some(libc::SIGTRAP) => Some(watch.changed() || system_call),
        Some(libc::SIGSTOP) => None,
        other => panic!("{other:?}"),
    }
}

/// Lengths of the classes of an operation, in instructions.
fn classes(child: &Child, watch: &mut Watch) -> Vec<usize> {
    let mut lengths = vec![0];
    while let Some(changed) = step(child, watch) {
        if changed {
            lengths.push(0);
        }
        if let Some(last) = lengths.last_mut() {
            *last += 1;
        }
    }
    lengths
}

/// Recovers as the dead process's successor, and checks; then publishes and reads one frame more.
fn survive(i: &Instance, noted: SharedWords, what: &str) {
    let lease = i.lease(CAPTURE);
    let mut producer = open(i, &lease);
    check_ring(i, CAPTURE, true, what);
    let id = producer.last_key().id() + 1;
    assert!(produce(&mut producer, id, &format()), "{what}: slots leaked");
    let reader = i.lease(PROCESS);
    let mut consumer = attach(i, &reader);
    while let Some(taken) = consumer.acquire().unwrap() {
        let (id, last) = (taken.head.key.id(), noted.get(NOTED));
        assert!(id == last + 1 || id == last, "{what}: {id} after {last}");
        assert_eq!(pixels_id(&mut consumer, &taken), id, "{what}");
        noted.set(NOTED, id);
        consumer.release(&taken).unwrap();
    }
    assert_eq!(noted.get(NOTED), id, "{what}: frames were lost");
    check_quiet(i, CAPTURE, what);
    // One frame waits for whoever reads next.
    assert!(produce(&mut producer, id + 1, &format()));
    // In order: a successor would wait for the whole end of a process that died.
    lease.stop();
    reader.stop();
}

/// Both processes on one processor: a step is then a switch and not a wake-up across processors.
fn stay_on_this_processor() {
    // SAFETY: plain system calls; the set is zeroed before use.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set);
    }
}

fn kill_at_every_instruction(name: &str, operation: Operation, budget: Duration) {
    stay_on_this_processor();
    let i = Instance::new(&format!("pt-{name}"));
    let noted = SharedWords::new(512);
    survive(&i, noted, "before");
    let Some(child) = traced(&i, operation, noted) else {
        println!("{name}: SKIPPED, ptrace is not permitted here");
        return;
    };
    let mut watch = Watch::new(&i);
    let classes = classes(&child, &mut watch);
    drop(child);
    survive(&i, noted, "whole");
    let whole: usize = classes.iter().sum();
    let begin = Instant::now();
    // Each class once, wherever in it: the count of changes finds it even if an instruction more or less
    // went before.
    for (class, length) in classes.iter().enumerate() {
        let child = traced(&i, operation, noted).unwrap();
        watch.changed();
        let mut passed = 0;
        while passed < class && step(&child, &mut watch).map(|c| passed += usize::from(c)).is_some() {}
        for _ in 0..(SEED * class) % length.max(&1) {
            if step(&child, &mut watch) != Some(false) {
                break;
            }
        }
        drop(child); // SIGKILL where it stands
        survive(&i, noted, &format!("{name} killed in class {class} of {}", classes.len()));
    }
    // Scattered, so that a run cut short by a slow machine has been everywhere.
    let mut killed = 0;
    for place in scattered(whole, 0) {
        if begin.elapsed() > budget {
            break;
        }
        let child = traced(&i, operation, noted).unwrap();
        for _ in 0..place {
            ptrace(libc::PTRACE_SINGLESTEP, child.pid);
            if stop_of(child.pid) != Some(libc::SIGTRAP) {
                break;
            }
        }
        killed += 1;
        drop(child);
        survive(&i, noted, &format!("{name} killed after instruction {place} of {whole}"));
    }
    println!(
        "{name}: {whole} instructions in {} classes of equal shared state, a death in each; and after {killed} \
         of the {whole} one by one; {:.1} s",
        classes.len(),
        begin.elapsed().as_secs_f32()
    );
    assert!(classes.len() > 1, "nothing was stored");
}

macro_rules! operations {
    ($($test:ident: $operation:ident, $seconds:literal;)*) => {$(
        #[test]
        fn $test() {
            kill_at_every_instruction(stringify!($operation), $operation, Duration::from_secs($seconds));
        }
    )*};
}
operations! {
    killed_at_every_instruction_of_claim: claim, 12;
    killed_at_every_instruction_of_publish: publish, 10;
    killed_at_every_instruction_of_acquire: acquire, 12;
    killed_at_every_instruction_of_release: release, 8;
    killed_all_over_recovery: recover, 8;
    killed_all_over_attach: attaching, 8;
    killed_all_over_a_takeover: takeover, 8;
    killed_all_over_a_hand_over: hand_over, 8;
}
