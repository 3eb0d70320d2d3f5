//! The supervisor's socket: one JSON object a line, asked and answered, from processes of the same user only.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kernel_host::exit::{Exit, Failure};
use kernel_host::runtime::RuntimeDir;
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use serde::{Deserialize, Serialize};

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum Request {
    /// End every kernel and the supervisor; answered when nothing is left.
    Stop,
    /// Replace a kernel's process; answered when the next epoch runs.
    Restart {
        /// Kernel instance, "encode.main".
        kernel: String,
    },
    /// Exchange a kernel's process under the running stream; answered when the new one carries it.
    Swap {
        /// Kernel instance, "encode.main".
        kernel: String,
        /// Another binary than the one of this build.
        binary: Option<PathBuf>,
        /// Settings of the successor, `KEY=VALUE` with whole paths.
        sets: Vec<String>,
    },
    /// Make room for the supervisor of another build, which goes on in this very process; answered only when that
    /// fails. The kernels stay, or all end first.
    Upgrade {
        /// Directory of the new build.
        bin_dir: PathBuf,
        /// Rings have another layout: every kernel ends, and of the objects the sessions alone stay.
        whole: bool,
    },
    /// Who are you: answered with the version once the start is over.
    Hello,
    /// Keep an override and tell the kernel concerned.
    Set {
        /// `KEY=VALUE`, checked by the asker.
        set: String,
    },
}

/// What is answered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// 0, or the exit code for the asker.
    pub exit: u8,
    /// What happened, for people.
    pub message: String,
}

impl Reply {
    /// It was done.
    pub fn done(message: impl Into<String>) -> Reply {
        Reply { exit: 0, message: message.into() }
    }

    /// It was not.
    pub fn failed(exit: Exit, message: impl Into<String>) -> Reply {
        Reply { exit: exit.code(), message: message.into() }
    }
}

/// Bytes of a request: a setting with a long path fits; more is no request of ours.
const MAX_REQUEST_BYTES: usize = 16 << 10;

/// One asker.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    received: Vec<u8>,
    /// Whether the asker is gone or was told off.
    pub closed: bool,
}

impl Client {
    /// Where to poll for more.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }

    /// The next whole request, if there is one; garbage is answered and ends the conversation.
    pub fn receive(&mut self) -> Option<Request> {
        let mut buffer = [0u8; 4096];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => self.closed = true,
                Ok(n) if self.received.len() + n <= MAX_REQUEST_BYTES => {
                    self.received.extend_from_slice(&buffer[..n]);
                    continue;
                }
                Ok(_) => {
                    self.answer(&Reply::failed(Exit::Usage, "Request is longer than 16384 bytes"));
                    self.closed = true;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => self.closed = true,
            }
            break;
        }
        let end = self.received.iter().position(|byte| *byte == b'\n')?;
        let line: Vec<u8> = self.received.drain(..=end).collect();
        match serde_json::from_slice(&line) {
            Ok(request) => Some(request),
            Err(error) => {
                self.answer(&Reply::failed(Exit::Usage, format!("Request is not understood: {error}")));
                self.closed = true;
                None
            }
        }
    }

    /// Answers; an asker that is gone or does not read gets nothing.
    pub fn answer(&mut self, reply: &Reply) {
        let mut line = serde_json::to_vec(reply).unwrap_or_default();
        line.push(b'\n');
        let _ = self.stream.write_all(&line);
    }
}

/// The listening side.
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
}

