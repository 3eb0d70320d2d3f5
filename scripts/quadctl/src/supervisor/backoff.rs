//! When a kernel that died is started again, and whether at all.

use std::time::Duration;

use kernel_host::exit::Exit;

/// Deaths without progress in a row after which restarts are spaced out: one may be chance, two may be a peer's
/// restart, three are a fault that the next start will meet too.
pub const BARREN_DEATHS: u32 = 3;
const FIRST_DELAY: Duration = Duration::from_millis(100);
/// An operator who mended the cause does not want to wait for longer.
const LONGEST_DELAY: Duration = Duration::from_secs(5);

/// The memory of one kernel's deaths.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backoff {
    barren: u32,
}

impl Backoff {
    /// One more death; `progress`: it had made at least one frame. Returns how long to wait.
    pub fn death(&mut self, progress: bool) -> Duration {
        if progress {
            self.barren = 0;
            return Duration::ZERO;
        }
        self.barren = self.barren.saturating_add(1);
        match self.barren.checked_sub(BARREN_DEATHS) {
            None => Duration::ZERO,
            Some(more) => (FIRST_DELAY * 2u32.saturating_pow(more.min(16))).min(LONGEST_DELAY),
        }
    }

    /// Deaths without progress in a row.
    pub fn barren(&self) -> u32 {
        self.barren
    }
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It exited with a code.
    Code(i32),
    /// A signal ended it.
    Signal(i32),
    /// It was not our child, so nobody tells; `in_order`: its lease record says that it stopped on request.
    Unknown {
        /// Whether it said goodbye.
        in_order: bool,
    },
}

impl Ending {
    /// Whether the kernel is started again, when nobody asked for its end.
    pub fn restarts(self) -> bool {
        match self {
            // An unknown code (101 of a panic) is a death like any other.
            Ending::Code(code) => Exit::from_code(code).is_none_or(Exit::restarts),
            Ending::Signal(_) => true,
            Ending::Unknown { in_order } => !in_order,
        }
    }

    /// The code that `up` ends with when this ended the start.
    pub fn exit(self) -> Exit {
        match self {
            Ending::Code(code) => match Exit::from_code(code) {
                Some(exit @ (Exit::Unavailable | Exit::Temporary | Exit::Config)) => exit,
                _ => Exit::Internal,
            },
            _ => Exit::Internal,
        }
    }
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Ending::Code(code) => match Exit::from_code(*code) {
                Some(exit) => write!(f, "exit {code}, {}", exit.meaning()),
                None => write!(f, "exit {code}"),
            },
            Ending::Signal(number) => match nix::sys::signal::Signal::try_from(*number) {
                Ok(signal) => write!(f, "{signal}"),
                Err(_) => write!(f, "signal {number}"),
            },
            Ending::Unknown { in_order: true } => write!(f, "stopped on request"),
            Ending::Unknown { in_order: false } => write!(f, "gone"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_restarts_are_at_once_and_backoff_doubles_from_the_third() {
        let mut backoff = Backoff::default();
        let delays: Vec<u128> = (0..10).map(|_| backoff.death(false).as_millis()).collect();
        assert_eq!(delays, [0, 0, 100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        assert_eq!(backoff.death(true), Duration::ZERO);
        assert_eq!(backoff.death(false), Duration::ZERO, "progress begins a new row");
        assert_eq!(backoff.barren(), 1);
    }

    #[test]
    fn endings_that_a_restart_cannot_mend_are_left() {
        for code in [0, 3, 64, 78] {
            assert!(!Ending::Code(code).restarts(), "{code}");
        }
        for code in [1, 69, 70, 75, 101] {
            assert!(Ending::Code(code).restarts(), "{code}");
        }
        assert!(Ending::Signal(9).restarts() && Ending::Signal(15).restarts());
        assert!(Ending::Unknown { in_order: false }.restarts() && !Ending::Unknown { in_order: true }.restarts());
    }

    #[test]
    fn endings_are_told_in_words_and_with_a_code_of_the_interface() {
        assert_eq!(Ending::Code(78).to_string(), "exit 78, configuration error");
        assert_eq!(Ending::Code(101).to_string(), "exit 101");
        assert_eq!(Ending::Signal(11).to_string(), "SIGSEGV");
        assert_eq!((Ending::Code(78).exit(), Ending::Code(69).exit()), (Exit::Config, Exit::Unavailable));
        assert_eq!((Ending::Signal(9).exit(), Ending::Code(1).exit()), (Exit::Internal, Exit::Internal));
    }
}
