use super::*;
use proptest::prelude::*;
use rtcp_types::ReceiverReport;

const SSRC: u32 = 0xcafe_f00d;
const SECOND_NS: u64 = 1_000_000_000;

fn constants() -> Constants {
    Constants {
        ssrc: SSRC,
        ts_offset: 1000,
        first_index: 1,
        payload_type: 96,
        source_port: 2,
        rtcp_port: 3,
        cname: "0123456789abcdef".into(),
        key_reference: 0,
        real_minus_monotonic_ns: 1_700_000_000 * SECOND_NS as i64,
    }
}

fn bytes(packet: &dyn rtcp_types::RtcpPacketWriter) -> Vec<u8> {
    let mut out = vec![0; packet.calculate_size().unwrap()];
    packet.write_into_unchecked(&mut out);
    out
}

#[test]
fn ntp_time_has_its_epoch_in_1900_and_a_binary_fraction() {
    assert_eq!(ntp_time(0, 0), 2_208_988_800 << 32);
    assert_eq!(ntp_time(1_500_000_000, 0), 2_208_988_801 << 32 | 1 << 31);
    assert_eq!(ntp_time(0, -500_000_000), 2_208_988_799 << 32 | 1 << 31);
    assert_eq!(ntp_time(2_085_978_496 * SECOND_NS, 0), 0, "the era of 2036 begins at 0");
}

#[test]
fn a_report_maps_time_counts_packets_and_names_the_source() {
    let mut rtcp = Rtcp::new(SECOND_NS);
    let mut buffer = [0u8; MAX_REPORT_BYTES];
    let totals = Totals { packets: 5, octets: (1 << 32) + 9, burned: 0 };
    assert_eq!(rtcp.poll_report(&mut buffer, &constants(), Totals::default(), 0), 0, "nothing before the first packet");
    let len = rtcp.poll_report(&mut buffer, &constants(), totals, 2 * SECOND_NS);
    let packets: Vec<_> = Compound::parse(&buffer[..len]).unwrap().map(Result::unwrap).collect();
    let Packet::Sr(report) = &packets[0] else { panic!("{packets:?}") };
    assert_eq!((report.ssrc(), report.packet_count(), report.octet_count()), (SSRC, 5, 9));
    assert_eq!(report.rtp_timestamp(), 1000 + 180_000);
    assert_eq!(report.ntp_timestamp() >> 32, 1_700_000_002 + 2_208_988_800);
    let Packet::Sdes(sdes) = &packets[1] else { panic!("{packets:?}") };
    let chunk = sdes.chunks().next().unwrap();
    assert_eq!((chunk.ssrc(), chunk.items().next().unwrap().value()), (SSRC, "0123456789abcdef".as_bytes()));

    assert_eq!(rtcp.poll_report(&mut buffer, &constants(), totals, 3 * SECOND_NS - 1), 0);
    assert!(rtcp.poll_report(&mut buffer, &constants(), totals, 3 * SECOND_NS) > 0);
    assert_eq!(rtcp.stats().reports_sent, 2);
}

#[test]
fn the_longest_cname_fits_the_buffer() {
    let long = Constants { cname: "x".repeat(32), ..constants() };
    assert!(write_sender_report(&mut [0; MAX_REPORT_BYTES], &long, Totals::default(), 0) > 60);
    assert_eq!(write_sender_report(&mut [0; 20], &long, Totals::default(), 0), 0);
}

#[test]
fn a_receiver_report_gives_loss_jitter_and_round_trip() {
    let c = constants();
    let sent = (ntp_time(10 * SECOND_NS, c.real_minus_monotonic_ns) >> 16) as u32;
    let block = |ssrc| {
        ReportBlock::builder(ssrc)
            .fraction_lost(64)
            .cumulative_lost(0x00ff_fffe)
            .extended_sequence_number(0x0001_0002)
            .interarrival_jitter(90)
            .last_sender_report_timestamp(sent)
            .delay_since_last_sender_report_timestamp(65_536)
    };
    let report = bytes(&ReceiverReport::builder(77).add_report_block(block(SSRC)).add_report_block(block(1)));
    let mut rtcp = Rtcp::new(SECOND_NS);
    let mut gate = KeyframeGate::new(0);
    rtcp.receive(&report, &c, 11 * SECOND_NS + 250_000_000, &mut gate);
    let [receiver] = rtcp.receivers() else { panic!("{:?}", rtcp.receivers()) };
    assert_eq!((receiver.ssrc, receiver.fraction_lost, receiver.cumulative_lost), (77, 64, -2));
    assert_eq!((receiver.highest_sequence, receiver.jitter_us), (0x0001_0002, 1000));
    assert!(receiver.round_trip_us.is_some_and(|us| us.abs_diff(250_000) < 50), "{receiver:?}");
    assert_eq!(rtcp.stats().report_blocks, 1);

    let early = 10 * SECOND_NS; // before the answer can be there
    rtcp.receive(&report, &c, early, &mut gate);
    assert_eq!(rtcp.receivers()[0].round_trip_us, None);
}

