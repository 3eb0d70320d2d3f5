//! A plain UDP socket that keeps every RTP packet of a stream and what RTCP says beside it.

use nix::sys::socket::{setsockopt, sockopt};
use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// One RTP packet (RFC 3550 section 5.1).
#[derive(Debug, Clone)]
pub struct Packet {
    /// When it was read.
    pub at: Instant,
    /// Sequence number.
    pub sequence: u16,
    /// RTP timestamp, 90 kHz.
    pub timestamp: u32,
    /// Source.
    pub ssrc: u32,
    /// Payload type.
    pub payload_type: u8,
    /// Last packet of an access unit.
    pub marker: bool,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// A sender report (RFC 3550 section 6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderReport {
    /// When it was read.
    pub at: Instant,
    /// Source.
    pub ssrc: u32,
    /// NTP time, 32.32 seconds since 1900.
    pub ntp: u64,
    /// RTP time of the same moment.
    pub rtp_timestamp: u32,
    /// Packets sent.
    pub packets: u32,
    /// Payload bytes sent.
    pub octets: u32,
}

#[derive(Debug, Default)]
struct Heard {
    packets: Vec<Packet>,
    reports: Vec<SenderReport>,
    byes: usize,
    rtcp_from: Option<SocketAddr>,
    malformed: usize,
}

/// The receiver. Two threads read until it is dropped.
#[derive(Debug)]
pub struct Wire {
    heard: Arc<Mutex<Heard>>,
    over: Arc<AtomicBool>,
    rtcp: UdpSocket,
    threads: Vec<JoinHandle<()>>,
}

fn be16(bytes: &[u8]) -> u16 {
    u16::from_be_bytes([bytes[0], bytes[1]])
}

