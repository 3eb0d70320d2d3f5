//! H.264 in software with x264, where it is installed: synchronous, no delay, no B frames, 8 bit.
//!
//! The planes are read where they lie, NV12 and I420 alike. Threads share a picture by slices, one each, so that no
//! frame is held back. With a bitrate the virtual buffer of `vbv_ms` is kept: the stream does not exceed it for longer.
//!
//! Presets: "fast" is x264's superfast. At 1080p its frame costs 1.7 times the CPU of ultrafast, what one of openh264
//! costs, and it is 6 VMAF points above ultrafast on easy and hard content and above openh264 on both; ultrafast,
//! which is below openh264 on easy content, can be had by its name. "medium" is veryfast, "quality" is x264's medium,
//! its own default.
//!
//! `idr_pic_id`: the library alternates between 0 and 1, and ITU-T H.264 7.4.3 wants two consecutive IDR pictures to
//! differ. Of an encoder that goes on with a stream of an odd number of IDR pictures the number is changed in every IDR
//! slice ([`with_idr_pic_id`]). A private picture in front would do it too, and was tried: the rate control takes it for
//! the content and gives the first real one almost twice its bytes.
//!
//! With `intra_refresh` a moving column of intra blocks renews the picture once every `gop` frames, and an IDR comes
//! only when it is asked for: that is how x264 understands it.
#![expect(unsafe_code, reason = "hands pixels of another process to a C library")]

use super::takes::Takes;
use super::x26x::{self, rate};
use super::x264_library::{I420, LIBRARY, Library, NV12, Param, Picture};
use crate::bitstream::annexb::nal_units;
use crate::bitstream::assemble::hand_on;
use crate::bitstream::h264::{SliceHeader, nal_type, type_of};
use crate::bitstream::h264_idr_id::{pps_is_cabac, with_idr_pic_id};
use crate::bitstream::h264_level::{self, Level, macroblocks};
use crate::bitstream::h264_sps::Sps;
use crate::encoder::{AuSink, Capabilities, EncodeInput, Encoder, LeftOut};
use crate::error::{EncoderError, SinkError, refuse};
use crate::settings::{EncoderSettings, Entropy, Gop, H264Profile, Preset, RateControl};
use shm_protocol::error::FormatError;
use shm_protocol::frame::{Codec, PixelFormat, Range, Rational, VideoFormat};

/// Smallest side: one macroblock.
const MIN_SIDE: u32 = 16;
/// Longest side the library takes (`MAX_RESOLUTION`).
const MAX_SIDE: u32 = 16_384;
/// Largest picture, macroblocks: level 6.2 (ITU-T H.264 Table A-1).
const MAX_MACROBLOCKS: u32 = 139_264;
/// Largest picture of level 5.2, macroblocks. Above it the library chooses the level.
const LEVEL_52_MACROBLOCKS: u32 = 36_864;
/// Rows of macroblocks each thread needs (`x264_validate_parameters`: a quarter of them may be threads).
const MACROBLOCK_ROWS_PER_THREAD: u32 = 4;
/// An IDR every so many frames when none is to come by itself (`X264_KEYINT_MAX_INFINITE`).
const KEYINT_INFINITE: u32 = 1 << 30;

const TAKES: Takes = Takes {
    backend: LIBRARY,
    codec: Codec::H264,
    has: &["intra_refresh", "entropy"],
    pixel_formats: &[PixelFormat::Nv12, PixelFormat::I420],
    pixel_formats_text: "nv12 or i420 (8 bit; H.264 of 10 bit is what hardly a receiver decodes: take hevc or av1)",
};

/// The x264 encoder.
#[derive(Debug)]
pub struct X264 {
    library: Library,
    settings: EncoderSettings,
    level: Option<Level>,
    number: i64,
    idr_owed: bool,
    /// The buffer is smaller than it is to be, for one picture.
    buffer_owed: bool,
    /// Room for units whose `idr_pic_id` is changed, and for that work.
    rewritten: Option<(Vec<u8>, Vec<u8>)>,
}

