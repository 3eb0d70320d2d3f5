//! Kernels that hang: their process lives and their loop does not turn.

use std::time::{Duration, Instant};

use shm_protocol::clock::monotonic_ns;
use shm_protocol::error::ObjectError;
use shm_protocol::lease::{KernelState, LeaseInfo};

use super::doomed::{DEATH_PATIENCE, Killed};
use super::unit::{Context, Unit};
use crate::process::{Process, Signal};

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
        unit.look_at_doomed(context, now);
        // Whoever is gone has let go of everything.
        unit.killed.take_if(|killed| killed.process.ended());
        let info = context.info(&unit.lease);
        // One that was forced out already is nobody to judge: its successor is on its way.
        let held = info.filter(|info| info.held && !info.forced);
        if let Some(killed) = &unit.killed {
            if now > killed.at + DEATH_PATIENCE {
                self.succeed_killed(unit, context, held.as_ref(), now);
            }
            return;
        }
        let Some(info) = held else {
            unit.unnamed = None;
            self.look_at_newcomer(unit, context, now);
            return;
        };
        unit.unheld_since = None;
        if self.names_nobody(&info) {
            self.look_at_unnamed(unit, &info, now);
            return;
        }
        unit.unnamed = None;
        // A successor has the lock a moment before the record is its own: then nobody is there to be killed.
        if now >= self.trusted_from
            && hangs(&info, monotonic_ns(), self.timeout)
            && let Some(process) = Process::verified(info.pid, info.start_time)
            && context.table.kill_holder(&unit.lease, info.epoch)
        {
            let silent_ms = monotonic_ns().saturating_sub(info.heartbeat_ns) / 1_000_000;
            tracing::error!(kernel = %unit.kernel, pid = info.pid, silent_ms, "No sign of life: killed");
            unit.killed = Some(Killed { at: now, epoch: info.epoch, process });
        }
    }

    /// Goes on without a process that was killed and does not die. `held`: the record of the lease, if it is held.
    fn succeed_killed(&self, unit: &mut Unit, context: &Context<'_>, held: Option<&LeaseInfo>, now: Instant) {
        let Some((pid, epoch)) = unit.killed.as_ref().map(|killed| (killed.process.pid, killed.epoch)) else { return };
        let holder = held.is_some_and(|info| info.epoch == epoch);
        if holder {
            match context.table.force_takeover(&unit.lease, epoch) {
                Ok(true) => {
                    tracing::error!(kernel = %unit.kernel, pid, "Killed and does not die: its lease is taken from it");
                }
                // It let go in this very moment, or somebody else judges it or takes its place: looked at again.
                Ok(false) | Err(ObjectError::Busy { .. }) => return,
                Err(error) => {
                    tracing::error!(kernel = %unit.kernel, %error, "The lease cannot be taken");
                    return;
                }
            }
        } else {
            tracing::error!(kernel = %unit.kernel, pid, "Killed and does not die: another takes its place");
        }
        unit.give_up_killed(context, now, !holder);
    }

    /// A process that is to take a lease that nobody holds, a new one or a standby whose holder died, does so within
    /// milliseconds. One that stands still before it has the lease has no heart to be heard.
    fn look_at_newcomer(&self, unit: &mut Unit, context: &Context<'_>, now: Instant) {
        let Some(main) = &unit.main else {
            unit.unheld_since = None;
            return;
        };
        let pid = main.process.pid;
        // Each newcomer has its own time.
        let since = unit.unheld_since.filter(|(_, newcomer)| *newcomer == pid).map_or(now, |(since, _)| since);
        unit.unheld_since = Some((since, pid));
        if now >= self.trusted_from && now > since + self.newcomer_patience() {
            let waited_ms = (now - since).as_millis() as u64;
            tracing::error!(kernel = %unit.kernel, pid, waited_ms, "Does not take its lease: killed");
            main.process.signal(Signal::KILL);
            unit.killed = killed(&main.process, context.info(&unit.lease).map_or(0, |info| info.epoch), now);
            unit.unheld_since = None;
        }
    }

    /// Whether the record of a lease that is held names a process that cannot be its holder any more: somebody has the
    /// lock and has not written his name yet.
    fn names_nobody(&self, info: &LeaseInfo) -> bool {
        match info.state {
            KernelState::Stopped | KernelState::Absent => true,
            KernelState::Running | KernelState::Recovering => {
                // Most turns end here, without a look at the process.
                let silent_ns = monotonic_ns().saturating_sub(info.heartbeat_ns);
                silent_ns > self.interval().as_nanos() as u64
                    && Process::verified(info.pid, info.start_time).is_none_or(|process| process.ended())
            }
        }
    }

    /// Between the lock and the record that names its holder lie microseconds, or the second in which a predecessor may
    /// end. One that stands still there has no heart to be heard, and the record is no help: it is the candidate. If
    /// the lease is held all the same when that one is gone, it is the predecessor, which stands still between its last
    /// word and its end.
    fn look_at_unnamed(&self, unit: &mut Unit, info: &LeaseInfo, now: Instant) {
        let known = unit.unnamed.take_if(|unnamed| unnamed.epoch == info.epoch);
        let unnamed = known.unwrap_or(Unnamed { since: now, epoch: info.epoch, candidate_killed: false });
        let mut next = unnamed;
        if now >= self.trusted_from && now > unnamed.since + self.newcomer_patience() {
            let own = |pid: u32| {
                let mut found = unit.main.iter().chain(&unit.standby).map(|running| &running.process);
                found.find(|process| process.pid == pid && !process.ended())
            };
            let predecessor = own(info.pid).filter(|_| unnamed.candidate_killed);
            if let Some(process) = predecessor.or_else(|| own(info.candidate_pid)).or_else(|| own(info.pid)) {
                let waited_ms = (now - unnamed.since).as_millis() as u64;
                tracing::error!(
                    kernel = %unit.kernel, pid = process.pid, waited_ms, "Has the lease and does not begin or end: killed"
                );
                process.signal(Signal::KILL);
                next.candidate_killed = process.pid == info.candidate_pid;
                unit.killed = killed(process, info.epoch, now);
            }
            next.since = now;
        }
        unit.unnamed = Some(next);
    }

    fn newcomer_patience(&self) -> Duration {
        self.timeout.max(NEWCOMER_PATIENCE)
    }
}

/// A lease that is held while its record names nobody who could hold it.
#[derive(Debug, Clone, Copy)]
pub struct Unnamed {
    since: Instant,
    /// Of the record.
    epoch: u64,
    /// The candidate was killed for it, and it was not that one, or another is in the same place.
    candidate_killed: bool,
}

/// Notes that a process of a unit was killed; `None`: it is gone.
fn killed(process: &Process, epoch: u64, at: Instant) -> Option<Killed> {
    Process::verified(process.pid, process.start_time).map(|process| Killed { at, epoch, process })
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
