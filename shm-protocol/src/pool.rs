//! Pools: the buffers that slots point at, apart from the ring's control words. Mapped once an attach;
//! only indices cross the ring.
#![expect(unsafe_code, reason = "buffers are reached through raw pointers; udmabuf is an ioctl")]

use crate::attach::{Content, MappedControl};
use crate::descriptor::BufferRef;
use crate::error::ObjectError;
use crate::frame::BUFFER_ALIGN;
use crate::names;
use crate::segment::{Access, Segment, reserve};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

/// What a pool is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum PoolKind {
    /// A named object in `/dev/shm`: the default, and what survives every process.
    PosixShm = 1,
    /// A sealed memfd, handed over as fd: what udmabuf accepts.
    Memfd = 2,
    /// DMA-BUFs made of a memfd by `/dev/udmabuf`, one a buffer.
    DmaBuf = 3,
}

impl PoolKind {
    /// The name used in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            PoolKind::PosixShm => "posix-shm",
            PoolKind::Memfd => "memfd",
            PoolKind::DmaBuf => "dma-buf",
        }
    }

    /// The kind of an ABI code.
    pub fn from_code(code: u64) -> Option<PoolKind> {
        [PoolKind::PosixShm, PoolKind::Memfd, PoolKind::DmaBuf].into_iter().find(|k| *k as u64 == code)
    }
}

/// Which pool, and how large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSpec {
    /// Ring that owns it.
    pub ring_uid: u32,
    /// Its generation: rises when kind or geometry changes.
    pub generation: u32,
    /// What it is made of.
    pub kind: PoolKind,
    /// How many buffers.
    pub buffers: u32,
    /// Bytes of each; a multiple of 4096.
    pub buffer_bytes: u64,
    /// Name of its object (posix-shm), or of its owner (others, for messages).
    pub name: String,
}

impl PoolSpec {
    /// Bytes of all buffers.
    pub fn total_bytes(&self) -> u64 {
        u64::from(self.buffers) * self.buffer_bytes
    }

    fn check(&self) -> Result<(), ObjectError> {
        /// More than any machine's memory, less than an overflow.
        const MOST_BYTES: u64 = 1 << 44;
        let bad = |field, found: String, expected: &str| {
            Err(ObjectError::Mismatch { name: self.name.clone(), field, found, expected: expected.to_owned() })
        };
        if self.buffers == 0 || self.buffers as usize > crate::layout::MAX_SLOTS {
            return bad("the count of buffers", self.buffers.to_string(), "1 to 64");
        }
        if self.buffer_bytes == 0
            || !self.buffer_bytes.is_multiple_of(BUFFER_ALIGN)
            || self.buffer_bytes > MOST_BYTES / u64::from(self.buffers)
        {
            return bad("the size of a buffer", self.buffer_bytes.to_string(), "a multiple of 4096 below 2^44 in all");
        }
        Ok(())
    }
}

/// A mapped pool.
#[derive(Debug)]
pub struct Pool {
    spec: PoolSpec,
    segment: Segment,
    /// One a buffer, for kind dma-buf.
    dma_bufs: Vec<OwnedFd>,
}

impl Pool {
    /// Makes a new pool. An object of its name that no ring mentions is what a dead process left, and goes.
    ///
    /// # Errors
    /// [`ObjectError::NoSpace`] when memory is short, [`ObjectError::Unavailable`] when the kind cannot be
    /// had here, [`ObjectError::Mismatch`] for an impossible geometry.
    pub fn create(spec: PoolSpec) -> Result<Pool, ObjectError> {
        spec.check()?;
        match spec.kind {
            PoolKind::PosixShm => {
                names::unlink(&spec.name);
                crate::crash::crash_point!((), "pool: before the object");
                let created = Segment::create(&spec.name, spec.total_bytes(), |_| {})?;
                let segment = created.ok_or_else(|| ObjectError::Busy { what: spec.name.clone(), pid: 0 })?;
                Ok(Pool { spec, segment, dma_bufs: Vec::new() })
            }
            PoolKind::Memfd => {
                let segment = sealed_memfd(&spec)?;
                Ok(Pool { spec, segment, dma_bufs: Vec::new() })
            }
            PoolKind::DmaBuf => {
                let segment = sealed_memfd(&spec)?;
                let dma_bufs = udmabufs(&spec, segment.fd())?;
                Ok(Pool { spec, segment, dma_bufs })
            }
        }
    }

