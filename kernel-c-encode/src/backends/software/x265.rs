//! HEVC in software with x265, where it is installed: synchronous, no delay, no B frames, 8 and 10 bit.
//!
//! x265 takes planar chroma only: that of NV12 and P010 is taken apart into private memory. Luma is read where it
//! lies; the library shifts the samples of P010 by itself. Threads share a picture by wavefronts, which hold no frame
//! back. More slices than one would: the library then gives a picture out with the next one only, so they are refused.
//!
//! A new bitrate opens the library anew at the next frame, which becomes an IDR. `x265_encoder_reconfig` takes another
//! bitrate, says so and goes on with the old one (3.5 and 4.2, measured: from then on `Encoder::m_param` is another
//! object than the one `RateControl` reads). The level is chosen once, for the highest bitrate there may be, so that
//! it stays. With a bitrate the virtual buffer of `vbv_ms` is kept.
//!
//! Presets: "fast" is ultrafast, whose frame costs 8 times the CPU of x264's at 1080p: HEVC in software is for 720p
//! and below on two cores. "medium" is superfast and "quality" is x265's medium.
#![expect(unsafe_code, reason = "hands pixels of another process to a C++ library")]

use super::planar::Planar;
use super::takes::Takes;
use super::x26x::{self, buffer_kbit, rate};
use super::x265_library::{Functions, Input, LIBRARY, Library, Param};
use crate::bitstream::assemble::hand_on;
use crate::bitstream::hevc_level::{self, Level};
use crate::encoder::{AuSink, Capabilities, EncodeInput, Encoder, LeftOut};
use crate::error::{EncoderError, SinkError, refuse};
use crate::settings::{EncoderSettings, Gop, Preset, RateControl};
use shm_protocol::error::FormatError;
use shm_protocol::frame::{Codec, PixelFormat, Range, Rational};

/// Smallest side: one coding tree unit of 32, the smallest that every level allows (ITU-T H.265 A.4.1).
const MIN_SIDE: u32 = 32;
/// Side from which coding tree units of 64 fit, which slower presets take.
const LARGE_UNIT_SIDE: u32 = 64;
/// Longest side of level 6.2: ⌊√(35651584 × 8)⌋ = 16888, in whole units of 8.
const MAX_SIDE: u32 = 16_888;
/// Largest picture, macroblocks of 16 × 16: MaxLumaPs of level 6.2 / 256.
const MAX_MACROBLOCKS: u32 = 35_651_584 / 256;
/// No picture becomes an IDR by itself.
const KEYINT_INFINITE: &str = "-1";
/// Names of the presets by their number.
const PRESETS: [&str; 10] =
    ["ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow", "placebo"];

const TAKES: Takes = Takes {
    backend: LIBRARY,
    codec: Codec::Hevc,
    has: &["intra_refresh"],
    pixel_formats: &[PixelFormat::Nv12, PixelFormat::I420, PixelFormat::P010],
    pixel_formats_text: "nv12 or i420 (8 bit) or p010 (10 bit)",
};

/// The x265 encoder.
#[derive(Debug)]
pub struct X265 {
    library: Library,
    functions: Functions,
    /// The library has to be opened anew, for another bitrate.
    reopen: bool,
    planar: Planar,
    settings: EncoderSettings,
    level: Level,
    number: i64,
    copied_bytes: u64,
    idr_owed: bool,
}

