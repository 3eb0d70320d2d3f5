//! H.264: parameter buffers of VA-API and the packed headers beside them.

use super::buffers::{Buffers, Maker};
use super::call::Answer;
use super::coder::{Picture, Stream};
use crate::bitstream::h264_write::{LOG2_MAX, Sequence, Slice};
use libva_sys as va;

/// The H.264 side of a stream.
#[derive(Debug, Clone)]
pub struct H264 {
    /// Parameter sets.
    pub sequence: Sequence,
    /// First macroblock and count of every slice.
    pub slices: Vec<(u32, u32)>,
}

/// `frame_num` and `pic_order_cnt_lsb` of the picture `since_idr` frames behind the last IDR; both wrap.
pub fn numbers(since_idr: u32) -> (u16, u16) {
    let modulo = 1 << LOG2_MAX;
    ((since_idr % modulo) as u16, (since_idr.wrapping_mul(2) % modulo) as u16)
}

fn invalid() -> va::VAPictureH264 {
    va::VAPictureH264 { picture_id: va::VA_INVALID_SURFACE, flags: va::VA_PICTURE_H264_INVALID, ..Default::default() }
}

fn picture(surface: va::VASurfaceID, since_idr: u32, flags: u32) -> va::VAPictureH264 {
    let order = since_idr as i32 * 2;
    va::VAPictureH264 {
        picture_id: surface,
        frame_idx: u32::from(numbers(since_idr).0),
        flags,
        TopFieldOrderCnt: order,
        BottomFieldOrderCnt: order,
        ..Default::default()
    }
}

impl H264 {
    fn sequence_buffer(&self, stream: &Stream) -> va::VAEncSequenceParameterBufferH264 {
        let sps = self.sequence.sps();
        let (right, bottom) = self.sequence.crop();
        let mut fields = va::_VAEncSequenceParameterBufferH264__bindgen_ty_1__bindgen_ty_1::default();
        fields.set_chroma_format_idc(1);
        fields.set_frame_mbs_only_flag(1);
        fields.set_direct_8x8_inference_flag(1);
        fields.set_log2_max_frame_num_minus4(LOG2_MAX - 4);
        fields.set_log2_max_pic_order_cnt_lsb_minus4(LOG2_MAX - 4);
        let mut buffer = va::VAEncSequenceParameterBufferH264 {
            level_idc: self.sequence.level_idc,
            intra_period: stream.gop_frames,
            intra_idr_period: stream.gop_frames,
            ip_period: 1,
            bits_per_second: stream.bits_per_s,
            max_num_ref_frames: 1,
            picture_width_in_mbs: sps.width_mbs as u16,
            picture_height_in_mbs: sps.height_map_units as u16,
            seq_fields: va::_VAEncSequenceParameterBufferH264__bindgen_ty_1 { bits: fields },
            frame_cropping_flag: u8::from(right + bottom > 0),
            frame_crop_right_offset: right,
            frame_crop_bottom_offset: bottom,
            vui_parameters_present_flag: 1,
            ..Default::default()
        };
        let mut vui = va::_VAEncSequenceParameterBufferH264__bindgen_ty_2__bindgen_ty_1::default();
        if let Some(vui_of_sps) = sps.vui {
            if let Some((units, scale, fixed)) = vui_of_sps.timing {
                vui.set_timing_info_present_flag(1);
                vui.set_fixed_frame_rate_flag(u32::from(fixed));
                (buffer.num_units_in_tick, buffer.time_scale) = (units, scale);
            }
            if let Some(restriction) = vui_of_sps.restriction {
                vui.set_bitstream_restriction_flag(1);
                vui.set_motion_vectors_over_pic_boundaries_flag(1);
                vui.set_log2_max_mv_length_horizontal(restriction.log2_max_mv_horizontal);
                vui.set_log2_max_mv_length_vertical(restriction.log2_max_mv_vertical);
            }
        }
        buffer.vui_fields = va::_VAEncSequenceParameterBufferH264__bindgen_ty_2 { bits: vui };
        buffer
    }

