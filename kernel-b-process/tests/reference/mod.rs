//! What an engine's output has to be, in floating point and as plainly as possible. Shares no code with the
//! product: positions, filters and colour are written down here a second time.

use kernel_b_process::engine::{Conversion, Rotation};
use shm_protocol::frame::{ChromaSiting, Colour, PixelFormat, PlaneLayout, Range, Rational, STRIDE_ALIGN, VideoFormat};

/// Frames per second of every test frame; no engine looks at it.
pub const FPS: Rational = Rational { num: 30, den: 1 };

/// Bytes with their description.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub format: VideoFormat,
    pub bytes: Vec<u8>,
}

impl Frame {
    /// A frame filled by `byte(index)`.
    pub fn new(format: VideoFormat, byte: impl FnMut(usize) -> u8) -> Frame {
        Frame { format, bytes: (0..format.frame_bytes() as usize).map(byte).collect() }
    }

    /// Noise, the same for the same seed (xorshift64).
    pub fn noise(format: VideoFormat, seed: u64) -> Frame {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Frame::new(format, |_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
    }

    /// The little-endian sample at `byte` of row `y` of `plane`, as a code value.
    pub fn sample(&self, plane: usize, y: usize, byte: usize) -> u16 {
        let PlaneLayout { offset, stride } = self.format.planes[plane];
        let at = offset as usize + y * stride as usize + byte;
        if self.format.pixel_format == PixelFormat::P010 {
            u16::from_le_bytes([self.bytes[at], self.bytes[at + 1]]) >> 6
        } else {
            u16::from(self.bytes[at])
        }
    }

    /// Codes of Y' of a two-plane frame, row by row.
    pub fn luma(&self) -> Vec<u16> {
        let size = usize::from(self.format.pixel_format.bit_depth() > 8) + 1;
        let VideoFormat { width, height, .. } = self.format;
        (0..height as usize)
            .flat_map(|y| (0..width as usize).map(move |x| (x, y)))
            .map(|(x, y)| self.sample(0, y, x * size))
            .collect()
    }

    /// Codes of Cb (0) or Cr (1) of a two-plane frame, row by row.
    pub fn chroma(&self, which: usize) -> Vec<u16> {
        let size = usize::from(self.format.pixel_format.bit_depth() > 8) + 1;
        let (width, height) = (self.format.width as usize / 2, self.format.height as usize / 2);
        (0..height)
            .flat_map(|y| (0..width).map(move |x| (x, y)))
            .map(|(x, y)| self.sample(1, y, (2 * x + which) * size))
            .collect()
    }
}

/// A format with visible size below coded size and strides beyond the row: what pools of real devices have.
pub fn loose(pixel_format: PixelFormat, width: u32, height: u32, colour: Colour) -> VideoFormat {
    let mut format = VideoFormat::packed(pixel_format, width, height, FPS, colour).unwrap();
    (format.coded_width, format.coded_height) = (width + 16, height + 6);
    let mut offset = STRIDE_ALIGN;
    for plane in 0..pixel_format.planes() {
        let stride = pixel_format.row_bytes(plane, format.coded_width).next_multiple_of(STRIDE_ALIGN) + STRIDE_ALIGN;
        format.planes[plane] = PlaneLayout { offset, stride };
        offset += stride * pixel_format.rows(plane, format.coded_height);
    }
    format
}

/// One component as numbers: 0 to 1 for Y' and R'G'B', -0.5 to 0.5 for chroma.
struct Plane {
    width: usize,
    height: usize,
    values: Vec<f64>,
    /// Luma samples from one to the next.
    step: [f64; 2],
    /// Centre of the first, luma samples from the edge of the picture.
    first: [f64; 2],
}

/// Share of the box `from..to` that falls on each sample, edges going on outside.
fn shares(len: usize, from: f64, to: f64) -> Vec<(usize, f64)> {
    let (low, high) = (from.floor() as i64, to.ceil() as i64);
    (low..high)
        .map(|i| {
            let covered = (to.min(i as f64 + 1.0) - from.max(i as f64)).max(0.0);
            (i.clamp(0, len as i64 - 1) as usize, covered / (to - from))
        })
        .collect()
}

impl Plane {
    /// The mean over a box of `size` luma samples around `centre`, never narrower than a sample.
    fn mean(&self, centre: [f64; 2], size: [f64; 2]) -> f64 {
        let along = |axis: usize, len: usize| {
            let at = (centre[axis] - self.first[axis]) / self.step[axis] + 0.5;
            let half = (size[axis] / self.step[axis]).max(1.0) / 2.0;
            shares(len, at - half, at + half)
        };
        let (across, down) = (along(0, self.width), along(1, self.height));
        let mut sum = 0.0;
        for (y, wy) in down {
            for (x, wx) in &across {
                sum += wy * wx * self.values[y * self.width + x];
            }
        }
        sum
    }
}

fn first_chroma(siting: ChromaSiting) -> [f64; 2] {
    match siting {
        ChromaSiting::Left => [0.5, 1.0],
        ChromaSiting::Center => [1.0, 1.0],
        ChromaSiting::TopLeft => [0.5, 0.5],
    }
}

fn kr_kb(matrix: u8) -> (f64, f64) {
    match matrix {
        1 => (0.2126, 0.0722),
        5 | 6 => (0.299, 0.114),
        9 => (0.2627, 0.0593),
        other => panic!("no reference for matrix {other}"),
    }
}

/// (black, span) of luma and (neutral, span) of chroma, in codes.
fn scale(range: Range, depth: u8) -> [(f64, f64); 2] {
    let unit = f64::from(1u32 << (depth - 8));
    let top = f64::from((1u32 << depth) - 1);
    match range {
        Range::Limited => [(16.0 * unit, 219.0 * unit), (128.0 * unit, 224.0 * unit)],
        Range::Full => [(0.0, top), (128.0 * unit, top)],
    }
}

fn planes(frame: &Frame) -> Vec<Plane> {
    let format = &frame.format;
    let (w, h) = (format.width as usize, format.height as usize);
    let [luma, chroma] = scale(format.colour.range, format.pixel_format.bit_depth());
    let plane = |plane: usize, sub: [usize; 2], bytes: usize, offset: usize, (zero, span): (f64, f64)| {
        let (width, height) = (w / sub[0], h / sub[1]);
        let values = (0..height)
            .flat_map(|y| (0..width).map(move |x| (x, y)))
            .map(|(x, y)| (f64::from(frame.sample(plane, y, x * bytes + offset)) - zero) / span)
            .collect();
        let sited = first_chroma(format.colour.siting);
        let first = [0, 1].map(|axis| if sub[axis] == 2 { sited[axis] } else { 0.5 });
        Plane { width, height, values, step: sub.map(|s| s as f64), first }
    };
    let (all, across, both) = ([1, 1], [2, 1], [2, 2]);
    match format.pixel_format {
        PixelFormat::Nv12 => {
            vec![plane(0, all, 1, 0, luma), plane(1, both, 2, 0, chroma), plane(1, both, 2, 1, chroma)]
        }
        PixelFormat::P010 => {
            vec![plane(0, all, 2, 0, luma), plane(1, both, 4, 0, chroma), plane(1, both, 4, 2, chroma)]
        }
        PixelFormat::I420 => {
            vec![plane(0, all, 1, 0, luma), plane(1, both, 1, 0, chroma), plane(2, both, 1, 0, chroma)]
        }
        PixelFormat::Yuyv => {
            vec![plane(0, all, 2, 0, luma), plane(0, across, 4, 1, chroma), plane(0, across, 4, 3, chroma)]
        }
        PixelFormat::Uyvy => {
            vec![plane(0, all, 2, 1, luma), plane(0, across, 4, 0, chroma), plane(0, across, 4, 2, chroma)]
        }
        PixelFormat::Bgra => [2, 1, 0].map(|offset| plane(0, all, 4, offset, luma)).into(),
        PixelFormat::Rgba => [0, 1, 2].map(|offset| plane(0, all, 4, offset, luma)).into(),
        PixelFormat::Rgb24 => [0, 1, 2].map(|offset| plane(0, all, 3, offset, luma)).into(),
    }
}

/// Y', Cb, Cr of the output, as numbers.
fn ycbcr(values: [f64; 3], from: Option<u8>, to: u8) -> [f64; 3] {
    if from == Some(to) {
        return values;
    }
    let [r, g, b] = match from {
        None => values,
        Some(matrix) => {
            let (kr, kb) = kr_kb(matrix);
            let [y, cb, cr] = values;
            let (r, b) = (y + 2.0 * (1.0 - kr) * cr, y + 2.0 * (1.0 - kb) * cb);
            [r, (y - kr * r - kb * b) / (1.0 - kr - kb), b]
        }
    };
    let (kr, kb) = kr_kb(to);
    let y = kr * r + (1.0 - kr - kb) * g + kb * b;
    [y, (b - y) / (2.0 * (1.0 - kb)), (r - y) / (2.0 * (1.0 - kr))]
}

/// Codes of Y', Cb and Cr of the output before rounding, clipped to what the depth can hold.
pub fn expected(conversion: &Conversion, input: &Frame) -> [Vec<f64>; 3] {
    let sources = planes(input);
    let Conversion { output, crop, rotation, .. } = conversion;
    let crop_size = [f64::from(crop.width), f64::from(crop.height)];
    let turned = if rotation.swaps_sides() { [crop_size[1], crop_size[0]] } else { crop_size };
    let ratio = [turned[0] / f64::from(output.width), turned[1] / f64::from(output.height)];
    let depth = output.pixel_format.bit_depth();
    let top = f64::from((1u32 << depth) - 1);
    let from = if input.format.pixel_format.is_rgb() { None } else { Some(input.format.colour.matrix) };
    let grid = |step: u32, first: [f64; 2]| {
        let mut codes = [const { Vec::new() }; 3];
        for j in 0..output.height / step {
            for i in 0..output.width / step {
                let t = [(f64::from(i * step) + first[0]) * ratio[0], (f64::from(j * step) + first[1]) * ratio[1]];
                let mut size = ratio.map(|r| r * f64::from(step));
                if rotation.swaps_sides() {
                    size.swap(0, 1);
                }
                let [x, y] = match rotation {
                    Rotation::None => t,
                    Rotation::Clockwise90 => [t[1], crop_size[1] - t[0]],
                    Rotation::Half180 => [crop_size[0] - t[0], crop_size[1] - t[1]],
                    Rotation::Clockwise270 => [crop_size[0] - t[1], t[0]],
                };
                let centre = [x + f64::from(crop.x), y + f64::from(crop.y)];
                let values = [0, 1, 2].map(|k: usize| sources[k].mean(centre, size));
                let [luma, chroma] = scale(output.colour.range, depth);
                let scales = [luma, chroma, chroma];
                for (k, value) in ycbcr(values, from, output.colour.matrix).into_iter().enumerate() {
                    codes[k].push((value * scales[k].1 + scales[k].0).clamp(0.0, top));
                }
            }
        }
        codes
    };
    let [luma, ..] = grid(1, [0.5, 0.5]);
    let [_, cb, cr] = grid(2, first_chroma(output.colour.siting));
    [luma, cb, cr]
}