fn be32(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

fn parse_rtp(bytes: &[u8]) -> Option<Packet> {
    if bytes.len() < 12 || bytes[0] >> 6 != 2 {
        return None;
    }
    let header = 12 + 4 * usize::from(bytes[0] & 15);
    (bytes[0] & 0x30 == 0 && bytes.len() >= header).then(|| Packet {
        at: Instant::now(),
        sequence: be16(&bytes[2..]),
        timestamp: be32(&bytes[4..]),
        ssrc: be32(&bytes[8..]),
        payload_type: bytes[1] & 127,
        marker: bytes[1] & 128 != 0,
        payload: bytes[header..].to_vec(),
    })
}

/// Reads a compound packet. `None`: it is none.
fn read_rtcp(mut bytes: &[u8], heard: &mut Heard) -> Option<()> {
    while !bytes.is_empty() {
        if bytes.len() < 4 || bytes[0] >> 6 != 2 {
            return None;
        }
        let length = 4 * (usize::from(be16(&bytes[2..])) + 1);
        let packet = bytes.get(..length)?;
        match packet[1] {
            200 if length >= 28 => heard.reports.push(SenderReport {
                at: Instant::now(),
                ssrc: be32(&packet[4..]),
                ntp: u64::from(be32(&packet[8..])) << 32 | u64::from(be32(&packet[12..])),
                rtp_timestamp: be32(&packet[16..]),
                packets: be32(&packet[20..]),
                octets: be32(&packet[24..]),
            }),
            200 => return None,
            203 => heard.byes += 1,
            _ => {}
        }
        bytes = &bytes[length..];
    }
    Some(())
}

impl Wire {
    /// Listens on `port` (RTP) and the next one (RTCP).
    pub fn listen(port: u16) -> Wire {
        let rtp = UdpSocket::bind(("127.0.0.1", port)).unwrap();
        let rtcp = UdpSocket::bind(("127.0.0.1", port + 1)).unwrap();
        // A burst of IDR packets must not be lost here while the machine is busy; more than the limit needs root.
        const BUFFER_BYTES: usize = 16 << 20;
        if setsockopt(&rtp, sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
            setsockopt(&rtp, sockopt::RcvBuf, &BUFFER_BYTES).unwrap();
        }
        let heard = Arc::<Mutex<Heard>>::default();
        let over = Arc::<AtomicBool>::default();
        let threads = [(rtp, true), (rtcp.try_clone().unwrap(), false)].map(|(socket, is_rtp)| {
            socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
            let (heard, over) = (Arc::clone(&heard), Arc::clone(&over));
            std::thread::spawn(move || {
                let mut buffer = [0; 65536];
                while !over.load(Ordering::Relaxed) {
                    let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                    let bytes = &buffer[..length];
                    let mut heard = heard.lock().unwrap();
                    if is_rtp {
                        match parse_rtp(bytes) {
                            Some(packet) => heard.packets.push(packet),
                            None => heard.malformed += 1,
                        }
                    } else {
                        heard.rtcp_from = Some(from);
                        if read_rtcp(bytes, &mut heard).is_none() {
                            heard.malformed += 1;
                        }
                    }
                }
            })
        });
        Wire { heard, over, rtcp, threads: threads.into() }
    }

    /// Packets so far.
    pub fn count(&self) -> usize {
        self.heard.lock().unwrap().packets.len()
    }

    /// Access units so far: packets with the marker.
    pub fn units(&self) -> usize {
        self.heard.lock().unwrap().packets.iter().filter(|packet| packet.marker).count()
    }

    /// Every packet so far, in the order of arrival.
    pub fn packets(&self) -> Vec<Packet> {
        let heard = self.heard.lock().unwrap();
        assert_eq!(heard.malformed, 0, "Packets that are neither RTP nor RTCP");
        heard.packets.clone()
    }

    /// Every sender report so far.
    pub fn reports(&self) -> Vec<SenderReport> {
        self.heard.lock().unwrap().reports.clone()
    }

    /// Sends RTCP to where sender reports come from.
    pub fn send_rtcp(&self, bytes: &[u8]) {
        let to = self.heard.lock().unwrap().rtcp_from.expect("A report came before");
        self.rtcp.send_to(bytes, to).unwrap();
    }

    /// Whether a report came, so that [`Wire::send_rtcp`] knows where to.
    pub fn knows_sender(&self) -> bool {
        self.heard.lock().unwrap().rtcp_from.is_some()
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// What is wrong with a stream, beside what is in its pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Faults {
    /// Numbers that never came.
    pub missing: usize,
    /// Packets that came again.
    pub repeated: usize,
    /// Packets that came again with other bytes.
    pub changed: usize,
    /// Packets behind a later one that are no repetition.
    pub reordered: usize,
    /// Packets of another source or payload type than the first.
    pub foreign: usize,
    /// Access units whose timestamp does not rise.
    pub timestamps_back: usize,
}

/// Puts packets in order of their sequence numbers (extended over wrap-around), each once, and counts faults.
pub fn in_order(packets: &[Packet]) -> (Vec<&Packet>, Faults) {
    in_order_of(packets, |packet, first| (packet.ssrc, packet.payload_type) == (first.ssrc, first.payload_type))
}

/// The same of a stream whose codec changes, and with it the payload type: only another source is foreign.
pub fn in_order_of_source(packets: &[Packet]) -> (Vec<&Packet>, Faults) {
    in_order_of(packets, |packet, first| packet.ssrc == first.ssrc)
}

fn in_order_of(packets: &[Packet], same: impl Fn(&Packet, &Packet) -> bool) -> (Vec<&Packet>, Faults) {
    let mut faults = Faults::default();
    let mut ordered = BTreeMap::<u64, &Packet>::new();
    let Some(first) = packets.first() else { return (Vec::new(), faults) };
    let mut highest = u64::from(first.sequence) + (1 << 16);
    for packet in packets {
        if !same(packet, first) {
            faults.foreign += 1;
            continue;
        }
        let step = packet.sequence.wrapping_sub(highest as u16) as i16;
        let index = highest.wrapping_add_signed(i64::from(step));
        match ordered.insert(index, packet) {
            Some(before) => {
                faults.repeated += 1;
                let same = (before.timestamp, before.marker, &before.payload);
                faults.changed += usize::from(same != (packet.timestamp, packet.marker, &packet.payload));
            }
            None => faults.reordered += usize::from(index < highest),
        }
        highest = highest.max(index);
    }
    let span = ordered.keys().next_back().unwrap() - ordered.keys().next().unwrap() + 1;
    faults.missing = span as usize - ordered.len();
    let ordered: Vec<&Packet> = ordered.into_values().collect();
    for pair in ordered.windows(2) {
        let step = pair[1].timestamp.wrapping_sub(pair[0].timestamp) as i32;
        let fits = if pair[0].marker { step > 0 } else { step == 0 };
        faults.timestamps_back += usize::from(!fits);
    }
    (ordered, faults)
}

/// Longest time between the last packets of two access units that follow each other, in arrival order.
pub fn longest_gap(packets: &[Packet]) -> Duration {
    let ends: Vec<Instant> = packets.iter().filter(|packet| packet.marker).map(|packet| packet.at).collect();
    ends.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u16, timestamp: u32, marker: bool) -> Packet {
        let payload = vec![sequence as u8];
        Packet { at: Instant::now(), sequence, timestamp, ssrc: 7, payload_type: 96, marker, payload }
    }

    #[test]
    fn a_whole_stream_over_the_wrap_has_no_faults() {
        let packets = [packet(65534, 5, false), packet(65535, 5, true), packet(0, 6, true)];
        assert_eq!(in_order(&packets).1, Faults::default());
    }

    #[test]
    fn every_kind_of_fault_is_counted() {
        let mut other = packet(12, 3, true);
        other.payload = vec![0];
        let packets = [packet(10, 1, true), packet(12, 3, true), other, packet(14, 4, true), packet(13, 9, true)];
        let expected = Faults { missing: 1, repeated: 1, changed: 1, reordered: 1, foreign: 0, timestamps_back: 1 };
        assert_eq!(in_order(&packets).1, expected);
    }
}
