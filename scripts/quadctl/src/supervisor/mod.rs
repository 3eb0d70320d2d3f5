//! The supervisor: one process an instance, which keeps the kernels running and takes commands. It touches no frame;
//! kernels do not notice when it dies, and the next one adopts them.

pub mod aftermath;
mod backoff;
pub mod control;
pub mod doomed;
pub mod fifo;
pub mod first_frame;
pub mod probation;
mod renew;
pub mod rotate;
mod start;
pub mod swap;
pub mod unit;
mod upgrade;
pub mod watchdog;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kernel_host::config::{Config, Overrides, locate};
use kernel_host::exit::{Exit, Failure};
use kernel_host::name::KernelName;
use kernel_host::ready::Notifier;
use kernel_host::runtime::RuntimeDir;
use kernel_host::signals::Stop;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use shm_protocol::lease::{KernelState, LeaseTable};

use crate::commands::own_version;
use crate::launch::Launch;
use crate::process::Signal;
use crate::teardown::{STOP_PATIENCE, remove_everything, stop_kernels};
use control::{Client, Listener, Reply, Request};
use first_frame::{FirstFrame, Outcome};
use swap::{Progress, Swap, Wanted};
use unit::{Context, Unit};
use watchdog::Watchdog;

pub use start::{Manner, already_running, refuse_beside_another};
pub use upgrade::{QUADCTL, Renewal, command_line};

/// How often a start is looked at: well below a frame, so that `up` returns with the first.
const START_POLL: Duration = Duration::from_millis(2);
/// While somebody waits for an epoch.
const EPOCH_POLL: Duration = Duration::from_millis(2);
/// How often logs are measured.
const ROTATE_EVERY: Duration = Duration::from_secs(1);
/// A restart that has not led to a running kernel by then is answered with that.
const RESTART_LIMIT: Duration = Duration::from_secs(15);

/// An asker that waits for a kernel's next epoch.
struct Waiting {
    client: Client,
    kernel: KernelName,
    epoch: u64,
    asked: Instant,
    /// Whether the process at work was asked to end.
    begun: bool,
    killed: bool,
}

/// Everything the loop works with.
pub struct Supervisor {
    instance: String,
    runtime: RuntimeDir,
    launch: Launch,
    table: Arc<LeaseTable>,
    units: Vec<Unit>,
    listener: Listener,
    clients: Vec<Client>,
    waiting: Vec<Waiting>,
    swaps: Vec<Swap>,
    /// Askers of the end, answered when nothing is left.
    farewell: Vec<Client>,
    watchdog: Watchdog,
    start: Option<FirstFrame>,
    rotated: Instant,
    /// Why a damaged table could not be replaced yet.
    table_failure: Option<String>,
    manner: Manner,
    /// The build that goes on in this process, and who asked for it.
    becoming: Option<(Client, Renewal)>,
    /// Kept open for their writers' sake.
    _fifos: Vec<File>,
    /// The lock that says that this supervisor lives.
    lock: File,
    /// The right to supervise, in the lease table.
    charge: Option<OwnedFd>,
}

impl Supervisor {
    /// Runs until asked to stop or the start fails, then takes everything down. `report` hears once what became of
    /// the start; after a failure when everything is down.
    ///
    /// # Errors
    /// Why the start failed, or what could not be removed.
    pub fn run(mut self, stop: &Stop, mut report: impl FnMut(&Outcome)) -> Result<(), Failure> {
        let mut notifier = Notifier::from_env().map_err(|error| Failure::new(Exit::Usage, error))?;
        let mut alive = Instant::now();
        let mut failed = None;
        while !stop.requested() && self.farewell.is_empty() && self.becoming.is_none() {
            let now = Instant::now();
            let next = self.turn(now);
            match self.look_at_start(now) {
                Some(Outcome::Failed { message, exit }) => {
                    failed = Some((message, exit));
                    break;
                }
                Some(outcome) => {
                    notifier.ready();
                    report(&outcome);
                }
                None => {}
            }
            if notifier.watchdog_interval().is_some_and(|interval| alive + interval / 2 <= now) {
                notifier.watchdog();
                alive = now;
            }
            self.sleep(stop, next);
        }
        if let Some((client, renewal)) = self.becoming.take() {
            return Err(self.give_way(client, &renewal));
        }
        notifier.stopping();
        let ended = self.take_down();
        let Some((message, exit)) = failed else { return ended };
        report(&Outcome::Failed { message: message.clone(), exit });
        ended?;
        Err(Failure::new(Exit::from_code(exit.into()).unwrap_or(Exit::Internal), message))
    }

