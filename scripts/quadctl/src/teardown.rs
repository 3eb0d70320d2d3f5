//! Ends an instance whole: every process, then every object, socket and file. Works with and without a supervisor.

use std::time::Duration;

use kernel_host::exit::{Exit, Failure};
use kernel_host::name::{KernelName, Kind};
use kernel_host::runtime::RuntimeDir;
use shm_protocol::error::ObjectError;
use shm_protocol::lease::{LeaseTable, Removal};

use crate::process::{Process, end_all, holder, read_pid_file};

/// How long a kernel may take to end in order before it is killed: the encoder's flush and the last packets fit.
pub const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// The pid file of a kernel's standby.
pub fn standby_pid_file(runtime: &RuntimeDir, kernel: &KernelName) -> std::path::PathBuf {
    runtime.path().join(format!("{kernel}.standby.pid"))
}

/// Living processes of an instance.
#[derive(Debug, Default)]
struct Survivors {
    /// Those that would take over when a holder ends: they go first.
    waiting: Vec<Process>,
    holders: Vec<(Kind, Process)>,
}

/// Everything that lives, by lease records and by pid files: a process may not have come to its lease yet.
fn survivors(instance: &str, runtime: &RuntimeDir) -> Survivors {
    let mut found = Survivors::default();
    let known = |found: &Survivors, pid: u32| {
        found.waiting.iter().any(|p| p.pid == pid) || found.holders.iter().any(|(_, p)| p.pid == pid)
    };
    if let Ok(table) = LeaseTable::observe(instance) {
        for info in table.kernels() {
            let Ok(kernel) = info.kernel.parse::<KernelName>() else { continue };
            found.holders.extend(holder(&table, &info.kernel).map(|process| (kernel.kind, process)));
        }
        for info in table.kernels() {
            let Ok(kernel) = info.kernel.parse::<KernelName>() else { continue };
            if let Some(process) = Process::open(info.candidate_pid)
                && !known(&found, process.pid)
                && runs(process.pid, kernel.kind)
            {
                found.waiting.push(process);
            }
        }
    }
    for entry in std::fs::read_dir(runtime.path()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(kernel) = name.strip_suffix(".pid") else { continue };
        let (kernel, standby) = kernel.strip_suffix(".standby").map_or((kernel, false), |kernel| (kernel, true));
        let Ok(kernel) = kernel.parse::<KernelName>() else { continue };
        if let Some(process) = read_pid_file(&entry.path())
            && !known(&found, process.pid)
            && !process.ended()
        {
            if standby { found.waiting.push(process) } else { found.holders.push((kernel.kind, process)) }
        }
    }
    found
}

/// Whether a process runs the binary of a kind: a candidate's record keeps its number after it is gone.
fn runs(pid: u32, kind: Kind) -> bool {
    let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let program = line.split(|byte| *byte == 0).next().unwrap_or_default();
    program.rsplit(|byte| *byte == b'/').next() == Some(kind.binary().as_bytes())
}

/// Ends every process of an instance: standbys first, then A, B, C and D, each with a chance to end in order.
///
/// # Errors
/// [`Exit::Temporary`] when one does not even die.
pub fn stop_kernels(instance: &str, runtime: &RuntimeDir) -> Result<(), Failure> {
    /// A process that was being started while the first round looked shows in the second.
    const ROUNDS: usize = 3;
    for _ in 0..ROUNDS {
        let found = survivors(instance, runtime);
        if found.waiting.is_empty() && found.holders.is_empty() {
            return Ok(());
        }
        end_all(&found.waiting.iter().collect::<Vec<_>>(), STOP_PATIENCE);
        for kind in Kind::ALL {
            let of_kind: Vec<&Process> = found.holders.iter().filter(|(k, _)| *k == kind).map(|(_, p)| p).collect();
            end_all(&of_kind, STOP_PATIENCE);
        }
    }
    let left = survivors(instance, runtime);
    let pids: Vec<String> =
        left.waiting.iter().chain(left.holders.iter().map(|(_, p)| p)).map(|p| p.pid.to_string()).collect();
    if pids.is_empty() {
        return Ok(());
    }
    let text = format!("Processes {} were killed and do not end; a driver holds them, try again", pids.join(", "));
    Err(Failure::new(Exit::Temporary, text))
}

/// Removes every shared-memory object of a dead instance and its runtime directory.
///
/// # Errors
/// [`Exit::Temporary`] while a process of it lives.
pub fn remove_everything(instance: &str, runtime: &RuntimeDir) -> Result<(), Failure> {
    remove_objects(instance)?;
    runtime.remove()?;
    Ok(())
}

/// Whether an object is a sender's session: versioned by itself, it outlives a change of the rings' layout. (What the
/// sender keeps beside it about packets just being sent does not: a kernel that ended in order has none.)
pub fn is_session(name: &str) -> bool {
    name.ends_with(".session")
}

/// Ends every kernel and removes every object but the senders' sessions: what comes next may have another layout and
/// goes on with the same RTP streams.
///
/// # Errors
/// [`Exit::Temporary`] while a process lives.
pub fn clear_for_other_layout(instance: &str, runtime: &RuntimeDir) -> Result<(), Failure> {
    stop_kernels(instance, runtime)?;
    removed(instance, LeaseTable::remove_if_dead_but(instance, is_session))
}

/// Removes every shared-memory object of a dead instance.
///
/// # Errors
/// [`Exit::Temporary`] while a process of it lives.
pub fn remove_objects(instance: &str) -> Result<(), Failure> {
    removed(instance, LeaseTable::remove_if_dead(instance))
}

fn removed(instance: &str, removal: Result<Removal, ObjectError>) -> Result<(), Failure> {
    match removal {
        Ok(Removal::Removed(_)) => Ok(()),
        Ok(Removal::StillAlive) => {
            let text = format!("A process of instance {instance} still lives and uses its shared memory");
            Err(Failure::new(Exit::Temporary, text))
        }
        Err(error) => Err(Failure::recover(error.recovery(), error)),
    }
}
