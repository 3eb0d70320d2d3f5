//! Exact colour mathematics in integers: R'G'B' to Y'CbCr and between codings of Y'CbCr.
//!
//! Equations are those of ITU-T H.273 (07/2021) clause 8.3. Samples are *working samples*: 16-bit numbers
//! with the code value in the high bits, `code × 2^(16 - depth)`. An 8-bit sample has eight bits of fraction
//! then, a P010 word is a working sample as it is, and limited range means the same number at every depth.

use crate::error::EngineError;
use shm_protocol::frame::{Colour, Range};

/// Fraction bits of R'G'B' coefficients. 15 bits split into two 8-bit halves, which is what the dot-product
/// instructions multiply, so that an engine built on them can be bit-identical.
pub const RGB_FRACTION_BITS: u32 = 15;
/// Fraction bits of Y'CbCr coefficients: a 16-bit sample times a coefficient below 8 keeps far from 63 bits,
/// and the error over a whole 10-bit code range stays below 1/1000 of a code.
pub const YCBCR_FRACTION_BITS: u32 = 22;
/// From this many rows on, video without a named matrix is taken for HD (720p and up).
pub const HD_ROWS: u32 = 720;
/// From this many columns on, video without a named matrix is taken for HD (1280 wide and up).
pub const HD_COLUMNS: u32 = 1280;

/// Matrix coefficients that engines compute with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Matrix {
    /// ITU-R BT.601: H.273 codes 5 and 6.
    Bt601,
    /// ITU-R BT.709: H.273 code 1.
    Bt709,
    /// ITU-R BT.2020 non-constant luminance: H.273 code 9.
    Bt2020,
}

impl Matrix {
    /// Every matrix.
    pub const ALL: [Matrix; 3] = [Matrix::Bt601, Matrix::Bt709, Matrix::Bt2020];

    /// The name used in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Matrix::Bt601 => "bt601",
            Matrix::Bt709 => "bt709",
            Matrix::Bt2020 => "bt2020",
        }
    }

    /// The matrix of that configuration name.
    pub fn from_name(name: &str) -> Option<Matrix> {
        Self::ALL.into_iter().find(|m| m.name() == name)
    }

    /// The matrix of an H.273 MatrixCoefficients code; `None` for codes engines do not compute with.
    pub const fn from_code(code: u8) -> Option<Matrix> {
        match code {
            1 => Some(Matrix::Bt709),
            5 | 6 => Some(Matrix::Bt601),
            9 => Some(Matrix::Bt2020),
            _ => None,
        }
    }

    /// Its H.273 MatrixCoefficients code (6 for BT.601, as encoders write it).
    pub const fn code(self) -> u8 {
        match self {
            Matrix::Bt601 => 6,
            Matrix::Bt709 => 1,
            Matrix::Bt2020 => 9,
        }
    }

    /// K_R and K_B of H.273 table 4.
    pub const fn kr_kb(self) -> (f64, f64) {
        match self {
            Matrix::Bt601 => (0.299, 0.114),
            Matrix::Bt709 => (0.2126, 0.0722),
            Matrix::Bt2020 => (0.2627, 0.0593),
        }
    }

    /// What players assume when nobody says: BT.2020 for its primaries, else BT.709 for HD and BT.601 below.
    pub const fn assumed(primaries: u8, width: u32, height: u32) -> Matrix {
        if primaries == 9 {
            Matrix::Bt2020
        } else if height >= HD_ROWS || width >= HD_COLUMNS {
            Matrix::Bt709
        } else {
            Matrix::Bt601
        }
    }
}

/// How numbers stand for light in one frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coding {
    /// Limited or full.
    pub range: Range,
    /// Significant bits of a sample, 8 to 16.
    pub depth: u8,
}

impl Coding {
    /// Working sample of black in luma and R'G'B'.
    fn black(self) -> i64 {
        match self.range {
            Range::Limited => 16 << 8,
            Range::Full => 0,
        }
    }

    /// Working samples from black to white.
    fn luma_span(self) -> i64 {
        match self.range {
            Range::Limited => 219 << 8,
            Range::Full => 65536 - (1 << (16 - self.depth)),
        }
    }

    /// Working samples from the lowest to the highest chroma.
    fn chroma_span(self) -> i64 {
        match self.range {
            Range::Limited => 224 << 8,
            Range::Full => 65536 - (1 << (16 - self.depth)),
        }
    }
}

/// Working sample of neutral chroma, in both ranges.
const NEUTRAL: i64 = 1 << 15;

