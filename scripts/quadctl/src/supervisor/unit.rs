//! One kernel instance under supervision: its process, its standby, and what becomes of them.

use std::fs::File;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kernel_host::exit::Exit;
use kernel_host::name::KernelName;
use kernel_host::runtime::RuntimeDir;
use kernel_host::swaps::Swaps;
use shm_protocol::lease::{KernelState, LeaseInfo, LeaseTable};
use shm_protocol::telemetry::TelemetryReader;

use super::aftermath::Aftermath;
use super::backoff::{Backoff, Ending};
use super::doomed::{Doomed, Killed};
use super::probation::Probation;
use super::rotate::open_log;
use super::swap::Wanted;
use super::watchdog::Unnamed;
use crate::launch::Launch;
use crate::process::{Process, Signal, last_line, write_pid_file};
use crate::teardown::standby_pid_file;

/// How long after a takeover the next standby starts. Its start and warm-up take a processor's whole time for some
/// tenths of a second, just when the one that took over works off what has waited.
pub(super) const STANDBY_AFTER: Duration = Duration::from_millis(500);
/// What belongs to the service manager of the supervisor, not to kernels.
const MANAGER_VARIABLES: [&str; 4] = ["NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "QUAD_READY_FD"];

/// A process of a kernel, ours or adopted.
#[derive(Debug)]
pub struct Running {
    /// The process.
    pub process: Process,
    child: Option<Child>,
}

impl Running {
    /// One that an earlier supervisor started.
    pub fn adopted(process: Process) -> Running {
        Running { process, child: None }
    }

    /// How it ended; called once it has. `info` is its kernel's lease record now.
    fn ending(&mut self, info: Option<&LeaseInfo>) -> Ending {
        let status = match &mut self.child {
            Some(child) => child.wait().ok().map(|status| (status.code(), status.signal())),
            // A child of this very process all the same where an upgrade has replaced its program.
            None => self.process.reap().map(|status| (status.exit_status(), status.terminating_signal())),
        };
        match status {
            Some((Some(code), _)) => Ending::Code(code),
            Some((None, Some(signal))) => Ending::Signal(signal),
            _ => {
                let own = info.filter(|info| info.pid == self.process.pid);
                Ending::Unknown { in_order: own.is_some_and(|info| info.state == KernelState::Stopped) }
            }
        }
    }
}

/// What every start needs.
#[derive(Debug)]
pub struct Context<'a> {
    /// The instance.
    pub instance: &'a str,
    /// Its runtime directory.
    pub runtime: &'a RuntimeDir,
    /// What it was started with.
    pub launch: &'a Launch,
    /// Its leases.
    pub table: &'a LeaseTable,
}

impl Context<'_> {
    /// The lease record of a kernel.
    pub fn info(&self, lease: &str) -> Option<LeaseInfo> {
        self.table.find(lease).map(|index| self.table.info(index))
    }
}

/// A kernel instance.
#[derive(Debug)]
pub struct Unit {
    /// Which.
    pub kernel: KernelName,
    /// Its name in the lease table.
    pub lease: String,
    /// The process at work, or on its way there.
    pub main: Option<Running>,
    /// The process that waits.
    pub standby: Option<Running>,
    /// Killed processes that are waited for no more.
    pub doomed: Vec<Doomed>,
    /// When to start the next; `None` when one runs or none is wanted.
    pub start_at: Option<Instant>,
    /// The next ending was asked for and is followed by a start.
    pub restarting: bool,
    /// How the last process ended that is not followed by another.
    pub left: Option<Ending>,
    /// How the last process ended.
    pub last_ending: Option<Ending>,
    /// The process that was killed by the watchdog and may still be there.
    pub killed: Option<Killed>,
    /// Since when nobody has held the lease although this process is there to take it.
    pub unheld_since: Option<(Instant, u32)>,
    /// The lease is held while its record names nobody who could hold it.
    pub unnamed: Option<Unnamed>,
    /// A swap's successor has yet to prove itself.
    pub probation: Option<Probation>,
    /// A swap that failed, until its epochs are counted.
    pub aftermath: Option<Aftermath>,
    /// How the last process ended that was to take over in a swap or stood by.
    pub standby_ending: Option<(u32, Ending)>,
    cpus: Option<String>,
    binary: Option<PathBuf>,
    wants_standby: bool,
    standby_at: Option<Instant>,
    inherits_stdin: bool,
    backoff: Backoff,
    standby_backoff: Backoff,
    log: PathBuf,
    log_offset: u64,
    start_error: Option<String>,
}

