//! A telemetry page as others see it: copied out, with percentiles made of its samples.

use super::*;

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
    /// Version of the binary.
    pub version: String,
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
        let mapped = Mapped::new(shmem);
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
            version: load_text(&p.version),
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
