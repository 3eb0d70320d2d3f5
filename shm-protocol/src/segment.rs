//! Shared-memory objects: created whole or not at all, mapped, and kept from killing us when truncated.
#![expect(unsafe_code, reason = "mmap, and a SIGBUS handler that maps over holes")]

use crate::error::ObjectError;
use crate::names::SHM_DIR;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use nix::sys::stat::{Mode, fstat};
use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

/// Whether a mapping may be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// PROT_READ: payload of others.
    Read,
    /// PROT_READ | PROT_WRITE.
    Write,
}

/// A mapped object. The mapping ends with it; the object's name does not.
#[derive(Debug)]
pub struct Segment {
    base: NonNull<u8>,
    len: usize,
    fd: OwnedFd,
    name: String,
    guarded: Option<usize>,
}

// SAFETY: a mapping is as good in one thread as in another; all access is by atomics or raw copies.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

fn system(what: &'static str, name: &str) -> impl FnOnce(Errno) -> ObjectError {
    move |errno| ObjectError::System { what, name: name.to_owned(), errno }
}

/// Free bytes of the shared-memory file system.
pub fn shm_free_bytes() -> u64 {
    nix::sys::statvfs::statvfs(SHM_DIR).map_or(0, |s| s.blocks_available() * s.fragment_size())
}

/// Bytes of the shared-memory file system in all.
fn shm_total_bytes() -> u64 {
    nix::sys::statvfs::statvfs(SHM_DIR).map_or(0, |s| s.blocks() * s.fragment_size())
}

/// Reserves `bytes` in `fd`, so that a full file system is an error now and not a SIGBUS later.
///
/// # Errors
/// [`ObjectError::NoSpace`] with the cure when they are not to be had.
pub fn reserve(fd: BorrowedFd<'_>, bytes: u64, name: &str) -> Result<(), ObjectError> {
    const MIB: u64 = 1 << 20;
    match nix::fcntl::posix_fallocate(fd, 0, bytes as i64) {
        Ok(()) => Ok(()),
        Err(Errno::ENOSPC | Errno::ENOMEM) => Err(ObjectError::NoSpace {
            name: name.to_owned(),
            needed_mib: bytes.div_ceil(MIB),
            free_mib: shm_free_bytes() / MIB,
            total_mib: shm_total_bytes() / MIB,
        }),
        Err(errno) => Err(system("posix_fallocate", name)(errno)),
    }
}

/// Bytes of a huge page on x86-64.
const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A mapping that begins where a huge page can: without that the system maps huge pages piece by piece.
fn map_aligned(fd: &OwnedFd, length: NonZeroUsize, protection: ProtFlags) -> nix::Result<NonNull<c_void>> {
    let room = length.saturating_add(HUGE_PAGE_BYTES);
    // SAFETY: a new mapping at an address of the system's choice touches no memory of ours.
    let reserved = unsafe { nix::sys::mman::mmap_anonymous(None, room, ProtFlags::PROT_NONE, MapFlags::MAP_PRIVATE) }?;
    let begin = reserved.as_ptr() as usize;
    let aligned = begin.next_multiple_of(HUGE_PAGE_BYTES);
    let at = NonZeroUsize::new(aligned);
    // SAFETY: takes the place of a part of what was just reserved, which nobody else knows.
    let mapped = unsafe { mmap(at, length, protection, MapFlags::MAP_SHARED | MapFlags::MAP_FIXED, fd, 0) };
    // A failed attempt may have left a hole that is somebody else's by now: then the reservation stays.
    mapped?;
    let end = aligned + length.get().next_multiple_of(PAGE_BYTES);
    for (from, to) in [(begin, aligned), (end, begin + room.get().next_multiple_of(PAGE_BYTES))] {
        if let Some(rest) = NonNull::new(from as *mut c_void).filter(|_| to > from) {
            // SAFETY: what is left of the reservation before and behind the mapping; nobody else knows it.
            let _ = unsafe { munmap(rest, to - from) };
        }
    }
    mapped
}

/// Bytes of a small page on x86-64.
const PAGE_BYTES: usize = 4096;

