//! Readiness: tells the service manager, and whoever started this kernel, that it works.
//!
//! The protocol is that of sd_notify(3): one datagram of `KEY=VALUE` lines to the socket named by NOTIFY_SOCKET. The
//! supervisor may instead hand over the writing end of a pipe as QUAD_READY_FD and read the line `READY` from it.

#![expect(unsafe_code, reason = "a descriptor inherited by number has no safe constructor")]

use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use nix::fcntl::{FcntlArg, FdFlag, fcntl};

/// Names the descriptor of the readiness pipe.
pub const READY_FD_VARIABLE: &str = "QUAD_READY_FD";

/// The inherited descriptor has one owner in this process: whoever asks first.
static PIPE_TAKEN: AtomicBool = AtomicBool::new(false);

/// Where to report; everything is silently nowhere when nobody asked.
#[derive(Debug, Default)]
pub struct Notifier {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
    pipe: Option<File>,
    watchdog: Option<Duration>,
}

impl Notifier {
    /// What the environment asks for: NOTIFY_SOCKET, WATCHDOG_USEC with WATCHDOG_PID, QUAD_READY_FD.
    ///
    /// # Errors
    /// When a variable is there and leads nowhere: whoever set it would wait in vain.
    pub fn from_env() -> io::Result<Notifier> {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let mut notifier = Notifier {
            watchdog: watchdog(variable("WATCHDOG_USEC").as_deref(), variable("WATCHDOG_PID").as_deref()),
            ..Notifier::default()
        };
        if let Some(name) = variable("NOTIFY_SOCKET") {
            notifier.socket = Some(Arc::new((UnixDatagram::unbound()?, address(&name)?)));
        }
        if let Some(number) = variable(READY_FD_VARIABLE) {
            let bad = || {
                io::Error::new(io::ErrorKind::InvalidInput, format!("{READY_FD_VARIABLE}={number} is no descriptor"))
            };
            let fd: RawFd = number.parse().ok().filter(|fd| *fd > 2).ok_or_else(bad)?;
            notifier.pipe = inherit(fd)?.map(File::from);
        }
        Ok(notifier)
    }

    /// Reports to a socket and a pipe given directly.
    ///
    /// # Errors
    /// When the socket has an impossible name.
    pub fn new(socket: Option<&str>, pipe: Option<OwnedFd>, watchdog: Option<Duration>) -> io::Result<Notifier> {
        let socket = socket.map(|name| Ok::<_, io::Error>((UnixDatagram::unbound()?, address(name)?))).transpose()?;
        Ok(Notifier { socket: socket.map(Arc::new), pipe: pipe.map(File::from), watchdog })
    }

    /// The kernel works: its ring carries frames, or waits for the first. Later calls change nothing on the pipe.
    pub fn ready(&mut self) {
        self.send("READY=1");
        if let Some(mut pipe) = self.pipe.take()
            && let Err(error) = pipe.write_all(b"READY\n")
        {
            tracing::debug!(%error, "Nobody reads the readiness pipe");
        }
    }

    /// One line for `systemctl status`.
    pub fn status(&self, text: &str) {
        self.send(&format!("STATUS={}", text.replace('\n', " ")));
    }

    /// The kernel is about to end.
    pub fn stopping(&self) {
        self.send("STOPPING=1");
    }

    /// A sign of life; to be given at [`Notifier::watchdog_interval`] by the loop that does the work, not by a thread
    /// that would go on when the loop hangs. [`Notifier::signs_of_life`] keeps the time by itself.
    pub fn watchdog(&self) {
        if self.watchdog.is_some() {
            self.send("WATCHDOG=1");
        }
    }

    /// How often to give a sign of life: half of the time after which the manager acts, as sd_watchdog_enabled(3)
    /// advises. `None` when nobody watches.
    pub fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog.map(|limit| limit / 2)
    }

    /// Signs of life that several threads give in turn.
    pub fn signs_of_life(&self) -> SignsOfLife {
        let every_ns = self.watchdog.map_or(u64::MAX, |limit| (limit / 4).as_nanos() as u64);
        let signs = Signs { socket: self.socket.clone(), every_ns, last_ns: AtomicU64::new(NOT_READY) };
        SignsOfLife(Arc::new(signs))
    }

    fn send(&self, message: &str) {
        if let Some(socket) = &self.socket {
            send(socket, message);
        }
    }
}

