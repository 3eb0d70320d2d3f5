//! HEVC parameter sets and slice headers as a hardware encoder is handed them: one reference, one layer, progressive
//! 4:2:0 of 8 or 10 bit (ITU-T H.265 7.3.2, 7.3.6).

use super::annexb::escape;
use super::bits::BitWriter;
use super::h264_write::{start_code, video_signal};
use super::hevc::nal_type;
use shm_protocol::frame::{ChromaSiting, Colour, Rational};

/// log2 of MaxPicOrderCntLsb; the only reference is the picture before, so that the wrap does no harm.
pub const LOG2_MAX_POC: u32 = 8;
/// Longest parameter set, bytes: the fields below fill at most 130 bytes.
pub const MAX_SET_BYTES: usize = 256;
/// Longest slice header, bytes.
pub const MAX_HEADER_BYTES: usize = 96;
/// Most tile columns and rows (Table A.8, level 6.2).
pub const MAX_TILES: (usize, usize) = (20, 22);
/// Type of a picture that others refer to and that is no random access point (TRAIL_R).
pub const TRAIL_R: u8 = 1;

/// What the coding blocks of a stream are, as the device says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocks {
    /// log2 of the smallest coding block.
    pub log2_min_cb: u8,
    /// log2 of the coding tree block.
    pub log2_ctb: u8,
    /// log2 of the smallest transform block.
    pub log2_min_tb: u8,
    /// log2 of the largest transform block.
    pub log2_max_tb: u8,
    /// `max_transform_hierarchy_depth_inter`.
    pub depth_inter: u8,
    /// `max_transform_hierarchy_depth_intra`.
    pub depth_intra: u8,
}

/// Tools in use, as the device says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tools {
    /// Asymmetric motion partitions.
    pub amp: bool,
    /// Sample adaptive offset.
    pub sao: bool,
    /// Temporal motion vector prediction.
    pub temporal_mvp: bool,
    /// Strong intra smoothing.
    pub strong_intra: bool,
    /// Sign data hiding.
    pub sign_hiding: bool,
    /// Constrained intra prediction.
    pub constrained_intra: bool,
    /// Transform skip.
    pub transform_skip: bool,
    /// The quantiser may change from block to block: what a rate control within the picture needs.
    pub cu_qp_delta: bool,
}

/// What a stream is described by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sequence {
    /// Visible width, pixels; even.
    pub width: u32,
    /// Visible height, pixels; even.
    pub height: u32,
    /// Frames per second.
    pub fps: Rational,
    /// Colour, carried in the VUI.
    pub colour: Colour,
    /// 8 or 10.
    pub bit_depth: u8,
    /// `general_level_idc`.
    pub level_idc: u8,
    /// High tier.
    pub high_tier: bool,
    /// Block sizes.
    pub blocks: Blocks,
    /// Tools.
    pub tools: Tools,
    /// Quantisation parameter that slices count from.
    pub init_qp: u8,
    /// Tile columns and rows, evenly spaced.
    pub tiles: (u8, u8),
    /// P pictures are written as B slices that look back only, for devices that know no P.
    pub low_delay_b: bool,
}

/// What a slice is described by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Address of its first coding tree block in raster order.
    pub address: u32,
    /// Part of an IDR picture.
    pub idr: bool,
    /// Picture order count; the bits that are written are taken from it.
    pub poc: u32,
    /// Quantisation parameter less [`Sequence::init_qp`].
    pub qp_delta: i8,
}

/// Where part `index` of `parts` even parts of `whole` begins (6.5.1, uniform spacing).
pub const fn even_start(whole: u32, parts: u32, index: u32) -> u32 {
    whole * index / parts
}

impl Sequence {
    /// Width and height as coded: multiples of the smallest coding block.
    pub fn coded_size(&self) -> (u32, u32) {
        let unit = 1 << self.blocks.log2_min_cb;
        (self.width.next_multiple_of(unit), self.height.next_multiple_of(unit))
    }

    /// Width and height in coding tree blocks.
    pub fn size_ctbs(&self) -> (u32, u32) {
        let (width, height) = self.coded_size();
        let unit = 1 << self.blocks.log2_ctb;
        (width.div_ceil(unit), height.div_ceil(unit))
    }

    /// `slice_type` of a picture that is no IDR: B (0) or P (1).
    pub fn inter_slice_type(&self) -> u8 {
        if self.low_delay_b { 0 } else { 1 }
    }

    /// Type of the NAL units of a picture.
    pub fn picture_nal(idr: bool) -> u8 {
        if idr { nal_type::IDR_N_LP } else { TRAIL_R }
    }

