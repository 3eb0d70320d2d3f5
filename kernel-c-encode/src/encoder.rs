//! The trait of encoders, and what goes in and out of one.
//!
//! Pixels come as raw plane pointers of a buffer another process may hold too; an access unit goes out by being
//! written once, from the library's own bitstream buffer into the buffer the ring lent ([`AuSink::buffer`]), with the
//! delimiter and parameter sets placed in the same pass.

use crate::error::{EncoderError, SinkError};
use crate::settings::EncoderSettings;
use shm_protocol::frame::{Codec, PixelFormat};
use shm_protocol::pixels::PixelsRead;
use std::os::fd::BorrowedFd;
use std::time::Duration;

/// Parts an access unit is described by at the most: what the descriptor of a ring slot has room for.
pub const MAX_PARTS: usize = 8;

/// Identity of an output: the frame it was made of and its number among the outputs of that frame.
/// Keys rise strictly within a stream, also across restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Key {
    /// Id of the source frame.
    pub source_id: u64,
    /// Number among the outputs of that frame.
    pub sub: u16,
}

/// The memory that a frame lies in, for backends that pass it to a device by its descriptor.
#[derive(Debug, Clone, Copy)]
pub struct FrameMemory<'a> {
    /// A DMA-BUF that is the frame's buffer, or the sealed memory that holds its whole pool.
    pub fd: BorrowedFd<'a>,
    /// Whether `fd` is a DMA-BUF. Drivers refuse other memory.
    pub dma_buf: bool,
    /// First byte of the frame's buffer within `fd`; the planes' offsets count from there.
    pub offset: u64,
    /// Bytes of `fd`.
    pub size_bytes: u64,
    /// Which buffer this is: equal identities are the same memory for as long as the encoder lives, so that an import
    /// may be kept.
    pub identity: BufferIdentity,
}

/// Which buffer of which pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BufferIdentity {
    /// Ring that owns the pool.
    pub ring_uid: u32,
    /// Generation of the pool.
    pub generation: u32,
    /// Index of the buffer.
    pub index: u16,
}

/// One frame to encode.
#[derive(Debug, Clone, Copy)]
pub struct EncodeInput<'a> {
    /// The pixels; must stay mapped until [`Encoder::encode`] returns (zero-delay backends) or the key came out.
    pub pixels: PixelsRead<'a>,
    /// The memory of those pixels, where it has a descriptor.
    pub memory: Option<FrameMemory<'a>>,
    /// Identity; above that of the frame before.
    pub key: Key,
    /// Presentation time, ns.
    pub pts_ns: u64,
    /// Makes this very frame an IDR.
    pub force_idr: bool,
    /// Quantisation parameter of this very frame, for backends with [`Capabilities::frame_qp`] that hold no bitrate
    /// themselves; `None`: as they were opened.
    pub qp: Option<u8>,
    /// IDR pictures the stream had before this frame, for backends that set `idr_pic_id` frame by frame. Backends
    /// whose library counts by itself take [`crate::settings::EncoderSettings::idr_count`] once.
    pub idr_count: u32,
}

/// What a part of an access unit is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(u8)]
pub enum PartKind {
    /// The access unit delimiter.
    #[default]
    Delimiter = 1,
    /// All parameter sets.
    ParameterSets = 2,
    /// Supplemental enhancement information.
    Sei = 3,
    /// One slice; the last part of an access unit with more parts than [`MAX_PARTS`] holds all remaining slices.
    Slice = 4,
    /// The payload of the null encoder.
    Descriptor = 5,
}

/// A run of bytes of an access unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Part {
    /// First byte, from the start of the access unit; at a start code for Annex B.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
    /// What they are.
    pub kind: PartKind,
}

/// The parts of an access unit in order, without gaps: part n + 1 begins where part n ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Parts {
    parts: [Part; MAX_PARTS],
    count: u8,
}

impl Parts {
    /// No parts.
    pub const fn new() -> Parts {
        Parts { parts: [Part { offset: 0, len: 0, kind: PartKind::Delimiter }; MAX_PARTS], count: 0 }
    }

    /// Adds `len` bytes behind the last part. Parameter sets join parameter sets before them; when all parts are in
    /// use the last one grows.
    pub fn push(&mut self, len: u32, kind: PartKind) {
        let count = usize::from(self.count);
        if let Some(last) = self.parts[..count].last_mut()
            && (count == MAX_PARTS || (kind == PartKind::ParameterSets && last.kind == kind))
        {
            last.len += len;
            return;
        }
        self.parts[count] = Part { offset: self.total_bytes(), len, kind };
        self.count += 1;
    }

    /// The parts.
    pub fn as_slice(&self) -> &[Part] {
        &self.parts[..usize::from(self.count)]
    }

    /// Bytes of all parts together.
    pub fn total_bytes(&self) -> u32 {
        self.as_slice().last().map_or(0, |last| last.offset + last.len)
    }
}

/// What an access unit is, apart from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AccessUnitMeta {
    /// The frame it was made of.
    pub key: Key,
    /// Presentation time of that frame, ns.
    pub pts_ns: u64,
    /// Decoding can begin here.
    pub idr: bool,
    /// It carries its parameter sets.
    pub config: bool,
    /// Where its parts lie.
    pub parts: Parts,
}

/// Why a frame has no access unit. Becomes the reason of a tombstone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LeftOut {
    /// The encoder skipped the frame to hold its bitrate.
    RateControl,
    /// The access unit did not fit a buffer of the ring; the next one is an IDR.
    TooLarge,
}

