//! Which cpus a kernel runs on.

#![expect(unsafe_code, reason = "sched_setscheduler has no safe wrapper in nix or rustix")]

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use nix::errno::Errno;
use nix::unistd::Pid;
use thiserror::Error;

/// Largest cpu number, exclusive: what Linux can be built for on x86-64 (CONFIG_NR_CPUS, MAXSMP).
pub const MAX_CPUS: usize = 8192;

/// A set of cpu numbers, shown as the kernel does: `0-3,6`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CpuSet(BTreeSet<usize>);

impl CpuSet {
    /// Its cpus, rising.
    pub fn iter(&self) -> impl Iterator<Item = usize> {
        self.0.iter().copied()
    }

    /// Whether a cpu is in it.
    pub fn contains(&self, cpu: usize) -> bool {
        self.0.contains(&cpu)
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }
}

impl FromIterator<usize> for CpuSet {
    fn from_iter<I: IntoIterator<Item = usize>>(cpus: I) -> CpuSet {
        CpuSet(cpus.into_iter().collect())
    }
}

impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cpus = self.iter().peekable();
        let mut separator = "";
        while let Some(first) = cpus.next() {
            let mut last = first;
            while let Some(next) = cpus.next_if_eq(&(last + 1)) {
                last = next;
            }
            match last - first {
                0 => write!(f, "{separator}{first}")?,
                _ => write!(f, "{separator}{first}-{last}")?,
            }
            separator = ",";
        }
        Ok(())
    }
}

impl FromStr for CpuSet {
    type Err = ();

    /// Reads the kernel's list format (`0-3,6`); empty text is the empty set.
    fn from_str(text: &str) -> Result<CpuSet, ()> {
        let number = |t: &str| t.trim().parse::<usize>().ok().filter(|n| *n < MAX_CPUS).ok_or(());
        let mut cpus = BTreeSet::new();
        for part in text.trim().split(',').filter(|_| !text.trim().is_empty()) {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last) = (number(first)?, number(last)?);
            if first > last {
                return Err(());
            }
            cpus.extend(first..=last);
        }
        Ok(CpuSet(cpus))
    }
}

/// A process that could not be put on its cpus.
#[derive(Debug, Error)]
pub enum PinError {
    /// The list of online cpus cannot be read or understood.
    #[error("Cannot read the online cpus from {ONLINE}: {given:?}")]
    Online {
        /// What stood there.
        given: String,
    },
    /// The operating system refused.
    #[error("Cannot run on cpus {cpus}; this process may use {allowed}")]
    Refused {
        /// The cpus asked for.
        cpus: CpuSet,
        /// The cpus it may use.
        allowed: CpuSet,
        /// What the operating system says.
        source: Errno,
    },
}

/// Where Linux lists the online cpus.
const ONLINE: &str = "/sys/devices/system/cpu/online";

/// The cpus that are online on this machine, also those that this process may not use.
///
/// # Errors
/// [`PinError::Online`] when sysfs does not say.
pub fn online_cpus() -> Result<CpuSet, PinError> {
    let text = std::fs::read_to_string(ONLINE).map_err(|error| PinError::Online { given: error.to_string() })?;
    text.parse().ok().filter(|set: &CpuSet| !set.is_empty()).ok_or(PinError::Online { given: text })
}

/// The cpus the calling thread may run on now (container and affinity limits applied).
pub fn allowed_cpus() -> CpuSet {
    match nix::sched::sched_getaffinity(Pid::from_raw(0)) {
        Ok(set) => (0..nix::sched::CpuSet::count()).filter(|cpu| set.is_set(*cpu).unwrap_or(false)).collect(),
        // More cpus than the set of the C library has room for: all that are online.
        Err(_) => online_cpus().unwrap_or_default(),
    }
}

/// Puts the calling thread, and the threads and processes it starts later, on cpus. Called before any thread starts,
/// it pins the process.
///
/// # Errors
/// [`PinError::Refused`] when a cpu does not exist or a container forbids it.
pub fn pin(cpus: &CpuSet) -> Result<(), PinError> {
    let refused = |source| PinError::Refused { cpus: cpus.clone(), allowed: allowed_cpus(), source };
    let mut set = nix::sched::CpuSet::new();
    for cpu in cpus.iter() {
        set.set(cpu).map_err(refused)?;
    }
    nix::sched::sched_setaffinity(Pid::from_raw(0), &set).map_err(refused)
}

/// Puts the process on the cpus placement chose, or leaves it where it is and says so: a chosen place is a wish, one
/// that the configuration names is an order (use [`pin`] for that).
pub fn pin_if_possible(cpus: &CpuSet) {
    match pin(cpus) {
        Ok(()) => tracing::debug!(%cpus, "Pinned"),
        Err(error) => tracing::warn!(error = %crate::exit::chain(&error), "Not pinned; latency may vary more"),
    }
}

/// Asks for real-time scheduling (SCHED_FIFO, priority 1 to 99) of the calling thread; what it starts later does not
/// inherit it. Says whether it was granted; a refusal is logged with what would grant it.
///
/// Only for threads that block: a spinning one starves whatever shares its cpu.
pub fn request_fifo(priority: u8) -> bool {
    let parameters = libc::sched_param { sched_priority: i32::from(priority.clamp(1, 99)) };
    // SAFETY: the call reads one sched_param that lives on this stack frame; pid 0 is the calling thread.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, &parameters) };
    if result == 0 {
        tracing::debug!(priority, "Real-time scheduling granted");
        return true;
    }
    let error = Errno::last();
    tracing::info!(%error, "No real-time scheduling, going on without; CAP_SYS_NICE or `ulimit -r 99` would grant it");
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_lists_read_and_write_as_the_kernel_does() {
        for text in ["", "0", "0-3", "0-1,3", "0,2,4-7"] {
            assert_eq!(text.parse::<CpuSet>().unwrap().to_string(), text);
        }
        assert_eq!("3,1, 2\n".parse::<CpuSet>().unwrap().to_string(), "1-3");
        for bad in ["a", "1-", "-1", "2-1", "1,,2", "8192", "0-99999999999"] {
            assert!(bad.parse::<CpuSet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn pinning_moves_this_thread_and_what_it_starts() {
        // In a thread of its own: affinity belongs to threads, and other tests run beside this one.
        std::thread::spawn(|| {
            let one = allowed_cpus().iter().take(1).collect::<CpuSet>();
            assert_eq!(one.len(), 1);
            pin(&one).unwrap();
            assert_eq!(allowed_cpus(), one);
            assert_eq!(std::thread::spawn(allowed_cpus).join().unwrap(), one);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_cpu_that_is_not_there_is_refused_by_name() {
        let online = online_cpus().unwrap();
        let missing = (0..MAX_CPUS).find(|cpu| !online.contains(*cpu)).unwrap();
        std::thread::spawn(move || {
            let before = allowed_cpus();
            let message = pin(&CpuSet::from_iter([missing])).unwrap_err().to_string();
            assert!(message.starts_with(&format!("Cannot run on cpus {missing}")), "{message}");
            assert_eq!(allowed_cpus(), before);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn real_time_scheduling_is_asked_for_without_failing() {
        std::thread::spawn(|| {
            let granted = request_fifo(1);
            // SAFETY: sched_getscheduler takes no pointer; 0 is the calling thread.
            let policy = unsafe { libc::sched_getscheduler(0) };
            assert_eq!(granted, policy & !libc::SCHED_RESET_ON_FORK == libc::SCHED_FIFO);
        })
        .join()
        .unwrap();
    }
}
