//! What the words of a slot and of a format entry mean: written whole by the producer, copied out and
//! then checked by readers. Nothing here trusts a number it finds.

use crate::error::FormatError;
use crate::frame::{
    ChromaSiting, Codec, Colour, FieldOrder, HdrStatic, MAX_PLANES, PixelFormat, PlaneLayout, Range, Rational,
    VideoFormat,
};
use crate::layout::{FORMAT_WORDS, SLOT_WORDS, slot_word};
use crate::slot::{Key, reference_word};

/// Flags of a frame.
pub mod flag {
    /// Nothing is carried: a stage made nothing of this source frame. The reason is in `len`.
    pub const TOMBSTONE: u16 = 1;
    /// The access unit is an IDR (a key frame): decoding can begin here.
    pub const IDR: u16 = 2;
    /// Parameter sets precede it.
    pub const CONFIG: u16 = 4;
    /// Time or content jumped before this frame.
    pub const DISCONTINUITY: u16 = 8;
    /// The pixels lie in another ring's pool.
    pub const BY_REFERENCE: u16 = 16;
}

/// Why a stage made nothing of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum TombstoneReason {
    /// The encoder's rate control left it out.
    RateControl = 1,
    /// A rate conversion left it out.
    RateConversion = 2,
    /// The access unit did not fit its buffer.
    TooLarge = 3,
    /// The frame's description was refused.
    BadFrame = 4,
    /// The stage failed on this frame.
    StageError = 5,
}

/// Stages whose times a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(usize)]
pub enum StageTime {
    /// Kernel A published.
    CaptureDone = 0,
    /// Kernel B took the frame.
    ProcessBegin = 1,
    /// Kernel B published.
    ProcessDone = 2,
    /// Kernel C took the frame.
    EncodeBegin = 3,
    /// Kernel C published.
    EncodeDone = 4,
}

/// Times a descriptor has room for.
pub const STAGE_TIMES: usize = 8;
/// Parts of an access unit that a descriptor can list.
pub const MAX_PARTS: usize = 8;
/// Bytes of side data a video frame's descriptor carries inline.
pub const INLINE_SIDE_BYTES: usize = 64;

/// Which buffer of which pool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BufferRef {
    /// Ring that owns the pool.
    pub ring_uid: u32,
    /// Generation of the pool.
    pub generation: u32,
    /// Buffer within it.
    pub index: u16,
    /// First byte within the buffer.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

/// The input slot that an output slot depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SlotReference {
    /// Ring of the input slot.
    pub ring_uid: u16,
    /// Its index.
    pub slot: u16,
    /// Low half of its sequence number.
    pub seq_low: u32,
}

/// A part of an access unit: a NAL unit or OBU, or a run of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Part {
    /// Kind, by the codec (H.264: nal_unit_type).
    pub kind: u8,
    /// First byte within the access unit (at most 2²⁸ − 1).
    pub offset: u32,
    /// Bytes (at most 2²⁸ − 1).
    pub len: u32,
}

/// The part of a frame that every hand-off reads: one cache line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct FrameHead {
    /// Source frame and output.
    pub key: Key,
    /// See [`flag`].
    pub flags: u16,
    /// Entry of the ring's format table.
    pub format_index: u16,
    /// CLOCK_MONOTONIC at capture, nanoseconds.
    pub capture_ns: u64,
    /// Where the bytes are.
    pub buffer: BufferRef,
    /// What must not be released before this slot is free.
    pub reference: Option<SlotReference>,
}

impl FrameHead {
    /// Whether a flag is set.
    pub fn has(&self, flag: u16) -> bool {
        self.flags & flag != 0
    }

    /// What is published in place of this frame when nothing is made of it. A jump of time or content before it stays
    /// said.
    pub fn tombstone(&self, reason: TombstoneReason) -> FrameHead {
        let flags = flag::TOMBSTONE | self.flags & flag::DISCONTINUITY;
        FrameHead { flags, reference: None, buffer: BufferRef { len: reason as u32, ..self.buffer }, ..*self }
    }
}