    fn look_at_start(&mut self, now: Instant) -> Option<Outcome> {
        let context =
            Context { instance: &self.instance, runtime: &self.runtime, launch: &self.launch, table: &self.table };
        let outcome = self.start.as_ref()?.look(&self.units, &context, now)?;
        self.start = None;
        Some(outcome)
    }

    /// One turn; returns when the next is due.
    fn turn(&mut self, now: Instant) -> Instant {
        if !self.table.is_whole() && !self.renew_table(now) {
            // Whoever asks is answered all the same, `quad down` above all: who waits at a socket that nobody reads
            // keeps this loop from sleeping.
            self.serve(now);
            self.answer_waiting(now);
            return now + renew::TRY_AGAIN;
        }
        let context =
            Context { instance: &self.instance, runtime: &self.runtime, launch: &self.launch, table: &self.table };
        for unit in &mut self.units {
            unit.reap(&context, now);
            unit.look_at_probation(&context, now);
            unit.look_at_aftermath(&context);
            unit.start_due(&context, now);
            self.watchdog.look(unit, &context, now);
        }
        self.serve(now);
        self.answer_waiting(now);
        self.look_at_swaps(now);
        if now >= self.rotated + ROTATE_EVERY {
            self.rotated = now;
            self.look_after_own_files();
            self.rotate_logs();
        }
        let mut next = now + self.watchdog.interval();
        if self.start.is_some() {
            next = next.min(now + START_POLL);
        }
        if !self.waiting.is_empty() || !self.swaps.is_empty() {
            next = next.min(now + EPOCH_POLL);
        }
        next = self.units.iter().filter_map(Unit::next_due).fold(next, |next, due| next.min(due.max(now)));
        self.watchdog.turn(now, next);
        next
    }

    fn rotate_logs(&self) {
        let logs = self.units.iter().map(|unit| self.runtime.log(&unit.kernel));
        for path in logs.chain([self.runtime.supervisor_log()]) {
            if let Err(error) = rotate::rotate(&path, rotate::MAX_LOG_BYTES) {
                tracing::warn!(%error, path = %path.display(), "Cannot rotate a log");
            }
        }
    }

