//! The lease table of an instance: one object, a record a kernel, and bytes to lock.

use super::record::{CandidateState, KernelState, LeaseInfo, LeaseRecord};
use crate::error::ObjectError;
use crate::layout::{ABI_MAJOR, ENDIANNESS};
use crate::names;
use crate::segment::{Access, Segment};
use crate::sync::{AtomicU64, Ordering};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, open};
use nix::sys::stat::Mode;
use std::mem::size_of;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;

/// "QUADLEAS" in memory order.
const MAGIC: u64 = u64::from_le_bytes(*b"QUADLEAS");
/// Kernel instances an instance can have: four kinds with a few renditions each.
pub const MAX_KERNELS: usize = 31;
/// Bytes before the first record.
const HEADER_BYTES: usize = size_of::<LeaseRecord>();
const TABLE_BYTES: usize = HEADER_BYTES + MAX_KERNELS * size_of::<LeaseRecord>();

#[repr(C, align(64))]
struct Header {
    magic: AtomicU64,
    abi: AtomicU64,
    endianness: AtomicU64,
    record_bytes: AtomicU64,
    creation_id: AtomicU64,
}

/// The bytes of the table file that are locked. Locks may lie beyond the end of a file.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lock {
    /// Shared by every living kernel; exclusive only when nobody lives.
    Instance,
    /// While a name is entered.
    Table,
    /// Held by a kernel's holder. The generation rises at a forced takeover.
    Active(usize, u64),
    /// Held by a kernel's candidate. The generation rises when one that does not die loses it by force.
    Candidate(usize, u64),
    /// Held while a lease changes hands or is taken away by force.
    Takeover(usize),
    /// Held while a damaged table is put away.
    Repair,
    /// Held by the supervisor.
    Supervisor,
}

impl Lock {
    fn range(self, kind: i32) -> libc::flock {
        /// Lock generations a lease can see before the bytes repeat.
        const GENERATIONS: u64 = 1 << 20;
        let generations =
            |base: u64, index: usize, generation: u64| base + index as u64 * GENERATIONS + generation % GENERATIONS;
        let start = match self {
            Lock::Instance => 0,
            Lock::Table => 1,
            Lock::Repair => 2,
            Lock::Supervisor => 3,
            Lock::Takeover(index) => 64 + index as u64,
            Lock::Active(index, generation) => generations(1 << 32, index, generation),
            Lock::Candidate(index, generation) => generations(1 << 33, index, generation),
        };
        libc::flock { l_type: kind as i16, l_whence: libc::SEEK_SET as i16, l_start: start as i64, l_len: 1, l_pid: 0 }
    }

    pub(super) fn exclusive(self) -> libc::flock {
        self.range(libc::F_WRLCK)
    }

    pub(super) fn shared(self) -> libc::flock {
        self.range(libc::F_RDLCK)
    }

    /// Ends whatever a description has locked.
    pub(super) fn none() -> libc::flock {
        libc::flock { l_len: 0, ..Lock::Instance.range(libc::F_UNLCK) }
    }
}

/// The table, mapped. Holding one with [`LeaseTable::join`] keeps the instance's objects alive.
#[derive(Debug)]
pub struct LeaseTable {
    segment: Arc<Segment>,
    instance: String,
    /// Holds the INSTANCE byte while this table is joined.
    membership: OwnedFd,
}

/// Record `index` of a mapped table.
///
/// The pointer is within the mapping for `index < MAX_KERNELS`, which every caller has checked.
pub(super) fn record_at(segment: &Segment, index: usize) -> *const LeaseRecord {
    debug_assert!(index < MAX_KERNELS);
    segment.base().as_ptr().cast_const().wrapping_add(HEADER_BYTES + index * size_of::<LeaseRecord>()).cast()
}