/// Refuses what x264 cannot do. The level is `None` where the library chooses it.
fn check(settings: &EncoderSettings) -> Result<Option<Level>, EncoderError> {
    TAKES.check(settings)?;
    let format = &settings.format;
    let (width, height) = (format.width, format.height);
    let picture_mbs = macroblocks(width, height);
    if width < MIN_SIDE || height < MIN_SIDE || width.max(height) > MAX_SIDE || picture_mbs > MAX_MACROBLOCKS {
        return Err(EncoderError::Format(FormatError::Size {
            width,
            height,
            format: "x264",
            allowed: "from 16x16, sides up to 16384 and at most 139264 macroblocks (H.264 level 6.2)",
        }));
    }
    if u32::from(settings.slice_count()) > height.div_ceil(16) {
        let allowed = format!("at most one per row of macroblocks ({})", height.div_ceil(16));
        return refuse("slices", settings.slice_count(), &allowed);
    }
    if settings.profile == Some(H264Profile::ConstrainedBaseline) && settings.entropy == Some(Entropy::Cabac) {
        return refuse("entropy", "cabac", "cavlc with profile baseline");
    }
    let quality = !settings.rate_control.holds_bitrate();
    if settings.rate_control == RateControl::ConstantQuality && settings.qp == 0 {
        return refuse("qp", 0, "1 to 51 with icq for backend x264: 0 is lossless, which no usual receiver decodes");
    }
    x26x::Library::X264.colour(format.colour)?;
    let ceiling = if quality { 0 } else { settings.ceiling_kbps() };
    let level = match settings.level_idc {
        None if picture_mbs > LEVEL_52_MACROBLOCKS => return Ok(None),
        None => h264_level::lowest(width, height, format.fps.as_f64(), ceiling),
        Some(idc) => match h264_level::by_idc(idc) {
            Some(level) => level,
            None => return refuse("level", idc, "10 to 52, ten times a level of H.264 Table A-1"),
        },
    };
    if !quality && settings.bitrate_kbps > level.max_kbps() {
        let allowed = format!("at most {} kb/s at level {}", level.max_kbps(), level.level_idc);
        return refuse("bitrate_kbps", settings.bitrate_kbps, &allowed);
    }
    Ok(Some(level))
}

fn preset(settings: &EncoderSettings) -> Result<Param, EncoderError> {
    match settings.preset {
        Preset::Fast => Param::preset("superfast"),
        Preset::Medium => Param::preset("veryfast"),
        Preset::Quality => Param::preset("medium"),
        Preset::Named(preset) => Param::preset(preset.name()),
        Preset::Number(number @ 0..=9) => Param::preset(&number.to_string()),
        Preset::Number(number) => refuse("preset", number, "0 (ultrafast) to 9 for backend x264, or a preset's name"),
    }
}

/// A lower bitrate begins with a buffer this many times smaller than it is from the second picture on.
const EMPTIER_AFTER_DECREASE: u32 = 4;

fn set_entropy_and_profile(param: &mut Param, settings: &EncoderSettings) -> Result<(), EncoderError> {
    let (profile, name) = match settings.profile {
        None => (None, c"high"),
        Some(profile @ H264Profile::ConstrainedBaseline) => (Some(profile), c"baseline"),
        Some(profile @ H264Profile::Main) => (Some(profile), c"main"),
        Some(profile @ H264Profile::High) => (Some(profile), c"high"),
    };
    match settings.entropy {
        Some(Entropy::Cabac) => param.set("cabac", "1")?,
        Some(Entropy::Cavlc) => param.set("cabac", "0")?,
        None if matches!(profile, Some(H264Profile::Main | H264Profile::High)) => param.set("cabac", "1")?,
        None => {}
    }
    // The library names the lowest profile that has what is used: what makes it the one asked for is switched on.
    match profile {
        Some(H264Profile::Main) => param.set("weightp", "1")?,
        Some(H264Profile::High) => param.set("8x8dct", "1")?,
        _ => {}
    }
    param.apply_profile(name)
}

