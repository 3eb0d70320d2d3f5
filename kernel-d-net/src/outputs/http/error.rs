//! Errors of the HTTP output.

use std::io;
use std::net::SocketAddr;

use shm_protocol::error::Recovery;
use thiserror::Error;

/// Why the output could not start.
#[derive(Debug, Error)]
pub enum HttpError {
    /// Another program listens there.
    #[error(
        "Cannot listen on {address}: the port is taken. Choose another with net.http.listen (port 0 takes a free one), or end the program that has it (`ss -ltnp 'sport = :{port}'` shows which)",
        port = address.port()
    )]
    AddressInUse {
        /// Address asked for.
        address: SocketAddr,
    },
    /// No interface has the address.
    #[error(
        "Cannot listen on {address}: this machine has no such address. Use 127.0.0.1, or 0.0.0.0 for every interface, in net.http.listen"
    )]
    AddressNotHere {
        /// Address asked for.
        address: SocketAddr,
    },
    /// The port is reserved.
    #[error(
        "Cannot listen on {address}: not permitted. Ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one in net.http.listen"
    )]
    NotPermitted {
        /// Address asked for.
        address: SocketAddr,
    },
    /// Any other reason not to listen.
    #[error("Cannot listen on {address}")]
    Listen {
        /// Address asked for.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// A token that would keep nobody out.
    #[error("net.http.token is empty; give it at least one character (better 20 random ones), or leave it out")]
    EmptyToken,
    /// No thread or event queue.
    #[error("The system gives no thread or event queue for the HTTP output")]
    Start(#[source] io::Error),
}

impl HttpError {
    pub(super) fn listen(address: SocketAddr, source: io::Error) -> HttpError {
        match source.kind() {
            io::ErrorKind::AddrInUse => HttpError::AddressInUse { address },
            io::ErrorKind::AddrNotAvailable => HttpError::AddressNotHere { address },
            io::ErrorKind::PermissionDenied => HttpError::NotPermitted { address },
            _ => HttpError::Listen { address, source },
        }
    }

    /// What the caller can do.
    pub fn recovery(&self) -> Recovery {
        match self {
            HttpError::AddressInUse { .. } | HttpError::AddressNotHere { .. } => Recovery::Fatal,
            HttpError::NotPermitted { .. } | HttpError::EmptyToken => Recovery::Fatal,
            HttpError::Listen { .. } | HttpError::Start(_) => Recovery::Restart,
        }
    }
}
