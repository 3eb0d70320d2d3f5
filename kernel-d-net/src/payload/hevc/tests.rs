use super::*;
use proptest::prelude::*;

/// Every packet's payload, copied together.
fn payloads(au: &[u8], size: u32) -> (Vec<Vec<u8>>, PacketPlan) {
    let mut p = PacketPlan::new();
    plan(&AuView::of(au), PayloadSize::new(size).unwrap(), &mut p);
    let packets = p
        .packets_from(0)
        .map(|packet| {
            let mut out = Vec::new();
            for piece in packet.pieces {
                out.extend_from_slice(piece.prefix());
                out.extend_from_slice(&au[piece.offset as usize..(piece.offset + piece.len) as usize]);
            }
            assert_eq!(out.len(), packet.payload_bytes as usize);
            out
        })
        .collect();
    (packets, p)
}

fn kind(nal: &[u8]) -> u8 {
    nal[0] >> 1 & 0x3f
}

/// A receiver after RFC 7798 section 4.4, strict about what it accepts.
fn depacketise(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut nals = Vec::new();
    let mut fragment: Option<Vec<u8>> = None;
    for packet in packets {
        match kind(packet) {
            48 => {
                assert!(fragment.is_none());
                let mut rest = &packet[2..];
                let mut inside: Vec<&[u8]> = Vec::new();
                while !rest.is_empty() {
                    let len = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
                    inside.push(&rest[2..2 + len]);
                    rest = &rest[2 + len..];
                }
                assert!(inside.len() >= 2, "an aggregation packet has two units or more");
                let layer = |nal: &[u8]| (nal[0] & 1) << 5 | nal[1] >> 3;
                assert_eq!(packet[0] & 0x80, inside.iter().fold(0, |f, nal| f | nal[0] & 0x80), "F");
                assert_eq!(layer(packet), inside.iter().map(|nal| layer(nal)).min().unwrap(), "LayerId");
                assert_eq!(packet[1] & 7, inside.iter().map(|nal| nal[1] & 7).min().unwrap(), "TID");
                nals.extend(inside.into_iter().map(<[u8]>::to_vec));
            }
            49 => {
                let (start, end) = (packet[2] & 0x80 != 0, packet[2] & 0x40 != 0);
                assert!(!(start && end), "a fragment unit in one packet");
                let header = [(packet[0] & 0x81) | (packet[2] & 0x3f) << 1, packet[1]];
                if start {
                    assert!(fragment.is_none());
                    fragment = Some(header.to_vec());
                }
                let nal = fragment.as_mut().expect("a fragment without a start");
                assert_eq!(nal[..2], header, "every fragment has the header of its NAL unit");
                assert!(packet.len() > 3, "a fragment without bytes");
                nal.extend_from_slice(&packet[3..]);
                if end {
                    nals.extend(fragment.take());
                }
            }
            other => {
                assert!(other < 48, "packet type {other}");
                assert!(fragment.is_none(), "a NAL unit inside a fragmented one");
                nals.push(packet.clone());
            }
        }
    }
    assert!(fragment.is_none(), "an unfinished fragment");
    nals
}

fn annex_b(nals: &[Vec<u8>], four_byte: bool) -> Vec<u8> {
    let mut au = Vec::new();
    for nal in nals {
        au.extend_from_slice(if four_byte { &[0, 0, 0, 1] } else { &[0, 0, 1] });
        au.extend_from_slice(nal);
    }
    au
}

#[test]
fn delimiter_goes_parameter_sets_aggregate_slice_is_single() {
    let au = annex_b(
        &[
            vec![0x46, 1, 0x50],    // AUD
            vec![0x40, 1, 0xaa],    // VPS
            vec![0x42, 1, 0xbb, 9], // SPS
            vec![0x44, 1, 0xcc],    // PPS
            vec![0x26, 1, 7, 7, 7], // IDR_W_RADL
        ],
        true,
    );
    let (packets, p) = payloads(&au, 1200);
    assert_eq!(
        packets,
        [vec![0x60, 1, 0, 3, 0x40, 1, 0xaa, 0, 4, 0x42, 1, 0xbb, 9, 0, 3, 0x44, 1, 0xcc], vec![0x26, 1, 7, 7, 7],]
    );
    assert!(p.has_idr());
    let range = |range: Option<(u32, u32)>| range.map(|(offset, len)| &au[offset as usize..][..len as usize]);
    assert_eq!(range(p.vps()), Some(&[0x40, 1, 0xaa][..]));
    assert_eq!(range(p.sps()), Some(&[0x42, 1, 0xbb, 9][..]));
    assert_eq!(range(p.pps()), Some(&[0x44, 1, 0xcc][..]));
    assert_eq!(p.packets_from(0).map(|x| x.marker).collect::<Vec<_>>(), [false, true]);
}

