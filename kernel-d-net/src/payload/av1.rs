//! "RTP Payload Format For AV1", version 1.0 (AOMedia), for temporal units in the low-overhead bitstream format
//! (AV1 specification section 5.2).
//!
//! - Temporal delimiters are left out, as the format asks for, and so are tile lists, which it does not carry.
//! - OBUs travel without their size field: the header byte in front of the piece is ours, with `obu_has_size_field`
//!   cleared, and the bytes behind it are the temporal unit's.
//! - Every packet but the last of a frame is full, whatever the OBUs: a decoder needs all tile groups of a frame, so the
//!   loss of a packet costs the frame in any case, and one segmented send takes a run of equal packets.
//! - A packet has at most three OBU elements and says how many, so that the last one needs no length.

use crate::au::AuView;

use super::{PacketPlan, PayloadSize, Piece};

/// OBU types (AV1 specification section 6.2.2) this payload format treats differently.
mod obu_type {
    pub const SEQUENCE_HEADER: u8 = 1;
    pub const TEMPORAL_DELIMITER: u8 = 2;
    pub const FRAME_HEADER: u8 = 3;
    pub const FRAME: u8 = 6;
    pub const TILE_LIST: u8 = 8;
}

/// Fields of an OBU header (AV1 specification section 5.3.2).
mod header_bit {
    pub const FORBIDDEN: u8 = 0x80;
    pub const EXTENSION: u8 = 0x04;
    pub const HAS_SIZE: u8 = 0x02;
}

/// Fields of the aggregation header (payload format section 4.4).
mod aggregation_bit {
    /// The first element goes on with an OBU of the packet before.
    pub const Z: u8 = 0x80;
    /// The last element goes on in the next packet.
    pub const Y: u8 = 0x40;
    /// Where the number of elements stands.
    pub const W_SHIFT: u32 = 4;
    /// The first packet of a coded video sequence.
    pub const N: u8 = 0x08;
}

/// Elements of a packet at the most: what two bits say.
const MAX_ELEMENTS: usize = 3;
/// An OBU is not begun in a packet that has less room than this left for it, bytes, unless the whole OBU fits: a few
/// bytes saved are not worth an element of their own. Above 2, so that header and extension always stay together.
const LEAST_FRAGMENT_BYTES: u32 = 16;
/// Longest leb128 number (AV1 specification section 4.10.5).
const MAX_LEB128_BYTES: u32 = 8;

/// An OBU to send: its header as sent, and where its payload lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Obu {
    /// Header byte with the size flag cleared, then the extension byte.
    header: [u8; 2],
    header_len: u8,
    /// First byte of the payload in the temporal unit.
    offset: u32,
    /// Bytes of the payload.
    len: u32,
}

impl Obu {
    fn kind(&self) -> u8 {
        self.header[0] >> 3 & 0xf
    }

    /// Temporal and spatial id, when there is an extension.
    fn layer(&self) -> Option<u8> {
        (self.header_len == 2).then_some(self.header[1])
    }

    fn header(&self) -> &[u8] {
        &self.header[..usize::from(self.header_len)]
    }

    /// Bytes as sent.
    fn bytes(&self) -> u32 {
        u32::from(self.header_len) + self.len
    }
}

/// Plans the packets of the temporal unit `au`. Behind an OBU that is broken nothing can be found any more.
pub fn plan(au: &AuView<'_>, size: PayloadSize, plan: &mut PacketPlan) {
    plan.clear();
    let mut crc = crc32fast::Hasher::new();
    au.for_each_chunk(|_, bytes| crc.update(bytes));
    plan.crc = crc.finalize();
    let mut obus = std::mem::take(&mut plan.obus);
    scan(au, &mut obus, plan);
    push_packets(&obus, size, plan);
    plan.obus = obus;
}

/// Finds the OBUs to send and notes what they are.
fn scan(au: &AuView<'_>, obus: &mut Vec<Obu>, plan: &mut PacketPlan) {
    let mut at = 0;
    let mut frame_seen = false;
    let mut reduced_header = false;
    while at < au.len() {
        let Some(obu) = read_obu(au, at) else {
            plan.dropped_nals += 1;
            break;
        };
        at = obu.offset + obu.len;
        match obu.kind() {
            obu_type::TEMPORAL_DELIMITER | obu_type::TILE_LIST => continue,
            obu_type::SEQUENCE_HEADER => {
                plan.sequence_header = Some((obu.offset, obu.len));
                reduced_header = au.byte(obu.offset).is_some_and(is_reduced_still_picture);
            }
            obu_type::FRAME | obu_type::FRAME_HEADER if !frame_seen => {
                frame_seen = true;
                let first = au.byte(obu.offset).filter(|_| obu.len > 0);
                plan.has_idr = reduced_header || first.is_some_and(is_key_frame);
            }
            _ => {}
        }
        obus.push(obu);
    }
}

/// reduced_still_picture_header: behind seq_profile (3 bits) and still_picture (AV1 specification section 5.5.1).
/// Frame headers then begin otherwise, and every frame is a key frame.
fn is_reduced_still_picture(sequence_header: u8) -> bool {
    sequence_header & 0x08 != 0
}

/// show_existing_frame = 0 and frame_type = KEY_FRAME (0) (AV1 specification section 5.9.2).
fn is_key_frame(frame_header: u8) -> bool {
    frame_header & 0xe0 == 0
}

