//! Decoded pictures: which frame each one is, and whether it looks as it was painted.

use anyhow::{Result, anyhow};
use kernel_a_capture::barcode::{self, Barcode, read_barcode};
use kernel_a_capture::sources::pattern::Painter;
use shm_protocol::frame::{Colour, PixelFormat, Rational, VideoFormat};
use shm_protocol::pixels::PixelsWrite;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Side of the squares that are compared, pixels.
const BLOCK: usize = 16;
/// Largest mean difference of a block that a coded picture may show: sound streams at 8 Mb/s show 5 at the most, a
/// square at the place of another frame 30 and more.
pub const MAX_BLOCK_DIFFERENCE: u64 = 20;

/// What is wrong with the pictures of one receiver.
#[derive(Debug, Clone, Default)]
pub struct Verdict {
    /// Pictures.
    pub pictures: u64,
    /// Id of the first one.
    pub first_id: Option<u64>,
    /// Id of the last one.
    pub last_id: Option<u64>,
    /// Ids that were passed over.
    pub lost: u64,
    /// Ids that came again, or behind a later one.
    pub duplicated: u64,
    /// Pictures whose barcode cannot be read.
    pub unreadable: u64,
    /// Pictures that look otherwise than they were painted.
    pub wrong: u64,
    /// Pictures that were compared.
    pub compared: u64,
    /// Largest mean difference of a block.
    pub worst_block: u64,
    /// The first findings, each with its time.
    pub found: Vec<(Instant, String)>,
}

/// Findings kept: the first ones tell what happened.
const FINDINGS: usize = 200;

/// The checker of one receiver's pictures.
pub struct Pictures {
    /// What was found.
    pub verdict: Verdict,
    width: usize,
    rows: usize,
    compare_every: u64,
    format: VideoFormat,
    painter: Painter,
    expected: Vec<u8>,
}

impl Pictures {
    /// Of a pattern of that size, of which the first `rows` rows come; every so many of them are compared whole.
    ///
    /// # Errors
    /// For sizes that cannot be.
    pub fn new(width: usize, height: usize, rows: usize, compare_every: u64) -> Result<Pictures> {
        // The rate has no influence on the picture.
        let fps = Rational { num: 60, den: 1 };
        let (pixels, colour) = (PixelFormat::Nv12, Colour::BT709_LIMITED);
        let format = VideoFormat::packed(pixels, width as u32, height as u32, fps, colour)?;
        let expected = vec![0; format.frame_bytes() as usize];
        let painter = Painter::new(format);
        Ok(Pictures { verdict: Verdict::default(), width, rows, compare_every, format, painter, expected })
    }

    /// Takes the luma of the next picture.
    pub fn add(&mut self, luma: &[u8]) -> Result<()> {
        self.verdict.pictures += 1;
        let Some(code) = read_barcode(luma, self.width, self.width as u32) else {
            self.verdict.unreadable += 1;
            self.find(format!("picture {}: its barcode is unreadable", self.verdict.pictures));
            return Ok(());
        };
        let id = code.frame_id;
        self.verdict.first_id.get_or_insert(id);
        if let Some(last) = self.verdict.last_id {
            if id <= last {
                self.verdict.duplicated += 1;
                self.find(format!("frame {id} after frame {last}"));
            } else if id > last + 1 {
                self.verdict.lost += id - last - 1;
                self.find(format!("frames {} to {} are missing", last + 1, id - 1));
            }
        }
        self.verdict.last_id = Some(self.verdict.last_id.map_or(id, |last| last.max(id)));
        if self.verdict.pictures.is_multiple_of(self.compare_every) {
            self.compare(luma, code)?;
        }
        Ok(())
    }

    fn find(&mut self, text: String) {
        if self.verdict.found.len() < FINDINGS {
            self.verdict.found.push((Instant::now(), text));
        }
    }

