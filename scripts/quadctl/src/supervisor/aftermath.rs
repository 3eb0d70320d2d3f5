//! A swap that failed: its epochs, which are no restarts.
//!
//! A successor that takes the lease has an epoch, and the process that takes it back has another. How many there were is
//! known when that process is at work again, or gone.

use kernel_host::swaps::Swaps;

use super::probation::{Tag, living};
use super::unit::{Context, Unit};

/// What is still to be counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aftermath {
    /// The process that handed over and stands by.
    pub predecessor: Tag,
    /// Its epoch then.
    pub epoch_before: u64,
    /// Epochs after it that are counted as a swap already.
    pub counted: u64,
}

impl Unit {
    /// Counts the epochs of a failed swap as soon as all of them are known.
    pub fn look_at_aftermath(&mut self, context: &Context<'_>) {
        let (Some(aftermath), Some(info)) = (self.aftermath, context.info(&self.lease)) else { return };
        let Aftermath { predecessor, epoch_before, counted } = aftermath;
        let back = info.held && (info.pid, info.start_time) == predecessor;
        if !back && living(predecessor).is_some() {
            return;
        }
        self.aftermath = None;
        let epochs = info.epoch.saturating_sub(epoch_before);
        // Where it died meanwhile, what is at work by now was started anew.
        let of_the_swap = if back { epochs } else { epochs.min(1) };
        let path = context.runtime.swaps();
        let mut swaps = Swaps::load(&path);
        swaps.count_failed(&self.kernel, of_the_swap.saturating_sub(counted));
        if let Err(error) = swaps.save(&path) {
            tracing::error!(%error, path = %path.display(), "The failed swap counts as restarts");
        }
    }
}