impl Segment {
    /// Creates `name` with `bytes` zero bytes, lets `init` fill it, and only then gives it its name.
    /// `Ok(None)`: the name is taken; open it.
    ///
    /// # Errors
    /// [`ObjectError::NoSpace`] when `/dev/shm` is too small, [`ObjectError::System`] otherwise.
    pub fn create(name: &str, bytes: u64, init: impl FnOnce(NonNull<u8>)) -> Result<Option<Segment>, ObjectError> {
        let flags = OFlag::O_TMPFILE | OFlag::O_RDWR | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let fd = open(SHM_DIR, flags, mode).map_err(system("open(O_TMPFILE)", name))?;
        reserve(fd.as_fd(), bytes, name)?;
        let segment = Segment::map(fd, bytes as usize, Access::Write, name)?;
        crate::crash::crash_point!((), "create: before the content");
        init(segment.base);
        crate::crash::crash_point!((), "create: before the name");
        // SYNC: object-ready (release side): the system call orders all stores above before the name.
        let own = format!("/proc/self/fd/{}", segment.fd.as_raw_fd());
        let path = format!("{SHM_DIR}/{name}");
        match nix::unistd::linkat(
            nix::fcntl::AT_FDCWD,
            own.as_str(),
            nix::fcntl::AT_FDCWD,
            path.as_str(),
            AtFlags::AT_SYMLINK_FOLLOW,
        ) {
            Ok(()) => {
                crate::crash::crash_point!((), "create: named");
                Ok(Some(segment))
            }
            Err(Errno::EEXIST) => Ok(None),
            Err(errno) => Err(system("linkat", name)(errno)),
        }
    }

    /// Maps the object `name`, whole.
    ///
    /// # Errors
    /// [`ObjectError::Missing`] when there is none, [`ObjectError::Mismatch`] when it is shorter than
    /// `min_bytes` or belongs to another user, [`ObjectError::System`] otherwise.
    pub fn open(name: &str, min_bytes: u64, access: Access) -> Result<Segment, ObjectError> {
        let mode = if access == Access::Write { OFlag::O_RDWR } else { OFlag::O_RDONLY };
        let path = format!("{SHM_DIR}/{name}");
        let fd = match open(path.as_str(), mode | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty()) {
            Ok(fd) => fd,
            Err(Errno::ENOENT) => return Err(ObjectError::Missing { name: name.to_owned() }),
            Err(errno) => return Err(system("open", name)(errno)),
        };
        Segment::from_fd(fd, min_bytes, access, name)
    }

    /// As [`Segment::open`], for an object whose size was fixed when it got its name.
    ///
    /// # Errors
    /// [`ObjectError::Damaged`] when it is shorter than that: somebody truncated it.
    pub fn open_whole(name: &str, bytes: u64, access: Access) -> Result<Segment, ObjectError> {
        match Segment::open(name, bytes, access) {
            Err(ObjectError::Mismatch { name, field: "the size", found, expected }) => {
                Err(ObjectError::Damaged { name, what: format!("it has {found} instead of {expected}") })
            }
            other => other,
        }
    }

    /// Maps the whole object behind `fd`.
    ///
    /// # Errors
    /// As [`Segment::open`].
    pub fn from_fd(fd: OwnedFd, min_bytes: u64, access: Access, name: &str) -> Result<Segment, ObjectError> {
        let stat = fstat(&fd).map_err(system("fstat", name))?;
        let mismatch = |field, found: String, expected: String| ObjectError::Mismatch {
            name: name.to_owned(),
            field,
            found,
            expected,
        };
        if stat.st_uid != nix::unistd::geteuid().as_raw() {
            return Err(mismatch("the owner", format!("user {}", stat.st_uid), "this user".to_owned()));
        }
        if (stat.st_size as u64) < min_bytes.max(1) {
            return Err(mismatch("the size", format!("{} bytes", stat.st_size), format!("at least {min_bytes}")));
        }
        Segment::map(fd, stat.st_size as usize, access, name)
    }

    fn map(fd: OwnedFd, len: usize, access: Access, name: &str) -> Result<Segment, ObjectError> {
        let length = NonZeroUsize::new(len).ok_or_else(|| system("mmap", name)(Errno::EINVAL))?;
        let protection = match access {
            Access::Read => ProtFlags::PROT_READ,
            Access::Write => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
        };
        let base = if len < HUGE_PAGE_BYTES {
            // SAFETY: a new mapping at an address of the system's choice touches no memory of ours.
            unsafe { mmap(None, length, protection, MapFlags::MAP_SHARED, fd.as_fd(), 0) }
        } else {
            map_aligned(&fd, length, protection)
        }
        .map_err(system("mmap", name))?;
        let guarded = holes::guard(base.as_ptr() as usize, len);
        Ok(Segment { base: base.cast(), len, fd, name: name.to_owned(), guarded })
    }

