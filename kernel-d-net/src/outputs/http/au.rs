//! The one copy of an access unit that all viewers share, already in the form of a WebSocket message.
//!
//! Binary message, big-endian (what `DataView` reads by default):
//!
//! | bytes | |
//! |---|---|
//! | 0 | version, [`MESSAGE_VERSION`] |
//! | 1 | flags: bit 0 IDR, bit 1 begins with parameter sets |
//! | 2–3 | reserved, 0 |
//! | 4–7 | sequence: counts published access units, so a viewer sees what was left out for it |
//! | 8–15 | frame id |
//! | 16–23 | capture time, CLOCK_REALTIME, microseconds |
//! | 24– | the access unit: Annex B (H.264, HEVC) or a low-overhead temporal unit (AV1) |

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use shm_protocol::frame::Rational;

/// Version of the binary message.
pub const MESSAGE_VERSION: u8 = 1;

/// Bytes before the access unit in a binary message.
pub const HEADER_BYTES: usize = 24;

const FLAG_IDR: u8 = 1;
const FLAG_CONFIG: u8 = 2;

/// What a decoder must know before the first access unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamFormat {
    /// RFC 6381 codec string, `avc1.42C01F` for instance; see [`crate::codecs::web_codec_string`]. Shared: one per
    /// parameter set.
    pub codec: Arc<str>,
    /// Visible width, pixels.
    pub width: u32,
    /// Visible height, pixels.
    pub height: u32,
    /// Nominal frames per second.
    pub fps: Rational,
}

/// What belongs to one access unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuInfo {
    /// Frame id, as kernel A gave it.
    pub frame_id: u64,
    /// Decodable without any earlier access unit.
    pub idr: bool,
    /// Begins with parameter sets, or a sequence header.
    pub config: bool,
    /// Capture time, CLOCK_REALTIME, microseconds.
    pub capture_realtime_us: u64,
    /// The stream's format, as of this access unit.
    pub format: StreamFormat,
}

/// A copy of an access unit out of the ring, made once for all viewers.
#[derive(Debug)]
pub struct AuCopy {
    message: BytesMut,
    info: AuInfo,
}

impl AuCopy {
    /// Copies `access_unit`.
    pub fn new(info: AuInfo, access_unit: &[u8]) -> AuCopy {
        let mut message = BytesMut::with_capacity(HEADER_BYTES + access_unit.len());
        message.extend_from_slice(&header(&info));
        message.extend_from_slice(access_unit);
        AuCopy { message, info }
    }

    /// Lets `fill` write an access unit of `len_bytes` bytes, zeroed before: for sources that hand out bytes only by
    /// copying them.
    pub fn fill(info: AuInfo, len_bytes: usize, fill: impl FnOnce(&mut [u8])) -> AuCopy {
        let mut message = BytesMut::zeroed(HEADER_BYTES + len_bytes);
        let (head, body) = message.split_at_mut(HEADER_BYTES);
        head.copy_from_slice(&header(&info));
        fill(body);
        AuCopy { message, info }
    }

    /// Seals the copy as the `sequence`-th that was published.
    pub(super) fn share(mut self, sequence: u32) -> SharedAu {
        self.message[4..8].copy_from_slice(&sequence.to_be_bytes());
        SharedAu {
            message: self.message.freeze(),
            sequence,
            #[cfg(test)]
            frame_id: self.info.frame_id,
            idr: self.info.idr,
            format: self.info.format,
        }
    }
}

fn header(info: &AuInfo) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[0] = MESSAGE_VERSION;
    header[1] = if info.idr { FLAG_IDR } else { 0 } | if info.config { FLAG_CONFIG } else { 0 };
    header[8..16].copy_from_slice(&info.frame_id.to_be_bytes());
    header[16..24].copy_from_slice(&info.capture_realtime_us.to_be_bytes());
    header
}

/// An access unit on its way to viewers; a clone shares the bytes.
#[derive(Debug, Clone)]
pub(super) struct SharedAu {
    pub(super) message: Bytes,
    pub(super) sequence: u32,
    #[cfg(test)]
    pub(super) frame_id: u64,
    pub(super) idr: bool,
    pub(super) format: StreamFormat,
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn info(frame_id: u64, idr: bool) -> AuInfo {
        let format = StreamFormat {
            codec: Arc::from("avc1.42C01F"),
            width: 1280,
            height: 720,
            fps: Rational::new(60, 1).expect("a rate"),
        };
        AuInfo { frame_id, idr, config: idr, capture_realtime_us: 1_700_000_000_000_000 + frame_id, format }
    }

    /// An access unit whose whole message is `bytes` long, published as number `frame_id`.
    pub(in super::super) fn shared(frame_id: u64, idr: bool, bytes: usize) -> SharedAu {
        let payload = vec![0xab; bytes.saturating_sub(HEADER_BYTES)];
        AuCopy::new(info(frame_id, idr), &payload).share(frame_id as u32)
    }

    #[test]
    fn the_header_is_laid_out_as_documented() {
        let au = AuCopy::new(info(0x0102_0304_0506_0708, true), &[0xaa, 0xbb]).share(0x1122_3344);
        let time = (1_700_000_000_000_000u64 + 0x0102_0304_0506_0708).to_be_bytes();
        let mut expected = vec![1, 3, 0, 0, 0x11, 0x22, 0x33, 0x44, 1, 2, 3, 4, 5, 6, 7, 8];
        expected.extend_from_slice(&time);
        expected.extend_from_slice(&[0xaa, 0xbb]);
        assert_eq!(au.message[..], expected[..]);
    }

    #[test]
    fn filling_gives_the_same_message_as_copying() {
        let copied = AuCopy::new(info(7, false), b"picture").share(9);
        let filled = AuCopy::fill(info(7, false), 7, |body| body.copy_from_slice(b"picture")).share(9);
        assert_eq!(copied.message, filled.message);
        assert_eq!(copied.message[1], 0);
    }
}
