//! Processes that are stopped, killed, or kept from dying.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use crate::tools::within;
use nix::errno::Errno;
use nix::sys::ptrace;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// How long the system may take to stop or end a process.
const SOON: Duration = Duration::from_secs(5);

/// Sends a signal; a process that is gone is none of the test's business.
pub fn send(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid as i32), signal);
}

/// The state letter of a process (proc(5)); `None`: there is none.
pub fn state(pid: u32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// Whether a process is gone, or only its parent has not looked yet.
pub fn is_gone(pid: u32) -> bool {
    matches!(state(pid), None | Some('Z' | 'X'))
}

/// Whether every thread of a process is stopped.
pub fn is_stopped(pid: u32) -> bool {
    let Ok(threads) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let stopped =
        |stat: String| stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with(['T', 't']));
    threads.flatten().all(|thread| std::fs::read_to_string(thread.path().join("stat")).is_ok_and(stopped))
}

/// SIGSTOP, and waits until every thread stands.
pub fn stop(pid: u32) {
    send(pid, Signal::SIGSTOP);
    assert!(within(SOON, || is_stopped(pid)), "{pid} does not stop: {:?}", state(pid));
}

/// Whether a stopped process was asleep of its own accord: between two operations, and not in the middle of one.
pub fn was_asleep(pid: u32) -> bool {
    use nix::libc::{
        FUTEX_WAIT, FUTEX_WAIT_BITSET, SYS_clock_nanosleep, SYS_futex, SYS_futex_waitv, SYS_poll, SYS_ppoll,
    };
    const PRIVATE_AND_CLOCK: i64 = 128 | 256;
    let line = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let mut words = line.split_ascii_whitespace();
    let Some(call) = words.next().and_then(|word| word.parse::<i64>().ok()) else { return false };
    let argument = |index: usize| {
        let word = line.split_ascii_whitespace().nth(1 + index).and_then(|word| word.strip_prefix("0x"));
        word.and_then(|hex| i64::from_str_radix(hex, 16).ok()).unwrap_or(-1)
    };
    if call == SYS_futex {
        return [i64::from(FUTEX_WAIT), i64::from(FUTEX_WAIT_BITSET)].contains(&(argument(1) & !PRIVATE_AND_CLOCK));
    }
    [SYS_futex_waitv, SYS_clock_nanosleep, SYS_poll, SYS_ppoll].contains(&call)
}

/// SIGCONT.
pub fn go_on(pid: u32) {
    send(pid, Signal::SIGCONT);
}

/// Makes the first thread of a process go round in one instruction for ever, while its other threads go on: a loop that
/// hangs without standing still. False: it was not to be had at a place that can be written.
#[cfg(target_arch = "x86_64")]
pub fn spin(pid: u32) -> bool {
    use std::os::unix::fs::FileExt as _;
    /// `jmp` to itself.
    const FOR_EVER: [u8; 2] = [0xEB, 0xFE];
    stop(pid);
    // The last word is where it stands, in a system call (behind it) or not.
    let line = std::fs::read_to_string(format!("/proc/{pid}/syscall")).unwrap_or_default();
    let at = line.split_ascii_whitespace().last().and_then(|word| word.strip_prefix("0x"));
    let at = at.and_then(|hex| u64::from_str_radix(hex, 16).ok());
    let memory = std::fs::OpenOptions::new().write(true).open(format!("/proc/{pid}/mem"));
    let spins = at.zip(memory.ok()).is_some_and(|(at, memory)| memory.write_all_at(&FOR_EVER, at).is_ok());
    go_on(pid);
    spins
}

/// What keeps a process from dying.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Grip {
    /// A tracer that stops it on its way out, before its files, locks and mappings go (PTRACE_EVENT_EXIT).
    Tracer,
    /// A frozen control group of version 1: SIGKILL stays pending until it is thawed.
    Freezer,
}

/// A process that SIGKILL does not end: it runs no instruction of its own any more, but keeps its locks, ports and
/// mappings, as one does that a driver holds. Dropping this lets it go.
#[derive(Debug)]
pub struct Undead {
    pid: u32,
    held: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
    tracer: Option<JoinHandle<()>>,
    group: Option<PathBuf>,
}

