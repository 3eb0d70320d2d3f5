//! The leaky bucket, and the bits of the last second.

/// A leaky bucket: bits coded flow in at once, the channel takes them out at its rate. It is the encoder's view of the
/// receive buffer of ITU-T H.264 Annex C (VBV, HRD): what is in the bucket has yet to arrive, so a bucket that holds
/// more than its size is a receiver that waits, and an empty one is a channel with nothing to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeakyBucket {
    size_bits: f64,
    drain_bits: f64,
    level_bits: f64,
    peak_bits: f64,
    unused_bits: f64,
}

impl LeakyBucket {
    /// An empty bucket. `drain_bits` leave it every frame; a size below one frame's worth is raised to that, because
    /// the channel takes bits out frame by frame.
    pub fn new(size_bits: f64, drain_bits: f64) -> LeakyBucket {
        let drain_bits = drain_bits.max(1.0);
        LeakyBucket {
            size_bits: size_bits.max(drain_bits),
            drain_bits,
            level_bits: 0.0,
            peak_bits: 0.0,
            unused_bits: 0.0,
        }
    }

    /// Changes size and rate; what waits goes on waiting.
    pub fn resize(&mut self, size_bits: f64, drain_bits: f64) {
        self.drain_bits = drain_bits.max(1.0);
        self.size_bits = size_bits.max(self.drain_bits);
    }

    /// Takes in a frame and lets one frame time pass.
    pub fn frame(&mut self, bits: f64) {
        self.peak_bits = self.level_bits + bits.max(0.0);
        let left = self.peak_bits - self.drain_bits;
        self.level_bits = left.max(0.0);
        self.unused_bits += (-left).max(0.0);
    }

    /// Size, bits.
    pub fn size_bits(&self) -> f64 {
        self.size_bits
    }

    /// Bits that leave it every frame.
    pub fn drain_bits(&self) -> f64 {
        self.drain_bits
    }

    /// Bits that wait, after the last frame time.
    pub fn level_bits(&self) -> f64 {
        self.level_bits
    }

    /// Bits that waited the moment the last frame came in: above [`LeakyBucket::size_bits`] it overflowed.
    pub fn peak_bits(&self) -> f64 {
        self.peak_bits
    }

    /// Room for the next frame, bits; 0 when it is full.
    pub fn room_bits(&self) -> f64 {
        (self.size_bits - self.level_bits).max(0.0)
    }

    /// What the channel could have taken but was not given, bits, in all.
    pub fn unused_bits(&self) -> f64 {
        self.unused_bits
    }
}

/// Longest window, frames: a second at 480 fps; faster streams look at the last 480 frames.
const MAX_WINDOW: usize = 480;

/// The frames of the last second, and how large the next may be so that no second holds more than the limit.
///
/// Sizes are kept in frames' worth of the bitrate they were coded at: after a change of bitrate the past binds no more
/// and no less than before.
#[derive(Debug, Clone)]
pub struct Window {
    /// The last `frames − 1` sizes, a ring.
    past: Box<[f64]>,
    /// Where the oldest lies.
    oldest: usize,
    /// What a window may hold, frames' worth.
    limit: f64,
}

impl Window {
    /// An empty window of a second at `fps` that may hold `1 + tolerance` seconds' worth of bits.
    pub fn new(fps: f64, tolerance: f64) -> Window {
        let frames = (fps.ceil().max(1.0) as usize).min(MAX_WINDOW);
        // A window of `frames` frames may last a little longer than a second; the limit is that of the second.
        let worth = fps.clamp(1.0, frames as f64);
        Window { past: vec![0.0; frames - 1].into_boxed_slice(), oldest: 0, limit: worth * (1.0 + tolerance.max(0.0)) }
    }

    /// Adds the frame just coded, in frames' worth of the bitrate.
    pub fn push(&mut self, worth: f64) {
        if let Some(oldest) = self.past.get_mut(self.oldest) {
            *oldest = worth.max(0.0);
            self.oldest = (self.oldest + 1) % self.past.len();
        }
    }

