//! RTCP datagrams of strangers, as kernel D receives them on an open UDP port.
//!
//! Feeds: datagrams behind a one-byte length (0 means 256 bytes), received by one [`Rtcp`] in a row, with time going on.
//! Holds: no panic; every counter grows by no more than the datagram's bytes can carry (a report block has 24 bytes, a
//! feedback packet 12, a NACK entry of 4 names 17 packets); never more than 32 receivers are kept; what is not about our
//! SSRC changes nothing; an IDR request passes the gate at most once an interval.
#![no_main]

use kernel_d_net::outputs::rtp::feedback::KeyframeGate;
use kernel_d_net::outputs::rtp::rtcp::Rtcp;
use kernel_d_net::outputs::rtp::session::Constants;
use quad_fuzz::Input;

const SSRC: u32 = 0x5155_4144;
const STEP_NS: u64 = 1_000_000;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let constants = Constants {
        ssrc: SSRC,
        ts_offset: input.u32(),
        first_index: 7,
        payload_type: 96,
        source_port: 5004,
        rtcp_port: 5005,
        cname: "fuzz".to_owned(),
        key_reference: 0,
        real_minus_monotonic_ns: input.u64() as i64,
    };
    let mut now_ns = input.u64() >> 1;
    let mut rtcp = Rtcp::new(1_000_000_000);
    let mut gate = KeyframeGate::new(KeyframeGate::INTERVAL_NS);
    let mut last_passed = None;
    while !input.is_empty() {
        let count = usize::from(input.u8().wrapping_sub(1)) + 1;
        let datagram = input.take(count);
        let before = rtcp.stats();
        rtcp.receive(datagram, &constants, now_ns, &mut gate);
        let after = rtcp.stats();
        let bytes = datagram.len() as u64;
        assert!(after.report_blocks - before.report_blocks <= bytes / 24);
        assert!(after.pli - before.pli <= bytes / 12);
        assert!(after.fir - before.fir <= bytes / 12);
        assert!(after.nacked_packets - before.nacked_packets <= bytes / 4 * 17);
        assert!(after.malformed - before.malformed <= bytes / 4 + 1);
        assert!(rtcp.receivers().len() <= 32);
        if !datagram.windows(4).any(|word| word == SSRC.to_be_bytes()) {
            let about_us =
                |s: &kernel_d_net::outputs::rtp::rtcp::RtcpStats| (s.report_blocks, s.pli, s.fir, s.nacked_packets);
            assert_eq!(about_us(&before), about_us(&after), "counted without being named");
        }
        if gate.poll(now_ns).is_some() {
            if let Some(last) = last_passed {
                assert!(now_ns - last >= KeyframeGate::INTERVAL_NS, "the gate passed twice in an interval");
            }
            last_passed = Some(now_ns);
        }
        now_ns = now_ns.saturating_add(STEP_NS);
    }
});
