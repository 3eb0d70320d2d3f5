//! The complexity of a frame: SATD of its luma at a quarter of the size each way, and its fine detail.
//!
//! The small picture is *sampled*, not averaged: averaging would hide the very noise that makes a picture hard. Which
//! column and row of each 4 × 4 square is taken alternates from row to row, so that stripes as fine as the squares do
//! not vanish. Blocks of 8 × 8 go through a Hadamard transform; the sum of the magnitudes, divided by 8, is the L1 norm
//! of an orthonormal transform, which quantised by Qstep is about what has to be written.
//!
//! - `inter`, for all but IDR pictures: per block the smaller of the SATD of its difference to the frame before at the
//!   same place, and of the block itself without its mean. Without motion search moving texture looks harder than it
//!   is; [`super::bits::BitsModel`] learns the ratio.
//! - `intra`, for IDR pictures: the difference of each sample to its right neighbour at full size. Over film and noise
//!   it foretells the bits of an IDR within a factor of 1.5, where SATD of the small picture errs by 4: what is left
//!   after prediction from the neighbouring samples is what intra coding writes (docs/rate-control.md has the figures).
//!
//! Of large pictures a part of the blocks is measured, evenly spread and the same in every frame, so that the cost stops
//! growing with the size: docs/rate-control.md has the time.
#![expect(unsafe_code, reason = "reads pixels of another process through raw pointers")]

use crate::error::EncoderError;
use shm_protocol::frame::{PixelFormat, VideoFormat};
use shm_protocol::pixels::PixelsRead;

/// Pixels of the frame for one sample of the small picture, each way.
const SCALE: usize = 4;
/// Side of a block, samples.
const SIDE: usize = 8;
/// Gain of an unnormalised 8 × 8 Hadamard transform against an orthonormal one.
const GAIN: f64 = 8.0;

/// How hard a frame is to code, in units of sample amplitude summed over the whole frame.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Complexity {
    /// As an IDR.
    pub intra: f64,
    /// With the frame before it.
    pub inter: f64,
    /// How much of it is new, 0 to 1: `inter` over what it would be without the frame before. After a cut, and in noise,
    /// it is 1.
    pub fresh: f64,
}

impl Complexity {
    /// The one that counts for an IDR or for any other frame.
    pub fn of(&self, is_idr: bool) -> f64 {
        if is_idr { self.intra } else { self.inter }
    }
}

/// Blocks measured at the most: with five hundred, chance moves the sum by four per cent where a block's cost deviates by
/// as much as the mean, which the margin of the controller holds easily.
const MAX_BLOCKS: usize = 512;

/// Measures frames of one format, one after the other. Allocates when made, never later.
#[derive(Debug)]
pub struct ComplexityMeter {
    width: usize,
    height: usize,
    /// Bytes of a luma sample: 1, or 2 of which the high one counts.
    sample_bytes: usize,
    /// Upper left corners of the blocks measured, pixels of the frame.
    corners: Box<[(u32, u32)]>,
    /// The transformed blocks of the frame before: the transform of a difference is the difference of the transforms.
    before: Box<[Block]>,
    /// Whether `before` holds a frame.
    follows: bool,
}

type Block = [[i16; SIDE]; SIDE];

impl ComplexityMeter {
    /// A meter for frames of `format`.
    ///
    /// # Errors
    /// [`EncoderError::PixelFormat`] for formats without a luma plane.
    pub fn new(format: &VideoFormat) -> Result<ComplexityMeter, EncoderError> {
        let sample_bytes = match format.pixel_format {
            PixelFormat::Nv12 | PixelFormat::I420 => 1,
            PixelFormat::P010 => 2,
            other => {
                return Err(EncoderError::PixelFormat {
                    backend: "rate control",
                    given: other.name(),
                    allowed: "nv12, i420 or p010",
                });
            }
        };
        let (width, height) = (format.width as usize, format.height as usize);
        let (columns, rows) = (width.div_ceil(SCALE * SIDE), height.div_ceil(SCALE * SIDE));
        let every = (columns * rows).div_ceil(MAX_BLOCKS);
        // Rows are shifted against each other by an odd number near the golden section of the step: no stripes.
        let shift = (every * 5 / 8) | 1;
        let mut corners = Vec::new();
        for row in 0..rows {
            for column in (0..columns).filter(|column| (column + row * shift).is_multiple_of(every)) {
                corners.push(((column * SCALE * SIDE) as u32, (row * SCALE * SIDE) as u32));
            }
        }
        let before = vec![[[0; SIDE]; SIDE]; corners.len()].into_boxed_slice();
        Ok(ComplexityMeter { width, height, sample_bytes, corners: corners.into(), before, follows: false })
    }

    /// Takes the next frame for the first one: nothing before it counts.
    pub fn forget(&mut self) {
        self.follows = false;
    }

