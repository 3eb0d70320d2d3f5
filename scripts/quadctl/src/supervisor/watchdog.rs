//! Kernels that hang: their process lives and their loop does not turn.

use std::time::{Duration, Instant};

use shm_protocol::clock::monotonic_ns;
use shm_protocol::lease::{KernelState, LeaseInfo};

use super::unit::{Context, Unit};
use crate::process::Signal;

/// A killed holder that has not let go by then keeps its lease in name only: with SIGKILL pending it runs no further
/// instruction.
const DEATH_PATIENCE: Duration = Duration::from_secs(1);
/// What the start of a process may take on a machine that is short of time or of disk.
const NEWCOMER_PATIENCE: Duration = Duration::from_secs(3);
/// Recovery beats less often than work does: mapping and populating large pools is one long step.
const RECOVERY_FACTOR: u64 = 5;

/// Watches heartbeats, unless this very process was kept from running.
#[derive(Debug)]
pub struct Watchdog {
    timeout: Duration,
    /// Silence before this moment may be ours.
    trusted_from: Instant,
    expected: Instant,
}

impl Watchdog {
    /// One that counts a kernel as hung after `timeout`.
    pub fn new(timeout: Duration) -> Watchdog {
        let now = Instant::now();
        Watchdog { timeout, trusted_from: now, expected: now + timeout }
    }

    /// How often to look, so that a hang is seen soon after it is one.
    pub fn interval(&self) -> Duration {
        (self.timeout / 8).clamp(Duration::from_millis(20), Duration::from_millis(250))
    }

    /// Called each turn of the loop with when the next is due at the latest. A turn that comes much later shows that
    /// the machine, or this process, stood still, and the kernels perhaps with it: they get their time anew.
    pub fn turn(&mut self, now: Instant, next: Instant) {
        if now > self.expected + self.timeout / 4 {
            tracing::warn!(late_ms = (now - self.expected).as_millis() as u64, "The supervisor itself was late");
            self.trusted_from = now + self.timeout;
        }
        self.expected = next;
    }

    /// Kills what hangs, and takes the lease from what does not die of it.
    pub fn look(&self, unit: &mut Unit, context: &Context<'_>, now: Instant) {
        // One that was forced out already is nobody to judge: its successor is on its way.
        let Some(info) = context.info(&unit.lease).filter(|info| info.held && !info.forced) else {
            self.look_at_newcomer(unit, now);
            return;
        };
        unit.unheld_since = None;
        if let Some((at, epoch)) = unit.killed
            && epoch == info.epoch
        {
            if now > at + DEATH_PATIENCE {
                tracing::error!(kernel = %unit.kernel, pid = info.pid, "Killed and does not die: its lease is taken from it");
                match context.table.force_takeover(&unit.lease, epoch) {
                    Ok(true) => {}
                    // It let go in this very moment.
                    Ok(false) => return,
                    Err(error) => {
                        tracing::error!(kernel = %unit.kernel, %error, "The lease cannot be taken");
                        return;
                    }
                }
                unit.killed = None;
                let doomed = unit.main.take_if(|main| main.process.pid == info.pid);
                unit.doomed.extend(doomed);
                match unit.standby.take() {
                    Some(standby) => unit.main = Some(standby),
                    None => unit.start_at = Some(now),
                }
            }
            return;
        }
        // A successor has the lock a moment before the record is its own: then nobody is there to be killed.
        if now >= self.trusted_from
            && hangs(&info, monotonic_ns(), self.timeout)
            && context.table.kill_holder(&unit.lease, info.epoch)
        {
            let silent_ms = monotonic_ns().saturating_sub(info.heartbeat_ns) / 1_000_000;
            tracing::error!(kernel = %unit.kernel, pid = info.pid, silent_ms, "No sign of life: killed");
            unit.killed = Some((now, info.epoch));
        }
    }
}

impl Watchdog {
    /// A process that is to take a lease that nobody holds, a new one or a standby whose holder died, does so within
    /// milliseconds. One that stands still before it has the lease has no heart to be heard.
    fn look_at_newcomer(&self, unit: &mut Unit, now: Instant) {
        let Some(main) = &unit.main else {
            unit.unheld_since = None;
            return;
        };
        let since = *unit.unheld_since.get_or_insert(now);
        if now >= self.trusted_from && now > since + self.timeout.max(NEWCOMER_PATIENCE) {
            let waited_ms = (now - since).as_millis() as u64;
            tracing::error!(kernel = %unit.kernel, pid = main.process.pid, waited_ms, "Does not take its lease: killed");
            main.process.signal(Signal::KILL);
            unit.unheld_since = None;
        }
    }
}

/// Whether a holder has been silent for too long.
fn hangs(info: &LeaseInfo, now_ns: u64, timeout: Duration) -> bool {
    let timeout_ns = timeout.as_nanos() as u64;
    let limit_ns = match info.state {
        KernelState::Running => timeout_ns,
        KernelState::Recovering => timeout_ns.saturating_mul(RECOVERY_FACTOR),
        // On its way out, which whoever asked for it sees to; or so new that the record is not its own yet.
        KernelState::Stopped | KernelState::Absent => return false,
    };
    info.held && now_ns.saturating_sub(info.heartbeat_ns) > limit_ns
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(state: KernelState, heartbeat_ns: u64) -> LeaseInfo {
        LeaseInfo {
            kernel: "encode.main".into(),
            epoch: 1,
            pid: 1,
            start_time: 1,
            heartbeat_ns,
            state,
            held: true,
            forced: false,
            candidate_ticket: 0,
            candidate_ready: false,
            candidate_pid: 0,
        }
    }

    #[test]
    fn silence_counts_only_of_a_holder_that_should_beat() {
        let (timeout, second) = (Duration::from_secs(2), 1_000_000_000);
        let now = 100 * second;
        assert!(!hangs(&info(KernelState::Running, now - 2 * second), now, timeout));
        assert!(hangs(&info(KernelState::Running, now - 2 * second - 1), now, timeout));
        assert!(!hangs(&info(KernelState::Recovering, now - 9 * second), now, timeout));
        assert!(hangs(&info(KernelState::Recovering, now - 11 * second), now, timeout));
        assert!(!hangs(&info(KernelState::Stopped, 0), now, timeout));
        assert!(!hangs(&info(KernelState::Absent, 0), now, timeout));
        assert!(!hangs(&LeaseInfo { held: false, ..info(KernelState::Running, 0) }, now, timeout));
        assert!(!hangs(&info(KernelState::Running, now + second), now, timeout), "a beat after we looked");
    }

    #[test]
    fn a_supervisor_that_stood_still_gives_everybody_time_anew() {
        let mut watchdog = Watchdog::new(Duration::from_secs(2));
        let start = Instant::now();
        watchdog.turn(start, start + Duration::from_millis(250));
        assert!(watchdog.trusted_from <= start);
        let late = start + Duration::from_secs(9);
        watchdog.turn(late, late + Duration::from_millis(250));
        assert_eq!(watchdog.trusted_from, late + Duration::from_secs(2));
        assert_eq!(Watchdog::new(Duration::from_millis(100)).interval(), Duration::from_millis(20));
    }
}
