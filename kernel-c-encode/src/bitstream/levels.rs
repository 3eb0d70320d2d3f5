//! Levels of HEVC (ITU-T H.265 Tables A.8 and A.9) and of AV1 (AV1 specification A.3).

/// Limits of one level. HEVC and AV1 count pictures in luma samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Level {
    /// Ten times the level, as in the configuration.
    pub idc: u8,
    /// Most luma samples of a picture.
    pub max_samples: u64,
    /// Longest width and height, samples.
    pub max_side: (u32, u32),
    /// Most luma samples per second.
    pub max_rate: u64,
    /// Highest bitrate of the main tier and of the high tier (0: there is none), kb/s.
    pub max_kbps: (u32, u32),
}

/// A level and its tier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Chosen {
    /// Ten times the level.
    pub idc: u8,
    /// High tier.
    pub high_tier: bool,
    /// Highest bitrate, kb/s.
    pub max_kbps: u32,
}

const fn hevc(idc: u8, max_samples: u64, side: u32, max_rate: u64, main: u32, high: u32) -> Level {
    // MaxBR counts units of 1100 bit/s for a NAL stream (CpbNalFactor, Table A.10).
    Level { idc, max_samples, max_side: (side, side), max_rate, max_kbps: (main * 11 / 10, high * 11 / 10) }
}

/// HEVC. A side has at most Sqrt(MaxLumaPs × 8) samples (A.4.1).
pub const HEVC: [Level; 13] = [
    hevc(10, 36_864, 543, 552_960, 128, 0),
    hevc(20, 122_880, 991, 3_686_400, 1_500, 0),
    hevc(21, 245_760, 1_402, 7_372_800, 3_000, 0),
    hevc(30, 552_960, 2_103, 16_588_800, 6_000, 0),
    hevc(31, 983_040, 2_804, 33_177_600, 10_000, 0),
    hevc(40, 2_228_224, 4_222, 66_846_720, 12_000, 30_000),
    hevc(41, 2_228_224, 4_222, 133_693_440, 20_000, 50_000),
    hevc(50, 8_912_896, 8_444, 267_386_880, 25_000, 100_000),
    hevc(51, 8_912_896, 8_444, 534_773_760, 40_000, 160_000),
    hevc(52, 8_912_896, 8_444, 1_069_547_520, 60_000, 240_000),
    hevc(60, 35_651_584, 16_888, 1_069_547_520, 60_000, 240_000),
    hevc(61, 35_651_584, 16_888, 2_139_095_040, 120_000, 480_000),
    hevc(62, 35_651_584, 16_888, 4_278_190_080, 240_000, 800_000),
];

const fn av1(idc: u8, max_samples: u64, max_side: (u32, u32), max_rate: u64, main: u32, high: u32) -> Level {
    Level { idc, max_samples, max_side, max_rate, max_kbps: (main, high) }
}

/// AV1: MaxPicSize, MaxHSize and MaxVSize, MaxDisplayRate, MainMbps and HighMbps.
pub const AV1: [Level; 13] = [
    av1(20, 147_456, (2_048, 1_152), 4_423_680, 1_500, 0),
    av1(21, 278_784, (2_816, 1_584), 8_363_520, 3_000, 0),
    av1(30, 665_856, (4_352, 2_448), 19_975_680, 6_000, 0),
    av1(31, 1_065_024, (5_504, 3_096), 31_950_720, 10_000, 0),
    av1(40, 2_359_296, (6_144, 3_456), 70_778_880, 12_000, 30_000),
    av1(41, 2_359_296, (6_144, 3_456), 141_557_760, 20_000, 50_000),
    av1(50, 8_912_896, (8_192, 4_352), 267_386_880, 30_000, 100_000),
    av1(51, 8_912_896, (8_192, 4_352), 534_773_760, 40_000, 160_000),
    av1(52, 8_912_896, (8_192, 4_352), 1_069_547_520, 60_000, 240_000),
    av1(60, 35_651_584, (16_384, 8_704), 1_069_547_520, 60_000, 240_000),
    av1(61, 35_651_584, (16_384, 8_704), 2_139_095_040, 100_000, 480_000),
    av1(62, 35_651_584, (16_384, 8_704), 4_278_190_080, 160_000, 800_000),
    av1(63, 35_651_584, (16_384, 8_704), 4_278_190_080, 160_000, 800_000),
];