/// The rest of a frame's description.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameDetails {
    /// Presentation time of the source, nanoseconds from its start.
    pub source_pts_ns: i64,
    /// Where the source is read on after this frame (bytes of a file, or a count).
    pub source_position: u64,
    /// What changed since the last frame: x, y, width, height; all zero: unknown, everything.
    pub damage: [u16; 4],
    /// SMPTE ST 12-1 timecode as hours, minutes, seconds, frames in BCD bytes, bit 63: present; 0: none.
    pub timecode: u64,
    /// Side data (TLV) after the payload in the same buffer: offset and bytes; 0, 0: none.
    pub side_extent: (u32, u32),
    /// CLOCK_MONOTONIC at each [`StageTime`], nanoseconds; 0: not passed.
    pub times_ns: [u64; STAGE_TIMES],
    /// Line 3: parts of an access unit, or 64 bytes of inline TLV of a video frame.
    pub tail: [u64; 8],
}

impl Default for FrameDetails {
    fn default() -> Self {
        FrameDetails {
            source_pts_ns: 0,
            source_position: 0,
            damage: [0; 4],
            timecode: 0,
            side_extent: (0, 0),
            times_ns: [0; STAGE_TIMES],
            tail: [0; 8],
        }
    }
}

impl FrameDetails {
    /// Records the time of a stage.
    pub fn stamp(&mut self, stage: StageTime, now_ns: u64) {
        self.times_ns[stage as usize] = now_ns;
    }

    /// The time of a stage; `None`: the frame did not pass it.
    pub fn time(&self, stage: StageTime) -> Option<u64> {
        Some(self.times_ns[stage as usize]).filter(|t| *t != 0)
    }

    /// Lists the parts of an access unit; more than [`MAX_PARTS`] are left to the reader to find.
    pub fn set_parts(&mut self, parts: &[Part]) {
        self.tail = [0; 8];
        if parts.len() > MAX_PARTS {
            return;
        }
        for (word, part) in self.tail.iter_mut().zip(parts) {
            *word = u64::from(part.kind) << 56
                | u64::from(part.offset & 0x0fff_ffff) << 28
                | u64::from(part.len & 0x0fff_ffff);
        }
    }

    /// The parts listed, those beyond `len` bytes left out.
    pub fn parts(&self, len: u32) -> impl Iterator<Item = Part> + '_ {
        self.tail
            .iter()
            .map(|w| Part {
                kind: (w >> 56) as u8,
                offset: (w >> 28) as u32 & 0x0fff_ffff,
                len: *w as u32 & 0x0fff_ffff,
            })
            .filter(move |p| p.len != 0 && u64::from(p.offset) + u64::from(p.len) <= u64::from(len))
    }
}

/// Side data as type, length, value: u16 type, u16 length (little endian), the bytes. Type 0 ends.
pub mod side {
    /// User data SEI payload (uuid + bytes).
    pub const SEI_USER_DATA: u16 = 1;
    /// Damage rectangles, four u16 each.
    pub const DAMAGE: u16 = 2;
    /// CEA-708 caption bytes.
    pub const CAPTIONS: u16 = 3;

    /// Appends an item to `area` behind `used` bytes; the new count of used bytes, `None` if it does not fit.
    pub fn push(area: &mut [u8], used: usize, kind: u16, value: &[u8]) -> Option<usize> {
        let len = u16::try_from(value.len()).ok()?;
        let item = area.get_mut(used..used.checked_add(4 + value.len())?)?;
        item[..2].copy_from_slice(&kind.to_le_bytes());
        item[2..4].copy_from_slice(&len.to_le_bytes());
        item[4..].copy_from_slice(value);
        Some(used + 4 + value.len())
    }

    /// The items of `area`; ends at type 0 or at the first item that does not fit.
    pub fn items(mut area: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
        std::iter::from_fn(move || {
            let (head, rest) = area.split_at_checked(4)?;
            let kind = u16::from_le_bytes([head[0], head[1]]);
            let len = usize::from(u16::from_le_bytes([head[2], head[3]]));
            if kind == 0 {
                return None;
            }
            let (value, rest) = rest.split_at_checked(len)?;
            area = rest;
            Some((kind, value))
        })
    }
}

pub(crate) fn encode_head(head: &FrameHead, words: &mut [u64; SLOT_WORDS]) {
    words[slot_word::KEY] = head.key.0;
    words[slot_word::FLAGS] =
        u64::from(head.flags) | u64::from(head.format_index) << 16 | u64::from(head.buffer.index) << 32;
    words[slot_word::CAPTURE_NS] = head.capture_ns;
    words[slot_word::POOL] = u64::from(head.buffer.ring_uid) << 32 | u64::from(head.buffer.generation);
    words[slot_word::EXTENT] = u64::from(head.buffer.offset) << 32 | u64::from(head.buffer.len);
    words[slot_word::REFERENCE] = head.reference.map_or(0, encode_reference);
}

