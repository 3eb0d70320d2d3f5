//! Where the operating system itself notes what it has sent, in memory that outlives the process.
//!
//! A sender that is killed between sending a packet and noting it leaves its successor in doubt. To send again is not
//! harmless: FFmpeg takes a repetition of the very last packet for a new one (libavformat/rtpdec.c, `diff <= 1`) and
//! decodes it twice. sendmmsg(2) ends the doubt: it writes `msg_len` of each message once that message is out, within
//! the same system call, where no SIGKILL comes between. Here the array of messages lies in shared memory, so that the
//! successor reads from it how far the last call came.
#![expect(unsafe_code, reason = "the operating system writes into an array in shared memory")]

use super::MAX_BATCH_PACKETS;
use shm_protocol::words::Words;
use std::mem::size_of;
use std::sync::atomic::{AtomicU64, Ordering};

/// Where things are, in words. The messages come last, an array that the system knows.
mod word {
    pub const STAMP: usize = 0;
    pub const FIRST_PACKET: usize = 1;
    /// Messages of the batch; 0 while it is being laid out.
    pub const MESSAGES: usize = 2;
    pub const PACKETS: usize = 8;
    pub const HEADERS: usize = PACKETS + super::MAX_BATCH_PACKETS;
}
const HEADER_WORDS: usize = size_of::<libc::mmsghdr>() / size_of::<u64>();
/// Words of an outbox.
pub const OUTBOX_WORDS: usize = word::HEADERS + MAX_BATCH_PACKETS * HEADER_WORDS;
const _: () = assert!(size_of::<libc::mmsghdr>().is_multiple_of(size_of::<u64>()));
const _: () = assert!(align_of::<libc::mmsghdr>() <= align_of::<AtomicU64>());

/// The memory. One process writes it at a time; the next one reads it after that one's death.
#[derive(Debug)]
pub struct Outbox {
    words: Words,
    stamp: u64,
    first_packet: u32,
}

impl Outbox {
    /// Over [`OUTBOX_WORDS`] words, at least. `None`: there are fewer.
    pub fn new(words: Words) -> Option<Outbox> {
        (words.len() >= OUTBOX_WORDS).then_some(Outbox { words, stamp: 0, first_packet: 0 })
    }

    /// The object it lies in.
    pub fn object(&self) -> &Words {
        &self.words
    }

    /// What a predecessor's last batch was stamped with, and how many packets of its access unit were out by then:
    /// all before the batch, and those of it that the system sent. `None`: no batch, or numbers that none has.
    pub fn sent(&self) -> Option<(u64, u32)> {
        let load = |index: usize| self.words[index].load(Ordering::Acquire);
        // SYNC: outbox-batch (acquire side).
        let messages = load(word::MESSAGES);
        if messages == 0 || messages > MAX_BATCH_PACKETS as u64 {
            return None;
        }
        let mut packets = load(word::FIRST_PACKET);
        for message in (0..messages as usize).take_while(|message| self.message_bytes(*message) > 0) {
            packets = packets.checked_add(load(word::PACKETS + message))?;
        }
        Some((load(word::STAMP), u32::try_from(packets).ok()?))
    }

    /// Where message `message` lies. Those behind it may be reached from there.
    fn header(&self, message: usize) -> *mut libc::mmsghdr {
        assert!(message < MAX_BATCH_PACKETS);
        // Made of all words rather than of one: a header is several, and others follow it.
        self.words.as_ptr().wrapping_add(word::HEADERS + message * HEADER_WORDS).cast_mut().cast()
    }

    fn message_bytes(&self, message: usize) -> u32 {
        // SAFETY: `header` points at a whole mmsghdr within the mapped words (OUTBOX_WORDS at least, checked at `new`,
        // are room for MAX_BATCH_PACKETS of them), made of a pointer to all of these, aligned as asserted above; any
        // bits are a valid u32. The words are atomics, so memory behind a shared reference to them may change; only
        // this process and the system write it.
        unsafe { (&raw const (*self.header(message)).msg_len).read_volatile() }
    }

    /// Says which access unit the next batch belongs to and with which of its packets it begins.
    pub fn stamp(&mut self, stamp: u64, first_packet: u32) {
        (self.stamp, self.first_packet) = (stamp, first_packet);
    }

