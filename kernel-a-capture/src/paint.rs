//! Filling rectangles of a frame with one colour, in every pixel format.

use shm_protocol::frame::{PixelFormat, Range, VideoFormat};
use shm_protocol::pixels::PixelsWrite;

/// A rectangle of luma positions. Positions and sides are even wherever chroma is painted too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Rect {
    /// Left edge, pixels.
    pub x: u32,
    /// Top edge, pixels.
    pub y: u32,
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
}

/// A colour, ready for every pixel format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tone {
    /// Y, Cb, Cr, 8 bit.
    pub ycbcr: [u8; 3],
    /// Y, Cb, Cr, 10 bit.
    pub ycbcr10: [u16; 3],
    /// R, G, B, 8 bit.
    pub rgb: [u8; 3],
}

impl Tone {
    /// The colour of gamma-coded R, G, B in 0–1: Y'CbCr by ITU-R BT.709-6 items 3.2 to 3.4 in the limited range
    /// of item 4.6, R'G'B' in full range as sRGB (IEC 61966-2-1) has it.
    pub fn bt709(rgb: [f64; 3]) -> Tone {
        let [r, g, b] = rgb;
        let y = 0.2126 * r + 0.7152 * g + 0.0722 * b;
        let (cb, cr) = ((b - y) / 1.8556, (r - y) / 1.5748);
        let quantised = |scale: f64| {
            [(16.0 + 219.0 * y) * scale, (128.0 + 224.0 * cb) * scale, (128.0 + 224.0 * cr) * scale]
                .map(|level| level.round() as u16)
        };
        Tone { ycbcr: quantised(1.0).map(|level| level as u8), ycbcr10: quantised(4.0), rgb: rgb.map(full_range) }
    }

    /// Grey of luma `y` (8 bit as stored), chroma neutral; `range` is that of the R'G'B' samples.
    pub fn grey(y: u8, range: Range) -> Tone {
        let level = match range {
            Range::Limited => y,
            Range::Full => full_range((f64::from(y) - 16.0) / 219.0),
        };
        Tone { ycbcr: [y, 128, 128], ycbcr10: [u16::from(y) * 4, 512, 512], rgb: [level; 3] }
    }
}

fn full_range(level: f64) -> u8 {
    (255.0 * level.clamp(0.0, 1.0)).round() as u8
}

/// The smallest repeating piece of a row: its bytes and how many pixels wide it is.
#[derive(Debug, Clone, Copy)]
struct Unit {
    bytes: [u8; 4],
    len: usize,
    pixels: u32,
}

fn unit(pixel_format: PixelFormat, plane: usize, tone: Tone) -> Unit {
    let [y, cb, cr] = tone.ycbcr;
    let [r, g, b] = tone.rgb;
    let (bytes, len, pixels) = match (pixel_format, plane) {
        (PixelFormat::Nv12 | PixelFormat::I420, 0) => ([y, 0, 0, 0], 1, 1),
        (PixelFormat::Nv12, _) => ([cb, cr, 0, 0], 2, 2),
        (PixelFormat::I420, 1) => ([cb, 0, 0, 0], 1, 2),
        (PixelFormat::I420, _) => ([cr, 0, 0, 0], 1, 2),
        (PixelFormat::Yuyv, _) => ([y, cb, y, cr], 4, 2),
        (PixelFormat::Uyvy, _) => ([cb, y, cr, y], 4, 2),
        (PixelFormat::Bgra, _) => ([b, g, r, 255], 4, 1),
        (PixelFormat::Rgba, _) => ([r, g, b, 255], 4, 1),
        (PixelFormat::Rgb24, _) => ([r, g, b, 0], 3, 1),
        // The ten bits lie at the top of a little-endian word.
        (PixelFormat::P010, plane) => {
            let word = |component: usize| (tone.ycbcr10[component] << 6).to_le_bytes();
            if plane == 0 {
                let [low, high] = word(0);
                ([low, high, 0, 0], 2, 1)
            } else {
                let ([cb_low, cb_high], [cr_low, cr_high]) = (word(1), word(2));
                ([cb_low, cb_high, cr_low, cr_high], 4, 2)
            }
        }
    };
    Unit { bytes, len, pixels }
}

fn repeat(row: &mut [u8], unit: &[u8]) {
    match unit {
        [byte] => row.fill(*byte),
        _ => row.chunks_exact_mut(unit.len()).for_each(|piece| piece.copy_from_slice(unit)),
    }
}

/// The bytes that pixels `x .. x + width` have in a row of `plane`.
pub(crate) fn byte_span(pixel_format: PixelFormat, plane: usize, x: u32, width: u32) -> std::ops::Range<usize> {
    let start = pixel_format.row_bytes(plane, x) as usize;
    start..start + pixel_format.row_bytes(plane, width) as usize
}

/// The rows of `plane` that luma rows `y .. y + height` have.
pub(crate) fn row_span(pixel_format: PixelFormat, plane: usize, y: u32, height: u32) -> std::ops::Range<u32> {
    let start = pixel_format.rows(plane, y);
    start..start + pixel_format.rows(plane, height)
}

/// Fills `row`, which holds whole units of `plane`, with one colour.
pub(crate) fn fill_row(row: &mut [u8], pixel_format: PixelFormat, plane: usize, tone: Tone) {
    let unit = unit(pixel_format, plane, tone);
    repeat(row, &unit.bytes[..unit.len]);
}

/// Pixels of a row of `plane` that share one unit.
pub(crate) fn unit_pixels(pixel_format: PixelFormat, plane: usize) -> u32 {
    unit(pixel_format, plane, Tone::grey(16, Range::Limited)).pixels
}

