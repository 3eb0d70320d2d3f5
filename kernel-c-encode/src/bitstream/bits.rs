//! Bits and Exp-Golomb codes (ITU-T H.264 7.2 and 9.1), over fixed buffers.

/// Reads bits, most significant first. `None` past the end.
#[derive(Debug, Clone)]
pub struct BitReader<'a> {
    bytes: &'a [u8],
    bit: usize,
}

impl<'a> BitReader<'a> {
    /// Reads from the first bit of `bytes`.
    pub fn new(bytes: &'a [u8]) -> BitReader<'a> {
        BitReader { bytes, bit: 0 }
    }

    /// Bits read so far.
    pub fn position(&self) -> usize {
        self.bit
    }

    /// One bit.
    pub fn flag(&mut self) -> Option<bool> {
        let byte = self.bytes.get(self.bit / 8)?;
        let value = byte >> (7 - self.bit % 8) & 1;
        self.bit += 1;
        Some(value == 1)
    }

    /// `count` bits (at most 32) as a number: u(n).
    pub fn bits(&mut self, count: u32) -> Option<u32> {
        (0..count).try_fold(0u32, |value, _| Some(value << 1 | u32::from(self.flag()?)))
    }

    /// An unsigned Exp-Golomb code: ue(v), up to 2³² − 2.
    pub fn ue(&mut self) -> Option<u32> {
        let mut zeros = 0;
        while !self.flag()? {
            zeros += 1;
            if zeros > 31 {
                return None;
            }
        }
        Some((1u32 << zeros) - 1 + self.bits(zeros)?)
    }

    /// A signed Exp-Golomb code: se(v).
    pub fn se(&mut self) -> Option<i32> {
        let code = i64::from(self.ue()?);
        let magnitude = (code + 1) / 2;
        i32::try_from(if code % 2 == 0 { -magnitude } else { magnitude }).ok()
    }
}

/// Writes bits, most significant first, into a buffer of fixed size. Overflow is remembered and told at the end.
#[derive(Debug)]
pub struct BitWriter<'a> {
    bytes: &'a mut [u8],
    bit: usize,
}

impl<'a> BitWriter<'a> {
    /// Writes from the first bit of `bytes` on.
    pub fn new(bytes: &'a mut [u8]) -> BitWriter<'a> {
        BitWriter { bytes, bit: 0 }
    }

    /// One bit.
    pub fn flag(&mut self, value: bool) {
        if let Some(byte) = self.bytes.get_mut(self.bit / 8) {
            let mask = 0x80 >> (self.bit % 8);
            *byte = if value { *byte | mask } else { *byte & !mask };
        }
        self.bit += 1;
    }

    /// The low `count` bits (at most 32) of `value`: u(n).
    pub fn bits(&mut self, count: u32, value: u32) {
        for shift in (0..count).rev() {
            self.flag(value >> shift & 1 == 1);
        }
    }

    /// An unsigned Exp-Golomb code: ue(v), up to 2³² − 2.
    pub fn ue(&mut self, value: u32) {
        let code = u64::from(value) + 1;
        let len = 64 - code.leading_zeros();
        self.bits(len - 1, 0);
        for shift in (0..len).rev() {
            self.flag(code >> shift & 1 == 1);
        }
    }

    /// A signed Exp-Golomb code: se(v).
    pub fn se(&mut self, value: i32) {
        let magnitude = value.unsigned_abs();
        self.ue(if value > 0 { magnitude * 2 - 1 } else { magnitude * 2 });
    }

    /// Bits written so far.
    pub fn position(&self) -> usize {
        self.bit
    }

    /// Zeros to the end of the byte.
    pub fn align(&mut self) {
        while !self.bit.is_multiple_of(8) {
            self.flag(false);
        }
    }

    /// Ends without a stop bit: the length in bits, the rest of the last byte zeros; `None` on overflow.
    pub fn finish_bits(mut self) -> Option<usize> {
        let bits = self.bit;
        self.align();
        (self.bit / 8 <= self.bytes.len()).then_some(bits)
    }

    /// The stop bit and zeros to the end of the byte (7.3.2.11); returns the length in bytes, `None` on overflow.
    pub fn finish(mut self) -> Option<usize> {
        self.flag(true);
        while !self.bit.is_multiple_of(8) {
            self.flag(false);
        }
        (self.bit / 8 <= self.bytes.len()).then_some(self.bit / 8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_golomb_codes_round_trip() {
        let values = [0, 1, 2, 3, 6, 7, 254, 255, 65534, 65535, u32::MAX - 1];
        let mut bytes = [0xaa; 64];
        let mut writer = BitWriter::new(&mut bytes);
        for v in values {
            writer.ue(v);
        }
        writer.bits(5, 0b10110);
        let len = writer.finish().unwrap();
        let mut reader = BitReader::new(&bytes[..len]);
        for v in values {
            assert_eq!(reader.ue(), Some(v));
        }
        assert_eq!(reader.bits(5), Some(0b10110));
        assert_eq!(reader.flag(), Some(true));
    }

    #[test]
    fn signed_codes_follow_table_9_3() {
        // ue codes 0 to 4 mean 0, 1, -1, 2, -2.
        let mut bytes = [0; 8];
        let mut writer = BitWriter::new(&mut bytes);
        (0..5).for_each(|v| writer.ue(v));
        let len = writer.finish().unwrap();
        let mut reader = BitReader::new(&bytes[..len]);
        assert_eq!([(); 5].map(|()| reader.se().unwrap()), [0, 1, -1, 2, -2]);
        let mut bytes = [0; 32];
        let mut writer = BitWriter::new(&mut bytes);
        let values = [0, 1, -1, 2, -2, 26, -26, 32_767, -32_768];
        values.iter().for_each(|&v| writer.se(v));
        let len = writer.finish().unwrap();
        let mut reader = BitReader::new(&bytes[..len]);
        assert_eq!(values.map(|_| reader.se().unwrap()), values);
    }

    #[test]
    fn the_end_is_noticed() {
        assert_eq!(BitReader::new(&[0; 8]).ue(), None);
        assert_eq!(BitReader::new(&[0xff]).bits(9), None);
        let mut small = [0; 1];
        let mut writer = BitWriter::new(&mut small);
        writer.bits(8, 0xff);
        assert_eq!(writer.finish(), None);
    }
}
