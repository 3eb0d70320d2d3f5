//! Annex B byte streams (ITU-T H.264 Annex B) and emulation prevention (7.4.1.1).

/// Iterates over the NAL units of an Annex B byte stream, each with the start code before it.
///
/// Start codes have three or four bytes; a zero byte before a three-byte start code belongs to the start code.
#[derive(Debug, Clone)]
pub struct NalUnits<'a> {
    stream: &'a [u8],
    at: usize,
}

/// One NAL unit within its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NalUnit<'a> {
    /// First byte of its start code, from the start of the stream.
    pub offset: usize,
    /// Start code and NAL unit.
    pub with_start_code: &'a [u8],
    /// NAL unit: header byte and payload, with emulation prevention, without trailing zeros.
    pub nal: &'a [u8],
}

/// The NAL units of `stream`. Bytes before the first start code are skipped.
pub fn nal_units(stream: &[u8]) -> NalUnits<'_> {
    let at = find_start_code(stream, 0).map_or(stream.len(), |(start, _)| start);
    NalUnits { stream, at }
}

/// Where the next start code begins (its optional leading zero included) and how long it is.
fn find_start_code(stream: &[u8], from: usize) -> Option<(usize, usize)> {
    let mut at = from;
    while at + 3 <= stream.len() {
        // Look at the third byte first: only 0 and 1 can belong to a start code, so three bytes are passed at once.
        match stream[at + 2] {
            1 if stream[at] == 0 && stream[at + 1] == 0 => {
                let long = at > from && stream[at - 1] == 0;
                return Some(if long { (at - 1, 4) } else { (at, 3) });
            }
            0 => at += 1,
            _ => at += 3,
        }
    }
    None
}

impl<'a> Iterator for NalUnits<'a> {
    type Item = NalUnit<'a>;

    fn next(&mut self) -> Option<NalUnit<'a>> {
        let (offset, code_len) = find_start_code(self.stream, self.at)?;
        let begin = offset + code_len;
        let end = find_start_code(self.stream, begin).map_or(self.stream.len(), |(start, _)| start);
        self.at = end;
        let body = &self.stream[begin..end];
        let used = body.iter().rposition(|&b| b != 0).map_or(0, |last| last + 1);
        Some(NalUnit { offset, with_start_code: &self.stream[offset..end], nal: &body[..used] })
    }
}

/// Removes emulation prevention: the payload of `ebsp` goes to the front of `rbsp`; returns how many bytes fit.
pub fn unescape(ebsp: &[u8], rbsp: &mut [u8]) -> usize {
    let (mut len, mut zeros) = (0, 0);
    for &byte in ebsp {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        if len == rbsp.len() {
            break;
        }
        rbsp[len] = byte;
        len += 1;
        zeros = if byte == 0 { zeros + 1 } else { 0 };
    }
    len
}

/// Adds emulation prevention; `None` when `ebsp` is too small (3/2 of the payload always does).
pub fn escape(rbsp: &[u8], ebsp: &mut [u8]) -> Option<usize> {
    let (mut len, mut zeros) = (0, 0);
    let mut put = |byte: u8| -> Option<()> {
        *ebsp.get_mut(len)? = byte;
        len += 1;
        Some(())
    };
    for &byte in rbsp {
        if zeros >= 2 && byte <= 3 {
            put(3)?;
            zeros = 0;
        }
        put(byte)?;
        zeros = if byte == 0 { zeros + 1 } else { 0 };
    }
    Some(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_codes_of_three_and_four_bytes_are_found() {
        let stream = [9, 0, 0, 0, 1, 0x67, 5, 0, 0, 1, 0x68, 6, 0, 0, 0, 1, 0x65, 7, 0, 0, 3, 1];
        let seen: Vec<_> = nal_units(&stream).map(|n| (n.offset, n.nal.to_vec())).collect();
        assert_eq!(seen, [(1, vec![0x67, 5]), (7, vec![0x68, 6]), (12, vec![0x65, 7, 0, 0, 3, 1])]);
        let whole: usize = nal_units(&stream).map(|n| n.with_start_code.len()).sum();
        assert_eq!(whole + 1, stream.len());
    }

    #[test]
    fn streams_without_nal_units_have_none() {
        for stream in [&[][..], &[0], &[0, 0], &[0, 0, 0], &[1, 2, 3, 4], &[0, 0, 2, 0, 0]] {
            assert_eq!(nal_units(stream).count(), 0, "{stream:?}");
        }
        assert_eq!(nal_units(&[0, 0, 1]).next().map(|n| n.nal.len()), Some(0));
    }

    #[test]
    fn emulation_prevention_round_trips() {
        for rbsp in
            [&[0, 0, 0, 0, 0][..], &[0, 0, 1], &[0, 0, 2, 0, 0, 3], &[1, 2, 3], &[0, 0, 4], &[0, 1, 0, 0, 0, 1, 0, 0]]
        {
            let mut ebsp = [0xff; 32];
            let len = escape(rbsp, &mut ebsp).unwrap();
            assert!(ebsp[..len].windows(3).all(|w| !(w[0] == 0 && w[1] == 0 && w[2] < 3)), "{rbsp:?}");
            let mut back = [0xff; 32];
            let back_len = unescape(&ebsp[..len], &mut back);
            assert_eq!(&back[..back_len], rbsp);
        }
        assert_eq!(escape(&[0, 0, 0], &mut [0; 3]), None);
    }
}
