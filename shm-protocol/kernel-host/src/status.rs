//! What an instance does now: the JSON of `quad status --json` and of `GET /api/status`, made from shared memory alone.
//!
//! Nothing here fails: a part that is missing or half made is left out or shown as such.

mod counters;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use serde::ser::SerializeMap as _;
use serde::{Deserialize, Serialize, Serializer};
use shm_protocol::clock::monotonic_ns;
use shm_protocol::lease::{KernelState, LeaseInfo, LeaseTable};
use shm_protocol::observe::RingObserver;
use shm_protocol::telemetry::{Measure, Percentiles, Snapshot, TelemetryReader};

use crate::config::Config;
use crate::name::{KernelName, Kind};
use crate::runtime::RuntimeDir;
use crate::swaps::{Swapped, Swaps};

use counters::COUNTERS;

/// Milliseconds without a beat after which a kernel counts as hung when no configuration says: the default of
/// `hang_timeout_ms`.
const HANG_TIMEOUT_MS: u32 = 2000;

/// What a kernel instance does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// At work.
    Running,
    /// Holds the lease and repairs what its predecessor left.
    Recovering,
    /// A process of it is alive and has not got the lease yet, or the supervisor is about to start one.
    Starting,
    /// Ended on request, or never started.
    Stopped,
    /// Its process is gone without having said so.
    Dead,
    /// Its process lives and gives no sign of life.
    Hung,
}

impl State {
    /// The word in the JSON.
    pub const fn name(self) -> &'static str {
        match self {
            State::Running => "running",
            State::Recovering => "recovering",
            State::Starting => "starting",
            State::Stopped => "stopped",
            State::Dead => "dead",
            State::Hung => "hung",
        }
    }
}

/// What the instance as a whole does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Overall {
    /// Every kernel runs.
    Running,
    /// Some kernel does not.
    Degraded,
    /// No kernel has a process.
    Stopped,
}

impl Overall {
    /// Exit code of `quad status`.
    pub const fn exit_code(self) -> u8 {
        match self {
            Overall::Running => 0,
            Overall::Degraded => 1,
            Overall::Stopped => 2,
        }
    }
}

/// One kernel instance.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct KernelStatus {
    /// Its process; 0 before the first.
    pub pid: u32,
    /// What it does.
    pub state: State,
    /// Epoch of the present or last process.
    pub epoch: u64,
    /// Version of its binary; empty before the first.
    pub version: String,
    /// Processes before this one that died or were restarted.
    pub restarts: u64,
    /// Processes before this one that handed over in a swap.
    pub swaps: u64,
    /// What does the work: "pattern", "cpu", "openh264", "udp".
    pub backend: String,
    /// Cpus it is pinned to.
    pub cpus: Vec<usize>,
    /// CPU time, percent of one core over the last second.
    pub cpu_percent: f64,
    /// Frames a second over the last second.
    pub fps: f64,
    /// Frames done in this epoch.
    pub frames: u64,
    /// Frames given up in this epoch.
    pub dropped: u64,
    /// Errors that cost something in this epoch.
    pub errors: u64,
    /// Milliseconds since its last sign of life; `None` when it is not alive.
    pub heartbeat_age_ms: Option<u64>,
    /// A process that waits to take over.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub standby_pid: Option<u32>,
    /// Codec, of an encoder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub codec: Option<String>,
    /// How pixels or packets take their way, where the kernel says.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// A sentence for the operator: a fallback, a degraded state.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Further counters that are not zero.
    #[serde(serialize_with = "as_map")]
    pub counters: Vec<(&'static str, u64)>,
}

/// One consumer of a ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReaderStatus {
    /// Kernel instance.
    pub kernel: String,
    /// Whether the ring holds back for it.
    pub required: bool,
    /// Whether it is attached.
    pub active: bool,
    /// Slots it owes.
    pub owed: usize,
    /// Slots it has taken.
    pub held: usize,
    /// Slots it missed.
    pub skipped: u64,
    /// Whether it bridges a restart or catches up.
    pub bridging: bool,
}

