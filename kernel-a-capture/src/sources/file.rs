//! Frames from a file, a FIFO or standard input: Y4M, or raw frames of a configured format.
//!
//! A regular file is paced by its frame rate (live) or read as fast as it is asked for. A FIFO or a pipe on
//! standard input is read as its writer writes. What a file is, its content says: Y4M begins with a signature,
//! anything else is raw and needs a configured format. Raw frames in a FIFO carry no marks: a reader that joins
//! in the middle of one cannot know it, so a restart of the kernel shifts the picture until the writer restarts.

mod pipe;
mod pipe_reader;
mod rows;
mod seekable;
pub mod y4m;

use crate::error::SourceError;
use crate::source::Source;
use nix::fcntl::OFlag;
use pipe::PipeSource;
use seekable::FileSource;
use shm_protocol::frame::{Colour, PixelFormat, Rational, VideoFormat};
use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::sync::atomic::AtomicBool;
use y4m::Y4mHeader;

/// The name in `capture.source`.
const NAME: &str = "file";

/// Format of frames that carry no description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawGeometry {
    /// Pixel format; planes follow each other without padding.
    pub pixel_format: PixelFormat,
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
    /// Frame rate.
    pub fps: Rational,
}

/// How to read a file.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileOptions<'a> {
    /// Paced by the frame rate (regular files) or stamped at arrival (pipes); otherwise as fast as asked.
    pub live: bool,
    /// Begin again at the end (regular files only).
    pub looped: bool,
    /// What the bytes are when they are not Y4M.
    pub raw: Option<RawGeometry>,
    /// Frame rate for Y4M streams that name none.
    pub fps: Option<Rational>,
    /// Colour when it is known better than by the rule for unmarked streams ([`default_colour`]).
    pub colour: Option<Colour>,
    /// `source_pos` of the last frame a predecessor published, 0 for none.
    pub resume_pos: u64,
    /// [`Source::stream_header`] of a predecessor on the same pipe, empty for none.
    pub known_header: &'a [u8],
}

/// Colour of a stream that does not say: sRGB for R'G'B', BT.709 from 1280 pixels or 577 lines on, else BT.601.
pub fn default_colour(pixel_format: PixelFormat, width: u32, height: u32) -> Colour {
    if pixel_format.is_rgb() {
        Colour::SRGB
    } else if width >= 1280 || height > 576 {
        Colour::BT709_LIMITED
    } else {
        Colour::BT601_LIMITED
    }
}

/// What the bytes of a stream are.
#[derive(Debug, Clone)]
enum Container {
    /// Headers and FRAME lines.
    Y4m(Y4mHeader),
    /// Frame after frame.
    Raw,
}

impl RawGeometry {
    fn format(&self, colour: Option<Colour>) -> Result<VideoFormat, SourceError> {
        let colour = colour.unwrap_or_else(|| default_colour(self.pixel_format, self.width, self.height));
        VideoFormat::packed(self.pixel_format, self.width, self.height, self.fps, colour)
            .map_err(|source| SourceError::Format { name: NAME, source })
    }
}

/// Opens `path` ("-": standard input). A FIFO or a pipe without a known header is waited for until its writer
/// has sent the header; `None` when `stop` was set before that.
///
/// # Errors
/// [`SourceError`] for what cannot be opened, is no video, or is broken at its beginning.
pub fn open(path: &str, options: &FileOptions<'_>, stop: &AtomicBool) -> Result<Option<Box<dyn Source>>, SourceError> {
    let open_error = |source| SourceError::Open { path: path.to_owned(), source };
    let standard_input = path == "-";
    let file = if standard_input {
        File::from(std::io::stdin().as_fd().try_clone_to_owned().map_err(open_error)?)
    } else {
        // Without O_NONBLOCK, opening a FIFO would block until there is a writer, deaf to the stop flag.
        let flags = OFlag::O_NONBLOCK.bits();
        OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(open_error)?
    };
    let kind = file.metadata().map_err(open_error)?.file_type();
    let refuse = |kind| Err(SourceError::NotAFile { path: path.to_owned(), kind });
    if kind.is_file() {
        return Ok(Some(Box::new(FileSource::open(file, path, options)?)));
    }
    if kind.is_dir() {
        return refuse("a directory");
    }
    if kind.is_block_device() {
        return refuse("a block device");
    }
    if kind.is_char_device() && !standard_input {
        return refuse("a character device");
    }
    // A FIFO outlives its writers; standard input ends with its writer.
    let rejoin = kind.is_fifo() && !standard_input;
    let source = PipeSource::open(file, path, rejoin, options, stop)?;
    Ok(source.map(|source| Box::new(source) as Box<dyn Source>))
}

#[cfg(test)]
mod pipe_tests;
#[cfg(test)]
mod tests;
