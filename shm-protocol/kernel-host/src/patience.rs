//! Signs of life for a loop that waits for something outside: a writer on a pipe, the grid of a slow rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Beats for a loop while that waits.
#[derive(Debug)]
pub struct Patience {
    waits: Arc<AtomicBool>,
    leave: Arc<AtomicBool>,
    over: Arc<AtomicBool>,
}

impl Patience {
    /// Starts the thread that does `beat` while the loop waits. What it returns is whether the wait is to end. `None`
    /// when there is no thread to be had: nothing beats and nobody sets the flag of a wait.
    pub fn start(mut beat: impl FnMut() -> bool + Send + 'static) -> Option<Patience> {
        /// Half of the longest that a loop sleeps by itself.
        const BEAT: Duration = Duration::from_millis(25);
        let patience = Patience { waits: Arc::default(), leave: Arc::default(), over: Arc::default() };
        let [waits, leave, over] = [&patience.waits, &patience.leave, &patience.over].map(Arc::clone);
        let spawned = std::thread::Builder::new().name("patience".to_owned()).spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if waits.load(Ordering::Relaxed) && beat() {
                    leave.store(true, Ordering::Relaxed);
                }
                std::thread::sleep(BEAT);
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%error, "No thread for patience: a slow writer may count as a hang");
            return None;
        }
        Some(patience)
    }

    /// Set within a beat's time when the wait is to end; each begins without it. For waits that only look at a flag.
    pub fn leave(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.leave)
    }
}

impl Drop for Patience {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
    }
}

/// Lets patience beat for as long as `wait` takes, and no longer: a loop that hangs elsewhere must look hung.
pub fn waiting<T>(patience: Option<&Patience>, wait: impl FnOnce() -> T) -> T {
    let set = |waits| patience.iter().for_each(|patience| patience.waits.store(waits, Ordering::Relaxed));
    patience.iter().for_each(|patience| patience.leave.store(false, Ordering::Relaxed));
    set(true);
    let result = wait();
    set(false);
    result
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::time::Instant;

    #[test]
    fn it_beats_while_the_loop_waits_and_not_while_it_works() {
        let beats = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&beats);
        let patience = Patience::start(move || counted.fetch_add(1, Ordering::Relaxed) >= 2).unwrap();
        let count = || beats.load(Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(100));
        assert_eq!(count(), 0);
        let deadline = Instant::now() + Duration::from_secs(20);
        let waited = waiting(Some(&patience), || {
            while count() < 3 && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(5));
            }
            7
        });
        assert_eq!(waited, 7);
        assert!(count() >= 3);
        // The third beat asked for the end; the next wait begins without that.
        let leave = patience.leave();
        assert!(leave.load(Ordering::Relaxed));
        assert!(!waiting(Some(&patience), || leave.load(Ordering::Relaxed)));
        // One beat may have been under way when the wait ended.
        let after = count();
        std::thread::sleep(Duration::from_millis(100));
        assert!(count() <= after + 1);
        assert_eq!(waiting(None, || 8), 8);
    }
}
