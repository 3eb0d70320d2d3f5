//! The supervisor's part of an upgrade: the program of another build goes on in this very process. So the process stays
//! the service manager's main process and the kernels' parent, standard input stays open for a kernel A that reads it,
//! and the kernels notice nothing; the new program adopts them as any supervisor adopts what lives.

use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use kernel_host::exit::{Exit, Failure};

use super::Supervisor;
use super::control::{Client, Reply};
use super::rotate::open_log;
use super::start::Manner;
use crate::launch::{BIN_DIR_VARIABLE, Launch};
use crate::teardown::clear_for_other_layout;

/// File name of this program in every build.
pub const QUADCTL: &str = "quadctl";

/// The build that takes over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewal {
    /// Its directory.
    pub bin_dir: PathBuf,
    /// Every kernel ends first, and of the objects the sessions alone stay.
    pub whole: bool,
}

/// The command line of a build's supervisor for an instance that was started as `launch` says: `verb` and its
/// arguments.
pub fn command_line(bin_dir: &Path, instance: &str, launch: &Launch, verb: &[&str], keep_sessions: bool) -> Command {
    let mut command = Command::new(bin_dir.join(QUADCTL));
    command.args(verb).args(["--instance", instance]);
    if let Some(config) = &launch.config {
        command.arg("--config").arg(config);
    }
    command.args(launch.sets.iter().flat_map(|set| ["--set", set]));
    if keep_sessions {
        command.arg("--keep-sessions");
    }
    command.env(BIN_DIR_VARIABLE, bin_dir);
    command
}

impl Supervisor {
    /// Takes a request for an upgrade on, when nothing else is under way.
    pub(super) fn upgrade(&mut self, mut client: Client, renewal: Renewal) {
        let busy = match (&self.start, self.swaps.is_empty(), self.waiting.is_empty()) {
            (Some(_), ..) => Some("the instance is just starting"),
            (None, false, _) => Some("a swap is running"),
            (None, _, false) => Some("a restart is running"),
            _ => None,
        };
        match busy {
            Some(why) => {
                client.answer(&Reply::failed(Exit::Temporary, format!("Not upgraded: {why}; try again")));
                self.clients.push(client);
            }
            None if renewal.whole => self.becoming = Some((client, renewal)),
            None => {
                let failure = self.replace_program(&renewal);
                tracing::error!(%failure, "Not upgraded");
                client.answer(&Reply::failed(failure.exit, failure.to_string()));
                self.clients.push(client);
            }
        }
    }

    /// Ends the kernels and gives way to a build of another layout. Returns only when that fails.
    pub(super) fn give_way(mut self, mut client: Client, renewal: &Renewal) -> Failure {
        tracing::info!(bin_dir = %renewal.bin_dir.display(), "Ending every kernel for a build of another layout");
        let (instance, runtime) = (self.instance.clone(), self.runtime.clone());
        let stopped = crate::teardown::stop_kernels(&instance, &runtime);
        self.units.iter_mut().for_each(super::unit::Unit::collect);
        let (launch, manner) = (self.launch.clone(), self.manner);
        // Its own membership would keep the objects alive.
        drop(self);
        let failure = match stopped.and_then(|()| clear_for_other_layout(&instance, &runtime)) {
            Ok(()) => become_program(&renewal.bin_dir, &instance, &launch, manner, true),
            Err(failure) => failure,
        };
        client.answer(&Reply::failed(failure.exit, failure.to_string()));
        failure
    }

    /// The pid file says whom to ask, and its lock that nobody else supervises. One that was overwritten is written
    /// anew; with its directory gone, this program begins anew in this very process, and adopts what lives.
    pub(super) fn look_after_own_files(&mut self) {
        let path = self.runtime.supervisor_pid();
        let file = |found: std::fs::Metadata| (found.dev(), found.ino());
        let own = self.lock.metadata().map(file).ok();
        let number = format!("{}\n", std::process::id());
        if own.is_some() && std::fs::metadata(&path).map(file).ok() == own {
            if std::fs::read(&path).is_ok_and(|found| found != number.as_bytes()) {
                tracing::error!(path = %path.display(), "The pid file was overwritten; it is written anew");
                let _ = self.lock.set_len(0).and_then(|()| self.lock.write_all_at(number.as_bytes(), 0));
            }
            return;
        }
        tracing::error!(path = %path.display(), "The pid file or its directory was removed: supervising anew");
        let failure = match self.runtime.create() {
            Ok(()) => {
                // The log went on into a file without a name.
                if !self.manner.foreground
                    && let Ok(log) = open_log(&self.runtime.supervisor_log())
                {
                    let _ = nix::unistd::dup2_stderr(&log).and_then(|()| nix::unistd::dup2_stdout(&log));
                }
                become_program(&self.launch.bin_dir, &self.instance, &self.launch, self.manner, false)
            }
            Err(error) => Failure::new(Exit::Unavailable, error),
        };
        tracing::error!(%failure, "Cannot supervise anew; `quad up` does when this process has ended");
    }

    fn replace_program(&self, renewal: &Renewal) -> Failure {
        tracing::info!(bin_dir = %renewal.bin_dir.display(), "Giving way to the supervisor of another build");
        become_program(&renewal.bin_dir, &self.instance, &self.launch, self.manner, false)
    }
}

/// Becomes another build's supervisor. Returns only when that fails.
fn become_program(bin_dir: &Path, instance: &str, launch: &Launch, manner: Manner, keep_sessions: bool) -> Failure {
    let verb: &[&str] = if manner.foreground { &["up", "--foreground"] } else { &["supervise"] };
    let error = command_line(bin_dir, instance, launch, verb, keep_sessions).exec();
    Failure::new(Exit::Unavailable, format!("Cannot become {}: {error}", bin_dir.join(QUADCTL).display()))
}
