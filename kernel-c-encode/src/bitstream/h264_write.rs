//! H.264 parameter sets and slice headers as a hardware encoder is handed them: one reference, P pictures, progressive
//! 4:2:0 (ITU-T H.264 7.3.2.1, 7.3.2.2, 7.3.3).

use super::annexb::escape;
use super::bits::BitWriter;
use super::h264::nal_type;
use super::h264_sps::{MAX_SPS_BYTES, Restriction, Sps, VideoSignal, Vui};
use crate::settings::H264Profile;
use shm_protocol::frame::{ChromaSiting, Colour, Range, Rational};

/// log2 of MaxFrameNum and of MaxPicOrderCntLsb. Eight bits are what drivers are tried with most; numbers wrap after
/// 256 frames, long after their only reference is gone.
pub const LOG2_MAX: u32 = 8;
/// `nal_ref_idc` of parameter sets and of pictures: all are references.
const REF_IDC: u8 = 3;
/// Longest slice header, bytes: a dozen Exp-Golomb codes of at most 32 bits, escaped.
pub const MAX_HEADER_BYTES: usize = 96;

/// What a stream is described by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sequence {
    /// Profile.
    pub profile: H264Profile,
    /// `level_idc`.
    pub level_idc: u8,
    /// Visible width, pixels; even.
    pub width: u32,
    /// Visible height, pixels; even.
    pub height: u32,
    /// Frames per second.
    pub fps: Rational,
    /// Colour, carried in the VUI.
    pub colour: Colour,
    /// CABAC rather than CAVLC.
    pub cabac: bool,
    /// 8×8 transform (High profile).
    pub transform_8x8: bool,
    /// Quantisation parameter that slices count from.
    pub init_qp: u8,
}

/// What a slice is described by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slice {
    /// Address of its first macroblock.
    pub first_mb: u32,
    /// `idr_pic_id` of an IDR picture; `None` for a P picture.
    pub idr_pic_id: Option<u16>,
    /// `frame_num`.
    pub frame_num: u16,
    /// `pic_order_cnt_lsb`.
    pub poc_lsb: u16,
    /// Quantisation parameter less [`Sequence::init_qp`].
    pub qp_delta: i8,
}

/// `video_signal_type` of a colour.
pub fn video_signal(colour: &Colour) -> VideoSignal {
    VideoSignal {
        video_format: 5,
        full_range: colour.range == Range::Full,
        colour: Some((colour.primaries, colour.transfer, colour.matrix)),
    }
}

impl Sequence {
    /// Width and height in macroblocks.
    pub fn size_mbs(&self) -> (u32, u32) {
        (self.width.div_ceil(16), self.height.div_ceil(16))
    }

    /// Cropping of the right and the bottom side, chroma units.
    pub fn crop(&self) -> (u32, u32) {
        let (width_mbs, height_mbs) = self.size_mbs();
        ((width_mbs * 16 - self.width) / 2, (height_mbs * 16 - self.height) / 2)
    }

    /// The sequence parameter set.
    pub fn sps(&self) -> Sps {
        let (profile_idc, constraint_flags) = match self.profile {
            // constraint_set0 and constraint_set1: what a Baseline and a Main decoder both read.
            H264Profile::ConstrainedBaseline => (66, 0xc0),
            H264Profile::Main => (77, 0x40),
            H264Profile::High => (100, 0),
        };
        let (width_mbs, height_map_units) = self.size_mbs();
        let (right, bottom) = self.crop();
        let siting = self.colour.siting;
        Sps {
            profile_idc,
            constraint_flags,
            level_idc: self.level_idc,
            id: 0,
            chroma_format_idc: 1,
            bit_depth_luma: 8,
            bit_depth_chroma: 8,
            log2_max_frame_num: LOG2_MAX,
            poc_type: 0,
            log2_max_poc_lsb: LOG2_MAX,
            max_num_ref_frames: 1,
            gaps_in_frame_num_allowed: false,
            width_mbs,
            height_map_units,
            frame_mbs_only: true,
            mb_adaptive_frame_field: false,
            direct_8x8_inference: true,
            crop: (right + bottom > 0).then_some([0, right, 0, bottom]),
            vui: Some(Vui {
                video_signal: Some(video_signal(&self.colour)),
                chroma_loc: (siting != ChromaSiting::Left).then_some((siting as u32, siting as u32)),
                // A tick is a field: two of them to a frame (E.2.1).
                timing: self.fps.num.checked_mul(2).map(|time_scale| (self.fps.den, time_scale, true)),
                restriction: Some(Restriction {
                    motion_over_boundaries: true,
                    max_bytes_per_pic_denom: 0,
                    max_bits_per_mb_denom: 0,
                    log2_max_mv_horizontal: 15,
                    log2_max_mv_vertical: 15,
                    max_num_reorder_frames: 0,
                    max_dec_frame_buffering: 1,
                }),
                ..Vui::default()
            }),
        }
    }