impl Unit {
    /// A kernel that has no process yet and is to get one at once.
    pub fn new(kernel: KernelName, cpus: Option<String>, standby: bool, stdin: bool, runtime: &RuntimeDir) -> Unit {
        let (lease, log) = (kernel.to_string(), runtime.log(&kernel));
        let kernel_name = kernel.clone();
        Unit {
            kernel,
            lease,
            main: None,
            standby: None,
            doomed: Vec::new(),
            start_at: Some(Instant::now()),
            restarting: false,
            left: None,
            last_ending: None,
            killed: None,
            unheld_since: None,
            unnamed: None,
            probation: None,
            aftermath: None,
            standby_ending: None,
            cpus,
            binary: Swaps::load(&runtime.swaps()).of(&kernel_name).binary,
            wants_standby: standby,
            standby_at: standby.then(Instant::now),
            inherits_stdin: stdin,
            backoff: Backoff::default(),
            standby_backoff: Backoff::default(),
            log,
            log_offset: 0,
            start_error: None,
        }
    }

    /// Takes over a living process.
    pub fn adopt(&mut self, process: Process, runtime: &RuntimeDir) {
        tracing::info!(kernel = %self.kernel, pid = process.pid, "Adopted");
        // A former standby took over while nobody watched: the file still names its predecessor.
        write_pid_file(&runtime.pid(&self.kernel), &process);
        self.main = Some(Running::adopted(process));
        self.start_at = None;
    }

    /// Takes over a waiting process; the one that took the lease meanwhile is no standby any more.
    pub fn adopt_standby(&mut self, process: Process, runtime: &RuntimeDir) {
        if self.main.as_ref().is_none_or(|main| main.process.pid != process.pid) {
            self.standby = Some(Running::adopted(process));
            self.standby_at = None;
        } else {
            let _ = std::fs::remove_file(standby_pid_file(runtime, &self.kernel));
        }
    }

    /// Every living process.
    pub fn processes(&self) -> impl Iterator<Item = &Process> {
        let doomed = self.doomed.iter().map(|doomed| &doomed.running);
        self.main.iter().chain(&self.standby).chain(doomed).map(|running| &running.process)
    }

    /// One more death without progress: how long to wait before the next start.
    pub fn death_without_progress(&mut self) -> Duration {
        self.backoff.death(false)
    }

    /// Deaths without progress in a row.
    pub fn barren(&self) -> u32 {
        self.backoff.barren()
    }

    /// What the last process said last, or why it could not be started.
    pub fn last_words(&self) -> String {
        self.start_error
            .clone()
            .or_else(|| last_line(&self.log, self.log_offset))
            .unwrap_or_else(|| format!("It said nothing; its log is {}", self.log.display()))
    }

    /// Starts what is due.
    pub fn start_due(&mut self, context: &Context<'_>, now: Instant) {
        if self.main.is_none() && self.start_at.is_some_and(|at| at <= now) {
            self.start_at = None;
            self.leave_missing_binary(context);
            self.log_offset = std::fs::metadata(&self.log).map_or(0, |found| found.len());
            match self.spawn(context, false, None) {
                Ok(running) => {
                    self.start_error = None;
                    write_pid_file(&context.runtime.pid(&self.kernel), &running.process);
                    self.main = Some(running);
                }
                Err(error) => {
                    tracing::error!(kernel = %self.kernel, "{error}");
                    self.start_error = Some(error);
                    self.start_at = Some(now + self.backoff.death(false));
                }
            }
        }
        // A standby of what does not run yet would be the first itself, and with a swap's successor on probation nobody
        // knows yet what it is to be.
        let settled =
            self.main.is_some() && self.probation.is_none() && context.info(&self.lease).is_some_and(|info| info.held);
        if self.standby.is_none() && settled && self.standby_at.is_some_and(|at| at <= now) {
            self.standby_at = None;
            self.leave_missing_binary(context);
            match self.spawn(context, true, None) {
                Ok(running) => {
                    write_pid_file(&standby_pid_file(context.runtime, &self.kernel), &running.process);
                    self.standby = Some(running);
                }
                Err(error) => {
                    tracing::error!(kernel = %self.kernel, standby = true, "{error}");
                    self.standby_at = Some(now + self.standby_backoff.death(false));
                }
            }
        }
    }

