//! Where a ring begins whose predecessor object is gone: what its readers still know of it.
//!
//! A ring's own header says where its successor goes on. When that was lost (an object removed or truncated by hand,
//! an instance started anew around a sender's session), ids must still rise: readers pass over what they finished.

use crate::attach::{Beginning, RingSpec, attach, load_text};
use crate::clock::realtime_ns;
use crate::layout::{role_word, slot_word};
use crate::names;
use crate::ring::ControlRef;
use crate::slot::Key;
use crate::words;

/// Rings between a source and a sender.
const LONGEST_CHAIN: usize = 3;

/// Where a new ring begins: behind the last key that its readers' own rings show, with the source position that goes
/// with it. A sender has no ring: where only its session is left, a source's ids go on from the clock, in
/// milliseconds: far above any that were used, for no source gives a thousand frames a second for years.
pub(super) fn beginning(instance: &str, spec: &RingSpec) -> Beginning {
    let readers: Vec<String> = spec.roles.iter().map(|role| role.kernel.clone()).collect();
    match furthest(instance, &readers, LONGEST_CHAIN) {
        Some(known) => known,
        None if spec.is_source() && words::has_begun(instance) => {
            Beginning { last_key: Key::whole(realtime_ns() / 1_000_000), source_position: 0 }
        }
        None => Beginning::default(),
    }
}

/// How far the output rings of these kernels have come, or those of their readers where they have none.
fn furthest(instance: &str, kernels: &[String], depth: usize) -> Option<Beginning> {
    let depth = depth.checked_sub(1)?;
    let came = |kernel: &String| {
        let ring = attach(&names::ring(instance, kernel)).ok()?.control;
        place(&ring).or_else(|| furthest(instance, &readers(&ring), depth))
    };
    kernels.iter().filter_map(came).max_by_key(|place| place.last_key.0)
}

fn readers(ring: &ControlRef) -> Vec<String> {
    let names = ring.roles.iter().map(|role| load_text(&role.words[role_word::NAME..role_word::NAME + 4]));
    names.filter(|name| !name.is_empty()).collect()
}

/// The last key of a ring, and the position in the slot that carries it; 0 where none does any more.
fn place(ring: &ControlRef) -> Option<Beginning> {
    let mut place = Beginning { last_key: ring.last_key(), source_position: 0 };
    for slot in 0..ring.slot_count() {
        let (word, key) = (ring.load_state(slot), ring.key(slot));
        let whole = ring.word(slot, slot_word::FLAGS) >> 48 != 0;
        if (word.is_ready() || word.is_free()) && whole && !place.last_key.is_after(key) {
            place = Beginning { last_key: key, source_position: ring.word(slot, slot_word::SOURCE_POSITION) };
        }
    }
    (place.last_key != Key::NONE).then_some(place)
}