    /// `profile_tier_level` without sub-layers (7.3.3).
    fn profile_tier_level(&self, w: &mut BitWriter<'_>) {
        let profile = self.profile_idc();
        w.bits(2, 0); // general_profile_space
        w.flag(self.high_tier);
        w.bits(5, u32::from(profile));
        for compatible in 0..32 {
            // What a Main decoder reads a Main 10 decoder reads too.
            w.flag(compatible == 2 || compatible == u32::from(profile));
        }
        w.flag(true); // general_progressive_source_flag
        w.flag(false); // general_interlaced_source_flag
        w.flag(false); // general_non_packed_constraint_flag
        w.flag(true); // general_frame_only_constraint_flag
        w.bits(22, 0);
        w.bits(22, 0); // 43 reserved bits and general_inbld_flag
        w.bits(8, u32::from(self.level_idc));
    }

    /// `general_profile_idc`: Main (1) or Main 10 (2).
    pub fn profile_idc(&self) -> u8 {
        if self.bit_depth == 10 { 2 } else { 1 }
    }

    /// Pictures kept: this one and its reference; none is output out of order.
    fn decoded_pictures(w: &mut BitWriter<'_>) {
        w.ue(1); // max_dec_pic_buffering_minus1
        w.ue(0); // max_num_reorder_pics
        w.ue(0); // max_latency_increase_plus1
    }

    /// Writes the video parameter set with its start code; returns its bytes, `None` when `out` is too small.
    pub fn write_vps(&self, out: &mut [u8]) -> Option<usize> {
        write_nal(nal_type::VPS, out, |w| {
            w.bits(4, 0); // vps_video_parameter_set_id
            w.bits(2, 3); // base layer internal and available
            w.bits(6, 0); // vps_max_layers_minus1
            w.bits(3, 0); // vps_max_sub_layers_minus1
            w.flag(true); // vps_temporal_id_nesting_flag
            w.bits(16, 0xffff);
            self.profile_tier_level(w);
            w.flag(true); // vps_sub_layer_ordering_info_present_flag
            Self::decoded_pictures(w);
            w.bits(6, 0); // vps_max_layer_id
            w.ue(0); // vps_num_layer_sets_minus1
            w.flag(false); // vps_timing_info_present_flag: it is in the VUI
            w.flag(false); // vps_extension_flag
        })
    }

    /// Writes the sequence parameter set with its start code; returns its bytes, `None` when `out` is too small.
    pub fn write_sps(&self, out: &mut [u8]) -> Option<usize> {
        let (width, height) = self.coded_size();
        let (right, bottom) = ((width - self.width) / 2, (height - self.height) / 2);
        let (b, t) = (&self.blocks, &self.tools);
        write_nal(nal_type::SPS, out, |w| {
            w.bits(4, 0); // sps_video_parameter_set_id
            w.bits(3, 0); // sps_max_sub_layers_minus1
            w.flag(true); // sps_temporal_id_nesting_flag
            self.profile_tier_level(w);
            w.ue(0); // sps_seq_parameter_set_id
            w.ue(1); // chroma_format_idc
            w.ue(width);
            w.ue(height);
            w.flag(right + bottom > 0);
            if right + bottom > 0 {
                [0, right, 0, bottom].into_iter().for_each(|side| w.ue(side));
            }
            w.ue(u32::from(self.bit_depth) - 8);
            w.ue(u32::from(self.bit_depth) - 8);
            w.ue(LOG2_MAX_POC - 4);
            w.flag(true); // sps_sub_layer_ordering_info_present_flag
            Self::decoded_pictures(w);
            w.ue(u32::from(b.log2_min_cb) - 3);
            w.ue(u32::from(b.log2_ctb - b.log2_min_cb));
            w.ue(u32::from(b.log2_min_tb) - 2);
            w.ue(u32::from(b.log2_max_tb - b.log2_min_tb));
            w.ue(u32::from(b.depth_inter));
            w.ue(u32::from(b.depth_intra));
            w.flag(false); // scaling_list_enabled_flag
            w.flag(t.amp);
            w.flag(t.sao);
            w.flag(false); // pcm_enabled_flag
            w.ue(1); // num_short_term_ref_pic_sets: the picture before, used by this one
            w.ue(1); // num_negative_pics
            w.ue(0); // num_positive_pics
            w.ue(0); // delta_poc_s0_minus1
            w.flag(true); // used_by_curr_pic_s0_flag
            w.flag(false); // long_term_ref_pics_present_flag
            w.flag(t.temporal_mvp);
            w.flag(t.strong_intra);
            w.flag(true); // vui_parameters_present_flag
            self.write_vui(w);
            w.flag(false); // sps_extension_present_flag
        })
    }

