//! The instance under attack: started, looked at and hit from outside, as an operator or fate would.

use anyhow::{Context as _, Result, bail};
use kernel_host::runtime::RuntimeDir;
use kernel_host::status::supervisor_pid;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use shm_protocol::lease::{KernelState, LeaseInfo, LeaseTable};
use shm_protocol::names;
use shm_protocol::observe::{RingObserver, RingStatus};
use shm_protocol::slot::{Key, SlotWord};
use shm_protocol::telemetry::{Counter, TelemetryReader};
use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;
use system_tests::build::{binaries, root};
use system_tests::pipeline::Part;
use system_tests::quad::said;
use system_tests::tools::within;

/// Rings that must be empty at the end.
pub const RINGS: [&str; 3] = ["capture.main", "process.main", "encode.main"];
/// The second reader of the access units.
pub const SECOND_READER: &str = "net.web";

/// The lease of a kernel.
pub fn lease(part: Part) -> String {
    format!("{}.main", part.short())
}

/// A process that a signal reaches and no other, whatever becomes of its number.
#[derive(Debug)]
pub struct Victim {
    /// Its number.
    pub pid: u32,
    /// The epoch in which it held its lease.
    pub epoch: u64,
    fd: OwnedFd,
}

impl Victim {
    /// Kills it and waits until it is gone.
    pub fn end(&self) {
        self.signal(Signal::KILL);
        within(Duration::from_secs(5), || ended(&self.fd));
    }

    /// Sends a signal; one that has ended has none to get.
    pub fn signal(&self, signal: Signal) {
        let _ = pidfd_send_signal(&self.fd, signal);
    }
}

/// Whether a process has ended, also while nobody has collected it: its descriptor is readable then (pidfd_open(2)).
fn ended(fd: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    matches!(poll(&mut fds, PollTimeout::ZERO), Ok(1))
}

fn open(pid: u32, epoch: u64) -> Option<Victim> {
    let raw = rustix::process::Pid::from_raw(i32::try_from(pid).ok()?)?;
    Some(Victim { pid, epoch, fd: pidfd_open(raw, PidfdFlags::empty()).ok()? })
}

/// The instance.
pub struct Instance {
    name: String,
    folder: PathBuf,
    sets: Vec<String>,
    table: Option<Arc<LeaseTable>>,
    /// Frames that each epoch of kernel A could not take in.
    missed: BTreeMap<u64, u64>,
}

impl Instance {
    /// One that is not started yet, with its runtime directory in `folder`.
    pub fn new(name: String, folder: &Path, sets: Vec<String>) -> Instance {
        Instance { name, folder: folder.to_owned(), sets, table: None, missed: BTreeMap::new() }
    }

    /// Adds a setting for later starts.
    pub fn set(&mut self, set: &str) {
        self.sets.push(set.to_owned());
    }

