//! Bits of a header, most significant first.

/// Reads bits; `None` behind the end.
pub(super) struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Bits<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Bits<'a> {
        Bits { bytes, at: 0 }
    }

    /// The next `count` bits, at most 32, as a number.
    pub(super) fn number(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0u32, |value, _| Some(value << 1 | u32::from(self.flag()?)))
    }

    /// The next bit.
    pub(super) fn flag(&mut self) -> Option<bool> {
        let byte = *self.bytes.get(self.at / 8)?;
        let bit = byte >> (7 - self.at % 8) & 1;
        self.at += 1;
        Some(bit == 1)
    }

    pub(super) fn skip(&mut self, count: u32) -> Option<()> {
        (0..count).try_for_each(|_| self.flag().map(|_| ()))
    }

    /// uvlc() of the AV1 specification (section 4.10.3), passed over.
    pub(super) fn skip_uvlc(&mut self) -> Option<()> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
        }
        // From 32 zeros on the value is a constant without further bits.
        if zeros < 32 { self.skip(zeros) } else { Some(()) }
    }
}
