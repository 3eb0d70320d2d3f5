//! The wire: every datagram of kernel D is checked, timed, and passed on to the real receivers.
//!
//! A relay, so that our checks and an unmodified receiver see the same packets: what comes from D's one port leaves
//! from one port of ours, in the order of arrival, repetitions and all. That D keeps its port is checked here, since
//! the receivers behind the relay cannot see it. The relay holds packets back while a receiver has more undecoded
//! bytes than its socket's buffer takes: a decoder that this machine is too slow for is no fault of the pipeline.

use crate::continuity::{Continuity, Faults, Seen};
use anyhow::{Context as _, Result};
use nix::sys::socket::{setsockopt, sockopt};
use std::collections::VecDeque;
use std::net::UdpSocket;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A burst after a pause of seconds must not be lost here.
const BUFFER_BYTES: usize = 32 << 20;
/// Units that a receiver with as many threads as cores may hold undecoded without anything being wrong.
const HELD_UNITS: u64 = 12;

/// Way to one receiver.
#[derive(Debug)]
pub struct Outlet {
    port: u16,
    queue: Mutex<VecDeque<(u64, Arc<[u8]>)>>,
    more: Condvar,
    /// Pictures it has put out: what lets more through.
    pub decoded: AtomicU64,
}

impl Outlet {
    /// To a receiver that listens on `port`.
    pub fn new(port: u16) -> Arc<Outlet> {
        Arc::new(Outlet { port, queue: Mutex::default(), more: Condvar::new(), decoded: AtomicU64::new(0) })
    }

    fn push(&self, unit: u64, bytes: &Arc<[u8]>) {
        if let Ok(mut queue) = self.queue.lock() {
            queue.push_back((unit, Arc::clone(bytes)));
        }
        self.more.notify_one();
    }

    /// Datagrams that wait for the receiver.
    pub fn waiting(&self) -> usize {
        self.queue.lock().map_or(0, |queue| queue.len())
    }

    /// Sends until `over`, never more than `limit_bytes` ahead of what was decoded.
    fn send(&self, socket: &UdpSocket, limit_bytes: u64, over: &AtomicBool) {
        let mut sent = VecDeque::<(u64, u64)>::new();
        let mut in_flight = 0u64;
        while !over.load(Ordering::Relaxed) {
            let Ok(mut queue) = self.queue.lock() else { return };
            if queue.is_empty() {
                drop(self.more.wait_timeout(queue, Duration::from_millis(20)));
                continue;
            }
            let decoded = self.decoded.load(Ordering::Relaxed);
            while sent.front().is_some_and(|(unit, _)| *unit <= decoded) {
                in_flight -= sent.pop_front().map_or(0, |(_, bytes)| bytes);
            }
            let unit = queue.front().map_or(0, |(unit, _)| *unit);
            // Until the first picture a receiver may look at as much as it likes.
            if decoded > 0 && in_flight > limit_bytes && unit > decoded + HELD_UNITS {
                drop(queue);
                std::thread::sleep(Duration::from_millis(1));
                continue;
            }
            let Some((unit, bytes)) = queue.pop_front() else { continue };
            drop(queue);
            // Refused when the receiver is gone, which its own end tells better.
            let _ = socket.send_to(&bytes, ("127.0.0.1", self.port));
            in_flight += bytes.len() as u64;
            match sent.back_mut().filter(|(last, _)| *last == unit) {
                Some((_, sum)) => *sum += bytes.len() as u64,
                None => sent.push_back((unit, bytes.len() as u64)),
            }
        }
    }
}

/// What was seen so far.
#[derive(Debug)]
struct Heard {
    continuity: Continuity,
    /// When each access unit's last packet came.
    ends: Vec<Instant>,
    packets: u64,
    /// When faults were found first, with what was found.
    found: Vec<(Instant, String)>,
}

/// The relay. Its threads end when it is dropped.
#[derive(Debug)]
pub struct Wire {
    heard: Arc<Mutex<Heard>>,
    over: Arc<AtomicBool>,
    rtcp: UdpSocket,
    ports: Vec<u16>,
    threads: Vec<JoinHandle<()>>,
}

impl Wire {
    /// Listens on `port` (RTP) and the next (RTCP) and passes on to `outlets`.
    ///
    /// # Errors
    /// When a port is taken.
    pub fn listen(port: u16, outlets: &[Arc<Outlet>]) -> Result<Wire> {
        let rtp = UdpSocket::bind(("127.0.0.1", port)).with_context(|| format!("Cannot listen on UDP port {port}"))?;
        let rtcp = UdpSocket::bind(("127.0.0.1", port + 1))?;
        // More than the limit needs root.
        if setsockopt(&rtp, sockopt::RcvBufForce, &BUFFER_BYTES).is_err() {
            setsockopt(&rtp, sockopt::RcvBuf, &BUFFER_BYTES)?;
        }
        for socket in [&rtp, &rtcp] {
            socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        }
        let continuity = Continuity::new();
        let heard = Arc::new(Mutex::new(Heard { continuity, ends: Vec::new(), packets: 0, found: Vec::new() }));
        let over = Arc::<AtomicBool>::default();
        let mut threads = Vec::new();
        // Half of what a receiver's socket holds: the system counts more than the payload.
        let limit_bytes = receive_limit_bytes() / 4;
        for outlet in outlets {
            let (outlet, over) = (Arc::clone(outlet), Arc::clone(&over));
            let socket = UdpSocket::bind(("127.0.0.1", 0))?;
            threads.push(std::thread::spawn(move || outlet.send(&socket, limit_bytes, &over)));
        }
        let shared = (Arc::clone(&heard), Arc::clone(&over), outlets.to_vec());
        threads.push(std::thread::spawn(move || {
            let (heard, over, outlets) = shared;
            listen(&rtp, &heard, &outlets, &over);
        }));
        let ports: Vec<u16> = outlets.iter().map(|outlet| outlet.port + 1).collect();
        let (socket, to, ending) = (rtcp.try_clone()?, ports.clone(), Arc::clone(&over));
        threads.push(std::thread::spawn(move || pass_on_rtcp(&socket, &to, &ending)));
        Ok(Wire { heard, over, rtcp, ports, threads })
    }

