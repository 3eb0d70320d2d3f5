//! HEVC: parameter buffers of VA-API and the packed headers beside them.

use super::buffers::{Buffers, Maker};
use super::call::Answer;
use super::caps::Caps;
use super::coder::{Picture, Stream};
use crate::bitstream::hevc_write::{Blocks, Sequence, Slice, Tools, even_start};
use libva_sys as va;

/// Two bits of a feature: supported, or required.
const SUPPORTED: u32 = 1;
const REQUIRED: u32 = 2;

/// The HEVC side of a stream.
#[derive(Debug, Clone)]
pub struct Hevc {
    /// Parameter sets.
    pub sequence: Sequence,
    /// First coding tree block and count of every slice.
    pub slices: Vec<(u32, u32)>,
}

/// The tools a device wants: those it requires, and those of use that it supports.
pub fn tools(caps: &Caps, rate_control: bool) -> Tools {
    let Some(features) = caps.hevc_features else {
        // Drivers before VA-API 1.13 do not say; asymmetric partitions are what they all had.
        return Tools { amp: true, cu_qp_delta: rate_control, ..Tools::default() };
    };
    // The places of the fields in `VAConfigAttribValEncHEVCFeatures`.
    let feature = |place: u32| features >> (2 * place) & 3;
    let wanted = |place| matches!(feature(place), SUPPORTED | REQUIRED);
    Tools {
        amp: wanted(2),
        sao: wanted(3),
        temporal_mvp: wanted(5),
        strong_intra: feature(6) == REQUIRED,
        sign_hiding: feature(8) == REQUIRED,
        constrained_intra: feature(9) == REQUIRED,
        transform_skip: wanted(10),
        // A rate control that works within the picture changes the quantiser from block to block.
        cu_qp_delta: feature(11) == REQUIRED || (rate_control && wanted(11)),
    }
}

/// The block sizes a device wants.
pub fn blocks(caps: &Caps) -> Blocks {
    let Some(sizes) = caps.hevc_blocks else {
        // What every Intel device before the attribute coded with.
        return Blocks { log2_min_cb: 4, log2_ctb: 5, log2_min_tb: 2, log2_max_tb: 5, depth_inter: 2, depth_intra: 2 };
    };
    // The places of the fields in `VAConfigAttribValEncHEVCBlockSizes`.
    let field = |place: u32| (sizes >> (2 * place) & 3) as u8;
    let log2_ctb = (field(0) + 3).clamp(4, 6);
    let log2_min_cb = (field(2) + 3).min(log2_ctb);
    let log2_max_tb = (field(3) + 2).min(log2_ctb).min(5);
    // 7.4.3.2.1: the smallest transform block is smaller than the smallest coding block.
    let log2_min_tb = (field(4) + 2).min(log2_max_tb).min(log2_min_cb - 1);
    let deepest = log2_ctb - log2_min_tb;
    Blocks {
        log2_min_cb,
        log2_ctb,
        log2_min_tb,
        log2_max_tb,
        depth_inter: field(5).min(deepest),
        depth_intra: field(7).min(deepest),
    }
}

/// Sizes less one of evenly spaced tile columns or rows, all but the last.
fn sizes_less_one<const N: usize>(whole: u32, parts: u8) -> [u8; N] {
    let mut sizes = [0; N];
    let parts = u32::from(parts);
    for (index, size) in (0..parts.saturating_sub(1)).zip(&mut sizes) {
        *size = (even_start(whole, parts, index + 1) - even_start(whole, parts, index) - 1) as u8;
    }
    sizes
}

fn invalid() -> va::VAPictureHEVC {
    va::VAPictureHEVC { picture_id: va::VA_INVALID_SURFACE, flags: va::VA_PICTURE_HEVC_INVALID, ..Default::default() }
}

fn picture(surface: va::VASurfaceID, since_idr: u32, flags: u32) -> va::VAPictureHEVC {
    va::VAPictureHEVC { picture_id: surface, pic_order_cnt: since_idr as i32, flags, ..Default::default() }
}

