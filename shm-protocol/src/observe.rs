//! Looks at a ring without taking part in it: status, tools, requests from the operator.

use crate::attach::{Content, attach, load_text};
use crate::control::Requester;
use crate::error::ObjectError;
use crate::layout::role_word;
use crate::names;
use crate::ring::ControlRef;
use crate::slot::{Key, MAX_ROLES, SlotState, SlotWord};
use crate::sync::Ordering;

/// A ring as an onlooker sees it.
pub struct RingObserver {
    control: ControlRef,
}

/// One consumer of a ring.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleStatus {
    /// Its bit in the slots' masks.
    pub role: u8,
    /// Kernel instance.
    pub kernel: String,
    /// Whether the ring holds back for it.
    pub required: bool,
    /// Whether it is attached.
    pub active: bool,
    /// Slots it owes.
    pub owed: usize,
    /// Slots it has taken.
    pub held: usize,
    /// Slots it missed.
    pub skipped: u64,
    /// Whether it bridges a restart or catches up.
    pub bridging: bool,
}

/// A ring at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingStatus {
    /// Active slots.
    pub slots: usize,
    /// Slots published and not yet free.
    pub ready: usize,
    /// Slots being written.
    pub writing: usize,
    /// Slots that a device may still write.
    pub quarantined: usize,
    /// Source id of the last key published.
    pub last_frame_id: u64,
    /// Frames published.
    pub published: u64,
    /// Tombstones published.
    pub tombstones: u64,
    /// Frames dropped.
    pub revoked: u64,
    /// Whether the slots are pixels or access units.
    pub access_units: bool,
    /// Consumers.
    pub roles: Vec<RoleStatus>,
}

impl RingObserver {
    /// Opens the ring that `kernel` (as "encode.main") writes.
    ///
    /// # Errors
    /// [`ObjectError::Missing`], [`ObjectError::Mismatch`] for a ring of another ABI.
    pub fn open(instance: &str, kernel: &str) -> Result<RingObserver, ObjectError> {
        attach(&names::ring(instance, kernel)).map(|ring| RingObserver { control: ring.control })
    }

    /// The ring now.
    pub fn status(&self) -> RingStatus {
        let c = &self.control;
        let words: Vec<_> = (0..c.slot_count()).map(|slot| c.load_state(slot)).collect();
        let count = |state| words.iter().filter(|w| w.state() == Some(state)).count();
        let required = c.identity.required_mask.load(Ordering::Relaxed);
        let active = c.active_mask.word.load(Ordering::Relaxed);
        let roles = (0..MAX_ROLES)
            .filter(|role| c.roles[*role].words[role_word::LEASE].load(Ordering::Relaxed) != 0)
            .map(|role| RoleStatus {
                role: role as u8,
                kernel: load_text(&c.roles[role].words[role_word::NAME..role_word::NAME + 4]),
                required: required >> role & 1 == 1,
                active: active >> role & 1 == 1,
                owed: words.iter().filter(|w| w.owed_by(role as u8)).count(),
                held: words.iter().filter(|w| w.held_by(role as u8)).count(),
                skipped: c.roles[role].words[role_word::SKIPPED].load(Ordering::Relaxed),
                bridging: c.roles[role].words[role_word::BRIDGING_SINCE_NS].load(Ordering::Relaxed) != 0,
            })
            .collect();
        let line = &c.producer;
        RingStatus {
            slots: words.len(),
            ready: count(SlotState::Ready),
            writing: count(SlotState::Writing),
            quarantined: count(SlotState::Quarantined),
            last_frame_id: c.last_key().id(),
            published: line.published.load(Ordering::Relaxed),
            tombstones: line.tombstones.load(Ordering::Relaxed),
            revoked: line.revoked.load(Ordering::Relaxed),
            access_units: c.identity.content.load(Ordering::Relaxed) == Content::AccessUnits as u64,
            roles,
        }
    }

    /// Requests to the kernel that writes this ring.
    pub fn requester(&self) -> Requester<'_> {
        Requester::new(&self.control.control)
    }

    /// Every slot's state and what it carries, for `quad inspect`.
    pub fn slots(&self) -> Vec<(SlotWord, Key)> {
        (0..self.control.slot_count()).map(|slot| (self.control.load_state(slot), self.control.key(slot))).collect()
    }
}
