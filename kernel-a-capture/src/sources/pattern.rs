//! The moving test pattern: colour bars, a ramp, a moving square, clock, frame number and barcode.
//!
//! Only what changed is painted. A pool buffer keeps what was painted into it some frames ago; the painter
//! remembers for each buffer what that was, and repaints the difference: a few digits, the barcode blocks whose
//! bits changed, and the square. So the work per frame depends little on the size of the frame, and a picture
//! depends on nothing but its format, frame id and time, whatever the buffer held before.

mod scene;
mod text;

use crate::barcode;
use crate::clock;
use crate::error::SourceError;
use crate::pacing::{PacedSlot, Pacer};
use crate::paint::{self, Rect};
use crate::source::{Captured, FrameRequest, FrameTimes, Source, Wait, check_buffer, pts};
use scene::Scene;
use shm_protocol::frame::{Colour, PixelFormat, Rational, VideoFormat};
use shm_protocol::pixels::PixelsWrite;
use std::sync::atomic::{AtomicBool, Ordering};
use text::{COLUMNS, Line};

/// What a buffer holds beside the background.
#[derive(Debug, Clone, Copy)]
struct Drawn {
    time_row: u64,
    id_row: u64,
    clock: [u8; COLUMNS],
    number: [u8; COLUMNS],
    square: Rect,
}

/// Paints the pattern into buffers, each time no more than what differs from what the buffer holds.
#[derive(Debug)]
pub struct Painter {
    scene: Scene,
    has_barcode: bool,
    clock_line: Line,
    number_line: Line,
    drawn: Vec<Option<Drawn>>,
}

impl Painter {
    /// A painter of frames of `format`.
    pub fn new(format: VideoFormat) -> Painter {
        let scene = Scene::new(format);
        let (clock_line, number_line) = scene.text_lines();
        let has_barcode = barcode::block_side(format.width, format.height).is_some();
        Painter { scene, has_barcode, clock_line, number_line, drawn: Vec::new() }
    }

    /// Paints frame `frame_id` at `realtime_us` (microseconds since 1970 UTC) into buffer `buffer_index`, whose
    /// content is unknown when `fresh`. Returns the bytes written.
    ///
    /// # Panics
    /// When `pixels` has another format than the painter.
    pub fn paint(
        &mut self,
        pixels: &mut PixelsWrite<'_>,
        buffer_index: u16,
        fresh: bool,
        frame_id: u64,
        realtime_us: u64,
    ) -> u64 {
        let index = usize::from(buffer_index);
        if self.drawn.len() <= index {
            self.drawn.resize(index + 1, None);
        }
        // Taken out, so that a buffer half painted counts as unknown.
        let before = self.drawn[index].take().filter(|_| !fresh);
        let now = Drawn {
            time_row: barcode::encode(realtime_us),
            id_row: barcode::encode(frame_id),
            clock: text::clock_text(realtime_us),
            number: text::number_text(frame_id),
            square: self.scene.square_at(frame_id),
        };
        let mut written = match before {
            Some(before) if before.square == now.square => 0,
            Some(before) => self.scene.restore(pixels, before.square),
            None => self.scene.restore_all(pixels),
        };
        if before.is_none_or(|before| before.square != now.square) {
            written += paint::fill(pixels, now.square, scene::square_tone());
        }
        written += self.clock_line.draw(pixels, &now.clock, before.map(|before| before.clock));
        written += self.number_line.draw(pixels, &now.number, before.map(|before| before.number));
        if self.has_barcode {
            written += barcode::draw_row(pixels, 0, now.time_row, before.map(|before| before.time_row));
            written += barcode::draw_row(pixels, 1, now.id_row, before.map(|before| before.id_row));
        }
        self.drawn[index] = Some(now);
        written
    }
}

