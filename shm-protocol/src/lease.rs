//! Leases: who may write what. One per kernel instance, held as an OFD file lock, so that the operating
//! system serialises successors and no lease outlives its holder (PROTOCOL, leases).
#![expect(unsafe_code, reason = "a reference to atomics in shared memory")]

pub(crate) mod process;
mod record;
mod table;
#[cfg(test)]
mod tests;
mod wait;

pub use process::start_time;
pub use record::{CandidateState, KernelState, LeaseInfo};
pub use table::{LeaseTable, MAX_KERNELS, Removal};

use crate::clock::monotonic_ns;
use crate::crash::crash_point;
use crate::error::ObjectError;
use crate::ring::{EpochMemory, Guard};
use crate::segment::Segment;
use crate::sync::{AtomicU64, Ordering};
use nix::fcntl::{FcntlArg, fcntl};
use process::ProcessTag;
use record::LeaseRecord;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use table::Lock;

/// Shows a sign of life in the name of a lease from another thread than its loop's.
#[derive(Clone)]
pub struct Pulse {
    table: Arc<LeaseTable>,
    index: usize,
    epoch: u64,
}

impl Pulse {
    /// One beat. `false`: the lease is another's, whose heart this one must not stand in for.
    pub fn beat(&self) -> bool {
        let record = self.table.record(self.index);
        let current = record.epoch.load(Ordering::Acquire) == self.epoch;
        if current {
            record.heartbeat_ns.store(monotonic_ns(), Ordering::Relaxed);
        }
        current
    }

    /// As [`Lease::wanted_successor`].
    pub fn wanted_successor(&self) -> Option<u64> {
        self.table.wanted_successor(self.index)
    }
}

impl LeaseTable {
    fn wanted_successor(&self, index: usize) -> Option<u64> {
        let record = self.record(index);
        let wish = record.wish.load(Ordering::Acquire);
        let ready = record.cand_state.load(Ordering::Acquire) == CandidateState::Ready as u64;
        // A candidate that died leaves READY behind, but no lock: nobody would take over then.
        (wish != 0 && ready && wish == record.cand_ticket.load(Ordering::Acquire))
            .then_some(wish)
            .filter(|_| self.has_candidate(index))
    }
}

/// A kernel instance that has begun to start: it may prepare, but not write.
pub struct Candidate {
    table: Arc<LeaseTable>,
    index: usize,
    /// Locks belong to an open file description; this one is the candidate's own.
    /// `None` once the lease has it.
    locks: Option<OwnedFd>,
    /// Of the candidacy's lock: another once a process that does not die lost it by force.
    candidacy: u64,
    /// Whether [`Candidate::ready`] was said.
    ready: std::cell::Cell<bool>,
}

/// The only right to write this kernel's ring, session and role bits. Ends with the process or a yield.
pub struct Lease {
    table: Arc<LeaseTable>,
    index: usize,
    epoch: u64,
    /// Has the candidacy, of this generation, until this holder runs.
    candidacy: Option<(OwnedFd, u64)>,
    /// Has the lease itself.
    #[expect(dead_code, reason = "the lock lasts as long as its open file description")]
    active: OwnedFd,
    bridged_death: bool,
    /// The predecessor, where it was killed and a driver keeps it from ending.
    lingering: Option<ProcessTag>,
}

/// The lease record of one kernel, as an epoch to compare with.
struct EpochInSegment {
    segment: Arc<Segment>,
    index: usize,
}

impl EpochMemory for EpochInSegment {
    fn epoch(&self) -> &AtomicU64 {
        // SAFETY: the table checked that `index` is within the segment, which this struct keeps mapped;
        // the record is made of atomics.
        unsafe { &(*table::record_at(&self.segment, self.index)).epoch }
    }
}

