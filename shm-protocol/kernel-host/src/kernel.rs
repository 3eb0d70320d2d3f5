//! A kernel's life around its media: started, pinned, leased, seen, and ended with the right exit code.

use crate::args::KernelArgs;
use crate::config::{Config, Policy as ConfiguredPolicy};
use crate::exit::{Exit, Failure};
use crate::name::{KernelName, Kind};
use crate::patience::Patience;
use crate::prepare::{Prepare, Surroundings};
use crate::ready::{Notifier, SignsOfLife};
use crate::runtime::{RuntimeDir, refuse_foreign};
use crate::signals::Stop;
use crate::{handover, log, pin, place};
use shm_protocol::attach::{Content, Policy, RingSpec, RoleSpec};
use shm_protocol::clock::monotonic_ns;
use shm_protocol::error::ObjectError;
use shm_protocol::fdpass;
use shm_protocol::frame::Rational;
use shm_protocol::input::Consumer;
use shm_protocol::lease::{Candidate, Lease, LeaseTable};
use shm_protocol::output::OpenError;
use shm_protocol::pool::PoolDirectory;
use shm_protocol::ring::RingError;
use shm_protocol::telemetry::{Counter, Telemetry};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest a loop sleeps: its heartbeat stays fresh and every missed wake-up ends here.
pub const LONGEST_SLEEP_NS: u64 = 50_000_000;

/// A running kernel: the right to write its ring, and everything that is the same in all four.
pub struct Kernel {
    /// Which one.
    pub name: KernelName,
    /// The configuration in effect.
    pub config: Config,
    /// Sockets, logs, outputs.
    pub runtime: RuntimeDir,
    /// The right to write.
    pub lease: Lease,
    /// What others see of it.
    pub telemetry: Telemetry,
    /// Pools mapped here, served to whoever asks.
    pub directory: Arc<PoolDirectory>,
    /// Whether somebody asked it to end.
    pub stop: Stop,
    notifier: Notifier,
    signs: SignsOfLife,
    next_check_ns: u64,
    args: KernelArgs,
    /// Set by SIGHUP: the kept overrides changed.
    reload: Arc<AtomicBool>,
}

impl Kernel {
    /// Starts a kernel up to the moment it holds its lease. While another process holds it, this one makes itself
    /// ready with `prepare`. `Ok(None)`: it was asked to end, or only to show its configuration.
    ///
    /// # Errors
    /// [`Failure`] with the exit code that tells the supervisor what to do.
    pub fn start(args: &KernelArgs, kind: Kind, prepare: &mut dyn Prepare) -> Result<Option<Kernel>, Failure> {
        let start = args.start(kind)?;
        if args.check {
            print!("{}", start.config.effective_toml());
            return Ok(None);
        }
        log::init(&start.config.log)?;
        if let Some(lost) = &start.overrides_lost {
            tracing::error!(
                "{lost}; what was set before is not in effect. `quad set` it again once the file is removed"
            );
        }
        let stop = Stop::install().map_err(|error| Failure::new(Exit::Internal, error))?;
        let reload = Arc::new(AtomicBool::new(false));
        signal_hook::flag::register(signal_hook::consts::SIGHUP, Arc::clone(&reload))
            .map_err(|error| Failure::new(Exit::Internal, error))?;
        let notifier = Notifier::from_env().map_err(|error| Failure::new(Exit::Internal, error))?;
        // Before any thread starts: threads inherit the cpus.
        let cpus = match start.config.cpus(&start.kernel) {
            Some(cpus) => {
                pin::pin(cpus)?;
                Some(cpus.clone())
            }
            None => {
                let placed = place::place(&pin::online_cpus()?, &place::demands(&start.config), &[]);
                let cpus = placed.get(&start.kernel).cloned();
                cpus.iter().for_each(pin::pin_if_possible);
                cpus
            }
        };
        refuse_foreign(start.runtime.instance()).map_err(|error| Failure::new(Exit::Usage, error))?;
        start.runtime.create()?;
        let directory = Arc::<PoolDirectory>::default();
        let table = LeaseTable::join(start.runtime.instance()).map_err(object)?;
        let around = Surroundings {
            name: &start.kernel,
            config: &start.config,
            runtime: &start.runtime,
            directory: &directory,
            table: &table,
        };
        let Some(lease) = take_lease(&around, prepare, args.standby, &stop)? else { return Ok(None) };
        let kernel = start.kernel.to_string();
        let cpus: Vec<usize> = cpus.iter().flat_map(pin::CpuSet::iter).collect();
        let telemetry = page(&start.runtime, &start.kernel, &lease, &cpus, &args.version)?;
        if let Some(lost) = &start.overrides_lost {
            telemetry.set_message(&format!("overrides not in effect: {lost}"));
        }
        fdpass::serve(start.runtime.path(), &kernel, Arc::clone(&directory)).map_err(object)?;
        tracing::info!(kernel, epoch = lease.epoch(), pid = std::process::id(), ?cpus, "Started");
        Ok(Some(Kernel {
            name: start.kernel,
            config: start.config,
            runtime: start.runtime,
            lease,
            telemetry,
            directory,
            stop,
            signs: notifier.signs_of_life(),
            notifier,
            next_check_ns: 0,
            args: args.clone(),
            reload,
        }))
    }

