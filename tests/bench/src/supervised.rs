//! An instance as users run it: under `quadctl`, its supervisor.

use crate::scratch::Scratch;
use crate::stand::binary;
use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shm_protocol::clock::monotonic_ns;
use shm_protocol::lease::{LeaseInfo, LeaseTable};
use shm_protocol::observe::{RingObserver, RingStatus};
use shm_protocol::telemetry::{Snapshot, TelemetryReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What any step may take on a busy machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A running instance. It is taken down with the value.
pub struct Supervised {
    table: Arc<LeaseTable>,
    quadctl: PathBuf,
    scratch: Scratch,
}

/// The name in the lease table.
fn lease(kind: &str) -> String {
    format!("{kind}.main")
}

impl Supervised {
    /// `quad up` with `settings` ("key=value"), sending to `port`; returns with the first frame.
    ///
    /// # Errors
    /// What `quad up` said.
    pub fn start(bench: &str, settings: &[String], port: u16) -> Result<Supervised> {
        let (scratch, quadctl) = (Scratch::new(bench)?, binary("quadctl")?);
        let mut all = vec![format!("net.rtp.destination=127.0.0.1:{port}"), "log.level=warn".to_owned()];
        all.extend_from_slice(settings);
        let mut arguments = vec!["up"];
        all.iter().for_each(|setting| arguments.extend(["--set", setting]));
        if let Err(error) = call(&quadctl, &scratch, &arguments) {
            let _ = call(&quadctl, &scratch, &["down"]);
            return Err(error);
        }
        let table = LeaseTable::observe(scratch.instance())?;
        Ok(Supervised { table, quadctl, scratch })
    }

    /// A command of `quad` on this instance.
    ///
    /// # Errors
    /// What it said.
    pub fn quad(&self, arguments: &[&str]) -> Result<()> {
        call(&self.quadctl, &self.scratch, arguments)
    }

    /// The lease record of a kernel.
    ///
    /// # Errors
    /// When it has none.
    pub fn info(&self, kind: &str) -> Result<LeaseInfo> {
        let name = lease(kind);
        let index = self.table.find(&name).with_context(|| format!("{name} has no lease"))?;
        Ok(self.table.info(index))
    }

    /// SIGKILL to the process at work; returns when, CLOCK_MONOTONIC, nanoseconds.
    ///
    /// # Errors
    /// When there is none.
    pub fn kill(&self, kind: &str) -> Result<u64> {
        let at_ns = monotonic_ns();
        let epoch = self.info(kind)?.epoch;
        ensure!(self.table.kill_holder(&lease(kind), epoch), "{kind} does not run");
        Ok(at_ns)
    }

    /// Waits until a process of an epoch after `epoch` is at work, and, with `standby`, another one waits behind it.
    ///
    /// # Errors
    /// When that takes too long.
    pub fn wait_for_successor(&self, kind: &str, epoch: u64, standby: bool) -> Result<()> {
        let until = Instant::now() + PATIENCE;
        loop {
            let info = self.info(kind)?;
            if info.held && info.epoch > epoch && (!standby || info.candidate_ready) {
                return Ok(());
            }
            ensure!(Instant::now() < until, "{kind} did not come back: {info:?}");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// What the process at work says of itself.
    pub fn telemetry(&self, kind: &str) -> Option<Snapshot> {
        let epoch = self.info(kind).ok()?.epoch;
        Some(TelemetryReader::open(self.scratch.instance(), &lease(kind), epoch)?.snapshot())
    }

    /// Makes the next frame an IDR.
    ///
    /// # Errors
    /// When the encoder has no ring.
    pub fn request_idr(&self) -> Result<()> {
        RingObserver::open(self.scratch.instance(), &lease("encode"))?.requester().request_idr();
        Ok(())
    }

    /// The ring of a kernel now.
    ///
    /// # Errors
    /// When it has none.
    pub fn ring(&self, kind: &str) -> Result<RingStatus> {
        Ok(RingObserver::open(self.scratch.instance(), &lease(kind))?.status())
    }

    /// Ends the capture, so that what is under way runs out.
    ///
    /// # Errors
    /// When it does not run.
    pub fn end_capture(&self) -> Result<()> {
        kill(Pid::from_raw(self.info("capture")?.pid as i32), Signal::SIGTERM)?;
        Ok(())
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        if let Err(error) = self.quad(&["down"]) {
            eprintln!("{error:#}");
        }
    }
}

fn call(quadctl: &PathBuf, scratch: &Scratch, arguments: &[&str]) -> Result<()> {
    let mut command = Command::new(quadctl);
    command.args(arguments).args(["--instance", scratch.instance()]).env("XDG_RUNTIME_DIR", scratch.dir());
    command.env_remove("QUAD_LOG").env_remove("NOTIFY_SOCKET");
    let output = command.stdin(Stdio::null()).output().context("quadctl")?;
    if output.status.success() {
        return Ok(());
    }
    bail!("quad {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr).trim())
}
