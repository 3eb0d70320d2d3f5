//! A producer or a reader dies at any step; its successor goes on.

use super::{World, explore, explore_deaths, note_death, spawn_reader};
use crate::crash::Fuse;
use crate::layout::SLOT_WORDS;
use crate::ring::recovery::Recovered;
use crate::ring::{ProducerCore, RingError};
use crate::slot::Key;
use crate::sync::Ordering;
use loom::thread;

/// Frames of a scenario.
const FRAMES: u64 = 3;

/// What a source does: frame `last key + 1` is what lies at the source position.
fn publish_next(world: &World, core: &mut ProducerCore) -> Result<bool, RingError> {
    let id = world.control.last_key().id() + 1;
    if id > FRAMES {
        return Ok(false);
    }
    let position = world.control.producer.source_position.load(Ordering::Relaxed);
    let Some(at) = core.claim()? else { return Ok(false) };
    // The content is the source's, the key is ours: a position that ran ahead shows as other content.
    world.fill(at, position + 1);
    core.publish(at, Key::whole(id), &World::words(id, position + 1), SLOT_WORDS / 8, 0)?;
    Ok(true)
}

/// Recovers, dying at each step of the recovery once more if `fuses` says so.
fn succeed(world: &World, fuses: &[u32]) -> (ProducerCore, Recovered) {
    for steps in fuses {
        match world.producer(Fuse::burning(*steps)).recover(|_| None) {
            Err(RingError::Died) => note_death(),
            done => drop(done.unwrap()),
        }
    }
    let mut core = world.producer(Fuse::default());
    let recovered = core.recover(|_| None).unwrap();
    assert_eq!(recovered.last_key, world.control.last_key());
    let again = core.recover(|_| None).unwrap();
    let quiet = Recovered { aborted: 0, quarantined: 0, ..recovered };
    assert_eq!(again, quiet, "invariant 11: recovery changes nothing the second time");
    (core, recovered)
}

/// The producer dies at step `step` beside a reader.
pub(super) fn producer_dies_at(step: u32) -> impl Fn() + Sync + Send + 'static {
    move || {
        let world = World::new(2, 0b1);
        let reader = spawn_reader(&world, 0, 1);
        let mut producer = world.producer(Fuse::burning(step));
        loop {
            match publish_next(&world, &mut producer) {
                Ok(true) => {}
                Ok(false) => break,
                Err(RingError::Died) => {
                    note_death();
                    producer = succeed(&world, &[]).0;
                }
                Err(error) => panic!("{error}"),
            }
        }
        let (mut core, mut got) = reader.join().unwrap();
        while got.len() < FRAMES as usize {
            let published = match publish_next(&world, &mut producer) {
                Ok(published) => published,
                Err(RingError::Died) => {
                    note_death();
                    producer = succeed(&world, &[]).0;
                    true
                }
                Err(error) => panic!("{error}"),
            };
            let read = world.read(&mut core).unwrap();
            assert!(published || read.is_some(), "nothing moves any more after {got:?}");
            got.extend(read);
        }
        assert_eq!(got, (1..=FRAMES).collect::<Vec<_>>(), "invariants 4, 5, 13");
        assert_eq!(world.read(&mut core).unwrap(), None, "nothing twice");
        succeed(&world, &[]);
        world.check_quiet();
    }
}

#[test]
fn a_producer_dies_at_any_step_and_no_frame_is_lost_or_doubled() {
    let steps = explore_deaths(2, producer_dies_at);
    assert!(steps > 20, "three frames have more than {steps} steps");
}

/// The producer dies at step `first`, its successor at step `second` of the recovery; readers come after.
#[test]
fn a_recovery_that_dies_is_repeated_to_the_same_end() {
    for first in 0..36 {
        for second in 0..12 {
            explore(0, move || {
                let world = World::new(2, 0b1);
                let mut producer = world.producer(Fuse::burning(first));
                let mut reader = world.reader(0, Fuse::default());
                let mut got = Vec::new();
                while got.len() < FRAMES as usize {
                    match publish_next(&world, &mut producer) {
                        Ok(_) => got.extend(world.read(&mut reader).unwrap()),
                        Err(RingError::Died) => producer = succeed(&world, &[second]).0,
                        Err(error) => panic!("{error}"),
                    }
                }
                assert_eq!(got, (1..=FRAMES).collect::<Vec<_>>(), "invariants 4, 5, 11");
                succeed(&world, &[]);
                world.check_quiet();
            });
        }
    }
}

