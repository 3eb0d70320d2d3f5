//! The receiving end: RTP packets on a UDP socket, each with the time the system took it in.

use anyhow::{Context, Result};
use nix::sys::socket::sockopt::{RcvBuf, RcvBufForce, ReceiveTimestampns};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt};
use shm_protocol::clock::{monotonic_ns, realtime_offset_ns};
use std::collections::BTreeSet;
use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// The last packet of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameEnd {
    /// CLOCK_MONOTONIC when the system took it in, ns.
    pub at_ns: u64,
    /// Its RTP timestamp.
    pub timestamp: u32,
}

/// What has arrived.
#[derive(Debug, Clone, Default)]
pub struct Arrived {
    /// CLOCK_MONOTONIC of the first packet, ns.
    pub first_ns: Option<u64>,
    /// Frames, by their last packets.
    pub frames: Vec<FrameEnd>,
    /// Packets.
    pub packets: u64,
    /// Sequence numbers that never came.
    pub gaps: u64,
    /// Packets that came again under their numbers.
    pub repeated: u64,
    /// Times that the stream began anew: another source (SSRC), or numbers without any relation to those before.
    pub breaks: u64,
}

/// A thread that receives until it is asked for what came.
pub struct Receiver {
    port: u16,
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Arrived>,
    frames: Arc<std::sync::atomic::AtomicU64>,
}

/// A frame's last packet by its RTP header (RFC 3550, 5.1): timestamp and sequence number; `marker` set.
struct Header {
    marker: bool,
    sequence: u16,
    timestamp: u32,
    ssrc: u32,
}

/// Follows the sequence numbers of one source.
#[derive(Default)]
struct Numbers {
    /// Source and the highest number, extended over the wrap-around.
    highest: Option<(u32, u64)>,
    missing: BTreeSet<u64>,
    lost: u64,
    repeated: u64,
    breaks: u64,
}

impl Numbers {
    /// Notes a packet. `false`: it was here before.
    fn note(&mut self, ssrc: u32, sequence: u16) -> bool {
        /// More than this at once is no loss but another stream: RFC 3550 A.1 (MAX_DROPOUT).
        const MAX_DROPOUT: u64 = 3000;
        let Some((known, highest)) = self.highest.filter(|(known, _)| *known == ssrc) else {
            self.breaks += u64::from(self.highest.is_some());
            self.begin(ssrc, sequence);
            return true;
        };
        let step = sequence.wrapping_sub(highest as u16) as i16;
        let number = highest.wrapping_add_signed(i64::from(step));
        if step <= 0 {
            let is_late = self.missing.remove(&number);
            self.repeated += u64::from(!is_late);
            return is_late;
        }
        if number - highest > MAX_DROPOUT {
            self.breaks += 1;
            self.begin(ssrc, sequence);
            return true;
        }
        self.missing.extend(highest + 1..number);
        self.highest = Some((known, number));
        true
    }

    fn begin(&mut self, ssrc: u32, sequence: u16) {
        self.lost += std::mem::take(&mut self.missing).len() as u64;
        // One turn ahead, so that a packet from before the first has a number too.
        self.highest = Some((ssrc, u64::from(sequence) + (1 << 16)));
    }
}

fn header(packet: &[u8]) -> Option<Header> {
    let head = packet.first_chunk::<12>()?;
    // Version 2; payload types 64 to 95 would be RTCP (RFC 5761).
    if head[0] >> 6 != 2 || (64..=95).contains(&(head[1] & 0x7f)) {
        return None;
    }
    Some(Header {
        marker: head[1] & 0x80 != 0,
        sequence: u16::from_be_bytes([head[2], head[3]]),
        timestamp: u32::from_be_bytes([head[4], head[5], head[6], head[7]]),
        ssrc: u32::from_be_bytes([head[8], head[9], head[10], head[11]]),
    })
}

