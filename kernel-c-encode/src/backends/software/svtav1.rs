//! AV1 in software with SVT-AV1 2.0 or newer, where it is installed: low delay, one temporal unit for every frame at
//! once, 8 and 10 bit.
//!
//! The library works on threads of its own and copies what it is given; the call waits for the unit of its frame. A
//! frame is always outstanding when it is asked, because in its low-delay mode it would wait for ever otherwise. Should
//! it do so all the same, the supervisor ends the process by its heartbeat.
//!
//! It takes planar chroma, and samples of 10 bit in the low bits: what has to be taken apart goes through private
//! memory. Key frames come where this backend asks for them, also those of the gop, which therefore count from the last
//! one. A new bitrate goes with its frame; before 4.0 the library takes it with a key frame only. On grain it settles
//! above its bitrate (640x360 at 3 Mb/s: 1.3 times as much, with 4.1 untrimmed): since 4.0 it is trimmed until it fits
//! ([`crate::ratecontrol::trim`]); what its first second and a key frame take beyond stays.
//!
//! Presets: "fast" is 12, measured at 3 to 4 times the CPU of x264's ultrafast at 1080p with `rtc`; "medium" is 10,
//! "quality" 8. The real-time mode (since 3.1) has 7 to 13.
#![expect(unsafe_code, reason = "hands pixels of another process to a C library")]

use super::planar::Planar;
use super::svtav1_library::{self, Input, LIBRARY, Library};
use super::takes::Takes;
use crate::bitstream::assemble::hand_on;
use crate::encoder::{AuSink, Capabilities, EncodeInput, Encoder, LeftOut};
use crate::error::{EncoderError, SinkError, refuse};
use crate::ratecontrol::trim::Trim;
use crate::settings::{EncoderSettings, Gop, Preset, RateControl};
use shm_protocol::error::FormatError;
use shm_protocol::frame::{ChromaSiting, Codec, PixelFormat, Range, VideoFormat};

/// Smallest side: one superblock of 64, below which versions 2 and 3 refuse.
const MIN_SIDE: u32 = 64;
/// Longest sides the library takes.
const MAX_SIZE: (u32, u32) = (16_384, 8_704);
/// Highest bitrate the library takes, kb/s.
const MAX_KBPS: u32 = 100_000;
/// Frames between key frames of the library's own: none within a year at 30 frames/s.
const INTRA_PERIOD: u32 = 1 << 30;
/// Largest log2 of tile columns and rows (`tile_columns` and `tile_rows` of AV1 end at 64).
const MAX_TILES: u8 = 64;
/// Highest preset.
const MAX_PRESET: u8 = 13;
/// Its quantiser of 0 to 63 stands for `base_q_idx` 0 to 255.
const QUANTISER_STEP: u8 = 4;
const MAX_QUANTISER: u8 = 63;
/// What the library takes for the size of its rate control's buffer, ms.
const BUFFER_MS: (u32, u32) = (20, 10_000);
/// First versions with a real-time mode, and with a bitrate that changes without a key frame.
const RTC_SINCE: (u32, u32) = (3, 1);
const LIVE_SINCE: (u32, u32) = (4, 0);

const TAKES: Takes = Takes {
    backend: LIBRARY,
    codec: Codec::Av1,
    has: &["tile_columns", "tile_rows"],
    pixel_formats: &[PixelFormat::Nv12, PixelFormat::I420, PixelFormat::P010],
    pixel_formats_text: "nv12 or i420 (8 bit) or p010 (10 bit)",
};

/// The SVT-AV1 encoder.
#[derive(Debug)]
pub struct SvtAv1 {
    library: Library,
    planar: Planar,
    settings: EncoderSettings,
    version: (u32, u32),
    number: i64,
    /// Frames since the last key frame, that one included.
    since_key: u32,
    bits_per_s_owed: Option<u32>,
    /// Where a new bitrate needs no key frame and one is held.
    trim: Option<Trim>,
    copied_bytes: u64,
    key_owed: bool,
}

