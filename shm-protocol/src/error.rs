//! Errors of the protocol. Each says what was found and what is allowed, and knows its cure.

use thiserror::Error;

/// What the caller can do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// The same call may succeed later.
    Retry,
    /// Map the object again: its producer replaced it.
    Reattach,
    /// End this process with a temporary failure; its successor recovers the state.
    Restart,
    /// A person must change something first.
    Fatal,
}

/// A frame format that cannot be described or does not fit its buffer.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum FormatError {
    /// Width or height out of range, or odd for a subsampled format.
    #[error("Frame size {width}x{height} is not possible in {format}: {allowed}")]
    Size {
        /// Visible width asked for, pixels.
        width: u32,
        /// Visible height asked for, pixels.
        height: u32,
        /// Name of the pixel format.
        format: &'static str,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A plane reaches beyond the bytes it is said to lie in.
    #[error("Plane {plane} ends at byte {end}, but the buffer holds {buffer_bytes}")]
    PlaneOutside {
        /// Index of the plane.
        plane: usize,
        /// One past its last byte.
        end: u64,
        /// Size of the buffer.
        buffer_bytes: u64,
    },
    /// A stride shorter than a row.
    #[error("Plane {plane} has a stride of {stride} bytes, but a row needs {row_bytes}")]
    Stride {
        /// Index of the plane.
        plane: usize,
        /// Stride given.
        stride: u32,
        /// Bytes of one row.
        row_bytes: u32,
    },
    /// A code that names nothing.
    #[error("{what} has no meaning for code {code}")]
    UnknownCode {
        /// Which field.
        what: &'static str,
        /// The code found.
        code: u64,
    },
}

/// Why an object could not be created, attached or handed over.
#[derive(Debug, Error)]
pub enum ObjectError {
    /// A system call failed.
    #[error("{what} failed for {name}: {errno}")]
    System {
        /// What was tried.
        what: &'static str,
        /// On which object.
        name: String,
        /// The error of the system.
        errno: nix::errno::Errno,
    },
    /// The file system of shared memory is too small.
    #[error(
        "Shared memory is too small: {name} needs {needed_mib} MiB and /dev/shm has {free_mib} MiB free; \
         enlarge it (mount -o remount,size=4G /dev/shm; in a container --shm-size=4g) or lower capture.slots"
    )]
    NoSpace {
        /// The object.
        name: String,
        /// What it needs.
        needed_mib: u64,
        /// What there is.
        free_mib: u64,
        /// What there would be if all else were gone.
        total_mib: u64,
    },
    /// The object is not there (yet).
    #[error("Object {name} does not exist; its producer has not started")]
    Missing {
        /// The object.
        name: String,
    },
    /// The object is there but is not what it should be.
    #[error("Object {name} is refused: {field} is {found}, expected {expected}")]
    Mismatch {
        /// The object.
        name: String,
        /// Which field of its header.
        field: &'static str,
        /// What was found.
        found: String,
        /// What is allowed.
        expected: String,
    },
    /// The object is no longer what its maker made: somebody truncated, removed or overwrote it.
    #[error("Object {name} was damaged from outside: {what}; whoever owns it makes it anew")]
    Damaged {
        /// The object.
        name: String,
        /// What was found.
        what: String,
    },
    /// A name that cannot be part of an object's name.
    #[error("Name \"{name}\" is not allowed: use 1 to 32 letters, digits, - and _")]
    Name {
        /// The name given.
        name: String,
    },
    /// This kind of memory cannot be had here.
    #[error("Pool memory {kind} is not available: {why}")]
    Unavailable {
        /// The kind asked for.
        kind: &'static str,
        /// Why not, and the cure.
        why: String,
    },
    /// A peer on a socket said something else than the protocol allows.
    #[error("Peer on {name} broke the hand-over protocol: {why}")]
    Peer {
        /// The socket.
        name: String,
        /// What it did.
        why: String,
    },
    /// Another process holds what was asked for.
    #[error("{what} is held by process {pid}")]
    Busy {
        /// What.
        what: String,
        /// By whom (0: unknown).
        pid: u32,
    },
    /// No room in a fixed table.
    #[error("{table} has no room for {name}: {limit} entries are the most")]
    TableFull {
        /// Which table.
        table: &'static str,
        /// What was to be entered.
        name: String,
        /// Its size.
        limit: usize,
    },
}

impl ObjectError {
    /// What the caller can do.
    pub fn recovery(&self) -> Recovery {
        match self {
            ObjectError::Missing { .. } | ObjectError::Busy { .. } => Recovery::Retry,
            ObjectError::Damaged { .. } => Recovery::Restart,
            ObjectError::Peer { .. } => Recovery::Reattach,
            ObjectError::System { .. } => Recovery::Restart,
            // There may be room again, unless there never was.
            ObjectError::NoSpace { needed_mib, total_mib, .. } if needed_mib <= total_mib => Recovery::Restart,
            ObjectError::NoSpace { .. }
            | ObjectError::Mismatch { .. }
            | ObjectError::Name { .. }
            | ObjectError::Unavailable { .. }
            | ObjectError::TableFull { .. } => Recovery::Fatal,
        }
    }
}
