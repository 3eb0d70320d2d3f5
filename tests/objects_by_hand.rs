//! Objects removed or truncated by hand under the running stream: reported by name, and mended while it goes on.

use std::time::Duration;
use system_tests::bitstream::units;
use system_tests::pipeline::Part;
use system_tests::quad::{Quad, said};
use system_tests::receiver::{assert_contiguous, decode};
use system_tests::tools::{have, need, skip, within};
use system_tests::wire::{Faults, Packet, in_order, longest_gap};

const PATIENCE: Duration = Duration::from_secs(20);

/// Streams, lets `damage` do its work at the lease table's path, and expects the stream to go on whole.
#[expect(clippy::unwrap_used, reason = "the helper of a test fails it")]
fn goes_on_after(label: &str, word: &str, damage: impl Fn(&std::path::Path)) {
    if !have("ffmpeg") {
        skip(&format!("objects_by_hand: {label}"), "ffmpeg is not installed");
        return;
    }
    let (quad, wire) = Quad::streaming(label, &[]);
    let table = std::path::Path::new("/dev/shm").join(format!("quad.{}.leases", quad.pipeline.instance()));
    let pids = || Part::ALL.map(|part| quad.status().1["kernels"][part.short()]["pid"].as_u64());
    let before = pids();
    damage(&table);
    let running = || quad.status().0 == Some(0) && pids().iter().zip(&before).all(|(now, then)| now != then);
    assert!(within(PATIENCE, running), "{}\n{}", quad.status().1, said(&quad.run(&["logs"])));
    let units_before = wire.units();
    assert!(within(PATIENCE, || wire.units() >= units_before + 60), "{}", said(&quad.run(&["logs"])));
    assert!(table.metadata().unwrap().len() > 0, "A whole table is there again");
    let log = said(&quad.run(&["logs", "supervisor"]));
    assert_eq!(log.matches(word).count(), 1, "One line says what happened: {log}");
    // And everything works on it as before.
    let restarted = quad.run(&["restart", "encode"]);
    assert!(restarted.status.success(), "{}", said(&restarted));
    let units_before = wire.units();
    assert!(within(PATIENCE, || wire.units() >= units_before + 30));
    let status = quad.status().1;
    let dropped = Part::ALL.map(|part| status["kernels"][part.short()]["dropped"].as_u64());
    assert_eq!(dropped, [Some(0); 4], "{status}");
    quad.down();
    let packets = wire.packets();
    eprintln!("longest gap on the wire: {:?}", longest_gap(&packets));
    let (ordered, faults) = in_order(&packets);
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    let stream: Vec<u8> = units(&ordered).iter().flat_map(|unit| unit.annex_b()).collect();
    let ids = decode(&stream, 1280, 720).clean();
    assert_eq!(ids.first(), Some(&1));
    assert_contiguous(&ids);
}

#[test]
fn a_removed_lease_table_costs_a_moment_and_no_frame() {
    goes_on_after("unlinked", "was removed while the instance ran", |table| std::fs::remove_file(table).unwrap());
}

#[test]
fn a_truncated_lease_table_costs_a_moment_and_no_frame() {
    goes_on_after("cut", "was truncated while the instance ran", |table| {
        std::fs::OpenOptions::new().write(true).open(table).unwrap().set_len(0).unwrap();
    });
}

/// The objects beside the lease table, and the kernel that says what was done to each.
const OBJECTS: [(&str, Part); 8] = [
    ("capture.main", Part::Capture),
    ("process.main", Part::Process),
    ("encode.main", Part::Encode),
    ("capture.main.pool", Part::Capture),
    ("encode.main.pool", Part::Encode),
    ("capture.main.tm", Part::Capture),
    ("net.main.tm", Part::Net),
    ("net.main.session", Part::Net),
];

/// Streams, does `damage` to one object after the other, and returns what was on the wire.
fn stream_through(label: &str, word: &str, damage: impl Fn(&std::path::Path)) -> Vec<Packet> {
    let (quad, wire) = Quad::streaming(label, &[]);
    for (object, part) in OBJECTS {
        let prefix = format!("quad.{}.{object}", quad.pipeline.instance());
        // Pools and pages end with a number; others are the whole name.
        let numbered =
            |name: &str| name.strip_prefix(&prefix).is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit()));
        let found: Vec<String> = quad.pipeline.objects().into_iter().filter(|name| numbered(name)).collect();
        assert_eq!(found.len(), 1, "{object}: {found:?}");
        damage(&std::path::Path::new("/dev/shm").join(&found[0]));
        let told = || {
            quad.log(&format!("{}.main", part.short()))
                .lines()
                .any(|line| line.contains(&found[0]) && line.contains(word))
        };
        assert!(within(PATIENCE, told), "{object}: {}", said(&quad.run(&["logs"])));
        let units_before = wire.units();
        assert!(within(PATIENCE, || wire.units() >= units_before + 45), "{object}: {}", said(&quad.run(&["logs"])));
        assert!(within(PATIENCE, || quad.status().0 == Some(0)), "{object}: {}", quad.status().1);
    }
    // What was made anew serves a successor too.
    for part in Part::ALL {
        let restarted = quad.run(&["restart", part.short()]);
        assert!(restarted.status.success(), "{}", said(&restarted));
    }
    let units_before = wire.units();
    assert!(within(PATIENCE, || wire.units() >= units_before + 30));
    quad.down();
    let packets = wire.packets();
    eprintln!("longest gap on the wire: {:?}", longest_gap(&packets));
    packets
}

#[test]
fn removed_objects_cost_a_moment_and_no_packet() {
    if !need("objects_by_hand: removed", &["ffmpeg"]) {
        return;
    }
    let packets = stream_through("removed", "was removed", |object| std::fs::remove_file(object).unwrap());
    let (ordered, faults) = in_order(&packets);
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    let stream: Vec<u8> = units(&ordered).iter().flat_map(|unit| unit.annex_b()).collect();
    let ids = decode(&stream, 1280, 720).clean();
    // What lay only in the ring of the encoder when it was removed is lost; all else is made again.
    let lost: Vec<(u64, u64)> = ids.windows(2).filter(|pair| pair[1] != pair[0] + 1).map(|p| (p[0], p[1])).collect();
    assert!(lost.len() <= 1 && lost.iter().all(|(before, after)| after > before), "{lost:?}");
}

#[test]
fn truncated_objects_cost_a_moment_and_no_packet() {
    let packets = stream_through("cut-all", "was truncated", |object| {
        std::fs::OpenOptions::new().write(true).open(object).unwrap().set_len(0).unwrap();
    });
    let (ordered, faults) = in_order(&packets);
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    // Frames whose memory was taken away are lost; those that come are in order and of one stream.
    let timestamps: Vec<u32> = units(&ordered).iter().map(|unit| unit.timestamp).collect();
    assert!(timestamps.windows(2).all(|pair| pair[1].wrapping_sub(pair[0]) < 1 << 31), "time ran backwards");
}
