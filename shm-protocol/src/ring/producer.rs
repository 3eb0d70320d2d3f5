//! The writing side: claim a free slot, fill it, publish it; in a live pixel ring, make room.

use super::{ControlRef, Guard, RingError, SlotRef};
use crate::crash::{Fuse, crash_point};
use crate::layout::{SLOT_WORDS, role_word, slot_word};
use crate::planted::planted;
use crate::slot::{Key, MAX_ROLES, SlotState, SlotWord};
use crate::sync::Ordering;

/// The words a publish stores besides state, sequence and key.
pub(crate) type SlotWords = [u64; SLOT_WORDS];

/// The producer's handle on its ring.
pub(crate) struct ProducerCore {
    pub(crate) control: ControlRef,
    pub(crate) guard: Guard,
    pub(crate) fuse: Fuse,
    /// Sequence number of this process's last publication.
    published_seq: u64,
}

impl ProducerCore {
    pub(crate) fn new(control: ControlRef, guard: Guard, fuse: Fuse) -> ProducerCore {
        ProducerCore { control, guard, fuse, published_seq: 0 }
    }

    pub(crate) fn check(&self) -> Result<(), RingError> {
        self.guard.check()?;
        if self.control.is_broken() { Err(RingError::Truncated) } else { Ok(()) }
    }

    /// Takes a FREE slot for writing; `None` when there is none. Any free slot will do: a strict order
    /// would stall on one slot that is held long. The one a reader expects next is tried first.
    pub(crate) fn claim(&mut self) -> Result<Option<SlotRef>, RingError> {
        self.check()?;
        let slots = self.control.slot_count();
        let seq = self.control.producer.next_seq.load(Ordering::Relaxed);
        let expected = seq as usize % slots;
        for step in 0..slots {
            let slot = (expected + step) % slots;
            // SYNC: slot-free (acquire side)
            let found = self.control.load_state(slot);
            if found.is_free() {
                return self.stamp(SlotRef { slot, seq }, found).map(Some);
            }
        }
        Ok(None)
    }

    /// `found` (FREE or an unheld READY) → WRITING under a new sequence number.
    fn stamp(&mut self, claimed: SlotRef, found: SlotWord) -> Result<SlotRef, RingError> {
        crash_point!(self.fuse, "claim: before the sequence number is spent");
        // Spent before it is stamped: no death can make a successor stamp it again.
        self.control.producer.next_seq.store(claimed.seq.wrapping_add(1), Ordering::Release);
        crash_point!(self.fuse, "claim: before the slot is taken");
        let writing = SlotWord::new(SlotState::Writing, claimed.seq, self.guard.epoch);
        // SYNC: slot-free (acquire side): what the last reader did with the buffer is over.
        self.control
            .state(claimed.slot)
            .compare_exchange(found.0, writing.0, Ordering::AcqRel, Ordering::Acquire)
            .map_err(|now| RingError::Corrupt { slot: claimed.slot, found: SlotWord(now) })?;
        crash_point!(self.fuse, "claim: before the slot knows its sequence number");
        self.control.set_word(claimed.slot, slot_word::SEQ, claimed.seq);
        crash_point!(self.fuse, "claim: done");
        Ok(claimed)
    }

    /// Makes a claimed slot visible to every required and attached role. `words` are the descriptor; of
    /// its `lines` (1–4) only those in use are stored. `left_out`: roles it is not for. `false`: nobody is
    /// there, the slot is free again.
    ///
    /// Claims are published in the order of the claims: a reader takes slots by rising sequence number and
    /// would never come back to a smaller one.
    pub(crate) fn publish(
        &mut self,
        claimed: SlotRef,
        key: Key,
        words: &SlotWords,
        lines: usize,
        left_out: u8,
    ) -> Result<bool, RingError> {
        self.check()?;
        let last = Key(self.control.producer.last_key.load(Ordering::Relaxed));
        if !key.is_after(last) {
            return Err(RingError::KeyNotRising { offered: key, last });
        }
        if claimed.seq <= self.published_seq {
            return Err(RingError::ClaimOrder { claimed: claimed.seq, published: self.published_seq });
        }
        let position =
            words.get(slot_word::SOURCE_POSITION).copied().filter(|_| slot_word::SOURCE_POSITION < lines * 8);
        let store_position = |position: Option<u64>| {
            if let Some(position) = position {
                self.control.producer.source_position.store(position, Ordering::Relaxed);
            }
        };
        if planted!(PositionBeforePublish) {
            store_position(position);
        }
        crash_point!(self.fuse, "publish: before the descriptor");
        self.control.set_word(claimed.slot, slot_word::KEY, key.0);
        let end = (lines * 8).min(SLOT_WORDS);
        for (word, value) in words.iter().enumerate().take(end).skip(slot_word::FLAGS) {
            self.control.set_word(claimed.slot, word, *value);
        }
        crash_point!(self.fuse, "publish: before the slot is ready");
        let mask = self.control.publish_mask() & !left_out;
        let writing = SlotWord::new(SlotState::Writing, claimed.seq, self.guard.epoch);
        let ready = SlotWord::published(claimed.seq, self.guard.epoch, mask);
        let order = if planted!(RelaxedPublish) { Ordering::Relaxed } else { Ordering::AcqRel };
        // SYNC: slot-ready (release side): this is the publication.
        self.control
            .state(claimed.slot)
            .compare_exchange(writing.0, ready.0, order, Ordering::Acquire)
            .map_err(|now| RingError::Corrupt { slot: claimed.slot, found: SlotWord(now) })?;
        crash_point!(self.fuse, "publish: before the source position");
        // Both stores precede the next claim, so position and key survive in the slot or here.
        store_position(position);
        crash_point!(self.fuse, "publish: before the last key");
        // SYNC: last-key (release side)
        self.control.producer.last_key.store(key.0, Ordering::Release);
        crash_point!(self.fuse, "publish: before the bell");
        // The bell has a model of its own; here it would only multiply states.
        #[cfg(not(loom))]
        self.control.pub_bell.ring();
        crash_point!(self.fuse, "publish: done");
        self.published_seq = claimed.seq;
        Ok(mask != 0)
    }

