//! Chroma in planes of their own, and samples of 10 bit in the low bits, for libraries that take nothing else.
#![expect(unsafe_code, reason = "reads pixels of another process through raw pointers")]

use shm_protocol::frame::PixelFormat;
use shm_protocol::pixels::PixelsRead;

/// Rows begin on cache lines.
const ALIGN_BYTES: usize = 64;
/// Bits by which P010 keeps its samples above the lowest one.
const P010_SHIFT: u32 = 6;

/// One plane of a picture in memory a library may read.
#[derive(Debug, Clone, Copy)]
pub struct Plane {
    /// First byte.
    pub pointer: *const u8,
    /// Bytes from a row to the next.
    pub stride: usize,
}

/// Private memory for what has to be taken apart; empty for pictures that are planar as they come.
#[derive(Debug)]
pub struct Planar {
    memory: Vec<u16>,
    pixel_format: PixelFormat,
    low_bits: bool,
    width: usize,
    height: usize,
}

/// Samples from a row to the next of a plane of `width` samples of `bytes` each.
fn stride_bytes(width: usize, bytes: usize) -> usize {
    (width * bytes).next_multiple_of(ALIGN_BYTES)
}

impl Planar {
    /// Memory for pictures of this format. `low_bits`: P010 samples are moved to the low bits, luma too; otherwise they
    /// stay where they are, for libraries that take 16 bit and shift by themselves.
    pub fn new(pixel_format: PixelFormat, width: u32, height: u32, low_bits: bool) -> Planar {
        let (width, height) = (width as usize, height as usize);
        let bytes = match pixel_format {
            PixelFormat::Nv12 => stride_bytes(width / 2, 1) * height,
            PixelFormat::P010 => {
                stride_bytes(width / 2, 2) * height + if low_bits { stride_bytes(width, 2) * height } else { 0 }
            }
            _ => 0,
        };
        Planar { memory: vec![0; bytes / 2], pixel_format, low_bits, width, height }
    }

    /// Bytes that [`Planar::planes`] writes for each picture.
    pub fn copied_bytes(&self) -> u64 {
        let chroma = self.width * self.height / 2;
        (match self.pixel_format {
            PixelFormat::Nv12 => chroma,
            PixelFormat::P010 if self.low_bits => 2 * (self.width * self.height + chroma),
            PixelFormat::P010 => 2 * chroma,
            _ => 0,
        }) as u64
    }

    /// How pixels reach the library, for people.
    pub fn path(&self) -> &'static str {
        match self.pixel_format {
            PixelFormat::Nv12 => "luma read in place, chroma split into private memory",
            PixelFormat::P010 if self.low_bits => "shifted and split into private memory",
            PixelFormat::P010 => "luma read in place, chroma split into private memory",
            _ => "read in place",
        }
    }

    /// Y, Cb and Cr of `pixels`, valid until the next call and as long as `pixels` stay mapped. `pixels` must have the
    /// format and the size this was made for.
    pub fn planes(&mut self, pixels: &PixelsRead<'_>) -> [Plane; 3] {
        let format = pixels.format();
        assert_eq!(
            (format.pixel_format, format.width as usize, format.height as usize),
            (self.pixel_format, self.width, self.height),
            "the caller checked the format"
        );
        let source =
            |plane: usize| Plane { pointer: pixels.plane(plane), stride: format.planes[plane].stride as usize };
        match self.pixel_format {
            PixelFormat::Nv12 => {
                let stride = stride_bytes(self.width / 2, 1);
                split8(source(1), &mut self.memory, stride, (self.width / 2, self.height / 2));
                let cb = self.memory.as_ptr().cast::<u8>();
                let cr = self.memory[stride / 2 * (self.height / 2)..].as_ptr().cast();
                [source(0), Plane { pointer: cb, stride }, Plane { pointer: cr, stride }]
            }
            PixelFormat::P010 => {
                let stride = stride_bytes(self.width / 2, 2);
                let (chroma, luma) = self.memory.split_at_mut(stride / 2 * self.height);
                let shift = if self.low_bits { P010_SHIFT } else { 0 };
                split16(source(1), chroma, stride / 2, (self.width / 2, self.height / 2), shift);
                let mut y = source(0);
                if self.low_bits {
                    let luma_stride = stride_bytes(self.width, 2);
                    shift16(y, luma, luma_stride / 2, (self.width, self.height), shift);
                    y = Plane { pointer: luma.as_ptr().cast(), stride: luma_stride };
                }
                let cr = chroma[stride / 2 * (self.height / 2)..].as_ptr().cast();
                [y, Plane { pointer: chroma.as_ptr().cast(), stride }, Plane { pointer: cr, stride }]
            }
            _ => [source(0), source(1), source(2)],
        }
    }
}

