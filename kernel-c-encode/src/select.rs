//! Which encoder a configuration gets.
//!
//! `auto` tries the backends of the codec asked for, best first, and says why each one before the chosen one was
//! passed over. Another codec than the one asked for is never chosen.

use crate::backends::intel::{vaapi, vpl};
use crate::backends::null::NullEncoder;
use crate::backends::software::openh264::OpenH264;
use crate::backends::software::{svtav1, x264, x265};
use crate::encoder::Encoder;
use crate::error::EncoderError;
use crate::ratecontrol::controlled::Controlled;
use crate::settings::{EncoderSettings, Preset, RateControl};
use shm_protocol::frame::Codec;

/// Names of `encode.backend`, beside `auto`.
pub const BACKENDS: [&str; 7] = ["vpl", "vaapi", "x264", "x265", "svtav1", "openh264", "null"];

/// Backends that drive a device.
const HARDWARE: [&str; 2] = ["vpl", "vaapi"];

/// A backend that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Considered {
    /// Its name.
    pub backend: &'static str,
    /// `None` when it was taken; otherwise why not.
    pub refused: Option<EncoderError>,
}

/// The encoder chosen, and how the choice came about.
pub struct Opened {
    /// The encoder.
    pub encoder: Box<dyn Encoder>,
    /// Every backend looked at, in order; the last one is the one taken.
    pub considered: Vec<Considered>,
}

impl std::fmt::Debug for Opened {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opened").field("encoder", &self.encoder.name()).field("considered", &self.considered).finish()
    }
}

/// The backends of a codec, best first: hardware, then by CPU time per frame at equal quality.
pub const fn order(codec: Codec) -> &'static [&'static str] {
    match codec {
        Codec::H264 => &["vpl", "vaapi", "x264", "openh264"],
        Codec::Hevc => &["vpl", "vaapi", "x265"],
        Codec::Av1 => &["vpl", "vaapi", "svtav1"],
        Codec::Null => &["null"],
    }
}

/// Opens one backend. `asked_for`: by its name, so that it may be what `auto` would not take (a oneVPL runtime that
/// runs on the CPU).
fn open_one(backend: &str, settings: &EncoderSettings, asked_for: bool) -> Result<Box<dyn Encoder>, EncoderError> {
    match backend {
        // It holds a bitrate or a quantiser; a quality is our own rate control's.
        "openh264" if settings.rate_control == RateControl::ConstantQuality => {
            let by_quantiser = EncoderSettings { rate_control: RateControl::ConstantQp, ..settings.clone() };
            Ok(Box::new(Controlled::new(Box::new(OpenH264::open(&by_quantiser)?), settings)?))
        }
        "openh264" => Ok(Box::new(OpenH264::open(settings)?)),
        // Its best quality is to have read the picture at all (`encode.preset = "read"`).
        "null" => Ok(Box::new(NullEncoder::open(settings, settings.preset == Preset::Quality)?)),
        "vpl" => vpl::open(settings, asked_for),
        "vaapi" => vaapi::open(settings),
        "x264" => x264::open(settings),
        "x265" => x265::open(settings),
        "svtav1" => svtav1::open(settings),
        other => Err(EncoderError::Setting {
            setting: "backend",
            given: other.to_owned(),
            allowed: format!("auto, {}", BACKENDS.join(", ")),
        }),
    }
}

/// Opens a backend of that name only if hardware does its work.
///
/// # Errors
/// As [`open`].
pub fn open_hardware(backend: &str, settings: &EncoderSettings) -> Result<Box<dyn Encoder>, EncoderError> {
    settings.check()?;
    open_one(backend, settings, false)
}

/// Opens the backend of that name, or the best one for `auto`.
///
/// # Errors
/// [`EncoderError::Unavailable`] (exit code 69) when the backend asked for, or every one of the codec, cannot be
/// used; for `auto`, the settings error of a backend that is in the build but refused the settings.
pub fn open(backend: &str, settings: &EncoderSettings) -> Result<Opened, EncoderError> {
    settings.check()?;
    if backend != "auto" {
        let encoder = open_one(backend, settings, true)?;
        let considered = vec![Considered { backend: encoder.name(), refused: None }];
        return Ok(Opened { encoder, considered });
    }
    open_after(settings, None)
}

