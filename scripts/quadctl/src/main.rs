//! Launches, supervises and shows the four kernels. `scripts/quad` builds it and hands its command line over.

mod commands;
mod doctor;
mod launch;
mod preflight;
mod probe;
mod process;
mod supervisor;
mod teardown;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use kernel_host::args::{DEFAULT_INSTANCE, exit_of};
use kernel_host::exit::{Exit, Failure};
use kernel_host::runtime::refuse_foreign;

/// Live video through four processes joined by shared memory
#[derive(Debug, Parser)]
#[command(name = "quad", bin_name = "quad", version = commands::own_version(), disable_help_subcommand = true)]
struct Cli {
    /// Instance of the whole system
    #[arg(long, value_name = "NAME", default_value = DEFAULT_INSTANCE, global = true)]
    instance: String,
    #[command(subcommand)]
    command: Command,
}

/// What an instance is started with.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
struct Start {
    /// Configuration file; without one a test pattern is streamed
    #[arg(long, short, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Set one key over the file, for example encode.bitrate_kbps=6000; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    set: Vec<String>,
    /// Keep the senders' sessions of a dead instance, so that its RTP streams go on (an upgrade to another layout)
    #[arg(long, hide = true)]
    keep_sessions: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start the four kernels and return when the first frame is on the wire
    Up {
        #[command(flatten)]
        start: Start,
        /// Stay in the foreground until Ctrl-C
        #[arg(long)]
        foreground: bool,
    },
    /// Stop all and remove every shared-memory object, socket and pid file
    Down,
    /// Show what runs: exit 0 all running, 1 degraded, 2 not running
    Status {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Replace a kernel's process: capture, process, encode or net, or one of its instances
    Restart {
        /// Kernel, or KERNEL.NAME
        #[arg(value_name = "KERNEL[.NAME]")]
        kernel: String,
    },
    /// Exchange a kernel's process, also for another binary or other settings, under the running stream
    Swap {
        /// Kernel, or KERNEL.NAME
        #[arg(value_name = "KERNEL[.NAME]")]
        kernel: String,
        /// Another binary built on the same protocol
        #[arg(long, value_name = "PATH")]
        binary: Option<PathBuf>,
        /// Set one key of that kernel for the successor; kept for later restarts; may be given again
        #[arg(long, value_name = "KEY=VALUE")]
        set: Vec<String>,
    },
    /// Change a live key while the stream goes on; without KEY=VALUE list the live keys
    Set {
        /// The key and its new value
        #[arg(value_name = "KEY=VALUE")]
        set: Option<String>,
    },
    /// Instances on this machine
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Every backend, device and limit of this machine: usable or not, why, and what would make it usable
    Doctor {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Show the logs of all kernels, or of one
    Logs {
        /// Kernel, KERNEL.NAME or supervisor
        #[arg(value_name = "KERNEL[.NAME]")]
        kernel: Option<String>,
        /// Go on showing what is added
        #[arg(long, short)]
        follow: bool,
    },
    /// Show every slot of a ring: capture, process or encode.NAME
    Inspect {
        /// The ring, named by the kernel that writes it
        #[arg(value_name = "RING")]
        ring: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Replace every kernel and the supervisor by another build, kernel by kernel under the running stream
    Upgrade {
        /// Directory with the new build's quadctl and kernels; without it that of this command
        #[arg(long, value_name = "DIR")]
        binaries: Option<PathBuf>,
    },
    /// Measure this machine: ring, pipeline, recovery, …, beside their rivals; without a name all that can run
    Bench {
        /// NAME, --json, --rounds N, --percent N; `quad bench --help` says more
        #[arg(value_name = "ARGUMENTS", trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Print the version
    Version,
    /// The supervisor's own process
    #[command(hide = true)]
    Supervise {
        #[command(flatten)]
        start: Start,
    },
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Standard output may be closed; there is nobody to tell.
            let _ = error.print();
            return exit_of(&error).into();
        }
    };
    let instance = cli.instance.as_str();
    let of_an_instance = !matches!(
        cli.command,
        Command::List { .. } | Command::Doctor { .. } | Command::Bench { .. } | Command::Version
    );
    if of_an_instance && let Err(foreign) = refuse_foreign(instance) {
        commands::warn(&format!("quad: {foreign}"));
        return Exit::Usage.into();
    }
    let result: Result<u8, Failure> = match cli.command {
        Command::Up { start, foreground } => commands::up::run(instance, &start, foreground),
        Command::Down => commands::down::run(instance),
        Command::Status { json } => commands::status::run(instance, json),
        Command::Restart { kernel } => commands::restart::run(instance, &kernel),
        Command::Swap { kernel, binary, set } => commands::swap::run(instance, &kernel, binary.as_deref(), &set),
        Command::Set { set } => commands::set::run(instance, set.as_deref()),
        Command::List { json } => commands::list::run(json),
        Command::Doctor { json } => doctor::run(json),
        Command::Logs { kernel, follow } => commands::logs::run(instance, kernel.as_deref(), follow),
        Command::Inspect { ring, json } => commands::inspect::run(instance, &ring, json),
        Command::Upgrade { binaries } => commands::upgrade::run(instance, binaries.as_deref()),
        Command::Bench { arguments } => commands::bench::run(&arguments),
        Command::Version => commands::version(),
        Command::Supervise { start } => commands::supervise::run(instance, &start),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            commands::warn(&format!("quad: {failure}"));
            failure.exit.into()
        }
    }
}
