//! The codec string of an H.264 stream.

/// RFC 6381 (section 3.3) codec string of an Annex-B H.264 access unit, `avc1.PPCCLL`: profile, constraint flags and
/// level, the three bytes behind the header of its first sequence parameter set. `None` when it carries none.
pub fn codec_string(access_unit: &[u8]) -> Option<String> {
    const NAL_SPS: u8 = 7;
    access_unit.windows(7).find_map(|bytes| match *bytes {
        [0, 0, 1, header, profile, constraints, level] if header & 0x1f == NAL_SPS => {
            Some(format!("avc1.{profile:02X}{constraints:02X}{level:02X}"))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_string_is_read_from_the_sps_behind_an_aud() {
        let au = [0, 0, 0, 1, 0x09, 0x10, 0, 0, 0, 1, 0x67, 0x42, 0xc0, 0x1f, 0x8c, 0, 0, 1, 0x68, 0xce];
        assert_eq!(codec_string(&au).as_deref(), Some("avc1.42C01F"));
    }

    #[test]
    fn without_a_whole_sps_there_is_none() {
        assert_eq!(codec_string(&[0, 0, 1, 0x41, 0x9a, 0x10, 0x20]), None);
        assert_eq!(codec_string(&[0, 0, 1, 0x67, 0x42, 0xc0]), None);
        assert_eq!(codec_string(&[]), None);
    }
}
