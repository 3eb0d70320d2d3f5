//! What an encoder is opened with: the values of the configuration, already typed, checked against each other.

use crate::error::EncoderError;
use shm_protocol::frame::{Codec, VideoFormat};

/// Largest bitrate that can be asked for, kb/s: H.264 level 5.2 High (ITU-T H.264 Table A-1, 240 000 × 1250 bit/s)
/// rounded up; HEVC and AV1 levels for live video stay below.
pub const MAX_BITRATE_KBPS: u32 = 400_000;
/// Largest quantisation parameter of H.264 and HEVC at 8 bit (ITU-T H.264 7.4.2.2).
pub const MAX_QP: u8 = 51;
/// Slices and threads beyond this only cost: each slice breaks prediction.
pub const MAX_SLICES: u8 = 32;

/// How the encoder spends bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateControl {
    /// Holds `bitrate_kbps`.
    Bitrate,
    /// Holds the quantisation parameter `qp`; the bitrate follows the content.
    ConstantQp,
}

/// How often an IDR comes without being asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gop {
    /// An IDR every so many frames, counted from the last IDR; at least 1.
    Frames(u32),
    /// Only the first frame and those asked for.
    Infinite,
}

impl Gop {
    /// The default: 2 s of frames, at least 1.
    pub fn two_seconds(format: &VideoFormat) -> Gop {
        Gop::Frames(((format.fps.as_f64() * 2.0).round() as u32).max(1))
    }
}

/// Speed against quality, whatever a backend calls it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// Least time per frame.
    Fast,
    /// Between the two.
    Medium,
    /// Best picture.
    Quality,
}

/// Profiles of H.264 (ITU-T H.264 A.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum H264Profile {
    /// Constrained Baseline: what every receiver decodes.
    ConstrainedBaseline,
    /// Main: CABAC.
    Main,
    /// High: CABAC.
    High,
}

/// Everything an encoder is opened with. Size, frame rate and colour come from `format`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EncoderSettings {
    /// Codec of the access units.
    pub codec: Codec,
    /// The frames to come.
    pub format: VideoFormat,
    /// Target bitrate, kb/s (1000 bit/s); changed live by [`crate::encoder::Encoder::set_bitrate`].
    pub bitrate_kbps: u32,
    /// Highest bitrate that will be asked for live, kb/s; 0 means four times `bitrate_kbps`. The level is chosen by it.
    pub max_bitrate_kbps: u32,
    /// Size of the virtual receive buffer, ms, for backends that have one.
    pub vbv_ms: u32,
    /// How bits are spent.
    pub rate_control: RateControl,
    /// Quantisation parameter for [`RateControl::ConstantQp`], 0–51.
    pub qp: u8,
    /// How often an IDR comes by itself.
    pub gop: Gop,
    /// No look-ahead, no scene-cut IDR: the time of a frame stays predictable.
    pub low_latency: bool,
    /// Speed against quality.
    pub preset: Preset,
    /// Profile, for H.264.
    pub profile: H264Profile,
    /// `level_idc` (ten times the level); `None` chooses the lowest that carries size, rate and bitrate.
    pub level_idc: Option<u8>,
    /// Slices of a picture; 0 means one per thread.
    pub slices: u8,
    /// Threads of one picture; 0 means 1.
    pub threads: u8,
    /// IDR pictures the stream already had before this encoder. ITU-T H.264 7.4.3 wants two consecutive IDR pictures
    /// to differ in `idr_pic_id`: an encoder that goes on with a stream starts on the other parity.
    pub idr_count: u32,
}

impl EncoderSettings {
    /// Low-latency constrained-baseline settings with the defaults of the configuration.
    pub fn live(codec: Codec, format: VideoFormat, bitrate_kbps: u32) -> EncoderSettings {
        EncoderSettings {
            codec,
            format,
            bitrate_kbps,
            max_bitrate_kbps: 0,
            // One frame interval at 60 fps would starve IDRs, a second would hide them: half a second is what the
            // pacer of kernel D spreads an IDR over at the worst.
            vbv_ms: 500,
            rate_control: RateControl::Bitrate,
            qp: 26,
            gop: Gop::two_seconds(&format),
            low_latency: true,
            preset: Preset::Fast,
            profile: H264Profile::ConstrainedBaseline,
            level_idc: None,
            slices: 0,
            threads: 1,
            idr_count: 0,
        }
    }