/// The OBU at `at`. `None`: it is broken, or reaches behind the end.
fn read_obu(au: &AuView<'_>, at: u32) -> Option<Obu> {
    let first = au.byte(at)?;
    if first & header_bit::FORBIDDEN != 0 {
        return None;
    }
    let mut offset = at + 1;
    let mut header = [first & !header_bit::HAS_SIZE, 0];
    let mut header_len = 1;
    if first & header_bit::EXTENSION != 0 {
        header[1] = au.byte(offset)?;
        header_len = 2;
        offset += 1;
    }
    let len = if first & header_bit::HAS_SIZE != 0 {
        let (size, bytes) = read_leb128(au, offset)?;
        offset += bytes;
        size
    } else {
        au.len() - offset // without a size it is the last one
    };
    let inside = offset.checked_add(len).is_some_and(|end| end <= au.len());
    inside.then_some(Obu { header, header_len, offset, len })
}

/// Value and bytes of the leb128 number at `at`.
fn read_leb128(au: &AuView<'_>, at: u32) -> Option<(u32, u32)> {
    let mut value = 0u64;
    for index in 0..MAX_LEB128_BYTES {
        let byte = au.byte(at.checked_add(index)?)?;
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((u32::try_from(value).ok()?, index + 1));
        }
    }
    None
}

fn leb128_bytes(value: u32) -> u32 {
    (32 - value.leading_zeros()).div_ceil(7).max(1)
}

/// A part of an OBU in a packet.
#[derive(Debug, Clone, Copy)]
struct Element {
    obu: Obu,
    /// First byte of the OBU as sent.
    from: u32,
    /// Bytes.
    len: u32,
}

fn push_packets(obus: &[Obu], size: PayloadSize, plan: &mut PacketPlan) {
    // Where the next packet begins: OBU, and byte in it.
    let (mut index, mut from) = (0, 0);
    // A new coded video sequence: a key frame that comes with its sequence header.
    let mut first = plan.has_idr && plan.sequence_header.is_some();
    while index < obus.len() {
        let mut header = if from > 0 { aggregation_bit::Z } else { 0 };
        if std::mem::take(&mut first) {
            header |= aggregation_bit::N;
        }
        let mut elements: [Option<Element>; MAX_ELEMENTS] = [None; MAX_ELEMENTS];
        let mut count = 0;
        let mut room = size.bytes() - 1;
        while count < MAX_ELEMENTS && index < obus.len() {
            let obu = obus[index];
            let left = obu.bytes() - from;
            if let Some(Some(last)) = count.checked_sub(1).map(|last| elements[last]) {
                // The one before is no longer the last, and needs its length.
                let after_length = room.saturating_sub(leb128_bytes(last.len));
                if after_length < left.min(LEAST_FRAGMENT_BYTES) || !may_follow(&elements[..count], &obu) {
                    break;
                }
                room = after_length;
            }
            let len = left.min(room);
            elements[count] = Some(Element { obu, from, len });
            count += 1;
            room -= len;
            if len < left {
                header |= aggregation_bit::Y;
                from += len;
                break;
            }
            (index, from) = (index + 1, 0);
        }
        header |= (count as u8) << aggregation_bit::W_SHIFT;
        push_packet(header, elements.iter().flatten(), count, plan);
    }
}

/// Whether `obu` may lie in one packet with the elements before it: of the same layer (payload format section 5), of
/// the same frame, and a sequence header only in front.
fn may_follow(before: &[Option<Element>], obu: &Obu) -> bool {
    let begins_frame = |obu: &Obu| matches!(obu.kind(), obu_type::FRAME | obu_type::FRAME_HEADER);
    obu.kind() != obu_type::SEQUENCE_HEADER
        && before.iter().flatten().all(|element| {
            let layers = element.obu.layer().zip(obu.layer());
            layers.is_none_or(|(a, b)| a == b) && !(begins_frame(&element.obu) && begins_frame(obu))
        })
}

fn push_packet<'e>(header: u8, elements: impl Iterator<Item = &'e Element>, count: usize, plan: &mut PacketPlan) {
    let first = plan.pieces.len();
    for (number, element) in elements.enumerate() {
        let mut prefix = Prefix::default();
        if number == 0 {
            prefix.push(header);
        }
        if number + 1 < count {
            prefix.push_leb128(element.len);
        }
        let header_len = u32::from(element.obu.header_len);
        // A fragment never ends within the header (LEAST_FRAGMENT_BYTES), so that it has all of it or nothing.
        let (offset, len) = if element.from == 0 {
            element.obu.header().iter().for_each(|byte| prefix.push(*byte));
            (element.obu.offset, element.len - header_len)
        } else {
            (element.obu.offset + element.from - header_len, element.len)
        };
        plan.pieces.push(Piece::new(prefix.bytes(), offset, len));
    }
    plan.close_packet(first);
}

/// A prefix in the making. Aggregation header, length and OBU header: see [`super::MAX_PREFIX_BYTES`].
#[derive(Default)]
struct Prefix {
    bytes: [u8; super::MAX_PREFIX_BYTES],
    len: usize,
}

impl Prefix {
    fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn push_leb128(&mut self, mut value: u32) {
        while value > 0x7f {
            self.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.push(value as u8);
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
#[path = "av1/tests.rs"]
mod tests;
