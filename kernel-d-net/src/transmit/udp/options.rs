//! Socket options: buffer, reach, multicast interface, priority.
#![expect(unsafe_code, reason = "setsockopt with structures that nix has no wrapper for")]

use std::{
    io,
    net::SocketAddr,
    os::fd::{AsRawFd, BorrowedFd},
};

use crate::transmit::TransmitError;

use super::UdpConfig;

/// Largest differentiated services code point: six bits (RFC 2474).
const MAX_DSCP: u8 = 63;
/// Multicast stays on the local network unless asked otherwise (RFC 1112's default).
const DEFAULT_MULTICAST_TTL: u8 = 1;

/// Applies everything `config` asks for.
pub fn apply(fd: BorrowedFd<'_>, config: &UdpConfig) -> Result<(), TransmitError> {
    let v4 = config.destination.is_ipv4();
    let buffer = i32::try_from(config.send_buffer_bytes).unwrap_or(i32::MAX);
    set_int(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, buffer, "SO_SNDBUF")?;
    if config.dscp > MAX_DSCP {
        let (what, value) = ("DSCP", u32::from(config.dscp));
        return Err(TransmitError::Setting { what, value, allowed: "0 to 63" });
    }
    if config.dscp > 0 {
        let traffic_class = i32::from(config.dscp) << 2; // two ECN bits below
        if v4 {
            set_int(fd, libc::IPPROTO_IP, libc::IP_TOS, traffic_class, "IP_TOS")?;
        } else {
            set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_TCLASS, traffic_class, "IPV6_TCLASS")?;
        }
        // After IP_TOS, which sets the priority as well. Class selector = the three upper bits; 7 needs privileges.
        let priority = i32::from(config.dscp >> 3).min(6);
        set_int(fd, libc::SOL_SOCKET, libc::SO_PRIORITY, priority, "SO_PRIORITY")?;
    }
    let multicast = config.destination.ip().is_multicast();
    let ttl = i32::from(config.ttl.unwrap_or(DEFAULT_MULTICAST_TTL));
    match (v4, multicast) {
        (true, true) => set_int(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_TTL, ttl, "IP_MULTICAST_TTL")?,
        (false, true) => set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_HOPS, ttl, "IPV6_MULTICAST_HOPS")?,
        (_, false) if config.ttl.is_none() => {}
        (true, false) => set_int(fd, libc::IPPROTO_IP, libc::IP_TTL, ttl, "IP_TTL")?,
        (false, false) => set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS, ttl, "IPV6_UNICAST_HOPS")?,
    }
    match &config.interface {
        Some(name) if multicast => set_interface(fd, config.destination, name),
        _ => Ok(()),
    }
}

fn set_interface(fd: BorrowedFd<'_>, destination: SocketAddr, name: &str) -> Result<(), TransmitError> {
    let unknown = |_| TransmitError::Interface(name.to_owned());
    let index = nix::net::if_::if_nametoindex(name).map_err(unknown)? as i32;
    if destination.is_ipv6() {
        return set_int(fd, libc::IPPROTO_IPV6, libc::IPV6_MULTICAST_IF, index, "IPV6_MULTICAST_IF");
    }
    let request = libc::ip_mreqn {
        imr_multiaddr: libc::in_addr { s_addr: 0 },
        imr_address: libc::in_addr { s_addr: 0 },
        imr_ifindex: index,
    };
    set(fd, libc::IPPROTO_IP, libc::IP_MULTICAST_IF, &request).map_err(|source| TransmitError::Option {
        option: "IP_MULTICAST_IF",
        value: i64::from(index),
        source,
    })
}

pub(super) fn set_int(
    fd: BorrowedFd<'_>,
    level: i32,
    option: i32,
    value: i32,
    name: &'static str,
) -> Result<(), TransmitError> {
    set(fd, level, option, &value).map_err(|source| TransmitError::Option {
        option: name,
        value: i64::from(value),
        source,
    })
}

/// Forgets the peer, and the source address chosen for it; the port bound by number stays.
pub(super) fn disconnect(fd: BorrowedFd<'_>) -> io::Result<()> {
    let nobody = libc::sockaddr { sa_family: libc::AF_UNSPEC as libc::sa_family_t, sa_data: [0; 14] };
    // SAFETY: `nobody` is a live sockaddr of the length given, which the call only reads.
    let result =
        unsafe { libc::connect(fd.as_raw_fd(), &raw const nobody, size_of::<libc::sockaddr>() as libc::socklen_t) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn set<T: Copy>(fd: BorrowedFd<'_>, level: i32, option: i32, value: &T) -> io::Result<()> {
    // SAFETY: `value` is a live reference to a plain structure of the size given, which the call only reads.
    let result = unsafe {
        libc::setsockopt(
            fd.as_raw_fd(),
            level,
            option,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
