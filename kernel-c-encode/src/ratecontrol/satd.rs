//! The complexity of a frame: SATD of its luma at a quarter of the size each way.
//!
//! The small picture is *sampled*, not averaged: averaging would hide the very noise that makes a picture hard. Which
//! column and row of each 4 × 4 square is taken alternates from row to row, so that stripes as fine as the squares do
//! not vanish. Blocks of 8 × 8 go through a Hadamard transform; the sum of the magnitudes, divided by 8, is the L1 norm
//! of an orthonormal transform, which quantised by Qstep is about what has to be written.
//!
//! Two costs are told: `intra`, what is left of a block without its mean, plus the step from the mean of its left
//! neighbour; and `inter`, per block the smaller of that and of the difference to the frame before at the same place.
//! Without motion search moving texture looks harder than it is; [`super::model::BitsModel`] learns the ratio.
//!
//! One frame costs one read of every fourth row: see docs/rate-control.md for the time.
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
    /// Without any other frame.
    pub intra: f64,
    /// With the frame before; never above `intra`.
    pub inter: f64,
}

impl Complexity {
    /// The one that counts for an IDR or for any other frame.
    pub fn of(&self, is_idr: bool) -> f64 {
        if is_idr { self.intra } else { self.inter }
    }
}

/// Measures frames of one format, one after the other. Allocates when made, never later.
#[derive(Debug)]
pub struct ComplexityMeter {
    width: usize,
    height: usize,
    /// Bytes of a luma sample: 1, or 2 of which the high one counts.
    sample_bytes: usize,
    columns: usize,
    rows: usize,
    current: Vec<u8>,
    previous: Vec<u8>,
    /// Whether `previous` holds a frame.
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
        let columns = width.div_ceil(SCALE).div_ceil(SIDE);
        let rows = height.div_ceil(SCALE).div_ceil(SIDE);
        let samples = columns * rows * SIDE * SIDE;
        let (current, previous) = (vec![0; samples], vec![0; samples]);
        Ok(ComplexityMeter { width, height, sample_bytes, columns, rows, current, previous, follows: false })
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
        std::mem::swap(&mut self.current, &mut self.previous);
        self.sample(pixels);
        let (mut intra, mut inter) = (0u64, 0u64);
        let stride = self.columns * SIDE;
        for row in 0..self.rows {
            let mut left = None;
            for column in 0..self.columns {
                let at = row * SIDE * stride + column * SIDE;
                let now = block(&self.current[at..], stride);
                let (alone, mean) = without_mean(&now);
                let step = left.map_or(0, |left: i32| left.abs_diff(mean));
                left = Some(mean);
                let alone = alone + step;
                intra += u64::from(alone);
                inter += u64::from(if self.follows {
                    let before = block(&self.previous[at..], stride);
                    magnitude(&hadamard(&difference(&now, &before))).min(alone)
                } else {
                    alone
                });
            }
        }
        self.follows = true;
        let samples = (self.columns * self.rows * SIDE * SIDE) as f64;
        let scale = (self.width * self.height) as f64 / samples / GAIN;
        Some(Complexity { intra: intra as f64 * scale, inter: inter as f64 * scale })
    }

    /// Fills `current`. Right of and below the picture its last sample goes on.
    fn sample(&mut self, pixels: &PixelsRead<'_>) {
        let source_stride = pixels.format().planes[0].stride as usize;
        let whole = self.width / SCALE;
        let last = self.width - 1;
        let stride = self.columns * SIDE;
        for (y, row) in self.current.chunks_exact_mut(stride).enumerate() {
            // The second or third of four, in turn; the same ones in every frame.
            let phase = 1 + (y & 1);
            let source_y = (y * SCALE + phase).min(self.height - 1);
            // SAFETY: source_y is below the visible height, so the row lies within the plane `PixelsRead` proved mapped.
            let source = unsafe { pixels.plane(0).add(source_y * source_stride) };
            let (inside, outside) = row.split_at_mut(whole);
            if self.sample_bytes == 1 {
                let shift = 8 * phase as u32;
                for (x, sample) in inside.iter_mut().enumerate() {
                    // SAFETY: bytes 4x to 4x + 3 lie within the visible width, x being below width / 4.
                    let four = u32::from_le_bytes(unsafe { source.add(x * SCALE).cast::<[u8; 4]>().read() });
                    *sample = (four >> shift) as u8;
                }
            } else {
                let shift = 16 * phase as u32 + 8;
                for (x, sample) in inside.iter_mut().enumerate() {
                    // SAFETY: the four 16-bit samples 4x to 4x + 3 lie within the visible width.
                    let four = u64::from_le_bytes(unsafe { source.add(x * SCALE * 2).cast::<[u8; 8]>().read() });
                    *sample = (four >> shift) as u8;
                }
            }
            // SAFETY: the last visible sample of the row; its high byte where it has two.
            let edge = unsafe { source.add(last * self.sample_bytes + self.sample_bytes - 1).read() };
            outside.fill(edge);
        }
    }
}

