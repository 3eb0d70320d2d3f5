//! A sender's session segment as a predecessor, a crash or another version left it.
//!
//! Feeds: 40 words (with a right check sum where the input asks for it, as the check sum would otherwise hide the rest),
//! then access units that are begun, sent and resumed over them.
//! Holds: no panic, whatever the words; what is resumed has constants that pass their own check and is told by
//! `existing` beforehand; indices go on without gap or overlap, burned ones counted; a second reader of the same words
//! sees the same stream.
#![no_main]

use kernel_d_net::outputs::rtp::session::{Constants, Resume, ResumePoint, SESSION_VERSION, SESSION_WORDS, Session};
use quad_fuzz::Input;
use std::sync::atomic::{AtomicU64, Ordering};

fn constants() -> Constants {
    Constants {
        ssrc: 1,
        ts_offset: 2,
        first_index: 3,
        payload_type: 96,
        source_port: 5004,
        rtcp_port: 5005,
        cname: "fuzz".to_owned(),
        key_reference: 0,
        real_minus_monotonic_ns: 4,
    }
}

/// Words 1 to 11 are the constants, word 12 their check sum: as docs/PROTOCOL.md lays the session out.
fn seal(words: &[AtomicU64]) {
    let mut crc = crc32fast::Hasher::new();
    for word in &words[1..12] {
        crc.update(&word.load(Ordering::Relaxed).to_le_bytes());
    }
    words[12].store(u64::from(crc.finalize()) | 0x5345_5353 << 32, Ordering::Relaxed);
    words[0].store(SESSION_VERSION, Ordering::Relaxed);
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let words: Vec<AtomicU64> = (0..SESSION_WORDS).map(|_| AtomicU64::new(0)).collect();
    let kind = input.u8();
    if kind & 1 == 1 {
        Session::create_or_resume(&words[..], constants(), 1200).expect("a new session");
    }
    // Sparse damage: a word and its new value.
    for _ in 0..input.u8() % 48 {
        let at = usize::from(input.u8()) % SESSION_WORDS;
        words[at].store(input.u64(), Ordering::Relaxed);
    }
    if kind & 2 == 2 {
        seal(&words);
    }
    let existing = Session::existing(&&words[..]);
    let (mut session, resume) = Session::create_or_resume(&words[..], constants(), 1200).expect("enough words");
    assert_eq!(existing.is_some(), resume == Resume::Resumed);
    let cname = &session.constants().cname;
    assert!(!cname.is_empty() && cname.len() <= 32 && cname.bytes().all(|b| (0x21..0x7f).contains(&b)));
    assert!(session.constants().payload_type < 128);
    let mut key = session.record().key;
    while !input.is_empty() {
        let step = input.u8();
        let (crc, packets) = (u32::from(input.u8()), u32::from(input.u16()));
        key = match step & 3 {
            0 => key,
            1 => (key.0.saturating_add(1), 0),
            2 => (key.0, key.1.saturating_add(1)),
            _ => (input.u64(), 0),
        };
        match session.resume_point(key, crc, packets) {
            ResumePoint::Done => {}
            ResumePoint::Continue { first_index, sent, .. } => {
                assert!(sent <= packets && first_index == session.record().first_index);
                session.progress(sent + (packets - sent) / 2);
            }
            point @ (ResumePoint::New | ResumePoint::Burn { .. }) => {
                let (next, burned, left) =
                    (session.next_index(), session.totals().burned, session.record().packets - session.sent());
                assert!(left > 0 || matches!(point, ResumePoint::New), "burned without anything unfinished");
                let first = session.begin(key, crc, packets, u64::from(packets) * 1200, input.u32());
                assert_eq!(first, next, "indices go on where they stopped");
                assert_eq!(session.totals().burned, burned.wrapping_add(u64::from(left)));
                if step & 4 == 4 {
                    session.finish();
                    assert!(session.is_done());
                } else {
                    session.progress(u32::from(step) * 16);
                }
            }
        }
        if step & 8 == 8 {
            // A restart: the next process reads what this one stored.
            let before = (session.constants().clone(), *session.record(), session.sent(), session.totals());
            // Neither an index nor a count of access units comes to 2^48 in a stream's life: beyond it is damage.
            let units = words[shm_protocol::words::BEGUN_WORD].load(Ordering::Relaxed);
            let (next, resume) = Session::create_or_resume(&words[..], constants(), 1200).expect("enough words");
            if session.record().first_index >> 48 == 0 && units >> 48 == 0 {
                assert_eq!(resume, Resume::Resumed);
                assert_eq!(before, (next.constants().clone(), *next.record(), next.sent(), next.totals()));
            }
            session = next;
            key = session.record().key;
        }
    }
});
