//! The two pinned processes: every way takes its turn in every round, on the same cores, in the same minute.

use super::hand::{Hand, Side};
use super::iceoryx::{Iceoryx, Use};
use super::ours::{Ours, Waiting};
use super::page::Page;
use super::rivals::{Futex, Raw, RawSync};
use super::ticks;
use crate::machine;
use crate::stats::{Summary, order};
use anyhow::{Result, anyhow, ensure};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::sync::atomic::Ordering;

/// Line of the page on which the end of a stream is acknowledged.
const ACK_LINE: usize = 60;
/// Round trips before those that count: connections are made and caches filled.
const WARM_UP: usize = 500;
/// A polled turn is cut into bursts with a meeting between, so that a core that was taken away costs one burst.
const BURST: usize = 250;

/// Before a message to a sleeper: the other side must really sleep, not just be about to.
const DWELL_NS: f64 = 40_000.0;

/// What both processes are told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// Name of the shared objects.
    pub instance: String,
    /// Directory for sockets.
    pub dir: PathBuf,
    /// Which process this is: 0 begins, 1 answers.
    pub side: usize,
    /// Core to run on.
    pub core: usize,
    /// Times that everybody takes a turn.
    pub rounds: usize,
    /// Round trips of a polled turn.
    pub polled: usize,
    /// Round trips of a turn that sleeps.
    pub slept: usize,
    /// Messages of a stream.
    pub streamed: usize,
}

/// What the first process found of one way.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Found {
    /// Which way: see [`WAYS`].
    pub way: String,
    /// Samples, ns.
    pub samples: Vec<f64>,
}

/// What is measured in a turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Measure {
    /// Half of a round trip. The slot or loan was taken beforehand, and what was received is given back after
    /// the answer is out, as a stage does it.
    OneWay,
    /// Half of a round trip in which nothing is done beforehand or afterwards.
    InLine,
    /// Time of a message in a stream.
    Stream,
}

/// One competitor.
struct Way {
    name: &'static str,
    measure: Measure,
    sleeps: bool,
    hand: usize,
}

const fn way(name: &'static str, measure: Measure, sleeps: bool, hand: usize) -> Way {
    Way { name, measure, sleeps, hand }
}

/// Everybody, with the connection each uses.
const WAYS: [Way; 11] = [
    way("ours", Measure::OneWay, false, 0),
    way("iceoryx2", Measure::OneWay, false, 1),
    way("raw", Measure::OneWay, false, 2),
    way("raw_sync", Measure::OneWay, false, 3),
    way("ours in line", Measure::InLine, false, 0),
    way("iceoryx2 in line", Measure::InLine, false, 1),
    way("ours waiting", Measure::OneWay, true, 4),
    way("futex waiting", Measure::OneWay, true, 5),
    way("raw_sync waiting", Measure::OneWay, true, 6),
    way("iceoryx2 waiting", Measure::OneWay, true, 7),
    way("ours stream", Measure::Stream, false, 0),
];

/// Runs one of the two processes; the first one returns what it found.
pub fn run(job: &Job) -> Result<Vec<Found>> {
    // Nobody is left spinning on a core when the benchmark is killed.
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL)?;
    machine::pin(job.core);
    machine::go_first();
    let side = if job.side == 0 { Side::Ping } else { Side::Pong };
    let page = Page::open(&job.instance, side)?;
    page.meet();
    let mut hands: Vec<Box<dyn Hand>> = vec![
        Box::new(Ours::open(&job.instance, &job.dir, &page, Waiting::Polling)?),
        Box::new(Iceoryx::open(job, &page, Use::Polling)?),
        Box::new(Raw::new(&page)),
        Box::new(RawSync::busy(&page)?),
        Box::new(Ours::open(&job.instance, &job.dir, &page, Waiting::Sleeping)?),
        Box::new(Futex::new(&page)),
        Box::new(RawSync::sleeping(&page)?),
        Box::new(Iceoryx::open(job, &page, Use::Sleeping)?),
    ];
    let ns_per_tick = ticks::ns_per_tick();
    let mut found: Vec<Found> =
        WAYS.iter().map(|way| Found { way: way.name.to_owned(), samples: Vec::new() }).collect();
    for round in 0..job.rounds {
        for turn in order(WAYS.len(), round) {
            let way = &WAYS[turn];
            let hand = hands.get_mut(way.hand).ok_or_else(|| anyhow!("No connection {}", way.hand))?.as_mut();
            let count = if way.sleeps { job.slept } else { job.polled };
            let samples = match way.measure {
                Measure::Stream => vec![stream(hand, &page, job.streamed, ns_per_tick)?],
                measure => ping_pong(hand, &page, (count, way.sleeps), measure, ns_per_tick)?,
            };
            found[turn].samples.extend(samples);
        }
        if side == Side::Ping {
            eprintln!("ring: round {} of {}: {}", round + 1, job.rounds, progress(&found));
        }
    }
    page.meet();
    Ok(found)
}

