//! A kernel's output ring: what it publishes, in buffers of its own pool or by reference to another's.
#![expect(unsafe_code, reason = "a claimed buffer is ours to write")]

mod pools;
mod resume;
mod room;

pub(crate) use pools::{find_entry as find_pool_entry, read_entry as read_pool_entry};
pub use room::LiveState;

use crate::attach::{Content, Policy, RingSpec, create_or_adopt, load_text, store_text};
use crate::clock;
use crate::crash::{Fuse, crash_point};
use crate::descriptor::{
    BufferRef, FrameDetails, FrameHead, StreamFormat, decode_format, encode_details, encode_format, encode_head, flag,
    format_is_used,
};
use crate::error::ObjectError;
use crate::layout::{FORMAT_WORDS, MAX_FORMATS, ROLE_NAME_BYTES, SLOT_WORDS, role_word, slot_word};
use crate::lease::{Lease, LeaseTable, Pulse};
use crate::pool::{Pool, PoolDirectory};
use crate::ring::recovery::Recovered;
use crate::ring::{ProducerCore, RingError, SlotRef};
use crate::slot::{Key, MAX_ROLES};
use crate::sync::{AtomicU32, AtomicU64, Ordering};
use std::sync::Arc;

/// Lines of a whole descriptor.
const ALL_LINES: usize = SLOT_WORDS / 8;

/// A claimed slot, to be published or aborted.
#[derive(Debug, PartialEq, Eq)]
#[must_use = "a claim that is dropped blocks its slot until the next restart"]
pub struct Claim {
    pub(crate) at: SlotRef,
}

impl Claim {
    /// Index of the slot, which is that of its buffer in the own pool.
    pub fn index(&self) -> u16 {
        self.at.slot as u16
    }
}

/// The producer of a ring. There is one: the holder of the kernel's lease.
pub struct Producer {
    core: ProducerCore,
    table: Arc<LeaseTable>,
    /// Of the lease's holder, for waits inside.
    pulse: Pulse,
    instance: String,
    spec: RingSpec,
    ring_uid: u32,
    pool: Option<Arc<Pool>>,
    directory: Arc<PoolDirectory>,
    format: Option<(u16, StreamFormat)>,
    /// The bell of freed slots when this process looked at its slots last.
    heard: AtomicU32,
    /// Time or content jumped before a frame that nothing was made of: the next one that something is made of says so.
    discontinuity: bool,
    /// While buffers rest for the sake of a process that does not die: when to look for it again, CLOCK_MONOTONIC.
    quarantine_look_ns: Option<u64>,
}

impl Producer {
    /// Opens the kernel's output ring, making it if it is not there, and repairs what a dead predecessor
    /// left (PROTOCOL, recovery).
    ///
    /// # Errors
    /// [`ObjectError::Mismatch`] for a ring of another ABI, [`ObjectError::NoSpace`], …; a fenced or
    /// corrupt ring as [`OpenError::Ring`].
    pub fn open(
        lease: &Lease,
        spec: &RingSpec,
        directory: &Arc<PoolDirectory>,
    ) -> Result<(Producer, Recovered), OpenError> {
        let instance = lease.table().instance().to_owned();
        let ring = create_or_adopt(&instance, spec, lease.index(), || resume::beginning(&instance, spec))?;
        directory.watch(&ring.mapped);
        let ring_uid = ring.control.identity.ring_uid.load(Ordering::Relaxed) as u32;
        let mut core = ProducerCore::new(ring.control, lease.guard(), Fuse::default());
        let recovered = core.recover(|_| lease.lingering().map(|process| process.0))?;
        let mut producer = Producer {
            core,
            table: Arc::clone(lease.table()),
            pulse: lease.pulse(),
            instance,
            spec: spec.clone(),
            ring_uid,
            pool: None,
            directory: Arc::clone(directory),
            format: None,
            heard: AtomicU32::new(0),
            discontinuity: false,
            quarantine_look_ns: None,
        };
        producer.end_quarantine()?;
        producer.restore_line(recovered.last_key);
        producer.declare_roles()?;
        let line = &producer.core.control.producer;
        line.realtime_offset_ns.store(clock::realtime_offset_ns(), Ordering::Relaxed);
        line.tai_offset_ns.store(clock::tai_offset_ns(), Ordering::Relaxed);
        Ok((producer, recovered))
    }

