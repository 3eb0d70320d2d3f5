use super::*;
use h264_reader::nal::sps::SeqParameterSet;
use h264_reader::nal::{Nal, RefNal};

fn sample(profile_idc: u8) -> Sps {
    Sps {
        profile_idc,
        constraint_flags: 0xc0,
        level_idc: 42,
        id: 0,
        chroma_format_idc: 1,
        bit_depth_luma: 8,
        bit_depth_chroma: 8,
        log2_max_frame_num: 15,
        poc_type: 0,
        log2_max_poc_lsb: 16,
        max_num_ref_frames: 1,
        gaps_in_frame_num_allowed: false,
        width_mbs: 120,
        height_map_units: 68,
        frame_mbs_only: true,
        mb_adaptive_frame_field: false,
        direct_8x8_inference: true,
        crop: Some([0, 0, 0, 4]),
        vui: Some(Vui {
            aspect_ratio: Some((255, 64, 45)),
            overscan_appropriate: Some(true),
            video_signal: Some(VideoSignal { video_format: 5, full_range: true, colour: Some((9, 16, 9)) }),
            chroma_loc: Some((2, 2)),
            timing: Some((1001, 120_000, true)),
            pic_struct_present: false,
            restriction: Some(Restriction {
                motion_over_boundaries: true,
                max_bytes_per_pic_denom: 0,
                max_bits_per_mb_denom: 0,
                log2_max_mv_horizontal: 16,
                log2_max_mv_vertical: 16,
                max_num_reorder_frames: 0,
                max_dec_frame_buffering: 1,
            }),
        }),
    }
}

#[test]
fn what_is_written_is_read_back() {
    for profile_idc in [66, 77, 100] {
        for chroma_loc in [None, Some((0, 0)), Some((1, 1))] {
            let mut sps = sample(profile_idc);
            if let Some(vui) = &mut sps.vui {
                vui.chroma_loc = chroma_loc;
            }
            let mut nal = [0; MAX_SPS_BYTES];
            let len = sps.write(0x67, &mut nal).unwrap();
            assert_eq!(Sps::parse(&nal[..len]), Some(sps));
        }
    }
}

#[test]
fn another_parser_reads_the_same() {
    for profile_idc in [66, 100] {
        let sps = sample(profile_idc);
        let mut nal = [0; MAX_SPS_BYTES];
        let len = sps.write(0x67, &mut nal).unwrap();
        let other = SeqParameterSet::from_bits(RefNal::new(&nal[..len], &[], true).rbsp_bits()).unwrap();
        assert_eq!(other.pixel_dimensions().unwrap(), (1920, 1080));
        assert_eq!(sps.size(), Some((1920, 1080)));
        assert_eq!(other.log2_max_frame_num(), 15);
        let vui = other.vui_parameters.unwrap();
        let text = format!("{vui:?}");
        assert!(text.contains("num_units_in_tick: 1001"), "{text}");
        assert!(text.contains("chroma_sample_loc_type_top_field: 2"), "{text}");
        let restriction = vui.bitstream_restrictions.unwrap();
        assert_eq!(restriction.max_num_reorder_frames, 0);
        assert_eq!(restriction.max_dec_frame_buffering, 1);
    }
}

#[test]
fn a_cut_or_foreign_unit_is_refused() {
    let mut nal = [0; MAX_SPS_BYTES];
    let len = sample(66).write(0x67, &mut nal).unwrap();
    for cut in 0..len {
        assert_eq!(Sps::parse(&nal[..cut]), None, "cut at {cut}");
    }
    nal[0] = 0x68;
    assert_eq!(Sps::parse(&nal[..len]), None);
    assert_eq!(sample(66).write(0x67, &mut [0; 8]), None);
}

#[test]
fn siting_is_set_without_touching_the_rest() {
    let mut sps = sample(66);
    sps.set_chroma_siting(ChromaSiting::Center);
    assert_eq!(sps.vui.unwrap().chroma_loc, Some((1, 1)));
    sps.set_chroma_siting(ChromaSiting::TopLeft);
    assert_eq!(sps, sample(66));
}
