//! H.264 NAL units: types, the access unit delimiter, slice headers as far as order and identity need them.

use super::annexb::unescape;
use super::bits::BitReader;
use super::h264_sps::Sps;

/// Types of NAL units this system meets (ITU-T H.264 Table 7-1).
pub mod nal_type {
    /// Coded slice of a picture that is no IDR.
    pub const SLICE: u8 = 1;
    /// Coded slice of an IDR picture.
    pub const IDR_SLICE: u8 = 5;
    /// Supplemental enhancement information.
    pub const SEI: u8 = 6;
    /// Sequence parameter set.
    pub const SPS: u8 = 7;
    /// Picture parameter set.
    pub const PPS: u8 = 8;
    /// Access unit delimiter.
    pub const DELIMITER: u8 = 9;
}

/// Type of a NAL unit, from its first byte.
pub const fn type_of(header: u8) -> u8 {
    header & 0x1f
}

/// Bytes of [`delimiter`].
pub const DELIMITER_BYTES: usize = 6;

/// An access unit delimiter with its start code (7.3.2.4). `primary_pic_type` is 0 (I slices) for an IDR and 1
/// (I and P slices) otherwise: there are no B slices here.
pub const fn delimiter(idr: bool) -> [u8; DELIMITER_BYTES] {
    // primary_pic_type u(3), then the stop bit and zeros.
    let payload = if idr { 0x10 } else { 0x30 };
    [0, 0, 0, 1, nal_type::DELIMITER, payload]
}

/// The front of a slice header (7.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SliceHeader {
    /// Address of the first macroblock; 0 begins a picture.
    pub first_mb: u32,
    /// `slice_type` modulo 5: 0 P, 1 B, 2 I.
    pub slice_type: u32,
    /// Picture parameter set it uses.
    pub pps_id: u32,
    /// `frame_num`.
    pub frame_num: u32,
    /// `idr_pic_id`, for IDR slices.
    pub idr_pic_id: Option<u32>,
    /// `pic_order_cnt_lsb`, for picture order count type 0.
    pub poc_lsb: Option<u32>,
}

impl SliceHeader {
    /// Reads the front of the slice `nal` (header byte included). `None` when it is no slice, is cut short, or
    /// belongs to an interlaced stream.
    pub fn parse(nal: &[u8], sps: &Sps) -> Option<SliceHeader> {
        let kind = type_of(*nal.first()?);
        if (kind != nal_type::SLICE && kind != nal_type::IDR_SLICE) || !sps.frame_mbs_only {
            return None;
        }
        // Five Exp-Golomb codes of at most 32 bits each end well within 40 bytes.
        let mut rbsp = [0; 40];
        let len = unescape(&nal[1..nal.len().min(64)], &mut rbsp);
        let mut r = BitReader::new(&rbsp[..len]);
        Some(SliceHeader {
            first_mb: r.ue()?,
            slice_type: r.ue()? % 5,
            pps_id: r.ue()?,
            frame_num: r.bits(sps.log2_max_frame_num)?,
            idr_pic_id: if kind == nal_type::IDR_SLICE { Some(r.ue()?) } else { None },
            poc_lsb: if sps.poc_type == 0 { Some(r.bits(sps.log2_max_poc_lsb)?) } else { None },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::annexb::nal_units;

    #[test]
    fn the_delimiter_is_one_nal_unit_with_its_picture_type() {
        for (idr, primary_pic_type) in [(true, 0), (false, 1)] {
            let bytes = delimiter(idr);
            let nal = nal_units(&bytes).next().unwrap().nal;
            assert_eq!(nal.len(), 2);
            assert_eq!(type_of(nal[0]), nal_type::DELIMITER);
            assert_eq!(nal[1] >> 5, primary_pic_type);
            assert_eq!(nal[1] & 0x1f, 0x10, "stop bit and alignment");
        }
    }
}
