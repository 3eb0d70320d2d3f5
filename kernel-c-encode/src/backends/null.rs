//! The null encoder: each frame becomes an access unit whose payload describes it.
//!
//! It shows what everything around an encoder costs. With `read_pixels` it also reads every visible byte once, the
//! least an encoder in software can do.
//!
//! The payload is [`NullPayload`], [`PAYLOAD_BYTES`] bytes, little endian:
//!
//! | byte | field | type |
//! |---|---|---|
//! | 0 | magic "QNUL" | 4 bytes |
//! | 4 | version, 1 | u16 |
//! | 6 | key.sub | u16 |
//! | 8 | key.source_id | u64 |
//! | 16 | pts_ns | u64 |
//! | 24 | width | u32 |
//! | 28 | height | u32 |
//! | 32 | pixel format code | u8 |
//! | 33 | flags: bit 0 IDR, bit 1 checksum present | u8 |
//! | 34 | 0 | 6 bytes |
//! | 40 | index of the frame within this encoder | u64 |
//! | 48 | bytes of the frame, strides included | u64 |
//! | 56 | checksum of the visible bytes ([`checksum`]), or 0 | u64 |
#![expect(unsafe_code, reason = "reads pixels of another process through raw pointers")]

use crate::encoder::{AccessUnitMeta, AuSink, Capabilities, EncodeInput, Encoder, Key, LeftOut, PartKind, Parts};
use crate::error::{EncoderError, SinkError};
use crate::settings::{EncoderSettings, Gop, check_bitrate};
use shm_protocol::frame::{Codec, MAX_SIDE, PixelFormat};
use shm_protocol::pixels::PixelsRead;

/// Bytes of a payload: one cache line.
pub const PAYLOAD_BYTES: usize = 64;
/// First bytes of a payload.
pub const MAGIC: [u8; 4] = *b"QNUL";
const VERSION: u16 = 1;
const FLAG_IDR: u8 = 1;
const FLAG_CHECKSUM: u8 = 2;

/// What the payload of the null encoder says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NullPayload {
    /// Identity of the frame.
    pub key: Key,
    /// Presentation time, ns.
    pub pts_ns: u64,
    /// Visible width, pixels.
    pub width: u32,
    /// Visible height, pixels.
    pub height: u32,
    /// Pixel format.
    pub pixel_format: PixelFormat,
    /// Whether it counts as an IDR.
    pub idr: bool,
    /// Number of the frame within this encoder.
    pub index: u64,
    /// Bytes of the frame, strides included.
    pub frame_bytes: u64,
    /// Checksum of the visible bytes, when they were read.
    pub checksum: Option<u64>,
}

impl NullPayload {
    /// Serialises it.
    pub fn to_bytes(&self) -> [u8; PAYLOAD_BYTES] {
        let mut out = [0; PAYLOAD_BYTES];
        let mut put = |at: usize, bytes: &[u8]| out[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &MAGIC);
        put(4, &VERSION.to_le_bytes());
        put(6, &self.key.sub.to_le_bytes());
        put(8, &self.key.source_id.to_le_bytes());
        put(16, &self.pts_ns.to_le_bytes());
        put(24, &self.width.to_le_bytes());
        put(28, &self.height.to_le_bytes());
        let flags = u8::from(self.idr) * FLAG_IDR + u8::from(self.checksum.is_some()) * FLAG_CHECKSUM;
        put(32, &[self.pixel_format as u8, flags]);
        put(40, &self.index.to_le_bytes());
        put(48, &self.frame_bytes.to_le_bytes());
        put(56, &self.checksum.unwrap_or(0).to_le_bytes());
        out
    }

    /// Reads it back; `None` when `bytes` is none of version 1.
    pub fn parse(bytes: &[u8]) -> Option<NullPayload> {
        let bytes: &[u8; PAYLOAD_BYTES] = bytes.try_into().ok()?;
        let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        if bytes[..4] != MAGIC || u16_at(4)? != VERSION {
            return None;
        }
        Some(NullPayload {
            key: Key { source_id: u64_at(8)?, sub: u16_at(6)? },
            pts_ns: u64_at(16)?,
            width: u32_at(24)?,
            height: u32_at(28)?,
            pixel_format: PixelFormat::from_code(bytes[32])?,
            idr: bytes[33] & FLAG_IDR != 0,
            index: u64_at(40)?,
            frame_bytes: u64_at(48)?,
            checksum: if bytes[33] & FLAG_CHECKSUM != 0 { Some(u64_at(56)?) } else { None },
        })
    }
}

/// Reads every visible byte once: each row is summed as little-endian words into four lanes, which are mixed at its
/// end. Cheap enough to measure memory rather than arithmetic; swapped rows change it.
pub fn checksum(pixels: &PixelsRead<'_>) -> u64 {
    const LANE_BYTES: usize = 8;
    const LANES: usize = 4;
    let format = pixels.format();
    let mut sum = 0u64;
    for plane in 0..format.pixel_format.planes() {
        let base = pixels.plane(plane);
        let stride = format.planes[plane].stride as usize;
        let row_bytes = format.pixel_format.row_bytes(plane, format.width) as usize;
        for y in 0..format.pixel_format.rows(plane, format.height) as usize {
            let mut lanes = [0u64; LANES];
            let whole = row_bytes / (LANE_BYTES * LANES) * (LANE_BYTES * LANES);
            for x in (0..whole).step_by(LANE_BYTES * LANES) {
                for (lane, value) in lanes.iter_mut().enumerate() {
                    // SAFETY: `PixelsRead` proved that `coded_height` rows of `stride` bytes are mapped, the
                    // visible size is at most the coded one, and `x + 32 <= row_bytes <= stride`.
                    let word = unsafe { base.add(y * stride + x + lane * LANE_BYTES).cast::<u64>().read_unaligned() };
                    *value = value.wrapping_add(word);
                }
            }
            for x in whole..row_bytes {
                // SAFETY: as above, with `x < row_bytes`.
                lanes[x % LANES] = lanes[x % LANES].wrapping_add(u64::from(unsafe { base.add(y * stride + x).read() }));
            }
            for lane in lanes {
                // An odd multiplier keeps the order of rows visible; its value has no other meaning.
                sum = sum.rotate_left(7).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(lane);
            }
        }
    }
    sum
}

