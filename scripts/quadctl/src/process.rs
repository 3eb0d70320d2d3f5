//! Processes by pidfd: a pid may be somebody else's by the time it is used, a pidfd never is.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
pub use rustix::process::Signal;
use rustix::process::{Pid, PidfdFlags, WaitId, WaitIdOptions, WaitIdStatus, pidfd_open, pidfd_send_signal, waitid};
use shm_protocol::lease::{LeaseTable, start_time};

/// A process that was alive when this was made.
#[derive(Debug)]
pub struct Process {
    /// Its number, for people.
    pub pid: u32,
    /// Clock ticks since boot at its start: with the number it names a process for ever.
    pub start_time: u64,
    pidfd: OwnedFd,
}

impl Process {
    /// The process of that number, whichever it is.
    pub fn open(pid: u32) -> Option<Process> {
        let pidfd = pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()?;
        // Read after opening: if the number was reused in between, this is the time of what is opened.
        Some(Process { pid, start_time: start_time(pid)?, pidfd })
    }

    /// The process of that number and start.
    pub fn verified(pid: u32, started: u64) -> Option<Process> {
        Process::open(pid).filter(|process| process.start_time == started)
    }

    /// Sends a signal; nothing happens when it is gone.
    pub fn signal(&self, signal: Signal) {
        // ESRCH: it ended meanwhile, which is what signals here are for.
        let _ = pidfd_send_signal(&self.pidfd, signal);
    }

    /// Readable once the process has ended.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }

    /// How it ended, once it has, if it is a child of this process: that takes leave of it. `None` for other
    /// processes.
    pub fn reap(&self) -> Option<WaitIdStatus> {
        waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED | WaitIdOptions::NOHANG).ok().flatten()
    }

    /// Whether it has ended (a zombie has).
    pub fn ended(&self) -> bool {
        wait_all(&[self], Duration::ZERO)
    }
}

/// Waits until all have ended, at most `limit`; says whether they have.
pub fn wait_all(processes: &[&Process], limit: Duration) -> bool {
    let deadline = Instant::now() + limit;
    for process in processes {
        loop {
            let left = deadline.saturating_duration_since(Instant::now()).as_millis();
            let left = PollTimeout::try_from(i32::try_from(left).unwrap_or(i32::MAX)).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(process.fd(), PollFlags::POLLIN)], left) {
                Ok(0) => return false,
                Err(nix::errno::Errno::EINTR) => {}
                _ => break,
            }
        }
    }
    true
}

/// Asks processes to end and makes them after `patience`; waits until they are gone, at most a second more.
pub fn end_all(processes: &[&Process], patience: Duration) -> bool {
    /// What a killed process takes to give its memory back; a driver may hold it for longer.
    const KILLED: Duration = Duration::from_secs(1);
    for process in processes {
        process.signal(Signal::TERM);
        // A stopped process takes no other signal until it goes on.
        process.signal(Signal::CONT);
    }
    if wait_all(processes, patience) {
        return true;
    }
    processes.iter().filter(|process| !process.ended()).for_each(|process| process.signal(Signal::KILL));
    wait_all(processes, KILLED)
}

/// Writes a pid file: the number, and on a second line the start time that verifies it.
pub fn write_pid_file(path: &Path, process: &Process) {
    // A pid file helps to find what is left behind; the stream goes on without.
    if let Err(error) = fs::write(path, format!("{}\n{}\n", process.pid, process.start_time)) {
        tracing::warn!(%error, path = %path.display(), "Cannot write a pid file");
    }
}

/// The living process of a pid file.
pub fn read_pid_file(path: &Path) -> Option<Process> {
    let text = fs::read_to_string(path).ok()?;
    let mut lines = text.lines();
    Process::verified(lines.next()?.trim().parse().ok()?, lines.next()?.trim().parse().ok()?)
}

/// The process that holds a kernel's lease.
pub fn holder(table: &LeaseTable, kernel: &str) -> Option<Process> {
    let (pidfd, info) = table.verified_pidfd(kernel)?;
    Some(Process { pid: info.pid, start_time: info.start_time, pidfd })
}

