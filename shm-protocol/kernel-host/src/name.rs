//! Names of kernels and instances, as they stand in the configuration, in object names and in `status`.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// Longest name of an instance or of a kernel instance, bytes. A Unix socket path holds 107 bytes:
/// `/run/user/4294967295/quad/` (26) + instance (32) + `/` + `capture.` (8) + name (32) + `.sock` (5) = 104.
pub const MAX_NAME_BYTES: usize = 32;

/// A name that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NameError {
    /// Characters or length that object names cannot carry.
    #[error("Name {given:?} is not possible: 1 to 32 characters, each a letter A-Z a-z, a digit, _ or -")]
    Characters {
        /// What was given.
        given: String,
    },
    /// The part before the dot is not a kind of kernel.
    #[error("No kernel kind {given:?}: capture, process, encode or net")]
    Kind {
        /// What was given.
        given: String,
    },
}

/// Checks the name of an instance (of the whole system, or of one kernel).
///
/// # Errors
/// [`NameError::Characters`] when it is empty, too long, or has other characters than `[A-Za-z0-9_-]`.
pub fn check_name(name: &str) -> Result<(), NameError> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if name.is_empty() || name.len() > MAX_NAME_BYTES || !name.bytes().all(allowed) {
        return Err(NameError::Characters { given: name.to_owned() });
    }
    Ok(())
}

/// The four kinds of kernel, in the order in which a frame passes them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Kernel A: brings frames in.
    Capture,
    /// Kernel B: scales, crops and converts pixels.
    Process,
    /// Kernel C: makes access units of pixels.
    Encode,
    /// Kernel D: puts access units on the wire.
    Net,
}

impl Kind {
    /// Every kind, upstream first.
    pub const ALL: [Kind; 4] = [Kind::Capture, Kind::Process, Kind::Encode, Kind::Net];

    /// The name in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Capture => "capture",
            Kind::Process => "process",
            Kind::Encode => "encode",
            Kind::Net => "net",
        }
    }

    /// The file name of its binary.
    pub const fn binary(self) -> &'static str {
        match self {
            Kind::Capture => "kernel-a-capture",
            Kind::Process => "kernel-b-process",
            Kind::Encode => "kernel-c-encode",
            Kind::Net => "kernel-d-net",
        }
    }

    /// The kind whose ring it reads; `None` for capture.
    pub const fn upstream(self) -> Option<Kind> {
        match self {
            Kind::Capture => None,
            Kind::Process => Some(Kind::Capture),
            Kind::Encode => Some(Kind::Process),
            Kind::Net => Some(Kind::Encode),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Kind {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Kind, NameError> {
        Kind::ALL.into_iter().find(|k| k.name() == text).ok_or_else(|| NameError::Kind { given: text.to_owned() })
    }
}

/// One kernel instance: `encode.main`, `net.web`. Text without a dot means `main`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KernelName {
    /// Which kind.
    pub kind: Kind,
    /// Which of that kind, `main` for the first.
    pub name: String,
}

impl KernelName {
    /// The name of the instance every kind has.
    pub const MAIN: &'static str = "main";

    /// The first instance of a kind.
    pub fn main(kind: Kind) -> KernelName {
        KernelName { kind, name: Self::MAIN.to_owned() }
    }

    /// A kernel instance of that name.
    ///
    /// # Errors
    /// [`NameError::Characters`] as [`check_name`].
    pub fn new(kind: Kind, name: &str) -> Result<KernelName, NameError> {
        check_name(name)?;
        Ok(KernelName { kind, name: name.to_owned() })
    }

    /// Whether it is the instance every kind has.
    pub fn is_main(&self) -> bool {
        self.name == Self::MAIN
    }

    /// The key that `status` uses: `encode` for the first instance, `encode.web` for a further one.
    pub fn short(&self) -> String {
        if self.is_main() { self.kind.name().to_owned() } else { self.to_string() }
    }

    /// The table of the configuration that describes it: `encode` or `encode.instances.web`.
    pub fn config_path(&self) -> String {
        if self.is_main() { self.kind.name().to_owned() } else { format!("{}.instances.{}", self.kind, self.name) }
    }
}

impl fmt::Display for KernelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.kind, self.name)
    }
}

impl FromStr for KernelName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<KernelName, NameError> {
        let (kind, name) = text.split_once('.').unwrap_or((text, Self::MAIN));
        KernelName::new(kind.parse()?, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_alone_means_its_main_instance() {
        let name: KernelName = "encode".parse().unwrap();
        assert_eq!(name, KernelName::main(Kind::Encode));
        assert_eq!((name.to_string().as_str(), name.short().as_str()), ("encode.main", "encode"));
        assert_eq!("encode.main".parse(), Ok(name));
    }

    #[test]
    fn a_further_instance_keeps_its_name() {
        let name: KernelName = "net.web".parse().unwrap();
        assert_eq!((name.to_string().as_str(), name.short().as_str()), ("net.web", "net.web"));
        assert_eq!(name.config_path(), "net.instances.web");
    }

    #[test]
    fn names_that_objects_cannot_carry_are_refused() {
        for bad in ["encode.", "encode.a.b", "encode.a/b", "encode.ä", "encode.a b", &format!("net.{}", "x".repeat(33))]
        {
            assert!(matches!(bad.parse::<KernelName>(), Err(NameError::Characters { .. })), "{bad}");
        }
        assert!(matches!("encoder.main".parse::<KernelName>(), Err(NameError::Kind { .. })));
    }
}
