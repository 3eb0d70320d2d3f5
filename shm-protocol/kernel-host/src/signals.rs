//! Being asked to stop: SIGTERM and SIGINT set a flag and make a descriptor readable, so that loops and waits end.
//!
//! SIGPIPE needs nothing: the Rust runtime ignores it before `main`, and writes fail with `BrokenPipe` instead.

use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use signal_hook::consts::{SIGINT, SIGTERM};

/// A request to stop, shared by all threads of a kernel.
#[derive(Debug, Clone)]
pub struct Stop {
    flag: Arc<AtomicBool>,
    wake: Arc<Wake>,
}

/// A byte that nobody ever reads: once written, every wait on `reader` returns, also later ones.
#[derive(Debug)]
struct Wake {
    reader: UnixStream,
    writer: UnixStream,
}

impl Stop {
    /// A request that only [`Stop::request`] makes.
    ///
    /// # Errors
    /// When no socket pair can be made.
    pub fn new() -> io::Result<Stop> {
        let (reader, writer) = UnixStream::pair()?;
        writer.set_nonblocking(true)?;
        Ok(Stop { flag: Arc::new(AtomicBool::new(false)), wake: Arc::new(Wake { reader, writer }) })
    }

    /// A request that SIGTERM and SIGINT make as well.
    ///
    /// # Errors
    /// When no socket pair can be made or a handler cannot be registered.
    pub fn install() -> io::Result<Stop> {
        let stop = Stop::new()?;
        for signal in [SIGTERM, SIGINT] {
            // In this order: handlers run as registered, so whoever the descriptor wakes sees the flag.
            signal_hook::flag::register(signal, Arc::clone(&stop.flag))?;
            signal_hook::low_level::pipe::register(signal, stop.wake.writer.try_clone()?)?;
        }
        Ok(stop)
    }

    /// Whether to stop.
    pub fn requested(&self) -> bool {
        self.flag.load(Ordering::Acquire)
    }

    /// Asks to stop, from any thread.
    pub fn request(&self) {
        self.flag.store(true, Ordering::Release);
        // A full buffer means that it is readable already.
        let _ = (&self.wake.writer).write(&[1]);
    }

    /// The flag by itself, for code that only looks.
    pub fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.flag)
    }

    /// A descriptor that becomes readable with the request and stays so: for poll and epoll. Never read from it.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.wake.reader.as_fd()
    }

    /// Sleeps until the request or for `timeout`; says whether to stop.
    pub fn wait(&self, timeout: Duration) -> bool {
        let start = Instant::now();
        loop {
            if self.requested() {
                return true;
            }
            let Some(left) = timeout.checked_sub(start.elapsed()).filter(|left| !left.is_zero()) else { return false };
            // poll counts milliseconds: rounded up, so that a short rest does not spin.
            let millis = i32::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
            let limit = PollTimeout::try_from(millis).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(self.fd(), PollFlags::POLLIN)], limit) {
                Ok(_) | Err(Errno::EINTR) => {}
                // poll fails otherwise only for want of memory; looking at the flag now and then still works.
                Err(_) => std::thread::sleep(left.min(Duration::from_millis(10))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[test]
    fn a_wait_ends_with_the_request_and_stays_ended() {
        let stop = Stop::new().unwrap();
        let start = Instant::now();
        assert!(!stop.wait(Duration::from_millis(20)));
        assert!(start.elapsed() >= Duration::from_millis(20));
        let other = stop.clone();
        let waiter = std::thread::spawn(move || other.wait(Duration::from_secs(60)));
        stop.request();
        assert!(waiter.join().unwrap());
        assert!(stop.requested() && stop.wait(Duration::ZERO) && stop.flag().load(Ordering::Relaxed));
        for _ in 0..100_000 {
            stop.request();
        }
    }

    #[test]
    fn a_signal_wakes_a_blocked_wait() {
        let stop = Stop::install().unwrap();
        let other = stop.clone();
        let waiter = std::thread::spawn(move || {
            // The descriptor alone, without the flag, as an epoll loop would.
            poll(&mut [PollFd::new(other.fd(), PollFlags::POLLIN)], PollTimeout::from(10_000u16)).map(|n| n == 1)
        });
        raise(Signal::SIGTERM).unwrap();
        // poll may be interrupted by the signal itself when it arrives on that thread.
        assert!(matches!(waiter.join().unwrap(), Ok(true) | Err(Errno::EINTR)));
        assert!(stop.wait(Duration::from_secs(10)));
    }

    #[test]
    fn a_closed_pipe_is_an_error_and_no_death() {
        let (reader, mut writer) = UnixStream::pair().unwrap();
        drop(reader);
        assert_eq!(writer.write(b"x").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
    }
}