    fn write_vui(&self, w: &mut BitWriter<'_>) {
        w.flag(false); // aspect_ratio_info_present_flag
        w.flag(false); // overscan_info_present_flag
        let signal = video_signal(&self.colour);
        w.flag(true); // video_signal_type_present_flag
        w.bits(3, u32::from(signal.video_format));
        w.flag(signal.full_range);
        w.flag(signal.colour.is_some());
        if let Some((primaries, transfer, matrix)) = signal.colour {
            [primaries, transfer, matrix].into_iter().for_each(|code| w.bits(8, u32::from(code)));
        }
        let siting = self.colour.siting;
        w.flag(siting != ChromaSiting::Left);
        if siting != ChromaSiting::Left {
            w.ue(siting as u32);
            w.ue(siting as u32);
        }
        w.bits(3, 0); // neutral_chroma_indication, field_seq, frame_field_info_present
        w.flag(false); // default_display_window_flag
        w.flag(true); // vui_timing_info_present_flag
        w.bits(32, self.fps.den);
        w.bits(32, self.fps.num);
        w.flag(false); // vui_poc_proportional_to_timing_flag
        w.flag(false); // vui_hrd_parameters_present_flag
        w.flag(true); // bitstream_restriction_flag
        w.flag(false); // tiles_fixed_structure_flag
        w.flag(true); // motion_vectors_over_pic_boundaries_flag
        w.flag(true); // restricted_ref_pic_lists_flag
        w.ue(0); // min_spatial_segmentation_idc
        w.ue(0); // max_bytes_per_pic_denom
        w.ue(0); // max_bits_per_min_cu_denom
        w.ue(15); // log2_max_mv_length_horizontal
        w.ue(15); // log2_max_mv_length_vertical
    }

    /// Whether the picture has tiles.
    pub fn has_tiles(&self) -> bool {
        self.tiles.0 > 1 || self.tiles.1 > 1
    }

    /// Writes the picture parameter set with its start code; returns its bytes, `None` when `out` is too small.
    pub fn write_pps(&self, out: &mut [u8]) -> Option<usize> {
        let t = &self.tools;
        write_nal(nal_type::PPS, out, |w| {
            w.ue(0); // pps_pic_parameter_set_id
            w.ue(0); // pps_seq_parameter_set_id
            w.flag(false); // dependent_slice_segments_enabled_flag
            w.flag(false); // output_flag_present_flag
            w.bits(3, 0); // num_extra_slice_header_bits
            w.flag(t.sign_hiding);
            w.flag(false); // cabac_init_present_flag
            w.ue(0); // num_ref_idx_l0_default_active_minus1
            w.ue(0); // num_ref_idx_l1_default_active_minus1
            w.se(i32::from(self.init_qp) - 26);
            w.flag(t.constrained_intra);
            w.flag(t.transform_skip);
            w.flag(t.cu_qp_delta);
            if t.cu_qp_delta {
                w.ue(0); // diff_cu_qp_delta_depth
            }
            w.se(0); // pps_cb_qp_offset
            w.se(0); // pps_cr_qp_offset
            w.flag(false); // pps_slice_chroma_qp_offsets_present_flag
            w.bits(2, 0); // weighted_pred_flag, weighted_bipred_flag
            w.flag(false); // transquant_bypass_enabled_flag
            w.flag(self.has_tiles());
            w.flag(false); // entropy_coding_sync_enabled_flag
            if self.has_tiles() {
                w.ue(u32::from(self.tiles.0) - 1);
                w.ue(u32::from(self.tiles.1) - 1);
                w.flag(true); // uniform_spacing_flag
                w.flag(true); // loop_filter_across_tiles_enabled_flag
            }
            w.flag(true); // pps_loop_filter_across_slices_enabled_flag
            w.flag(false); // deblocking_filter_control_present_flag
            w.flag(false); // pps_scaling_list_data_present_flag
            w.flag(false); // lists_modification_present_flag
            w.ue(0); // log2_parallel_merge_level_minus2
            w.flag(false); // slice_segment_header_extension_present_flag
            w.flag(false); // pps_extension_present_flag
        })
    }

