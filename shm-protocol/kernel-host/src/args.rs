//! The command line that the four kernel binaries share.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Args, Command, FromArgMatches as _};

use crate::config::{Config, Overrides};
use crate::exit::{Exit, Failure};
use crate::identity::Identity;
use crate::name::{KernelName, Kind};
use crate::pin::online_cpus;
use crate::runtime::RuntimeDir;

/// The name of the instance when none is given.
pub const DEFAULT_INSTANCE: &str = "default";

/// What a kernel was started with.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct KernelArgs {
    /// Configuration file; without one all keys have their defaults
    #[arg(long, short, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Instance of the whole system
    #[arg(long, value_name = "NAME", default_value = DEFAULT_INSTANCE)]
    pub instance: String,
    /// Kernel instance: main, or NAME of the table instances.NAME
    #[arg(long, value_name = "NAME", default_value = KernelName::MAIN)]
    pub name: String,
    /// Sets one key over the file, for example encode.bitrate_kbps=6000; may be given again
    #[arg(long, value_name = "KEY=VALUE")]
    pub set: Vec<String>,
    /// Print the effective configuration and exit
    #[arg(long)]
    pub check: bool,
    /// Get ready and wait until the running one ends or yields
    #[arg(long)]
    pub standby: bool,
    /// Version of the binary, with the mark of its build
    #[arg(skip)]
    pub version: String,
}

/// What a kernel starts from: everything read and checked, nothing opened yet.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// Which kernel it is.
    pub kernel: KernelName,
    /// The runtime directory of the instance.
    pub runtime: RuntimeDir,
    /// The configuration in effect.
    pub config: Config,
    /// Why the kept overrides are not in effect, if they are not.
    pub overrides_lost: Option<String>,
}

impl KernelArgs {
    /// Reads the command line of this process. Help and version are printed and end it with 0, a wrong command line
    /// ends it with 64.
    pub fn parse(kind: Kind, version: &'static str) -> KernelArgs {
        match KernelArgs::try_parse_from(kind, version, std::env::args_os()) {
            Ok(args) => args,
            Err(error) => {
                // Standard output may be closed; there is nobody to tell.
                let _ = error.print();
                std::process::exit(i32::from(exit_of(&error).code()))
            }
        }
    }