impl LeaseTable {
    /// Opens the instance's table, making it if there is none, and joins: as long as the table lives, the
    /// instance's objects are in use.
    ///
    /// A table that was truncated or overwritten is put away for a new one: whoever still works under the old one
    /// ends within a second (see [`LeaseTable::is_whole`]).
    ///
    /// # Errors
    /// [`ObjectError::Name`] for a bad instance name, [`ObjectError::Mismatch`] for a table of another ABI,
    /// [`ObjectError::NoSpace`], [`ObjectError::System`].
    pub fn join(instance: &str) -> Result<Arc<LeaseTable>, ObjectError> {
        names::check_part(instance)?;
        // The table may be removed between creation and lock by somebody who found nobody alive.
        const TRIES: usize = 10;
        for _ in 0..TRIES {
            let table = match Self::map(instance, true) {
                Err(ObjectError::Damaged { .. }) => {
                    put_away(instance)?;
                    continue;
                }
                other => other?,
            };
            fcntl(&table.membership, FcntlArg::F_OFD_SETLKW(&Lock::Instance.shared())).map_err(|errno| {
                ObjectError::System { what: "fcntl(F_OFD_SETLKW)", name: instance.to_owned(), errno }
            })?;
            if table.segment.is_linked() {
                return Ok(Arc::new(table));
            }
        }
        Err(ObjectError::Busy { what: format!("The lease table of instance {instance}"), pid: 0 })
    }

    /// Opens an existing table to look at it, without joining.
    ///
    /// # Errors
    /// [`ObjectError::Missing`] when the instance has none; as [`LeaseTable::join`] otherwise.
    pub fn observe(instance: &str) -> Result<Arc<LeaseTable>, ObjectError> {
        names::check_part(instance)?;
        Self::map(instance, false).map(Arc::new)
    }

    fn map(instance: &str, create: bool) -> Result<LeaseTable, ObjectError> {
        let name = names::leases(instance);
        let segment = match Segment::open_whole(&name, TABLE_BYTES as u64, Access::Write) {
            Err(ObjectError::Missing { .. }) if create => {
                match Segment::create(&name, TABLE_BYTES as u64, |base| {
                    // SAFETY: the new object is TABLE_BYTES long, zero, and still ours alone.
                    let header = unsafe { base.cast::<Header>().as_ref() };
                    header.magic.store(MAGIC, Ordering::Relaxed);
                    header.abi.store(u64::from(ABI_MAJOR), Ordering::Relaxed);
                    header.endianness.store(ENDIANNESS, Ordering::Relaxed);
                    header.record_bytes.store(size_of::<LeaseRecord>() as u64, Ordering::Relaxed);
                    header.creation_id.store(crate::clock::realtime_ns(), Ordering::Relaxed);
                })? {
                    Some(segment) => segment,
                    None => Segment::open_whole(&name, TABLE_BYTES as u64, Access::Write)?,
                }
            }
            other => other?,
        };
        // SYNC: object-ready (acquire side): the name was found after everything was written.
        // SAFETY: at least TABLE_BYTES are mapped and the header is made of atomics.
        let header = unsafe { segment.base().cast::<Header>().as_ref() };
        let magic = header.magic.load(Ordering::Relaxed);
        if magic != MAGIC {
            return Err(ObjectError::Damaged { name, what: format!("the magic is {magic:#x}, not {MAGIC:#x}") });
        }
        let fields = [
            ("the ABI", header.abi.load(Ordering::Relaxed), u64::from(ABI_MAJOR)),
            ("the byte order", header.endianness.load(Ordering::Relaxed), ENDIANNESS),
            ("the record size", header.record_bytes.load(Ordering::Relaxed), size_of::<LeaseRecord>() as u64),
        ];
        for (field, found, expected) in fields {
            if found != expected {
                return Err(ObjectError::Mismatch {
                    name,
                    field,
                    found: format!("{found:#x}"),
                    expected: format!("{expected:#x}"),
                });
            }
        }
        let membership = reopen(&segment)?;
        Ok(LeaseTable { segment: Arc::new(segment), instance: instance.to_owned(), membership })
    }

