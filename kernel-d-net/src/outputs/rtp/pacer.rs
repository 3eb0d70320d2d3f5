//! When packets may leave: bursts are what overflows switches and receive buffers on the way.
//!
//! Pure arithmetic on times that the caller gives. An access unit leaves at `headroom` times the stream's bit rate, or
//! faster when it would take more than a share of the frame interval; never at a rate read from a link.

/// Bits of a byte times nanoseconds of a second.
const BIT_NS: u128 = 8 * 1_000_000_000;

/// How to pace.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PacerConfig {
    /// Off: everything leaves at once.
    pub enabled: bool,
    /// The stream's bit rate: the highest configured one.
    pub bitrate_kbps: u32,
    /// Time between two frames, nanoseconds.
    pub frame_interval_ns: u64,
    /// Rate of sending over bit rate, hundredths.
    pub headroom_percent: u32,
    /// Largest share of the frame interval that one access unit may take to leave, hundredths.
    pub frame_share_percent: u32,
}

impl PacerConfig {
    /// 2.5, as WebRTC's pacer has it: ordinary frames leave in 40 % of their interval.
    pub const HEADROOM_PERCENT: u32 = 250;
    /// Half of the interval: an IDR of many times the average size is out before the next frame comes.
    pub const FRAME_SHARE_PERCENT: u32 = 50;

    /// The usual pacing of a stream.
    pub const fn new(enabled: bool, bitrate_kbps: u32, frame_interval_ns: u64) -> PacerConfig {
        PacerConfig {
            enabled,
            bitrate_kbps,
            frame_interval_ns,
            headroom_percent: PacerConfig::HEADROOM_PERCENT,
            frame_share_percent: PacerConfig::FRAME_SHARE_PERCENT,
        }
    }
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pace {
    /// Send this many packets at once.
    Send {
        /// Packets, at least 1.
        count: u32,
    },
    /// Nothing before this time.
    Wait {
        /// CLOCK_MONOTONIC, nanoseconds.
        until_ns: u64,
    },
}

/// The pacer.
#[derive(Debug)]
pub struct Pacer {
    config: PacerConfig,
    /// Rate of the access unit in hand, bits per second.
    rate_bps: u64,
    /// Earliest time of the next packet.
    next_ns: u64,
    /// While a backlog is worked off after a restart: until when at the latest.
    catch_up_until_ns: Option<u64>,
}

impl Pacer {
    /// Time that one burst lasts at the sending rate.
    const CHUNK_NS: u64 = 500_000;
    /// Packets of a burst at the least: below, a segmented send saves nothing and the timer wakes too often.
    const MIN_CHUNK_PACKETS: u32 = 8;
    /// Packets of a burst at the most, pacing on: 32 × 1.2 kB pass the shallowest switch buffers.
    const MAX_CHUNK_PACKETS: u32 = 32;
    /// Rate over bit rate while a backlog is worked off.
    const CATCH_UP_PERCENT: u64 = 150;
    /// A backlog that is not gone by then comes from a bit rate above the configured one: pace as usual.
    const CATCH_UP_LIMIT_NS: u64 = 2_000_000_000;
    /// Least rate, so that a stream of unknown bit rate flows.
    const MIN_RATE_BPS: u64 = 100_000;

    /// A pacer whose first packet may leave at once.
    pub fn new(config: PacerConfig) -> Pacer {
        let mut pacer = Pacer { config, rate_bps: 0, next_ns: 0, catch_up_until_ns: None };
        pacer.rate_bps = pacer.base_rate_bps();
        pacer
    }

    /// A pacer of a restarted process: the bucket is empty, and until the backlog is gone at most 1.5 × the bit rate
    /// leaves.
    pub fn after_restart(config: PacerConfig, now_ns: u64) -> Pacer {
        let mut pacer = Pacer::new(config);
        pacer.catch_up_until_ns = Some(now_ns.saturating_add(Pacer::CATCH_UP_LIMIT_NS));
        pacer.next_ns = now_ns.saturating_add(Pacer::CHUNK_NS);
        pacer
    }

