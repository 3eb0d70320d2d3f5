//! Which surface of a pool is free: taken and given back without a lock, by compare-and-swap on one word.
//!
//! The loop of the user's document waits for ever when a surface never comes back; here every wait has an end.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Surfaces of a pool at the most: the bits of the word. A pool of 64 8K surfaces is 3.2 GB, more than any needs.
pub const MAX_SURFACES: usize = 64;

/// Spins before a waiter sleeps: a surface that comes back within some microseconds costs no system call.
const SPINS: u32 = 64;
/// Longest sleep between two looks: small against the shortest frame interval in use (4 ms at 240 fps).
const LONGEST_SLEEP: Duration = Duration::from_micros(500);

/// The free and the taken ones of up to [`MAX_SURFACES`] surfaces.
#[derive(Debug)]
pub struct Slots {
    /// Bit n is set while surface n is taken. Bits beyond the pool are set for ever.
    taken: AtomicU64,
    count: usize,
}

impl Slots {
    /// `count` free surfaces; more than [`MAX_SURFACES`] are cut off.
    pub fn new(count: usize) -> Slots {
        let count = count.min(MAX_SURFACES);
        let beyond = if count == MAX_SURFACES { 0 } else { u64::MAX << count };
        Slots { taken: AtomicU64::new(beyond), count }
    }

    /// Surfaces of the pool.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether the pool has no surface at all.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Surfaces that are taken.
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed).count_ones() as usize - (MAX_SURFACES - self.count)
    }

    /// Takes the lowest free surface that is `usable` (a runtime may hold one for a while longer), or none.
    pub fn try_acquire(&self, usable: impl Fn(usize) -> bool) -> Option<usize> {
        let mut passed_over = 0u64;
        loop {
            let taken = self.taken.load(Ordering::Relaxed);
            let index = (taken | passed_over).trailing_ones() as usize;
            if index >= self.count {
                return None;
            }
            let bit = 1 << index;
            // SYNC: surface-slot (acquire side): what the last holder did with the surface is seen.
            if self.taken.compare_exchange_weak(taken, taken | bit, Ordering::Acquire, Ordering::Relaxed).is_err() {
                continue;
            }
            if usable(index) {
                return Some(index);
            }
            self.release(index);
            passed_over |= bit;
        }
    }

    /// As [`Slots::try_acquire`], waiting up to `patience`.
    pub fn acquire(&self, usable: impl Fn(usize) -> bool, patience: Duration) -> Option<usize> {
        let end = Instant::now() + patience;
        let mut tries = 0;
        loop {
            if let Some(index) = self.try_acquire(&usable) {
                return Some(index);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return None;
            }
            tries += 1;
            if tries < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::sleep(left.min(LONGEST_SLEEP));
            }
        }
    }

    /// Gives surface `index` back. Giving back a free one does no harm.
    pub fn release(&self, index: usize) {
        if index < self.count {
            // SYNC: surface-slot (release side)
            self.taken.fetch_and(!(1 << index), Ordering::Release);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[test]
    fn a_surface_never_has_two_holders() {
        let slots = Slots::new(3);
        let holders: Vec<AtomicUsize> = (0..3).map(|_| AtomicUsize::new(0)).collect();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..2_000 {
                        let index = slots.acquire(|_| true, Duration::from_secs(10)).unwrap();
                        assert_eq!(holders[index].fetch_add(1, Ordering::SeqCst), 0, "surface {index}");
                        holders[index].fetch_sub(1, Ordering::SeqCst);
                        slots.release(index);
                    }
                });
            }
        });
        assert_eq!(slots.taken(), 0);
    }

    #[test]
    fn a_leaked_surface_ends_the_wait_at_its_patience() {
        let slots = Slots::new(1);
        assert_eq!(slots.try_acquire(|_| true), Some(0));
        let begin = Instant::now();
        assert_eq!(slots.acquire(|_| true, Duration::from_millis(20)), None);
        assert!((20..2_000).contains(&begin.elapsed().as_millis()));
        slots.release(0);
        slots.release(0);
        slots.release(77);
        assert_eq!((slots.taken(), slots.try_acquire(|_| true)), (0, Some(0)));
    }

    #[test]
    fn a_surface_that_is_still_in_use_is_passed_over_and_stays_free() {
        let slots = Slots::new(MAX_SURFACES + 9);
        assert_eq!(slots.len(), MAX_SURFACES);
        assert_eq!(slots.try_acquire(|index| index == 63), Some(63));
        assert_eq!(slots.taken(), 1);
        assert_eq!(slots.try_acquire(|index| index > 63), None);
        assert_eq!(slots.taken(), 1);
    }
}
