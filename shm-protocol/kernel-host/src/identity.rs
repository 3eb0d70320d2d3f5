//! What a kernel's binary says of itself: the line that `--version` prints, and its reading.
//!
//! ```text
//! kernel-c-encode 0.1.0 (ABI 1.0, layout 0x0123456789abcdef)
//! NAME            VERSION (ABI MAJOR.MINOR, layout HASH)
//! ```
//! NAME ends in a hyphen and the kind of kernel: another maker's `acme-encode 7.2 (ABI 1.0, layout 0x…)` is an encoder
//! as good as ours. VERSION is one word of any form. ABI and layout are those of the shm-protocol it was built with
//! ([`ABI_MAJOR`], [`LAYOUT_HASH`]): two binaries of the same layout, which covers the major ABI, may share rings.

use std::fmt;
use std::str::FromStr;

use shm_protocol::layout::{ABI_MAJOR, ABI_MINOR, LAYOUT_HASH};
use thiserror::Error;

use crate::name::Kind;

/// The builder's own mark, QUAD_BUILD in the environment of the build: it follows the version behind a plus sign, as
/// build metadata does in Semantic Versioning, and tells two builds of one version apart.
const BUILD: Option<&str> = option_env!("QUAD_BUILD");

/// The form of the line, for messages.
pub const FORM: &str = "NAME-KIND VERSION (ABI MAJOR.MINOR, layout 0xHASH)";

/// A line that no kernel prints.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{line:?} is not what a kernel prints; its line is {FORM} with KIND capture, process, encode or net")]
pub struct NotAKernel {
    /// What was found.
    pub line: String,
}

/// What a kernel's binary is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its name, "kernel-c-encode".
    pub program: String,
    /// What it does, as its name ends.
    pub kind: Kind,
    /// Its version, with the mark of its build.
    pub version: String,
    /// Major and minor ABI of its rings.
    pub abi: (u32, u32),
    /// Layout of its rings.
    pub layout_hash: u64,
}

impl Identity {
    /// That of this process's own build, for a kernel of `kind` whose package has that version.
    pub fn own(kind: Kind, version: &str) -> Identity {
        Identity {
            program: kind.binary().to_owned(),
            kind,
            version: marked(version),
            abi: (ABI_MAJOR, ABI_MINOR),
            layout_hash: LAYOUT_HASH,
        }
    }

    /// Whether kernels of this build may share rings of `layout_hash`, which covers the major ABI.
    pub fn shares(&self, layout_hash: u64) -> bool {
        self.layout_hash == layout_hash
    }
}

/// A version with the mark of this build, if it has one.
pub fn marked(version: &str) -> String {
    BUILD.filter(|mark| !mark.is_empty()).map_or_else(|| version.to_owned(), |mark| format!("{version}+{mark}"))
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (major, minor) = self.abi;
        write!(f, "{} {} (ABI {major}.{minor}, layout {:#018x})", self.program, self.version, self.layout_hash)
    }
}

impl FromStr for Identity {
    type Err = NotAKernel;

    fn from_str(line: &str) -> Result<Identity, NotAKernel> {
        let read = || {
            let (program, rest) = line.trim().split_once(' ')?;
            let (version, rest) = rest.split_once(' ')?;
            let (abi, layout) = rest.strip_prefix("(ABI ")?.strip_suffix(')')?.split_once(", layout 0x")?;
            let (major, minor) = abi.split_once('.')?;
            let (_, kind) = program.rsplit_once('-')?;
            Some(Identity {
                program: program.to_owned(),
                kind: kind.parse().ok()?,
                version: version.to_owned(),
                abi: (major.parse().ok()?, minor.parse().ok()?),
                layout_hash: u64::from_str_radix(layout, 16).ok()?,
            })
        };
        read().ok_or_else(|| NotAKernel { line: line.chars().take(120).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_is_read_as_it_is_written_for_every_kind() {
        for kind in Kind::ALL {
            let own = Identity::own(kind, "1.2.3");
            assert_eq!(own.to_string().parse(), Ok(own.clone()));
            assert!(own.shares(LAYOUT_HASH) && !own.shares(LAYOUT_HASH ^ 1));
        }
    }

    #[test]
    fn another_makers_encoder_is_known_by_what_its_line_says() {
        let line = "acme-super-encode 2026b (ABI 1.4, layout 0x00000000000000ff)\n";
        let identity: Identity = line.parse().unwrap();
        assert_eq!((identity.kind, identity.version.as_str()), (Kind::Encode, "2026b"));
        assert_eq!((identity.abi, identity.layout_hash), ((1, 4), 255));
        assert!(!identity.shares(LAYOUT_HASH));
    }

    #[test]
    fn other_programs_are_no_kernels() {
        for line in [
            "",
            "true (GNU coreutils) 9.1",
            "kernel-c-encode 0.1.0",
            "kernel-c-encoder 0.1.0 (ABI 1.0, layout 0x00)",
            "encode 1 (ABI 1.0, layout 0x0)",
            "kernel-c-encode 0.1.0 (ABI 1.0, layout 0xxyz)",
            "kernel-c-encode 0.1.0 (ABI 1, layout 0x1)",
        ] {
            assert!(line.parse::<Identity>().is_err(), "{line}");
        }
        let long = "x".repeat(5000).parse::<Identity>().unwrap_err();
        assert!(long.to_string().len() < 400);
    }
}