    fn picture_buffer(&self, now: &Picture) -> va::VAEncPictureParameterBufferH264 {
        let mut fields = va::_VAEncPictureParameterBufferH264__bindgen_ty_1__bindgen_ty_1::default();
        fields.set_idr_pic_flag(u32::from(now.idr));
        fields.set_reference_pic_flag(1);
        fields.set_entropy_coding_mode_flag(u32::from(self.sequence.cabac));
        fields.set_transform_8x8_mode_flag(u32::from(self.sequence.transform_8x8));
        fields.set_deblocking_filter_control_present_flag(1);
        let mut references = [invalid(); 16];
        if !now.idr {
            references[0] = picture(now.reference, now.since_idr - 1, va::VA_PICTURE_H264_SHORT_TERM_REFERENCE);
        }
        va::VAEncPictureParameterBufferH264 {
            CurrPic: picture(now.reconstructed, now.since_idr, 0),
            ReferenceFrames: references,
            coded_buf: now.coded,
            frame_num: numbers(now.since_idr).0,
            pic_init_qp: self.sequence.init_qp,
            pic_fields: va::_VAEncPictureParameterBufferH264__bindgen_ty_1 { bits: fields },
            ..Default::default()
        }
    }

    fn slice_buffer(&self, now: &Picture, (first, count): (u32, u32)) -> va::VAEncSliceParameterBufferH264 {
        let mut list = [invalid(); 32];
        if !now.idr {
            list[0] = picture(now.reference, now.since_idr - 1, va::VA_PICTURE_H264_SHORT_TERM_REFERENCE);
        }
        va::VAEncSliceParameterBufferH264 {
            macroblock_address: first,
            num_macroblocks: count,
            macroblock_info: va::VA_INVALID_ID,
            slice_type: if now.idr { 2 } else { 0 },
            idr_pic_id: now.idr_pic_id,
            pic_order_cnt_lsb: numbers(now.since_idr).1,
            RefPicList0: list,
            RefPicList1: [invalid(); 32],
            slice_qp_delta: now.qp as i8 - self.sequence.init_qp as i8,
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
            if stream.packs(va::VA_ENC_PACKED_HEADER_SEQUENCE)
                && let Some(bytes) = self.sequence.write_sps(&mut header)
            {
                buffers.packed(maker, va::VAEncPackedHeaderSequence, &header, bytes * 8)?;
            }
            if stream.packs(va::VA_ENC_PACKED_HEADER_PICTURE)
                && let Some(bytes) = self.sequence.write_pps(&mut header)
            {
                buffers.packed(maker, va::VAEncPackedHeaderPicture, &header, bytes * 8)?;
            }
        }
        for &slice in &self.slices {
            let parameter = self.slice_buffer(now, slice);
            if stream.packs(va::VA_ENC_PACKED_HEADER_SLICE) {
                let (frame_num, poc_lsb) = numbers(now.since_idr);
                let written = Slice {
                    first_mb: slice.0,
                    idr_pic_id: now.idr.then_some(now.idr_pic_id),
                    frame_num,
                    poc_lsb,
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
    fn numbers_wrap_and_go_on_for_as_long_as_the_stream_does() {
        assert_eq!(
            [0, 1, 127, 128, 255, 256, 257].map(numbers),
            [(0, 0), (1, 2), (127, 254), (128, 0), (255, 254), (0, 0), (1, 2)]
        );
        // Each picture follows the one before by one and by two, across every wrap.
        for since_idr in 0..100_000u32 {
            let ((frame, order), (next_frame, next_order)) = (numbers(since_idr), numbers(since_idr + 1));
            assert_eq!((frame + 1) % 256, next_frame);
            assert_eq!((order + 2) % 256, next_order);
        }
    }
}
