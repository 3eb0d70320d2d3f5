//! `recovery`: a kernel of a running 1080p60 stream is killed at a random instant, again and again. What a receiver
//! sees of it, with and without a warm standby, beside one FFmpeg process in a restart loop.

mod browser;
mod course;
mod rival;

use crate::report::{Missing, Row};
use crate::stats::Summary;
use crate::{Bench, Effort};
use anyhow::{Context, Result};
use course::{Course, Death, Plan};

pub use course::{INTERVAL_MS, count, end, settings};

/// Every instant is drawn from it.
const SEED: u64 = 0x5eed_2026;
/// What a death may cost without a standby.
const GOAL_MS: f64 = 100.0;
/// Time for the backlog of a death.
const BACKLOG_MS: f64 = 1000.0;

/// Measures and compares.
pub fn run(effort: Effort) -> Result<Bench> {
    let all = ["capture", "process", "encode", "net"];
    let behind = &all[1..];
    let (mut rows, mut missing) = (Vec::new(), Vec::new());

    let plain = Course::run(&Plan {
        kinds: &all,
        kills: effort.scale(15),
        standby: false,
        lossless: true,
        paced: true,
        seed: SEED,
    })?;
    let rival = match rival::run(effort.scale(8), SEED) {
        Ok(rival) => Some(rival),
        Err(error) => {
            missing.push(Missing { rival: "FFmpeg in a restart loop".to_owned(), why: format!("{error:#}") });
            None
        }
    };
    for kind in all {
        let gaps = summary(&plain.deaths, kind, |death| death.gap_ms)?;
        let backlog = summary(&plain.deaths, kind, |death| death.backlog_ms)?;
        let case = format!("SIGKILL of {kind}: longest interval on the wire");
        let row = match &rival {
            Some(rival) => Row::against(case, rival.name.clone(), "ms", gaps, rival.gaps),
            None => Row::alone(case, "ms", gaps),
        };
        let note = format!("backlog gone after {:.0} ms (p50), {:.0} ms (max)", backlog.p50, backlog.max);
        rows.push(row.goal("p99 ≤ 100", gaps.p99 <= GOAL_MS).note(note));
    }
    let backlog = summary(&plain.deaths, "encode", |death| death.backlog_ms)?;
    rows.push(Row::alone("SIGKILL of encode: backlog gone", "ms", backlog).goal("≤ 1000", backlog.max <= BACKLOG_MS));
    rows.push(faults("these deaths", &plain, rival.as_ref()));

    // The pacer spreads an IDR over its share of the interval, with or without a death: its cost stands apart.
    for (paced, kinds, how, seed) in
        [(true, behind, "a standby", SEED + 1), (false, &["encode"][..], "a standby, without the pacer", SEED + 2)]
    {
        let kills = effort.scale(if paced { 12 } else { 24 });
        let warm = Course::run(&Plan { kinds, kills, standby: true, lossless: false, paced, seed })?;
        let goal_ms = INTERVAL_MS + warm.idr_ms + 5.0;
        for kind in kinds {
            let gaps = summary(&warm.deaths, kind, |death| death.gap_ms)?;
            let note = format!("one IDR takes {:.1} ms to encode here; of a stream at 60 fps", warm.idr_ms);
            rows.push(
                Row::alone(format!("SIGKILL of {kind} with {how}: longest interval on the wire"), "ms", gaps)
                    .goal(format!("p99 ≤ {goal_ms:.1} (1 interval + 1 IDR + 5 ms)"), gaps.p99 <= goal_ms)
                    .note(note),
            );
        }
        rows.push(faults(&format!("deaths with {how}"), &warm, None));
    }

    let back = browser::run(effort.scale(5), SEED + 3)?;
    rows.push(
        Row::alone("SIGKILL of net: a viewer of the watch page has an IDR again", "ms", back)
            .goal("≤ 1000", back.max <= 1000.0)
            .note("a plain WebSocket client that connects again when the page would: after 100, 200, 400, 700 ms"),
    );
    Ok(Bench { rows, missing, tables: Vec::new() })
}

fn summary(deaths: &[Death], kind: &str, of: impl Fn(&Death) -> f64) -> Result<Summary> {
    let samples: Vec<f64> = deaths.iter().filter(|death| death.kind == kind).map(of).collect();
    Summary::of(&samples).with_context(|| format!("{kind} was never killed"))
}

/// What must not happen at all.
fn faults(what: &str, course: &Course, rival: Option<&rival::Rival>) -> Row {
    let bad = course.lost + course.duplicated + course.gaps + course.breaks;
    let case = format!("faults of the stream: {what}");
    let ours = Summary::single(bad as f64);
    let row = match rival {
        Some(rival) => {
            Row { ratio: None, ratio_p99: None, ..Row::against(case, rival.name.clone(), "count", ours, rival.breaks) }
        }
        None => Row::alone(case, "count", ours),
    };
    let packets = match course.repeated {
        0 => String::new(),
        n => format!("; {n} packets came twice under one number, byte for byte as a sender's death leaves them"),
    };
    row.goal("0", bad == 0).note(format!(
        "{} deaths, {} frames: {} lost, {} given up by the policy, {} duplicated, {} numbers missing, {} streams \
         begun anew{packets}",
        course.deaths.len(),
        course.frames,
        course.lost,
        course.given_up,
        course.duplicated,
        course.gaps,
        course.breaks
    ))
}
