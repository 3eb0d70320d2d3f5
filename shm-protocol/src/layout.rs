//! The control segment of a ring, byte for byte. docs/PROTOCOL.md draws it.
//!
//! Everything in it is an atomic 64-bit word (bells: 32-bit), so a shared reference to the whole is sound
//! whatever other processes write, and no access is ever of mixed size.

#[cfg(all(test, not(loom)))]
mod document;

#[cfg(any(test, loom))]
use crate::sync::zeroed;
use crate::sync::{AtomicU32, AtomicU64};

/// "QUADRING" as bytes in memory order.
pub const MAGIC: u64 = u64::from_le_bytes(*b"QUADRING");
/// Raised when an old kernel could not share the object with a new one.
pub const ABI_MAJOR: u32 = 1;
/// Raised when a field is added in words that were zero before.
pub const ABI_MINOR: u32 = 0;
/// Reads differently on a machine of the other byte order.
pub const ENDIANNESS: u64 = 0x0102_0304_0506_0708;

/// Slots allocated in every ring; how many are active varies, the layout does not. A model has few.
#[cfg(not(loom))]
pub const MAX_SLOTS: usize = 64;
/// As few as show every hand-off.
#[cfg(loom)]
pub const MAX_SLOTS: usize = 2;
/// Words of a slot: four cache lines.
#[cfg(not(loom))]
pub const SLOT_WORDS: usize = 32;
/// As few as show every hand-off.
#[cfg(loom)]
pub const SLOT_WORDS: usize = 8;
/// Formats a ring can describe at once; a slot names one by index.
pub const MAX_FORMATS: usize = if cfg!(loom) { 1 } else { 16 };
/// Words of a format description.
pub const FORMAT_WORDS: usize = if cfg!(loom) { 1 } else { 32 };
/// Pools a ring can name at once: its own generations and those it passes on by reference.
pub const MAX_POOLS: usize = if cfg!(loom) { 1 } else { 8 };
/// Words of a pool description.
pub const POOL_WORDS: usize = if cfg!(loom) { 1 } else { 32 };
/// Words of a role's entry: its own two lines, so that roles do not slow each other down.
pub const ROLE_WORDS: usize = if cfg!(loom) { 4 } else { 16 };
/// Words of the producer's memo (a Y4M header that a successor needs).
pub const MEMO_WORDS: usize = if cfg!(loom) { 1 } else { 64 };

/// A 32-bit futex word alone on its line.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Bell {
    /// Bit 0: somebody sleeps. The rest counts rings.
    pub(crate) word: AtomicU32,
    #[cfg(loom)]
    pub(crate) futex: Option<crate::futex::ModelFutex>,
}

#[cfg(any(test, loom))]
impl Bell {
    pub(crate) fn new() -> Bell {
        Bell {
            word: AtomicU32::new(0),
            #[cfg(loom)]
            futex: None,
        }
    }
}

/// What never changes after creation. Offset 0.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Identity {
    pub(crate) magic: AtomicU64,
    /// Major in the high half, minor in the low.
    pub(crate) abi: AtomicU64,
    pub(crate) layout_hash: AtomicU64,
    pub(crate) endianness: AtomicU64,
    pub(crate) segment_bytes: AtomicU64,
    /// Random: tells an object from another of the same name.
    pub(crate) creation_id: AtomicU64,
    /// The ring's identity within the instance, 16 bits: drawn anew for an object that takes a lost one's name.
    pub(crate) ring_uid: AtomicU64,
    /// Active slots.
    pub(crate) slots: AtomicU64,
    /// 1 pixels, 2 access units.
    pub(crate) content: AtomicU64,
    /// 1 live, 2 lossless.
    pub(crate) policy: AtomicU64,
    /// Roles owed from sequence 1 on, whether attached or not.
    pub(crate) required_mask: AtomicU64,
    pub(crate) reserved: [AtomicU64; 5],
}

/// What only the producer writes, and readers seldom read. Two lines.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct ProducerLine {
    /// Next sequence number to stamp.
    pub(crate) next_seq: AtomicU64,
    /// Last key published.
    pub(crate) last_key: AtomicU64,
    /// Frames published, tombstones not counted.
    pub(crate) published: AtomicU64,
    /// Tombstones published.
    pub(crate) tombstones: AtomicU64,
    /// Frames revoked because they grew too old or there was no room.
    pub(crate) revoked: AtomicU64,
    /// Age a waiting frame may reach in the steady state, nanoseconds; 0: any.
    pub(crate) max_latency_ns: AtomicU64,
    /// CLOCK_REALTIME − CLOCK_MONOTONIC, nanoseconds.
    pub(crate) realtime_offset_ns: AtomicU64,
    /// CLOCK_TAI − CLOCK_MONOTONIC, nanoseconds.
    pub(crate) tai_offset_ns: AtomicU64,
    /// Source position of the last published frame: where a successor reads on.
    pub(crate) source_position: AtomicU64,
    /// IDRs this ring has carried: adjacent ones must differ in idr_pic_id.
    pub(crate) idr_count: AtomicU64,
    /// Bytes of the memo in use.
    pub(crate) memo_bytes: AtomicU64,
    pub(crate) reserved: [AtomicU64; 5],
}

