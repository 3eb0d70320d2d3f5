//! Where things are in a ring's control segment, in words, as docs/PROTOCOL.md draws it: a target knows bytes, not the
//! product's types.

/// Words of a control segment.
pub const SEGMENT: usize = 0x7000 / 8;
/// First word of the roles.
pub const ROLES: usize = 0x240 / 8;
/// First word of the pool table; 32 words an entry.
pub const POOLS: usize = 0x840 / 8;
/// First word of the format table; 32 words an entry.
pub const FORMATS: usize = 0x1040 / 8;
/// First word of the first slot.
pub const SLOTS: usize = 0x2040 / 8;
/// Words of a slot, a pool entry and a format entry.
pub const ENTRY: usize = 32;

/// A word that matters: header and producer's line, roles and masks, pools, formats, slots in use; seldom any other.
pub fn pick(area: u8, at: u8) -> usize {
    let at = usize::from(at);
    match area % 8 {
        0 => at % 64,
        1 => ROLES + at % (POOLS - ROLES),
        2 => POOLS + at % (3 * ENTRY),
        3 => FORMATS + at % (3 * ENTRY),
        4 => at * 14 % SEGMENT,
        _ => SLOTS + at % (4 * ENTRY),
    }
}
