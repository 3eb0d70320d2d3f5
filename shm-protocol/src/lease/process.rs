//! A process named for ever: its number together with its start time, in one word of shared memory.

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::time::Timespec;
use std::time::{Duration, Instant};

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

    /// Whether it has ended, or does so within `patience`. In doubt it lives: what waits for its end then waits longer.
    pub(crate) fn is_gone(self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        if !self.lives() {
            return true;
        }
        let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) else { return true };
        let pidfd = match pidfd_open(pid, PidfdFlags::empty()) {
            Ok(pidfd) => pidfd,
            Err(error) => return error == Errno::SRCH,
        };
        // The number may have become another process's between the look and the open.
        if !self.lives() {
            return true;
        }
        let mut waits = [PollFd::new(&pidfd, PollFlags::IN)];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
            match poll(&mut waits, Some(&timeout)) {
                // A zombie is readable too: it has let go of everything.
                Ok(ready) => return ready > 0,
                // A signal for this process says nothing of the other.
                Err(Errno::INTR) => {}
                Err(_) => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_while_it_is_waited_for_does_not_end_a_process() {
        let handled = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGUSR1, std::sync::Arc::clone(&handled)).unwrap();
        let waiting = nix::sys::pthread::pthread_self();
        let signaller = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(20));
            nix::sys::pthread::pthread_kill(waiting, nix::sys::signal::Signal::SIGUSR1).unwrap();
        });
        let (pid, started) = (std::process::id(), start_time(std::process::id()).unwrap());
        assert!(!ProcessTag::new(pid, started).is_gone(Duration::from_millis(100)));
        signaller.join().unwrap();
        assert!(handled.load(std::sync::atomic::Ordering::SeqCst));
    }

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