#[test]
fn long_nal_becomes_equal_fragments_and_a_rest() {
    let mut nal = vec![0x02, 0x09]; // TRAIL_R of layer 1
    nal.extend((0..150u8).map(|i| i | 1));
    let (packets, p) = payloads(&annex_b(std::slice::from_ref(&nal), false), 64);
    let lens: Vec<usize> = packets.iter().map(Vec::len).collect();
    assert_eq!(lens, [64, 64, 31]); // 61 + 61 + 28 of 150 bytes
    assert_eq!(packets[0][..3], [0x62, 0x09, 0x81]);
    assert_eq!(packets[1][..3], [0x62, 0x09, 0x01]);
    assert_eq!(packets[2][..3], [0x62, 0x09, 0x41]);
    assert_eq!(depacketise(&packets), [nal]);
    assert!(!p.has_idr());
}

#[test]
fn size_limit_is_single_one_more_byte_is_two_fragments() {
    let nal = |len: usize| [vec![0x02, 1], vec![0x41; len - 2]].concat();
    assert_eq!(payloads(&annex_b(&[nal(64)], true), 64).0, [nal(64)]);
    let (packets, _) = payloads(&annex_b(&[nal(65)], true), 64);
    assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), [64, 5]);
}

#[test]
fn lone_sei_and_sets_that_do_not_fit_together_are_single() {
    let au = annex_b(&[vec![0x4e, 1, 0x80], vec![0x02, 1, 7]], false);
    assert_eq!(payloads(&au, 1200).0, [vec![0x4e, 1, 0x80], vec![0x02, 1, 7]]);
    let sets = [[vec![0x40, 1], vec![5; 38]].concat(), [vec![0x42, 1], vec![6; 38]].concat()];
    assert_eq!(payloads(&annex_b(&sets, false), 64).0, sets);
}

#[test]
fn types_that_rtp_uses_and_broken_headers_are_dropped_and_counted() {
    let au = annex_b(&[vec![0x60, 1, 1], vec![0x62, 1, 1], vec![0x02], vec![0x02, 0x08, 1], vec![0x02, 1, 1]], false);
    let (packets, p) = payloads(&au, 1200);
    assert_eq!(packets, [vec![0x02, 1, 1]]);
    assert_eq!(p.dropped_nals(), 4);
}

#[test]
fn every_picture_that_decoding_can_begin_with_is_known() {
    for kind in 0u8..48 {
        let has = payloads(&annex_b(&[vec![kind << 1, 1, 9]], false), 1200).1.has_idr();
        assert_eq!(has, (16..=23).contains(&kind), "{kind}");
    }
}

#[test]
fn nothing_to_send_makes_an_empty_plan() {
    for au in [&[][..], &[0, 0, 1], &[0, 0, 0, 1, 0, 0, 0], &[1, 2, 3], &[0, 0, 1, 0x46, 1, 0x50]] {
        assert!(payloads(au, 1200).1.is_empty(), "{au:?}");
    }
}

#[test]
fn a_reused_plan_equals_a_fresh_one_and_allocates_nothing() {
    let big = annex_b(&[vec![0x42; 10], vec![0x44; 5], vec![0x26; 50_000]], true);
    let small = annex_b(&[vec![0x02; 5000]], true);
    let mut reused = PacketPlan::new();
    plan(&AuView::of(&big), PayloadSize::DEFAULT, &mut reused);
    let room = (reused.pieces.capacity(), reused.packets.capacity(), reused.nals.capacity());
    plan(&AuView::of(&small), PayloadSize::DEFAULT, &mut reused);
    assert_eq!(room, (reused.pieces.capacity(), reused.packets.capacity(), reused.nals.capacity()));
    let fresh = payloads(&small, 1200).1;
    assert_eq!(reused.pieces, fresh.pieces);
    assert_eq!((reused.crc, reused.has_idr, reused.sps), (crc32fast::hash(&small), false, None));
}

fn nal_unit() -> impl Strategy<Value = Vec<u8>> {
    let header = (any::<bool>(), 0u8..48, 0u8..64, 1u8..8)
        .prop_map(|(forbidden, kind, layer, temporal)| Header { forbidden, kind, layer, temporal }.bytes());
    // No zero byte behind the header: neither a start code nor a trailing zero can come up inside.
    (header, proptest::collection::vec(1u8.., 1..3000)).prop_map(|(header, bytes)| [&header[..], &bytes].concat())
}

proptest! {
    #[test]
    fn round_trip(nals in proptest::collection::vec(nal_unit(), 1..8), size in 64u32..2000, four in any::<bool>()) {
        let (packets, p) = payloads(&annex_b(&nals, four), size);
        let expected: Vec<Vec<u8>> = nals.into_iter().filter(|nal| kind(nal) != 35).collect();
        prop_assert_eq!(depacketise(&packets), expected);
        prop_assert!(packets.iter().all(|x| x.len() <= size as usize));
        prop_assert_eq!(p.packets_from(0).filter(|x| x.marker).count(), usize::from(!packets.is_empty()));
    }

    #[test]
    fn any_bytes_give_a_plan_inside_the_access_unit(
        au in proptest::collection::vec(prop_oneof![3 => Just(0u8), 2 => Just(1u8), 2 => any::<u8>()], 0..4000),
        size in 64u32..300,
    ) {
        let (packets, _) = payloads(&au, size); // slices panic outside the access unit
        prop_assert!(packets.iter().all(|x| !x.is_empty() && x.len() <= size as usize));
    }
}
