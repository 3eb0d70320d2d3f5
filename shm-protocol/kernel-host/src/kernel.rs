//! A kernel's life around its media: started, pinned, leased, seen, and ended with the right exit code.

use crate::args::KernelArgs;
use crate::config::{Config, Policy as ConfiguredPolicy};
use crate::exit::{Exit, Failure};
use crate::name::{KernelName, Kind};
use crate::ready::Notifier;
use crate::runtime::RuntimeDir;
use crate::signals::Stop;
use crate::{log, pin, place};
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
use std::sync::mpsc::{RecvTimeoutError, channel};
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
    next_check_ns: u64,
    args: KernelArgs,
    /// Set by SIGHUP: the kept overrides changed.
    reload: Arc<AtomicBool>,
}

impl Kernel {
    /// Starts a kernel up to the moment it holds its lease. `Ok(None)`: it was asked to end, or only to show
    /// its configuration.
    ///
    /// # Errors
    /// [`Failure`] with the exit code that tells the supervisor what to do.
    pub fn start(args: &KernelArgs, kind: Kind) -> Result<Option<Kernel>, Failure> {
        let start = args.start(kind)?;
        if args.check {
            print!("{}", start.config.effective_toml());
            return Ok(None);
        }
        log::init(&start.config.log)?;
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
        start.runtime.create()?;
        let Some(lease) = take_lease(&start.runtime, &start.kernel, args.standby, &stop)? else { return Ok(None) };
        let kernel = start.kernel.to_string();
        let telemetry = Telemetry::create(start.runtime.instance(), &kernel, lease.epoch()).map_err(object)?;
        let cpus: Vec<usize> = cpus.iter().flat_map(pin::CpuSet::iter).collect();
        telemetry.set_cpus(&cpus);
        let directory = Arc::<PoolDirectory>::default();
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
    }

    /// Once a loop turn: shows that the loop turns and keeps the figures fresh. `false`: asked to end.
    ///
    /// # Errors
    /// [`Failure`] "temporary" when somebody removed the instance's objects by hand.
    pub fn turn(&mut self) -> Result<bool, Failure> {
        self.lease.beat();
        let now = monotonic_ns();
        self.telemetry.tick(now);
        if now >= self.next_check_ns {
            const CHECK_NS: u64 = 1_000_000_000;
            self.next_check_ns = now + CHECK_NS;
            self.telemetry.set(Counter::PoolBytes, self.directory.total_bytes());
            self.notifier.watchdog();
            if !self.lease.table().is_linked() {
                let text = "The instance's shared-memory objects were removed while it ran; starting anew";
                return Err(Failure::new(Exit::Temporary, text));
            }
        }
        Ok(!self.stop.requested())
    }

    /// Reads the configuration again if the supervisor says that a live key changed (SIGHUP). `true`: it did,
    /// and `config` is the new one. A configuration that is wrong by now changes nothing.
    pub fn reloaded(&mut self) -> bool {
        if !self.reload.swap(false, Ordering::Relaxed) {
            return false;
        }
        match self.args.start(self.name.kind) {
            Ok(start) => {
                self.config = start.config;
                true
            }
            Err(failure) => {
                tracing::warn!(%failure, "The changed configuration is not taken");
                false
            }
        }
    }

    /// Ends in order.
    pub fn finish(self) {
        self.notifier.stopping();
        tracing::info!(kernel = %self.name, "Stopped");
        self.lease.stop();
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
                Err(ObjectError::Missing { .. }) => {}
                Err(error) => return Err(object(error)),
            }
            if !self.turn()? || self.stop.wait(LOOK_AGAIN) {
                return Ok(None);
            }
        }
    }
}

/// Waits for the lease: at once where nobody holds it, else until its holder died or yielded.
fn take_lease(runtime: &RuntimeDir, kernel: &KernelName, standby: bool, stop: &Stop) -> Result<Option<Lease>, Failure> {
    let table = LeaseTable::join(runtime.instance()).map_err(object)?;
    let name = kernel.to_string();
    let candidate = Candidate::enter(&table, &name, true).map_err(object)?;
    candidate.ready();
    let candidate = match candidate.try_activate().map_err(object)? {
        Ok(lease) => return Ok(Some(lease)),
        Err(candidate) => candidate,
    };
    if !standby {
        tracing::info!(kernel = name, "Another process holds the lease; waiting for it to end");
    }
    let (send, receive) = channel();
    std::thread::Builder::new()
        .name("lease".to_owned())
        .spawn(move || {
            // The receiver is gone when this process was asked to end: the lease goes with it.
            let _ = send.send(candidate.activate());
        })
        .map_err(|error| Failure::new(Exit::Internal, error))?;
    loop {
        match receive.recv_timeout(Duration::from_millis(20)) {
            Ok(lease) => return lease.map(Some).map_err(object),
            Err(RecvTimeoutError::Timeout) if stop.requested() => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                return Err(Failure::new(Exit::Internal, "The thread that waits for the lease ended"));
            }
        }
    }
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
