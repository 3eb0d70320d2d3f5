//! `quad status`.

use kernel_host::exit::Failure;
use kernel_host::status::{KernelStatus, Latency, Status, collect};
use shm_protocol::lease::LeaseTable;

use super::say;
use crate::launch::Launch;

/// Shows an instance; the exit code says how it is.
pub fn run(instance: &str, json: bool) -> Result<u8, Failure> {
    let runtime = super::runtime(instance)?;
    // A configuration that cannot be read any more must not hide what runs.
    let config = Launch::load(&runtime).and_then(|launch| launch.configuration(&runtime).ok());
    let status = collect(instance, config.as_ref(), Some(&runtime));
    say(&if json { status.to_json_pretty() } else { table(&status).join("\n") });
    Ok(status.state.exit_code())
}

/// The lines for people.
fn table(status: &Status) -> Vec<String> {
    if status.kernels.is_empty() {
        return vec![format!("Instance {} is not running", status.instance)];
    }
    let supervisor = match status.supervisor {
        Some(supervisor) => format!("supervisor process {}", supervisor.pid),
        None if LeaseTable::observe(&status.instance).is_ok_and(|table| table.is_supervised()) => {
            "a supervisor with another XDG_RUNTIME_DIR".to_owned()
        }
        None => "no supervisor".to_owned(),
    };
    let state = serde_json::to_string(&status.state).unwrap_or_default();
    let mut lines = vec![format!("Instance {}: {}, {supervisor}", status.instance, state.trim_matches('"'))];
    lines.push(format!(
        "{:12} {:10} {:>8} {:>5} {:>8} {:>5} {:10} {:>6} {:>7} {:>7} {:>10} {:>8} {:>6} {:>9} {:>9}",
        "KERNEL",
        "STATE",
        "PID",
        "EPOCH",
        "RESTARTS",
        "SWAPS",
        "BACKEND",
        "CPUS",
        "CPU %",
        "FPS",
        "FRAMES",
        "DROPPED",
        "ERRORS",
        "WORK p50",
        "WAIT p50"
    ));
    for (name, kernel) in &status.kernels {
        lines.push(kernel_line(name, kernel, status.latency(name)));
        lines.extend(kernel.message.iter().map(|message| format!("{:12} {message}", "")));
    }
    lines.extend(versions(status));
    lines.push(format!(
        "{:12} {:>6} {:>6} {:>12} {:>12} {:>8}  READERS",
        "RING", "SLOTS", "READY", "LAST FRAME", "PUBLISHED", "DROPPED"
    ));
    for (name, ring) in &status.rings {
        let readers: Vec<String> = ring
            .readers
            .iter()
            .map(|r| {
                format!(
                    "{}{}{}",
                    r.kernel,
                    if r.active { "" } else { " (away)" },
                    if r.bridging { " (catching up)" } else { "" }
                )
            })
            .collect();
        lines.push(format!(
            "{name:12} {:>6} {:>6} {:>12} {:>12} {:>8}  {}",
            ring.slots,
            ring.ready,
            ring.last_frame_id,
            ring.published,
            ring.dropped,
            readers.join(", ")
        ));
    }
    for (name, l) in status.latency_us.iter().filter(|(name, l)| name.starts_with("capture_to_wire") && l.count > 0) {
        let name = name.replace('_', " ");
        lines.push(format!(
            "{name} of the last 10 s: p50 {}, p95 {}, p99 {}, max {}",
            duration(l.p50),
            duration(l.p95),
            duration(l.p99),
            duration(l.max)
        ));
    }
    for output in &status.outputs {
        let sdp = output.sdp.as_ref().map(|sdp| format!("  (SDP {sdp})")).unwrap_or_default();
        let codec = output.codec.as_ref().map(|codec| format!("  {codec}")).unwrap_or_default();
        lines.push(format!("{:7} {}{codec}{sdp}", output.kind, output.url));
        lines.extend(output.note.as_ref().map(|note| format!("        {note}")));
    }
    lines
}

/// The versions of the kernels, when they are not all of one build.
fn versions(status: &Status) -> Option<String> {
    let known: Vec<(&str, &str)> = status
        .kernels
        .iter()
        .filter(|(_, kernel)| !kernel.version.is_empty())
        .map(|(name, kernel)| (name.as_str(), kernel.version.as_str()))
        .collect();
    let differ = known.windows(2).any(|pair| pair[0].1 != pair[1].1);
    let told: Vec<String> = known.iter().map(|(name, version)| format!("{name} {version}")).collect();
    differ.then(|| format!("Versions: {}", told.join(", ")))
}

fn kernel_line(name: &str, kernel: &KernelStatus, latency: Option<&Latency>) -> String {
    let cpus: Vec<String> = kernel.cpus.iter().map(usize::to_string).collect();
    let shown = |figure: Option<f64>| figure.map_or_else(|| "-".to_owned(), duration);
    let measured = latency.filter(|l| l.count > 0);
    format!(
        "{name:12} {:10} {:>8} {:>5} {:>8} {:>5} {:10} {:>6} {:>7.1} {:>7.2} {:>10} {:>8} {:>6} {:>9} {:>9}",
        kernel.state.name(),
        kernel.pid,
        kernel.epoch,
        kernel.restarts,
        kernel.swaps,
        kernel.backend,
        cpus.join(","),
        kernel.cpu_percent,
        kernel.fps,
        kernel.frames,
        kernel.dropped,
        kernel.errors,
        shown(measured.map(|l| l.p50)),
        shown(measured.and_then(|l| l.wait_us).map(|w| w.p50)),
    )
}

/// Microseconds as people read them.
fn duration(us: f64) -> String {
    if us < 1000.0 { format!("{us:.0} µs") } else { format!("{:.1} ms", us / 1000.0) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel_host::config::Config;

    #[test]
    fn the_table_has_a_line_for_each_kernel() {
        let status = collect("no-such-instance", Some(&Config::default()), None);
        let lines = table(&status);
        assert_eq!(lines[0], "Instance no-such-instance: stopped, no supervisor");
        for (line, kernel) in lines[2..6].iter().zip(["capture", "process", "encode", "net"]) {
            assert!(line.starts_with(kernel) && line.contains("stopped"), "{line}");
        }
        let mut mixed = status;
        mixed.kernels[0].1.version = "1.0".to_owned();
        mixed.kernels[2].1.version = "1.0".to_owned();
        assert_eq!(versions(&mixed), None);
        mixed.kernels[2].1.version = "1.1".to_owned();
        assert_eq!(versions(&mixed).as_deref(), Some("Versions: capture 1.0, encode 1.1"));
        let nothing = table(&collect("no-such-instance", None, None));
        assert_eq!(nothing, ["Instance no-such-instance is not running"]);
        assert_eq!((duration(999.4).as_str(), duration(1500.0).as_str()), ("999 µs", "1.5 ms"));
    }
}
