//! The headers that hardware encoders are handed, read by FFmpeg: each field is what was meant.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

use kernel_c_encode::bitstream::av1_write;
use kernel_c_encode::bitstream::h264_write;
use kernel_c_encode::bitstream::hevc_write::{self, Blocks, Tools};
use kernel_c_encode::settings::H264Profile;
use shm_protocol::frame::{ChromaSiting, Colour, Range, Rational};
use std::process::Command;

/// Colour that differs from every default.
const HLG: Colour = Colour { matrix: 9, primaries: 9, transfer: 18, range: Range::Full, siting: ChromaSiting::TopLeft };

/// Every field FFmpeg's header reader sees in `stream`, in order. `None`: FFmpeg is not installed.
fn trace(format: &str, stream: &[u8]) -> Option<Vec<(String, i64)>> {
    if !Command::new("ffmpeg").arg("-version").output().is_ok_and(|o| o.status.success()) {
        println!("SKIPPED: ffmpeg is not installed (Debian package ffmpeg)");
        return None;
    }
    let file = tempfile::Builder::new().suffix(&format!(".{format}")).tempfile().unwrap();
    std::fs::write(file.path(), stream).unwrap();
    let output = Command::new("ffmpeg")
        .args(["-hide_banner", "-nostdin", "-v", "verbose", "-f", format, "-i"])
        .arg(file.path())
        .args(["-c", "copy", "-bsf:v", "trace_headers", "-f", "null", "-"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    let fields: Vec<(String, i64)> = text
        .lines()
        .filter_map(|line| {
            let line = line.strip_prefix("[trace_headers @ ")?.split_once("] ")?.1;
            let (left, value) = line.rsplit_once(" = ")?;
            Some((left.split_whitespace().nth(1)?.to_owned(), value.trim().parse().ok()?))
        })
        .collect();
    assert!(!fields.is_empty(), "FFmpeg read nothing:\n{text}");
    for complaint in ["Invalid", "invalid", "out of range", "not available", "Failed", "reserved"] {
        let said = text.lines().find(|line| {
            (line.contains("trace_headers") || line.contains("parser"))
                && line.contains(complaint)
                && !line.contains(" = ")
        });
        assert_eq!(said, None, "{text}");
    }
    Some(fields)
}

/// Asserts that the fields named come in this order with these values, others between them.
fn assert_fields(fields: &[(String, i64)], expected: &[(&str, i64)]) {
    let mut rest = fields.iter();
    for (name, value) in expected {
        let seen = rest.find(|(seen, _)| seen == name).unwrap_or_else(|| panic!("no (further) {name} in {fields:?}"));
        assert_eq!(seen.1, *value, "{name} in {fields:?}");
    }
}

/// Adds a unit of `bits` bits and slice data that no reader trips over.
fn add_slice(stream: &mut Vec<u8>, header: &[u8], bits: usize) {
    stream.extend_from_slice(&header[..bits.div_ceil(8)]);
    if !bits.is_multiple_of(8) {
        *stream.last_mut().unwrap() |= 0xff >> (bits % 8);
    }
    stream.extend_from_slice(&[0x55; 64]);
}

#[test]
fn ffmpeg_reads_the_h264_headers_as_meant() {
    let sequence = h264_write::Sequence {
        profile: H264Profile::High,
        level_idc: 42,
        width: 1918,
        height: 1080,
        fps: Rational { num: 60_000, den: 1001 },
        colour: HLG,
        cabac: true,
        transform_8x8: true,
        init_qp: 28,
    };
    let mut stream = Vec::new();
    let mut out = [0; 512];
    let len = sequence.write_sps(&mut out).unwrap();
    stream.extend_from_slice(&out[..len]);
    let len = sequence.write_pps(&mut out).unwrap();
    stream.extend_from_slice(&out[..len]);
    for (first_mb, idr, frame_num) in
        [(0, Some(1), 0), (4080, Some(1), 0), (0, None, 1), (4080, None, 1), (0, None, 255)]
    {
        out.fill(0);
        let slice =
            h264_write::Slice { first_mb, idr_pic_id: idr, frame_num, poc_lsb: frame_num * 2 % 256, qp_delta: -3 };
        let bits = sequence.write_slice(&slice, &mut out).unwrap();
        add_slice(&mut stream, &out, bits);
    }
    let Some(fields) = trace("h264", &stream) else { return };
    let sps = [
        ("profile_idc", 100),
        ("level_idc", 42),
        ("log2_max_frame_num_minus4", 4),
        ("max_num_ref_frames", 1),
        ("pic_width_in_mbs_minus1", 119),
        ("frame_crop_right_offset", 1),
        ("frame_crop_bottom_offset", 4),
        ("video_full_range_flag", 1),
        ("colour_primaries", 9),
        ("transfer_characteristics", 18),
        ("matrix_coefficients", 9),
        ("chroma_sample_loc_type_top_field", 2),
        ("num_units_in_tick", 1001),
        ("time_scale", 120_000),
        ("max_num_reorder_frames", 0),
        ("entropy_coding_mode_flag", 1),
        ("pic_init_qp_minus26", 2),
        ("transform_8x8_mode_flag", 1),
    ];
    assert_fields(&fields, &sps);
    let slices = [
        ("first_mb_in_slice", 0),
        ("slice_type", 2),
        ("idr_pic_id", 1),
        ("slice_qp_delta", -3),
        ("first_mb_in_slice", 4080),
        ("first_mb_in_slice", 0),
        ("slice_type", 0),
        ("frame_num", 1),
        ("pic_order_cnt_lsb", 2),
        ("slice_qp_delta", -3),
        ("slice_beta_offset_div2", 0),
        ("frame_num", 1),
        ("frame_num", 255),
    ];
    assert_fields(&fields, &slices);
}

fn hevc(bit_depth: u8, tiles: (u8, u8), low_delay_b: bool, tools: Tools) -> hevc_write::Sequence {
    hevc_write::Sequence {
        width: 1918,
        height: 1080,
        fps: Rational { num: 50, den: 1 },
        colour: HLG,
        bit_depth,
        level_idc: 123,
        high_tier: true,
        blocks: Blocks { log2_min_cb: 4, log2_ctb: 5, log2_min_tb: 2, log2_max_tb: 5, depth_inter: 2, depth_intra: 1 },
        tools,
        init_qp: 30,
        tiles,
        low_delay_b,
    }
}

#[test]
fn ffmpeg_reads_the_hevc_headers_as_meant() {
    let all = Tools {
        amp: true,
        sao: true,
        temporal_mvp: true,
        strong_intra: true,
        sign_hiding: true,
        constrained_intra: false,
        transform_skip: true,
        cu_qp_delta: true,
    };
    for (bit_depth, tiles, low_delay_b, tools) in [
        (8, (1, 1), false, Tools::default()),
        (10, (4, 2), true, all),
        (8, (2, 2), false, Tools { sao: true, ..Tools::default() }),
        (10, (1, 1), true, Tools { temporal_mvp: true, ..Tools::default() }),
    ] {
        let sequence = hevc(bit_depth, tiles, low_delay_b, tools);
        let mut stream = Vec::new();
        let mut out = [0; 512];
        let len = sequence.write_vps(&mut out).unwrap();
        stream.extend_from_slice(&out[..len]);
        let len = sequence.write_sps(&mut out).unwrap();
        stream.extend_from_slice(&out[..len]);
        let len = sequence.write_pps(&mut out).unwrap();
        stream.extend_from_slice(&out[..len]);
        for (address, idr, poc) in [(0, true, 0), (1020, true, 0), (0, false, 1), (1020, false, 1), (0, false, 258)] {
            let slice = hevc_write::Slice { address, idr, poc, qp_delta: 7 };
            let bits = sequence.write_slice(&slice, &mut out).unwrap();
            add_slice(&mut stream, &out, bits);
        }
        let Some(fields) = trace("hevc", &stream) else { return };
        let sets = [
            ("general_profile_idc", if bit_depth == 10 { 2 } else { 1 }),
            ("general_tier_flag", 1),
            ("general_profile_idc", if bit_depth == 10 { 2 } else { 1 }),
            ("general_level_idc", 123),
            ("pic_width_in_luma_samples", 1920),
            ("pic_height_in_luma_samples", 1088),
            ("conf_win_right_offset", 1),
            ("conf_win_bottom_offset", 4),
            ("bit_depth_luma_minus8", i64::from(bit_depth) - 8),
            ("log2_max_pic_order_cnt_lsb_minus4", 4),
            ("log2_min_luma_coding_block_size_minus3", 1),
            ("log2_diff_max_min_luma_coding_block_size", 1),
            ("max_transform_hierarchy_depth_inter", 2),
            ("max_transform_hierarchy_depth_intra", 1),
            ("amp_enabled_flag", i64::from(tools.amp)),
            ("sample_adaptive_offset_enabled_flag", i64::from(tools.sao)),
            ("num_short_term_ref_pic_sets", 1),
            ("sps_temporal_mvp_enabled_flag", i64::from(tools.temporal_mvp)),
            ("video_full_range_flag", 1),
            ("transfer_characteristics", 18),
            ("chroma_sample_loc_type_top_field", 2),
            ("vui_num_units_in_tick", 1),
            ("vui_time_scale", 50),
            ("sign_data_hiding_enabled_flag", i64::from(tools.sign_hiding)),
            ("init_qp_minus26", 4),
            ("cu_qp_delta_enabled_flag", i64::from(tools.cu_qp_delta)),
            ("tiles_enabled_flag", i64::from(tiles != (1, 1))),
        ];
        assert_fields(&fields, &sets);
        let inter = if low_delay_b { 0 } else { 1 };
        let slices = [
            ("first_slice_segment_in_pic_flag", 1),
            ("slice_type", 2),
            ("slice_qp_delta", 7),
            ("slice_segment_address", 1020),
            ("slice_qp_delta", 7),
            ("nal_unit_type", 1),
            ("slice_type", inter),
            ("slice_pic_order_cnt_lsb", 1),
            ("short_term_ref_pic_set_sps_flag", 1),
            ("slice_qp_delta", 7),
            ("slice_segment_address", 1020),
            ("slice_qp_delta", 7),
            ("slice_loop_filter_across_slices_enabled_flag", 1),
            ("slice_pic_order_cnt_lsb", 2),
        ];
        assert_fields(&fields, &slices);
    }
}

#[test]
fn ffmpeg_reads_the_av1_headers_as_meant() {
    for (bit_depth, cdef, tiles, tx_select) in
        [(8, false, (1, 1), false), (10, true, (2, 2), true), (8, true, (4, 1), true)]
    {
        let (width, height) = (1918, 1080);
        let grid = av1_write::TileLimits::of(width, height).fit(tiles.0, tiles.1).unwrap();
        let sequence = av1_write::Sequence {
            width,
            height,
            bit_depth,
            colour: HLG,
            level_idx: 9,
            high_tier: true,
            cdef,
            tiles_log2: grid.log2,
            tile_size_bytes: 2,
            obu_size_bytes: 4,
            tx_select,
        };
        // An IVF file says the size itself, so that FFmpeg goes on although the tiles mean nothing.
        let mut file = b"DKIF\0\0\x20\0AV01".to_vec();
        file.extend_from_slice(&[(width as u16).to_le_bytes(), (height as u16).to_le_bytes()].concat());
        file.extend([30u32, 1, 3, 0].iter().flat_map(|v| v.to_le_bytes()));
        let mut out = [0; 512];
        for (index, key) in [true, false, false].into_iter().enumerate() {
            let mut stream = vec![0x12, 0];
            if key {
                let len = sequence.write_sequence(&mut out).unwrap();
                stream.extend_from_slice(&out[..len]);
            }
            let frame = av1_write::Frame {
                key,
                order: index as u32,
                reference_slot: 1 - index as u8 % 2,
                refresh: if key { 0xff } else { 1 << (index % 2) },
                q_idx: 100 + index as u8,
                filter: [9, 8, 7, 6],
            };
            let offsets = sequence.write_frame(&frame, &mut out).unwrap();
            stream.extend_from_slice(&out[..offsets.bits.div_ceil(8) as usize]);
            // A tile group of all tiles: its first bit, where there are several, says that none is named.
            stream.extend_from_slice(&[0x22, 40]);
            let mut group = [0u8; 40];
            if tiles != (1, 1) {
                // Sizes of all tiles but the last, less one, two bytes each, little endian.
                for tile in 0..tiles.0 * tiles.1 - 1 {
                    group[1 + tile as usize * 6] = 3;
                }
            }
            stream.extend_from_slice(&group);
            file.extend_from_slice(&(stream.len() as u32).to_le_bytes());
            file.extend_from_slice(&(index as u64).to_le_bytes());
            file.extend_from_slice(&stream);
        }
        let Some(fields) = trace("ivf", &file) else { return };
        let mut expected = vec![
            ("seq_profile", 0),
            ("seq_level_idx[0]", 9),
            ("seq_tier[0]", 1),
            ("max_frame_width_minus_1", 1917),
            ("max_frame_height_minus_1", 1079),
            ("enable_order_hint", 1),
            ("order_hint_bits_minus_1", 7),
            ("enable_cdef", i64::from(cdef)),
            ("high_bitdepth", i64::from(bit_depth == 10)),
            ("color_primaries", 9),
            ("transfer_characteristics", 18),
            ("matrix_coefficients", 9),
            ("color_range", 1),
            ("chroma_sample_position", 2),
            ("film_grain_params_present", 0),
            ("trailing_one_bit", 1),
            ("frame_type", 0),
            ("show_frame", 1),
            ("base_q_idx", 100),
            ("loop_filter_level[0]", 9),
            ("loop_filter_level[3]", 6),
        ];
        if cdef {
            expected.push(("cdef_damping_minus_3", 0));
        }
        expected.extend([
            ("trailing_one_bit", 1),
            ("frame_type", 1),
            ("error_resilient_mode", 0),
            ("order_hint", 1),
            ("refresh_frame_flags", 2),
            ("ref_frame_idx[0]", 0),
            ("ref_frame_idx[6]", 0),
            ("base_q_idx", 101),
            ("reference_select", 0),
            ("is_global[7]", 0),
            ("trailing_one_bit", 1),
            ("order_hint", 2),
            ("refresh_frame_flags", 1),
            ("ref_frame_idx[6]", 1),
            ("base_q_idx", 102),
            ("trailing_one_bit", 1),
        ]);
        assert_fields(&fields, &expected);
        let tx: Vec<i64> = fields.iter().filter(|(name, _)| name == "tx_mode").map(|(_, v)| *v).collect();
        assert_eq!(tx, [1 + i64::from(tx_select); 3], "TX_MODE_LARGEST is 1, TX_MODE_SELECT is 2");
    }
}
