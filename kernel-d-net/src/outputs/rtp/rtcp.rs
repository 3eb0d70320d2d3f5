//! RTCP: sender reports with CNAME out; receiver reports, PLI, FIR and NACK in (RFC 3550, 4585, 5104).

use rtcp_types::{
    Compound, Fir, Nack, Packet, PayloadFeedback, Pli, ReportBlock, RtcpPacketWriterExt, Sdes, SdesChunk, SdesItem,
    SenderReport, TransportFeedback,
};

use super::{
    feedback::{KeyframeGate, KeyframeReason},
    session::{Constants, Totals, rtp_timestamp},
};

/// Room for the largest compound packet made here: SR 28, SDES 4 + 4 + 2 + 32 + padding.
pub const MAX_REPORT_BYTES: usize = 128;
/// Time between two reports. RFC 3550 section 6.2 asks for 5 s at the least by default and allows less where the
/// session's bandwidth does; one 80-byte packet a second is below 5 % of any video.
pub const REPORT_INTERVAL_NS: u64 = 1_000_000_000;
/// Longest interval that can be configured: receivers time a sender out after five of them.
pub const MAX_REPORT_INTERVAL_NS: u64 = 5_000_000_000;
/// Seconds from 1900 (NTP) to 1970 (Unix).
const NTP_UNIX_SECONDS: i128 = 2_208_988_800;
/// Receivers whose reports are kept: more than a multicast group's dashboard shows.
const MAX_RECEIVERS: usize = 32;
/// A round trip longer than this is a wrong clock.
const MAX_ROUND_TRIP: u32 = 60 << 16;

/// NTP time (RFC 5905) of a CLOCK_MONOTONIC time, by the offset fixed for the session.
pub fn ntp_time(monotonic_ns: u64, real_minus_monotonic_ns: i64) -> u64 {
    let real_ns = i128::from(monotonic_ns) + i128::from(real_minus_monotonic_ns);
    let seconds = real_ns.div_euclid(1_000_000_000) + NTP_UNIX_SECONDS;
    let fraction = (real_ns.rem_euclid(1_000_000_000) << 32) / 1_000_000_000;
    (seconds as u64) << 32 | fraction as u64
}

/// Writes SR + SDES into `buffer`; returns its bytes, 0 when the buffer is too small.
pub fn write_sender_report(buffer: &mut [u8], constants: &Constants, totals: Totals, now_ns: u64) -> usize {
    let report = SenderReport::builder(constants.ssrc)
        .ntp_timestamp(ntp_time(now_ns, constants.real_minus_monotonic_ns))
        .rtp_timestamp(rtp_timestamp(constants.ts_offset, now_ns))
        .packet_count(totals.packets as u32) // both counters wrap (RFC 3550 section 6.4.1)
        .octet_count(totals.octets as u32);
    let item = SdesItem::builder(SdesItem::CNAME, &constants.cname);
    let sdes = Sdes::builder().add_chunk(SdesChunk::builder(constants.ssrc).add_item(item));
    Compound::builder().add_packet(report).add_packet(sdes).write_into(buffer).unwrap_or(0)
}

/// What a receiver says about the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ReceiverStats {
    /// Its SSRC.
    pub ssrc: u32,
    /// Packets lost since its previous report, 256ths.
    pub fraction_lost: u8,
    /// Packets lost in all; negative when it got some twice.
    pub cumulative_lost: i32,
    /// Highest sequence number it got, with its count of wraps above.
    pub highest_sequence: u32,
    /// Interarrival jitter, microseconds.
    pub jitter_us: u32,
    /// Round trip, microseconds, when it could be computed.
    pub round_trip_us: Option<u32>,
    /// When the report came, CLOCK_MONOTONIC, nanoseconds.
    pub at_ns: u64,
    fir_sequence: Option<u8>,
}

/// Counters of what came in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RtcpStats {
    /// Sender reports sent.
    pub reports_sent: u64,
    /// Report blocks about our stream.
    pub report_blocks: u64,
    /// Picture loss indications.
    pub pli: u64,
    /// Full intra requests, repetitions left out.
    pub fir: u64,
    /// Packets asked for again. They are counted only: there is no retransmission stream.
    pub nacked_packets: u64,
    /// Datagrams that were no RTCP, or not all of it.
    pub malformed: u64,
}

/// The control side of one stream.
#[derive(Debug)]
pub struct Rtcp {
    interval_ns: u64,
    next_report_ns: u64,
    receivers: Vec<ReceiverStats>,
    stats: RtcpStats,
}

impl Rtcp {
    /// Reports every `interval_ns`, kept to 200 ms–[`MAX_REPORT_INTERVAL_NS`]; the first at once.
    pub fn new(interval_ns: u64) -> Rtcp {
        Rtcp {
            interval_ns: interval_ns.clamp(200_000_000, MAX_REPORT_INTERVAL_NS),
            next_report_ns: 0,
            receivers: Vec::with_capacity(MAX_RECEIVERS),
            stats: RtcpStats::default(),
        }
    }

    /// Counters.
    pub fn stats(&self) -> RtcpStats {
        self.stats
    }

    /// The latest report of every receiver.
    pub fn receivers(&self) -> &[ReceiverStats] {
        &self.receivers
    }