/// One output sample as a sum over input working samples: `(Σ coefficient × sample + bias) >> shift`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// Coefficients, fixed point.
    pub coefficients: [i64; 3],
    /// Everything that does not depend on the samples, without rounding.
    pub bias: i64,
}

/// A linear map from three input components to Y', Cb, Cr.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recipe {
    /// Y', Cb, Cr.
    pub rows: [Row; 3],
    /// Bits to shift a sum down to a code value of the output.
    pub shift: u32,
    /// Largest code value of the output.
    pub max_code: u16,
    /// Whether depth is lost, so that rounding spreads over an ordered pattern instead of banding.
    pub dither: bool,
}

fn fixed(value: f64, fraction_bits: u32) -> i64 {
    (value * (1u64 << fraction_bits) as f64).round() as i64
}

impl Recipe {
    fn new(
        coefficients: [[i64; 3]; 3],
        offsets_in: [i64; 3],
        black_out: i64,
        fraction_bits: u32,
        depths: (u8, u8),
    ) -> Self {
        let (depth_in, depth_out) = depths;
        let mut rows = [Row { coefficients: [0; 3], bias: 0 }; 3];
        for (index, row) in rows.iter_mut().enumerate() {
            let offset_out = if index == 0 { black_out } else { NEUTRAL };
            let removed: i64 = coefficients[index].iter().zip(offsets_in).map(|(c, o)| c * o).sum();
            *row = Row { coefficients: coefficients[index], bias: (offset_out << fraction_bits) - removed };
        }
        Recipe {
            rows,
            shift: fraction_bits + 16 - u32::from(depth_out),
            max_code: ((1u32 << depth_out) - 1) as u16,
            dither: depth_in > depth_out,
        }
    }

    /// R'G'B' to Y'CbCr (H.273 equations 38 to 40 with 24 to 35). The Y' row sums to the exact gain and the chroma rows to
    /// zero, so that white and black hit their codes and greys have no colour at all.
    pub fn rgb_to_ycbcr(matrix: Matrix, from: Coding, to: Coding) -> Recipe {
        let (kr, kb) = matrix.kr_kb();
        let q = |value| fixed(value, RGB_FRACTION_BITS);
        let luma = to.luma_span() as f64 / from.luma_span() as f64;
        let chroma = to.chroma_span() as f64 / from.luma_span() as f64;
        let (y_r, y_b) = (q(luma * kr), q(luma * kb));
        // Green is the largest share of luma and of both chroma remainders: what rounding leaves hurts least there.
        let y_g = q(luma) - y_r - y_b;
        let half = q(chroma / 2.0);
        let cb_r = -q(chroma / 2.0 * kr / (1.0 - kb));
        let cr_b = -q(chroma / 2.0 * kb / (1.0 - kr));
        let coefficients = [[y_r, y_g, y_b], [cb_r, -half - cb_r, half], [half, -half - cr_b, cr_b]];
        Recipe::new(coefficients, [from.black(); 3], to.black(), RGB_FRACTION_BITS, (from.depth, to.depth))
    }

    /// Y'CbCr to Y'CbCr of another matrix, range or depth. Chroma never depends on luma, so that greys stay
    /// grey and only luma has to know the chroma at its own place.
    pub fn ycbcr_to_ycbcr(matrices: (Matrix, Matrix), from: Coding, to: Coding) -> Recipe {
        let (kr, kb) = matrices.0.kr_kb();
        let kg = 1.0 - kr - kb;
        let (kr2, kb2) = matrices.1.kr_kb();
        let kg2 = 1.0 - kr2 - kb2;
        // R' = Y' + r_cr Cr and so on, inverted from H.273; then Y2' = Y' + a Cb + b Cr.
        let (r_cr, b_cb) = (2.0 * (1.0 - kr), 2.0 * (1.0 - kb));
        let same = matrices.0 == matrices.1;
        let a = if same { 0.0 } else { kb2 * b_cb - kg2 * b_cb * kb / kg };
        let b = if same { 0.0 } else { kr2 * r_cr - kg2 * r_cr * kr / kg };
        let (r_cr2, b_cb2) = (2.0 * (1.0 - kr2), 2.0 * (1.0 - kb2));
        let q = |value| fixed(value, YCBCR_FRACTION_BITS);
        let luma = to.luma_span() as f64 / from.luma_span() as f64;
        let chroma = to.chroma_span() as f64 / from.chroma_span() as f64;
        let cross = to.luma_span() as f64 / from.chroma_span() as f64;
        let coefficients = [
            [q(luma), q(cross * a), q(cross * b)],
            [0, q(chroma * (b_cb - a) / b_cb2), q(-chroma * b / b_cb2)],
            [0, q(-chroma * a / r_cr2), q(chroma * (r_cr - b) / r_cr2)],
        ];
        let offsets = [from.black(), NEUTRAL, NEUTRAL];
        Recipe::new(coefficients, offsets, to.black(), YCBCR_FRACTION_BITS, (from.depth, to.depth))
    }