    /// Ends a standby, so that a successor can be the candidate.
    pub fn dismiss_standby(&mut self) {
        self.standby_at = None;
        if let Some(standby) = self.standby.take() {
            // It holds nothing, and one that stands still would not hear anything milder.
            standby.process.signal(Signal::KILL);
            self.doom(standby, Instant::now());
        }
    }

    /// Starts a process that is to take over from the one at work; its number.
    pub fn start_successor(&mut self, context: &Context<'_>, wanted: &Wanted) -> Result<u32, String> {
        self.log_offset = std::fs::metadata(&self.log).map_or(0, |found| found.len());
        let running = self.spawn(context, true, Some(wanted))?;
        let pid = running.process.pid;
        write_pid_file(&standby_pid_file(context.runtime, &self.kernel), &running.process);
        self.standby = Some(running);
        Ok(pid)
    }

    /// Ends a successor that did not take over.
    pub fn end_successor(&mut self, pid: u32, signal: Signal) {
        if let Some(standby) = self.standby.as_ref().filter(|standby| standby.process.pid == pid) {
            standby.process.signal(signal);
        }
    }

    /// A swap is over: the standby that the configuration wants may come again, once the successor is at work.
    pub fn wants_its_standby(&mut self, now: Instant) {
        self.standby_at = self.wants_standby.then_some(now);
    }

    /// The binary that later starts use; `None`: that of the build.
    pub fn set_binary(&mut self, binary: Option<PathBuf>) {
        self.binary = binary;
    }

    /// Goes back to the build's own binary when the one of a swap is gone: a stream with it is better than none.
    fn leave_missing_binary(&mut self, context: &Context<'_>) {
        if let Some(gone) = self.binary.take_if(|binary| !binary.is_file()) {
            let binary = gone.display();
            tracing::warn!(kernel = %self.kernel, %binary, "The binary it was swapped to is gone; the build's own is started");
            let path = context.runtime.swaps();
            let mut swaps = Swaps::load(&path);
            swaps.set_binary(&self.kernel, None);
            if let Err(error) = swaps.save(&path) {
                tracing::warn!(%error, path = %path.display(), "Cannot write");
            }
        }
    }

    /// Kills every process of it.
    pub fn kill(&self) {
        self.processes().for_each(|process| process.signal(Signal::KILL));
    }

    /// Asks every process to end.
    pub fn ask_to_end(&self) {
        self.processes().for_each(|process| process.signal(Signal::TERM));
    }

    /// Begins anew after [`Unit::kill`], with a process that starts now. A kernel that had ended for good stays ended.
    pub fn begin_anew(&mut self, now: Instant) {
        self.collect();
        for running in self.main.take().into_iter().chain(self.standby.take()) {
            self.doom(running, now);
        }
        self.doomed.retain(|doomed| !doomed.running.process.ended());
        (self.killed, self.restarting) = (None, false);
        if self.left.is_none() {
            self.start_at = Some(now);
            self.standby_at = self.wants_standby.then_some(now);
        }
    }

