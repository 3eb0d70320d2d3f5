use super::*;
use proptest::prelude::*;

/// An OBU as the test knows it: type, extension byte, payload.
#[derive(Debug, Clone, PartialEq, Eq)]
struct TestObu {
    kind: u8,
    extension: Option<u8>,
    payload: Vec<u8>,
}

fn obu(kind: u8, payload: &[u8]) -> TestObu {
    TestObu { kind, extension: None, payload: payload.to_vec() }
}

fn leb128(mut value: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        let byte = (value & 0x7f) as u8;
        value >>= 7;
        if value == 0 {
            bytes.push(byte);
            return bytes;
        }
        bytes.push(byte | 0x80);
    }
}

impl TestObu {
    fn write(&self, with_size: bool) -> Vec<u8> {
        let flags = if self.extension.is_some() { 4 } else { 0 } | if with_size { 2 } else { 0 };
        let mut bytes = vec![self.kind << 3 | flags];
        bytes.extend(self.extension);
        if with_size {
            bytes.extend(leb128(self.payload.len()));
        }
        bytes.extend_from_slice(&self.payload);
        bytes
    }
}

fn temporal_unit(obus: &[TestObu]) -> Vec<u8> {
    obus.iter().flat_map(|obu| obu.write(true)).collect()
}

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

fn read(bytes: &[u8]) -> (usize, usize) {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return (value, index + 1);
        }
    }
    panic!("a length without its end");
}

/// The elements of one packet (payload format sections 4.4 and 4.5), with its Z, Y and N.
fn elements(packet: &[u8]) -> (Vec<Vec<u8>>, bool, bool, bool) {
    let (z, y, w, n) = (packet[0] & 0x80 != 0, packet[0] & 0x40 != 0, packet[0] >> 4 & 3, packet[0] & 8 != 0);
    assert_eq!(packet[0] & 7, 0, "reserved bits");
    assert!(!(n && z), "a new sequence cannot go on with an OBU");
    let mut rest = &packet[1..];
    let mut found = Vec::new();
    while !rest.is_empty() || (w > 0 && found.len() < usize::from(w)) {
        let last = w > 0 && found.len() + 1 == usize::from(w);
        let (len, skip) = if last { (rest.len(), 0) } else { read(rest) };
        found.push(rest[skip..skip + len].to_vec());
        rest = &rest[skip + len..];
    }
    assert!(w == 0 || found.len() == usize::from(w), "W counts the elements");
    (found, z, y, n)
}

/// A receiver after the payload format, strict about what it accepts.
fn depacketise(packets: &[Vec<u8>]) -> Vec<TestObu> {
    let mut whole: Vec<Vec<u8>> = Vec::new();
    let mut open = false;
    for packet in packets {
        let (found, z, y, _) = elements(packet);
        assert_eq!(z, open, "Z says that a fragment goes on, and Y that one will");
        let count = found.len();
        for (number, element) in found.into_iter().enumerate() {
            assert!(!element.is_empty(), "an element without bytes");
            if number == 0 && z {
                whole.last_mut().unwrap().extend_from_slice(&element);
            } else {
                whole.push(element);
            }
            open = y && number + 1 == count;
        }
    }
    assert!(!open, "an unfinished OBU");
    whole
        .into_iter()
        .map(|bytes| {
            assert_eq!(bytes[0] & 0x83, 0, "neither forbidden bit nor size flag nor reserved bit");
            let extended = bytes[0] & 4 != 0;
            let payload = bytes[1 + usize::from(extended)..].to_vec();
            TestObu { kind: bytes[0] >> 3, extension: extended.then(|| bytes[1]), payload }
        })
        .collect()
}

const DELIMITER: u8 = 2;
const SEQUENCE: u8 = 1;
const FRAME: u8 = 6;
const METADATA: u8 = 5;
const TILE_GROUP: u8 = 4;

#[test]
fn delimiter_goes_and_sequence_header_shares_the_first_packet_of_a_new_sequence() {
    let au = temporal_unit(&[obu(DELIMITER, &[]), obu(SEQUENCE, &[0, 1, 2]), obu(FRAME, &[0x10, 7, 7])]);
    let (packets, p) = payloads(&au, 1200);
    // W = 2, N = 1; the sequence header has a length (4 bytes with its header), the frame does not.
    assert_eq!(packets, [vec![0x28, 4, 0x08, 0, 1, 2, 0x30, 0x10, 7, 7]]);
    assert!(p.has_idr() && p.packet(0).unwrap().marker);
    let (offset, len) = p.sequence_header().unwrap();
    assert_eq!(&au[offset as usize..][..len as usize], [0, 1, 2]);
}

