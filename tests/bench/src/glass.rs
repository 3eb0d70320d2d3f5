//! `pipeline`: from the last byte of a frame written into a FIFO to its last RTP packet received, through the
//! four real binaries and through FFmpeg with the same encoder library and settings, fed alike.

use crate::ffmpeg::{self, Ffmpeg};
use crate::report::{Missing, Row};
use crate::scratch::Scratch;
use crate::stand::Stand;
use crate::stats::{Summary, order};
use crate::test_frames::{self, Layout};
use crate::wire::{FrameEnd, Receiver};
use crate::{Bench, Effort};
use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::stat::Mode;
use shm_protocol::clock::monotonic_ns;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

/// Width, height, rate: what the goal names.
pub const SIZE: (usize, usize) = (1920, 1080);
/// Frames a second.
pub const FPS: u64 = 60;
const INTERVAL_NS: u64 = 1_000_000_000 / FPS;
/// Ticks of the RTP clock between two frames.
const RTP_TICKS: f64 = 90_000.0 / FPS as f64;
/// After the first frame came out, both stand still and empty.
const SETTLE: Duration = Duration::from_millis(500);
/// The last part of a frame: so small that its write does not wait for the reader.
const LAST_BYTES: usize = 4096;

/// Who is fed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Ours,
    OursPaced,
    Ffmpeg,
}

/// What one turn gave.
#[derive(Default)]
struct Turn {
    /// Of each frame that arrived, ms.
    latency_ms: Vec<f64>,
    /// CPU of all processes per frame, ms.
    cpu_ms: f64,
    lost: usize,
}

/// A fed system.
enum Fed {
    Ours(Box<Stand>),
    Ffmpeg(Ffmpeg),
}

impl Fed {
    fn cpu_ns(&self) -> u64 {
        match self {
            Fed::Ours(stand) => stand.cpu_ns().iter().sum(),
            Fed::Ffmpeg(ffmpeg) => crate::process::cpu_ns(ffmpeg.pid()),
        }
    }

    fn check(&mut self) -> Result<()> {
        match self {
            Fed::Ours(stand) => stand.check(),
            Fed::Ffmpeg(ffmpeg) => ffmpeg.check(),
        }
    }
}

fn start(who: Who, layout: Layout, fifo: &Path, port: u16, lossless: bool) -> Result<Fed> {
    if who == Who::Ffmpeg {
        return Ok(Fed::Ffmpeg(Ffmpeg::start(layout, fifo, port)?));
    }
    let last_core = crate::machine::cores().min(2) - 1;
    let mut settings = vec![
        "capture.source=file".to_owned(),
        format!("capture.path={}", fifo.display()),
        format!("capture.format={}", layout.name()),
        format!("capture.width={}", SIZE.0),
        format!("capture.height={}", SIZE.1),
        format!("capture.fps={FPS}"),
        "encode.backend=openh264".to_owned(),
        format!("encode.bitrate_kbps={}", ffmpeg::BITRATE_KBPS),
        format!("encode.slices={}", ffmpeg::SLICES),
        format!("encode.threads={}", ffmpeg::SLICES),
        format!("encode.gop={}", ffmpeg::GOP),
        format!("encode.cpus=0-{last_core}"),
        format!("net.rtp.pacing={}", who == Who::OursPaced),
    ];
    if lossless {
        settings.push("capture.policy=lossless".to_owned());
    }
    Ok(Fed::Ours(Box::new(Stand::start("glass", &settings, port)?)))
}