impl Receiver {
    /// Listens on a free port of the loopback interface.
    ///
    /// # Errors
    /// When there is none.
    pub fn start() -> Result<Receiver> {
        let socket = UdpSocket::bind("127.0.0.1:0").context("A UDP port")?;
        let port = socket.local_addr()?.port();
        // An IDR of a fast encoder must fit while this thread waits for its core.
        const BUFFER_BYTES: usize = 16 << 20;
        if setsockopt(&socket, RcvBufForce, &BUFFER_BYTES).is_err() {
            let _ = setsockopt(&socket, RcvBuf, &BUFFER_BYTES);
        }
        setsockopt(&socket, ReceiveTimestampns, &true).context("Receive timestamps")?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let frames = Arc::<std::sync::atomic::AtomicU64>::default();
        let (ends, counted) = (Arc::clone(&stop), Arc::clone(&frames));
        let thread =
            std::thread::Builder::new().name("wire".to_owned()).spawn(move || receive(&socket, &ends, &counted))?;
        Ok(Receiver { port, stop, thread, frames })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Frames so far.
    pub fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    /// Waits until `count` frames are there. `false`: not within `limit`.
    pub fn wait_for(&self, count: u64, limit: Duration) -> bool {
        let until = monotonic_ns() + limit.as_nanos() as u64;
        while self.frames() < count {
            if monotonic_ns() > until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Ends it.
    pub fn stop(self) -> Arrived {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

fn receive(socket: &UdpSocket, stop: &AtomicBool, frames: &std::sync::atomic::AtomicU64) -> Arrived {
    // The time of taking in is CLOCK_REALTIME; it stays as far from CLOCK_MONOTONIC as it is now.
    let offset_ns = realtime_offset_ns();
    let mut arrived = Arrived::default();
    let mut numbers = Numbers::default();
    let mut bytes = [0u8; 2048];
    let mut control = nix::cmsg_space!(nix::sys::time::TimeSpec);
    while !stop.load(Ordering::Relaxed) {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let Ok(message) = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::empty()) else {
            continue;
        };
        let stamp = message.cmsgs().ok().and_then(|mut all| {
            all.find_map(|c| match c {
                ControlMessageOwned::ScmTimestampns(t) => Some(t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64),
                _ => None,
            })
        });
        let at_ns = stamp.map_or_else(monotonic_ns, |t| t.wrapping_sub(offset_ns));
        let len = message.bytes;
        let Some(header) = header(&bytes[..len]) else { continue };
        arrived.first_ns.get_or_insert(at_ns);
        arrived.packets += 1;
        let is_new = numbers.note(header.ssrc, header.sequence);
        if header.marker && is_new {
            arrived.frames.push(FrameEnd { at_ns, timestamp: header.timestamp });
            frames.fetch_add(1, Ordering::Relaxed);
        }
    }
    arrived.gaps = numbers.lost + numbers.missing.len() as u64;
    (arrived.repeated, arrived.breaks) = (numbers.repeated, numbers.breaks);
    arrived
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_that_comes_again_is_no_frame_and_one_that_comes_late_is_no_gap() {
        let mut numbers = Numbers::default();
        let new: Vec<bool> = [65534, 65535, 1, 0, 65535, 2].map(|n| numbers.note(7, n)).to_vec();
        assert_eq!(new, [true, true, true, true, false, true]);
        assert_eq!((numbers.missing.len(), numbers.repeated, numbers.breaks), (0, 1, 0));
        assert!(numbers.note(8, 40000) && numbers.note(8, 40002));
        assert_eq!((numbers.missing.len(), numbers.breaks), (1, 1));
        assert!(numbers.note(8, 50000));
        assert_eq!((numbers.missing.len(), numbers.lost, numbers.breaks), (0, 1, 2));
    }

    #[test]
    fn frames_end_at_markers_and_gaps_are_counted() {
        let receiver = Receiver::start().unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let send = |marker: bool, sequence: u16, timestamp: u32| {
            let mut packet = vec![0x80, 96 | u8::from(marker) << 7];
            packet.extend(sequence.to_be_bytes());
            packet.extend(timestamp.to_be_bytes());
            packet.extend([0; 8]);
            socket.send_to(&packet, ("127.0.0.1", receiver.port())).unwrap();
        };
        let before_ns = monotonic_ns();
        send(false, u16::MAX, 10);
        send(true, 0, 10);
        send(true, 3, 1510);
        socket.send_to(&[0x80, 200, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0], ("127.0.0.1", receiver.port())).unwrap();
        assert!(receiver.wait_for(2, Duration::from_secs(5)));
        let arrived = receiver.stop();
        assert_eq!((arrived.packets, arrived.gaps, arrived.frames.len()), (3, 2, 2), "{arrived:?}");
        assert_eq!(arrived.frames[1].timestamp, 1510);
        let first_ns = arrived.first_ns.unwrap();
        // Two clocks, read one after the other: a millisecond is far more than they can differ.
        assert!(first_ns + 1_000_000 > before_ns && first_ns < monotonic_ns() + 1_000_000);
    }
}
