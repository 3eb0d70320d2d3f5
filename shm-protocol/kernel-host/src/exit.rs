//! How a kernel ends: the exit code tells the supervisor what to do next.

use std::error::Error;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use shm_protocol::error::Recovery;

use crate::config::ConfigError;
use crate::name::NameError;
use crate::pin::PinError;
use crate::runtime::RuntimeError;

/// Exit codes, after sysexits.h where it has one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Exit {
    /// Stopped on request.
    Stopped = 0,
    /// Fenced by a successor: do not restart.
    Fenced = 3,
    /// Wrong command line (EX_USAGE).
    Usage = 64,
    /// A needed device or library is missing (EX_UNAVAILABLE).
    Unavailable = 69,
    /// Internal error (EX_SOFTWARE).
    Internal = 70,
    /// Temporary: restart me (EX_TEMPFAIL).
    Temporary = 75,
    /// Configuration error: do not restart (EX_CONFIG).
    Config = 78,
}

impl Exit {
    /// Every code.
    pub const ALL: [Exit; 7] =
        [Exit::Stopped, Exit::Fenced, Exit::Usage, Exit::Unavailable, Exit::Internal, Exit::Temporary, Exit::Config];

    /// The number.
    pub const fn code(self) -> u8 {
        self as u8
    }

    /// The meaning of a number that a kernel ended with.
    pub fn from_code(code: i32) -> Option<Exit> {
        Self::ALL.into_iter().find(|e| i32::from(e.code()) == code)
    }

    /// Whether the supervisor starts the kernel again.
    pub const fn restarts(self) -> bool {
        matches!(self, Exit::Internal | Exit::Temporary | Exit::Unavailable)
    }

    /// What it means, for people.
    pub const fn meaning(self) -> &'static str {
        match self {
            Exit::Stopped => "stopped on request",
            Exit::Fenced => "fenced by a successor",
            Exit::Usage => "wrong command line",
            Exit::Unavailable => "a needed device or library is missing",
            Exit::Internal => "internal error",
            Exit::Temporary => "temporary failure",
            Exit::Config => "configuration error",
        }
    }
}

impl From<Recovery> for Exit {
    /// A successor recovers everything but what a person must change.
    fn from(recovery: Recovery) -> Exit {
        match recovery {
            Recovery::Retry | Recovery::Reattach | Recovery::Restart => Exit::Temporary,
            Recovery::Fatal => Exit::Config,
        }
    }
}

impl From<Exit> for std::process::ExitCode {
    fn from(exit: Exit) -> Self {
        std::process::ExitCode::from(exit.code())
    }
}

/// Why a kernel ends, and with which code.
#[derive(Debug)]
pub struct Failure {
    /// The code.
    pub exit: Exit,
    /// The reason.
    pub error: Box<dyn Error + Send + Sync>,
}

impl Failure {
    /// Ends with that code for that reason (an error, or text).
    pub fn new(exit: Exit, error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure { exit, error: error.into() }
    }

    /// Ends with the code that an error's cure asks for.
    pub fn recover(recovery: Recovery, error: impl Into<Box<dyn Error + Send + Sync>>) -> Failure {
        Failure::new(recovery.into(), error)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(self.error.as_ref()))
    }
}

macro_rules! failure_from {
    ($($error:ty => $exit:expr),+ $(,)?) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Failure {
                Failure::new($exit(&error), error)
            }
        })+
    };
}

failure_from! {
    ConfigError => |error: &ConfigError| match error {
        ConfigError::SetSyntax { .. } => Exit::Usage,
        // The overrides are written by the supervisor's own command; trying again may help.
        ConfigError::Write { .. } => Exit::Temporary,
        _ => Exit::Config,
    },
    NameError => |_: &NameError| Exit::Usage,
    PinError => |_: &PinError| Exit::Config,
    RuntimeError => |_: &RuntimeError| Exit::Unavailable,
}

/// An error with its sources on one line; a source whose text is already there is left out.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut line = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let text = source.to_string();
        if !line.contains(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        next = source.source();
    }
    line.lines().map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

/// Runs the body of `main`, says on one line why it failed, and returns the exit code. Destructors have run by then.
///
/// A panic ends with [`Exit::Internal`]; its message went to standard error when it happened.
pub fn run_main<E: Into<Failure>>(body: impl FnOnce() -> Result<(), E>) -> std::process::ExitCode {
    // Whatever the body left half done is gone with this process.
    let exit = match catch_unwind(AssertUnwindSafe(body)) {
        Ok(Ok(())) => Exit::Stopped,
        Ok(Err(error)) => {
            let failure: Failure = error.into();
            report(&failure);
            failure.exit
        }
        Err(_) => Exit::Internal,
    };
    exit.into()
}

fn report(failure: &Failure) {
    let code = failure.exit.code();
    if tracing::dispatcher::has_been_set() {
        match failure.exit {
            Exit::Fenced => tracing::info!(code, "{failure}"),
            Exit::Temporary => tracing::warn!(code, "{failure}"),
            _ => tracing::error!(code, "{failure}"),
        }
    } else {
        let program = std::env::args().next().unwrap_or_default();
        let program = program.rsplit('/').next().unwrap_or_default();
        // Standard error may be closed; there is nowhere else to say so.
        let _ = std::io::Write::write_fmt(&mut std::io::stderr(), format_args!("{program}: {failure}\n"));
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitCode;

    use super::*;

    #[test]
    fn codes_are_those_of_the_interface() {
        assert_eq!(Exit::ALL.map(Exit::code), [0, 3, 64, 69, 70, 75, 78]);
        assert_eq!(Exit::from_code(75), Some(Exit::Temporary));
        assert_eq!((Exit::from_code(101), Exit::from_code(-1)), (None, None));
        assert!(Exit::ALL.into_iter().filter(|e| !e.restarts()).eq([
            Exit::Stopped,
            Exit::Fenced,
            Exit::Usage,
            Exit::Config
        ]));
    }

    #[test]
    fn an_error_is_one_line_with_its_sources() {
        let error = ConfigError::Read {
            path: "/x/quad.toml".into(),
            source: std::io::Error::new(std::io::ErrorKind::NotFound, "No such\nfile"),
        };
        let failure = Failure::from(error);
        assert_eq!(failure.to_string(), "Cannot read configuration /x/quad.toml: No such file");
        assert_eq!(failure.exit, Exit::Config);
        assert_eq!(Failure::from(ConfigError::SetSyntax { given: String::new() }).exit, Exit::Usage);
    }

    #[test]
    fn the_body_decides_the_code() {
        let run = |body: fn() -> Result<(), Failure>| format!("{:?}", run_main(body));
        let code = |exit: Exit| format!("{:?}", ExitCode::from(exit.code()));
        assert_eq!(run(|| Ok(())), code(Exit::Stopped));
        assert_eq!(run(|| Err(Failure::new(Exit::Fenced, "Epoch 4 is over"))), code(Exit::Fenced));
        assert_eq!(run(|| Err(Failure::recover(Recovery::Restart, "Ring broken"))), code(Exit::Temporary));
        assert_eq!(run(|| panic!("a bug")), code(Exit::Internal));
    }
}