fn params(settings: &EncoderSettings, level: Option<Level>) -> Result<Param, EncoderError> {
    let format = &settings.format;
    let mut p = preset(settings)?;
    p.set_pictures(format.width, format.height, csp(format));
    let Rational { num, den } = format.fps;
    p.set("fps", &format!("{num}/{den}"))?;
    // Errors only; the rest is about choices made here on purpose.
    p.set("log", "0")?;
    let slices = settings.slice_count();
    let threads_fit = u32::from(slices) * MACROBLOCK_ROWS_PER_THREAD <= format.height.div_ceil(16);
    if settings.threads > 1 && slices > 1 && threads_fit {
        // One thread a slice; more threads than processors take turns, and the picture has the slices asked for.
        p.set("sliced-threads", "1")?;
        p.set("threads", &slices.to_string())?;
    } else {
        p.set("sliced-threads", "0")?;
        p.set("threads", "1")?;
        if slices > 1 {
            p.set("slices", &slices.to_string())?;
        }
    }
    // What "zerolatency" says too, said again: the promise does not hang on a tune.
    for (name, value) in [("bframes", "0"), ("rc-lookahead", "0"), ("sync-lookahead", "0"), ("mbtree", "0")] {
        p.set(name, value)?;
    }
    for (name, value) in [("repeat-headers", "1"), ("annexb", "1"), ("aud", "0"), ("nal-hrd", "none"), ("filler", "0")]
    {
        p.set(name, value)?;
    }
    let keyint = match settings.gop {
        Gop::Frames(frames) => frames.min(KEYINT_INFINITE),
        // A refresh has to have a period: two seconds, as the usual gop.
        Gop::Infinite if settings.intra_refresh => ((format.fps.as_f64() * 2.0).round() as u32).max(1),
        Gop::Infinite => KEYINT_INFINITE,
    };
    p.set("keyint", &keyint.to_string())?;
    p.set("intra-refresh", if settings.intra_refresh { "1" } else { "0" })?;
    if settings.low_latency {
        p.set("scenecut", "0")?;
    }
    match settings.rate_control {
        RateControl::Constant | RateControl::Variable => {
            for (name, value) in rate(settings, 1) {
                p.set(name, &value.to_string())?;
            }
        }
        RateControl::ConstantQp => {
            // Every picture gets its quantiser when it comes. The library's own mode of constant quantiser would
            // clip another one a frame brings to the one it was opened with, and takes 0 for lossless.
            p.set("crf", &settings.qp.max(1).to_string())?;
            p.set("aq-mode", "0")?;
        }
        RateControl::ConstantQuality => p.set("crf", &settings.qp.to_string())?,
    }
    let colour = format.colour;
    p.set("videoformat", "undef")?;
    p.set("fullrange", if colour.range == Range::Full { "on" } else { "off" })?;
    for (name, value) in x26x::Library::X264.colour(colour)? {
        p.set(name, value)?;
    }
    p.set("chromaloc", &(colour.siting as u32).to_string())?;
    if let Some(level) = level {
        p.set("level", &level.level_idc.to_string())?;
    }
    set_entropy_and_profile(&mut p, settings)?;
    Ok(p)
}

fn csp(format: &VideoFormat) -> std::ffi::c_int {
    if format.pixel_format == PixelFormat::Nv12 { NV12 } else { I420 }
}

/// Opens it.
///
/// # Errors
/// [`EncoderError::Setting`], [`EncoderError::Format`] or [`EncoderError::PixelFormat`] when something cannot be done;
/// [`EncoderError::Unavailable`] when the library is not installed; [`EncoderError::Library`] when it refuses.
pub fn open(settings: &EncoderSettings) -> Result<Box<dyn Encoder>, EncoderError> {
    Ok(Box::new(X264::open(settings)?))
}

impl X264 {
    /// Opens an encoder.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(settings: &EncoderSettings) -> Result<X264, EncoderError> {
        // That it is missing says more than what it would refuse.
        super::x264_library::build()?;
        let level = check(settings)?;
        let library = Library::open(&mut params(settings, level)?)?;
        let other_ids = !settings.idr_count.is_multiple_of(2);
        // As large as an IDR can be for the ring.
        let room = if other_ids { settings.format.width as usize * settings.format.height as usize } else { 0 };
        Ok(X264 {
            library,
            settings: settings.clone(),
            level,
            number: 0,
            idr_owed: false,
            buffer_owed: false,
            rewritten: other_ids.then(|| (Vec::with_capacity(room), Vec::with_capacity(room))),
        })
    }

    fn picture(&self, frame: &EncodeInput<'_>) -> Picture {
        let format = frame.pixels.format();
        let (mut planes, mut strides) = ([std::ptr::null(); 3], [0; 3]);
        for plane in 0..format.pixel_format.planes() {
            (planes[plane], strides[plane]) = (frame.pixels.plane(plane), format.planes[plane].stride);
        }
        Picture {
            csp: csp(format),
            planes,
            strides,
            number: self.number,
            idr: frame.force_idr || self.idr_owed,
            qp: match self.settings.rate_control {
                RateControl::Constant | RateControl::Variable => None,
                RateControl::ConstantQp => frame.qp.or(Some(self.settings.qp)),
                RateControl::ConstantQuality => frame.qp,
            },
        }
    }
}