    /// Maps an existing posix-shm pool by its name.
    ///
    /// # Errors
    /// [`ObjectError::Missing`], or [`ObjectError::Damaged`] when it is shorter than `spec` says.
    pub fn open(spec: PoolSpec, access: Access) -> Result<Pool, ObjectError> {
        spec.check()?;
        let segment = Segment::open_whole(&spec.name, spec.total_bytes(), access)?;
        Ok(Pool { spec, segment, dma_bufs: Vec::new() })
    }

    /// Maps a pool from descriptors that a peer handed over: the memory, then any DMA-BUFs.
    ///
    /// # Errors
    /// [`ObjectError::Mismatch`] when the memory is shorter than `spec` says or not sealed against it.
    pub fn from_fds(spec: PoolSpec, mut fds: Vec<OwnedFd>, access: Access) -> Result<Pool, ObjectError> {
        spec.check()?;
        if fds.is_empty() {
            return Err(ObjectError::Peer { name: spec.name, why: "it sent no descriptor".to_owned() });
        }
        let memory = fds.remove(0);
        let seals = fcntl(&memory, FcntlArg::F_GET_SEALS).map(SealFlag::from_bits_truncate);
        if !seals.is_ok_and(|s| s.contains(SealFlag::F_SEAL_SHRINK)) {
            return Err(ObjectError::Mismatch {
                name: spec.name,
                field: "the seal",
                found: "none against shrinking".to_owned(),
                expected: "F_SEAL_SHRINK".to_owned(),
            });
        }
        let segment = Segment::from_fd(memory, spec.total_bytes(), access, &spec.name)?;
        Ok(Pool { spec, segment, dma_bufs: fds })
    }

    /// Which pool this is.
    pub fn spec(&self) -> &PoolSpec {
        &self.spec
    }

    /// First byte of buffer `index`; `None` when there is no such buffer.
    pub fn buffer(&self, index: u16) -> Option<NonNull<u8>> {
        if u32::from(index) >= self.spec.buffers {
            return None;
        }
        let offset = usize::from(index) * self.spec.buffer_bytes as usize;
        // SAFETY: index < buffers, and the mapping is at least buffers × buffer_bytes long.
        Some(unsafe { self.segment.base().add(offset) })
    }

    /// Asks for the first line of buffer `index` to be brought to this core. A hint: nothing is read, and an
    /// index out of range does nothing.
    pub(crate) fn prefetch(&self, index: u16) {
        #[cfg(target_arch = "x86_64")]
        if let Some(base) = self.buffer(index) {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            // SAFETY: PREFETCHT0 is in every x86-64, and `base` is mapped; it would not even have to be.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(base.as_ptr().cast()) };
        }
        #[cfg(not(target_arch = "x86_64"))]
        let _ = index;
    }

    /// The bytes a frame says it has; `None` when they do not lie within one buffer of this pool.
    pub fn extent(&self, at: &BufferRef) -> Option<(NonNull<u8>, usize)> {
        let base = self.buffer(at.index)?;
        let end = u64::from(at.offset) + u64::from(at.len);
        // SAFETY: offset ≤ end ≤ buffer_bytes, all within the buffer.
        (end <= self.spec.buffer_bytes).then(|| (unsafe { base.add(at.offset as usize) }, at.len as usize))
    }

