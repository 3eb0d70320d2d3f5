//! A ring in private memory, as the models and the unit tests drive it, and the invariants they assert.
//!
//! Run the models with `RUSTFLAGS="--cfg loom" cargo nextest run -p shm-protocol --lib --release`. A process
//! is a thread; its death is the return of an operation at a crash point, after which the thread forgets the
//! handle and goes on as the successor (the lease, which orders the two, is the operating system's).

#[cfg(loom)]
mod deaths;
#[cfg(loom)]
mod hand_off;
#[cfg(loom)]
mod planted_bugs;
#[cfg(loom)]
mod stage;

use super::{ConsumerCore, ControlMemory, ControlRef, EpochMemory, Guard, ProducerCore, RingError, SlotRef};
use crate::crash::Fuse;
use crate::layout::{RingControl, SLOT_WORDS, slot_word};
use crate::slot::Key;
use crate::sync::{AtomicU64, Ordering};
use std::sync::Arc;

struct Memory(RingControl);

impl ControlMemory for Memory {
    fn control(&self) -> &RingControl {
        &self.0
    }

    fn is_broken(&self) -> bool {
        false
    }
}

struct Epoch(AtomicU64);

impl EpochMemory for Epoch {
    fn epoch(&self) -> &AtomicU64 {
        &self.0
    }
}

/// The bytes of a buffer: loom reports every access that is not ordered with a write.
#[cfg(loom)]
type Pixels = loom::cell::UnsafeCell<u64>;
#[cfg(not(loom))]
type Pixels = ();

/// A ring, its producer's lease, and its buffers.
#[derive(Clone)]
pub(super) struct World {
    pub(super) control: ControlRef,
    epoch: Arc<Epoch>,
    pixels: Arc<[Pixels; 2]>,
}

impl World {
    pub(super) fn new(slots: usize, required_mask: u8) -> World {
        #[cfg(loom)]
        let pixels = std::array::from_fn(|_| Pixels::new(0));
        #[cfg(not(loom))]
        let pixels = [(); 2];
        World {
            control: ControlRef::new(Arc::new(Memory(RingControl::in_memory(slots, required_mask)))),
            epoch: Arc::new(Epoch(AtomicU64::new(0))),
            pixels: Arc::new(pixels),
        }
    }

    /// The next holder of the producer's lease.
    pub(super) fn producer(&self, fuse: Fuse) -> ProducerCore {
        let epoch = self.epoch.0.load(Ordering::Acquire) + 1;
        self.epoch.0.store(epoch, Ordering::Release);
        ProducerCore::new(self.control.clone(), Guard::new(epoch, self.epoch.clone()), fuse)
    }

    /// A process in role `role`.
    pub(super) fn reader(&self, role: u8, fuse: Fuse) -> ConsumerCore {
        let epoch = Arc::new(Epoch(AtomicU64::new(1)));
        ConsumerCore::new(self.control.clone(), Guard::new(1, epoch), role, fuse)
    }

    /// What the words of frame `id` say, read on at `position`.
    pub(super) fn words(id: u64, position: u64) -> [u64; SLOT_WORDS] {
        let mut words = [0; SLOT_WORDS];
        // The count of lines stored, which a whole descriptor shows.
        let lines = if cfg!(loom) { 0 } else { SLOT_WORDS as u64 / 8 };
        words[slot_word::FLAGS] = id | lines << 48;
        words[slot_word::EXTENT] = id;
        words[slot_word::SOURCE_POSITION] = position;
        words
    }

    /// Writes frame `id` into a claimed buffer.
    pub(super) fn fill(&self, at: SlotRef, id: u64) {
        // SAFETY: loom checks that nobody else looks.
        #[cfg(loom)]
        self.pixels[at.slot].with_mut(|pixels| unsafe { *pixels = id });
        #[cfg(not(loom))]
        let _ = (&self.pixels[at.slot], id);
    }

    /// Publishes frame `id`; `false`: no slot is free.
    pub(super) fn publish(&self, core: &mut ProducerCore, id: u64) -> Result<bool, RingError> {
        let Some(at) = core.claim()? else { return Ok(false) };
        self.publish_claimed(core, at, id)?;
        Ok(true)
    }

