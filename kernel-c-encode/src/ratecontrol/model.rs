//! The scales of the rate control: quantiser step and Lagrange multipliers.
//!
//! All formulas are written with their sources in docs/rate-control.md.

/// Which numbers a codec gives to its quantiser steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QpScale {
    /// QP 0 to 51 of H.264 and HEVC: `Qstep = 2^((QP − 4) / 6)` (ITU-T H.264 8.5, ITU-T H.265 8.6.2). At 10 bit it is
    /// the step of the 8-bit scale: HEVC then also knows QPs below 0, which live video never needs.
    H26x,
    /// `base_q_idx` 0 to 255 of AV1: `Qstep = Ac_Qlookup[0][base_q_idx] / 8` (AV1 specification 7.12.2; its transforms
    /// scale by 8). The step at 255 is 228.5, that of QP 51 is 228.1: both scales reach equally far.
    Av1,
}

impl QpScale {
    /// Largest number of the scale.
    pub const fn max_qp(self) -> u8 {
        match self {
            QpScale::H26x => 51,
            QpScale::Av1 => 255,
        }
    }

    /// Smallest number for lossy coding: `base_q_idx` 0 makes AV1 lossless.
    pub const fn min_qp(self) -> u8 {
        match self {
            QpScale::H26x => 0,
            QpScale::Av1 => 1,
        }
    }

    /// Quantiser step in units of a sample of 8 bit, for an orthonormal transform. Numbers beyond the scale are taken
    /// for its end.
    pub fn qstep(self, qp: u8) -> f64 {
        match self {
            QpScale::H26x => 2f64.powf((f64::from(qp.min(51)) - 4.0) / 6.0),
            QpScale::Av1 => f64::from(AV1_AC_QLOOKUP[usize::from(qp)]) / 8.0,
        }
    }

    /// `log2` of [`QpScale::qstep`]: the unit the controller works in, an octave; a sixth of it is one QP.
    pub fn octave(self, qp: u8) -> f64 {
        self.qstep(qp).log2()
    }

    /// The number whose step is nearest to `2^octave`.
    pub fn nearest(self, octave: f64) -> u8 {
        match self {
            QpScale::H26x => (octave.clamp(-1.0, 8.0) * 6.0 + 4.0).round().clamp(0.0, 51.0) as u8,
            QpScale::Av1 => {
                let coarse = self.at_least(octave);
                match coarse.checked_sub(1) {
                    Some(fine) if octave - self.octave(fine) < self.octave(coarse) - octave => fine,
                    _ => coarse,
                }
            }
        }
    }

    /// The smallest number whose step is at least `2^octave`: it never spends more bits than asked for.
    pub fn at_least(self, octave: f64) -> u8 {
        // A QP computed back from its own octave must give itself: less than this is rounding.
        const ROUNDING: f64 = 1e-9;
        let octave = octave.clamp(-2.0, 8.0) - ROUNDING;
        match self {
            QpScale::H26x => (octave * 6.0 + 4.0).ceil().clamp(0.0, 51.0) as u8,
            QpScale::Av1 => {
                let step = 2f64.powf(octave) * 8.0;
                AV1_AC_QLOOKUP.partition_point(|entry| f64::from(*entry) < step).min(255) as u8
            }
        }
    }
}

/// The encoder whose Lagrange multiplier is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LambdaModel {
    /// H.264, the JM reference software: 0.85 × 2^((QP − 12) / 3).
    H264,
    /// HEVC, the HM reference software with its factor for intra pictures: 0.57 × 2^((QP − 12) / 3).
    Hevc,
}

/// λ of mode decisions, `J = SSD + λ × bits`, at `qp` of [`QpScale::H26x`].
pub fn lambda_mode(model: LambdaModel, qp: f64) -> f64 {
    let factor = match model {
        LambdaModel::H264 => 0.85,
        LambdaModel::Hevc => 0.57,
    };
    factor * 2f64.powf((qp - 12.0) / 3.0)
}

/// λ of decisions by SAD or SATD (motion search), `J = SATD + λ × bits`: the square root, because SSD grows with the
/// square of the error and SATD with the error itself.
pub fn lambda_motion(model: LambdaModel, qp: f64) -> f64 {
    lambda_mode(model, qp).sqrt()
}

