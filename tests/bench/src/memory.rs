//! `memory`: what each kernel holds beside its pools and the encoder's library, and whether that grows.

use crate::report::Row;
use crate::stand::{KERNELS, Stand};
use crate::stats::Summary;
use crate::wire::Receiver;
use crate::{Bench, Effort};
use anyhow::{Result, ensure};
use std::time::Duration;

/// KiB a kernel may hold beside pools and library.
const GOAL_KIB: u64 = 32 << 10;
/// Growth below this is the system's rounding: a page here and there of stacks and tables first touched late.
const STEADY_KIB: i64 = 64;
/// Index of kernel C.
const ENCODE: usize = 2;

fn settings(backend: &str, fps: u32) -> Vec<String> {
    vec![
        "capture.width=1920".to_owned(),
        "capture.height=1080".to_owned(),
        format!("capture.fps={fps}"),
        format!("encode.backend={backend}"),
    ]
}

/// Runs until `frames` have arrived.
fn started(backend: &str, fps: u32, frames: u64) -> Result<(Stand, Receiver)> {
    let receiver = Receiver::start()?;
    let stand = Stand::start("memory", &settings(backend, fps), receiver.port())?;
    let limit = Duration::from_secs(30 + 4 * frames / u64::from(fps));
    ensure!(receiver.wait_for(frames, limit), "{frames} frames did not arrive within {limit:?}");
    Ok((stand, receiver))
}

/// Measures and compares.
pub fn run(effort: Effort) -> Result<Bench> {
    let mut rows = Vec::new();
    // Null first: what C holds more with an encoder is the library's own.
    let (stand, receiver) = started("null", 60, 60)?;
    let without_kib = stand.memory()[ENCODE].anonymous_kib;
    drop(stand);
    receiver.stop();
    let (stand, receiver) = started("openh264", 60, 60)?;
    let memory = stand.memory();
    drop(stand);
    receiver.stop();
    let library_kib = memory[ENCODE].anonymous_kib.saturating_sub(without_kib);
    for (index, (kind, _)) in KERNELS.iter().enumerate() {
        let library_kib = if index == ENCODE { library_kib } else { 0 };
        let own_kib = memory[index].own_kib.saturating_sub(library_kib);
        let note = format!(
            "{:.1} MiB resident with pools and shared pages; the library's own {:.1} MiB (openh264 against null)",
            memory[index].resident_kib as f64 / 1024.0,
            library_kib as f64 / 1024.0
        );
        rows.push(
            Row::alone(
                format!("1080p, {kind}, beside pools and library"),
                "MiB",
                Summary::single(own_kib as f64 / 1024.0),
            )
            .goal("≤ 32", own_kib <= GOAL_KIB)
            .note(note),
        );
    }
    rows.extend(growth(effort)?);
    Ok(Bench { rows, ..Bench::default() })
}

fn growth(effort: Effort) -> Result<Vec<Row>> {
    /// Fast enough to make many frames, slow enough for two cores.
    const FPS: u32 = 480;
    const WARM_FRAMES: u64 = 1000;
    let frames = effort.scale(20_000) as u64;
    let (stand, receiver) = started("null", FPS, WARM_FRAMES)?;
    let before = stand.memory();
    let limit = Duration::from_secs(60 + 4 * frames / u64::from(FPS));
    ensure!(receiver.wait_for(WARM_FRAMES + frames, limit), "{frames} frames did not arrive within {limit:?}");
    let after = stand.memory();
    let rows = KERNELS.iter().enumerate().map(|(index, (kind, _))| {
        let grown_kib = after[index].own_kib as i64 - before[index].own_kib as i64;
        Row::alone(format!("growth over {frames} frames, {kind}"), "KiB", Summary::single(grown_kib as f64))
            .goal(format!("≤ {STEADY_KIB}"), grown_kib <= STEADY_KIB)
    });
    Ok(rows.collect())
}
