//! AV1: parameter buffers of VA-API and the packed headers beside them.

use super::buffers::{Buffers, Maker};
use super::call::Answer;
use super::coder::{Picture, Stream};
use crate::bitstream::av1_write::{Frame, MAX_HEADER_BYTES, ORDER_HINT_BITS, Sequence, TileGrid};
use libva_sys as va;

/// `primary_ref_frame` of a key frame: none.
const PRIMARY_REF_NONE: u8 = 7;

/// The AV1 side of a stream.
#[derive(Debug, Clone)]
pub struct Av1 {
    /// Headers.
    pub sequence: Sequence,
    /// Tiles.
    pub grid: TileGrid,
    /// Superblocks in a row and in a column.
    pub superblocks: (u32, u32),
    /// Quantiser index before the first picture.
    pub init_qp: u8,
    /// The device chooses the quantiser and writes it, and the filters with it, into the header.
    pub device_writes: bool,
}

/// Slot that the picture `since_idr` frames behind the key frame goes to; the key frame fills them all.
pub const fn slot(since_idr: u32) -> u8 {
    (since_idr % 2) as u8
}

/// Level of the loop filter for a quantiser where the device leaves it to us: it rises with the step, and at the top
/// half of the scale still keeps detail.
const fn filter_level(q_idx: u8) -> u8 {
    q_idx / 8
}

impl Av1 {
    /// The frame header's fields.
    fn frame(&self, now: &Picture) -> Frame {
        let level = filter_level(now.qp);
        Frame {
            key: now.idr,
            order: now.since_idr,
            reference_slot: slot(now.since_idr.wrapping_sub(1)),
            refresh: if now.idr { 0xff } else { 1 << slot(now.since_idr) },
            q_idx: now.qp.max(1),
            filter: [level; 4],
        }
    }

    fn sequence_buffer(&self, stream: &Stream) -> va::VAEncSequenceParameterBufferAV1 {
        let s = &self.sequence;
        let mut fields = va::_VAEncSequenceParameterBufferAV1__bindgen_ty_1__bindgen_ty_1::default();
        fields.set_enable_order_hint(1);
        fields.set_enable_cdef(u32::from(s.cdef));
        fields.set_bit_depth_minus8(u32::from(s.bit_depth) - 8);
        fields.set_subsampling_x(1);
        fields.set_subsampling_y(1);
        va::VAEncSequenceParameterBufferAV1 {
            seq_level_idx: s.level_idx,
            seq_tier: u8::from(s.high_tier),
            intra_period: stream.gop_frames,
            ip_period: 1,
            bits_per_second: stream.bits_per_s,
            seq_fields: va::_VAEncSequenceParameterBufferAV1__bindgen_ty_1 { bits: fields },
            order_hint_bits_minus_1: ORDER_HINT_BITS as u8 - 1,
            ..Default::default()
        }
    }

