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

mod constants;

use std::sync::atomic::{AtomicU64, Ordering};

use super::error::SessionError;

pub use constants::Constants;
use constants::check_word;

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
    /// Where sessions of all versions show that something was sent.
    pub const GENERATION: usize = shm_protocol::words::BEGUN_WORD;
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

/// A sound session, read.
struct Found {
    constants: Constants,
    payload_bytes: u32,
    generation: u64,
    record: Record,
    sent: u32,
}

impl Found {
    fn read(words: &impl Words) -> Option<Found> {
        if words.load(word::VERSION) != SESSION_VERSION {
            return None;
        }
        let constants: [u64; CONSTANT_WORDS] = std::array::from_fn(|i| words.load(word::CONSTANTS + i));
        if words.load(word::CONSTANTS_CHECK) != check_word(&constants) {
            return None;
        }
        let constants = Constants::from_words(&constants)?;
        // SYNC: session-record
        let generation = words.load(word::GENERATION);
        let base = word::RECORDS[(generation & 1) as usize];
        let record = Record::from_words(&std::array::from_fn(|i| words.load(base + i)));
        // SYNC: session-progress
        let progress = words.load(word::PROGRESS);
        let sent = if (progress >> 32) as u32 == generation as u32 { progress as u32 } else { 0 };
        let payload_bytes = u32::try_from(words.load(word::PAYLOAD_BYTES)).ok()?;
        // An index above 2^48 has no ROC in SRTP (RFC 3711): no stream of ours comes there, and no count of its access
        // units does either.
        let sound = sent <= record.packets && record.first_index >> 48 == 0 && generation >> 48 == 0;
        sound.then_some(Found { constants, payload_bytes, generation, record, sent })
    }
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
        if let Some(session) = Found::read(&words) {
            let Found { constants, payload_bytes, generation, record, sent } = session;
            let mut session = Session { words, constants, payload_bytes, generation, record, sent };
            // What stands there of another generation counts as 0 now, and must not count once that generation comes.
            session.progress(sent);
            return Ok((session, Resume::Resumed));
        }
        constants.check()?;
        let mut session =
            Session { words, constants, payload_bytes, generation: 0, record: Record::default(), sent: 0 };
        session.create();
        Ok((session, if found == 0 { Resume::Created } else { Resume::Replaced { found } }))
    }

    /// The constants of the stream in `words`, if [`Self::create_or_resume`] would continue one: its ports have to be
    /// bound before.
    pub fn existing(words: &W) -> Option<Constants> {
        (words.count() >= SESSION_WORDS).then(|| Found::read(words)).flatten().map(|found| found.constants)
    }

    fn create(&mut self) {
        // Generation 0 is an empty access unit in front of the first index.
        self.generation = 0;
        self.sent = 0;
        self.record = Record { first_index: self.constants.first_index, ..Record::default() };
        self.store_whole();
    }

    /// Goes on in other words, which get all that this process knows: the ones before were lost.
    ///
    /// # Errors
    /// [`SessionError::Words`] when there are too few; the session stays where it was.
    pub fn move_to(&mut self, words: W) -> Result<(), SessionError> {
        if words.count() < SESSION_WORDS {
            return Err(SessionError::Words { found: words.count(), needed: SESSION_WORDS });
        }
        self.words = words;
        self.store_whole();
        Ok(())
    }

    fn store_whole(&mut self) {
        // Not a session until the version is there: a process that dies in here leaves none.
        self.words.store(word::VERSION, 0);
        let constants = self.constants.to_words();
        for (index, value) in constants.iter().enumerate() {
            self.words.store(word::CONSTANTS + index, *value);
        }
        self.words.store(word::CONSTANTS_CHECK, check_word(&constants));
        self.words.store(word::PAYLOAD_BYTES, u64::from(self.payload_bytes));
        self.store_record(self.generation, self.record);
        self.words.store(word::GENERATION, self.generation);
        self.progress(self.sent);
        self.words.store(word::VERSION, SESSION_VERSION);
    }

    fn store_record(&mut self, generation: u64, record: Record) {
        let base = word::RECORDS[(generation & 1) as usize];
        for (index, value) in record.to_words().into_iter().enumerate() {
            self.words.store(base + index, value);
        }
    }

    /// Where it is kept.
    pub fn words(&self) -> &W {
        &self.words
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
            burned_before: totals.burned.wrapping_add(u64::from(self.record.packets - self.sent)),
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

    /// Names the access unit begun last, also in another session of other constants.
    pub fn stamp(&self) -> u64 {
        u64::from(self.constants.ssrc) << 32 | self.generation & 0xffff_ffff
    }

    /// What the operating system noted of a predecessor's last batch: so many packets of the access unit of that
    /// stamp were on the wire when it died. More is never taken back, and another access unit's note says nothing.
    pub fn sent_by_predecessor(&mut self, stamp: u64, packets: u32) {
        if stamp == self.stamp() && (self.sent..=self.record.packets).contains(&packets) {
            self.progress(packets);
        }
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

    /// RTP timestamp of the next access unit, captured at `capture_ns`: later than that of the one before. Packets of
    /// one timestamp belong to one access unit (RFC 6184 section 5.1), and a source that does not wait for a clock
    /// gives frames less than a tick apart.
    pub fn next_timestamp(&self, capture_ns: u64) -> u32 {
        /// How far behind its predecessor a frame may lie to be moved past it, ticks of 90 kHz. Frames come in the
        /// order of their capture; what seems further behind is 2^31 ticks ahead.
        const SLACK_TICKS: u32 = 90_000;
        let own = self.rtp_timestamp(capture_ns);
        let behind = self.record.rtp_ts.wrapping_sub(own);
        if self.generation > 0 && behind < SLACK_TICKS { self.record.rtp_ts.wrapping_add(1) } else { own }
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
