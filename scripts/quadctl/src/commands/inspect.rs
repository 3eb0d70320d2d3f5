//! `quad inspect RING`: every slot of a ring, as it is now.

use kernel_host::exit::{Exit, Failure};
use kernel_host::name::{KernelName, Kind};
use shm_protocol::observe::RingObserver;

use super::say;

/// Shows a ring.
pub fn run(instance: &str, ring: &str) -> Result<u8, Failure> {
    let kernel: KernelName = ring.parse()?;
    if kernel.kind == Kind::Net {
        return Err(Failure::new(Exit::Usage, "net writes no ring; rings are capture, process and encode.main"));
    }
    let ring =
        RingObserver::open(instance, &kernel.to_string()).map_err(|error| Failure::new(Exit::Unavailable, error))?;
    let status = ring.status();
    let content = if status.access_units { "access units" } else { "pixels" };
    say(&format!(
        "Ring {kernel}: {} slots of {content}, last frame {}, {} published, {} tombstones, {} dropped",
        status.slots, status.last_frame_id, status.published, status.tombstones, status.revoked
    ));
    for role in &status.roles {
        say(&format!(
            "Reader {}: {}, {}, owes {}, holds {}, missed {}",
            role.kernel,
            if role.active { "attached" } else { "away" },
            if role.required { "required" } else { "skipped when slow" },
            role.owed,
            role.held,
            role.skipped
        ));
    }
    ring.slot_lines().iter().for_each(|line| say(line));
    Ok(0)
}
