//! Requests to the encoder, in the header of its ring: counters and values, never flags. They survive a
//! restart of either side, and a request made twice is served once.

use crate::layout::ControlWords;
use crate::sync::Ordering;

/// The encoder's side.
#[derive(Debug, Clone, Copy)]
pub struct Requests<'a> {
    words: &'a ControlWords,
}

/// What is asked of an encoder at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// Serial of the newest IDR request not yet served.
    pub idr: Option<u64>,
    /// A new target bitrate in kbit/s, with the serial to acknowledge.
    pub bitrate_kbps: Option<(u32, u64)>,
    /// Whether to pause.
    pub pause: bool,
}

impl<'a> Requests<'a> {
    pub(crate) fn new(words: &'a ControlWords) -> Requests<'a> {
        Requests { words }
    }

    /// What is asked now.
    pub fn pending(&self) -> Asked {
        let w = self.words;
        // SYNC: control-word (acquire side)
        let requested = w.idr_requested.load(Ordering::Acquire);
        let serial = w.bitrate_serial.load(Ordering::Acquire);
        Asked {
            idr: (requested > w.idr_served.load(Ordering::Relaxed)).then_some(requested),
            bitrate_kbps: (serial > w.bitrate_acknowledged.load(Ordering::Relaxed))
                .then(|| (w.bitrate_kbps.load(Ordering::Relaxed) as u32, serial)),
            pause: w.pause_requested.load(Ordering::Acquire) & 1 == 1,
        }
    }

    /// Every IDR request up to `serial` is served by the unit just published.
    pub fn idr_served(&self, serial: u64) {
        // SYNC: control-word (release side)
        self.words.idr_served.store(serial, Ordering::Release);
    }

    /// The bitrate of `serial` is in force.
    pub fn bitrate_set(&self, serial: u64) {
        // SYNC: control-word (release side)
        self.words.bitrate_acknowledged.store(serial, Ordering::Release);
    }

    /// The bitrate `refused_kbps` of `serial` cannot be had; `kept_kbps` stays in force, and is what a restarted
    /// encoder begins with. A newer request that came meanwhile stands.
    pub fn bitrate_refused(&self, serial: u64, refused_kbps: u32, kept_kbps: u32) {
        let (refused, kept) = (u64::from(refused_kbps), u64::from(kept_kbps));
        let _ = self.words.bitrate_kbps.compare_exchange(refused, kept, Ordering::Relaxed, Ordering::Relaxed);
        // SYNC: control-word (release side)
        self.words.bitrate_acknowledged.store(serial, Ordering::Release);
    }

    /// Whether the pause or resume asked for has been followed.
    pub fn pause_followed(&self) {
        let asked = self.words.pause_requested.load(Ordering::Acquire);
        self.words.pause_acknowledged.store(asked, Ordering::Release);
    }

    /// The last bitrate ever asked for, which a restarted encoder begins with.
    pub fn last_bitrate_kbps(&self) -> Option<u32> {
        (self.words.bitrate_serial.load(Ordering::Acquire) > 0)
            .then(|| self.words.bitrate_kbps.load(Ordering::Relaxed) as u32)
    }
}

/// The side of senders and of the operator.
#[derive(Debug, Clone, Copy)]
pub struct Requester<'a> {
    words: &'a ControlWords,
}

impl<'a> Requester<'a> {
    pub(crate) fn new(words: &'a ControlWords) -> Requester<'a> {
        Requester { words }
    }

    /// Asks for an IDR.
    pub fn request_idr(&self) {
        // SYNC: control-word (release side)
        self.words.idr_requested.fetch_add(1, Ordering::Release);
    }

    /// Asks for a target bitrate, kbit/s. Two askers at once: one of the two values wins whole.
    pub fn request_bitrate_kbps(&self, kbps: u32) -> u64 {
        self.words.bitrate_kbps.store(u64::from(kbps), Ordering::Relaxed);
        // SYNC: control-word (release side)
        self.words.bitrate_serial.fetch_add(1, Ordering::Release).wrapping_add(1)
    }

    /// Whether the encoder has looked at the request of `serial`: the bitrate is in force, or was refused.
    pub fn bitrate_followed(&self, serial: u64) -> bool {
        // SYNC: control-word (acquire side)
        self.words.bitrate_acknowledged.load(Ordering::Acquire) >= serial
    }

    /// The bitrate in force once every request was followed, kbit/s: another than asked for where that was refused.
    pub fn bitrate_kbps(&self) -> u32 {
        self.words.bitrate_kbps.load(Ordering::Relaxed) as u32
    }

    /// Asks for a pause (an odd count) or its end (an even one).
    pub fn request_pause(&self, pause: bool) {
        let now = self.words.pause_requested.load(Ordering::Acquire);
        if (now & 1 == 1) != pause {
            // SYNC: control-word (release side)
            self.words.pause_requested.store(now.wrapping_add(1), Ordering::Release);
        }
    }
}
