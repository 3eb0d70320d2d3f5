//! `quad upgrade`: another build takes over, kernel by kernel where the rings' layout allows, else by a restart of all.
//!
//! With an equal layout the kernels are swapped in the order net, encode, process, capture: readers before writers. A
//! newer reader understands what an older writer publishes; a newer writer may use words that an older reader does not
//! know. So every kernel at every moment reads from one that is not newer than itself.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use kernel_host::config::Config;
use kernel_host::exit::{Exit, Failure};
use kernel_host::identity::Identity;
use kernel_host::name::KernelName;
use kernel_host::runtime::RuntimeDir;
use kernel_host::status::{collect, supervisor_pid};

use super::{ask_supervisor, say, warn};
use crate::launch::{Launch, bin_dir};
use crate::probe::{self, Speaks};
use crate::process::last_line;
use crate::supervisor::control::{Request, ask};
use crate::supervisor::probation::swapped_binary;
use crate::supervisor::swap::SWAP_LIMIT;
use crate::supervisor::{QUADCTL, Renewal, command_line};
use crate::teardown::clear_for_other_layout;

/// The kernels' time to end in order, and the new build's longest start.
const SUPERVISOR_LIMIT: Duration = Duration::from_secs(40);

/// Upgrades an instance.
pub fn run(instance: &str, binaries: Option<&Path>) -> Result<u8, Failure> {
    let runtime = super::runtime(instance)?;
    let Some(launch) = Launch::load(&runtime).filter(|_| !probe_is_down(instance, &runtime)) else {
        let text = format!("Instance {instance} is not running; `quad up` starts it");
        return Err(Failure::new(Exit::Unavailable, text));
    };
    let bin_dir = match binaries {
        Some(dir) => dir
            .canonicalize()
            .map_err(|e| Failure::new(Exit::Usage, format!("--binaries {} cannot be used: {e}", dir.display())))?,
        None => bin_dir()?,
    };
    let config = launch.configuration(&runtime)?;
    // Everything that can be known is checked before anything is touched.
    let kernels = check(instance, &runtime, &bin_dir, &launch, &config)?;
    let whole = kernels.iter().any(|kernel| !kernel.identity.shares(probe::running_layout(instance)));
    let began = Instant::now();
    let renewal = Renewal { bin_dir, whole };
    if whole {
        say("The build has another layout of shared memory: every kernel is restarted, the RTP streams go on");
    }
    replace_supervisor(instance, &runtime, &launch, &renewal)?;
    if whole {
        let ms = began.elapsed().as_millis();
        say(&format!("Instance {instance} runs the new build; the picture was away for less than {ms} ms"));
        return Ok(0);
    }
    for kernel in kernels.iter().rev() {
        if let Err(failure) = swap(instance, &runtime, kernel) {
            return Err(take_back(instance, &runtime, &launch, &renewal, &kernel.kernel, &failure));
        }
    }
    Ok(0)
}

/// A kernel of the new build does not work: whatever starts from now on is of the old build again, where that is not
/// the very directory that was built anew.
fn take_back(
    instance: &str,
    runtime: &RuntimeDir,
    launch: &Launch,
    renewal: &Renewal,
    kernel: &KernelName,
    failure: &Failure,
) -> Failure {
    let name = kernel.short();
    let end = if launch.bin_dir == renewal.bin_dir {
        format!(
            "{name} and those not swapped yet run the old build until they start anew: build what works, and upgrade again"
        )
    } else {
        let old = Renewal { bin_dir: launch.bin_dir.clone(), whole: false };
        match replace_supervisor(instance, runtime, launch, &old) {
            Ok(()) => "The supervisor and all that starts from now on are of the old build again".to_owned(),
            Err(error) => format!("And the old build cannot be taken back: {error}"),
        }
    };
    Failure::new(failure.exit, format!("{failure}. {end}"))
}

/// A kernel and what its new binary says.
struct New {
    kernel: KernelName,
    identity: Identity,
    /// Kept from an earlier swap: it stays.
    own_binary: Option<PathBuf>,
}

/// Whether neither a supervisor nor a kernel lives.
fn probe_is_down(instance: &str, runtime: &RuntimeDir) -> bool {
    supervisor_pid(&runtime.supervisor_pid()).is_none()
        && collect(instance, None, Some(runtime)).kernels.iter().all(|(_, kernel)| kernel.heartbeat_age_ms.is_none())
}

