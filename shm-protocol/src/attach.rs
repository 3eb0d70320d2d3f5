//! Creates, adopts and attaches a ring's control segment: every field is checked before a word is used.
#![expect(unsafe_code, reason = "a reference to atomics in shared memory")]

use crate::crash::crash_point;
use crate::error::ObjectError;
use crate::layout::{
    ABI_MAJOR, ABI_MINOR, ENDIANNESS, LAYOUT_HASH, MAGIC, MAX_SLOTS, ROLE_NAME_BYTES, RingControl, SEGMENT_BYTES,
};
use crate::lease::MAX_KERNELS;
use crate::names;
use crate::output::read_pool_entry;
use crate::ring::{ControlMemory, ControlRef};
use crate::segment::{Access, Segment};
use crate::slot::Key;
use crate::sync::{AtomicU64, Ordering};
use std::ops::RangeInclusive;
use std::sync::Arc;

/// What a ring's slots carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Content {
    /// Frames of pixels: any may be dropped.
    Pixels = 1,
    /// Access units, which refer to each other: never one alone is dropped.
    AccessUnits = 2,
}

/// What gives way when consumers are slower than the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Policy {
    /// The oldest frames: latency stays bounded.
    Live = 1,
    /// The source: nothing is lost.
    Lossless = 2,
}

/// A consumer of a ring, as the configuration declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleSpec {
    /// Kernel instance, as "encode.main".
    pub kernel: String,
    /// Whether the ring holds back for it. Others are skipped when they are slow.
    pub required: bool,
}

/// A ring, as the configuration declares it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RingSpec {
    /// Its producer, as "capture.main".
    pub kernel: String,
    /// What its slots carry.
    pub content: Content,
    /// What gives way.
    pub policy: Policy,
    /// Active slots, 2 to 64.
    pub slots: usize,
    /// Age a waiting frame may reach in the steady state, nanoseconds; 0: any.
    pub max_latency_ns: u64,
    /// Its consumers, 8 at most.
    pub roles: Vec<RoleSpec>,
}

impl RingSpec {
    /// Whether its producer gives ids rather than taking them over.
    pub(crate) fn is_source(&self) -> bool {
        self.kernel.starts_with("capture.")
    }
}

/// A ring's control segment, mapped.
#[derive(Debug)]
pub(crate) struct MappedControl {
    segment: Segment,
}

impl MappedControl {
    /// What somebody did to the object from outside, if so.
    pub(crate) fn damage(&self) -> Option<ObjectError> {
        let what = match (self.segment.is_linked(), self.segment.is_whole()) {
            (true, true) => return None,
            (false, _) => "it was removed while in use",
            (true, false) => "it was truncated while in use",
        };
        Some(ObjectError::Damaged { name: self.segment.name().to_owned(), what: what.to_owned() })
    }
}

impl ControlMemory for MappedControl {
    fn control(&self) -> &RingControl {
        // SAFETY: `attach` and `create` checked that a whole RingControl is mapped; it is made of atomics.
        unsafe { self.segment.base().cast::<RingControl>().as_ref() }
    }

    fn is_broken(&self) -> bool {
        self.segment.is_broken()
    }
}

/// A ring's control segment and the handle on it.
pub(crate) struct Attached {
    /// The words.
    pub(crate) control: ControlRef,
    /// Their mapping, to be watched.
    pub(crate) mapped: Arc<MappedControl>,
}

impl Attached {
    fn new(segment: Segment) -> Attached {
        let mapped = Arc::new(MappedControl { segment });
        let memory: Arc<dyn ControlMemory> = Arc::<MappedControl>::clone(&mapped);
        Attached { control: ControlRef::new(memory), mapped }
    }
}

/// What a new ring has behind it: part of its making, so that no ring has a name and begins elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beginning {
    /// Keys at or below it are refused.
    pub(crate) last_key: Key,
    /// Where the source goes on; 0: at its beginning, or unknown.
    pub(crate) source_position: u64,
}

impl Default for Beginning {
    fn default() -> Self {
        Beginning { last_key: Key::NONE, source_position: 0 }
    }
}

/// Opens the own ring of the producer with lease `lease`, or makes it so that it begins where `beginning` says; one
/// that was damaged from outside is put away first. Only the holder of that lease may call this.
pub(crate) fn create_or_adopt(
    instance: &str,
    spec: &RingSpec,
    lease: usize,
    beginning: impl Fn() -> Beginning,
) -> Result<Attached, ObjectError> {
    let name = names::ring(instance, &spec.kernel);
    if !(2..=MAX_SLOTS).contains(&spec.slots) {
        return Err(ObjectError::Mismatch {
            name,
            field: "the number of slots",
            found: spec.slots.to_string(),
            expected: format!("2 to {MAX_SLOTS}"),
        });
    }
    loop {
        match attach(&name) {
            Ok(ring) => {
                ring.control.identity.policy.store(spec.policy as u64, Ordering::Relaxed);
                ring.control.producer.max_latency_ns.store(spec.max_latency_ns, Ordering::Relaxed);
                return Ok(ring);
            }
            Err(ObjectError::Missing { .. }) => {}
            Err(ObjectError::Damaged { .. }) => names::unlink(&name),
            Err(error) => return Err(error),
        }
        let (uid, begins) = (unused_uid(instance, lease), beginning());
        let created = Segment::create(&name, SEGMENT_BYTES, |base| {
            // SAFETY: the new object is SEGMENT_BYTES long, zero, page-aligned, and still ours alone.
            let control = unsafe { base.cast::<RingControl>().as_ref() };
            fill(control, spec, uid, begins);
        })?;
        crash_point!((), "ring: named");
        if let Some(segment) = created {
            return Ok(Attached::new(segment));
        }
        // Somebody made it between the two calls: adopt that one.
    }
}