#[test]
fn pli_and_fir_for_our_stream_ask_for_a_picture() {
    let mut rtcp = Rtcp::new(SECOND_NS);
    let mut gate = KeyframeGate::new(0);
    let pli = |media| bytes(&PayloadFeedback::builder_owned(Pli::builder()).sender_ssrc(5).media_ssrc(media));
    let fir = |ssrc, n| bytes(&PayloadFeedback::builder_owned(Fir::builder().add_ssrc(ssrc, n)).sender_ssrc(5));
    let mut asks = |packet: Vec<u8>| {
        rtcp.receive(&packet, &constants(), 1, &mut gate);
        gate.poll(1).map(|r| r.reason)
    };
    assert_eq!(asks(pli(SSRC)), Some(KeyframeReason::Pli));
    assert_eq!(asks(pli(1)), None, "another stream's");
    assert_eq!(asks(fir(SSRC, 1)), Some(KeyframeReason::Fir));
    assert_eq!(asks(fir(SSRC, 1)), None, "a repetition");
    assert_eq!(asks(fir(SSRC, 2)), Some(KeyframeReason::Fir));
    assert_eq!(asks(fir(1, 3)), None, "another stream's");
    // A real client's compound: RR first, PLI behind it.
    assert_eq!(asks([bytes(&ReceiverReport::builder(5)), pli(SSRC)].concat()), Some(KeyframeReason::Pli));
    assert_eq!((rtcp.stats().pli, rtcp.stats().fir), (2, 2));
}

#[test]
fn nacks_are_counted() {
    let mut rtcp = Rtcp::new(SECOND_NS);
    let mut gate = KeyframeGate::new(0);
    let nack = Nack::builder().add_rtp_sequence(10).add_rtp_sequence(12).add_rtp_sequence(400);
    let nack = bytes(&TransportFeedback::builder_owned(nack).sender_ssrc(5).media_ssrc(SSRC));
    rtcp.receive(&nack, &constants(), 1, &mut gate);
    assert_eq!((rtcp.stats().nacked_packets, gate.poll(1)), (3, None));
}

#[test]
fn many_receivers_take_bounded_memory() {
    let mut rtcp = Rtcp::new(SECOND_NS);
    let mut gate = KeyframeGate::new(0);
    for receiver in 0..1000u32 {
        let report = ReceiverReport::builder(receiver).add_report_block(ReportBlock::builder(SSRC));
        rtcp.receive(&bytes(&report), &constants(), u64::from(receiver), &mut gate);
    }
    assert_eq!(rtcp.receivers().len(), MAX_RECEIVERS);
    assert!(rtcp.receivers().iter().all(|r| r.ssrc >= 1000 - MAX_RECEIVERS as u32));
}

/// Bytes that look like RTCP at the front, so that the parser gets far.
fn nearly_rtcp() -> impl Strategy<Value = Vec<u8>> {
    let packet = (0u8..64, 199u8..209, proptest::collection::vec(any::<u8>(), 0..48)).prop_map(|(low, kind, body)| {
        let mut body = body;
        body.truncate(body.len() / 4 * 4);
        let mut packet = vec![0x80 | low, kind, 0, (body.len() / 4) as u8];
        packet.extend(body);
        packet
    });
    proptest::collection::vec(packet, 1..4).prop_map(|packets| packets.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]
    #[test]
    fn garbage_never_panics(
        datagram in prop_oneof![proptest::collection::vec(any::<u8>(), 0..200), nearly_rtcp()],
        now_ns in any::<u64>(),
    ) {
        let mut rtcp = Rtcp::new(SECOND_NS);
        let mut gate = KeyframeGate::new(0);
        rtcp.receive(&datagram, &constants(), now_ns, &mut gate);
        prop_assert!(rtcp.receivers().len() <= MAX_RECEIVERS);
    }
}
