//! The ring: claim, publish, acquire, release over a [`RingControl`] that other processes share.
//!
//! This module is the model-checked core: it knows atomics and nothing else, so that loom runs the very
//! same code (`core`, `producer`, `consumer`, `recovery`). Mapping, names and file descriptors live in
//! [`crate::segment`] and [`crate::pool`]; what the fields of a slot mean in [`crate::descriptor`].
#![expect(unsafe_code, reason = "cached pointers into mappings that the handles keep alive")]

pub(crate) mod consumer;
#[cfg(test)]
mod model;
pub(crate) mod producer;
pub(crate) mod recovery;
pub(crate) mod stage_core;

pub(crate) use consumer::ConsumerCore;
pub(crate) use producer::ProducerCore;

use crate::layout::{MAX_SLOTS, RingControl, slot_word};
use crate::slot::{Key, SlotWord};
use crate::sync::{AtomicU64, Ordering};
use std::ptr::NonNull;
use std::sync::Arc;
use thiserror::Error;

#[cfg(all(test, not(loom)))]
mod tests;

/// Why a ring operation was not done. Nothing was stored when it fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RingError {
    /// Another process holds this kernel's lease now.
    #[error("Fenced: epoch {mine} was succeeded by epoch {current}")]
    Fenced {
        /// The epoch this handle was made with.
        mine: u64,
        /// The epoch in the lease record.
        current: u64,
    },
    /// A key at or below the last published one.
    #[error("Key {offered:?} does not come after the last published key {last:?}")]
    KeyNotRising {
        /// The key offered.
        offered: Key,
        /// The last key published.
        last: Key,
    },
    /// Claims published in another order than they were made.
    #[error("Claim {claimed} is older than claim {published}, which was published before it")]
    ClaimOrder {
        /// Sequence number of the claim offered.
        claimed: u64,
        /// Sequence number of the last claim published.
        published: u64,
    },
    /// A state word that this operation's sole owner did not write: a broken peer.
    #[error("Slot {slot} holds {found:?}, which only a broken peer can have written")]
    Corrupt {
        /// Index of the slot.
        slot: usize,
        /// What was found.
        found: SlotWord,
    },
    /// The memory behind the ring is gone (the object was truncated).
    #[error("The shared-memory object behind the ring was truncated")]
    Truncated,
    /// The model's thread ended here.
    #[cfg(loom)]
    #[error("Died at a crash point")]
    Died,
}

impl RingError {
    /// What the caller can do.
    pub fn recovery(&self) -> crate::error::Recovery {
        use crate::error::Recovery;
        match self {
            RingError::Fenced { .. } => Recovery::Fatal,
            RingError::KeyNotRising { .. } | RingError::ClaimOrder { .. } => Recovery::Restart,
            RingError::Corrupt { .. } | RingError::Truncated => Recovery::Restart,
            #[cfg(loom)]
            RingError::Died => Recovery::Restart,
        }
    }
}

/// A slot at one moment of its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SlotRef {
    pub(crate) slot: usize,
    pub(crate) seq: u64,
}

/// A shared handle on a ring's control words, however they came to be mapped.
pub(crate) trait ControlMemory: Send + Sync {
    /// The words.
    fn control(&self) -> &RingControl;
    /// Whether the object behind the mapping was found truncated.
    fn is_broken(&self) -> bool;
}

/// Cheap to clone; keeps the mapping alive.
#[derive(Clone)]
pub(crate) struct ControlRef {
    /// Into `memory`; spares a virtual call on the hot path.
    words: NonNull<RingControl>,
    /// Active slots as they were when this handle was made: pools have as many buffers, whatever the
    /// shared word says later.
    slots: usize,
    memory: Arc<dyn ControlMemory>,
}

// SAFETY: the words are atomics and `memory` is Send + Sync.
unsafe impl Send for ControlRef {}
// SAFETY: as above.
unsafe impl Sync for ControlRef {}

