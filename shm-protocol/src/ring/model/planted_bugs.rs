//! Each planted bug must be caught by the model that is there for it: a model that passes with its bug
//! shows nothing.

use super::deaths::{producer_dies_at, reader_dies_at};
use super::hand_off::{one_reader, revoke_against_acquire};
use super::stage::stage_dies_at;
use super::{explore, explore_deaths};
use crate::planted::{Bug, plant};

#[test]
#[should_panic(expected = "Causality violation")]
fn a_relaxed_publish_is_caught() {
    plant(Bug::RelaxedPublish);
    one_reader(2, 3, 3);
}

#[test]
#[should_panic(expected = "passed over")]
fn a_reader_that_trusts_its_second_scan_is_caught() {
    plant(Bug::OneSecondScan);
    revoke_against_acquire();
}

#[test]
#[should_panic(expected = "frames are lost")]
fn clearing_a_dead_roles_bits_is_caught() {
    plant(Bug::ClearDeadRole);
    explore_deaths(2, reader_dies_at);
}

#[test]
#[should_panic(expected = "invariant 7")]
fn releasing_an_input_by_reference_after_its_publish_is_caught() {
    plant(Bug::ReleaseAfterPublish);
    explore(3, stage_dies_at(u32::MAX));
}

#[test]
#[should_panic(expected = "invariants 4, 5, 13")]
fn believing_the_headers_last_key_is_caught() {
    plant(Bug::LastKeyInHeaderOnly);
    explore_deaths(2, producer_dies_at);
}

#[test]
#[should_panic]
fn a_key_left_in_an_aborted_slot_is_caught() {
    plant(Bug::KeyLeftInAbortedSlot);
    explore_deaths(2, producer_dies_at);
}

#[test]
#[should_panic(expected = "bytes of another frame")]
fn a_source_position_stored_before_its_frame_is_published_is_caught() {
    plant(Bug::PositionBeforePublish);
    explore_deaths(2, producer_dies_at);
}