    /// Measures a frame of the size and pixel format the meter was made for; `None` for any other.
    pub fn measure(&mut self, pixels: &PixelsRead<'_>) -> Option<Complexity> {
        let format = pixels.format();
        let sample_bytes = if format.pixel_format == PixelFormat::P010 { 2 } else { 1 };
        let known = (self.width, self.height, self.sample_bytes);
        let luma_plane = matches!(format.pixel_format, PixelFormat::Nv12 | PixelFormat::I420 | PixelFormat::P010);
        if !luma_plane || (format.width as usize, format.height as usize, sample_bytes) != known {
            return None;
        }
        let (mut alone, mut inter, mut detail) = (0u64, 0u64, 0u64);
        for (corner, before) in self.corners.iter().zip(&mut self.before) {
            let (block, block_detail) = sample(pixels, sample_bytes, (corner.0 as usize, corner.1 as usize));
            let now = hadamard(&block);
            let own = without_mean(&now);
            alone += u64::from(own);
            inter += u64::from(if self.follows { difference(&now, before).min(own) } else { own });
            detail += u64::from(block_detail);
            *before = now;
        }
        self.follows = true;
        let samples = (self.corners.len() * SIDE * SIDE).max(1) as f64;
        let per_sample = (self.width * self.height) as f64 / samples;
        let fresh = if alone == 0 { 0.0 } else { inter as f64 / alone as f64 };
        Some(Complexity { intra: detail as f64 * per_sample, inter: inter as f64 * per_sample / GAIN, fresh })
    }
}

/// The samples of the block whose upper left corner is at `corner`, and the sum of their differences to their right
/// neighbours. Right of and below the picture its last samples go on.
fn sample(pixels: &PixelsRead<'_>, sample_bytes: usize, corner: (usize, usize)) -> (Block, u32) {
    let format = pixels.format();
    let (width, height) = (format.width as usize, format.height as usize);
    let stride = format.planes[0].stride as usize;
    let (left, top) = corner;
    let mut block = [[0; SIDE]; SIDE];
    let mut detail = 0;
    for (y, row) in block.iter_mut().enumerate() {
        // The second or third of four, in turn; the same ones in every frame.
        let phase = 1 + (y & 1);
        let source_y = (top + y * SCALE + phase).min(height - 1);
        // SAFETY: source_y is below the visible height, so the row lies within the plane `PixelsRead` proved mapped.
        let source = unsafe { pixels.plane(0).add(source_y * stride) };
        if left + SIDE * SCALE <= width && sample_bytes == 1 {
            // SAFETY: 32 samples from `left` on lie within the visible width: a byte each.
            let bytes = unsafe { source.add(left).cast::<[u8; SIDE * SCALE]>().read() };
            for (sample, four) in row.iter_mut().zip(bytes.as_chunks::<SCALE>().0) {
                *sample = i16::from(four[phase]);
                detail += u32::from(four[phase].abs_diff(four[phase + 1]));
            }
        } else {
            let at = |x: usize| {
                let x = x.min(width - 1);
                // SAFETY: x is below the visible width; the high byte where a sample has two.
                unsafe { source.add(x * sample_bytes + sample_bytes - 1).read() }
            };
            for (x, sample) in row.iter_mut().enumerate() {
                let (here, right) = (at(left + x * SCALE + phase), at(left + x * SCALE + phase + 1));
                *sample = i16::from(here);
                detail += u32::from(here.abs_diff(right));
            }
        }
    }
    (block, detail)
}

/// SATD of the difference of two blocks, from their transforms.
fn difference(a: &Block, b: &Block) -> u32 {
    let mut sums = [0u32; SIDE];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += u32::from(a.abs_diff(*b));
        }
    }
    sums.iter().sum()
}

/// Butterflies down the columns: eight lanes at a time.
fn columns(block: &mut Block) {
    for span in [4, 2, 1] {
        for first in (0..SIDE).step_by(span * 2) {
            let (upper, lower) = block[first..first + span * 2].split_at_mut(span);
            for (a, b) in upper.as_flattened_mut().iter_mut().zip(lower.as_flattened_mut()) {
                (*a, *b) = (*a + *b, *a - *b);
            }
        }
    }
}

fn transpose(block: &Block) -> Block {
    let mut out = [[0; SIDE]; SIDE];
    for (y, row) in block.iter().enumerate() {
        for (x, value) in row.iter().enumerate() {
            out[x][y] = *value;
        }
    }
    out
}

/// The 8 × 8 Hadamard transform without normalisation. Samples of 8 bits give at most 255 × 64 = 16320, which an
/// `i16` holds.
fn hadamard(block: &Block) -> Block {
    let mut work = *block;
    columns(&mut work);
    let mut work = transpose(&work);
    columns(&mut work);
    work
}

