//! UDP sockets: segmented sends (UDP_SEGMENT) where the system has them, sendmmsg or sendmsg otherwise.

mod options;
mod send;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};

use tracing::{info, warn};

use super::outbox::Outbox;
use super::{Batch, Outcome, Transmit, TransmitError, TransmitStats};

/// Attempts to find an even port with a free neighbour: with half the ephemeral ports taken, 64 fail in 10^-8 of cases.
const PORT_PAIR_ATTEMPTS: u32 = 64;
/// Attempts to bind a port of the session while a dying predecessor still holds it, and the pause between them: its
/// lease falls before its last socket is closed, by tens of milliseconds when it had much memory mapped.
const REBIND_ATTEMPTS: u32 = 100;
const REBIND_PAUSE: Duration = Duration::from_millis(5);

/// Which system call carries the packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum SendPath {
    /// sendmmsg of runs of equal packets, which the kernel or the device segments.
    Gso,
    /// sendmmsg of single packets.
    SendMmsg,
    /// One sendmsg per packet.
    Send,
}

/// How to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UdpConfig {
    /// Where RTP goes; RTCP goes to the port above.
    pub destination: SocketAddr,
    /// Source ports of RTP and RTCP; `None` picks a free pair.
    pub source_ports: Option<(u16, u16)>,
    /// Time to live, or hop limit; for multicast 1 (the local network) unless given.
    pub ttl: Option<u8>,
    /// Interface for multicast.
    pub interface: Option<String>,
    /// Differentiated services code point (RFC 2474), 0–63.
    pub dscp: u8,
    /// Send buffer asked for, bytes; the system may give less.
    pub send_buffer_bytes: u32,
    /// First path to try; the next ones follow when the system refuses.
    pub path: SendPath,
}

impl UdpConfig {
    /// 2 MiB: two 8K IDR frames at 60 fps and 400 Mb/s; the system's limit (net.core.wmem_max) is often below.
    pub const SEND_BUFFER_BYTES: u32 = 2 << 20;

    /// Best effort to `destination`, from a free pair of ports.
    pub fn to(destination: SocketAddr) -> UdpConfig {
        UdpConfig {
            destination,
            source_ports: None,
            ttl: None,
            interface: None,
            dscp: 0,
            send_buffer_bytes: UdpConfig::SEND_BUFFER_BYTES,
            path: SendPath::Gso,
        }
    }
}

/// The socket of RTCP: reports out, feedback in.
#[derive(Debug)]
pub struct RtcpSocket {
    socket: UdpSocket,
    destination: SocketAddr,
    port: u16,
}

impl RtcpSocket {
    /// Its own port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Reports go to the port above this RTP destination from now on; of the same address family.
    pub fn set_rtp_destination(&mut self, rtp: SocketAddr) {
        self.destination = rtcp_destination(rtp);
    }

    /// Sends one compound packet. Whether it leaves is the network's affair: RTCP is repeated anyway.
    pub fn send(&self, packet: &[u8]) -> bool {
        self.socket.send_to(packet, self.destination).is_ok()
    }

    /// Receives one datagram, if one is there.
    pub fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        self.socket.recv_from(buffer).ok().map(|(len, _)| len)
    }

    /// For waiting until feedback is there.
    pub fn socket(&self) -> &UdpSocket {
        &self.socket
    }
}

/// RTP over a connected UDP socket.
#[derive(Debug)]
pub struct UdpTransmit {
    socket: UdpSocket,
    config: UdpConfig,
    port: u16,
    connected: bool,
    unreachable: bool,
    path: SendPath,
    stats: TransmitStats,
    scratch: send::Scratch,
    outbox: Option<Outbox>,
}

