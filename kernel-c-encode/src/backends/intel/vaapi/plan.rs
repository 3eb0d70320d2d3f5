//! From settings and abilities to what is asked of the device; what cannot be had is refused here, by name.

use super::av1::Av1;
use super::buffers::{DeviceRate, RateParameters, Refresh};
use super::caps::{Caps, rate_mode_names};
use super::coder::{Coder, Stream};
use super::h264::H264;
use super::hevc::{self, Hevc};
use super::tiles;
use crate::bitstream::{av1_write, h264_level, h264_write, hevc_write, levels};
use crate::error::{EncoderError, refuse};
use crate::settings::{EncoderSettings, Entropy, Gop, H264Profile, Preset, RateControl};
use libva_sys as va;
use shm_protocol::frame::{Codec, FieldOrder, PixelFormat};

/// The name of this backend.
pub const NAME: &str = "vaapi";
/// The quantiser that H.264 and HEVC count from where it changes from picture to picture.
const MIDDLE_QP: u8 = 26;
/// The same for AV1: half of its scale.
const MIDDLE_Q_IDX: u8 = 128;
/// What a device's rate control is told of a stream without periodic IDR pictures, s: long, and not endless, because it
/// plans with it.
const ENDLESS_GOP_S: f64 = 10.0;
/// The moving band of intra blocks crosses the picture within this time, s: a receiver that joins or lost something has
/// a whole picture after twice of it.
const REFRESH_S: f64 = 1.0;

/// What is asked of the device.
#[derive(Debug, Clone)]
pub struct Plan {
    /// What the device can do.
    pub caps: Caps,
    /// The stream.
    pub stream: Stream,
    /// The codec.
    pub coder: Coder,
    /// Rate control mode of the configuration: `VA_RC_…`.
    pub rate_mode: u32,
    /// The bitrate or quality is held by our own controller, picture by picture.
    pub own_rate: bool,
    /// Frames in work at a time.
    pub depth: usize,
    /// Highest bitrate that the level carries, kb/s, and the level, ten times.
    pub level: (u32, u8),
}

/// Checks what no device is needed for.
///
/// # Errors
/// [`EncoderError::Setting`], [`EncoderError::PixelFormat`] or [`EncoderError::Format`] naming the first value that is
/// not possible.
pub fn check(settings: &EncoderSettings) -> Result<(), EncoderError> {
    settings.check()?;
    let has = ["device", "tile_columns", "tile_rows", "intra_refresh", "async_depth", "entropy"];
    settings.refuse_all_but(NAME, &has)?;
    if settings.codec == Codec::Null {
        return refuse("codec", settings.codec.name(), format!("h264, hevc or av1 with backend {NAME}"));
    }
    let given = settings.format.pixel_format;
    let allowed = match (settings.codec, given) {
        (_, PixelFormat::Nv12) | (Codec::Hevc | Codec::Av1, PixelFormat::P010) => None,
        (Codec::H264, _) => Some("nv12 for h264, which has 8 bit here; hevc and av1 take p010 too"),
        _ => Some("nv12, p010"),
    };
    if let Some(allowed) = allowed {
        return Err(EncoderError::PixelFormat { backend: NAME, given: given.name(), allowed });
    }
    if settings.format.field_order != FieldOrder::Progressive {
        return refuse("field_order", format!("{:?}", settings.format.field_order), "progressive");
    }
    if settings.codec != Codec::H264 {
        if let Some(profile) = settings.profile {
            return refuse("profile", format!("{profile:?}"), "nothing for hevc and av1: the bit depth decides");
        }
        if let Some(entropy) = settings.entropy {
            return refuse("entropy", format!("{entropy:?}"), "nothing for hevc and av1, which have one kind");
        }
    }
    if settings.profile == Some(H264Profile::ConstrainedBaseline) && settings.entropy == Some(Entropy::Cabac) {
        return refuse("entropy", "cabac", "cavlc in profile constrained_baseline");
    }
    if settings.codec == Codec::Av1 && settings.slices > 1 {
        return refuse("slices", settings.slices, "0 or 1 for av1, which has tiles but no slices");
    }
    Ok(())
}