    /// The highest bitrate the stream may be set to, kb/s.
    pub fn ceiling_kbps(&self) -> u32 {
        if self.max_bitrate_kbps == 0 {
            self.bitrate_kbps.saturating_mul(4).min(MAX_BITRATE_KBPS)
        } else {
            self.max_bitrate_kbps
        }
    }

    /// Slices of a picture after defaults.
    pub fn slice_count(&self) -> u8 {
        if self.slices == 0 { self.threads.max(1) } else { self.slices }
    }

    /// Checks what holds for every backend.
    ///
    /// # Errors
    /// [`EncoderError::Setting`] or [`EncoderError::Format`] naming the first value out of range.
    pub fn check(&self) -> Result<(), EncoderError> {
        // The layout itself: a packed description of the same size says whether the size is possible.
        VideoFormat::packed(
            self.format.pixel_format,
            self.format.width,
            self.format.height,
            self.format.fps,
            self.format.colour,
        )?;
        if self.rate_control == RateControl::Bitrate {
            check_bitrate("bitrate_kbps", self.bitrate_kbps)?;
            check_bitrate("max_bitrate_kbps", self.ceiling_kbps())?;
            if self.ceiling_kbps() < self.bitrate_kbps {
                return Err(EncoderError::Setting {
                    setting: "max_bitrate_kbps",
                    given: self.max_bitrate_kbps.to_string(),
                    allowed: format!("0 or at least bitrate_kbps ({})", self.bitrate_kbps),
                });
            }
        }
        if self.qp > MAX_QP {
            return Err(EncoderError::Setting {
                setting: "qp",
                given: self.qp.to_string(),
                allowed: format!("0 to {MAX_QP}"),
            });
        }
        if self.gop == Gop::Frames(0) {
            return Err(EncoderError::Setting {
                setting: "gop",
                given: "0".to_owned(),
                allowed: "at least 1 frame, or infinite".to_owned(),
            });
        }
        for (setting, given) in [("slices", self.slices), ("threads", self.threads)] {
            if given > MAX_SLICES {
                return Err(EncoderError::Setting {
                    setting,
                    given: given.to_string(),
                    allowed: format!("0 (automatic) to {MAX_SLICES}"),
                });
            }
        }
        Ok(())
    }
}

/// Checks a bitrate, kb/s.
///
/// # Errors
/// [`EncoderError::Setting`] when it is 0 or above [`MAX_BITRATE_KBPS`].
pub fn check_bitrate(setting: &'static str, kbps: u32) -> Result<(), EncoderError> {
    if kbps == 0 || kbps > MAX_BITRATE_KBPS {
        return Err(EncoderError::Setting {
            setting,
            given: kbps.to_string(),
            allowed: format!("1 to {MAX_BITRATE_KBPS} kb/s"),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm_protocol::frame::{Colour, PixelFormat, Rational};

    fn settings() -> EncoderSettings {
        let fps = Rational::new(60000, 1001).unwrap();
        let format = VideoFormat::packed(PixelFormat::Nv12, 64, 64, fps, Colour::BT709_LIMITED).unwrap();
        EncoderSettings::live(Codec::H264, format, 1000)
    }

    #[test]
    fn the_default_gop_is_two_seconds() {
        assert_eq!(settings().gop, Gop::Frames(120));
    }

    #[test]
    fn values_out_of_range_are_named() {
        let mut s = settings();
        s.bitrate_kbps = 0;
        assert!(s.check().unwrap_err().to_string().starts_with("bitrate_kbps = 0 is not possible"));
        let mut s = settings();
        s.max_bitrate_kbps = 999;
        assert!(s.check().unwrap_err().to_string().contains("at least bitrate_kbps (1000)"));
        let mut s = settings();
        s.qp = 52;
        assert!(s.check().is_err());
        let mut s = settings();
        s.gop = Gop::Frames(0);
        assert!(s.check().is_err());
        let mut s = settings();
        s.format.width = 63;
        assert_eq!(s.check().unwrap_err().exit_code(), 78);
        assert!(settings().check().is_ok());
    }
}
