//! An error on its way to C: a code and a text.

use crate::codes::*;
use kernel_c_encode::error::{EncoderError, SinkError};
use kernel_host::exit::{Exit, Failure as KernelFailure};
use shm_protocol::ring::RingError;
use std::ffi::c_int;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// One of the codes below 0, or [`QSV_STOPPED`].
    pub(crate) code: c_int,
    /// What was given and what is allowed, for people.
    pub(crate) text: String,
}

impl Failure {
    pub(crate) fn new(code: c_int, text: impl Into<String>) -> Failure {
        Failure { code, text: text.into() }
    }

    /// A pointer that must not be NULL is.
    pub(crate) fn null(what: &str) -> Failure {
        Failure::new(QSV_ERR_NULL_POINTER, format!("{what} is NULL"))
    }

    /// A value that is not allowed.
    pub(crate) fn value(what: &str, given: impl std::fmt::Display, allowed: impl std::fmt::Display) -> Failure {
        Failure::new(QSV_ERR_INVALID_ARGUMENT, format!("{what} = {given} is not possible: allowed is {allowed}"))
    }
}

impl From<EncoderError> for Failure {
    fn from(error: EncoderError) -> Failure {
        let code = match &error {
            EncoderError::Unavailable { .. } => QSV_ERR_UNAVAILABLE,
            EncoderError::Setting { .. } | EncoderError::Format(_) => QSV_ERR_INVALID_ARGUMENT,
            EncoderError::PixelFormat { .. } => QSV_ERR_UNSUPPORTED,
            EncoderError::FormatChanged { .. } => QSV_ERR_FORMAT_CHANGED,
            EncoderError::DeviceLost { .. } => QSV_ERR_DEVICE_LOST,
            EncoderError::Sink(SinkError::TooLarge { .. }) => QSV_ERR_TOO_LARGE,
            EncoderError::Sink(SinkError::Refused(_)) => QSV_ERR_RING,
            EncoderError::Library { .. } | EncoderError::Bitstream { .. } => QSV_ERR_LIBRARY,
        };
        Failure::new(code, error.to_string())
    }
}

impl From<KernelFailure> for Failure {
    fn from(failure: KernelFailure) -> Failure {
        let code = match failure.exit {
            Exit::Fenced => QSV_ERR_FENCED,
            Exit::Usage | Exit::Config => QSV_ERR_INVALID_ARGUMENT,
            Exit::Unavailable => QSV_ERR_UNAVAILABLE,
            Exit::Temporary | Exit::Stopped => QSV_ERR_RING,
            Exit::Internal => QSV_ERR_INTERNAL,
        };
        Failure::new(code, failure.to_string())
    }
}

impl From<RingError> for Failure {
    fn from(error: RingError) -> Failure {
        kernel_host::kernel::ring(error).into()
    }
}
