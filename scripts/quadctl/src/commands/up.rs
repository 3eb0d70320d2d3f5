//! `quad up`: starts an instance, and returns when it streams.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use kernel_host::config::Config;
use kernel_host::exit::{Exit, Failure};
use kernel_host::name::Kind;
use kernel_host::runtime::RuntimeDir;
use kernel_host::signals::Stop;
use kernel_host::status::{OutputStatus, collect, supervisor_pid, watch_url};
use shm_protocol::lease::LeaseTable;
use shm_protocol::names;

use super::{say, warn};
use crate::Start;
use crate::launch::{Launch, kept_overrides};
use crate::preflight;
use crate::process::last_line;
use crate::supervisor::first_frame::Outcome;
use crate::supervisor::rotate::open_log;
use crate::supervisor::{Manner, Supervisor, already_running, refuse_beside_another};

/// Starts an instance.
pub fn run(instance: &str, start: &Start, foreground: bool) -> Result<u8, Failure> {
    let runtime = super::runtime(instance)?;
    let launch = Launch::new(start.config.as_deref(), &start.set)?;
    let config = launch.configuration(&runtime)?;
    if let Some(pid) = supervisor_pid(&runtime.supervisor_pid()) {
        return Err(already_running(instance, Some(pid)));
    }
    refuse_beside_another(instance)?;
    preflight::check(instance, &config, &launch)?;
    if let (_, Some(lost)) = kept_overrides(&runtime) {
        warn(&format!("quad: {lost}"));
    }
    warn_of_adopted(instance, &runtime, &launch);
    // Also the sockets of kernels lie there: too long a path is told now.
    runtime.supervisor_socket()?;
    runtime.create()?;
    if foreground {
        in_foreground(instance, runtime, launch, &config, start.keep_sessions)
    } else {
        detached(instance, start, &runtime, &config)
    }
}

/// Kernels that live on keep what they were started with.
fn warn_of_adopted(instance: &str, runtime: &RuntimeDir, launch: &Launch) {
    let living: Vec<String> = LeaseTable::observe(instance)
        .map(|table| table.kernels().into_iter().filter(|info| info.held).map(|info| info.kernel).collect())
        .unwrap_or_default();
    if !living.is_empty() && Launch::load(runtime).is_some_and(|before| before != *launch) {
        let living = living.join(", ");
        warn(&format!("Adopted with the settings they were started with, until `quad restart`: {living}"));
    }
}

fn in_foreground(
    instance: &str,
    runtime: RuntimeDir,
    launch: Launch,
    config: &Config,
    keep_sessions: bool,
) -> Result<u8, Failure> {
    kernel_host::log::init(&config.log)?;
    let stop = Stop::install().map_err(|error| Failure::new(Exit::Internal, error))?;
    // A closed terminal ends what ran in it. The flag is seen since the signal interrupts the wait.
    let flag = stop.flag();
    signal_hook::flag::register(signal_hook::consts::SIGHUP, flag.clone())
        .map_err(|error| Failure::new(Exit::Internal, error))?;
    let manner = Manner { foreground: true, keep_sessions };
    let supervisor = Supervisor::begin(instance, runtime.clone(), launch, manner)?;
    supervisor.run(&stop, |outcome| {
        if !flag.load(Ordering::Acquire) {
            announce(outcome, instance, &runtime, config);
        }
    })?;
    Ok(0)
}