/// `Ac_Qlookup[0]` of the AV1 specification (7.12.2, 8 bit), by `base_q_idx`.
#[rustfmt::skip]
const AV1_AC_QLOOKUP: [u16; 256] = [
    4, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22,
    23, 24, 25, 26, 27, 28, 29, 30, 31, 32, 33, 34, 35, 36, 37, 38,
    39, 40, 41, 42, 43, 44, 45, 46, 47, 48, 49, 50, 51, 52, 53, 54,
    55, 56, 57, 58, 59, 60, 61, 62, 63, 64, 65, 66, 67, 68, 69, 70,
    71, 72, 73, 74, 75, 76, 77, 78, 79, 80, 81, 82, 83, 84, 85, 86,
    87, 88, 89, 90, 91, 92, 93, 94, 95, 96, 97, 98, 99, 100, 101, 102,
    104, 106, 108, 110, 112, 114, 116, 118, 120, 122, 124, 126, 128, 130, 132, 134,
    136, 138, 140, 142, 144, 146, 148, 150, 152, 155, 158, 161, 164, 167, 170, 173,
    176, 179, 182, 185, 188, 191, 194, 197, 200, 203, 207, 211, 215, 219, 223, 227,
    231, 235, 239, 243, 247, 251, 255, 260, 265, 270, 275, 280, 285, 290, 295, 300,
    305, 311, 317, 323, 329, 335, 341, 347, 353, 359, 366, 373, 380, 387, 394, 401,
    408, 416, 424, 432, 440, 448, 456, 465, 474, 483, 492, 501, 510, 520, 530, 540,
    550, 560, 571, 582, 593, 604, 615, 627, 639, 651, 663, 676, 689, 702, 715, 729,
    743, 757, 771, 786, 801, 816, 832, 848, 864, 881, 898, 915, 933, 951, 969, 988,
    1007, 1026, 1046, 1066, 1087, 1108, 1129, 1151, 1173, 1196, 1219, 1243, 1267, 1292, 1317, 1343,
    1369, 1396, 1423, 1451, 1479, 1508, 1537, 1567, 1597, 1628, 1660, 1692, 1725, 1759, 1793, 1828,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qstep_is_one_at_qp_4_and_doubles_every_six() {
        let qstep = |qp| QpScale::H26x.qstep(qp);
        assert_eq!(qstep(4), 1.0);
        for qp in 0..46 {
            assert!((qstep(qp + 6) / qstep(qp) - 2.0).abs() < 1e-12, "QP {qp}");
        }
        // ITU-T H.264's own values, as JM prints them: 0.625 at 0 (rounded down from 0.63), 26 at 32, 224 at 51.
        for (qp, known) in [(0, 0.625), (22, 8.0), (28, 16.0), (32, 26.0), (40, 64.0), (51, 224.0)] {
            assert!((qstep(qp) / known - 1.0).abs() < 0.03, "QP {qp}: {}", qstep(qp));
        }
    }

    #[test]
    fn av1_steps_rise_strictly_and_reach_as_far_as_qp_51() {
        assert!(AV1_AC_QLOOKUP.windows(2).all(|pair| pair[0] < pair[1]));
        let av1 = |index| QpScale::Av1.qstep(index);
        assert_eq!((av1(0), av1(255)), (0.5, 228.5));
        assert!((av1(255) / QpScale::H26x.qstep(51) - 1.0).abs() < 0.01);
    }

    #[test]
    fn every_number_comes_back_from_its_own_step() {
        for scale in [QpScale::H26x, QpScale::Av1] {
            for qp in 0..=scale.max_qp() {
                let octave = scale.octave(qp);
                assert_eq!((scale.nearest(octave), scale.at_least(octave)), (qp, qp), "{scale:?}");
                if qp < scale.max_qp() {
                    let next = scale.octave(qp + 1);
                    let a_little_more = octave + (next - octave) * 0.1;
                    assert_eq!((scale.nearest(a_little_more), scale.at_least(a_little_more)), (qp, qp + 1));
                }
            }
            for absurd in [f64::NEG_INFINITY, -100.0, 100.0, f64::INFINITY] {
                let end = if absurd < 0.0 { 0 } else { scale.max_qp() };
                assert_eq!((scale.nearest(absurd), scale.at_least(absurd)), (end, end), "{scale:?} {absurd}");
            }
        }
    }

    #[test]
    fn lambda_has_the_minus_twelve_and_doubles_every_three() {
        assert_eq!(lambda_mode(LambdaModel::Hevc, 12.0), 0.57);
        assert_eq!(lambda_mode(LambdaModel::H264, 12.0), 0.85);
        for model in [LambdaModel::H264, LambdaModel::Hevc] {
            assert!((lambda_mode(model, 30.0) / lambda_mode(model, 27.0) - 2.0).abs() < 1e-12);
            // λ of SSD grows as Qstep², that of SATD as Qstep.
            let steps = QpScale::H26x.qstep(40) / QpScale::H26x.qstep(22);
            assert!((lambda_mode(model, 40.0) / lambda_mode(model, 22.0) - steps * steps).abs() < 1e-9);
            assert!((lambda_motion(model, 40.0) / lambda_motion(model, 22.0) - steps).abs() < 1e-9);
        }
    }
}
