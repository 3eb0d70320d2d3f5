use super::*;
use crate::{
    outputs::rtp::session::{Constants, SESSION_WORDS},
    transmit::{Batch, Outcome, TransmitStats},
};
use std::{cell::RefCell, rc::Rc, sync::atomic::AtomicU64};

const FRAME_NS: u64 = 16_666_666;

/// Keeps what is sent; can be full.
#[derive(Clone, Default)]
struct Wire {
    packets: Rc<RefCell<Vec<Vec<u8>>>>,
    /// Packets that still fit.
    room: Rc<RefCell<Option<usize>>>,
    given_up: Rc<RefCell<usize>>,
}

impl Transmit for Wire {
    fn send(&mut self, batch: &Batch<'_, '_>) -> Outcome {
        let mut room = self.room.borrow_mut();
        let count = room.unwrap_or(usize::MAX).min(batch.len());
        for index in 0..count {
            let mut packet = Vec::new();
            batch.copy_packet(index, &mut packet);
            self.packets.borrow_mut().push(packet);
        }
        if let Some(room) = room.as_mut() {
            *room -= count;
        }
        Outcome { packets: count, blocked: count < batch.len() }
    }
    fn give_up(&mut self, packets: usize) {
        *self.given_up.borrow_mut() += packets;
    }
    fn path(&self) -> &'static str {
        "test"
    }
    fn stats(&self) -> TransmitStats {
        TransmitStats::default()
    }
}

/// Time that passes only while waiting, and stops after some waits.
pub(in crate::outputs::rtp) struct TestClock {
    now_ns: u64,
    waits: usize,
}

impl Clock for TestClock {
    fn now_ns(&mut self) -> u64 {
        self.now_ns
    }
    fn wait_until_ns(&mut self, until_ns: u64) -> bool {
        assert!(until_ns > self.now_ns);
        self.now_ns = until_ns;
        self.waits = self.waits.saturating_sub(1);
        self.waits > 0
    }
}

pub(in crate::outputs::rtp) fn clock(now_ns: u64) -> TestClock {
    TestClock { now_ns, waits: 100_000 }
}

pub(in crate::outputs::rtp) fn config(pacing: bool) -> SenderConfig {
    SenderConfig {
        payload_size: PayloadSize::DEFAULT,
        pacer: PacerConfig::new(pacing, 8000, FRAME_NS),
        report_interval_ns: 1_000_000_000,
        keyframe_interval_ns: 500_000_000,
    }
}

pub(super) fn memory() -> Vec<AtomicU64> {
    (0..SESSION_WORDS).map(|_| AtomicU64::new(0)).collect()
}

fn sender<'a>(memory: &'a [AtomicU64], wire: &Wire, config: &SenderConfig) -> RtpSender<&'a [AtomicU64], Wire> {
    let constants = Constants {
        ssrc: 0x0102_0304,
        ts_offset: 100,
        first_index: 0xfffe,
        payload_type: 96,
        source_port: 1,
        rtcp_port: 2,
        cname: "c".into(),
        key_reference: 0,
        real_minus_monotonic_ns: 0,
    };
    let (session, resume) = Session::create_or_resume(memory, constants, config.payload_size.bytes()).unwrap();
    RtpSender::new(session, resume, wire.clone(), None, config, 0)
}

pub(in crate::outputs::rtp) fn slice(kind: u8, len: usize) -> Vec<u8> {
    let mut au = vec![0, 0, 0, 1, kind];
    au.extend((0..len).map(|i| (i % 253) as u8 | 1));
    au
}

pub(in crate::outputs::rtp) fn unit(bytes: &[u8], id: u64) -> AccessUnit<'_> {
    AccessUnit { view: AuView::of(bytes), key: (id, 0), capture_ns: id * 1_000_000_000, codec: Codec::H264 }
}

#[test]
fn headers_count_on_over_the_wrap_and_mark_the_last_packet() {
    let (memory, wire) = (memory(), Wire::default());
    let mut s = sender(&memory, &wire, &config(false));
    let (a, b) = (slice(0x65, 2000), slice(0x41, 50));
    let SendEnd::Done(sent) = s.send(&unit(&a, 1), &mut clock(5)).unwrap() else { panic!() };
    assert_eq!((sent.packets, sent.first_index, sent.rtp_ts, sent.last_packet_ns), (2, 0xfffe, 90_100, 5));
    s.send(&unit(&b, 2), &mut clock(6)).unwrap();
    let headers: Vec<Vec<u8>> = wire.packets.borrow().iter().map(|p| p[..12].to_vec()).collect();
    let header = |marker: u8, sequence: u16, ts: u32| {
        let mut h = vec![0x80, marker << 7 | 96];
        h.extend(sequence.to_be_bytes());
        h.extend(ts.to_be_bytes());
        h.extend([1, 2, 3, 4]);
        h
    };
    assert_eq!(headers, [header(0, 0xfffe, 90_100), header(1, 0xffff, 90_100), header(1, 0, 180_100)]);
    assert_eq!(wire.packets.borrow()[2][12..], b[4..]);
}