/// Refuses what x265 cannot do.
fn check(settings: &EncoderSettings) -> Result<Level, EncoderError> {
    TAKES.check(settings)?;
    let format = &settings.format;
    let (width, height, fps) = (format.width, format.height, format.fps.as_f64());
    if width.min(height) < MIN_SIDE || hevc_level::lowest(width, height, 0.0, 0, 0).is_none() {
        return Err(EncoderError::Format(FormatError::Size {
            width,
            height,
            format: "x265",
            allowed: "from 32x32, sides up to 16888 and at most 35651584 pixels (HEVC level 6.2)",
        }));
    }
    if settings.slices > 1 {
        return refuse("slices", settings.slices, "1 for backend x265, which holds a frame back with more");
    }
    x26x::Library::X265.colour(format.colour)?;
    let top = hevc_level::LEVELS[hevc_level::LEVELS.len() - 1];
    let (kbps, ceiling_kbps) = match settings.rate_control.holds_bitrate() {
        // What no level carries may be asked for later, and is refused then.
        true => (settings.bitrate_kbps, settings.ceiling_kbps().min(top.max_kbps)),
        false => (0, 0),
    };
    let level = match settings.level_idc {
        // A rate that no level carries is the highest level's: decoders refuse nothing by the level alone.
        None => {
            hevc_level::lowest(width, height, fps, ceiling_kbps, buffer_kbit(settings, ceiling_kbps).min(top.max_kbps))
                .unwrap_or(top)
        }
        Some(number) => match hevc_level::by_number(number) {
            Some(level) if level.carries(width, height, fps, 0, 0) => level,
            Some(_) => return refuse("level", number, "one that carries the size and the rate of the frames"),
            None => return refuse("level", number, "10 to 62, ten times a level of H.265 Table A.8"),
        },
    };
    if kbps > level.max_kbps {
        let allowed = format!("at most {} kb/s at level {} (Main tier)", level.max_kbps, level.number);
        return refuse("bitrate_kbps", kbps, &allowed);
    }
    Ok(level)
}

fn preset(settings: &EncoderSettings, functions: &Functions) -> Result<Param, EncoderError> {
    let name = match settings.preset {
        Preset::Fast => "ultrafast",
        Preset::Medium => "superfast",
        Preset::Quality => "medium",
        Preset::Named(preset) => preset.name(),
        Preset::Number(number) => match PRESETS.get(usize::from(number)) {
            Some(name) => name,
            None => return refuse("preset", number, "0 (ultrafast) to 9 for backend x265, or a preset's name"),
        },
    };
    Param::preset(functions, name)
}

fn params(settings: &EncoderSettings, functions: &Functions, level: Level) -> Result<Param, EncoderError> {
    let format = &settings.format;
    let mut p = preset(settings, functions)?;
    // Errors only; the rest is about choices made here on purpose.
    p.set("log-level", "error")?;
    p.set("input-res", &format!("{}x{}", format.width, format.height))?;
    p.set("input-csp", "i420")?;
    let Rational { num, den } = format.fps;
    p.set("fps", &format!("{num}/{den}"))?;
    if format.width.min(format.height) < LARGE_UNIT_SIDE {
        p.set("ctu", "32")?;
    }
    p.set("frame-threads", "1")?;
    if settings.threads > 1 {
        p.set("wpp", "1")?;
        p.set("pools", &settings.threads.to_string())?;
    } else {
        p.set("wpp", "0")?;
        p.set("pools", "none")?;
    }
    // What "zerolatency" says too, said again: the promise does not hang on a tune.
    for (name, value) in
        [("bframes", "0"), ("rc-lookahead", "0"), ("scenecut", "0"), ("cutree", "0"), ("open-gop", "0")]
    {
        p.set(name, value)?;
    }
    for (name, value) in [("repeat-headers", "1"), ("annexb", "1"), ("aud", "0"), ("hrd", "0"), ("info", "0")] {
        p.set(name, value)?;
    }
    match settings.gop {
        Gop::Frames(frames) => p.set("keyint", &frames.min(i32::MAX as u32).to_string())?,
        // A refresh has to have a period: two seconds, as the usual gop.
        Gop::Infinite if settings.intra_refresh => {
            p.set("keyint", &((format.fps.as_f64() * 2.0).round() as u32).max(1).to_string())?;
        }
        Gop::Infinite => p.set("keyint", KEYINT_INFINITE)?,
    }
    if settings.intra_refresh {
        p.set("intra-refresh", "1")?;
    }
    match settings.rate_control {
        RateControl::Constant | RateControl::Variable => {
            for (name, value) in rate(settings, 1) {
                p.set(name, &value.to_string())?;
            }
        }
        RateControl::ConstantQp => {
            // Every picture gets its quantiser when it comes.
            p.set("crf", &settings.qp.max(1).to_string())?;
            p.set("aq-mode", "0")?;
        }
        RateControl::ConstantQuality => p.set("crf", &settings.qp.to_string())?,
    }
    let colour = format.colour;
    p.set("videoformat", "unknown")?;
    p.set("range", if colour.range == Range::Full { "full" } else { "limited" })?;
    for (name, value) in x26x::Library::X265.colour(colour)? {
        p.set(name, value)?;
    }
    p.set("chromaloc", &(colour.siting as u32).to_string())?;
    if settings.rate_control.holds_bitrate() || settings.level_idc.is_some() {
        // Without a bitrate the library would hold that of the level: only where the level was asked for.
        p.set("level-idc", &level.number.to_string())?;
    }
    p.set("high-tier", "0")?;
    Ok(p)
}

