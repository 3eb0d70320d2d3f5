//! What receivers and operators ask for reaches the encoder: an IDR on PLI or FIR, another bitrate.

use shm_protocol::observe::RingObserver;
use std::time::{Duration, Instant};
use system_tests::bitstream::units;
use system_tests::pipeline::{Pipeline, free_rtp_port};
use system_tests::tools::within;
use system_tests::wire::{Faults, Packet, Wire, in_order};

/// Picture loss indication (RFC 4585 section 6.3.1).
fn pli(ssrc: u32) -> Vec<u8> {
    [&[0x81, 206, 0, 2, 0, 0, 0, 1], &ssrc.to_be_bytes()[..]].concat()
}

/// Full intra request (RFC 5104 section 4.3.1).
fn fir(ssrc: u32, number: u8) -> Vec<u8> {
    [&[0x84, 206, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0], &ssrc.to_be_bytes()[..], &[number, 0, 0, 0]].concat()
}

/// A receiver report without blocks, which a compound packet must begin with (RFC 3550 section 6.1).
const EMPTY_REPORT: [u8; 8] = [0x80, 201, 0, 1, 0, 0, 0, 1];

fn started(label: &str) -> (Pipeline, Wire) {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut pipeline = Pipeline::new(label, port);
    pipeline.set("capture.fps", "60").set("encode.gop", "infinite").set("encode.backend", "openh264");
    pipeline.start_all();
    let ready = within(Duration::from_secs(20), || wire.units() >= 60 && wire.knows_sender());
    assert!(ready, "{}", pipeline.logs());
    (pipeline, wire)
}

fn idrs(packets: &[Packet]) -> Vec<usize> {
    let (ordered, faults) = in_order(packets);
    assert_eq!(faults, Faults::default());
    units(&ordered).iter().enumerate().filter(|(_, unit)| unit.is_idr()).map(|(index, _)| index).collect()
}

#[test]
fn a_lost_picture_is_answered_by_an_idr_and_many_requests_by_few() {
    let (mut pipeline, wire) = started("pli");
    let ssrc = wire.packets()[0].ssrc;
    assert_eq!(idrs(&wire.packets()), [0], "One at the beginning and no more: the GOP is infinite");

    let asked_at = wire.units();
    wire.send_rtcp(&[&EMPTY_REPORT[..], &pli(ssrc)].concat());
    assert!(within(Duration::from_secs(5), || idrs(&wire.packets()).len() == 2), "{}", pipeline.logs());
    let served = idrs(&wire.packets())[1];
    println!("PLI after frame {asked_at}, IDR is frame {served}");
    assert!(served <= asked_at + 15, "asked after frame {asked_at}, served at {served}");

    // The gate passes two a second: what a hundred receivers ask for at once is one or two IDRs.
    let settled = wire.units() + 60;
    assert!(within(Duration::from_secs(5), || wire.units() >= settled));
    let (before, since) = (idrs(&wire.packets()).len(), Instant::now());
    for number in 0..100 {
        let request = if number % 2 == 0 { pli(ssrc) } else { fir(ssrc, number) };
        wire.send_rtcp(&[&EMPTY_REPORT[..], &request].concat());
        std::thread::sleep(Duration::from_millis(10));
    }
    let flood = since.elapsed();
    assert!(within(Duration::from_secs(5), || since.elapsed() > flood + Duration::from_secs(1)));
    let answered = idrs(&wire.packets()).len() - before;
    let most = 2 * (flood.as_secs_f64() + 1.0).ceil() as usize;
    println!("100 requests in {flood:?}: {answered} IDRs");
    assert!((1..=most).contains(&answered), "{answered} IDRs for 100 requests in {flood:?}");

    // Another source's loss is nothing to us.
    let settled = wire.units() + 60;
    assert!(within(Duration::from_secs(5), || wire.units() >= settled));
    let before = idrs(&wire.packets()).len();
    wire.send_rtcp(&[&EMPTY_REPORT[..], &pli(ssrc ^ 1)].concat());
    let settled = wire.units() + 60;
    assert!(within(Duration::from_secs(5), || wire.units() >= settled));
    assert_eq!(idrs(&wire.packets()).len(), before);
    pipeline.stop();
}

#[test]
fn a_bitrate_asked_for_while_the_stream_goes_on_is_followed() {
    let (mut pipeline, wire) = started("bitrate");
    let rate = |from: usize, to: usize| {
        let packets = wire.packets();
        let made = units(&in_order(&packets).0);
        let bytes: usize = made[from..to].iter().map(|unit| unit.annex_b().len()).sum();
        bytes as f64 * 8.0 * 60.0 / (to - from) as f64 / 1000.0
    };
    let ring = RingObserver::open(pipeline.instance(), "encode.main").unwrap();
    // The pattern is easy: at the finest quantiser it takes some 600 kbit/s, which the default asks for in vain.
    for kbps in [400, 150] {
        let serial = ring.requester().request_bitrate_kbps(kbps);
        assert!(within(Duration::from_secs(2), || ring.requester().bitrate_followed(serial)), "{}", pipeline.logs());
        // A second for the rate control to settle, two to measure.
        let from = wire.units() + 60;
        assert!(within(Duration::from_secs(20), || wire.units() >= from + 120));
        let measured = rate(from, from + 120);
        println!("asked for {kbps} kbit/s: {measured:.0}");
        assert!((0.5..1.3).contains(&(measured / f64::from(kbps))), "{measured:.0} kbit/s for {kbps}");
        let target = &pipeline.status().unwrap()["kernels"]["encode"]["counters"];
        assert!(target.to_string().contains(&kbps.to_string()), "{target}");
    }
    assert_eq!(idrs(&wire.packets()), [0], "No IDR for the sake of a bitrate");
    drop(ring);
    pipeline.stop();
}
