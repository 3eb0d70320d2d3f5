//! RFC 7798, one RTP stream, transmission order = decoding order (sprop-max-don-diff 0, so no DONL or DOND fields):
//! single NAL unit packets, aggregation packets, fragmentation units.
//!
//! The choices are those of H.264 (see [`super::h264`]): delimiters are left out, neighbouring parameter sets and SEI
//! messages share an aggregation packet, slices never do, and the fragments of a NAL unit are equally long.

use crate::au::AuView;

use super::{PacketPlan, PayloadSize, Piece, annexb};

/// NAL unit types (ITU-T H.265 table 7-1) this payload format treats differently.
mod nal_type {
    /// The first and the last type of a picture that decoding can begin with (BLA, IDR, CRA, two reserved).
    pub const IRAP: std::ops::RangeInclusive<u8> = 16..=23;
    pub const VPS: u8 = 32;
    pub const SPS: u8 = 33;
    pub const PPS: u8 = 34;
    pub const ACCESS_UNIT_DELIMITER: u8 = 35;
    pub const PREFIX_SEI: u8 = 39;
    /// Aggregation packet: the first of the unspecified types, of which RFC 7798 uses three.
    pub const AP: u8 = 48;
    pub const FU: u8 = 49;
}

/// Bytes of a NAL unit header, and of the payload header that looks like one (RFC 7798 section 4.2).
const HEADER_BYTES: u32 = 2;
/// Payload header and FU header.
const FU_HEADER_BYTES: u32 = HEADER_BYTES + 1;
/// NALU size field of an aggregation packet.
const AP_SIZE_BYTES: u32 = 2;
/// NAL units one aggregation packet takes at the most: each needs two entries of a gather list, of which the system
/// takes 1024.
const MAX_AP_NALS: usize = 16;
const FU_START: u8 = 0x80;
const FU_END: u8 = 0x40;

/// The fields of a NAL unit header: forbidden_zero_bit, type, nuh_layer_id, nuh_temporal_id_plus1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Header {
    forbidden: bool,
    kind: u8,
    layer: u8,
    temporal: u8,
}

impl Header {
    /// The header at `offset`; `None` when the NAL unit has none, or a temporal id that does not exist.
    fn read(au: &AuView<'_>, (offset, len): (u32, u32)) -> Option<Header> {
        if len < HEADER_BYTES {
            return None;
        }
        let (first, second) = (au.byte(offset)?, au.byte(offset + 1)?);
        let header = Header {
            forbidden: first & 0x80 != 0,
            kind: first >> 1 & 0x3f,
            layer: (first & 1) << 5 | second >> 3,
            temporal: second & 7,
        };
        (header.temporal > 0).then_some(header)
    }

    fn bytes(self) -> [u8; 2] {
        [u8::from(self.forbidden) << 7 | self.kind << 1 | self.layer >> 5, self.layer << 3 | self.temporal]
    }

    /// Of several NAL units in one packet (RFC 7798 section 4.4.2): a forbidden bit shows, the lowest layer and the
    /// lowest temporal id count.
    fn with(self, other: Header) -> Header {
        Header {
            forbidden: self.forbidden | other.forbidden,
            kind: self.kind,
            layer: self.layer.min(other.layer),
            temporal: self.temporal.min(other.temporal),
        }
    }
}

/// Plans the packets of the Annex B access unit `au`. Bytes in front of the first start code are ignored.
pub fn plan(au: &AuView<'_>, size: PayloadSize, plan: &mut PacketPlan) {
    plan.clear();
    annexb::scan(au, plan);
    let mut nals = std::mem::take(&mut plan.nals);
    nals.retain(|&nal| keep(au, nal, plan));
    let mut index = 0;
    while index < nals.len() {
        let run = aggregation_run(au, &nals[index..], size);
        if run > 1 {
            push_aggregate(au, &nals[index..index + run], plan);
            index += run;
            continue;
        }
        let (offset, len) = nals[index];
        if len <= size.bytes() {
            plan.push_single(&[], offset, len);
        } else {
            push_fragments(au, (offset, len), size, plan);
        }
        index += 1;
    }
    plan.nals = nals;
}

/// Whether a NAL unit is sent; notes what it is.
fn keep(au: &AuView<'_>, nal: (u32, u32), plan: &mut PacketPlan) -> bool {
    let Some(header) = Header::read(au, nal) else {
        plan.dropped_nals += 1;
        return false;
    };
    match header.kind {
        nal_type::ACCESS_UNIT_DELIMITER => return false,
        nal_type::AP.. => {
            plan.dropped_nals += 1;
            return false;
        }
        nal_type::VPS => plan.vps = Some(nal),
        nal_type::SPS => plan.sps = Some(nal),
        nal_type::PPS => plan.pps = Some(nal),
        kind => plan.has_idr |= nal_type::IRAP.contains(&kind),
    }
    true
}

/// How many of the first `nals` go into one aggregation packet (0 or 1: none).
fn aggregation_run(au: &AuView<'_>, nals: &[(u32, u32)], size: PayloadSize) -> usize {
    let mut bytes = u64::from(HEADER_BYTES);
    let mut count = 0;
    for &nal in nals.iter().take(MAX_AP_NALS) {
        let kind = Header::read(au, nal).map_or(0, |header| header.kind);
        let parameters = matches!(kind, nal_type::VPS | nal_type::SPS | nal_type::PPS | nal_type::PREFIX_SEI);
        bytes += u64::from(AP_SIZE_BYTES) + u64::from(nal.1);
        if !parameters || bytes > u64::from(size.bytes()) {
            break;
        }
        count += 1;
    }
    count
}

fn push_aggregate(au: &AuView<'_>, nals: &[(u32, u32)], plan: &mut PacketPlan) {
    let headers = nals.iter().filter_map(|&nal| Header::read(au, nal));
    let Some(common) = headers.reduce(Header::with) else { return };
    let [first_byte, second_byte] = Header { kind: nal_type::AP, ..common }.bytes();
    let first = plan.pieces.len();
    for (index, &(offset, len)) in nals.iter().enumerate() {
        let [high, low] = (len as u16).to_be_bytes(); // the run fits a payload, hence 16 bits
        if index == 0 {
            plan.pieces.push(Piece::new(&[first_byte, second_byte, high, low], offset, len));
        } else {
            plan.pieces.push(Piece::new(&[high, low], offset, len));
        }
    }
    plan.close_packet(first);
}

fn push_fragments(au: &AuView<'_>, nal: (u32, u32), size: PayloadSize, plan: &mut PacketPlan) {
    let Some(header) = Header::read(au, nal) else { return };
    let [first_byte, second_byte] = Header { kind: nal_type::FU, ..header }.bytes();
    let fragment_bytes = size.bytes() - FU_HEADER_BYTES;
    let end = nal.0 + nal.1;
    let mut at = nal.0 + HEADER_BYTES; // the NAL header travels in payload header and FU header
    let mut flags = FU_START;
    while at < end {
        let count = fragment_bytes.min(end - at);
        if at + count == end {
            flags |= FU_END;
        }
        plan.push_single(&[first_byte, second_byte, flags | header.kind], at, count);
        at += count;
        flags = 0;
    }
}

#[cfg(test)]
#[path = "hevc/tests.rs"]
mod tests;