    /// Writes the sequence parameter set with its start code; returns its bytes, `None` when `out` is too small.
    pub fn write_sps(&self, out: &mut [u8]) -> Option<usize> {
        let body = start_code(out)?;
        Some(4 + self.sps().write(REF_IDC << 5 | nal_type::SPS, body)?)
    }

    /// Writes the picture parameter set with its start code; returns its bytes, `None` when `out` is too small.
    pub fn write_pps(&self, out: &mut [u8]) -> Option<usize> {
        let mut rbsp = [0; MAX_SPS_BYTES];
        let mut w = BitWriter::new(&mut rbsp);
        w.ue(0); // pic_parameter_set_id
        w.ue(0); // seq_parameter_set_id
        w.flag(self.cabac);
        w.flag(false); // bottom_field_pic_order_in_frame_present_flag
        w.ue(0); // num_slice_groups_minus1
        w.ue(0); // num_ref_idx_l0_default_active_minus1
        w.ue(0); // num_ref_idx_l1_default_active_minus1
        w.flag(false); // weighted_pred_flag
        w.bits(2, 0); // weighted_bipred_idc
        w.se(i32::from(self.init_qp) - 26);
        w.se(0); // pic_init_qs_minus26
        w.se(0); // chroma_qp_index_offset
        w.flag(true); // deblocking_filter_control_present_flag
        w.flag(false); // constrained_intra_pred_flag
        w.flag(false); // redundant_pic_cnt_present_flag
        if self.transform_8x8 {
            w.flag(true); // transform_8x8_mode_flag
            w.flag(false); // pic_scaling_matrix_present_flag
            w.se(0); // second_chroma_qp_index_offset
        }
        let len = w.finish()?;
        let body = start_code(out)?;
        *body.first_mut()? = REF_IDC << 5 | nal_type::PPS;
        Some(5 + escape(&rbsp[..len], &mut body[1..])?)
    }

    /// Writes start code, NAL unit header and slice header, with emulation prevention, without what follows; returns
    /// the length in bits, `None` when `out` is too small.
    pub fn write_slice(&self, slice: &Slice, out: &mut [u8]) -> Option<usize> {
        let mut rbsp = [0; MAX_HEADER_BYTES];
        let mut w = BitWriter::new(&mut rbsp);
        let idr = slice.idr_pic_id.is_some();
        w.ue(slice.first_mb);
        w.ue(if idr { 2 } else { 0 });
        w.ue(0); // pic_parameter_set_id
        w.bits(LOG2_MAX, u32::from(slice.frame_num));
        if let Some(id) = slice.idr_pic_id {
            w.ue(u32::from(id));
        }
        w.bits(LOG2_MAX, u32::from(slice.poc_lsb));
        if idr {
            w.flag(false); // no_output_of_prior_pics_flag
            w.flag(false); // long_term_reference_flag
        } else {
            w.flag(false); // num_ref_idx_active_override_flag
            w.flag(false); // ref_pic_list_modification_flag_l0
            w.flag(false); // adaptive_ref_pic_marking_mode_flag
            if self.cabac {
                w.ue(0); // cabac_init_idc
            }
        }
        w.se(i32::from(slice.qp_delta));
        w.ue(0); // disable_deblocking_filter_idc
        w.se(0); // slice_alpha_c0_offset_div2
        w.se(0); // slice_beta_offset_div2
        let bits = w.finish_bits()?;
        let body = start_code(out)?;
        *body.first_mut()? = REF_IDC << 5 | if idr { nal_type::IDR_SLICE } else { nal_type::SLICE };
        let escaped = escape(&rbsp[..bits.div_ceil(8)], &mut body[1..])?;
        Some((5 + escaped) * 8 - (bits.div_ceil(8) * 8 - bits))
    }
}

