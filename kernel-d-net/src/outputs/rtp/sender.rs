//! Sends access units: packet plan, session, pacer, transmit and RTCP put together.
//!
//! The sender never waits by itself. [`RtpSender::step`] says when to come again; [`RtpSender::send`] drives it with a
//! [`Clock`].

use std::net::SocketAddr;

use shm_protocol::frame::Codec;
use tracing::{info, warn};

use crate::{
    au::AuView,
    payload::{PacketPlan, PayloadSize, RTP_HEADER_BYTES},
    transmit::{
        BatchBuffer, MAX_BATCH_PACKETS, Transmit,
        outbox::Outbox,
        udp::{RtcpSocket, UdpTransmit},
    },
};

use super::{
    clock::Clock,
    error::{RtpError, SessionError},
    feedback::{KeyframeGate, KeyframeReason, KeyframeRequest},
    pacer::{Pace, Pacer, PacerConfig},
    parameters::ParameterSets,
    payload_type::payload_type,
    rtcp::{MAX_REPORT_BYTES, Rtcp},
    session::{Resume, ResumePoint, Session, Words},
};

/// IP and UDP headers in front of each packet, bytes (IPv4), for the pacer's account of the wire.
const NETWORK_HEADER_BYTES: u64 = 28;
/// Time until a full socket is tried again: half the time that 32 packets take at 1 Gb/s is too fine for a timer.
const BLOCKED_RETRY_NS: u64 = 300_000;
/// A way out that stays full this long loses the batch: live video that waits longer is of no use.
const STALL_LIMIT_NS: u64 = 50_000_000;
/// Time between two looks at the RTCP socket while packets are leaving.
const CONTROL_INTERVAL_NS: u64 = 5_000_000;
/// Datagrams taken from the RTCP socket at a look: whoever floods it does not hold up the video.
const CONTROL_BURST: usize = 16;
/// Room for a received compound packet: an Ethernet frame.
const CONTROL_BUFFER_BYTES: usize = 1500;

/// An access unit to send.
#[derive(Debug, Clone, Copy)]
pub struct AccessUnit<'a> {
    /// Its bytes.
    pub view: AuView<'a>,
    /// Frame id and sub-index: strictly rising.
    pub key: (u64, u64),
    /// When the frame was captured, CLOCK_MONOTONIC, nanoseconds.
    pub capture_ns: u64,
    /// What it is coded in.
    pub codec: Codec,
}

/// How to send.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SenderConfig {
    /// Most payload bytes of a packet. In an existing session it takes effect with the next whole access unit.
    pub payload_size: PayloadSize,
    /// Pacing.
    pub pacer: PacerConfig,
    /// Time between sender reports, nanoseconds.
    pub report_interval_ns: u64,
    /// Least time between two requests for an IDR, nanoseconds.
    pub keyframe_interval_ns: u64,
}

/// What has become of an access unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SentAu {
    /// Packets this process sent of it.
    pub packets: u32,
    /// Bytes of these, RTP headers included.
    pub bytes: u64,
    /// Index of its first packet.
    pub first_index: u64,
    /// Its RTP timestamp.
    pub rtp_ts: u32,
    /// When its first packet left, CLOCK_MONOTONIC, nanoseconds.
    pub first_packet_ns: u64,
    /// When its last packet left.
    pub last_packet_ns: u64,
    /// Packets given up because the way out stayed full.
    pub dropped: u32,
}

/// What [`RtpSender::begin`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begun {
    /// Packets are to be sent: call [`RtpSender::step`] until it is done.
    Sending,
    /// It was sent completely before a restart: release it.
    AlreadyDone,
}

/// What [`RtpSender::step`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A batch left; come again at once.
    Sent,
    /// Come again at this time, CLOCK_MONOTONIC, nanoseconds.
    Wait {
        /// The time.
        until_ns: u64,
    },
    /// Everything left: release the access unit.
    Done(SentAu),
}

/// How [`RtpSender::send`] ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendEnd {
    /// Everything left: release the access unit.
    Done(SentAu),
    /// It was sent completely before a restart: release it.
    AlreadyDone,
    /// The clock said stop; do not release it.
    Stopped,
}

#[derive(Debug)]
struct InFlight {
    key: (u64, u64),
    bytes: u32,
    next: u32,
    started: bool,
    stalled_since_ns: Option<u64>,
    sent: SentAu,
}