/// Requests to the producer of a bitstream ring: counters and values, never flags, so that they survive
/// a restart of either side. Two lines: requests, acknowledgements.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct ControlWords {
    pub(crate) idr_requested: AtomicU64,
    pub(crate) bitrate_kbps: AtomicU64,
    pub(crate) bitrate_serial: AtomicU64,
    pub(crate) pause_requested: AtomicU64,
    pub(crate) reserved: [AtomicU64; 4],
    pub(crate) idr_served: AtomicU64,
    pub(crate) bitrate_acknowledged: AtomicU64,
    pub(crate) pause_acknowledged: AtomicU64,
    pub(crate) reserved_ack: [AtomicU64; 5],
}

/// One consumer of the ring.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Role {
    pub(crate) words: [AtomicU64; ROLE_WORDS],
}

/// Words of a [`Role`].
pub(crate) mod role_word {
    /// Consumer's lease index + 1; 0: entry unused. Written by the producer.
    pub(crate) const LEASE: usize = 0;
    /// Monotonic time since when the role bridges a restart; 0: steady. Written by the role.
    pub(crate) const BRIDGING_SINCE_NS: usize = 1;
    /// Slots the producer skipped for this role. Written by the producer.
    pub(crate) const SKIPPED: usize = 2;
    /// Non-zero: the role gets nothing before the next IDR. Written by the producer.
    pub(crate) const AWAITS_IDR: usize = 3;
    /// First of four words with the consumer's name, NUL-padded.
    #[cfg(not(loom))]
    pub(crate) const NAME: usize = 8;
}

/// Bytes of a role's or pool's short name.
pub const ROLE_NAME_BYTES: usize = 32;
/// Bytes of a pool's name.
pub const POOL_NAME_BYTES: usize = 128;

/// Words of a pool entry.
#[cfg(not(loom))]
pub(crate) mod pool_word {
    /// (ring_uid << 32) | generation; 0: unused. Written last (Release).
    pub(crate) const ID: usize = 0;
    pub(crate) const KIND: usize = 1;
    pub(crate) const BUFFERS: usize = 2;
    pub(crate) const BUFFER_BYTES: usize = 3;
    /// First of sixteen words with the shared-memory name (posix-shm), NUL-padded.
    pub(crate) const NAME: usize = 16;
}

/// A slot: line 0 is the hand-off, lines 1–3 the rest of the descriptor.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) words: [AtomicU64; SLOT_WORDS],
}

/// Words of a slot.
pub(crate) mod slot_word {
    pub(crate) const STATE: usize = 0;
    pub(crate) const SEQ: usize = 1;
    pub(crate) const KEY: usize = 2;
    /// flags u16 | format index u16 | buffer index u16 | lines written with this frame u16.
    pub(crate) const FLAGS: usize = 3;
    pub(crate) const CAPTURE_NS: usize = 4;
    /// ring_uid u32 << 32 | generation u32.
    pub(crate) const POOL: usize = 5;
    /// offset u32 << 32 | len u32.
    pub(crate) const EXTENT: usize = 6;
    /// ring_uid u16 << 48 | slot u16 << 32 | seq low u32; 0: none.
    pub(crate) const REFERENCE: usize = 7;
    #[cfg(not(loom))]
    pub(crate) const DETAILS: usize = 8;
    /// Where the source is read on after this frame. A model's slot has one line: there it shares a word.
    #[cfg(not(loom))]
    pub(crate) const SOURCE_POSITION: usize = DETAILS + 1;
    #[cfg(loom)]
    pub(crate) const SOURCE_POSITION: usize = CAPTURE_NS;
    /// First of three: what the header's IDR, frame and tombstone counts are once this frame is published.
    #[cfg(not(loom))]
    pub(crate) const COUNTS: usize = DETAILS + 5;
}

/// The whole control segment.
#[repr(C, align(4096))]
#[derive(Debug)]
pub(crate) struct RingControl {
    pub(crate) identity: Identity,
    pub(crate) producer: ProducerLine,
    /// Rung at every publish.
    pub(crate) pub_bell: Bell,
    /// Rung when a slot becomes FREE.
    pub(crate) rel_bell: Bell,
    pub(crate) control: ControlWords,
    /// Roles attached (besides the required ones). Its own line.
    pub(crate) active_mask: ActiveMask,
    pub(crate) roles: [Role; crate::slot::MAX_ROLES],
    pub(crate) memo: [AtomicU64; MEMO_WORDS],
    pub(crate) pools: [[AtomicU64; POOL_WORDS]; MAX_POOLS],
    pub(crate) formats: [[AtomicU64; FORMAT_WORDS]; MAX_FORMATS],
    pub(crate) slots: [Slot; MAX_SLOTS],
}