/// An identity that no ring of the instance has or speaks of. 16 bits are what a reference has room for: the lowest
/// five name the lease, so that kernels that make their rings at the same time never draw the same; the others are
/// drawn, not counted, for what slots still say of a ring that is gone must not fit its successor.
fn unused_uid(instance: &str, lease: usize) -> u64 {
    let rings: Vec<ControlRef> =
        names::existing(instance).iter().filter_map(|name| Some(attach(name).ok()?.control)).collect();
    let own = rings.iter().map(|ring| ring.identity.ring_uid.load(Ordering::Relaxed));
    let spoken_of = rings.iter().flat_map(|ring| ring.pools.iter().filter_map(read_pool_entry));
    let used: Vec<u64> = own.chain(spoken_of.map(|pool| u64::from(pool.ring_uid))).collect();
    let mut draw = crate::clock::monotonic_ns() ^ u64::from(std::process::id()) << 32;
    loop {
        // The finaliser of SplitMix64: every bit of the draw moves the eleven that are kept.
        draw = draw.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (draw ^ draw >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let uid = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb) >> 53 << 5 | (lease as u64 + 1);
        if !used.contains(&uid) {
            return uid;
        }
    }
}

fn fill(control: &RingControl, spec: &RingSpec, ring_uid: u64, begins: Beginning) {
    let set = |word: &AtomicU64, value: u64| word.store(value, Ordering::Relaxed);
    let id = &control.identity;
    set(&id.magic, MAGIC);
    set(&id.abi, u64::from(ABI_MAJOR) << 32 | u64::from(ABI_MINOR));
    set(&id.layout_hash, LAYOUT_HASH);
    set(&id.endianness, ENDIANNESS);
    set(&id.segment_bytes, SEGMENT_BYTES);
    set(&id.creation_id, crate::clock::realtime_ns());
    set(&id.ring_uid, ring_uid);
    set(&id.slots, spec.slots as u64);
    set(&id.content, spec.content as u64);
    set(&id.policy, spec.policy as u64);
    set(&control.producer.next_seq, 1);
    set(&control.producer.last_key, begins.last_key.0);
    set(&control.producer.source_position, begins.source_position);
    set(&control.producer.max_latency_ns, spec.max_latency_ns);
}

fn check_field(name: &str, field: &'static str, found: u64, expected: u64) -> Result<(), ObjectError> {
    if found == expected {
        return Ok(());
    }
    Err(ObjectError::Mismatch {
        name: name.to_owned(),
        field,
        found: format!("{found:#x}"),
        expected: format!("{expected:#x}"),
    })
}

/// Maps an existing ring and checks its whole header. What another build would write is a mismatch; what no build
/// writes is damage.
pub(crate) fn attach(name: &str) -> Result<Attached, ObjectError> {
    let segment = Segment::open_whole(name, SEGMENT_BYTES, Access::Write)?;
    let len = segment.len() as u64;
    let ring = Attached::new(segment);
    // SYNC: object-ready (acquire side): the name was found after everything was written.
    let id = &ring.control.identity;
    let load = |word: &AtomicU64| word.load(Ordering::Relaxed);
    check_sound(name, "the magic", load(&id.magic), MAGIC..=MAGIC)?;
    check_field(name, "the byte order", load(&id.endianness), ENDIANNESS)?;
    check_field(name, "the ABI major version", load(&id.abi) >> 32, u64::from(ABI_MAJOR))?;
    check_field(name, "the layout hash", load(&id.layout_hash), LAYOUT_HASH)?;
    check_sound(name, "the segment size", load(&id.segment_bytes), SEGMENT_BYTES..=SEGMENT_BYTES)?;
    check_sound(name, "the size", len, SEGMENT_BYTES..=SEGMENT_BYTES)?;
    check_sound(name, "the number of slots", load(&id.slots), 2..=MAX_SLOTS as u64)?;
    check_sound(name, "the identity", load(&id.ring_uid), 1..=u64::from(u16::MAX))?;
    check_sound(name, "the content", load(&id.content), 1..=2)?;
    check_sound(name, "the policy", load(&id.policy), 1..=2)?;
    Ok(ring)
}

fn check_sound(name: &str, field: &str, found: u64, allowed: RangeInclusive<u64>) -> Result<(), ObjectError> {
    if allowed.contains(&found) {
        return Ok(());
    }
    let what = format!("{field} is {found:#x}, and {:#x} to {:#x} is allowed", allowed.start(), allowed.end());
    Err(ObjectError::Damaged { name: name.to_owned(), what })
}

/// Stores text in words, NUL-padded and cut to fit.
pub(crate) fn store_text(words: &[AtomicU64], text: &str) {
    let mut bytes = text.bytes();
    for word in words {
        let mut value = [0u8; 8];
        for byte in &mut value {
            *byte = bytes.next().unwrap_or(0);
        }
        word.store(u64::from_le_bytes(value), Ordering::Relaxed);
    }
}

/// Reads text from words.
pub(crate) fn load_text(words: &[AtomicU64]) -> String {
    let bytes: Vec<u8> = words.iter().flat_map(|w| w.load(Ordering::Relaxed).to_le_bytes()).collect();
    let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

const _: () = assert!(ROLE_NAME_BYTES == 32);
// Leases, counted from one, fit into the five bits that an identity has for them.
const _: () = assert!(MAX_KERNELS < 1 << 5);