/// Fills `rect` with one colour, chroma included; returns the bytes written.
///
/// # Panics
/// When `rect` reaches beyond the frame.
pub fn fill(pixels: &mut PixelsWrite<'_>, rect: Rect, tone: Tone) -> u64 {
    let pixel_format = pixels.format().pixel_format;
    let mut written = 0;
    for plane in 0..pixel_format.planes() {
        let span = byte_span(pixel_format, plane, rect.x, rect.width);
        for y in row_span(pixel_format, plane, rect.y, rect.height) {
            fill_row(&mut pixels.row_mut(plane, y)[span.clone()], pixel_format, plane, tone);
            written += span.len() as u64;
        }
    }
    written
}

/// Fills `rect` with a grey, writing only luma where luma is stored apart; any position and size. The chroma
/// under it must be neutral already. Returns the bytes written (of packed formats: the bytes spanned).
///
/// # Panics
/// When `rect` reaches beyond the frame.
pub fn fill_luma(pixels: &mut PixelsWrite<'_>, rect: Rect, tone: Tone) -> u64 {
    let pixel_format = pixels.format().pixel_format;
    // Bytes of one pixel in the first plane, and which of its bytes luma is.
    let (bytes_per_pixel, luma) = match pixel_format {
        PixelFormat::Yuyv => (2, Some(0)),
        PixelFormat::Uyvy => (2, Some(1)),
        _ => (pixel_format.row_bytes(0, 1) as usize, None),
    };
    let (start, end) = (rect.x as usize * bytes_per_pixel, (rect.x + rect.width) as usize * bytes_per_pixel);
    for y in rect.y..rect.y + rect.height {
        let row = &mut pixels.row_mut(0, y)[start..end];
        match luma {
            Some(at) => row.chunks_exact_mut(2).for_each(|pixel| pixel[at] = tone.ycbcr[0]),
            None => fill_row(row, pixel_format, 0, tone),
        }
    }
    ((end - start) * rect.height as usize) as u64
}

/// Black and white of the frame's luma (16 and 235), also for R'G'B' formats.
pub fn black_and_white(format: &VideoFormat) -> (Tone, Tone) {
    let range = format.colour.range;
    (Tone::grey(16, range), Tone::grey(235, range))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm_protocol::frame::{Colour, Rational};

    const FPS: Rational = Rational { num: 60, den: 1 };

    #[test]
    fn seventy_five_percent_bars_have_the_values_of_bt709() {
        // ARIB STD-B28 / SMPTE RP 219, 8 bit: the published table.
        let table: [([f64; 3], [u8; 3]); 8] = [
            ([0.75, 0.75, 0.75], [180, 128, 128]),
            ([0.75, 0.75, 0.0], [168, 44, 136]),
            ([0.0, 0.75, 0.75], [145, 147, 44]),
            ([0.0, 0.75, 0.0], [133, 63, 52]),
            ([0.75, 0.0, 0.75], [63, 193, 204]),
            ([0.75, 0.0, 0.0], [51, 109, 212]),
            ([0.0, 0.0, 0.75], [28, 212, 120]),
            ([0.0, 0.0, 0.0], [16, 128, 128]),
        ];
        for (rgb, ycbcr) in table {
            assert_eq!(Tone::bt709(rgb).ycbcr, ycbcr, "{rgb:?}");
        }
        assert_eq!(Tone::bt709([0.75, 0.0, 0.0]).ycbcr10, [204, 435, 848]);
        assert_eq!(Tone::bt709([1.0, 0.5, 0.0]).rgb, [255, 128, 0]);
    }

    #[test]
    fn a_rectangle_is_filled_to_its_edges_and_no_further_in_every_format() {
        for pixel_format in PixelFormat::ALL {
            let format = VideoFormat::packed(pixel_format, 32, 8, FPS, Colour::BT709_LIMITED).unwrap();
            let mut bytes = vec![0u8; format.frame_bytes() as usize];
            let mut pixels = PixelsWrite::new(&format, &mut bytes).unwrap();
            let tone = Tone::bt709([1.0, 0.5, 0.25]);
            let written = fill(&mut pixels, Rect { x: 4, y: 2, width: 8, height: 4 }, tone);
            let nonzero = |byte: &&u8| **byte != 0;
            // P010 samples whose low byte happens to be zero would hide here; these levels have none.
            let touched = bytes.iter().filter(nonzero).count() as u64;
            assert_eq!(touched, written, "{}", pixel_format.name());
            assert_eq!(
                written,
                (0..pixel_format.planes())
                    .map(|p| u64::from(pixel_format.row_bytes(p, 8) * pixel_format.rows(p, 4)))
                    .sum::<u64>()
            );
        }
    }

    #[test]
    fn luma_alone_leaves_chroma_as_it_is_at_odd_positions() {
        let format = VideoFormat::packed(PixelFormat::Uyvy, 8, 2, FPS, Colour::BT709_LIMITED).unwrap();
        let mut bytes = vec![7u8; format.frame_bytes() as usize];
        let mut pixels = PixelsWrite::new(&format, &mut bytes).unwrap();
        let (_, white) = black_and_white(&format);
        fill_luma(&mut pixels, Rect { x: 1, y: 1, width: 2, height: 1 }, white);
        assert_eq!(bytes[256..264], [7, 7, 7, 235, 7, 235, 7, 7]);
        assert!(bytes[..256].iter().all(|byte| *byte == 7));
    }
}
