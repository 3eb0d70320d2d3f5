//! The status as Prometheus text (exposition format 0.0.4).

use std::fmt::Write as _;
use std::sync::atomic::Ordering;

use serde_json::Value;

use super::hub::Counters;

/// Prometheus text of a status in the form of `quad status --json`. What the status leaves out is left out.
pub fn prometheus(status: &Value) -> String {
    let mut out = Text::default();
    kernels(&mut out, status);
    rings(&mut out, status);
    latencies(&mut out, status);
    out.0
}

fn kernels(out: &mut Text, status: &Value) {
    let kernels: Vec<_> = members(&status["kernels"]).collect();
    out.family("quad_kernel_running", "gauge", "Whether the kernel is running (1) or not (0).");
    for (name, kernel) in &kernels {
        let running = f64::from(u8::from(kernel["state"] == "running"));
        out.sample("quad_kernel_running", &[("kernel", name)], Some(running));
    }
    type Column = (&'static str, &'static str, &'static str, &'static str, f64);
    const COLUMNS: [Column; 9] = [
        ("epoch", "quad_kernel_epoch", "gauge", "Lease epoch: rises with every successor.", 1.0),
        ("restarts", "quad_kernel_restarts_total", "counter", "Restarts since the instance was started.", 1.0),
        ("swaps", "quad_kernel_swaps_total", "counter", "Swaps since the instance was started.", 1.0),
        ("cpu_percent", "quad_kernel_cpu_ratio", "gauge", "Share of one CPU core in use.", 100.0),
        ("fps", "quad_kernel_frames_per_second", "gauge", "Frames per second now.", 1.0),
        ("frames", "quad_kernel_frames_total", "counter", "Frames handled.", 1.0),
        ("dropped", "quad_kernel_dropped_frames_total", "counter", "Frames dropped to bound the latency.", 1.0),
        ("errors", "quad_kernel_errors_total", "counter", "Errors.", 1.0),
        ("memory_bytes", "quad_kernel_memory_bytes", "gauge", "Resident memory.", 1.0),
    ];
    for (key, metric, kind, help, divisor) in COLUMNS {
        if kernels.iter().any(|(_, kernel)| kernel[key].is_number()) {
            out.family(metric, kind, help);
            for (name, kernel) in &kernels {
                out.sample(metric, &[("kernel", name)], kernel[key].as_f64().map(|value| value / divisor));
            }
        }
    }
}

fn rings(out: &mut Text, status: &Value) {
    const COLUMNS: [(&str, &str, &str); 3] = [
        ("slots", "quad_ring_slots", "Slots of the ring."),
        ("ready", "quad_ring_ready_slots", "Slots that hold a frame not yet taken."),
        ("last_frame_id", "quad_ring_last_frame_id", "Id of the frame published last."),
    ];
    for (key, metric, help) in COLUMNS {
        out.family(metric, "gauge", help);
        for (name, ring) in members(&status["rings"]) {
            out.sample(metric, &[("ring", name)], ring[key].as_f64());
        }
    }
}

fn latencies(out: &mut Text, status: &Value) {
    const QUANTILES: [(&str, &str); 4] = [("p50", "0.5"), ("p95", "0.95"), ("p99", "0.99"), ("max", "1")];
    const US_PER_SECOND: f64 = 1e6;
    let quantiles = |out: &mut Text, metric: &str, stage: &str, figure: &Value| {
        for (key, quantile) in QUANTILES {
            let seconds = figure[key].as_f64().map(|us| us / US_PER_SECOND);
            out.sample(metric, &[("stage", stage), ("quantile", quantile)], seconds);
        }
    };
    out.family("quad_latency_seconds", "gauge", "Time of a stage's work over the last 10 s, and of the whole way.");
    for (stage, figure) in members(&status["latency_us"]) {
        quantiles(out, "quad_latency_seconds", stage, figure);
    }
    out.family("quad_latency_wait_seconds", "gauge", "Time queued before a stage over the last 10 s.");
    for (stage, figure) in members(&status["latency_us"]) {
        match &figure["wait_us"] {
            Value::Object(_) => quantiles(out, "quad_latency_wait_seconds", stage, &figure["wait_us"]),
            wait => out.sample(
                "quad_latency_wait_seconds",
                &[("stage", stage), ("quantile", "0.5")],
                wait.as_f64().map(|us| us / US_PER_SECOND),
            ),
        }
    }
}

