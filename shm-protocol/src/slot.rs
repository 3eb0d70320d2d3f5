//! The state word of a slot and the key of what it carries: pure arithmetic, no memory.

/// Roles (consumers) a ring can have: one bit each in the two masks of a state word.
pub const MAX_ROLES: usize = 8;

/// What a slot is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum SlotState {
    /// Nobody's; its producer may claim it.
    Free = 0,
    /// Claimed: the process whose epoch is in the word is writing it.
    Writing = 1,
    /// Published; some role still owes its release.
    Ready = 2,
    /// A dead producer's hardware may still write its buffer; nobody touches it.
    Quarantined = 3,
}

/// The word on which every hand-off of a slot turns.
///
/// ```text
/// | 63..32 seq low | 31..19 epoch low 13 | 18..16 state | 15..8 held | 7..0 owed |
/// ```
/// `owed` k: role k has not released the slot. `held` k: role k took it, so it cannot be revoked.
/// Invariants: held ⊆ owed; READY ⇔ owed ≠ 0; both masks are 0 in every other state.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SlotWord(pub u64);

impl SlotWord {
    const EPOCH_MASK: u64 = 0x1fff;

    /// A word with both masks empty.
    pub const fn new(state: SlotState, seq: u64, epoch: u64) -> SlotWord {
        SlotWord((seq << 32) | ((epoch & Self::EPOCH_MASK) << 19) | ((state as u64) << 16))
    }

    /// READY, owed to every role in `mask`; FREE when `mask` is empty.
    pub const fn published(seq: u64, epoch: u64, mask: u8) -> SlotWord {
        if mask == 0 {
            Self::new(SlotState::Free, seq, epoch)
        } else {
            SlotWord(Self::new(SlotState::Ready, seq, epoch).0 | mask as u64)
        }
    }

    /// The state; `None` for a code that names none (garbage from a broken peer).
    pub const fn state(self) -> Option<SlotState> {
        match (self.0 >> 16) & 7 {
            0 => Some(SlotState::Free),
            1 => Some(SlotState::Writing),
            2 => Some(SlotState::Ready),
            3 => Some(SlotState::Quarantined),
            _ => None,
        }
    }

    /// Low 32 bits of the sequence number.
    pub const fn seq_low(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Low 13 bits of the writer's epoch.
    pub const fn epoch_low(self) -> u64 {
        (self.0 >> 19) & Self::EPOCH_MASK
    }

    /// Roles that have not released the slot.
    pub const fn owed(self) -> u8 {
        self.0 as u8
    }

    /// Roles that took the slot.
    pub const fn held(self) -> u8 {
        (self.0 >> 8) as u8
    }

    /// Whether the slot is READY.
    pub const fn is_ready(self) -> bool {
        matches!(self.state(), Some(SlotState::Ready))
    }

    /// Whether the slot is FREE.
    pub const fn is_free(self) -> bool {
        matches!(self.state(), Some(SlotState::Free))
    }

    /// Whether role `role` could still read this slot (owes it).
    pub const fn owed_by(self, role: u8) -> bool {
        self.is_ready() && self.owed() & (1 << role) != 0
    }

    /// Whether role `role` has taken it.
    pub const fn held_by(self, role: u8) -> bool {
        self.is_ready() && self.held() & (1 << role) != 0
    }

    /// Role `role` takes the slot.
    pub const fn with_held(self, role: u8) -> SlotWord {
        SlotWord(self.0 | (1 << (8 + role)))
    }

    /// Role `role` is done with it; the last one frees the slot.
    pub const fn without_role(self, role: u8) -> SlotWord {
        let cleared = self.0 & !(1 << role) & !(1 << (8 + role));
        if cleared & 0xff == 0 { SlotWord(cleared & !(7 << 16)) } else { SlotWord(cleared) }
    }
}

/// The word by which an output slot names the input slot whose bytes it is.
///
/// ```text
/// | 63..48 ring uid | 47..32 slot | 31..0 seq low |
/// ```
/// Never 0 for a ring: ring uids begin at 1.
pub(crate) const fn reference_word(ring_uid: u16, slot: u16, seq_low: u32) -> u64 {
    (ring_uid as u64) << 48 | (slot as u64) << 32 | seq_low as u64
}

impl std::fmt::Debug for SlotWord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:?} seq {} epoch {} held {:08b} owed {:08b}",
            self.state(),
            self.seq_low(),
            self.epoch_low(),
            self.held(),
            self.owed()
        )
    }
}

