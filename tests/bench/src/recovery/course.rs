//! One instance and a series of deaths.

use crate::supervised::{PATIENCE, Supervised};
use crate::wire::{Arrived, FrameEnd, Receiver};
use anyhow::{Result, ensure};
use shm_protocol::clock::monotonic_ns;
use shm_protocol::telemetry::{Counter, Measure};
use std::collections::HashSet;
use std::time::{Duration, Instant};

/// Frames a second.
const FPS: u64 = 60;
/// Milliseconds from frame to frame.
pub const INTERVAL_MS: f64 = 1000.0 / FPS as f64;
/// A death and what follows lie within this; the next one comes later.
const WINDOW_NS: u64 = 600_000_000;
/// After a death the next one comes at a random instant of this span, once the stream has settled.
const SPREAD_US: u64 = 250_000;

/// What is to be done.
pub struct Plan<'a> {
    /// Kernels killed in turn.
    pub kinds: &'a [&'static str],
    /// How often each.
    pub kills: usize,
    /// Whether each but the capture has a standby.
    pub standby: bool,
    /// Whether the source, which keeps its rate either way, waits for the slowest rather than give frames up.
    pub lossless: bool,
    /// Whether the sender spreads the packets of large access units over time.
    pub paced: bool,
    /// Of the instants.
    pub seed: u64,
}

/// A death as the receiver saw it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Death {
    /// Who died.
    pub kind: &'static str,
    /// Longest interval between frames in its wake, ms.
    pub gap_ms: f64,
    /// From the kill to the first frame that came no more than an interval later than usual, ms.
    pub backlog_ms: f64,
}

/// What came of a series.
#[derive(Debug, Clone, Default)]
pub struct Course {
    /// Every death.
    pub deaths: Vec<Death>,
    /// Frames that arrived.
    pub frames: u64,
    /// Frames with an id that neither arrived nor were given up.
    pub lost: u64,
    /// Frames that the policy "live" gave up, because no slot was free or they were too old.
    pub given_up: u64,
    /// Frames that arrived twice, under other numbers.
    pub duplicated: u64,
    /// RTP sequence numbers that never came.
    pub gaps: u64,
    /// Packets that came twice under one number.
    pub repeated: u64,
    /// Streams that began anew.
    pub breaks: u64,
    /// What encoding an IDR takes in the undisturbed stream, ms; 0 when it was not measured.
    pub idr_ms: f64,
}

/// Settings of a 1080p60 pattern through openh264.
pub fn settings() -> Vec<String> {
    ["capture.width=1920", "capture.height=1080", "capture.fps=60", "capture.slots=16", "capture.memory=posix-shm"]
        .into_iter()
        .chain(["encode.backend=openh264", "encode.slots=16", "net.http.enabled=false"])
        .map(str::to_owned)
        .collect()
}

impl Course {
    /// Runs it.
    ///
    /// # Errors
    /// When the instance does not start or a kernel does not come back.
    pub fn run(plan: &Plan<'_>) -> Result<Course> {
        let receiver = Receiver::start()?;
        let mut settings = settings();
        if plan.lossless {
            settings.push("capture.policy=lossless".to_owned());
        } else {
            // The clock's rate, and yet nothing given up while the rings have room.
            settings.push("capture.max_latency_ms=2000".to_owned());
        }
        if !plan.paced {
            settings.push("net.rtp.pacing=false".to_owned());
        }
        if plan.standby {
            settings.extend(plan.kinds.iter().map(|kind| format!("{kind}.standby=true")));
        }
        let instance = Supervised::start("recovery", &settings, receiver.port())?;
        let idr_ms = if plan.standby { measure_idr(&instance)? } else { 0.0 };
        let mut random = fastrand::Rng::with_seed(plan.seed);
        let (mut kills, mut missed) = (Vec::new(), 0);
        for _ in 0..plan.kills {
            for kind in plan.kinds {
                std::thread::sleep(Duration::from_micros(WINDOW_NS / 1000 + random.u64(..SPREAD_US)));
                let epoch = instance.info(kind)?.epoch;
                if *kind == "capture" {
                    // The next process counts from 0.
                    missed += missed_by_capture(&instance);
                }
                kills.push((*kind, instance.kill(kind)?));
                let frames = receiver.frames();
                instance.wait_for_successor(kind, epoch, plan.standby)?;
                ensure!(receiver.wait_for(frames + 2, PATIENCE), "No frame after the death of {kind}");
            }
        }
        std::thread::sleep(Duration::from_nanos(WINDOW_NS));
        let ended = end(&instance, &receiver)?;
        drop(instance);
        let arrived = receiver.stop();
        let mut course = Course { idr_ms, ..count(&arrived, &Ended { given_up: ended.given_up + missed, ..ended }) };
        course.deaths = kills.iter().map(|(kind, at_ns)| death(&arrived.frames, kind, *at_ns)).collect();
        Ok(course)
    }
}

/// The time to encode an IDR: several are asked for, so that they are the slowest hundredth of all frames.
fn measure_idr(instance: &Supervised) -> Result<f64> {
    for _ in 0..20 {
        std::thread::sleep(Duration::from_millis(200));
        instance.request_idr()?;
    }
    let work = instance.telemetry("encode").map(|page| page.measure(Measure::Work));
    Ok(work.map_or(0.0, |work| work.p99 / 1000.0))
}

