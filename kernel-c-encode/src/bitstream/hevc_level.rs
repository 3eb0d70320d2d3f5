//! Levels of HEVC in the Main tier, for libraries that know no other (ITU-T H.265 Tables A.8 and A.9).

use super::levels;

/// Limits of one level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Ten times the level.
    pub number: u8,
    /// MaxLumaPs: luma samples of a picture.
    pub max_luma_samples: u32,
    /// MaxLumaSr: luma samples per second.
    pub max_luma_rate: u64,
    /// MaxBR and MaxCPB of the Main tier: kb/s and kbit of a NAL stream at BrNalFactor 1100, rounded down to 1000.
    pub max_kbps: u32,
}

const fn main_tier(level: levels::Level) -> Level {
    Level {
        number: level.idc,
        max_luma_samples: level.max_samples as u32,
        max_luma_rate: level.max_rate,
        max_kbps: level.max_kbps.0 * 10 / 11,
    }
}

/// Levels in rising order.
pub const LEVELS: [Level; levels::HEVC.len()] = {
    let mut all = [main_tier(levels::HEVC[0]); levels::HEVC.len()];
    let mut index = 1;
    while index < all.len() {
        all[index] = main_tier(levels::HEVC[index]);
        index += 1;
    }
    all
};

impl Level {
    /// Whether it carries pictures of this size (pixels), rate (1/s), bitrate (kb/s) and buffer (kbit).
    pub fn carries(&self, width: u32, height: u32, fps: f64, kbps: u32, buffer_kbit: u32) -> bool {
        let samples = u64::from(width) * u64::from(height);
        let side = u64::from(width.max(height));
        samples <= u64::from(self.max_luma_samples)
            // A.4.1: a side has at most Sqrt(MaxLumaPs × 8) samples.
            && side * side <= u64::from(self.max_luma_samples) * 8
            && samples as f64 * fps <= self.max_luma_rate as f64
            && kbps.max(buffer_kbit) <= self.max_kbps
    }
}

/// The level with this number.
pub fn by_number(number: u8) -> Option<Level> {
    LEVELS.into_iter().find(|level| level.number == number)
}

/// The lowest level that carries pictures of this size (pixels), rate (1/s), bitrate (kb/s) and buffer (kbit); `None`
/// when none does.
pub fn lowest(width: u32, height: u32, fps: f64, kbps: u32, buffer_kbit: u32) -> Option<Level> {
    LEVELS.into_iter().find(|level| level.carries(width, height, fps, kbps, buffer_kbit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_sizes_get_their_usual_levels() {
        let number = |width, height, fps, kbps| lowest(width, height, fps, kbps, 0).map(|level| level.number);
        assert_eq!(number(1280, 720, 30.0, 4000), Some(31));
        assert_eq!(number(1920, 1080, 30.0, 8000), Some(40));
        assert_eq!(number(1920, 1080, 60.0, 8000), Some(41));
        assert_eq!(number(3840, 2160, 60.0, 20_000), Some(51));
        assert_eq!(number(7680, 4320, 60.0, 80_000), Some(61));
        assert_eq!(number(7680, 4320, 60.0, 300_000), None);
        assert_eq!(lowest(1280, 720, 30.0, 4000, 20_000).map(|level| level.number), Some(41));
    }
}
