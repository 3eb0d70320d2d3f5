//! What each backend can do on this machine: every profile with every rate mode, really opened and really encoded with.
//!
//! `kernel-c-encode --support` prints it as JSON. `quad doctor` runs that in a process of its own, because a driver
//! that crashes must not take more with it.

use crate::encoder::{AccessUnitMeta, AuSink, EncodeInput, Key, LeftOut};
use crate::error::{EncoderError, SinkError};
use crate::select::{self, BACKENDS, order};
use crate::settings::{EncoderSettings, H264Profile, RateControl};
use shm_protocol::frame::{Codec, Colour, PixelFormat, Rational, VideoFormat};
use shm_protocol::pixels::PixelsRead;

/// Size of the pictures tried: every device takes it, and the slowest encoder makes one within 0.1 s.
const SIZE: (u32, u32) = (640, 368);
/// Their rate, frames per second.
const FPS: u32 = 30;
/// Their bitrate, kb/s: low enough for level 3.0.
const BITRATE_KBPS: u32 = 2000;
/// Pictures tried: an IDR and one that refers to it.
const PICTURES: u64 = 2;

/// A profile of a codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Profile {
    /// Its codec.
    pub codec: Codec,
    /// The name used in the configuration.
    pub name: &'static str,
    /// Bits of a sample.
    pub bit_depth: u8,
    h264: Option<H264Profile>,
}

const fn profile(codec: Codec, name: &'static str, bit_depth: u8, h264: Option<H264Profile>) -> Profile {
    Profile { codec, name, bit_depth, h264 }
}

/// Every profile of the configuration.
pub const PROFILES: [Profile; 7] = [
    profile(Codec::H264, "baseline", 8, Some(H264Profile::ConstrainedBaseline)),
    profile(Codec::H264, "main", 8, Some(H264Profile::Main)),
    profile(Codec::H264, "high", 8, Some(H264Profile::High)),
    profile(Codec::Hevc, "main", 8, None),
    profile(Codec::Hevc, "main10", 10, None),
    profile(Codec::Av1, "main", 8, None),
    profile(Codec::Av1, "main", 10, None),
];

/// Every rate mode of the configuration.
pub const RATE_MODES: [RateControl; 4] =
    [RateControl::Constant, RateControl::Variable, RateControl::ConstantQp, RateControl::ConstantQuality];

/// One row of the table of support.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Row {
    /// The backend.
    pub backend: &'static str,
    /// The profile, with codec and bit depth.
    pub profile: Profile,
    /// The rate mode.
    pub rate_control: RateControl,
}

impl Row {
    /// What an encoder of this row is opened with, for pictures of `width` × `height`.
    ///
    /// # Errors
    /// [`EncoderError::Format`] for an impossible size.
    pub fn settings(&self, width: u32, height: u32, fps: u32) -> Result<EncoderSettings, EncoderError> {
        let pixels = if self.profile.bit_depth == 10 { PixelFormat::P010 } else { PixelFormat::Nv12 };
        let rate = Rational { num: fps, den: 1 };
        let format = VideoFormat::packed(pixels, width, height, rate, Colour::BT709_LIMITED)?;
        let mut settings = EncoderSettings::live(self.profile.codec, format, BITRATE_KBPS);
        settings.profile = self.profile.h264;
        settings.rate_control = self.rate_control;
        if self.profile.codec == Codec::Av1 {
            // About what 26 is on the scale of H.264: AV1 counts to 255.
            settings.qp = 120;
        }
        Ok(settings)
    }
}

/// Every row there could be: each backend with the codecs it makes.
pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for backend in BACKENDS {
        for profile in PROFILES.into_iter().filter(|profile| order(profile.codec).contains(&backend)) {
            rows.extend(RATE_MODES.map(|rate_control| Row { backend, profile, rate_control }));
        }
    }
    rows
}

/// What came of trying a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// The row.
    pub row: Row,
    /// How pixels reach the encoder, or why there is none.
    pub result: Result<String, EncoderError>,
}

