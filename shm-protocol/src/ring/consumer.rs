//! The reading side: take the next slot owed to this role, and release it when nothing depends on it.

use super::{ControlRef, Guard, RingError, SlotRef};
use crate::crash::{Fuse, crash_point};
use crate::planted::planted;
use crate::slot::SlotWord;
use crate::sync::Ordering;

/// One role's handle on a ring.
pub(crate) struct ConsumerCore {
    pub(crate) control: ControlRef,
    pub(crate) guard: Guard,
    pub(crate) role: u8,
    /// Sequence number of the last slot this process took; smaller ones were handled.
    pub(crate) last_seq: u64,
    pub(crate) fuse: Fuse,
}

impl ConsumerCore {
    /// A process that takes over role `role`, with everything that the role owes and holds.
    pub(crate) fn new(control: ControlRef, guard: Guard, role: u8, fuse: Fuse) -> ConsumerCore {
        let mut core = ConsumerCore { control, guard, role, last_seq: 0, fuse };
        if planted!(ClearDeadRole) {
            let owed: Vec<SlotRef> = core.owed().map(|(at, _)| at).collect();
            for at in owed {
                let _ = core.release(at);
            }
        }
        core
    }

    pub(crate) fn check(&self) -> Result<(), RingError> {
        self.guard.check()?;
        if self.control.is_broken() { Err(RingError::Truncated) } else { Ok(()) }
    }

    /// Where the next slot will most likely appear: what a spinning reader watches.
    pub(crate) fn expected_slot(&self) -> usize {
        (self.last_seq.wrapping_add(1)) as usize % self.control.slot_count()
    }

    /// Whether the next slot in order seems to be there: one load.
    pub(crate) fn looks_ready(&self) -> bool {
        let word = SlotWord(self.control.state(self.expected_slot()).load(Ordering::Relaxed));
        word.owed_by(self.role) && word.seq_low() == (self.last_seq.wrapping_add(1)) as u32
    }

    /// The smallest sequence number owed to this role that it has not handled.
    fn smallest_owed(&self) -> Option<(SlotRef, SlotWord)> {
        let mut smallest: Option<(SlotRef, SlotWord)> = None;
        for slot in 0..self.control.slot_count() {
            // SYNC: slot-ready (acquire side)
            let found = self.control.load_state(slot);
            if !found.owed_by(self.role) {
                continue;
            }
            let seq = self.control.seq(slot);
            // Its slot was claimed again between the two loads: the next scan shows what it is now.
            if seq as u32 != found.seq_low() {
                continue;
            }
            if seq > self.last_seq && smallest.is_none_or(|(s, _)| seq < s.seq) {
                smallest = Some((SlotRef { slot, seq }, found));
            }
        }
        smallest
    }

    fn next_owed(&self) -> Option<(SlotRef, SlotWord)> {
        let slot = self.expected_slot();
        // SYNC: slot-ready (acquire side)
        let found = self.control.load_state(slot);
        if found.owed_by(self.role) && self.control.seq(slot) == self.last_seq.wrapping_add(1) {
            return Some((SlotRef { slot, seq: self.last_seq.wrapping_add(1) }, found));
        }
        let mut seen = self.smallest_owed()?;
        // A gap: a smaller one may have become ready behind the scan while it went on. All smaller ones
        // were published before the one just seen, so the next scan cannot miss them. But when what was
        // seen is revoked meanwhile, that scan may show only larger ones, and must be repeated in turn.
        while seen.0.seq != self.last_seq.wrapping_add(1) {
            let again = self.smallest_owed()?;
            if again.0.seq <= seen.0.seq || planted!(OneSecondScan) {
                return Some(again);
            }
            seen = again;
        }
        Some(seen)
    }

    /// Takes the next slot; `None` when nothing is owed. From here on it cannot be revoked. A slot that a
    /// dead predecessor in this role had taken is taken over as it is.
    pub(crate) fn acquire(&mut self) -> Result<Option<SlotRef>, RingError> {
        self.check()?;
        // Each failed exchange means that the producer revoked or skipped the slot; there are only so many.
        for _ in 0..=self.control.slot_count() {
            let Some((next, found)) = self.next_owed() else { return Ok(None) };
            crash_point!(self.fuse, "acquire: before the slot is taken");
            if found.held_by(self.role) || self.take(next.slot, found) {
                self.last_seq = next.seq;
                crash_point!(self.fuse, "acquire: done");
                return Ok(Some(next));
            }
        }
        Ok(None)
    }

    fn take(&self, slot: usize, found: SlotWord) -> bool {
        let mut found = found;
        loop {
            let held = found.with_held(self.role);
            // SYNC: slot-ready (acquire side)
            match self.control.state(slot).compare_exchange(found.0, held.0, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return true,
                Err(now) => {
                    let now = SlotWord(now);
                    // Another role moved its own bits: try again. Anything else: the slot went away.
                    if !(now.owed_by(self.role) && now.seq_low() == found.seq_low()) {
                        return false;
                    }
                    found = now;
                }
            }
        }
    }

    /// Gives the slot up. `true`: it was the last role and the slot is free. Releasing twice is harmless.
    pub(crate) fn release(&mut self, taken: SlotRef) -> Result<bool, RingError> {
        self.check()?;
        crash_point!(self.fuse, "release: before the role's bits are cleared");
        let mut found = self.control.load_state(taken.slot);
        while found.owed_by(self.role) && found.seq_low() == taken.seq as u32 {
            let cleared = found.without_role(self.role);
            // SYNC: slot-free (release side): our reads of the buffer are over.
            match self.control.state(taken.slot).compare_exchange(
                found.0,
                cleared.0,
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    crash_point!(self.fuse, "release: before the bell");
                    // The bell has a model of its own.
                    #[cfg(not(loom))]
                    if cleared.is_free() {
                        self.control.rel_bell.ring();
                    }
                    crash_point!(self.fuse, "release: done");
                    return Ok(cleared.is_free());
                }
                Err(now) => found = SlotWord(now),
            }
        }
        Ok(false)
    }

    /// Slots this role owes now, in no order.
    pub(crate) fn owed(&self) -> impl Iterator<Item = (SlotRef, SlotWord)> + '_ {
        (0..self.control.slot_count()).filter_map(|slot| {
            let found = self.control.load_state(slot);
            found.owed_by(self.role).then(|| (SlotRef { slot, seq: self.control.seq(slot) }, found))
        })
    }
}
