//! The rival: source, encoder and sender in one FFmpeg process, started again at once when it dies.

use crate::ffmpeg::Ffmpeg;
use crate::stats::Summary;
use crate::supervised::PATIENCE;
use crate::wire::Receiver;
use anyhow::{Context, Result, ensure};
use shm_protocol::clock::monotonic_ns;
use std::time::Duration;

/// What came of it.
pub struct Rival {
    /// Name, version, encoder.
    pub name: String,
    /// Longest interval between frames at each death, ms.
    pub gaps: Summary,
    /// Streams begun anew.
    pub breaks: Summary,
}

/// Kills it `kills` times.
///
/// # Errors
/// When there is no FFmpeg that encodes H.264, or it sends nothing.
pub fn run(kills: usize, seed: u64) -> Result<Rival> {
    let receiver = Receiver::start()?;
    let (mut ffmpeg, name) = Ffmpeg::pattern(receiver.port())?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut at = Vec::new();
    for _ in 0..kills {
        let frames = receiver.frames();
        ensure!(receiver.wait_for(frames + 30, PATIENCE), "FFmpeg sent nothing");
        std::thread::sleep(Duration::from_micros(random.u64(..250_000)));
        at.push(monotonic_ns());
        drop(ffmpeg);
        ffmpeg = Ffmpeg::pattern(receiver.port())?.0;
    }
    let frames = receiver.frames();
    ensure!(receiver.wait_for(frames + 30, PATIENCE), "FFmpeg sent nothing");
    drop(ffmpeg);
    let arrived = receiver.stop();
    let gap = |(index, begin_ns): (usize, &u64)| {
        let end_ns = at.get(index + 1).copied().unwrap_or(u64::MAX);
        let pairs = arrived.frames.windows(2).filter(|p| p[1].at_ns >= *begin_ns && p[0].at_ns < end_ns);
        pairs.map(|pair| pair[1].at_ns.saturating_sub(pair[0].at_ns) as f64 / 1e6).fold(0.0, f64::max)
    };
    let gaps: Vec<f64> = at.iter().enumerate().map(gap).collect();
    let gaps = Summary::of(&gaps).context("Nothing was killed")?;
    Ok(Rival { name, gaps, breaks: Summary::single(arrived.breaks as f64) })
}
