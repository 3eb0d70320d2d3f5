//! The sequence parameter set of H.264 (ITU-T H.264 7.3.2.1.1 and Annex E), read and written.
//!
//! Read to check what an encoder library promises in its name; written when the library cannot say all of it
//! (openh264 has no field for chroma siting).

use super::annexb::{escape, unescape};
use super::bits::{BitReader, BitWriter};
use super::h264::{nal_type, type_of};
use shm_protocol::frame::{ChromaSiting, Range};

/// Longest parameter set that is read or written, bytes. Without scaling lists and HRD the fields below fill at
/// most 110 bytes.
pub const MAX_SPS_BYTES: usize = 256;

/// Cropping, in chroma units: left, right, top, bottom.
pub type Crop = [u32; 4];

/// A sequence parameter set. Scaling lists, HRD parameters and picture order count type 1 are not understood:
/// no encoder here writes them, and [`Sps::parse`] says `None`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sps {
    /// `profile_idc`.
    pub profile_idc: u8,
    /// `constraint_set0_flag` in the highest bit, and so on; the two lowest are reserved.
    pub constraint_flags: u8,
    /// `level_idc`.
    pub level_idc: u8,
    /// `seq_parameter_set_id`.
    pub id: u32,
    /// `chroma_format_idc`; 1 is 4:2:0.
    pub chroma_format_idc: u32,
    /// Bits of a luma sample.
    pub bit_depth_luma: u32,
    /// Bits of a chroma sample.
    pub bit_depth_chroma: u32,
    /// log2 of MaxFrameNum.
    pub log2_max_frame_num: u32,
    /// `pic_order_cnt_type`: 0 or 2.
    pub poc_type: u32,
    /// log2 of MaxPicOrderCntLsb, for type 0.
    pub log2_max_poc_lsb: u32,
    /// `max_num_ref_frames`.
    pub max_num_ref_frames: u32,
    /// `gaps_in_frame_num_value_allowed_flag`.
    pub gaps_in_frame_num_allowed: bool,
    /// Width, macroblocks.
    pub width_mbs: u32,
    /// Height, map units: macroblocks of a frame when `frame_mbs_only`.
    pub height_map_units: u32,
    /// Whether every picture is a frame.
    pub frame_mbs_only: bool,
    /// `mb_adaptive_frame_field_flag`.
    pub mb_adaptive_frame_field: bool,
    /// `direct_8x8_inference_flag`.
    pub direct_8x8_inference: bool,
    /// Cropping, when present.
    pub crop: Option<Crop>,
    /// Video usability information, when present.
    pub vui: Option<Vui>,
}

/// Video usability information (E.1.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vui {
    /// `aspect_ratio_idc`, and width and height for 255.
    pub aspect_ratio: Option<(u8, u16, u16)>,
    /// `overscan_appropriate_flag`.
    pub overscan_appropriate: Option<bool>,
    /// Video format, range and colour.
    pub video_signal: Option<VideoSignal>,
    /// Chroma sample location types of the top and the bottom field.
    pub chroma_loc: Option<(u32, u32)>,
    /// `num_units_in_tick`, `time_scale`, `fixed_frame_rate_flag`.
    pub timing: Option<(u32, u32, bool)>,
    /// `pic_struct_present_flag`.
    pub pic_struct_present: bool,
    /// Limits that spare decoders their guesses.
    pub restriction: Option<Restriction>,
}

/// `video_signal_type` (E.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct VideoSignal {
    /// `video_format`; 5 is unspecified.
    pub video_format: u8,
    /// Whether samples use the full scale.
    pub full_range: bool,
    /// Colour primaries, transfer characteristics, matrix coefficients (H.273 code points).
    pub colour: Option<(u8, u8, u8)>,
}

/// `bitstream_restriction` (E.2.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Restriction {
    /// `motion_vectors_over_pic_boundaries_flag`.
    pub motion_over_boundaries: bool,
    /// `max_bytes_per_pic_denom`.
    pub max_bytes_per_pic_denom: u32,
    /// `max_bits_per_mb_denom`.
    pub max_bits_per_mb_denom: u32,
    /// `log2_max_mv_length_horizontal`.
    pub log2_max_mv_horizontal: u32,
    /// `log2_max_mv_length_vertical`.
    pub log2_max_mv_vertical: u32,
    /// `max_num_reorder_frames`: 0 lets decoders show every picture at once.
    pub max_num_reorder_frames: u32,
    /// `max_dec_frame_buffering`.
    pub max_dec_frame_buffering: u32,
}

/// Profiles whose parameter sets carry chroma format and bit depth (7.3.2.1.1).
const fn has_chroma_format(profile_idc: u8) -> bool {
    matches!(profile_idc, 100 | 110 | 122 | 244 | 44 | 83 | 86 | 118 | 128 | 138 | 139 | 134 | 135)
}