    /// Name of the instance.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    pub(super) fn segment(&self) -> &Arc<Segment> {
        &self.segment
    }

    /// Whether the table still has its name; `false` after somebody removed it by hand.
    pub fn is_linked(&self) -> bool {
        self.segment.is_linked()
    }

    /// Whether the table still is the instance's: named, and as long as it was. `false` after somebody removed or
    /// truncated it by hand: from then on it serialises nobody, and everybody who works under it must end.
    pub fn is_whole(&self) -> bool {
        self.segment.is_linked() && self.segment.is_whole()
    }

    /// What is wrong with a table that is not whole.
    pub fn damaged(&self) -> ObjectError {
        let how = if self.segment.is_linked() { "it was truncated" } else { "it was removed" };
        ObjectError::Damaged { name: self.segment.name().to_owned(), what: how.to_owned() }
    }

    /// The right to change who holds lease `index`; ends with the descriptor.
    pub(super) fn takeover_lock(&self, index: usize) -> Result<OwnedFd, ObjectError> {
        let description = self.lock_description()?;
        let lock = Lock::Takeover(index).exclusive();
        loop {
            match fcntl(&description, FcntlArg::F_OFD_SETLKW(&lock)) {
                Ok(_) => return Ok(description),
                Err(Errno::EINTR) => {}
                Err(errno) => {
                    let name = self.name_of(index);
                    return Err(ObjectError::System { what: "fcntl(F_OFD_SETLKW)", name, errno });
                }
            }
        }
    }

    /// A new open file description of the table: locks belong to it.
    pub(super) fn lock_description(&self) -> Result<OwnedFd, ObjectError> {
        reopen(&self.segment)
    }

    pub(super) fn record(&self, index: usize) -> &LeaseRecord {
        assert!(index < MAX_KERNELS, "Lease {index} is beyond the table");
        // SAFETY: within the mapping (asserted), made of atomics, alive as long as `self`.
        unsafe { &*record_at(&self.segment, index) }
    }

    /// The kernel name of a record.
    pub fn name_of(&self, index: usize) -> String {
        let mut bytes = Vec::with_capacity(48);
        for word in &self.record(index).name {
            bytes.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
        let end = bytes.iter().position(|b| *b == 0).unwrap_or(bytes.len());
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }

    /// The record of `kernel`, if it was ever entered.
    pub fn find(&self, kernel: &str) -> Option<usize> {
        // Unused records have an empty name.
        (0..MAX_KERNELS).find(|index| !kernel.is_empty() && self.name_of(*index) == kernel)
    }

    /// The record of `kernel`; entered now if `enter`.
    ///
    /// # Errors
    /// [`ObjectError::TableFull`] beyond [`MAX_KERNELS`]; [`ObjectError::Missing`] unless `enter`.
    pub fn index_of(&self, kernel: &str, enter: bool) -> Result<usize, ObjectError> {
        /// Bytes of a name in a record, the final NUL included.
        const NAME_BYTES: usize = 48;
        if let Some(index) = self.find(kernel) {
            return Ok(index);
        }
        if !enter {
            return Err(ObjectError::Missing { name: kernel.to_owned() });
        }
        if kernel.len() >= NAME_BYTES {
            return Err(ObjectError::Name { name: kernel.to_owned() });
        }
        // The name becomes part of object names and paths.
        names::check_kernel(kernel)?;
        let description = self.lock_description()?;
        fcntl(&description, FcntlArg::F_OFD_SETLKW(&Lock::Table.exclusive())).map_err(|errno| ObjectError::System {
            what: "fcntl(F_OFD_SETLKW)",
            name: kernel.to_owned(),
            errno,
        })?;
        if let Some(index) = self.find(kernel) {
            return Ok(index);
        }
        let index = (0..MAX_KERNELS).find(|index| self.name_of(*index).is_empty()).ok_or_else(|| {
            ObjectError::TableFull { table: "The lease table", name: kernel.to_owned(), limit: MAX_KERNELS }
        })?;
        let mut bytes = [0u8; NAME_BYTES];
        bytes[..kernel.len()].copy_from_slice(kernel.as_bytes());
        crate::crash::crash_point!((), "lease: before the name");
        // The first word last: until then the entry reads as empty.
        for (at, (word, chunk)) in self.record(index).name.iter().zip(bytes.chunks_exact(8)).enumerate().rev() {
            if at == 0 {
                crate::crash::crash_point!((), "lease: within the name");
            }
            let mut value = [0u8; 8];
            value.copy_from_slice(chunk);
            word.store(u64::from_le_bytes(value), Ordering::Release);
        }
        Ok(index)
    }

    /// The right to supervise the instance; lasts as long as what is returned. `None`: another process has it, also one
    /// that keeps its files elsewhere.
    ///
    /// # Errors
    /// [`ObjectError::System`] when the lock call fails.
    pub fn supervise(&self) -> Result<Option<OwnedFd>, ObjectError> {
        super::wait::try_lock(self, Lock::Supervisor)
    }

    /// Whether a living process supervises the instance.
    pub fn is_supervised(&self) -> bool {
        self.is_locked(Lock::Supervisor)
    }

    /// Whether a living process holds lease `index` now.
    pub fn is_held(&self, index: usize) -> bool {
        let generation = self.record(index).lock_generation.load(Ordering::Acquire);
        self.is_locked(Lock::Active(index, generation))
    }

    /// Whether a living process is the candidate for lease `index`.
    pub(super) fn has_candidate(&self, index: usize) -> bool {
        self.is_locked(Lock::Candidate(index, self.candidacy(index)))
    }

    /// Generation of the lock that the candidate for lease `index` has.
    pub(super) fn candidacy(&self, index: usize) -> u64 {
        self.record(index).cand_generation.load(Ordering::Acquire)
    }

    fn is_locked(&self, lock: Lock) -> bool {
        let mut probe = lock.exclusive();
        // The membership description holds neither byte, so its own locks do not hide others'.
        match fcntl(&self.membership, FcntlArg::F_OFD_GETLK(&mut probe)) {
            Ok(_) => i32::from(probe.l_type) != libc::F_UNLCK,
            Err(_) => false,
        }
    }

    /// CLOCK_MONOTONIC of the last beat of lease `index`, nanoseconds.
    pub fn heartbeat_ns(&self, index: usize) -> u64 {
        self.record(index).heartbeat_ns.load(Ordering::Relaxed)
    }

    /// A lease record, copied out.
    pub fn info(&self, index: usize) -> LeaseInfo {
        let record = self.record(index);
        // The state first: a heartbeat read after "recovering" is at least as new as that.
        let state = KernelState::from_code(record.state.load(Ordering::Acquire));
        let epoch = record.epoch.load(Ordering::Acquire);
        LeaseInfo {
            kernel: self.name_of(index),
            epoch,
            forced: epoch != 0 && record.forced_epoch.load(Ordering::Acquire) == epoch,
            pid: record.pid.load(Ordering::Relaxed) as u32,
            start_time: record.start_time.load(Ordering::Relaxed),
            heartbeat_ns: record.heartbeat_ns.load(Ordering::Relaxed),
            state,
            held: self.is_held(index),
            candidate_ticket: record.cand_ticket.load(Ordering::Relaxed),
            // A holder that has not finished its recovery was the candidate itself a moment ago.
            candidate_ready: record.cand_state.load(Ordering::Relaxed) == CandidateState::Ready as u64
                && record.cand_pid.load(Ordering::Relaxed) != record.pid.load(Ordering::Relaxed),
            candidate_pid: record.cand_pid.load(Ordering::Relaxed) as u32,
        }
    }

    /// Every kernel that was ever entered.
    pub fn kernels(&self) -> Vec<LeaseInfo> {
        (0..MAX_KERNELS).filter(|i| !self.name_of(*i).is_empty()).map(|i| self.info(i)).collect()
    }

    /// Asks the holder of `kernel` to yield to the candidate with this ticket.
    pub fn wish(&self, kernel: &str, ticket: u64) {
        if let Some(index) = self.find(kernel) {
            let record = self.record(index);
            record.wish.store(ticket, Ordering::Release);
            record.bell.ring_unconditionally();
        }
    }

    /// Removes every object of `instance` if none of its kernels lives.
    ///
    /// # Errors
    /// [`ObjectError::System`] when the lock call fails.
    pub fn remove_if_dead(instance: &str) -> Result<Removal, ObjectError> {
        Self::remove_if_dead_but(instance, |_| false)
    }

    /// As [`LeaseTable::remove_if_dead`], without the objects that `keep` names: sessions outlive a change of the
    /// rings' layout.
    ///
    /// # Errors
    /// [`ObjectError::System`] when the lock call fails.
    pub fn remove_if_dead_but(instance: &str, keep: impl Fn(&str) -> bool) -> Result<Removal, ObjectError> {
        names::check_part(instance)?;
        let path = format!("{}/{}", names::SHM_DIR, names::leases(instance));
        // As for `join`: the table may be another one by the time its lock is ours.
        const TRIES: usize = 10;
        for _ in 0..TRIES {
            let system = |what| move |errno| ObjectError::System { what, name: instance.to_owned(), errno };
            // The file and its first byte are enough: a table of another ABI, whose content says nothing
            // to us, is in use all the same while somebody holds the byte.
            let table = match open(path.as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty()) {
                Ok(table) => Some(table),
                Err(Errno::ENOENT) => None,
                Err(errno) => return Err(system("open")(errno)),
            };
            if let Some(table) = &table {
                // As who puts a damaged table away: of both, one looks at a time whether it is named.
                fcntl(table, FcntlArg::F_OFD_SETLKW(&Lock::Repair.exclusive()))
                    .map_err(system("fcntl(F_OFD_SETLKW)"))?;
                match fcntl(table, FcntlArg::F_OFD_SETLK(&Lock::Instance.exclusive())) {
                    Ok(_) => {}
                    Err(Errno::EAGAIN | Errno::EACCES) => return Ok(Removal::StillAlive),
                    Err(errno) => return Err(system("fcntl(F_OFD_SETLK)")(errno)),
                }
                if nix::sys::stat::fstat(table).map_err(system("fstat"))?.st_nlink == 0 {
                    continue;
                }
            }
            let mut objects = names::existing(instance);
            objects.retain(|name| !keep(name));
            let leases = names::leases(instance);
            if table.is_none() && objects.contains(&leases) {
                continue;
            }
            // The table goes last: whoever joins meanwhile waits for its lock and then finds it unlinked.
            objects.sort_by_key(|name| *name == leases);
            for name in &objects {
                names::unlink(name);
            }
            return Ok(Removal::Removed(objects.len()));
        }
        Ok(Removal::StillAlive)
    }
}

