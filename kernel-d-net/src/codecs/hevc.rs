//! Profile, tier and level of an HEVC stream, out of its sequence parameter set.

use std::fmt::Write as _;

/// The general profile_tier_level of a sequence parameter set (ITU-T H.265 section 7.3.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProfileTierLevel {
    /// general_profile_space, 0 to 3.
    pub profile_space: u8,
    /// general_tier_flag: the high tier.
    pub high_tier: bool,
    /// general_profile_idc, 0 to 31.
    pub profile_idc: u8,
    /// general_profile_compatibility_flag 0 to 31, the first the most significant.
    pub compatibility: u32,
    /// The 48 bits between the compatibility flags and the level.
    pub constraints: [u8; 6],
    /// general_level_idc: 30 times the level.
    pub level_idc: u8,
}

/// Bytes of a NAL unit header.
const NAL_HEADER_BYTES: usize = 2;
/// sps_video_parameter_set_id, sps_max_sub_layers_minus1 and sps_temporal_id_nesting_flag, which stand in front.
const BEFORE_BYTES: usize = 1;
/// Space, tier and profile; compatibility; constraints; level.
const PTL_BYTES: usize = 1 + 4 + 6 + 1;

impl ProfileTierLevel {
    /// Of an SPS NAL unit, its header included and emulation prevention still in it. `None` when it is too short.
    pub fn of_sps(nal: &[u8]) -> Option<ProfileTierLevel> {
        let mut found = [0u8; BEFORE_BYTES + PTL_BYTES];
        let mut payload = without_emulation_prevention(nal.get(NAL_HEADER_BYTES..)?);
        for byte in &mut found {
            *byte = payload.next()?;
        }
        let [_, first, c0, c1, c2, c3, constraints @ .., level_idc] = found;
        Some(ProfileTierLevel {
            profile_space: first >> 6,
            high_tier: first & 0x20 != 0,
            profile_idc: first & 0x1f,
            compatibility: u32::from_be_bytes([c0, c1, c2, c3]),
            constraints,
            level_idc,
        })
    }

    /// The codec string of ISO/IEC 14496-15 annex E, for parameter sets in band: `hev1.1.6.L93.B0`.
    pub fn codec_string(&self) -> String {
        let space = ["", "A", "B", "C"][usize::from(self.profile_space & 3)];
        let tier = if self.high_tier { 'H' } else { 'L' };
        // The flags stand in reverse order of their bits.
        let compatibility = self.compatibility.reverse_bits();
        let mut text = format!("hev1.{space}{}.{compatibility:X}.{tier}{}", self.profile_idc, self.level_idc);
        let used = self.constraints.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        for byte in &self.constraints[..used] {
            let _ = write!(text, ".{byte:X}");
        }
        text
    }
}

/// The bytes of a NAL unit's payload without the 3 behind each two zeros (ITU-T H.265 section 7.3.1.1).
fn without_emulation_prevention(bytes: &[u8]) -> impl Iterator<Item = u8> + '_ {
    let mut zeros = 0;
    bytes.iter().copied().filter(move |byte| {
        let prevention = zeros >= 2 && *byte == 3;
        zeros = if *byte == 0 { zeros + 1 } else { 0 };
        !prevention
    })
}

/// The codec string of an Annex-B access unit with a sequence parameter set in its head.
pub fn codec_string(access_unit: &[u8]) -> Option<String> {
    const NAL_SPS: u8 = 33;
    let at = access_unit.windows(4).position(|b| b[..3] == [0, 0, 1] && b[3] >> 1 & 0x3f == NAL_SPS)?;
    ProfileTierLevel::of_sps(&access_unit[at + 3..]).map(|ptl| ptl.codec_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The head of an SPS that x265 3.5 made for 640×360: Main, Main tier, level 3.0.
    const SPS: [u8; 20] = [0x42, 1, 1, 1, 0x60, 0, 0, 3, 0, 0x90, 0, 0, 3, 0, 0, 3, 0, 0x5a, 0xa0, 0x05];

    #[test]
    fn profile_tier_and_level_are_read_over_emulation_prevention() {
        let ptl = ProfileTierLevel::of_sps(&SPS).unwrap();
        let expected = ProfileTierLevel {
            profile_space: 0,
            high_tier: false,
            profile_idc: 1,
            compatibility: 0x6000_0000,
            constraints: [0x90, 0, 0, 0, 0, 0],
            level_idc: 90,
        };
        assert_eq!(ptl, expected);
        assert_eq!(ptl.codec_string(), "hev1.1.6.L90.90");
    }

    #[test]
    fn space_tier_and_constraints_have_their_places() {
        let ptl = ProfileTierLevel {
            profile_space: 2,
            high_tier: true,
            profile_idc: 4,
            compatibility: 0x0800_0000,
            constraints: [0xb0, 0, 0x8, 0, 0, 0],
            level_idc: 153,
        };
        assert_eq!(ptl.codec_string(), "hev1.B4.10.H153.B0.0.8");
    }

    #[test]
    fn the_string_is_found_behind_delimiter_and_vps_and_only_with_a_whole_sps() {
        let au = [&[0, 0, 0, 1, 0x46, 1, 0x10, 0, 0, 1, 0x40, 1, 0xc, 0, 0, 1][..], &SPS].concat();
        assert_eq!(codec_string(&au).as_deref(), Some("hev1.1.6.L90.90"));
        assert_eq!(codec_string(&au[..au.len() - 3]), None);
        assert_eq!(codec_string(&[]), None);
    }
}
