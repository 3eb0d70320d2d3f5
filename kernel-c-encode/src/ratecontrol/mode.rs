//! What a controller is made with.

use super::controller::default_bounds;
use super::model::QpScale;
use crate::error::EncoderError;
use crate::settings::{EncoderSettings, RateControl, check_bitrate};
use shm_protocol::frame::Codec;

/// How bits are spent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModeConfig {
    /// Holds the bitrate, kb/s; the bucket drains at it.
    Cbr {
        /// Bitrate, kb/s.
        kbps: u32,
    },
    /// Holds the bitrate on average over seconds, with an even quality; the bucket drains at the peak.
    Vbr {
        /// Bitrate on average, kb/s.
        kbps: u32,
        /// Highest bitrate, kb/s.
        peak_kbps: u32,
    },
    /// Holds the quality while the peak allows it; the bucket drains at the peak.
    CappedVbr {
        /// The quantiser that stands for the quality.
        qp: u8,
        /// Highest bitrate, kb/s.
        peak_kbps: u32,
    },
    /// The same quantiser for every frame.
    Cqp {
        /// The quantiser.
        qp: u8,
    },
    /// Holds the quality for the eye: frames harder than the mean are coded a little coarser, as what is busy hides it.
    ConstantQuality {
        /// The quantiser of a frame of mean complexity.
        quality: u8,
    },
}

impl ModeConfig {
    /// Whether there is a bitrate to change.
    pub const fn has_bitrate(&self) -> bool {
        !matches!(self, ModeConfig::Cqp { .. } | ModeConfig::ConstantQuality { .. })
    }
}

/// What a controller is made with.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateConfig {
    /// How bits are spent.
    pub mode: ModeConfig,
    /// Scale of the quantiser.
    pub scale: QpScale,
    /// Frames per second.
    pub fps: f64,
    /// Pixels of a frame.
    pub pixels: u64,
    /// Size of the bucket, ms of the rate it drains at.
    pub vbv_ms: u32,
    /// Least and largest quantiser chosen.
    pub min_qp: u8,
    /// Largest quantiser chosen.
    pub max_qp: u8,
    /// How far any window of one second may exceed the bitrate: 0.1 is ten per cent. `None`: only the bucket binds.
    pub window_tolerance: Option<f64>,
}

impl RateConfig {
    /// The configuration for an encoder's settings. Constant quality with a `max_bitrate_kbps` is capped by it.
    pub fn of(settings: &EncoderSettings) -> RateConfig {
        let scale = if settings.codec == Codec::Av1 { QpScale::Av1 } else { QpScale::H26x };
        let mode = match settings.rate_control {
            RateControl::Constant => ModeConfig::Cbr { kbps: settings.bitrate_kbps },
            RateControl::Variable => {
                ModeConfig::Vbr { kbps: settings.bitrate_kbps, peak_kbps: settings.ceiling_kbps() }
            }
            RateControl::ConstantQp => ModeConfig::Cqp { qp: settings.qp },
            RateControl::ConstantQuality if settings.max_bitrate_kbps > 0 => {
                ModeConfig::CappedVbr { qp: settings.qp, peak_kbps: settings.max_bitrate_kbps }
            }
            RateControl::ConstantQuality => ModeConfig::ConstantQuality { quality: settings.qp },
        };
        let (min_qp, max_qp) = default_bounds(scale);
        RateConfig {
            mode,
            scale,
            fps: settings.format.fps.as_f64(),
            pixels: u64::from(settings.format.width) * u64::from(settings.format.height),
            vbv_ms: settings.vbv_ms,
            min_qp,
            max_qp,
            window_tolerance: None,
        }
    }

    pub(super) fn check(&self) -> Result<(), EncoderError> {
        let refuse = |setting, given: String, allowed: String| Err(EncoderError::Setting { setting, given, allowed });
        // `Rational` knows rates from one frame in 2³² seconds on; what matters is that it divides.
        if !(self.fps.is_finite() && self.fps > 0.0) {
            return refuse("fps", self.fps.to_string(), "a positive number".to_owned());
        }
        let largest = self.scale.max_qp();
        if self.min_qp > self.max_qp || self.max_qp > largest {
            let given = format!("{} to {}", self.min_qp, self.max_qp);
            return refuse("qp bounds", given, format!("a range within 0 to {largest}"));
        }
        if let ModeConfig::Cqp { qp } | ModeConfig::CappedVbr { qp, .. } | ModeConfig::ConstantQuality { quality: qp } =
            self.mode
            && qp > largest
        {
            return refuse("qp", qp.to_string(), format!("0 to {largest}"));
        }
        check_rates(&self.mode)
    }
}

/// Checks the bitrates of a mode.
pub(super) fn check_rates(mode: &ModeConfig) -> Result<(), EncoderError> {
    match *mode {
        ModeConfig::Cbr { kbps } => check_bitrate("bitrate_kbps", kbps),
        ModeConfig::CappedVbr { peak_kbps, .. } => check_bitrate("max_bitrate_kbps", peak_kbps),
        ModeConfig::Vbr { kbps, peak_kbps } => {
            check_bitrate("bitrate_kbps", kbps)?;
            check_bitrate("max_bitrate_kbps", peak_kbps)?;
            if peak_kbps < kbps {
                return Err(EncoderError::Setting {
                    setting: "max_bitrate_kbps",
                    given: peak_kbps.to_string(),
                    allowed: format!("at least bitrate_kbps ({kbps})"),
                });
            }
            Ok(())
        }
        ModeConfig::Cqp { .. } | ModeConfig::ConstantQuality { .. } => Ok(()),
    }
}
