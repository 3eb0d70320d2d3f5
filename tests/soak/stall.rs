//! Whether the machine itself stood still: threads that do nothing but sleep notice, one on each cpu, and what they
//! notice is no fault of the pipeline. Virtual machines lose their cpus, all or one of them, for seconds at a time.

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

const SLEEP: Duration = Duration::from_millis(5);
/// Later than this a sleeper is woken only when nothing runs at all; a busy scheduler is late by some milliseconds.
const STALL: Duration = Duration::from_millis(150);

/// A span in which nothing ran.
pub type Span = (Instant, Instant);

/// The sleepers.
#[derive(Debug)]
pub struct Stalls {
    spans: Arc<Mutex<Vec<Span>>>,
    /// When each sleeper was awake last: one that is late has not yet said so.
    awake: Arc<Mutex<Vec<Instant>>>,
    over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Stalls {
    /// Begins to watch.
    pub fn watch() -> Stalls {
        let (spans, over) = (Arc::<Mutex<Vec<Span>>>::default(), Arc::<AtomicBool>::default());
        let awake = Arc::<Mutex<Vec<Instant>>>::default();
        let own = Pid::from_raw(0);
        let allowed = sched_getaffinity(own).unwrap_or_default();
        let cpus = (0..CpuSet::count()).filter(|cpu| allowed.is_set(*cpu).unwrap_or(false));
        let threads = cpus.enumerate().map(|(sleeper, cpu)| {
            let (found, awake, ending) = (Arc::clone(&spans), Arc::clone(&awake), Arc::clone(&over));
            awake.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
            std::thread::spawn(move || {
                let mut alone = CpuSet::new();
                // Where that is forbidden it sleeps wherever it is put.
                let _ = alone.set(cpu).and_then(|()| sched_setaffinity(own, &alone));
                sleep(sleeper, &found, &awake, &ending);
            })
        });
        let threads = threads.collect();
        Stalls { spans, awake, over, threads }
    }

    /// Every span so far.
    pub fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How long the machine stood still between two moments.
    pub fn within(&self, from: Instant, to: Instant) -> Duration {
        let mut spans = self.spans();
        let now = Instant::now();
        let awake = self.awake.lock().unwrap_or_else(PoisonError::into_inner).clone();
        spans.extend(awake.into_iter().filter(|awake| now - *awake > SLEEP + STALL).map(|awake| (awake, now)));
        overlap(&spans, from, to)
    }
}

impl Drop for Stalls {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

fn sleep(sleeper: usize, found: &Mutex<Vec<Span>>, awake: &Mutex<Vec<Instant>>, over: &AtomicBool) {
    let mut before = Instant::now();
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(SLEEP);
        let now = Instant::now();
        if now - before > SLEEP + STALL {
            found.lock().unwrap_or_else(PoisonError::into_inner).push((before, now));
        }
        before = now;
        if let Some(awake) = awake.lock().unwrap_or_else(PoisonError::into_inner).get_mut(sleeper) {
            *awake = now;
        }
    }
}

/// How much of a time lies within spans, which may lie over each other.
fn overlap(spans: &[Span], from: Instant, to: Instant) -> Duration {
    let mut spans = spans.to_vec();
    spans.sort();
    let (mut covered, mut sum) = (from, Duration::ZERO);
    for (begin, end) in spans {
        let (begin, end) = (begin.max(covered), end.min(to));
        sum += end.saturating_duration_since(begin);
        covered = covered.max(end);
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_lies_within_counts() {
        let zero = Instant::now();
        let at = |ms: u64| zero + Duration::from_millis(ms);
        let ms = |spans: &[Span], from: u64, to: u64| overlap(spans, at(from), at(to)).as_millis();
        let spans = [(at(1000), at(2000)), (at(3000), at(4000))];
        assert_eq!((ms(&spans, 0, 1000), ms(&spans, 0, 3000), ms(&spans, 1500, 3500)), (0, 1000, 1000));
        // Two cpus at the same time are one stall.
        let both = [(at(1000), at(2000)), (at(1500), at(2500)), (at(1200), at(1300))];
        assert_eq!((ms(&both, 0, 9000), ms(&both, 1900, 9000)), (1500, 600));
    }
}