impl Candidate {
    /// L1: becomes the candidate for `kernel` (as "encode.main"). `wait`: queue behind another candidate;
    /// otherwise it is an error (a swap is already running).
    ///
    /// # Errors
    /// [`ObjectError::Busy`] when another candidate prepares and `wait` is false.
    pub fn enter(table: &Arc<LeaseTable>, kernel: &str, wait: bool) -> Result<Candidate, ObjectError> {
        let index = table.index_of(kernel, true)?;
        crash_point!((), "lease: before the candidacy");
        let (locks, candidacy) = loop {
            let candidacy = table.candidacy(index);
            let lock = Lock::Candidate(index, candidacy);
            let wanted = || table.candidacy(index) == candidacy;
            let granted = if wait { wait::wait_for(table, lock, wanted)? } else { wait::try_lock(table, lock)? };
            match granted {
                // Forced out between the look and the lock, its last holder left a lock that is worth nothing.
                Some(locks) if wanted() => break (locks, candidacy),
                None if !wait => return Err(ObjectError::Busy { what: format!("The candidacy for {kernel}"), pid: 0 }),
                _ => {}
            }
        };
        crash_point!((), "lease: a candidate without a ticket");
        let record = table.record(index);
        record.cand_pid.store(u64::from(std::process::id()), Ordering::Relaxed);
        // A dead candidate may have left READY; its ticket must not look ready under the new number.
        record.cand_state.store(CandidateState::Preparing as u64, Ordering::Release);
        crash_point!((), "lease: before the ticket");
        record.cand_ticket.fetch_add(1, Ordering::AcqRel);
        crash_point!((), "lease: a candidate");
        let (table, ready) = (Arc::clone(table), false.into());
        Ok(Candidate { table, index, locks: Some(locks), candidacy, ready })
    }

    /// L2 is done: this candidate could take over at once. Returns its ticket.
    pub fn ready(&self) -> u64 {
        self.ready.set(true);
        let record = self.table.record(self.index);
        record.cand_state.store(CandidateState::Ready as u64, Ordering::Release);
        crash_point!((), "lease: ready");
        record.bell.ring();
        record.cand_ticket.load(Ordering::Acquire)
    }

    /// L3–L5 without waiting: `Ok(Err(self))` while another process holds the lease.
    ///
    /// # Errors
    /// [`ObjectError::System`] when the lock call itself fails.
    pub fn try_activate(self) -> Result<Result<Lease, Candidate>, ObjectError> {
        let mut candidate = self;
        loop {
            let generation = candidate.generation();
            let Some(active) = wait::try_lock(&candidate.table, Lock::Active(candidate.index, generation))? else {
                return Ok(Err(candidate));
            };
            match candidate.into_lease(active, generation)? {
                Ok(lease) => return Ok(Ok(lease)),
                Err(again) => candidate = again,
            }
        }
    }

    /// L3–L5: waits until the holder died, yielded or was forced out, then holds the lease.
    ///
    /// # Errors
    /// [`ObjectError::System`] when the lock call fails or no thread can be had.
    pub fn activate(self) -> Result<Lease, ObjectError> {
        let mut candidate = self;
        loop {
            if !candidate.is_candidate() {
                candidate = candidate.again()?;
            }
            let generation = candidate.generation();
            let lock = Lock::Active(candidate.index, generation);
            let wanted = || candidate.generation() == generation && candidate.is_candidate();
            if let Some(active) = wait::wait_for(&candidate.table, lock, wanted)? {
                match candidate.into_lease(active, generation)? {
                    Ok(lease) => return Ok(lease),
                    Err(again) => candidate = again,
                }
            }
        }
    }

    fn generation(&self) -> u64 {
        self.table.record(self.index).lock_generation.load(Ordering::Acquire)
    }

    /// Whether the lock that this process has still is the candidacy's.
    fn is_candidate(&self) -> bool {
        self.table.candidacy(self.index) == self.candidacy
    }

    /// L1 once more, for one that is prepared as it was.
    fn again(mut self) -> Result<Candidate, ObjectError> {
        // What stands in the record is another candidate's by now.
        self.locks = None;
        let again = Candidate::enter(&self.table, &self.table.name_of(self.index), true)?;
        if self.ready.get() {
            again.ready();
        }
        Ok(again)
    }