impl Sps {
    /// Reads the NAL unit `nal` (header byte included). `None` when it is none, is cut short, or has fields that
    /// are not understood.
    pub fn parse(nal: &[u8]) -> Option<Sps> {
        if type_of(*nal.first()?) != nal_type::SPS || nal.len() > MAX_SPS_BYTES {
            return None;
        }
        let mut rbsp = [0; MAX_SPS_BYTES];
        let len = unescape(&nal[1..], &mut rbsp);
        let mut r = BitReader::new(&rbsp[..len]);
        let (profile_idc, constraint_flags, level_idc) = (r.bits(8)? as u8, r.bits(8)? as u8, r.bits(8)? as u8);
        let id = r.ue()?;
        let (mut chroma_format_idc, mut bit_depth_luma, mut bit_depth_chroma) = (1, 8, 8);
        if has_chroma_format(profile_idc) {
            chroma_format_idc = r.ue()?;
            (bit_depth_luma, bit_depth_chroma) = (r.ue()?.checked_add(8)?, r.ue()?.checked_add(8)?);
            let (transform_bypass, scaling_matrix) = (r.flag()?, r.flag()?);
            if chroma_format_idc > 2 || transform_bypass || scaling_matrix {
                return None;
            }
        }
        let log2_max_frame_num = r.ue()?.checked_add(4)?;
        let poc_type = r.ue()?;
        let log2_max_poc_lsb = match poc_type {
            0 => r.ue()?.checked_add(4)?,
            2 => 0,
            _ => return None,
        };
        if log2_max_frame_num > 16 || log2_max_poc_lsb > 16 {
            return None;
        }
        let max_num_ref_frames = r.ue()?;
        let gaps_in_frame_num_allowed = r.flag()?;
        let (width_mbs, height_map_units) = (r.ue()?.checked_add(1)?, r.ue()?.checked_add(1)?);
        let frame_mbs_only = r.flag()?;
        let mb_adaptive_frame_field = if frame_mbs_only { false } else { r.flag()? };
        let direct_8x8_inference = r.flag()?;
        let crop = if r.flag()? { Some([r.ue()?, r.ue()?, r.ue()?, r.ue()?]) } else { None };
        let vui = if r.flag()? { Some(Vui::parse(&mut r)?) } else { None };
        // What follows must be the stop bit: otherwise something above was misread.
        r.flag()?.then_some(Sps {
            profile_idc,
            constraint_flags,
            level_idc,
            id,
            chroma_format_idc,
            bit_depth_luma,
            bit_depth_chroma,
            log2_max_frame_num,
            poc_type,
            log2_max_poc_lsb,
            max_num_ref_frames,
            gaps_in_frame_num_allowed,
            width_mbs,
            height_map_units,
            frame_mbs_only,
            mb_adaptive_frame_field,
            direct_8x8_inference,
            crop,
            vui,
        })
    }

    /// Writes the NAL unit with the header byte `header` and emulation prevention to the front of `nal`, without
    /// a start code; returns its length, `None` when it does not fit.
    pub fn write(&self, header: u8, nal: &mut [u8]) -> Option<usize> {
        let mut rbsp = [0; MAX_SPS_BYTES];
        let mut w = BitWriter::new(&mut rbsp);
        w.bits(8, u32::from(self.profile_idc));
        w.bits(8, u32::from(self.constraint_flags));
        w.bits(8, u32::from(self.level_idc));
        w.ue(self.id);
        if has_chroma_format(self.profile_idc) {
            w.ue(self.chroma_format_idc);
            w.ue(self.bit_depth_luma - 8);
            w.ue(self.bit_depth_chroma - 8);
            w.bits(2, 0);
        }
        w.ue(self.log2_max_frame_num - 4);
        w.ue(self.poc_type);
        if self.poc_type == 0 {
            w.ue(self.log2_max_poc_lsb - 4);
        }
        w.ue(self.max_num_ref_frames);
        w.flag(self.gaps_in_frame_num_allowed);
        w.ue(self.width_mbs - 1);
        w.ue(self.height_map_units - 1);
        w.flag(self.frame_mbs_only);
        if !self.frame_mbs_only {
            w.flag(self.mb_adaptive_frame_field);
        }
        w.flag(self.direct_8x8_inference);
        w.flag(self.crop.is_some());
        self.crop.iter().flatten().for_each(|&side| w.ue(side));
        w.flag(self.vui.is_some());
        if let Some(vui) = &self.vui {
            vui.write(&mut w);
        }
        let len = w.finish()?;
        *nal.first_mut()? = header;
        Some(escape(&rbsp[..len], &mut nal[1..])? + 1)
    }

