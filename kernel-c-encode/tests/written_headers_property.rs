//! Whatever the values, written headers are read back as they were meant.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

use kernel_c_encode::bitstream::annexb::{nal_units, unescape};
use kernel_c_encode::bitstream::av1::{is_key_frame, obus};
use kernel_c_encode::bitstream::av1_write::{self, TileLimits};
use kernel_c_encode::bitstream::bits::BitReader;
use kernel_c_encode::bitstream::h264::SliceHeader;
use kernel_c_encode::bitstream::h264_sps::Sps;
use kernel_c_encode::bitstream::h264_write;
use kernel_c_encode::bitstream::hevc_write::{self, Blocks, Tools};
use kernel_c_encode::settings::H264Profile;
use proptest::prelude::*;
use shm_protocol::frame::{ChromaSiting, Colour, Range, Rational};

fn colours() -> impl Strategy<Value = Colour> {
    let siting = prop_oneof![Just(ChromaSiting::Left), Just(ChromaSiting::Center), Just(ChromaSiting::TopLeft)];
    (any::<[u8; 3]>(), any::<bool>(), siting).prop_map(|([matrix, primaries, transfer], full, siting)| Colour {
        matrix,
        primaries,
        transfer,
        range: if full { Range::Full } else { Range::Limited },
        siting,
    })
}

fn sizes() -> impl Strategy<Value = (u32, u32)> {
    (8u32..4096, 8u32..2304).prop_map(|(width, height)| (width * 2, height * 2))
}