impl Hevc {
    fn sequence_buffer(&self, stream: &Stream) -> va::VAEncSequenceParameterBufferHEVC {
        let (s, b, t) = (&self.sequence, &self.sequence.blocks, &self.sequence.tools);
        let (width, height) = s.coded_size();
        let mut fields = va::_VAEncSequenceParameterBufferHEVC__bindgen_ty_1__bindgen_ty_1::default();
        fields.set_chroma_format_idc(1);
        fields.set_bit_depth_luma_minus8(u32::from(s.bit_depth) - 8);
        fields.set_bit_depth_chroma_minus8(u32::from(s.bit_depth) - 8);
        fields.set_strong_intra_smoothing_enabled_flag(u32::from(t.strong_intra));
        fields.set_amp_enabled_flag(u32::from(t.amp));
        fields.set_sample_adaptive_offset_enabled_flag(u32::from(t.sao));
        fields.set_sps_temporal_mvp_enabled_flag(u32::from(t.temporal_mvp));
        fields.set_low_delay_seq(1);
        let mut vui = va::_VAEncSequenceParameterBufferHEVC__bindgen_ty_2__bindgen_ty_1::default();
        vui.set_vui_timing_info_present_flag(1);
        vui.set_bitstream_restriction_flag(1);
        vui.set_motion_vectors_over_pic_boundaries_flag(1);
        vui.set_restricted_ref_pic_lists_flag(1);
        vui.set_log2_max_mv_length_horizontal(15);
        vui.set_log2_max_mv_length_vertical(15);
        va::VAEncSequenceParameterBufferHEVC {
            general_profile_idc: s.profile_idc(),
            general_level_idc: s.level_idc,
            general_tier_flag: u8::from(s.high_tier),
            intra_period: stream.gop_frames,
            intra_idr_period: stream.gop_frames,
            ip_period: 1,
            bits_per_second: stream.bits_per_s,
            pic_width_in_luma_samples: width as u16,
            pic_height_in_luma_samples: height as u16,
            seq_fields: va::_VAEncSequenceParameterBufferHEVC__bindgen_ty_1 { bits: fields },
            log2_min_luma_coding_block_size_minus3: b.log2_min_cb - 3,
            log2_diff_max_min_luma_coding_block_size: b.log2_ctb - b.log2_min_cb,
            log2_min_transform_block_size_minus2: b.log2_min_tb - 2,
            log2_diff_max_min_transform_block_size: b.log2_max_tb - b.log2_min_tb,
            max_transform_hierarchy_depth_inter: b.depth_inter,
            max_transform_hierarchy_depth_intra: b.depth_intra,
            vui_parameters_present_flag: 1,
            vui_fields: va::_VAEncSequenceParameterBufferHEVC__bindgen_ty_2 { bits: vui },
            vui_num_units_in_tick: s.fps.den,
            vui_time_scale: s.fps.num,
            ..Default::default()
        }
    }

    fn picture_buffer(&self, now: &Picture) -> va::VAEncPictureParameterBufferHEVC {
        let (s, t) = (&self.sequence, &self.sequence.tools);
        let (columns, rows) = s.size_ctbs();
        let mut fields = va::_VAEncPictureParameterBufferHEVC__bindgen_ty_1__bindgen_ty_1::default();
        fields.set_idr_pic_flag(u32::from(now.idr));
        // 1: I, 2: P, 3: B.
        fields.set_coding_type(if now.idr {
            1
        } else if s.low_delay_b {
            3
        } else {
            2
        });
        fields.set_reference_pic_flag(1);
        fields.set_sign_data_hiding_enabled_flag(u32::from(t.sign_hiding));
        fields.set_constrained_intra_pred_flag(u32::from(t.constrained_intra));
        fields.set_transform_skip_enabled_flag(u32::from(t.transform_skip));
        fields.set_cu_qp_delta_enabled_flag(u32::from(t.cu_qp_delta));
        fields.set_tiles_enabled_flag(u32::from(s.has_tiles()));
        fields.set_loop_filter_across_tiles_enabled_flag(u32::from(s.has_tiles()));
        fields.set_pps_loop_filter_across_slices_enabled_flag(1);
        let mut references = [invalid(); 15];
        if !now.idr {
            references[0] = picture(now.reference, now.since_idr - 1, va::VA_PICTURE_HEVC_RPS_ST_CURR_BEFORE);
        }
        va::VAEncPictureParameterBufferHEVC {
            decoded_curr_pic: picture(now.reconstructed, now.since_idr, 0),
            reference_frames: references,
            coded_buf: now.coded,
            collocated_ref_pic_index: if t.temporal_mvp && !now.idr { 0 } else { 0xff },
            pic_init_qp: s.init_qp,
            num_tile_columns_minus1: s.tiles.0 - 1,
            num_tile_rows_minus1: s.tiles.1 - 1,
            column_width_minus1: sizes_less_one(columns, s.tiles.0),
            row_height_minus1: sizes_less_one(rows, s.tiles.1),
            nal_unit_type: Sequence::picture_nal(now.idr),
            pic_fields: va::_VAEncPictureParameterBufferHEVC__bindgen_ty_1 { bits: fields },
            ..Default::default()
        }
    }