    /// The DMA-BUF of buffer `index`, for kind dma-buf.
    pub fn dma_buf(&self, index: u16) -> Option<BorrowedFd<'_>> {
        self.dma_bufs.get(usize::from(index)).map(AsFd::as_fd)
    }

    /// The memory that holds all buffers.
    pub fn memory(&self) -> BorrowedFd<'_> {
        self.segment.fd()
    }

    /// Descriptors to hand over: the memory, then any DMA-BUFs.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        std::iter::once(self.segment.fd()).chain(self.dma_bufs.iter().map(AsFd::as_fd)).collect()
    }

    /// Maps pages now: of pixels all, since every frame touches them; of access units the front of each buffer. What
    /// is mapped has to be undone when the process dies, before its successor may begin.
    pub fn populate(&self, access: Access, content: Content) {
        /// An access unit of 8 Mbit/s at 60 fps has 17 kB, an IDR some times that.
        const FRONT_BYTES: u64 = 128 << 10;
        match content {
            Content::Pixels => self.segment.populate(access, 0, self.spec.total_bytes() as usize),
            Content::AccessUnits => (0..u64::from(self.spec.buffers)).for_each(|buffer| {
                let len = FRONT_BYTES.min(self.spec.buffer_bytes) as usize;
                self.segment.populate(access, (buffer * self.spec.buffer_bytes) as usize, len);
            }),
        }
    }

    /// Makes huge pages of small ones, little by little, in a thread that steps back, until done or until nobody uses
    /// the pool any more. They stay when this process is gone.
    pub(crate) fn collapse_in_background(pool: &Arc<Pool>) {
        /// One takes about 5 ms and holds up who touches it: a fifth of the time at the most.
        const REST: Duration = Duration::from_millis(20);
        /// Behind everything else of this process.
        const NICE: i32 = 10;
        let (weak, pages) = (Arc::downgrade(pool), pool.segment.huge_pages());
        if pages == 0 {
            return;
        }
        let collapse = move || {
            // On Linux this is the thread's, and ends with it. Without it the work is done all the same.
            let _ = rustix::process::setpriority_process(None, NICE);
            for page in 0..pages {
                std::thread::sleep(REST);
                if !weak.upgrade().is_some_and(|pool| pool.segment.collapse(page)) {
                    return;
                }
            }
        };
        // Without the thread the pages stay small, and a death takes some milliseconds longer.
        let _ = std::thread::Builder::new().name("huge-pages".to_owned()).spawn(collapse);
    }

    /// Whether a hole was met where the memory was truncated behind our back: frames read as zeros since.
    pub fn is_broken(&self) -> bool {
        self.segment.is_broken()
    }

    /// What somebody did from outside to the pool that a kernel writes, if so. (Others' may have lost their names:
    /// their generation is over.)
    fn damage(&self) -> Option<ObjectError> {
        // Memory that was handed over as a descriptor never had a name to lose.
        let named = self.spec.kind == PoolKind::PosixShm;
        let what = match (self.segment.is_whole(), named && !self.segment.is_linked()) {
            (false, _) => "it was truncated while in use",
            (true, true) => "it was removed while in use",
            (true, false) => return None,
        };
        Some(ObjectError::Damaged { name: self.spec.name.clone(), what: what.to_owned() })
    }

    /// Whether this still is what its name says: neither truncated, nor removed or replaced by hand.
    pub fn is_current(&self) -> bool {
        self.damage().is_none()
    }
}

fn sealed_memfd(spec: &PoolSpec) -> Result<Segment, ObjectError> {
    let system = |what| move |errno: Errno| ObjectError::System { what, name: spec.name.clone(), errno };
    let fd = memfd_create(spec.name.as_str(), MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)
        .map_err(system("memfd_create"))?;
    reserve(fd.as_fd(), spec.total_bytes(), &spec.name)?;
    let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals)).map_err(system("fcntl(F_ADD_SEALS)"))?;
    Segment::from_fd(fd, spec.total_bytes(), Access::Write, &spec.name)
}

