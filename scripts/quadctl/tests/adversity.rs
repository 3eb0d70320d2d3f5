//! A supervisor with stand-in kernels when the machine is against it: no memory for a lease table, processes that
//! stand still at the wrong moment.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[allow(dead_code, reason = "each test binary uses its part")]
mod common;

use std::time::{Duration, Instant};

use common::{Instance, code, send, stderr, wait};
use nix::sys::signal::Signal;
use shm_protocol::lease::KernelState;
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

/// Simulated: a stand-in that takes the lock by hand, writes nothing and stops itself.
#[test]
fn a_process_that_stands_still_between_its_lock_and_its_name_is_replaced() {
    for (tag, in_order) in [("mutedead", false), ("mutestop", true)] {
        let instance = Instance::new(tag);
        assert_eq!(code(&instance.up(&[])), 0);
        let before = instance.lease("encode.main").unwrap();
        instance.order("encode.main.mute", "");
        let began = Instant::now();
        // The record names a process that died at work, or one that said that it stopped.
        let mut restart = in_order.then(|| instance.command(&["restart", "encode"]).spawn().unwrap());
        if !in_order {
            send(before.pid, Signal::SIGKILL);
        }
        wait(PATIENCE, || (instance.starts("encode.main").len() >= 2).then_some(())).unwrap();
        instance.withdraw("encode.main.mute");
        instance.next_epoch("encode.main", before.epoch);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(instance.starts("encode.main").len(), 3);
        let log = instance.log("supervisor");
        assert_eq!(log.matches("Has the lease and does not begin or end: killed").count(), 1, "{log}");
        assert!(restart.iter_mut().all(|restart| restart.wait().unwrap().success()));
    }
}

/// Simulated: a stand-in that says what a kernel says at its end, and stops itself.
#[test]
fn a_process_that_stands_still_between_its_last_word_and_its_end_is_replaced() {
    let instance = Instance::new("lingering");
    assert_eq!(code(&instance.up(&["--set", "encode.standby=true"])), 0);
    wait(PATIENCE, || instance.lease("encode.main").filter(|info| info.candidate_ready)).unwrap();
    let before = instance.lease("encode.main").unwrap();
    instance.order("encode.main.lingering", "");
    send(before.pid, Signal::SIGTERM);
    let still = || instance.lease("encode.main").filter(|info| info.state == KernelState::Stopped && info.held);
    wait(PATIENCE, still).unwrap();
    instance.withdraw("encode.main.lingering");
    let began = Instant::now();
    instance.next_epoch("encode.main", before.epoch);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}