fn send((socket, address): &(UnixDatagram, SocketAddr), message: &str) {
    if let Err(error) = socket.send_to_addr(message.as_bytes(), address) {
        // A manager that went away must not end the stream.
        tracing::debug!(%error, message, "The service manager does not listen");
    }
}

/// Nobody is watched before READY: a start may be silent for as long as large pools take to be made.
const NOT_READY: u64 = u64::MAX;

/// Signs of life of a loop, given by itself at each turn and by whoever beats for it while it waits. Whoever comes
/// first gives the one that is due: four in the time after which the manager acts, so that a loop whose single turn
/// takes more than half of that time is not killed for it.
#[derive(Debug, Clone)]
pub struct SignsOfLife(Arc<Signs>);

#[derive(Debug)]
struct Signs {
    socket: Option<Arc<(UnixDatagram, SocketAddr)>>,
    every_ns: u64,
    /// When the last one was given, CLOCK_MONOTONIC.
    last_ns: AtomicU64,
}

impl SignsOfLife {
    /// The kernel has just said that it is ready: from now on it is watched.
    pub fn begin(&self, now_ns: u64) {
        self.0.last_ns.store(now_ns, Ordering::Relaxed);
    }

    /// Gives one if it is due at `now_ns`, CLOCK_MONOTONIC.
    pub fn give(&self, now_ns: u64) {
        let last_ns = self.0.last_ns.load(Ordering::Relaxed);
        if now_ns.saturating_sub(last_ns) < self.0.every_ns {
            return;
        }
        let taken = self.0.last_ns.compare_exchange(last_ns, now_ns, Ordering::Relaxed, Ordering::Relaxed);
        if let (Ok(_), Some(socket)) = (taken, &self.0.socket) {
            send(socket, "WATCHDOG=1");
        }
    }
}

/// A path, or a name of the abstract namespace behind `@`.
fn address(name: &str) -> io::Result<SocketAddr> {
    match name.strip_prefix('@') {
        Some(name) => SocketAddr::from_abstract_name(name.as_bytes()),
        None if name.starts_with('/') => SocketAddr::from_pathname(name),
        None => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            format!("NOTIFY_SOCKET={name} is neither a path from / nor @ and a name"),
        )),
    }
}

/// The limit, when it is meant for this process.
fn watchdog(usec: Option<&str>, pid: Option<&str>) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(std::process::id())) {
        return None;
    }
    usec?.parse().ok().filter(|usec| *usec > 0).map(Duration::from_micros)
}