    fn slice_buffer(&self, now: &Picture, index: usize) -> va::VAEncSliceParameterBufferHEVC {
        let (s, t) = (&self.sequence, &self.sequence.tools);
        let (address, count) = self.slices[index];
        let mut fields = va::_VAEncSliceParameterBufferHEVC__bindgen_ty_1__bindgen_ty_1::default();
        fields.set_last_slice_of_pic_flag(u32::from(index + 1 == self.slices.len()));
        fields.set_slice_temporal_mvp_enabled_flag(u32::from(t.temporal_mvp && !now.idr));
        fields.set_slice_sao_luma_flag(u32::from(t.sao));
        fields.set_slice_sao_chroma_flag(u32::from(t.sao));
        fields.set_slice_loop_filter_across_slices_enabled_flag(1);
        fields.set_collocated_from_l0_flag(u32::from(!now.idr));
        let (mut forwards, mut backwards) = ([invalid(); 15], [invalid(); 15]);
        if !now.idr {
            forwards[0] = picture(now.reference, now.since_idr - 1, va::VA_PICTURE_HEVC_RPS_ST_CURR_BEFORE);
            if s.low_delay_b {
                backwards[0] = forwards[0];
            }
        }
        va::VAEncSliceParameterBufferHEVC {
            slice_segment_address: address,
            num_ctu_in_slice: count,
            slice_type: if now.idr { 2 } else { s.inter_slice_type() },
            ref_pic_list0: forwards,
            ref_pic_list1: backwards,
            max_num_merge_cand: 5,
            slice_qp_delta: now.qp as i8 - s.init_qp as i8,
            slice_fields: va::_VAEncSliceParameterBufferHEVC__bindgen_ty_1 { bits: fields },
            ..Default::default()
        }
    }

    /// Adds the buffers of a picture.
    pub fn add(&self, stream: &Stream, now: &Picture, buffers: &mut Buffers, maker: Maker<'_>) -> Answer<()> {
        // Parameter sets fill at most 256 bytes, slice headers 96.
        let mut header = [0; 512];
        if now.idr {
            buffers.structure(maker, va::VAEncSequenceParameterBufferType, &self.sequence_buffer(stream))?;
        }
        stream.add_misc(now, buffers, maker)?;
        buffers.structure(maker, va::VAEncPictureParameterBufferType, &self.picture_buffer(now))?;
        if now.idr {
            if stream.packs(va::VA_ENC_PACKED_HEADER_SEQUENCE) {
                if let Some(bytes) = self.sequence.write_vps(&mut header) {
                    buffers.packed(maker, va::VAEncPackedHeaderSequence, &header, bytes * 8)?;
                }
                if let Some(bytes) = self.sequence.write_sps(&mut header) {
                    buffers.packed(maker, va::VAEncPackedHeaderSequence, &header, bytes * 8)?;
                }
            }
            if stream.packs(va::VA_ENC_PACKED_HEADER_PICTURE)
                && let Some(bytes) = self.sequence.write_pps(&mut header)
            {
                buffers.packed(maker, va::VAEncPackedHeaderPicture, &header, bytes * 8)?;
            }
        }
        for index in 0..self.slices.len() {
            let parameter = self.slice_buffer(now, index);
            if stream.packs(va::VA_ENC_PACKED_HEADER_SLICE) {
                let written = Slice {
                    address: parameter.slice_segment_address,
                    idr: now.idr,
                    poc: now.since_idr,
                    qp_delta: parameter.slice_qp_delta,
                };
                if let Some(bits) = self.sequence.write_slice(&written, &mut header) {
                    buffers.packed(maker, va::VAEncPackedHeaderSlice, &header, bits)?;
                }
            }
            buffers.structure(maker, va::VAEncSliceParameterBufferType, &parameter)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tile_sizes_sum_up_to_the_picture() {
        let sizes: [u8; 19] = sizes_less_one(30, 4);
        assert_eq!(sizes[..4], [6, 7, 6, 0], "7, 8, 7 and the rest, 8");
        let none: [u8; 19] = sizes_less_one(30, 1);
        assert_eq!(none, [0; 19]);
    }
}
