//! Trim: holds a library that exceeds its bitrate for long to it, by asking for less than is meant.
//!
//! SVT-AV1 in its real-time mode settles at 1.3 times the bitrate on grain, and takes no quantiser while it holds a
//! bitrate; but it follows a new bitrate without a key frame. So it is told the bitrate divided by what it exceeds it by,
//! again every two seconds, until it fits. A library that keeps its bitrate is left alone.

use crate::settings::Gop;

/// How long the library is looked at, at the least, s: the time that CBR is to be held over. SVT-AV1 deviates by up to 6 % over one
/// second by itself and makes up for it in the next; a trim for that would swing.
const WINDOW_S: f64 = 2.0;
/// Above this share of the bitrate the library is trimmed: just before CBR is not held.
const EXCEEDS: f64 = 1.04;
/// Below this a trim is taken back.
const FALLS_SHORT: f64 = 0.97;
/// How much of the deviation, in the logarithm, one step makes good: a little less than all of it, so that what differed
/// by chance does not swing.
const STEP: f64 = 0.9;
/// Least that is asked for, of the bitrate: content that does not fit at a third does not fit at all.
const LEAST: f64 = 1.0 / 3.0;

/// Watches the sizes of access units.
#[derive(Debug, Clone)]
pub struct Trim {
    target_kbps: u32,
    fps: f64,
    /// Bits since the last look.
    bits: u64,
    /// Frames in a window, at the least.
    window: u32,
    /// Frames since the last look.
    frames: u32,
    /// Key frames come by themselves and belong to the bitrate: a window is whole gops. Otherwise it is what lies between
    /// two, and begins anew behind one that was asked for, which the library pays back by itself.
    whole_gops: bool,
    /// Key frames so far, up to 2: the first gop, with what begins a stream, is no measure.
    keys: u8,
    /// What is asked for, of the bitrate.
    share: f64,
}

impl Trim {
    /// For a stream of `kbps` at `fps`.
    pub fn new(kbps: u32, fps: f64, gop: Gop) -> Trim {
        let window = (fps * WINDOW_S).round().clamp(2.0, 1e6) as u32;
        let whole_gops = matches!(gop, Gop::Frames(frames) if frames <= 2 * window);
        Trim { target_kbps: kbps, fps, bits: 0, window, frames: 0, whole_gops, keys: 0, share: 1.0 }
    }

    /// A new bitrate, kb/s; gives what is to be asked of the library for it.
    pub fn set_bitrate(&mut self, kbps: u32) -> u32 {
        self.target_kbps = kbps;
        (self.bits, self.frames) = (0, 0);
        self.asked_kbps()
    }

    /// Takes note of an access unit of `bits`; gives the bitrate to ask the library for when it is another than before.
    pub fn coded(&mut self, bits: u64, is_key: bool) -> Option<u32> {
        let mut asked = None;
        if is_key {
            if !self.whole_gops || self.keys < 2 {
                (self.bits, self.frames) = (0, 0);
            } else if self.frames >= self.window {
                asked = self.look();
            }
            self.keys = (self.keys + 1).min(2);
            if !self.whole_gops {
                return None;
            }
        }
        self.bits = self.bits.saturating_add(bits);
        self.frames = self.frames.saturating_add(1);
        if !self.whole_gops && self.frames >= self.window {
            asked = self.look();
        }
        asked
    }

    /// Judges the window and begins another.
    fn look(&mut self) -> Option<u32> {
        let kbps = self.bits as f64 / f64::from(self.frames.max(1)) * self.fps / 1000.0;
        let rate = kbps / f64::from(self.target_kbps.max(1));
        (self.bits, self.frames) = (0, 0);
        let before = self.asked_kbps();
        if rate > EXCEEDS || (self.share < 1.0 && rate < FALLS_SHORT) {
            self.share = (self.share / rate.max(0.1).powf(STEP)).clamp(LEAST, 1.0);
        }
        let asked = self.asked_kbps();
        (asked != before).then_some(asked)
    }

    fn asked_kbps(&self) -> u32 {
        ((f64::from(self.target_kbps) * self.share).round() as u32).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A library that takes `factor` times what it is asked for, and gives a key frame four frames' worth, which the rest
    /// of the gop saves.
    fn rates(trim: &mut Trim, asked: &mut u32, factor: f64, frames: u32, key_every: u32) -> Vec<f64> {
        let mut sizes = Vec::new();
        for index in 0..frames {
            let is_key = index.is_multiple_of(key_every);
            let share = if is_key { 4.0 } else { f64::from(key_every - 4) / f64::from(key_every - 1) };
            let bits = f64::from(*asked) * 1000.0 / 30.0 * factor * share;
            sizes.push(bits);
            *asked = trim.coded(bits as u64, is_key).unwrap_or(*asked);
        }
        sizes.chunks(30).map(|second| second.iter().sum::<f64>() / 1000.0).collect()
    }

    fn two_seconds(rates: &[f64]) -> Vec<f64> {
        rates.chunks(2).map(|pair| pair.iter().sum::<f64>() / 2.0 / 3000.0).collect()
    }

    #[test]
    fn a_library_that_exceeds_its_bitrate_is_held_to_it_and_let_go_when_it_fits() {
        // The gop that is set when none is, a shorter one, and none.
        for (gop, key_every) in [(Gop::Frames(60), 60), (Gop::Frames(20), 20), (Gop::Infinite, 10_000)] {
            let (mut trim, mut asked) = (Trim::new(3000, 30.0, gop), 3000);
            let hard = two_seconds(&rates(&mut trim, &mut asked, 1.4, 480, key_every));
            assert!(hard[0] > 1.3, "{gop:?}: {hard:?}");
            assert!(hard[4..].iter().all(|rate| (rate - 1.0).abs() < 0.05), "{gop:?}: {hard:?}");
            rates(&mut trim, &mut asked, 1.0, 600, key_every);
            assert!(asked >= 2900, "{gop:?}: {asked}");
            assert_eq!(trim.set_bitrate(6000) / 2, asked);
        }
    }

    #[test]
    fn a_library_that_keeps_its_bitrate_is_left_alone_whatever_its_key_frames_take() {
        for (gop, key_every) in
            [(Gop::Frames(10), 10), (Gop::Frames(60), 60), (Gop::Infinite, 45), (Gop::Infinite, 1000)]
        {
            let (mut trim, mut asked) = (Trim::new(3000, 30.0, gop), 3000);
            rates(&mut trim, &mut asked, 1.0, 600, key_every);
            assert_eq!(asked, 3000, "a key frame every {key_every}");
        }
    }

    #[test]
    fn nothing_makes_it_ask_for_nothing_or_for_more_than_is_meant() {
        for (fps, bits) in [(0.5, u64::MAX / 1000), (1e6, 0), (30.0, u64::MAX / 1000)] {
            for gop in [Gop::Infinite, Gop::Frames(1)] {
                let mut trim = Trim::new(1, fps, gop);
                for _ in 0..2000 {
                    assert!(trim.coded(bits, gop == Gop::Frames(1)).is_none_or(|kbps| kbps == 1));
                }
            }
        }
    }
}