/// Samples, or pairs of them, read at a time. Memory of another process gives no slice to go over; an array read from
/// it is what the compiler turns into vector instructions: a fifth of the instructions of one pair after the other.
const BLOCK: usize = 32;

/// Takes a row of pairs apart.
///
/// # Safety
/// As many pairs as `cb` and `cr` each have samples are readable from `row` on.
unsafe fn split_row<T: Copy>(row: *const u8, cb: &mut [T], cr: &mut [T], change: impl Fn(T) -> T) {
    let row = row.cast::<[T; 2]>();
    let ((cb_blocks, cb_rest), (cr_blocks, cr_rest)) = (cb.as_chunks_mut::<BLOCK>(), cr.as_chunks_mut::<BLOCK>());
    let rest = cb_blocks.len() * BLOCK;
    for (index, (cb, cr)) in cb_blocks.iter_mut().zip(cr_blocks).enumerate() {
        // SAFETY: this block of pairs lies before the end of the row, for which the caller vouches; read without alignment.
        let pairs = unsafe { row.add(index * BLOCK).cast::<[[T; 2]; BLOCK]>().read_unaligned() };
        for i in 0..BLOCK {
            (cb[i], cr[i]) = (change(pairs[i][0]), change(pairs[i][1]));
        }
    }
    for (index, (cb, cr)) in cb_rest.iter_mut().zip(cr_rest).enumerate() {
        // SAFETY: a pair before the end of the row, as above.
        let pair = unsafe { row.add(rest + index).read_unaligned() };
        (*cb, *cr) = (change(pair[0]), change(pair[1]));
    }
}

/// Takes pairs of bytes apart. `stride` is in bytes, of `memory` as bytes.
fn split8(source: Plane, memory: &mut [u16], stride: usize, (width, height): (usize, usize)) {
    let (cb, cr) = memory.split_at_mut(stride / 2 * height);
    let rows = cb.chunks_exact_mut(stride / 2).zip(cr.chunks_exact_mut(stride / 2)).take(height);
    for (y, (cb_row, cr_row)) in rows.enumerate() {
        // SAFETY: initialised memory of ours, seen as bytes for this loop; `width` bytes lie within a row of `stride`.
        let (cb_row, cr_row) = unsafe {
            (
                std::slice::from_raw_parts_mut(cb_row.as_mut_ptr().cast::<u8>(), width),
                std::slice::from_raw_parts_mut(cr_row.as_mut_ptr().cast::<u8>(), width),
            )
        };
        // SAFETY: row y is below rows(1, height) <= rows(1, coded_height), which `PixelsRead` proved to be mapped, and
        // `width` pairs are its visible bytes.
        unsafe { split_row(source.pointer.add(y * source.stride), cb_row, cr_row, |sample: u8| sample) };
    }
}

/// Takes pairs of 16-bit samples apart, shifted right. `stride` is in samples.
fn split16(source: Plane, memory: &mut [u16], stride: usize, (width, height): (usize, usize), shift: u32) {
    let (cb, cr) = memory.split_at_mut(stride * height);
    let rows = cb.chunks_exact_mut(stride).zip(cr.chunks_exact_mut(stride)).take(height);
    for (y, (cb_row, cr_row)) in rows.enumerate() {
        let (cb_row, cr_row) = (&mut cb_row[..width], &mut cr_row[..width]);
        // SAFETY: as in `split8`.
        unsafe { split_row(source.pointer.add(y * source.stride), cb_row, cr_row, |sample: u16| sample >> shift) };
    }
}

