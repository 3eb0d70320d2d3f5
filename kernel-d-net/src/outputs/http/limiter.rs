//! When the encoder may be asked for an IDR.
//!
//! An IDR costs several times an ordinary access unit and is paid by every viewer, so requests are merged (one answers
//! all who wait) and spaced, and a viewer that falls behind again and again waits longer each time: its link is the
//! cause, and further IDRs would only spoil the picture of the others.

use std::time::{Duration, Instant};

/// Least time between two requests to the encoder: a request is answered within a few frames, so half a second leaves
/// room for the answer to reach everybody before anyone asks again, and is hardly felt by one who waits.
pub(super) const REQUEST_SPACING: Duration = Duration::from_millis(500);

/// Longest wait put on a viewer that keeps falling behind. Four default GOPs: with a shorter GOP it resumes at the
/// regular IDR anyway, and with an infinite one it must come back some time.
pub(super) const LONGEST_PENALTY: Duration = Duration::from_secs(8);

/// A viewer that kept up this long is forgiven. Longer than the longest penalty, so that waiting is not keeping up.
const FORGIVEN_AFTER: Duration = Duration::from_secs(10);

/// A request without an answer is repeated after this long: the encoder may have been replaced with the request unread.
const REPEAT_AFTER: Duration = Duration::from_secs(1);

/// What to do about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Decision {
    /// Ask the encoder now.
    Ask,
    /// Merged with an earlier request; ask at this time unless an IDR comes first.
    At(Instant),
}

/// Merges the requests of all viewers and spaces what reaches the encoder by [`REQUEST_SPACING`].
#[derive(Debug, Default)]
pub(super) struct IdrLimiter {
    last_asked: Option<Instant>,
    pending: Option<Instant>,
}

impl IdrLimiter {
    /// Somebody needs an IDR.
    pub(super) fn request(&mut self, now: Instant) -> Decision {
        match self.last_asked.map(|last| last + REQUEST_SPACING) {
            Some(earliest) if now < earliest => {
                self.pending = Some(earliest);
                Decision::At(earliest)
            }
            _ => {
                self.last_asked = Some(now);
                self.pending = None;
                Decision::Ask
            }
        }
    }

    /// When the merged request is due, if one waits.
    pub(super) fn pending(&self) -> Option<Instant> {
        self.pending
    }

    /// Whether the merged request is due; if so the caller asks the encoder.
    pub(super) fn take_due(&mut self, now: Instant) -> bool {
        let due = self.pending.is_some_and(|at| at <= now);
        if due {
            self.pending = None;
            self.last_asked = Some(now);
        }
        due
    }

    /// An IDR went to everybody who waited.
    pub(super) fn satisfied(&mut self) {
        self.pending = None;
    }
}

/// When one viewer may ask for its next IDR.
#[derive(Debug)]
pub(super) struct Patience {
    penalty: Duration,
    fell_behind: Option<Instant>,
    ask_at: Instant,
}

impl Patience {
    /// A viewer that has just joined may ask at once.
    pub(super) fn new(now: Instant) -> Patience {
        Patience { penalty: Duration::ZERO, fell_behind: None, ask_at: now }
    }

    /// The viewer lost its place. The first time it may ask at once; again within [`FORGIVEN_AFTER`], later each time.
    pub(super) fn fell_behind(&mut self, now: Instant) {
        self.penalty = match self.fell_behind {
            Some(before) if now.duration_since(before) < FORGIVEN_AFTER => {
                (self.penalty * 2).clamp(REQUEST_SPACING, LONGEST_PENALTY)
            }
            _ => Duration::ZERO,
        };
        self.fell_behind = Some(now);
        self.ask_at = now + self.penalty;
    }

    /// Whether a viewer that waits for an IDR may ask now; having asked, it repeats after [`REPEAT_AFTER`].
    pub(super) fn may_ask(&mut self, now: Instant) -> bool {
        let may = now >= self.ask_at;
        if may {
            self.ask_at = now + REPEAT_AFTER;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_first_request_goes_at_once_and_the_next_are_merged_until_the_spacing_is_over() {
        let start = Instant::now();
        let mut limiter = IdrLimiter::default();
        assert_eq!(limiter.request(start), Decision::Ask);
        let due = start + REQUEST_SPACING;
        for at in [1, 100, 499] {
            assert_eq!(limiter.request(start + at * MS), Decision::At(due));
        }
        assert!(!limiter.take_due(due - MS));
        assert!(limiter.take_due(due));
        assert!(!limiter.take_due(due + MS), "one merged request is sent once");
        assert_eq!(limiter.request(due + MS), Decision::At(due + REQUEST_SPACING));
    }

    #[test]
    fn an_idr_that_comes_first_spares_the_merged_request() {
        let start = Instant::now();
        let mut limiter = IdrLimiter::default();
        limiter.request(start);
        limiter.request(start + MS);
        limiter.satisfied();
        assert_eq!(limiter.pending(), None);
        assert!(!limiter.take_due(start + 2 * REQUEST_SPACING));
        assert_eq!(limiter.request(start + REQUEST_SPACING), Decision::Ask);
    }

    #[test]
    fn a_flood_of_requests_asks_at_most_twice_a_second() {
        let start = Instant::now();
        let mut limiter = IdrLimiter::default();
        let mut asked = 0;
        for ms in 0..10_000 {
            let now = start + ms * MS;
            asked += u32::from(limiter.take_due(now));
            asked += u32::from(limiter.request(now) == Decision::Ask);
        }
        assert_eq!(asked, 20);
    }

    #[test]
    fn a_viewer_that_keeps_falling_behind_asks_ever_more_rarely_and_is_forgiven_later() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        let mut waits = Vec::new();
        let mut now = start;
        for _ in 0..7 {
            patience.fell_behind(now);
            let fell = now;
            while !patience.may_ask(now) {
                now += 10 * MS;
            }
            waits.push(now.duration_since(fell).as_millis());
            now += 100 * MS;
        }
        assert_eq!(waits, [0, 500, 1000, 2000, 4000, 8000, 8000]);
        now += FORGIVEN_AFTER;
        patience.fell_behind(now);
        assert!(patience.may_ask(now));
    }

    #[test]
    fn an_unanswered_request_is_repeated_after_a_second() {
        let start = Instant::now();
        let mut patience = Patience::new(start);
        assert!(patience.may_ask(start));
        assert!(!patience.may_ask(start + 999 * MS));
        assert!(patience.may_ask(start + 1000 * MS));
    }
}