/// Sum of the magnitudes.
fn magnitude(block: &Block) -> u32 {
    let mut sums = [0u32; SIDE];
    for row in block {
        for (sum, value) in sums.iter_mut().zip(row) {
            *sum += u32::from(value.unsigned_abs());
        }
    }
    sums.iter().sum()
}

/// Sum of the magnitudes without the mean's.
fn without_mean(transformed: &Block) -> u32 {
    magnitude(transformed) - u32::from(transformed[0][0].unsigned_abs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm_protocol::frame::{Colour, Rational};

    fn format(pixel_format: PixelFormat, width: u32, height: u32) -> VideoFormat {
        VideoFormat::packed(pixel_format, width, height, Rational::new(30, 1).unwrap(), Colour::BT709_LIMITED).unwrap()
    }

    /// A frame whose luma is `luma(x, y)`.
    fn frame(format: &VideoFormat, luma: impl Fn(u32, u32) -> u8) -> Vec<u8> {
        let mut bytes = vec![128; format.frame_bytes() as usize];
        let stride = format.planes[0].stride as usize;
        for y in 0..format.height {
            for x in 0..format.width {
                let value = luma(x, y);
                if format.pixel_format == PixelFormat::P010 {
                    bytes[y as usize * stride + x as usize * 2 + 1] = value;
                } else {
                    bytes[y as usize * stride + x as usize] = value;
                }
            }
        }
        bytes
    }

    fn noise(x: u32, y: u32, seed: u32) -> u8 {
        let hash = (x ^ y << 12 ^ seed.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
        ((hash ^ hash >> 13).wrapping_mul(0xc2b2_ae35) >> 24) as u8
    }

    fn measure(meter: &mut ComplexityMeter, format: &VideoFormat, bytes: &[u8]) -> Complexity {
        meter.measure(&PixelsRead::from_slice(format, bytes).unwrap()).unwrap()
    }

    #[test]
    fn the_transform_is_the_hadamard_matrix_on_both_sides() {
        let sign = |a: usize, b: usize| if (a & b).count_ones().is_multiple_of(2) { 1i32 } else { -1 };
        let mut block = [[0; SIDE]; SIDE];
        for (y, row) in block.iter_mut().enumerate() {
            for (x, value) in row.iter_mut().enumerate() {
                *value = i16::from(noise(x as u32, y as u32, 7)) - 128;
            }
        }
        let fast = transpose(&hadamard(&block));
        for (v, coefficients) in fast.iter().enumerate() {
            for (u, coefficient) in coefficients.iter().enumerate() {
                let mut sum = 0;
                for (y, row) in block.iter().enumerate() {
                    for (x, value) in row.iter().enumerate() {
                        sum += sign(v, y) * sign(u, x) * i32::from(*value);
                    }
                }
                assert_eq!(i32::from(*coefficient), sum, "coefficient {v},{u}");
            }
        }
        // The largest there is does not overflow.
        assert_eq!(magnitude(&hadamard(&[[255; SIDE]; SIDE])), 255 * 64);
        assert_eq!(magnitude(&hadamard(&[[-255; SIDE]; SIDE])), 255 * 64);
    }

    #[test]
    fn a_flat_picture_costs_nothing_and_a_still_one_nothing_more() {
        for pixel_format in [PixelFormat::Nv12, PixelFormat::I420, PixelFormat::P010] {
            let format = format(pixel_format, 640, 360);
            let mut meter = ComplexityMeter::new(&format).unwrap();
            assert_eq!(measure(&mut meter, &format, &frame(&format, |_, _| 90)), Complexity::default());
            let texture = frame(&format, |x, y| noise(x, y, 1));
            let first = measure(&mut meter, &format, &texture);
            assert!(first.intra > 0.0 && first.inter > 0.0, "{pixel_format:?}");
            assert_eq!(first.fresh, 1.0);
            let still = measure(&mut meter, &format, &texture);
            assert_eq!(still, Complexity { inter: 0.0, fresh: 0.0, ..first });
            meter.forget();
            assert_eq!(measure(&mut meter, &format, &texture), first);
        }
    }

    #[test]
    fn all_pixel_formats_measure_the_same_luma_alike() {
        let [nv12, i420, p010] = [PixelFormat::Nv12, PixelFormat::I420, PixelFormat::P010].map(|pixel_format| {
            let format = format(pixel_format, 322, 182);
            let mut meter = ComplexityMeter::new(&format).unwrap();
            [1, 2].map(|seed| measure(&mut meter, &format, &frame(&format, |x, y| noise(x, y, seed))))
        });
        assert_eq!(nv12, i420);
        assert_eq!(nv12, p010);
    }

    #[test]
    fn noise_is_as_hard_at_any_size_of_the_picture_and_half_as_hard_at_half_the_amplitude() {
        let per_pixel = |width: u32, height: u32, shift: u32| {
            let format = format(PixelFormat::Nv12, width, height);
            let mut meter = ComplexityMeter::new(&format).unwrap();
            let bytes = frame(&format, |x, y| noise(x, y, 3) >> shift);
            let complexity = measure(&mut meter, &format, &bytes);
            [complexity.intra, complexity.inter].map(|cost| cost / f64::from(width * height))
        };
        let full = per_pixel(1280, 720, 0);
        // Noise of 256 levels: two samples differ by a third of them in the mean, 85; its deviation is 74, and the mean
        // magnitude of its coefficients 74 × √(2/π) = 59.
        assert!((83.0..87.0).contains(&full[0]) && (55.0..63.0).contains(&full[1]), "{full:?}");
        for (cost, full) in per_pixel(640, 352, 0).into_iter().zip(full) {
            assert!((cost / full - 1.0).abs() < 0.03, "{cost} {full}");
        }
        for (cost, full) in per_pixel(1280, 720, 1).into_iter().zip(full) {
            assert!((cost / full - 0.5).abs() < 0.03, "{cost} {full}");
        }
    }

    #[test]
    fn after_a_cut_a_frame_is_all_fresh_and_while_little_moves_hardly() {
        let format = format(PixelFormat::Nv12, 640, 360);
        let mut meter = ComplexityMeter::new(&format).unwrap();
        let scene = |seed, moving: u32| {
            frame(&format, move |x, y| if x < moving { noise(x, y, seed + 100) } else { noise(x, y, seed) / 2 })
        };
        measure(&mut meter, &format, &scene(1, 0));
        let little = measure(&mut meter, &format, &scene(1, 64)).fresh;
        assert!((0.1..0.3).contains(&little), "{little}");
        let cut = measure(&mut meter, &format, &scene(2, 0)).fresh;
        assert!(cut > 0.95, "{cut}");
    }

    #[test]
    fn of_a_large_picture_a_part_stands_for_the_whole() {
        let whole = format(PixelFormat::Nv12, 640, 352);
        let large = format(PixelFormat::Nv12, 3840, 2160);
        let blocks = |format: &VideoFormat| ComplexityMeter::new(format).unwrap().corners.len();
        assert_eq!(blocks(&whole), 20 * 11);
        assert!((MAX_BLOCKS - 60..=MAX_BLOCKS + 60).contains(&blocks(&large)), "{}", blocks(&large));
        // Half of the picture is noise, the other half flat.
        let per_pixel = |format: &VideoFormat| {
            let mut meter = ComplexityMeter::new(format).unwrap();
            let bytes = frame(format, |x, y| if x < format.width / 2 { noise(x, y, 3) } else { 80 });
            let seen = measure(&mut meter, format, &bytes);
            [seen.intra, seen.inter].map(|cost| cost / f64::from(format.width * format.height))
        };
        for (part, all) in per_pixel(&large).into_iter().zip(per_pixel(&whole)) {
            assert!((part / all - 1.0).abs() < 0.05, "{part} and {all}");
        }
    }

    #[test]
    fn fine_stripes_do_not_vanish() {
        let format = format(PixelFormat::Nv12, 640, 360);
        for period in [2, 4] {
            for along in [false, true] {
                let stripes = frame(&format, |x, y| {
                    let at = if along { x } else { y };
                    if at % period < period / 2 { 60 } else { 180 }
                });
                let mut meter = ComplexityMeter::new(&format).unwrap();
                let cost = measure(&mut meter, &format, &stripes).inter / (640.0 * 360.0);
                assert!(cost > 2.0, "period {period}, along {along}: {cost}");
            }
        }
    }

    #[test]
    fn sizes_that_are_no_multiple_of_a_block_are_read_within_their_bounds() {
        for (width, height) in [(16, 16), (2, 2), (18, 34), (322, 182), (1918, 1078)] {
            let format = format(PixelFormat::Nv12, width, height);
            let mut meter = ComplexityMeter::new(&format).unwrap();
            let bytes = frame(&format, |x, y| noise(x, y, 5));
            assert!(measure(&mut meter, &format, &bytes).inter.is_finite(), "{width}x{height}");
        }
    }

    #[test]
    fn frames_of_another_kind_are_not_measured() {
        let bgra = format(PixelFormat::Bgra, 64, 64);
        assert!(ComplexityMeter::new(&bgra).unwrap_err().to_string().contains("nv12, i420 or p010"));
        let mut meter = ComplexityMeter::new(&format(PixelFormat::Nv12, 64, 64)).unwrap();
        for other in [format(PixelFormat::Nv12, 64, 66), format(PixelFormat::P010, 64, 64), bgra] {
            let bytes = vec![0; other.frame_bytes() as usize];
            assert_eq!(meter.measure(&PixelsRead::from_slice(&other, &bytes).unwrap()), None);
        }
    }
}
