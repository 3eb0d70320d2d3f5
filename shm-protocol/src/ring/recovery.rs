//! What a successor does before its first operation (PROTOCOL, recovery R1 and R2). Every step may be
//! repeated after another death: killed anywhere and run again, it ends in the same state.

use super::{ProducerCore, RingError};
use crate::crash::crash_point;
use crate::layout::slot_word;
use crate::planted::planted;
use crate::slot::{Key, SlotState};
use crate::sync::Ordering;

/// What recovery found on the ring of a dead producer.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Recovered {
    /// Slots that were being written.
    pub aborted: usize,
    /// Of those, slots that hardware may still write.
    pub quarantined: usize,
    /// The last key ever published.
    pub last_key: Key,
    /// The first sequence number not used yet.
    pub next_seq: u64,
}

impl ProducerCore {
    /// Makes the ring of a dead predecessor ours. `quarantine` says of a slot for the sake of which process
    /// its buffer must rest, because a device of it may still write there.
    pub(crate) fn recover(&mut self, quarantine: impl Fn(usize) -> Option<u64>) -> Result<Recovered, RingError> {
        self.check()?;
        let mut recovered = Recovered::default();
        let control = self.control.clone();
        let mut last_key = control.last_key();
        let mut next_seq = control.producer.next_seq.load(Ordering::Relaxed);
        // R1: what was being written was never published.
        for slot in 0..control.slot_count() {
            let found = control.load_state(slot);
            if found.state() == Some(SlotState::Writing) {
                let to = match quarantine(slot) {
                    Some(process) => {
                        // A slot without a frame has no capture time: whoever ends the quarantine reads it here.
                        control.set_word(slot, slot_word::CAPTURE_NS, process);
                        SlotState::Quarantined
                    }
                    None => SlotState::Free,
                };
                self.clear_slot(slot, found, to)?;
                recovered.aborted += 1;
                recovered.quarantined += usize::from(to == SlotState::Quarantined);
            }
        }
        // R2: the header may lag one publish behind the slots.
        let mut position = None;
        for slot in 0..control.slot_count() {
            let found = control.load_state(slot);
            if (found.is_ready() || found.is_free()) && !planted!(LastKeyInHeaderOnly) {
                let key = control.key(slot);
                if key.is_after(last_key) {
                    last_key = key;
                    // A frame published by its head alone left the position as it was.
                    let whole = cfg!(loom) || control.word(slot, slot_word::FLAGS) >> 48 != 0;
                    position = whole.then(|| control.word(slot, slot_word::SOURCE_POSITION));
                }
            }
            next_seq = next_seq.max(control.seq(slot).saturating_add(1));
        }
        crash_point!(self.fuse, "recover: before the source position");
        if let Some(position) = position {
            control.producer.source_position.store(position, Ordering::Relaxed);
        }
        crash_point!(self.fuse, "recover: before the last key");
        control.producer.last_key.store(last_key.0, Ordering::Release);
        crash_point!(self.fuse, "recover: before the next sequence number");
        control.producer.next_seq.store(next_seq, Ordering::Release);
        // R4: nobody knows who slept on what.
        #[cfg(not(loom))]
        control.pub_bell.ring_unconditionally();
        #[cfg(not(loom))]
        control.rel_bell.ring_unconditionally();
        crash_point!(self.fuse, "recover: done");
        recovered.last_key = last_key;
        recovered.next_seq = next_seq;
        Ok(recovered)
    }

    /// Slots in quarantine.
    pub(crate) fn quarantined(&self) -> usize {
        let quarantined = |slot: &usize| self.control.load_state(*slot).state() == Some(SlotState::Quarantined);
        (0..self.control.slot_count()).filter(quarantined).count()
    }

    /// Quarantined slots become free again once the process that they rest for is `gone`; returns how many did.
    pub(crate) fn end_quarantine(&mut self, gone: impl Fn(u64) -> bool) -> Result<usize, RingError> {
        self.check()?;
        let mut freed = 0;
        for slot in 0..self.control.slot_count() {
            let found = self.control.load_state(slot);
            if found.state() == Some(SlotState::Quarantined) && gone(self.control.word(slot, slot_word::CAPTURE_NS)) {
                self.clear_slot(slot, found, SlotState::Free)?;
                freed += 1;
            }
        }
        Ok(freed)
    }
}