#[test]
fn inter_frame_is_one_element_of_no_new_sequence() {
    let au = temporal_unit(&[obu(DELIMITER, &[]), obu(FRAME, &[0x30, 5])]);
    let (packets, p) = payloads(&au, 1200);
    assert_eq!(packets, [vec![0x10, 0x30, 0x30, 5]]);
    assert!(!p.has_idr() && p.sequence_header().is_none());
}

#[test]
fn a_sequence_header_in_front_of_an_inter_frame_begins_no_sequence() {
    let (packets, p) = payloads(&temporal_unit(&[obu(SEQUENCE, &[0]), obu(FRAME, &[0x30, 5])]), 1200);
    assert_eq!((packets[0][0], p.has_idr()), (0x20, false));
}

#[test]
fn a_shown_existing_frame_is_no_key_frame_and_a_reduced_still_picture_is_one() {
    assert!(!payloads(&temporal_unit(&[obu(3, &[0x80])]), 1200).1.has_idr());
    assert!(payloads(&temporal_unit(&[obu(SEQUENCE, &[0x18]), obu(FRAME, &[0xff])]), 1200).1.has_idr());
}

#[test]
fn long_frame_fills_every_packet_but_the_last() {
    let mut frame = obu(FRAME, &[]);
    frame.payload = (0..200u8).map(|i| i | 0x20).collect();
    let sent = [obu(SEQUENCE, &[0; 10]), frame];
    let (packets, _) = payloads(&temporal_unit(&sent), 64);
    let lens: Vec<usize> = packets.iter().map(Vec::len).collect();
    // 201 bytes of frame: 51 behind the sequence header (1 + 1 + 11 before it), 63 and 63, the rest.
    assert_eq!(lens, [64, 64, 64, 25]);
    let heads: Vec<u8> = packets.iter().map(|packet| packet[0]).collect();
    assert_eq!(heads, [0x60, 0xd0, 0xd0, 0x90], "ZY and W; an inter frame, hence no N");
    assert_eq!(depacketise(&packets), sent);
}

#[test]
fn size_limit_is_whole_one_more_byte_is_two_fragments() {
    let fits = [obu(FRAME, &[0x30; 62])];
    let over = [obu(FRAME, &[0x30; 63])];
    assert_eq!(payloads(&temporal_unit(&fits), 64).0.iter().map(Vec::len).collect::<Vec<_>>(), [64]);
    let (packets, _) = payloads(&temporal_unit(&over), 64);
    assert_eq!(packets.iter().map(Vec::len).collect::<Vec<_>>(), [64, 2]);
    assert_eq!(depacketise(&packets), over);
}

#[test]
fn at_most_three_elements_share_a_packet_and_layers_and_frames_stay_apart() {
    let groups = [1u8, 2, 3, 4].map(|n| obu(TILE_GROUP, &[n]));
    let (packets, _) = payloads(&temporal_unit(&groups), 1200);
    assert_eq!(packets.iter().map(|packet| packet[0] >> 4 & 3).collect::<Vec<_>>(), [3, 1]);
    let two_frames = [obu(FRAME, &[0x30]), obu(FRAME, &[0x30])];
    assert_eq!(payloads(&temporal_unit(&two_frames), 1200).0.len(), 2);
    let layer = |extension| TestObu { extension: Some(extension), ..obu(TILE_GROUP, &[9]) };
    assert_eq!(payloads(&temporal_unit(&[layer(0x08), layer(0x08)]), 1200).0.len(), 1);
    assert_eq!(payloads(&temporal_unit(&[layer(0x08), layer(0x20)]), 1200).0.len(), 2);
    let late = [obu(METADATA, &[1]), obu(SEQUENCE, &[0])];
    assert_eq!(payloads(&temporal_unit(&late), 1200).0.len(), 2, "a sequence header is the first in its packet");
}

