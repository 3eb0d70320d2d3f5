//! A kernel's input ring: the frames owed to its role, and the pools their bytes lie in.

use crate::attach::attach;
use crate::clock::monotonic_ns;
use crate::control::Requester;
use crate::crash::{Fuse, crash_point};
use crate::descriptor::{FrameDetails, FrameHead, StreamFormat, decode_details, decode_format, decode_head};
use crate::error::{FormatError, ObjectError};
use crate::fdpass;
use crate::frame::VideoFormat;
use crate::futex::sleep_on_two;
use crate::layout::{FORMAT_WORDS, MAX_FORMATS, role_word, slot_word};
use crate::lease::{Lease, LeaseTable, Pulse};
use crate::names;
use crate::output::Producer;
use crate::pixels::PixelsRead;
use crate::pool::{Pool, PoolDirectory, PoolKind};
use crate::ring::{ConsumerCore, ControlRef, RingError, SlotRef};
use crate::segment::Access;
use crate::sync::Ordering;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;
use thiserror::Error;

/// A slot this role has taken. It stays ours until released.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    pub(crate) at: SlotRef,
    /// What it carries.
    pub head: FrameHead,
}

/// Why the bytes of a frame cannot be reached.
#[derive(Debug, Error)]
pub enum FrameError {
    /// The frame names a pool that nobody can hand over.
    #[error("Frame {id} lies in pool {ring_uid}.{generation}, which cannot be mapped: {why}")]
    Pool {
        /// Source frame id.
        id: u64,
        /// Ring that owns the pool.
        ring_uid: u32,
        /// Generation.
        generation: u32,
        /// What failed.
        why: String,
        /// Whether its memory is gone for good, so that another try is of no use.
        lost: bool,
    },
    /// The frame's bytes are not within its buffer.
    #[error("Frame {id} claims bytes outside buffer {index} of its pool")]
    Outside {
        /// Source frame id.
        id: u64,
        /// Buffer index.
        index: u16,
    },
    /// The frame's format is not one.
    #[error("Frame {id} is described wrongly: {source}")]
    Format {
        /// Source frame id.
        id: u64,
        /// What is wrong.
        source: FormatError,
    },
}

impl FrameError {
    /// Whether another process of this kernel might reach the bytes: then the frame stays owed.
    pub fn is_transient(&self) -> bool {
        matches!(self, FrameError::Pool { lost: false, .. })
    }
}

/// One role's end of a ring.
pub struct Consumer {
    core: ConsumerCore,
    ring_uid: u32,
    directory: Arc<PoolDirectory>,
    runtime_dir: PathBuf,
    table: Arc<LeaseTable>,
    /// Of the lease's holder, for waits inside.
    pulse: Pulse,
    /// The pool used last: frames come from the same one again and again.
    pool: Option<Arc<Pool>>,
    formats: [Option<(u64, StreamFormat)>; MAX_FORMATS],
}

impl Consumer {
    /// Attaches to the ring that `producer` (as "capture.main") writes, in the role that the ring's
    /// configuration gives `kernel`. What a dead predecessor held is inherited.
    ///
    /// # Errors
    /// [`ObjectError::Missing`] when the ring or the role is not there (yet), [`ObjectError::Mismatch`]
    /// for a ring of another ABI.
    pub fn attach(
        lease: &Lease,
        kernel: &str,
        producer: &str,
        directory: &Arc<PoolDirectory>,
        runtime_dir: &Path,
    ) -> Result<Consumer, ObjectError> {
        let table = Arc::clone(lease.table());
        let name = names::ring(table.instance(), producer);
        let ring = attach(&name)?;
        let role =
            find_role(&ring.control, kernel).ok_or(ObjectError::Missing { name: format!("{name}, role {kernel}") })?;
        // Only now: whoever waits for its role comes here again and again.
        directory.watch(&ring.mapped);
        let control = ring.control;
        let ring_uid = control.identity.ring_uid.load(Ordering::Relaxed) as u32;
        let entry = &control.roles[usize::from(role)].words;
        crash_point!((), "attach: before the role bridges");
        entry[role_word::BRIDGING_SINCE_NS].store(monotonic_ns(), Ordering::Relaxed);
        crash_point!((), "attach: before the role is active");
        // SYNC: role-active (release side)
        control.active_mask.word.fetch_or(1 << role, Ordering::Release);
        let core = ConsumerCore::new(control, lease.guard(), role, Fuse::default());
        crash_point!(core.fuse, "attach: before the bell");
        // R4: whoever waits for this role to give something up looks again.
        core.control.rel_bell.ring_unconditionally();
        Ok(Consumer {
            core,
            ring_uid,
            directory: Arc::clone(directory),
            runtime_dir: runtime_dir.to_owned(),
            table,
            pulse: lease.pulse(),
            pool: None,
            formats: [None; MAX_FORMATS],
        })
    }

