//! The sending state that outlives the process: a restarted sender goes on with the same RTP stream.
//!
//! The state is a row of 64-bit words, so that it can lie in a shared-memory segment. One process writes it at a time;
//! the next one reads it after that process's death, at whichever store it came to.
//!
//! Per access unit (the steps are named as in the protocol):
//! - D1: packetise; the number of packets n is known before the first is sent.
//! - D2: write `record[(generation + 1) & 1]`, then store the generation. From here on n packet indices belong to it.
//! - D3: after each batch store `progress = {generation, sent}`.
//! - D4: `sent == n`: the access unit is done.
//!
//! A packet index is ROC << 16 | sequence number (RFC 3711 section 3.3.1). The same index always means the same bytes.

use std::sync::atomic::{AtomicU64, Ordering};

use super::error::SessionError;

/// Words of the session.
pub const SESSION_WORDS: usize = 40;
/// `QUADSES` and the version of the layout below in the lowest byte. Versioned apart from the rings, so that a stream
/// survives the replacement of everything else.
pub const SESSION_VERSION: u64 = 0x5155_4144_5345_5301;
/// Longest CNAME, bytes.
pub const MAX_CNAME_BYTES: usize = 32;

/// Where things are, in words.
mod word {
    pub const VERSION: usize = 0;
    pub const CONSTANTS: usize = 1;
    pub const CONSTANTS_CHECK: usize = 12;
    pub const PAYLOAD_BYTES: usize = 13;
    pub const GENERATION: usize = 16;
    pub const PROGRESS: usize = 17;
    pub const RECORDS: [usize; 2] = [20, 30];
}
const CONSTANT_WORDS: usize = word::CONSTANTS_CHECK - word::CONSTANTS;
const RECORD_WORDS: usize = 10;

/// Storage of the session. The stores are the steps at which a process may die.
pub trait Words {
    /// How many words there are.
    fn count(&self) -> usize;
    /// Reads word `index`.
    fn load(&self, index: usize) -> u64;
    /// Writes word `index`, after everything written before it.
    fn store(&mut self, index: usize, value: u64);
}

impl Words for &[AtomicU64] {
    fn count(&self) -> usize {
        self.len()
    }

    fn load(&self, index: usize) -> u64 {
        self[index].load(Ordering::Acquire)
    }

    // Release throughout: the words are few, and on x86-64 a release store is a plain one.
    fn store(&mut self, index: usize, value: u64) {
        self[index].store(value, Ordering::Release);
    }
}

/// What stays the same for the whole life of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Constants {
    /// Synchronisation source (RFC 3550 section 3).
    pub ssrc: u32,
    /// RTP timestamp of CLOCK_MONOTONIC 0.
    pub ts_offset: u32,
    /// Index of the very first packet: a random sequence number below 2^15 (RFC 3711 section 3.3.1).
    pub first_index: u64,
    /// Payload type, 0–127.
    pub payload_type: u8,
    /// Source port of RTP.
    pub source_port: u16,
    /// Source port of RTCP.
    pub rtcp_port: u16,
    /// Canonical name (RFC 7022), 1 to [`MAX_CNAME_BYTES`] bytes of printable ASCII.
    pub cname: String,
    /// Which SRTP key the stream uses; 0 = none.
    pub key_reference: u64,
    /// CLOCK_REALTIME minus CLOCK_MONOTONIC at the start, nanoseconds: it fixes the NTP side of sender reports, so
    /// that a step of the wall clock does not tear audio from video.
    pub real_minus_monotonic_ns: i64,
}

