//! Telemetry pages: what each kernel counts and measures, for whoever wants to look. One page an epoch,
//! written by its kernel alone, never read back by it; losing one loses numbers and nothing else.
#![expect(unsafe_code, reason = "a reference to atomics in shared memory")]

use crate::attach::{load_text, store_text};
use crate::clock::monotonic_ns;
use crate::error::ObjectError;
use crate::names;
use crate::sync::{AtomicU64, Ordering};
use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use shared_memory::{Shmem, ShmemConf};

/// "QUADTELE" in memory order.
const MAGIC: u64 = u64::from_le_bytes(*b"QUADTELE");
/// Samples of one measure: 10 s at 400 frames a second.
pub const SAMPLES: usize = 4096;
/// Latencies cover so much of the past.
pub const WINDOW_NS: u64 = 10_000_000_000;
/// Named counters beside the common ones.
pub const COUNTERS: usize = 32;

/// What is measured of each frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Measure {
    /// The stage's own work.
    Work = 0,
    /// The time the frame was queued before it.
    Wait = 1,
    /// From capture to the frame's last packet (kernel D).
    CaptureToWire = 2,
}

const MEASURES: usize = 3;

/// Counters beside the common ones; a kernel uses those that mean something to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum Counter {
    /// Bytes of access units made or sent.
    Bytes = 0,
    /// Packets sent.
    Packets = 1,
    /// System calls that sent them.
    SendCalls = 2,
    /// Packet indices given up after a restart.
    BurnedPackets = 3,
    /// Packets the system would not take.
    PacketsDropped = 4,
    /// Browser viewers now.
    Viewers = 5,
    /// Access units that a slow viewer missed.
    ViewerDrops = 6,
    /// IDRs made.
    Idrs = 7,
    /// IDRs asked for by viewers.
    IdrRequests = 8,
    /// Pixel bytes copied by our own code.
    CopiedBytes = 9,
    /// Frames passed by reference.
    ByReference = 10,
    /// Tombstones.
    Tombstones = 11,
    /// Target bitrate, kbit/s.
    TargetKbps = 12,
    /// Bitrate of the last second, kbit/s.
    Kbps = 13,
    /// Receiver reports heard.
    ReceiverReports = 14,
    /// Fraction lost as the last receiver report says, in 1/256.
    FractionLost = 15,
    /// Round-trip time by the last receiver report, µs.
    RoundTripUs = 16,
    /// Bytes of pools mapped.
    PoolBytes = 17,
    /// Frames waiting before this kernel now.
    Backlog = 18,
    /// CLOCK_MONOTONIC of the first frame on the wire, ns.
    FirstOnWireNs = 19,
    /// Source frames that were never captured because no slot was free.
    CaptureMissed = 20,
}

#[repr(C, align(64))]
struct Page {
    magic: AtomicU64,
    epoch: AtomicU64,
    pid: AtomicU64,
    started_ns: AtomicU64,
    cpu_mask: AtomicU64,
    reserved: [AtomicU64; 3],
    frames: AtomicU64,
    dropped: AtomicU64,
    errors: AtomicU64,
    /// Frames a second, times 1000, over the last whole second.
    fps_milli: AtomicU64,
    /// CPU of this process in 1/1000 of a core over the last whole second.
    cpu_milli: AtomicU64,
    last_frame_ns: AtomicU64,
    reserved2: [AtomicU64; 2],
    backend: [AtomicU64; 4],
    codec: [AtomicU64; 4],
    path: [AtomicU64; 16],
    message: [AtomicU64; 32],
    counters: [AtomicU64; COUNTERS],
    /// Samples written so far, of each measure.
    written: [AtomicU64; 8],
    /// High half: milliseconds of CLOCK_MONOTONIC; low half: the value in units of 100 ns.
    samples: [[AtomicU64; SAMPLES]; MEASURES],
}

const PAGE_BYTES: usize = size_of::<Page>();

struct Mapped {
    shmem: Shmem,
}

// SAFETY: the mapping is only reached through the atomics of `Page`; `Shmem` itself is not touched until
// it is dropped, which is as good in one thread as in another.
unsafe impl Send for Mapped {}
// SAFETY: as above.
unsafe impl Sync for Mapped {}

