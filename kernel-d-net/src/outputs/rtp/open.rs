//! Opens a stream: session, sockets and sender, in the order that a restart needs.

use tracing::{info, warn};

use crate::transmit::udp::{UdpConfig, UdpTransmit, open_pair};

use super::{
    error::RtpError,
    sender::{RtpSender, SenderConfig},
    session::{Constants, Resume, Session, Words},
};

/// What a new stream begins with. A stream that is continued keeps what it began with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewStream {
    /// Payload type of H.264, 0-127; the other codecs' follow from it.
    pub payload_type: u8,
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC, nanoseconds.
    pub real_minus_monotonic_ns: i64,
}

/// Continues the stream whose session lies in `words`, from its own ports, or begins one there.
///
/// `udp.source_ports` is used for a new stream only.
///
/// # Errors
/// [`RtpError::Transmit`] when a port, an option or the interface cannot be had; [`RtpError::Session`].
pub fn open_stream<W: Words>(
    words: W,
    new: NewStream,
    udp: &UdpConfig,
    config: &SenderConfig,
    now_ns: u64,
) -> Result<(RtpSender<W, UdpTransmit>, Resume), RtpError> {
    let existing = Session::existing(&words);
    let source_ports = existing.as_ref().map(|c| (c.source_port, c.rtcp_port)).or(udp.source_ports);
    let (transmit, rtcp) = open_pair(&UdpConfig { source_ports, ..udp.clone() })?;
    let constants = match existing {
        Some(constants) => constants,
        None => Constants::random(new.payload_type, transmit.port(), rtcp.port(), new.real_minus_monotonic_ns)?,
    };
    let (session, resume) = Session::create_or_resume(words, constants, config.payload_size.bytes())?;
    let ssrc = session.constants().ssrc;
    let next_index = session.next_index();
    match resume {
        Resume::Created => info!(ssrc, "A new RTP stream begins"),
        Resume::Resumed => info!(ssrc, next_index, unfinished = !session.is_done(), "The RTP stream goes on"),
        Resume::Replaced { found } => {
            warn!(ssrc, found, "The session found cannot be continued by this build; a new RTP stream begins");
        }
    }
    Ok((RtpSender::new(session, resume, transmit, Some(rtcp), config, now_ns), resume))
}