impl Constants {
    /// Fresh random values (RFC 3550 section 8.1, RFC 7022 section 4.2) for a stream that begins now.
    ///
    /// # Errors
    /// [`SessionError::Random`] when the system gives no random numbers.
    pub fn random(
        payload_type: u8,
        source_port: u16,
        rtcp_port: u16,
        real_minus_monotonic_ns: i64,
    ) -> Result<Constants, SessionError> {
        use base64::Engine as _;
        use std::io::Read as _;
        let mut bytes = [0u8; 24];
        std::fs::File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut bytes)).map_err(SessionError::Random)?;
        let word = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        Ok(Constants {
            ssrc: word(0),
            ts_offset: word(4),
            first_index: u64::from(word(8) & 0x7fff),
            payload_type,
            source_port,
            rtcp_port,
            cname: base64::engine::general_purpose::STANDARD.encode(&bytes[12..24]), // 96 bits, 16 characters
            key_reference: 0,
            real_minus_monotonic_ns,
        })
    }

    fn check(&self) -> Result<(), SessionError> {
        let printable = self.cname.bytes().all(|b| (0x21..0x7f).contains(&b));
        if self.cname.is_empty() || self.cname.len() > MAX_CNAME_BYTES || !printable {
            return Err(SessionError::Cname(self.cname.clone()));
        }
        if self.payload_type > 127 {
            return Err(SessionError::PayloadType(self.payload_type));
        }
        Ok(())
    }

    fn to_words(&self) -> [u64; CONSTANT_WORDS] {
        let mut cname = [0u8; MAX_CNAME_BYTES];
        cname[..self.cname.len()].copy_from_slice(self.cname.as_bytes());
        let mut words = [0u64; CONSTANT_WORDS];
        words[0] = u64::from(self.ssrc) << 32 | u64::from(self.ts_offset);
        words[1] = self.first_index;
        words[2] = u64::from(self.payload_type) << 48
            | u64::from(self.source_port) << 32
            | u64::from(self.rtcp_port) << 16
            | self.cname.len() as u64;
        words[3] = self.key_reference;
        words[4] = self.real_minus_monotonic_ns as u64;
        for (word, bytes) in words[5..9].iter_mut().zip(cname.chunks_exact(8)) {
            *word = bytes.iter().fold(0, |value, b| value << 8 | u64::from(*b));
        }
        words
    }

    fn from_words(words: &[u64; CONSTANT_WORDS]) -> Option<Constants> {
        let cname_len = (words[2] & 0xffff) as usize;
        let cname: Vec<u8> = words[5..9].iter().flat_map(|w| w.to_be_bytes()).take(cname_len).collect();
        let constants = Constants {
            ssrc: (words[0] >> 32) as u32,
            ts_offset: words[0] as u32,
            first_index: words[1],
            payload_type: (words[2] >> 48) as u8,
            source_port: (words[2] >> 32) as u16,
            rtcp_port: (words[2] >> 16) as u16,
            cname: String::from_utf8(cname).ok()?,
            key_reference: words[3],
            real_minus_monotonic_ns: words[4] as i64,
        };
        (constants.cname.len() == cname_len && constants.check().is_ok()).then_some(constants)
    }
}

/// A check sum that all-zero and stray words do not pass.
fn check_word(words: &[u64; CONSTANT_WORDS]) -> u64 {
    let mut crc = crc32fast::Hasher::new();
    for word in words {
        crc.update(&word.to_le_bytes());
    }
    u64::from(crc.finalize()) | 0x5345_5353 << 32
}

/// One access unit in the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Record {
    /// Key of the access unit: frame id and sub-index, strictly rising.
    pub key: (u64, u64),
    /// CRC-32 of its bytes.
    pub crc: u32,
    /// Packets it has.
    pub packets: u32,
    /// Index of its first packet.
    pub first_index: u64,
    /// Its RTP timestamp.
    pub rtp_ts: u32,
    /// Packets of the stream sent before it.
    pub packets_before: u64,
    /// Payload octets of the stream sent before it.
    pub octets_before: u64,
    /// Payload octets it has.
    pub octets: u64,
    /// Indices of the stream burned before it.
    pub burned_before: u64,
}

impl Record {
    fn to_words(self) -> [u64; RECORD_WORDS] {
        [
            self.key.0,
            self.key.1,
            u64::from(self.crc) << 32 | u64::from(self.packets),
            self.first_index,
            u64::from(self.rtp_ts),
            self.packets_before,
            self.octets_before,
            self.octets,
            self.burned_before,
            0,
        ]
    }

    fn from_words(words: &[u64; RECORD_WORDS]) -> Record {
        Record {
            key: (words[0], words[1]),
            crc: (words[2] >> 32) as u32,
            packets: words[2] as u32,
            first_index: words[3],
            rtp_ts: words[4] as u32,
            packets_before: words[5],
            octets_before: words[6],
            octets: words[7],
            burned_before: words[8],
        }
    }
}

/// What was found where the session lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resume {
    /// Nothing: a new stream.
    Created,
    /// A stream, continued.
    Resumed,
    /// Something this build cannot continue (another version, or damage): a new stream with a new SSRC took its place.
    Replaced {
        /// The version word found.
        found: u64,
    },
}

