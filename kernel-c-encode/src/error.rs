//! Errors of encoders. Each says what was given and what is allowed, and knows its cure.

use shm_protocol::error::{FormatError, Recovery};
use thiserror::Error;

/// Why an access unit could not be handed on.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum SinkError {
    /// The access unit is larger than the buffers of the ring.
    #[error("The access unit needs {needed_bytes} bytes, but a buffer of the ring holds {buffer_bytes}")]
    TooLarge {
        /// Bytes of the access unit.
        needed_bytes: usize,
        /// Bytes of a buffer.
        buffer_bytes: usize,
    },
    /// The ring is gone or this process lost its role in it.
    #[error("The ring refused the access unit: {0}")]
    Refused(String),
}

/// Why an encoder could not be opened, set or fed.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EncoderError {
    /// The backend asked for cannot be used here.
    #[error("Encoder {backend} is not available: {reason}. {cure}")]
    Unavailable {
        /// Backend asked for.
        backend: String,
        /// Why it cannot be used.
        reason: String,
        /// What would make it usable, or which one to ask for instead.
        cure: String,
    },
    /// A setting out of its range, or one this backend cannot honour.
    #[error("{setting} = {given} is not possible: allowed is {allowed}")]
    Setting {
        /// Name of the setting, as in the configuration.
        setting: &'static str,
        /// The value given.
        given: String,
        /// What is allowed.
        allowed: String,
    },
    /// A frame size or layout that cannot be encoded.
    #[error(transparent)]
    Format(#[from] FormatError),
    /// Frames of another pixel format than the encoder takes.
    #[error("Encoder {backend} cannot take {given} frames: allowed is {allowed}")]
    PixelFormat {
        /// The backend.
        backend: &'static str,
        /// Name of the pixel format given.
        given: &'static str,
        /// Names of those it takes.
        allowed: &'static str,
    },
    /// A frame whose format is not the one the encoder was opened for.
    #[error("The frame is {given}, but this encoder was opened for {opened}; a new format needs a new encoder")]
    FormatChanged {
        /// Format of the frame.
        given: String,
        /// Format the encoder was opened for.
        opened: String,
    },
    /// A call of the encoder library failed.
    #[error("{library} failed in {call} with code {code}")]
    Library {
        /// The library.
        library: &'static str,
        /// The call.
        call: &'static str,
        /// The code it returned.
        code: i64,
    },
    /// The device or its driver is lost, and neither a reset nor a new session helped.
    #[error("Encoder {backend} lost its device: {reason}")]
    DeviceLost {
        /// The backend.
        backend: &'static str,
        /// The call and what it said, and what the resets said.
        reason: String,
    },
    /// The library made a bitstream that breaks a promise of the trait.
    #[error("{library} made a bitstream that cannot be handed on: {reason}")]
    Bitstream {
        /// The library.
        library: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The access unit could not be handed on. The next one will be an IDR.
    #[error(transparent)]
    Sink(#[from] SinkError),
}

/// Refuses a setting: its name as in the configuration, what was given, and what is allowed.
///
/// # Errors
/// [`EncoderError::Setting`], always.
pub fn refuse<T>(setting: &'static str, given: impl ToString, allowed: impl Into<String>) -> Result<T, EncoderError> {
    Err(EncoderError::Setting { setting, given: given.to_string(), allowed: allowed.into() })
}

impl EncoderError {
    /// What the caller can do. [`Recovery::Fatal`] means that a person must change the configuration or install
    /// something first (exit code 69, `EX_UNAVAILABLE`, or 78, `EX_CONFIG`: see [`EncoderError::exit_code`]).
    pub fn recovery(&self) -> Recovery {
        match self {
            EncoderError::Unavailable { .. }
            | EncoderError::Setting { .. }
            | EncoderError::Format(_)
            | EncoderError::PixelFormat { .. } => Recovery::Fatal,
            EncoderError::FormatChanged { .. } => Recovery::Reattach,
            EncoderError::Library { .. } | EncoderError::DeviceLost { .. } | EncoderError::Bitstream { .. } => {
                Recovery::Restart
            }
            EncoderError::Sink(SinkError::TooLarge { .. }) => Recovery::Retry,
            EncoderError::Sink(SinkError::Refused(_)) => Recovery::Restart,
        }
    }

    /// The exit code of `sysexits.h` for this error: 69 unavailable, 78 configuration, 75 for a lost device, which a
    /// new process may find again, 70 otherwise.
    pub fn exit_code(&self) -> u8 {
        match self {
            EncoderError::Unavailable { .. } => 69,
            EncoderError::Setting { .. } | EncoderError::Format(_) | EncoderError::PixelFormat { .. } => 78,
            EncoderError::DeviceLost { .. } => 75,
            _ => 70,
        }
    }
}
