//! What gives way when consumers are slower than the source (DESIGN, policy).

use super::{Claim, Producer};
use crate::attach::{Content, Policy};
use crate::clock::monotonic_ns;
use crate::descriptor::{FrameHead, flag};
use crate::layout::{role_word, slot_word};
use crate::lease::process::ProcessTag;
use crate::ring::RingError;
use crate::slot::MAX_ROLES;
use crate::sync::Ordering;
use std::time::Duration;

/// Whether a ring is in its steady state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LiveState {
    /// Every consumer keeps up: old frames are dropped.
    Steady,
    /// A kernel downstream is being replaced or catches up: frames wait for it.
    Bridging,
}

/// How long after a replacement frames may wait for the backlog to be worked off. An encoder that is
/// 1.3 times as fast as real time needs 0.9 s for 16 frames at 60 fps.
const CATCH_UP_NS: u64 = 2_000_000_000;
/// A loop beats at least every 50 ms; twice that without a beat means dead or hung.
const STALE_BEAT_NS: u64 = 100_000_000;

impl Producer {
    /// Called when no slot is free.
    pub(super) fn make_room(&mut self) -> Result<Option<Claim>, RingError> {
        let required = self.core.control.identity.required_mask.load(Ordering::Relaxed) as u8;
        for role in (0..MAX_ROLES as u8).filter(|role| required & (1 << role) == 0) {
            let skipped = self.core.skip(role)?;
            if skipped > 0 && self.spec.content == Content::AccessUnits {
                self.cut_to_next_idr(role);
            }
        }
        if let Some(at) = self.core.claim()? {
            return Ok(Some(Claim { at }));
        }
        if self.spec.policy == Policy::Live && self.spec.content == Content::Pixels {
            return Ok(self.core.revoke()?.map(|at| Claim { at }));
        }
        Ok(None)
    }

    /// A viewer's kernel missed units: nothing before the next IDR is of use to it, so one is asked for.
    fn cut_to_next_idr(&self, role: u8) {
        self.core.control.roles[usize::from(role)].words[role_word::AWAITS_IDR].store(1, Ordering::Relaxed);
        // SYNC: control-word (release side)
        self.core.control.control.idr_requested.fetch_add(1, Ordering::Release);
    }

    /// Roles that this unit is not for, because they wait for an IDR; an IDR ends the wait.
    pub(super) fn roles_awaiting_idr(&self, head: &FrameHead) -> u8 {
        let mut waiting = 0;
        for (role, entry) in self.core.control.roles.iter().enumerate() {
            let word = &entry.words[role_word::AWAITS_IDR];
            if word.load(Ordering::Relaxed) != 0 {
                if head.has(flag::IDR) {
                    word.store(0, Ordering::Relaxed);
                } else {
                    waiting |= 1 << role;
                }
            }
        }
        waiting
    }

    /// Drops frames that have waited longer than the latency bound, oldest first; returns how many. While
    /// a kernel downstream is being replaced frames wait instead.
    ///
    /// # Errors
    /// [`RingError::Fenced`].
    pub fn drop_expired(&mut self) -> Result<u64, RingError> {
        let bound_ns = self.core.control.producer.max_latency_ns.load(Ordering::Relaxed);
        if bound_ns == 0 || self.spec.policy != Policy::Live || self.spec.content != Content::Pixels {
            return Ok(0);
        }
        let mut dropped = 0;
        // One look for each slot is the most there can be to drop.
        for _ in 0..self.slots() {
            let Some((oldest, found)) = self.core.oldest_unheld() else { break };
            let capture_ns = self.core.control.word(oldest.slot, slot_word::CAPTURE_NS);
            if monotonic_ns().saturating_sub(capture_ns) <= bound_ns
                || bridges(&self.core.control, &self.table, found.owed()) == LiveState::Bridging
                || !self.core.drop_unheld(oldest, found)?
            {
                break;
            }
            dropped += 1;
        }
        Ok(dropped)
    }

    /// Buffers that rest because a killed process may still have a device write them are used again once that
    /// process is gone; returns how many. Called at each claim that is due for it.
    ///
    /// # Errors
    /// [`RingError::Fenced`].
    pub fn end_quarantine(&mut self) -> Result<usize, RingError> {
        /// A driver that kept a process from dying lets go after seconds.
        const LOOK_NS: u64 = 100_000_000;
        let freed = match self.core.quarantined() {
            0 => 0,
            _ => self.core.end_quarantine(|process| ProcessTag(process).is_gone(Duration::ZERO))?,
        };
        self.quarantine_look_ns = (self.core.quarantined() > 0).then(|| monotonic_ns() + LOOK_NS);
        Ok(freed)
    }

    /// Buffers that rest for the sake of a process that does not die.
    pub fn quarantined(&self) -> usize {
        self.core.quarantined()
    }

    /// Whether a consumer of this ring is being replaced or catches up.
    pub fn live_state(&self) -> LiveState {
        bridges(&self.core.control, &self.table, self.core.control.publish_mask())
    }

    /// Frames dropped from this ring so far.
    pub fn revoked(&self) -> u64 {
        self.core.control.producer.revoked.load(Ordering::Relaxed)
    }
}

fn bridges(control: &crate::ring::ControlRef, table: &crate::lease::LeaseTable, roles: u8) -> LiveState {
    let now = monotonic_ns();
    for (role, entry) in control.roles.iter().enumerate() {
        if roles & (1 << role) == 0 {
            continue;
        }
        let since = entry.words[role_word::BRIDGING_SINCE_NS].load(Ordering::Relaxed);
        if since != 0 && now.saturating_sub(since) < CATCH_UP_NS {
            return LiveState::Bridging;
        }
        let lease = entry.words[role_word::LEASE].load(Ordering::Relaxed) as usize;
        if lease == 0 || lease > crate::lease::MAX_KERNELS {
            continue;
        }
        // The beat first: it is a load, whether the lease is held a system call.
        if now.saturating_sub(table.heartbeat_ns(lease - 1)) > STALE_BEAT_NS || !table.is_held(lease - 1) {
            return LiveState::Bridging;
        }
    }
    LiveState::Steady
}