    /// The header is told of a frame after the frame is published; a death in between leaves it one frame
    /// behind the slot. The slot has absolute values, so taking them over may be repeated.
    fn restore_line(&mut self, last_key: Key) {
        let control = &self.core.control;
        let (line, has_last) = (&control.producer, |slot: &usize| {
            let word = control.load_state(*slot);
            (word.is_ready() || word.is_free()) && control.key(*slot) == last_key
        });
        let Some(slot) = (0..control.slot_count()).find(has_last).filter(|_| last_key != Key::NONE) else { return };
        let flags = control.word(slot, slot_word::FLAGS) as u16;
        self.discontinuity = flags & flag::TOMBSTONE != 0 && flags & flag::DISCONTINUITY != 0;
        if control.word(slot, slot_word::FLAGS) >> 48 == ALL_LINES as u64 {
            let counts = [&line.idr_count, &line.published, &line.tombstones];
            for (index, count) in counts.into_iter().enumerate() {
                count.store(control.word(slot, slot_word::COUNTS + index), Ordering::Relaxed);
            }
        }
    }

    /// Enters the configured consumers in the role table, each with its kernel's lease.
    fn declare_roles(&mut self) -> Result<(), ObjectError> {
        let control = &self.core.control;
        let mut required = 0u64;
        for role in &self.spec.roles {
            if role.kernel.len() >= ROLE_NAME_BYTES {
                return Err(ObjectError::Name { name: role.kernel.clone() });
            }
            let known =
                |r: &crate::layout::Role| load_text(&r.words[role_word::NAME..role_word::NAME + 4]) == role.kernel;
            let unused = |r: &crate::layout::Role| r.words[role_word::LEASE].load(Ordering::Relaxed) == 0;
            let index =
                control.roles.iter().position(known).or_else(|| control.roles.iter().position(unused)).ok_or_else(
                    || ObjectError::TableFull { table: "The role table", name: role.kernel.clone(), limit: MAX_ROLES },
                )?;
            let lease = self.table.index_of(&role.kernel, true)?;
            let words = &control.roles[index].words;
            crash_point!(self.core.fuse, "roles: before the name");
            store_text(&words[role_word::NAME..role_word::NAME + 4], &role.kernel);
            crash_point!(self.core.fuse, "roles: before the lease");
            words[role_word::LEASE].store(lease as u64 + 1, Ordering::Release);
            if role.required {
                required |= 1 << index;
            }
        }
        crash_point!(self.core.fuse, "roles: before the required mask");
        control.identity.required_mask.store(required, Ordering::Release);
        Ok(())
    }

    /// Changes the age a waiting frame may reach in the steady state, nanoseconds; 0: any.
    pub fn set_max_latency_ns(&self, max_latency_ns: u64) {
        self.core.control.producer.max_latency_ns.store(max_latency_ns, Ordering::Relaxed);
    }

    /// Identity of this ring within the instance.
    pub fn ring_uid(&self) -> u32 {
        self.ring_uid
    }

    /// Active slots.
    pub fn slots(&self) -> usize {
        self.core.control.slot_count()
    }

    /// The policy in force.
    pub fn policy(&self) -> Policy {
        self.spec.policy
    }

    /// The last key published, by whichever epoch.
    pub fn last_key(&self) -> Key {
        self.core.control.last_key()
    }

    /// Where the source was left (see [`FrameDetails::source_position`]).
    pub fn source_position(&self) -> u64 {
        self.core.control.producer.source_position.load(Ordering::Relaxed)
    }

    /// IDRs this ring has carried so far.
    pub fn idr_count(&self) -> u64 {
        self.core.control.producer.idr_count.load(Ordering::Relaxed)
    }

    /// Names the format of what is published from now on.
    ///
    /// # Errors
    /// [`RingError::Fenced`].
    pub fn set_format(&mut self, format: &StreamFormat) -> Result<(), RingError> {
        if self.format.as_ref().is_some_and(|(_, f)| f == format) {
            return Ok(());
        }
        self.core.check()?;
        let table = &self.core.control.formats;
        let read = |entry: &[AtomicU64; FORMAT_WORDS]| std::array::from_fn(|i| entry[i].load(Ordering::Relaxed));
        let in_use = |index: usize| {
            (0..self.slots()).any(|slot| {
                let word = self.core.control.load_state(slot);
                word.is_ready() && (self.core.control.word(slot, slot_word::FLAGS) >> 16) as u16 as usize == index
            })
        };
        // A predecessor's entry of the same format serves on.
        let known = (0..MAX_FORMATS).find(|i| decode_format(&read(&table[*i])).is_ok_and(|f| f == *format));
        let index = known
            .or_else(|| (0..MAX_FORMATS).find(|i| !format_is_used(table[*i][0].load(Ordering::Relaxed))))
            .or_else(|| (0..MAX_FORMATS).find(|i| !in_use(*i)))
            // 64 slots could name 16 formats only if each lived for four frames: then the first gives way.
            .unwrap_or(0);
        if known.is_none() {
            let serial = table[index][0].load(Ordering::Relaxed) as u32;
            let words = encode_format(format, serial.wrapping_add(1));
            crash_point!(self.core.fuse, "format: before the entry");
            for (at, (word, value)) in table[index].iter().zip(words).enumerate() {
                if at == 1 || at == FORMAT_WORDS / 2 {
                    crash_point!(self.core.fuse, "format: within the entry");
                }
                word.store(value, Ordering::Relaxed);
            }
            crash_point!(self.core.fuse, "format: done");
        }
        self.format = Some((index as u16, *format));
        Ok(())
    }