/// Opens the best backend behind `lost` in the order of the codec, for a stream whose encoder lost its device; the
/// best of all for `None`.
///
/// # Errors
/// As [`open`].
pub fn open_after(settings: &EncoderSettings, lost: Option<&str>) -> Result<Opened, EncoderError> {
    let order = order(settings.codec);
    let first = lost.and_then(|lost| order.iter().position(|name| *name == lost)).map_or(0, |lost| lost + 1);
    let mut considered = Vec::new();
    // What names a device, or how many frames it works on, says nothing of encoders without one.
    let in_software = EncoderSettings { device: None, async_depth: 0, ..settings.clone() };
    for &name in &order[first..] {
        let settings = if HARDWARE.contains(&name) { settings } else { &in_software };
        match open_one(name, settings, false) {
            Ok(encoder) => {
                considered.push(Considered { backend: name, refused: None });
                return Ok(Opened { encoder, considered });
            }
            Err(refused) => considered.push(Considered { backend: name, refused: Some(refused) }),
        }
    }
    // A backend that is there but refuses these settings says more than those that are absent.
    let present = considered.iter().filter_map(|c| c.refused.as_ref());
    if let Some(error) = present.clone().find(|e| !matches!(e, EncoderError::Unavailable { .. })) {
        return Err(error.clone());
    }
    let reasons: Vec<String> = present
        .map(|error| match error {
            EncoderError::Unavailable { backend, reason, .. } => format!("{backend}: {reason}"),
            other => other.to_string(),
        })
        .collect();
    Err(EncoderError::Unavailable {
        backend: format!("auto for {}", settings.codec.name()),
        reason: reasons.join(", "),
        cure: match settings.codec {
            Codec::Hevc => "Install x265 (apt install libx265-199), or set encode.codec to h264".to_owned(),
            Codec::Av1 => "Install SVT-AV1 2.0 or newer, or set encode.codec to h264".to_owned(),
            Codec::H264 | Codec::Null => "Set encode.backend to openh264".to_owned(),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm_protocol::error::Recovery;
    use shm_protocol::frame::{Colour, PixelFormat, Rational, VideoFormat};

    fn settings(codec: Codec, width: u32) -> EncoderSettings {
        let fps = Rational::new(30, 1).unwrap();
        let format = VideoFormat::packed(PixelFormat::Nv12, width, 64, fps, Colour::BT709_LIMITED).unwrap();
        EncoderSettings::live(codec, format, 500)
    }

    #[test]
    fn auto_takes_the_first_that_is_there_and_says_why_not_the_others() {
        let opened = open("auto", &settings(Codec::H264, 64)).unwrap();
        // No device is needed for this test, and x264 may be installed or not.
        let expected = if open("x264", &settings(Codec::H264, 64)).is_ok() { "x264" } else { "openh264" };
        let (last, before) = opened.considered.split_last().unwrap();
        if before.len() >= 2 {
            assert_eq!((opened.encoder.name(), last.backend), (expected, expected));
        }
        assert_eq!(last.refused, None);
        let names: Vec<_> = opened.considered.iter().map(|c| c.backend).collect();
        assert_eq!(names, order(Codec::H264)[..names.len()]);
        assert!(before.iter().all(|c| matches!(c.refused, Some(EncoderError::Unavailable { .. }))), "{before:?}");
    }

    #[test]
    fn no_other_codec_than_the_one_asked_for_is_chosen() {
        for codec in [Codec::Hevc, Codec::Av1] {
            match open("auto", &settings(codec, 64)) {
                Ok(opened) => assert_eq!(opened.encoder.codec(), codec),
                Err(error) => assert_eq!((error.recovery(), error.exit_code()), (Recovery::Fatal, 69), "{error}"),
            }
            assert!(open("openh264", &settings(codec, 64)).is_err());
        }
        assert_eq!(open("auto", &settings(Codec::Null, 64)).unwrap().encoder.codec(), Codec::Null);
    }

    #[test]
    fn null_reads_pixels_only_when_asked_to() {
        let mut settings = settings(Codec::Null, 64);
        assert_eq!(open("null", &settings).unwrap().encoder.path(), "not read");
        settings.preset = Preset::Quality;
        assert_eq!(open("null", &settings).unwrap().encoder.path(), "read in place, nothing copied");
    }

    #[test]
    fn an_absent_backend_is_fatal_with_a_cure() {
        let codecs = [Codec::H264, Codec::H264, Codec::H264, Codec::Hevc, Codec::Av1];
        for (backend, codec) in ["vpl", "vaapi", "x264", "x265", "svtav1"].into_iter().zip(codecs) {
            let Err(error) = open(backend, &settings(codec, 64)) else { continue };
            assert_eq!((error.recovery(), error.exit_code()), (Recovery::Fatal, 69), "{error}");
            assert!(error.to_string().to_lowercase().contains("set encode."), "{error}");
        }
        let error = open("nvenc", &settings(Codec::H264, 64)).unwrap_err();
        assert!(error.to_string().contains("auto, vpl, vaapi"), "{error}");
    }

    #[test]
    fn auto_tells_the_refusal_of_the_backend_that_is_there() {
        // Without devices: one that is there refuses in its own words.
        let error = open_after(&settings(Codec::H264, 8), Some("vaapi")).unwrap_err();
        assert!(error.to_string().contains("from 16x16"), "{error}");
    }
}