/// How the pattern is to look and how it is paced.
#[derive(Debug, Clone, Copy)]
pub struct PatternOptions {
    /// Pixel format.
    pub pixel_format: PixelFormat,
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
    /// Frame rate.
    pub fps: Rational,
    /// Paced by the clock: who comes late skips to the present.
    pub live: bool,
    /// When not live: no frame is there before its time, and none is skipped; otherwise one is there whenever it is
    /// asked for.
    pub held_back: bool,
    /// `source_pos` of the last frame a predecessor published, 0 for none. A live pattern follows the clock instead.
    pub resume_pos: u64,
}

/// The test pattern as a source.
#[derive(Debug)]
pub struct PatternSource {
    format: VideoFormat,
    painter: Painter,
    pacer: Option<Pacer>,
    due: Option<PacedSlot>,
    /// When the next frame of a lossless pattern with a rate may be made, CLOCK_MONOTONIC nanoseconds.
    not_before_ns: Option<u64>,
    position: u64,
}

impl PatternSource {
    /// A pattern of that size, format and rate: BT.709 limited range, or sRGB for R'G'B' formats.
    ///
    /// # Errors
    /// [`SourceError::Format`] for a size the format cannot have; [`SourceError::Clock`].
    pub fn new(options: &PatternOptions) -> Result<PatternSource, SourceError> {
        let colour = if options.pixel_format.is_rgb() { Colour::SRGB } else { Colour::BT709_LIMITED };
        let format = VideoFormat::packed(options.pixel_format, options.width, options.height, options.fps, colour)
            .map_err(|source| SourceError::Format { name: "pattern", source })?;
        let now_ns = clock::monotonic_ns()?;
        let pacer = options.live.then(|| Pacer::new(options.fps, now_ns));
        let not_before_ns = (options.held_back && !options.live).then_some(now_ns);
        let painter = Painter::new(format);
        Ok(PatternSource { format, painter, pacer, due: None, not_before_ns, position: options.resume_pos })
    }
}

impl Source for PatternSource {
    fn format(&self) -> &VideoFormat {
        &self.format
    }

    fn is_live(&self) -> bool {
        self.pacer.is_some()
    }

    fn name(&self) -> &'static str {
        "pattern"
    }

    fn wait(&mut self, stop: &AtomicBool) -> Result<Wait, SourceError> {
        if stop.load(Ordering::Relaxed) {
            return Ok(Wait::Stopped);
        }
        if let Some(pacer) = &mut self.pacer {
            self.due = pacer.wait(stop)?;
            if self.due.is_none() {
                return Ok(Wait::Stopped);
            }
        }
        if let Some(not_before_ns) = self.not_before_ns
            && !clock::sleep_until(not_before_ns, stop)?
        {
            return Ok(Wait::Stopped);
        }
        Ok(Wait::Ready)
    }

    fn fill(&mut self, request: &mut FrameRequest<'_>, _stop: &AtomicBool) -> Result<Captured, SourceError> {
        check_buffer(&self.format, request)?;
        let capture_ns = clock::monotonic_ns()?;
        let (source_pts_ns, source_pos) = match &mut self.pacer {
            Some(pacer) => {
                let slot = self.due.take().unwrap_or_else(|| pacer.take(capture_ns));
                (slot.deadline_ns, slot.index)
            }
            None => (self.format.fps.frame_time_ns(self.position), self.position + 1),
        };
        let FrameRequest { frame_id, buffer_index, buffer_fresh, ref mut pixels } = *request;
        self.painter.paint(pixels, buffer_index, buffer_fresh, frame_id, clock::realtime_us()?);
        self.position = source_pos;
        if let Some(not_before_ns) = &mut self.not_before_ns {
            // What was held back is not made up for in a burst; half an interval allows for a late wake-up.
            let interval_ns = self.format.fps.interval_ns();
            *not_before_ns = (*not_before_ns + interval_ns).max(capture_ns + interval_ns / 2);
        }
        Ok(Captured::Frame(FrameTimes {
            capture_ns,
            source_pts_ns: pts(source_pts_ns),
            source_pos,
            discontinuity: false,
        }))
    }
}

#[cfg(test)]
mod tests;