    /// Reads a command line, the name of the program first.
    ///
    /// # Errors
    /// What is wrong with it, or help or version asked for: see [`exit_of`].
    pub fn try_parse_from(
        kind: Kind,
        version: &'static str,
        line: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<KernelArgs, clap::Error> {
        let about = match kind {
            Kind::Capture => "Kernel A: brings frames into the first ring",
            Kind::Process => "Kernel B: scales, crops and converts pixels",
            Kind::Encode => "Kernel C: makes access units of pixels",
            Kind::Net => "Kernel D: puts access units on the wire",
        };
        let identity = Identity::own(kind, version);
        let line_of_version = identity.to_string();
        // The parser puts the name before it. It wants text that lives for ever; a process parses its line once.
        let after_name: &'static str = line_of_version.split_once(' ').map_or("", |(_, rest)| rest).to_owned().leak();
        let command = KernelArgs::augment_args(Command::new(kind.binary()).version(after_name).about(about));
        let args = KernelArgs::from_arg_matches(&command.try_get_matches_from(line)?)?;
        Ok(KernelArgs { version: identity.version, ..args })
    }

    /// Reads and checks the configuration: file, then the instance's kept overrides, then `--set`.
    ///
    /// # Errors
    /// [`Exit::Usage`] for impossible names and a kernel instance that is not configured, [`Exit::Config`] for the
    /// configuration, cpus that are not there among it.
    pub fn start(&self, kind: Kind) -> Result<Start, Failure> {
        let runtime = RuntimeDir::locate(&self.instance).map_err(|error| Failure::new(Exit::Usage, error))?;
        self.start_in(kind, runtime)
    }

    /// As [`KernelArgs::start`], with the runtime directory given.
    ///
    /// # Errors
    /// As [`KernelArgs::start`].
    pub fn start_in(&self, kind: Kind, runtime: RuntimeDir) -> Result<Start, Failure> {
        let kernel = KernelName::new(kind, &self.name)?;
        // What the supervisor keeps must not stop a stream when somebody damaged it.
        let (overrides, overrides_lost) = match Overrides::load(&runtime.overrides()) {
            Ok(overrides) => (overrides, None),
            Err(error) => (Overrides::default(), Some(error.to_string())),
        };
        let config = Config::load_with(self.config.as_deref(), &overrides, &self.set)?;
        config.validate_cpus(&online_cpus()?)?;
        if !config.has(&kernel) {
            let known: Vec<&str> = config.instances(kind).collect();
            let text = format!("No {kernel} is configured; --name may be {}", known.join(", "));
            return Err(Failure::new(Exit::Usage, text));
        }
        Ok(Start { kernel, runtime, config, overrides_lost })
    }

    /// The configuration as it is by now, for a process that runs with an earlier one.
    ///
    /// # Errors
    /// As [`KernelArgs::start`]; [`Exit::Config`] also for kept overrides that cannot be read. A start goes on without
    /// them, but here they may be in effect.
    pub(crate) fn reread_in(&self, kind: Kind, runtime: RuntimeDir) -> Result<Config, Failure> {
        let start = self.start_in(kind, runtime)?;
        match start.overrides_lost {
            None => Ok(start.config),
            Some(lost) => Err(Failure::new(Exit::Config, lost)),
        }
    }
}

/// The exit code of a command line that did not lead to a start: 0 for help and version, else 64.
pub fn exit_of(error: &clap::Error) -> Exit {
    match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Exit::Stopped,
        _ => Exit::Usage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> Result<KernelArgs, clap::Error> {
        KernelArgs::try_parse_from(Kind::Encode, "1.2.3", [&["kernel-c-encode"], line].concat())
    }

    #[test]
    fn all_of_the_interface_is_understood() {
        let args = parse(&[
            "--config",
            "q.toml",
            "--instance",
            "demo",
            "--name",
            "web",
            "--set",
            "encode.qp=3",
            "--set",
            "a=b",
            "--check",
            "--standby",
        ])
        .unwrap();
        assert_eq!((args.config, args.instance.as_str(), args.name.as_str()), (Some("q.toml".into()), "demo", "web"));
        assert_eq!(args.set, ["encode.qp=3", "a=b"]);
        assert!(args.check && args.standby);
        let args = parse(&[]).unwrap();
        assert_eq!((args.instance.as_str(), args.name.as_str(), args.check), ("default", "main", false));
    }

    #[test]
    fn help_and_version_are_no_errors_and_the_rest_is_usage() {
        assert_eq!(exit_of(&parse(&["--help"]).unwrap_err()), Exit::Stopped);
        let version = parse(&["--version"]).unwrap_err();
        assert_eq!(exit_of(&version), Exit::Stopped);
        assert_eq!(version.to_string().parse(), Ok(Identity::own(Kind::Encode, "1.2.3")));
        assert!(version.to_string().starts_with("kernel-c-encode 1.2.3"), "{version}");
        for bad in [&["--confg", "x"][..], &["stray"], &["--name"]] {
            assert_eq!(exit_of(&parse(bad).unwrap_err()), Exit::Usage, "{bad:?}");
        }
    }

    #[test]
    fn a_start_reads_file_overrides_and_sets() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = RuntimeDir::locate_in(folder.path(), "demo").unwrap();
        runtime.create().unwrap();
        let mut overrides = Overrides::default();
        overrides.set("encode.bitrate_kbps=5000").unwrap();
        overrides.save(&runtime.overrides()).unwrap();
        let start = |line: &[&str]| parse(line).unwrap().start_in(Kind::Encode, runtime.clone());
        let started = start(&["--set", "encode.qp=30", "--set", "encode.rate_control=cqp"]).unwrap();
        let encode = started.config.encode(&started.kernel.name).unwrap();
        assert_eq!((encode.bitrate_kbps, encode.qp), (5000, Some(30)));

        for (line, exit) in [
            (&["--name", "web"][..], Exit::Usage),
            (&["--name", "a.b"], Exit::Usage),
            (&["--set", "encode.qp"], Exit::Usage),
            (&["--set", "encode.nothing=1"], Exit::Config),
            (&["--set", "encode.cpus=8000"], Exit::Config),
            (&["--config", "/nonexistent.toml"], Exit::Config),
        ] {
            assert_eq!(start(line).unwrap_err().exit, exit, "{line:?}");
        }
    }

    #[test]
    fn a_running_kernel_takes_nothing_of_overrides_that_cannot_be_read() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = RuntimeDir::locate_in(folder.path(), "demo").unwrap();
        runtime.create().unwrap();
        let args = parse(&[]).unwrap();
        let reread =
            || args.reread_in(Kind::Encode, runtime.clone()).map(|config| config.encode("main").unwrap().bitrate_kbps);
        let mut overrides = Overrides::default();
        overrides.set("encode.bitrate_kbps=5000").unwrap();
        overrides.save(&runtime.overrides()).unwrap();
        assert_eq!(reread().unwrap(), 5000);
        for damaged in ["{{{{", "encode.bitrate = 5\n", "\"encode.bitrate_kbps\" = \"many\"\n"] {
            std::fs::write(runtime.overrides(), damaged).unwrap();
            assert_eq!(reread().unwrap_err().exit, Exit::Config, "{damaged}");
        }
        // None at all is what it says.
        std::fs::remove_file(runtime.overrides()).unwrap();
        assert_eq!(reread().unwrap(), 8000);
    }

    #[test]
    fn an_impossible_instance_is_a_usage_error() {
        let args = parse(&["--instance", "a/b"]).unwrap();
        assert_eq!(args.start(Kind::Encode).unwrap_err().exit, Exit::Usage);
    }
}
