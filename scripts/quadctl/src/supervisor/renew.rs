//! A lease table that was removed or truncated by hand: nobody can hold a lease in it any more that others respect.
//! Every kernel ends at once and begins anew with a fresh table; rings, pools and sessions stay, so that the stream
//! goes on where it was.

use std::time::{Duration, Instant};

use kernel_host::runtime::RuntimeDir;
use kernel_host::swaps::Swaps;
use shm_protocol::lease::LeaseTable;
use shm_protocol::names;

use super::Supervisor;
use super::unit::Unit;
use crate::process::{Process, wait_all};

/// When a table cannot be made (no memory left), how long until the next try.
pub(super) const TRY_AGAIN: Duration = Duration::from_millis(100);
/// What a kernel takes to end in order: the frame in its hands, no more.
const END_PATIENCE: Duration = Duration::from_millis(300);
/// What killed processes take to give their memory back; one that a driver holds for longer writes nothing any more.
const DEATH_PATIENCE: Duration = Duration::from_secs(1);

/// Epochs begin anew, and so does the count of those that were swaps.
pub(super) fn forget_swap_counts(runtime: &RuntimeDir) {
    let path = runtime.swaps();
    let mut swaps = Swaps::load(&path);
    if swaps != Swaps::default() {
        swaps.forget_counts();
        if let Err(error) = swaps.save(&path) {
            tracing::warn!(%error, path = %path.display(), "Cannot write");
        }
    }
}

impl Supervisor {
    /// Ends every kernel and lets it begin with a fresh table. `false`: no table is to be had; called again then.
    pub(super) fn renew_table(&mut self, now: Instant) -> bool {
        if self.table_failure.is_none() {
            let what = if self.table.is_linked() { "truncated" } else { "removed" };
            tracing::error!(
                "The lease table {} was {what} while the instance ran: all kernels begin anew; rings and sessions stay",
                names::leases(&self.instance)
            );
        }
        // Asked first: a sender writes its session anew from its memory, should that be lost as well.
        self.units.iter().for_each(Unit::ask_to_end);
        let processes: Vec<&Process> = self.units.iter().flat_map(Unit::processes).collect();
        wait_all(&processes, END_PATIENCE);
        self.units.iter().for_each(Unit::kill);
        let processes: Vec<&Process> = self.units.iter().flat_map(Unit::processes).collect();
        wait_all(&processes, DEATH_PATIENCE);
        self.units.iter_mut().for_each(|unit| unit.begin_anew(now));
        for swap in std::mem::take(&mut self.swaps) {
            self.clients.push(swap.abandon("the lease table was damaged and every kernel begins anew"));
        }
        // Puts the damaged one away, unless somebody who came first has done so.
        match LeaseTable::join(&self.instance) {
            Ok(table) => {
                self.table = table;
                self.charge = self.table.supervise().unwrap_or_default();
            }
            Err(error) => {
                let text = error.to_string();
                if self.table_failure.as_ref() != Some(&text) {
                    tracing::error!(%error, "No new lease table can be made; trying again");
                    self.table_failure = Some(text);
                }
                return false;
            }
        }
        self.table_failure = None;
        forget_swap_counts(&self.runtime);
        // Whatever epoch comes next is the one they wait for.
        self.waiting.iter_mut().for_each(|waiting| waiting.epoch = 0);
        true
    }
}