    pub(super) fn publish_claimed(&self, core: &mut ProducerCore, at: SlotRef, id: u64) -> Result<(), RingError> {
        self.fill(at, id);
        core.publish(at, Key::whole(id), &Self::words(id, id), SLOT_WORDS / 8, 0)?;
        Ok(())
    }

    /// The frame in a slot that the caller has taken: key, descriptor and bytes must be of one frame.
    #[cfg(loom)]
    pub(super) fn look(&self, at: SlotRef) -> u64 {
        self.check_words();
        let id = self.control.key(at.slot).id();
        assert_eq!(self.control.seq(at.slot), at.seq, "the slot is another one");
        assert_eq!(self.control.word(at.slot, slot_word::FLAGS), id, "descriptor of another frame");
        assert_eq!(self.control.word(at.slot, slot_word::EXTENT), id, "descriptor of another frame");
        // SAFETY: loom checks that nobody writes.
        self.pixels[at.slot].with(|pixels| assert_eq!(unsafe { *pixels }, id, "bytes of another frame"));
        id
    }

    /// Takes, reads and releases the next frame.
    #[cfg(loom)]
    pub(super) fn read(&self, core: &mut ConsumerCore) -> Result<Option<u64>, RingError> {
        let Some(at) = core.acquire()? else { return Ok(None) };
        let id = self.look(at);
        core.release(at)?;
        Ok(Some(id))
    }

    /// Invariant 2.
    #[cfg(loom)]
    pub(super) fn check_words(&self) {
        for slot in 0..self.control.slot_count() {
            let word = self.control.load_state(slot);
            assert_eq!(word.held() & !word.owed(), 0, "invariant 2: {word:?}");
            assert_eq!(word.is_ready(), word.owed() != 0, "invariant 2: {word:?}");
            assert!(word.state().is_some(), "invariant 2: {word:?}");
        }
    }

    /// Invariants 9, 10 and 12: everything is free, no key of an unpublished frame is left, and the header
    /// is ahead of every slot.
    #[cfg(loom)]
    pub(super) fn check_quiet(&self) {
        let last = self.control.last_key();
        let next_seq = self.control.producer.next_seq.load(Ordering::Acquire);
        for slot in 0..self.control.slot_count() {
            assert!(self.control.load_state(slot).is_free(), "invariant 12: {:?}", self.control.load_state(slot));
            assert!(!self.control.key(slot).is_after(last), "invariant 9: {:?}", self.control.key(slot));
            assert!(next_seq > self.control.seq(slot), "invariant 10");
        }
    }
}

#[cfg(loom)]
/// A reader that looks `looks` times.
pub(super) fn spawn_reader(
    world: &World,
    role: u8,
    looks: usize,
) -> loom::thread::JoinHandle<(ConsumerCore, Vec<u64>)> {
    let world = world.clone();
    loom::thread::spawn(move || {
        let mut core = world.reader(role, Fuse::default());
        let mut got = Vec::new();
        for _ in 0..looks {
            got.extend(world.read(&mut core).unwrap());
        }
        (core, got)
    })
}

/// Runs `scenario` under loom with at most `preemptions` involuntary switches; what is published by fewer
/// threads at once needs fewer.
#[cfg(loom)]
pub(super) fn explore(preemptions: usize, scenario: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        EXECUTIONS.with(|count| count.set(count.get() + 1));
        scenario();
    });
    eprintln!("{} executions so far", EXECUTIONS.with(std::cell::Cell::get));
}

#[cfg(loom)]
thread_local! {
    static EXECUTIONS: std::cell::Cell<u64> = const { std::cell::Cell::new(0) };
    static DEATHS: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// Notes that a fuse burned down.
#[cfg(loom)]
pub(super) fn note_death() {
    DEATHS.with(|deaths| deaths.set(deaths.get() + 1));
}

/// Explores `scenario` with a death at step 0, 1, … until it is too short to die in. Returns the steps.
#[cfg(loom)]
pub(super) fn explore_deaths<S: Fn() + Sync + Send + 'static>(preemptions: usize, scenario: impl Fn(u32) -> S) -> u32 {
    for step in 0.. {
        let before = DEATHS.with(std::cell::Cell::get);
        explore(preemptions, scenario(step));
        if DEATHS.with(std::cell::Cell::get) == before {
            return step;
        }
    }
    unreachable!("a scenario has finitely many steps")
}
