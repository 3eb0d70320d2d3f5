//! A supervisor with stand-in kernels when the machine is against it: no memory for a lease table, processes that
//! stand still at the wrong moment.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[allow(dead_code, reason = "each test binary uses its part")]
mod common;

use std::time::{Duration, Instant};

use common::{Instance, code, stderr, wait};
use shm_protocol::names;

const PATIENCE: Duration = Duration::from_secs(10);

/// Simulated: in place of a full /dev/shm a table of another ABI stands under the name, so that none can be made.
#[test]
fn who_asks_while_no_lease_table_can_be_made_is_answered_and_down_ends_in_order() {
    let instance = Instance::new("notable");
    assert_eq!(code(&instance.up(&[])), 0);
    let table = std::path::Path::new(names::SHM_DIR).join(names::leases(&instance.name));
    let mut foreign = std::fs::read(&table).unwrap();
    foreign[8..16].fill(0xee);
    let beside = table.with_extension("foreign");
    std::fs::write(&beside, foreign).unwrap();
    std::fs::rename(&beside, &table).unwrap();
    wait(PATIENCE, || instance.log("supervisor").contains("No new lease table can be made").then_some(())).unwrap();
    let began = Instant::now();
    let set = instance.quad(&["set", "encode.bitrate_kbps=3000"]);
    assert!(code(&set) == 75 && stderr(&set).contains("Kept for the next start"), "{}", stderr(&set));
    let down = instance.quad(&["down"]);
    assert_eq!(code(&down), 0);
    assert!(!stderr(&down).contains("does not answer"), "{}", stderr(&down));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    instance.assert_gone();
}