    /// Whether luma needs chroma at its own place, as it does when the matrix changes.
    pub fn luma_needs_chroma(&self) -> bool {
        self.rows[0].coefficients[1] != 0 || self.rows[0].coefficients[2] != 0
    }

    /// Whether every Y'CbCr sample keeps its code value.
    pub fn keeps_codes(&self) -> bool {
        let one = 1i64 << YCBCR_FRACTION_BITS;
        self.rows.iter().enumerate().all(|(index, row)| {
            row.bias == 0 && row.coefficients.iter().enumerate().all(|(k, c)| *c == if k == index { one } else { 0 })
        }) && !self.dither
            && self.shift >= YCBCR_FRACTION_BITS
    }

    /// The rounding of eight neighbouring samples of row `y`: one half everywhere, or a row of an 8x8 ordered
    /// pattern when depth is lost. Samples that are exact codes come out exact either way.
    pub fn rounding(&self, y: u32) -> [i64; 8] {
        if !self.dither {
            return [1 << (self.shift - 1); 8];
        }
        // (2 b + 1) / 128 of a code: 64 levels, never 0 and never 1.
        BAYER[y as usize % 8].map(|b| (2 * i64::from(b) + 1) << (self.shift - 7))
    }
}

/// Bayer's ordered pattern of order 8: every threshold once, neighbours far apart.
const BAYER: [[u8; 8]; 8] = [
    [0, 32, 8, 40, 2, 34, 10, 42],
    [48, 16, 56, 24, 50, 18, 58, 26],
    [12, 44, 4, 36, 14, 46, 6, 38],
    [60, 28, 52, 20, 62, 30, 54, 22],
    [3, 35, 11, 43, 1, 33, 9, 41],
    [51, 19, 59, 27, 49, 17, 57, 25],
    [15, 47, 7, 39, 13, 45, 5, 37],
    [63, 31, 55, 23, 61, 29, 53, 21],
];

