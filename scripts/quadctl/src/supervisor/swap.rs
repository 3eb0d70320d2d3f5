//! Swap: a successor beside the running process, and the lease from one to the other at a frame boundary.
//!
//! The successor starts as a standby, possibly another binary with other settings. Once it waits for nothing but the
//! lease, the holder is asked to yield to it; the two see to the rest by themselves (PROTOCOL, swap). Whatever fails,
//! the process that ran goes on.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use kernel_host::config::Config;
use kernel_host::exit::Exit;
use kernel_host::name::KernelName;
use shm_protocol::lease::{KernelState, start_time};
use shm_protocol::telemetry::TelemetryReader;

use super::aftermath::Aftermath;
use super::control::{Client, Reply};
use super::probation::Tag;
use super::unit::{Context, Unit};
use crate::launch::kept_overrides;
use crate::process::Signal;

/// A successor opens its devices and is ready within a second or two; what takes longer is stuck.
pub const SWAP_LIMIT: Duration = Duration::from_secs(15);

/// A standby that was sent away is gone by then; another process that is the candidate was started by somebody else.
const STRANGER_PATIENCE: Duration = Duration::from_secs(2);

/// What a swap asks for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Another binary than the one of this build.
    pub binary: Option<PathBuf>,
    /// Settings of the successor, with their whole paths.
    pub sets: Vec<String>,
}

/// A swap under way.
#[derive(Debug)]
pub struct Swap {
    /// Who asked.
    pub client: Client,
    kernel: KernelName,
    wanted: Wanted,
    /// Epoch before.
    epoch_before: u64,
    /// The process at work when the successor was started.
    predecessor: Option<Tag>,
    /// The process that is to take over, once it was started.
    successor: Option<u32>,
    asked: Instant,
    wished: Option<u64>,
}

/// How a swap stands.
pub enum Progress {
    /// Not yet.
    Under,
    /// The successor carries the stream.
    Done(Reply),
    /// The old one goes on.
    Failed(Reply),
}

impl Swap {
    /// Gives up for a reason that is none of its own. What becomes of the processes is the caller's business.
    pub fn abandon(mut self, why: &str) -> Client {
        let text = format!("{} was not swapped: {why}", self.kernel.short());
        self.client.answer(&Reply::failed(Exit::Temporary, text));
        self.client
    }

    /// Checks what is asked. `Err`: why it cannot be.
    pub fn new(
        client: Client,
        unit: &Unit,
        context: &Context<'_>,
        wanted: Wanted,
        now: Instant,
    ) -> Result<Swap, (Client, Reply)> {
        if let Err(error) = configuration(context, &wanted) {
            return Err((client, Reply::failed(error.exit, error.to_string())));
        }
        let Some(info) = context.info(&unit.lease).filter(|info| info.held) else {
            let text = format!(
                "{} does not run; nothing to swap. `quad down` and `quad up --set …` start it with other settings",
                unit.kernel.short()
            );
            return Err((client, Reply::failed(Exit::Temporary, text)));
        };
        let kernel = unit.kernel.clone();
        let epoch_before = info.epoch;
        let (predecessor, successor, wished) = (None, None, None);
        Ok(Swap { client, kernel, wanted, epoch_before, predecessor, successor, asked: now, wished })
    }

    /// The kernel it is about.
    pub fn kernel(&self) -> &KernelName {
        &self.kernel
    }

    /// What is left to count of it once it failed; `None`: the lease stayed where it was.
    pub fn aftermath(&self) -> Option<Aftermath> {
        let (Some(predecessor), Some(_)) = (self.predecessor, self.wished) else { return None };
        Some(Aftermath { predecessor, epoch_before: self.epoch_before, counted: 0 })
    }