    /// First byte.
    pub fn base(&self) -> NonNull<u8> {
        self.base
    }

    /// Bytes mapped.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Never: an empty object is refused.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The object's name (or what stands for it where it has none).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The object's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Whether the object was found truncated: reads give zeros since.
    pub fn is_broken(&self) -> bool {
        self.guarded.is_some_and(holes::is_broken)
    }

    /// Whether the object still has a name; `false` once somebody removed it by hand.
    pub fn is_linked(&self) -> bool {
        fstat(&self.fd).is_ok_and(|s| s.st_nlink > 0)
    }

    /// Whether the object is as long as when it was mapped, and no hole was met; `false` once somebody truncated it.
    pub fn is_whole(&self) -> bool {
        !self.is_broken() && fstat(&self.fd).is_ok_and(|s| s.st_size as u64 >= self.len as u64)
    }

    /// Bytes that one huge page could hold each.
    pub fn huge_pages(&self) -> usize {
        self.len / HUGE_PAGE_BYTES
    }

    /// Makes huge page number `index` of what are small pages: for a process that dies with the object mapped, that
    /// is 512 entries fewer to undo. Takes some milliseconds, in which a touch of those bytes waits. `false`: the
    /// system does not do that (Linux before 6.1).
    pub fn collapse(&self, index: usize) -> bool {
        /// MADV_COLLAPSE, Linux 6.1; works also where huge pages of shared memory are off.
        const COLLAPSE: i32 = 25;
        if index >= self.huge_pages() {
            return false;
        }
        // SAFETY: advice on our own mapping, within it; it changes no content.
        let advised = unsafe {
            let at = self.base.as_ptr().add(index * HUGE_PAGE_BYTES);
            libc::madvise(at.cast(), HUGE_PAGE_BYTES, COLLAPSE)
        };
        // No memory for this one is no reason not to try the next.
        advised == 0 || matches!(Errno::last(), Errno::ENOMEM | Errno::EAGAIN | Errno::EBUSY)
    }

    /// Maps the pages of bytes `from..from + len` now, so that no frame pays for it. Best effort: without it pages map
    /// on first use.
    pub fn populate(&self, access: Access, from: usize, len: usize) {
        // MADV_POPULATE_READ and _WRITE (Linux 5.14); older systems answer EINVAL.
        const POPULATE_READ: i32 = 22;
        const POPULATE_WRITE: i32 = 23;
        let advice = if access == Access::Write { POPULATE_WRITE } else { POPULATE_READ };
        let len = len.min(self.len.saturating_sub(from));
        // SAFETY: advice on our own mapping, within it; it changes no content.
        unsafe { libc::madvise(self.base.as_ptr().wrapping_add(from).cast(), len, advice) };
    }
}

/// Keeps a mapping that another crate made from killing us when its object is truncated.
#[derive(Debug)]
pub(crate) struct HoleGuard(Option<usize>);

impl HoleGuard {
    /// Guards `len` bytes from `base` on, until it is dropped: before the mapping ends.
    pub(crate) fn new(base: *const u8, len: usize) -> HoleGuard {
        HoleGuard(holes::guard(base as usize, len))
    }
}

impl Drop for HoleGuard {
    fn drop(&mut self) {
        if let Some(entry) = self.0 {
            holes::forget(entry);
        }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if let Some(entry) = self.guarded {
            holes::forget(entry);
        }
        // SAFETY: our own mapping; everything that points into it holds an Arc of this segment.
        let _ = unsafe { munmap(self.base.cast::<c_void>(), self.len) };
    }
}

/// Truncation turns pages into holes, and a touch of a hole into SIGBUS. The handler maps a zero page there
/// and marks the object broken; its user then ends with "temporary, restart me" instead of dying unheard.
mod holes {
    use super::*;
    use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
    use std::sync::Once;

    /// Mappings a process has at the most: a few rings, their pools in two generations, leases, sessions.
    const MAX_GUARDED: usize = 256;