proptest! {
    #[test]
    fn h264_headers_come_back(
        (width, height) in sizes(), colour in colours(), fps in (1u32..240_000, 1u32..2000), level in 10u8..=62,
        init_qp in 0u8..=51, profile in 0usize..3, first_mb in 0u32..139_264, idr in any::<Option<u16>>(),
        frame_num in 0u16..256, poc_lsb in 0u16..256, qp in 0u8..=51,
    ) {
        let profile = [H264Profile::ConstrainedBaseline, H264Profile::Main, H264Profile::High][profile];
        let sequence = h264_write::Sequence {
            profile, level_idc: level, width, height, fps: Rational { num: fps.0, den: fps.1 }, colour,
            cabac: profile != H264Profile::ConstrainedBaseline, transform_8x8: profile == H264Profile::High, init_qp,
        };
        let mut out = [0; 512];
        let len = sequence.write_sps(&mut out).unwrap();
        let units: Vec<_> = nal_units(&out[..len]).collect();
        prop_assert_eq!(units.len(), 1, "no start code within");
        let sps = Sps::parse(units[0].nal).unwrap();
        prop_assert_eq!(sps.size(), Some((width, height)));
        prop_assert_eq!(sps.vui.unwrap().colour(), (colour.primaries, colour.transfer, colour.matrix, colour.range));
        prop_assert_eq!(sps, sequence.sps());
        let qp_delta = qp as i8 - init_qp as i8;
        let slice = h264_write::Slice { first_mb, idr_pic_id: idr, frame_num, poc_lsb, qp_delta };
        out.fill(0);
        let bits = sequence.write_slice(&slice, &mut out).unwrap();
        out[bits / 8] |= 0xff >> (bits % 8);
        let read = SliceHeader::parse(&out[4..bits / 8 + 1], &sps).unwrap();
        prop_assert_eq!((read.first_mb, read.frame_num), (first_mb, u32::from(frame_num)));
        prop_assert_eq!((read.idr_pic_id, read.poc_lsb), (idr.map(u32::from), Some(u32::from(poc_lsb))));
    }

    #[test]
    fn hevc_slice_headers_come_back(
        (width, height) in sizes(), colour in colours(), place in 0.0f64..1.0, idr in any::<bool>(), poc in any::<u32>(),
        init_qp in 0u8..=51, qp in 0u8..=51, sao in any::<bool>(), low_delay_b in any::<bool>(),
    ) {
        let sequence = hevc_write::Sequence {
            width, height, fps: Rational { num: 50, den: 1 }, colour, bit_depth: 8, level_idc: 153, high_tier: false,
            blocks: Blocks { log2_min_cb: 3, log2_ctb: 6, log2_min_tb: 2, log2_max_tb: 5, depth_inter: 1, depth_intra: 1 },
            tools: Tools { sao, ..Tools::default() }, init_qp, tiles: (1, 1), low_delay_b,
        };
        let (columns, rows) = sequence.size_ctbs();
        let address = (f64::from(columns * rows) * place) as u32;
        let qp_delta = qp as i8 - init_qp as i8;
        let mut out = [0; 512];
        let bits = sequence.write_slice(&hevc_write::Slice { address, idr, poc, qp_delta }, &mut out).unwrap();
        prop_assert_eq!(nal_units(&out[..bits / 8]).count(), 1, "no start code within");
        let mut rbsp = [0; 128];
        let len = unescape(&out[6..bits / 8], &mut rbsp);
        let mut r = BitReader::new(&rbsp[..len]);
        prop_assert_eq!(r.flag(), Some(address == 0));
        if idr {
            prop_assert_eq!(r.flag(), Some(false));
        }
        prop_assert_eq!(r.ue(), Some(0));
        if address != 0 {
            // As many bits as the largest address needs.
            let most = columns * rows - 1;
            prop_assert_eq!(r.bits(u32::BITS - most.leading_zeros()), Some(address));
        }
        let kind = if idr { 2 } else { u32::from(!low_delay_b) };
        prop_assert_eq!(r.ue(), Some(kind));
        if !idr {
            prop_assert_eq!((r.bits(8), r.flag()), (Some(poc % 256), Some(true)));
        }
        if sao {
            prop_assert_eq!(r.bits(2), Some(3));
        }
        if !idr {
            let flags = if low_delay_b { 2 } else { 1 };
            prop_assert_eq!((r.bits(flags), r.ue()), (Some(0), Some(0)));
        }
        prop_assert_eq!((r.se(), r.flag()), (Some(i32::from(qp_delta)), Some(true)));
        prop_assert_eq!(r.flag(), Some(true), "the alignment begins with a one");
    }

    #[test]
    fn av1_headers_are_whole_units_whose_offsets_hold(
        (width, height) in sizes(), colour in colours(), key in any::<bool>(), order in any::<u32>(), q_idx in 1u8..=255,
        filter in any::<[u8; 4]>(), cdef in any::<bool>(), obu_size_bytes in 2u8..=4, columns_log2 in 0u32..3,
    ) {
        let limits = TileLimits::of(width, height);
        let Some(grid) = limits.fit(1 << columns_log2, 1) else { return Ok(()) };
        prop_assert!(grid.count.0 * grid.size.0 >= limits.superblocks.0);
        prop_assert!(grid.count.1 * grid.size.1 >= limits.superblocks.1);
        let sequence = av1_write::Sequence {
            width, height, bit_depth: 8, colour, level_idx: 13, high_tier: false, cdef, tiles_log2: grid.log2,
            tile_size_bytes: 4, obu_size_bytes, tx_select: true,
        };
        let mut out = [0xee; 512];
        let len = sequence.write_sequence(&mut out).unwrap();
        prop_assert_eq!(obus(&out[..len]).map(|obu| (obu.kind, obu.bytes.len())).collect::<Vec<_>>(), [(1, len)]);
        let filter = filter.map(|level| level % 64);
        let frame = av1_write::Frame { key, order, reference_slot: 1, refresh: 1, q_idx, filter };
        let offsets = sequence.write_frame(&frame, &mut out).unwrap();
        let bytes = &out[..offsets.bits.div_ceil(8) as usize];
        prop_assert_eq!(obus(bytes).map(|obu| obu.bytes.len()).collect::<Vec<_>>(), [bytes.len()]);
        prop_assert_eq!(is_key_frame(bytes), key);
        let read = |at: u32, count: u32| {
            (at..at + count).fold(0, |value, bit| value << 1 | u32::from(bytes[bit as usize / 8] >> (7 - bit % 8) & 1))
        };
        prop_assert_eq!(read(offsets.q_idx, 8), u32::from(q_idx));
        prop_assert_eq!(read(offsets.loop_filter, 6), u32::from(filter[0]));
        prop_assert_eq!(read(offsets.bits - 1, 1), 1);
    }
}