/// Refuses what SVT-AV1 cannot do.
fn check(settings: &EncoderSettings) -> Result<(), EncoderError> {
    TAKES.check(settings)?;
    let format = &settings.format;
    let (width, height) = (format.width, format.height);
    if width.min(height) < MIN_SIDE || width > MAX_SIZE.0 || height > MAX_SIZE.1 {
        return Err(EncoderError::Format(FormatError::Size {
            width,
            height,
            format: "svtav1",
            allowed: "from 64x64 to 16384x8704",
        }));
    }
    if settings.slices > 1 {
        return refuse("slices", settings.slices, "1 for backend svtav1: AV1 has tile_columns and tile_rows");
    }
    for (setting, tiles) in [("tile_columns", settings.tile_columns), ("tile_rows", settings.tile_rows)] {
        if tiles > MAX_TILES || (tiles > 0 && !tiles.is_power_of_two()) {
            return refuse(setting, tiles, "a power of two up to 64 for backend svtav1");
        }
    }
    if settings.rate_control == RateControl::Variable {
        return refuse("rate_control", "vbr", "cbr, cqp or icq for backend svtav1, whose low-delay mode has no vbr");
    }
    if settings.rate_control.holds_bitrate() && settings.bitrate_kbps > MAX_KBPS {
        return refuse("bitrate_kbps", settings.bitrate_kbps, "at most 100000 kb/s for backend svtav1");
    }
    if let Some(level) = settings.level_idc
        && !(20..=73).contains(&level)
    {
        return refuse("level", level, "20 to 73, ten times a level of AV1 (annex A.3)");
    }
    Ok(())
}

fn preset(settings: &EncoderSettings) -> Result<u8, EncoderError> {
    match settings.preset {
        Preset::Fast => Ok(12),
        Preset::Medium => Ok(10),
        Preset::Quality => Ok(8),
        Preset::Number(number) if number <= MAX_PRESET => Ok(number),
        Preset::Number(_) | Preset::Named(_) => {
            refuse("preset", format!("{:?}", settings.preset), "fast, medium, quality or 0 to 13 for backend svtav1")
        }
    }
}

fn values(settings: &EncoderSettings, version: (u32, u32)) -> Result<Vec<(&'static str, String)>, EncoderError> {
    let format = &settings.format;
    let colour = format.colour;
    let position = match colour.siting {
        ChromaSiting::Left => 1,
        ChromaSiting::TopLeft => 2,
        // AV1 has no name for it.
        ChromaSiting::Center => 0,
    };
    let log2 = |tiles: u8| tiles.max(1).ilog2().to_string();
    let mut values = vec![
        ("width", format.width.to_string()),
        ("height", format.height.to_string()),
        ("fps-num", format.fps.num.to_string()),
        ("fps-denom", format.fps.den.to_string()),
        ("input-depth", settings.bit_depth().to_string()),
        ("preset", preset(settings)?.to_string()),
        ("pred-struct", "1".to_owned()),
        ("lookahead", "0".to_owned()),
        ("scd", "0".to_owned()),
        ("intra-period", INTRA_PERIOD.to_string()),
        ("tile-columns", log2(settings.tile_columns)),
        ("tile-rows", log2(settings.tile_rows)),
        ("lp", settings.threads.max(1).to_string()),
        ("color-primaries", colour.primaries.to_string()),
        ("transfer-characteristics", colour.transfer.to_string()),
        ("matrix-coefficients", colour.matrix.to_string()),
        ("color-range", u8::from(colour.range == Range::Full).to_string()),
        ("chroma-sample-position", position.to_string()),
    ];
    if version >= RTC_SINCE {
        values.push(("rtc", "1".to_owned()));
    }
    if let Some(level) = settings.level_idc {
        values.push(("level", level.to_string()));
    }
    match settings.rate_control {
        RateControl::Constant | RateControl::Variable => {
            let buffer_ms = settings.vbv_ms.clamp(BUFFER_MS.0, BUFFER_MS.1);
            // The library's own proportion: 600 of 1000 ms.
            let level_ms = (buffer_ms * 3 / 5).max(BUFFER_MS.0);
            values.extend([
                ("rc", "2".to_owned()),
                ("tbr", format!("{}k", settings.bitrate_kbps)),
                ("buf-sz", buffer_ms.to_string()),
                ("buf-initial-sz", level_ms.to_string()),
                ("buf-optimal-sz", level_ms.to_string()),
            ]);
        }
        RateControl::ConstantQp | RateControl::ConstantQuality => {
            let adaptive = settings.rate_control == RateControl::ConstantQuality;
            values.extend([
                ("rc", "0".to_owned()),
                ("aq-mode", if adaptive { "2" } else { "0" }.to_owned()),
                ("qp", (settings.qp / QUANTISER_STEP).min(MAX_QUANTISER).to_string()),
            ]);
        }
    }
    Ok(values)
}