impl Mapped {
    fn page(&self) -> &Page {
        // SAFETY: `open` and `create` checked that PAGE_BYTES are mapped; the mapping is page-aligned and
        // Page is made of atomics.
        unsafe { &*self.shmem.as_ptr().cast::<Page>() }
    }
}

/// The writing side: a kernel's own page.
pub struct Telemetry {
    mapped: Mapped,
    second: std::sync::Mutex<Second>,
}

/// Where the last whole second began.
struct Second {
    began_ns: u64,
    frames: u64,
    cpu_ns: u64,
    bytes: u64,
}

fn process_cpu_ns() -> u64 {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

fn failed(what: &'static str, name: &str) -> ObjectError {
    ObjectError::System { what, name: name.to_owned(), errno: Errno::last() }
}

impl Telemetry {
    /// Makes the page of `kernel`'s epoch and removes those of earlier epochs.
    ///
    /// # Errors
    /// [`ObjectError::System`] when shared memory is not to be had.
    pub fn create(instance: &str, kernel: &str, epoch: u64) -> Result<Telemetry, ObjectError> {
        let name = names::telemetry(instance, kernel, epoch);
        let earlier = format!("quad.{instance}.{kernel}.tm");
        for old in names::existing(instance) {
            if old.strip_prefix(&earlier).is_some_and(|e| e.parse::<u64>().is_ok_and(|e| e <= epoch)) {
                names::unlink(&old);
            }
        }
        let mut shmem = ShmemConf::new()
            .os_id(format!("/{name}"))
            .size(PAGE_BYTES)
            .create()
            .map_err(|_| failed("shared_memory create", &name))?;
        // Its stale owners unlink what their successors made: nobody owns, the orchestrator removes.
        shmem.set_owner(false);
        let mapped = Mapped { shmem };
        let page = mapped.page();
        page.epoch.store(epoch, Ordering::Relaxed);
        page.pid.store(u64::from(std::process::id()), Ordering::Relaxed);
        page.started_ns.store(monotonic_ns(), Ordering::Relaxed);
        // SYNC: object-ready (release side)
        page.magic.store(MAGIC, Ordering::Release);
        let second = Second { began_ns: monotonic_ns(), frames: 0, cpu_ns: process_cpu_ns(), bytes: 0 };
        Ok(Telemetry { mapped, second: std::sync::Mutex::new(second) })
    }

    fn page(&self) -> &Page {
        self.mapped.page()
    }

    /// What does the work ("pattern", "cpu", "openh264", "udp").
    pub fn set_backend(&self, backend: &str) {
        store_text(&self.page().backend, backend);
    }

    /// The codec, of an encoder.
    pub fn set_codec(&self, codec: &str) {
        store_text(&self.page().codec, codec);
    }

    /// How pixels or packets take their way.
    pub fn set_path(&self, path: &str) {
        store_text(&self.page().path, path);
    }

    /// A sentence for the operator (a fallback, a degraded state); empty: none.
    pub fn set_message(&self, message: &str) {
        store_text(&self.page().message, message);
    }

    /// Cores this kernel is pinned to.
    pub fn set_cpus(&self, cpus: &[usize]) {
        let mask = cpus.iter().filter(|c| **c < 64).fold(0u64, |mask, cpu| mask | 1 << cpu);
        self.page().cpu_mask.store(mask, Ordering::Relaxed);
    }

    /// One frame is done.
    pub fn frame(&self, now_ns: u64) {
        add(&self.page().frames, 1);
        self.page().last_frame_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Frames given up, in all.
    pub fn set_dropped(&self, dropped: u64) {
        self.page().dropped.store(dropped, Ordering::Relaxed);
    }

    /// One error that cost something.
    pub fn error(&self) {
        add(&self.page().errors, 1);
    }

    /// Adds to a counter.
    pub fn add(&self, counter: Counter, by: u64) {
        add(&self.page().counters[counter as usize], by);
    }

    /// Sets a counter.
    pub fn set(&self, counter: Counter, value: u64) {
        self.page().counters[counter as usize].store(value, Ordering::Relaxed);
    }

    /// A counter's value.
    pub fn get(&self, counter: Counter) -> u64 {
        self.page().counters[counter as usize].load(Ordering::Relaxed)
    }

    /// One measurement, nanoseconds: one store.
    pub fn sample(&self, measure: Measure, now_ns: u64, value_ns: u64) {
        let page = self.page();
        let written = &page.written[measure as usize];
        let index = written.load(Ordering::Relaxed);
        let word = (now_ns / 1_000_000) << 32 | (value_ns / 100).min(u64::from(u32::MAX));
        page.samples[measure as usize][index as usize % SAMPLES].store(word, Ordering::Relaxed);
        written.store(index + 1, Ordering::Release);
    }

    /// Brings the figures of the last second up to date; called once a loop turn, works once a second.
    /// `true` when it did.
    pub fn tick(&self, now_ns: u64) -> bool {
        const SECOND_NS: u64 = 1_000_000_000;
        let Ok(mut second) = self.second.try_lock() else { return false };
        let elapsed = now_ns.saturating_sub(second.began_ns);
        if elapsed < SECOND_NS {
            return false;
        }
        let page = self.page();
        let frames = page.frames.load(Ordering::Relaxed);
        let cpu_ns = process_cpu_ns();
        let bytes = page.counters[Counter::Bytes as usize].load(Ordering::Relaxed);
        let rate = |amount: u64, unit: u64| (u128::from(amount) * u128::from(unit) / u128::from(elapsed)) as u64;
        page.fps_milli.store(rate(frames - second.frames, 1000 * SECOND_NS), Ordering::Relaxed);
        page.cpu_milli.store(rate(cpu_ns - second.cpu_ns, 1000), Ordering::Relaxed);
        page.counters[Counter::Kbps as usize].store(rate(bytes - second.bytes, 8_000_000), Ordering::Relaxed);
        *second = Second { began_ns: now_ns, frames, cpu_ns, bytes };
        true
    }
}

fn add(word: &AtomicU64, by: u64) {
    word.store(word.load(Ordering::Relaxed) + by, Ordering::Relaxed);
}

/// Percentiles of a measure over the last 10 s, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Percentiles {
    /// Samples they are made of.
    pub count: usize,
    /// Median.
    pub p50: f64,
    /// 95 %.
    pub p95: f64,
    /// 99 %.
    pub p99: f64,
    /// The largest.
    pub max: f64,
}

/// A kernel's page, copied out.
#[derive(Debug, Clone, PartialEq)]
pub struct Snapshot {
    /// Epoch that wrote it.
    pub epoch: u64,
    /// Process that wrote it.
    pub pid: u32,
    /// CLOCK_MONOTONIC of its start, ns.
    pub started_ns: u64,
    /// Cores.
    pub cpus: Vec<usize>,
    /// Frames done.
    pub frames: u64,
    /// Frames given up.
    pub dropped: u64,
    /// Errors.
    pub errors: u64,
    /// Frames a second.
    pub fps: f64,
    /// CPU, percent of a core.
    pub cpu_percent: f64,
    /// CLOCK_MONOTONIC of the last frame, ns.
    pub last_frame_ns: u64,
    /// What does the work.
    pub backend: String,
    /// Codec.
    pub codec: String,
    /// Path.
    pub path: String,
    /// Message.
    pub message: String,
    /// See [`Counter`].
    pub counters: [u64; COUNTERS],
    /// See [`Measure`].
    pub measures: [Percentiles; MEASURES],
}

impl Snapshot {
    /// A counter.
    pub fn counter(&self, counter: Counter) -> u64 {
        self.counters[counter as usize]
    }

    /// A measure.
    pub fn measure(&self, measure: Measure) -> Percentiles {
        self.measures[measure as usize]
    }
}

/// The reading side.
pub struct TelemetryReader {
    mapped: Mapped,
}

impl TelemetryReader {
    /// Opens the page of an epoch; `None` when there is none or it is not one.
    pub fn open(instance: &str, kernel: &str, epoch: u64) -> Option<TelemetryReader> {
        let name = names::telemetry(instance, kernel, epoch);
        let shmem = ShmemConf::new().os_id(format!("/{name}")).open().ok()?;
        if shmem.len() < PAGE_BYTES {
            return None;
        }
        let mapped = Mapped { shmem };
        // SYNC: object-ready (acquire side)
        (mapped.page().magic.load(Ordering::Acquire) == MAGIC).then_some(TelemetryReader { mapped })
    }

    /// Everything, as it is now.
    pub fn snapshot(&self) -> Snapshot {
        let p = self.mapped.page();
        let load = |w: &AtomicU64| w.load(Ordering::Relaxed);
        let mask = load(&p.cpu_mask);
        let now_ns = monotonic_ns();
        // Figures of the last second mean nothing once nobody brings them up to date.
        const STALE_NS: u64 = 2_500_000_000;
        let fresh = now_ns.saturating_sub(load(&p.last_frame_ns)) < STALE_NS;
        Snapshot {
            epoch: load(&p.epoch),
            pid: load(&p.pid) as u32,
            started_ns: load(&p.started_ns),
            cpus: (0..64).filter(|cpu| mask >> cpu & 1 == 1).collect(),
            frames: load(&p.frames),
            dropped: load(&p.dropped),
            errors: load(&p.errors),
            fps: if fresh { load(&p.fps_milli) as f64 / 1000.0 } else { 0.0 },
            cpu_percent: load(&p.cpu_milli) as f64 / 10.0,
            last_frame_ns: load(&p.last_frame_ns),
            backend: load_text(&p.backend),
            codec: load_text(&p.codec),
            path: load_text(&p.path),
            message: load_text(&p.message),
            counters: std::array::from_fn(|i| load(&p.counters[i])),
            measures: std::array::from_fn(|m| percentiles(&p.samples[m], load(&p.written[m]), now_ns)),
        }
    }
}

fn percentiles(samples: &[AtomicU64; SAMPLES], written: u64, now_ns: u64) -> Percentiles {
    let oldest_ms = (now_ns.saturating_sub(WINDOW_NS) / 1_000_000) as u32;
    let mut values: Vec<u32> = samples
        .iter()
        .take(written.min(SAMPLES as u64) as usize)
        .map(|s| s.load(Ordering::Relaxed))
        // Milliseconds wrap after 49 days: compare by distance.
        .filter(|s| ((s >> 32) as u32).wrapping_sub(oldest_ms) < u32::MAX / 2)
        .map(|s| s as u32)
        .collect();
    if values.is_empty() {
        return Percentiles::default();
    }
    values.sort_unstable();
    let at = |q: f64| f64::from(values[((values.len() - 1) as f64 * q).round() as usize]) / 10.0;
    Percentiles { count: values.len(), p50: at(0.5), p95: at(0.95), p99: at(0.99), max: at(1.0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_tells_what_was_written_and_goes_with_the_next_epoch() {
        let instance = format!("tm{}", std::process::id());
        let page = Telemetry::create(&instance, "encode.main", 4).unwrap();
        page.set_backend("openh264");
        page.set_cpus(&[1, 3]);
        let now = monotonic_ns();
        for us in 1..=100u64 {
            page.sample(Measure::Work, now, us * 1000);
            page.frame(now);
        }
        page.sample(Measure::Wait, now - 2 * WINDOW_NS, 5000);
        let snapshot = TelemetryReader::open(&instance, "encode.main", 4).unwrap().snapshot();
        assert_eq!((snapshot.backend.as_str(), snapshot.frames), ("openh264", 100));
        assert_eq!(snapshot.cpus, [1, 3]);
        let work = snapshot.measure(Measure::Work);
        assert_eq!((work.count, work.max), (100, 100.0));
        assert!((50.0..=51.0).contains(&work.p50), "{work:?}");
        assert_eq!(snapshot.measure(Measure::Wait).count, 0, "older than the window");
        let _next = Telemetry::create(&instance, "encode.main", 5).unwrap();
        assert!(TelemetryReader::open(&instance, "encode.main", 4).is_none());
        for name in names::existing(&instance) {
            names::unlink(&name);
        }
    }
}