fn encode_reference(r: SlotReference) -> u64 {
    reference_word(r.ring_uid, r.slot, r.seq_low)
}

pub(crate) fn decode_reference(word: u64) -> Option<SlotReference> {
    (word >> 48 != 0).then_some(SlotReference {
        ring_uid: (word >> 48) as u16,
        slot: (word >> 32) as u16,
        seq_low: word as u32,
    })
}

pub(crate) fn decode_head(words: &[u64; 8]) -> FrameHead {
    FrameHead {
        key: Key(words[slot_word::KEY]),
        flags: words[slot_word::FLAGS] as u16,
        format_index: (words[slot_word::FLAGS] >> 16) as u16,
        capture_ns: words[slot_word::CAPTURE_NS],
        buffer: BufferRef {
            ring_uid: (words[slot_word::POOL] >> 32) as u32,
            generation: words[slot_word::POOL] as u32,
            index: (words[slot_word::FLAGS] >> 32) as u16,
            offset: (words[slot_word::EXTENT] >> 32) as u32,
            len: words[slot_word::EXTENT] as u32,
        },
        reference: decode_reference(words[slot_word::REFERENCE]),
    }
}

pub(crate) fn encode_details(d: &FrameDetails, words: &mut [u64; SLOT_WORDS]) {
    let w = &mut words[slot_word::DETAILS..];
    w[0] = d.source_pts_ns as u64;
    w[1] = d.source_position;
    w[2] = d.damage.iter().rev().fold(0, |all, side| all << 16 | u64::from(*side));
    w[3] = d.timecode;
    w[4] = u64::from(d.side_extent.0) << 32 | u64::from(d.side_extent.1);
    w[8..16].copy_from_slice(&d.times_ns);
    w[16..24].copy_from_slice(&d.tail);
}

pub(crate) fn decode_details(w: &[u64; 24]) -> FrameDetails {
    let mut details = FrameDetails {
        source_pts_ns: w[0] as i64,
        source_position: w[1],
        damage: std::array::from_fn(|i| (w[2] >> (16 * i)) as u16),
        timecode: w[3],
        side_extent: ((w[4] >> 32) as u32, w[4] as u32),
        ..FrameDetails::default()
    };
    details.times_ns.copy_from_slice(&w[8..16]);
    details.tail.copy_from_slice(&w[16..24]);
    details
}

/// What a ring's slots contain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StreamFormat {
    /// Pixels.
    Video(VideoFormat),
    /// Access units of a codec, made from such pixels (strides and planes are those of its input).
    Coded(Codec, VideoFormat),
    /// Audio samples.
    Audio {
        /// Samples per second.
        sample_rate: u32,
        /// Channels.
        channels: u16,
    },
    /// Bytes that the pipeline passes on unseen.
    Data,
}

impl StreamFormat {
    /// The video geometry, of pixels and of access units.
    pub fn video(&self) -> Option<&VideoFormat> {
        match self {
            StreamFormat::Video(v) | StreamFormat::Coded(_, v) => Some(v),
            _ => None,
        }
    }
}

/// First word of a format entry that is in use; the low half counts rewrites.
const FORMAT_USED: u64 = 1 << 63;

