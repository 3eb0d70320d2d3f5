//! Keeps the session where a successor finds it, when somebody removed or truncated its object by hand.

use super::sender::RtpSender;
use super::session::{SESSION_WORDS, Words};
use crate::transmit::outbox::{OUTBOX_WORDS, Outbox};
use crate::transmit::udp::UdpTransmit;
use shm_protocol::lease::Lease;
use shm_protocol::names;
use std::sync::atomic::Ordering;

/// The session's words in their shared-memory object.
pub(super) struct SessionWords(pub shm_protocol::words::Words);

impl Words for SessionWords {
    fn count(&self) -> usize {
        self.0.len()
    }

    fn load(&self, index: usize) -> u64 {
        self.0[index].load(Ordering::Acquire)
    }

    fn store(&mut self, index: usize, value: u64) {
        self.0[index].store(value, Ordering::Release);
    }
}

/// Makes session and outbox of `sender` anew, with what it knows of them, where they are lost. Not once `lease` is
/// another's: what has their names then is the successor's, whose stream is further on.
pub(super) fn keep_session(sender: &mut RtpSender<SessionWords, UdpTransmit>, lease: &Lease) {
    if let Some(lost) = sender.transmit().outbox().map(Outbox::object).filter(|object| object.check().is_err())
        && is_ours_to_make(lease, lost.name(), OUTBOX_WORDS)
    {
        // The system writes there: it must not find a hole.
        match shm_protocol::words::Words::open(lost.name(), OUTBOX_WORDS) {
            Ok(words) => Outbox::new(words).into_iter().for_each(|outbox| sender.keep_outbox(outbox)),
            Err(error) => tracing::error!(%error, "The note of what was sent is lost and cannot be made anew"),
        }
    }
    let lost = &sender.session().words().0;
    let Err(damage) = lost.check() else { return };
    if !is_ours_to_make(lease, lost.name(), SESSION_WORDS) {
        tracing::warn!(%damage, "The session of the RTP stream is left to a successor");
        return;
    }
    let moved = shm_protocol::words::Words::open(lost.name(), SESSION_WORDS)
        .map_err(|error| error.to_string())
        .and_then(|words| sender.move_session(SessionWords(words)).map_err(|error| error.to_string()));
    match moved {
        Ok(()) => tracing::warn!(%damage, "The session of the RTP stream was made anew as it was"),
        Err(error) => tracing::error!(%damage, error, "The session of the RTP stream cannot be made anew"),
    }
}

/// Whether the object `name` of so many words may be made here.
fn is_ours_to_make(lease: &Lease, name: &str, words: usize) -> bool {
    if lease.table().is_whole() {
        return lease.is_current();
    }
    // A lease table that is gone tells nothing of successors, who meet in another one. What a successor has made is
    // there, and whole before it has its name.
    let path = std::path::Path::new(names::SHM_DIR).join(name);
    path.metadata().map_or(true, |found| found.len() < (words * size_of::<u64>()) as u64)
}

#[cfg(test)]
mod tests {
    use super::super::open::{NewStream, open_stream};
    use super::super::sender::SendEnd;
    use super::super::sender::tests::{clock, config, slice, unit};
    use super::*;
    use crate::outputs::rtp::session::Session;
    use crate::transmit::udp::UdpConfig;
    use shm_protocol::lease::{Candidate, LeaseTable};
    use shm_protocol::words::Words as Object;
    use std::net::UdpSocket;

    const KERNEL: &str = "net.main";

    /// An instance of its own, whose objects are gone with the test.
    struct Instance(String);

    impl Instance {
        fn new(label: &str) -> Instance {
            Instance(format!("keep-{label}-{}", std::process::id()))
        }

        fn lease(&self) -> Lease {
            let candidate = Candidate::enter(&LeaseTable::join(&self.0).unwrap(), KERNEL, true).unwrap();
            let Ok(lease) = candidate.try_activate().unwrap() else { panic!("The lease is held") };
            lease.running();
            lease
        }

        fn session(&self) -> String {
            names::session(&self.0, KERNEL)
        }

        fn sender(&self, to: &UdpSocket) -> RtpSender<SessionWords, UdpTransmit> {
            let new = NewStream { payload_type: 96, real_minus_monotonic_ns: 0 };
            let words = SessionWords(Object::open(&self.session(), SESSION_WORDS).unwrap());
            let to = UdpConfig::to(to.local_addr().unwrap());
            let (mut sender, _) = open_stream(words, new, &to, &config(false), 0).unwrap();
            let outbox = Object::open(&format!("{}.outbox", self.session()), OUTBOX_WORDS).unwrap();
            sender.keep_outbox(Outbox::new(outbox).unwrap());
            sender
        }

        /// What a successor would find of the stream, if anything: its SSRC and next index.
        fn found(&self) -> Option<(u32, u64)> {
            std::path::Path::new(names::SHM_DIR).join(self.session()).exists().then_some(())?;
            let words = SessionWords(Object::open(&self.session(), SESSION_WORDS).unwrap());
            let constants = Session::existing(&words)?;
            let (session, _) = Session::create_or_resume(words, constants, 1200).unwrap();
            Some((session.constants().ssrc, session.next_index()))
        }
    }

    impl Drop for Instance {
        fn drop(&mut self) {
            names::existing(&self.0).iter().for_each(|name| names::unlink(name));
        }
    }

    fn send(sender: &mut RtpSender<SessionWords, UdpTransmit>, frame: u64) {
        let bytes = slice(0x65, 3000);
        assert!(matches!(sender.send(&unit(&bytes, frame), &mut clock(9)).unwrap(), SendEnd::Done(_)));
    }

    #[test]
    fn a_fenced_sender_on_its_way_out_leaves_its_successors_session_alone() {
        let instance = Instance::new("fenced");
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        let lease = instance.lease();
        let mut old = instance.sender(&to);
        send(&mut old, 1);
        // Its objects were removed, its lease was taken from it, and the successor has begun a stream.
        names::unlink(&instance.session());
        names::unlink(&format!("{}.outbox", instance.session()));
        assert!(lease.table().force_takeover(KERNEL, lease.epoch()).unwrap());
        let successor = instance.lease();
        let mut new = instance.sender(&to);
        send(&mut new, 2);
        let before = instance.found();
        keep_session(&mut old, &lease);
        assert_eq!(instance.found(), before, "the successor's words are as it left them");
        assert_ne!(old.session().constants().ssrc, new.session().constants().ssrc);
        assert!(new.session().words().0.check().is_ok());
        drop(successor);
    }

    #[test]
    fn a_sender_makes_a_lost_session_anew_as_long_as_nobody_else_has() {
        let instance = Instance::new("lost");
        let to = UdpSocket::bind("127.0.0.1:0").unwrap();
        let lease = instance.lease();
        let mut sender = instance.sender(&to);
        send(&mut sender, 1);
        let known = instance.found();
        assert_eq!(known.unwrap().1, sender.session().next_index());
        names::unlink(&instance.session());
        keep_session(&mut sender, &lease);
        assert_eq!(instance.found(), known, "with the lease held");
        // The lease table goes with it.
        names::unlink(&names::leases(&instance.0));
        names::unlink(&instance.session());
        keep_session(&mut sender, &lease);
        assert_eq!(instance.found(), known, "with the lease table gone");
        // The next table's sender has made one.
        names::unlink(&instance.session());
        let successor = instance.lease();
        let mut new = instance.sender(&to);
        send(&mut new, 2);
        let before = instance.found();
        keep_session(&mut sender, &lease);
        assert_eq!(instance.found(), before, "the successor's words are as it left them");
        drop(successor);
    }
}
