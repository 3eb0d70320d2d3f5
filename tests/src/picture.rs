//! Decoded pictures of the pattern, compared whole with what the pattern paints for their id and time: a buffer that
//! was given away while it was read shows parts of two frames.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use crate::receiver::complaints;
use kernel_a_capture::barcode::{Barcode, VALUE_MASK, read_barcode};
use kernel_a_capture::sources::pattern::Painter;
use shm_protocol::frame::{Colour, PixelFormat, Rational, VideoFormat};
use shm_protocol::pixels::PixelsWrite;
use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

/// Side of a compared block, pixels: that of a macroblock, so that one spoilt is seen whole.
const BLOCK: usize = 16;
/// Largest mean difference of a block's luma that coding may make. Measured: 2 in whole streams; a square, a
/// digit or a bar that belongs to another frame makes more than 30.
pub const CODING_LOSS: u32 = 12;

/// What the pictures of a stream show.
#[derive(Debug)]
pub struct Shown {
    /// Frame ids, in the order of output.
    pub ids: Vec<u64>,
    /// Ids of pictures with a block that is not their own, with its place and difference.
    pub spoilt: Vec<(u64, usize, usize, u32)>,
    /// Largest mean difference of any block.
    pub worst: u32,
    /// What the decoder complained of.
    pub log: String,
}

impl Shown {
    /// Asserts that the decoder was content and every picture whole; returns the ids.
    pub fn whole(&self) -> &[u64] {
        assert_eq!(self.log.trim(), "", "The decoder complains");
        let (count, first) = (self.spoilt.len(), self.spoilt.first());
        assert_eq!(count, 0, "Pictures with parts of others, the first (id, x, y, difference): {first:?}");
        &self.ids
    }
}

/// What the pattern looks like, to compare pictures with.
pub struct Painted {
    format: VideoFormat,
    painter: Painter,
    frame: Vec<u8>,
}

impl Painted {
    /// A pattern of that size, at `fps` frames a second: what moves moves with time.
    ///
    /// # Panics
    /// For a size that no frame has.
    pub fn new(width: usize, height: usize, fps: u32) -> Painted {
        let fps = Rational { num: fps, den: 1 };
        let format = VideoFormat::packed(PixelFormat::I420, width as u32, height as u32, fps, Colour::BT709_LIMITED);
        let format = format.unwrap();
        Painted { painter: Painter::new(format), frame: vec![0; format.frame_bytes() as usize], format }
    }

    /// Place and mean luma difference (x, y, difference) of the block in which `luma`, rows of the pattern's width
    /// from the top, differs most from what was painted for its barcode.
    ///
    /// # Panics
    /// On more rows than the pattern has.
    pub fn worst_block(&mut self, luma: &[u8], code: Barcode) -> (usize, usize, u32) {
        let mut pixels = PixelsWrite::new(&self.format, &mut self.frame).unwrap();
        self.painter.paint(&mut pixels, 0, false, code.frame_id, whole_time_us(code.realtime_us));
        worst_block(luma, &self.frame, self.format.planes[0].stride as usize, self.format.width as usize)
    }
}

/// Decodes an Annex-B stream of the pattern at `fps` frames a second with FFmpeg and compares every picture.
///
/// # Panics
/// On a picture without a readable barcode.
pub fn shown(stream: &[u8], width: usize, height: usize, fps: u32) -> Shown {
    let mut file = tempfile::Builder::new().suffix(".h264").tempfile().unwrap();
    file.write_all(stream).unwrap();
    let mut decoder = Command::new("ffmpeg")
        .args(["-v", "warning", "-nostdin", "-f", "h264", "-i"])
        .arg(file.path())
        .args(["-fps_mode", "passthrough", "-pix_fmt", "yuv420p", "-f", "rawvideo", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut errors = decoder.stderr.take().unwrap();
    let log = std::thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).map(|_| text).unwrap_or_default()
    });
    let mut frames = decoder.stdout.take().unwrap();
    let mut painted = Painted::new(width, height, fps);
    let mut frame = vec![0; width * height * 3 / 2];
    let mut shown = Shown { ids: Vec::new(), spoilt: Vec::new(), worst: 0, log: String::new() };
    while frames.read_exact(&mut frame).is_ok() {
        let luma = &frame[..width * height];
        let code = read_barcode(luma, width, width as u32);
        let code =
            code.unwrap_or_else(|| panic!("Picture {} (after {:?}) has no barcode", shown.ids.len(), shown.ids.last()));
        let (x, y, difference) = painted.worst_block(luma, code);
        shown.worst = shown.worst.max(difference);
        if difference > CODING_LOSS {
            shown.spoilt.push((code.frame_id, x, y, difference));
        }
        shown.ids.push(code.frame_id);
    }
    decoder.wait().unwrap();
    shown.log = complaints(&log.join().unwrap());
    shown
}

/// The barcode has the low 48 bits of the time; the clock in the picture has all. The stream was just recorded.
fn whole_time_us(low_us: u64) -> u64 {
    let now_us = shm_protocol::clock::realtime_ns() / 1000;
    let whole = now_us & !VALUE_MASK | low_us & VALUE_MASK;
    if whole > now_us { whole - VALUE_MASK - 1 } else { whole }
}

/// Place and mean luma difference of the block that differs most, of as many rows as `luma` has.
fn worst_block(luma: &[u8], painted: &[u8], stride: usize, width: usize) -> (usize, usize, u32) {
    let mut worst = (0, 0, 0);
    let height = luma.len() / width;
    for y in (0..height).step_by(BLOCK) {
        let rows = BLOCK.min(height - y);
        let mut sums = vec![0u32; width.div_ceil(BLOCK)];
        for row in y..y + rows {
            let (one, other) = (&luma[row * width..][..width], &painted[row * stride..][..width]);
            for (sum, (a, b)) in sums.iter_mut().zip(one.chunks(BLOCK).zip(other.chunks(BLOCK))) {
                *sum += a.iter().zip(b).map(|(a, b)| u32::from(a.abs_diff(*b))).sum::<u32>();
            }
        }
        for (index, sum) in sums.into_iter().enumerate() {
            let columns = BLOCK.min(width - index * BLOCK);
            let mean = sum / (rows * columns) as u32;
            if mean > worst.2 {
                worst = (index * BLOCK, y, mean);
            }
        }
    }
    worst
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_square_of_another_frame_is_found_in_its_place() {
        let mut luma = vec![100; 64 * 32];
        let painted = vec![100; 80 * 32];
        assert_eq!(worst_block(&luma, &painted, 80, 64).2, 0);
        (16..32).for_each(|row| luma[row * 64 + 32..row * 64 + 48].fill(200));
        assert_eq!(worst_block(&luma, &painted, 80, 64), (32, 16, 100));
    }
}