    /// L4, L5: the old epoch is over in every respect, and this process is the new one. `Ok(Err(self))`: a forced
    /// takeover moved the lease to its next lock generation meanwhile, and the lock that was had is worth nothing.
    fn into_lease(mut self, active: OwnedFd, generation: u64) -> Result<Result<Lease, Candidate>, ObjectError> {
        crash_point!((), "lease: taken, nothing written");
        let record = self.table.record(self.index);
        let before = record.state.load(Ordering::Acquire);
        // A holder that ended in order says so; any other end is a death whose frames are to be bridged.
        let bridged_death = before != KernelState::Absent as u64 && before != KernelState::Stopped as u64;
        let lingering = if bridged_death { wait_for_exit(record) } else { None };
        // From the look at the generation to the new epoch nobody may force this lease out.
        let entering = self.table.takeover_lock(self.index)?;
        if self.generation() != generation {
            return Ok(Err(self));
        }
        // A table that somebody removed or truncated serialises nobody: others meet in its successor.
        if !self.table.is_whole() {
            return Err(self.table.damaged());
        }
        let epoch = record.epoch.load(Ordering::Acquire).wrapping_add(1);
        crash_point!((), "lease: before the heartbeat");
        // Before the state: whoever sees a holder at work sees a heart that beat just now, and not the silence
        // since its predecessor's last.
        record.heartbeat_ns.store(monotonic_ns(), Ordering::Relaxed);
        crash_point!((), "lease: before the state");
        // Before the pid: dead from here on, this process has died at work and its successor bridges.
        record.state.store(KernelState::Recovering as u64, Ordering::Release);
        crash_point!((), "lease: before the pid");
        record.pid.store(u64::from(std::process::id()), Ordering::Relaxed);
        crash_point!((), "lease: before the start time");
        record.start_time.store(start_time(std::process::id()).unwrap_or(0), Ordering::Relaxed);
        crash_point!((), "lease: before the epoch");
        // SYNC: lease-epoch (release side): from here on every handle of an older epoch is fenced.
        record.epoch.store(epoch, Ordering::Release);
        crash_point!((), "lease: active");
        drop(entering);
        let (table, candidacy) = (Arc::clone(&self.table), self.locks.take().map(|locks| (locks, self.candidacy)));
        Ok(Ok(Lease { table, index: self.index, epoch, candidacy, active, bridged_death, lingering }))
    }
}

/// The lock of a dying process goes before its devices and ports do: wait for the whole of it, at most 1 s
/// (a driver may hold it for ever; with SIGKILL pending it runs no further instruction). For one that was forced
/// out somebody has waited already. Returns the process if it is still there.
fn wait_for_exit(record: &LeaseRecord) -> Option<ProcessTag> {
    const PATIENCE: Duration = Duration::from_secs(1);
    let pid = record.pid.load(Ordering::Relaxed) as u32;
    if pid == std::process::id() {
        return None;
    }
    let process = ProcessTag::new(pid, record.start_time.load(Ordering::Relaxed));
    let forced = record.forced_epoch.load(Ordering::Acquire) == record.epoch.load(Ordering::Acquire);
    (!process.is_gone(if forced { Duration::ZERO } else { PATIENCE })).then_some(process)
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if self.locks.is_some() && self.is_candidate() {
            self.table.record(self.index).cand_state.store(CandidateState::None as u64, Ordering::Release);
        }
    }
}

impl Lease {
    /// Epoch of this holder: one more than any before.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Index of this kernel in the lease table.
    pub fn index(&self) -> usize {
        self.index
    }

    /// The table.
    pub fn table(&self) -> &Arc<LeaseTable> {
        &self.table
    }

    /// Whether the predecessor died, rather than ended in order or never was.
    pub fn bridged_death(&self) -> bool {
        self.bridged_death
    }

