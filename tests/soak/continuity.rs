//! RTP as it arrives, checked packet by packet without keeping the stream (RFC 3550 section 5.1).

use std::hash::{DefaultHasher, Hasher as _};
use std::net::SocketAddr;

/// What is wrong with a stream on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Numbers that never came, or came behind a later one.
    pub missing: u64,
    /// Packets that came again with the same bytes: allowed after the death of the sender.
    pub repeated: u64,
    /// Packets that came again with other bytes.
    pub changed: u64,
    /// Packets of another source, payload type or sender's address than the first, or that are no RTP.
    pub foreign: u64,
    /// Access units whose timestamp does not rise, or changes within.
    pub timestamps: u64,
}

impl std::fmt::Display for Faults {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Faults { missing, repeated, changed, foreign, timestamps } = self;
        write!(
            f,
            "{missing} numbers missing, {repeated} packets repeated, {changed} changed, {foreign} of another stream, \
             {timestamps} timestamps wrong"
        )
    }
}

impl Faults {
    /// All but allowed repetitions.
    pub fn total(&self) -> u64 {
        self.missing + self.changed + self.foreign + self.timestamps
    }
}

/// What a packet was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// The next one; the last of its access unit if `ends`.
    New {
        /// Whether it carries the marker.
        ends: bool,
    },
    /// One that came before.
    Again,
    /// One that counts as a fault.
    Wrong,
}

/// The checker.
#[derive(Debug)]
pub struct Continuity {
    /// What was found.
    pub faults: Faults,
    first: Option<(u32, u8, SocketAddr)>,
    /// Extended sequence number of the newest packet.
    highest: u64,
    timestamp: Option<u32>,
    ended: bool,
    /// Hash of each packet of the last half of the number space: what is sent again is compared.
    hashes: Vec<u64>,
}

/// Half of the number space: farther back, a repetition cannot be told from a jump.
const KEPT: u64 = 1 << 15;

impl Continuity {
    /// A stream of which nothing came yet.
    pub fn new() -> Continuity {
        let hashes = vec![0; KEPT as usize];
        Continuity { faults: Faults::default(), first: None, highest: 0, timestamp: None, ended: true, hashes }
    }

    /// The source, once a packet came.
    pub fn ssrc(&self) -> Option<u32> {
        self.first.map(|(ssrc, _, _)| ssrc)
    }

    /// Takes the next datagram.
    pub fn add(&mut self, bytes: &[u8], from: SocketAddr) -> Seen {
        if bytes.len() <= 12 || bytes[0] >> 6 != 2 {
            self.faults.foreign += 1;
            return Seen::Wrong;
        }
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let sequence = u16::from_be_bytes([bytes[2], bytes[3]]);
        let (timestamp, marker) = (word(4), bytes[1] & 128 != 0);
        let identity = (word(8), bytes[1] & 127, from);
        let mut hasher = DefaultHasher::new();
        hasher.write(bytes);
        let hash = hasher.finish();
        let Some(first) = self.first else {
            self.first = Some(identity);
            self.highest = u64::from(sequence) + (1 << 16);
            return self.take(hash, timestamp, marker);
        };
        if identity != first {
            self.faults.foreign += 1;
            return Seen::Wrong;
        }
        let step = i64::from(sequence.wrapping_sub(self.highest as u16) as i16);
        if step <= 0 {
            let index = self.highest.wrapping_add_signed(step);
            return match self.hashes[(index % KEPT) as usize] == hash {
                true => {
                    self.faults.repeated += 1;
                    Seen::Again
                }
                false => {
                    self.faults.changed += 1;
                    Seen::Wrong
                }
            };
        }
        for missing in 1..step as u64 {
            self.faults.missing += 1;
            self.hashes[((self.highest + missing) % KEPT) as usize] = 0;
        }
        self.highest += step as u64;
        self.take(hash, timestamp, marker)
    }

    fn take(&mut self, hash: u64, timestamp: u32, marker: bool) -> Seen {
        self.hashes[(self.highest % KEPT) as usize] = hash;
        if let Some(before) = self.timestamp.replace(timestamp) {
            let step = timestamp.wrapping_sub(before) as i32;
            let fits = if self.ended { step > 0 } else { step == 0 };
            self.faults.timestamps += u64::from(!fits);
        }
        self.ended = marker;
        Seen::New { ends: marker }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u16, timestamp: u32, marker: bool, payload: u8) -> Vec<u8> {
        let mut bytes = vec![0x80, 96 | u8::from(marker) << 7];
        bytes.extend(sequence.to_be_bytes());
        bytes.extend(timestamp.to_be_bytes());
        bytes.extend([0, 0, 0, 7, payload]);
        bytes
    }

    fn from(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    #[test]
    fn a_whole_stream_over_the_wrap_has_no_faults() {
        let mut continuity = Continuity::new();
        assert_eq!(continuity.add(&packet(65534, 5, false, 1), from(9)), Seen::New { ends: false });
        assert_eq!(continuity.add(&packet(65535, 5, true, 2), from(9)), Seen::New { ends: true });
        assert_eq!(continuity.add(&packet(0, 6, true, 3), from(9)), Seen::New { ends: true });
        assert_eq!(continuity.add(&packet(65535, 5, true, 2), from(9)), Seen::Again);
        assert_eq!(continuity.add(&packet(1, 7, true, 3), from(9)), Seen::New { ends: true });
        assert_eq!(continuity.faults, Faults { repeated: 1, ..Faults::default() });
    }

    #[test]
    fn every_kind_of_fault_is_counted() {
        let mut continuity = Continuity::new();
        continuity.add(&packet(10, 5, true, 1), from(9));
        continuity.add(&packet(13, 6, false, 2), from(9)); // two missing
        continuity.add(&packet(14, 7, true, 2), from(9)); // another time within a unit
        continuity.add(&packet(15, 7, true, 2), from(9)); // a unit that does not rise
        continuity.add(&packet(15, 7, true, 9), from(9)); // again and changed
        continuity.add(&packet(12, 6, true, 9), from(9)); // too late to count
        continuity.add(&packet(16, 8, true, 9), from(10)); // another port
        continuity.add(&[0x80; 12], from(9)); // nothing in it
        let expected = Faults { missing: 2, repeated: 0, changed: 2, foreign: 2, timestamps: 2 };
        assert_eq!(continuity.faults, expected);
        assert_eq!(expected.total(), 8);
    }
}