fn check(
    instance: &str,
    runtime: &RuntimeDir,
    bin_dir: &Path,
    launch: &Launch,
    config: &Config,
) -> Result<Vec<New>, Failure> {
    let refused = |text: String| Failure::new(Exit::Usage, text);
    let quadctl = bin_dir.join(QUADCTL);
    let line = probe::version_line(&quadctl).map_err(refused)?;
    if !line.starts_with("quad ") {
        return Err(refused(format!("{} is not quadctl: it answers --version with {line:?}", quadctl.display())));
    }
    let mut kernels: Vec<New> = Vec::new();
    for kernel in config.kernels() {
        let new = bin_dir.join(kernel.kind.binary());
        let identity = probe::kernel(&new, kernel.kind)?;
        if let Some(other) = kernels.first().filter(|other| !other.identity.shares(identity.layout_hash)) {
            let text = format!("{} holds kernels of two layouts: {} and {identity}", bin_dir.display(), other.identity);
            return Err(refused(text));
        }
        let own_binary = swapped_binary(runtime, &kernel).filter(|binary| binary.is_file());
        if let Some(own) = &own_binary
            && !probe::kernel(own, kernel.kind)?.shares(identity.layout_hash)
        {
            let text = format!(
                "{kernel} runs {}, which cannot share memory with the new build ({identity}); `quad swap {}` takes it back to the build's own first",
                own.display(),
                kernel.short()
            );
            return Err(refused(text));
        }
        accepts(&new, launch, instance, &kernel)?;
        kernels.push(New { kernel, identity, own_binary });
    }
    Ok(kernels)
}

/// Whether the new build understands the configuration.
fn accepts(binary: &Path, launch: &Launch, instance: &str, kernel: &KernelName) -> Result<(), Failure> {
    let mut command = std::process::Command::new(binary);
    command.args(launch.arguments(instance, kernel, None, false));
    let answer =
        probe::answer(&mut command, "--check", Speaks::Errors).map_err(|why| Failure::new(Exit::Usage, why))?;
    if answer.success {
        return Ok(());
    }
    let said = answer.text.trim();
    Err(Failure::new(Exit::Config, format!("The new build does not take this instance's configuration: {said}")))
}

/// Lets the new build's supervisor take over from the present one, or start where there is none.
fn replace_supervisor(instance: &str, runtime: &RuntimeDir, launch: &Launch, renewal: &Renewal) -> Result<(), Failure> {
    let socket = runtime.supervisor_socket()?;
    let log = runtime.supervisor_log();
    let offset = std::fs::metadata(&log).map_or(0, |found| found.len());
    let request = Request::Upgrade { bin_dir: renewal.bin_dir.clone(), whole: renewal.whole };
    match ask(&socket, &request, SUPERVISOR_LIMIT) {
        Some(Ok(reply)) => {
            return Err(Failure::new(Exit::from_code(reply.exit.into()).unwrap_or(Exit::Internal), reply.message));
        }
        // Its program was replaced, and the connection went with it.
        Some(Err(error)) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {}
        Some(Err(error)) => {
            let text = format!("The supervisor of instance {instance} did not answer: {error}");
            return Err(Failure::new(Exit::Temporary, text));
        }
        None => {
            if renewal.whole {
                clear_for_other_layout(instance, runtime)?;
            }
            let mut up = command_line(&renewal.bin_dir, instance, launch, &["up"], renewal.whole);
            let status = up.stdin(Stdio::null()).stdout(Stdio::null()).status();
            let status = status.map_err(|error| Failure::new(Exit::Internal, error))?;
            if !status.success() {
                let text = format!("The new build does not start ({status}); `quad up` of the old one goes on");
                return Err(Failure::new(Exit::Temporary, text));
            }
        }
    }
    let began = Instant::now();
    loop {
        match ask(&socket, &Request::Hello, Duration::from_secs(2)) {
            Some(Ok(reply)) if reply.exit == 0 => return Ok(()),
            _ if began.elapsed() > SUPERVISOR_LIMIT => break,
            // Neither listens nor lives: it has ended, or has not locked its file yet.
            None if began.elapsed() > Duration::from_secs(2) && supervisor_pid(&runtime.supervisor_pid()).is_none() => {
                break;
            }
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    let last = last_line(&log, offset).unwrap_or_else(|| format!("its log is {}", log.display()));
    let text =
        format!("The new build's supervisor does not work: {last}. Kernels that run go on; `quad up` adopts them");
    Err(Failure::new(Exit::Temporary, text))
}

fn swap(instance: &str, runtime: &RuntimeDir, new: &New) -> Result<(), Failure> {
    let (kernel, name) = (&new.kernel, new.kernel.short());
    if let Some(binary) = &new.own_binary {
        warn(&format!("{name} stays with {}, to which it was swapped", binary.display()));
        return Ok(());
    }
    let before = collect(instance, None, Some(runtime));
    let before = before.kernel(&name).map(|kernel| (kernel.version.clone(), kernel.heartbeat_age_ms.is_some()));
    let Some((version, true)) = before else {
        // Its next start takes the new build's binary.
        warn(&format!("{name} does not run; it is not swapped"));
        return Ok(());
    };
    let began = Instant::now();
    let request = Request::Swap { kernel: kernel.to_string(), binary: None, sets: Vec::new() };
    ask_supervisor(runtime, &request, SWAP_LIMIT + Duration::from_secs(5))?;
    let ms = began.elapsed().as_millis();
    say(&format!("{name}: {version} → {} after {ms} ms", new.identity.version));
    Ok(())
}