    fn compare(&mut self, luma: &[u8], code: Barcode) -> Result<()> {
        // The barcode has the low bits of the time; the picture shows all of it.
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH)?.as_micros() as u64;
        let realtime_us = now_us & !barcode::VALUE_MASK | code.realtime_us;
        let mut pixels = PixelsWrite::new(&self.format, &mut self.expected).map_err(|error| anyhow!(error))?;
        self.painter.paint(&mut pixels, 0, false, code.frame_id, realtime_us);
        let stride = self.format.planes[0].stride as usize;
        let mut worst = (0, 0, 0);
        for y in (0..self.rows).step_by(BLOCK) {
            let rows = y..(y + BLOCK).min(self.rows);
            for x in (0..self.width).step_by(BLOCK) {
                let columns = x..(x + BLOCK).min(self.width);
                let samples = rows.len() * columns.len();
                let difference: u64 = rows
                    .clone()
                    .map(|row| {
                        let got = &luma[row * self.width..][columns.clone()];
                        let painted = &self.expected[row * stride..][columns.clone()];
                        got.iter().zip(painted).map(|(a, b)| u64::from(a.abs_diff(*b))).sum::<u64>()
                    })
                    .sum();
                worst = worst.max((difference / samples as u64, x, y));
            }
        }
        self.verdict.compared += 1;
        self.verdict.worst_block = self.verdict.worst_block.max(worst.0);
        if worst.0 > MAX_BLOCK_DIFFERENCE {
            self.verdict.wrong += 1;
            self.find(format!("frame {} differs by {} at {},{}", code.frame_id, worst.0, worst.1, worst.2));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel_a_capture::barcode::block_side;

    const WIDTH: usize = 640;
    const HEIGHT: usize = 360;

    fn painted(id: u64) -> Vec<u8> {
        let mut pictures = Pictures::new(WIDTH, HEIGHT, HEIGHT, 1).unwrap();
        let now_us = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64;
        let mut pixels = PixelsWrite::new(&pictures.format, &mut pictures.expected).unwrap();
        pictures.painter.paint(&mut pixels, 0, true, id, now_us);
        let stride = pictures.format.planes[0].stride as usize;
        (0..HEIGHT).flat_map(|row| pictures.expected[row * stride..][..WIDTH].to_vec()).collect()
    }

    fn verdict(frames: &[Vec<u8>]) -> Verdict {
        let mut pictures = Pictures::new(WIDTH, HEIGHT, HEIGHT, 1).unwrap();
        frames.iter().for_each(|frame| pictures.add(frame).unwrap());
        pictures.verdict
    }

    #[test]
    fn pictures_as_painted_are_right() {
        let verdict = verdict(&[painted(7), painted(8), painted(9)]);
        assert_eq!((verdict.first_id, verdict.last_id, verdict.pictures), (Some(7), Some(9), 3));
        assert_eq!((verdict.lost, verdict.duplicated, verdict.unreadable, verdict.wrong), (0, 0, 0, 0));
        assert_eq!((verdict.compared, verdict.worst_block), (3, 0));
    }

    #[test]
    fn lost_repeated_and_unreadable_pictures_are_counted() {
        let verdict = verdict(&[painted(1), painted(4), painted(4), painted(3), vec![16; WIDTH * HEIGHT], painted(5)]);
        assert_eq!((verdict.lost, verdict.duplicated, verdict.unreadable), (2, 2, 1));
        assert_eq!(verdict.last_id, Some(5));
    }

    #[test]
    fn a_picture_with_the_square_of_another_frame_is_wrong() {
        let (mut one, other) = (painted(1), painted(40));
        // All but the barcode from another frame.
        let from = 2 * block_side(WIDTH as u32, HEIGHT as u32).unwrap() as usize * WIDTH;
        one[from..].copy_from_slice(&other[from..]);
        let verdict = verdict(&[one]);
        assert_eq!(verdict.wrong, 1, "{verdict:?}");
    }
}
