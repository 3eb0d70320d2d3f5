//! Two instances beside each other, each with its own objects, directory and ports.

use std::time::Duration;
use system_tests::pipeline::{Part, Pipeline, free_rtp_port};
use system_tests::tools::within;
use system_tests::wire::{Faults, Wire, in_order};

fn started(label: &str) -> (Pipeline, Wire) {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut pipeline = Pipeline::new(label, port);
    pipeline.set("capture.width", "640").set("capture.height", "360").set("capture.fps", "30");
    pipeline.start_all();
    (pipeline, wire)
}

#[test]
fn two_instances_stream_beside_each_other_and_one_ends_alone() {
    let (mut first, first_wire) = started("first");
    let (mut second, second_wire) = started("second");
    let both = || first_wire.units() >= 60 && second_wire.units() >= 60;
    assert!(within(Duration::from_secs(20), both), "{}{}", first.logs(), second.logs());
    first.stop();
    let before = second_wire.units();
    assert!(within(Duration::from_secs(10), || second_wire.units() >= before + 60), "{}", second.logs());
    assert!(Part::ALL.into_iter().all(|part| second.alive(part)));
    assert_eq!(second.status().unwrap()["instance"], second.instance());
    second.stop();
    let (one, other) = (first_wire.packets(), second_wire.packets());
    assert_eq!((in_order(&one).1, in_order(&other).1), (Faults::default(), Faults::default()));
    assert_ne!(one[0].ssrc, other[0].ssrc);
}