/// Plans a stream on a device.
///
/// # Errors
/// [`EncoderError::Setting`] naming what the device does not have, and what it has.
pub fn plan(settings: &EncoderSettings, caps: &Caps) -> Result<Plan, EncoderError> {
    check_size(settings, caps)?;
    let (rate_mode, own_rate) = rate_mode(settings, caps)?;
    let rate = match (own_rate, settings.rate_control) {
        (true, _) | (_, RateControl::ConstantQp) => DeviceRate::Quantiser,
        (_, RateControl::Constant) => {
            DeviceRate::Bitrate { kbps: settings.bitrate_kbps, peak_kbps: settings.bitrate_kbps }
        }
        (_, RateControl::Variable) => {
            DeviceRate::Bitrate { kbps: settings.bitrate_kbps, peak_kbps: settings.ceiling_kbps() }
        }
        (_, RateControl::ConstantQuality) => {
            // The device counts 1 to 51 for every codec.
            let scaled = u16::from(settings.qp) * 51 / u16::from(settings.max_qp());
            DeviceRate::Quality((scaled as u8).max(1))
        }
    };
    let fps = settings.format.fps.as_f64();
    let stream = Stream {
        packed: caps.packed
            & (va::VA_ENC_PACKED_HEADER_SEQUENCE | va::VA_ENC_PACKED_HEADER_PICTURE | va::VA_ENC_PACKED_HEADER_SLICE),
        gop_frames: match settings.gop {
            Gop::Frames(frames) => frames,
            Gop::Infinite => (fps * ENDLESS_GOP_S).round().max(1.0) as u32,
        },
        bits_per_s: rate.bits_and_percentage().0,
        rate: RateParameters {
            rate,
            vbv_ms: settings.vbv_ms,
            fps: settings.format.fps,
            max_frame_size: caps.max_frame_size && settings.low_latency,
        },
        quality: quality(settings.preset, caps.quality_levels)?,
        refresh: refresh(settings, caps)?,
    };
    let level = level(settings, caps)?;
    let device_rate = rate != DeviceRate::Quantiser;
    let coder = match settings.codec {
        Codec::Hevc => Coder::Hevc(hevc(settings, caps, device_rate, level)?),
        Codec::Av1 => Coder::Av1(av1(settings, caps, device_rate, level)?),
        Codec::H264 | Codec::Null => Coder::H264(h264(settings, caps, device_rate, level)?),
    };
    let depth = usize::from(settings.async_depth.max(1));
    Ok(Plan { caps: *caps, stream, coder, rate_mode, own_rate, depth, level: (level.max_kbps, level.idc) })
}

fn check_size(settings: &EncoderSettings, caps: &Caps) -> Result<(), EncoderError> {
    let (width, height) = (settings.format.width, settings.format.height);
    let (least, most) = (caps.min_size, caps.max_size);
    if width < least.0 || height < least.1 || width > most.0 || height > most.1 {
        let side = |side: u32| if side == u32::MAX { "any".to_owned() } else { side.to_string() };
        let allowed = format!("{}x{} to {}x{} on this device", least.0, least.1, side(most.0), side(most.1));
        return refuse("frame size", format!("{width}x{height}"), allowed);
    }
    Ok(())
}

/// The device's mode, and whether the bitrate or quality is held by our own controller.
fn rate_mode(settings: &EncoderSettings, caps: &Caps) -> Result<(u32, bool), EncoderError> {
    let wanted = match settings.rate_control {
        RateControl::Constant => va::VA_RC_CBR,
        RateControl::Variable => va::VA_RC_VBR,
        RateControl::ConstantQp => va::VA_RC_CQP,
        RateControl::ConstantQuality => va::VA_RC_ICQ,
    };
    if caps.rate_modes & wanted != 0 {
        return Ok((wanted, false));
    }
    let name = settings.rate_control.name();
    let present = rate_mode_names(caps.rate_modes);
    if caps.rate_modes & va::VA_RC_CQP == 0 {
        return refuse("rate_control", name, format!("{present} on this device"));
    }
    tracing::info!(asked = name, device = present, "The device lacks the rate control mode: our own holds it instead");
    Ok((va::VA_RC_CQP, true))
}