/// One ring.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RingStatus {
    /// Active slots.
    pub slots: usize,
    /// Slots published and not yet free.
    pub ready: usize,
    /// Slots being written.
    pub writing: usize,
    /// Slots that a device may still write.
    pub quarantined: usize,
    /// Source id of the last frame published.
    pub last_frame_id: u64,
    /// Frames published.
    pub published: u64,
    /// Frames dropped.
    pub dropped: u64,
    /// Tombstones published.
    pub tombstones: u64,
    /// "pixels" or "access units".
    pub content: &'static str,
    /// Consumers.
    pub readers: Vec<ReaderStatus>,
}

/// Percentiles over the last 10 s, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Latency {
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
    /// Samples they are made of.
    pub count: usize,
    /// Time queued before the stage; `None` for what is no stage.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait_us: Option<WaitLatency>,
}

/// Percentiles of the time a frame was queued before a stage, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct WaitLatency {
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
    /// 99th percentile.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

/// One output, as kernel D describes it in `outputs.<kernel>.json` of the runtime directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputStatus {
    /// "rtp", "http", "rdp", "srt", "record".
    pub kind: String,
    /// Where it is to be had.
    pub url: String,
    /// Path of its session description.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sdp: Option<String>,
    /// Codec on the wire, once something was sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub codec: Option<String>,
    /// A sentence for viewers: the codec changed under them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl OutputStatus {
    /// An output of which no more is known.
    pub fn new(kind: &str, url: String) -> OutputStatus {
        OutputStatus { kind: kind.to_owned(), url, sdp: None, codec: None, note: None }
    }
}

/// Where a browser on this machine finds the page of a listener: one that takes every address has none of its own.
pub fn watch_url(mut listen: SocketAddr) -> String {
    if listen.ip().is_unspecified() {
        listen.set_ip(if listen.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() });
    }
    format!("http://{listen}/")
}

/// The supervisor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct SupervisorStatus {
    /// Its process.
    pub pid: u32,
}

/// An instance at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Status {
    /// Its name.
    pub instance: String,
    /// What it does as a whole.
    pub state: Overall,
    /// The supervisor; `None` when none lives.
    pub supervisor: Option<SupervisorStatus>,
    /// Kernel instances by their short names, upstream first.
    #[serde(serialize_with = "as_map")]
    pub kernels: Vec<(String, KernelStatus)>,
    /// Rings by the kernel that writes them.
    #[serde(serialize_with = "as_map")]
    pub rings: Vec<(String, RingStatus)>,
    /// Latencies: `capture_to_wire`, then each kernel.
    #[serde(serialize_with = "as_map")]
    pub latency_us: Vec<(String, Latency)>,
    /// Outputs of all net instances.
    pub outputs: Vec<OutputStatus>,
}

/// Writes pairs as an object in their order.
fn as_map<S: Serializer, K: Serialize, V: Serialize>(pairs: &[(K, V)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(pairs.len()))?;
    for (key, value) in pairs {
        map.serialize_entry(key, value)?;
    }
    map.end()
}

impl Status {
    /// One kernel by its short name ("encode", "encode.web").
    pub fn kernel(&self, short: &str) -> Option<&KernelStatus> {
        self.kernels.iter().find(|(name, _)| name == short).map(|(_, kernel)| kernel)
    }

    /// A latency by its name ("capture_to_wire", "encode").
    pub fn latency(&self, name: &str) -> Option<&Latency> {
        self.latency_us.iter().find(|(known, _)| known == name).map(|(_, latency)| latency)
    }

    /// The JSON of `quad status --json`, on one line.
    pub fn to_json(&self) -> String {
        // Texts, numbers and lists of them: there is nothing in it that JSON cannot say.
        serde_json::to_string(self).unwrap_or_default()
    }