    fn spawn(&self, context: &Context<'_>, standby: bool, wanted: Option<&Wanted>) -> Result<Running, String> {
        let other = wanted.map_or(&self.binary, |wanted| &wanted.binary);
        let binary = other.clone().unwrap_or_else(|| context.launch.binary(self.kernel.kind));
        let failed = |error: std::io::Error| {
            format!("Cannot start {}: {error}; build it with `cargo build --release`", binary.display())
        };
        let log: File = open_log(&self.log).map_err(|error| format!("Cannot write {}: {error}", self.log.display()))?;
        let mut command = Command::new(&binary);
        let sets = wanted.iter().flat_map(|wanted| &wanted.sets).flat_map(|set| ["--set", set]);
        command
            .args(context.launch.arguments(context.instance, &self.kernel, self.cpus.as_deref(), standby))
            .args(sets)
            .stdin(if self.inherits_stdin { Stdio::inherit() } else { Stdio::null() })
            .stdout(log.try_clone().map_err(failed)?)
            .stderr(log)
            // Ctrl-C at the terminal goes to the supervisor alone, which ends the kernels in their order.
            .process_group(0);
        MANAGER_VARIABLES.iter().for_each(|name| {
            command.env_remove(name);
        });
        let mut child = command.spawn().map_err(failed)?;
        // It cannot be reaped by anybody else, so its number is its own until we have waited for it.
        match Process::open(child.id()) {
            Some(process) => Ok(Running { process, child: Some(child) }),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                Err(format!("Cannot watch process {}; is pidfd_open forbidden here?", child.id()))
            }
        }
    }

    /// Takes leave of the processes that ended, without starting others.
    pub fn collect(&mut self) {
        let doomed = self.doomed.iter_mut().map(|doomed| &mut doomed.running);
        for running in self.main.iter_mut().chain(&mut self.standby).chain(doomed) {
            if running.process.ended() {
                running.ending(None);
            }
        }
    }

    /// Sees to the processes that ended.
    pub fn reap(&mut self, context: &Context<'_>, now: Instant) {
        self.doomed.retain_mut(|doomed| {
            let ended = doomed.running.process.ended();
            if ended {
                doomed.running.ending(None);
            }
            !ended
        });
        if let Some(mut standby) = self.standby.take_if(|running| running.process.ended()) {
            let ending = standby.ending(context.info(&self.lease).as_ref());
            self.standby_ending = Some((standby.process.pid, ending));
            // Its file names a process that is gone; an absent file is as good.
            let _ = std::fs::remove_file(standby_pid_file(context.runtime, &self.kernel));
            tracing::warn!(kernel = %self.kernel, %ending, "The standby ended");
            self.standby_at =
                (self.wants_standby && ending.restarts()).then(|| now + self.standby_backoff.death(false));
        }
        if let Some(mut main) = self.main.take_if(|running| running.process.ended()) {
            let info = context.info(&self.lease);
            let ending = main.ending(info.as_ref());
            self.ended(context, main.process.pid, ending, info.as_ref(), now);
        }
    }

    /// The process at work is gone: its standby is at work now, or another is started, or none.
    fn ended(&mut self, context: &Context<'_>, pid: u32, ending: Ending, info: Option<&LeaseInfo>, now: Instant) {
        self.last_ending = Some(ending);
        self.killed = None;
        let asked_for = std::mem::take(&mut self.restarting);
        if let Some(successor) = self.promote_standby(context, now) {
            if ending == Ending::Code(0) {
                tracing::info!(kernel = %self.kernel, pid, successor, "The predecessor has ended");
            } else {
                tracing::warn!(kernel = %self.kernel, pid, %ending, successor, "The standby takes over");
            }
            return;
        }
        // Fenced means that a successor is at work. Where nobody is, because that one died too, the stream waits for us.
        let fenced_for_nobody =
            ending == Ending::Code(i32::from(Exit::Fenced.code())) && !info.is_some_and(|info| info.held);
        // So does one that handed over and has left, where its successor died in that very moment.
        let left_for_nobody = ending == Ending::Code(0) && info.is_some_and(|info| !info.held && info.pid != pid);
        if !asked_for && !fenced_for_nobody && !left_for_nobody && !ending.restarts() {
            match ending {
                Ending::Code(0) => tracing::info!(kernel = %self.kernel, pid, %ending, "Ended and is not restarted"),
                _ => {
                    tracing::error!(kernel = %self.kernel, pid, %ending, "Ended and is not restarted: `quad restart` when it is mended")
                }
            }
            let _ = std::fs::remove_file(context.runtime.pid(&self.kernel));
            self.left = Some(ending);
            return;
        }
        // Whether this process ever held the lease, and made a frame then.
        let progress = info.filter(|info| info.pid == pid).is_some_and(|info| {
            TelemetryReader::open(context.instance, &self.lease, info.epoch)
                .is_some_and(|page| page.snapshot().frames > 0)
        });
        let delay = if asked_for { Duration::ZERO } else { self.backoff.death(progress) };
        if asked_for {
            tracing::info!(kernel = %self.kernel, pid, %ending, "Restarting on request");
        } else {
            let delay_ms = delay.as_millis() as u64;
            tracing::warn!(kernel = %self.kernel, pid, %ending, progress, delay_ms, "Died, restarting");
        }
        self.start_at = Some(now + delay);
    }

    /// When something of it is due next.
    pub fn next_due(&self) -> Option<Instant> {
        let start = self.start_at.filter(|_| self.main.is_none());
        start.into_iter().chain(self.standby_at.filter(|_| self.standby.is_none() && self.main.is_some())).min()
    }
}