pub(crate) fn encode_format(format: &StreamFormat, serial: u32) -> [u64; FORMAT_WORDS] {
    let mut w = [0u64; FORMAT_WORDS];
    let (kind, detail) = match format {
        StreamFormat::Video(_) => (1u64, 0u64),
        StreamFormat::Coded(codec, _) => (2, *codec as u64),
        StreamFormat::Audio { sample_rate, channels } => (3, u64::from(*sample_rate) | u64::from(*channels) << 32),
        StreamFormat::Data => (4, 0),
    };
    w[0] = FORMAT_USED | u64::from(serial);
    w[1] = kind;
    w[2] = detail;
    let Some(v) = format.video() else { return w };
    w[3] = v.pixel_format as u64;
    w[4] = u64::from(v.width) << 32 | u64::from(v.height);
    w[5] = u64::from(v.coded_width) << 32 | u64::from(v.coded_height);
    w[6] = u64::from(v.fps.num) << 32 | u64::from(v.fps.den);
    let c = v.colour;
    w[7] = u64::from(c.matrix)
        | u64::from(c.primaries) << 8
        | u64::from(c.transfer) << 16
        | (c.range as u64) << 24
        | (c.siting as u64) << 32
        | (v.field_order as u64) << 40
        | u64::from(v.hdr.is_some()) << 48;
    for (word, plane) in w[8..8 + MAX_PLANES].iter_mut().zip(&v.planes) {
        *word = u64::from(plane.offset) << 32 | u64::from(plane.stride);
    }
    if let Some(h) = v.hdr {
        let p = h.primaries_xy;
        w[12] = pack16([p[0][0], p[0][1], p[1][0], p[1][1]]);
        w[13] = pack16([p[2][0], p[2][1], h.white_xy[0], h.white_xy[1]]);
        w[14] = u64::from(h.max_luminance) << 32 | u64::from(h.min_luminance);
        w[15] = u64::from(h.max_content_light) << 16 | u64::from(h.max_frame_average_light);
    }
    w
}

fn pack16(v: [u16; 4]) -> u64 {
    v.iter().rev().fold(0, |all, x| all << 16 | u64::from(*x))
}

fn unpack16(w: u64) -> [u16; 4] {
    std::array::from_fn(|i| (w >> (16 * i)) as u16)
}

pub(crate) fn format_is_used(first: u64) -> bool {
    first & FORMAT_USED != 0
}

/// Reads a format entry that somebody else wrote.
pub(crate) fn decode_format(w: &[u64; FORMAT_WORDS]) -> Result<StreamFormat, FormatError> {
    let unknown = |what, code| FormatError::UnknownCode { what, code };
    if !format_is_used(w[0]) {
        return Err(unknown("A format entry", w[0]));
    }
    match w[1] {
        3 => return Ok(StreamFormat::Audio { sample_rate: w[2] as u32, channels: (w[2] >> 32) as u16 }),
        4 => return Ok(StreamFormat::Data),
        1 | 2 => {}
        code => return Err(unknown("The kind of a format", code)),
    }
    let mut planes = [PlaneLayout::default(); MAX_PLANES];
    for (plane, word) in planes.iter_mut().zip(&w[8..]) {
        *plane = PlaneLayout { offset: (word >> 32) as u32, stride: *word as u32 };
    }
    let c = w[7];
    let hdr = (c >> 48 & 1 == 1).then(|| {
        let (a, b) = (unpack16(w[12]), unpack16(w[13]));
        HdrStatic {
            primaries_xy: [[a[0], a[1]], [a[2], a[3]], [b[0], b[1]]],
            white_xy: [b[2], b[3]],
            max_luminance: (w[14] >> 32) as u32,
            min_luminance: w[14] as u32,
            max_content_light: (w[15] >> 16) as u16,
            max_frame_average_light: w[15] as u16,
        }
    });
    let video = VideoFormat {
        pixel_format: PixelFormat::from_code(w[3] as u8).ok_or_else(|| unknown("A pixel format", w[3]))?,
        width: (w[4] >> 32) as u32,
        height: w[4] as u32,
        coded_width: (w[5] >> 32) as u32,
        coded_height: w[5] as u32,
        planes,
        fps: Rational::new((w[6] >> 32) as u32, w[6] as u32).ok_or_else(|| unknown("A frame rate", w[6]))?,
        colour: Colour {
            matrix: c as u8,
            primaries: (c >> 8) as u8,
            transfer: (c >> 16) as u8,
            range: if c >> 24 & 0xff == 0 { Range::Limited } else { Range::Full },
            siting: match c >> 32 & 0xff {
                0 => ChromaSiting::Left,
                1 => ChromaSiting::Center,
                2 => ChromaSiting::TopLeft,
                code => return Err(unknown("A chroma siting", code)),
            },
        },
        field_order: match c >> 40 & 0xff {
            0 => FieldOrder::Progressive,
            1 => FieldOrder::TopFirst,
            2 => FieldOrder::BottomFirst,
            code => return Err(unknown("A field order", code)),
        },
        hdr,
    };
    Ok(if w[1] == 1 {
        StreamFormat::Video(video)
    } else {
        let codec = Codec::from_code(w[2] as u8).ok_or_else(|| unknown("A codec", w[2]))?;
        StreamFormat::Coded(codec, video)
    })
}

#[cfg(test)]
mod tests;
