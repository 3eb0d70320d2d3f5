//! `idr_pic_id` of H.264: two consecutive IDR pictures must differ in it (ITU-T H.264 7.4.3), also where a stream goes
//! on in a new session or from another encoder, whose runtime counts from its own start.

use crate::bitstream::annexb::nal_units;
use crate::bitstream::h264::{SliceHeader, nal_type, type_of};
use crate::bitstream::h264_idr_id::{pps_is_cabac, with_idr_pic_id};
use crate::bitstream::h264_sps::Sps;

/// Numbers the IDR pictures of one stream.
#[derive(Debug, Default)]
pub struct IdrIds {
    /// IDR pictures the stream had.
    count: u32,
    made: Vec<u8>,
    scratch: Vec<u8>,
}

impl IdrIds {
    /// For a stream that had `count` IDR pictures.
    pub fn new(count: u32) -> IdrIds {
        IdrIds { count, ..IdrIds::default() }
    }

    /// The access unit with the number that is due, if it is an IDR with another one. What cannot be read is handed on
    /// as it is: a decoder that loses nothing never looks at the number.
    pub fn numbered<'a>(&'a mut self, bytes: &'a [u8]) -> &'a [u8] {
        let due = (self.count % 2) as u8;
        match rewrite(bytes, due, &mut self.made, &mut self.scratch) {
            Some(true) => &self.made,
            _ => bytes,
        }
    }

    /// An IDR came out.
    pub fn came_out(&mut self) {
        self.count = self.count.wrapping_add(1);
    }
}

/// Copies the access unit to `out` with `id`. `Some(false)`: it has it, or it is no IDR.
fn rewrite(bytes: &[u8], id: u8, out: &mut Vec<u8>, scratch: &mut Vec<u8>) -> Option<bool> {
    out.clear();
    let (mut sps, mut cabac) = (None, None);
    for unit in nal_units(bytes) {
        match type_of(*unit.nal.first()?) {
            nal_type::SPS => sps = Sps::parse(unit.nal),
            nal_type::PPS => cabac = pps_is_cabac(unit.nal),
            nal_type::IDR_SLICE => {
                let (sps, cabac) = (sps.as_ref()?, cabac?);
                if SliceHeader::parse(unit.nal, sps)?.idr_pic_id? == u32::from(id) {
                    return Some(false);
                }
                out.extend_from_slice(&unit.with_start_code[..unit.with_start_code.len() - unit.nal.len()]);
                with_idr_pic_id(unit.nal, (sps, cabac), id, scratch, out)?;
                continue;
            }
            1..=4 => return Some(false),
            _ => {}
        }
        out.extend_from_slice(unit.with_start_code);
    }
    Some(true)
}
