//! Descriptions survive the slot and the table; garbage is refused and never panics.

use super::*;
use proptest::prelude::*;

fn sample() -> VideoFormat {
    let fps = Rational { num: 60000, den: 1001 };
    let mut v = VideoFormat::packed(PixelFormat::Nv12, 1920, 1080, fps, Colour::BT709_LIMITED).unwrap();
    v.hdr = Some(HdrStatic { max_luminance: 10_000_000, primaries_xy: [[1, 2], [3, 4], [5, 6]], ..Default::default() });
    v
}

#[test]
fn formats_survive_the_table() {
    for format in [
        StreamFormat::Video(sample()),
        StreamFormat::Coded(Codec::Av1, sample()),
        StreamFormat::Audio { sample_rate: 48000, channels: 2 },
        StreamFormat::Data,
    ] {
        assert_eq!(decode_format(&encode_format(&format, 7)).unwrap(), format);
    }
}

proptest! {
    #[test]
    fn garbage_formats_are_refused_or_checked_but_never_panic(words: [u64; FORMAT_WORDS], bytes: u64) {
        if let Ok(format) = decode_format(&words) && let Some(v) = format.video() {
            let _ = v.check(bytes);
        }
    }

    #[test]
    fn garbage_side_data_ends_without_reading_beyond(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let total: usize = side::items(&bytes).map(|(_, v)| v.len() + 4).sum();
        prop_assert!(total <= bytes.len());
    }

    #[test]
    fn heads_survive_the_slot(key: u64, flags: u16, format_index: u16, capture_ns: u64, ring_uid in 1u32.., generation: u32,
                              index: u16, offset: u32, len: u32, rslot: u16, rseq: u32) {
        let head = FrameHead {
            key: Key(key), flags, format_index, capture_ns,
            buffer: BufferRef { ring_uid, generation, index, offset, len },
            reference: Some(SlotReference { ring_uid: 1, slot: rslot, seq_low: rseq }),
        };
        let mut words = [0; SLOT_WORDS];
        encode_head(&head, &mut words);
        let mut line = [0; 8];
        line.copy_from_slice(&words[..8]);
        prop_assert_eq!(decode_head(&line), head);
    }

    #[test]
    fn parts_beyond_the_unit_are_left_out(words: [u64; 8], len: u32) {
        let details = FrameDetails { tail: words, ..Default::default() };
        for part in details.parts(len) {
            prop_assert!(u64::from(part.offset) + u64::from(part.len) <= u64::from(len));
        }
    }
}

#[test]
fn side_data_round_trips() {
    let mut area = [0u8; 32];
    let used = side::push(&mut area, 0, side::DAMAGE, &[1, 2, 3]).unwrap();
    let used = side::push(&mut area, used, side::CAPTIONS, &[9]).unwrap();
    assert_eq!(used, 12);
    assert!(side::push(&mut area, used, 7, &[0; 40]).is_none());
    let items: Vec<_> = side::items(&area).collect();
    assert_eq!(items, [(side::DAMAGE, &[1u8, 2, 3][..]), (side::CAPTIONS, &[9u8][..])]);
}