    /// Another bit rate or frame rate from the next access unit on.
    pub fn set_config(&mut self, config: PacerConfig) {
        self.config = config;
    }

    /// Whether a backlog is being worked off.
    pub fn is_catching_up(&self) -> bool {
        self.catch_up_until_ns.is_some()
    }

    fn base_rate_bps(&self) -> u64 {
        let bitrate = u64::from(self.config.bitrate_kbps) * 1000;
        (bitrate * u64::from(self.config.headroom_percent) / 100).max(Pacer::MIN_RATE_BPS)
    }

    /// An access unit of `bytes` (on the wire) begins to leave.
    pub fn begin(&mut self, now_ns: u64, bytes: u64) {
        if let Some(until_ns) = self.catch_up_until_ns {
            // The line was idle when this one came: there is no backlog any more. In the empty bucket's first chunk
            // nothing has been sent yet.
            if now_ns >= until_ns || now_ns > self.next_ns.saturating_add(Pacer::CHUNK_NS) {
                self.catch_up_until_ns = None;
            }
        }
        if self.catch_up_until_ns.is_some() {
            let bitrate = u64::from(self.config.bitrate_kbps) * 1000;
            self.rate_bps = (bitrate * Pacer::CATCH_UP_PERCENT / 100).max(Pacer::MIN_RATE_BPS);
            return;
        }
        let share_ns = self.config.frame_interval_ns * u64::from(self.config.frame_share_percent) / 100;
        let in_share = u128::from(bytes) * BIT_NS / u128::from(share_ns.max(1));
        self.rate_bps = self.base_rate_bps().max(u64::try_from(in_share).unwrap_or(u64::MAX));
    }

    /// How many of `queued` packets of about `packet_bytes` may leave now. `queued` must not be 0.
    pub fn next_batch(&self, now_ns: u64, queued: u32, packet_bytes: u32) -> Pace {
        if !self.config.enabled {
            return Pace::Send { count: queued };
        }
        if now_ns < self.next_ns {
            return Pace::Wait { until_ns: self.next_ns };
        }
        let chunk_bytes = u128::from(self.rate_bps) * u128::from(Pacer::CHUNK_NS) / BIT_NS;
        let packets = u32::try_from(chunk_bytes / u128::from(packet_bytes.max(1))).unwrap_or(u32::MAX);
        Pace::Send { count: packets.clamp(Pacer::MIN_CHUNK_PACKETS, Pacer::MAX_CHUNK_PACKETS).min(queued) }
    }

