//! Telemetry pages: what each kernel counts and measures, for whoever wants to look. One page an epoch,
//! written by its kernel alone, never read back by it. With a page numbers are lost and nothing else: its kernel,
//! which sees that within a second, ends for a successor with another.
#![expect(unsafe_code, reason = "a reference to atomics in shared memory")]

mod reader;

pub use reader::{Percentiles, Snapshot, TelemetryReader};

use crate::attach::{load_text, store_text};
use crate::clock::monotonic_ns;
use crate::error::ObjectError;
use crate::names;
use crate::segment::HoleGuard;
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
    version: [AtomicU64; 8],
}

const PAGE_BYTES: usize = size_of::<Page>();

struct Mapped {
    /// First, so that it ends before the mapping does.
    _guard: HoleGuard,
    shmem: Shmem,
}

impl Mapped {
    fn new(shmem: Shmem) -> Mapped {
        let _guard = HoleGuard::new(shmem.as_ptr(), shmem.len());
        Mapped { _guard, shmem }
    }
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
    /// Makes the page of `kernel`'s epoch and removes those of other epochs; only the holder of its lease may. Epochs
    /// above it are of a lease table that was lost.
    ///
    /// # Errors
    /// [`ObjectError::System`] when shared memory is not to be had.
    pub fn create(instance: &str, kernel: &str, epoch: u64) -> Result<Telemetry, ObjectError> {
        let name = names::telemetry(instance, kernel, epoch);
        let pages = format!("quad.{instance}.{kernel}.tm");
        for old in names::existing(instance) {
            if old.strip_prefix(&pages).is_some_and(|epoch| epoch.parse::<u64>().is_ok()) {
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
        let mapped = Mapped::new(shmem);
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

    /// What somebody did to the page from outside, if so: nobody sees these figures any more.
    ///
    /// # Errors
    /// [`ObjectError::Damaged`] with its name.
    pub fn check(&self) -> Result<(), ObjectError> {
        let name = self.mapped.shmem.get_os_id().trim_start_matches('/');
        let what = match std::fs::metadata(format!("{}/{name}", names::SHM_DIR)) {
            Ok(found) if found.len() >= PAGE_BYTES as u64 => return Ok(()),
            Ok(_) => "it was truncated while in use",
            Err(_) => "it was removed while in use",
        };
        Err(ObjectError::Damaged { name: name.to_owned(), what: what.to_owned() })
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

    /// Version of the binary that writes this page; 63 bytes are kept.
    pub fn set_version(&self, version: &str) {
        store_text(&self.page().version, version);
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
        written.store(index.wrapping_add(1), Ordering::Release);
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
        page.fps_milli.store(rate(frames.wrapping_sub(second.frames), 1000 * SECOND_NS), Ordering::Relaxed);
        page.cpu_milli.store(rate(cpu_ns - second.cpu_ns, 1000), Ordering::Relaxed);
        page.counters[Counter::Kbps as usize]
            .store(rate(bytes.wrapping_sub(second.bytes), 8_000_000), Ordering::Relaxed);
        *second = Second { began_ns: now_ns, frames, cpu_ns, bytes };
        true
    }
}

fn add(word: &AtomicU64, by: u64) {
    // Wrapping: anybody of the same user can write the page, and a kernel must not end over its numbers.
    word.store(word.load(Ordering::Relaxed).wrapping_add(by), Ordering::Relaxed);
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
        let next = Telemetry::create(&instance, "encode.main", 5).unwrap();
        assert!(TelemetryReader::open(&instance, "encode.main", 4).is_none());
        assert!(next.check().is_ok() && matches!(page.check(), Err(ObjectError::Damaged { .. })));
        let file = format!("{}/{}", names::SHM_DIR, names::telemetry(&instance, "encode.main", 5));
        std::fs::OpenOptions::new().write(true).open(file).unwrap().set_len(0).unwrap();
        assert!(matches!(next.check(), Err(ObjectError::Damaged { .. })));
        next.frame(now); // and no signal
        for name in names::existing(&instance) {
            names::unlink(&name);
        }
    }

    #[test]
    fn numbers_that_somebody_else_wrote_are_no_panic() {
        let instance = format!("tmwild{}", std::process::id());
        let page = Telemetry::create(&instance, "encode.main", 1).unwrap();
        let words = page.page();
        for word in [&words.frames, &words.errors, &words.written[Measure::Work as usize]] {
            word.store(u64::MAX, Ordering::Relaxed);
        }
        page.set(Counter::Bytes, u64::MAX);
        let now = monotonic_ns();
        page.frame(now);
        page.error();
        page.add(Counter::Bytes, 2);
        page.sample(Measure::Work, now, 5000);
        assert_eq!((page.get(Counter::Bytes), words.frames.load(Ordering::Relaxed)), (1, 0), "they wrap");
        // A second later with fewer frames and bytes than a second ago.
        assert!(page.tick(now + 1_000_000_000));
        page.set(Counter::Bytes, 0);
        assert!(page.tick(now + 2_000_000_000));
        let _ = TelemetryReader::open(&instance, "encode.main", 1).unwrap().snapshot();
        for name in names::existing(&instance) {
            names::unlink(&name);
        }
    }
}