    /// Writes start code, NAL unit header and slice segment header with its alignment, with emulation prevention;
    /// returns the length in bits, `None` when `out` is too small.
    pub fn write_slice(&self, slice: &Slice, out: &mut [u8]) -> Option<usize> {
        let mut rbsp = [0; MAX_HEADER_BYTES];
        let mut w = BitWriter::new(&mut rbsp);
        w.flag(slice.address == 0);
        if slice.idr {
            w.flag(false); // no_output_of_prior_pics_flag
        }
        w.ue(0); // slice_pic_parameter_set_id
        if slice.address != 0 {
            let (width, height) = self.size_ctbs();
            // Ceil(Log2(PicSizeInCtbsY)) bits.
            w.bits((width * height - 1).checked_ilog2().map_or(0, |log2| log2 + 1), slice.address);
        }
        w.ue(if slice.idr { 2 } else { u32::from(self.inter_slice_type()) });
        if !slice.idr {
            w.bits(LOG2_MAX_POC, slice.poc % (1 << LOG2_MAX_POC));
            w.flag(true); // short_term_ref_pic_set_sps_flag; there is one set, so that its index has no bits
            if self.tools.temporal_mvp {
                w.flag(true); // slice_temporal_mvp_enabled_flag
            }
        }
        if self.tools.sao {
            w.bits(2, 3); // slice_sao_luma_flag, slice_sao_chroma_flag
        }
        if !slice.idr {
            w.flag(false); // num_ref_idx_active_override_flag
            if self.low_delay_b {
                w.flag(false); // mvd_l1_zero_flag
            }
            if self.tools.temporal_mvp && self.low_delay_b {
                w.flag(true); // collocated_from_l0_flag
            }
            w.ue(0); // five_minus_max_num_merge_cand
        }
        w.se(i32::from(slice.qp_delta));
        w.flag(true); // slice_loop_filter_across_slices_enabled_flag
        if self.has_tiles() {
            w.ue(0); // num_entry_point_offsets: a slice is a tile
        }
        let len = w.finish()?; // byte_alignment() is a one and zeros
        put_nal(Self::picture_nal(slice.idr), &rbsp[..len], out).map(|bytes| bytes * 8)
    }
}

/// Writes start code, NAL unit header (layer 0, temporal id 0) and `rbsp` with emulation prevention.
fn put_nal(kind: u8, rbsp: &[u8], out: &mut [u8]) -> Option<usize> {
    let body = start_code(out)?;
    body.get_mut(..2)?.copy_from_slice(&[kind << 1, 1]);
    Some(6 + escape(rbsp, &mut body[2..])?)
}

fn write_nal(kind: u8, out: &mut [u8], write: impl FnOnce(&mut BitWriter<'_>)) -> Option<usize> {
    let mut rbsp = [0; MAX_SET_BYTES];
    let mut w = BitWriter::new(&mut rbsp);
    write(&mut w);
    let len = w.finish()?;
    put_nal(kind, &rbsp[..len], out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm_protocol::frame::Range;

    fn sequence() -> Sequence {
        Sequence {
            width: 1920,
            height: 1080,
            fps: Rational { num: 30, den: 1 },
            colour: Colour { siting: ChromaSiting::TopLeft, range: Range::Full, ..Colour::BT709_LIMITED },
            bit_depth: 8,
            level_idc: 123,
            high_tier: false,
            blocks: Blocks {
                log2_min_cb: 3,
                log2_ctb: 6,
                log2_min_tb: 2,
                log2_max_tb: 5,
                depth_inter: 2,
                depth_intra: 2,
            },
            tools: Tools { amp: true, sao: true, cu_qp_delta: true, ..Tools::default() },
            init_qp: 26,
            tiles: (1, 1),
            low_delay_b: false,
        }
    }

    #[test]
    fn sizes_are_whole_blocks() {
        let mut s = sequence();
        assert_eq!((s.coded_size(), s.size_ctbs()), ((1920, 1080), (30, 17)));
        s.blocks.log2_min_cb = 4;
        assert_eq!(s.coded_size(), (1920, 1088));
    }

    #[test]
    fn even_parts_cover_the_whole() {
        assert_eq!([0, 1, 2, 3, 4].map(|i| even_start(30, 4, i)), [0, 7, 15, 22, 30]);
    }

    #[test]
    fn a_buffer_that_is_too_small_is_noticed() {
        let s = sequence();
        for len in 0..30 {
            let mut out = vec![0; len];
            assert_eq!(s.write_sps(&mut out), None);
        }
        let slice = Slice { address: 0, idr: true, poc: 0, qp_delta: 0 };
        assert_eq!(s.write_slice(&slice, &mut [0; 7]), None);
        let mut out = [0; 64];
        assert!(s.write_slice(&slice, &mut out).is_some_and(|bits| bits.is_multiple_of(8)));
        assert_eq!(out[4] >> 1, nal_type::IDR_N_LP);
    }
}
