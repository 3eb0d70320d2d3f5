//! What an encoder is opened with: the values of the configuration, already typed, checked against each other.

use crate::error::{EncoderError, refuse};
use shm_protocol::frame::{Codec, PixelFormat, VideoFormat};
use std::path::PathBuf;

/// Largest bitrate that can be asked for, kb/s: H.264 level 5.2 High (ITU-T H.264 Table A-1, 240 000 × 1250 bit/s)
/// rounded up; HEVC and AV1 levels for live video stay below.
pub const MAX_BITRATE_KBPS: u32 = 400_000;
/// Largest quantisation parameter of H.264 and HEVC at 8 bit (ITU-T H.264 7.4.2.2).
pub const MAX_QP: u8 = 51;
/// Largest quantiser index of AV1 (`base_q_idx`, AV1 specification 5.9.12).
pub const MAX_AV1_QP: u8 = 255;
/// Slices and threads beyond this only cost: each slice breaks prediction.
pub const MAX_SLICES: u8 = 32;
/// Largest tile columns of HEVC (ITU-T H.265 Table A.8, level 6.2); AV1 allows 64, which needs a wider picture than any.
pub const MAX_TILE_COLUMNS: u8 = 20;
/// Largest tile rows of HEVC (ITU-T H.265 Table A.8, level 6.2).
pub const MAX_TILE_ROWS: u8 = 22;
/// Frames a hardware encoder may work on at a time: beyond this only the latency grows.
pub const MAX_ASYNC_DEPTH: u8 = 16;

/// How the encoder spends bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RateControl {
    /// Holds `bitrate_kbps`.
    Constant,
    /// Holds `bitrate_kbps` on average, up to the ceiling for a while.
    Variable,
    /// Holds the quantisation parameter `qp`; the bitrate follows the content.
    ConstantQp,
    /// Holds the quality `qp` stands for and spends less where the eye forgives it; the bitrate follows the content.
    ConstantQuality,
}

impl RateControl {
    /// Whether a bitrate is held; otherwise it follows from the content.
    pub const fn holds_bitrate(self) -> bool {
        matches!(self, RateControl::Constant | RateControl::Variable)
    }

    /// The name used in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            RateControl::Constant => "cbr",
            RateControl::Variable => "vbr",
            RateControl::ConstantQp => "cqp",
            RateControl::ConstantQuality => "icq",
        }
    }
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
    /// The backend's own number: oneVPL's target usage 1–7, VA-API's quality level, SVT-AV1's preset.
    Number(u8),
    /// The name of x264 and x265.
    Named(X26xPreset),
}

/// Presets of x264 and x265, quickest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "they have no meaning beyond their names and their order")]
pub enum X26xPreset {
    Ultrafast,
    Superfast,
    Veryfast,
    Faster,
    Fast,
    Medium,
    Slow,
    Slower,
    Veryslow,
}

impl X26xPreset {
    /// All of them with their names; "fast" and "medium" are taken by [`Preset`] itself.
    pub const NAMES: [(X26xPreset, &'static str); 9] = [
        (X26xPreset::Ultrafast, "ultrafast"),
        (X26xPreset::Superfast, "superfast"),
        (X26xPreset::Veryfast, "veryfast"),
        (X26xPreset::Faster, "faster"),
        (X26xPreset::Fast, "fast"),
        (X26xPreset::Medium, "medium"),
        (X26xPreset::Slow, "slow"),
        (X26xPreset::Slower, "slower"),
        (X26xPreset::Veryslow, "veryslow"),
    ];

    /// The name the libraries know.
    pub fn name(self) -> &'static str {
        Self::NAMES.iter().find(|(preset, _)| *preset == self).map_or("ultrafast", |(_, name)| name)
    }

    /// The preset of that name.
    pub fn from_name(name: &str) -> Option<X26xPreset> {
        Self::NAMES.iter().find(|(_, known)| *known == name).map(|(preset, _)| *preset)
    }
}

/// How H.264 codes its symbols (ITU-T H.264 9.2, 9.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entropy {
    /// Variable-length codes: less work, about a tenth more bits.
    Cavlc,
    /// Arithmetic coding: Main and High profile only.
    Cabac,
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

