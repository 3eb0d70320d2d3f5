//! Processes that were killed and do not die: a driver holds them. Nothing of them runs any more, so nothing that they
//! hold may be waited for; only their end is, so that somebody takes leave of them.

use std::time::{Duration, Instant};

use shm_protocol::error::ObjectError;

use super::unit::{Context, Running, STANDBY_AFTER, Unit};
use crate::process::{Process, Signal, write_pid_file};
use crate::teardown::standby_pid_file;

/// A killed process that has not let go by then keeps what it holds in name only: with SIGKILL pending it runs no
/// further instruction.
pub const DEATH_PATIENCE: Duration = Duration::from_secs(1);

/// A process that the watchdog has killed and that may still be there.
#[derive(Debug)]
pub struct Killed {
    /// When.
    pub at: Instant,
    /// Epoch of the lease record then: what it holds of the lease, it holds under this one.
    pub epoch: u64,
    /// The process.
    pub process: Process,
}

/// A process that is waited for no more.
#[derive(Debug)]
pub struct Doomed {
    /// The process.
    pub running: Running,
    killed: Instant,
    /// It may be the candidate for the lease, which keeps others from being that.
    maybe_candidate: bool,
}

impl Unit {
    /// Puts a process aside that was killed.
    pub fn doom(&mut self, running: Running, killed: Instant) {
        self.doomed.push(Doomed { running, killed, maybe_candidate: true });
    }

    /// Takes over the watch over a process whose lease was taken by force, a second or more after it was killed.
    pub fn adopt_forced_out(&mut self, process: Process) {
        tracing::warn!(kernel = %self.kernel, pid = process.pid, "It lost its lease by force and has not died: another is at work or starts");
        process.signal(Signal::KILL);
        let now = Instant::now();
        self.doom(Running::adopted(process), now.checked_sub(DEATH_PATIENCE).unwrap_or(now));
    }

    /// Takes the candidacy away from those that were killed long enough ago.
    pub fn look_at_doomed(&mut self, context: &Context<'_>, now: Instant) {
        for doomed in self.doomed.iter_mut().filter(|doomed| doomed.maybe_candidate) {
            if now <= doomed.killed + DEATH_PATIENCE {
                continue;
            }
            let pid = doomed.running.process.pid;
            match context.table.force_candidacy(&self.lease, pid) {
                Ok(true) => {
                    tracing::error!(kernel = %self.kernel, pid, "Killed and does not die: its place as candidate is taken from it");
                }
                Ok(false) => {}
                // Somebody takes the lease in this very moment.
                Err(ObjectError::Busy { .. }) => continue,
                Err(error) => {
                    tracing::error!(kernel = %self.kernel, pid, %error, "The candidacy cannot be taken from a process that does not die");
                }
            }
            doomed.maybe_candidate = false;
        }
    }

    /// Gives up on the process that was killed: its standby is at work now, or another process is started.
    pub fn give_up_killed(&mut self, context: &Context<'_>, now: Instant, newcomer: bool) {
        let Some(killed) = self.killed.take() else { return };
        let pid = killed.process.pid;
        if let Some(standby) = self.standby.take_if(|standby| standby.process.pid == pid) {
            let _ = std::fs::remove_file(standby_pid_file(context.runtime, &self.kernel));
            self.doom(standby, killed.at);
            self.wants_its_standby(now);
        }
        let Some(main) = self.main.take_if(|main| main.process.pid == pid) else { return };
        self.doom(main, killed.at);
        self.restarting = false;
        if self.promote_standby(context, now).is_none() {
            // Where each newcomer comes to stand still, they are spaced out.
            self.start_at = Some(if newcomer { now + self.death_without_progress() } else { now });
        }
    }

    /// The standby is the process at work from now on, or on its way there; its number.
    pub fn promote_standby(&mut self, context: &Context<'_>, now: Instant) -> Option<u32> {
        let standby = self.standby.take()?;
        let pid = standby.process.pid;
        let _ = std::fs::remove_file(standby_pid_file(context.runtime, &self.kernel));
        write_pid_file(&context.runtime.pid(&self.kernel), &standby.process);
        self.main = Some(standby);
        self.wants_its_standby(now + STANDBY_AFTER);
        Some(pid)
    }
}
