//! HEVC NAL units: types and the access unit delimiter (ITU-T H.265 7.3.1, 7.3.2.5, Table 7-1).

/// Types of NAL units this system meets.
pub mod nal_type {
    /// First of the types of random access pictures (BLA_W_LP).
    pub const FIRST_IRAP: u8 = 16;
    /// IDR whose leading pictures can be decoded.
    pub const IDR_W_RADL: u8 = 19;
    /// IDR without leading pictures.
    pub const IDR_N_LP: u8 = 20;
    /// Clean random access picture.
    pub const CRA: u8 = 21;
    /// Last of the types of random access pictures (reserved).
    pub const LAST_IRAP: u8 = 23;
    /// Last type that carries a slice.
    pub const LAST_SLICE: u8 = 31;
    /// Video parameter set.
    pub const VPS: u8 = 32;
    /// Sequence parameter set.
    pub const SPS: u8 = 33;
    /// Picture parameter set.
    pub const PPS: u8 = 34;
    /// Access unit delimiter.
    pub const DELIMITER: u8 = 35;
    /// Supplemental enhancement information before the picture.
    pub const PREFIX_SEI: u8 = 39;
    /// Supplemental enhancement information behind the picture.
    pub const SUFFIX_SEI: u8 = 40;
}

/// Type of a NAL unit, from the first of its two header bytes.
pub const fn type_of(header: u8) -> u8 {
    header >> 1 & 0x3f
}

/// Whether a slice of this type belongs to an IDR picture.
pub const fn is_idr(nal_type: u8) -> bool {
    matches!(nal_type, nal_type::IDR_W_RADL | nal_type::IDR_N_LP)
}

/// Bytes of [`delimiter`].
pub const DELIMITER_BYTES: usize = 7;

/// An access unit delimiter with its start code. `pic_type` is 0 (I slices) for an IDR and 1 (P and I) otherwise.
pub const fn delimiter(idr: bool) -> [u8; DELIMITER_BYTES] {
    // pic_type u(3), then the stop bit and zeros; the second header byte is layer 0, temporal id 0 plus 1.
    let payload = if idr { 0x10 } else { 0x30 };
    [0, 0, 0, 1, nal_type::DELIMITER << 1, 1, payload]
}
