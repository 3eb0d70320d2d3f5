//! `startup`: from the start of the four binaries to the first packet on the wire.

use crate::report::Row;
use crate::stand::Stand;
use crate::stats::Summary;
use crate::wire::Receiver;
use crate::{Bench, Effort};
use anyhow::{Context, Result, ensure};
use shm_protocol::clock::monotonic_ns;
use std::time::Duration;

/// Measures and compares.
pub fn run(effort: Effort) -> Result<Bench> {
    const GOAL_MS: f64 = 2000.0;
    let mut samples = Vec::new();
    for _ in 0..effort.rounds {
        let receiver = Receiver::start()?;
        let begin_ns = monotonic_ns();
        let stand = Stand::start("startup", &[], receiver.port())?;
        ensure!(receiver.wait_for(1, Duration::from_secs(30)), "No frame arrived within 30 s");
        drop(stand);
        let first_ns = receiver.stop().first_ns.context("No packet arrived")?;
        samples.push(first_ns.saturating_sub(begin_ns) as f64 / 1e6);
    }
    let summary = Summary::of(&samples).context("No round was run")?;
    let row = Row::alone("start of the four binaries to the first packet", "ms", summary)
        .goal("≤ 2000", summary.max <= GOAL_MS)
        .note("the defaults: 1280x720 at 60 fps, the best encoder of this machine; the binaries directly, without their supervisor");
    Ok(Bench { rows: vec![row], ..Bench::default() })
}