    struct Guarded {
        base: AtomicUsize,
        len: AtomicUsize,
        broken: AtomicBool,
    }

    static GUARDED: [Guarded; MAX_GUARDED] =
        [const { Guarded { base: AtomicUsize::new(0), len: AtomicUsize::new(0), broken: AtomicBool::new(false) } };
            MAX_GUARDED];

    /// Enters a mapping; `None` when the table is full (it is then unguarded, as any program's).
    pub(super) fn guard(base: usize, len: usize) -> Option<usize> {
        static INSTALL: Once = Once::new();
        INSTALL.call_once(|| {
            let action = SigAction::new(SigHandler::SigAction(on_sigbus), SaFlags::SA_SIGINFO, SigSet::empty());
            // SAFETY: the handler only uses atomics and mmap, both async-signal-safe.
            let _ = unsafe { sigaction(Signal::SIGBUS, &action) };
        });
        GUARDED.iter().position(|entry| {
            if entry.base.compare_exchange(0, base, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                return false;
            }
            entry.broken.store(false, Ordering::Relaxed);
            entry.len.store(len, Ordering::Release);
            true
        })
    }

    pub(super) fn forget(entry: usize) {
        GUARDED[entry].len.store(0, Ordering::Release);
        GUARDED[entry].base.store(0, Ordering::Release);
    }

    pub(super) fn is_broken(entry: usize) -> bool {
        GUARDED[entry].broken.load(Ordering::Relaxed)
    }

    extern "C" fn on_sigbus(_signal: i32, info: *mut libc::siginfo_t, _context: *mut c_void) {
        // SAFETY: the system passes a valid siginfo, and SIGBUS carries an address.
        let address = unsafe { (*info).si_addr() } as usize;
        for entry in &GUARDED {
            let (base, len) = (entry.base.load(Ordering::Acquire), entry.len.load(Ordering::Acquire));
            if base != 0 && (base..base + len).contains(&address) {
                entry.broken.store(true, Ordering::Relaxed);
                let page = address & !(PAGE_BYTES - 1);
                // SAFETY: replaces one page of our own mapping, which has nothing behind it any more.
                let mapped = unsafe {
                    libc::mmap(
                        page as *mut c_void,
                        PAGE_BYTES,
                        libc::PROT_READ | libc::PROT_WRITE,
                        libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED,
                        -1,
                        0,
                    )
                };
                if mapped != libc::MAP_FAILED {
                    return;
                }
            }
        }
        // Not ours: the default action, by faulting again without a handler.
        let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
        // SAFETY: resets to the default action.
        let _ = unsafe { sigaction(Signal::SIGBUS, &default) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_pages_hold_what_the_small_ones_held() {
        const BYTES: usize = 2 * HUGE_PAGE_BYTES + PAGE_BYTES;
        let name = format!("quad.u{}-huge", std::process::id());
        let segment = Segment::create(&name, BYTES as u64, |_| {}).unwrap().unwrap();
        let other = Segment::open(&name, BYTES as u64, Access::Read).unwrap();
        crate::names::unlink(&name);
        for mapping in [&segment, &other] {
            assert_eq!(mapping.base().as_ptr() as usize % HUGE_PAGE_BYTES, 0, "no huge page fits there");
        }
        let words = BYTES / size_of::<u64>();
        let content = |index: usize| (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        // SAFETY: `words` words are mapped writable here, and only this thread touches them.
        let all = unsafe { std::slice::from_raw_parts_mut(segment.base().as_ptr().cast::<u64>(), words) };
        all.iter_mut().enumerate().for_each(|(index, word)| *word = content(index));
        other.populate(Access::Read, 0, BYTES);
        assert_eq!(segment.huge_pages(), 2);
        if !(0..2).all(|page| segment.collapse(page)) {
            println!("MADV_COLLAPSE: SKIPPED, not on this system");
        }
        assert!(!segment.collapse(2), "beyond the last whole one");
        for mapping in [&segment, &other] {
            for index in 0..words {
                // SAFETY: within the mapping; nobody writes now.
                let found = unsafe { mapping.base().as_ptr().cast::<u64>().add(index).read_volatile() };
                assert_eq!(found, content(index), "word {index}");
            }
        }
    }
}