/// Where an access unit stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResumePoint {
    /// Not begun: [`Session::begin`] it.
    New,
    /// Begun with the same bytes: go on with packet `sent`.
    Continue {
        /// Index of its packet 0.
        first_index: u64,
        /// Packets known to be sent.
        sent: u32,
        /// Its RTP timestamp.
        rtp_ts: u32,
    },
    /// An unfinished access unit cannot be finished (it is gone, or its bytes differ): its indices will not be used
    /// again, and the next [`Session::begin`] skips them. Ask for an IDR.
    Burn {
        /// Index of the first burned packet.
        first_index: u64,
        /// Indices burned.
        packets: u32,
        /// Of these, packets known to be sent.
        sent: u32,
    },
    /// Sent completely before: release it.
    Done,
}

/// Totals of the stream since its first packet, over all processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Packets sent (a packet sent again after a restart counts once).
    pub packets: u64,
    /// Payload octets sent. For burned access units: in proportion to the packets sent.
    pub octets: u64,
    /// Indices burned.
    pub burned: u64,
}

/// The session over its words. See the module's description for the steps.
#[derive(Debug)]
pub struct Session<W> {
    words: W,
    constants: Constants,
    payload_bytes: u32,
    generation: u64,
    record: Record,
    sent: u32,
}

impl<W: Words> Session<W> {
    /// Continues the stream in `words`, or begins one with `constants` and `payload_bytes`.
    ///
    /// # Errors
    /// [`SessionError::Words`] when there are too few, and for constants that are out of range.
    pub fn create_or_resume(
        words: W,
        constants: Constants,
        payload_bytes: u32,
    ) -> Result<(Session<W>, Resume), SessionError> {
        if words.count() < SESSION_WORDS {
            return Err(SessionError::Words { found: words.count(), needed: SESSION_WORDS });
        }
        let found = words.load(word::VERSION);
        let mut session =
            Session { words, constants, payload_bytes, generation: 0, record: Record::default(), sent: 0 };
        if found == SESSION_VERSION && session.load() {
            return Ok((session, Resume::Resumed));
        }
        session.constants.check()?;
        session.payload_bytes = payload_bytes;
        session.create();
        Ok((session, if found == 0 { Resume::Created } else { Resume::Replaced { found } }))
    }

    fn create(&mut self) {
        // Not a session until the version is there: a process that dies in here has sent nothing.
        self.words.store(word::VERSION, 0);
        let constants = self.constants.to_words();
        for (index, value) in constants.iter().enumerate() {
            self.words.store(word::CONSTANTS + index, *value);
        }
        self.words.store(word::CONSTANTS_CHECK, check_word(&constants));
        self.words.store(word::PAYLOAD_BYTES, u64::from(self.payload_bytes));
        // Generation 0 is an empty access unit in front of the first index.
        self.generation = 0;
        self.sent = 0;
        self.record = Record { first_index: self.constants.first_index, ..Record::default() };
        self.store_record(0, self.record);
        self.words.store(word::GENERATION, 0);
        self.words.store(word::PROGRESS, 0);
        self.words.store(word::VERSION, SESSION_VERSION);
    }

    /// Reads everything; false when it is no sound session.
    fn load(&mut self) -> bool {
        let constants: [u64; CONSTANT_WORDS] = std::array::from_fn(|i| self.words.load(word::CONSTANTS + i));
        if self.words.load(word::CONSTANTS_CHECK) != check_word(&constants) {
            return false;
        }
        let Some(constants) = Constants::from_words(&constants) else { return false };
        let generation = self.words.load(word::GENERATION);
        let base = word::RECORDS[(generation & 1) as usize];
        let record = Record::from_words(&std::array::from_fn(|i| self.words.load(base + i)));
        let progress = self.words.load(word::PROGRESS);
        let sent = if (progress >> 32) as u32 == generation as u32 { progress as u32 } else { 0 };
        let payload_bytes = self.words.load(word::PAYLOAD_BYTES);
        // An index above 2^48 has no ROC in SRTP (RFC 3711): no stream of ours comes there.
        if sent > record.packets || record.first_index >> 48 != 0 || payload_bytes > u64::from(u32::MAX) {
            return false;
        }
        self.constants = constants;
        self.payload_bytes = payload_bytes as u32;
        self.generation = generation;
        self.record = record;
        self.sent = sent;
        true
    }

    fn store_record(&mut self, generation: u64, record: Record) {
        let base = word::RECORDS[(generation & 1) as usize];
        for (index, value) in record.to_words().into_iter().enumerate() {
            self.words.store(base + index, value);
        }
    }

    /// What stays the same.
    pub fn constants(&self) -> &Constants {
        &self.constants
    }

    /// Payload size in force, bytes.
    pub fn payload_bytes(&self) -> u32 {
        self.payload_bytes
    }