    /// Tells the receivers in the sender's place that the stream is over (RFC 3550 section 6.6): FFmpeg puts out what
    /// its decoder still holds at that alone.
    pub fn goodbye(&self) {
        let ssrc = self.with(|heard| heard.continuity.ssrc()).unwrap_or_default().to_be_bytes();
        // An empty receiver report before it, as every compound packet begins with a report.
        let mut bytes = [0x80, 201, 0, 1, 0, 0, 0, 0, 0x81, 203, 0, 1, 0, 0, 0, 0];
        bytes[4..8].copy_from_slice(&ssrc);
        bytes[12..].copy_from_slice(&ssrc);
        for port in &self.ports {
            let _ = self.rtcp.send_to(&bytes, ("127.0.0.1", *port));
        }
    }

    fn with<T>(&self, look: impl FnOnce(&Heard) -> T) -> T {
        // A thread that panicked has said so; what it left is as good as any.
        look(&self.heard.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Access units so far.
    pub fn units(&self) -> usize {
        self.with(|heard| heard.ends.len())
    }

    /// Packets so far.
    pub fn packets(&self) -> u64 {
        self.with(|heard| heard.packets)
    }

    /// Faults so far.
    pub fn faults(&self) -> Faults {
        self.with(|heard| heard.continuity.faults)
    }

    /// When faults were found, and which.
    pub fn found(&self) -> Vec<(Instant, String)> {
        self.with(|heard| heard.found.clone())
    }

    /// When the last access unit ended.
    pub fn last(&self) -> Option<Instant> {
        self.with(|heard| heard.ends.last().copied())
    }

    /// Access units that ended after `since`.
    pub fn units_since(&self, since: Instant) -> usize {
        self.with(|heard| heard.ends.len() - heard.ends.partition_point(|end| *end <= since))
    }

    /// Longest time between the ends of two units that follow each other, of which the later one came within the
    /// span.
    pub fn longest_gap(&self, from: Instant, to: Instant) -> Duration {
        self.with(|heard| {
            let first = heard.ends.partition_point(|end| *end <= from).max(1);
            let last = heard.ends.partition_point(|end| *end <= to);
            (first..last).map(|at| heard.ends[at] - heard.ends[at - 1]).max().unwrap_or_default()
        })
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

fn listen(rtp: &UdpSocket, heard: &Mutex<Heard>, outlets: &[Arc<Outlet>], over: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while !over.load(Ordering::Relaxed) {
        let Ok((length, from)) = rtp.recv_from(&mut buffer) else { continue };
        let now = Instant::now();
        let bytes: Arc<[u8]> = buffer[..length].into();
        let Ok(mut heard) = heard.lock() else { return };
        let before = heard.continuity.faults;
        let seen = heard.continuity.add(&bytes, from);
        heard.packets += 1;
        // Counted from one: the number of the unit this packet belongs to.
        let unit = heard.ends.len() as u64 + 1;
        if seen == (Seen::New { ends: true }) {
            heard.ends.push(now);
        }
        let after = heard.continuity.faults;
        if after.total() != before.total() {
            let sequence = u16::from_be_bytes([bytes[2.min(length - 1)], bytes[3.min(length - 1)]]);
            heard.found.push((now, format!("packet {sequence} of unit {unit} from {from}: {after:?}")));
        }
        drop(heard);
        outlets.iter().for_each(|outlet| outlet.push(unit, &bytes));
    }
}

fn pass_on_rtcp(rtcp: &UdpSocket, ports: &[u16], over: &AtomicBool) {
    let mut buffer = vec![0; 1 << 16];
    while !over.load(Ordering::Relaxed) {
        let Ok((length, _)) = rtcp.recv_from(&mut buffer) else { continue };
        for port in ports {
            let _ = rtcp.send_to(&buffer[..length], ("127.0.0.1", *port));
        }
    }
}

/// What a socket of a process without privileges can hold, bytes.
fn receive_limit_bytes() -> u64 {
    const LINUX_DEFAULT: u64 = 212_992;
    let text = std::fs::read_to_string("/proc/sys/net/core/rmem_max").unwrap_or_default();
    text.trim().parse().unwrap_or(LINUX_DEFAULT)
}
