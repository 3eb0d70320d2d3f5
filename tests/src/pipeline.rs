//! The four processes of one instance, started the way a supervisor starts them.

use crate::build::binaries;
use crate::tools::{finish, within};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use shm_protocol::lease::{LeaseTable, Removal};
use shm_protocol::names;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tempfile::TempDir;

/// Longest a healthy pipeline may take for anything that is waited for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// One of the four kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// Kernel A.
    Capture,
    /// Kernel B.
    Process,
    /// Kernel C.
    Encode,
    /// Kernel D.
    Net,
}

impl Part {
    /// All four, upstream first.
    pub const ALL: [Part; 4] = [Part::Capture, Part::Process, Part::Encode, Part::Net];

    /// Its binary.
    pub const fn binary(self) -> &'static str {
        match self {
            Part::Capture => "kernel-a-capture",
            Part::Process => "kernel-b-process",
            Part::Encode => "kernel-c-encode",
            Part::Net => "kernel-d-net",
        }
    }

    /// Its name in the status.
    pub const fn short(self) -> &'static str {
        match self {
            Part::Capture => "capture",
            Part::Process => "process",
            Part::Encode => "encode",
            Part::Net => "net",
        }
    }
}

/// Ports below those that the system gives to anybody who asks for none: a killed kernel's port must not be taken by
/// a stranger before its successor is there. Tests of other processes begin elsewhere.
fn ports() -> impl Iterator<Item = u16> {
    const FIRST: u32 = 10_000;
    const COUNT: u32 = 22_000;
    static NEXT: AtomicU32 = AtomicU32::new(0);
    std::iter::repeat_with(|| {
        let step = NEXT.fetch_add(2, Ordering::Relaxed);
        (FIRST + (std::process::id().wrapping_mul(97) + step) % COUNT) as u16 & !1
    })
}

/// A pair of UDP ports, the even one first, that nobody holds.
pub fn free_rtp_port() -> u16 {
    let free =
        |port: &u16| UdpSocket::bind(("0.0.0.0", *port)).is_ok() && UdpSocket::bind(("0.0.0.0", *port + 1)).is_ok();
    ports().find(free).unwrap()
}