    /// Lays out messages that carry so many packets each, `skipped` packets behind what was stamped, and returns where
    /// the system is to find them. More than a batch has are left out.
    pub(super) fn lay_out(
        &mut self,
        messages: &[libc::mmsghdr],
        packets: impl Iterator<Item = usize>,
        skipped: usize,
    ) -> *mut libc::mmsghdr {
        let messages = &messages[..messages.len().min(MAX_BATCH_PACKETS)];
        let store = |index: usize, value: u64| self.words[index].store(value, Ordering::Release);
        store(word::MESSAGES, 0);
        for ((index, message), packets) in messages.iter().enumerate().zip(packets) {
            store(word::PACKETS + index, packets as u64);
            // SAFETY: as in `message_bytes`, and writable, for atomics are; plain data is copied over plain data, nobody
            // reads it meanwhile. The pointers in it mean something to this process alone and are used by its system
            // calls alone.
            unsafe { self.header(index).write(libc::mmsghdr { msg_len: 0, ..*message }) };
        }
        store(word::STAMP, self.stamp);
        store(word::FIRST_PACKET, u64::from(self.first_packet) + skipped as u64);
        // SYNC: outbox-batch: a successor sees either no batch or a whole one.
        store(word::MESSAGES, messages.len() as u64);
        self.header(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm_protocol::names;

    /// An object of its own, gone with the test.
    struct Object(String);

    impl Object {
        fn new(label: &str) -> Object {
            Object(names::session(&format!("outbox-{label}-{}", std::process::id()), "net.main"))
        }

        fn open(&self) -> Outbox {
            Outbox::new(Words::open(&self.0, OUTBOX_WORDS).unwrap()).unwrap()
        }
    }

    impl Drop for Object {
        fn drop(&mut self) {
            names::unlink(&self.0);
        }
    }

    fn messages(count: usize) -> Vec<libc::mmsghdr> {
        // SAFETY: plain data for which all zeros is a valid value.
        (0..count).map(|_| unsafe { std::mem::zeroed() }).collect()
    }

    #[test]
    fn a_successor_sees_how_far_the_system_came() {
        let object = Object::new("far");
        let mut outbox = object.open();
        assert_eq!(outbox.sent(), None);
        outbox.stamp(77, 10);
        let headers = outbox.lay_out(&messages(3), [4, 4, 1].into_iter(), 2);
        assert_eq!(object.open().sent(), Some((77, 12)), "nothing of the batch");
        for (message, expected) in [(0, 16), (1, 20), (2, 21)] {
            // SAFETY: one of the three messages laid out.
            unsafe { (*headers.add(message)).msg_len = 1 };
            assert_eq!(object.open().sent(), Some((77, expected)));
        }
        outbox.stamp(78, 0);
        outbox.lay_out(&messages(1), [1].into_iter(), 0);
        assert_eq!(object.open().sent(), Some((78, 0)), "the lengths of the batch before are gone");
    }

    #[test]
    fn a_batch_that_is_being_laid_out_is_none() {
        let object = Object::new("half");
        let mut outbox = object.open();
        outbox.stamp(5, 0);
        outbox.lay_out(&messages(2), [1, 1].into_iter(), 0);
        outbox.words[word::MESSAGES].store(0, Ordering::Release);
        assert_eq!(object.open().sent(), None);
        outbox.words[word::MESSAGES].store(9999, Ordering::Release);
        assert_eq!(object.open().sent(), None, "damage");
    }

    #[test]
    fn a_note_overwritten_with_garbage_is_none_and_no_overflow() {
        let object = Object::new("garbage");
        let mut outbox = object.open();
        let noted = |outbox: &mut Outbox| {
            outbox.stamp(5, 10);
            let headers = outbox.lay_out(&messages(2), [3, 4].into_iter(), 0);
            for message in 0..2 {
                // SAFETY: one of the two messages laid out.
                unsafe { (*headers.add(message)).msg_len = 1 };
            }
        };
        noted(&mut outbox);
        assert_eq!(object.open().sent(), Some((5, 17)));
        for garbage in [u64::MAX, u64::MAX - 6, 1 << 32, (1 << 32) - 7] {
            for at in [word::FIRST_PACKET, word::PACKETS, word::PACKETS + 1] {
                noted(&mut outbox);
                outbox.words[at].store(garbage, Ordering::Release);
                assert_eq!(object.open().sent(), None, "{garbage:#x} in word {at}");
            }
        }
        for word in outbox.words.iter() {
            word.store(u64::MAX, Ordering::Release);
        }
        assert_eq!(object.open().sent(), None);
        // As many messages as there may be, each a whole one.
        outbox.words[word::MESSAGES].store(MAX_BATCH_PACKETS as u64, Ordering::Release);
        assert_eq!(object.open().sent(), None);
        // Above what fits a machine word of half the size.
        outbox.words[word::MESSAGES].store(1 << 32 | 1, Ordering::Release);
        assert_eq!(object.open().sent(), None);
    }
}