    /// When the next report is due, CLOCK_MONOTONIC, nanoseconds.
    pub fn next_report_ns(&self) -> u64 {
        self.next_report_ns
    }

    /// The report due now, written into `buffer`; 0 when none is. There is none before the first packet: a receiver
    /// could not tell what the timestamps belong to.
    pub fn poll_report(&mut self, buffer: &mut [u8], constants: &Constants, totals: Totals, now_ns: u64) -> usize {
        if totals.packets == 0 || now_ns < self.next_report_ns {
            return 0;
        }
        self.next_report_ns = now_ns.saturating_add(self.interval_ns);
        let bytes = write_sender_report(buffer, constants, totals, now_ns);
        self.stats.reports_sent += u64::from(bytes > 0);
        bytes
    }

    /// Takes in a datagram. Requests for pictures go to `gate`.
    pub fn receive(&mut self, datagram: &[u8], constants: &Constants, now_ns: u64, gate: &mut KeyframeGate) {
        let Ok(packets) = Compound::parse(datagram) else {
            self.stats.malformed += 1;
            return;
        };
        for packet in packets {
            match packet {
                Ok(Packet::Rr(report)) => {
                    for block in report.report_blocks() {
                        self.report_block(report.ssrc(), &block, constants, now_ns);
                    }
                }
                Ok(Packet::Sr(report)) => {
                    for block in report.report_blocks() {
                        self.report_block(report.ssrc(), &block, constants, now_ns);
                    }
                }
                Ok(Packet::PayloadFeedback(feedback)) => self.payload_feedback(&feedback, constants.ssrc, gate),
                Ok(Packet::TransportFeedback(feedback)) => self.transport_feedback(&feedback, constants.ssrc),
                Ok(_) => {}
                Err(_) => self.stats.malformed += 1,
            }
        }
    }

    fn report_block(&mut self, receiver: u32, block: &ReportBlock<'_>, constants: &Constants, now_ns: u64) {
        if block.ssrc() != constants.ssrc {
            return;
        }
        self.stats.report_blocks += 1;
        // RFC 3550 section 6.4.1: the middle 32 bits of NTP time, units of 2^-16 s.
        let now = (ntp_time(now_ns, constants.real_minus_monotonic_ns) >> 16) as u32;
        let last_report = block.last_sender_report_timestamp();
        let round_trip = now.wrapping_sub(last_report).wrapping_sub(block.delay_since_last_sender_report_timestamp());
        let known = last_report != 0 && round_trip <= MAX_ROUND_TRIP;
        // 24 bits, signed.
        let cumulative_lost = ((block.cumulative_lost() << 8) as i32) >> 8;
        let Some(entry) = self.receiver(receiver) else { return };
        *entry = ReceiverStats {
            ssrc: receiver,
            fraction_lost: block.fraction_lost(),
            cumulative_lost,
            highest_sequence: block.extended_sequence_number(),
            jitter_us: (u64::from(block.interarrival_jitter()) * 100 / 9).min(u64::from(u32::MAX)) as u32, // 90 kHz
            round_trip_us: known.then(|| ((u64::from(round_trip) * 1_000_000) >> 16) as u32),
            at_ns: now_ns,
            fir_sequence: entry.fir_sequence,
        };
    }

    /// The entry of a receiver; the one not heard of for longest makes room.
    fn receiver(&mut self, ssrc: u32) -> Option<&mut ReceiverStats> {
        let index = match self.receivers.iter().position(|r| r.ssrc == ssrc) {
            Some(index) => index,
            None => {
                if self.receivers.len() == MAX_RECEIVERS {
                    let oldest = self.receivers.iter().enumerate().min_by_key(|(_, r)| r.at_ns).map(|(i, _)| i)?;
                    self.receivers.swap_remove(oldest);
                }
                self.receivers.push(ReceiverStats { ssrc, ..ReceiverStats::default() });
                self.receivers.len() - 1
            }
        };
        self.receivers.get_mut(index)
    }

    fn payload_feedback(&mut self, feedback: &PayloadFeedback<'_>, ssrc: u32, gate: &mut KeyframeGate) {
        if feedback.media_ssrc() == ssrc && feedback.parse_fci::<Pli>().is_ok() {
            self.stats.pli += 1;
            gate.request(KeyframeReason::Pli);
        }
        if let Ok(fir) = feedback.parse_fci::<Fir>() {
            let Some(entry) = fir.entries().find(|entry| entry.ssrc() == ssrc) else { return };
            // The same number again is a repetition of the same request (RFC 5104 section 4.3.1.2).
            let Some(receiver) = self.receiver(feedback.sender_ssrc()) else { return };
            if receiver.fir_sequence.replace(entry.sequence()) != Some(entry.sequence()) {
                self.stats.fir += 1;
                gate.request(KeyframeReason::Fir);
            }
        }
    }

    fn transport_feedback(&mut self, feedback: &TransportFeedback<'_>, ssrc: u32) {
        if feedback.media_ssrc() != ssrc {
            return;
        }
        if let Ok(nack) = feedback.parse_fci::<Nack>() {
            self.stats.nacked_packets += nack.entries().count() as u64;
        }
    }
}

#[cfg(test)]
#[path = "rtcp/tests.rs"]
mod tests;