    /// Gives a claimed slot back unpublished.
    pub(crate) fn abort(&mut self, claimed: SlotRef) -> Result<(), RingError> {
        self.check()?;
        let writing = SlotWord::new(SlotState::Writing, claimed.seq, self.guard.epoch);
        self.clear_slot(claimed.slot, writing, SlotState::Free)
    }

    /// WRITING → `to`, without leaving the key or reference of something that was never published.
    pub(crate) fn clear_slot(&mut self, slot: usize, found: SlotWord, to: SlotState) -> Result<(), RingError> {
        crash_point!(self.fuse, "abort: before the key is cleared");
        if !planted!(KeyLeftInAbortedSlot) {
            self.control.set_word(slot, slot_word::KEY, Key::NONE.0);
        }
        self.control.set_word(slot, slot_word::REFERENCE, 0);
        crash_point!(self.fuse, "abort: before the slot is given up");
        let cleared = SlotWord::new(to, u64::from(found.seq_low()), self.guard.epoch);
        // SYNC: slot-free (release side)
        self.control
            .state(slot)
            .compare_exchange(found.0, cleared.0, Ordering::AcqRel, Ordering::Acquire)
            .map_err(|now| RingError::Corrupt { slot, found: SlotWord(now) })?;
        crash_point!(self.fuse, "abort: done");
        Ok(())
    }

    /// The oldest slot that is READY and that nobody took: what a live pixel ring gives up first.
    pub(crate) fn oldest_unheld(&self) -> Option<(SlotRef, SlotWord)> {
        let mut oldest: Option<(SlotRef, SlotWord)> = None;
        for slot in 0..self.control.slot_count() {
            let found = self.control.load_state(slot);
            if found.is_ready() && found.held() == 0 {
                let seq = self.control.seq(slot);
                if oldest.is_none_or(|(o, _)| seq < o.seq) {
                    oldest = Some((SlotRef { slot, seq }, found));
                }
            }
        }
        oldest
    }

    /// Takes the oldest unheld slot back to write a newer frame into it. `None`: every slot is held.
    pub(crate) fn revoke(&mut self) -> Result<Option<SlotRef>, RingError> {
        self.check()?;
        // A reader may take the slot between the look and the exchange; then the next oldest is tried.
        for _ in 0..self.control.slot_count() {
            let Some((oldest, found)) = self.oldest_unheld() else { return Ok(None) };
            let seq = self.control.producer.next_seq.load(Ordering::Relaxed);
            match self.stamp(SlotRef { slot: oldest.slot, seq }, found) {
                Ok(claimed) => {
                    self.count_revoked(1);
                    return Ok(Some(claimed));
                }
                Err(RingError::Corrupt { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Drops a READY slot that nobody took, found as [`ProducerCore::oldest_unheld`] gave it; `false`: a
    /// reader was faster.
    pub(crate) fn drop_unheld(&mut self, oldest: SlotRef, found: SlotWord) -> Result<bool, RingError> {
        self.check()?;
        crash_point!(self.fuse, "drop: before the slot is freed");
        let free = SlotWord::new(SlotState::Free, u64::from(found.seq_low()), self.guard.epoch);
        // SYNC: slot-free (release side)
        let state = self.control.state(oldest.slot);
        let dropped = state.compare_exchange(found.0, free.0, Ordering::AcqRel, Ordering::Acquire).is_ok();
        crash_point!(self.fuse, "drop: before it is counted");
        if dropped {
            self.count_revoked(1);
        }
        Ok(dropped)
    }

    fn count_revoked(&self, frames: u64) {
        let counter = &self.control.producer.revoked;
        counter.store(counter.load(Ordering::Relaxed).wrapping_add(frames), Ordering::Relaxed);
    }

    /// Passes every slot that role `role` owes and has not taken on without it: a slow consumer that is
    /// not required must not stop the others. Returns how many it missed.
    pub(crate) fn skip(&mut self, role: u8) -> Result<u64, RingError> {
        self.check()?;
        let mut skipped = 0;
        for slot in 0..self.control.slot_count() {
            let found = self.control.load_state(slot);
            if !found.owed_by(role) || found.held_by(role) {
                continue;
            }
            crash_point!(self.fuse, "skip: before the role's bit is cleared");
            // SYNC: slot-free (release side)
            let done = self.control.state(slot).compare_exchange(
                found.0,
                found.without_role(role).0,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            skipped += u64::from(done.is_ok());
            crash_point!(self.fuse, "skip: before it is counted");
        }
        if skipped > 0 && usize::from(role) < MAX_ROLES {
            let counter = &self.control.roles[usize::from(role)].words[role_word::SKIPPED];
            counter.store(counter.load(Ordering::Relaxed).wrapping_add(skipped), Ordering::Relaxed);
        }
        Ok(skipped)
    }
}