    /// Visible width and height, pixels (7.4.2.1.1), for 4:2:0.
    pub fn size(&self) -> Option<(u32, u32)> {
        let field_factor = if self.frame_mbs_only { 1 } else { 2 };
        let [left, right, top, bottom] = self.crop.unwrap_or_default();
        let width = self.width_mbs.checked_mul(16)?.checked_sub(left.checked_add(right)?.checked_mul(2)?)?;
        let height = self.height_map_units.checked_mul(16 * field_factor)?;
        Some((width, height.checked_sub(top.checked_add(bottom)?.checked_mul(2 * field_factor)?)?))
    }

    /// Signals where chroma samples sit.
    pub fn set_chroma_siting(&mut self, siting: ChromaSiting) {
        let location = siting as u32;
        self.vui.get_or_insert_default().chroma_loc = Some((location, location));
    }
}

impl Vui {
    fn parse(r: &mut BitReader<'_>) -> Option<Vui> {
        let mut vui = Vui::default();
        if r.flag()? {
            let idc = r.bits(8)? as u8;
            let (w, h) = if idc == 255 { (r.bits(16)? as u16, r.bits(16)? as u16) } else { (0, 0) };
            vui.aspect_ratio = Some((idc, w, h));
        }
        if r.flag()? {
            vui.overscan_appropriate = Some(r.flag()?);
        }
        if r.flag()? {
            let (video_format, full_range) = (r.bits(3)? as u8, r.flag()?);
            let colour = if r.flag()? { Some((r.bits(8)? as u8, r.bits(8)? as u8, r.bits(8)? as u8)) } else { None };
            vui.video_signal = Some(VideoSignal { video_format, full_range, colour });
        }
        if r.flag()? {
            vui.chroma_loc = Some((r.ue()?, r.ue()?));
        }
        if r.flag()? {
            vui.timing = Some((r.bits(32)?, r.bits(32)?, r.flag()?));
        }
        let (nal_hrd, vcl_hrd) = (r.flag()?, r.flag()?);
        if nal_hrd || vcl_hrd {
            return None;
        }
        vui.pic_struct_present = r.flag()?;
        if r.flag()? {
            vui.restriction = Some(Restriction {
                motion_over_boundaries: r.flag()?,
                max_bytes_per_pic_denom: r.ue()?,
                max_bits_per_mb_denom: r.ue()?,
                log2_max_mv_horizontal: r.ue()?,
                log2_max_mv_vertical: r.ue()?,
                max_num_reorder_frames: r.ue()?,
                max_dec_frame_buffering: r.ue()?,
            });
        }
        Some(vui)
    }

    fn write(&self, w: &mut BitWriter<'_>) {
        w.flag(self.aspect_ratio.is_some());
        if let Some((idc, width, height)) = self.aspect_ratio {
            w.bits(8, u32::from(idc));
            if idc == 255 {
                w.bits(16, u32::from(width));
                w.bits(16, u32::from(height));
            }
        }
        w.flag(self.overscan_appropriate.is_some());
        self.overscan_appropriate.into_iter().for_each(|flag| w.flag(flag));
        w.flag(self.video_signal.is_some());
        if let Some(signal) = self.video_signal {
            w.bits(3, u32::from(signal.video_format));
            w.flag(signal.full_range);
            w.flag(signal.colour.is_some());
            if let Some((primaries, transfer, matrix)) = signal.colour {
                [primaries, transfer, matrix].into_iter().for_each(|code| w.bits(8, u32::from(code)));
            }
        }
        w.flag(self.chroma_loc.is_some());
        if let Some((top, bottom)) = self.chroma_loc {
            w.ue(top);
            w.ue(bottom);
        }
        w.flag(self.timing.is_some());
        if let Some((units, scale, fixed)) = self.timing {
            w.bits(32, units);
            w.bits(32, scale);
            w.flag(fixed);
        }
        w.bits(2, 0);
        w.flag(self.pic_struct_present);
        w.flag(self.restriction.is_some());
        if let Some(r) = self.restriction {
            w.flag(r.motion_over_boundaries);
            w.ue(r.max_bytes_per_pic_denom);
            w.ue(r.max_bits_per_mb_denom);
            w.ue(r.log2_max_mv_horizontal);
            w.ue(r.log2_max_mv_vertical);
            w.ue(r.max_num_reorder_frames);
            w.ue(r.max_dec_frame_buffering);
        }
    }

    /// Range and colour in the terms of the ABI: primaries, transfer, matrix (2 is unspecified), range.
    pub fn colour(&self) -> (u8, u8, u8, Range) {
        let signal = self.video_signal.unwrap_or(VideoSignal { video_format: 5, full_range: false, colour: None });
        let (primaries, transfer, matrix) = signal.colour.unwrap_or((2, 2, 2));
        (primaries, transfer, matrix, if signal.full_range { Range::Full } else { Range::Limited })
    }
}

#[cfg(test)]
mod tests;
