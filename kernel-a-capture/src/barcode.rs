//! The barcode burned into the luma of a frame: capture time and frame id, readable after any encoder.
//!
//! 64 blocks in one row at the top left, each `width / 64` pixels square; luma 235 is one, 16 is zero; most
//! significant bit first: 8 bits 0xA5, 48 bits of value, 8 bits checksum (0x5A xor 0xA5 xor each value byte).
//! The first row carries the low 48 bits of CLOCK_REALTIME in microseconds, the row below it those of the
//! frame id. Chroma under both is neutral. Frames narrower than 512 pixels, or too flat for both rows, have none.

use crate::clock;
use crate::error::SourceError;
use crate::paint::{self, Rect};
use crate::source::{Captured, FrameRequest, Source, Wait};
use shm_protocol::frame::{PixelFormat, VideoFormat};
use shm_protocol::pixels::{PixelsRead, PixelsWrite};
use std::sync::atomic::AtomicBool;

/// Blocks of one row.
pub const BLOCKS: u32 = 64;
/// Narrowest frame that carries a barcode: below, a block is under 8 pixels and drowns in quantisation.
pub const MIN_WIDTH: u32 = 512;
/// The values are 48 bits wide.
pub const VALUE_MASK: u64 = (1 << 48) - 1;
/// First byte of a row.
const MARK: u8 = 0xA5;
/// What the checksum starts from, so that an all-zero row is no valid one.
const CHECKSUM_SEED: u8 = 0x5A;
/// Halfway between zero (16) and one (235).
const THRESHOLD: u64 = 126;

/// What a barcode says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Barcode {
    /// Low 48 bits of CLOCK_REALTIME at capture, microseconds.
    pub realtime_us: u64,
    /// Low 48 bits of the frame id.
    pub frame_id: u64,
}

/// Side of a block in pixels; `None` when a frame of that size has no barcode.
pub const fn block_side(width: u32, height: u32) -> Option<u32> {
    let side = width / BLOCKS;
    if width < MIN_WIDTH || height < 2 * side { None } else { Some(side) }
}

/// The area both rows cover; empty when a frame of that size has no barcode.
pub fn area(width: u32, height: u32) -> Rect {
    let side = block_side(width, height).unwrap_or(0);
    Rect { x: 0, y: 0, width: BLOCKS * side, height: 2 * side }
}

fn checksum(value: u64) -> u8 {
    value.to_be_bytes().iter().fold(CHECKSUM_SEED ^ MARK, |sum, byte| sum ^ byte)
}

/// The 64 bits of a row that carries the low 48 bits of `value`, first block in the highest bit.
pub fn encode(value: u64) -> u64 {
    let value = value & VALUE_MASK;
    u64::from(MARK) << 56 | value << 8 | u64::from(checksum(value))
}

/// The value of a row; `None` when mark or checksum are wrong.
pub fn decode(row: u64) -> Option<u64> {
    let value = row >> 8 & VALUE_MASK;
    (encode(value) == row).then_some(value)
}

/// Draws those blocks of a row (0: time, 1: frame id) that differ between `bits` and what is `drawn` there,
/// over neutral chroma. Returns the bytes written.
///
/// # Panics
/// When the frame has no barcode.
pub(crate) fn draw_row(pixels: &mut PixelsWrite<'_>, row: u32, bits: u64, drawn: Option<u64>) -> u64 {
    let format = *pixels.format();
    let side = format.width / BLOCKS;
    let (zero, one) = paint::black_and_white(&format);
    let mut changed = drawn.map_or(u64::MAX, |drawn| bits ^ drawn);
    let mut written = 0;
    while changed != 0 {
        let block = changed.leading_zeros();
        let bit = 1 << (63 - block);
        changed &= !bit;
        let tone = if bits & bit != 0 { one } else { zero };
        let rect = Rect { x: block * side, y: row * side, width: side, height: side };
        written += paint::fill_luma(pixels, rect, tone);
    }
    written
}

/// Burns both rows, neutral chroma included. Returns false when the frame is too small to have them.
pub fn burn(pixels: &mut PixelsWrite<'_>, realtime_us: u64, frame_id: u64) -> bool {
    let format = *pixels.format();
    if block_side(format.width, format.height).is_none() {
        return false;
    }
    let (zero, _) = paint::black_and_white(&format);
    paint::fill(pixels, area(format.width, format.height), zero);
    draw_row(pixels, 0, encode(realtime_us), Some(0));
    draw_row(pixels, 1, encode(frame_id), Some(0));
    true
}

