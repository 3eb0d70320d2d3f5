//! The stage rule by reference: A writes pixels, B publishes them without copying, C reads them.

use super::{World, explore, explore_deaths, note_death};
use crate::crash::Fuse;
use crate::layout::{SLOT_WORDS, slot_word};
use crate::ring::stage_core::StageCore;
use crate::ring::{ConsumerCore, ProducerCore, RingError, SlotRef};
use crate::slot::Key;
use loom::thread;

/// Identity of A's ring in references.
const A_UID: u16 = 1;
/// Frames of a scenario.
const FRAMES: u64 = 2;

/// B: one input ring, one output ring.
struct Stage {
    input: ConsumerCore,
    output: ProducerCore,
    core: StageCore,
    /// Taken, and not yet published for want of room.
    pending: Option<SlotRef>,
}

impl Stage {
    /// A process that holds B's lease.
    fn start(a: &World, b: &World, fuse: &Fuse) -> Result<Stage, RingError> {
        let mut output = b.producer(fuse.clone());
        output.recover(|_| None)?;
        let input = a.reader(0, fuse.clone());
        Ok(Stage { input, output, core: StageCore::new(A_UID, 0), pending: None })
    }

    /// One turn of the loop: take, publish by reference, release what is finished. `false`: nothing to do.
    fn turn(&mut self) -> Result<bool, RingError> {
        self.core.harvest(&mut self.input, &self.output)?;
        if self.pending.is_none() {
            let Some(at) = self.input.acquire()? else { return Ok(false) };
            if !self.core.enter(at, self.input.control.key(at.slot), &self.output) {
                return Ok(true);
            }
            self.pending = Some(at);
        }
        let Some(at) = self.pending else { return Ok(false) };
        let Some(out) = self.output.claim()? else { return Ok(false) };
        let key = self.input.control.key(at.slot);
        let mut words = World::words(key.id(), 0);
        words[slot_word::REFERENCE] = at.reference(A_UID);
        let seen = self.output.publish(out, key, &words, SLOT_WORDS / 8, 0)?;
        self.pending = None;
        self.core.passed(at, seen.then_some(out));
        self.core.harvest(&mut self.input, &self.output)?;
        Ok(true)
    }
}

/// C reads the pixels where they lie: in A's buffer.
fn read_by_reference(a: &World, b: &World, core: &mut ConsumerCore) -> Option<u64> {
    let at = core.acquire().unwrap()?;
    b.check_words();
    let reference = b.control.word(at.slot, slot_word::REFERENCE);
    let slot = (reference >> 32) as u16 as usize;
    let word = a.control.load_state(slot);
    assert!(word.held_by(0), "invariant 7: {word:?} holds the pixels of a published frame");
    assert_eq!(word.seq_low(), reference as u32, "invariant 7: the buffer is another frame's");
    let id = a.look(SlotRef { slot, seq: a.control.seq(slot) });
    assert_eq!(Key::whole(id), b.control.key(at.slot), "the pixels are another frame's");
    core.release(at).unwrap();
    Some(id)
}

/// B dies at step `step`.
pub(super) fn stage_dies_at(step: u32) -> impl Fn() + Sync + Send + 'static {
    move || {
        let (a, b) = (World::new(1, 0b1), World::new(1, 0b1));
        let middle = {
            let (a, b) = (a.clone(), b.clone());
            thread::spawn(move || {
                let mut fuse = Fuse::burning(step);
                let mut stage = None;
                for _ in 0..4 {
                    let done = match &mut stage {
                        None => Stage::start(&a, &b, &fuse).map(|started| {
                            stage = Some(started);
                            true
                        }),
                        Some(stage) => stage.turn(),
                    };
                    if done == Err(RingError::Died) {
                        note_death();
                        (stage, fuse) = (None, Fuse::default());
                    } else {
                        done.unwrap();
                    }
                }
                (stage, fuse)
            })
        };
        let reading = {
            let (a, b) = (a.clone(), b.clone());
            thread::spawn(move || {
                let mut reader = b.reader(0, Fuse::default());
                let got: Vec<u64> = read_by_reference(&a, &b, &mut reader).into_iter().collect();
                (reader, got)
            })
        };
        let mut producer = a.producer(Fuse::default());
        let mut next = 1;
        // One slot: the second attempt writes over the first frame if it was released too early.
        for _ in 0..2 {
            next += u64::from(next <= FRAMES && a.publish(&mut producer, next).unwrap());
        }
        let (stage, mut fuse) = middle.join().unwrap();
        let (mut reader, mut got) = reading.join().unwrap();
        let mut stage = stage;
        // Everybody goes on in turn until nothing moves.
        for _ in 0..12 {
            let turned = match &mut stage {
                None => Stage::start(&a, &b, &fuse).map(|started| {
                    stage = Some(started);
                    true
                }),
                Some(stage) => stage.turn(),
            };
            if turned == Err(RingError::Died) {
                note_death();
                (stage, fuse) = (None, Fuse::default());
            }
            next += u64::from(next <= FRAMES && a.publish(&mut producer, next).unwrap());
            got.extend(read_by_reference(&a, &b, &mut reader));
        }
        assert_eq!(got, (1..=FRAMES).collect::<Vec<_>>(), "invariants 4, 5, 13: nothing lost, nothing twice");
        assert_eq!(stage.map(|s| s.core.held()), Some(0), "invariant 12: nothing is held for nobody");
        a.check_quiet();
        b.check_quiet();
    }
}

#[test]
fn pixels_by_reference_are_never_rewritten_while_they_are_read() {
    explore(3, stage_dies_at(u32::MAX));
}

#[test]
fn a_stage_dies_at_any_step_and_its_successor_loses_and_doubles_nothing() {
    let steps = explore_deaths(2, stage_dies_at);
    assert!(steps > 20, "two frames have more than {steps} steps");
}
