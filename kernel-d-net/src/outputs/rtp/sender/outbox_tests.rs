//! A sender that dies between sending and noting it.

use super::tests::{clock, config, memory, slice, unit};
use super::*;
use crate::outputs::rtp::open::{NewStream, open_stream};
use crate::transmit::outbox::OUTBOX_WORDS;
use crate::transmit::udp::{SendPath, UdpConfig};
use shm_protocol::names;
use std::net::UdpSocket;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

/// A session that takes note of no progress: as if its process died before each such store.
struct Forgetful<'a>(&'a [AtomicU64]);

/// `word::PROGRESS` of the session.
const PROGRESS: usize = 17;

impl Words for Forgetful<'_> {
    fn count(&self) -> usize {
        self.0.count()
    }
    fn load(&self, index: usize) -> u64 {
        self.0.load(index)
    }
    fn store(&mut self, index: usize, value: u64) {
        if index != PROGRESS {
            self.0.store(index, value);
        }
    }
}

fn open<W: Words>(words: W, to: &UdpConfig, object: &str) -> RtpSender<W, UdpTransmit> {
    let new = NewStream { payload_type: 96, real_minus_monotonic_ns: 0 };
    let (mut sender, _) = open_stream(words, new, to, &config(false), 0).unwrap();
    let outbox = shm_protocol::words::Words::open(object, OUTBOX_WORDS).unwrap();
    sender.keep_outbox(Outbox::new(outbox).unwrap());
    sender
}

fn sequence_numbers(receiver: &UdpSocket) -> Vec<u16> {
    let mut buffer = [0; 2000];
    std::iter::from_fn(|| receiver.recv(&mut buffer).ok().map(|_| u16::from_be_bytes([buffer[2], buffer[3]]))).collect()
}

#[test]
fn what_a_dead_sender_sent_and_did_not_note_is_not_sent_again() {
    for path in [SendPath::Gso, SendPath::SendMmsg] {
        let object = names::session(&format!("resend-{path:?}-{}", std::process::id()), "net.main");
        let receiver = UdpSocket::bind("127.0.0.1:0").unwrap();
        receiver.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        let to = UdpConfig { path, ..UdpConfig::to(receiver.local_addr().unwrap()) };
        let memory = memory();
        let (whole, small) = (slice(0x65, 5000), slice(0x41, 50));
        let mut dying = open(Forgetful(&memory), &to, &object);
        let SendEnd::Done(sent) = dying.send(&unit(&whole, 1), &mut clock(5)).unwrap() else { panic!() };
        assert!(sent.packets > 4, "{sent:?}");
        drop(dying);
        let mut successor = open(&memory[..], &to, &object);
        assert_eq!(successor.session().sent(), sent.packets);
        assert_eq!(successor.send(&unit(&whole, 1), &mut clock(6)).unwrap(), SendEnd::AlreadyDone);
        assert!(matches!(successor.send(&unit(&small, 2), &mut clock(7)).unwrap(), SendEnd::Done(_)));
        drop(successor);
        // A note of an access unit that is over says nothing of the next.
        let third = open(&memory[..], &to, &object);
        assert_eq!((third.session().is_done(), third.session().last_done_key()), (true, Some((2, 0))));
        let numbers = sequence_numbers(&receiver);
        assert_eq!(numbers.len() as u32, sent.packets + 1, "{path:?}: {numbers:?}");
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)), "{path:?}: {numbers:?}");
        names::unlink(&object);
    }
}