    /// Everything is open and recovered: the next candidate may come, and whoever waits for us is told.
    pub fn running(&mut self) {
        self.lease.running();
        self.notifier.ready();
        self.signs.begin(monotonic_ns());
    }

    /// Once a loop turn: shows that the loop turns and keeps the figures fresh. `false`: leave the loop, because
    /// the kernel is asked to end or a successor is ready to take over.
    ///
    /// # Errors
    /// [`Failure`] "temporary" when somebody removed or truncated the instance's objects by hand.
    pub fn turn(&mut self) -> Result<bool, Failure> {
        // Before the beat, which is the successor's by then; a loop that waits may come to no ring operation.
        self.check_fence()?;
        self.lease.beat();
        let now = monotonic_ns();
        self.signs.give(now);
        self.telemetry.tick(now);
        if now >= self.next_check_ns {
            const CHECK_NS: u64 = 1_000_000_000;
            self.next_check_ns = now + CHECK_NS;
            self.telemetry.set(Counter::PoolBytes, self.directory.total_bytes());
            // Whoever damaged an object from outside spoiled it for everybody: the next process of this kernel maps
            // what is there then, and makes anew what is its own.
            if !self.lease.table().is_whole() {
                return Err(object(self.lease.table().damaged()));
            }
            self.directory.check().and_then(|()| self.telemetry.check()).map_err(object)?;
        }
        Ok(!self.stop.requested() && self.lease.wanted_successor().is_none())
    }

    fn check_fence(&self) -> Result<(), Failure> {
        if self.lease.is_current() {
            return Ok(());
        }
        let current = self.lease.table().info(self.lease.index()).epoch;
        Err(ring(RingError::Fenced { mine: self.lease.epoch(), current }))
    }

    /// What beats for this kernel's loop, to supervisor and service manager alike, while that waits for something
    /// outside. A loop whose lease became another's while it waits is asked to end; [`Patience::leave`] is set by that,
    /// by any other wish to end, and when a successor is ready to take over.
    pub fn patience(&self) -> Option<Patience> {
        let (pulse, signs, stop) = (self.lease.pulse(), self.signs.clone(), self.stop.clone());
        Patience::start(move || {
            if pulse.beat() {
                signs.give(monotonic_ns());
            } else {
                stop.request();
            }
            stop.requested() || pulse.wanted_successor().is_some()
        })
    }

    /// Reads the configuration again if the supervisor says that a live key changed (SIGHUP). `true`: it did,
    /// and `config` is the new one. A configuration that is wrong by now, or whose kept overrides cannot be read,
    /// changes nothing.
    pub fn reloaded(&mut self) -> bool {
        if !self.reload.swap(false, Ordering::Relaxed) {
            return false;
        }
        match self.args.reread_in(self.name.kind, self.runtime.clone()) {
            Ok(config) => {
                self.config = config;
                true
            }
            Err(failure) => {
                tracing::warn!(%failure, "The changed configuration is not taken");
                false
            }
        }
    }

    /// Runs `body` until the kernel is asked to end, or has handed over to a successor for good. `body` opens
    /// its rings anew each time: a kernel that takes over again from a failed successor is a new epoch.
    ///
    /// # Errors
    /// The [`Failure`] of `body` or of the hand-over.
    pub fn serve(mut self, mut body: impl FnMut(&mut Kernel) -> Result<(), Failure>) -> Result<(), Failure> {
        loop {
            self.directory.unwatch();
            body(&mut self).map_err(|failure| self.explained(failure))?;
            self.check_fence()?;
            if self.stop.requested() || self.lease.wanted_successor().is_none() {
                self.notifier.stopping();
                tracing::info!(kernel = %self.name, "Stopped");
                self.lease.stop();
                return Ok(());
            }
            tracing::info!(kernel = %self.name, "Handing over to a successor");
            let Some(lease) = handover::hand_over(self.lease, &self.runtime, &self.name, &self.stop)? else {
                tracing::info!(kernel = %self.name, "The successor carries the stream");
                return Ok(());
            };
            tracing::warn!(kernel = %self.name, epoch = lease.epoch(), "The successor failed; going on");
            let cpus: Vec<usize> = pin::allowed_cpus().iter().collect();
            self.telemetry = page(&self.runtime, &self.name, &lease, &cpus, &self.args.version)?;
            self.lease = lease;
        }
    }

    /// A ring operation that meets a hole where its object was truncated does not know the object's name.
    fn explained(&self, failure: Failure) -> Failure {
        match self.directory.check() {
            Err(damage) if failure.exit == Exit::Temporary => object(damage),
            _ => failure,
        }
    }