/// The lowest level of `levels` that carries this size (pixels), rate (1/s) and bitrate (kb/s), in the main tier where
/// that is enough; the highest when none does: decoders take the level for a hint.
pub fn lowest(levels: &[Level], width: u32, height: u32, fps: f64, kbps: u32) -> Option<Chosen> {
    let samples = u64::from(width) * u64::from(height);
    let fits = levels.iter().filter(|l| {
        l.max_samples >= samples
            && l.max_side.0 >= width
            && l.max_side.1 >= height
            && l.max_rate as f64 >= samples as f64 * fps
    });
    let chosen = |l: &Level, high_tier| Chosen {
        idc: l.idc,
        high_tier,
        max_kbps: if high_tier { l.max_kbps.1 } else { l.max_kbps.0 },
    };
    let mut found = fits.clone().find(|l| l.max_kbps.0 >= kbps).map(|l| chosen(l, false));
    if let Some(high) = fits.clone().find(|l| l.max_kbps.1 >= kbps) {
        // A high tier two levels lower is rarer among decoders than the main tier: it is the last resort.
        found = found.or(Some(chosen(high, true)));
    }
    found.or_else(|| levels.last().map(|l| chosen(l, l.max_kbps.1 > 0)))
}

/// The level that the configuration names (ten times the level), in the tier that carries the bitrate.
pub fn by_idc(levels: &[Level], idc: u8, kbps: u32) -> Option<Chosen> {
    let level = levels.iter().find(|l| l.idc == idc)?;
    let high_tier = level.max_kbps.0 < kbps && level.max_kbps.1 > 0;
    Some(Chosen { idc, high_tier, max_kbps: if high_tier { level.max_kbps.1 } else { level.max_kbps.0 } })
}

/// `general_level_idc` of HEVC: thirty times the level.
pub const fn hevc_level_idc(idc: u8) -> u8 {
    idc * 3
}

/// `seq_level_idx` of AV1 (A.3): four per major level, from 2.0 on.
pub const fn av1_level_idx(idc: u8) -> u8 {
    (idc / 10 - 2) * 4 + idc % 10
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usual_sizes_get_their_usual_levels() {
        let idc = |levels: &[Level], w, h, fps, kbps| lowest(levels, w, h, fps, kbps).map(|c| (c.idc, c.high_tier));
        assert_eq!(idc(&HEVC, 1920, 1080, 60.0, 8_000), Some((41, false)));
        assert_eq!(idc(&HEVC, 3840, 2160, 60.0, 30_000), Some((51, false)));
        assert_eq!(idc(&HEVC, 7680, 4320, 60.0, 80_000), Some((61, false)));
        assert_eq!(idc(&HEVC, 7680, 4320, 120.0, 400_000), Some((62, true)));
        assert_eq!(idc(&AV1, 1920, 1080, 60.0, 8_000), Some((41, false)));
        assert_eq!(idc(&AV1, 3840, 2160, 60.0, 30_000), Some((51, false)));
        assert_eq!(hevc_level_idc(51), 153);
        assert_eq!([20, 31, 40, 51, 63].map(av1_level_idx), [0, 5, 8, 13, 19]);
    }

    #[test]
    fn a_level_asked_for_takes_the_tier_its_bitrate_needs() {
        assert_eq!(by_idc(&HEVC, 41, 60_000), Some(Chosen { idc: 41, high_tier: true, max_kbps: 55_000 }));
        assert_eq!(by_idc(&HEVC, 41, 10_000), Some(Chosen { idc: 41, high_tier: false, max_kbps: 22_000 }));
        assert_eq!(by_idc(&AV1, 42, 1_000), None);
    }
}