    /// `scripts/quad` with these arguments for this instance.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn quad(&self, arguments: &[&str]) -> Result<Output> {
        let mut command = Command::new(root().join("scripts/quad"));
        command.args(arguments).args(["--instance", &self.name]).stdin(Stdio::null());
        command.env("QUAD_BIN_DIR", binaries()).env("XDG_RUNTIME_DIR", &self.folder);
        command.env_remove("QUAD_LOG").env_remove("NOTIFY_SOCKET");
        command.output().context("Cannot run scripts/quad")
    }

    /// `quad` that must succeed.
    ///
    /// # Errors
    /// With what it said.
    pub fn command(&self, arguments: &[&str]) -> Result<String> {
        let output = self.quad(arguments)?;
        if !output.status.success() {
            bail!("quad {} ended with {}: {}", arguments.join(" "), output.status, said(&output).trim());
        }
        Ok(said(&output))
    }

    /// Starts it, or a supervisor that adopts what lives.
    ///
    /// # Errors
    /// With what `up` said.
    pub fn up(&mut self) -> Result<()> {
        let mut arguments = vec!["up"];
        arguments.extend(self.sets.iter().flat_map(|set| ["--set", set.as_str()]));
        self.command(&arguments)?;
        if self.table.is_none() {
            self.table = Some(LeaseTable::observe(&self.name)?);
        }
        Ok(())
    }

    /// The runtime directory.
    pub fn runtime(&self) -> Result<RuntimeDir> {
        Ok(RuntimeDir::locate_in(&self.folder.join("quad"), &self.name)?)
    }

    /// The lease record of a kernel.
    pub fn info(&self, lease: &str) -> Option<LeaseInfo> {
        let table = self.table.as_ref()?;
        table.find(lease).map(|index| table.info(index))
    }

    /// The process that holds a lease now.
    pub fn holder(&self, lease: &str) -> Option<Victim> {
        let info = self.info(lease).filter(|info| info.held)?;
        let victim = open(info.pid, info.epoch)?;
        // The number was its own when the descriptor was opened if it still holds the lease.
        let still = self.info(lease).is_some_and(|now| now.held && (now.pid, now.epoch) == (info.pid, info.epoch));
        // Held and ended: the record is still the predecessor's.
        (still && !ended(&victim.fd)).then_some(victim)
    }

    /// The same, after as long as a start may take.
    ///
    /// # Errors
    /// When nobody holds it by then.
    pub fn wait_for_holder(&self, lease: &str, other_than: u32) -> Result<Victim> {
        let mut found = None;
        let patience = Duration::from_secs(20);
        within(patience, || {
            found = self.holder(lease).filter(|victim| victim.pid != other_than);
            found.is_some()
        });
        found.with_context(|| {
            let now = self.info(lease);
            format!(
                "Nobody but process {other_than} holds the lease of {lease} within {} s: {now:?}",
                patience.as_secs()
            )
        })
    }

    /// The supervisor.
    pub fn supervisor(&self) -> Option<Victim> {
        open(supervisor_pid(&self.runtime().ok()?.supervisor_pid())?, 0)
    }

    /// Whether a kernel is at work in `epoch` or a later one and has made frames in it.
    pub fn works(&self, lease: &str, epoch: u64) -> bool {
        self.info(lease).is_some_and(|info| {
            info.held && info.state == KernelState::Running && info.epoch >= epoch && {
                TelemetryReader::open(&self.name, lease, info.epoch).is_some_and(|page| page.snapshot().frames > 0)
            }
        })
    }

    /// Whether every standby that is configured waits for its turn.
    pub fn has_standby(&self, part: Part) -> bool {
        self.info(&lease(part)).is_some_and(|info| info.candidate_ready && info.candidate_pid != 0)
    }

    /// A ring as it is now.
    pub fn ring(&self, ring: &str) -> Result<RingStatus> {
        Ok(RingObserver::open(&self.name, ring)?.status())
    }

    /// Every slot of a ring, for people.
    pub fn slots(&self, ring: &str) -> Vec<String> {
        let slots = RingObserver::open(&self.name, ring).map(|ring| ring.slots()).unwrap_or_default();
        let line = |(slot, (state, key)): (usize, (SlotWord, Key))| format!("{slot:2} {state:?} key {key:?}");
        slots.into_iter().enumerate().map(line).collect()
    }

    /// Frames that were dropped, by what the pipeline itself counts.
    pub fn dropped(&mut self) -> u64 {
        if let Some(info) = self.info(&lease(Part::Capture))
            && let Some(page) = TelemetryReader::open(&self.name, &info.kernel, info.epoch)
        {
            self.missed.insert(info.epoch, page.snapshot().counter(Counter::CaptureMissed));
        }
        let revoked: u64 = RINGS.iter().filter_map(|ring| self.ring(ring).ok()).map(|ring| ring.revoked).sum();
        revoked + self.missed.values().sum::<u64>()
    }

    /// Objects of the instance in shared memory.
    pub fn objects(&self) -> Vec<String> {
        names::existing(&self.name)
    }

    /// Processes whose command line names the instance.
    pub fn processes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let mut words = line.split(|byte| *byte == 0);
            if words.any(|word| word == self.name.as_bytes()) {
                let text = String::from_utf8_lossy(&line).replace('\0', " ");
                found.push(format!("{} {}", entry.file_name().to_string_lossy(), text.trim()));
            }
        }
        found
    }

    /// Everything that tells why a stream stands still.
    pub fn autopsy(&self) -> String {
        let mut text = String::new();
        for line in self.processes() {
            let pid = line.split(' ').next().unwrap_or_default();
            let read = |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let state = read("status").lines().find(|line| line.starts_with("State:")).unwrap_or_default().to_owned();
            text += &format!("{}\n    {state} wchan {}\n", &line[..line.len().min(120)], read("wchan"));
        }
        for lease in ["capture.main", "process.main", "encode.main", "net.main", SECOND_READER] {
            text += &format!("{lease}: {:?}\n", self.info(lease));
        }
        for ring in RINGS {
            text += &format!("ring {ring}: {:?}\n    {}\n", self.ring(ring), self.slots(ring).join("\n    "));
        }
        if let Ok(status) = self.quad(&["status", "--json"]) {
            text += &String::from_utf8_lossy(&status.stdout);
        }
        text
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        let _ = self.quad(&["down"]);
    }
}