    /// The output ring of this kernel as the configuration declares it.
    pub fn ring_spec(&self, fps: Rational) -> RingSpec {
        let content = if self.name.kind == Kind::Encode { Content::AccessUnits } else { Content::Pixels };
        let (policy, max_latency_ns) = self.policy(fps);
        let readers = self.config.readers(&self.name);
        RingSpec {
            kernel: self.name.to_string(),
            content,
            policy,
            slots: self.config.slots(&self.name).unwrap_or(16) as usize,
            max_latency_ns,
            // What the main chain loses is lost to every viewer; further renditions are skipped when slow.
            roles: readers.iter().map(|r| RoleSpec { kernel: r.to_string(), required: r.is_main() }).collect(),
        }
    }

    /// The policy of the capture instance at the head of this kernel's chain.
    fn policy(&self, fps: Rational) -> (Policy, u64) {
        let mut kernel = self.name.clone();
        while kernel.kind != Kind::Capture {
            match self.config.inputs(&kernel).first() {
                Some(input) => kernel = input.clone(),
                None => break,
            }
        }
        match self.config.capture(&kernel.name) {
            Some(capture) if capture.policy == ConfiguredPolicy::Lossless => (Policy::Lossless, 0),
            Some(capture) => (Policy::Live, capture.max_latency_ns(fps)),
            None => (Policy::Live, 0),
        }
    }

    /// Attaches to the ring of `producer`, waiting for it to appear. `Ok(None)`: asked to end meanwhile.
    ///
    /// # Errors
    /// [`Failure`] for a ring of another ABI.
    pub fn attach(&mut self, producer: &KernelName) -> Result<Option<Consumer>, Failure> {
        /// A ring appears within milliseconds of its kernel's start.
        const LOOK_AGAIN: Duration = Duration::from_millis(2);
        let (own, from) = (self.name.to_string(), producer.to_string());
        loop {
            match Consumer::attach(&self.lease, &own, &from, &self.directory, self.runtime.path()) {
                Ok(consumer) => return Ok(Some(consumer)),
                // A damaged ring is made anew by its own kernel.
                Err(ObjectError::Missing { .. } | ObjectError::Damaged { .. }) => {}
                Err(error) => return Err(object(error)),
            }
            if !self.turn()? || self.stop.wait(LOOK_AGAIN) {
                return Ok(None);
            }
        }
    }
}

fn page(
    runtime: &RuntimeDir,
    kernel: &KernelName,
    lease: &Lease,
    cpus: &[usize],
    version: &str,
) -> Result<Telemetry, Failure> {
    let page = Telemetry::create(runtime.instance(), &kernel.to_string(), lease.epoch()).map_err(object)?;
    page.set_cpus(cpus);
    page.set_version(version);
    Ok(page)
}

/// L1 to L3: waits for the lease, at once where nobody holds it, else until its holder died or yielded. Who waits is
/// prepared; where nobody holds the lease the stream waits for us, and all is opened when it is needed.
fn take_lease(
    around: &Surroundings<'_>,
    prepare: &mut dyn Prepare,
    standby: bool,
    stop: &Stop,
) -> Result<Option<Lease>, Failure> {
    let name = around.name.to_string();
    let candidate = Candidate::enter(around.table, &name, true).map_err(object)?;
    if !around.is_urgent() {
        handover::make_ready(around, prepare)?;
    }
    candidate.ready();
    let candidate = match candidate.try_activate().map_err(object)? {
        Ok(lease) => return Ok(Some(lease)),
        Err(candidate) => candidate,
    };
    if !standby {
        tracing::info!(kernel = name, "Another process holds the lease; waiting for it to end");
    }
    handover::wait_for_lease(candidate, stop, || handover::make_ready(around, prepare))
}

/// The failure an object's error is.
pub fn object(error: ObjectError) -> Failure {
    match error {
        ObjectError::Unavailable { .. } => Failure::new(Exit::Unavailable, error),
        _ => Failure::recover(error.recovery(), error),
    }
}

/// The failure a ring's error is: a fenced kernel ends with its own code.
pub fn ring(error: RingError) -> Failure {
    match error {
        // Epochs rise; one that fell was read from a lease table that is no more.
        RingError::Fenced { mine, current } if current < mine => Failure::new(Exit::Temporary, error),
        RingError::Fenced { .. } => Failure::new(Exit::Fenced, error),
        _ => Failure::recover(error.recovery(), error),
    }
}

/// The failure of opening a ring.
pub fn open(error: OpenError) -> Failure {
    match error {
        OpenError::Object(error) => object(error),
        OpenError::Ring(error) => ring(error),
    }
}

/// The deadline of a sleep that begins now: two frame intervals, 50 ms at the most.
pub fn deadline_ns(interval_ns: u64) -> u64 {
    monotonic_ns() + (2 * interval_ns).clamp(1_000_000, LONGEST_SLEEP_NS)
}
