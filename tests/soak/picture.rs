//! Decoded pictures: which frame each one is, and whether it looks as it was painted.

use kernel_a_capture::barcode::{Barcode, read_barcode};
use std::time::Instant;
use system_tests::picture::{CODING_LOSS, Painted};

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
    pub worst_block: u32,
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
    compare_every: u64,
    painted: Painted,
}

impl Pictures {
    /// Of a pattern of that size and rate; every so many of them are compared whole.
    pub fn new(width: usize, height: usize, fps: u32, compare_every: u64) -> Pictures {
        Pictures { verdict: Verdict::default(), width, compare_every, painted: Painted::new(width, height, fps) }
    }

    /// Takes the luma of the next picture, from its top as many rows as are decoded.
    pub fn add(&mut self, luma: &[u8]) {
        self.verdict.pictures += 1;
        let Some(code) = read_barcode(luma, self.width, self.width as u32) else {
            self.verdict.unreadable += 1;
            self.find(format!("picture {}: its barcode is unreadable", self.verdict.pictures));
            return;
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
            self.compare(luma, code);
        }
    }

    fn find(&mut self, text: String) {
        if self.verdict.found.len() < FINDINGS {
            self.verdict.found.push((Instant::now(), text));
        }
    }

    fn compare(&mut self, luma: &[u8], code: Barcode) {
        let (x, y, difference) = self.painted.worst_block(luma, code);
        self.verdict.compared += 1;
        self.verdict.worst_block = self.verdict.worst_block.max(difference);
        if difference > CODING_LOSS {
            self.verdict.wrong += 1;
            self.find(format!("frame {} differs by {difference} at {x},{y}", code.frame_id));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel_a_capture::barcode::block_side;
    use kernel_a_capture::sources::pattern::Painter;
    use shm_protocol::frame::{Colour, PixelFormat, Rational, VideoFormat};
    use shm_protocol::pixels::PixelsWrite;

    const WIDTH: usize = 640;
    const HEIGHT: usize = 360;
    const FPS: u32 = 50;

    fn painted(id: u64) -> Vec<u8> {
        let fps = Rational { num: FPS, den: 1 };
        let (pixels, colour) = (PixelFormat::Nv12, Colour::BT709_LIMITED);
        let format = VideoFormat::packed(pixels, WIDTH as u32, HEIGHT as u32, fps, colour).unwrap();
        let mut frame = vec![0; format.frame_bytes() as usize];
        let now_us = shm_protocol::clock::realtime_ns() / 1000;
        Painter::new(format).paint(&mut PixelsWrite::new(&format, &mut frame).unwrap(), 0, true, id, now_us);
        let stride = format.planes[0].stride as usize;
        (0..HEIGHT).flat_map(|row| frame[row * stride..][..WIDTH].to_vec()).collect()
    }

    fn verdict(frames: &[Vec<u8>]) -> Verdict {
        let mut pictures = Pictures::new(WIDTH, HEIGHT, FPS, 1);
        frames.iter().for_each(|frame| pictures.add(frame));
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