    /// `bytes` left at `now_ns`.
    pub fn on_sent(&mut self, now_ns: u64, bytes: u64) {
        let cost_ns = u64::try_from(u128::from(bytes) * BIT_NS / u128::from(self.rate_bps.max(1))).unwrap_or(u64::MAX);
        // A timer that fired late may be made up for by one chunk, not by more: that would be a burst.
        let from_ns = self.next_ns.max(now_ns.saturating_sub(Pacer::CHUNK_NS));
        self.next_ns = from_ns.saturating_add(cost_ns);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAME_NS: u64 = 16_666_666;
    const PACKET: u32 = 1212;

    /// Sends `packets` with a timer that is `late_ns` late; returns (start, end, largest burst, waits).
    fn drain(pacer: &mut Pacer, mut now_ns: u64, packets: u32, late_ns: u64) -> (u64, u32, u32) {
        pacer.begin(now_ns, u64::from(packets) * u64::from(PACKET));
        let (mut left, mut largest, mut waits) = (packets, 0, 0);
        while left > 0 {
            match pacer.next_batch(now_ns, left, PACKET) {
                Pace::Send { count } => {
                    pacer.on_sent(now_ns, u64::from(count) * u64::from(PACKET));
                    largest = largest.max(count);
                    left -= count;
                }
                Pace::Wait { until_ns } => {
                    assert!(until_ns > now_ns);
                    now_ns = until_ns + late_ns;
                    waits += 1;
                }
            }
        }
        (now_ns, largest, waits)
    }

    #[test]
    fn pacing_off_sends_all_at_once() {
        let pacer = Pacer::new(PacerConfig::new(false, 8000, FRAME_NS));
        assert_eq!(pacer.next_batch(0, 5000, PACKET), Pace::Send { count: 5000 });
    }

    #[test]
    fn a_small_frame_leaves_at_once() {
        let mut pacer = Pacer::new(PacerConfig::new(true, 8000, FRAME_NS));
        assert_eq!(drain(&mut pacer, 1000, 8, 0), (1000, 8, 0));
    }

    #[test]
    fn a_large_idr_leaves_within_its_share_of_the_interval() {
        let mut pacer = Pacer::new(PacerConfig::new(true, 8000, FRAME_NS));
        let (end, largest, waits) = drain(&mut pacer, 0, 400, 0);
        assert!(end <= FRAME_NS / 2, "{end}");
        assert!(end >= FRAME_NS / 3, "{end}: it is spread, not sent in a burst");
        assert!(largest <= 32 && waits >= 12, "{largest} {waits}");
    }

    #[test]
    fn an_average_frame_leaves_at_headroom_times_the_bit_rate() {
        // 60 Mb/s: 1 Mbit a frame, 103 packets, 2.5 × → 6.66 ms. Bursts of 500 µs: 7.7 packets, so the least of 8.
        let mut pacer = Pacer::new(PacerConfig::new(true, 60_000, FRAME_NS));
        let (end, largest, _) = drain(&mut pacer, 0, 103, 0);
        assert!((6_000_000..6_700_000).contains(&end), "{end}");
        assert_eq!(largest, 8);
    }

    #[test]
    fn a_late_timer_is_made_up_for_without_a_burst() {
        let mut pacer = Pacer::new(PacerConfig::new(true, 60_000, FRAME_NS));
        let (end, largest, waits) = drain(&mut pacer, 0, 103, 60_000);
        assert!(end < 6_800_000, "60 µs late a dozen times adds up to nothing: {end}");
        assert_eq!((largest, waits), (8, 12));
    }

    #[test]
    fn after_a_restart_the_bucket_is_empty_and_the_backlog_leaves_at_one_and_a_half_times_the_rate() {
        let config = PacerConfig::new(true, 60_000, FRAME_NS);
        let mut pacer = Pacer::after_restart(config, 1_000_000);
        pacer.begin(1_000_000, 100_000);
        assert_eq!(pacer.next_batch(1_000_000, 103, PACKET), Pace::Wait { until_ns: 1_500_000 });
        let mut now_ns = 1_000_000;
        for _ in 0..10 {
            now_ns = drain(&mut pacer, now_ns, 103, 0).0;
        }
        // 1030 packets × 1212 × 8 bit at 90 Mb/s take 110.96 ms, less the last burst.
        assert!((109_000_000..113_000_000).contains(&now_ns), "{now_ns}");
        assert!(pacer.is_catching_up());
        pacer.begin(now_ns + FRAME_NS, 1000);
        assert!(!pacer.is_catching_up(), "the line was idle");
        assert_eq!(pacer.rate_bps, 150_000_000);
    }

    #[test]
    fn catching_up_ends_although_the_backlog_grows() {
        let mut pacer = Pacer::after_restart(PacerConfig::new(true, 100, FRAME_NS), 0);
        let mut now_ns = 0;
        for _ in 0..60 {
            now_ns = drain(&mut pacer, now_ns, 50, 0).0;
        }
        assert!(!pacer.is_catching_up(), "{now_ns}");
    }

    proptest! {
        #[test]
        fn no_number_makes_it_stall_or_panic(
            kbps in any::<u32>(), interval in any::<u64>(), now in any::<u64>(),
            bytes in any::<u64>(), queued in 1u32.., packet in any::<u32>(),
        ) {
            let interval = interval >> 8; // frames a year apart are not meant
            let mut pacer = Pacer::new(PacerConfig::new(true, kbps, interval));
            pacer.begin(now, bytes);
            match pacer.next_batch(now, queued, packet) {
                Pace::Send { count } => prop_assert!(count >= 1 && count <= queued),
                Pace::Wait { until_ns } => prop_assert!(until_ns > now),
            }
            pacer.on_sent(now, bytes);
        }
    }
}
