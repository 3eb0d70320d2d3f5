//! Decoded pictures of the pattern, compared whole with what the pattern paints for their id and time: a buffer that
//! was given away while it was read shows parts of two frames.
#![allow(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use crate::receiver::complaints;
use kernel_a_capture::barcode::read_barcode;
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
    let rate = Rational { num: fps, den: 1 };
    let format =
        VideoFormat::packed(PixelFormat::I420, width as u32, height as u32, rate, Colour::BT709_LIMITED).unwrap();
    let mut painter = Painter::new(format);
    let (mut frame, mut painted) = (vec![0; width * height * 3 / 2], vec![0; format.frame_bytes() as usize]);
    let mut shown = Shown { ids: Vec::new(), spoilt: Vec::new(), worst: 0, log: String::new() };
    while frames.read_exact(&mut frame).is_ok() {
        let code = read_barcode(&frame[..width * height], width, width as u32);
        let code =
            code.unwrap_or_else(|| panic!("Picture {} (after {:?}) has no barcode", shown.ids.len(), shown.ids.last()));
        let mut pixels = PixelsWrite::new(&format, &mut painted).unwrap();
        painter.paint(&mut pixels, 0, false, code.frame_id, whole_time_us(code.realtime_us));
        let (x, y, difference) =
            worst_block((&frame, width), (&painted, format.planes[0].stride as usize), width, height);
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
    const LOW: u64 = (1 << 48) - 1;
    let now_us = shm_protocol::clock::realtime_ns() / 1000;
    let whole = now_us & !LOW | low_us & LOW;
    if whole > now_us { whole - LOW - 1 } else { whole }
}

/// Place and mean luma difference of the block that differs most; of each picture its bytes and the length of a row.
fn worst_block(one: (&[u8], usize), other: (&[u8], usize), width: usize, height: usize) -> (usize, usize, u32) {
    let mut worst = (0, 0, 0);
    for y in (0..height).step_by(BLOCK) {
        let rows = BLOCK.min(height - y);
        let mut sums = vec![0u32; width.div_ceil(BLOCK)];
        for row in y..y + rows {
            let (one, other) = (&one.0[row * one.1..][..width], &other.0[row * other.1..][..width]);
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
        let mut other = vec![100; 64 * 32 * 3 / 2];
        let one = other.clone();
        assert_eq!(worst_block((&one, 64), (&other, 64), 64, 32).2, 0);
        (16..32).for_each(|row| other[row * 64 + 32..row * 64 + 48].fill(200));
        assert_eq!(worst_block((&one, 64), (&other, 64), 64, 32), (32, 16, 100));
    }
}
