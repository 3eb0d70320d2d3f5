//! Hands every access unit to every viewer, and asks for IDRs on their behalf.
//!
//! Everything here runs on the output's own thread; the locks are never contended.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

use super::au::SharedAu;
use super::limiter::{Decision, IdrLimiter, Patience};
use super::queue::{Pushed, ViewerQueue};

/// What the output counts, for `/metrics`.
#[derive(Debug, Default)]
pub(super) struct Counters {
    /// Viewers now; read by the publisher to decide whether to copy.
    pub(super) viewers: AtomicUsize,
    /// Viewers since the start.
    pub(super) viewers_ever: AtomicU64,
    /// Access units published.
    pub(super) published: AtomicU64,
    /// Access units the output's thread was too late to take.
    pub(super) not_taken: AtomicU64,
    /// Access units left out for single viewers that were late.
    pub(super) dropped: AtomicU64,
    /// How often a viewer lost its place.
    pub(super) overflows: AtomicU64,
    /// IDRs asked of the encoder.
    pub(super) idr_requests: AtomicU64,
    /// Requests refused for their Host, Origin or token.
    pub(super) refused: AtomicU64,
    /// Connections turned away because there were too many.
    pub(super) turned_away: AtomicU64,
}

/// One more on a counter that nothing is ordered by.
pub(super) fn count(counter: &AtomicU64, by: usize) {
    counter.fetch_add(by as u64, Ordering::Relaxed);
}

struct Viewer {
    state: Mutex<ViewerState>,
    wake: Notify,
}

struct ViewerState {
    queue: ViewerQueue,
    patience: Patience,
}

impl Viewer {
    fn lock(&self) -> MutexGuard<'_, ViewerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// All viewers.
pub(super) struct Hub {
    viewers: Mutex<Vec<Arc<Viewer>>>,
    limiter: Mutex<IdrLimiter>,
    /// The sequence the next access unit should carry.
    expected: Mutex<Option<u32>>,
    merged: Notify,
    request_idr: Arc<dyn Fn() + Send + Sync>,
    pub(super) counters: Arc<Counters>,
}

impl Hub {
    pub(super) fn new(request_idr: Arc<dyn Fn() + Send + Sync>, counters: Arc<Counters>) -> Hub {
        Hub {
            viewers: Mutex::default(),
            limiter: Mutex::default(),
            expected: Mutex::default(),
            merged: Notify::new(),
            request_idr,
            counters,
        }
    }

    /// Viewers now.
    pub(super) fn viewers(&self) -> usize {
        self.counters.viewers.load(Ordering::SeqCst)
    }

    /// A new viewer: it gets nothing before an IDR, which is asked for.
    pub(super) fn join(self: &Arc<Hub>, now: Instant) -> Seat {
        let mut patience = Patience::new(now);
        patience.may_ask(now);
        let viewer = Arc::new(Viewer {
            state: Mutex::new(ViewerState { queue: ViewerQueue::new(), patience }),
            wake: Notify::new(),
        });
        lock(&self.viewers).push(Arc::clone(&viewer));
        // Counted before the IDR is asked for: the publisher must already be copying when it comes.
        self.counters.viewers.fetch_add(1, Ordering::SeqCst);
        count(&self.counters.viewers_ever, 1);
        self.ask(now);
        Seat { hub: Arc::clone(self), viewer }
    }

    /// Hands `au` to every viewer.
    pub(super) fn deliver(&self, au: &SharedAu, now: Instant) {
        let gap = {
            let mut expected = lock(&self.expected);
            let gap = expected.is_some_and(|sequence| sequence != au.sequence);
            *expected = Some(au.sequence.wrapping_add(1));
            gap
        };
        let mut ask = false;
        for viewer in lock(&self.viewers).iter() {
            let mut state = viewer.lock();
            if gap {
                state.queue.gap();
            }
            match state.queue.push(au) {
                Pushed::Queued => viewer.wake.notify_one(),
                Pushed::Skipped => count(&self.counters.dropped, 1),
                Pushed::Jumped(dropped) => {
                    count(&self.counters.dropped, dropped);
                    viewer.wake.notify_one();
                }
                Pushed::Overflowed(dropped) => {
                    count(&self.counters.dropped, dropped);
                    count(&self.counters.overflows, 1);
                    state.patience.fell_behind(now);
                }
            }
            ask |= state.queue.needs_idr() && state.patience.may_ask(now);
        }
        if au.idr {
            lock(&self.limiter).satisfied();
        }
        if ask {
            self.ask(now);
        }
    }

    fn ask(&self, now: Instant) {
        let decision = lock(&self.limiter).request(now);
        match decision {
            Decision::Ask => self.ask_encoder(),
            Decision::At(_) => self.merged.notify_one(),
        }
    }

    fn ask_encoder(&self) {
        count(&self.counters.idr_requests, 1);
        (self.request_idr)();
    }

