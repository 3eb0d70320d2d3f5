//! RTCP over real sockets: reports arrive one port above RTP, and feedback sent to their source is heard.

use std::{net::UdpSocket, sync::atomic::AtomicU64, time::Duration};

use kernel_d_net::{
    au::AuView,
    outputs::rtp::{
        clock::{Clock, MonotonicClock},
        feedback::KeyframeReason,
        pacer::PacerConfig,
        sender::{AccessUnit, RtpSender, SenderConfig},
        session::{Constants, SESSION_WORDS, Session},
    },
    payload::PayloadSize,
    transmit::udp::{UdpConfig, open_pair},
};
use shm_protocol::frame::Codec;

#[test]
fn a_report_follows_the_first_packet_and_a_pli_comes_back() {
    let (rtp, rtcp) = loop {
        let rtp = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = rtp.local_addr().unwrap().port();
        if let Some(rtcp) = port.checked_add(1).and_then(|port| UdpSocket::bind(("127.0.0.1", port)).ok()) {
            break (rtp, rtcp);
        }
    };
    for socket in [&rtp, &rtcp] {
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    }
    let (transmit, rtcp_socket) = open_pair(&UdpConfig::to(rtp.local_addr().unwrap())).unwrap();
    let memory: Vec<AtomicU64> = (0..SESSION_WORDS).map(|_| AtomicU64::new(0)).collect();
    let constants = Constants::random(96, transmit.port(), rtcp_socket.port(), 0).unwrap();
    let (session, resume) = Session::create_or_resume(&memory[..], constants.clone(), 1200).unwrap();
    let config = SenderConfig {
        payload_size: PayloadSize::DEFAULT,
        pacer: PacerConfig::new(true, 8000, 16_666_666),
        report_interval_ns: 1_000_000_000,
        keyframe_interval_ns: 500_000_000,
    };
    let mut clock = MonotonicClock;
    let mut sender = RtpSender::new(session, resume, transmit, Some(rtcp_socket), &config, clock.now_ns());
    let bytes = [7u8; 100];
    let now_ns = clock.now_ns();
    let au = AccessUnit { view: AuView::of(&bytes), key: (1, 0), capture_ns: now_ns, codec: Codec::Null };
    sender.send(&au, &mut clock).unwrap();

    let mut packet = [0u8; 1500];
    assert_eq!(rtp.recv(&mut packet).unwrap(), 112);
    assert_eq!(packet[12..112], bytes);
    let (len, reporter) = rtcp.recv_from(&mut packet).unwrap();
    assert!(len >= 28 && packet[1] == 200, "a sender report");
    assert_eq!(packet[4..8], constants.ssrc.to_be_bytes());
    assert_eq!(packet[20..28], [0, 0, 0, 1, 0, 0, 0, 100], "one packet, 100 octets");
    assert_eq!(reporter.port(), constants.rtcp_port);

    let mut pli = vec![0x81, 206, 0, 2, 0, 0, 0, 9];
    pli.extend(constants.ssrc.to_be_bytes());
    rtcp.send_to(&pli, reporter).unwrap();
    let until_ns = clock.now_ns() + 5_000_000_000;
    let request = loop {
        let soon_ns = clock.now_ns() + 6_000_000;
        clock.wait_until_ns(soon_ns);
        sender.poll_control(clock.now_ns());
        let request = sender.keyframe_request(clock.now_ns());
        if request.is_some() || clock.now_ns() > until_ns {
            break request;
        }
    };
    assert_eq!(request.map(|r| r.reason), Some(KeyframeReason::Pli));
}
