//! The four real binaries, started directly, as a user's machine would run them.

use crate::process::{Memory, cpu_ns, memory};
use crate::scratch::Scratch;
use anyhow::{Context, Result, bail, ensure};
use shm_protocol::lease::LeaseTable;
use shm_protocol::telemetry::{Snapshot, TelemetryReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// The kernels in the order of the chain: kind, binary.
pub const KERNELS: [(&str, &str); 4] = [
    ("capture", "kernel-a-capture"),
    ("process", "kernel-b-process"),
    ("encode", "kernel-c-encode"),
    ("net", "kernel-d-net"),
];
/// Index of kernel D.
pub const NET: usize = 3;

/// A running instance. Its processes end and its objects go with it.
pub struct Stand {
    scratch: Scratch,
    children: Vec<Child>,
}

/// Path of a kernel's binary: beside this one.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(path.exists(), "{} is not built; cargo build --release makes it", path.display());
    Ok(path)
}

impl Stand {
    /// Starts all four with `settings` ("key=value") over the defaults, sending to `port`.
    ///
    /// # Errors
    /// When a binary is missing.
    pub fn start(bench: &str, settings: &[String], port: u16) -> Result<Stand> {
        let mut stand = Stand { scratch: Scratch::new(bench)?, children: Vec::new() };
        let mut all = vec![
            format!("net.rtp.destination=127.0.0.1:{port}"),
            "net.http.enabled=false".to_owned(),
            "log.level=error".to_owned(),
        ];
        all.extend_from_slice(settings);
        for (_, name) in KERNELS {
            let mut command = Command::new(binary(name)?);
            command.args(["--instance", stand.scratch.instance()]).env("XDG_RUNTIME_DIR", stand.scratch.dir());
            for setting in &all {
                command.args(["--set", setting]);
            }
            stand.children.push(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context(name)?);
        }
        Ok(stand)
    }

    /// A directory that goes with it.
    pub fn dir(&self) -> &std::path::Path {
        self.scratch.dir()
    }

    /// Process id of a kernel.
    pub fn pid(&self, kernel: usize) -> u32 {
        self.children.get(kernel).map_or(0, Child::id)
    }

    /// CPU each kernel has used so far, ns.
    pub fn cpu_ns(&self) -> [u64; 4] {
        std::array::from_fn(|kernel| cpu_ns(self.pid(kernel)))
    }

    /// Memory of each kernel now.
    pub fn memory(&self) -> [Memory; 4] {
        std::array::from_fn(|kernel| memory(self.pid(kernel)))
    }

    /// What a kernel says of itself.
    pub fn telemetry(&self, kernel: usize) -> Option<Snapshot> {
        let name = format!("{}.main", KERNELS.get(kernel)?.0);
        let table = LeaseTable::observe(self.scratch.instance()).ok()?;
        let lease = table.kernels().into_iter().find(|lease| lease.kernel == name)?;
        Some(TelemetryReader::open(self.scratch.instance(), &name, lease.epoch)?.snapshot())
    }

    /// Fails when a kernel has ended.
    ///
    /// # Errors
    /// Naming the kernel and its exit.
    pub fn check(&mut self) -> Result<()> {
        for (child, (_, name)) in self.children.iter_mut().zip(KERNELS) {
            if let Some(status) = child.try_wait()? {
                bail!("{name} ended with {status}");
            }
        }
        Ok(())
    }
}

impl Drop for Stand {
    fn drop(&mut self) {
        use nix::sys::signal::{Signal, kill};
        for child in &self.children {
            let _ = kill(nix::unistd::Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        }
        // In order takes milliseconds; what does not end by then is killed.
        const PATIENCE: Duration = Duration::from_secs(3);
        let until = std::time::Instant::now() + PATIENCE;
        for child in &mut self.children {
            while matches!(child.try_wait(), Ok(None)) {
                if std::time::Instant::now() > until {
                    let _ = child.kill();
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