/// Reads both rows from 8-bit luma (`stride` bytes from row to row, the frame `width` pixels wide): the middle
/// of each block is averaged, so ringing at block edges and coding noise do not matter. `None` when the slice
/// is too short, the frame too small, or mark or checksum of either row are wrong.
pub fn read_barcode(luma: &[u8], stride: usize, width: u32) -> Option<Barcode> {
    let side = block_side(width, u32::MAX)? as usize;
    if stride < width as usize || luma.len() < (2 * side - 1) * stride + BLOCKS as usize * side {
        return None;
    }
    // A quarter stays out at each edge: what deblocking filters and scalers smear.
    let inner = side / 4..side - side / 4;
    let row = |row: usize| {
        (0..BLOCKS as usize).fold(0u64, |bits, block| {
            let lines = inner.clone().map(|y| {
                let start = (row * side + y) * stride + block * side;
                luma[start + inner.start..start + inner.end].iter().map(|sample| u64::from(*sample)).sum::<u64>()
            });
            let mean = lines.sum::<u64>() / (inner.len() * inner.len()) as u64;
            bits << 1 | u64::from(mean >= THRESHOLD)
        })
    };
    Some(Barcode { realtime_us: decode(row(0))?, frame_id: decode(row(1))? })
}

/// Reads both rows from a frame of any pixel format; R'G'B' frames by their green.
pub fn read_frame(pixels: &PixelsRead<'_>) -> Option<Barcode> {
    let format = pixels.format();
    let width = format.width as usize;
    // Where the (high byte of the) luma-like sample lies within a pixel, and how long a pixel is.
    let (at, bytes_per_pixel) = match format.pixel_format {
        PixelFormat::Nv12 | PixelFormat::I420 => (0, 1),
        PixelFormat::Yuyv => (0, 2),
        PixelFormat::Uyvy | PixelFormat::P010 => (1, 2),
        PixelFormat::Bgra | PixelFormat::Rgba => (1, 4),
        PixelFormat::Rgb24 => (1, 3),
    };
    let rows = 2 * block_side(format.width, format.height)?;
    let mut row = vec![0; format.pixel_format.row_bytes(0, format.width) as usize];
    let mut luma = Vec::with_capacity(rows as usize * width);
    for y in 0..rows {
        pixels.copy_row(0, y, &mut row);
        luma.extend(row.chunks_exact(bytes_per_pixel).map(|pixel| pixel[at]));
    }
    read_barcode(&luma, width, format.width)
}

/// A source whose frames get the barcode burned in: `capture.barcode = true`.
pub struct Burned {
    inner: Box<dyn Source>,
}

impl Burned {
    /// Burns the barcode into every frame of `inner`.
    pub fn new(inner: Box<dyn Source>) -> Burned {
        Burned { inner }
    }
}

impl Source for Burned {
    fn format(&self) -> &VideoFormat {
        self.inner.format()
    }

    fn is_live(&self) -> bool {
        self.inner.is_live()
    }

    fn waits_for_writer(&self) -> bool {
        self.inner.waits_for_writer()
    }

    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn wait(&mut self, stop: &AtomicBool) -> Result<Wait, SourceError> {
        self.inner.wait(stop)
    }

    fn fill(&mut self, request: &mut FrameRequest<'_>, stop: &AtomicBool) -> Result<Captured, SourceError> {
        let captured = self.inner.fill(request, stop)?;
        if matches!(captured, Captured::Frame(_)) {
            burn(&mut request.pixels, clock::realtime_us()?, request.frame_id);
        }
        Ok(captured)
    }