/// The sender of one RTP stream.
#[derive(Debug)]
pub struct RtpSender<W, T> {
    session: Session<W>,
    transmit: T,
    rtcp_socket: Option<RtcpSocket>,
    rtcp: Rtcp,
    gate: KeyframeGate,
    pacer: Pacer,
    plan: PacketPlan,
    batches: BatchBuffer,
    parameters: ParameterSets,
    payload_size: PayloadSize,
    in_flight: Option<InFlight>,
    next_control_ns: u64,
    invalid_nals: u64,
}

impl<W: Words, T: Transmit> RtpSender<W, T> {
    /// A sender that goes on with `session`, found as `resume` says.
    pub fn new(
        session: Session<W>,
        resume: Resume,
        transmit: T,
        rtcp_socket: Option<RtcpSocket>,
        config: &SenderConfig,
        now_ns: u64,
    ) -> RtpSender<W, T> {
        let pacer = match resume {
            Resume::Resumed => Pacer::after_restart(config.pacer, now_ns),
            Resume::Created | Resume::Replaced { .. } => Pacer::new(config.pacer),
        };
        RtpSender {
            session,
            transmit,
            rtcp_socket,
            rtcp: Rtcp::new(config.report_interval_ns),
            gate: KeyframeGate::new(config.keyframe_interval_ns),
            pacer,
            plan: PacketPlan::new(),
            batches: BatchBuffer::new(),
            parameters: ParameterSets::default(),
            payload_size: config.payload_size,
            in_flight: None,
            next_control_ns: 0,
            invalid_nals: 0,
        }
    }

    /// Takes up `au`.
    ///
    /// # Errors
    /// [`RtpError::Payload`] when no packets can be made of it (release it, it was not begun);
    /// [`RtpError::OtherAccessUnit`] while another one is being sent.
    pub fn begin(&mut self, au: &AccessUnit<'_>, now_ns: u64) -> Result<Begun, RtpError> {
        if let Some(in_flight) = &self.in_flight {
            return Err(RtpError::OtherAccessUnit { given: au.key, begun: Some(in_flight.key) });
        }
        self.session.set_payload_bytes(self.payload_size.bytes()); // not while one is unfinished
        let size = PayloadSize::new(self.session.payload_bytes()).unwrap_or(self.payload_size);
        self.plan.make(&au.view, au.codec, size)?;
        self.invalid_nals += u64::from(self.plan.dropped_nals());
        self.parameters.learn(&au.view, au.codec, &self.plan);
        let packets = self.plan.len();
        let (first_index, next, rtp_ts) = match self.session.resume_point(au.key, self.plan.crc(), packets) {
            ResumePoint::Done => return Ok(Begun::AlreadyDone),
            ResumePoint::Continue { first_index, sent, rtp_ts } => {
                info!(key = ?au.key, sent, packets, "Going on in the middle of an access unit");
                (first_index, sent, rtp_ts)
            }
            ResumePoint::New => self.begin_session(au),
            ResumePoint::Burn { first_index, packets, sent } => {
                warn!(first_index, packets, sent, "An unfinished access unit is gone; its packet numbers are given up");
                self.gate.request(KeyframeReason::Burned);
                self.begin_session(au)
            }
        };
        if self.plan.has_idr() {
            self.gate.on_idr();
        }
        let left = u64::from(packets - next);
        let bytes = self.plan.payload_octets() - self.plan.octets_before(next);
        self.pacer.begin(now_ns, bytes + left * (u64::from(RTP_HEADER_BYTES) + NETWORK_HEADER_BYTES));
        let sent = SentAu { first_index, rtp_ts, first_packet_ns: now_ns, last_packet_ns: now_ns, ..SentAu::default() };
        self.in_flight =
            Some(InFlight { key: au.key, bytes: au.view.len(), next, started: false, stalled_since_ns: None, sent });
        Ok(Begun::Sending)
    }

    fn begin_session(&mut self, au: &AccessUnit<'_>) -> (u64, u32, u32) {
        let rtp_ts = self.session.next_timestamp(au.capture_ns);
        let octets = self.plan.payload_octets();
        (self.session.begin(au.key, self.plan.crc(), self.plan.len(), octets, rtp_ts), 0, rtp_ts)
    }

