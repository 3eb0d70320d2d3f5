//! Instances made of stand-in kernels, in a runtime directory of their own, ended and removed also when a test fails.

use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use kernel_host::name::Kind;
use kernel_host::runtime::RuntimeDir;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shm_protocol::lease::{LeaseInfo, LeaseTable, start_time};
use shm_protocol::names;

/// One instance of stand-ins.
pub struct Instance {
    pub name: String,
    folder: tempfile::TempDir,
}

impl Instance {
    /// `tag` tells the tests of one run apart.
    pub fn new(tag: &str) -> Instance {
        let instance =
            Instance { name: format!("qc{tag}{}", std::process::id()), folder: tempfile::tempdir().unwrap() };
        let stand_in = Path::new(env!("CARGO_BIN_EXE_quadctl")).with_file_name("examples").join("stand-in-kernel");
        assert!(stand_in.exists(), "{} is missing: cargo build -p quadctl --examples", stand_in.display());
        std::fs::create_dir(instance.bin_dir()).unwrap();
        std::fs::create_dir(instance.orders()).unwrap();
        for kind in Kind::ALL {
            std::os::unix::fs::symlink(&stand_in, instance.bin_dir().join(kind.binary())).unwrap();
        }
        instance
    }

    pub fn bin_dir(&self) -> PathBuf {
        self.folder.path().join("bin")
    }

    fn orders(&self) -> PathBuf {
        self.folder.path().join("orders")
    }

    pub fn order(&self, what: &str, text: &str) {
        std::fs::write(self.orders().join(what), text).unwrap();
    }

    pub fn withdraw(&self, what: &str) {
        std::fs::remove_file(self.orders().join(what)).unwrap();
    }

    /// The runtime directory; XDG_RUNTIME_DIR is the folder.
    pub fn runtime(&self) -> RuntimeDir {
        RuntimeDir::locate_in(&self.folder.path().join("quad"), &self.name).unwrap()
    }

    /// Runs `quadctl` for this instance.
    pub fn quad(&self, line: &[&str]) -> Output {
        let output = self.command(line).output().unwrap();
        println!(
            "quad {}: {:?}\n{}{}",
            line.join(" "),
            output.status.code(),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }

    pub fn command(&self, line: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_quadctl"));
        command
            .args(line)
            .args(["--instance", &self.name])
            .env("XDG_RUNTIME_DIR", self.folder.path())
            .env("QUAD_BIN_DIR", self.bin_dir())
            .env("STAND_IN_DIR", self.orders())
            .env_remove("SSH_CONNECTION");
        command
    }

    /// `up` with ports of its own: any free one to listen on, and a destination that other tests do not use.
    pub fn up(&self, more: &[&str]) -> Output {
        self.quad(&[&self.up_line()[..], more].concat())
    }

    pub fn up_line(&self) -> [&'static str; 5] {
        ["up", "--set", "net.http.listen=127.0.0.1:0", "--set", "hang_timeout_ms=500"]
    }

    pub fn supervisor(&self) -> Option<u32> {
        kernel_host::status::supervisor_pid(&self.runtime().supervisor_pid())
    }

    /// The lease of a kernel.
    pub fn lease(&self, kernel: &str) -> Option<LeaseInfo> {
        let table = LeaseTable::observe(&self.name).ok()?;
        table.find(kernel).map(|index| table.info(index))
    }

    /// Its lease once a later epoch than `epoch` runs.
    pub fn next_epoch(&self, kernel: &str, epoch: u64) -> LeaseInfo {
        let found = wait(Duration::from_secs(10), || {
            self.lease(kernel).filter(|info| {
                info.epoch > epoch && info.held && info.state == shm_protocol::lease::KernelState::Running
            })
        });
        found.unwrap_or_else(|| panic!("No epoch after {epoch} of {kernel}; {}", self.log("supervisor")))
    }

    pub fn status(&self) -> (serde_json::Value, i32) {
        let output = self.quad(&["status", "--json"]);
        (serde_json::from_slice(&output.stdout).unwrap(), output.status.code().unwrap())
    }

    pub fn log(&self, of: &str) -> String {
        std::fs::read_to_string(self.runtime().path().join(format!("{of}.log"))).unwrap_or_default()
    }

    /// Every process that the stand-ins of a kernel had.
    pub fn starts(&self, kernel: &str) -> Vec<(u32, String)> {
        let text = std::fs::read_to_string(self.orders().join(format!("{kernel}.starts"))).unwrap_or_default();
        let split = |line: &str| {
            let (pid, rest) = line.split_once(' ').unwrap();
            (pid.parse().unwrap(), rest.to_owned())
        };
        text.lines().map(split).collect()
    }

    /// Nothing of it is left anywhere.
    pub fn assert_gone(&self) {
        assert_eq!(names::existing(&self.name), Vec::<String>::new());
        assert!(!self.runtime().path().exists(), "{:?}", std::fs::read_dir(self.runtime().path()).map(Iterator::count));
        let alive: Vec<u32> = self.all_pids().into_iter().filter(|pid| is_ours(*pid)).collect();
        assert_eq!(alive, Vec::<u32>::new());
    }

    fn all_pids(&self) -> Vec<u32> {
        Kind::ALL.iter().flat_map(|kind| self.starts(&format!("{kind}.main"))).map(|(pid, _)| pid).collect()
    }
}

/// A living process that is a stand-in: a number of an ended one may be somebody else's.
fn is_ours(pid: u32) -> bool {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    start_time(pid).is_some() && line.split('\0').next().is_some_and(|program| program.contains("/bin/kernel-"))
}

impl Drop for Instance {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("supervisor.log:\n{}", self.log("supervisor"));
        }
        self.quad(&["down"]);
        for pid in self.all_pids().into_iter().filter(|pid| is_ours(*pid)) {
            send(pid, Signal::SIGKILL);
        }
        names::existing(&self.name).iter().for_each(|name| names::unlink(name));
    }
}

/// Sends a signal to a process that this test has started.
pub fn send(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).unwrap();
}

/// What `look` finds within `limit`.
pub fn wait<T>(limit: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
    let began = Instant::now();
    loop {
        if let Some(found) = look() {
            return Some(found);
        }
        if began.elapsed() > limit {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Exit code and standard error of a command that must not have been killed.
pub fn code(output: &Output) -> i32 {
    assert_eq!(output.status.signal(), None);
    output.status.code().unwrap()
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

pub fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}