impl Undead {
    /// Takes hold of a living process: once killed, it will not die. `Err`: why this machine does not let us.
    pub fn seize(pid: u32, grip: Grip) -> Result<Undead, String> {
        let (held, over) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
        match grip {
            Grip::Tracer => {
                let tracer = trace(pid, &held, &over)?;
                Ok(Undead { pid, held, over, tracer: Some(tracer), group: None })
            }
            Grip::Freezer => {
                let group = freeze(pid)?;
                held.store(true, Ordering::Relaxed);
                Ok(Undead { pid, held, over, tracer: None, group: Some(group) })
            }
        }
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Whether it is killed and stands on its way out (or is frozen).
    pub fn is_held(&self) -> bool {
        let pending = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap_or_default();
        let killed = pending
            .lines()
            .filter_map(|line| line.strip_prefix("SigPnd:").or_else(|| line.strip_prefix("ShdPnd:")))
            .any(|mask| {
                u64::from_str_radix(mask.trim(), 16).is_ok_and(|mask| mask >> (Signal::SIGKILL as u64 - 1) & 1 == 1)
            });
        self.held.load(Ordering::Relaxed) && !is_gone(self.pid) && (killed || self.tracer.is_some())
    }

    /// Lets it die.
    pub fn release(self) {}
}

impl Drop for Undead {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(tracer) = self.tracer.take() {
            let _ = tracer.join();
        }
        if let Some(group) = &self.group {
            let _ = std::fs::write(group.join("freezer.state"), "THAWED");
            let parent = group.parent().map(|parent| parent.join("cgroup.procs"));
            // What was not killed goes back to where it came from.
            let _ = parent.map(|parent| std::fs::write(parent, self.pid.to_string()));
            within(SOON, || std::fs::remove_dir(group).is_ok());
        }
    }
}

/// Seizes the first thread of `pid`; the others may die, its files and memory stay as long as one thread is there.
/// Requests must come from the thread that attached.
fn trace(pid: u32, held: &Arc<AtomicBool>, over: &Arc<AtomicBool>) -> Result<JoinHandle<()>, String> {
    let (tell, told) = std::sync::mpsc::channel();
    let (held, over) = (Arc::clone(held), Arc::clone(over));
    let tracer = std::thread::spawn(move || {
        let pid = Pid::from_raw(pid as i32);
        let seized = ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACEEXIT);
        let ok = seized.is_ok();
        let _ = tell.send(seized);
        while ok && !over.load(Ordering::Relaxed) {
            match waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::PtraceEvent(_, _, event)) if event == ptrace::Event::PTRACE_EVENT_EXIT as i32 => {
                    held.store(true, Ordering::Relaxed);
                }
                // Stopped as a whole (job control): it stays so. Any other signal is handed on.
                Ok(WaitStatus::PtraceEvent(..) | WaitStatus::StillAlive) => {}
                Ok(WaitStatus::Stopped(_, signal)) => drop(ptrace::cont(pid, signal)),
                Err(Errno::EINTR) => {}
                Ok(_) | Err(_) => return,
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        let _ = ptrace::detach(pid, None);
    });
    match told.recv() {
        Ok(Ok(())) => Ok(tracer),
        Ok(Err(errno)) => Err(format!("Cannot trace {pid}: {errno}")),
        Err(_) => Err(format!("The tracer of {pid} ended")),
    }
}

/// Puts `pid` into a frozen group of its own.
fn freeze(pid: u32) -> Result<PathBuf, String> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let mounts = std::fs::read_to_string("/proc/mounts").unwrap_or_default();
    let freezer = mounts.lines().find_map(|line| {
        let mut words = line.split(' ').skip(1);
        let (at, kind, options) = (words.next()?, words.next()?, words.next()?);
        (kind == "cgroup" && options.split(',').any(|option| option == "freezer")).then(|| Path::new(at).to_owned())
    });
    let root = freezer.ok_or("No freezer of control groups version 1 is mounted")?;
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let group = root.join(format!("quad-systest-{}-{number}", std::process::id()));
    let failed = |what: &'static str| move |error: std::io::Error| format!("{what}: {error}");
    std::fs::create_dir(&group).map_err(failed("No freezer group can be made"))?;
    let frozen = std::fs::write(group.join("cgroup.procs"), pid.to_string())
        .and_then(|()| std::fs::write(group.join("freezer.state"), "FROZEN"))
        .map_err(failed("The freezer takes no process"));
    let state = || std::fs::read_to_string(group.join("freezer.state")).unwrap_or_default();
    if frozen.is_ok() && within(SOON, || state().trim() == "FROZEN") {
        return Ok(group);
    }
    let _ = std::fs::write(group.join("freezer.state"), "THAWED");
    let _ = std::fs::write(root.join("cgroup.procs"), pid.to_string());
    let _ = std::fs::remove_dir(&group);
    Err(frozen.err().unwrap_or_else(|| "The freezer does not freeze".to_owned()))
}
