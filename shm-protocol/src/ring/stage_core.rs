//! The stage rule over two rings: which inputs are finished, which are still somebody's bytes, and when
//! each is released (PROTOCOL, stage rule). No memory and no names: loom runs this very code.

use super::{ConsumerCore, ProducerCore, RingError, SlotRef};
use crate::crash::crash_point;
use crate::layout::{MAX_SLOTS, slot_word};
use crate::planted::planted;
use crate::slot::{Key, reference_word};

impl SlotRef {
    /// The word by which a slot of another ring names this one.
    pub(crate) fn reference(self, ring_uid: u16) -> u64 {
        reference_word(ring_uid, self.slot as u16, self.seq as u32)
    }
}

impl ProducerCore {
    /// Whether slot `at` still is what was published there.
    pub(crate) fn is_outstanding(&self, at: SlotRef) -> bool {
        let word = self.control.load_state(at.slot);
        word.is_ready() && word.seq_low() == at.seq as u32
    }

    /// The own slot that refers to an input slot, if one does.
    pub(crate) fn referrer(&self, reference: u64) -> Option<SlotRef> {
        (0..self.control.slot_count()).find_map(|slot| {
            let word = self.control.load_state(slot);
            let refers = self.control.word(slot, slot_word::REFERENCE) == reference;
            (word.is_ready() && refers).then(|| SlotRef { slot, seq: self.control.seq(slot) })
        })
    }
}

/// An input that the stage holds.
#[derive(Debug, Clone, Copy)]
struct Held {
    at: SlotRef,
    key: Key,
    /// The output slot whose bytes it is.
    referrer: Option<SlotRef>,
}

/// The inputs a stage holds, and why.
#[derive(Debug)]
pub(crate) struct StageCore {
    held: Vec<Held>,
    /// Identity of the input ring, as it stands in references.
    input_uid: u16,
    /// Inputs behind the last one that must stay readable.
    history: u64,
}

impl StageCore {
    pub(crate) fn new(input_uid: u16, history: u64) -> StageCore {
        StageCore { held: Vec::with_capacity(MAX_SLOTS), input_uid, history }
    }

    /// Enters an input that was just acquired. `true`: something is still to be made of it. `false`: a
    /// dead predecessor published its output; it is kept while that output refers to it.
    pub(crate) fn enter(&mut self, at: SlotRef, key: Key, output: &ProducerCore) -> bool {
        let finished = !key.is_after(output.control.last_key());
        let referrer = if finished { output.referrer(at.reference(self.input_uid)) } else { None };
        self.held.push(Held { at, key, referrer });
        !finished
    }

    /// Input `at` was published by reference in output slot `referrer`.
    pub(crate) fn passed(&mut self, at: SlotRef, referrer: Option<SlotRef>) {
        if let Some(held) = self.held.iter_mut().find(|h| h.at == at) {
            held.referrer = if planted!(ReleaseAfterPublish) { None } else { referrer };
        }
    }

    /// Releases every input that is finished and that nothing depends on.
    pub(crate) fn harvest(&mut self, input: &mut ConsumerCore, output: &ProducerCore) -> Result<(), RingError> {
        let last = output.control.last_key();
        let mut index = 0;
        while index < self.held.len() {
            let held = self.held[index];
            let finished = !held.key.is_after(last) && held.key.id().saturating_add(self.history) <= last.id();
            let depended_on = held.referrer.is_some_and(|at| output.is_outstanding(at));
            if finished && !depended_on {
                crash_point!(output.fuse, "harvest: before an input is released");
                input.release(held.at)?;
                self.held.swap_remove(index);
            } else {
                index += 1;
            }
        }
        Ok(())
    }

    /// Inputs held now.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }

    /// Outputs that refer to inputs now.
    pub(crate) fn referring(&self, output: &ProducerCore) -> usize {
        self.held.iter().filter(|h| h.referrer.is_some_and(|at| output.is_outstanding(at))).count()
    }
}
