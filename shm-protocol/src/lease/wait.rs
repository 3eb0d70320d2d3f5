//! Locks of the lease table that are waited for: in the kernel of the operating system, which wakes the next process
//! the moment their holder is gone.

use super::table::{LeaseTable, Lock};
use crate::error::ObjectError;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use std::os::fd::OwnedFd;
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

/// Whether a lock call found somebody else's lock.
fn is_taken(errno: Errno) -> bool {
    matches!(errno, Errno::EAGAIN | Errno::EACCES)
}

fn failed(table: &LeaseTable, lock: Lock, errno: Errno) -> ObjectError {
    let name = match lock {
        Lock::Active(index, _) => format!("the lease of {}", table.name_of(index)),
        Lock::Candidate(index, _) => format!("the candidacy for {}", table.name_of(index)),
        Lock::Takeover(index) => format!("the takeover of {}", table.name_of(index)),
        Lock::Instance | Lock::Table | Lock::Repair | Lock::Supervisor => {
            format!("the lease table of {}", table.instance())
        }
    };
    ObjectError::System { what: "fcntl(F_OFD_SETLK)", name, errno }
}

/// Takes `lock`, which lasts as long as the open file description that is returned. `None`: another process has it.
///
/// # Errors
/// [`ObjectError::System`] when the lock call itself fails.
pub(super) fn try_lock(table: &LeaseTable, lock: Lock) -> Result<Option<OwnedFd>, ObjectError> {
    let description = table.lock_description()?;
    match fcntl(&description, FcntlArg::F_OFD_SETLK(&lock.exclusive())) {
        Ok(_) => Ok(Some(description)),
        Err(errno) if is_taken(errno) => Ok(None),
        Err(errno) => Err(failed(table, lock, errno)),
    }
}

/// Waits for `lock` as long as it is `wanted`. `None`: it no longer is.
///
/// # Errors
/// [`ObjectError::System`] when the lock call fails or no thread can be had.
pub(super) fn wait_for(
    table: &LeaseTable,
    lock: Lock,
    wanted: impl Fn() -> bool,
) -> Result<Option<OwnedFd>, ObjectError> {
    /// How often to look whether the lock still is the one to wait for. Only after a takeover by force does this
    /// time count: a death or a yield ends the lock call itself.
    const LOOK_AGAIN: Duration = Duration::from_millis(20);
    if let Some(description) = try_lock(table, lock)? {
        return Ok(Some(description));
    }
    let description = table.lock_description()?;
    // The lock call has no time-out, and a holder that was forced out never lets go. A thread waits in it; given up,
    // it drops the lock of its own description should it ever get it.
    let (sender, granted) = std::sync::mpsc::channel();
    let wait = move || {
        let range = lock.exclusive();
        let result = loop {
            match fcntl(&description, FcntlArg::F_OFD_SETLKW(&range)) {
                Err(Errno::EINTR) => {}
                result => break result,
            }
        };
        let _ = sender.send(result.map(|_| description));
    };
    std::thread::Builder::new()
        .name("lease-wait".to_owned())
        .spawn(wait)
        .map_err(|error| failed(table, lock, Errno::from_raw(error.raw_os_error().unwrap_or(libc::EAGAIN))))?;
    loop {
        match granted.recv_timeout(LOOK_AGAIN) {
            Ok(Ok(description)) => return Ok(Some(description)),
            Ok(Err(errno)) => return Err(failed(table, lock, errno)),
            Err(RecvTimeoutError::Timeout) if wanted() => {}
            Err(RecvTimeoutError::Timeout) => return Ok(None),
            Err(RecvTimeoutError::Disconnected) => return Err(failed(table, lock, Errno::ECANCELED)),
        }
    }
}