/// Whether `nal` is SEI of user data without a registered owner (payload type 5): the text in which the library
/// describes itself and its settings in the first unit.
fn is_description(nal: &[u8]) -> bool {
    matches!(nal, [header, 5, ..] if type_of(*header) == nal_type::SEI)
}

/// The unit without the library's description of itself.
fn without_description(bytes: &[u8]) -> Vec<u8> {
    nal_units(bytes)
        .filter(|unit| !is_description(unit.nal))
        .flat_map(|unit| unit.with_start_code.iter().copied())
        .collect()
}

/// Copies an IDR unit with the other of the two `idr_pic_id`s the library alternates between.
fn with_other_id(bytes: &[u8], (out, scratch): &mut (Vec<u8>, Vec<u8>)) -> Option<()> {
    out.clear();
    let (mut sps, mut cabac) = (None, None);
    for unit in nal_units(bytes) {
        match type_of(*unit.nal.first()?) {
            nal_type::SPS => sps = Sps::parse(unit.nal),
            nal_type::PPS => cabac = pps_is_cabac(unit.nal),
            nal_type::IDR_SLICE => {
                let (sps, cabac) = (sps.as_ref()?, cabac?);
                let id = SliceHeader::parse(unit.nal, sps)?.idr_pic_id?;
                out.extend_from_slice(&unit.with_start_code[..unit.with_start_code.len() - unit.nal.len()]);
                with_idr_pic_id(unit.nal, (sps, cabac), 1 - u8::try_from(id.min(1)).ok()?, scratch, out)?;
                continue;
            }
            _ => {}
        }
        out.extend_from_slice(unit.with_start_code);
    }
    Some(())
}

impl Encoder for X264 {
    fn name(&self) -> &'static str {
        LIBRARY
    }

    fn codec(&self) -> Codec {
        Codec::H264
    }

    fn path(&self) -> &str {
        "read in place"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            live_bitrate: self.settings.rate_control.holds_bitrate(),
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
        let picture = self.picture(frame);
        let first = self.number == 0;
        self.number += 1;
        // SAFETY: `PixelsRead` proved that all rows of the coded height of every plane are mapped at their strides.
        let (mut bytes, idr) = unsafe { self.library.encode(&picture)? };
        let described;
        if first {
            described = without_description(bytes);
            bytes = &described;
        }
        if let Some(rewritten) = self.rewritten.as_mut().filter(|_| idr) {
            with_other_id(bytes, rewritten).ok_or_else(|| EncoderError::Bitstream {
                library: LIBRARY,
                reason: "an IDR slice has a header that cannot be read".to_owned(),
            })?;
            bytes = &rewritten.0;
        }
        let (key, pts_ns) = (frame.key, frame.pts_ns);
        let written = hand_on(LIBRARY, Codec::H264, bytes, (key, pts_ns), sink);
        // What did not get out is missing as a reference.
        self.idr_owed = written.is_err();
        if std::mem::take(&mut self.buffer_owed) {
            self.library.reconfigure(&rate(&self.settings, 1))?;
        }
        if let Err(EncoderError::Sink(SinkError::TooLarge { .. })) = written {
            sink.left_out(key, LeftOut::TooLarge)?;
        }
        written.map(|_| ())
    }

    fn set_bitrate(&mut self, kbps: u32, max_kbps: u32) -> Result<(), EncoderError> {
        let limit = self.level.map(|level| (level.max_kbps(), level.level_idc));
        self.settings.check_live_bitrate(kbps, limit)?;
        let mut settings = EncoderSettings { bitrate_kbps: kbps, ..self.settings.clone() };
        if max_kbps != 0 {
            settings.max_bitrate_kbps = max_kbps;
        }
        // What may still be sent at once was saved up at the old bitrate: the library keeps that much of it as the
        // buffer of the next picture holds, so that a lower bitrate is not exceeded for a whole buffer.
        let lower = kbps < self.settings.bitrate_kbps;
        self.library.reconfigure(&rate(&settings, if lower { EMPTIER_AFTER_DECREASE } else { 1 }))?;
        self.buffer_owed = lower;
        self.settings = settings;
        Ok(())
    }

    fn flush(&mut self, _sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        Ok(())
    }
}