/// Opens an encoder as the row says and encodes two pictures.
pub fn try_row(row: Row) -> Tried {
    Tried { row, result: encode_two(&row) }
}

fn encode_two(row: &Row) -> Result<String, EncoderError> {
    let settings = row.settings(SIZE.0, SIZE.1, FPS)?;
    let mut encoder = select::open(row.backend, &settings)?.encoder;
    // Zeros: green in every format, which is as good a picture as any.
    let bytes = vec![0; settings.format.frame_bytes() as usize];
    let mut out = Counted::default();
    for index in 0..PICTURES {
        let input = EncodeInput {
            pixels: PixelsRead::from_slice(&settings.format, &bytes)?,
            memory: None,
            key: Key { source_id: index, sub: 0 },
            pts_ns: settings.format.fps.frame_time_ns(index),
            force_idr: index == 0,
            qp: None,
            idr_count: 0,
        };
        encoder.encode(&input, &mut out)?;
    }
    encoder.flush(&mut out)?;
    if out.units == PICTURES && out.begins_with_idr {
        return Ok(encoder.path().to_owned());
    }
    Err(EncoderError::Bitstream {
        library: encoder.name(),
        reason: format!("{} of {PICTURES} pictures came out, IDR first: {}", out.units, out.begins_with_idr),
    })
}

/// Counts access units.
#[derive(Default)]
struct Counted {
    buffer: Vec<u8>,
    units: u64,
    begins_with_idr: bool,
}

impl AuSink for Counted {
    fn buffer(&mut self, len: usize) -> Result<&mut [u8], SinkError> {
        self.buffer.resize(len, 0);
        Ok(&mut self.buffer)
    }

    fn commit(&mut self, _len: usize, meta: &AccessUnitMeta) -> Result<(), SinkError> {
        self.begins_with_idr |= self.units == 0 && meta.idr;
        self.units += 1;
        Ok(())
    }

    fn left_out(&mut self, _key: Key, _reason: LeftOut) -> Result<(), SinkError> {
        Ok(())
    }
}

/// Tries every row and writes a JSON list: `backend`, `codec`, `profile`, `bit_depth`, `rate_control`, `usable`,
/// `why` (how pixels reach it, or what is missing) and, where there is one, `cure`.
pub fn json() -> String {
    let tried = rows().into_iter().map(try_row).map(|tried| {
        let (usable, why, cure) = match tried.result {
            Ok(path) => (true, path, None),
            Err(EncoderError::Unavailable { reason, cure, .. }) => (false, reason, Some(cure)),
            Err(error) => (false, error.to_string(), None),
        };
        serde_json::json!({
            "backend": tried.row.backend,
            "codec": tried.row.profile.codec.name(),
            "profile": tried.row.profile.name,
            "bit_depth": tried.row.profile.bit_depth,
            "rate_control": tried.row.rate_control.name(),
            "usable": usable,
            "why": why,
            "cure": cure,
        })
    });
    serde_json::Value::Array(tried.collect()).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn openh264_can_do_every_row_of_its_own() {
        let rows = rows().into_iter().filter(|row| row.backend == "openh264");
        for tried in rows.map(try_row) {
            assert!(tried.result.is_ok(), "{tried:?}");
        }
    }

    #[test]
    fn a_row_that_cannot_be_says_what_is_allowed() {
        let hevc = profile(Codec::Hevc, "main", 8, None);
        let tried = try_row(Row { backend: "openh264", profile: hevc, rate_control: RateControl::Constant });
        assert!(tried.result.unwrap_err().to_string().contains("allowed is h264"));
    }

    #[test]
    fn every_backend_but_null_has_its_rows_and_no_codec_that_it_does_not_make() {
        let rows = rows();
        for backend in BACKENDS.into_iter().filter(|name| *name != "null") {
            assert!(rows.iter().any(|row| row.backend == backend), "{backend}");
        }
        assert!(rows.iter().all(|row| row.backend != "x264" || row.profile.codec == Codec::H264));
        assert_eq!(rows.iter().filter(|row| row.backend == "vpl").count(), PROFILES.len() * RATE_MODES.len());
    }
}
