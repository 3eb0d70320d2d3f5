//! A process named for ever: its number together with its start time, in one word of shared memory.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::Timespec;
use std::time::Duration;

/// Start time of a process in clock ticks since boot: with the pid it names a process for ever.
pub fn start_time(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command may contain anything but is enclosed in the last parenthesis; field 22 follows.
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(19)?.parse().ok()
}

/// A process that may be gone: pid (22 bits are the most Linux gives) and start time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ProcessTag(pub(crate) u64);

/// Bits of the start time: 2^42 ticks of 10 ms are 1,393 years.
const START_BITS: u32 = 42;

impl ProcessTag {
    /// The process `pid` that began `start_time` clock ticks after boot.
    pub(crate) fn new(pid: u32, start_time: u64) -> ProcessTag {
        ProcessTag(u64::from(pid) << START_BITS | start_time & ((1 << START_BITS) - 1))
    }

    fn pid(self) -> u32 {
        (self.0 >> START_BITS) as u32
    }

    fn lives(self) -> bool {
        start_time(self.pid()).is_some_and(|started| ProcessTag::new(self.pid(), started) == self)
    }

    /// Whether it has ended, or does so within `patience` (less than one second is waited exactly).
    pub(crate) fn is_gone(self, patience: Duration) -> bool {
        if !self.lives() {
            return true;
        }
        let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) else { return true };
        let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
        // The number may have become another process's between the look and the open.
        if !self.lives() {
            return true;
        }
        let mut waits = [PollFd::new(&pidfd, PollFlags::IN)];
        let timeout = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: i64::from(patience.subsec_nanos()) };
        // A zombie is readable too: it has let go of everything.
        !matches!(poll(&mut waits, Some(&timeout)), Ok(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_number_and_start_together() {
        let (pid, started) = (std::process::id(), start_time(std::process::id()).unwrap());
        assert!(!ProcessTag::new(pid, started).is_gone(Duration::ZERO));
        assert!(ProcessTag::new(pid, started + 1).is_gone(Duration::ZERO), "another process of that number");
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let gone = ProcessTag::new(child.id(), start_time(child.id()).unwrap_or(1));
        child.wait().unwrap();
        assert!(gone.is_gone(Duration::ZERO));
        assert!(ProcessTag(u64::MAX).is_gone(Duration::ZERO), "garbage names nobody");
    }
}
