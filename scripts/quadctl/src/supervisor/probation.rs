//! What a swap wants kept, until its successor has proved itself.
//!
//! A successor may die at work, and its predecessor, which stands by for a second, takes the lease back. What starts
//! later must then be what ran before. So the successor's binary and settings wait in a file of their own, which
//! outlives the supervisor, and are kept for good when the predecessor is gone and the successor still at work.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use kernel_host::name::KernelName;
use kernel_host::runtime::RuntimeDir;
use kernel_host::swaps::Swaps;
use serde::{Deserialize, Serialize};
use shm_protocol::lease::LeaseInfo;

use super::aftermath::Aftermath;
use super::swap::Wanted;
use super::unit::{Context, Unit};
use crate::launch::overrides_to_change;
use crate::process::Process;

/// How long a successor is at work at the least before what it was given is kept: where its predecessor dies instead of
/// standing by.
const PROBATION: Duration = Duration::from_secs(1);

/// A process for ever: number and start time.
pub type Tag = (u32, u64);

/// A successor that has taken over and has yet to prove itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Probation {
    successor: Tag,
    predecessor: Option<Tag>,
    epoch: u64,
    binary: Option<PathBuf>,
    sets: Vec<String>,
    #[serde(skip, default = "Instant::now")]
    since: Instant,
}

fn file(runtime: &RuntimeDir, kernel: &KernelName) -> PathBuf {
    runtime.path().join(format!("{kernel}.probation.json"))
}

/// The process of that tag, while it lives.
pub fn living(tag: Tag) -> Option<Process> {
    Process::verified(tag.0, tag.1).filter(|process| !process.ended())
}

impl Probation {
    /// The one that an earlier supervisor watched.
    pub fn load(runtime: &RuntimeDir, kernel: &KernelName) -> Option<Probation> {
        serde_json::from_slice(&fs::read(file(runtime, kernel)).ok()?).ok()
    }

    /// Predecessor and successor, where both live and the successor holds the lease.
    pub fn both(&self, holder: Option<&Process>) -> Option<(Process, Process)> {
        holder.filter(|holder| (holder.pid, holder.start_time) == self.successor)?;
        Some((living(self.predecessor?)?, living(self.successor)?))
    }

    /// For the owner alone: a token may be among the settings.
    fn save(&self, runtime: &RuntimeDir, kernel: &KernelName) {
        let path = file(runtime, kernel);
        let temporary = path.with_extension("json.new");
        let write = || -> io::Result<()> {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            fs::rename(&temporary, &path)
        };
        if let Err(error) = write() {
            tracing::error!(%error, path = %path.display(), "What the swap changed is lost if the supervisor dies within its probation");
        }
    }
}

/// The binary that a kernel has from its last swap, be it in its probation; `None`: that of the build.
pub fn swapped_binary(runtime: &RuntimeDir, kernel: &KernelName) -> Option<PathBuf> {
    match Probation::load(runtime, kernel) {
        Some(probation) => probation.binary,
        None => Swaps::load(&runtime.swaps()).of(kernel).binary,
    }
}

impl Unit {
    /// A successor carries the stream; `info` is its lease record.
    pub fn begin_probation(&mut self, context: &Context<'_>, wanted: &Wanted, info: &LeaseInfo) {
        // The epoch is a swap's, whatever becomes of it; what starts next is unchanged yet.
        let path = context.runtime.swaps();
        let mut swaps = Swaps::load(&path);
        swaps.count(&self.kernel);
        if let Err(error) = swaps.save(&path) {
            tracing::error!(%error, path = %path.display(), "The swap is not counted");
        }
        let main = self.main.as_ref().map(|main| (main.process.pid, main.process.start_time));
        let successor = (info.pid, info.start_time);
        let probation = Probation {
            successor,
            predecessor: main.filter(|main| *main != successor),
            epoch: info.epoch,
            binary: wanted.binary.clone(),
            sets: wanted.sets.clone(),
            since: Instant::now(),
        };
        probation.save(context.runtime, &self.kernel);
        self.probation = Some(probation);
    }

    /// A key was set after the swap: the swap's value is the older one.
    pub fn set_in_probation(&mut self, runtime: &RuntimeDir, key: &str) {
        let same = |set: &String| set.split_once('=').is_some_and(|(given, _)| given.trim() == key);
        if let Some(probation) = &mut self.probation
            && probation.sets.iter().any(same)
        {
            probation.sets.retain(|set| !same(set));
            probation.save(runtime, &self.kernel);
        }
    }

    /// Keeps what the swap changed, or forgets it, as soon as it is known which.
    pub fn look_at_probation(&mut self, context: &Context<'_>, now: Instant) {
        let Some(probation) = &self.probation else { return };
        let at_work = context.info(&self.lease).is_some_and(|info| {
            info.held && info.epoch == probation.epoch && (info.pid, info.start_time) == probation.successor
        });
        if at_work && (now < probation.since + PROBATION || probation.predecessor.and_then(living).is_some()) {
            return;
        }
        let Some(probation) = self.probation.take() else { return };
        if at_work {
            self.keep(context, &probation);
        } else {
            self.aftermath = probation.predecessor.map(|predecessor| Aftermath {
                predecessor,
                epoch_before: probation.epoch.saturating_sub(1),
                counted: 1,
            });
            let pid = probation.successor.0;
            tracing::error!(kernel = %self.kernel, pid, "The successor of the swap failed in its probation: what starts next is what ran before");
        }
        let _ = fs::remove_file(file(context.runtime, &self.kernel));
    }

    /// Binary and settings survive restarts from now on. Done twice, it is as done once: the supervisor may die in it.
    fn keep(&mut self, context: &Context<'_>, probation: &Probation) {
        let path = context.runtime.swaps();
        let mut swaps = Swaps::load(&path);
        swaps.set_binary(&self.kernel, probation.binary.clone());
        if let Err(error) = swaps.save(&path) {
            tracing::error!(%error, path = %path.display(), "The binary of the swap holds until the next start of the supervisor");
        }
        self.set_binary(probation.binary.clone());
        if !probation.sets.is_empty() {
            let mut overrides = overrides_to_change(context.runtime);
            let kept = probation.sets.iter().try_for_each(|set| overrides.set(set));
            if let Err(error) = kept.and_then(|()| overrides.save(&context.runtime.overrides())) {
                tracing::error!(%error, "The settings of the swap hold until the next restart only");
            }
        }
        tracing::info!(kernel = %self.kernel, pid = probation.successor.0, "The successor of the swap has proved itself");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kernel_host::name::Kind;

    #[test]
    fn what_waits_is_read_back_and_is_the_binary_in_use() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = RuntimeDir::locate_in(folder.path(), "demo").unwrap();
        runtime.create().unwrap();
        let encode = KernelName::main(Kind::Encode);
        assert_eq!((Probation::load(&runtime, &encode), swapped_binary(&runtime, &encode)), (None, None));
        let since = Instant::now();
        let mut probation = Probation {
            successor: (7, 8),
            predecessor: Some((5, 6)),
            epoch: 2,
            binary: Some("/opt/acme".into()),
            sets: vec!["encode.gop=10".into()],
            since,
        };
        probation.save(&runtime, &encode);
        assert_eq!(swapped_binary(&runtime, &encode), Some("/opt/acme".into()));
        let back = Probation::load(&runtime, &encode).unwrap();
        probation.since = back.since;
        assert_eq!(back, probation);
        fs::write(file(&runtime, &encode), "{").unwrap();
        assert_eq!(Probation::load(&runtime, &encode), None);
    }
}
