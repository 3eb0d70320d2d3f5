//! How packets leave: a trait, and its implementations.
//!
//! A [`Batch`] gathers packets out of our own headers and the access unit in shared memory; an implementation hands
//! them to the system without copying the payload in user space.

pub mod batch;
#[cfg(test)]
pub mod conformance;
pub mod outbox;
pub mod udp;

use shm_protocol::error::Recovery;
use thiserror::Error;

pub use batch::{Batch, BatchBuffer, MAX_BATCH_PACKETS};

/// What an implementation has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TransmitStats {
    /// Packets handed to the system.
    pub packets: u64,
    /// Bytes of these, RTP headers included.
    pub bytes: u64,
    /// System calls that send.
    pub syscalls: u64,
    /// Packets given up: the system refused them.
    pub drops: u64,
    /// Times the socket's buffer or the device's queue was full.
    pub blocked: u64,
    /// Times the receiver's host said that nobody listens there.
    pub refused: u64,
    /// Times the destination could not be reached.
    pub unreachable: u64,
}

/// What became of the packets of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Packets dealt with, from the first on: sent, or dropped and counted.
    pub packets: usize,
    /// The rest has to wait: the way out is full.
    pub blocked: bool,
}

/// A way out for packets.
pub trait Transmit {
    /// Sends the packets of `batch` from the first on. Packets the network refuses are dropped and counted: a stream
    /// goes on whatever happens behind the socket.
    fn send(&mut self, batch: &Batch<'_, '_>) -> Outcome;

    /// Says before [`Transmit::send`] what its batch is: `stamp` names the access unit, `first_packet` is its packet
    /// that the batch begins with. For implementations that keep note of what they sent beyond the process's end.
    fn stamp(&mut self, _stamp: u64, _first_packet: u32) {}

    /// Gives up `packets` packets that waited too long: counts them.
    fn give_up(&mut self, packets: usize);

    /// Name of the way in use: "gso", "sendmmsg", "send", …
    fn path(&self) -> &'static str;

    /// What it has done so far.
    fn stats(&self) -> TransmitStats;
}

/// A way out that cannot be opened or used.
#[derive(Debug, Error)]
pub enum TransmitError {
    /// The source port belongs to somebody else.
    #[error("Source port {port} cannot be bound on {address}; free it or start a new session")]
    Bind {
        /// Local address.
        address: std::net::IpAddr,
        /// Local port.
        port: u16,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No two neighbouring ports were free.
    #[error("No even-numbered source port with a free neighbour was found in {attempts} attempts")]
    PortPair {
        /// Attempts made.
        attempts: u32,
    },
    /// A socket option was refused.
    #[error("The socket does not take {option} = {value}")]
    Option {
        /// Name of the option.
        option: &'static str,
        /// Value asked for.
        value: i64,
        /// What the system said.
        #[source]
        source: std::io::Error,
    },
    /// No socket could be made.
    #[error("No UDP socket could be made")]
    Socket(#[source] std::io::Error),
    /// Sockets of one address family cannot send to the other.
    #[error("The stream goes to {from} and cannot change to {to}, an address of another family, without a restart")]
    AddressFamily {
        /// Destination so far.
        from: std::net::SocketAddr,
        /// Destination asked for.
        to: std::net::SocketAddr,
    },
    /// An interface that does not exist.
    #[error("Network interface {0:?} does not exist on this machine")]
    Interface(String),
    /// A setting outside its range.
    #[error("{what} = {value} is not possible: {allowed}")]
    Setting {
        /// Which setting.
        what: &'static str,
        /// Value given.
        value: u32,
        /// What is allowed.
        allowed: &'static str,
    },
}

impl TransmitError {
    /// What to do about it.
    pub fn recovery(&self) -> Recovery {
        match self {
            TransmitError::Bind { .. } | TransmitError::PortPair { .. } => Recovery::Retry,
            TransmitError::Socket(_) | TransmitError::AddressFamily { .. } => Recovery::Restart,
            TransmitError::Option { .. } | TransmitError::Interface(_) | TransmitError::Setting { .. } => {
                Recovery::Fatal
            }
        }
    }
}