impl ControlRef {
    pub(crate) fn new(memory: Arc<dyn ControlMemory>) -> ControlRef {
        ControlRef { words: NonNull::from(memory.control()), slots: memory.control().active_slots(), memory }
    }

    pub(crate) fn is_broken(&self) -> bool {
        self.memory.is_broken()
    }

    /// Active slots.
    pub(crate) fn slot_count(&self) -> usize {
        self.slots
    }
}

impl std::ops::Deref for ControlRef {
    type Target = RingControl;
    fn deref(&self) -> &RingControl {
        // SAFETY: points into `memory`, which this handle keeps alive and which never moves its words.
        unsafe { self.words.as_ref() }
    }
}

impl RingControl {
    /// Active slots, clamped to what exists: the word is shared memory.
    fn active_slots(&self) -> usize {
        (self.identity.slots.load(Ordering::Relaxed) as usize).clamp(1, MAX_SLOTS)
    }

    pub(crate) fn state(&self, slot: usize) -> &AtomicU64 {
        &self.slots[slot].words[slot_word::STATE]
    }

    /// The state word. SYNC: slot-ready, slot-free (acquire side).
    pub(crate) fn load_state(&self, slot: usize) -> SlotWord {
        SlotWord(self.state(slot).load(Ordering::Acquire))
    }

    pub(crate) fn word(&self, slot: usize, word: usize) -> u64 {
        self.slots[slot].words[word].load(Ordering::Relaxed)
    }

    pub(crate) fn set_word(&self, slot: usize, word: usize, value: u64) {
        self.slots[slot].words[word].store(value, Ordering::Relaxed);
    }

    pub(crate) fn key(&self, slot: usize) -> Key {
        Key(self.word(slot, slot_word::KEY))
    }

    pub(crate) fn seq(&self, slot: usize) -> u64 {
        self.word(slot, slot_word::SEQ)
    }

    /// Roles every publish is owed to now: required ones always, attached ones while attached.
    pub(crate) fn publish_mask(&self) -> u8 {
        // SYNC: role-active (acquire side)
        (self.identity.required_mask.load(Ordering::Relaxed) | self.active_mask.word.load(Ordering::Acquire)) as u8
    }

    /// The last key published. SYNC: last-key (acquire side).
    pub(crate) fn last_key(&self) -> Key {
        Key(self.producer.last_key.load(Ordering::Acquire))
    }
}

/// The epoch a lease record shows now, wherever it is mapped.
pub(crate) trait EpochMemory: Send + Sync {
    /// The word.
    fn epoch(&self) -> &AtomicU64;
}

/// The right to write, as it was when the lease was taken. Checked before every ring operation: it
/// catches a holder that yielded, and our own bugs. (A revoked holder was killed: see PROTOCOL, leases.)
#[derive(Clone)]
pub(crate) struct Guard {
    pub(crate) epoch: u64,
    /// Into `record`.
    word: NonNull<AtomicU64>,
    /// Keeps the record mapped.
    #[cfg_attr(not(loom), expect(dead_code, reason = "held for its drop"))]
    record: Arc<dyn EpochMemory>,
}

// SAFETY: the word is an atomic and `record` is Send + Sync.
unsafe impl Send for Guard {}
// SAFETY: as above.
unsafe impl Sync for Guard {}

impl Guard {
    pub(crate) fn new(epoch: u64, record: Arc<dyn EpochMemory>) -> Guard {
        Guard { epoch, word: NonNull::from(record.epoch()), record }
    }

    pub(crate) fn check(&self) -> Result<(), RingError> {
        // SAFETY: points into `record`, which this guard keeps mapped.
        let word = unsafe { self.word.as_ref() };
        // SYNC: lease-epoch (acquire side)
        let current = word.load(Ordering::Acquire);
        if current == self.epoch { Ok(()) } else { Err(RingError::Fenced { mine: self.epoch, current }) }
    }
}
