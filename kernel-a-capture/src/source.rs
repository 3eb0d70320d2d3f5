//! What every source of frames can do.

use crate::error::SourceError;
use shm_protocol::frame::VideoFormat;
use shm_protocol::pixels::PixelsWrite;
use std::sync::atomic::AtomicBool;

/// A source of frames.
///
/// The ring loop calls [`wait`](Source::wait), claims a buffer once that said [`Wait::Ready`], and has it filled
/// by [`fill`](Source::fill): no buffer is held while nothing happens. `wait` may be called again without a
/// `fill` between (there was no free buffer): a source with its own clock then lets that frame time pass, one
/// that reads a file keeps its place.
pub trait Source: Send {
    /// What its frames are; the same for as long as the source lives.
    fn format(&self) -> &VideoFormat;

    /// Whether frames come at the time of a clock or of a writer, rather than whenever they are asked for.
    fn is_live(&self) -> bool;

    /// Whether a frame may take as long as it likes, because somebody else has yet to write it.
    fn waits_for_writer(&self) -> bool {
        false
    }

    /// The name in `capture.source`.
    fn name(&self) -> &'static str;

    /// Waits for the time of the next frame. `stop` is looked at before waiting and at least every 50 ms.
    ///
    /// # Errors
    /// [`SourceError`], after which the source gives no more frames.
    fn wait(&mut self, stop: &AtomicBool) -> Result<Wait, SourceError>;

    /// Writes the frame that [`wait`](Source::wait) announced into a buffer. Reading from a slow writer may
    /// block; `stop` is then looked at every 50 ms.
    ///
    /// # Errors
    /// [`SourceError`]; the content of the buffer is then undefined.
    fn fill(&mut self, request: &mut FrameRequest<'_>, stop: &AtomicBool) -> Result<Captured, SourceError>;

    /// What a successor must know to join this stream in its middle, at most [`STREAM_HEADER_MAX_BYTES`];
    /// empty for a source that needs nothing. It changes only together with the source's end.
    fn stream_header(&self) -> &[u8] {
        &[]
    }
}

/// Room a ring keeps for [`Source::stream_header`].
pub const STREAM_HEADER_MAX_BYTES: usize = 256;

/// How a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// A frame is due: claim a buffer and call `fill`.
    Ready,
    /// There will be no more frames.
    End,
    /// The stop flag was set.
    Stopped,
}

/// A buffer to fill and what is known of it.
#[derive(Debug)]
pub struct FrameRequest<'a> {
    /// Id the frame will be published under.
    pub frame_id: u64,
    /// Which buffer of the pool it is; a source may rely on the buffer holding what it last put there.
    pub buffer_index: u16,
    /// Whether the content is unknown all the same: a new pool, or a foreign writer.
    pub buffer_fresh: bool,
    /// The buffer.
    pub pixels: PixelsWrite<'a>,
}

/// When a frame was captured and where the source stands after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameTimes {
    /// Capture, CLOCK_MONOTONIC nanoseconds.
    pub capture_ns: u64,
    /// Presentation time of the source, nanoseconds; its zero is the source's own.
    pub source_pts_ns: i64,
    /// Where a successor goes on: frames given so far, this one included, across restarts and loops; the grid
    /// slot for a paced pattern.
    pub source_pos: u64,
    /// Whether something is missing or starts over between the previous frame and this one.
    pub discontinuity: bool,
}

/// How filling a buffer ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Captured {
    /// The buffer holds a frame.
    Frame(FrameTimes),
    /// The frame broke off: nothing to publish, call `wait` again.
    Incomplete,
    /// There will be no more frames; nothing to publish.
    End,
    /// The stop flag was set; nothing to publish.
    Stopped,
}

/// The presentation time of a source whose frames have no time of their own.
pub(crate) fn pts(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}

/// Refuses a buffer of another layout than `format`.
///
/// # Errors
/// [`SourceError::BufferFormat`] with both formats.
pub(crate) fn check_buffer(format: &VideoFormat, request: &FrameRequest<'_>) -> Result<(), SourceError> {
    let buffer = request.pixels.format();
    if buffer.pixel_format == format.pixel_format
        && (buffer.width, buffer.height) == (format.width, format.height)
        && buffer.planes == format.planes
    {
        return Ok(());
    }
    Err(SourceError::BufferFormat { buffer: describe(buffer), source_format: describe(format) })
}

/// A format in a few words: `1280x720 nv12`.
pub(crate) fn describe(format: &VideoFormat) -> String {
    format!("{}x{} {}", format.width, format.height, format.pixel_format.name())
}
