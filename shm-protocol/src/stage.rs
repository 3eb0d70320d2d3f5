//! The stage rule (PROTOCOL, exactly once): an input is released only after its output is published and
//! nothing published refers to it any more; a restarted stage resumes at the first unfinished frame.

use crate::crash::crash_point;
use crate::descriptor::{FrameDetails, FrameHead, SlotReference, TombstoneReason, flag};
use crate::input::{Consumer, Taken};
use crate::output::{LiveState, Producer};
use crate::pool::PoolSpec;
use crate::ring::RingError;
use crate::ring::stage_core::StageCore;
use crate::slot::Key;

/// One input ring, one output ring, and the holds between them. A stage makes one output of each input.
pub struct Stage {
    /// Where frames come from.
    pub input: Consumer,
    /// Where they go.
    pub output: Producer,
    core: StageCore,
    /// The last key when this process took over.
    began_at: Key,
}

/// What a look at the input gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// A frame to be made something of.
    Frame(Taken),
    /// Nothing is owed.
    Empty,
}

impl Stage {
    /// Joins two rings. `history`: how many finished inputs the stage still reads.
    pub fn new(input: Consumer, output: Producer, history: u64) -> Stage {
        let core = StageCore::new(input.ring_uid() as u16, history);
        let began_at = output.last_key();
        Stage { input, output, core, began_at }
    }

    /// The next frame that is not finished. Frames that a dead predecessor finished are passed over: kept
    /// while an output refers to them, released otherwise.
    ///
    /// # Errors
    /// [`RingError`] of either ring.
    pub fn next_frame(&mut self) -> Result<Next, RingError> {
        while let Some(taken) = self.input.acquire()? {
            if self.core.enter(taken.at, taken.head.key, self.output.core()) {
                return Ok(Next::Frame(taken));
            }
            self.harvest()?;
        }
        Ok(Next::Empty)
    }

    fn reference(&self, taken: &Taken) -> SlotReference {
        SlotReference {
            ring_uid: self.input.ring_uid() as u16,
            slot: taken.at.slot as u16,
            seq_low: taken.at.seq as u32,
        }
    }

    /// Publishes the input itself: the output slot points at the very same bytes, which stay held until
    /// that slot is free. Returns `false` when the output has no room (nothing was done).
    ///
    /// # Errors
    /// [`RingError`] of the output ring.
    pub fn pass(&mut self, taken: &Taken, details: &FrameDetails) -> Result<bool, RingError> {
        let Some(claim) = self.output.claim()? else { return Ok(false) };
        let at = claim.at;
        let head = FrameHead {
            flags: taken.head.flags | flag::BY_REFERENCE,
            reference: Some(self.reference(taken)),
            ..taken.head
        };
        let seen = self.output.publish(claim, head, details)?;
        crash_point!(self.output.core().fuse, "pass: before the referrer is noted");
        self.core.passed(taken.at, seen.then_some(at));
        self.harvest()?;
        Ok(true)
    }

    /// Names the pool that passed frames lie in, so that the next kernel can map it.
    ///
    /// # Errors
    /// [`crate::error::ObjectError::TableFull`].
    pub fn name_pool(&mut self, spec: &PoolSpec) -> Result<(), crate::error::ObjectError> {
        self.output.name_pool(spec)
    }

    /// Publishes that nothing was made of the input, so that no id is missing. Returns `false` when the
    /// output has no room.
    ///
    /// # Errors
    /// [`RingError`] of the output ring.
    pub fn tombstone(&mut self, taken: &Taken, reason: TombstoneReason) -> Result<bool, RingError> {
        let Some(claim) = self.output.claim()? else { return Ok(false) };
        let head = taken.head.tombstone(reason);
        let details = self.input.details(taken);
        self.output.publish(claim, head, &details)?;
        self.harvest()?;
        Ok(true)
    }

    /// Releases every input that is finished and that nothing depends on. Called after each publish and
    /// on each wake; cheap: it looks at one state word for each input held.
    ///
    /// # Errors
    /// [`RingError`] of the input ring.
    pub fn harvest(&mut self) -> Result<(), RingError> {
        // What is freed from here on is seen below, or ends the next wait.
        self.output.note_releases();
        self.core.harvest(self.input.core_mut(), self.output.core())
    }

    /// Sleeps until there is something to do or CLOCK_MONOTONIC reaches `deadline_ns`: a frame to take or,
    /// while `depth` outputs refer to inputs, one of them given up.
    ///
    /// # Errors
    /// [`RingError`] of the input ring.
    pub fn wait(&mut self, depth: usize, spin_ns: u64, deadline_ns: u64) -> Result<(), RingError> {
        if self.referring() < depth {
            self.input.wait(spin_ns, deadline_ns, None);
            return Ok(());
        }
        let bell = self.output.rel_bell();
        // Listened to before the look, so that a release during the look is not slept through.
        let heard = bell.listen();
        if self.referring() >= depth {
            bell.sleep(heard, deadline_ns);
        }
        self.harvest()
    }

    /// Inputs held now.
    pub fn held(&self) -> usize {
        self.core.held()
    }

    /// Outputs that refer to inputs now: what by-reference depth limits.
    pub fn referring(&self) -> usize {
        self.core.referring(self.output.core())
    }

    /// Passes on upstream whether downstream bridges a restart, and ends our own bridging once this process
    /// has made something and the backlog is gone. Called once a loop turn; `depth` as for [`Stage::wait`].
    pub fn pace(&mut self, depth: usize) {
        let blocked = !self.output.has_room() || self.referring() >= depth;
        if blocked && self.output.live_state() == LiveState::Bridging {
            self.input.keep_bridging();
        } else if self.input.is_bridging() && self.output.last_key() != self.began_at && self.input.waiting() == 0 {
            // Not before the first output: opening an encoder takes longer than a frame may wait.
            self.input.set_bridging(false);
        }
    }
}