/// The quality level of a preset: 1 is best, `levels` is quickest.
fn quality(preset: Preset, levels: u32) -> Result<u32, EncoderError> {
    let allowed = || match levels {
        0 => "fast, medium or quality: this device has one quality level".to_owned(),
        _ => format!("fast, medium, quality, or 1 (best) to {levels} (quickest) on this device"),
    };
    match preset {
        Preset::Named(name) => refuse("preset", name.name(), allowed()),
        Preset::Number(number) if number == 0 || u32::from(number) > levels => refuse("preset", number, allowed()),
        Preset::Number(number) => Ok(u32::from(number)),
        Preset::Fast => Ok(levels),
        Preset::Medium => Ok(levels.div_ceil(2)),
        Preset::Quality => Ok(levels.min(1)),
    }
}

fn refresh(settings: &EncoderSettings, caps: &Caps) -> Result<Option<Refresh>, EncoderError> {
    if !settings.intra_refresh {
        return Ok(None);
    }
    let column = caps.intra_refresh & va::VA_ENC_INTRA_REFRESH_ROLLING_COLUMN != 0;
    if !column && caps.intra_refresh & va::VA_ENC_INTRA_REFRESH_ROLLING_ROW == 0 {
        return refuse("intra_refresh", "true", "false: this device has no rolling intra refresh for the codec");
    }
    let side = if column { settings.format.width } else { settings.format.height };
    let frames = (settings.format.fps.as_f64() * REFRESH_S).round().max(1.0) as u32;
    Ok(Some(Refresh::within(column, side.div_ceil(16), frames)))
}

/// The level: the one asked for, or the lowest that carries the stream.
fn level(settings: &EncoderSettings, caps: &Caps) -> Result<levels::Chosen, EncoderError> {
    let format = &settings.format;
    let (width, height, fps) = (format.width, format.height, format.fps.as_f64());
    let kbps = if settings.rate_control.holds_bitrate() { settings.ceiling_kbps() } else { 0 };
    let high = caps.h264_profile == H264Profile::High;
    // Table A-2: High has 1250 bits where Baseline and Main have 1200.
    let h264 = |l: h264_level::Level| levels::Chosen {
        idc: l.level_idc,
        high_tier: false,
        max_kbps: if high { l.max_br * 5 / 4 } else { l.max_kbps() },
    };
    let table: &[levels::Level] = if settings.codec == Codec::Hevc { &levels::HEVC } else { &levels::AV1 };
    let chosen = match (settings.codec, settings.level_idc) {
        (Codec::H264 | Codec::Null, None) => Some(h264(h264_level::lowest(width, height, fps, kbps))),
        (Codec::H264 | Codec::Null, Some(idc)) => h264_level::by_idc(idc).map(h264),
        (_, None) => levels::lowest(table, width, height, fps, kbps),
        (_, Some(idc)) => levels::by_idc(table, idc, kbps),
    };
    let Some(chosen) = chosen else {
        let known: Vec<String> = match settings.codec {
            Codec::H264 | Codec::Null => h264_level::LEVELS.iter().map(|l| l.level_idc.to_string()).collect(),
            _ => table.iter().map(|l| l.idc.to_string()).collect(),
        };
        return refuse("level_idc", settings.level_idc.unwrap_or(0), known.join(", "));
    };
    if settings.rate_control.holds_bitrate() && settings.bitrate_kbps > chosen.max_kbps {
        let allowed = format!("1 to {} kb/s at level {}", chosen.max_kbps, chosen.idc);
        return refuse("bitrate_kbps", settings.bitrate_kbps, allowed);
    }
    Ok(chosen)
}

