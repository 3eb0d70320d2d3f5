//! RTP packets back to H.264 access units (RFC 6184), written without a look at the sender's code.

use crate::wire::Packet;

/// NAL units of one access unit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Unit {
    /// RTP timestamp.
    pub timestamp: u32,
    /// The NAL units without start codes.
    pub nals: Vec<Vec<u8>>,
}

/// Types of NAL units (ITU-T H.264 Table 7-1).
pub mod nal {
    /// Coded slice of an IDR picture.
    pub const IDR: u8 = 5;
    /// Sequence parameter set.
    pub const SPS: u8 = 7;
    /// Picture parameter set.
    pub const PPS: u8 = 8;
    /// Access unit delimiter.
    pub const DELIMITER: u8 = 9;
}

/// Type of a NAL unit.
pub fn nal_type(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |byte| byte & 31)
}

impl Unit {
    /// Whether it is an IDR picture.
    pub fn is_idr(&self) -> bool {
        self.nals.iter().any(|bytes| nal_type(bytes) == nal::IDR)
    }

    /// Byte-stream format (Annex B).
    pub fn annex_b(&self) -> Vec<u8> {
        self.nals.iter().flat_map(|bytes| [&[0, 0, 0, 1], bytes.as_slice()].concat()).collect()
    }
}

/// Makes access units of packets in order.
///
/// # Panics
/// On a payload that RFC 6184 does not allow, which names the packet.
pub fn units(packets: &[&Packet]) -> Vec<Unit> {
    let mut made = Vec::new();
    let mut unit = Unit::default();
    let mut fragment: Option<Vec<u8>> = None;
    for packet in packets {
        let payload = &packet.payload;
        let what = || format!("packet {}", packet.sequence);
        assert!(!payload.is_empty() && payload[0] & 128 == 0, "{}", what());
        unit.timestamp = packet.timestamp;
        match payload[0] & 31 {
            1..=23 => unit.nals.push(payload.clone()),
            24 => {
                let mut rest = &payload[1..];
                while !rest.is_empty() {
                    let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
                    assert!(length > 0 && 2 + length <= rest.len(), "STAP-A of {}", what());
                    unit.nals.push(rest[2..2 + length].to_vec());
                    rest = &rest[2 + length..];
                }
            }
            28 => {
                let (start, end) = (payload[1] & 128 != 0, payload[1] & 64 != 0);
                assert!(!(start && end) && start == fragment.is_none(), "FU-A of {}", what());
                let whole = fragment.get_or_insert_with(|| vec![payload[0] & 0xE0 | payload[1] & 31]);
                whole.extend_from_slice(&payload[2..]);
                if end {
                    unit.nals.extend(fragment.take());
                }
            }
            other => panic!("{} has payload structure {other}", what()),
        }
        if packet.marker {
            assert!(fragment.is_none(), "{} ends an access unit within a NAL unit", what());
            made.push(std::mem::take(&mut unit));
        }
    }
    made
}

/// Splits an Annex-B stream at its start codes.
pub fn split_annex_b(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut starts = Vec::new();
    let mut at = 0;
    while at + 3 <= stream.len() {
        if stream[at..at + 3] == [0, 0, 1] {
            starts.push(at);
            at += 3;
        } else {
            at += 1;
        }
    }
    let ends = starts.iter().copied().skip(1).chain([stream.len()]);
    let nals = starts.iter().zip(ends).map(|(start, end)| {
        let bytes = &stream[start + 3..end];
        // A NAL unit never ends in a zero byte: those belong to the next start code.
        let length = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        bytes[..length].to_vec()
    });
    nals.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(payload: &[u8], marker: bool) -> Packet {
        let at = std::time::Instant::now();
        Packet { at, sequence: 0, timestamp: 9, ssrc: 1, payload_type: 96, marker, payload: payload.to_vec() }
    }

    #[test]
    fn single_aggregated_and_fragmented_units_come_back() {
        let packets = [
            packet(&[24, 0, 2, 9, 240, 0, 1, 7], false),
            packet(&[0x7C, 0x85, 1, 2], false),
            packet(&[0x7C, 0x45, 3], true),
            packet(&[0x61, 4], true),
        ];
        let made = units(&packets.iter().collect::<Vec<_>>());
        assert_eq!(made[0].nals, [vec![9, 240], vec![7], vec![0x65, 1, 2, 3]]);
        assert_eq!((made.len(), made[0].is_idr(), made[1].is_idr()), (2, true, false));
        assert_eq!(split_annex_b(&made[0].annex_b()), made[0].nals);
    }
}
