//! What can go wrong in a source, with the cure for each.

use nix::errno::Errno;
use shm_protocol::error::{FormatError, Recovery};
use std::io;
use thiserror::Error;

/// Why a source cannot be opened or cannot give its next frame.
#[derive(Debug, Error)]
pub enum SourceError {
    /// The operating system refused to open the input.
    #[error("Cannot open {path} as video input")]
    Open {
        /// Path as configured.
        path: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The operating system refused a read.
    #[error("Cannot read {path} at byte {offset}")]
    Read {
        /// Path as configured.
        path: String,
        /// Where in the stream, bytes from what this process read first.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// The path names something frames cannot be read from.
    #[error("{path} is {kind}; allowed are a regular file, a FIFO, or - for standard input")]
    NotAFile {
        /// Path as configured.
        path: String,
        /// What it is.
        kind: &'static str,
    },
    /// No Y4M signature, and no raw format configured that would say how to read the bytes.
    #[error(
        "{path} does not begin with YUV4MPEG2; a raw file needs capture.format, capture.width, capture.height and capture.fps"
    )]
    UnknownContainer {
        /// Path as configured.
        path: String,
    },
    /// A Y4M stream header that is broken or asks for what cannot be done.
    #[error("Y4M header of {path}, byte {offset}: found {found:?}, allowed is {allowed}")]
    Y4mHeader {
        /// Path as configured.
        path: String,
        /// Where the offending token begins, bytes from the start of the header.
        offset: u64,
        /// The offending token, shortened.
        found: String,
        /// What may stand there.
        allowed: &'static str,
    },
    /// No FRAME line where one must stand.
    #[error("{path}, byte {offset}: found {found:?} in place of the FRAME line of frame {frame}")]
    Y4mFrameLine {
        /// Path as configured.
        path: String,
        /// Where the line must begin, bytes from the start of the stream.
        offset: u64,
        /// Frame, counted from 0 in the file.
        frame: u64,
        /// The bytes found, shortened.
        found: String,
    },
    /// The stream ends within a frame.
    #[error(
        "{path} ends within frame {frame}: the frame begins at byte {offset} and needs {need_bytes} bytes, {have_bytes} are there"
    )]
    Truncated {
        /// Path as configured.
        path: String,
        /// Frame, counted from 0 in the file.
        frame: u64,
        /// Where its pixels begin, bytes.
        offset: u64,
        /// Bytes its pixels have.
        need_bytes: u64,
        /// Bytes the stream still has.
        have_bytes: u64,
    },
    /// A raw file that is not a whole number of frames.
    #[error("{path} has {file_bytes} bytes, which is not a multiple of the {frame_bytes} bytes of one {frame} frame")]
    RawSize {
        /// Path as configured.
        path: String,
        /// Size of the file.
        file_bytes: u64,
        /// Size of one frame.
        frame_bytes: u64,
        /// The format assumed, as in `1280x720 nv12`.
        frame: String,
    },
    /// A file without a single frame.
    #[error("{path} holds no frame")]
    Empty {
        /// Path as configured.
        path: String,
    },
    /// Neither the stream nor the configuration names a frame rate.
    #[error("{path} names no frame rate; set capture.fps")]
    NoFrameRate {
        /// Path as configured.
        path: String,
    },
    /// A new writer of a FIFO sends another kind of picture. The new header is the source's
    /// [`stream_header`](crate::source::Source::stream_header) from now on, for the successor.
    #[error("The new writer of {path} sends {now}, the frames so far were {before}")]
    FormatChanged {
        /// Path as configured.
        path: String,
        /// Header so far.
        before: String,
        /// Header now.
        now: String,
    },
    /// A size or layout no frame can have.
    #[error("The format of {name} frames is not possible")]
    Format {
        /// Which source.
        name: &'static str,
        /// What is wrong with it.
        source: FormatError,
    },
    /// The ring loop offered a buffer of another format than the source announced.
    #[error("The buffer is for {buffer} frames, but the source makes {source_format}")]
    BufferFormat {
        /// Format of the buffer, as in `1280x720 nv12`.
        buffer: String,
        /// Format of the source.
        source_format: String,
    },
    /// The operating system refused a clock or a sleep.
    #[error("The monotonic clock cannot be used")]
    Clock(#[source] Errno),
}

impl SourceError {
    /// What the ring loop can do about it.
    pub fn recovery(&self) -> Recovery {
        match self {
            // The successor opens the input again and takes up the new header or position.
            SourceError::Read { .. } | SourceError::FormatChanged { .. } | SourceError::Clock(_) => Recovery::Restart,
            SourceError::Open { source, .. } => match source.kind() {
                io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock => Recovery::Retry,
                _ => Recovery::Fatal,
            },
            SourceError::NotAFile { .. }
            | SourceError::UnknownContainer { .. }
            | SourceError::Y4mHeader { .. }
            | SourceError::Y4mFrameLine { .. }
            | SourceError::Truncated { .. }
            | SourceError::RawSize { .. }
            | SourceError::Empty { .. }
            | SourceError::NoFrameRate { .. }
            | SourceError::Format { .. }
            | SourceError::BufferFormat { .. } => Recovery::Fatal,
        }
    }
}