fn udmabufs(spec: &PoolSpec, memory: BorrowedFd<'_>) -> Result<Vec<OwnedFd>, ObjectError> {
    /// `struct udmabuf_create` of linux/udmabuf.h.
    #[repr(C)]
    struct Create {
        memfd: u32,
        flags: u32,
        offset: u64,
        size: u64,
    }
    const CLOEXEC: u32 = 1;
    let unavailable = |why: String| ObjectError::Unavailable { kind: PoolKind::DmaBuf.name(), why };
    let device = std::fs::OpenOptions::new().read(true).write(true).open("/dev/udmabuf").map_err(|error| {
        unavailable(format!(
            "/dev/udmabuf cannot be opened ({error}); it needs a kernel with CONFIG_UDMABUF and write access to the \
             device; use memory = \"memfd\" or \"posix-shm\""
        ))
    })?;
    (0..u64::from(spec.buffers))
        .map(|buffer| {
            let create = Create {
                memfd: memory.as_raw_fd() as u32,
                flags: CLOEXEC,
                offset: buffer * spec.buffer_bytes,
                size: spec.buffer_bytes,
            };
            let request = nix::request_code_write!(b'u', 0x42, size_of::<Create>());
            // SAFETY: UDMABUF_CREATE reads one `Create` and returns a new descriptor or −1.
            let fd = Errno::result(unsafe { libc::ioctl(device.as_raw_fd(), request as _, &create) })
                .map_err(|errno| unavailable(format!("UDMABUF_CREATE refused {} bytes: {errno}", spec.buffer_bytes)))?;
            // SAFETY: the ioctl gave us this descriptor and nobody else knows it.
            Ok(unsafe { OwnedFd::from_raw_fd(fd) })
        })
        .collect()
}

/// Every pool this process has mapped, its own and others': what its fd server hands out. With the rings it has
/// mapped: what it watches for damage from outside.
#[derive(Debug, Default)]
pub struct PoolDirectory {
    pools: Mutex<Vec<Arc<Pool>>>,
    own: Mutex<Weak<Pool>>,
    rings: Mutex<Vec<Arc<MappedControl>>>,
}

impl PoolDirectory {
    /// Most pools kept: own and foreign in two generations. The oldest go first.
    const KEPT: usize = 16;

    /// Enters the pool that this kernel's ring now writes.
    pub(crate) fn add_own(&self, pool: Arc<Pool>) {
        *self.own.lock().unwrap_or_else(PoisonError::into_inner) = Arc::downgrade(&pool);
        self.add(pool);
    }

    /// Enters a ring, to be watched from now on.
    pub(crate) fn watch(&self, ring: &Arc<MappedControl>) {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(ring));
    }

    /// Watches no ring any more: all are opened anew.
    pub fn unwatch(&self) {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What somebody did from outside to a ring that is mapped here or to the own pool: a kernel that sees it ends,
    /// and its successor maps what is there then, or makes it anew if it is its own. A few system calls.
    ///
    /// # Errors
    /// [`ObjectError::Damaged`] with the object's name.
    pub fn check(&self) -> Result<(), ObjectError> {
        let rings = self.rings.lock().unwrap_or_else(PoisonError::into_inner);
        let own = self.own.lock().unwrap_or_else(PoisonError::into_inner);
        let ring = rings.iter().find_map(|ring| ring.damage());
        ring.or_else(|| own.upgrade().and_then(|pool| pool.damage())).map_or(Ok(()), Err)
    }

    /// Enters a pool.
    pub fn add(&self, pool: Arc<Pool>) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.len() >= Self::KEPT {
            pools.remove(0);
        }
        pools.push(pool);
    }

    /// The pool of that ring and generation, if it is mapped here.
    pub fn find(&self, ring_uid: u32, generation: u32) -> Option<Arc<Pool>> {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().rev().find(|p| p.spec.ring_uid == ring_uid && p.spec.generation == generation).cloned()
    }

    /// The very pool of that description, if it is mapped here and still is what it was.
    pub fn find_current(&self, spec: &PoolSpec) -> Option<Arc<Pool>> {
        self.find(spec.ring_uid, spec.generation).filter(|pool| pool.spec() == spec && pool.is_current())
    }

    /// Forgets every pool that `stays` does not want.
    pub fn retain(&self, stays: impl Fn(&Pool) -> bool) {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).retain(|pool| stays(pool));
    }

    /// Forgets a pool of which no slot speaks any more.
    pub fn remove(&self, ring_uid: u32, generation: u32) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|p| (p.spec.ring_uid, p.spec.generation) != (ring_uid, generation));
    }

    /// Bytes of all pools mapped here.
    pub fn total_bytes(&self) -> u64 {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).iter().map(|p| p.spec.total_bytes()).sum()
    }
}
