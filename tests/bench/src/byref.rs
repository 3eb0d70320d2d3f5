//! `8k120`: what the plumbing costs when no pixel is touched: A → B → C (null) → D by reference.

use crate::report::{Missing, Row};
use crate::stand::{KERNELS, NET, Stand};
use crate::stats::Summary;
use crate::wire::Receiver;
use crate::{Bench, Effort};
use anyhow::{Context, Result, ensure};
use shm_protocol::clock::monotonic_ns;
use shm_protocol::telemetry::{Measure, Percentiles};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A format with its goals.
struct Case {
    name: &'static str,
    width: u32,
    height: u32,
    fps: u32,
    /// Capture to wire, 99 %, ms: the seed's figures.
    p99_ms: f64,
}

const CASES: [Case; 3] = [
    Case { name: "4K240", width: 3840, height: 2160, fps: 240, p99_ms: 0.8 },
    Case { name: "8K60", width: 7680, height: 4320, fps: 60, p99_ms: 1.5 },
    Case { name: "8K120", width: 7680, height: 4320, fps: 120, p99_ms: 2.1 },
];

/// Percent of a core that B, C and D may take together.
const CPU_GOAL_PERCENT: f64 = 12.0;
/// Share of the frames that must arrive: the window's two ends cut a frame each.
const RATE_TOLERANCE_FRAMES: u64 = 2;
/// After the first frame, before the window: pools are mapped and caches filled.
const SETTLE: Duration = Duration::from_secs(1);

/// What one run showed.
struct Run {
    seconds: f64,
    frames: u64,
    dropped: u64,
    /// CPU of each kernel, percent of a core.
    cpu: [f64; 4],
    latency_us: Percentiles,
}

fn settings(case: &Case, reads: bool) -> Vec<String> {
    let mut all = vec![
        format!("capture.width={}", case.width),
        format!("capture.height={}", case.height),
        format!("capture.fps={}", case.fps),
        "encode.backend=null".to_owned(),
        "net.rtp.pacing=false".to_owned(),
    ];
    if reads {
        all.push("encode.preset=read".to_owned());
    }
    all
}

fn measure(case: &Case, reads: bool, seconds: usize) -> Result<(Run, Stand, Receiver)> {
    let receiver = Receiver::start()?;
    let mut stand = Stand::start("byref", &settings(case, reads), receiver.port())?;
    ensure!(receiver.wait_for(1, Duration::from_secs(30)), "{}: no frame arrived within 30 s", case.name);
    std::thread::sleep(SETTLE);
    let (begin_ns, before, frames) = (monotonic_ns(), stand.cpu_ns(), receiver.frames());
    let dropped = dropped(&stand);
    std::thread::sleep(Duration::from_secs(seconds as u64));
    stand.check()?;
    let (end_ns, after, frames_after) = (monotonic_ns(), stand.cpu_ns(), receiver.frames());
    let elapsed_ns = (end_ns - begin_ns) as f64;
    let latency_us = stand.telemetry(NET).context("No telemetry of kernel D")?.measure(Measure::CaptureToWire);
    let run = Run {
        seconds: elapsed_ns / 1e9,
        frames: frames_after - frames,
        dropped: self::dropped(&stand) - dropped,
        cpu: std::array::from_fn(|k| (after[k] - before[k]) as f64 / elapsed_ns * 100.0),
        latency_us,
    };
    Ok((run, stand, receiver))
}

/// Frames given up by any kernel so far.
fn dropped(stand: &Stand) -> u64 {
    (0..KERNELS.len()).filter_map(|kernel| stand.telemetry(kernel)).map(|t| t.dropped).sum()
}

/// System calls of each kernel per frame, counted by strace over a second; the run is slowed by it and gives
/// no other figure.
fn syscalls(stand: &Stand, receiver: &Receiver) -> Result<[f64; 4]> {
    let mut counts = [0.0; 4];
    for (kernel, count) in counts.iter_mut().enumerate() {
        let file = stand.dir().join(format!("strace{kernel}"));
        let frames = receiver.frames();
        // strace leaves its process running when it is asked to end.
        let status = Command::new("timeout")
            .args(["-s", "INT", "1", "strace", "-c", "-f", "-o"])
            .arg(&file)
            .args(["-p", &stand.pid(kernel).to_string()])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .context("timeout")?;
        let frames = receiver.frames() - frames;
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        let calls = total_calls(&text).with_context(|| format!("strace ended with {status}"))?;
        *count = calls as f64 / frames.max(1) as f64;
    }
    Ok(counts)
}

