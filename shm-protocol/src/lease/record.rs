//! One kernel's lease record: four cache lines of words.

use crate::layout::Bell;
use crate::sync::AtomicU64;

/// What the holder of a lease does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum KernelState {
    /// Never started.
    Absent = 0,
    /// Holds the lease and repairs what its predecessor left.
    Recovering = 1,
    /// At work.
    Running = 2,
    /// Ended on request.
    Stopped = 3,
}

impl KernelState {
    pub(crate) fn from_code(code: u64) -> KernelState {
        match code {
            1 => KernelState::Recovering,
            2 => KernelState::Running,
            3 => KernelState::Stopped,
            _ => KernelState::Absent,
        }
    }
}

/// What a candidate does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum CandidateState {
    /// There is none.
    None = 0,
    /// Mapping, opening, warming up.
    Preparing = 1,
    /// Waits only for the lease.
    Ready = 2,
}

/// The record in shared memory.
#[repr(C, align(64))]
#[derive(Debug)]
pub(crate) struct LeaseRecord {
    /// Read by every guarded operation, written once a takeover: its own line.
    pub(crate) epoch: AtomicU64,
    pub(crate) lock_generation: AtomicU64,
    pub(crate) name: [AtomicU64; 6],
    /// Written once a loop turn: another line.
    pub(crate) heartbeat_ns: AtomicU64,
    pub(crate) pid: AtomicU64,
    pub(crate) start_time: AtomicU64,
    pub(crate) state: AtomicU64,
    /// The epoch that was forced out last: its successor need not wait for that process to end.
    pub(crate) forced_epoch: AtomicU64,
    pub(crate) reserved: [AtomicU64; 3],
    pub(crate) cand_ticket: AtomicU64,
    pub(crate) cand_state: AtomicU64,
    pub(crate) cand_pid: AtomicU64,
    pub(crate) wish: AtomicU64,
    /// Generation of the candidacy's lock; rises when it is taken away by force.
    pub(crate) cand_generation: AtomicU64,
    pub(crate) reserved_cand: [AtomicU64; 3],
    pub(crate) bell: Bell,
}

/// A lease record, copied out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Kernel instance, as "encode.main".
    pub kernel: String,
    /// Epoch of the present or last holder; 0: never held.
    pub epoch: u64,
    /// Its process.
    pub pid: u32,
    /// Its start time, clock ticks since boot.
    pub start_time: u64,
    /// CLOCK_MONOTONIC of its last beat, nanoseconds.
    pub heartbeat_ns: u64,
    /// What it said of itself last.
    pub state: KernelState,
    /// Whether a process holds the lease now.
    pub held: bool,
    /// Whether the lease was taken from this epoch by force: it holds nothing any more, and its successor has yet to
    /// come.
    pub forced: bool,
    /// Ticket of the present candidate.
    pub candidate_ticket: u64,
    /// What the candidate does.
    pub candidate_ready: bool,
    /// The candidate's process.
    pub candidate_pid: u32,
}
