//! Gives an IDR picture another `idr_pic_id` (ITU-T H.264 7.3.3, 7.4.3) than the one it was coded with.
//!
//! The number lies in front of every slice header as a code of one bit or more. Whatever follows moves by the
//! difference: all bits where symbols have variable lengths, the rest of the header alone where they are coded
//! arithmetically, because that data begins on a byte behind alignment bits (7.3.4). Nothing else changes.

use super::annexb::unescape;
use super::bits::BitReader;
use super::h264::{nal_type, type_of};
use super::h264_sps::Sps;

/// Bytes of a slice header at the most: some twenty codes of at most 32 bits each.
const HEADER_BYTES: usize = 96;

/// Reads which entropy coding a PPS asks for (7.3.2.2): `Some(true)` for CABAC.
pub fn pps_is_cabac(nal: &[u8]) -> Option<bool> {
    let mut r = BitReader::new(nal.get(1..)?);
    r.ue()?; // pic_parameter_set_id
    r.ue()?; // seq_parameter_set_id
    r.flag()
}

/// Bits appended to bytes.
struct Appender<'a> {
    bytes: &'a mut Vec<u8>,
    /// Bits used of the last byte; 0: all of them.
    used: usize,
}

impl Appender<'_> {
    /// Appends the top `count` (1 to 8) bits of `byte`; the others must be 0.
    fn push(&mut self, byte: u8, count: usize) {
        match self.bytes.last_mut() {
            Some(last) if self.used > 0 => {
                *last |= byte >> self.used;
                if self.used + count > 8 {
                    self.bytes.push(byte << (8 - self.used));
                }
            }
            _ => self.bytes.push(byte),
        }
        self.used = (self.used + count) % 8;
    }

    /// Appends the bits `from..to` of `source`.
    fn copy(&mut self, source: &[u8], mut from: usize, to: usize) {
        while from < to {
            let count = (to - from).min(8);
            let next = source.get(from / 8 + 1).copied().unwrap_or(0);
            let window = u16::from_be_bytes([source[from / 8], next]) << (from % 8);
            let mask = 0xff00u16 >> count;
            self.push((window >> 8) as u8 & mask as u8, count);
            from += count;
        }
    }

    fn align_with_ones(&mut self) {
        while self.used > 0 {
            self.push(0x80, 1);
        }
    }
}

/// Appends `nal`, an IDR slice (header byte first, no start code) of a stream with `sps`, to `out` with `id` (0 or 1)
/// as its `idr_pic_id`. `scratch` keeps its capacity between calls. `None` when it is no such slice, has anything in
/// its header that an encoder of I slices without picture order counts below the frame does not write, or is cut
/// short; then `out` is as it was.
pub fn with_idr_pic_id(
    nal: &[u8],
    (sps, cabac): (&Sps, bool),
    id: u8,
    scratch: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> Option<()> {
    let header = *nal.first()?;
    if type_of(header) != nal_type::IDR_SLICE || !sps.frame_mbs_only || id > 1 {
        return None;
    }
    scratch.clear();
    scratch.resize(nal.len(), 0);
    let (rbsp, made) = (scratch.as_mut_slice(), out);
    let len = unescape(&nal[1..], rbsp);
    let rbsp = &rbsp[..len];
    let mut r = BitReader::new(&rbsp[..len.min(HEADER_BYTES)]);
    r.ue()?; // first_mb_in_slice
    if r.ue()? % 5 != 2 {
        return None;
    }
    r.ue()?; // pic_parameter_set_id
    r.bits(sps.log2_max_frame_num)?;
    let before = r.position();
    r.ue()?; // idr_pic_id
    let behind = r.position();
    if sps.poc_type == 0 {
        r.bits(sps.log2_max_poc_lsb)?;
    }
    r.bits(2)?; // dec_ref_pic_marking of an IDR
    r.se()?; // slice_qp_delta
    if r.ue()? != 1 {
        r.se()?; // slice_alpha_c0_offset_div2
        r.se()?; // slice_beta_offset_div2
    }
    let end = r.position();

    // The payload without emulation prevention comes first, behind the bytes that are there, and is escaped in place.
    let begin = made.len();
    let mut bits = Appender { bytes: made, used: 0 };
    bits.copy(rbsp, 0, before);
    match id {
        0 => bits.push(0x80, 1),
        _ => bits.push(0x40, 3),
    }
    if cabac {
        bits.copy(rbsp, behind, end);
        bits.align_with_ones();
        let data = rbsp.get(end.div_ceil(8)..)?;
        bits.bytes.extend_from_slice(data);
    } else {
        bits.copy(rbsp, behind, len * 8);
        // The stop bit ended the last byte or came before zeros; the bits moved on may have left a byte of those.
        while bits.bytes.len() > begin && bits.bytes.last() == Some(&0) {
            bits.bytes.pop();
        }
    }
    scratch.clear();
    scratch.extend_from_slice(&made[begin..]);
    made.truncate(begin);
    made.push(header);
    escape_onto(scratch, made);
    Some(())
}

/// Appends `rbsp` with emulation prevention (7.4.1.1).
fn escape_onto(rbsp: &[u8], out: &mut Vec<u8>) {
    let mut zeros = 0;
    for &byte in rbsp {
        if zeros >= 2 && byte <= 3 {
            out.push(3);
            zeros = 0;
        }
        out.push(byte);
        zeros = if byte == 0 { zeros + 1 } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bits_are_copied_from_any_place_to_any_place() {
        let source = [0b1011_0010, 0b0111_1100, 0b1000_0001, 0b1111_0000];
        let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (7 - at % 8) & 1;
        for shift in 0..8 {
            for from in 0..9 {
                for to in from + 1..=32 {
                    let mut bytes = Vec::new();
                    let mut appender = Appender { bytes: &mut bytes, used: 0 };
                    (0..shift).for_each(|_| appender.push(0x80, 1));
                    appender.copy(&source, from, to);
                    assert_eq!(bytes.len(), (shift + to - from).div_ceil(8));
                    assert!((0..shift).all(|at| bit(&bytes, at) == 1));
                    assert!((from..to).all(|at| bit(&bytes, shift + at - from) == bit(&source, at)), "{shift} {from}");
                }
            }
        }
    }

    #[test]
    fn what_is_no_idr_slice_is_left_alone() {
        let mut out = vec![7];
        let sps = [0x67, 66, 0xc0, 10, 0xda, 0x0f, 0x0a, 0x69, 0xa8, 0x08, 0x08, 0x08, 0x10];
        {
            let sps = Sps::parse(&sps).unwrap();
            for nal in [&[][..], &[0x41, 0xff, 0xff], &[0x65], &[0x65, 0], &[0x65, 0x88]] {
                assert_eq!(with_idr_pic_id(nal, (&sps, true), 1, &mut Vec::new(), &mut out), None, "{nal:?}");
            }
        }
        assert_eq!(out, [7]);
    }
}