    /// Sends what may leave now.
    ///
    /// # Errors
    /// [`RtpError::OtherAccessUnit`] when `au` is not the one begun.
    pub fn step(&mut self, au: &AccessUnit<'_>, now_ns: u64) -> Result<Step, RtpError> {
        let Some(flight) = self.in_flight.as_mut() else {
            return Err(RtpError::OtherAccessUnit { given: au.key, begun: None });
        };
        if flight.key != au.key || flight.bytes != au.view.len() {
            return Err(RtpError::OtherAccessUnit { given: au.key, begun: Some(flight.key) });
        }
        let packets = self.plan.len();
        if flight.next >= packets {
            return Ok(Step::Done(self.finish(now_ns)));
        }
        let packet_bytes = self.plan.packet(flight.next).map_or(0, |p| p.payload_bytes)
            + RTP_HEADER_BYTES
            + NETWORK_HEADER_BYTES as u32;
        let count = match self.pacer.next_batch(now_ns, packets - flight.next, packet_bytes) {
            Pace::Wait { until_ns } => return Ok(Step::Wait { until_ns }),
            Pace::Send { count } => count.min(MAX_BATCH_PACKETS as u32),
        };
        let constants = self.session.constants();
        let (ssrc, payload_type) = (constants.ssrc, payload_type(constants.payload_type, au.codec));
        let mut batch = self.batches.batch(au.view);
        for index in flight.next..flight.next + count {
            let Some(packet) = self.plan.packet(index) else { break };
            let sequence = (flight.sent.first_index + u64::from(index)) as u16;
            let header = rtp_header(payload_type, packet.marker, sequence, flight.sent.rtp_ts, ssrc);
            if !batch.push(&header, &packet) {
                break;
            }
        }
        self.transmit.stamp(self.session.stamp(), flight.next);
        let outcome = self.transmit.send(&batch);
        let mut gone = outcome.packets as u32;
        let bytes: u64 = (0..outcome.packets).map(|index| batch.packet_bytes(index) as u64).sum();
        if gone > 0 {
            flight.stalled_since_ns = None;
            if !flight.started {
                flight.started = true;
                flight.sent.first_packet_ns = now_ns;
            }
            flight.sent.packets += gone;
            flight.sent.bytes += bytes;
            self.pacer.on_sent(now_ns, bytes + u64::from(gone) * NETWORK_HEADER_BYTES);
        } else {
            let since_ns = *flight.stalled_since_ns.get_or_insert(now_ns);
            if now_ns.saturating_sub(since_ns) < STALL_LIMIT_NS {
                return Ok(Step::Wait { until_ns: now_ns + BLOCKED_RETRY_NS });
            }
            // Their numbers stay theirs: receivers see a loss, and nothing else under these numbers.
            flight.stalled_since_ns = None;
            gone = count;
            flight.sent.dropped += gone;
            self.transmit.give_up(gone as usize);
        }
        flight.next += gone;
        let next = flight.next;
        self.session.progress(next);
        if next >= packets {
            return Ok(Step::Done(self.finish(now_ns)));
        }
        Ok(if outcome.blocked { Step::Wait { until_ns: now_ns + BLOCKED_RETRY_NS } } else { Step::Sent })
    }

    fn finish(&mut self, now_ns: u64) -> SentAu {
        self.session.finish();
        let mut sent = self.in_flight.take().map(|flight| flight.sent).unwrap_or_default();
        sent.last_packet_ns = now_ns;
        sent
    }

    /// Sends `au` completely, waiting with `clock`; looks at RTCP between batches.
    ///
    /// # Errors
    /// As [`Self::begin`].
    pub fn send(&mut self, au: &AccessUnit<'_>, clock: &mut dyn Clock) -> Result<SendEnd, RtpError> {
        if self.in_flight.is_none() && self.begin(au, clock.now_ns())? == Begun::AlreadyDone {
            return Ok(SendEnd::AlreadyDone);
        }
        loop {
            let now_ns = clock.now_ns();
            match self.step(au, now_ns)? {
                Step::Sent => self.poll_control(now_ns),
                Step::Wait { until_ns } => {
                    self.poll_control(now_ns);
                    if !clock.wait_until_ns(until_ns) {
                        return Ok(SendEnd::Stopped);
                    }
                }
                Step::Done(mut sent) => {
                    sent.last_packet_ns = clock.now_ns();
                    self.poll_control(sent.last_packet_ns);
                    return Ok(SendEnd::Done(sent));
                }
            }
        }
    }

