//! Errors of the protocol. Each says what was found and what is allowed, and knows its cure.

use thiserror::Error;

/// What the caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// The same call may succeed later.
    Retry,
    /// Map the object again: its producer replaced it.
    Reattach,
    /// End this process with a temporary failure; its successor recovers the state.
    Restart,
    /// A person must change something first.
    Fatal,
}

/// A frame format that cannot be described or does not fit its buffer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FormatError {
    /// Width or height out of range, or odd for a subsampled format.
    #[error("Frame size {width}x{height} is not possible in {format}: {allowed}")]
    Size {
        /// Visible width asked for, pixels.
        width: u32,
        /// Visible height asked for, pixels.
        height: u32,
        /// Name of the pixel format.
        format: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A plane reaches beyond the bytes it is said to lie in.
    #[error("Plane {plane} ends at byte {end}, but the buffer holds {buffer_bytes}")]
    PlaneOutside {
        /// Index of the plane.
        plane: usize,
        /// One past its last byte.
        end: u64,
        /// Size of the buffer.
        buffer_bytes: u64,
    },
    /// A stride shorter than a row.
    #[error("Plane {plane} has a stride of {stride} bytes, but a row needs {row_bytes}")]
    Stride {
        /// Index of the plane.
        plane: usize,
        /// Stride given.
        stride: u32,
        /// Bytes of one row.
        row_bytes: u32,
    },
    /// A code that names nothing.
    #[error("{what} has no meaning for code {code}")]
    UnknownCode {
        /// Which field.
        what: &'static str,
        /// The code found.
        code: u64,
    },
}