#[test]
fn the_last_obu_may_come_without_a_size() {
    let mut au = obu(DELIMITER, &[]).write(true);
    au.extend(obu(FRAME, &[0x30, 1, 2]).write(false));
    assert_eq!(payloads(&au, 1200).0, [vec![0x10, 0x30, 0x30, 1, 2]]);
}

#[test]
fn what_is_broken_ends_the_unit_and_is_counted() {
    let whole = obu(FRAME, &[0x30, 1]).write(true);
    for broken in [&[0x80u8, 0][..], &[0x32, 200, 1], &[0x32, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], &[0x34]]
    {
        let (packets, p) = payloads(&[&whole[..], broken].concat(), 1200);
        assert_eq!((packets, p.dropped_nals()), (vec![vec![0x10, 0x30, 0x30, 1]], 1), "{broken:x?}");
    }
}

#[test]
fn nothing_to_send_makes_an_empty_plan() {
    for au in [&[][..], &[0x12, 0], &[0x42, 0], &[0xff]] {
        assert!(payloads(au, 1200).1.is_empty(), "{au:?}");
    }
}

#[test]
fn a_reused_plan_equals_a_fresh_one_and_allocates_nothing() {
    let big = temporal_unit(&[obu(DELIMITER, &[]), obu(SEQUENCE, &[0; 12]), obu(FRAME, &[0; 50_000])]);
    let small = temporal_unit(&[obu(DELIMITER, &[]), obu(FRAME, &[0x30; 5000])]);
    let mut reused = PacketPlan::new();
    plan(&AuView::of(&big), PayloadSize::DEFAULT, &mut reused);
    let room = (reused.pieces.capacity(), reused.packets.capacity(), reused.obus.capacity());
    plan(&AuView::of(&small), PayloadSize::DEFAULT, &mut reused);
    assert_eq!(room, (reused.pieces.capacity(), reused.packets.capacity(), reused.obus.capacity()));
    let fresh = payloads(&small, 1200).1;
    assert_eq!(reused.pieces, fresh.pieces);
    assert_eq!((reused.crc, reused.has_idr, reused.sequence_header), (crc32fast::hash(&small), false, None));
    assert_eq!(reused.octets_before(u32::MAX), reused.payload_octets());
}

fn any_obu() -> impl Strategy<Value = TestObu> {
    let kind = prop_oneof![Just(1u8), Just(2), Just(3), Just(4), Just(5), Just(6), Just(7), Just(8), Just(15)];
    let extension = proptest::option::weighted(0.2, any::<u8>());
    let payload = prop_oneof![
        4 => proptest::collection::vec(any::<u8>(), 1..40),
        2 => proptest::collection::vec(any::<u8>(), 1..3000),
    ];
    (kind, extension, payload).prop_map(|(kind, extension, payload)| TestObu { kind, extension, payload })
}

proptest! {
    #[test]
    fn round_trip(obus in proptest::collection::vec(any_obu(), 1..9), size in 64u32..2000) {
        let (packets, p) = payloads(&temporal_unit(&obus), size);
        let expected: Vec<TestObu> = obus.into_iter().filter(|obu| obu.kind != 2 && obu.kind != 8).collect();
        prop_assert_eq!(depacketise(&packets), expected);
        prop_assert!(packets.iter().all(|x| x.len() <= size as usize));
        prop_assert_eq!(p.packets_from(0).filter(|x| x.marker).count(), usize::from(!packets.is_empty()));
        prop_assert!(packets.iter().skip(1).all(|x| x[0] & 8 == 0), "N in another packet than the first");
        for packet in &packets {
            let (found, z, ..) = elements(packet);
            let layers: Vec<u8> = found.iter().skip(usize::from(z)).filter(|e| e[0] & 4 != 0).map(|e| e[1]).collect();
            prop_assert!(layers.windows(2).all(|pair| pair[0] == pair[1]), "OBUs of two layers in a packet");
        }
    }

    #[test]
    fn any_bytes_give_a_plan_inside_the_access_unit(
        au in proptest::collection::vec(
            prop_oneof![2 => Just(0x32u8), 2 => Just(0x0a), 1 => Just(0x36), 3 => 0u8..30, 2 => any::<u8>()],
            0..4000,
        ),
        size in 64u32..300,
    ) {
        let (packets, _) = payloads(&au, size); // slices panic outside the access unit
        prop_assert!(packets.iter().all(|x| x.len() > 1 && x.len() <= size as usize));
    }
}