/// What became of a dead instance's objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// A kernel of the instance lives; nothing was touched.
    StillAlive,
    /// So many objects were removed.
    Removed(usize),
}

/// Takes the name away from a damaged table. Of several who find it damaged one does so, and none takes the name
/// of its successor: under the lock, a table that is named is the damaged one itself.
fn put_away(instance: &str) -> Result<(), ObjectError> {
    let name = names::leases(instance);
    let path = format!("{}/{name}", names::SHM_DIR);
    let system = |what| move |errno| ObjectError::System { what, name: names::leases(instance), errno };
    let table = match open(path.as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty()) {
        Ok(table) => table,
        Err(Errno::ENOENT) => return Ok(()),
        Err(errno) => return Err(system("open")(errno)),
    };
    fcntl(&table, FcntlArg::F_OFD_SETLKW(&Lock::Repair.exclusive())).map_err(system("fcntl(F_OFD_SETLKW)"))?;
    let stat = nix::sys::stat::fstat(&table).map_err(system("fstat"))?;
    if stat.st_nlink == 0 {
        return Ok(());
    }
    // Whole by now: it was another one's when it was found damaged.
    let mut magic = [0u8; 8];
    let read = nix::sys::uio::pread(&table, &mut magic, 0).map_err(system("pread"))?;
    if stat.st_size as usize >= TABLE_BYTES && read == magic.len() && u64::from_le_bytes(magic) == MAGIC {
        return Ok(());
    }
    names::unlink(&name);
    Ok(())
}

/// A second open file description of a mapped object.
fn reopen(segment: &Segment) -> Result<OwnedFd, ObjectError> {
    let path = format!("/proc/self/fd/{}", segment.fd().as_raw_fd());
    open(path.as_str(), OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty()).map_err(|errno| ObjectError::System {
        what: "open",
        name: segment.name().to_owned(),
        errno,
    })
}
