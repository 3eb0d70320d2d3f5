//! Errors of the RTP output.

use shm_protocol::error::Recovery;
use thiserror::Error;

use crate::{payload::PayloadError, transmit::TransmitError};

use super::session::MAX_CNAME_BYTES;

/// A session that cannot be used.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The memory is too small.
    #[error("The session has {found} words, but {needed} are needed")]
    Words {
        /// Words given.
        found: usize,
        /// Words needed.
        needed: usize,
    },
    /// A CNAME that no SDES item should carry.
    #[error("CNAME {0:?} is not possible: 1 to {max} printable ASCII characters are allowed", max = MAX_CNAME_BYTES)]
    Cname(String),
    /// A payload type beyond 7 bits.
    #[error("Payload type {0} is not possible: 0 to 127 are allowed")]
    PayloadType(u8),
    /// No random numbers.
    #[error("The system gave no random numbers for SSRC, timestamp and sequence number")]
    Random(#[source] std::io::Error),
}

impl SessionError {
    /// What to do about it.
    pub fn recovery(&self) -> Recovery {
        match self {
            SessionError::Words { .. } => Recovery::Reattach,
            SessionError::Cname(_) | SessionError::PayloadType(_) => Recovery::Fatal,
            SessionError::Random(_) => Recovery::Retry,
        }
    }
}

/// An access unit or a stream that cannot be sent.
#[derive(Debug, Error)]
pub enum RtpError {
    /// No packets can be made of it.
    #[error("The access unit cannot be packetised")]
    Payload(#[from] PayloadError),
    /// The session cannot be used.
    #[error("The session of the RTP stream cannot be used")]
    Session(#[from] SessionError),
    /// Not the access unit that was begun.
    #[error("Access unit {given:?} was given while {begun:?} is being sent; finish one before the next")]
    OtherAccessUnit {
        /// Key given.
        given: (u64, u64),
        /// Key in hand; `None` when none is.
        begun: Option<(u64, u64)>,
    },
    /// The socket cannot be used.
    #[error("The RTP stream has no way out")]
    Transmit(#[from] TransmitError),
}

impl RtpError {
    /// What to do about it.
    pub fn recovery(&self) -> Recovery {
        match self {
            RtpError::Payload(error) => error.recovery(),
            RtpError::Session(error) => error.recovery(),
            RtpError::Transmit(error) => error.recovery(),
            RtpError::OtherAccessUnit { .. } => Recovery::Restart,
        }
    }
}
