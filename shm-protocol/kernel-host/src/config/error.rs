//! What can be wrong with a configuration. Each error names the key, what was given and what is allowed.

use std::io;
use std::path::PathBuf;

use shm_protocol::error::Recovery;
use thiserror::Error;

/// A configuration that cannot be used.
#[derive(Debug, Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("Cannot read configuration {}", path.display())]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The overrides cannot be written.
    #[error("Cannot write overrides {}", path.display())]
    Write {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{origin}{} is not TOML: {message}", line.map(|l| format!(" line {l}")).unwrap_or_default())]
    Syntax {
        /// The file, or "configuration" for text from elsewhere.
        origin: String,
        /// Line counted from 1, where known.
        line: Option<usize>,
        /// What the parser says.
        message: String,
    },
    /// A `--set` without `=` or without a key.
    #[error("Override {given:?} is not KEY=VALUE, for example encode.bitrate_kbps=6000")]
    SetSyntax {
        /// What was given.
        given: String,
    },
    /// A key that means nothing.
    #[error("Unknown key {given}; the nearest known key is {nearest}")]
    UnknownKey {
        /// The full dotted key as given.
        given: String,
        /// The full dotted key that is most like it.
        nearest: String,
    },
    /// A value of the wrong type or outside what is allowed.
    #[error("{key} = {given} is not possible: {allowed}")]
    Value {
        /// The full dotted key.
        key: String,
        /// The value as TOML.
        given: String,
        /// What is allowed.
        allowed: String,
    },
    /// Values that do not go together.
    #[error("{key}: {problem}")]
    Conflict {
        /// The full dotted key to look at first.
        key: String,
        /// What does not fit, and what would.
        problem: String,
    },
    /// A processor this machine does not have.
    #[error("{key} names cpu {cpu}, but this machine has {online}")]
    NoSuchCpu {
        /// The full dotted key.
        key: String,
        /// The processor asked for.
        cpu: usize,
        /// The processors that are online, as a list of ranges.
        online: String,
    },
}

impl ConfigError {
    /// What helps: a person must change the configuration, always.
    pub const fn recovery(&self) -> Recovery {
        Recovery::Fatal
    }

    pub(super) fn conflict(key: impl Into<String>, problem: impl Into<String>) -> ConfigError {
        ConfigError::Conflict { key: key.into(), problem: problem.into() }
    }
}
