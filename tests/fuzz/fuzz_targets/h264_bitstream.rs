//! What kernel C reads of an encoder library's H.264: NAL units, parameter sets, slice headers, emulation prevention.
//!
//! Feeds: any bytes as an Annex B stream, and its NAL units to the parsers.
//! Holds: no panic; the NAL units with their start codes are the stream from the first start code on, each byte exactly
//! once; none contains a start code or ends in a zero; what is escaped contains no start code and unescapes to itself; a
//! parameter set that is understood is written and read again as the same, and what is written is canonical.
#![no_main]
#![allow(dead_code, reason = "the module is whole, a target uses its parsers")]

// By path, and only what reads H.264: the crate would bring the C++ of openh264 along, which nothing here calls.
#[path = "../../../kernel-c-encode/src/bitstream"]
mod bitstream {
    pub mod annexb;
    pub mod bits;
    pub mod h264;
    pub mod h264_sps;
}

use bitstream::annexb::{escape, nal_units, unescape};
use bitstream::bits::BitReader;
use bitstream::h264::{SliceHeader, type_of};
use bitstream::h264_sps::{MAX_SPS_BYTES, Sps};
use shm_protocol::frame::ChromaSiting;

fn check_sps(nal: &[u8]) -> Option<Sps> {
    let sps = Sps::parse(nal)?;
    let _ = sps.size();
    if let Some(vui) = &sps.vui {
        let _ = vui.colour();
    }
    let mut written = [0; 2 * MAX_SPS_BYTES];
    let len = sps.write(nal[0], &mut written).expect("what was read fits");
    assert_eq!(Sps::parse(&written[..len]), Some(sps), "written and read again");
    let mut again = [0; 2 * MAX_SPS_BYTES];
    assert_eq!(sps.write(nal[0], &mut again), Some(len));
    assert_eq!(written, again);
    let mut sited = sps;
    sited.set_chroma_siting(ChromaSiting::TopLeft);
    if let Some(len) = sited.write(nal[0], &mut written)
        && len <= MAX_SPS_BYTES
    {
        assert_eq!(Sps::parse(&written[..len]), Some(sited));
    }
    Some(sps)
}

libfuzzer_sys::fuzz_target!(|stream: &[u8]| {
    let mut sps = None;
    let mut end = None;
    for unit in nal_units(stream) {
        assert_eq!(end.unwrap_or(unit.offset), unit.offset, "units follow each other");
        assert_eq!(&stream[unit.offset..unit.offset + unit.with_start_code.len()], unit.with_start_code);
        end = Some(unit.offset + unit.with_start_code.len());
        assert!(unit.with_start_code.starts_with(&[0, 0, 1]) || unit.with_start_code.starts_with(&[0, 0, 0, 1]));
        assert!(!unit.nal.windows(3).any(|window| window == [0, 0, 1]));
        assert_ne!(unit.nal.last(), Some(&0));
        if let Some(&header) = unit.nal.first() {
            assert!(type_of(header) < 32);
        }
        sps = check_sps(unit.nal).or(sps);
        if let Some(sps) = &sps
            && let Some(slice) = SliceHeader::parse(unit.nal, sps)
        {
            assert!(slice.slice_type < 5 && slice.frame_num >> sps.log2_max_frame_num == 0);
        }
    }
    let first = stream.windows(3).position(|window| window == [0, 0, 1]);
    assert_eq!(end, first.map(|_| stream.len()), "the last unit ends with the stream");
    let mut escaped = vec![0; stream.len() * 3 / 2 + 1];
    let len = escape(stream, &mut escaped).expect("half as much again is always enough");
    assert!(!escaped[..len].windows(3).any(|w| w[0] == 0 && w[1] == 0 && w[2] < 3));
    let mut back = vec![0; stream.len()];
    assert_eq!(unescape(&escaped[..len], &mut back), stream.len());
    assert_eq!(back, stream);
    let mut short = vec![0; stream.len() / 2];
    assert!(unescape(stream, &mut short) <= short.len());
    let mut reader = BitReader::new(stream);
    while reader.ue().is_some() && reader.se().is_some() && reader.bits(7).is_some() {}
});