/// Shifts 16-bit samples right. `stride` is in samples.
fn shift16(source: Plane, memory: &mut [u16], stride: usize, (width, height): (usize, usize), shift: u32) {
    for (y, out) in memory.chunks_exact_mut(stride).take(height).enumerate() {
        // SAFETY: row y is below rows(0, height) <= rows(0, coded_height), which `PixelsRead` proved to be mapped.
        let row = unsafe { source.pointer.add(y * source.stride) }.cast::<u16>();
        let (blocks, last) = out[..width].as_chunks_mut::<BLOCK>();
        let rest = blocks.len() * BLOCK;
        for (index, block) in blocks.iter_mut().enumerate() {
            // SAFETY: a block of the visible samples of the row; read without alignment.
            let samples = unsafe { row.add(index * BLOCK).cast::<[u16; BLOCK]>().read_unaligned() };
            *block = samples.map(|sample| sample >> shift);
        }
        for (index, sample) in last.iter_mut().enumerate() {
            // SAFETY: a visible sample of the row, as above.
            *sample = unsafe { row.add(rest + index).read_unaligned() } >> shift;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm_protocol::frame::{Colour, Rational, VideoFormat};

    fn plane(plane: Plane, width: usize, height: usize) -> Vec<u8> {
        (0..height)
            .flat_map(|y| {
                // SAFETY: planes of this test are as large as this.
                unsafe { std::slice::from_raw_parts(plane.pointer.add(y * plane.stride), width) }.to_vec()
            })
            .collect()
    }

    #[test]
    fn interleaved_chroma_is_taken_apart_and_high_samples_are_moved_down() {
        let fps = Rational::new(30, 1).unwrap();
        for (pixel_format, low_bits) in [
            (PixelFormat::Nv12, true),
            (PixelFormat::P010, true),
            (PixelFormat::P010, false),
            (PixelFormat::I420, true),
        ] {
            let format = VideoFormat::packed(pixel_format, 138, 38, fps, Colour::BT709_LIMITED).unwrap();
            let bytes: Vec<u8> = (0..format.frame_bytes()).map(|i| (i * 7 + i / 251) as u8).collect();
            let pixels = PixelsRead::from_slice(&format, &bytes).unwrap();
            let mut planar = Planar::new(pixel_format, 138, 38, low_bits);
            let planes = planar.planes(&pixels);
            let wide = if pixel_format == PixelFormat::P010 { 2 } else { 1 };
            let row = |plane: usize, y: usize| {
                let layout = format.planes[plane];
                let at = (layout.offset + layout.stride * y as u32) as usize;
                &bytes[at..at + format.pixel_format.row_bytes(plane, 138) as usize]
            };
            let moved = |samples: Vec<u8>| -> Vec<u8> {
                if wide == 1 || !low_bits {
                    return samples;
                }
                let down = |pair: &[u8]| (u16::from_le_bytes([pair[0], pair[1]]) >> 6).to_le_bytes();
                samples.chunks_exact(2).flat_map(down).collect()
            };
            let luma: Vec<u8> = (0..38).flat_map(|y| row(0, y).to_vec()).collect();
            assert_eq!(plane(planes[0], 138 * wide, 38), moved(luma), "{pixel_format:?}");
            for component in 0..2 {
                let chroma: Vec<u8> = (0..19)
                    .flat_map(|y| match pixel_format {
                        PixelFormat::I420 => row(1 + component, y).to_vec(),
                        _ => row(1, y).chunks_exact(wide).skip(component).step_by(2).flatten().copied().collect(),
                    })
                    .collect();
                assert_eq!(plane(planes[1 + component], 69 * wide, 19), moved(chroma), "{pixel_format:?}");
            }
        }
    }
}