/// Bit mask of attached roles, alone on its line.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct ActiveMask {
    pub(crate) word: AtomicU64,
}

#[cfg(not(loom))]
mod checks {
    use super::*;
    use std::mem::{offset_of, size_of};

    /// Bytes of a control segment.
    pub const SEGMENT_BYTES: u64 = size_of::<RingControl>() as u64;

    const OFFSETS: [usize; 12] = [
        offset_of!(RingControl, identity),
        offset_of!(RingControl, producer),
        offset_of!(RingControl, pub_bell),
        offset_of!(RingControl, rel_bell),
        offset_of!(RingControl, control),
        offset_of!(RingControl, active_mask),
        offset_of!(RingControl, roles),
        offset_of!(RingControl, memo),
        offset_of!(RingControl, pools),
        offset_of!(RingControl, formats),
        offset_of!(RingControl, slots),
        size_of::<RingControl>(),
    ];

    // The numbers docs/PROTOCOL.md draws; changing one is a new major ABI.
    const _: () = {
        let expected = [0x0, 0x80, 0x100, 0x140, 0x180, 0x200, 0x240, 0x640, 0x840, 0x1040, 0x2040, 0x7000];
        let mut i = 0;
        while i < OFFSETS.len() {
            assert!(OFFSETS[i] == expected[i]);
            i += 1;
        }
        assert!(size_of::<Slot>() == 256 && size_of::<Role>() == 128);
    };

    /// Text that makes another layout hash: QUAD_LAYOUT_SALT in the environment of the build. For the test of the
    /// upgrade to another layout, which needs two builds that must not share a ring.
    const SALT: Option<&str> = option_env!("QUAD_LAYOUT_SALT");

    /// FNV-1a over the offsets and word positions of the major layout: equal in two builds that may share
    /// a ring.
    pub const LAYOUT_HASH: u64 = {
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        let mut i = 0;
        while i < OFFSETS.len() {
            hash = (hash ^ OFFSETS[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
            i += 1;
        }
        let words = [
            ABI_MAJOR as u64,
            slot_word::KEY as u64,
            slot_word::FLAGS as u64,
            slot_word::POOL as u64,
            slot_word::REFERENCE as u64,
            role_word::NAME as u64,
            pool_word::NAME as u64,
        ];
        i = 0;
        while i < words.len() {
            hash = (hash ^ words[i]).wrapping_mul(0x0000_0100_0000_01b3);
            i += 1;
        }
        if let Some(salt) = SALT {
            i = 0;
            while i < salt.len() {
                hash = (hash ^ salt.as_bytes()[i] as u64).wrapping_mul(0x0000_0100_0000_01b3);
                i += 1;
            }
        }
        hash
    };
}
#[cfg(not(loom))]
pub use checks::{LAYOUT_HASH, SEGMENT_BYTES};

impl RingControl {
    /// A ring in private memory, for models and unit tests.
    #[cfg(any(test, loom))]
    pub(crate) fn in_memory(slots: usize, required_mask: u8) -> RingControl {
        let word = |v: u64| AtomicU64::new(v);
        RingControl {
            identity: Identity {
                magic: word(MAGIC),
                abi: word(u64::from(ABI_MAJOR) << 32),
                layout_hash: word(0),
                endianness: word(ENDIANNESS),
                segment_bytes: word(0),
                creation_id: word(1),
                ring_uid: word(1),
                slots: word(slots as u64),
                content: word(1),
                policy: word(1),
                required_mask: word(u64::from(required_mask)),
                reserved: zeroed(),
            },
            producer: ProducerLine {
                next_seq: word(1),
                last_key: word(0),
                published: word(0),
                tombstones: word(0),
                revoked: word(0),
                max_latency_ns: word(0),
                realtime_offset_ns: word(0),
                tai_offset_ns: word(0),
                source_position: word(0),
                idr_count: word(0),
                memo_bytes: word(0),
                reserved: zeroed(),
            },
            pub_bell: Bell::new(),
            rel_bell: Bell::new(),
            control: ControlWords {
                idr_requested: word(0),
                bitrate_kbps: word(0),
                bitrate_serial: word(0),
                pause_requested: word(0),
                reserved: zeroed(),
                idr_served: word(0),
                bitrate_acknowledged: word(0),
                pause_acknowledged: word(0),
                reserved_ack: zeroed(),
            },
            active_mask: ActiveMask { word: word(0) },
            roles: std::array::from_fn(|_| Role { words: zeroed() }),
            memo: zeroed(),
            pools: std::array::from_fn(|_| zeroed()),
            formats: std::array::from_fn(|_| zeroed()),
            slots: std::array::from_fn(|_| Slot { words: zeroed() }),
        }
    }
}
