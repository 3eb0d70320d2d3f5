//! Profile, tier, level and bit depth of an AV1 stream, out of its sequence header.

use super::bits::Bits;

/// What a sequence header (AV1 specification section 5.5) says of its first operating point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SequenceHeader {
    /// seq_profile, 0 to 2.
    pub profile: u8,
    /// seq_level_idx\[0\], 0 to 31.
    pub level_idx: u8,
    /// seq_tier\[0\], 0 or 1.
    pub tier: u8,
    /// BitDepth: 8, 10 or 12.
    pub bit_depth: u8,
}

impl SequenceHeader {
    /// Of the payload of a sequence header OBU. `None` when it ends too soon.
    pub fn parse(payload: &[u8]) -> Option<SequenceHeader> {
        let mut bits = Bits::new(payload);
        let profile = bits.number(3)?;
        bits.skip(1)?; // still_picture
        let reduced = bits.flag()?;
        let (level_idx, tier) = if reduced { (bits.number(5)?, false) } else { operating_points(&mut bits)? };
        let (width_bits, height_bits) = (bits.number(4)? + 1, bits.number(4)? + 1);
        bits.skip(width_bits + height_bits)?;
        if !reduced && bits.flag()? {
            bits.skip(4 + 3)?; // delta_frame_id_length_minus_2, additional_frame_id_length_minus_1
        }
        bits.skip(3)?; // use_128x128_superblock, enable_filter_intra, enable_intra_edge_filter
        if !reduced {
            tools(&mut bits)?;
        }
        bits.skip(3)?; // enable_superres, enable_cdef, enable_restoration
        let high_bitdepth = bits.flag()?;
        let bit_depth = match (profile, high_bitdepth) {
            (2, true) if bits.flag()? => 12,
            (_, true) => 10,
            (_, false) => 8,
        };
        Some(SequenceHeader { profile: profile as u8, level_idx: level_idx as u8, tier: u8::from(tier), bit_depth })
    }

    /// The codec string of "AV1 Codec ISO Media File Format Binding" section 5: `av01.0.04M.08`.
    pub fn codec_string(&self) -> String {
        let tier = if self.tier == 0 { 'M' } else { 'H' };
        format!("av01.{}.{:02}{tier}.{:02}", self.profile, self.level_idx, self.bit_depth)
    }
}

/// From timing_info_present_flag to the end of the operating points: level and tier of the first.
fn operating_points(bits: &mut Bits<'_>) -> Option<(u32, bool)> {
    let mut delay_bits = None;
    if bits.flag()? {
        bits.skip(32 + 32)?; // num_units_in_display_tick, time_scale
        if bits.flag()? {
            bits.skip_uvlc()?; // num_ticks_per_picture_minus_1
        }
        if bits.flag()? {
            delay_bits = Some(bits.number(5)? + 1);
            bits.skip(32 + 5 + 5)?; // num_units_in_decoding_tick, two more lengths
        }
    }
    let display_delay = bits.flag()?;
    let count = bits.number(5)? + 1;
    let mut first = None;
    for _ in 0..count {
        bits.skip(12)?; // operating_point_idc
        let level_idx = bits.number(5)?;
        let tier = level_idx > 7 && bits.flag()?;
        if let Some(delay_bits) = delay_bits
            && bits.flag()?
        {
            bits.skip(2 * delay_bits + 1)?; // decoder and encoder buffer delay, low_delay_mode_flag
        }
        if display_delay && bits.flag()? {
            bits.skip(4)?; // initial_display_delay_minus_1
        }
        first = first.or(Some((level_idx, tier)));
    }
    first
}

/// From enable_interintra_compound to order_hint_bits_minus_1.
fn tools(bits: &mut Bits<'_>) -> Option<()> {
    bits.skip(4)?; // interintra and masked compound, warped motion, dual filter
    let order_hint = bits.flag()?;
    if order_hint {
        bits.skip(2)?; // enable_jnt_comp, enable_ref_frame_mvs
    }
    let chosen_by_frame = bits.flag()?;
    let screen_content = chosen_by_frame || bits.flag()?;
    if screen_content && !bits.flag()? {
        bits.skip(1)?; // seq_force_integer_mv
    }
    if order_hint {
        bits.skip(3)?; // order_hint_bits_minus_1
    }
    Some(())
}

/// The codec string of a temporal unit with a sequence header in its head.
pub fn codec_string(temporal_unit: &[u8]) -> Option<String> {
    let payload = sequence_header(temporal_unit)?;
    SequenceHeader::parse(payload).map(|header| header.codec_string())
}

