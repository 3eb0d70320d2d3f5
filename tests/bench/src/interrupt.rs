//! Ctrl-C: what a benchmark has under way ends, and nothing of it stays.
//!
//! A thread of its own waits for the signal, because a benchmark may be anywhere, and does what the benchmark's own values
//! would do at their end.

use crate::ring;
use crate::scratch::{self, Scratch};
use crate::stand::binary;
use anyhow::Result;
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether the signal has come: nothing new is begun.
pub fn has_come() -> bool {
    INTERRUPTED.load(Ordering::SeqCst)
}

/// Once the signal has come, waits for the end: what was being measured has failed for no other reason.
pub fn await_end() {
    while has_come() {
        std::thread::park();
    }
}

/// Begins to watch. Called before any other thread starts, so that none of them gets the signals; programs that are
/// started do, for the standard library gives them an empty mask.
///
/// # Errors
/// When no thread can be started.
pub fn watch() -> Result<()> {
    let mut signals = SigSet::empty();
    [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP].into_iter().for_each(|signal| signals.add(signal));
    signals.thread_block()?;
    std::thread::Builder::new().name("interrupt".to_owned()).spawn(move || {
        let Ok(signal) = signals.wait() else { return };
        INTERRUPTED.store(true, Ordering::SeqCst);
        eprintln!("Interrupted: ending what runs and removing what it made");
        clean_up();
        // As shells say it.
        std::process::exit(128 + signal as i32)
    })?;
    Ok(())
}

fn clean_up() {
    end_children();
    for instance in scratch::living() {
        // Supervisors are no children of ours, nor are their kernels.
        if let Ok(quadctl) = binary("quadctl") {
            let mut down = Command::new(quadctl);
            down.args(["down", "--instance", &instance]).env("XDG_RUNTIME_DIR", scratch::dir_of(&instance));
            let _ = down.stdin(Stdio::null()).stdout(Stdio::null()).status();
        }
        ring::iceoryx_leftovers(&instance);
        Scratch::remove(&instance);
    }
}

/// Asks every child to end, then sees to it. Who started them reaps them, or nobody: this process is about to end.
fn end_children() {
    /// Kernels end within milliseconds; what does not is stuck.
    const PATIENCE: Duration = Duration::from_secs(3);
    let until = Instant::now() + PATIENCE;
    let signal_all = |signal| children().into_iter().filter(|pid| kill(*pid, signal).is_ok()).count();
    signal_all(Signal::SIGTERM);
    while Instant::now() < until && !children().is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
    signal_all(Signal::SIGKILL);
    while !children().is_empty() {
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Children of all threads that have not ended.
fn children() -> Vec<Pid> {
    let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists = tasks.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids: Vec<i32> =
        lists.flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>()).collect();
    // The state follows the name in brackets: proc_pid_stat(5).
    let has_ended = |pid: &i32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_none_or(|(_, rest)| rest.starts_with(['Z', 'X']))
    };
    pids.into_iter().filter(|pid| !has_ended(pid)).map(Pid::from_raw).collect()
}