    /// Sends merged requests when they are due; never returns.
    pub(super) async fn send_merged_requests(&self) {
        loop {
            self.merged.notified().await;
            loop {
                let Some(due) = lock(&self.limiter).pending() else { break };
                tokio::time::sleep_until(due.into()).await;
                let ask = lock(&self.limiter).take_due(Instant::now());
                if ask {
                    self.ask_encoder();
                }
            }
        }
    }
}

/// A viewer's place in the hub; dropping it gives the place up.
pub(super) struct Seat {
    hub: Arc<Hub>,
    viewer: Arc<Viewer>,
}

impl Seat {
    /// The next access unit. Cancelling loses none.
    pub(super) async fn next(&self) -> SharedAu {
        loop {
            if let Some(au) = self.viewer.lock().queue.pop() {
                return au;
            }
            self.viewer.wake.notified().await;
        }
    }

    /// The viewer's decoder lost its place and says so.
    pub(super) fn needs_idr(&self, now: Instant) {
        let ask = {
            let mut state = self.viewer.lock();
            let waited = state.queue.needs_idr();
            count(&self.hub.counters.dropped, state.queue.lose_place());
            if state.queue.needs_idr() && !waited {
                state.patience.fell_behind(now);
            }
            state.queue.needs_idr() && state.patience.may_ask(now)
        };
        if ask {
            self.hub.ask(now);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        lock(&self.hub.viewers).retain(|viewer| !Arc::ptr_eq(viewer, &self.viewer));
        self.hub.counters.viewers.fetch_sub(1, Ordering::SeqCst);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A panic while one of these was held cannot leave it half changed in a way that matters.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::au::tests::shared;
    use super::super::queue::QUEUE_AUS;
    use super::*;

    struct Bench {
        hub: Arc<Hub>,
        asked: Arc<AtomicUsize>,
        start: Instant,
    }

    fn bench() -> Bench {
        let asked = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&asked);
        let request: Arc<dyn Fn() + Send + Sync> = Arc::new(move || {
            counter.fetch_add(1, Ordering::Relaxed);
        });
        Bench { hub: Arc::new(Hub::new(request, Arc::default())), asked, start: Instant::now() }
    }

    impl Bench {
        fn asked(&self) -> usize {
            self.asked.load(Ordering::Relaxed)
        }
    }

    fn queued(seat: &Seat) -> Vec<u64> {
        std::iter::from_fn(|| seat.viewer.lock().queue.pop()).map(|au| au.frame_id).collect()
    }

    #[test]
    fn viewers_that_join_together_cost_one_idr() {
        let bench = bench();
        let _seats: Vec<_> = (0..10).map(|_| bench.hub.join(bench.start)).collect();
        assert_eq!(bench.asked(), 1);
        assert_eq!(bench.hub.counters.viewers.load(Ordering::Relaxed), 10);
    }

    #[test]
    fn a_viewer_that_never_reads_overflows_alone_and_costs_one_request() {
        let bench = bench();
        let reader = bench.hub.join(bench.start);
        let _sleeper = bench.hub.join(bench.start);
        let mut now = bench.start + Duration::from_secs(20);
        let mut got = Vec::new();
        for id in 0..=QUEUE_AUS as u64 {
            bench.hub.deliver(&shared(id, id == 0, 10), now);
            got.extend(queued(&reader));
            now += Duration::from_millis(16);
        }
        assert_eq!(got, (0..=QUEUE_AUS as u64).collect::<Vec<_>>());
        assert_eq!(bench.hub.counters.overflows.load(Ordering::Relaxed), 1);
        assert_eq!(bench.asked(), 2, "one for joining, one for the overflow");
    }

    #[test]
    fn a_lost_access_unit_makes_every_viewer_wait_for_an_idr() {
        let bench = bench();
        let seat = bench.hub.join(bench.start);
        let now = bench.start + Duration::from_secs(5);
        for (id, idr) in [(0, true), (1, false), (3, false), (4, false), (5, true), (6, false)] {
            bench.hub.deliver(&shared(id, idr, 10), now);
        }
        assert_eq!(queued(&seat), [0, 1, 5, 6]);
        assert_eq!(bench.asked(), 2);
    }

    #[test]
    fn a_decoder_that_complains_after_every_idr_is_held_back() {
        let bench = bench();
        let seat = bench.hub.join(bench.start);
        let mut answered = 0;
        for ms in 0..20_000 {
            let now = bench.start + Duration::from_millis(ms);
            seat.needs_idr(now);
            let idr = bench.asked() > answered;
            answered = bench.asked();
            bench.hub.deliver(&shared(ms, idr, 10), now);
            queued(&seat);
        }
        // Joined, then at once, 0.5, 1, 2, 4 and 8 s after the answer before.
        assert!((3..=7).contains(&bench.asked()), "{} requests", bench.asked());
    }

    #[test]
    fn a_viewer_that_leaves_is_forgotten() {
        let bench = bench();
        drop(bench.hub.join(bench.start));
        assert_eq!(bench.hub.counters.viewers.load(Ordering::Relaxed), 0);
        assert!(lock(&bench.hub.viewers).is_empty());
    }
}
