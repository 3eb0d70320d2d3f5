//! AV1 open bitstream units in the low-overhead format (AV1 specification 5.3, 6.2).

/// Types of OBUs this system meets (6.2.2).
pub mod obu_type {
    /// Sequence header.
    pub const SEQUENCE_HEADER: u8 = 1;
    /// Temporal delimiter.
    pub const TEMPORAL_DELIMITER: u8 = 2;
    /// Frame header.
    pub const FRAME_HEADER: u8 = 3;
    /// Tile group.
    pub const TILE_GROUP: u8 = 4;
    /// Metadata.
    pub const METADATA: u8 = 5;
    /// Frame header and tile group in one.
    pub const FRAME: u8 = 6;
    /// Padding.
    pub const PADDING: u8 = 15;
}

/// A temporal delimiter: type 2, with a size field, which is 0.
pub const TEMPORAL_DELIMITER: [u8; 2] = [obu_type::TEMPORAL_DELIMITER << 3 | HAS_SIZE, 0];
/// `obu_has_size_field`.
pub const HAS_SIZE: u8 = 0x02;
/// `obu_extension_flag`.
pub const HAS_EXTENSION: u8 = 0x04;

/// Type of an OBU, from its first byte.
pub const fn type_of(header: u8) -> u8 {
    header >> 3 & 0x0f
}

/// One OBU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Obu<'a> {
    /// Its type.
    pub kind: u8,
    /// All its bytes.
    pub bytes: &'a [u8],
    /// What follows header and size.
    pub payload: &'a [u8],
}

/// The OBUs of `bytes`, each with a size field; ends at the first that is cut short or has none.
pub fn obus(bytes: &[u8]) -> impl Iterator<Item = Obu<'_>> + '_ {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let header = *rest.first()?;
        let begin = 1 + usize::from(header & HAS_EXTENSION != 0);
        if header & HAS_SIZE == 0 {
            return None;
        }
        let (size, size_bytes) = leb128(rest.get(begin..)?)?;
        let end = begin.checked_add(size_bytes)?.checked_add(size)?;
        let obu = Obu { kind: type_of(header), bytes: rest.get(..end)?, payload: &rest[begin + size_bytes..end] };
        rest = &rest[end..];
        Some(obu)
    })
}

/// Reads a leb128 number (4.10.5) and how many bytes it takes. `None` when it is cut short or above 2³² − 1.
pub fn leb128(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut value = 0u64;
    for (index, &byte) in bytes.iter().take(8).enumerate() {
        value |= u64::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return u32::try_from(value).ok().map(|value| (value as usize, index + 1));
        }
    }
    None
}

/// Whether the first frame header of `obus` begins a key frame that is shown (5.9.2: `show_existing_frame` 0,
/// `frame_type` 0, `show_frame` 1). Streams of this system have no reduced still picture header.
pub fn is_key_frame(bytes: &[u8]) -> bool {
    let header = obus(bytes).find(|obu| matches!(obu.kind, obu_type::FRAME | obu_type::FRAME_HEADER));
    header.and_then(|obu| obu.payload.first()).is_some_and(|first| first & 0xf0 == 0x10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_told_apart_and_the_cut_one_ends_the_walk() {
        let bytes = [0x12, 0, 0x0a, 2, 0xaa, 0xbb, 0x32, 1, 0x10, 0x32, 9, 0];
        let seen: Vec<(u8, usize)> = obus(&bytes).map(|obu| (obu.kind, obu.payload.len())).collect();
        assert_eq!(seen, [(2, 0), (1, 2), (6, 1)]);
        assert!(is_key_frame(&bytes));
        assert!(!is_key_frame(&[0x32, 1, 0x30]), "an inter frame");
    }

    #[test]
    fn numbers_of_several_bytes_are_read() {
        assert_eq!(leb128(&[0xe5, 0x8e, 0x26]), Some((624_485, 3)));
        assert_eq!(leb128(&[0x80]), None);
        assert_eq!(leb128(&[0xff; 8]), None);
    }
}