/// Opens it.
///
/// # Errors
/// [`EncoderError::Setting`], [`EncoderError::Format`] or [`EncoderError::PixelFormat`] when something cannot be done;
/// [`EncoderError::Unavailable`] when the library is not installed or of a version that cannot be used;
/// [`EncoderError::Library`] when it refuses.
pub fn open(settings: &EncoderSettings) -> Result<Box<dyn Encoder>, EncoderError> {
    Ok(Box::new(SvtAv1::open(settings)?))
}

impl SvtAv1 {
    /// Opens an encoder.
    ///
    /// # Errors
    /// As [`open`].
    pub fn open(settings: &EncoderSettings) -> Result<SvtAv1, EncoderError> {
        // That it is missing says more than what it would refuse.
        let version = svtav1_library::version()?;
        check(settings)?;
        let VideoFormat { pixel_format, width, height, .. } = settings.format;
        let library = Library::open((width, height), settings.bit_depth(), &values(settings, version)?)?;
        let trims = version >= LIVE_SINCE && settings.rate_control.holds_bitrate();
        Ok(SvtAv1 {
            library,
            planar: Planar::new(pixel_format, width, height, true),
            settings: settings.clone(),
            version,
            number: 0,
            since_key: 0,
            bits_per_s_owed: None,
            trim: trims.then(|| Trim::new(settings.bitrate_kbps, settings.format.fps.as_f64(), settings.gop)),
            copied_bytes: 0,
            key_owed: false,
        })
    }

    /// Whether the gop ends before the next frame.
    fn gop_is_full(&self) -> bool {
        matches!(self.settings.gop, Gop::Frames(frames) if self.since_key >= frames)
    }
}

impl Encoder for SvtAv1 {
    fn name(&self) -> &'static str {
        LIBRARY
    }

    fn codec(&self) -> Codec {
        Codec::Av1
    }

    fn path(&self) -> &str {
        self.planar.path()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            live_bitrate: self.settings.rate_control.holds_bitrate() && self.version >= LIVE_SINCE,
            idr_on_request: true,
            frame_qp: false,
            delay_frames: 0,
            pixel_formats: TAKES.pixel_formats,
            min_size: (MIN_SIDE, MIN_SIDE),
            max_size: MAX_SIZE,
            max_macroblocks: u32::MAX,
        }
    }

    fn encode(&mut self, frame: &EncodeInput<'_>, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        self.settings.check_format(frame.pixels.format())?;
        let planes = self.planar.planes(&frame.pixels);
        self.copied_bytes += self.planar.copied_bytes();
        let bits_per_s = self.bits_per_s_owed.take();
        let late = bits_per_s.is_some() && self.version < LIVE_SINCE;
        let key = frame.force_idr || self.key_owed || self.number == 0 || late || self.gop_is_full();
        let input = Input { planes, number: self.number, key, bits_per_s };
        self.number += 1;
        self.since_key = if key { 1 } else { self.since_key + 1 };
        // SAFETY: the planes lie in the mapping `PixelsRead` proved, with all rows of the coded height, or in
        // `self.planar`; both stay untouched till then.
        let written = unsafe {
            self.library.encode(&input, |bytes| {
                hand_on(LIBRARY, Codec::Av1, bytes, (frame.key, frame.pts_ns), sink).map(|_| bytes.len())
            })
        };
        // What did not get out is missing as a reference.
        self.key_owed = written.is_err();
        if let Err(EncoderError::Sink(SinkError::TooLarge { .. })) = written {
            sink.left_out(frame.key, LeftOut::TooLarge)?;
        }
        let bytes = written?;
        if let Some(kbps) = self.trim.as_mut().and_then(|trim| trim.coded(bytes as u64 * 8, key)) {
            self.bits_per_s_owed = Some(kbps * 1000);
            tracing::debug!(kbps, "The bitrate that the library is asked for has changed");
        }
        Ok(())
    }

    fn set_bitrate(&mut self, kbps: u32, _max_kbps: u32) -> Result<(), EncoderError> {
        self.settings.check_live_bitrate(kbps, None)?;
        if kbps > MAX_KBPS {
            return refuse("bitrate_kbps", kbps, "1 to 100000 kb/s for backend svtav1");
        }
        if kbps != self.settings.bitrate_kbps {
            let asked_kbps = self.trim.as_mut().map_or(kbps, |trim| trim.set_bitrate(kbps));
            self.bits_per_s_owed = Some(asked_kbps * 1000);
            self.settings.bitrate_kbps = kbps;
        }
        Ok(())
    }

    fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }

    fn flush(&mut self, _sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        Ok(())
    }
}
