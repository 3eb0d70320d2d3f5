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

/// A receiver after RFC 6184 section 7.1, strict about what it accepts.
fn depacketise(packets: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut nals = Vec::new();
    let mut fragment: Option<Vec<u8>> = None;
    for packet in packets {
        match packet[0] & 0x1f {
            1..=23 => {
                assert!(fragment.is_none(), "a NAL unit inside a fragmented one");
                nals.push(packet.clone());
            }
            24 => {
                assert!(fragment.is_none());
                let mut rest = &packet[1..];
                let mut nri = 0;
                while !rest.is_empty() {
                    let len = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
                    nri = nri.max(rest[2] & 0x60);
                    nals.push(rest[2..2 + len].to_vec());
                    rest = &rest[2 + len..];
                }
                assert_eq!(packet[0] & 0x60, nri, "NRI of a STAP-A is the largest inside");
            }
            28 => {
                let (start, end) = (packet[1] & 0x80 != 0, packet[1] & 0x40 != 0);
                assert!(!(start && end), "a fragment unit in one packet");
                assert_eq!(packet[1] & 0x20, 0, "reserved bit");
                if start {
                    assert!(fragment.is_none());
                    fragment = Some(vec![(packet[0] & 0xe0) | (packet[1] & 0x1f)]);
                }
                let nal = fragment.as_mut().expect("a fragment without a start");
                nal.extend_from_slice(&packet[2..]);
                if end {
                    nals.extend(fragment.take());
                }
            }
            other => panic!("packet type {other}"),
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
        &[vec![0x09, 0xf0], vec![0x67, 1, 2, 3], vec![0x68, 4], vec![0x06, 5, 0x80], vec![0x65, 9, 9, 9]],
        true,
    );
    let (packets, p) = payloads(&au, 1200);
    assert_eq!(
        packets,
        [
            vec![0x78, 0, 4, 0x67, 1, 2, 3, 0, 2, 0x68, 4, 0, 3, 0x06, 5, 0x80], // STAP-A, NRI 3
            vec![0x65, 9, 9, 9],
        ]
    );
    assert!(p.has_idr());
    let (offset, len) = (p.sps().unwrap(), p.pps().unwrap());
    assert_eq!(&au[offset.0 as usize..][..offset.1 as usize], [0x67, 1, 2, 3]);
    assert_eq!(&au[len.0 as usize..][..len.1 as usize], [0x68, 4]);
    let markers: Vec<bool> = p.packets_from(0).map(|x| x.marker).collect();
    assert_eq!(markers, [false, true]);
}

#[test]
fn long_nal_becomes_equal_fragments_and_a_rest() {
    let mut nal = vec![0x41];
    nal.extend((0..150u8).map(|i| i | 1));
    let (packets, _) = payloads(&annex_b(std::slice::from_ref(&nal), false), 64);
    let lens: Vec<usize> = packets.iter().map(Vec::len).collect();
    assert_eq!(lens, [64, 64, 28]); // 62 + 62 + 26 of 150 bytes
    assert_eq!(packets[0][..2], [0x5c, 0x81]);
    assert_eq!(packets[1][..2], [0x5c, 0x01]);
    assert_eq!(packets[2][..2], [0x5c, 0x41]);
    assert_eq!(depacketise(&packets), [nal]);
}

#[test]
fn size_limit_is_single_one_more_byte_is_two_fragments() {
    let fits = vec![0x41; 64];
    let over = vec![0x41; 65];
    assert_eq!(payloads(&annex_b(std::slice::from_ref(&fits), true), 64).0, [fits]);
    let (packets, _) = payloads(&annex_b(&[over], true), 64);
    assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), [64, 4]);
}

#[test]
fn lone_sei_and_sets_that_do_not_fit_together_are_single() {
    let au = annex_b(&[vec![0x06, 1, 0x80], vec![0x41, 7]], false);
    assert_eq!(payloads(&au, 1200).0, [vec![0x06, 1, 0x80], vec![0x41, 7]]);
    let au = annex_b(&[vec![0x67; 40], vec![0x68; 40]], false);
    assert_eq!(payloads(&au, 64).0, [vec![0x67; 40], vec![0x68; 40]]);
}