/// The count of the last line of `strace -c`: "100.00 seconds usecs calls [errors] total".
fn total_calls(text: &str) -> Option<u64> {
    let line = text.lines().rev().find(|line| line.trim_end().ends_with("total"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// Measures and compares.
pub fn run(effort: Effort) -> Result<Bench> {
    // The window of the latencies is the last 10 s.
    let seconds = effort.scale(10).max(2);
    let mut rows = Vec::new();
    let mut missing = Vec::new();
    for case in &CASES {
        let (run, stand, receiver) = measure(case, false, seconds)?;
        if case.fps == 240 {
            match syscalls(&stand, &receiver) {
                Ok(counts) => rows.extend(KERNELS.iter().zip(counts).map(|((kind, _), count)| {
                    Row::alone(format!("{} system calls a frame, {kind}", case.name), "calls", Summary::single(count))
                })),
                Err(error) => {
                    missing.push(Missing { rival: "strace (system calls a frame)".to_owned(), why: error.to_string() });
                }
            }
        }
        drop(stand);
        receiver.stop();
        rows.extend(rows_of(case, &run));
        eprintln!("8k120: {}", said(case, &run));
        let (reading, stand, receiver) = measure(case, true, seconds.min(3))?;
        drop(stand);
        receiver.stop();
        rows.push(
            Row::alone(
                format!("{} with every pixel read, CPU of C", case.name),
                "% of a core",
                Summary::single(reading.cpu[2]),
            )
            .note(said(case, &reading)),
        );
    }
    Ok(Bench { rows, missing, tables: Vec::new() })
}

fn said(case: &Case, run: &Run) -> String {
    let [a, b, c, d] = run.cpu;
    format!(
        "{} frames in {:.1} s of {} fps, {} dropped; CPU A {a:.1} B {b:.1} C {c:.1} D {d:.1} %; wire p50 {:.0} p99 {:.0} µs",
        run.frames, run.seconds, case.fps, run.dropped, run.latency_us.p50, run.latency_us.p99
    )
}

fn rows_of(case: &Case, run: &Run) -> Vec<Row> {
    let expected = (run.seconds * f64::from(case.fps)) as u64;
    let held = run.frames + RATE_TOLERANCE_FRAMES >= expected && run.dropped == 0;
    let rate = run.frames as f64 / run.seconds;
    let plumbing: f64 = run.cpu[1..].iter().sum();
    let us = &run.latency_us;
    let latency = Summary {
        p50: us.p50 / 1000.0,
        p95: us.p95 / 1000.0,
        p99: us.p99 / 1000.0,
        max: us.max / 1000.0,
        count: us.count,
    };
    vec![
        Row::alone(format!("{} rate", case.name), "fps", Summary::single(rate))
            .goal("rate held", held)
            .note(format!("{} of {expected} frames in {:.1} s, {} dropped", run.frames, run.seconds, run.dropped)),
        Row::alone(format!("{} CPU of B+C+D", case.name), "% of a core", Summary::single(plumbing))
            .goal(format!("≤ {CPU_GOAL_PERCENT} (aim ≤ 4)"), plumbing <= CPU_GOAL_PERCENT)
            .note(format!(
                "A takes {:.1} % besides; B {:.1}, C {:.1}, D {:.1}",
                run.cpu[0], run.cpu[1], run.cpu[2], run.cpu[3]
            )),
        Row::alone(format!("{} capture to wire", case.name), "ms", latency)
            .goal(format!("p99 ≤ {}", case.p99_ms), latency.p99 <= case.p99_ms),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_of_strace_is_its_fourth_column() {
        let text = "% time seconds usecs/call calls errors syscall\n------ ---- ---- ---- ---- ----\n \
                    60.00 0.01 5 240 3 futex\n------ ---- ---- ---- ---- ----\n100.00 0.02 6 1234 3 total\n";
        assert_eq!(total_calls(text), Some(1234));
        assert_eq!(total_calls("strace: attach: not permitted"), None);
    }

    #[test]
    fn a_dropped_frame_means_that_the_rate_was_not_held() {
        let run = |frames, dropped| Run {
            seconds: 10.0,
            frames,
            dropped,
            cpu: [9.0, 1.0, 1.0, 2.0],
            latency_us: Percentiles { count: 600, p50: 100.0, p95: 200.0, p99: 300.0, max: 400.0 },
        };
        let met = |run: &Run| rows_of(&CASES[1], run).iter().map(|r| r.met).collect::<Vec<_>>();
        assert_eq!(met(&run(600, 0)), [Some(true); 3]);
        assert_eq!(met(&run(600, 1))[0], Some(false));
        assert_eq!(met(&run(590, 0))[0], Some(false));
    }
}
