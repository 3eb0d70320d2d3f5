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
    /// all before the batch, and those of it that the system sent.
    pub fn sent(&self) -> Option<(u64, u32)> {
        let load = |index: usize| self.words[index].load(Ordering::Acquire);
        // SYNC: outbox-batch (acquire side).
        let messages = load(word::MESSAGES) as usize;
        if messages == 0 || messages > MAX_BATCH_PACKETS {
            return None;
        }
        let out = (0..messages).take_while(|message| self.message_bytes(*message) > 0);
        let packets: u64 = out.map(|message| load(word::PACKETS + message)).sum();
        Some((load(word::STAMP), (load(word::FIRST_PACKET) + packets) as u32))
    }

    fn header(&self, message: usize) -> *mut libc::mmsghdr {
        debug_assert!(message < MAX_BATCH_PACKETS);
        self.words[word::HEADERS + message * HEADER_WORDS].as_ptr().cast()
    }

    fn message_bytes(&self, message: usize) -> u32 {
        // SAFETY: `header` points at a whole mmsghdr within the mapped words (MAX_BATCH_PACKETS of them, checked at
        // `new`), aligned as asserted above; any bits are a valid u32. Only this process and the system write it.
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
            // SAFETY: as in `message_bytes`; plain data is copied over plain data, nobody reads it meanwhile. The
            // pointers in it mean something to this process alone and are used by its system calls alone.
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
}