/// A TCP port that nobody holds.
pub fn free_http_port() -> u16 {
    ports().find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// An instance of the system with its own name, runtime directory and ports. Dropping it ends every process by its
/// pid and removes every object, also when the test panics.
#[derive(Debug)]
pub struct Pipeline {
    instance: String,
    folder: TempDir,
    settings: Vec<String>,
    children: [Option<Child>; 4],
    /// Where RTP goes; RTCP goes to the next port.
    pub rtp_port: u16,
    /// Where the watch page is.
    pub http_port: u16,
}

impl Pipeline {
    /// An instance that sends to `rtp_port`, not started yet.
    pub fn new(label: &str, rtp_port: u16) -> Pipeline {
        // Built now: a receiver that is started next must not wait for the compiler.
        binaries();
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let http_port = free_http_port();
        let mut pipeline = Pipeline {
            instance: format!("systest-{label}-{}-{count}", std::process::id()),
            folder: tempfile::Builder::new().prefix("quad-").tempdir().unwrap(),
            settings: Vec::new(),
            children: [None, None, None, None],
            rtp_port,
            http_port,
        };
        pipeline.set("net.rtp.destination", &format!("127.0.0.1:{rtp_port}"));
        pipeline.set("net.http.listen", &format!("127.0.0.1:{http_port}"));
        // The one encoder of every build: what else a machine has installed must not change what is tested.
        pipeline.set("encode.backend", "openh264");
        pipeline
    }

    /// Adds a `--set` for all four.
    pub fn set(&mut self, key: &str, value: &str) -> &mut Pipeline {
        self.settings.push(format!("{key}={value}"));
        self
    }

    /// What is set, as KEY=VALUE.
    pub fn settings(&self) -> &[String] {
        &self.settings
    }

    /// Name of the instance.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// A folder for what the test needs, gone with the instance.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The instance's runtime directory.
    pub fn runtime(&self) -> PathBuf {
        self.folder().join("quad").join(&self.instance)
    }

    /// The session description that kernel D writes.
    pub fn sdp(&self) -> PathBuf {
        self.runtime().join("net.main.sdp")
    }

    /// What a kernel wrote to standard error, all its runs together.
    pub fn log(&self, part: Part) -> String {
        std::fs::read_to_string(self.log_path(part)).unwrap_or_default()
    }

    fn log_path(&self, part: Part) -> PathBuf {
        self.folder().join(format!("{}.log", part.short()))
    }

    /// The command line of a kernel of this instance.
    pub fn command(&self, part: Part) -> Command {
        let mut command = Command::new(binaries().join(part.binary()));
        command.env("XDG_RUNTIME_DIR", self.folder()).env_remove("NOTIFY_SOCKET").env_remove("QUAD_LOG");
        command.args(["--instance", &self.instance]);
        command.args(self.settings.iter().flat_map(|setting| ["--set", setting]));
        command
    }

    /// Starts one kernel.
    pub fn start(&mut self, part: Part) {
        let log = OpenOptions::new().create(true).append(true).open(self.log_path(part)).unwrap();
        let mut command = self.command(part);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        self.children[part as usize] = Some(child);
    }

    /// Starts all four, downstream first: what A captures first reaches the wire.
    pub fn start_all(&mut self) {
        for part in [Part::Net, Part::Encode, Part::Process] {
            self.start(part);
        }
        for part in [Part::Process, Part::Encode] {
            assert!(within(PATIENCE, || self.log(part).contains("Started")), "{}", self.log(part));
        }
        self.start(Part::Capture);
    }

    /// Process id of a kernel that was started.
    pub fn pid(&self, part: Part) -> u32 {
        self.children[part as usize].as_ref().unwrap().id()
    }

    /// Kills a kernel with SIGKILL and waits until it is gone.
    pub fn kill(&mut self, part: Part) {
        let mut child = self.children[part as usize].take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks a kernel to end with SIGTERM. `None`: it did not within `patience` and was killed.
    pub fn terminate(&mut self, part: Part, patience: Duration) -> Option<ExitStatus> {
        let mut child = self.children[part as usize].take().unwrap();
        let _ = kill(Pid::from_raw(child.id() as i32), Signal::SIGTERM);
        finish(&mut child, patience)
    }

    /// Waits for the end of a kernel. `None`: it went on beyond `patience` and was killed.
    pub fn wait(&mut self, part: Part, patience: Duration) -> Option<ExitStatus> {
        finish(&mut self.children[part as usize].take().unwrap(), patience)
    }

    /// Whether a kernel that was started still runs.
    pub fn alive(&mut self, part: Part) -> bool {
        self.children[part as usize].as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Ends all four in order and removes what they left; asserts exit code 0 and that nothing is left.
    pub fn stop(&mut self) {
        for part in Part::ALL {
            if self.children[part as usize].is_none() {
                continue;
            }
            let status = self.terminate(part, Duration::from_secs(5));
            assert_eq!(status.and_then(|s| s.code()), Some(0), "{part:?}: {}", self.log(part));
        }
        self.remove();
        assert_eq!(self.objects(), Vec::<String>::new());
    }

    /// The instance's objects in shared memory.
    pub fn objects(&self) -> Vec<String> {
        names::existing(&self.instance)
    }

    /// Removes the objects of an instance of which nothing lives, as the supervisor's `down` does.
    pub fn remove(&self) {
        let removal = LeaseTable::remove_if_dead(&self.instance).unwrap();
        assert!(matches!(removal, Removal::Removed(_)), "{removal:?}");
    }

    /// A GET from the watch page's server: status code and body. Extra header lines end in CRLF.
    pub fn get(&self, path: &str, host: Option<&str>, headers: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.http_port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let own = format!("127.0.0.1:{}", self.http_port);
        let host = host.unwrap_or(&own);
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Connection: close\r\n\r\n").ok()?;
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).ok()?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let code = text.split(' ').nth(1)?.parse().ok()?;
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        Some((code, body))
    }

    /// The status as JSON, as `GET /api/status` says it; `None` while kernel D does not answer.
    pub fn status(&self) -> Option<Value> {
        let (code, body) = self.get("/api/status", None, "")?;
        let json = &body[body.find('{')?..=body.rfind('}')?];
        (code == 200).then(|| serde_json::from_str(json).unwrap())
    }

    /// Waits until kernel D has put `frames` frames on the wire.
    pub fn wait_for_frames(&self, frames: u64) {
        let sent = || self.status().and_then(|s| s["kernels"]["net"]["frames"].as_u64()).unwrap_or(0);
        assert!(within(PATIENCE, || sent() >= frames), "{}", self.logs());
    }

    /// All four logs.
    pub fn logs(&self) -> String {
        Part::ALL.map(|part| format!("--- {}\n{}", part.short(), self.log(part))).concat()
    }

    /// Writes a file into the folder.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.folder().join(name);
        File::create(&path).unwrap().write_all(bytes).unwrap();
        path
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        for child in self.children.iter_mut().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        let _ = LeaseTable::remove_if_dead(&self.instance);
        if std::thread::panicking() {
            eprintln!("{}", self.logs());
        } else {
            assert_eq!(self.objects(), Vec::<String>::new());
        }
    }
}