    /// Identity of the ring.
    pub fn ring_uid(&self) -> u32 {
        self.ring_uid
    }

    /// Active slots of the ring.
    pub fn slots(&self) -> usize {
        self.core.control.slot_count()
    }

    /// Takes the next frame owed to this role; `None` when there is none.
    ///
    /// # Errors
    /// [`RingError::Fenced`], [`RingError::Truncated`].
    pub fn acquire(&mut self) -> Result<Option<Taken>, RingError> {
        self.fetch_ahead();
        Ok(self.core.acquire()?.map(|at| Taken { at, head: self.head(at) }))
    }

    /// Asks for the first line of the frame that will most likely be taken, so that it travels while the
    /// exchange on the state word does. A hint and no read: nothing is believed of what the slot says.
    fn fetch_ahead(&self) {
        let Some(pool) = &self.pool else { return };
        if self.core.looks_ready() {
            let index = (self.core.control.word(self.core.expected_slot(), slot_word::FLAGS) >> 32) as u16;
            pool.prefetch(index);
        }
    }

    fn head(&self, at: SlotRef) -> FrameHead {
        let mut line = [0u64; 8];
        for (word, value) in line.iter_mut().enumerate() {
            *value = self.core.control.word(at.slot, word);
        }
        decode_head(&line)
    }

    /// The rest of a frame's description: three more cache lines.
    pub fn details(&self, taken: &Taken) -> FrameDetails {
        let words = std::array::from_fn(|i| self.core.control.word(taken.at.slot, slot_word::DETAILS + i));
        decode_details(&words)
    }

    /// Gives a frame up.
    ///
    /// # Errors
    /// [`RingError::Fenced`], [`RingError::Truncated`].
    pub fn release(&mut self, taken: &Taken) -> Result<(), RingError> {
        self.core.release(taken.at).map(|_| ())
    }

    pub(crate) fn core_mut(&mut self) -> &mut ConsumerCore {
        &mut self.core
    }

    /// The format of a frame, decoded once for each change.
    ///
    /// # Errors
    /// [`FrameError::Format`] for an entry that describes nothing.
    pub fn format(&mut self, taken: &Taken) -> Result<StreamFormat, FrameError> {
        let index = usize::from(taken.head.format_index);
        let id = taken.head.key.id();
        let bad = |source| FrameError::Format { id, source };
        let Some(entry) = self.core.control.formats.get(index) else {
            return Err(bad(FormatError::UnknownCode { what: "A format index", code: index as u64 }));
        };
        let version = entry[0].load(Ordering::Relaxed);
        if let Some((known, format)) = &self.formats[index]
            && *known == version
        {
            return Ok(*format);
        }
        let words: [u64; FORMAT_WORDS] = std::array::from_fn(|i| entry[i].load(Ordering::Relaxed));
        let format = decode_format(&words).map_err(bad)?;
        self.formats[index] = Some((version, format));
        Ok(format)
    }

    /// Where a frame's bytes are mapped here, and how many there are. Valid until the frame is released.
    ///
    /// # Errors
    /// [`FrameError::Pool`], [`FrameError::Outside`].
    pub fn bytes(&mut self, taken: &Taken) -> Result<(NonNull<u8>, usize), FrameError> {
        let at = taken.head.buffer;
        if let Some(pool) = &self.pool
            && (pool.spec().ring_uid, pool.spec().generation) == (at.ring_uid, at.generation)
        {
            if pool.is_broken() {
                return Err(truncated(taken));
            }
            // The usual case spares the two counts of a shared handle.
            return pool.extent(&at).ok_or(FrameError::Outside { id: taken.head.key.id(), index: at.index });
        }
        let pool = self.pool(taken)?;
        pool.extent(&at).ok_or(FrameError::Outside { id: taken.head.key.id(), index: at.index })
    }