    /// Sleeps until `next`, a process ends, somebody asks, or the stop.
    fn sleep(&self, stop: &Stop, next: Instant) {
        let processes = self.units.iter().flat_map(Unit::processes).map(|process| process.fd());
        let clients = self.clients.iter().map(Client::fd);
        let mut fds: Vec<PollFd<'_>> = [stop.fd(), self.listener.fd()]
            .into_iter()
            .chain(processes)
            .chain(clients)
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let micros = next.saturating_duration_since(Instant::now()).as_micros();
        // Rounded up: a rest of less than a millisecond must not spin.
        let millis = i32::try_from(micros.div_ceil(1000)).unwrap_or(i32::MAX);
        let limit = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, limit) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => {
                tracing::error!(%error, "Cannot wait for events");
                std::thread::sleep(START_POLL);
            }
        }
    }

    fn serve(&mut self, now: Instant) {
        while let Some(client) = self.listener.accept() {
            self.clients.push(client);
        }
        for mut client in std::mem::take(&mut self.clients) {
            match client.receive() {
                None if client.closed => {}
                None => self.clients.push(client),
                Some(Request::Stop) => {
                    tracing::info!("Stopping on request");
                    self.farewell.push(client);
                }
                Some(Request::Set { set }) => {
                    let reply =
                        self.set(&set).unwrap_or_else(|failure| Reply::failed(failure.exit, failure.to_string()));
                    client.answer(&reply);
                    self.clients.push(client);
                }
                Some(Request::Upgrade { bin_dir, whole }) => self.upgrade(client, Renewal { bin_dir, whole }),
                Some(Request::Hello) => {
                    client.answer(&match self.start {
                        None => Reply::done(format!("quad {}", own_version())),
                        Some(_) => Reply::failed(Exit::Temporary, "Starting"),
                    });
                    self.clients.push(client);
                }
                Some(Request::Restart { kernel }) => self.restart(client, &kernel, now),
                Some(Request::Swap { kernel, binary, sets }) => {
                    self.swap(client, &kernel, Wanted { binary, sets }, now);
                }
            }
        }
    }

    fn unknown(&self, kernel: &str) -> Reply {
        let known: Vec<String> = self.units.iter().map(|unit| unit.kernel.short()).collect();
        Reply::failed(Exit::Usage, format!("There is no kernel {kernel}; running here are {}", known.join(", ")))
    }

    /// Starts a successor beside a kernel's process.
    fn swap(&mut self, mut client: Client, kernel: &str, wanted: Wanted, now: Instant) {
        if self.swaps.iter().any(|swap| swap.kernel().to_string() == kernel) {
            client.answer(&Reply::failed(Exit::Temporary, format!("A swap of {kernel} is already running")));
            return;
        }
        let context =
            Context { instance: &self.instance, runtime: &self.runtime, launch: &self.launch, table: &self.table };
        let Some(unit) = self.units.iter().find(|unit| unit.lease == kernel) else {
            let reply = self.unknown(kernel);
            client.answer(&reply);
            return;
        };
        match Swap::new(client, unit, &context, wanted, now) {
            Ok(swap) => self.swaps.push(swap),
            Err((mut client, reply)) => client.answer(&reply),
        }
    }

    fn look_at_swaps(&mut self, now: Instant) {
        for mut swap in std::mem::take(&mut self.swaps) {
            let context =
                Context { instance: &self.instance, runtime: &self.runtime, launch: &self.launch, table: &self.table };
            let Some(unit) = self.units.iter_mut().find(|unit| unit.kernel == *swap.kernel()) else { continue };
            match swap.look(unit, &context, now) {
                Progress::Under => self.swaps.push(swap),
                Progress::Done(reply) | Progress::Failed(reply) => {
                    if reply.exit != 0 {
                        unit.aftermath = swap.aftermath();
                    }
                    tracing::info!(kernel = %swap.kernel(), reply.message, "Swap");
                    unit.wants_its_standby(now);
                    swap.client.answer(&reply);
                    self.clients.push(swap.client);
                }
            }
        }
    }

    /// Asks a kernel's process to end and lets its successor come.
    fn restart(&mut self, mut client: Client, kernel: &str, now: Instant) {
        let Some(unit) = self.units.iter().find(|unit| unit.lease == kernel) else {
            let reply = self.unknown(kernel);
            client.answer(&reply);
            return;
        };
        let kernel = unit.kernel.clone();
        self.waiting.push(Waiting { client, kernel, epoch: 0, asked: now, begun: false, killed: false });
        self.begin_restarts(now);
    }

    /// Asks the processes to end whose restart is wanted. After a swap the one that handed over lives on through its
    /// successor's probation; until that is over neither of the two may be disturbed.
    fn begin_restarts(&mut self, now: Instant) {
        for waiting in self.waiting.iter_mut().filter(|waiting| !waiting.begun) {
            let Some(unit) = self.units.iter_mut().find(|unit| unit.kernel == waiting.kernel) else { continue };
            let info = self.table.find(&unit.lease).map(|index| self.table.info(index));
            let holder = info.as_ref().filter(|info| info.held).map(|info| info.pid);
            let main = unit.main.as_ref().map(|main| main.process.pid);
            let settled = main.is_none() || holder.is_none() || holder == main;
            if !(settled && unit.probation.is_none()) && now < waiting.asked + RESTART_LIMIT {
                continue;
            }
            (waiting.begun, waiting.asked, waiting.epoch) = (true, now, info.map_or(0, |info| info.epoch));
            match &unit.main {
                Some(main) => {
                    unit.restarting = true;
                    main.process.signal(Signal::TERM);
                    main.process.signal(Signal::CONT);
                }
                None => {
                    unit.left = None;
                    unit.start_at = Some(now);
                }
            }
        }
    }

    fn answer_waiting(&mut self, now: Instant) {
        self.begin_restarts(now);
        for mut waiting in std::mem::take(&mut self.waiting) {
            if !waiting.begun {
                self.waiting.push(waiting);
                continue;
            }
            let lease = waiting.kernel.to_string();
            let info = self.table.find(&lease).map(|index| self.table.info(index));
            let unit = self.units.iter().find(|unit| unit.lease == lease);
            let ms = (now - waiting.asked).as_millis();
            if let Some(info) = info.filter(|i| i.epoch > waiting.epoch && i.held && i.state == KernelState::Running) {
                let text = format!(
                    "{} runs again after {ms} ms: epoch {}, process {}",
                    waiting.kernel.short(),
                    info.epoch,
                    info.pid
                );
                waiting.client.answer(&Reply::done(text));
                self.clients.push(waiting.client);
                continue;
            }
            if let Some((unit, ending)) = unit.and_then(|unit| Some((unit, unit.left?))) {
                let text = format!("{} does not start again ({ending}): {}", waiting.kernel.short(), unit.last_words());
                waiting.client.answer(&Reply::failed(ending.exit(), text));
                continue;
            }
            if now > waiting.asked + RESTART_LIMIT {
                let last = unit.map(Unit::last_words).unwrap_or_default();
                let text =
                    format!("{} does not run after {} s: {last}", waiting.kernel.short(), RESTART_LIMIT.as_secs());
                waiting.client.answer(&Reply::failed(Exit::Temporary, text));
                continue;
            }
            if !waiting.killed && now > waiting.asked + STOP_PATIENCE {
                waiting.killed = true;
                // Still the one that was asked to end: it is made to.
                if let Some(main) = unit.filter(|unit| unit.restarting).and_then(|unit| unit.main.as_ref()) {
                    main.process.signal(Signal::KILL);
                }
            }
            self.waiting.push(waiting);
        }
    }

    /// Keeps an override and tells its kernel, which reads the overrides again at SIGHUP.
    fn set(&mut self, set: &str) -> Result<Reply, Failure> {
        let mut overrides = Overrides::load(&self.runtime.overrides())?;
        overrides.set(set)?;
        let key = set.split_once('=').map_or(set, |(key, _)| key).trim();
        let located = locate(key)?;
        Config::load_with(self.launch.config.as_deref(), &overrides, &self.launch.sets)?;
        overrides.save(&self.runtime.overrides())?;
        self.units.iter_mut().for_each(|unit| unit.set_in_probation(&self.runtime, key));
        let concerned: Vec<&Unit> = self
            .units
            .iter()
            .filter(|unit| located.kernel.as_ref().is_none_or(|kernel| *kernel == unit.kernel))
            .collect();
        let mut told = 0;
        for main in concerned.iter().filter_map(|unit| unit.main.as_ref()) {
            if listens_to_hangup(main.process.pid) {
                main.process.signal(Signal::HUP);
                told += 1;
            }
        }
        Ok(Reply::done(told.to_string()))
    }

    fn take_down(mut self) -> Result<(), Failure> {
        let (instance, runtime) = (self.instance.clone(), self.runtime.clone());
        let stopped = stop_kernels(&instance, &runtime);
        // Collected, so that no zombie is left to whoever ran this in the foreground.
        self.units.iter_mut().for_each(Unit::collect);
        // Its own membership would keep the objects alive.
        let farewell = std::mem::take(&mut self.farewell);
        drop(self);
        let ended = stopped.and_then(|()| remove_everything(&instance, &runtime));
        let reply = match &ended {
            Ok(()) => Reply::done("Stopped"),
            Err(failure) => Reply::failed(failure.exit, failure.to_string()),
        };
        farewell.into_iter().for_each(|mut client| client.answer(&reply));
        ended
    }
}

/// Whether a process catches SIGHUP: for one that does not it would be the end.
fn listens_to_hangup(pid: u32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}
