//! How a supervisor begins: alone, with what lives adopted and what is missing started.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::{Duration, Instant};

use kernel_host::config::Config;
use kernel_host::exit::{Exit, Failure};
use kernel_host::name::{KernelName, Kind};
use kernel_host::pin::{CpuSet, allowed_cpus, online_cpus};
use kernel_host::place;
use kernel_host::runtime::RuntimeDir;
use kernel_host::status;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use shm_protocol::lease::{LeaseTable, Removal};
use shm_protocol::names;

use super::control::Listener;
use super::first_frame::FirstFrame;
use super::probation::Probation;
use super::renew::forget_swap_counts;
use super::unit::Unit;
use super::watchdog::Watchdog;
use super::{Supervisor, fifo};
use crate::launch::{Launch, kept_overrides};
use crate::process::{Process, end_all, holder, read_pid_file};
use crate::teardown::{STOP_PATIENCE, is_session, standby_pid_file};

/// How a supervisor was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Manner {
    /// In the foreground of a terminal or as a service's main process.
    pub foreground: bool,
    /// With the senders' sessions that a whole restart has left.
    pub keep_sessions: bool,
}

impl Supervisor {
    /// Takes charge of an instance.
    ///
    /// # Errors
    /// [`Exit::Usage`] beside a living supervisor; what is wrong with the configuration, the runtime directory or the
    /// shared memory otherwise.
    pub fn begin(
        instance: &str,
        runtime: RuntimeDir,
        mut launch: Launch,
        manner: Manner,
    ) -> Result<Supervisor, Failure> {
        runtime.create()?;
        let lock = lock(&runtime)?;
        refuse_beside_another(instance)?;
        let config = launch.configuration(&runtime)?;
        if let (_, Some(lost)) = kept_overrides(&runtime) {
            tracing::error!("{lost}");
        }
        launch.keep_live_sets(&runtime)?;
        launch.save(&runtime)?;
        // What a killed run left; while one of its kernels lives nothing is touched, and it is adopted.
        let recover = |error: shm_protocol::error::ObjectError| Failure::recover(error.recovery(), error);
        let removal = LeaseTable::remove_if_dead_but(instance, |name| manner.keep_sessions && is_session(name));
        if matches!(removal.map_err(recover)?, Removal::Removed(_)) {
            forget_swap_counts(&runtime);
        }
        let table = LeaseTable::join(instance).map_err(recover)?;
        // Of two that came this far one goes on.
        let charge = table.supervise().map_err(recover)?.ok_or_else(|| supervised_elsewhere(instance))?;
        let fifos = fifo::hold(&config);
        let placed = placement(instance, &config)?;
        dismiss_unknown(&table, &config);
        let units = config.kernels().into_iter().map(|kernel| {
            let told = config.cpus(&kernel).is_some();
            let cpus = placed.get(&kernel).filter(|_| !told).map(CpuSet::to_string);
            let stdin = kernel.kind == Kind::Capture
                && config.capture(&kernel.name).and_then(|c| c.path.as_ref()).is_some_and(|p| p.as_os_str() == "-");
            let mut unit = Unit::new(kernel.clone(), cpus, config.standby(&kernel), stdin, &runtime);
            // By its pid file: one that was started just before its supervisor died and has no lease yet.
            let early = || read_pid_file(&runtime.pid(&kernel)).filter(|process| !process.ended());
            let holder = holder(&table, &unit.lease);
            unit.probation = Probation::load(&runtime, &kernel);
            let both = unit.probation.as_ref().and_then(|probation| probation.both(holder.as_ref()));
            if let Some((predecessor, successor)) = both {
                unit.adopt(predecessor, &runtime);
                unit.adopt_standby(successor, &runtime);
                return unit;
            }
            let main = holder.or_else(early);
            let standby = read_pid_file(&standby_pid_file(&runtime, &kernel)).filter(|process| !process.ended());
            // One whose lease was taken by force does not die; the file named it still when that supervisor did.
            let (forced, main) = match main {
                Some(process) if is_forced_out(&table, &unit.lease, &process) => (Some(process), None),
                main => (None, main),
            };
            forced.into_iter().for_each(|process| unit.adopt_forced_out(process));
            // With nobody at work, who waits for the lease is the one to take it.
            match (main, standby) {
                (None, Some(process)) => {
                    let _ = std::fs::remove_file(standby_pid_file(&runtime, &kernel));
                    unit.adopt(process, &runtime);
                }
                (main, standby) => {
                    main.into_iter().for_each(|process| unit.adopt(process, &runtime));
                    standby.into_iter().for_each(|process| unit.adopt_standby(process, &runtime));
                }
            }
            unit
        });
        let units: Vec<Unit> = units.collect();
        let adopted = units.iter().filter(|unit| unit.main.is_some()).count();
        Ok(Supervisor {
            instance: instance.to_owned(),
            listener: Listener::bind(&runtime)?,
            watchdog: Watchdog::new(Duration::from_millis(config.hang_timeout_ms.into())),
            start: Some(FirstFrame::new(&config, adopted)),
            table_failure: None,
            manner,
            becoming: None,
            runtime,
            launch,
            table,
            units,
            clients: Vec::new(),
            waiting: Vec::new(),
            swaps: Vec::new(),
            farewell: Vec::new(),
            rotated: Instant::now(),
            _fifos: fifos,
            lock,
            charge: Some(charge),
        })
    }
}