/// What a slot carries: source frame id and sub-index, in one word whose order is the order of publication.
///
/// ```text
/// | 63..16 source id | 15..1 sub | 0 FINAL |
/// ```
/// One word, so that "the last key published" can be stored without tearing. 48 bits of source id last
/// 74,000 years at 120 fps, and are what the burned barcode carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Key(pub u64);

impl Key {
    /// Largest source id.
    pub const MAX_ID: u64 = (1 << 48) - 1;
    /// Before the first key.
    pub const NONE: Key = Key(0);

    /// Key of output `sub` of source frame `id`; `last` marks the last output made of that frame.
    pub const fn new(id: u64, sub: u16, last: bool) -> Key {
        Key((id << 16) | (((sub & 0x7fff) as u64) << 1) | last as u64)
    }

    /// The only output of source frame `id`.
    pub const fn whole(id: u64) -> Key {
        Key::new(id, 0, true)
    }

    /// Source frame id.
    pub const fn id(self) -> u64 {
        self.0 >> 16
    }

    /// Sub-index.
    pub const fn sub(self) -> u16 {
        ((self.0 >> 1) & 0x7fff) as u16
    }

    /// Whether nothing more is made of this source frame.
    pub const fn is_final(self) -> bool {
        self.0 & 1 == 1
    }

    /// Whether this key comes after `last` in the order of publication. FINAL does not count: (5, 1) and
    /// (5, 1, FINAL) are the same place.
    pub const fn is_after(self, last: Key) -> bool {
        self.0 >> 1 > last.0 >> 1
    }

    /// Whether everything made of source frame `id` has been published when this is the last key.
    pub const fn completes(self, id: u64) -> bool {
        self.id() > id || (self.id() == id && self.is_final() && self.0 != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn fields_do_not_leak_into_each_other(seq: u64, epoch: u64, mask: u8) {
            let word = SlotWord::published(seq, epoch, mask);
            prop_assert_eq!(word.seq_low(), seq as u32);
            prop_assert_eq!(word.epoch_low(), epoch & 0x1fff);
            prop_assert_eq!(word.owed(), mask);
            prop_assert_eq!(word.held(), 0);
            prop_assert_eq!(word.is_ready(), mask != 0);
            prop_assert_eq!(word.is_free(), mask == 0);
        }

        #[test]
        fn any_order_of_take_and_release_keeps_held_within_owed(steps in prop::collection::vec((0u8..8, any::<bool>()), 0..40)) {
            let mut word = SlotWord::published(7, 3, 0xff);
            for (role, take) in steps {
                if take && word.owed_by(role) { word = word.with_held(role); }
                if !take && word.owed_by(role) { word = word.without_role(role); }
                prop_assert_eq!(word.held() & !word.owed(), 0);
                prop_assert_eq!(word.is_ready(), word.owed() != 0);
                prop_assert_eq!(word.seq_low(), 7);
            }
        }

        #[test]
        fn garbage_words_never_panic(raw: u64) {
            let word = SlotWord(raw);
            let _ = (word.state(), word.owed_by(0), word.held_by(7), word.without_role(3), format!("{word:?}"));
        }

        #[test]
        fn keys_order_by_id_then_sub(a in 0..Key::MAX_ID, b in 0..Key::MAX_ID, s in 0u16..0x7fff, t in 0u16..0x7fff, f: bool, g: bool) {
            let (x, y) = (Key::new(a, s, f), Key::new(b, t, g));
            prop_assert_eq!(x.is_after(y), (a, s) > (b, t));
            prop_assert_eq!((x.id(), x.sub(), x.is_final()), (a, s, f));
        }
    }

    #[test]
    fn a_frame_is_complete_only_after_its_final_key() {
        assert!(!Key::new(5, 0, false).completes(5));
        assert!(Key::new(5, 1, true).completes(5));
        assert!(Key::new(6, 0, false).completes(5));
        assert!(!Key::NONE.completes(0));
        assert!(!Key::whole(4).completes(5));
    }
}
