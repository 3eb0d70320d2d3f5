//! What H.264 streams say of themselves, read by our own readers.

use kernel_c_encode::bitstream::annexb::nal_units;
use kernel_c_encode::bitstream::h264::{SliceHeader, nal_type, type_of};
use kernel_c_encode::bitstream::h264_sps::Sps;

/// The first sequence parameter set.
pub fn first_sps(stream: &[u8]) -> Sps {
    nal_units(stream)
        .find(|n| type_of(n.nal[0]) == nal_type::SPS)
        .and_then(|n| Sps::parse(n.nal))
        .expect("the stream begins with a readable SPS")
}

/// `idr_pic_id` of every IDR slice.
pub fn idr_pic_ids(stream: &[u8]) -> Vec<u32> {
    let sps = first_sps(stream);
    nal_units(stream).filter_map(|n| SliceHeader::parse(n.nal, &sps)?.idr_pic_id).collect()
}