    /// Recovery is over: the next candidate may come, and everybody may know that this kernel runs.
    pub fn running(&self) {
        let record = self.table.record(self.index);
        crash_point!((), "lease: before the candidacy ends");
        let own = self.candidacy.as_ref().filter(|(_, candidacy)| *candidacy == self.table.candidacy(self.index));
        if own.is_some() {
            record.cand_state.store(CandidateState::None as u64, Ordering::Release);
        }
        record.state.store(KernelState::Running as u64, Ordering::Release);
        crash_point!((), "lease: before the candidacy is free");
        if let Some((candidacy, _)) = own {
            let _ = fcntl(candidacy, FcntlArg::F_OFD_SETLK(&Lock::none()));
        }
        crash_point!((), "lease: before the bell");
        record.bell.ring_unconditionally();
        crash_point!((), "lease: running");
    }

    /// Shows that this kernel's loop turns: one store.
    pub fn beat(&self) {
        self.table.record(self.index).heartbeat_ns.store(monotonic_ns(), Ordering::Relaxed);
    }

    /// A handle that beats for a loop which waits for something outside (a writer on a pipe).
    pub fn pulse(&self) -> Pulse {
        Pulse { table: Arc::clone(&self.table), index: self.index, epoch: self.epoch }
    }

    /// Ticket of a candidate that a swap asks this holder to yield to, if it is ready.
    pub fn wanted_successor(&self) -> Option<u64> {
        self.table.wanted_successor(self.index)
    }

    /// Ends in order: nothing of this epoch will be written any more. (The lock goes with the drop.) Of a lease that
    /// was taken away nothing is said: the record is its successor's.
    pub fn stop(self) {
        crash_point!((), "lease: before the stop");
        if self.is_current() {
            self.table.record(self.index).state.store(KernelState::Stopped as u64, Ordering::Release);
        }
    }

    /// S3: gives the lease to the candidate that asked for it. Everything this epoch published stands; what it
    /// had taken and not finished is still owed, and the successor does it. Returns how to watch over that.
    pub fn yield_to_candidate(self) -> Yielded {
        let record = self.table.record(self.index);
        // Opened before the lock goes, while the candidate is certainly the one that holds CAND.
        let successor = Pid::from_raw(record.cand_pid.load(Ordering::Acquire) as i32)
            .and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        record.wish.store(0, Ordering::Release);
        record.state.store(KernelState::Stopped as u64, Ordering::Release);
        crash_point!((), "lease: before it is yielded");
        // The lock goes with `self`, whose descriptor is the only one that holds it.
        Yielded { table: Arc::clone(&self.table), index: self.index, epoch: self.epoch, successor }
    }

    /// Whether the predecessor was killed, lost the lease to [`LeaseTable::force_takeover`] and still is
    /// there: a driver of its may write the buffers it had claimed, so they are put in quarantine.
    pub fn predecessor_lingers(&self) -> bool {
        self.lingering.is_some()
    }

    /// That predecessor, for the slots that rest for its sake.
    pub(crate) fn lingering(&self) -> Option<ProcessTag> {
        self.lingering
    }

    pub(crate) fn guard(&self) -> Guard {
        let record = EpochInSegment { segment: Arc::clone(self.table.segment()), index: self.index };
        Guard::new(self.epoch, Arc::new(record))
    }

    /// Whether this epoch still is the current one.
    pub fn is_current(&self) -> bool {
        self.table.record(self.index).epoch.load(Ordering::Acquire) == self.epoch
    }
}

/// A lease that was given to a candidate.
pub struct Yielded {
    table: Arc<LeaseTable>,
    index: usize,
    epoch: u64,
    successor: Option<OwnedFd>,
}

impl Yielded {
    /// Epoch of the process that took over; `None` while nobody has.
    pub fn successor_epoch(&self) -> Option<u64> {
        let epoch = self.table.record(self.index).epoch.load(Ordering::Acquire);
        (epoch > self.epoch).then_some(epoch)
    }

    /// Ends a candidate that does not take what it was given (S5): the one who yielded takes it back.
    pub fn kill_successor(&self) {
        if let Some(pidfd) = &self.successor {
            let _ = pidfd_send_signal(pidfd, Signal::KILL);
        }
    }
}

