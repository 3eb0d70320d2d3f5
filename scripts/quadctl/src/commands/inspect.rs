//! `quad inspect RING`: every slot of a ring, as it is now.

use kernel_host::exit::{Exit, Failure};
use kernel_host::name::{KernelName, Kind};
use serde::Serialize;
use shm_protocol::observe::{RingObserver, RingStatus, RoleStatus};
use shm_protocol::slot::{Key, SlotState, SlotWord};

use super::say;

/// A reader of the ring.
#[derive(Debug, Serialize)]
struct Reader {
    kernel: String,
    attached: bool,
    required: bool,
    owed: usize,
    held: usize,
    skipped: u64,
    bridging: bool,
}

/// A slot of the ring.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Slot {
    slot: usize,
    state: &'static str,
    /// Low 32 bits of the sequence number.
    sequence: u32,
    /// Low 13 bits of the writer's epoch.
    epoch: u64,
    frame_id: u64,
    /// Which of several outputs of that frame.
    part: u16,
    /// Nothing more is made of that frame.
    last_part: bool,
    /// Readers that have not released it.
    owed_by: Vec<String>,
    /// Readers that have taken it.
    held_by: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Ring {
    ring: String,
    content: &'static str,
    slots_active: usize,
    last_frame_id: u64,
    published: u64,
    tombstones: u64,
    dropped: u64,
    readers: Vec<Reader>,
    slots: Vec<Slot>,
}

/// Shows a ring.
pub fn run(instance: &str, ring: &str, json: bool) -> Result<u8, Failure> {
    let kernel: KernelName = ring.parse()?;
    if kernel.kind == Kind::Net {
        return Err(Failure::new(Exit::Usage, "net writes no ring; rings are capture, process and encode.main"));
    }
    let observer =
        RingObserver::open(instance, &kernel.to_string()).map_err(|error| Failure::new(Exit::Unavailable, error))?;
    let ring = describe(kernel.to_string(), observer.status(), &observer.slots());
    if json {
        say(&serde_json::to_string_pretty(&ring).unwrap_or_default());
    } else {
        table(&ring).iter().for_each(|line| say(line));
    }
    Ok(0)
}

fn describe(ring: String, status: RingStatus, slots: &[(SlotWord, Key)]) -> Ring {
    let slots = slots.iter().enumerate().map(|(slot, (word, key))| describe_slot(slot, *word, *key, &status.roles));
    Ring {
        ring,
        content: if status.access_units { "access units" } else { "pixels" },
        slots_active: status.slots,
        last_frame_id: status.last_frame_id,
        published: status.published,
        tombstones: status.tombstones,
        dropped: status.revoked,
        slots: slots.collect(),
        readers: status
            .roles
            .into_iter()
            .map(|role| Reader {
                kernel: role.kernel,
                attached: role.active,
                required: role.required,
                owed: role.owed,
                held: role.held,
                skipped: role.skipped,
                bridging: role.bridging,
            })
            .collect(),
    }
}

fn describe_slot(slot: usize, word: SlotWord, key: Key, roles: &[RoleStatus]) -> Slot {
    let named = |owes: &dyn Fn(u8) -> bool| -> Vec<String> {
        roles.iter().filter(|role| owes(role.role)).map(|role| role.kernel.clone()).collect()
    };
    Slot {
        slot,
        state: match word.state() {
            Some(SlotState::Free) => "free",
            Some(SlotState::Writing) => "writing",
            Some(SlotState::Ready) => "ready",
            Some(SlotState::Quarantined) => "quarantined",
            None => "broken",
        },
        sequence: word.seq_low(),
        epoch: word.epoch_low(),
        frame_id: key.id(),
        part: key.sub(),
        last_part: key.is_final(),
        owed_by: named(&|role| word.owed_by(role)),
        held_by: named(&|role| word.held_by(role)),
    }
}

fn table(ring: &Ring) -> Vec<String> {
    let mut lines = vec![format!(
        "Ring {}: {} slots of {}, last frame {}, {} published, {} tombstones, {} dropped",
        ring.ring, ring.slots_active, ring.content, ring.last_frame_id, ring.published, ring.tombstones, ring.dropped
    )];
    lines.push(format!(
        "{:20} {:9} {:18} {:>5} {:>5} {:>8}  NOTE",
        "READER", "STATE", "WHEN SLOW", "OWES", "HOLDS", "MISSED"
    ));
    for reader in &ring.readers {
        let line = format!(
            "{:20} {:9} {:18} {:>5} {:>5} {:>8}  {}",
            reader.kernel,
            if reader.attached { "attached" } else { "away" },
            if reader.required { "holds the ring back" } else { "is skipped" },
            reader.owed,
            reader.held,
            reader.skipped,
            if reader.bridging { "catching up" } else { "" }
        );
        lines.push(line.trim_end().to_owned());
    }
    lines.push(format!(
        "{:>4} {:12} {:>10} {:>6} {:>14} {:>5}  {:24} OWED BY",
        "SLOT", "STATE", "SEQUENCE", "EPOCH", "FRAME", "PART", "TAKEN BY"
    ));
    for slot in &ring.slots {
        // A free slot keeps what it carried last; that is past.
        let line = format!(
            "{:>4} {:12} {:>10} {:>6} {:>14} {:>5}  {:24} {}",
            slot.slot,
            slot.state,
            slot.sequence,
            slot.epoch,
            slot.frame_id,
            format!("{}{}", slot.part, if slot.last_part { "" } else { "+" }),
            slot.held_by.join(" "),
            slot.owed_by.join(" ")
        );
        lines.push(line.trim_end().to_owned());
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(role: u8, kernel: &str) -> RoleStatus {
        RoleStatus {
            role,
            kernel: kernel.to_owned(),
            required: true,
            active: true,
            owed: 1,
            held: 1,
            skipped: 0,
            bridging: false,
        }
    }

    #[test]
    fn a_slot_is_shown_in_words_with_the_names_of_its_readers() {
        let roles = [role(0, "encode.main"), role(3, "encode.web")];
        let word = SlotWord::published(77, 5, 0b1001).with_held(3);
        let slot = describe_slot(2, word, Key::new(1234, 1, false), &roles);
        assert_eq!((slot.state, slot.sequence, slot.epoch), ("ready", 77, 5));
        assert_eq!(
            (slot.owed_by.join(" "), slot.held_by.join(" ")),
            ("encode.main encode.web".into(), "encode.web".into())
        );
        let status = RingStatus {
            slots: 1,
            ready: 1,
            writing: 0,
            quarantined: 0,
            last_frame_id: 1234,
            published: 9,
            tombstones: 0,
            revoked: 2,
            access_units: false,
            roles: roles.to_vec(),
        };
        let ring = describe("process.main".to_owned(), status, &[(word, Key::new(1234, 1, false))]);
        let lines = table(&ring);
        assert_eq!(
            lines[0],
            "Ring process.main: 1 slots of pixels, last frame 1234, 9 published, 0 tombstones, 2 dropped"
        );
        assert!(lines.iter().all(|line| !line.contains("Key") && !line.contains("Some(")), "{lines:?}");
        assert!(lines[5].contains("ready") && lines[5].contains("1+") && lines[5].contains("encode.web"), "{lines:?}");
        let json = serde_json::to_value(&ring).unwrap();
        assert_eq!(json["slots"][0]["held_by"], serde_json::json!(["encode.web"]));
    }
}
