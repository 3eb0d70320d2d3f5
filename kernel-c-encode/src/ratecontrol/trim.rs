//! Trim: holds a library that exceeds its bitrate for long to it, by asking for less than is meant.
//!
//! SVT-AV1 in its real-time mode settles at 1.3 times the bitrate on grain, and takes no quantiser while it holds a
//! bitrate; but it follows a new bitrate without a key frame. So it is told the bitrate divided by what it exceeds it by,
//! again every two seconds, until it fits. A library that keeps its bitrate is left alone.

/// How long the library is looked at, s: the time that CBR is to be held over. SVT-AV1 deviates by up to 6 % over one
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
    /// Frames in a window.
    window: u32,
    /// Frames since the last look, a key frame or a new bitrate.
    frames: u32,
    /// What is asked for, of the bitrate.
    share: f64,
}

impl Trim {
    /// For a stream of `kbps` at `fps`.
    pub fn new(kbps: u32, fps: f64) -> Trim {
        let window = (fps * WINDOW_S).round().clamp(2.0, 1e6) as u32;
        Trim { target_kbps: kbps, fps, bits: 0, window, frames: 0, share: 1.0 }
    }

    /// A new bitrate, kb/s; gives what is to be asked of the library for it.
    pub fn set_bitrate(&mut self, kbps: u32) -> u32 {
        self.target_kbps = kbps;
        (self.bits, self.frames) = (0, 0);
        self.asked_kbps()
    }

    /// Takes note of an access unit of `bits`; gives the bitrate to ask the library for when it is another than before.
    pub fn coded(&mut self, bits: u64, is_key: bool) -> Option<u32> {
        // A key frame is paid back by the library itself in the frames behind it: the window begins anew behind it.
        if is_key {
            (self.bits, self.frames) = (0, 0);
            return None;
        }
        self.bits = self.bits.saturating_add(bits);
        self.frames += 1;
        if self.frames < self.window {
            return None;
        }
        let rate = self.bits as f64 / f64::from(self.window) * self.fps / 1000.0 / f64::from(self.target_kbps.max(1));
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

    /// A library that takes `factor` times what it is asked for, and four frames' worth for a key frame.
    fn rates(trim: &mut Trim, asked: &mut u32, factor: f64, frames: usize, key_every: usize) -> Vec<f64> {
        let mut sizes = Vec::new();
        for index in 0..frames {
            let is_key = index.is_multiple_of(key_every);
            let bits = f64::from(*asked) * 1000.0 / 30.0 * factor * if is_key { 4.0 } else { 1.0 };
            sizes.push(bits);
            *asked = trim.coded(bits as u64, is_key).unwrap_or(*asked);
        }
        sizes.chunks(30).map(|second| second.iter().sum::<f64>() / 1000.0).collect()
    }

    #[test]
    fn a_library_that_exceeds_its_bitrate_is_held_to_it_and_let_go_when_it_fits() {
        let (mut trim, mut asked) = (Trim::new(3000, 30.0), 3000);
        let hard = rates(&mut trim, &mut asked, 1.4, 240, 10_000);
        assert!(hard[0] > 4000.0, "{hard:?}");
        assert!(hard[3..].iter().all(|kbps| (kbps / 3000.0 - 1.0).abs() < 0.05), "{hard:?}");
        rates(&mut trim, &mut asked, 1.0, 360, 10_000);
        assert!(asked >= 2900, "{asked}");
        assert_eq!(trim.set_bitrate(6000) / 2, asked);
    }

    #[test]
    fn a_library_that_keeps_its_bitrate_is_left_alone_whatever_its_key_frames_take() {
        let (mut trim, mut asked) = (Trim::new(3000, 30.0), 3000);
        for key_every in [10, 30, 60, 1000] {
            rates(&mut trim, &mut asked, 1.0, 300, key_every);
            assert_eq!(asked, 3000, "a key frame every {key_every}");
        }
    }

    #[test]
    fn nothing_makes_it_ask_for_nothing_or_for_more_than_is_meant() {
        for (fps, bits) in [(0.5, u64::MAX / 1000), (1e6, 0), (30.0, u64::MAX / 1000)] {
            let mut trim = Trim::new(1, fps);
            for _ in 0..2000 {
                assert!(trim.coded(bits, false).is_none_or(|kbps| kbps == 1));
            }
        }
    }
}