/// Where access units go: the output ring, or a test.
///
/// Per frame either [`AuSink::buffer`] and then [`AuSink::commit`], or [`AuSink::left_out`].
pub trait AuSink {
    /// A buffer of at least `len` bytes for the next access unit; its old contents mean nothing. A buffer that is
    /// not committed goes back unpublished at the next call.
    ///
    /// # Errors
    /// [`SinkError::TooLarge`] when no buffer is that large; [`SinkError::Refused`] when the ring is gone.
    fn buffer(&mut self, len: usize) -> Result<&mut [u8], SinkError>;

    /// Publishes the first `len` bytes of the buffer.
    ///
    /// # Errors
    /// [`SinkError::Refused`] when the ring is gone or the key is not above the last one.
    fn commit(&mut self, len: usize, meta: &AccessUnitMeta) -> Result<(), SinkError>;

    /// Publishes that the frame `key` has no access unit.
    ///
    /// # Errors
    /// [`SinkError::Refused`] as for [`AuSink::commit`].
    fn left_out(&mut self, key: Key, reason: LeftOut) -> Result<(), SinkError>;
}

/// What a backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Capabilities {
    /// [`Encoder::set_bitrate`] acts without an IDR or a restart.
    pub live_bitrate: bool,
    /// [`EncodeInput::force_idr`] acts on the very frame.
    pub idr_on_request: bool,
    /// [`EncodeInput::qp`] acts on the very frame.
    pub frame_qp: bool,
    /// Frames that go in before the first access unit comes out; 0 means that every call brings its own.
    pub delay_frames: u32,
    /// Pixel formats it takes.
    pub pixel_formats: &'static [PixelFormat],
    /// Smallest width and height, pixels.
    pub min_size: (u32, u32),
    /// Largest width and height, pixels.
    pub max_size: (u32, u32),
    /// Largest `width × height` in whole macroblocks of 16 × 16; `u32::MAX` when there is no such limit.
    pub max_macroblocks: u32,
}

/// Turns frames into access units.
///
/// Promises, held by the conformance suite: access units come out in key order, one per frame or a tombstone; the
/// first is an IDR with its parameter sets; every H.264 access unit begins with a delimiter and every IDR carries
/// its parameter sets behind it; there are no B frames; colour is signalled as carried; in the steady state a call
/// allocates nothing of its own.
pub trait Encoder: Send {
    /// The name used in the configuration.
    fn name(&self) -> &'static str;

    /// Codec of the access units.
    fn codec(&self) -> Codec;

    /// How pixels reach the encoder, for people: shown in the status.
    fn path(&self) -> &str;

    /// What it can do.
    fn capabilities(&self) -> Capabilities;

    /// Encodes one frame; access units come out through `sink` in key order.
    ///
    /// # Errors
    /// [`EncoderError::FormatChanged`] for frames of another format; [`EncoderError::Library`] when the library
    /// fails; [`EncoderError::Sink`] when an access unit could not be handed on (after one that was too large the
    /// frame was reported left out and the next one becomes an IDR). After any error but [`SinkError::TooLarge`] this
    /// frame is not inside and its pixels are looked at no more; those before it are as they were.
    fn encode(&mut self, frame: &EncodeInput<'_>, sink: &mut dyn AuSink) -> Result<(), EncoderError>;

    /// Changes the target bitrate from the next frame on, kb/s. `max_kbps` is the ceiling for backends that model a
    /// receive buffer; 0 leaves it.
    ///
    /// # Errors
    /// [`EncoderError::Setting`] when it is 0 or above what the level of the stream carries.
    fn set_bitrate(&mut self, kbps: u32, max_kbps: u32) -> Result<(), EncoderError>;

    /// Goes on with frames as `wanted` says, which are of another size, in the same instance of its library. Called
    /// while no frame is inside; the next access unit is an IDR with parameter sets of the new size.
    ///
    /// `false`: another encoder has to be opened, and this one is of no more use.
    fn change_size(&mut self, _wanted: &EncoderSettings) -> bool {
        false
    }

    /// Brings out what is ready, waiting up to `patience` for the oldest frame inside. Called while no new frame
    /// comes. Nothing for zero-delay backends.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    fn collect(&mut self, _sink: &mut dyn AuSink, _patience: Duration) -> Result<(), EncoderError> {
        Ok(())
    }

    /// Brings a device to work again that hangs, makes nonsense, or was lost: frames inside are encoded anew, and the
    /// first of what follows is an IDR. `false`: there is no device, and nothing was done.
    ///
    /// # Errors
    /// [`EncoderError::DeviceLost`] when it cannot be done; it may be asked for again.
    fn emergency_reset(&mut self) -> Result<bool, EncoderError> {
        Ok(false)
    }

    /// Pixel bytes that our own code copied for a device or a library since the encoder was opened.
    fn copied_bytes(&self) -> u64 {
        0
    }

    /// Brings out every frame still inside. Nothing for zero-delay backends.
    ///
    /// # Errors
    /// As [`Encoder::encode`].
    fn flush(&mut self, sink: &mut dyn AuSink) -> Result<(), EncoderError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_follow_each_other_and_the_last_one_takes_the_rest() {
        let mut parts = Parts::new();
        parts.push(6, PartKind::Delimiter);
        parts.push(20, PartKind::ParameterSets);
        parts.push(8, PartKind::ParameterSets);
        for _ in 0..9 {
            parts.push(100, PartKind::Slice);
        }
        let seen = parts.as_slice();
        assert_eq!(seen.len(), MAX_PARTS);
        assert_eq!(seen[1], Part { offset: 6, len: 28, kind: PartKind::ParameterSets });
        assert_eq!(seen[7], Part { offset: 34 + 500, len: 400, kind: PartKind::Slice });
        assert_eq!(parts.total_bytes(), 934);
        assert!(seen.windows(2).all(|pair| pair[0].offset + pair[0].len == pair[1].offset));
    }
}