/// Opens the two sockets of a stream.
///
/// A destination that cannot be reached now is no error: packets are counted as dropped until it can be.
///
/// # Errors
/// [`TransmitError`] when a port, an option or the interface cannot be had.
pub fn open_pair(config: &UdpConfig) -> Result<(UdpTransmit, RtcpSocket), TransmitError> {
    let any = match config.destination {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let (rtp, rtcp) = match config.source_ports {
        Some((rtp, rtcp)) => (rebind(any, rtp)?, rebind(any, rtcp)?),
        None => bind_pair(any)?,
    };
    let port_of = |socket: &UdpSocket| socket.local_addr().map(|a| a.port()).map_err(TransmitError::Socket);
    for socket in [&rtp, &rtcp] {
        socket.set_nonblocking(true).map_err(TransmitError::Socket)?;
        options::apply(socket.as_fd(), config)?;
    }
    let rtcp_destination = rtcp_destination(config.destination);
    let transmit = UdpTransmit {
        port: port_of(&rtp)?,
        socket: rtp,
        config: config.clone(),
        connected: false,
        unreachable: false,
        path: config.path,
        stats: TransmitStats::default(),
        scratch: send::Scratch::new(),
        outbox: None,
    };
    let rtcp = RtcpSocket { port: port_of(&rtcp)?, socket: rtcp, destination: rtcp_destination };
    Ok((transmit, rtcp))
}

/// RTCP goes to the port above RTP's (RFC 3550 section 11).
fn rtcp_destination(mut rtp: SocketAddr) -> SocketAddr {
    rtp.set_port(rtp.port().wrapping_add(1));
    rtp
}

fn bind_pair(any: IpAddr) -> Result<(UdpSocket, UdpSocket), TransmitError> {
    for _ in 0..PORT_PAIR_ATTEMPTS {
        let first = UdpSocket::bind((any, 0)).map_err(TransmitError::Socket)?;
        let port = first.local_addr().map_err(TransmitError::Socket)?.port();
        drop(first);
        // RTP is even and RTCP the odd port above it (RFC 3550 section 11). Both are bound by number: a socket that
        // was given any port would lose it on a change of destination.
        let rtp = port & !1;
        if let (Ok(rtp), Ok(rtcp)) = (UdpSocket::bind((any, rtp)), UdpSocket::bind((any, rtp + 1))) {
            return Ok((rtp, rtcp));
        }
    }
    Err(TransmitError::PortPair { attempts: PORT_PAIR_ATTEMPTS })
}

fn rebind(address: IpAddr, port: u16) -> Result<UdpSocket, TransmitError> {
    let mut attempt = 0;
    loop {
        match UdpSocket::bind((address, port)) {
            Ok(socket) => return Ok(socket),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && attempt < REBIND_ATTEMPTS => {
                attempt += 1;
                std::thread::sleep(REBIND_PAUSE);
            }
            Err(source) => return Err(TransmitError::Bind { address, port, source }),
        }
    }
}

impl UdpTransmit {
    /// Its own port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where the packets go.
    pub fn destination(&self) -> SocketAddr {
        self.config.destination
    }

    /// Sends to another address from now on (RTP only; the RTCP socket has its own).
    ///
    /// # Errors
    /// [`TransmitError::AddressFamily`], or an option that the new destination needs and does not get; then everything
    /// stays as it was.
    pub fn set_destination(&mut self, destination: SocketAddr) -> Result<(), TransmitError> {
        let from = self.config.destination;
        if from.is_ipv4() != destination.is_ipv4() {
            return Err(TransmitError::AddressFamily { from, to: destination });
        }
        let config = UdpConfig { destination, ..self.config.clone() };
        options::apply(self.socket.as_fd(), &config)?;
        // The source address chosen for the old destination may not reach the new one.
        options::disconnect(self.socket.as_fd()).map_err(TransmitError::Socket)?;
        self.config = config;
        self.connected = false;
        Ok(())
    }

    /// Has the system note what it sent in `outbox` from now on (not on the path "send", which has no such note).
    pub fn set_outbox(&mut self, outbox: Outbox) {
        self.outbox = Some(outbox);
    }

    /// Where the system notes what it sent.
    pub fn outbox(&self) -> Option<&Outbox> {
        self.outbox.as_ref()
    }

    fn connect(&mut self) -> bool {
        if !self.connected {
            match self.socket.connect(self.config.destination) {
                Ok(()) => self.connected = true,
                Err(error) => self.note_unreachable(&error),
            }
        }
        self.connected
    }

    /// Counts, and logs once until packets leave again.
    fn note_unreachable(&mut self, error: &io::Error) {
        self.stats.unreachable += 1;
        if !self.unreachable {
            self.unreachable = true;
            warn!(destination = %self.config.destination, %error, "The RTP destination cannot be reached; the stream goes on and packets are dropped until it can be");
        }
    }

    fn note_sent(&mut self) {
        if self.unreachable {
            self.unreachable = false;
            info!(destination = %self.config.destination, dropped = self.stats.drops, "The RTP destination can be reached again");
        }
    }

    fn fall_back(&mut self, to: SendPath, error: &io::Error) {
        info!(from = path_name(self.path), to = path_name(to), %error, "The system refuses this way of sending; the next one is used");
        self.path = to;
    }
}

/// Name of a path, as shown in status.
const fn path_name(path: SendPath) -> &'static str {
    match path {
        SendPath::Gso => "gso",
        SendPath::SendMmsg => "sendmmsg",
        SendPath::Send => "send",
    }
}

impl Transmit for UdpTransmit {
    fn send(&mut self, batch: &Batch<'_, '_>) -> Outcome {
        if !self.connect() {
            self.stats.drops += batch.len() as u64;
            return Outcome { packets: batch.len(), blocked: false };
        }
        self.send_connected(batch)
    }

    fn stamp(&mut self, stamp: u64, first_packet: u32) {
        if let Some(outbox) = &mut self.outbox {
            outbox.stamp(stamp, first_packet);
        }
    }

    fn give_up(&mut self, packets: usize) {
        self.stats.drops += packets as u64;
    }

    fn path(&self) -> &'static str {
        path_name(self.path)
    }

    fn stats(&self) -> TransmitStats {
        self.stats
    }
}

#[cfg(test)]
mod tests;
