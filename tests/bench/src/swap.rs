//! `swap`: the encoder is exchanged under the running stream, again and again.

use crate::recovery::{INTERVAL_MS, count, end, settings};
use crate::report::{Missing, Row};
use crate::stats::Summary;
use crate::supervised::Supervised;
use crate::wire::Receiver;
use crate::{Bench, Effort};
use anyhow::{Context, Result};
use shm_protocol::clock::monotonic_ns;
use std::time::Duration;

/// Measures.
pub fn run(effort: Effort) -> Result<Bench> {
    let swaps = effort.scale(100);
    let receiver = Receiver::start()?;
    let mut settings = settings();
    settings.push("capture.max_latency_ms=2000".to_owned());
    let instance = Supervised::start("swap", &settings, receiver.port())?;
    let (mut spans, mut took_ms) = (Vec::new(), Vec::new());
    for swap in 0..swaps {
        let begin_ns = monotonic_ns();
        // Another setting each time, the same codec.
        instance.quad(&["swap", "encode", "--set", &format!("encode.gop={}", 100 + swap % 50)])?;
        std::thread::sleep(Duration::from_millis(100));
        spans.push((begin_ns, monotonic_ns()));
        took_ms.push((monotonic_ns() - begin_ns) as f64 / 1e6 - 100.0);
    }
    let ended = end(&instance, &receiver)?;
    drop(instance);
    let arrived = receiver.stop();
    let gap = |&(begin_ns, end_ns): &(u64, u64)| {
        let pairs = arrived.frames.windows(2).filter(|p| p[1].at_ns >= begin_ns && p[0].at_ns < end_ns);
        pairs.map(|pair| pair[1].at_ns.saturating_sub(pair[0].at_ns) as f64 / 1e6).fold(0.0, f64::max)
    };
    let gaps: Vec<f64> = spans.iter().map(gap).collect();
    let gaps = Summary::of(&gaps).context("Nothing was swapped")?;
    let took = Summary::of(&took_ms).context("Nothing was swapped")?;
    let course = count(&arrived, &ended);
    let bad = course.lost + course.duplicated + course.gaps + course.repeated + course.breaks;
    let rows = vec![
        Row::alone("swap of the encoder: longest interval between frames on the wire", "ms", gaps)
            .goal(format!("p95 ≤ {:.1} (2 intervals)", 2.0 * INTERVAL_MS), gaps.p95 <= 2.0 * INTERVAL_MS)
            .note(format!("1080p60 through openh264; p95 {:.1} ms, the same codec before and after", gaps.p95)),
        Row::alone("frames lost or duplicated, RTP gaps, streams begun anew", "count", Summary::single(bad as f64))
            .goal("0", bad == 0)
            .note(format!(
                "{swaps} swaps, {} frames: {} lost; {} given up by the policy live on this machine",
                course.frames, course.lost, course.given_up
            )),
        Row::alone("time until quad swap returns", "ms", took)
            .note("start and warm-up of the successor, and the probation of the one before it"),
    ];
    let missing = vec![Missing {
        rival: "FFmpeg, GStreamer".to_owned(),
        why: "neither exchanges the encoder of a running stream for another process; a restart is in `recovery`"
            .to_owned(),
    }];
    Ok(Bench { rows, missing, tables: Vec::new() })
}