/// Opens the writing end as soon as a reader is there.
fn open_fifo(path: &Path, fed: &mut Fed) -> Result<File> {
    let until_ns = monotonic_ns() + 20_000_000_000;
    loop {
        match nix::fcntl::open(path, OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC, Mode::empty()) {
            Ok(fd) => {
                fcntl(&fd, FcntlArg::F_SETFL(OFlag::empty()))?;
                // As large as any user may make it: a frame goes through in few turns.
                let _ = fcntl(&fd, FcntlArg::F_SETPIPE_SZ(1 << 20));
                return Ok(File::from(fd));
            }
            Err(Errno::ENXIO | Errno::EINTR) => {}
            Err(errno) => return Err(errno).context("The FIFO"),
        }
        fed.check()?;
        ensure!(monotonic_ns() < until_ns, "Nobody opened the FIFO within 20 s");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Writes one frame; CLOCK_MONOTONIC when its last byte was taken, ns.
fn write_frame(fifo: &mut File, frame: &[u8]) -> Result<u64> {
    let (first, last) = frame.split_at(frame.len() - LAST_BYTES);
    fifo.write_all(first)?;
    fifo.write_all(last)?;
    Ok(monotonic_ns())
}

/// Feeds until something comes out, then waits until everything is out.
fn warm_up(fifo: &mut File, frames: &[Vec<u8>], receiver: &Receiver, fed: &mut Fed) -> Result<()> {
    const MOST_FRAMES: usize = 600;
    for frame in frames.iter().cycle().take(MOST_FRAMES) {
        write_frame(fifo, frame)?;
        if receiver.frames() >= 2 {
            std::thread::sleep(SETTLE);
            return Ok(());
        }
        fed.check()?;
        std::thread::sleep(Duration::from_nanos(INTERVAL_NS));
    }
    bail!("{MOST_FRAMES} frames went in and nothing came out")
}

fn sleep_until(deadline_ns: u64) {
    let now = monotonic_ns();
    if now < deadline_ns {
        std::thread::sleep(Duration::from_nanos(deadline_ns - now));
    }
}

fn turn(who: Who, layout: Layout, frames: &[Vec<u8>], count: usize) -> Result<Turn> {
    let scratch = Scratch::new("fifo")?;
    let path = scratch.dir().join("frames");
    nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let receiver = Receiver::start()?;
    let mut fed = start(who, layout, &path, receiver.port(), false)?;
    let mut fifo = open_fifo(&path, &mut fed)?;
    warm_up(&mut fifo, frames, &receiver, &mut fed)?;
    let (before, cpu_before) = (receiver.frames() as usize, fed.cpu_ns());
    let mut written = Vec::with_capacity(count);
    let begin_ns = monotonic_ns();
    for (index, frame) in frames.iter().cycle().take(count).enumerate() {
        sleep_until(begin_ns + index as u64 * INTERVAL_NS);
        written.push(write_frame(&mut fifo, frame)?);
    }
    std::thread::sleep(SETTLE);
    fed.check()?;
    let cpu_ms = (fed.cpu_ns() - cpu_before) as f64 / 1e6 / count as f64;
    drop(fifo);
    drop(fed);
    let arrived = receiver.stop().frames.split_off(before);
    let latency_ms = latencies_ms(&written, &arrived);
    Ok(Turn { lost: count - latency_ms.len(), latency_ms, cpu_ms })
}

/// Pairs frames written with frames received: in order when all came, by RTP timestamp when some are missing.
fn latencies_ms(written: &[u64], arrived: &[FrameEnd]) -> Vec<f64> {
    let all = written.len() == arrived.len();
    let first = arrived.first().map_or(0, |f| f.timestamp);
    arrived
        .iter()
        .enumerate()
        .filter_map(|(order, end)| {
            let by_clock = (f64::from(end.timestamp.wrapping_sub(first)) / RTP_TICKS).round() as usize;
            let at_ns = written.get(if all { order } else { by_clock })?;
            Some((end.at_ns as f64 - *at_ns as f64) / 1e6)
        })
        .collect()
}

/// Frames a second when they are written as fast as they are taken.
fn fastest(who: Who, layout: Layout, frames: &[Vec<u8>], count: usize) -> Result<f64> {
    let scratch = Scratch::new("fifo")?;
    let path = scratch.dir().join("frames");
    nix::unistd::mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR)?;
    let receiver = Receiver::start()?;
    let mut fed = start(who, layout, &path, receiver.port(), true)?;
    let mut fifo = open_fifo(&path, &mut fed)?;
    warm_up(&mut fifo, frames, &receiver, &mut fed)?;
    let before = receiver.frames() as usize;
    let begin_ns = monotonic_ns();
    for frame in frames.iter().cycle().take(count) {
        write_frame(&mut fifo, frame)?;
    }
    std::thread::sleep(2 * SETTLE);
    drop(fifo);
    drop(fed);
    let arrived = receiver.stop().frames.split_off(before);
    let last = arrived.last().context("Nothing arrived")?;
    Ok(arrived.len() as f64 * 1e9 / last.at_ns.saturating_sub(begin_ns) as f64)
}

/// Measures and compares.
pub fn run(effort: Effort) -> Result<Bench> {
    let mut bench = Bench::default();
    let version = match ffmpeg::version() {
        Ok(version) => Some(version),
        Err(why) => {
            bench.missing.push(Missing { rival: "FFmpeg with libopenh264".to_owned(), why: why.to_string() });
            None
        }
    };
    let rival = version.unwrap_or_default();
    for layout in [Layout::I420, Layout::Nv12] {
        case(effort, layout, &rival, &mut bench)?;
    }
    Ok(bench)
}

fn case(effort: Effort, layout: Layout, rival: &str, bench: &mut Bench) -> Result<()> {
    let frames = test_frames::frames(layout, SIZE);
    let mut who = vec![Who::Ours, Who::OursPaced];
    if !rival.is_empty() {
        who.push(Who::Ffmpeg);
    }
    let count = effort.scale(240).max(30);
    let mut turns: Vec<Vec<Turn>> = who.iter().map(|_| Vec::new()).collect();
    for round in 0..effort.rounds {
        for index in order(who.len(), round) {
            let turn = turn(who[index], layout, &frames, count)?;
            let p50 = Summary::of(&turn.latency_ms).map_or(0.0, |s| s.p50);
            eprintln!("pipeline: {} {:?}: p50 {p50:.1} ms, {} lost", layout.name(), who[index], turn.lost);
            turns[index].push(turn);
        }
    }
    let fps: Vec<f64> = who
        .iter()
        .map(|w| if *w == Who::OursPaced { Ok(0.0) } else { fastest(*w, layout, &frames, 2 * count) })
        .collect::<Result<_>>()?;
    let latency = |index: usize| {
        let all: Vec<f64> = turns[index].iter().flat_map(|t| t.latency_ms.iter().copied()).collect();
        Summary::of(&all).context("No frame arrived")
    };
    let cpu = |index: usize| {
        Summary::of(&turns[index].iter().map(|t| t.cpu_ms).collect::<Vec<_>>()).context("No round was run")
    };
    let lost = |index: usize| turns[index].iter().map(|t| t.lost).sum::<usize>();
    let title = format!("1080p60 {}, glass to wire", layout.name());
    let (ours, paced) = (latency(0)?, latency(1)?);
    if who.len() > 2 {
        let theirs = latency(2)?;
        let p95 = ours.p95 / theirs.p95;
        let note = format!(
            "p95 {:.1} against {:.1} ms: {p95:.2}; frames lost {} against {}; openh264 on both sides, {} kb/s, {} slices and threads, unpaced; nasm-less build: {}",
            ours.p95,
            theirs.p95,
            lost(0),
            lost(2),
            ffmpeg::BITRATE_KBPS,
            ffmpeg::SLICES,
            ffmpeg::nasm_remark(),
        );
        let row = Row::against(title.as_str(), rival, "ms", ours, theirs).note(note);
        let met = row.ratio.is_some_and(|r| r <= 1.0) && p95 <= 0.8;
        bench.rows.push(row.goal("p50 ≤ 1.0 ×, p95 ≤ 0.8 ×", met));
        bench.rows.push(Row::against(format!("{title}, CPU a frame"), rival, "ms", cpu(0)?, cpu(2)?));
        let (own, other) = (Summary::single(fps[0]), Summary::single(fps[2]));
        bench.rows.push(Row::against(format!("1080p {}, as fast as it goes", layout.name()), rival, "fps", own, other));
    } else {
        bench.rows.push(Row::alone(title.as_str(), "ms", ours).note(format!("{} frames lost", lost(0))));
    }
    bench.rows.push(Row::against(format!("{title}, with the pacer"), "ours without it", "ms", paced, ours));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(at_ms: u64, frame: u32) -> FrameEnd {
        FrameEnd { at_ns: at_ms * 1_000_000, timestamp: u32::MAX.wrapping_add(frame * 1500) }
    }

    #[test]
    fn frames_are_paired_by_their_timestamps_when_one_is_missing() {
        let written = [0, 17_000_000, 33_000_000];
        assert_eq!(latencies_ms(&written, &[end(5, 0), end(24, 1), end(41, 2)]), [5.0, 7.0, 8.0]);
        assert_eq!(latencies_ms(&written, &[end(5, 0), end(41, 2)]), [5.0, 8.0]);
        assert!(latencies_ms(&written, &[]).is_empty());
    }
}