    /// A view of a frame's pixels.
    ///
    /// # Errors
    /// As [`Consumer::bytes`]; [`FrameError::Format`] when a plane lies outside.
    #[expect(unsafe_code, reason = "the view points into the pool's mapping")]
    pub fn pixels<'a>(&mut self, taken: &Taken, format: &'a VideoFormat) -> Result<PixelsRead<'a>, FrameError> {
        let (base, len) = self.bytes(taken)?;
        // SAFETY: base..base + len is mapped as long as the pool, which the directory and `self.pool` keep
        // while frames of it are owed; the caller holds `taken` for as long as it uses the view.
        unsafe { PixelsRead::new(format, base.as_ptr(), len) }
            .map_err(|source| FrameError::Format { id: taken.head.key.id(), source })
    }

    /// The pool of a frame, mapped now if it was not: by name, or from the descriptors of any kernel
    /// that has it.
    ///
    /// # Errors
    /// [`FrameError::Pool`].
    pub fn pool(&mut self, taken: &Taken) -> Result<Arc<Pool>, FrameError> {
        let at = taken.head.buffer;
        let fits = |p: &Arc<Pool>| (p.spec().ring_uid, p.spec().generation) == (at.ring_uid, at.generation);
        if let Some(pool) = self.pool.as_ref().filter(|p| fits(p)) {
            return Ok(Arc::clone(pool));
        }
        let pool = match self.directory.find(at.ring_uid, at.generation) {
            Some(pool) => pool,
            None => {
                let pool = Arc::new(self.map_pool(taken)?);
                self.directory.add(Arc::clone(&pool));
                pool
            }
        };
        self.pool = Some(Arc::clone(&pool));
        if pool.is_broken() { Err(truncated(taken)) } else { Ok(pool) }
    }

    fn map_pool(&self, taken: &Taken) -> Result<Pool, FrameError> {
        let at = taken.head.buffer;
        let (id, ring_uid, generation) = (taken.head.key.id(), at.ring_uid, at.generation);
        let failed = |lost, why: String| FrameError::Pool { id, ring_uid, generation, why, lost };
        let spec = crate::output::find_pool_entry(&self.core.control, at.ring_uid, at.generation)
            .ok_or_else(|| failed(true, "the ring does not name it".to_owned()))?;
        if spec.kind == PoolKind::PosixShm {
            return Pool::open(spec, Access::Read).map_err(|error| failed(is_lost(&error), error.to_string()));
        }
        let peers: Vec<String> = self.table.kernels().into_iter().filter(|k| k.held).map(|k| k.kernel).collect();
        // Memory without a name lives as long as somebody has it mapped.
        let (mut lost, mut why) = (true, "no kernel that lives has it".to_owned());
        for peer in &peers {
            // One that is stopped answers after a while that counts as a hang when several are.
            self.pulse.beat();
            match fdpass::request(&fdpass::socket_path(&self.runtime_dir, peer), &spec, Access::Read) {
                Ok(Some(pool)) => return Ok(pool),
                Ok(None) => {}
                Err(error) => (lost, why) = (false, error.to_string()),
            }
        }
        Err(failed(lost, why))
    }

    /// Spins for at most `spin_ns`, then sleeps, until a frame is owed or CLOCK_MONOTONIC reaches
    /// `deadline_ns`. `also`: an output ring whose freed slots end the wait too.
    pub fn wait(&self, spin_ns: u64, deadline_ns: u64, also: Option<&Producer>) {
        if spin_ns > 0 && self.spin(spin_ns) {
            return;
        }
        let bell = &self.core.control.pub_bell;
        let heard = bell.listen();
        // Not listened to only now: a slot may have been freed since the caller looked at its output.
        let room = also.map(Producer::releases_heard);
        if self.has_next() {
            return;
        }
        match room {
            None => bell.sleep(heard, deadline_ns),
            Some(room) => sleep_on_two((bell, heard), room, deadline_ns),
        }
    }

    /// Watches the slot where the next frame will most likely appear.
    fn spin(&self, spin_ns: u64) -> bool {
        let end = monotonic_ns() + spin_ns;
        // A look at the clock costs as much as this many looks at the slot.
        const LOOKS: usize = 32;
        while monotonic_ns() < end {
            for _ in 0..LOOKS {
                if self.core.looks_ready() {
                    return true;
                }
                std::hint::spin_loop();
            }
        }
        false
    }

    /// Whether the next frame in order seems to be there: one load.
    pub fn looks_ready(&self) -> bool {
        self.core.looks_ready()
    }

    /// Whether any frame is owed that was not taken by this process.
    pub fn has_next(&self) -> bool {
        self.core.owed().any(|(at, _)| at.seq > self.core.last_seq)
    }

    /// Frames owed to this role, taken or not.
    pub fn backlog(&self) -> usize {
        self.core.owed().count()
    }

    /// Frames owed to this role and not taken yet.
    pub fn waiting(&self) -> usize {
        self.core.owed().filter(|(at, _)| at.seq > self.core.last_seq).count()
    }

    /// Tells the producer that this role bridges a restart downstream or catches up, or no longer does.
    pub fn set_bridging(&self, bridging: bool) {
        let word = &self.core.control.roles[usize::from(self.core.role)].words[role_word::BRIDGING_SINCE_NS];
        let since = word.load(Ordering::Relaxed);
        match (bridging, since) {
            (true, 0) => word.store(monotonic_ns(), Ordering::Relaxed),
            (false, 1..) => word.store(0, Ordering::Relaxed),
            _ => {}
        }
    }

    /// Whether this role was said to bridge.
    pub fn is_bridging(&self) -> bool {
        self.core.control.roles[usize::from(self.core.role)].words[role_word::BRIDGING_SINCE_NS].load(Ordering::Relaxed)
            != 0
    }

    /// Starts the time of bridging anew: the replacement downstream is still under way.
    pub fn keep_bridging(&self) {
        self.core.control.roles[usize::from(self.core.role)].words[role_word::BRIDGING_SINCE_NS]
            .store(monotonic_ns(), Ordering::Relaxed);
    }

    /// Leaves the ring for good: nothing is owed to this role any more.
    ///
    /// # Errors
    /// [`RingError::Fenced`].
    pub fn retire(mut self) -> Result<(), RingError> {
        crash_point!(self.core.fuse, "retire: before the role is inactive");
        // SYNC: role-active (release side)
        self.core.control.active_mask.word.fetch_and(!(1 << self.core.role), Ordering::Release);
        let owed: Vec<SlotRef> = self.core.owed().map(|(at, _)| at).collect();
        for at in owed {
            crash_point!(self.core.fuse, "retire: before a slot is released");
            self.core.release(at)?;
        }
        Ok(())
    }

    /// Requests to the kernel that writes this ring.
    pub fn requester(&self) -> Requester<'_> {
        Requester::new(&self.core.control.control)
    }

    /// CLOCK_REALTIME − CLOCK_MONOTONIC as the producer saw it, nanoseconds.
    pub fn realtime_offset_ns(&self) -> u64 {
        self.core.control.producer.realtime_offset_ns.load(Ordering::Relaxed)
    }

    /// The last key published on this ring.
    pub fn last_key(&self) -> crate::slot::Key {
        self.core.control.last_key()
    }
}

/// Whether another try to map a pool is of no use: it is gone, or what the ring says of it is no pool's description.
fn is_lost(error: &ObjectError) -> bool {
    use ObjectError::{Damaged, Mismatch, Missing, Name};
    matches!(error, Missing { .. } | Damaged { .. } | Mismatch { .. } | Name { .. })
}

fn truncated(taken: &Taken) -> FrameError {
    let (id, at) = (taken.head.key.id(), taken.head.buffer);
    let why = "it was truncated while in use".to_owned();
    FrameError::Pool { id, ring_uid: at.ring_uid, generation: at.generation, why, lost: true }
}

fn find_role(control: &ControlRef, kernel: &str) -> Option<u8> {
    control
        .roles
        .iter()
        .position(|role| {
            // SYNC: object-ready (acquire side): the lease is written after the name.
            role.words[role_word::LEASE].load(Ordering::Acquire) != 0
                && crate::attach::load_text(&role.words[role_word::NAME..role_word::NAME + 4]) == kernel
        })
        .map(|role| role as u8)
}
