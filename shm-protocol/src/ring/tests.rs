//! The ring's operations one after the other, without concurrency: what each refuses and leaves behind.

use super::model::World;
use super::{RingError, SlotRef};
use crate::crash::Fuse;
use crate::layout::SLOT_WORDS;
use crate::slot::{Key, SlotState, SlotWord};
use crate::sync::Ordering;

#[test]
fn claims_are_published_in_the_order_they_were_made() {
    let world = World::new(2, 0b1);
    let mut core = world.producer(Fuse::default());
    let (first, second) = (core.claim().unwrap().unwrap(), core.claim().unwrap().unwrap());
    world.publish_claimed(&mut core, second, 1).unwrap();
    let late = core.publish(first, Key::whole(2), &World::words(2, 2), SLOT_WORDS / 8, 0);
    assert_eq!(late, Err(RingError::ClaimOrder { claimed: 1, published: 2 }));
    core.abort(first).unwrap();
    assert!(world.control.load_state(first.slot).is_free());
}

#[test]
fn a_key_at_or_below_the_last_one_is_refused_by_every_epoch() {
    let world = World::new(2, 0b1);
    let mut core = world.producer(Fuse::default());
    world.publish(&mut core, 7).unwrap();
    let mut successor = world.producer(Fuse::default());
    successor.recover(|_| None).unwrap();
    for id in [6, 7] {
        assert!(matches!(world.publish(&mut successor, id), Err(RingError::KeyNotRising { .. })));
        assert_eq!(successor.recover(|_| None).unwrap().aborted, 1);
    }
}

#[test]
fn recovery_takes_key_and_position_from_a_slot_that_is_ahead_of_the_header() {
    let world = World::new(2, 0b1);
    let mut core = world.producer(Fuse::default());
    for id in 1..=2 {
        world.publish(&mut core, id).unwrap();
    }
    // As if the predecessor had died right after the exchange that published frame 2.
    world.control.producer.last_key.store(Key::whole(1).0, Ordering::Release);
    world.control.producer.source_position.store(1, Ordering::Relaxed);
    let recovered = world.producer(Fuse::default()).recover(|_| None).unwrap();
    assert_eq!(recovered.last_key, Key::whole(2));
    assert_eq!(world.control.producer.source_position.load(Ordering::Relaxed), 2);
}

#[test]
fn a_quarantined_slot_carries_nothing_and_comes_back() {
    let world = World::new(2, 0b1);
    let claimed = world.producer(Fuse::default()).claim().unwrap().unwrap();
    let mut successor = world.producer(Fuse::default());
    let recovered = successor.recover(|slot| (slot == claimed.slot).then_some(7)).unwrap();
    assert_eq!((recovered.aborted, recovered.quarantined), (1, 1));
    assert_eq!(world.control.load_state(claimed.slot).state(), Some(SlotState::Quarantined));
    assert!(world.publish(&mut successor, 1).unwrap(), "the other slot serves");
    assert!(!world.publish(&mut successor, 2).unwrap());
    assert_eq!(successor.quarantined(), 1);
    assert_eq!(successor.end_quarantine(|process| process != 7).unwrap(), 0, "the process is still there");
    assert_eq!(successor.end_quarantine(|process| process == 7).unwrap(), 1);
    assert!(world.publish(&mut successor, 2).unwrap());
}

#[test]
fn an_old_epoch_is_refused_everything_and_changes_no_word() {
    let world = World::new(2, 0b1);
    let mut old = world.producer(Fuse::default());
    world.publish(&mut old, 1).unwrap();
    let claimed = old.claim().unwrap().unwrap();
    let _new = world.producer(Fuse::default());
    let words = || -> Vec<u64> {
        let slots = (0..2).flat_map(|slot| (0..SLOT_WORDS).map(move |word| (slot, word)));
        let line = &world.control.producer;
        slots
            .map(|(slot, word)| world.control.word(slot, word))
            .chain([&line.next_seq, &line.last_key, &line.revoked].map(|w| w.load(Ordering::Relaxed)))
            .collect()
    };
    let before = words();
    let fenced = |error: RingError| matches!(error, RingError::Fenced { mine: 1, current: 2 });
    assert!(fenced(old.claim().unwrap_err()));
    assert!(fenced(world.publish_claimed(&mut old, claimed, 2).unwrap_err()));
    assert!(fenced(old.abort(claimed).unwrap_err()));
    assert!(fenced(old.revoke().unwrap_err()));
    assert!(fenced(old.skip(0).unwrap_err()));
    assert!(fenced(old.recover(|_| None).unwrap_err()));
    assert!(fenced(old.end_quarantine(|_| true).unwrap_err()));
    assert_eq!(words(), before);
}

#[test]
fn garbage_in_a_state_word_is_an_error_or_nothing_never_a_panic() {
    for raw in [u64::MAX, 7 << 16, 0x0004_ffff, 0x0002_ff00, 1 << 63] {
        let world = World::new(2, 0b1);
        for slot in 0..2 {
            world.control.state(slot).store(raw, Ordering::Release);
            world.control.set_word(slot, 1, u64::MAX);
        }
        let mut producer = world.producer(Fuse::default());
        let mut reader = world.reader(0, Fuse::default());
        let _ = (producer.claim(), producer.revoke(), producer.skip(0), producer.end_quarantine(|_| true));
        let _ = (reader.acquire(), reader.release(SlotRef { slot: 1, seq: 9 }));
        let _ = producer.recover(|_| Some(7));
        let _ = (producer.claim(), reader.acquire());
    }
}

#[test]
fn releasing_twice_is_harmless() {
    let world = World::new(2, 0b11);
    let mut producer = world.producer(Fuse::default());
    world.publish(&mut producer, 1).unwrap();
    let mut reader = world.reader(0, Fuse::default());
    let at = reader.acquire().unwrap().unwrap();
    assert!(!reader.release(at).unwrap());
    assert!(!reader.release(at).unwrap());
    assert_eq!(world.control.load_state(at.slot).owed(), 0b10, "the other role still owes it");
    let mut other = world.reader(1, Fuse::default());
    let same = other.acquire().unwrap().unwrap();
    assert!(other.release(same).unwrap());
    assert_eq!(world.control.load_state(at.slot), SlotWord::new(SlotState::Free, 1, 1));
}
