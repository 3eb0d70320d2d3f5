//! Sockets that keep latency low.

#![expect(unsafe_code, reason = "TCP_NOTSENT_LOWAT has no safe wrapper in nix or rustix")]

use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd, AsRawFd as _};

use super::error::HttpError;

/// Bytes a socket may hold that TCP has not yet sent: an eighth of a second at 8 Mbit/s, and enough to keep the link
/// busy between two wake-ups. Without it Linux buffers up to 4 MiB, four seconds at that rate, in front of a slow
/// viewer, and the viewer's own queue would notice far too late.
const UNSENT_BYTES: libc::c_int = 128 << 10;

/// Listens on `address`. A successor may do so at once: std sets SO_REUSEADDR.
pub(super) fn listen(address: SocketAddr) -> Result<TcpListener, HttpError> {
    let listener = TcpListener::bind(address).map_err(|source| HttpError::listen(address, source))?;
    listener.set_nonblocking(true).map_err(|source| HttpError::listen(address, source))?;
    Ok(listener)
}

/// Bounds what the socket holds unsent. Only latency depends on it, so a refusal is not an error.
pub(super) fn bound_unsent_bytes(socket: impl AsFd) {
    let value = UNSENT_BYTES;
    // SAFETY: the descriptor is open while `socket` is borrowed, and the option reads exactly the `c_int` at `value`,
    // whose size is given.
    let rc = unsafe {
        libc::setsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_NOTSENT_LOWAT,
            (&raw const value).cast(),
            size_of::<libc::c_int>() as libc::socklen_t,
        )
    };
    if rc != 0 {
        tracing::debug!(error = %std::io::Error::last_os_error(), "TCP_NOTSENT_LOWAT refused");
    }
}
