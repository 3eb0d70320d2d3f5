//! Readers and the producer at work, nobody dies.
//!
//! In every model the producer is the main thread and the readers are spawned. Loom remembers one last
//! access of an atomic, so a thread that loads a word before it exchanges it hides another's earlier load;
//! with the writer first, the readers' loads meet its exchanges, and every order is found from there.

use super::{World, explore, spawn_reader};
use crate::crash::Fuse;
use crate::sync::Ordering;

/// One producer, one required reader, `slots` slots, `frames` frames.
pub(super) fn one_reader(slots: usize, frames: u64, preemptions: usize) {
    explore(preemptions, move || {
        let world = World::new(slots, 0b1);
        let reader = spawn_reader(&world, 0, 2);
        let mut producer = world.producer(Fuse::default());
        let mut next = 1;
        while next <= frames && world.publish(&mut producer, next).unwrap() {
            next += 1;
        }
        let (mut core, mut got) = reader.join().unwrap();
        while got.len() < frames as usize {
            while next <= frames && world.publish(&mut producer, next).unwrap() {
                next += 1;
            }
            got.extend(world.read(&mut core).unwrap());
        }
        assert_eq!(got, (1..=frames).collect::<Vec<_>>(), "invariants 4, 5, 13");
        world.check_quiet();
    });
}

#[test]
fn a_reader_sees_what_was_published() {
    one_reader(2, 3, 3);
}

#[test]
fn a_buffer_is_written_again_only_after_its_reader_is_done() {
    one_reader(1, 3, 3);
}

#[test]
fn two_readers_each_get_every_frame() {
    explore(2, || {
        const FRAMES: u64 = 2;
        let world = World::new(1, 0b11);
        let readers: Vec<_> = (0..2).map(|role| spawn_reader(&world, role, 1)).collect();
        let mut producer = world.producer(Fuse::default());
        let mut next = 1;
        while next <= FRAMES && world.publish(&mut producer, next).unwrap() {
            next += 1;
        }
        let mut readers: Vec<_> = readers.into_iter().map(|reader| reader.join().unwrap()).collect();
        for _ in 0..=FRAMES {
            for (core, got) in &mut readers {
                got.extend(world.read(core).unwrap());
            }
            next += u64::from(next <= FRAMES && world.publish(&mut producer, next).unwrap());
        }
        for (_, got) in readers {
            assert_eq!(got, (1..=FRAMES).collect::<Vec<_>>(), "invariants 5, 13");
        }
        world.check_quiet();
    });
}

/// A live ring: the writer never waits, it takes back the oldest frame that nobody took.
pub(super) fn revoke_against_acquire() {
    explore(3, || {
        const FRAMES: u64 = 5;
        let world = World::new(2, 0b1);
        let reader = spawn_reader(&world, 0, 1);
        let mut producer = world.producer(Fuse::default());
        let mut published = Vec::new();
        for id in 1..=FRAMES {
            let claimed = match producer.claim().unwrap() {
                Some(at) => Some(at),
                None => producer.revoke().unwrap(),
            };
            if let Some(at) = claimed {
                world.publish_claimed(&mut producer, at, id).unwrap();
                published.push(id);
            }
        }
        let (mut core, mut got) = reader.join().unwrap();
        while let Some(id) = world.read(&mut core).unwrap() {
            got.push(id);
        }
        assert!(got.is_sorted_by(|a, b| a < b), "invariant 13: {got:?}");
        assert_eq!(core.owed().count(), 0, "a frame is owed that its reader passed over: {got:?}");
        let revoked = world.control.producer.revoked.load(Ordering::Acquire) as usize;
        assert_eq!(got.len() + revoked, published.len(), "invariant 6: a frame is read or counted");
        assert_eq!(got.last(), published.last(), "the newest frame arrives");
        world.check_quiet();
    });
}

#[test]
fn a_revoked_frame_was_never_taken_and_the_next_is_not_missed() {
    revoke_against_acquire();
}

#[test]
fn an_expired_frame_is_dropped_or_read_never_both() {
    explore(3, || {
        let world = World::new(2, 0b1);
        let mut producer = world.producer(Fuse::default());
        world.publish(&mut producer, 1).unwrap();
        world.publish(&mut producer, 2).unwrap();
        let reader = spawn_reader(&world, 0, 1);
        let oldest = producer.oldest_unheld();
        let dropped = oldest.and_then(|(at, found)| producer.drop_unheld(at, found).unwrap().then_some(at.seq));
        let (mut core, mut got) = reader.join().unwrap();
        while let Some(id) = world.read(&mut core).unwrap() {
            got.push(id);
        }
        let mut all: Vec<u64> = got.iter().copied().chain(dropped).collect();
        all.sort_unstable();
        assert_eq!(all, [1, 2], "invariant 6");
        assert!(got.is_sorted_by(|a, b| a < b), "invariant 13: {got:?}");
        world.check_quiet();
    });
}

#[test]
fn a_slow_reader_is_skipped_without_loss_to_the_required_one() {
    explore(2, || {
        const FRAMES: u64 = 3;
        let world = World::new(2, 0b01);
        world.control.active_mask.word.store(0b10, Ordering::Release);
        let slow = spawn_reader(&world, 1, 1);
        let mut producer = world.producer(Fuse::default());
        let mut required = world.reader(0, Fuse::default());
        let (mut got, mut skipped, mut next) = (Vec::new(), 0, 1);
        for _ in 0..FRAMES {
            if !world.publish(&mut producer, next).unwrap() {
                skipped += producer.skip(1).unwrap();
                if !world.publish(&mut producer, next).unwrap() {
                    continue;
                }
            }
            next += 1;
            got.extend(world.read(&mut required).unwrap());
        }
        let (mut core, mut seen) = slow.join().unwrap();
        while let Some(id) = world.read(&mut core).unwrap() {
            seen.push(id);
        }
        let published = next - 1;
        assert_eq!(got, (1..=published).collect::<Vec<_>>(), "invariant 23: the required one loses nothing");
        assert!(seen.is_sorted_by(|a, b| a < b), "invariant 13: {seen:?}");
        assert_eq!(seen.len() as u64 + skipped, published, "invariant 6: a frame is read or counted");
        world.check_quiet();
    });
}
