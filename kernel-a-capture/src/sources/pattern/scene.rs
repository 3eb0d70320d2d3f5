//! What stands still in the pattern, as one stored row per band, and where the square moves over it.

use super::text::{COLUMNS, Line};
use crate::barcode;
use crate::paint::{self, Rect, Tone};
use shm_protocol::frame::{Range, VideoFormat};
use shm_protocol::pixels::PixelsWrite;

/// Seconds the square takes from left to right and back; with [`PERIOD_Y_NS`] not commensurable, so that it
/// visits the whole field.
const PERIOD_X_NS: u64 = 4_000_000_000;
/// The same from top to bottom and back.
const PERIOD_Y_NS: u64 = 2_620_000_000;
/// The square's side is the height over this: easily seen, and 0.2 % of a 16:9 frame to repaint.
const SQUARE_DIVISOR: u32 = 18;
/// Text is scaled by the height over this: 27 lines of text would fill a frame, at 720p a digit is 24 pixels.
const TEXT_DIVISOR: u32 = 216;

/// Rows that all look the same, from `first_row` to the next band.
#[derive(Debug)]
struct Band {
    first_row: u32,
    /// That row in each plane.
    planes: Vec<Vec<u8>>,
}

/// The background, and the track of the square.
#[derive(Debug)]
pub(super) struct Scene {
    format: VideoFormat,
    bands: Vec<Band>,
    /// Where the square moves.
    field: Rect,
    square_side: u32,
    text_top: u32,
    text_scale: u32,
}

/// Colour of the square: orange, in none of the bars.
pub(super) fn square_tone() -> Tone {
    Tone::bt709([1.0, 0.5, 0.0])
}

impl Scene {
    pub(super) fn new(format: VideoFormat) -> Scene {
        let VideoFormat { width, height, .. } = format;
        let text_top = barcode::area(width, height).height;
        let wanted_scale = (height / TEXT_DIVISOR).max(1);
        // Two lines with half a line around each; left out where they would take more than half of the frame.
        let panel = |scale: u32| scale * 28;
        let text_scale = if text_top + panel(wanted_scale) <= height / 2 { wanted_scale } else { 0 };
        let bars_top = text_top + panel(text_scale);
        let ramp_top = bars_top + even((height - bars_top) / 4 * 3);
        let mirror_top = ramp_top + even((height - ramp_top) / 2);
        let black = Tone::grey(16, Range::Full);
        let mut bands = vec![
            Band { first_row: 0, planes: row(&format, |_| black) },
            Band { first_row: bars_top, planes: row(&format, |x| bar(x, width)) },
            Band { first_row: ramp_top, planes: row(&format, |x| ramp(x, width)) },
            Band { first_row: mirror_top, planes: row(&format, |x| bar(width - 1 - x, width)) },
        ];
        // Bands without rows (tiny frames) are never found, as the one behind them begins at the same row.
        bands.reverse();
        let field = Rect { x: 0, y: bars_top, width, height: ramp_top - bars_top };
        let side = even(height / SQUARE_DIVISOR);
        let square_side = if side <= field.width && side <= field.height { side } else { 0 };
        Scene { format, bands, field, square_side, text_top, text_scale }
    }

    /// Places of the clock and the frame number.
    pub(super) fn text_lines(&self) -> (Line, Line) {
        let cell = 8 * self.text_scale;
        let x = cell / 2;
        let columns = self.format.width.saturating_sub(x).checked_div(cell).unwrap_or(0) as usize;
        let line = |y| Line { x, y, scale: self.text_scale, columns: columns.min(COLUMNS) };
        let first = self.text_top + cell / 2;
        (line(first), line(first + cell + cell / 2))
    }

    /// Where the square is in frame `frame_id`; empty in frames too small for one.
    pub(super) fn square_at(&self, frame_id: u64) -> Rect {
        let side = self.square_side;
        let time_ns = self.format.fps.frame_time_ns(frame_id);
        let x = self.field.x + even(swing(time_ns, PERIOD_X_NS, self.field.width - side));
        let y = self.field.y + even(swing(time_ns, PERIOD_Y_NS, self.field.height - side));
        Rect { x, y, width: side, height: side }
    }

