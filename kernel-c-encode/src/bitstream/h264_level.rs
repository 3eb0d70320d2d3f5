//! Levels of H.264 (ITU-T H.264 Table A-1).

/// Limits of one level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// `level_idc`: ten times the level.
    pub level_idc: u8,
    /// MaxMBPS: macroblocks per second.
    pub max_mbps: u32,
    /// MaxFS: macroblocks of a frame.
    pub max_frame_mbs: u32,
    /// MaxBR, unit of 1200 bit/s for a NAL stream of the Baseline and Main profiles (Table A-1, A.3.1 j).
    pub max_br: u32,
}

impl Level {
    /// Highest bitrate of a NAL byte stream at this level, kb/s, Baseline and Main (cpbBrNalFactor 1200).
    pub const fn max_kbps(&self) -> u32 {
        self.max_br * 6 / 5
    }
}

const fn level(level_idc: u8, max_mbps: u32, max_frame_mbs: u32, max_br: u32) -> Level {
    Level { level_idc, max_mbps, max_frame_mbs, max_br }
}

/// Levels in rising order. 1b, which needs a flag beside its number, is left out: 1.1 covers it.
pub const LEVELS: [Level; 16] = [
    level(10, 1_485, 99, 64),
    level(11, 3_000, 396, 192),
    level(12, 6_000, 396, 384),
    level(13, 11_880, 396, 768),
    level(20, 11_880, 396, 2_000),
    level(21, 19_800, 792, 4_000),
    level(22, 20_250, 1_620, 4_000),
    level(30, 40_500, 1_620, 10_000),
    level(31, 108_000, 3_600, 14_000),
    level(32, 216_000, 5_120, 20_000),
    level(40, 245_760, 8_192, 20_000),
    level(41, 245_760, 8_192, 50_000),
    level(42, 522_240, 8_704, 50_000),
    level(50, 589_824, 22_080, 135_000),
    level(51, 983_040, 36_864, 240_000),
    level(52, 2_073_600, 36_864, 240_000),
];

/// Macroblocks of a frame of this size, pixels.
pub const fn macroblocks(width: u32, height: u32) -> u32 {
    width.div_ceil(16) * height.div_ceil(16)
}

/// The level with this number.
pub fn by_idc(level_idc: u8) -> Option<Level> {
    LEVELS.into_iter().find(|l| l.level_idc == level_idc)
}

/// The lowest level that carries frames of this size (pixels), rate (1/s) and bitrate (kb/s); the highest one when
/// none does, because decoders treat the level as a hint and refuse nothing above it by itself.
pub fn lowest(width: u32, height: u32, fps: f64, kbps: u32) -> Level {
    let mbs = macroblocks(width, height);
    let longest_side_mbs = width.max(height).div_ceil(16);
    LEVELS
        .into_iter()
        .find(|l| {
            l.max_frame_mbs >= mbs
                // A.3.1 f and g: a side has at most Sqrt(MaxFS × 8) macroblocks.
                && l.max_frame_mbs * 8 >= longest_side_mbs * longest_side_mbs
                && f64::from(l.max_mbps) >= f64::from(mbs) * fps
                && l.max_kbps() >= kbps
        })
        .unwrap_or(LEVELS[LEVELS.len() - 1])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_sizes_get_their_usual_levels() {
        assert_eq!(lowest(1280, 720, 30.0, 4000).level_idc, 31);
        assert_eq!(lowest(1280, 720, 60.0, 4000).level_idc, 32);
        assert_eq!(lowest(1920, 1080, 30.0, 8000).level_idc, 40);
        assert_eq!(lowest(1920, 1080, 30.0, 32000).level_idc, 41);
        assert_eq!(lowest(1920, 1080, 60.0, 8000).level_idc, 42);
        assert_eq!(lowest(3840, 2160, 60.0, 8000).level_idc, 52);
        assert_eq!(lowest(4096, 2304, 120.0, 8000).level_idc, 52);
    }
}