/// Whether a process lost its kernel's lease by force and nobody has taken it since.
fn is_forced_out(table: &LeaseTable, lease: &str, process: &Process) -> bool {
    table
        .find(lease)
        .map(|index| table.info(index))
        .is_some_and(|info| info.forced && (info.pid, info.start_time) == (process.pid, process.start_time))
}

/// The lock on the pid file: one supervisor an instance, and gone with its process.
fn lock(runtime: &RuntimeDir) -> Result<File, Failure> {
    let path = runtime.supervisor_pid();
    let failed =
        |error: std::io::Error| Failure::new(Exit::Unavailable, format!("Cannot use {}: {error}", path.display()));
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path).map_err(failed)?;
    let whole =
        libc::flock { l_type: libc::F_WRLCK as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole)) {
        Ok(_) => {}
        Err(Errno::EAGAIN | Errno::EACCES) => {
            return Err(already_running(runtime.instance(), status::supervisor_pid(&path)));
        }
        Err(errno) => return Err(failed(errno.into())),
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(failed)?;
    Ok(file)
}

/// The refusal of a second start.
pub fn already_running(instance: &str, pid: Option<u32>) -> Failure {
    let pid = pid.map(|pid| format!(", supervisor process {pid}")).unwrap_or_default();
    let text = format!(
        "Instance {instance} is already running{pid}; `quad down` ends it, --instance NAME starts another beside it"
    );
    Failure::new(Exit::Usage, text)
}

/// Refuses to act on an instance whose supervisor keeps its files in another runtime directory.
///
/// # Errors
/// [`Exit::Usage`], with what to do.
pub fn refuse_beside_another(instance: &str) -> Result<(), Failure> {
    let supervised = LeaseTable::observe(instance).is_ok_and(|table| table.is_supervised());
    if supervised { Err(supervised_elsewhere(instance)) } else { Ok(()) }
}

fn supervised_elsewhere(instance: &str) -> Failure {
    let here = std::env::var_os("XDG_RUNTIME_DIR")
        .map_or_else(|| "it is not set here".to_owned(), |given| format!("here it is {}", given.display()));
    let text = format!(
        "Instance {instance} is already running, and its supervisor keeps its files in another runtime directory: \
         give every command the XDG_RUNTIME_DIR that `quad up` had ({here}), or --instance NAME for another instance"
    );
    Failure::new(Exit::Usage, text)
}

/// Where kernels go that were not told: on cpus that this process may use, those free of other instances first.
fn placement(instance: &str, config: &Config) -> Result<std::collections::BTreeMap<KernelName, CpuSet>, Failure> {
    let allowed = allowed_cpus();
    let usable: CpuSet = online_cpus()?.iter().filter(|cpu| allowed.contains(*cpu)).collect();
    let others = names::instances().into_iter().filter(|name| name != instance);
    let foreign: Vec<CpuSet> = others
        .flat_map(|name| status::collect(&name, None, None).kernels)
        .filter(|(_, kernel)| kernel.heartbeat_age_ms.is_some())
        .map(|(_, kernel)| kernel.cpus.into_iter().collect())
        .filter(|cpus: &CpuSet| !cpus.is_empty())
        .collect();
    Ok(place::place(&usable, &place::demands(config), &foreign))
}

/// Ends kernels that an earlier configuration had and this one has not.
fn dismiss_unknown(table: &LeaseTable, config: &Config) {
    let unknown = table
        .kernels()
        .into_iter()
        .filter(|info| info.held && info.kernel.parse::<KernelName>().is_ok_and(|kernel| !config.has(&kernel)));
    for info in unknown {
        if let Some(process) = holder(table, &info.kernel) {
            tracing::info!(kernel = info.kernel, "Not in the configuration any more, ended");
            end_all(&[&process], STOP_PATIENCE);
        }
    }
}