#[test]
fn types_that_rtp_uses_are_dropped_and_counted() {
    let au = annex_b(&[vec![0x7c, 0x80, 1], vec![0x60, 1], vec![0x41, 1]], false);
    let (packets, p) = payloads(&au, 1200);
    assert_eq!(packets, [vec![0x41, 1]]);
    assert_eq!(p.dropped_nals(), 2);
}

#[test]
fn nothing_to_send_makes_an_empty_plan() {
    for au in [&[][..], &[0, 0, 1], &[0, 0, 0, 1, 0, 0, 0], &[1, 2, 3], &[0, 0, 1, 9, 0xf0]] {
        assert!(payloads(au, 1200).1.is_empty(), "{au:?}");
    }
}

#[test]
fn start_codes_across_chunk_borders_are_found() {
    // The scan reads 16 KiB at a time; put a start code at every position around the border.
    for first in 16_370..16_390usize {
        let mut one = vec![0xabu8; first];
        one[0] = 0x41;
        let nals = [one, vec![0x41, 0x22, 0x33]];
        let au = annex_b(&nals, true);
        assert_eq!(depacketise(&payloads(&au, 1200).0), nals, "{first}");
    }
}

#[test]
fn a_reused_plan_equals_a_fresh_one_and_allocates_nothing() {
    let big = annex_b(&[vec![0x67; 10], vec![0x68; 5], vec![0x65; 50_000]], true);
    let small = annex_b(&[vec![0x41; 5000]], true);
    let size = PayloadSize::DEFAULT;
    let mut reused = PacketPlan::new();
    plan(&AuView::of(&big), size, &mut reused);
    let room = (reused.pieces.capacity(), reused.packets.capacity(), reused.nals.capacity());
    plan(&AuView::of(&small), size, &mut reused);
    assert_eq!(room, (reused.pieces.capacity(), reused.packets.capacity(), reused.nals.capacity()));
    let fresh = payloads(&small, 1200).1;
    assert_eq!(reused.pieces, fresh.pieces);
    assert_eq!((reused.crc, reused.has_idr, reused.sps), (fresh.crc, false, None));
    assert_eq!(reused.crc, crc32fast::hash(&small));
    assert_eq!(reused.octets_before(2), 2400);
    assert_eq!(reused.octets_before(u32::MAX), reused.payload_octets());
}

fn nal_unit() -> impl Strategy<Value = Vec<u8>> {
    let header = (0u8..4, 1u8..24).prop_map(|(nri, kind)| nri << 5 | kind);
    // No zero byte: neither a start code nor a trailing zero can come up inside.
    (header, proptest::collection::vec(1u8.., 1..3000)).prop_map(|(header, mut bytes)| {
        bytes[0] = header;
        bytes
    })
}

proptest! {
    #[test]
    fn round_trip(nals in proptest::collection::vec(nal_unit(), 1..8), size in 64u32..2000, four in any::<bool>()) {
        let (packets, p) = payloads(&annex_b(&nals, four), size);
        let expected: Vec<Vec<u8>> = nals.into_iter().filter(|nal| nal[0] & 0x1f != 9).collect();
        prop_assert_eq!(depacketise(&packets), expected);
        prop_assert!(packets.iter().all(|x| x.len() <= size as usize));
        prop_assert_eq!(p.packets_from(0).filter(|x| x.marker).count(), usize::from(!packets.is_empty()));
    }

    #[test]
    fn any_bytes_give_a_plan_inside_the_access_unit(
        au in proptest::collection::vec(prop_oneof![3 => Just(0u8), 1 => Just(1u8), 2 => any::<u8>()], 0..4000),
        size in 64u32..300,
    ) {
        let (packets, _) = payloads(&au, size); // slices panic outside the access unit
        prop_assert!(packets.iter().all(|x| !x.is_empty() && x.len() <= size as usize));
    }
}