/// What a stream came to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ended {
    /// Frames that were given an id.
    pub made: u64,
    /// Of these, those that the policy gave up.
    pub given_up: u64,
}

/// Ends the capture and waits for what is under way.
///
/// # Errors
/// When a ring is gone.
pub fn end(instance: &Supervised, receiver: &Receiver) -> Result<Ended> {
    let missed = missed_by_capture(instance);
    instance.end_capture()?;
    wait_until_quiet(receiver);
    let revoked = instance.ring("capture")?.revoked + instance.ring("process")?.revoked;
    Ok(Ended { made: instance.ring("encode")?.last_frame_id, given_up: revoked + missed })
}

fn missed_by_capture(instance: &Supervised) -> u64 {
    instance.telemetry("capture").map_or(0, |page| page.counter(Counter::CaptureMissed))
}

fn wait_until_quiet(receiver: &Receiver) {
    const QUIET: Duration = Duration::from_millis(500);
    let until = Instant::now() + PATIENCE;
    let (mut frames, mut since) = (receiver.frames(), Instant::now());
    while since.elapsed() < QUIET && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(10));
        if receiver.frames() != frames {
            (frames, since) = (receiver.frames(), Instant::now());
        }
    }
}

/// Counts what arrived of a stream.
pub fn count(arrived: &Arrived, ended: &Ended) -> Course {
    let mut seen = HashSet::new();
    let frames = arrived.frames.iter().filter(|frame| seen.insert(frame.timestamp)).count() as u64;
    Course {
        frames,
        lost: ended.made.saturating_sub(frames + ended.given_up),
        given_up: ended.given_up,
        duplicated: arrived.frames.len() as u64 - frames,
        gaps: arrived.gaps,
        repeated: arrived.repeated,
        breaks: arrived.breaks,
        ..Course::default()
    }
}

/// What the receiver saw of a death at `at_ns`.
fn death(frames: &[FrameEnd], kind: &'static str, at_ns: u64) -> Death {
    let end_ns = at_ns + WINDOW_NS;
    let ms = |ns: u64| ns as f64 / 1e6;
    // How much later than its capture a frame came, against an arbitrary zero, ns.
    let lateness = |frame: &FrameEnd| {
        let first = frames.first().map_or(0, |first| first.timestamp);
        frame.at_ns as f64 - f64::from(frame.timestamp.wrapping_sub(first)) * 1e9 / 90_000.0
    };
    let mut before: Vec<f64> = frames
        .iter()
        .filter(|f| (at_ns.saturating_sub(WINDOW_NS / 2)..at_ns).contains(&f.at_ns))
        .map(lateness)
        .collect();
    before.sort_by(f64::total_cmp);
    let usual = before.get(before.len() / 2).copied().unwrap_or(f64::MAX);
    let pairs = frames.windows(2).filter(|pair| pair[1].at_ns >= at_ns && pair[0].at_ns < end_ns);
    // The first of several that are as long.
    let longest = pairs.rev().max_by_key(|pair| pair[1].at_ns.saturating_sub(pair[0].at_ns));
    let (gap_ms, resumed_ns) = longest
        .map_or((ms(WINDOW_NS), end_ns), |pair| (ms(pair[1].at_ns.saturating_sub(pair[0].at_ns)), pair[1].at_ns));
    let caught_up = frames
        .iter()
        .find(|f| f.at_ns >= resumed_ns && lateness(f) <= usual + INTERVAL_MS * 1e6)
        .map_or_else(monotonic_ns, |f| f.at_ns);
    Death { kind, gap_ms, backlog_ms: ms(caught_up.saturating_sub(at_ns)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames at 60 fps, 5 ms after their capture; those captured in the 80 ms after 1 s come in a burst at
    /// the end of those.
    fn stream() -> Vec<FrameEnd> {
        let usual = |n: u64| n * 1_000_000_000 / 60;
        let held = 1_000_000_000..1_080_000_000;
        (0..120u64)
            .map(|n| {
                let at = usual(n);
                let at_ns = if held.contains(&at) { held.end + (n - 60) * 200_000 } else { at };
                FrameEnd { at_ns: at_ns + 5_000_000, timestamp: (n * 1500) as u32 }
            })
            .collect()
    }

    #[test]
    fn a_pause_and_its_backlog_are_seen() {
        let death = death(&stream(), "encode", 1_000_000_000);
        assert_eq!(death.gap_ms.round(), 97.0, "{death:?}");
        // Captured at 1066.7 ms, 18 ms late with its burst; the next one at 1083.3 ms is in time.
        assert!((85.0..=90.0).contains(&death.backlog_ms), "{death:?}");
    }

    #[test]
    fn an_undisturbed_stream_has_gaps_of_one_interval() {
        let death = death(&stream(), "net", 300_000_000);
        assert_eq!(death.gap_ms.round(), 17.0, "{death:?}");
        assert!(death.backlog_ms < 40.0, "{death:?}");
    }

    #[test]
    fn lost_and_duplicated_frames_are_counted() {
        let mut frames = stream();
        frames.remove(70);
        frames.push(frames[80]);
        let arrived = Arrived { frames, ..Arrived::default() };
        let course = count(&arrived, &Ended { made: 120, given_up: 0 });
        assert_eq!((course.frames, course.lost, course.duplicated), (119, 1, 1));
        assert_eq!(count(&arrived, &Ended { made: 120, given_up: 1 }).lost, 0, "given up is counted, not lost");
    }
}