/// The payload of the first sequence header OBU, which may reach behind the end of what is there.
fn sequence_header(temporal_unit: &[u8]) -> Option<&[u8]> {
    const SEQUENCE_HEADER: u8 = 1;
    let mut rest = temporal_unit;
    loop {
        let (first, behind) = rest.split_first()?;
        let extension = usize::from(first & 4 != 0);
        let sized = first & 2 != 0;
        rest = behind.get(extension..)?;
        let len = if sized {
            let bytes = rest.iter().position(|byte| byte & 0x80 == 0).filter(|last| *last < 8)? + 1;
            let size = rest[..bytes].iter().rev().fold(0usize, |value, byte| value << 7 | usize::from(byte & 0x7f));
            rest = &rest[bytes..];
            size
        } else {
            rest.len()
        };
        if first >> 3 & 0xf == SEQUENCE_HEADER {
            return rest.get(..len).or(Some(rest));
        }
        rest = rest.get(len..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Writes bits as the specification lists the fields: (bits, value).
    fn fields(fields: &[(u32, u64)]) -> Vec<u8> {
        let bits: Vec<u8> = fields
            .iter()
            .flat_map(|(count, value)| (0..*count).rev().map(move |bit| (value >> bit & 1) as u8))
            .collect();
        bits.chunks(8).map(|byte| byte.iter().enumerate().fold(0, |all, (at, bit)| all | bit << (7 - at))).collect()
    }

    /// Behind the operating points: 640×360, order hints, screen content by the frame.
    const REST: [(u32, u64); 20] = [
        (4, 9),
        (4, 8),
        (10, 639),
        (9, 359),
        (1, 0), // frame ids
        (3, 0),
        (4, 0),
        (1, 1), // order hint
        (2, 0),
        (1, 1), // screen content by the frame
        (1, 1), // integer motion vectors by the frame
        (3, 6),
        (3, 0),
        (1, 1), // high_bitdepth
        (1, 0),
        (1, 0),
        (1, 0),
        (2, 0),
        (1, 0),
        (1, 0),
    ];

    fn parse(head: &[(u32, u64)]) -> SequenceHeader {
        SequenceHeader::parse(&fields(&[head, &REST].concat())).unwrap()
    }

    #[test]
    fn profile_level_tier_and_depth_are_read_behind_everything_optional() {
        // Profile 0, no timing info, one operating point of level index 4.
        let plain = parse(&[(3, 0), (1, 0), (1, 0), (1, 0), (1, 0), (5, 0), (12, 0), (5, 4)]);
        assert_eq!(plain, SequenceHeader { profile: 0, level_idx: 4, tier: 0, bit_depth: 10 });
        assert_eq!(plain.codec_string(), "av01.0.04M.10");
        // Timing info with a picture count, a decoder model of 10-bit delays, display delays, two operating points.
        let full = [
            (3, 1),
            (1, 0),
            (1, 0),
            (1, 1),
            (32, 1),
            (32, 60),
            (1, 1),
            (3, 0b010),
            (1, 1),
            (5, 9),
            (32, 1),
            (5, 9),
            (5, 9),
            (1, 1),
            (5, 1),
            (12, 0x101),
            (5, 13),
            (1, 1),
            (1, 1),
            (21, 0),
            (1, 1),
            (4, 3),
            (12, 0x100),
            (5, 5),
            (1, 0),
            (1, 0),
        ];
        let header = parse(&full);
        assert_eq!(header, SequenceHeader { profile: 1, level_idx: 13, tier: 1, bit_depth: 10 });
        assert_eq!(header.codec_string(), "av01.1.13H.10");
    }

    #[test]
    fn a_header_that_svt_av1_made_is_read() {
        // SVT-AV1 1.4.1, 640×360, 8 bit: level 3.0.
        let header = [0, 0, 0, 0x24, 0xc4, 0xff, 0x67, 0x3e, 0xfe, 0x40, 0x10];
        let expected = SequenceHeader { profile: 0, level_idx: 4, tier: 0, bit_depth: 8 };
        assert_eq!(SequenceHeader::parse(&header), Some(expected));
    }

    #[test]
    fn a_header_that_ends_too_soon_is_none() {
        let whole = fields(&[&[(3, 0), (1, 0), (1, 0), (1, 0), (1, 0), (5, 0), (12, 0), (5, 4)][..], &REST].concat());
        // The depth is known with the flag in the last but one byte.
        for len in 0..whole.len() - 2 {
            assert_eq!(SequenceHeader::parse(&whole[..len]), None, "{len}");
        }
    }

    #[test]
    fn the_string_is_found_behind_a_delimiter_and_only_with_a_sequence_header() {
        let header = fields(&[&[(3, 0), (1, 0), (1, 0), (1, 0), (1, 0), (5, 0), (12, 0), (5, 4)][..], &REST].concat());
        let unit = [&[0x12, 0, 0x0a, header.len() as u8][..], &header, &[0x32, 2, 0, 0]].concat();
        assert_eq!(codec_string(&unit).as_deref(), Some("av01.0.04M.10"));
        assert_eq!(codec_string(&[0x12, 0, 0x32, 2, 0x30, 0]), None);
        assert_eq!(codec_string(&[0x12, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1]), None);
        assert_eq!(codec_string(&[]), None);
    }
}