/// Takes over a descriptor that the parent left open for us; `None` when it was taken already.
fn inherit(fd: RawFd) -> io::Result<Option<OwnedFd>> {
    // SAFETY: borrowed for one fcntl, which fails with EBADF when the number is not open and touches nothing else.
    let borrowed = unsafe { BorrowedFd::borrow_raw(fd) };
    let flags = FdFlag::from_bits_retain(fcntl(borrowed, FcntlArg::F_GETFD)?);
    // What this process opened itself is close-on-exec, as everything that std opens; what it inherited cannot be.
    if flags.contains(FdFlag::FD_CLOEXEC) {
        let text = format!("{READY_FD_VARIABLE}={fd} is not inherited");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    if PIPE_TAKEN.swap(true, Ordering::Relaxed) {
        return Ok(None);
    }
    fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC))?;
    // SAFETY: the descriptor is open (F_GETFD succeeded), was inherited and named for us by the parent, so nothing
    // in this process owns it, and the flag above lets it be taken once only.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(fd) }))
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    fn receive(socket: &UnixDatagram) -> String {
        let mut buffer = [0; 256];
        socket.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let length = socket.recv(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..length]).into_owned()
    }

    #[test]
    fn messages_reach_the_manager_on_a_path_and_on_an_abstract_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let on_path = UnixDatagram::bind(&path).unwrap();
        let name = format!("kernel-host-test-{}", std::process::id());
        let on_name = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        for (text, socket) in [(path.to_str().unwrap().to_owned(), on_path), (format!("@{name}"), on_name)] {
            let mut notifier = Notifier::new(Some(&text), None, Some(Duration::from_secs(2))).unwrap();
            notifier.ready();
            notifier.status("60.0 fps\n0 dropped");
            notifier.watchdog();
            notifier.stopping();
            let all: Vec<String> = (0..4).map(|_| receive(&socket)).collect();
            assert_eq!(all, ["READY=1", "STATUS=60.0 fps 0 dropped", "WATCHDOG=1", "STOPPING=1"]);
            assert_eq!(notifier.watchdog_interval(), Some(Duration::from_secs(1)));
        }
    }

    #[test]
    fn a_loop_that_turns_once_in_a_second_shows_a_sign_of_life_each_time() {
        const SECOND: u64 = 1_000_000_000;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let heard = || std::iter::from_fn(|| socket.recv(&mut [0; 64]).ok()).count();
        let notifier = Notifier::new(path.to_str(), None, Some(Duration::from_secs(2))).unwrap();
        let signs = notifier.signs_of_life();
        let patience = signs.clone();
        signs.give(7 * SECOND);
        assert_eq!(heard(), 0, "nobody is watched before it is ready");
        signs.begin(10 * SECOND);
        // A hair under a second apart, by turns of the loop and of whoever beats for it.
        for turn in 1..=10 {
            signs.give((10 + turn) * SECOND - turn * 1000);
            assert_eq!(heard(), 1, "turn {turn}");
        }
        for beat in 0..=80 {
            patience.give(20 * SECOND + beat * SECOND / 40);
            signs.give(20 * SECOND + beat * SECOND / 40);
        }
        assert_eq!(heard(), 4, "two seconds of beats from two threads");
        let unwatched = Notifier::new(path.to_str(), None, None).unwrap().signs_of_life();
        unwatched.begin(0);
        unwatched.give(99 * SECOND);
        assert_eq!(heard(), 0, "nobody watches");
    }

    #[test]
    fn a_manager_that_went_away_does_no_harm() {
        let mut notifier = Notifier::new(Some("/nonexistent/notify"), None, None).unwrap();
        notifier.ready();
        notifier.watchdog();
        assert_eq!(notifier.watchdog_interval(), None);
        assert!(Notifier::new(Some("relative"), None, None).is_err());
    }

    #[test]
    fn the_pipe_carries_one_line_and_closes() {
        let (mut reader, writer) = io::pipe().unwrap();
        let mut notifier = Notifier::new(None, Some(writer.into()), None).unwrap();
        notifier.ready();
        notifier.ready();
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        assert_eq!(text, "READY\n");
    }

    #[test]
    fn an_inherited_descriptor_is_taken_once_and_own_ones_never() {
        let (_reader, own) = io::pipe().unwrap();
        use std::os::fd::{AsRawFd as _, IntoRawFd as _};
        assert!(inherit(own.as_raw_fd()).is_err(), "close-on-exec: ours");
        assert!(inherit(RawFd::MAX).is_err(), "not open");
        fcntl(&own, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        let fd = OwnedFd::from(own).into_raw_fd();
        let taken = inherit(fd).unwrap().unwrap();
        let flags = FdFlag::from_bits_retain(fcntl(&taken, FcntlArg::F_GETFD).unwrap());
        assert!(flags.contains(FdFlag::FD_CLOEXEC), "children do not get it");
        fcntl(&taken, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
        assert!(inherit(fd).unwrap().is_none());
    }

    #[test]
    fn a_watchdog_meant_for_another_process_is_ignored() {
        let own = std::process::id().to_string();
        assert_eq!(watchdog(Some("3000000"), Some(&own)), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(Some("3000000"), None), Some(Duration::from_secs(3)));
        assert_eq!(watchdog(Some("3000000"), Some("1")), None);
        assert_eq!(watchdog(Some("0"), None), None);
        assert_eq!(watchdog(None, None), None);
    }
}