impl LeaseTable {
    /// A pidfd of the process that holds `kernel`'s lease now: opened, then checked again, so that a pid
    /// that was reused is never signalled.
    pub fn verified_pidfd(&self, kernel: &str) -> Option<(OwnedFd, LeaseInfo)> {
        let index = self.find(kernel)?;
        let info = self.info(index);
        let pid = Pid::from_raw(info.pid as i32)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let again = self.info(index);
        let same = again.epoch == info.epoch && start_time(info.pid) == Some(info.start_time);
        (same && self.is_held(index)).then_some((pidfd, info))
    }

    /// Kills the holder of `kernel`'s lease (a hung or stopped one too), if it still is the one of `epoch`, which
    /// the caller has judged. `false`: it is not, and nobody was signalled.
    pub fn kill_holder(&self, kernel: &str, epoch: u64) -> bool {
        self.verified_pidfd(kernel)
            .filter(|(_, info)| info.epoch == epoch && !info.forced)
            .is_some_and(|(pidfd, _)| pidfd_send_signal(&pidfd, Signal::KILL).is_ok())
    }

    /// Takes the lease away from the holder of `epoch`, which was killed 1 s ago and still does not die. Its
    /// successor locks the next generation of the lock; what it was writing must be quarantined. `false`: the lease
    /// is another's by now, or nobody's, and nothing was done.
    ///
    /// # Errors
    /// [`ObjectError::Busy`] while somebody else takes this lease or judges its holder: to be looked at again;
    /// [`ObjectError::System`] when the locks fail.
    pub fn force_takeover(&self, kernel: &str, epoch: u64) -> Result<bool, ObjectError> {
        let Some(index) = self.find(kernel) else { return Ok(false) };
        let record = self.record(index);
        // Neither a new epoch nor another judge between the look and the step.
        let _takeover = self.judge(index)?;
        let forced = record.forced_epoch.load(Ordering::Acquire) == epoch;
        if record.epoch.load(Ordering::Acquire) != epoch || forced || !self.is_held(index) {
            return Ok(false);
        }
        // A holder that never came to run has its candidacy still.
        if record.cand_pid.load(Ordering::Acquire) == record.pid.load(Ordering::Acquire) {
            record.cand_generation.fetch_add(1, Ordering::AcqRel);
        }
        crash_point!((), "force: before the next generation");
        record.lock_generation.fetch_add(1, Ordering::AcqRel);
        // A judge that dies here has freed the lease: its successor waits for the old process for longer than it must.
        crash_point!((), "force: before the forced epoch");
        record.forced_epoch.store(epoch, Ordering::Release);
        crash_point!((), "force: done");
        Ok(true)
    }

    /// Takes the candidacy away from process `pid`, which was killed 1 s ago and still does not die: somebody else can
    /// prepare. `false`: it is not the candidate, and nothing was done.
    ///
    /// # Errors
    /// As [`LeaseTable::force_takeover`].
    pub fn force_candidacy(&self, kernel: &str, pid: u32) -> Result<bool, ObjectError> {
        let Some(index) = self.find(kernel) else { return Ok(false) };
        let record = self.record(index);
        let _takeover = self.judge(index)?;
        if record.cand_pid.load(Ordering::Acquire) != u64::from(pid) || !self.has_candidate(index) {
            return Ok(false);
        }
        // It must not look like one to yield to.
        record.cand_state.store(CandidateState::None as u64, Ordering::Release);
        crash_point!((), "force: before the next candidacy");
        record.cand_generation.fetch_add(1, Ordering::AcqRel);
        crash_point!((), "force: another may be the candidate");
        Ok(true)
    }

    /// The right to judge who holds lease `index`, without a wait: a supervisor must not stand still for anybody.
    fn judge(&self, index: usize) -> Result<OwnedFd, ObjectError> {
        let busy = || ObjectError::Busy { what: format!("The takeover of {}", self.name_of(index)), pid: 0 };
        wait::try_lock(self, Lock::Takeover(index))?.ok_or_else(busy)
    }
}