/// The matrix of a Y'CbCr frame: the named one, or the assumed one where the frame says "unspecified".
///
/// # Errors
/// [`EngineError::Matrix`] when the frame names a matrix that cannot be computed with.
pub fn input_matrix(colour: &Colour, width: u32, height: u32) -> Result<Matrix, EngineError> {
    /// H.273: unspecified.
    const UNSPECIFIED: u8 = 2;
    if colour.matrix == UNSPECIFIED {
        return Ok(Matrix::assumed(colour.primaries, width, height));
    }
    Matrix::from_code(colour.matrix).ok_or(EngineError::Matrix {
        side: "input",
        code: colour.matrix,
        more: ", 2 (unspecified, taken by size)",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL8: Coding = Coding { range: Range::Full, depth: 8 };
    const LIMITED8: Coding = Coding { range: Range::Limited, depth: 8 };

    fn apply(recipe: &Recipe, samples: [i64; 3]) -> [i64; 3] {
        recipe.rows.map(|row| {
            let sum: i64 = row.coefficients.iter().zip(samples).map(|(c, s)| c * s).sum();
            ((sum + row.bias + (1 << (recipe.shift - 1))) >> recipe.shift).clamp(0, i64::from(recipe.max_code))
        })
    }

    #[test]
    fn every_grey_is_neutral_and_white_and_black_hit_their_codes() {
        for matrix in Matrix::ALL {
            for (range, depth, black, white) in [
                (Range::Limited, 8, 16, 235),
                (Range::Full, 8, 0, 255),
                (Range::Limited, 10, 64, 940),
                (Range::Full, 10, 0, 1023),
            ] {
                let recipe = Recipe::rgb_to_ycbcr(matrix, FULL8, Coding { range, depth });
                for grey in 0..256 {
                    let [y, cb, cr] = apply(&recipe, [grey << 8; 3]);
                    assert_eq!((cb, cr), (1 << (depth - 1), 1 << (depth - 1)), "{matrix:?} {range:?} {grey}");
                    assert!((black..=white).contains(&y));
                }
                assert_eq!(apply(&recipe, [0; 3])[0], black);
                assert_eq!(apply(&recipe, [255 << 8; 3])[0], white, "{matrix:?} {range:?} {depth}");
            }
        }
    }

    #[test]
    fn bt709_coefficients_are_the_published_ones() {
        let recipe = Recipe::rgb_to_ycbcr(Matrix::Bt709, FULL8, LIMITED8);
        // 219/255 × 0.2126 × 32768 = 5982.97 and so on; green takes the remainder.
        assert_eq!(recipe.rows[0].coefficients, [5983, 20127, 2032]);
        assert_eq!(recipe.rows[0].coefficients.iter().sum::<i64>(), 28142);
        assert_eq!(recipe.rows[1].coefficients.iter().sum::<i64>(), 0);
        assert_eq!(recipe.rows[2].coefficients.iter().sum::<i64>(), 0);
    }

    #[test]
    fn a_matrix_there_and_back_is_within_one_code() {
        let there = Recipe::ycbcr_to_ycbcr((Matrix::Bt601, Matrix::Bt709), LIMITED8, LIMITED8);
        let back = Recipe::ycbcr_to_ycbcr((Matrix::Bt709, Matrix::Bt601), LIMITED8, LIMITED8);
        for y in (60..200).step_by(7) {
            for cb in (100..156).step_by(5) {
                for cr in (100..156).step_by(5) {
                    let middle = apply(&there, [y << 8, cb << 8, cr << 8]);
                    let end = apply(&back, middle.map(|v| v << 8));
                    assert!([y, cb, cr].iter().zip(end).all(|(a, b)| (a - b).abs() <= 1), "{y} {cb} {cr} {end:?}");
                }
            }
        }
    }

    #[test]
    fn limited_and_full_map_onto_each_other_at_the_ends() {
        let expand = Recipe::ycbcr_to_ycbcr((Matrix::Bt709, Matrix::Bt709), LIMITED8, FULL8);
        assert_eq!(apply(&expand, [16 << 8, 128 << 8, 128 << 8]), [0, 128, 128]);
        assert_eq!(apply(&expand, [235 << 8, 128 << 8, 128 << 8]), [255, 128, 128]);
        assert_eq!(apply(&expand, [255 << 8, 255 << 8, 0]), [255, 255, 0]);
        let squeeze = Recipe::ycbcr_to_ycbcr((Matrix::Bt709, Matrix::Bt709), FULL8, LIMITED8);
        assert_eq!(apply(&squeeze, [0, 128 << 8, 128 << 8]), [16, 128, 128]);
        assert_eq!(apply(&squeeze, [255 << 8, 128 << 8, 128 << 8]), [235, 128, 128]);
    }

    #[test]
    fn only_the_identity_keeps_codes() {
        let same = (Matrix::Bt601, Matrix::Bt601);
        let limited10 = Coding { range: Range::Limited, depth: 10 };
        assert!(Recipe::ycbcr_to_ycbcr(same, LIMITED8, LIMITED8).keeps_codes());
        assert!(Recipe::ycbcr_to_ycbcr(same, LIMITED8, limited10).keeps_codes());
        assert!(!Recipe::ycbcr_to_ycbcr(same, limited10, LIMITED8).keeps_codes());
        assert!(!Recipe::ycbcr_to_ycbcr(same, LIMITED8, FULL8).keeps_codes());
        assert!(!Recipe::ycbcr_to_ycbcr((Matrix::Bt601, Matrix::Bt709), LIMITED8, LIMITED8).keeps_codes());
    }

    #[test]
    fn dither_spreads_half_codes_evenly_and_keeps_exact_ones() {
        let limited10 = Coding { range: Range::Limited, depth: 10 };
        let recipe = Recipe::ycbcr_to_ycbcr((Matrix::Bt709, Matrix::Bt709), limited10, LIMITED8);
        let levels = |code10: i64| -> Vec<i64> {
            let sum = (code10 << 6) * recipe.rows[0].coefficients[0] + recipe.rows[0].bias;
            (0..8).flat_map(|y| recipe.rounding(y).map(|r| (sum + r) >> recipe.shift)).collect()
        };
        assert!(levels(400).iter().all(|v| *v == 100));
        assert_eq!(levels(402).iter().filter(|v| **v == 101).count(), 32);
        assert_eq!(levels(401).iter().filter(|v| **v == 101).count(), 16);
    }
}
