//! Reading a pipe without ever being deaf to the stop flag.

use super::rows;
use crate::clock::{self, STOP_POLL_NS};
use crate::error::SourceError;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::readv;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

/// Asked-for capacity of a pipe: the largest an unprivileged process may set by default (fs.pipe-max-size).
const PIPE_BYTES: i32 = 1 << 20;
/// How often a FIFO without a writer is looked at: such a FIFO cannot be polled, it reports its end at once.
const NO_WRITER_NS: u64 = 10_000_000;

/// How a read ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Got {
    /// That many bytes.
    Bytes(usize),
    /// There is no writer; of an exact read, that many bytes had come.
    Ended(usize),
    /// The stop flag was set.
    Stopped,
}

/// A pipe, and bytes read from it but not used yet.
#[derive(Debug)]
pub(super) struct PipeReader {
    file: File,
    path: String,
    pending: Vec<u8>,
    /// Bytes used since the pipe was opened.
    offset: u64,
}

impl PipeReader {
    pub(super) fn new(file: File, path: &str) -> PipeReader {
        // A larger pipe spares system calls; where the limit forbids it, the default serves.
        let _ = fcntl(&file, FcntlArg::F_SETPIPE_SZ(PIPE_BYTES));
        PipeReader { file, path: path.to_owned(), pending: Vec::new(), offset: 0 }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// Bytes used since the pipe was opened.
    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Bytes read but not used.
    pub(super) fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Gives `bytes` back, to be read again first.
    pub(super) fn unread(&mut self, bytes: &[u8]) {
        self.pending.splice(0..0, bytes.iter().copied());
        self.offset -= bytes.len() as u64;
    }

    /// Drops up to `count` pending bytes.
    pub(super) fn skip(&mut self, count: usize) {
        let count = count.min(self.pending.len());
        self.pending.drain(..count);
        self.offset += count as u64;
    }

    /// Waits until a read would give bytes (`Bytes(0)`) or say that there is no writer.
    pub(super) fn ready(&self, stop: &AtomicBool) -> Result<Got, SourceError> {
        if !self.pending.is_empty() {
            return Ok(Got::Bytes(0));
        }
        let timeout = PollTimeout::from((STOP_POLL_NS / 1_000_000) as u16);
        while !stop.load(Ordering::Relaxed) {
            let mut fds = [PollFd::new(self.file.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, timeout) {
                Ok(0) | Err(Errno::EINTR) => {}
                Ok(_) if fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)) => {
                    return Ok(Got::Bytes(0));
                }
                Ok(_) => return Ok(Got::Ended(0)),
                Err(errno) => return Err(self.error(errno)),
            }
        }
        Ok(Got::Stopped)
    }

    /// Reads what is there, at least one byte.
    pub(super) fn read(&mut self, places: &mut [IoSliceMut<'_>], stop: &AtomicBool) -> Result<Got, SourceError> {
        if !self.pending.is_empty() {
            let bytes = rows::scatter(&self.pending, places);
            self.skip(bytes);
            return Ok(Got::Bytes(bytes));
        }
        loop {
            match self.ready(stop)? {
                Got::Bytes(_) => {}
                other => return Ok(other),
            }
            match readv(&self.file, places) {
                Ok(0) => return Ok(Got::Ended(0)),
                Ok(bytes) => {
                    self.offset += bytes as u64;
                    return Ok(Got::Bytes(bytes));
                }
                Err(Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => return Err(self.error(errno)),
            }
        }
    }

    /// Fills `buffer`. What was read before the flag was set is read again the next time.
    pub(super) fn exact(&mut self, buffer: &mut [u8], stop: &AtomicBool) -> Result<Got, SourceError> {
        let mut done = 0;
        while done < buffer.len() {
            match self.read(&mut [IoSliceMut::new(&mut buffer[done..])], stop)? {
                Got::Bytes(bytes) => done += bytes,
                Got::Ended(_) => return Ok(Got::Ended(done)),
                Got::Stopped => {
                    self.unread(&buffer[..done]);
                    return Ok(Got::Stopped);
                }
            }
        }
        Ok(Got::Bytes(done))
    }

    /// Reads up to `count` further bytes behind the pending ones.
    pub(super) fn read_ahead(&mut self, count: usize, stop: &AtomicBool) -> Result<Got, SourceError> {
        let had = std::mem::take(&mut self.pending);
        let mut more = vec![0; count];
        let got = self.read(&mut [IoSliceMut::new(&mut more)], stop);
        self.pending = had;
        if let Ok(Got::Bytes(bytes)) = got {
            self.pending.extend_from_slice(&more[..bytes]);
            self.offset -= bytes as u64;
        }
        got
    }

    /// Appends to `line` up to and without the next newline; false when there is none within `max_bytes`. What was read
    /// before the flag was set is read again the next time.
    pub(super) fn line(
        &mut self,
        line: &mut Vec<u8>,
        max_bytes: usize,
        stop: &AtomicBool,
    ) -> Result<(Got, bool), SourceError> {
        let (mut byte, had) = ([0], line.len());
        while line.len() < max_bytes {
            match self.exact(&mut byte, stop)? {
                Got::Bytes(_) if byte[0] == b'\n' => return Ok((Got::Bytes(line.len()), true)),
                Got::Bytes(_) => line.push(byte[0]),
                Got::Stopped => {
                    self.unread(&line[had..]);
                    line.truncate(had);
                    return Ok((Got::Stopped, false));
                }
                other => return Ok((other, false)),
            }
        }
        Ok((Got::Bytes(line.len()), false))
    }

    /// Passes some time while there is no writer.
    pub(super) fn pause(&self, stop: &AtomicBool) -> Result<(), SourceError> {
        clock::sleep_until(clock::monotonic_ns()? + NO_WRITER_NS, stop).map(|_| ())
    }

    fn error(&self, errno: Errno) -> SourceError {
        SourceError::Read { path: self.path.clone(), offset: self.offset, source: io::Error::from(errno) }
    }
}