    /// The same, for people.
    pub fn to_json_pretty(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

/// Looks at an instance. With a configuration, kernels that never started are shown too and its `hang_timeout_ms`
/// counts; with a runtime directory, the outputs and the supervisor. Takes well under 2 ms, changes nothing.
pub fn collect(instance: &str, config: Option<&Config>, runtime: Option<&RuntimeDir>) -> Status {
    let table = LeaseTable::observe(instance).ok();
    let leases = table.map(|table| table.kernels()).unwrap_or_default();
    let supervisor = runtime.and_then(|r| supervisor_pid(&r.supervisor_pid()));
    let mut names: Vec<KernelName> = config.map(Config::kernels).unwrap_or_default();
    names.extend(leases.iter().filter_map(|lease| lease.kernel.parse().ok()));
    names.sort_by_key(|kernel: &KernelName| (kernel.kind, !kernel.is_main(), kernel.name.clone()));
    names.dedup();
    let swaps = runtime.map(|runtime| Swaps::load(&runtime.swaps())).unwrap_or_default();
    let hang_ns = u64::from(config.map_or(HANG_TIMEOUT_MS, |c| c.hang_timeout_ms)) * 1_000_000;

    let mut status = Status {
        instance: instance.to_owned(),
        state: Overall::Stopped,
        supervisor: supervisor.map(|pid| SupervisorStatus { pid }),
        kernels: Vec::new(),
        rings: Vec::new(),
        latency_us: Vec::new(),
        outputs: Vec::new(),
    };
    let mut stages = Vec::new();
    for name in &names {
        let kernel = name.to_string();
        let lease = leases.iter().find(|lease| lease.kernel == kernel);
        let page = lease.and_then(|l| TelemetryReader::open(instance, &kernel, l.epoch)).map(|page| page.snapshot());
        let state = state_of(lease, hang_ns, supervisor.is_some());
        status.kernels.push((name.short(), kernel_status(name, lease, page.as_ref(), state, &swaps.of(name))));
        if name.kind != Kind::Net
            && let Ok(ring) = RingObserver::open(instance, &kernel)
        {
            status.rings.push((ring_key(name), ring_status(&ring.status())));
        }
        let measure = |m| page.as_ref().map_or_else(Percentiles::default, |p| p.measure(m));
        if name.kind == Kind::Net {
            let key =
                if name.is_main() { "capture_to_wire".to_owned() } else { format!("capture_to_wire.{}", name.name) };
            status.latency_us.push((key, latency(measure(Measure::CaptureToWire), None)));
        }
        stages.push((name.short(), latency(measure(Measure::Work), Some(measure(Measure::Wait)))));
        if name.kind == Kind::Net
            && let Some(runtime) = runtime
        {
            status.outputs.extend(outputs(&runtime.path().join(outputs_file(name))));
        }
    }
    status.latency_us.extend(stages);
    status.state = overall(status.kernels.iter().map(|(_, kernel)| kernel.state));
    status
}

/// File name in the runtime directory under which a net instance lists its outputs, a JSON list of [`OutputStatus`].
pub fn outputs_file(net: &KernelName) -> String {
    format!("outputs.{net}.json")
}

/// The process that holds the lock on the supervisor's pid file; `None` when no supervisor lives. The lock, not the
/// number, says so: a pid may be another process's by now.
pub fn supervisor_pid(pid_file: &Path) -> Option<u32> {
    let file = File::open(pid_file).ok()?;
    let mut probe =
        libc::flock { l_type: libc::F_RDLCK as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut probe)).ok()?;
    if i32::from(probe.l_type) == libc::F_UNLCK {
        return None;
    }
    std::fs::read_to_string(pid_file).ok()?.trim().parse().ok()
}

/// The key of a ring: pixel rings by the short name, encoders' rings always with the instance.
fn ring_key(kernel: &KernelName) -> String {
    if kernel.kind == Kind::Encode { kernel.to_string() } else { kernel.short() }
}

fn overall(states: impl Iterator<Item = State>) -> Overall {
    let (mut all, mut any) = (true, false);
    for state in states {
        all &= state == State::Running;
        any |= matches!(state, State::Running | State::Recovering | State::Starting | State::Hung);
    }
    match (any, all) {
        (true, true) => Overall::Running,
        (true, false) => Overall::Degraded,
        (false, _) => Overall::Stopped,
    }
}

fn state_of(lease: Option<&LeaseInfo>, hang_ns: u64, supervised: bool) -> State {
    let Some(lease) = lease else { return if supervised { State::Starting } else { State::Stopped } };
    if lease.held {
        let silent_ns = monotonic_ns().saturating_sub(lease.heartbeat_ns);
        return match lease.state {
            // A holder that said goodbye beats no more; its process is about to be gone.
            KernelState::Stopped => State::Stopped,
            _ if silent_ns > hang_ns => State::Hung,
            KernelState::Running => State::Running,
            KernelState::Recovering | KernelState::Absent => State::Recovering,
        };
    }
    let successor = lease.candidate_pid != 0 && lease.candidate_pid != lease.pid && is_alive(lease.candidate_pid);
    match lease.state {
        _ if successor => State::Starting,
        KernelState::Absent => State::Starting,
        KernelState::Stopped => State::Stopped,
        KernelState::Running | KernelState::Recovering => State::Dead,
    }
}

fn is_alive(pid: u32) -> bool {
    // No signal is sent; the call only says whether there is somebody to send one to.
    i32::try_from(pid).is_ok_and(|pid| nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None).is_ok())
}

