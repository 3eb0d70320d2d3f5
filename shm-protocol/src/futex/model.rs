//! The bell: whoever announced itself before a ring is woken by it.

use crate::layout::Bell;
use crate::planted::{Bug, plant};
use crate::sync::{AtomicU64, Ordering};
use loom::thread;
use std::sync::Arc;

/// `sleepers` wait for the second of two publications; a lost wake-up is a deadlock.
fn nobody_sleeps_on(sleepers: usize, preemptions: usize) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(preemptions);
    model.check(move || {
        let bell = Arc::new(Bell::with_futex());
        let published = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = (0..sleepers)
            .map(|_| {
                let (bell, published) = (Arc::clone(&bell), Arc::clone(&published));
                thread::spawn(move || {
                    loop {
                        let heard = bell.listen();
                        if published.load(Ordering::Acquire) == 2 {
                            return;
                        }
                        bell.sleep(heard);
                    }
                })
            })
            .collect();
        for count in 1..=2 {
            published.store(count, Ordering::Release);
            bell.ring();
        }
        for thread in threads {
            thread.join().unwrap();
        }
    });
}

#[test]
fn no_wake_up_is_lost() {
    nobody_sleeps_on(1, 4);
}

#[test]
fn no_wake_up_is_lost_with_two_sleepers() {
    nobody_sleeps_on(2, 2);
}

#[test]
fn a_ring_after_a_death_wakes_whoever_sleeps() {
    loom::model(|| {
        let bell = Arc::new(Bell::with_futex());
        let taken_over = Arc::new(AtomicU64::new(0));
        let sleeper = {
            let (bell, taken_over) = (Arc::clone(&bell), Arc::clone(&taken_over));
            thread::spawn(move || {
                loop {
                    let heard = bell.listen();
                    if taken_over.load(Ordering::Acquire) == 1 {
                        return;
                    }
                    bell.sleep(heard);
                }
            })
        };
        // The dead one cleared the waiter bit and woke nobody.
        bell.word.fetch_and(!1, Ordering::AcqRel);
        taken_over.store(1, Ordering::Release);
        bell.ring_unconditionally();
        sleeper.join().unwrap();
    });
}

#[test]
#[should_panic(expected = "deadlock")]
fn waking_before_the_waiter_bit_is_cleared_is_caught() {
    plant(Bug::WakeThenClear);
    nobody_sleeps_on(1, 4);
}