fn block(samples: &[u8], stride: usize) -> Block {
    let mut block = [[0; SIDE]; SIDE];
    for (to, from) in block.iter_mut().zip(samples.chunks(stride)) {
        for (to, from) in to.iter_mut().zip(&from[..SIDE]) {
            *to = i16::from(*from);
        }
    }
    block
}

fn difference(a: &Block, b: &Block) -> Block {
    let mut out = [[0; SIDE]; SIDE];
    for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = a - b;
        }
    }
    out
}

/// Butterflies down the columns: eight lanes at a time.
fn columns(block: &mut Block) {
    for span in [4, 2, 1] {
        for first in (0..SIDE).step_by(span * 2) {
            for row in first..first + span {
                for lane in 0..SIDE {
                    let (a, b) = (block[row][lane], block[row + span][lane]);
                    (block[row][lane], block[row + span][lane]) = (a + b, a - b);
                }
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

/// The 8 × 8 Hadamard transform without normalisation. Samples of 9 bits and sign give at most 255 × 64 = 16320, which
/// an `i16` holds.
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

/// Sum of the magnitudes without the mean's, and the mean's coefficient.
fn without_mean(block: &Block) -> (u32, i32) {
    let transformed = hadamard(block);
    let mean = i32::from(transformed[0][0]);
    (magnitude(&transformed) - mean.unsigned_abs(), mean)
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
        let sign = |a: usize, b: usize| if (a & b).count_ones() % 2 == 0 { 1i32 } else { -1 };
        let mut block = [[0; SIDE]; SIDE];
        for (y, row) in block.iter_mut().enumerate() {
            for (x, value) in row.iter_mut().enumerate() {
                *value = i16::from(noise(x as u32, y as u32, 7)) - 128;
            }
        }
        let fast = transpose(&hadamard(&block));
        for v in 0..SIDE {
            for u in 0..SIDE {
                let mut sum = 0;
                for (y, row) in block.iter().enumerate() {
                    for (x, value) in row.iter().enumerate() {
                        sum += sign(v, y) * sign(u, x) * i32::from(*value);
                    }
                }
                assert_eq!(i32::from(fast[v][u]), sum, "coefficient {v},{u}");
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
            let still = measure(&mut meter, &format, &texture);
            assert_eq!((still.intra, still.inter), (first.intra, 0.0));
            meter.forget();
            let again = measure(&mut meter, &format, &texture);
            assert_eq!((again.intra, again.inter), (first.intra, first.intra));
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
            measure(&mut meter, &format, &bytes).intra / f64::from(width * height)
        };
        let full = per_pixel(1280, 720, 0);
        // Noise of 256 levels has a deviation of 74; the mean magnitude of its coefficients is 74 × √(2/π) = 59.
        assert!((55.0..63.0).contains(&full), "{full}");
        assert!((per_pixel(640, 352, 0) / full - 1.0).abs() < 0.03);
        assert!((per_pixel(1280, 720, 1) / full - 0.5).abs() < 0.03);
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
                let cost = measure(&mut meter, &format, &stripes).intra / (640.0 * 360.0);
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
            assert!(measure(&mut meter, &format, &bytes).intra.is_finite(), "{width}x{height}");
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
