//! The same in the text format of Prometheus, version 0.0.4: base units, `_total` on what only rises.

use std::fmt::Write as _;

use super::counters::COUNTERS;
use super::{Latency, State, Status};

/// One metric: its rows share HELP and TYPE and stand together, as the format asks.
struct Metric<'a> {
    out: &'a mut String,
    name: String,
}

impl<'a> Metric<'a> {
    fn new(out: &'a mut String, name: impl Into<String>, kind: &str, help: &str) -> Metric<'a> {
        let name = name.into();
        // Writing to a String cannot fail.
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
        Metric { out, name }
    }

    fn row(&mut self, labels: &[(&str, &str)], value: f64) {
        let labels: Vec<String> = labels.iter().map(|(key, value)| format!("{key}=\"{}\"", escaped(value))).collect();
        let _ = match labels.is_empty() {
            true => writeln!(self.out, "{} {value}", self.name),
            false => writeln!(self.out, "{}{{{}}} {value}", self.name, labels.join(",")),
        };
    }
}

/// A label's value: backslash, quote and line feed are escaped.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// The metrics of `GET /metrics`. Figures of a kernel begin again at zero with each epoch, which `rate()` understands.
pub fn prometheus(status: &Status) -> String {
    let mut out = String::with_capacity(8192);
    Metric::new(&mut out, "quad_info", "gauge", "The instance of the streaming system")
        .row(&[("quad_instance", &status.instance)], 1.0);
    Metric::new(&mut out, "quad_supervisor_up", "gauge", "Whether a supervisor lives")
        .row(&[], f64::from(u8::from(status.supervisor.is_some())));
    kernels(&mut out, status);
    rings(&mut out, status);
    latencies(&mut out, status);
    out
}

fn kernels(out: &mut String, status: &Status) {
    let mut per_kernel = |name: &str, kind: &str, help: &str, value: &dyn Fn(&super::KernelStatus) -> f64| {
        let mut metric = Metric::new(out, name, kind, help);
        for (kernel, k) in &status.kernels {
            metric.row(&[("kernel", kernel)], value(k));
        }
    };
    per_kernel("quad_kernel_up", "gauge", "Whether the kernel runs", &|k| {
        f64::from(u8::from(k.state == State::Running))
    });
    per_kernel("quad_kernel_epoch", "gauge", "Epoch of the kernel's process", &|k| k.epoch as f64);
    per_kernel("quad_kernel_restarts_total", "counter", "Processes before the present one", &|k| k.restarts as f64);
    per_kernel("quad_kernel_fps", "gauge", "Frames a second over the last second", &|k| k.fps);
    per_kernel("quad_kernel_cpu_ratio", "gauge", "CPU of the last second as a share of one core", &|k| {
        k.cpu_percent / 100.0
    });
    per_kernel("quad_kernel_frames_total", "counter", "Frames done", &|k| k.frames as f64);
    per_kernel("quad_kernel_dropped_total", "counter", "Frames given up", &|k| k.dropped as f64);
    per_kernel("quad_kernel_errors_total", "counter", "Errors that cost something", &|k| k.errors as f64);
    let mut backend = Metric::new(out, "quad_kernel_backend_info", "gauge", "What does the kernel's work");
    for (kernel, k) in &status.kernels {
        backend.row(
            &[("kernel", kernel), ("backend", &k.backend), ("codec", k.codec.as_deref().unwrap_or_default())],
            1.0,
        );
    }
    for counter in COUNTERS {
        let rows: Vec<(&str, u64)> = status
            .kernels
            .iter()
            .filter_map(|(kernel, k)| {
                let (_, value) = k.counters.iter().find(|(name, _)| *name == counter.name)?;
                Some((kernel.as_str(), *value))
            })
            .collect();
        if rows.is_empty() {
            continue;
        }
        let (suffix, kind) = if counter.rises { ("_total", "counter") } else { ("", "gauge") };
        let mut metric = Metric::new(out, format!("quad_{}{suffix}", counter.name), kind, counter.help);
        for (kernel, value) in rows {
            metric.row(&[("kernel", kernel)], value as f64);
        }
    }
}

fn rings(out: &mut String, status: &Status) {
    let mut per_ring = |name: &str, kind: &str, help: &str, value: &dyn Fn(&super::RingStatus) -> f64| {
        let mut metric = Metric::new(out, name, kind, help);
        for (ring, r) in &status.rings {
            metric.row(&[("ring", ring)], value(r));
        }
    };
    per_ring("quad_ring_slots", "gauge", "Slots of the ring", &|r| r.slots as f64);
    per_ring("quad_ring_ready", "gauge", "Slots published and not yet free", &|r| r.ready as f64);
    per_ring("quad_ring_quarantined", "gauge", "Slots that a device may still write", &|r| r.quarantined as f64);
    per_ring("quad_ring_published_total", "counter", "Frames published", &|r| r.published as f64);
    per_ring("quad_ring_dropped_total", "counter", "Frames dropped", &|r| r.dropped as f64);
    per_ring("quad_ring_tombstones_total", "counter", "Frames left out on purpose", &|r| r.tombstones as f64);
}

fn latencies(out: &mut String, status: &Status) {
    const SECONDS_PER_US: f64 = 1e-6;
    let to_wire = "capture_to_wire";
    let (whole, stages): (Vec<_>, Vec<_>) = status.latency_us.iter().partition(|(name, _)| name.starts_with(to_wire));
    let help = "Seconds from capture to the frame's last packet over the last 10 s";
    let mut metric = Metric::new(out, "quad_capture_to_wire_seconds", "gauge", help);
    for (name, latency) in whole {
        // "capture_to_wire.web" belongs to net.web.
        let kernel = name.replacen(to_wire, "net", 1);
        quantiles(&mut metric, &kernel, latency.p50, latency.p95, latency.p99, latency.max, SECONDS_PER_US);
    }
    let mut metric = Metric::new(out, "quad_work_seconds", "gauge", "Seconds of a stage's work over the last 10 s");
    for (name, Latency { p50, p95, p99, max, .. }) in &stages {
        quantiles(&mut metric, name, *p50, *p95, *p99, *max, SECONDS_PER_US);
    }
    let help = "Seconds a frame was queued before a stage over the last 10 s";
    let mut metric = Metric::new(out, "quad_wait_seconds", "gauge", help);
    for (name, wait) in stages.iter().filter_map(|(name, latency)| Some((name, latency.wait_us?))) {
        quantiles(&mut metric, name, wait.p50, wait.p95, wait.p99, wait.max, SECONDS_PER_US);
    }
}

fn quantiles(metric: &mut Metric<'_>, kernel: &str, p50: f64, p95: f64, p99: f64, max: f64, unit: f64) {
    for (quantile, value) in [("0.5", p50), ("0.95", p95), ("0.99", p99), ("1", max)] {
        metric.row(&[("kernel", kernel), ("quantile", quantile)], value * unit);
    }
}