    /// Takes another payload size into force; false, and nothing changes, while an access unit is unfinished (its
    /// packets could not be made again).
    pub fn set_payload_bytes(&mut self, bytes: u32) -> bool {
        if !self.is_done() {
            return false;
        }
        if self.payload_bytes != bytes {
            self.payload_bytes = bytes;
            self.words.store(word::PAYLOAD_BYTES, u64::from(bytes));
        }
        true
    }

    /// Whether the access unit begun last is sent completely.
    pub fn is_done(&self) -> bool {
        self.sent == self.record.packets
    }

    /// Key of the last access unit that is sent completely, if it is the one begun last.
    pub fn last_done_key(&self) -> Option<(u64, u64)> {
        (self.generation > 0 && self.is_done()).then_some(self.record.key)
    }

    /// The access unit begun last.
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// Packets of it that are sent.
    pub fn sent(&self) -> u32 {
        self.sent
    }

    /// Where the access unit of `key` with these bytes and packets stands.
    pub fn resume_point(&self, key: (u64, u64), crc: u32, packets: u32) -> ResumePoint {
        let Record { first_index, rtp_ts, .. } = self.record;
        if self.generation == 0 {
            return ResumePoint::New;
        }
        if key < self.record.key {
            return ResumePoint::Done; // keys rise, so it was finished or given up before this one began
        }
        if self.is_done() {
            return if key == self.record.key { ResumePoint::Done } else { ResumePoint::New };
        }
        if key == self.record.key && crc == self.record.crc && packets == self.record.packets {
            return ResumePoint::Continue { first_index, sent: self.sent, rtp_ts };
        }
        ResumePoint::Burn { first_index, packets: self.record.packets, sent: self.sent }
    }

    /// D2: gives `packets` indices to the access unit and returns the first. Indices of an unfinished predecessor are
    /// burned: skipped and counted.
    pub fn begin(&mut self, key: (u64, u64), crc: u32, packets: u32, octets: u64, rtp_ts: u32) -> u64 {
        let totals = self.totals();
        let record = Record {
            key,
            crc,
            packets,
            first_index: self.next_index(),
            rtp_ts,
            packets_before: totals.packets,
            octets_before: totals.octets,
            octets,
            burned_before: totals.burned + u64::from(self.record.packets - self.sent),
        };
        // SYNC: session-record: the record is whole before the generation makes it the one in force.
        self.store_record(self.generation + 1, record);
        self.words.store(word::GENERATION, self.generation + 1);
        self.generation += 1;
        self.record = record;
        self.sent = 0;
        record.first_index
    }

    /// D3: the first `sent` packets of the access unit are on the wire.
    pub fn progress(&mut self, sent: u32) {
        self.sent = sent.min(self.record.packets);
        // SYNC: session-progress: carries its generation, so that a stale word counts as 0.
        self.words.store(word::PROGRESS, (self.generation & 0xffff_ffff) << 32 | u64::from(self.sent));
    }

    /// D4: everything is on the wire; the access unit may be released.
    pub fn finish(&mut self) {
        if !self.is_done() {
            self.progress(self.record.packets);
        }
    }

    /// Index that the next access unit begins with.
    pub fn next_index(&self) -> u64 {
        self.record.first_index + u64::from(self.record.packets)
    }

    /// Totals over the whole life of the stream, for sender reports and metrics.
    pub fn totals(&self) -> Totals {
        let Record { packets, octets, packets_before, octets_before, burned_before, .. } = self.record;
        let share = match packets {
            0 => 0,
            n => (u128::from(octets) * u128::from(self.sent) / u128::from(n)) as u64,
        };
        Totals {
            packets: packets_before.wrapping_add(u64::from(self.sent)),
            octets: octets_before.wrapping_add(share),
            burned: burned_before,
        }
    }

    /// RTP timestamp of a CLOCK_MONOTONIC time.
    pub fn rtp_timestamp(&self, monotonic_ns: u64) -> u32 {
        rtp_timestamp(self.constants.ts_offset, monotonic_ns)
    }
}

/// `ts_offset` + time × 90 kHz (RFC 6184 section 5.1), modulo 2^32, without rounding drift.
pub fn rtp_timestamp(ts_offset: u32, monotonic_ns: u64) -> u32 {
    let ticks = u128::from(monotonic_ns) * 90_000 / 1_000_000_000;
    ts_offset.wrapping_add(ticks as u32)
}

#[cfg(test)]
#[path = "session/tests.rs"]
mod tests;