/// Prometheus text of what the HTTP output itself counts.
pub(super) fn own(counters: &Counters) -> String {
    let mut out = Text::default();
    let viewers = counters.viewers.load(Ordering::Relaxed);
    out.family("quad_http_viewers", "gauge", "Viewers now.");
    out.sample("quad_http_viewers", &[], Some(viewers as f64));
    let rows = [
        ("viewers_total", "Viewers since the start.", &counters.viewers_ever),
        ("access_units_total", "Access units published to viewers.", &counters.published),
        ("access_units_late_total", "Access units the output's thread was too late to take.", &counters.not_taken),
        ("access_units_dropped_total", "Access units left out for single viewers.", &counters.dropped),
        ("overflows_total", "How often a viewer fell behind and waited for an IDR.", &counters.overflows),
        ("idr_requests_total", "IDRs asked of the encoder.", &counters.idr_requests),
        ("requests_refused_total", "Requests refused for their Host, Origin or token.", &counters.refused),
        ("connections_turned_away_total", "Connections beyond the limit.", &counters.turned_away),
    ];
    for (name, help, counter) in rows {
        let name = format!("quad_http_{name}");
        out.family(&name, "counter", help);
        out.sample(&name, &[], Some(counter.load(Ordering::Relaxed) as f64));
    }
    out.0
}

fn members(value: &Value) -> impl Iterator<Item = (&str, &Value)> {
    value.as_object().into_iter().flatten().map(|(name, member)| (name.as_str(), member))
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a String cannot fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: Option<f64>) {
        let Some(value) = value else { return };
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"", if at == 0 { '{' } else { ',' });
            for character in text.chars() {
                match character {
                    '\\' => self.0.push_str("\\\\"),
                    '"' => self.0.push_str("\\\""),
                    '\n' => self.0.push_str("\\n"),
                    other => self.0.push(other),
                }
            }
            self.0.push('"');
        }
        let _ = writeln!(self.0, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_figure_of_the_status_has_its_sample() {
        let status = json!({
            "kernels": { "encode.web": { "state": "running", "epoch": 3, "restarts": 2, "swaps": 4, "cpu_percent": 12.5, "fps": 59.94, "frames": 10 } },
            "rings": { "process": { "slots": 16, "ready": 1, "last_frame_id": 77 } },
            "latency_us": { "encode": { "p50": 1500, "wait_us": { "p50": 20 } }, "net": { "p99": 40, "wait_us": 7 } },
        });
        let text = prometheus(&status);
        for line in [
            "# TYPE quad_kernel_restarts_total counter",
            "quad_kernel_running{kernel=\"encode.web\"} 1",
            "quad_kernel_epoch{kernel=\"encode.web\"} 3",
            "quad_kernel_swaps_total{kernel=\"encode.web\"} 4",
            "quad_kernel_cpu_ratio{kernel=\"encode.web\"} 0.125",
            "quad_ring_ready_slots{ring=\"process\"} 1",
            "quad_latency_seconds{stage=\"encode\",quantile=\"0.5\"} 0.0015",
            "quad_latency_wait_seconds{stage=\"net\",quantile=\"0.5\"} 0.000007",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in\n{text}");
        }
        assert!(!text.contains("errors_total"), "what the status leaves out is left out");
    }

    #[test]
    fn labels_are_escaped_and_a_status_of_another_shape_is_harmless() {
        let text = prometheus(&json!({ "kernels": { "a\"b\\c\nd": { "epoch": 1 } }, "rings": 3, "latency_us": [] }));
        assert!(text.contains(r#"{kernel="a\"b\\c\nd"} 1"#), "{text}");
        prometheus(&Value::Null);
    }
}