#[test]
fn frames_less_than_a_tick_apart_have_timestamps_of_their_own_also_across_a_restart() {
    let (memory, wire) = (memory(), Wire::default());
    let bytes = slice(0x41, 50);
    let mut stamps = Vec::new();
    for (id, capture_ns) in [(1, 1_000_000_000), (2, 1_000_001_000), (3, 1_000_002_000), (4, 1_016_000_000)] {
        let mut s = sender(&memory, &wire, &config(false)); // a new process each time
        let au = AccessUnit { capture_ns, ..unit(&bytes, id) };
        let SendEnd::Done(sent) = s.send(&au, &mut clock(5)).unwrap() else { panic!() };
        stamps.push(sent.rtp_ts);
    }
    assert_eq!(stamps, [90_100, 90_101, 90_102, 91_540]);
    // A silence of more than 2^31 ticks is none of that.
    let mut s = sender(&memory, &wire, &config(false));
    let later = AccessUnit { capture_ns: 1_016_000_000 + 30_000 * 1_000_000_000, ..unit(&bytes, 5) };
    let SendEnd::Done(sent) = s.send(&later, &mut clock(5)).unwrap() else { panic!() };
    assert_eq!(sent.rtp_ts, 91_540u32.wrapping_add(2_700_000_000));
}

#[test]
fn a_stopped_sender_is_continued_by_its_successor() {
    let whole = {
        let (memory, wire) = (memory(), Wire::default());
        sender(&memory, &wire, &config(true)).send(&unit(&slice(0x65, 100_000), 1), &mut clock(0)).unwrap();
        wire.packets.take()
    };
    for waits in 1..8 {
        let (memory, wire) = (memory(), Wire::default());
        let bytes = slice(0x65, 100_000);
        let au = unit(&bytes, 1);
        let mut first = sender(&memory, &wire, &config(true));
        assert_eq!(first.send(&au, &mut TestClock { now_ns: 0, waits }).unwrap(), SendEnd::Stopped);
        let before = wire.packets.borrow().len();
        assert!(before > 0 && before < whole.len());
        drop(first);
        // Another payload size must not change the packets of the access unit in hand.
        let other = SenderConfig { payload_size: PayloadSize::new(500).unwrap(), ..config(true) };
        let mut second = sender(&memory, &wire, &other);
        let SendEnd::Done(sent) = second.send(&au, &mut clock(0)).unwrap() else { panic!() };
        assert_eq!(sent.packets as usize, whole.len() - before);
        assert_eq!(*wire.packets.borrow(), whole, "{waits}");
        assert_eq!(second.send(&au, &mut clock(0)).unwrap(), SendEnd::AlreadyDone);
        assert_eq!(second.session().totals().packets as usize, whole.len());
        let next = slice(0x41, 900);
        let SendEnd::Done(sent) = second.send(&unit(&next, 2), &mut clock(9)).unwrap() else { panic!() };
        assert_eq!(sent.packets, 2, "the new payload size is in force");
    }
}

#[test]
fn a_vanished_access_unit_burns_its_numbers_and_asks_for_an_idr() {
    let (memory, wire) = (memory(), Wire::default());
    let (lost, next) = (slice(0x65, 100_000), slice(0x41, 50));
    let mut first = sender(&memory, &wire, &config(true));
    first.send(&unit(&lost, 1), &mut TestClock { now_ns: 0, waits: 2 }).unwrap();
    let sent = first.session().sent();
    let mut second = sender(&memory, &wire, &config(true));
    let SendEnd::Done(done) = second.send(&unit(&next, 2), &mut clock(0)).unwrap() else { panic!() };
    assert_eq!(done.first_index, 0xfffe + 84); // 100,000 bytes in fragments of 1198
    assert_eq!(second.session().totals().burned, u64::from(84 - sent));
    assert_eq!(second.keyframe_request(0).map(|r| r.reason), Some(KeyframeReason::Burned));
}

#[test]
fn a_full_way_out_is_waited_for() {
    let (memory, wire) = (memory(), Wire::default());
    let bytes = slice(0x65, 20_000);
    *wire.room.borrow_mut() = Some(3);
    let mut s = sender(&memory, &wire, &config(false));
    let au = unit(&bytes, 1);
    s.begin(&au, 0).unwrap();
    assert_eq!(s.step(&au, 0).unwrap(), Step::Wait { until_ns: BLOCKED_RETRY_NS });
    assert_eq!(s.session().sent(), 3);
    assert_eq!(s.step(&au, BLOCKED_RETRY_NS).unwrap(), Step::Wait { until_ns: 2 * BLOCKED_RETRY_NS });
    *wire.room.borrow_mut() = None;
    let Step::Done(sent) = s.step(&au, 2 * BLOCKED_RETRY_NS).unwrap() else { panic!() };
    assert_eq!((sent.packets, sent.dropped), (17, 0));
}