    fn stream_header(&self) -> &[u8] {
        self.inner.stream_header()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use shm_protocol::frame::{Colour, Rational};

    const FPS: Rational = Rational { num: 60, den: 1 };
    const TIME_US: u64 = 0x6_1A2B_3C4D_5E6F;
    const SAMPLE: Barcode = Barcode { realtime_us: TIME_US & VALUE_MASK, frame_id: 0x0000_1234_5678_9ABC };

    fn burned(pixel_format: PixelFormat, width: u32, height: u32) -> (VideoFormat, Vec<u8>) {
        let colour = if pixel_format.is_rgb() { Colour::SRGB } else { Colour::BT709_LIMITED };
        let format = VideoFormat::packed(pixel_format, width, height, FPS, colour).unwrap();
        let mut bytes = vec![77u8; format.frame_bytes() as usize];
        assert!(burn(&mut PixelsWrite::new(&format, &mut bytes).unwrap(), TIME_US, SAMPLE.frame_id));
        (format, bytes)
    }

    #[test]
    fn every_format_and_odd_block_sizes_read_back() {
        for pixel_format in PixelFormat::ALL {
            for (width, height) in [(512, 64), (720, 64), (1280, 720), (1918, 128)] {
                let (format, bytes) = burned(pixel_format, width, height);
                let pixels = PixelsRead::from_slice(&format, &bytes).unwrap();
                assert_eq!(read_frame(&pixels), Some(SAMPLE), "{} {width}x{height}", pixel_format.name());
            }
        }
    }

    #[test]
    fn the_row_is_laid_out_as_specified() {
        assert_eq!(encode(0), 0xA500_0000_0000_00FF);
        assert_eq!(encode(0x0102_0304_0506), 0xA501_0203_0405_0600 | (0xFF ^ 1 ^ 2 ^ 3 ^ 4 ^ 5 ^ 6));
        let (format, bytes) = burned(PixelFormat::Nv12, 1280, 720);
        // 0xA5 = 1010 0101 in blocks of 20 pixels; chroma neutral over 40 luma rows, untouched below.
        let levels: Vec<u8> = (0..8).map(|block| bytes[10 * 1280 + block * 20 + 10]).collect();
        assert_eq!(levels, [235, 16, 235, 16, 16, 235, 16, 235]);
        let chroma = format.planes[1].offset as usize;
        assert!(bytes[chroma..chroma + 20 * 1280].iter().all(|sample| *sample == 128));
        assert!(bytes[chroma + 20 * 1280..].iter().all(|sample| *sample == 77));
        assert_eq!(bytes[40 * 1280], 77);
    }

    #[test]
    fn p010_uses_ten_bit_levels_in_the_high_bits() {
        let (_, bytes) = burned(PixelFormat::P010, 512, 64);
        assert_eq!(u16::from_le_bytes([bytes[0], bytes[1]]), 940 << 6);
        assert_eq!(u16::from_le_bytes([bytes[16], bytes[17]]), 64 << 6);
    }

    #[test]
    fn small_frames_have_none() {
        assert_eq!(block_side(511, 500), None);
        assert_eq!(block_side(512, 15), None);
        assert_eq!(block_side(512, 16), Some(8));
        let format = VideoFormat::packed(PixelFormat::Nv12, 320, 240, FPS, Colour::BT709_LIMITED).unwrap();
        let mut bytes = vec![9u8; format.frame_bytes() as usize];
        assert!(!burn(&mut PixelsWrite::new(&format, &mut bytes).unwrap(), 1, 2));
        assert!(bytes.iter().all(|byte| *byte == 9));
    }

    #[test]
    fn one_wrong_block_is_noticed() {
        for block in 0..128 {
            let (_, mut bytes) = burned(PixelFormat::I420, 512, 64);
            let (row, column) = (block / 64, block % 64);
            for y in row * 8..row * 8 + 8 {
                bytes[y * 512 + column * 8..][..8].iter_mut().for_each(|sample| *sample = 251 - *sample);
            }
            assert_eq!(read_barcode(&bytes, 512, 512), None, "block {block}");
        }
    }

    #[test]
    fn a_slice_too_short_reads_as_nothing() {
        let (_, bytes) = burned(PixelFormat::I420, 512, 64);
        assert_eq!(read_barcode(&bytes[..16 * 512], 512, 512), Some(SAMPLE));
        assert_eq!(read_barcode(&bytes[..16 * 512 - 1], 512, 512), None);
        assert_eq!(read_barcode(&bytes, 511, 512), None);
        assert_eq!(read_barcode(&[], 0, 512), None);
    }

    proptest! {
        #[test]
        fn coding_noise_does_not_change_what_is_read(time in any::<u64>(), id in any::<u64>(), seed in any::<u64>()) {
            let format = VideoFormat::packed(PixelFormat::I420, 640, 32, FPS, Colour::BT709_LIMITED).unwrap();
            let mut bytes = vec![0u8; format.frame_bytes() as usize];
            burn(&mut PixelsWrite::new(&format, &mut bytes).unwrap(), time, id);
            let mut state = seed | 1;
            for sample in &mut bytes {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                // ±60 of uniform noise and clipping: far worse than an encoder at its lowest rate.
                *sample = (i32::from(*sample) + (state >> 33) as i32 % 61 - 30 + (state >> 50) as i32 % 61 - 30)
                    .clamp(0, 255) as u8;
            }
            let read = read_barcode(&bytes, format.planes[0].stride as usize, 640);
            prop_assert_eq!(read, Some(Barcode { realtime_us: time & VALUE_MASK, frame_id: id & VALUE_MASK }));
        }
    }
}
