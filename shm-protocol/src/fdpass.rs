//! Hands the descriptors of pools from process to process over Unix sockets: once an attach, never per
//! frame. Every kernel serves every pool it has mapped, so that a pool outlives its producer.

mod message;

use crate::error::ObjectError;
use crate::pool::{Pool, PoolDirectory, PoolSpec};
use crate::segment::Access;
use message::{Reply, Request};
use nix::cmsg_space;
use nix::errno::Errno;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, getsockopt, recvmsg, sendmsg};
use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Descriptors in one hand-over: the memory and a DMA-BUF for each of 64 slots.
const MAX_FDS: usize = 65;
/// Most descriptors that one message can bring on Linux (SCM_MAX_FD). With room for them all none is
/// installed here unseen, whatever the peer sends.
const MOST_FDS_A_MESSAGE: usize = 253;
/// A peer that says nothing for so long is dead or hostile; the hand-over itself takes microseconds.
const PATIENCE: Duration = Duration::from_millis(500);

/// The socket of a kernel in the instance's runtime directory.
pub fn socket_path(runtime_dir: &Path, kernel: &str) -> PathBuf {
    runtime_dir.join(format!("{kernel}.fd"))
}

/// Serves the pools of `directory` until the process ends.
///
/// # Errors
/// [`ObjectError::System`] when the socket cannot be bound.
pub fn serve(runtime_dir: &Path, kernel: &str, directory: Arc<PoolDirectory>) -> Result<(), ObjectError> {
    let path = socket_path(runtime_dir, kernel);
    let failed = |what| {
        let name = path.display().to_string();
        move |error: std::io::Error| ObjectError::System {
            what,
            name,
            errno: Errno::from_raw(error.raw_os_error().unwrap_or(0)),
        }
    };
    // What a dead predecessor left: this process holds the kernel's lease, so the path is its own.
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).map_err(failed("bind"))?;
    std::thread::Builder::new()
        .name("fd-server".to_owned())
        .spawn(move || {
            for stream in listener.incoming().flatten() {
                // A peer that breaks the protocol loses its connection and nothing else.
                let _ = answer(&stream, &directory);
            }
        })
        .map_err(failed("spawn"))?;
    Ok(())
}

fn same_user(stream: &UnixStream) -> bool {
    getsockopt(stream, PeerCredentials).is_ok_and(|peer| peer.uid() == nix::unistd::geteuid().as_raw())
}

fn answer(stream: &UnixStream, directory: &PoolDirectory) -> Result<(), ObjectError> {
    let name = "the fd socket";
    let broke = |why: String| ObjectError::Peer { name: name.to_owned(), why };
    if !same_user(stream) {
        return Err(broke("it belongs to another user".to_owned()));
    }
    let io = |error: std::io::Error| broke(error.to_string());
    stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(io)?;
    let request: Request = message::read(&mut &*stream).map_err(broke)?;
    match directory.find(request.ring_uid, request.generation) {
        None => {
            let bytes = message::encode(&Reply::Unknown).map_err(broke)?;
            (&*stream).write_all(&bytes).map_err(io)
        }
        Some(pool) => {
            crate::crash::crash_point!((), "fd hand-over: before the descriptors leave");
            let bytes = message::encode(&Reply::describe(pool.spec())).map_err(broke)?;
            let fds: Vec<RawFd> = pool.fds().iter().map(AsRawFd::as_raw_fd).collect();
            let rights = [ControlMessage::ScmRights(&fds)];
            let io = [IoSlice::new(&bytes)];
            // A socket with a timeout is interrupted by every signal, whatever its handler says (signal(7)).
            while let Err(errno) = sendmsg::<()>(stream.as_raw_fd(), &io, &rights, MsgFlags::MSG_NOSIGNAL, None) {
                if errno != Errno::EINTR {
                    return Err(broke(errno.to_string()));
                }
            }
            crate::crash::crash_point!((), "fd hand-over: done");
            Ok(())
        }
    }
}