/// What the last line of a log says that says something, from `offset` on: an error before all else, and without
/// time, level and fields, which belong in the log.
pub fn last_line(path: &Path, offset: u64) -> Option<String> {
    let text = fs::read(path).ok()?;
    let from = usize::try_from(offset).ok().filter(|from| *from <= text.len()).unwrap_or(0);
    let text = String::from_utf8_lossy(&text[from..]).into_owned();
    let said = |line: &&str| !line.is_empty();
    let lines = || text.lines().rev().map(str::trim).filter(said).map(message_of);
    // Two processes may write to one log (a swap): an error says more than what came after it.
    lines().find(|(level, _)| level == "ERROR").or_else(|| lines().next()).map(|(_, message)| message)
}

/// Level and message of a log line, in either of the two forms; a line that is none is all message.
fn message_of(line: &str) -> (String, String) {
    const LEVELS: [&str; 5] = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];
    if let Ok(line) = serde_json::from_str::<serde_json::Value>(line)
        && let (Some(level), Some(message)) = (line["level"].as_str(), line["message"].as_str())
    {
        return (level.to_owned(), message.to_owned());
    }
    let parts = line.split_once(' ').and_then(|(time, rest)| Some((time, rest.trim_start().split_once(' ')?)));
    match parts {
        Some((time, (level, message))) if time.ends_with('Z') && time.contains('T') && LEVELS.contains(&level) => {
            (level.to_owned(), without_fields(message).to_owned())
        }
        _ => (String::new(), line.to_owned()),
    }
}

/// A message without the `name=value` fields behind it.
fn without_fields(mut message: &str) -> &str {
    let is_field = |word: &str| {
        word.split_once('=').is_some_and(|(name, _)| {
            !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
        })
    };
    while let Some((rest, _)) = message.rsplit_once(' ').filter(|(_, word)| is_field(word)) {
        message = rest.trim_end();
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_names_one_process_and_no_later_one() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.pid");
        let me = Process::open(std::process::id()).unwrap();
        write_pid_file(&path, &me);
        assert_eq!(read_pid_file(&path).unwrap().pid, std::process::id());
        fs::write(&path, format!("{}\n{}\n", me.pid, me.start_time + 1)).unwrap();
        assert!(read_pid_file(&path).is_none());
        fs::write(&path, "7").unwrap();
        assert!(read_pid_file(&path).is_none());
    }

    #[test]
    fn who_does_not_listen_is_killed() {
        let mut deaf =
            std::process::Command::new("sh").args(["-c", "trap '' TERM; while :; do sleep 1; done"]).spawn().unwrap();
        let process = Process::open(deaf.id()).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(!process.ended());
        assert!(end_all(&[&process], Duration::from_millis(100)));
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&deaf.wait().unwrap()), Some(libc::SIGKILL));
    }

    #[test]
    fn the_last_line_is_the_last_that_says_something() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.log");
        fs::write(&path, "one\ntwo\n\n").unwrap();
        assert_eq!(last_line(&path, 0).as_deref(), Some("two"));
        assert_eq!(last_line(&path, 8), None);
        let time = "2026-01-01T00:00:00.000001Z";
        for (line, message) in [
            (
                format!("{time} ERROR Cannot open /dev/x: set capture.path=/y code=69\n{time}  INFO Ended"),
                "Cannot open /dev/x: set capture.path=/y",
            ),
            (format!("{time}  INFO Started kernel=\"encode.main\" epoch=1 cpus=[0]"), "Started"),
            (format!("{{\"timestamp\":\"{time}\",\"level\":\"WARN\",\"message\":\"No disk\",\"code\":75}}"), "No disk"),
            ("thread 'main' panicked at x=1".to_owned(), "thread 'main' panicked at x=1"),
        ] {
            fs::write(&path, line).unwrap();
            assert_eq!(last_line(&path, 0).as_deref(), Some(message));
        }
        fs::write(&path, "one\ntwo\n\n").unwrap();
        // Rotated meanwhile: all there is.
        assert_eq!(last_line(&path, 900).as_deref(), Some("two"));
    }
}
