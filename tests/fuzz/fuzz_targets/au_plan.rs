//! Access units out of another process's memory, cut into RTP payloads (RFC 6184, RFC 7798, AV1's payload format).
//!
//! Feeds: a payload size, then any bytes as an Annex B access unit; also as one of HEVC, as a temporal unit of AV1, as a
//! null access unit and to the readers of parameter sets.
//! Holds: no panic; put together again as a receiver does (single NAL units, STAP-A, FU-A), the packets are exactly the
//! NAL units that a plain reading of Annex B finds, each byte once and in order, but for delimiters and types that RTP
//! uses for itself; no payload is empty or above the size; only the last packet is marked; the check sum and the counts
//! are right; the plan is the same when made again over used memory. Of HEVC the same, with its own packets; of AV1 that
//! every piece lies inside the unit and that the elements are whole.
#![no_main]

use kernel_d_net::au::AuView;
use kernel_d_net::codecs::web_codec_string;
use kernel_d_net::payload::{PacketPlan, PayloadSize};
use quad_fuzz::Input;
use shm_protocol::frame::Codec;
use std::cell::RefCell;

thread_local! {
    static USED: RefCell<PacketPlan> = RefCell::default();
}

/// The NAL units by H.264 annex B.1, the slow way: between start codes, without trailing zeros, none empty.
fn nal_units(stream: &[u8]) -> Vec<&[u8]> {
    let codes: Vec<usize> = (0..stream.len().saturating_sub(2)).filter(|&at| stream[at..at + 3] == [0, 0, 1]).collect();
    let ends = codes.iter().skip(1).copied().chain([stream.len()]);
    let units = codes.iter().zip(ends).map(|(&code, end)| {
        let unit = &stream[code + 3..end];
        &unit[..unit.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1)]
    });
    units.filter(|unit| !unit.is_empty()).collect()
}

/// The payload of a packet, as sent.
fn payload(packet: &kernel_d_net::payload::PlannedPacket<'_>, au: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in packet.pieces {
        bytes.extend_from_slice(piece.prefix());
        bytes.extend_from_slice(&au[piece.offset as usize..(piece.offset + piece.len) as usize]);
    }
    assert_eq!(bytes.len(), packet.payload_bytes as usize);
    bytes
}

/// What a receiver makes of the payloads (RFC 6184 sections 5.6 to 5.8).
fn received(payloads: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut units: Vec<Vec<u8>> = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    for bytes in payloads {
        match bytes[0] & 0x1f {
            24 => {
                assert!(open.is_none());
                let mut rest = &bytes[1..];
                while !rest.is_empty() {
                    let len = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
                    units.push(rest[2..2 + len].to_vec());
                    rest = &rest[2 + len..];
                }
            }
            28 => {
                let (start, end) = (bytes[1] & 0x80 != 0, bytes[1] & 0x40 != 0);
                assert!(!(start && end), "a fragment that begins and ends is no fragment");
                assert_eq!(start, open.is_none());
                let unit = open.get_or_insert_with(|| vec![bytes[0] & 0xe0 | bytes[1] & 0x1f]);
                unit.extend_from_slice(&bytes[2..]);
                if end {
                    units.extend(open.take());
                }
            }
            1..=23 => {
                assert!(open.is_none());
                units.push(bytes.clone());
            }
            other => panic!("payload of type {other}"),
        }
    }
    assert!(open.is_none(), "a NAL unit without its end");
    units
}

fn check_h264(au: &[u8], size: PayloadSize, plan: &PacketPlan) {
    let payloads: Vec<Vec<u8>> = plan.packets_from(0).map(|packet| payload(&packet, au)).collect();
    assert!(payloads.iter().all(|p| !p.is_empty() && p.len() <= size.bytes() as usize));
    let marked = plan.packets_from(0).filter(|packet| packet.marker).count();
    assert_eq!(marked, usize::from(!plan.is_empty()));
    assert_eq!(plan.payload_octets(), payloads.iter().map(|p| p.len() as u64).sum::<u64>());
    assert_eq!(plan.octets_before(plan.len()), plan.payload_octets());
    assert_eq!(plan.crc(), crc32fast::hash(au));
    let found = nal_units(au);
    let carried = |unit: &&[u8]| matches!(unit[0] & 0x1f, 1..=8 | 10..=23);
    let sendable: Vec<&[u8]> = found.iter().copied().filter(|unit| carried(unit)).collect();
    let delimiters = found.iter().filter(|unit| unit[0] & 0x1f == 9).count();
    assert_eq!(plan.dropped_nals() as usize, found.len() - sendable.len() - delimiters);
    assert_eq!(plan.has_idr(), sendable.iter().any(|unit| unit[0] & 0x1f == 5));
    let last = |kind| sendable.iter().copied().rfind(|unit| unit[0] & 0x1f == kind);
    let range = |range: Option<(u32, u32)>| range.map(|(offset, len)| &au[offset as usize..(offset + len) as usize]);
    assert_eq!((range(plan.sps()), range(plan.pps())), (last(7), last(8)));
    assert_eq!(received(&payloads), sendable);
}

