//! The supervisor's process. Its standard output is a pipe to `up`, on which it says once what became of the start.

use std::io::Write as _;

use kernel_host::exit::{Exit, Failure, chain};
use kernel_host::log;
use kernel_host::signals::Stop;

use crate::Start;
use crate::launch::Launch;
use crate::supervisor::first_frame::Outcome;
use crate::supervisor::rotate::open_log;
use crate::supervisor::{Manner, Supervisor};

/// Runs until the instance is stopped.
pub fn run(instance: &str, start: &Start) -> Result<u8, Failure> {
    // Away from the terminal of whoever called `up`; fails only for who leads a session already.
    let _ = nix::unistd::setsid();
    let result = supervise(instance, start);
    if let Err(failure) = &result {
        // A start that failed before its loop has not reported yet; a second line is never read.
        report(&Outcome::Failed { message: failure.to_string(), exit: failure.exit.code() });
    }
    result.map(|()| 0)
}

fn supervise(instance: &str, start: &Start) -> Result<(), Failure> {
    let runtime = super::runtime(instance)?;
    let launch = Launch::new(start.config.as_deref(), &start.set)?;
    log::init(&launch.configuration(&runtime)?.log)?;
    let stop = Stop::install().map_err(|error| Failure::new(Exit::Internal, error))?;
    let log_file = runtime.supervisor_log();
    let manner = Manner { foreground: false, keep_sessions: start.keep_sessions };
    let supervisor = Supervisor::begin(instance, runtime, launch, manner)?;
    supervisor.run(&stop, |outcome| {
        report(outcome);
        // Nobody reads the pipe from now on.
        let silent = open_log(&log_file).map_err(|error| chain(&error));
        if let Err(error) = silent.and_then(|log| nix::unistd::dup2_stdout(log).map_err(|error| error.to_string())) {
            tracing::warn!(error, "Standard output stays as it is");
        }
    })
}

fn report(outcome: &Outcome) {
    let line = serde_json::to_string(outcome).unwrap_or_default();
    // `up` may have been interrupted: then nobody wants to know.
    let _ = writeln!(std::io::stdout(), "{line}");
}