/// The null encoder.
#[derive(Debug)]
pub struct NullEncoder {
    settings: EncoderSettings,
    read_pixels: bool,
    index: u64,
    since_idr: u32,
    idr_owed: bool,
}

impl NullEncoder {
    /// Opens it. `read_pixels` makes it read every visible byte.
    ///
    /// # Errors
    /// [`EncoderError::Setting`] or [`EncoderError::Format`] when a setting is out of range.
    pub fn open(settings: &EncoderSettings, read_pixels: bool) -> Result<NullEncoder, EncoderError> {
        settings.check()?;
        if settings.codec != Codec::Null {
            return Err(EncoderError::Setting {
                setting: "codec",
                given: settings.codec.name().to_owned(),
                allowed: "null for backend null".to_owned(),
            });
        }
        Ok(NullEncoder { settings: settings.clone(), read_pixels, index: 0, since_idr: 0, idr_owed: true })
    }
}

impl Encoder for NullEncoder {
    fn name(&self) -> &'static str {
        "null"
    }

    fn codec(&self) -> Codec {
        Codec::Null
    }

    fn path(&self) -> &str {
        if self.read_pixels { "read in place, nothing copied" } else { "not read" }
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            live_bitrate: true,
            idr_on_request: true,
            frame_qp: false,
            delay_frames: 0,
            pixel_formats: &PixelFormat::ALL,
            min_size: (1, 1),
            max_size: (MAX_SIDE, MAX_SIDE),
            max_macroblocks: u32::MAX,
        }
    }

    fn encode(&mut self, frame: &EncodeInput<'_>, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        let format = frame.pixels.format();
        let period_over = matches!(self.settings.gop, Gop::Frames(period) if self.since_idr >= period);
        let idr = frame.force_idr || self.idr_owed || period_over;
        let payload = NullPayload {
            key: frame.key,
            pts_ns: frame.pts_ns,
            width: format.width,
            height: format.height,
            pixel_format: format.pixel_format,
            idr,
            index: self.index,
            frame_bytes: format.frame_bytes(),
            checksum: self.read_pixels.then(|| checksum(&frame.pixels)),
        };
        self.index += 1;
        let buffer = match sink.buffer(PAYLOAD_BYTES) {
            Ok(buffer) => buffer,
            Err(error @ SinkError::TooLarge { .. }) => {
                self.idr_owed = true;
                sink.left_out(frame.key, LeftOut::TooLarge)?;
                return Err(error.into());
            }
            Err(error) => return Err(error.into()),
        };
        buffer[..PAYLOAD_BYTES].copy_from_slice(&payload.to_bytes());
        let mut parts = Parts::new();
        parts.push(PAYLOAD_BYTES as u32, PartKind::Descriptor);
        let meta = AccessUnitMeta { key: frame.key, pts_ns: frame.pts_ns, idr, config: idr, parts };
        sink.commit(PAYLOAD_BYTES, &meta)?;
        self.idr_owed = false;
        self.since_idr = if idr { 1 } else { self.since_idr.saturating_add(1) };
        Ok(())
    }

    fn set_bitrate(&mut self, kbps: u32, _max_kbps: u32) -> Result<(), EncoderError> {
        check_bitrate("bitrate_kbps", kbps)?;
        self.settings.bitrate_kbps = kbps;
        Ok(())
    }

    fn flush(&mut self, _sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm_protocol::frame::{Colour, Rational, VideoFormat};

    #[test]
    fn the_payload_round_trips_and_foreign_bytes_are_refused() {
        let payload = NullPayload {
            key: Key { source_id: 7, sub: 3 },
            pts_ns: 11,
            width: 7680,
            height: 4320,
            pixel_format: PixelFormat::P010,
            idr: true,
            index: 5,
            frame_bytes: 99,
            checksum: Some(0),
        };
        let mut bytes = payload.to_bytes();
        assert_eq!(NullPayload::parse(&bytes), Some(payload));
        assert_eq!(NullPayload::parse(&bytes[..63]), None);
        bytes[4] = 2;
        assert_eq!(NullPayload::parse(&bytes), None);
    }

    #[test]
    fn the_checksum_sees_every_visible_byte_and_no_other() {
        let fps = Rational::new(60, 1).unwrap();
        let format = VideoFormat::packed(PixelFormat::Nv12, 38, 4, fps, Colour::BT709_LIMITED).unwrap();
        let mut bytes = vec![1u8; format.frame_bytes() as usize];
        let sum = |bytes: &[u8]| checksum(&PixelsRead::from_slice(&format, bytes).unwrap());
        let before = sum(&bytes);
        for at in 0..bytes.len() {
            let visible = at % 256 < 38;
            bytes[at] ^= 0x40;
            assert_eq!(sum(&bytes) != before, visible, "byte {at}");
            bytes[at] ^= 0x40;
        }
    }
}