    /// Sum of the last second's frames but one (the next makes it whole), frames' worth.
    pub fn held(&self) -> f64 {
        self.past.iter().sum()
    }

    /// Largest next frame, frames' worth, with which every window to come stays within the limit, if each later frame
    /// takes at least `reserve`: with `P_k` the past frames still in the window that ends `k` frames after the next,
    /// `min over k of (limit − P_k − k × reserve)`. Negative when the limit is broken already.
    pub fn room(&self, reserve: f64) -> f64 {
        self.lowest(|slack, k| slack - k * reserve)
    }

    /// Largest size that the next frame and all later ones can have alike: `min over k of (limit − P_k) / (k + 1)`.
    pub fn sustainable(&self) -> f64 {
        self.lowest(|slack, k| slack / (k + 1.0))
    }

    fn lowest(&self, value: impl Fn(f64, f64) -> f64) -> f64 {
        let mut held = self.held();
        let mut lowest = value(self.limit - held, 0.0);
        let (newer, older) = self.past.split_at(self.oldest);
        for (index, gone) in older.iter().chain(newer).enumerate() {
            held -= gone;
            lowest = lowest.min(value(self.limit - held, (index + 1) as f64));
        }
        lowest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_flows_in_waits_and_leaves_at_the_rate() {
        let mut bucket = LeakyBucket::new(1000.0, 100.0);
        bucket.frame(500.0);
        assert_eq!((bucket.peak_bits(), bucket.level_bits(), bucket.room_bits()), (500.0, 400.0, 600.0));
        bucket.frame(0.0);
        assert_eq!((bucket.level_bits(), bucket.unused_bits()), (300.0, 0.0));
        for _ in 0..5 {
            bucket.frame(0.0);
        }
        assert_eq!((bucket.level_bits(), bucket.unused_bits()), (0.0, 200.0));
        bucket.frame(1500.0);
        assert!(bucket.peak_bits() > bucket.size_bits());
        assert_eq!(bucket.room_bits(), 0.0);
        bucket.resize(4000.0, 400.0);
        assert_eq!((bucket.level_bits(), bucket.room_bits()), (1400.0, 2600.0));
        assert_eq!(LeakyBucket::new(0.0, 100.0).size_bits(), 100.0);
    }

    /// Room by trying: the largest next frame after which frames of `reserve` fit every window.
    fn fits(past: &[f64], next: f64, later: f64, limit: f64) -> bool {
        let length = past.len() + 1;
        let mut all = past.to_vec();
        all.push(next);
        all.extend(std::iter::repeat_n(later, length));
        all.windows(length).all(|window| window.iter().sum::<f64>() <= limit + 1e-9)
    }

    #[test]
    fn the_room_is_the_largest_frame_that_keeps_every_second_to_come() {
        let mut random = 1u64;
        let mut window = Window::new(8.0, 0.1);
        let mut past = vec![0.0; 7];
        for _ in 0..500 {
            let room = window.room(0.5);
            let even = window.sustainable();
            if room > 0.0 {
                assert!(fits(&past, room, 0.5, 8.8) && !fits(&past, room + 0.01, 0.5, 8.8), "{past:?} {room}");
            }
            if even > 0.0 {
                assert!(fits(&past, even, even, 8.8) && !fits(&past, even + 0.01, even + 0.01, 8.8), "{past:?} {even}");
            }
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let size = (random >> 40) as f64 / f64::from(1u32 << 24) * 2.2;
            window.push(size);
            past.remove(0);
            past.push(size);
            assert!((window.held() - past.iter().sum::<f64>()).abs() < 1e-9);
        }
    }

    #[test]
    fn a_window_of_a_single_frame_holds_that_frame() {
        for fps in [0.5, 1.0] {
            let mut window = Window::new(fps, 0.1);
            assert_eq!((window.room(0.5), window.sustainable()), (1.1, 1.1));
            window.push(5.0);
            assert_eq!(window.room(0.5), 1.1);
        }
        assert!((Window::new(59.94, 0.1).room(0.0) - 65.934).abs() < 1e-9);
    }
}