    /// Looks how far it is, and asks the holder to yield when the successor is ready.
    pub fn look(&mut self, unit: &mut Unit, context: &Context<'_>, now: Instant) -> Progress {
        let ms = (now - self.asked).as_millis();
        let name = self.kernel.short();
        let Some(info) = context.info(&unit.lease) else { return Progress::Under };
        let Some(successor) = self.successor else {
            // The one who handed over in an earlier swap stands by through its successor's probation; until that is
            // over neither of the two may be disturbed.
            let settled =
                unit.probation.is_none() && unit.main.as_ref().is_some_and(|main| main.process.pid == info.pid);
            if !settled && now < self.asked + SWAP_LIMIT {
                return Progress::Under;
            }
            self.epoch_before = info.epoch;
            self.predecessor = settled.then_some((info.pid, info.start_time));
            // A standby would be the candidate; it comes again after the swap.
            unit.dismiss_standby();
            return match unit.start_successor(context, &self.wanted) {
                Err(error) => Progress::Failed(Reply::failed(Exit::Unavailable, error)),
                Ok(successor) => {
                    tracing::info!(kernel = %unit.kernel, successor, "Swapping");
                    self.successor = Some(successor);
                    Progress::Under
                }
            };
        };
        if info.epoch > self.epoch_before && info.pid == successor && info.held && info.state == KernelState::Running {
            let carries = TelemetryReader::open(context.instance, &unit.lease, info.epoch)
                .is_some_and(|page| page.snapshot().frames > 0);
            if carries {
                unit.begin_probation(context, &self.wanted, &info);
                let text = format!("{name} was swapped within {ms} ms: epoch {}, process {}", info.epoch, info.pid);
                return Progress::Done(Reply::done(text));
            }
        }
        if !unit.processes().any(|process| process.pid == successor) {
            let how = unit.standby_ending.filter(|(pid, _)| *pid == successor);
            let how = how.map(|(_, ending)| format!(" ({ending})")).unwrap_or_default();
            let text = format!("{name} was not swapped, its successor ended{how}: {}", unit.last_words());
            return Progress::Failed(Reply::failed(Exit::Temporary, text));
        }
        let foreign = info.candidate_ready
            && info.candidate_pid != successor
            && !unit.processes().any(|process| process.pid == info.candidate_pid)
            && start_time(info.candidate_pid).is_some();
        if foreign && now > self.asked + STRANGER_PATIENCE {
            unit.end_successor(successor, Signal::KILL);
            let text = format!(
                "{name} was not swapped: process {}, which was not started here, already waits for its lease; end it \
                 and try again",
                info.candidate_pid
            );
            return Progress::Failed(Reply::failed(Exit::Temporary, text));
        }
        if now > self.asked + SWAP_LIMIT && info.pid == successor && info.held && info.state == KernelState::Running {
            unit.begin_probation(context, &self.wanted, &info);
            let text =
                format!("{name} was swapped, and no frame has come since: epoch {}, process {}", info.epoch, info.pid);
            return Progress::Done(Reply::done(text));
        }
        if now > self.asked + SWAP_LIMIT {
            unit.end_successor(successor, Signal::KILL);
            let last = unit.last_words();
            let text = format!("{name} was not swapped within {} s: {last}", SWAP_LIMIT.as_secs());
            return Progress::Failed(Reply::failed(Exit::Temporary, text));
        }
        let ready = info.candidate_ready && info.candidate_pid == successor;
        if ready && self.wished != Some(info.candidate_ticket) {
            context.table.wish(&unit.lease, info.candidate_ticket);
            self.wished = Some(info.candidate_ticket);
        }
        Progress::Under
    }
}

/// Whether the successor would find its configuration right.
fn configuration(context: &Context<'_>, wanted: &Wanted) -> Result<(), kernel_host::exit::Failure> {
    let (overrides, _) = kept_overrides(context.runtime);
    let sets: Vec<String> = context.launch.sets.iter().chain(&wanted.sets).cloned().collect();
    Config::load_with(context.launch.config.as_deref(), &overrides, &sets)?;
    Ok(())
}