    /// Takes a free slot; `None` when there is none and the policy allows no other to be given up.
    ///
    /// # Errors
    /// [`RingError`]; nothing was stored then.
    pub fn claim(&mut self) -> Result<Option<Claim>, RingError> {
        if self.quarantine_look_ns.is_some_and(|at| at <= clock::monotonic_ns()) {
            self.end_quarantine()?;
        }
        if let Some(at) = self.core.claim()? {
            return Ok(Some(Claim { at }));
        }
        self.make_room()
    }

    /// The bytes of the claimed slot's own buffer.
    ///
    /// # Panics
    /// When no pool was set.
    #[expect(clippy::expect_used, reason = "a kernel that writes before it made its pool is wrong, not unlucky")]
    pub fn buffer<'a>(&'a mut self, claim: &Claim) -> &'a mut [u8] {
        let pool = self.pool.as_ref().expect("The producer has no pool");
        let base = pool.buffer(claim.index()).expect("The pool has fewer buffers than the ring has slots");
        // SAFETY: the buffer is mapped for as long as the pool, which `self` keeps; while its slot is
        // WRITING under our epoch only we touch it (invariant 8), and `&mut self` makes us one.
        unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), pool.spec().buffer_bytes as usize) }
    }

    /// Where bytes `offset..offset + len` of the claimed slot's own buffer are, for the descriptor.
    pub fn extent(&self, claim: &Claim, offset: u32, len: u32) -> BufferRef {
        let generation = self.pool.as_ref().map_or(0, |p| p.spec().generation);
        BufferRef { ring_uid: self.ring_uid, generation, index: claim.index(), offset, len }
    }

    /// Publishes a claimed slot. The format is the one named last; `head.format_index` is filled in. What is published
    /// behind tombstones carries the DISCONTINUITY that they carry: up to the first frame, so that no jump goes unsaid.
    /// `false`: no role is there, the slot is free again.
    ///
    /// # Errors
    /// [`RingError::KeyNotRising`], [`RingError::Fenced`], [`RingError::Corrupt`].
    pub fn publish(&mut self, claim: Claim, mut head: FrameHead, details: &FrameDetails) -> Result<bool, RingError> {
        self.core.check()?;
        head.format_index = self.format.as_ref().map_or(0, |(index, _)| *index);
        head.flags |= if self.discontinuity { flag::DISCONTINUITY } else { 0 };
        let mut words = [0u64; SLOT_WORDS];
        encode_head(&head, &mut words);
        encode_details(details, &mut words);
        let counts = self.counts_with(&head);
        words[slot_word::FLAGS] |= (ALL_LINES as u64) << 48;
        words[slot_word::COUNTS..slot_word::COUNTS + counts.len()].copy_from_slice(&counts);
        let waiting = self.roles_awaiting_idr(&head);
        let seen = self.core.publish(claim.at, head.key, &words, ALL_LINES, waiting)?;
        // After the publication: a position stored before it would make a successor skip a frame that
        // nobody got, and an IDR counted but never seen would repeat the parity of idr_pic_id.
        let line = &self.core.control.producer;
        for (word, value) in [&line.idr_count, &line.published, &line.tombstones].into_iter().zip(counts) {
            word.store(value, Ordering::Relaxed);
        }
        self.discontinuity = head.has(flag::TOMBSTONE) && head.has(flag::DISCONTINUITY);
        Ok(seen)
    }

    /// Publishes only the head line: what a hand-off costs when nothing else is to be told.
    ///
    /// # Errors
    /// As [`Producer::publish`].
    pub fn publish_head(&mut self, claim: Claim, head: &FrameHead) -> Result<bool, RingError> {
        let mut words = [0u64; SLOT_WORDS];
        encode_head(head, &mut words);
        self.core.publish(claim.at, head.key, &words, 1, 0)
    }

    /// IDRs, frames and tombstones of this ring once a frame of this head is published.
    fn counts_with(&self, head: &FrameHead) -> [u64; 3] {
        let line = &self.core.control.producer;
        let plus = |word: &AtomicU64, more: bool| word.load(Ordering::Relaxed).wrapping_add(u64::from(more));
        let tombstone = head.has(flag::TOMBSTONE);
        [
            plus(&line.idr_count, head.has(flag::IDR)),
            plus(&line.published, !tombstone),
            plus(&line.tombstones, tombstone),
        ]
    }

    /// Gives a claimed slot back.
    ///
    /// # Errors
    /// [`RingError::Fenced`], [`RingError::Corrupt`].
    pub fn abort(&mut self, claim: Claim) -> Result<(), RingError> {
        self.core.abort(claim.at)
    }

    /// Sleeps until a slot becomes free or CLOCK_MONOTONIC reaches `deadline_ns`.
    pub fn wait_for_room(&self, deadline_ns: u64) {
        let bell = &self.core.control.rel_bell;
        let heard = bell.listen();
        if (0..self.slots()).any(|slot| self.core.control.load_state(slot).is_free()) {
            return;
        }
        bell.sleep(heard, deadline_ns);
    }

    /// Whether a claim would succeed now without giving anything up.
    pub fn has_room(&self) -> bool {
        (0..self.slots()).any(|slot| self.core.control.load_state(slot).is_free())
    }

    /// Slots that are published and not yet free.
    pub fn outstanding(&self) -> usize {
        (0..self.slots()).filter(|slot| self.core.control.load_state(*slot).is_ready()).count()
    }

    pub(crate) fn core(&self) -> &ProducerCore {
        &self.core
    }

    /// Bytes kept for a successor (a Y4M header); at most 512.
    pub fn set_memo(&mut self, memo: &[u8]) {
        let words = &self.core.control.memo;
        let len = memo.len().min(words.len() * 8);
        for (word, chunk) in words.iter().zip(memo[..len].chunks(8)) {
            let mut value = [0u8; 8];
            value[..chunk.len()].copy_from_slice(chunk);
            word.store(u64::from_le_bytes(value), Ordering::Relaxed);
        }
        self.core.control.producer.memo_bytes.store(len as u64, Ordering::Release);
    }

    /// What a predecessor kept.
    pub fn memo(&self) -> Vec<u8> {
        let words = &self.core.control.memo;
        let len = (self.core.control.producer.memo_bytes.load(Ordering::Acquire) as usize).min(words.len() * 8);
        let mut bytes: Vec<u8> = words.iter().flat_map(|w| w.load(Ordering::Relaxed).to_le_bytes()).collect();
        bytes.truncate(len);
        bytes
    }

    pub(crate) fn rel_bell(&self) -> &crate::layout::Bell {
        &self.core.control.rel_bell
    }

    /// Notes how far the bell of freed slots has rung, before a look at the slots. Every note is followed
    /// by a look, so what rings after the note is news.
    pub(crate) fn note_releases(&self) {
        self.heard.store(self.core.control.rel_bell.listen().0, Ordering::Relaxed);
    }

    /// The bell of freed slots as it was noted last. It is noted anew here: the caller looks when its wait
    /// ends.
    pub(crate) fn releases_heard(&self) -> (&crate::layout::Bell, crate::futex::Heard) {
        let bell = &self.core.control.rel_bell;
        (bell, crate::futex::Heard(self.heard.swap(bell.listen().0, Ordering::Relaxed)))
    }

    /// Whether the ring carries pixels.
    pub fn content(&self) -> Content {
        self.spec.content
    }

    /// Requests from downstream, for the producer of a bitstream ring.
    pub fn requests(&self) -> crate::control::Requests<'_> {
        crate::control::Requests::new(&self.core.control.control)
    }
}

/// Why a ring could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its object.
    #[error(transparent)]
    Object(#[from] ObjectError),
    /// Its state.
    #[error(transparent)]
    Ring(#[from] RingError),
}

impl OpenError {
    /// What the caller can do.
    pub fn recovery(&self) -> crate::error::Recovery {
        match self {
            OpenError::Object(error) => error.recovery(),
            OpenError::Ring(error) => error.recovery(),
        }
    }
}