/// A live producer that revokes dies at any step beside its reader: order and words hold, and the ring works.
#[test]
fn a_revoking_producer_dies_at_any_step_and_the_ring_works_on() {
    let steps = explore_deaths(1, |step| {
        move || {
            let world = World::new(2, 0b1);
            let reader = spawn_reader(&world, 0, 1);
            let mut core = world.producer(Fuse::burning(step));
            let mut turns = 0;
            while turns < 3 {
                let id = world.control.last_key().id() + 1;
                let claimed = core.claim().and_then(|at| at.map_or_else(|| core.revoke(), |at| Ok(Some(at))));
                let done = claimed.and_then(|at| at.map_or(Ok(()), |at| world.publish_claimed(&mut core, at, id)));
                match done {
                    Ok(()) => turns += 1,
                    // What was revoked to make room is gone; its successor's frame is the newest.
                    Err(RingError::Died) => {
                        note_death();
                        core = succeed(&world, &[]).0;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            let (mut core, mut got) = reader.join().unwrap();
            while let Some(id) = world.read(&mut core).unwrap() {
                got.push(id);
            }
            assert!(got.is_sorted_by(|a, b| a < b), "invariants 4, 13: {got:?}");
            assert_eq!(got.last(), Some(&world.control.last_key().id()), "the newest frame arrives");
            succeed(&world, &[]);
            world.check_quiet();
        }
    });
    assert!(steps > 20, "three frames have more than {steps} steps");
}

/// The reader dies at step `step`; its successor has the same role.
pub(super) fn reader_dies_at(step: u32) -> impl Fn() + Sync + Send + 'static {
    move || {
        let world = World::new(2, 0b1);
        let reading = {
            let world = world.clone();
            thread::spawn(move || {
                let mut core = world.reader(0, Fuse::burning(step));
                let mut finished = Vec::new();
                let mut seen = Vec::new();
                for _ in 0..3 {
                    match world.read(&mut core) {
                        Ok(id) => finished.extend(id),
                        Err(RingError::Died) => {
                            note_death();
                            seen.append(&mut finished);
                            core = world.reader(0, Fuse::default());
                        }
                        Err(error) => panic!("{error}"),
                    }
                }
                (core, seen, finished)
            })
        };
        let mut producer = world.producer(Fuse::default());
        while publish_next(&world, &mut producer).unwrap() {}
        let (mut core, before, mut after) = reading.join().unwrap();
        while before.len() + after.len() < FRAMES as usize || core.owed().count() > 0 {
            let published = publish_next(&world, &mut producer).unwrap();
            match world.read(&mut core) {
                Ok(Some(id)) => after.push(id),
                // Died after the last release of a frame that is in neither list.
                Ok(None) if !published && world.control.last_key().id() == FRAMES => break,
                Ok(None) => {}
                Err(RingError::Died) => core = world.reader(0, Fuse::default()),
                Err(error) => panic!("{error}"),
            }
        }
        assert!(before.is_sorted_by(|a, b| a < b) && after.is_sorted_by(|a, b| a < b), "invariant 13");
        // One frame may be missing from both: the one whose release was done when the reader died.
        let mut all: Vec<u64> = before.iter().chain(&after).copied().collect();
        all.dedup();
        let gaps = FRAMES as usize - all.len();
        assert!(gaps <= 1, "frames are lost: {before:?} then {after:?}");
        assert!(before.last() < after.first() || after.is_empty() || before.is_empty(), "released, yet seen again");
        world.check_quiet();
    }
}

#[test]
fn a_reader_dies_at_any_step_and_its_successor_inherits_what_it_owed() {
    let steps = explore_deaths(2, reader_dies_at);
    assert!(steps >= 15, "three frames have more than {steps} steps");
}
