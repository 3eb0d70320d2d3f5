//! Clock and frame number, in glyphs of 8 by 8 points scaled by a whole number.

use crate::paint::{self, Rect};
use font8x8::legacy::BASIC_LEGACY;
use shm_protocol::pixels::PixelsWrite;

/// Characters of a line.
pub(super) const COLUMNS: usize = 16;

/// Where a line of text lies on the (black, neutral) panel.
#[derive(Debug, Clone, Copy)]
pub(super) struct Line {
    /// Left edge, pixels.
    pub(super) x: u32,
    /// Top edge, pixels.
    pub(super) y: u32,
    /// Pixels per point of a glyph.
    pub(super) scale: u32,
    /// Characters that fit.
    pub(super) columns: usize,
}

impl Line {
    /// Draws those characters that differ from what is `drawn` there; returns the bytes written.
    pub(super) fn draw(&self, pixels: &mut PixelsWrite<'_>, text: &[u8; COLUMNS], drawn: Option<[u8; COLUMNS]>) -> u64 {
        // An unknown line is the bare panel.
        let drawn = drawn.unwrap_or([b' '; COLUMNS]);
        let columns = (0u32..).zip(text.iter().zip(&drawn)).take(self.columns);
        columns
            .filter(|(_, (now, before))| now != before)
            .map(|(column, (now, _))| self.glyph(pixels, column, *now))
            .sum()
    }

    fn glyph(&self, pixels: &mut PixelsWrite<'_>, column: u32, character: u8) -> u64 {
        let (black, white) = paint::black_and_white(pixels.format());
        let glyph = BASIC_LEGACY.get(usize::from(character)).copied().unwrap_or_default();
        let cell = 8 * self.scale;
        let mut written = 0;
        for (row, points) in (0u32..).zip(glyph) {
            let y = self.y + row * self.scale;
            let mut point = 0;
            // Runs of equal points: the lowest bit is the leftmost.
            while point < 8 {
                let lit = points >> point & 1 != 0;
                let rest = points >> point;
                let run = if lit { rest.trailing_ones() } else { rest.trailing_zeros() }.min(8 - point);
                let x = self.x + column * cell + point * self.scale;
                let rect = Rect { x, y, width: run * self.scale, height: self.scale };
                written += paint::fill_luma(pixels, rect, if lit { white } else { black });
                point += run;
            }
        }
        written
    }
}

fn digits(target: &mut [u8], mut value: u64) {
    for digit in target.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

/// `hh:mm:ss.mmm UTC`.
pub(super) fn clock_text(realtime_us: u64) -> [u8; COLUMNS] {
    let mut text = *b"00:00:00.000 UTC";
    let ms = realtime_us / 1000 % 86_400_000;
    digits(&mut text[0..2], ms / 3_600_000);
    digits(&mut text[3..5], ms / 60_000 % 60);
    digits(&mut text[6..8], ms / 1000 % 60);
    digits(&mut text[9..12], ms % 1000);
    text
}

/// `frame 0000000042`; the last ten digits of longer numbers.
pub(super) fn number_text(frame_id: u64) -> [u8; COLUMNS] {
    let mut text = *b"frame 0000000000";
    digits(&mut text[6..], frame_id);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_shows_the_time_of_day_in_utc() {
        // 2023-11-14 22:13:20.123 UTC.
        assert_eq!(&clock_text(1_700_000_000_123_999), b"22:13:20.123 UTC");
        assert_eq!(&clock_text(0), b"00:00:00.000 UTC");
        assert_eq!(&clock_text(86_399_999_999), b"23:59:59.999 UTC");
    }

    #[test]
    fn the_frame_number_keeps_its_last_ten_digits() {
        assert_eq!(&number_text(42), b"frame 0000000042");
        assert_eq!(&number_text(120_000_000_007), b"frame 0000000007");
    }
}
