//! Which payload type a codec has: one of its own each, so that receivers see a change of codec in the first packet.

use shm_protocol::frame::Codec;

/// The dynamic payload types (RFC 3551 section 3).
const DYNAMIC: std::ops::RangeInclusive<u8> = 96..=127;

/// The payload type of `codec` in a stream that was configured with `first`, H.264's: HEVC has the next one, AV1 the
/// one after it, the null encoder the last of the four. Behind 127 they go on at 96.
pub const fn payload_type(first: u8, codec: Codec) -> u8 {
    let place = match codec {
        Codec::H264 => return first,
        Codec::Hevc => 1,
        Codec::Av1 => 2,
        Codec::Null => 3,
    };
    let count = *DYNAMIC.end() - *DYNAMIC.start() + 1;
    *DYNAMIC.start() + (first.saturating_sub(*DYNAMIC.start()) + place) % count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_has_a_dynamic_type_of_its_own_and_h264_the_configured_one() {
        for first in DYNAMIC {
            let mut types = Codec::ALL.map(|codec| payload_type(first, codec));
            assert_eq!(payload_type(first, Codec::H264), first);
            types.sort_unstable();
            assert!(types.windows(2).all(|pair| pair[0] < pair[1]) && types.iter().all(|t| DYNAMIC.contains(t)));
        }
        assert_eq!(payload_type(127, Codec::Hevc), 96);
        assert_eq!([Codec::Hevc, Codec::Av1].map(|codec| payload_type(96, codec)), [97, 98]);
    }
}