    fn picture_buffer(&self, now: &Picture, frame: &Frame) -> va::VAEncPictureParameterBufferAV1 {
        let mut flags = va::_VAEncPictureParameterBufferAV1__bindgen_ty_1__bindgen_ty_1::default();
        flags.set_frame_type(u32::from(!now.idr));
        flags.set_error_resilient_mode(u32::from(now.idr));
        let mut modes = va::_VAEncPictureParameterBufferAV1__bindgen_ty_4__bindgen_ty_1::default();
        // 1: TX_MODE_LARGEST, 2: TX_MODE_SELECT.
        modes.set_tx_mode(1 + u32::from(self.sequence.tx_select));
        let mut references = [va::VA_INVALID_SURFACE; 8];
        let mut control = va::VARefFrameCtrlAV1::default();
        if !now.idr {
            references[usize::from(frame.reference_slot)] = now.reference;
            let mut search = va::VARefFrameCtrlAV1__bindgen_ty_1::default();
            search.set_search_idx0(1); // LAST_FRAME
            control = va::VARefFrameCtrlAV1 { fields: search };
        }
        let mut group = va::_VAEncPictureParameterBufferAV1__bindgen_ty_6__bindgen_ty_1::default();
        group.set_obu_has_size_field(1);
        let (mut widths, mut heights) = ([0; 63], [0; 63]);
        let sizes = |sizes: &mut [u16; 63], count: u32, size: u32, whole: u32| {
            for (index, entry) in (0..count).zip(sizes) {
                *entry = (size.min(whole - index * size) - 1) as u16;
            }
        };
        sizes(&mut widths, self.grid.count.0, self.grid.size.0, self.superblocks.0);
        sizes(&mut heights, self.grid.count.1, self.grid.size.1, self.superblocks.1);
        va::VAEncPictureParameterBufferAV1 {
            frame_width_minus_1: (self.sequence.width - 1) as u16,
            frame_height_minus_1: (self.sequence.height - 1) as u16,
            reconstructed_frame: now.reconstructed,
            coded_buf: now.coded,
            reference_frames: references,
            ref_frame_idx: [if now.idr { 0 } else { frame.reference_slot }; 7],
            primary_ref_frame: if now.idr { PRIMARY_REF_NONE } else { 0 },
            order_hint: (now.since_idr % (1 << ORDER_HINT_BITS)) as u8,
            refresh_frame_flags: frame.refresh,
            ref_frame_ctrl_l0: control,
            picture_flags: va::_VAEncPictureParameterBufferAV1__bindgen_ty_1 { bits: flags },
            filter_level: [frame.filter[0], frame.filter[1]],
            filter_level_u: frame.filter[2],
            filter_level_v: frame.filter[3],
            base_qindex: frame.q_idx,
            min_base_qindex: 1,
            max_base_qindex: 255,
            mode_control_flags: va::_VAEncPictureParameterBufferAV1__bindgen_ty_4 { bits: modes },
            tile_cols: self.grid.count.0 as u8,
            tile_rows: self.grid.count.1 as u8,
            width_in_sbs_minus_1: widths,
            height_in_sbs_minus_1: heights,
            tile_group_obu_hdr_info: va::_VAEncPictureParameterBufferAV1__bindgen_ty_6 { bits: group },
            ..Default::default()
        }
    }

    /// Adds the buffers of a picture.
    pub fn add(&self, stream: &Stream, now: &Picture, buffers: &mut Buffers, maker: Maker<'_>) -> Answer<()> {
        let mut sequence_header = [0; MAX_HEADER_BYTES * 2];
        let mut frame_header = [0; MAX_HEADER_BYTES * 2];
        let frame = self.frame(now);
        let mut sequence_bytes = 0;
        if now.idr {
            buffers.structure(maker, va::VAEncSequenceParameterBufferType, &self.sequence_buffer(stream))?;
            if stream.packs(va::VA_ENC_PACKED_HEADER_SEQUENCE) {
                sequence_bytes = self.sequence.write_sequence(&mut sequence_header).unwrap_or(0);
            }
        }
        stream.add_misc(now, buffers, maker)?;
        let mut parameter = self.picture_buffer(now, &frame);
        let packs_frame = stream.packs(va::VA_ENC_PACKED_HEADER_PICTURE);
        let written = if packs_frame { self.sequence.write_frame(&frame, &mut frame_header) } else { None };
        if let Some(offsets) = written.filter(|_| self.device_writes) {
            // Counted from the packed frame header, but for the size, which counts from the first packed header.
            parameter.bit_offset_qindex = offsets.q_idx;
            parameter.bit_offset_segmentation = offsets.segmentation;
            parameter.bit_offset_loopfilter_params = offsets.loop_filter;
            parameter.bit_offset_cdef_params = offsets.cdef.0;
            parameter.size_in_bits_cdef_params = offsets.cdef.1;
            parameter.size_in_bits_frame_hdr_obu = offsets.bits;
            parameter.byte_offset_frame_hdr_obu_size = sequence_bytes as u32 + 1;
        }
        buffers.structure(maker, va::VAEncPictureParameterBufferType, &parameter)?;
        if sequence_bytes > 0 {
            buffers.packed(maker, va::VAEncPackedHeaderSequence, &sequence_header, sequence_bytes * 8)?;
        }
        if let Some(offsets) = written {
            // Whole bytes: the rest behind the trailing bit is zeros.
            let bits = (offsets.bits as usize).next_multiple_of(8);
            buffers.packed(maker, va::VAEncPackedHeaderPicture, &frame_header, bits)?;
        }
        let tiles = self.grid.count.0 * self.grid.count.1;
        let group = va::VAEncTileGroupBufferAV1 { tg_start: 0, tg_end: (tiles - 1) as u8, ..Default::default() };
        buffers.structure(maker, va::VAEncSliceParameterBufferType, &group)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_never_goes_to_the_slot_it_refers_to() {
        for since_idr in 1..600 {
            assert_ne!(slot(since_idr), slot(since_idr - 1));
        }
    }
}