fn progress(found: &[Found]) -> String {
    let median = |f: &Found| Summary::of(&f.samples).map_or(0.0, |s| s.p50);
    found.iter().take(3).map(|f| format!("{} {:.0} ns", f.way, median(f))).collect::<Vec<_>>().join(", ")
}

fn ping_pong(
    hand: &mut dyn Hand,
    page: &Page,
    (count, sleeps): (usize, bool),
    measure: Measure,
    ns_per_tick: f64,
) -> Result<Vec<f64>> {
    let ahead = measure == Measure::OneWay;
    let warm_up = if sleeps { WARM_UP.min(count / 4) } else { WARM_UP };
    let dwell_ticks = if sleeps { (DWELL_NS / ns_per_tick) as u64 } else { 0 };
    let mut samples = Vec::with_capacity(count);
    for trip in 0..warm_up + count {
        if trip.is_multiple_of(BURST) {
            page.meet();
        }
        if ahead {
            hand.prepare()?;
        }
        if page.side() == Side::Ping {
            dwell(dwell_ticks);
            let begin = ticks::now();
            hand.send(trip as u64)?;
            let answer = hand.receive()?;
            if !ahead {
                hand.finish()?;
            }
            let elapsed = ticks::now() - begin;
            hand.finish()?;
            if trip >= warm_up {
                let dwelt = if sleeps { answer } else { 0 };
                samples.push(elapsed.saturating_sub(dwelt) as f64 * ns_per_tick / 2.0);
            }
        } else {
            let value = hand.receive()?;
            if !ahead {
                hand.finish()?;
            }
            // Told to the other side, which takes it off the round trip.
            let answer = if sleeps { dwell(dwell_ticks) } else { value };
            hand.send(answer)?;
            hand.finish()?;
        }
    }
    Ok(samples)
}

/// Stays awake for so many ticks; returns how many they became.
fn dwell(least_ticks: u64) -> u64 {
    let begin = ticks::now();
    loop {
        let elapsed = ticks::now() - begin;
        if elapsed >= least_ticks {
            return elapsed;
        }
        std::hint::spin_loop();
    }
}

/// Nanoseconds of each message of a stream: until the other process has read the last one.
fn stream(hand: &mut dyn Hand, page: &Page, count: usize, ns_per_tick: f64) -> Result<f64> {
    page.meet();
    let ack = page.word(ACK_LINE);
    if page.side() == Side::Pong {
        let mut last = 0;
        for _ in 0..count {
            last = hand.receive()?;
            hand.finish()?;
        }
        ack.fetch_add(1, Ordering::Release);
        ensure!(last != u64::MAX, "A stream ended with {last}");
        page.meet();
        return Ok(0.0);
    }
    let before = ack.load(Ordering::Acquire);
    let begin = ticks::now();
    for index in 0..count {
        hand.send(index as u64)?;
    }
    while ack.load(Ordering::Acquire) == before {
        std::hint::spin_loop();
    }
    let elapsed = (ticks::now() - begin) as f64 * ns_per_tick;
    page.meet();
    Ok(elapsed / count as f64)
}