/// Opens it.
///
/// # Errors
/// [`EncoderError::Setting`], [`EncoderError::Format`] or [`EncoderError::PixelFormat`] when something cannot be done;
/// [`EncoderError::Unavailable`] when the library is not installed or has not this bit depth;
/// [`EncoderError::Library`] when it refuses.
pub fn open(settings: &EncoderSettings) -> Result<Box<dyn Encoder>, EncoderError> {
    Ok(Box::new(X265::open(settings)?))
}

impl X265 {
    /// Opens an encoder.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(settings: &EncoderSettings) -> Result<X265, EncoderError> {
        // That it is missing says more than what it would refuse.
        let functions = Functions::load(settings.bit_depth())?;
        let level = check(settings)?;
        let library = Library::open(&params(settings, &functions, level)?)?;
        let format = &settings.format;
        Ok(X265 {
            library,
            functions,
            reopen: false,
            planar: Planar::new(format.pixel_format, format.width, format.height, false),
            settings: settings.clone(),
            level,
            number: 0,
            copied_bytes: 0,
            idr_owed: false,
        })
    }
}

impl Encoder for X265 {
    fn name(&self) -> &'static str {
        LIBRARY
    }

    fn codec(&self) -> Codec {
        Codec::Hevc
    }

    fn path(&self) -> &str {
        self.planar.path()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            live_bitrate: false,
            idr_on_request: true,
            frame_qp: !self.settings.rate_control.holds_bitrate(),
            delay_frames: 0,
            pixel_formats: TAKES.pixel_formats,
            min_size: (MIN_SIDE, MIN_SIDE),
            max_size: (MAX_SIDE, MAX_SIDE),
            max_macroblocks: MAX_MACROBLOCKS,
        }
    }

    fn encode(&mut self, frame: &EncodeInput<'_>, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        self.settings.check_format(frame.pixels.format())?;
        if self.reopen {
            self.library = Library::open(&params(&self.settings, &self.functions, self.level)?)?;
            self.reopen = false;
        }
        let planes = self.planar.planes(&frame.pixels);
        self.copied_bytes += self.planar.copied_bytes();
        let input = Input {
            planes: planes.map(|plane| plane.pointer),
            strides: planes.map(|plane| plane.stride as u32),
            bits: if self.settings.bit_depth() == 10 { 16 } else { 8 },
            number: self.number,
            idr: frame.force_idr || self.idr_owed,
            qp: match self.settings.rate_control {
                RateControl::Constant | RateControl::Variable => None,
                RateControl::ConstantQp => frame.qp.or(Some(self.settings.qp)),
                RateControl::ConstantQuality => frame.qp,
            },
        };
        self.number += 1;
        // SAFETY: the planes lie in the mapping `PixelsRead` proved, with all rows of the coded height, or in
        // `self.planar`; both stay untouched till then.
        let bytes = unsafe { self.library.encode(&input)? };
        let written = hand_on(LIBRARY, Codec::Hevc, bytes, (frame.key, frame.pts_ns), sink);
        // What did not get out is missing as a reference.
        self.idr_owed = written.is_err();
        if let Err(EncoderError::Sink(SinkError::TooLarge { .. })) = written {
            sink.left_out(frame.key, LeftOut::TooLarge)?;
        }
        written.map(|_| ())
    }

    fn set_bitrate(&mut self, kbps: u32, max_kbps: u32) -> Result<(), EncoderError> {
        self.settings.check_live_bitrate(kbps, Some((self.level.max_kbps, self.level.number)))?;
        let mut settings = EncoderSettings { bitrate_kbps: kbps, ..self.settings.clone() };
        if max_kbps != 0 {
            settings.max_bitrate_kbps = max_kbps.min(self.level.max_kbps);
        }
        self.reopen |= rate(&settings, 1) != rate(&self.settings, 1);
        self.settings = settings;
        Ok(())
    }

    fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }

    fn flush(&mut self, _sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        Ok(())
    }
}