fn h264(
    settings: &EncoderSettings,
    caps: &Caps,
    device_rate: bool,
    level: levels::Chosen,
) -> Result<H264, EncoderError> {
    let format = &settings.format;
    let profile = caps.h264_profile;
    let cabac = match settings.entropy {
        Some(entropy) => entropy == Entropy::Cabac,
        None => profile != H264Profile::ConstrainedBaseline,
    };
    let sequence = h264_write::Sequence {
        profile,
        level_idc: level.idc,
        width: format.width,
        height: format.height,
        fps: format.fps,
        colour: format.colour,
        cabac,
        transform_8x8: profile == H264Profile::High,
        init_qp: init_qp(settings, device_rate),
    };
    let (columns, rows) = sequence.size_mbs();
    let rows = tiles::slice_rows(rows, u32::from(settings.slice_count()), caps)?;
    Ok(H264 { sequence, slices: rows.into_iter().map(|(first, count)| (first * columns, count * columns)).collect() })
}

/// The quantiser that slices count from: the constant one, or the middle.
fn init_qp(settings: &EncoderSettings, device_rate: bool) -> u8 {
    let constant = settings.rate_control == RateControl::ConstantQp && !device_rate;
    match (constant, settings.codec) {
        (true, _) => settings.qp,
        (false, Codec::Av1) => MIDDLE_Q_IDX,
        (false, _) => MIDDLE_QP,
    }
}

fn hevc(
    settings: &EncoderSettings,
    caps: &Caps,
    device_rate: bool,
    level: levels::Chosen,
) -> Result<Hevc, EncoderError> {
    let format = &settings.format;
    let mut sequence = hevc_write::Sequence {
        width: format.width,
        height: format.height,
        fps: format.fps,
        colour: format.colour,
        bit_depth: settings.bit_depth(),
        level_idc: levels::hevc_level_idc(level.idc),
        high_tier: level.high_tier,
        blocks: hevc::blocks(caps),
        tools: hevc::tools(caps, device_rate),
        init_qp: init_qp(settings, device_rate),
        tiles: (1, 1),
        low_delay_b: caps.prediction & va::VA_PREDICTION_DIRECTION_BI_NOT_EMPTY != 0,
    };
    let (columns, rows) = sequence.size_ctbs();
    let tiles = tiles::hevc(settings, caps)?;
    let slices = match tiles {
        tiles::Cut::Tiles(across, down) => {
            sequence.tiles = (across, down);
            tiles::tile_slices((columns, rows), (across, down))
        }
        tiles::Cut::Slices(wanted) => {
            let rows = tiles::slice_rows(rows, wanted, caps)?;
            rows.into_iter().map(|(first, count)| (first * columns, count * columns)).collect()
        }
    };
    Ok(Hevc { sequence, slices })
}

fn av1(settings: &EncoderSettings, caps: &Caps, device_rate: bool, level: levels::Chosen) -> Result<Av1, EncoderError> {
    let format = &settings.format;
    let limits = av1_write::TileLimits::of(format.width, format.height);
    let grid = tiles::av1(settings, caps, &limits)?;
    // The places of the fields in `VAConfigAttribValEncAV1Ext2`; without it one byte for every size but that of OBUs.
    let ext2 = caps.av1_ext2.unwrap_or(0b100 << 4 | 3 << 2 | 3);
    let sequence = av1_write::Sequence {
        width: format.width,
        height: format.height,
        bit_depth: settings.bit_depth(),
        colour: format.colour,
        level_idx: levels::av1_level_idx(level.idc),
        high_tier: level.high_tier,
        cdef: device_rate,
        tiles_log2: grid.log2,
        tile_size_bytes: (ext2 & 3) as u8 + 1,
        obu_size_bytes: (ext2 >> 2 & 3) as u8 + 1,
        tx_select: ext2 >> 4 & 0b100 != 0,
    };
    Ok(Av1 {
        sequence,
        grid,
        superblocks: limits.superblocks,
        init_qp: init_qp(settings, device_rate).max(1),
        device_writes: device_rate,
    })
}