/// Writes a start code of four bytes; returns what is behind it.
pub(super) fn start_code(out: &mut [u8]) -> Option<&mut [u8]> {
    let (code, body) = out.split_at_mut_checked(4)?;
    code.copy_from_slice(&[0, 0, 0, 1]);
    Some(body)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::h264::SliceHeader;
    use h264_reader::Context;
    use h264_reader::nal::pps::PicParameterSet;
    use h264_reader::nal::sps::SeqParameterSet;
    use h264_reader::nal::{Nal, RefNal};

    fn sequence(profile: H264Profile, width: u32, height: u32) -> Sequence {
        Sequence {
            profile,
            level_idc: 40,
            width,
            height,
            fps: Rational { num: 60_000, den: 1001 },
            colour: Colour {
                matrix: 9,
                primaries: 9,
                transfer: 16,
                range: Range::Limited,
                siting: ChromaSiting::TopLeft,
            },
            cabac: profile != H264Profile::ConstrainedBaseline,
            transform_8x8: profile == H264Profile::High,
            init_qp: 30,
        }
    }

    #[test]
    fn parameter_sets_are_read_back_by_another_reader() {
        for profile in [H264Profile::ConstrainedBaseline, H264Profile::Main, H264Profile::High] {
            for (width, height) in [(1920, 1080), (320, 180), (640, 368), (16, 16)] {
                let sequence = sequence(profile, width, height);
                let mut out = [0xee; 512];
                let len = sequence.write_sps(&mut out).unwrap();
                let sps = SeqParameterSet::from_bits(RefNal::new(&out[4..len], &[], true).rbsp_bits()).unwrap();
                assert_eq!(sps.pixel_dimensions().unwrap(), (width, height));
                assert!((sps.fps().unwrap() - 60_000.0 / 1001.0).abs() < 1e-9);
                assert_eq!(Sps::parse(&out[4..len]), Some(sequence.sps()));
                let mut context = Context::default();
                context.put_seq_param_set(sps);
                let len = sequence.write_pps(&mut out).unwrap();
                let nal = RefNal::new(&out[4..len], &[], true);
                let pps = PicParameterSet::from_bits(&context, nal.rbsp_bits()).unwrap();
                assert_eq!(pps.entropy_coding_mode_flag, sequence.cabac);
                assert_eq!(pps.pic_init_qp_minus26, 4);
                assert!(pps.deblocking_filter_control_present_flag);
                assert_eq!(pps.extension.is_some_and(|e| e.transform_8x8_mode_flag), sequence.transform_8x8);
            }
        }
    }

    #[test]
    fn slice_headers_are_read_back_by_another_reader() {
        let sequence = sequence(H264Profile::High, 1920, 1080);
        let mut out = [0xee; 512];
        let mut context = Context::default();
        let len = sequence.write_sps(&mut out).unwrap();
        let sps = Sps::parse(&out[4..len]).unwrap();
        context
            .put_seq_param_set(SeqParameterSet::from_bits(RefNal::new(&out[4..len], &[], true).rbsp_bits()).unwrap());
        let len = sequence.write_pps(&mut out).unwrap();
        let pps = PicParameterSet::from_bits(&context, RefNal::new(&out[4..len], &[], true).rbsp_bits()).unwrap();
        context.put_pic_param_set(pps);
        for index in 0..600u32 {
            let slice = Slice {
                first_mb: index * 13 % 8160,
                idr_pic_id: index.is_multiple_of(7).then_some(index as u16),
                frame_num: (index % 256) as u16,
                poc_lsb: (index * 2 % 256) as u16,
                qp_delta: (index % 48) as i8 - 26,
            };
            out.fill(0);
            let bits = sequence.write_slice(&slice, &mut out).unwrap();
            // What a reader finds behind the header is slice data; ones keep it from being taken for trailing zeros.
            out[bits / 8] |= 0xff >> (bits % 8);
            out[bits / 8 + 1..].fill(0x55);
            let read = SliceHeader::parse(&out[4..], &sps).unwrap();
            assert_eq!((read.first_mb, read.frame_num), (slice.first_mb, u32::from(slice.frame_num)));
            assert_eq!(read.idr_pic_id, slice.idr_pic_id.map(u32::from));
            assert_eq!(read.poc_lsb, Some(u32::from(slice.poc_lsb)));
            let nal = RefNal::new(&out[4..], &[], true);
            let header = nal.header().unwrap();
            let mut rest = nal.rbsp_bits();
            let (read, _, _) =
                h264_reader::nal::slice::SliceHeader::from_bits(&context, &mut rest, header, None).expect("readable");
            assert_eq!(read.slice_qp_delta, i32::from(slice.qp_delta), "{slice:?}");
            assert_eq!(read.frame_num, slice.frame_num);
        }
    }

    #[test]
    fn a_buffer_that_is_too_small_is_noticed() {
        let sequence = sequence(H264Profile::Main, 640, 360);
        for len in 0..20 {
            assert_eq!(sequence.write_sps(&mut vec![0; len]), None);
        }
        assert_eq!(sequence.write_pps(&mut [0; 6]), None);
        let slice = Slice { first_mb: 0, idr_pic_id: Some(0), frame_num: 0, poc_lsb: 0, qp_delta: 0 };
        assert_eq!(sequence.write_slice(&slice, &mut [0; 6]), None);
    }
}