    /// Takes in feedback and sends the report that is due. Cheap when called too often; call it at least every second.
    pub fn poll_control(&mut self, now_ns: u64) {
        let Some(socket) = &self.rtcp_socket else { return };
        let constants = self.session.constants();
        let mut report = [0u8; MAX_REPORT_BYTES];
        let bytes = self.rtcp.poll_report(&mut report, constants, self.session.totals(), now_ns);
        if bytes > 0 {
            socket.send(&report[..bytes]);
        }
        if now_ns < self.next_control_ns {
            return;
        }
        self.next_control_ns = now_ns.saturating_add(CONTROL_INTERVAL_NS);
        let mut datagram = [0u8; CONTROL_BUFFER_BYTES];
        for _ in 0..CONTROL_BURST {
            let Some(len) = socket.receive(&mut datagram) else { break };
            self.rtcp.receive(&datagram[..len], constants, now_ns, &mut self.gate);
        }
    }

    /// The request for an IDR that is to be passed to the encoder now, if any.
    pub fn keyframe_request(&mut self, now_ns: u64) -> Option<KeyframeRequest> {
        self.gate.poll(now_ns)
    }

    /// Asks for an IDR on another party's behalf, within the same limit.
    pub fn request_keyframe(&mut self, reason: KeyframeReason) {
        self.gate.request(reason);
    }

    /// Other pacing from the next access unit on.
    pub fn set_pacer(&mut self, config: PacerConfig) {
        self.pacer.set_config(config);
    }

    /// Another payload size from the next whole access unit on.
    pub fn set_payload_size(&mut self, size: PayloadSize) {
        self.payload_size = size;
    }

    /// The session.
    pub fn session(&self) -> &Session<W> {
        &self.session
    }

    /// Goes on with the session in other words, because the ones before were lost.
    ///
    /// # Errors
    /// As [`Session::move_to`].
    pub fn move_session(&mut self, words: W) -> Result<(), SessionError> {
        self.session.move_to(words)
    }

    /// The way out.
    pub fn transmit(&self) -> &T {
        &self.transmit
    }

    /// The way out, to redirect it.
    pub fn transmit_mut(&mut self) -> &mut T {
        &mut self.transmit
    }

    /// Reports of the receivers.
    pub fn rtcp(&self) -> &Rtcp {
        &self.rtcp
    }

    /// The socket of RTCP, for waiting on it.
    pub fn rtcp_socket(&self) -> Option<&RtcpSocket> {
        self.rtcp_socket.as_ref()
    }

    /// The parameter sets seen last, for the session description.
    pub fn parameters(&self) -> &ParameterSets {
        &self.parameters
    }

    /// Whether a backlog is being worked off after a restart.
    pub fn is_catching_up(&self) -> bool {
        self.pacer.is_catching_up()
    }

    /// NAL units left out because RTP has other uses for their types.
    pub fn invalid_nals(&self) -> u64 {
        self.invalid_nals
    }
}

impl<W: Words> RtpSender<W, UdpTransmit> {
    /// Goes on behind what `outbox` says of a predecessor's last batch, and has the system keep note there from now on.
    /// To be called before the first access unit.
    pub fn keep_outbox(&mut self, outbox: Outbox) {
        if let Some((stamp, packets)) = outbox.sent() {
            self.session.sent_by_predecessor(stamp, packets);
        }
        self.transmit.set_outbox(outbox);
    }

    /// Sends to another address of the same family from now on, within the same stream, and asks for an IDR: whoever
    /// listens there has seen nothing yet.
    ///
    /// # Errors
    /// As [`UdpTransmit::set_destination`].
    pub fn set_destination(&mut self, destination: SocketAddr) -> Result<(), RtpError> {
        self.transmit.set_destination(destination)?;
        if let Some(socket) = &mut self.rtcp_socket {
            socket.set_rtp_destination(destination);
        }
        self.gate.request(KeyframeReason::Joined);
        Ok(())
    }
}

/// The fixed header of RFC 3550 section 5.1: version 2, no padding, extension or contributing sources.
fn rtp_header(payload_type: u8, marker: bool, sequence: u16, rtp_ts: u32, ssrc: u32) -> [u8; 12] {
    let mut header = [0u8; RTP_HEADER_BYTES as usize];
    header[0] = 0x80;
    header[1] = u8::from(marker) << 7 | (payload_type & 0x7f);
    header[2..4].copy_from_slice(&sequence.to_be_bytes());
    header[4..8].copy_from_slice(&rtp_ts.to_be_bytes());
    header[8..12].copy_from_slice(&ssrc.to_be_bytes());
    header
}

#[cfg(test)]
#[path = "sender/tests.rs"]
pub(super) mod tests;

#[cfg(test)]
#[path = "sender/outbox_tests.rs"]
mod outbox_tests;