    fn background(&self, plane: usize, luma_row: u32) -> &[u8] {
        let band = self.bands.iter().find(|band| band.first_row <= luma_row);
        band.map_or(&[], |band| &band.planes[plane])
    }

    /// Paints the background over `rect`; returns the bytes written.
    pub(super) fn restore(&self, pixels: &mut PixelsWrite<'_>, rect: Rect) -> u64 {
        let pixel_format = self.format.pixel_format;
        let mut written = 0;
        for plane in 0..pixel_format.planes() {
            let span = paint::byte_span(pixel_format, plane, rect.x, rect.width);
            let subsampling = 2 / pixel_format.rows(plane, 2);
            for y in paint::row_span(pixel_format, plane, rect.y, rect.height) {
                let background = self.background(plane, y * subsampling);
                pixels.row_mut(plane, y)[span.clone()].copy_from_slice(&background[span.clone()]);
                written += span.len() as u64;
            }
        }
        written
    }

    /// Paints the whole background; returns the bytes written.
    pub(super) fn restore_all(&self, pixels: &mut PixelsWrite<'_>) -> u64 {
        self.restore(pixels, Rect { x: 0, y: 0, width: self.format.width, height: self.format.height })
    }
}

/// Rounded down to whole chroma positions.
fn even(value: u32) -> u32 {
    value & !1
}

/// A swing between 0 and `span` and back, once per `period_ns`.
fn swing(time_ns: u64, period_ns: u64, span: u32) -> u32 {
    let half = period_ns / 2;
    let phase = time_ns % period_ns;
    let rising = if phase < half { phase } else { period_ns - phase };
    (rising * u64::from(span) / half) as u32
}

/// One row of every plane, coloured by position; chroma takes the colour at the left of its pair.
fn row(format: &VideoFormat, tone_at: impl Fn(u32) -> Tone) -> Vec<Vec<u8>> {
    let pixel_format = format.pixel_format;
    let plane_row = |plane| {
        let unit_pixels = paint::unit_pixels(pixel_format, plane);
        let mut bytes = vec![0; pixel_format.row_bytes(plane, format.width) as usize];
        let unit_bytes = pixel_format.row_bytes(plane, unit_pixels) as usize;
        for (unit, piece) in (0u32..).zip(bytes.chunks_exact_mut(unit_bytes)) {
            paint::fill_row(piece, pixel_format, plane, tone_at(unit * unit_pixels));
        }
        bytes
    };
    (0..pixel_format.planes()).map(plane_row).collect()
}

/// The 75 % colour bars in the order of falling luma.
fn bar(x: u32, width: u32) -> Tone {
    let number = even(x) * 8 / width;
    // White, yellow, cyan, green, magenta, red, blue, black: green, red and blue switched off in binary order.
    let on = |mask: u32| if number & mask == 0 { 0.75 } else { 0.0 };
    Tone::bt709([on(2), on(4), on(1)])
}

/// Black to white in equal steps of luma.
fn ramp(x: u32, width: u32) -> Tone {
    let level = f64::from(x) / f64::from((width - 1).max(1));
    Tone::bt709([level; 3])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_come_in_the_order_of_falling_luma() {
        let luma: Vec<u8> = (0..8).map(|number| bar(number * 160 + 80, 1280).ycbcr[0]).collect();
        assert_eq!(luma, [180, 168, 145, 133, 63, 51, 28, 16]);
    }

    #[test]
    fn the_swing_is_there_and_back_again() {
        let track: Vec<u32> = (0..9).map(|quarter| swing(quarter * 10, 40, 100)).collect();
        assert_eq!(track, [0, 50, 100, 50, 0, 50, 100, 50, 0]);
    }
}