/// Everything an encoder is opened with. Size, frame rate, bit depth and colour come from `format`.
#[derive(Debug, Clone, PartialEq)]
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
    /// Quantisation parameter or quality when no bitrate is held: 0–51, for AV1 0–255.
    pub qp: u8,
    /// How often an IDR comes by itself.
    pub gop: Gop,
    /// No look-ahead, no scene-cut IDR: the time of a frame stays predictable.
    pub low_latency: bool,
    /// Speed against quality.
    pub preset: Preset,
    /// Profile, for H.264; `None` leaves it to the backend. Those of HEVC and AV1 follow from the bit depth.
    pub profile: Option<H264Profile>,
    /// Entropy coding, for H.264; `None`: by the profile.
    pub entropy: Option<Entropy>,
    /// `level_idc` (ten times the level); `None` chooses the lowest that carries size, rate and bitrate.
    pub level_idc: Option<u8>,
    /// Slices of a picture; 0 means one per thread.
    pub slices: u8,
    /// Tile columns, for HEVC and AV1; 0 leaves them to the backend.
    pub tile_columns: u8,
    /// Tile rows, for HEVC and AV1; 0 leaves them to the backend.
    pub tile_rows: u8,
    /// Renews the picture by a moving band of intra blocks between IDR pictures.
    pub intra_refresh: bool,
    /// Leaves out frames that fit the bitrate at no quantiser, each as a tombstone.
    pub leave_frames_out: bool,
    /// Frames a hardware encoder works on at a time; 0 means 1.
    pub async_depth: u8,
    /// Render node of a hardware encoder; `None`: the first that can.
    pub device: Option<PathBuf>,
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
            rate_control: RateControl::Constant,
            qp: 26,
            gop: Gop::two_seconds(&format),
            low_latency: true,
            preset: Preset::Fast,
            profile: None,
            entropy: None,
            level_idc: None,
            slices: 0,
            tile_columns: 0,
            tile_rows: 0,
            intra_refresh: false,
            leave_frames_out: false,
            async_depth: 0,
            device: None,
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

    /// Bits of a sample: 10 for P010, otherwise 8.
    pub fn bit_depth(&self) -> u8 {
        if self.format.pixel_format == PixelFormat::P010 { 10 } else { 8 }
    }

    /// Largest `qp` of the codec.
    pub fn max_qp(&self) -> u8 {
        if self.codec == Codec::Av1 { MAX_AV1_QP } else { MAX_QP }
    }

    /// Refuses what this backend has not: a setting that is accepted and changes nothing is a trap.
    ///
    /// # Errors
    /// [`EncoderError::Setting`] for the first of `device`, tiles, `intra_refresh`, `leave_frames_out`, `async_depth`
    /// above 1 and `entropy` that was asked for and is not in `has`.
    pub fn refuse_all_but(&self, backend: &str, has: &[&str]) -> Result<(), EncoderError> {
        let asked = [
            ("device", self.device.as_ref().map(|path| path.display().to_string())),
            ("tile_columns", (self.tile_columns > 1).then(|| self.tile_columns.to_string())),
            ("tile_rows", (self.tile_rows > 1).then(|| self.tile_rows.to_string())),
            ("intra_refresh", self.intra_refresh.then(|| "true".to_owned())),
            ("leave_frames_out", self.leave_frames_out.then(|| "true".to_owned())),
            ("async_depth", (self.async_depth > 1).then(|| self.async_depth.to_string())),
            ("entropy", self.entropy.map(|entropy| format!("{entropy:?}").to_lowercase())),
        ];
        match asked.into_iter().find(|(name, given)| given.is_some() && !has.contains(name)) {
            Some((setting, given)) => Err(EncoderError::Setting {
                setting,
                given: given.unwrap_or_default(),
                allowed: format!("nothing with backend {backend}, which has no such choice"),
            }),
            None => Ok(()),
        }
    }

    /// Checks a bitrate that is asked for live, kb/s. `level`: the most that the level of the stream carries, kb/s, and
    /// the level's number.
    ///
    /// # Errors
    /// [`EncoderError::Setting`] when it is 0 or above what can be, or none is held.
    pub fn check_live_bitrate(&self, kbps: u32, level: Option<(u32, u8)>) -> Result<(), EncoderError> {
        if !self.rate_control.holds_bitrate() {
            let allowed = format!("nothing while rate_control is {}", self.rate_control.name());
            return refuse("bitrate_kbps", kbps, allowed);
        }
        check_bitrate("bitrate_kbps", kbps)?;
        match level {
            Some((most, level)) if kbps > most => {
                let cure = "a swap with a higher max_bitrate_kbps raises it";
                refuse("bitrate_kbps", kbps, format!("1 to {most} kb/s at level {level}; {cure}"))
            }
            _ => Ok(()),
        }
    }

    /// Slices of a picture after defaults.
    pub fn slice_count(&self) -> u8 {
        if self.slices == 0 { self.threads.max(1) } else { self.slices }
    }

    /// Refuses a frame of another format than the encoder was opened for.
    ///
    /// # Errors
    /// [`EncoderError::FormatChanged`].
    pub fn check_format(&self, given: &VideoFormat) -> Result<(), EncoderError> {
        // Strides and offsets may differ from frame to frame: they come with the pixels.
        let identity = |f: &VideoFormat| (f.pixel_format, f.width, f.height, f.colour, f.field_order);
        if identity(given) == identity(&self.format) {
            return Ok(());
        }
        let name = |f: &VideoFormat| format!("{}x{} {} {:?}", f.width, f.height, f.pixel_format.name(), f.colour);
        Err(EncoderError::FormatChanged { given: name(given), opened: name(&self.format) })
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
        if self.rate_control.holds_bitrate() {
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
        if self.qp > self.max_qp() {
            return Err(EncoderError::Setting {
                setting: "qp",
                given: self.qp.to_string(),
                allowed: format!("0 to {}", self.max_qp()),
            });
        }
        if self.gop == Gop::Frames(0) {
            return Err(EncoderError::Setting {
                setting: "gop",
                given: "0".to_owned(),
                allowed: "at least 1 frame, or infinite".to_owned(),
            });
        }
        for (setting, given, most) in [
            ("slices", self.slices, MAX_SLICES),
            ("threads", self.threads, MAX_SLICES),
            ("tile_columns", self.tile_columns, MAX_TILE_COLUMNS),
            ("tile_rows", self.tile_rows, MAX_TILE_ROWS),
            ("async_depth", self.async_depth, MAX_ASYNC_DEPTH),
        ] {
            if given > most {
                let allowed = format!("0 (automatic) to {most}");
                return Err(EncoderError::Setting { setting, given: given.to_string(), allowed });
            }
        }
        if self.codec == Codec::H264 && self.tile_columns.max(self.tile_rows) > 1 {
            return Err(EncoderError::Setting {
                setting: "tile_columns",
                given: format!("{}x{}", self.tile_columns, self.tile_rows),
                allowed: "1x1 for h264, which has slices but no tiles".to_owned(),
            });
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