fn kernel_status(
    name: &KernelName,
    lease: Option<&LeaseInfo>,
    page: Option<&Snapshot>,
    state: State,
    swapped: &Swapped,
) -> KernelStatus {
    let text = |text: Option<&String>| text.filter(|t| !t.is_empty()).cloned();
    let epoch = lease.map_or(0, |l| l.epoch);
    let held = lease.is_some_and(|l| l.held);
    KernelStatus {
        pid: lease.map_or(0, |l| l.pid),
        state,
        epoch,
        version: page.map(|p| p.version.clone()).unwrap_or_default(),
        restarts: epoch.saturating_sub(1).saturating_sub(swapped.count).saturating_sub(swapped.failed_epochs),
        swaps: swapped.count.min(epoch.saturating_sub(1)),
        backend: page.map(|p| p.backend.clone()).unwrap_or_default(),
        cpus: page.map(|p| p.cpus.clone()).unwrap_or_default(),
        // What a dead process used last is no use of now.
        cpu_percent: page.filter(|_| held).map_or(0.0, |p| rounded(p.cpu_percent)),
        fps: page.filter(|_| held).map_or(0.0, |p| rounded(p.fps)),
        frames: page.map_or(0, |p| p.frames),
        dropped: page.map_or(0, |p| p.dropped),
        errors: page.map_or(0, |p| p.errors),
        heartbeat_age_ms: lease.filter(|l| l.held).map(|l| monotonic_ns().saturating_sub(l.heartbeat_ns) / 1_000_000),
        standby_pid: lease.filter(|l| l.held && l.candidate_ready).map(|l| l.candidate_pid),
        codec: text(page.map(|p| &p.codec)).filter(|_| name.kind == Kind::Encode),
        path: text(page.map(|p| &p.path)),
        message: text(page.map(|p| &p.message)),
        counters: COUNTERS
            .iter()
            .map(|(counter, name)| (*name, page.map_or(0, |p| p.counter(*counter))))
            .filter(|(_, value)| *value != 0)
            .collect(),
    }
}

fn ring_status(ring: &shm_protocol::observe::RingStatus) -> RingStatus {
    RingStatus {
        slots: ring.slots,
        ready: ring.ready,
        writing: ring.writing,
        quarantined: ring.quarantined,
        last_frame_id: ring.last_frame_id,
        published: ring.published,
        dropped: ring.revoked,
        tombstones: ring.tombstones,
        content: if ring.access_units { "access units" } else { "pixels" },
        readers: ring
            .roles
            .iter()
            .map(|role| ReaderStatus {
                kernel: role.kernel.clone(),
                required: role.required,
                active: role.active,
                owed: role.owed,
                held: role.held,
                skipped: role.skipped,
                bridging: role.bridging,
            })
            .collect(),
    }
}

fn latency(work: Percentiles, wait: Option<Percentiles>) -> Latency {
    Latency {
        p50: work.p50,
        p95: work.p95,
        p99: work.p99,
        max: work.max,
        count: work.count,
        wait_us: wait.map(|w| WaitLatency { p50: w.p50, p95: w.p95, p99: w.p99, max: w.max }),
    }
}

fn outputs(path: &Path) -> Vec<OutputStatus> {
    let text = std::fs::read(path).unwrap_or_default();
    serde_json::from_slice(&text).unwrap_or_default()
}

/// Two decimals say all that the measurement does.
fn rounded(value: f64) -> f64 {
    (value * 100.0).round() / 100.0
}
