//! Requests for an IDR picture, merged and rate-limited: a lost packet at fifty receivers is one IDR.

/// Why somebody asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeyframeReason {
    /// Picture loss indication (RFC 4585 section 6.3.1).
    Pli,
    /// Full intra request (RFC 5104 section 4.3.1).
    Fir,
    /// Our own: packets of an unfinished access unit were given up.
    Burned,
    /// A new viewer.
    Joined,
}

/// A request to be passed to the encoder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyframeRequest {
    /// Why the first of the merged requests was made.
    pub reason: KeyframeReason,
    /// How many requests are merged in it.
    pub merged: u32,
}

/// Merges requests: at most one passes per interval.
#[derive(Debug)]
pub struct KeyframeGate {
    interval_ns: u64,
    last_passed_ns: Option<u64>,
    pending: Option<KeyframeRequest>,
}

impl KeyframeGate {
    /// Half a second: a decoder's wait that viewers notice but accept, and 4 IDRs in a 2-s GOP at the worst.
    pub const INTERVAL_NS: u64 = 500_000_000;

    /// A gate that passes one request per `interval_ns`.
    pub const fn new(interval_ns: u64) -> KeyframeGate {
        KeyframeGate { interval_ns, last_passed_ns: None, pending: None }
    }

    /// Somebody asks. [`Self::poll`] says when it passes.
    pub fn request(&mut self, reason: KeyframeReason) {
        let pending = self.pending.get_or_insert(KeyframeRequest { reason, merged: 0 });
        pending.merged = pending.merged.saturating_add(1);
    }

    /// An IDR begins to leave: whoever asked before gets it.
    pub fn on_idr(&mut self) {
        self.pending = None;
    }

    /// When the pending request passes; `None` without one. CLOCK_MONOTONIC, nanoseconds.
    pub fn due_ns(&self) -> Option<u64> {
        self.pending?;
        Some(self.last_passed_ns.map_or(0, |last| last.saturating_add(self.interval_ns)))
    }

    /// The request that passes now, if any.
    pub fn poll(&mut self, now_ns: u64) -> Option<KeyframeRequest> {
        if now_ns < self.due_ns()? {
            return None;
        }
        self.last_passed_ns = Some(now_ns);
        self.pending.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_request_passes_at_once_and_the_rest_are_merged() {
        let mut gate = KeyframeGate::new(500);
        assert_eq!(gate.poll(1000), None);
        gate.request(KeyframeReason::Pli);
        assert_eq!(gate.poll(1000), Some(KeyframeRequest { reason: KeyframeReason::Pli, merged: 1 }));
        gate.request(KeyframeReason::Fir);
        gate.request(KeyframeReason::Pli);
        assert_eq!((gate.poll(1499), gate.due_ns()), (None, Some(1500)));
        assert_eq!(gate.poll(1500), Some(KeyframeRequest { reason: KeyframeReason::Fir, merged: 2 }));
        assert_eq!((gate.poll(9999), gate.due_ns()), (None, None));
    }

    #[test]
    fn an_idr_answers_whoever_asked_before_it() {
        let mut gate = KeyframeGate::new(500);
        gate.request(KeyframeReason::Joined);
        gate.on_idr();
        assert_eq!(gate.poll(1000), None);
    }
}
