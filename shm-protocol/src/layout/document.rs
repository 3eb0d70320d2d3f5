//! docs/PROTOCOL.md draws the control segment byte for byte; here its table is compared with the structs.

use super::*;
use std::collections::BTreeMap;
use std::mem::{offset_of, size_of};

const DOCUMENT: &str = include_str!("../../../docs/PROTOCOL.md");

macro_rules! offsets {
    ($($part:ident: $struct:ident { $($field:ident),* })*) => {
        BTreeMap::from([$($(
            (
                concat!(stringify!($part), ".", stringify!($field)).to_owned(),
                offset_of!(RingControl, $part) + offset_of!($struct, $field),
            ),
        )*)*])
    };
}

#[test]
fn the_documents_offset_table_is_the_layout() {
    let mut actual: BTreeMap<String, usize> = offsets! {
        identity: Identity {
            magic, abi, layout_hash, endianness, segment_bytes, creation_id, ring_uid, slots, content, policy,
            required_mask
        }
        producer: ProducerLine {
            next_seq, last_key, published, tombstones, revoked, max_latency_ns, realtime_offset_ns, tai_offset_ns,
            source_position, idr_count, memo_bytes
        }
        control: ControlWords {
            idr_requested, bitrate_kbps, bitrate_serial, pause_requested, idr_served, bitrate_acknowledged,
            pause_acknowledged
        }
    };
    actual.extend([
        ("pub_bell".to_owned(), offset_of!(RingControl, pub_bell)),
        ("rel_bell".to_owned(), offset_of!(RingControl, rel_bell)),
        ("active_mask".to_owned(), offset_of!(RingControl, active_mask)),
        ("roles".to_owned(), offset_of!(RingControl, roles)),
        ("memo".to_owned(), offset_of!(RingControl, memo)),
        ("pools".to_owned(), offset_of!(RingControl, pools)),
        ("formats".to_owned(), offset_of!(RingControl, formats)),
        ("slots".to_owned(), offset_of!(RingControl, slots)),
    ]);
    let documented: BTreeMap<String, usize> = DOCUMENT
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| 0x")?.split('|').map(str::trim);
            let offset = usize::from_str_radix(cells.next()?, 16).ok()?;
            Some((cells.next()?.to_owned(), offset))
        })
        .collect();
    assert_eq!(documented, actual);
    assert!(DOCUMENT.contains(&format!("\n{} bytes, little endian.", size_of::<RingControl>())));
}

#[test]
fn the_documents_slot_words_are_the_layout() {
    let words = [
        ("state ", slot_word::STATE),
        ("seq ", slot_word::SEQ),
        ("key ", slot_word::KEY),
        ("capture_ns", slot_word::CAPTURE_NS),
        ("pool ", slot_word::POOL),
        ("extent ", slot_word::EXTENT),
        ("reference ", slot_word::REFERENCE),
        ("source pts", slot_word::DETAILS),
        ("source position", slot_word::SOURCE_POSITION),
    ];
    let drawn = DOCUMENT.split("```text").nth(1).and_then(|rest| rest.split("```").next()).unwrap_or_default();
    // Columns are aligned with spaces: one is enough to compare.
    let drawn = drawn.split_whitespace().collect::<Vec<_>>().join(" ");
    for (name, word) in words {
        assert!(drawn.contains(&format!("word {word} {name}")), "word {word} {name}");
    }
}

#[test]
fn every_test_the_document_names_exists() {
    let sources: String = [
        include_str!("../ring/model/hand_off.rs"),
        include_str!("../ring/model/deaths.rs"),
        include_str!("../ring/model/stage.rs"),
        include_str!("../ring/model/planted_bugs.rs"),
        include_str!("../ring/tests.rs"),
        include_str!("../futex/model.rs"),
        include_str!("../lease/tests.rs"),
        include_str!("../slot.rs"),
        include_str!("../descriptor/tests.rs"),
        include_str!("../fdpass/message.rs"),
        include_str!("../../tests/pipeline.rs"),
        include_str!("../../tests/forced_out.rs"),
        include_str!("../../tests/lease_takeover.rs"),
        include_str!("../../tests/objects_by_hand.rs"),
        include_str!("../../../kernel-d-net/src/outputs/rtp/session/tests.rs"),
    ]
    .concat();
    // A test's name is a sentence: no other word here has five underscores.
    let named = DOCUMENT.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let tests: Vec<&str> = named.filter(|word| word.matches('_').count() >= 5).collect();
    assert!(tests.len() > 20, "only {} tests are named", tests.len());
    for test in tests {
        assert!(sources.contains(&format!("fn {test}(")), "there is no test {test}");
    }
}