fn detached(instance: &str, start: &Start, runtime: &RuntimeDir, config: &Config) -> Result<u8, Failure> {
    let internal = |error: std::io::Error| Failure::new(Exit::Internal, error);
    let log = runtime.supervisor_log();
    let offset = std::fs::metadata(&log).map_or(0, |found| found.len());
    let own = std::env::current_exe().map_err(internal)?;
    let from_stdin = config
        .instances(Kind::Capture)
        .filter_map(|name| config.capture(name)?.path.as_ref())
        .any(|path| path.as_os_str() == "-");
    let mut command = Command::new(own);
    command.args(["supervise", "--instance", instance]);
    if let Some(path) = &start.config {
        command.arg("--config").arg(path);
    }
    for set in &start.set {
        command.args(["--set", set]);
    }
    if start.keep_sessions {
        command.arg("--keep-sessions");
    }
    let mut child = command
        .stdin(if from_stdin { Stdio::inherit() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(open_log(&log).map_err(internal)?)
        .spawn()
        .map_err(internal)?;
    let mut line = String::new();
    if let Some(pipe) = child.stdout.take() {
        BufReader::new(pipe).read_line(&mut line).map_err(internal)?;
    }
    match serde_json::from_str(&line) {
        Ok(Outcome::Failed { message, exit }) => {
            // It has taken everything down; its own end is all that is left.
            let _ = child.wait();
            let exit = Exit::from_code(exit.into()).unwrap_or(Exit::Internal);
            // The directory that `up` made for a supervisor that never came to its work.
            let unused = supervisor_pid(&runtime.supervisor_pid()).is_none() && names::existing(instance).is_empty();
            if exit != Exit::Usage && unused {
                runtime.remove()?;
            }
            Err(Failure::new(exit, message))
        }
        Ok(outcome) => {
            announce(&outcome, instance, runtime, config);
            Ok(0)
        }
        Err(_) => {
            let status = child.wait().map_err(internal)?;
            let last = last_line(&log, offset).unwrap_or_default();
            Err(Failure::new(Exit::Internal, format!("The supervisor ended ({status}): {last}")))
        }
    }
}

/// What an operator wants to know of a start.
fn announce(outcome: &Outcome, instance: &str, runtime: &RuntimeDir, config: &Config) {
    match outcome {
        Outcome::Running { after_ms, adopted: 0, .. } => {
            say(&format!("Instance {instance} streams: first frame on the wire after {after_ms} ms"));
        }
        Outcome::Running { adopted, started, .. } => {
            let kernels = if *adopted == 1 { "kernel" } else { "kernels" };
            let more = if *started == 0 { String::new() } else { format!(", started {started} more") };
            say(&format!("Instance {instance} streams: adopted {adopted} running {kernels}{more}"));
        }
        Outcome::Waiting { message } => say(&format!("Instance {instance} is up. {message}")),
        Outcome::Failed { .. } => return,
    }
    let status = collect(instance, Some(config), Some(runtime));
    let outputs = if status.outputs.is_empty() { configured_outputs(config, runtime) } else { status.outputs };
    for line in output_lines(&outputs, ssh_target().as_deref()) {
        say(&line);
    }
    for (name, message) in status.kernels.iter().filter_map(|(name, kernel)| Some((name, kernel.message.as_ref()?))) {
        warn(&format!("{name}: {message}"));
    }
}

/// Outputs as configured, for a kernel D that has not written them down.
fn configured_outputs(config: &Config, runtime: &RuntimeDir) -> Vec<OutputStatus> {
    let mut outputs = Vec::new();
    for kernel in config.kernels().into_iter().filter(|kernel| kernel.kind == Kind::Net) {
        let Some(net) = config.net(&kernel.name) else { continue };
        outputs.extend(net.rtp.as_ref().filter(|rtp| rtp.enabled).map(|rtp| OutputStatus {
            sdp: Some(runtime.sdp(&kernel).display().to_string()),
            ..OutputStatus::new("rtp", format!("rtp://{}", rtp.destination))
        }));
        let http = net.http.as_ref().filter(|http| http.enabled);
        outputs.extend(http.map(|http| OutputStatus::new("http", watch_url(http.listen))));
    }
    outputs
}

/// USER@HOST of this machine as the ssh client sees it, with its port where that is not 22.
fn ssh_target() -> Option<String> {
    let connection = std::env::var("SSH_CONNECTION").ok()?;
    let user = std::env::var("USER").or_else(|_| std::env::var("LOGNAME")).ok();
    ssh_target_of(&connection, user.as_deref())
}

/// SSH_CONNECTION holds client address and port, server address and port (ssh(1)).
fn ssh_target_of(connection: &str, user: Option<&str>) -> Option<String> {
    let fields: Vec<&str> = connection.split_ascii_whitespace().collect();
    let [_, _, host, port] = fields[..] else { return None };
    let user = user.filter(|user| !user.is_empty()).map(|user| format!("{user}@")).unwrap_or_default();
    let port = if port == "22" { String::new() } else { format!("-p {port} ") };
    Some(format!("{port}{user}{host}"))
}

fn output_lines(outputs: &[OutputStatus], ssh: Option<&str>) -> Vec<String> {
    let mut lines = Vec::new();
    for output in outputs {
        match output.kind.as_str() {
            "http" => {
                lines.push(format!("  Watch   {}", output.url));
                let address = output.url.trim_start_matches("http://").trim_end_matches('/');
                let port = address.rsplit(':').next().filter(|port| port.parse::<u16>().is_ok());
                if let (Some(ssh), Some(port)) = (ssh, port) {
                    lines.push(format!("          from your machine: ssh -N -L {port}:{address} {ssh}"));
                    // Browsers decode only on a secure origin, which localhost is.
                    lines.push(format!("          then open http://localhost:{port}/ there"));
                }
            }
            kind => {
                lines.push(format!("  {:7} {}", kind.to_uppercase(), output.url));
                if let Some(sdp) = &output.sdp {
                    lines.push(format!("  SDP     {sdp}"));
                    lines.push(format!("  Play    ffplay -protocol_whitelist file,udp,rtp -i {}", quoted(sdp)));
                }
            }
        }
    }
    lines
}

/// As a shell needs it.
fn quoted(text: &str) -> String {
    let plain = text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b));
    if plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_told_with_what_to_do_with_them() {
        let runtime = RuntimeDir::locate_in("/run/my quad".as_ref(), "default").unwrap();
        let outputs = configured_outputs(&Config::default(), &runtime);
        assert_eq!(
            output_lines(&outputs, ssh_target_of("10.0.0.2 5555 10.0.0.1 2222", Some("ann")).as_deref()),
            [
                "  RTP     rtp://127.0.0.1:5004",
                "  SDP     /run/my quad/default/net.main.sdp",
                "  Play    ffplay -protocol_whitelist file,udp,rtp -i '/run/my quad/default/net.main.sdp'",
                "  Watch   http://127.0.0.1:8080/",
                "          from your machine: ssh -N -L 8080:127.0.0.1:8080 -p 2222 ann@10.0.0.1",
                "          then open http://localhost:8080/ there",
            ]
        );
        assert_eq!(output_lines(&outputs, None).len(), 4);
        assert_eq!(ssh_target_of("10.0.0.2 5555 10.0.0.1 22", None).as_deref(), Some("10.0.0.1"));
        assert_eq!(ssh_target_of("garbage", None), None);
    }
}
