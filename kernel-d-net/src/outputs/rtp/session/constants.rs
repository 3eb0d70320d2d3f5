//! What identifies a stream for its whole life, and how it lies in the session's words.

use crate::outputs::rtp::error::SessionError;

use super::{CONSTANT_WORDS, MAX_CNAME_BYTES};

/// What stays the same for the whole life of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constants {
    /// Synchronisation source (RFC 3550 section 3).
    pub ssrc: u32,
    /// RTP timestamp of CLOCK_MONOTONIC 0.
    pub ts_offset: u32,
    /// Index of the very first packet: a random sequence number below 2^15 (RFC 3711 section 3.3.1).
    pub first_index: u64,
    /// Payload type of H.264, 0–127; the other codecs' follow from it (see [`super::super::payload_type`]).
    pub payload_type: u8,
    /// Source port of RTP.
    pub source_port: u16,
    /// Source port of RTCP.
    pub rtcp_port: u16,
    /// Canonical name (RFC 7022), 1 to [`MAX_CNAME_BYTES`] bytes of printable ASCII.
    pub cname: String,
    /// Which SRTP key the stream uses; 0 = none.
    pub key_reference: u64,
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC at the start, nanoseconds: it fixes the NTP side of sender reports, so
    /// that a step of the wall clock does not tear audio from video.
    pub real_minus_monotonic_ns: i64,
}

impl Constants {
    /// Fresh random values (RFC 3550 section 8.1, RFC 7022 section 4.2) for a stream that begins now.
    ///
    /// # Errors
    /// [`SessionError::Random`] when the system gives no random numbers.
    pub fn random(
        payload_type: u8,
        source_port: u16,
        rtcp_port: u16,
        real_minus_monotonic_ns: i64,
    ) -> Result<Constants, SessionError> {
        use base64::Engine as _;
        use std::io::Read as _;
        let mut bytes = [0u8; 24];
        std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)).map_err(SessionError::Random)?;
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Ok(Constants {
            ssrc: word(0),
            ts_offset: word(4),
            first_index: u64::from(word(8) & 0x7fff),
            payload_type,
            source_port,
            rtcp_port,
            cname: base64::engine::general_purpose::STANDARD.encode(&bytes[12..24]), // 96 bits, 16 characters
            key_reference: 0,
            real_minus_monotonic_ns,
        })
    }

    pub(super) fn check(&self) -> Result<(), SessionError> {
        let printable = self.cname.bytes().all(|b| (0x21..0x7f).contains(&b));
        if self.cname.is_empty() || self.cname.len() > MAX_CNAME_BYTES || !printable {
            return Err(SessionError::Cname(self.cname.clone()));
        }
        if self.payload_type > 127 {
            return Err(SessionError::PayloadType(self.payload_type));
        }
        Ok(())
    }

    pub(super) fn to_words(&self) -> [u64; CONSTANT_WORDS] {
        let mut cname = [0u8; MAX_CNAME_BYTES];
        cname[..self.cname.len()].copy_from_slice(self.cname.as_bytes());
        let mut words = [0u64; CONSTANT_WORDS];
        words[0] = u64::from(self.ssrc) << 32 | u64::from(self.ts_offset);
        words[1] = self.first_index;
        words[2] = u64::from(self.payload_type) << 48
            | u64::from(self.source_port) << 32
            | u64::from(self.rtcp_port) << 16
            | self.cname.len() as u64;
        words[3] = self.key_reference;
        words[4] = self.real_minus_monotonic_ns as u64;
        for (word, bytes) in words[5..9].iter_mut().zip(cname.chunks_exact(8)) {
            *word = bytes.iter().fold(0, |value, b| value << 8 | u64::from(*b));
        }
        words
    }

    pub(super) fn from_words(words: &[u64; CONSTANT_WORDS]) -> Option<Constants> {
        let cname_len = (words[2] & 0xffff) as usize;
        let cname: Vec<u8> = words[5..9].iter().flat_map(|w| w.to_be_bytes()).take(cname_len).collect();
        let constants = Constants {
            ssrc: (words[0] >> 32) as u32,
            ts_offset: words[0] as u32,
            first_index: words[1],
            payload_type: (words[2] >> 48) as u8,
            source_port: (words[2] >> 32) as u16,
            rtcp_port: (words[2] >> 16) as u16,
            cname: String::from_utf8(cname).ok()?,
            key_reference: words[3],
            real_minus_monotonic_ns: words[4] as i64,
        };
        (constants.cname.len() == cname_len && constants.check().is_ok()).then_some(constants)
    }
}

/// A check sum that all-zero and stray words do not pass.
pub(super) fn check_word(words: &[u64; CONSTANT_WORDS]) -> u64 {
    let mut crc = crc32fast::Hasher::new();
    for word in words {
        crc.update(&word.to_le_bytes());
    }
    u64::from(crc.finalize()) | 0x5345_5353 << 32
}
