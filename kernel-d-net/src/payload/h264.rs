//! RFC 6184, packetization-mode 1 (non-interleaved): single NAL unit packets, STAP-A, FU-A.
//!
//! - Access unit delimiters are left out: the marker bit and the timestamp already delimit access units, and many
//!   senders and receivers do without them.
//! - Neighbouring parameter sets and SEI messages share a STAP-A; slices never do, so that the loss of a packet costs
//!   one slice and the slice packets stay equally long.
//! - The fragments of a NAL unit are all of the full payload size but the last: one segmented send takes a run of them.

use crate::au::AuView;

use super::{PacketPlan, PayloadSize, Piece, annexb};

/// NAL unit types (ITU-T H.264 table 7-1) this payload format treats differently.
mod nal_type {
    pub const IDR_SLICE: u8 = 5;
    pub const SEI: u8 = 6;
    pub const SPS: u8 = 7;
    pub const PPS: u8 = 8;
    pub const ACCESS_UNIT_DELIMITER: u8 = 9;
    pub const SPS_EXTENSION: u8 = 13;
    pub const SUBSET_SPS: u8 = 15;
    /// The first type RFC 6184 uses for itself.
    pub const STAP_A: u8 = 24;
    pub const FU_A: u8 = 28;
}

const TYPE_MASK: u8 = 0x1f;
const NRI_MASK: u8 = 0x60;
const FORBIDDEN_BIT: u8 = 0x80;
const FU_START: u8 = 0x80;
const FU_END: u8 = 0x40;
/// FU indicator and FU header.
const FU_HEADER_BYTES: u32 = 2;
/// STAP-A NAL header.
const STAP_HEADER_BYTES: u32 = 1;
/// NAL units one STAP-A takes at the most: each needs two entries of a gather list, of which the system takes 1024.
const MAX_STAP_NALS: usize = 16;
/// NALU size field of a STAP-A.
const STAP_SIZE_BYTES: u32 = 2;

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
            push_stap(au, &nals[index..index + run], plan);
            index += run;
            continue;
        }
        let (offset, len) = nals[index];
        if len <= size.bytes() {
            plan.push_single(&[], offset, len);
        } else {
            push_fragments(au, offset, len, size, plan);
        }
        index += 1;
    }
    plan.nals = nals;
}

/// Whether a NAL unit is sent; notes what it is.
fn keep(au: &AuView<'_>, nal: (u32, u32), plan: &mut PacketPlan) -> bool {
    match au.byte(nal.0).unwrap_or(0) & TYPE_MASK {
        nal_type::ACCESS_UNIT_DELIMITER => false,
        0 | nal_type::STAP_A.. => {
            plan.dropped_nals += 1;
            false
        }
        nal_type::IDR_SLICE => {
            plan.has_idr = true;
            true
        }
        nal_type::SPS => {
            plan.sps = Some(nal);
            true
        }
        nal_type::PPS => {
            plan.pps = Some(nal);
            true
        }
        _ => true,
    }
}

/// How many of the first `nals` go into one STAP-A (0 or 1: none).
fn aggregation_run(au: &AuView<'_>, nals: &[(u32, u32)], size: PayloadSize) -> usize {
    let mut bytes = u64::from(STAP_HEADER_BYTES);
    let mut count = 0;
    for &(offset, len) in nals.iter().take(MAX_STAP_NALS) {
        let kind = au.byte(offset).unwrap_or(0) & TYPE_MASK;
        let parameters = matches!(
            kind,
            nal_type::SEI | nal_type::SPS | nal_type::PPS | nal_type::SPS_EXTENSION | nal_type::SUBSET_SPS
        );
        bytes += u64::from(STAP_SIZE_BYTES) + u64::from(len);
        if !parameters || bytes > u64::from(size.bytes()) {
            break;
        }
        count += 1;
    }
    count
}

fn push_stap(au: &AuView<'_>, nals: &[(u32, u32)], plan: &mut PacketPlan) {
    let header = nals.iter().fold(nal_type::STAP_A, |header, &(offset, _)| {
        let nal = au.byte(offset).unwrap_or(0);
        let nri = (header & NRI_MASK).max(nal & NRI_MASK);
        ((header | nal) & FORBIDDEN_BIT) | nri | nal_type::STAP_A
    });
    let first = plan.pieces.len();
    for (index, &(offset, len)) in nals.iter().enumerate() {
        let [high, low] = (len as u16).to_be_bytes(); // the run fits a payload, hence 16 bits
        if index == 0 {
            plan.pieces.push(Piece::new(&[header, high, low], offset, len));
        } else {
            plan.pieces.push(Piece::new(&[high, low], offset, len));
        }
    }
    plan.close_packet(first);
}

fn push_fragments(au: &AuView<'_>, offset: u32, len: u32, size: PayloadSize, plan: &mut PacketPlan) {
    let header = au.byte(offset).unwrap_or(0);
    let indicator = (header & !TYPE_MASK) | nal_type::FU_A;
    let kind = header & TYPE_MASK;
    let fragment_bytes = size.bytes() - FU_HEADER_BYTES;
    let end = offset + len;
    let mut at = offset + 1; // the NAL header travels in the FU header
    let mut flags = FU_START;
    while at < end {
        let count = fragment_bytes.min(end - at);
        if at + count == end {
            flags |= FU_END;
        }
        plan.push_single(&[indicator, flags | kind], at, count);
        at += count;
        flags = 0;
    }
}

#[cfg(test)]
#[path = "h264/tests.rs"]
mod tests;