impl Listener {
    /// Listens at the instance's socket; what a dead supervisor left there goes.
    pub fn bind(runtime: &RuntimeDir) -> Result<Listener, Failure> {
        let path = runtime.supervisor_socket()?;
        let failed =
            |error: io::Error| Failure::new(Exit::Unavailable, format!("Cannot listen at {}: {error}", path.display()));
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
            _ => {}
        }
        let listener = UnixListener::bind(&path).map_err(failed)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        listener.set_nonblocking(true).map_err(failed)?;
        Ok(Listener { listener })
    }

    /// Where to poll for askers.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.listener.as_fd()
    }

    /// The next asker, if one waits. Others than the own user are turned away.
    pub fn accept(&self) -> Option<Client> {
        let (stream, _) = self.listener.accept().ok()?;
        let peer = getsockopt(&stream, PeerCredentials).ok()?;
        if peer.uid() != nix::unistd::geteuid().as_raw() {
            tracing::warn!(uid = peer.uid(), pid = peer.pid(), "Another user's process was turned away");
            return None;
        }
        stream.set_nonblocking(true).ok()?;
        Some(Client { stream, received: Vec::new(), closed: false })
    }
}

/// Asks the supervisor and waits for its answer.
///
/// # Errors
/// `None` when nobody listens there.
pub fn ask(socket: &Path, request: &Request, limit: Duration) -> Option<Result<Reply, io::Error>> {
    let stream = UnixStream::connect(socket).ok()?;
    let talk = || -> io::Result<Reply> {
        stream.set_read_timeout(Some(limit))?;
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        (&stream).write_all(&line)?;
        let mut answer = String::new();
        BufReader::new(&stream).read_line(&mut answer)?;
        if answer.is_empty() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "The supervisor ended without an answer"));
        }
        Ok(serde_json::from_str(&answer)?)
    };
    Some(talk())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (tempfile::TempDir, RuntimeDir, Listener) {
        let folder = tempfile::tempdir().unwrap();
        let runtime = RuntimeDir::locate_in(folder.path(), "demo").unwrap();
        runtime.create().unwrap();
        let listener = Listener::bind(&runtime).unwrap();
        (folder, runtime, listener)
    }

    fn accept(listener: &Listener) -> Client {
        loop {
            if let Some(client) = listener.accept() {
                return client;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn receive(client: &mut Client) -> Option<Request> {
        while !client.closed {
            if let Some(request) = client.receive() {
                return Some(request);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        None
    }

    #[test]
    fn a_request_is_asked_and_answered() {
        let (_folder, runtime, listener) = pair();
        let socket = runtime.supervisor_socket().unwrap();
        assert_eq!(std::fs::metadata(&socket).unwrap().permissions().mode() & 0o777, 0o600);
        let asker = std::thread::spawn(move || {
            let restart = Request::Restart { kernel: "encode.web".into() };
            ask(&socket, &restart, Duration::from_secs(10)).unwrap().unwrap()
        });
        let mut client = accept(&listener);
        assert_eq!(receive(&mut client), Some(Request::Restart { kernel: "encode.web".into() }));
        client.answer(&Reply::failed(Exit::Temporary, "no"));
        assert_eq!(asker.join().unwrap(), Reply { exit: 75, message: "no".into() });
    }

    #[test]
    fn garbage_is_answered_and_ends_the_conversation() {
        let (_folder, runtime, listener) = pair();
        for garbage in [b"{}\n".to_vec(), b"\xff\xfe\n".to_vec(), vec![b'x'; MAX_REQUEST_BYTES + 1]] {
            let mut stream = UnixStream::connect(runtime.supervisor_socket().unwrap()).unwrap();
            let mut client = accept(&listener);
            stream.write_all(&garbage).unwrap();
            assert_eq!(receive(&mut client), None);
            assert!(client.closed);
            let mut answer = String::new();
            BufReader::new(&stream).read_line(&mut answer).unwrap();
            let reply: Reply = serde_json::from_str(&answer).unwrap();
            assert_eq!(reply.exit, 64, "{reply:?}");
        }
    }

    #[test]
    fn nobody_there_is_told_apart_from_a_failure() {
        let (_folder, runtime, listener) = pair();
        drop(listener);
        assert!(ask(&runtime.supervisor_socket().unwrap(), &Request::Stop, Duration::from_secs(1)).is_none());
    }
}
