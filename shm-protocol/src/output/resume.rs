//! Where a ring begins whose predecessor object is gone: what its readers still know of it.
//!
//! A ring's own header says where its successor goes on. When that was lost (an object removed or truncated by hand,
//! an instance started anew around a sender's session), ids must still rise: readers pass over what they finished.

use crate::attach::{RingSpec, attach, load_text};
use crate::clock::realtime_ns;
use crate::layout::{role_word, slot_word};
use crate::names;
use crate::ring::ControlRef;
use crate::slot::Key;
use crate::sync::Ordering;
use crate::words;

/// Rings between a source and a sender.
const LONGEST_CHAIN: usize = 3;

/// Where a ring goes on.
#[derive(Clone, Copy)]
struct Place {
    key: Key,
    /// Source position after that frame, where a slot still tells it.
    position: Option<u64>,
}

/// Stores in a new ring the last key that its readers' own rings show, and the source position that goes with it.
/// A sender has no ring: where only its session is left, a source's ids go on from the clock, in milliseconds: far
/// above any that were used, for no source gives a thousand frames a second for years.
pub(super) fn take_up(control: &ControlRef, instance: &str, spec: &RingSpec) {
    let readers: Vec<String> = spec.roles.iter().map(|role| role.kernel.clone()).collect();
    let known = furthest(instance, &readers, LONGEST_CHAIN);
    let place = match known {
        Some(place) => place,
        None if spec.is_source() && words::has_begun(instance) => {
            Place { key: Key::whole(realtime_ns() / 1_000_000), position: None }
        }
        None => return,
    };
    control.producer.last_key.store(place.key.0, Ordering::Release);
    if let Some(position) = place.position {
        control.producer.source_position.store(position, Ordering::Relaxed);
    }
}

/// How far the output rings of these kernels have come, or those of their readers where they have none.
fn furthest(instance: &str, kernels: &[String], depth: usize) -> Option<Place> {
    let depth = depth.checked_sub(1)?;
    let came = |kernel: &String| {
        let ring = attach(&names::ring(instance, kernel)).ok()?.control;
        place(&ring).or_else(|| furthest(instance, &readers(&ring), depth))
    };
    kernels.iter().filter_map(came).max_by_key(|place| place.key.0)
}

fn readers(ring: &ControlRef) -> Vec<String> {
    let names = ring.roles.iter().map(|role| load_text(&role.words[role_word::NAME..role_word::NAME + 4]));
    names.filter(|name| !name.is_empty()).collect()
}

/// The last key of a ring, and the position in the slot that carries it.
fn place(ring: &ControlRef) -> Option<Place> {
    let mut place = Place { key: ring.last_key(), position: None };
    for slot in 0..ring.slot_count() {
        let (word, key) = (ring.load_state(slot), ring.key(slot));
        let whole = ring.word(slot, slot_word::FLAGS) >> 48 != 0;
        if (word.is_ready() || word.is_free()) && whole && !place.key.is_after(key) {
            place = Place { key, position: Some(ring.word(slot, slot_word::SOURCE_POSITION)) };
        }
    }
    (place.key != Key::NONE).then_some(place)
}