/// Asks the kernel behind `socket` for a pool. `Ok(None)`: it does not have it.
///
/// # Errors
/// [`ObjectError::Missing`] when nobody listens, [`ObjectError::Peer`] when the answer breaks the protocol
/// or is not what `expected` says.
pub fn request(socket: &Path, expected: &PoolSpec, access: Access) -> Result<Option<Pool>, ObjectError> {
    let name = socket.display().to_string();
    let broke = |why: String| ObjectError::Peer { name: name.clone(), why };
    let stream = UnixStream::connect(socket).map_err(|_| ObjectError::Missing { name: name.clone() })?;
    if !same_user(&stream) {
        return Err(broke("it belongs to another user".to_owned()));
    }
    let io = |error: std::io::Error| broke(error.to_string());
    stream.set_read_timeout(Some(PATIENCE)).map_err(io)?;
    stream.set_write_timeout(Some(PATIENCE)).map_err(io)?;
    let wanted = Request { ring_uid: expected.ring_uid, generation: expected.generation };
    crate::crash::crash_point!((), "fd hand-over: before the request");
    (&stream).write_all(&message::encode(&wanted).map_err(broke)?).map_err(io)?;
    crate::crash::crash_point!((), "fd hand-over: before the answer");
    let (bytes, fds) = receive(&stream).map_err(broke)?;
    crate::crash::crash_point!((), "fd hand-over: descriptors received");
    let reply: Reply = message::decode(&bytes).map_err(broke)?;
    match reply {
        Reply::Unknown => Ok(None),
        Reply::Pool { kind, buffers, buffer_bytes } => {
            if (kind, buffers, buffer_bytes) != (expected.kind as u64, expected.buffers, expected.buffer_bytes) {
                return Err(broke(format!(
                    "it offered {buffers} buffers of {buffer_bytes} bytes, the ring says {} of {}",
                    expected.buffers, expected.buffer_bytes
                )));
            }
            Pool::from_fds(expected.clone(), fds, access).map(Some)
        }
    }
}

/// One message and the descriptors that came with it; every descriptor is owned from the first moment.
fn receive(stream: &UnixStream) -> Result<(Vec<u8>, Vec<OwnedFd>), String> {
    let mut bytes = vec![0u8; message::MAX_BYTES];
    let mut space = cmsg_space!([RawFd; MOST_FDS_A_MESSAGE]);
    let mut fds = Vec::new();
    let len = {
        let mut iov = [IoSliceMut::new(&mut bytes)];
        let got = loop {
            match recvmsg::<()>(stream.as_raw_fd(), &mut iov, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC) {
                // As above. Nothing was received then, no descriptor either.
                Err(Errno::EINTR) => {}
                other => break other.map_err(|errno| errno.to_string())?,
            }
        };
        for message in got.cmsgs().map_err(|errno| errno.to_string())? {
            if let ControlMessageOwned::ScmRights(raw) = message {
                fds.extend(raw.into_iter().map(own));
            }
        }
        got.bytes
    };
    if fds.len() > MAX_FDS {
        return Err(format!("{} descriptors; at most {MAX_FDS} are allowed", fds.len()));
    }
    bytes.truncate(len);
    // The bytes of a stream may come in pieces; the descriptors came with the first.
    while !message::is_whole(&bytes) {
        let mut more = [0u8; 256];
        let read = match (&*stream).read(&mut more) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            other => other.map_err(|error| error.to_string())?,
        };
        if read == 0 || bytes.len() > message::MAX_BYTES {
            return Err("it ended in the middle of a message".to_owned());
        }
        bytes.extend_from_slice(&more[..read]);
    }
    Ok((bytes, fds))
}

#[expect(unsafe_code, reason = "descriptors arrive as bare integers")]
fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel just installed this descriptor for us; nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