/// What a receiver makes of HEVC payloads (RFC 7798 section 4.4).
fn received_hevc(payloads: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut units: Vec<Vec<u8>> = Vec::new();
    let mut open: Option<Vec<u8>> = None;
    for bytes in payloads {
        match bytes[0] >> 1 & 0x3f {
            48 => {
                assert!(open.is_none());
                let mut rest = &bytes[2..];
                while !rest.is_empty() {
                    let len = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
                    units.push(rest[2..2 + len].to_vec());
                    rest = &rest[2 + len..];
                }
            }
            49 => {
                let (start, end) = (bytes[2] & 0x80 != 0, bytes[2] & 0x40 != 0);
                assert!(!(start && end), "a fragment that begins and ends is no fragment");
                assert_eq!(start, open.is_none());
                let unit = open.get_or_insert_with(|| vec![bytes[0] & 0x81 | (bytes[2] & 0x3f) << 1, bytes[1]]);
                unit.extend_from_slice(&bytes[3..]);
                if end {
                    units.extend(open.take());
                }
            }
            other => {
                assert!(other < 48 && open.is_none(), "payload of type {other}");
                units.push(bytes.clone());
            }
        }
    }
    assert!(open.is_none(), "a NAL unit without its end");
    units
}

/// What holds of every codec: sizes, the mark, the counts, the check sum.
fn check_packets(au: &[u8], size: PayloadSize, plan: &PacketPlan) -> Vec<Vec<u8>> {
    let payloads: Vec<Vec<u8>> = plan.packets_from(0).map(|packet| payload(&packet, au)).collect();
    assert!(payloads.iter().all(|p| !p.is_empty() && p.len() <= size.bytes() as usize));
    let marked = plan.packets_from(0).filter(|packet| packet.marker).count();
    assert_eq!(marked, usize::from(!plan.is_empty()));
    assert_eq!(plan.payload_octets(), payloads.iter().map(|p| p.len() as u64).sum::<u64>());
    assert_eq!(plan.crc(), crc32fast::hash(au));
    payloads
}

fn check_hevc(au: &[u8], size: PayloadSize, plan: &PacketPlan) {
    let found = nal_units(au);
    let kind = |unit: &[u8]| unit[0] >> 1 & 0x3f;
    let whole: Vec<&[u8]> = found.iter().copied().filter(|unit| unit.len() > 1 && unit[1] & 7 != 0).collect();
    let sendable: Vec<&[u8]> = whole.iter().copied().filter(|unit| kind(unit) < 48 && kind(unit) != 35).collect();
    let delimiters = whole.iter().filter(|unit| kind(unit) == 35).count();
    assert_eq!(plan.dropped_nals() as usize, found.len() - sendable.len() - delimiters);
    assert_eq!(plan.has_idr(), sendable.iter().any(|unit| (16..24).contains(&kind(unit))));
    assert_eq!(received_hevc(&check_packets(au, size, plan)), sendable);
}

/// Elements as their packets say, none empty, fragments announced on both sides.
fn check_av1(au: &[u8], size: PayloadSize, plan: &PacketPlan) {
    let mut open = false;
    for bytes in check_packets(au, size, plan) {
        let (goes_on, will_go_on, count) = (bytes[0] & 0x80 != 0, bytes[0] & 0x40 != 0, usize::from(bytes[0] >> 4 & 3));
        assert!(goes_on == open && count > 0);
        open = will_go_on;
        let mut rest = &bytes[1..];
        for number in 1..=count {
            let mut len = 0;
            let mut at = 0;
            if number == count {
                len = rest.len();
            } else {
                loop {
                    len |= usize::from(rest[at] & 0x7f) << (7 * at);
                    at += 1;
                    if rest[at - 1] & 0x80 == 0 {
                        break;
                    }
                }
            }
            assert!(len > 0 && (number == 1 && goes_on || rest[at] & 0x82 == 0));
            rest = &rest[at + len..];
        }
        assert!(rest.is_empty());
    }
    assert!(!open, "an OBU without its end");
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let wanted = u32::from(input.u16());
    let Ok(size) = PayloadSize::new(wanted) else {
        assert!(!(PayloadSize::MIN..=PayloadSize::MAX).contains(&wanted));
        return;
    };
    // Access units longer than a chunk of the reader, without an input as long: the middle is repeated.
    let stretch = usize::from(input.u8()) * 80;
    let mut au = input.0.to_vec();
    let middle = au.len() / 2;
    au.splice(middle..middle, std::iter::repeat_n(0x55, stretch));
    let view = AuView::of(&au);
    let mut plan = PacketPlan::new();
    plan.make(&view, Codec::H264, size).expect("H.264 has a payload format");
    check_h264(&au, size, &plan);
    USED.with_borrow_mut(|used| {
        used.make(&view, Codec::H264, size).expect("H.264 has a payload format");
        check_h264(&au, size, used);
        used.make(&view, Codec::Hevc, size).expect("HEVC has a payload format");
        check_hevc(&au, size, used);
        used.make(&view, Codec::Av1, size).expect("AV1 has a payload format");
        check_av1(&au, size, used);
        if used.make(&view, Codec::Null, size).is_ok() {
            let packet = used.packet(0).expect("one packet");
            assert_eq!((used.len(), payload(&packet, &au)), (1, au.clone()));
        }
    });
    if let Some(codec) = web_codec_string(Codec::H264, &au) {
        assert!(codec.len() == 11 && codec.starts_with("avc1."));
    }
    assert!(web_codec_string(Codec::Hevc, &au).is_none_or(|codec| codec.starts_with("hev1.")));
    assert!(web_codec_string(Codec::Av1, &au).is_none_or(|codec| codec.len() == 13 && codec.starts_with("av01.")));
});