#[test]
fn a_way_out_that_stays_full_loses_packets_but_not_their_numbers() {
    let (memory, wire) = (memory(), Wire::default());
    let bytes = slice(0x65, 20_000);
    *wire.room.borrow_mut() = Some(3);
    let mut s = sender(&memory, &wire, &config(false));
    let SendEnd::Done(sent) = s.send(&unit(&bytes, 1), &mut clock(0)).unwrap() else { panic!() };
    assert_eq!((sent.packets, sent.dropped, *wire.given_up.borrow()), (3, 14, 14));
    assert!((STALL_LIMIT_NS..2 * STALL_LIMIT_NS).contains(&sent.last_packet_ns));
    *wire.room.borrow_mut() = None;
    let SendEnd::Done(sent) = s.send(&unit(&bytes, 2), &mut clock(0)).unwrap() else { panic!() };
    assert_eq!(sent.first_index, 0xfffe + 17);
}

#[test]
fn what_cannot_be_packetised_is_refused_and_the_next_one_goes() {
    let (memory, wire) = (memory(), Wire::default());
    let bytes = slice(0x65, 100);
    let mut s = sender(&memory, &wire, &config(false));
    let empty = AccessUnit { codec: Codec::Null, ..unit(&[], 1) };
    assert!(matches!(s.send(&empty, &mut clock(0)), Err(RtpError::Payload(_))));
    let only_delimiter = [0, 0, 1, 9, 0xf0];
    assert!(matches!(s.send(&unit(&only_delimiter, 2), &mut clock(0)).unwrap(), SendEnd::Done(x) if x.packets == 0));
    assert!(matches!(s.send(&unit(&bytes, 3), &mut clock(0)).unwrap(), SendEnd::Done(x) if x.packets == 1));
    let null = AccessUnit { codec: Codec::Null, ..unit(&bytes, 4) };
    s.send(&null, &mut clock(0)).unwrap();
    assert_eq!(wire.packets.borrow().last().unwrap()[12..], bytes);
}

#[test]
fn another_codec_has_another_payload_type_in_the_same_stream() {
    let (memory, wire) = (memory(), Wire::default());
    let mut s = sender(&memory, &wire, &config(false));
    let units: [(Codec, &[u8]); 4] = [
        (Codec::H264, &[0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 2, 0, 0, 1, 0x65, 9]),
        (Codec::Hevc, &[0, 0, 1, 0x40, 1, 6, 0, 0, 1, 0x42, 1, 7, 0, 0, 1, 0x44, 1, 8, 0, 0, 1, 0x26, 1, 9]),
        (Codec::Av1, &[0x12, 0, 0x0a, 1, 0, 0x32, 2, 0x10, 9]),
        (Codec::H264, &[0, 0, 1, 0x67, 1, 0, 0, 1, 0x68, 2, 0, 0, 1, 0x65, 9]),
    ];
    for (index, (codec, bytes)) in units.into_iter().enumerate() {
        let version = s.parameters().version();
        let au = AccessUnit { codec, ..unit(bytes, index as u64 + 1) };
        s.send(&au, &mut clock(0)).unwrap();
        assert!(s.parameters().version() > version && s.parameters().get().is_some(), "{codec:?} is described anew");
    }
    let packets = wire.packets.borrow();
    let of = |p: &Vec<u8>| (p[1], u16::from_be_bytes([p[2], p[3]]), p[8..12] == [1, 2, 3, 4]);
    let seen: Vec<(u8, u16, bool)> = packets.iter().map(of).collect();
    let expected =
        [(96, 0xfffe), (0x80 | 96, 0xffff), (97, 0), (0x80 | 97, 1), (0x80 | 98, 2), (96, 3), (0x80 | 96, 4)];
    assert_eq!(seen, expected.map(|(kind, sequence)| (kind, sequence, true)));
    let times: Vec<u32> = packets.iter().map(|p| u32::from_be_bytes([p[4], p[5], p[6], p[7]])).collect();
    assert!(times.windows(2).all(|pair| pair[1] == pair[0] || pair[1] == pair[0] + 90_000), "{times:?}");
}

#[test]
fn steps_for_another_access_unit_are_refused() {
    let (memory, wire) = (memory(), Wire::default());
    let bytes = slice(0x65, 100_000);
    let mut s = sender(&memory, &wire, &config(true));
    assert!(matches!(s.step(&unit(&bytes, 1), 0), Err(RtpError::OtherAccessUnit { begun: None, .. })));
    s.begin(&unit(&bytes, 1), 0).unwrap();
    assert!(s.begin(&unit(&bytes, 2), 0).is_err());
    assert!(s.step(&unit(&bytes[..50], 1), 0).is_err(), "a shorter view would be read beyond its end");
    assert!(s.step(&unit(&bytes, 1), 0).is_ok());
}
