//! From the settings to `mfxVideoParam` and its ext buffers.

use super::buffers::{Ext, Params};
use super::rate;
use crate::bitstream::h264_level;
use crate::error::EncoderError;
use crate::settings::{EncoderSettings, Entropy, Gop, H264Profile, Preset, RateControl};
use onevpl_sys as vpl;
use onevpl_sys::{mfxFrameInfo, mfxFrameInfo__bindgen_ty_1__bindgen_ty_1 as FrameSize, mfxU16};
use shm_protocol::frame::{ChromaSiting, Codec, PixelFormat, Range, VideoFormat};

/// The tri-state of the headers.
pub const ON: mfxU16 = vpl::MFX_CODINGOPTION_ON as mfxU16;
/// Its other end.
pub const OFF: mfxU16 = vpl::MFX_CODINGOPTION_OFF as mfxU16;

/// `GopPicSize` of a stream without IDR pictures of its own: the largest of its field, which runtimes take as such.
const INFINITE_GOP: mfxU16 = mfxU16::MAX;
/// Macroblocks and coding units come in multiples of this; `Width` and `Height` must be such (progressive).
pub const SIDE_ALIGN: u32 = 16;
/// Smallest HEVC tile, luma samples (ITU-T H.265 A.4.1), in coding tree units of 64.
const HEVC_TILE: (u32, u32) = (4, 1);
/// Coding tree unit and superblock of the runtimes, luma samples.
const CTU: u32 = 64;

/// The code of a codec.
///
/// # Errors
/// [`EncoderError::Setting`] for the null codec.
pub fn codec_id(codec: Codec) -> Result<u32, EncoderError> {
    match codec {
        Codec::H264 => Ok(vpl::MFX_CODEC_AVC),
        Codec::Hevc => Ok(vpl::MFX_CODEC_HEVC),
        Codec::Av1 => Ok(vpl::MFX_CODEC_AV1),
        Codec::Null => Err(refuse("codec", "null", "h264, hevc or av1 for backend vpl")),
    }
}

fn refuse(setting: &'static str, given: impl ToString, allowed: impl Into<String>) -> EncoderError {
    EncoderError::Setting { setting, given: given.to_string(), allowed: allowed.into() }
}

/// How many tiles (columns, rows) are asked for, each at least 1.
pub fn tiles(settings: &EncoderSettings) -> (u16, u16) {
    (u16::from(settings.tile_columns.max(1)), u16::from(settings.tile_rows.max(1)))
}

/// Refuses tiles that the codec does not allow at this size, whatever the device.
pub fn check_tiles(settings: &EncoderSettings) -> Result<(), EncoderError> {
    let (columns, rows) = tiles(settings);
    let (least_x, least_y) = if settings.codec == Codec::Hevc { HEVC_TILE } else { (1, 1) };
    let most = |side: u32, least: u32| (side.div_ceil(CTU) / least).max(1);
    let allowed = (most(settings.format.width, least_x), most(settings.format.height, least_y));
    for (setting, given, most) in [("tile_columns", columns, allowed.0), ("tile_rows", rows, allowed.1)] {
        if u32::from(given) > most {
            let (width, height, codec) = (settings.format.width, settings.format.height, settings.codec.name());
            return Err(refuse(setting, given, format!("1 to {most} for {codec} at {width}x{height}")));
        }
    }
    Ok(())
}

/// `TargetUsage` of a preset.
fn target_usage(preset: Preset) -> Result<mfxU16, EncoderError> {
    let number = match preset {
        Preset::Fast => vpl::MFX_TARGETUSAGE_BEST_SPEED,
        Preset::Medium => vpl::MFX_TARGETUSAGE_BALANCED,
        Preset::Quality => vpl::MFX_TARGETUSAGE_BEST_QUALITY,
        Preset::Number(number @ 1..=7) => u32::from(number),
        Preset::Number(number) => {
            return Err(refuse("preset", number, "fast, medium, quality or 1 (best) to 7 (fastest) for backend vpl"));
        }
        Preset::Named(named) => {
            return Err(refuse(
                "preset",
                named.name(),
                "fast, medium, quality or 1 (best) to 7 (fastest) for backend vpl",
            ));
        }
    };
    Ok(number as mfxU16)
}

/// `CodecProfile`, and for H.264 whether it has CAVLC only.
fn profile(settings: &EncoderSettings) -> Result<(u32, Option<Entropy>), EncoderError> {
    let chosen = match (settings.codec, settings.profile) {
        (Codec::Hevc, _) if settings.bit_depth() == 10 => vpl::MFX_PROFILE_HEVC_MAIN10,
        (Codec::Hevc, _) => vpl::MFX_PROFILE_HEVC_MAIN,
        (Codec::Av1, _) => vpl::MFX_PROFILE_AV1_MAIN,
        (_, Some(H264Profile::ConstrainedBaseline)) => {
            if settings.entropy == Some(Entropy::Cabac) {
                return Err(refuse("entropy", "cabac", "cavlc with profile baseline"));
            }
            return Ok((vpl::MFX_PROFILE_AVC_CONSTRAINED_BASELINE, Some(Entropy::Cavlc)));
        }
        (_, Some(H264Profile::Main)) => vpl::MFX_PROFILE_AVC_MAIN,
        (_, Some(H264Profile::High) | None) => vpl::MFX_PROFILE_AVC_HIGH,
    };
    Ok((chosen, settings.entropy))
}

/// `CodecLevel`; 0 leaves it to the runtime.
pub fn level(settings: &EncoderSettings) -> u16 {
    match (settings.level_idc, settings.codec) {
        (Some(level), _) => u16::from(level),
        (None, Codec::H264) => {
            let format = &settings.format;
            let kbps = if settings.rate_control.holds_bitrate() { settings.ceiling_kbps() } else { 0 };
            let level = h264_level::lowest(format.width, format.height, format.fps.as_f64(), kbps);
            let fits = h264_level::macroblocks(format.width, format.height) <= level.max_frame_mbs;
            // Above 5.2 (8K) the table ends; the runtime knows levels 6 to 6.2.
            if fits { u16::from(level.level_idc) } else { 0 }
        }
        (None, _) => 0,
    }
}

fn frame_info(settings: &EncoderSettings) -> mfxFrameInfo {
    let format = &settings.format;
    let ten_bit = format.pixel_format == PixelFormat::P010;
    let mut info = mfxFrameInfo {
        FourCC: if ten_bit { vpl::MFX_FOURCC_P010 } else { vpl::MFX_FOURCC_NV12 },
        BitDepthLuma: u16::from(settings.bit_depth()),
        BitDepthChroma: u16::from(settings.bit_depth()),
        // P010 has its samples in the high bits.
        Shift: u16::from(ten_bit),
        FrameRateExtN: format.fps.num,
        FrameRateExtD: format.fps.den,
        AspectRatioW: 1,
        AspectRatioH: 1,
        PicStruct: vpl::MFX_PICSTRUCT_PROGRESSIVE as mfxU16,
        ChromaFormat: vpl::MFX_CHROMAFORMAT_YUV420 as mfxU16,
        ..mfxFrameInfo::default()
    };
    info.__bindgen_anon_1.__bindgen_anon_1 = frame_size(format);
    info
}

/// The size of frames of this format, coded in whole macroblocks.
pub fn frame_size(format: &VideoFormat) -> FrameSize {
    FrameSize {
        Width: format.width.next_multiple_of(SIDE_ALIGN) as mfxU16,
        Height: format.height.next_multiple_of(SIDE_ALIGN) as mfxU16,
        CropX: 0,
        CropY: 0,
        CropW: format.width as mfxU16,
        CropH: format.height as mfxU16,
    }
}

/// The parameters for these settings. `video_memory`: frames come as VA surfaces, otherwise as pointers.
///
/// # Errors
/// [`EncoderError::Setting`] or [`EncoderError::PixelFormat`] for what oneVPL cannot be told or the codec has not.
pub fn build(settings: &EncoderSettings, video_memory: bool) -> Result<Params, EncoderError> {
    let codec = settings.codec;
    match (codec, settings.format.pixel_format) {
        (_, PixelFormat::Nv12) | (Codec::Hevc | Codec::Av1, PixelFormat::P010) => {}
        (_, other) => {
            let allowed = if codec == Codec::H264 { "nv12" } else { "nv12 or p010" };
            return Err(EncoderError::PixelFormat { backend: super::NAME, given: other.name(), allowed });
        }
    }
    check_tiles(settings)?;
    let mut params = Params::empty();
    let (profile, entropy) = profile(settings)?;
    params.video.AsyncDepth = u16::from(settings.async_depth.max(1));
    let memory = if video_memory { vpl::MFX_IOPATTERN_IN_VIDEO_MEMORY } else { vpl::MFX_IOPATTERN_IN_SYSTEM_MEMORY };
    params.video.IOPattern = memory as mfxU16;
    let mfx = params.mfx_mut();
    mfx.CodecId = codec_id(codec)?;
    mfx.CodecProfile = profile as mfxU16;
    mfx.CodecLevel = level(settings);
    mfx.FrameInfo = frame_info(settings);
    let tiled = tiles(settings) != (1, 1);
    let coding = params.coding_mut();
    coding.TargetUsage = target_usage(settings.preset)?;
    coding.GopPicSize = match settings.gop {
        Gop::Frames(frames) => u16::try_from(frames).unwrap_or(INFINITE_GOP),
        Gop::Infinite => INFINITE_GOP,
    };
    coding.GopRefDist = 1;
    coding.GopOptFlag = vpl::MFX_GOP_CLOSED as mfxU16;
    // Every I picture is an IDR: 0 means so for H.264, 1 for HEVC (mfxInfoMFX::IdrInterval).
    coding.IdrInterval = u16::from(codec == Codec::Hevc);
    coding.NumSlice = if tiled { 0 } else { u16::from(settings.slices.max(1)) };
    if settings.low_latency && codec != Codec::Av1 {
        coding.NumRefFrame = 1;
    }
    rate::write(&mut params, settings);
    options(&mut params, settings, entropy);
    tile_buffers(&mut params, settings);
    colour(&mut params, settings);
    Ok(params)
}

fn options(params: &mut Params, settings: &EncoderSettings, entropy: Option<Entropy>) {
    let h264 = settings.codec == Codec::H264;
    if settings.codec != Codec::Av1 {
        params.attach(Ext::Coding);
        let coding = &mut params.ext.coding;
        // A bitrate that may change at any time has no place in HRD parameters: with them a change needs an IDR.
        (coding.NalHrdConformance, coding.VuiNalHrdParameters, coding.VuiVclHrdParameters) = (OFF, OFF, OFF);
        // Delimiters are written once, for every library, by `assemble::hand_on`.
        (coding.AUDelimiter, coding.EndOfSequence, coding.EndOfStream) = (OFF, OFF, OFF);
        coding.PicTimingSEI = OFF;
        if h264 {
            coding.CAVLC = match entropy {
                Some(Entropy::Cavlc) => ON,
                Some(Entropy::Cabac) => OFF,
                None => 0,
            };
            if settings.low_latency {
                coding.MaxDecFrameBuffering = 1;
            }
            // Where decoding can begin in a stream that is renewed band by band.
            coding.RecoveryPointSEI = if settings.intra_refresh { ON } else { OFF };
        }
        params.attach(Ext::Coding2);
        let coding = &mut params.ext.coding2;
        coding.RepeatPPS = if h264 { OFF } else { 0 };
        if settings.low_latency {
            // No scene-cut IDR: the time of a frame stays predictable.
            (coding.AdaptiveI, coding.AdaptiveB) = (OFF, OFF);
        }
    }
    if settings.intra_refresh {
        params.attach(Ext::Coding2);
        let coding = &mut params.ext.coding2;
        coding.IntRefType = vpl::MFX_REFRESH_VERTICAL as mfxU16;
        // Once a second, as a receiver that joins would wait for a key frame elsewhere; at least the 2 of the API.
        coding.IntRefCycleSize = (settings.format.fps.as_f64().round() as mfxU16).max(2);
    }
    if settings.low_latency && settings.rate_control.holds_bitrate() {
        params.attach(Ext::Coding3);
        params.ext.coding3.0.LowDelayBRC = ON;
    }
}

fn tile_buffers(params: &mut Params, settings: &EncoderSettings) {
    let (columns, rows) = tiles(settings);
    if settings.codec == Codec::Av1 {
        params.attach(Ext::Av1Bitstream);
        // The default is ON: a container header before every frame.
        params.ext.av1_bitstream.WriteIVFHeaders = OFF;
    }
    if (columns, rows) == (1, 1) {
        return;
    }
    match settings.codec {
        Codec::Hevc => {
            params.attach(Ext::HevcTiles);
            (params.ext.hevc_tiles.NumTileColumns, params.ext.hevc_tiles.NumTileRows) = (columns, rows);
        }
        Codec::Av1 => {
            params.attach(Ext::Av1Tiles);
            (params.ext.av1_tiles.NumTileColumns, params.ext.av1_tiles.NumTileRows) = (columns, rows);
        }
        Codec::H264 | Codec::Null => {}
    }
}

fn colour(params: &mut Params, settings: &EncoderSettings) {
    let colour = &settings.format.colour;
    params.attach(Ext::Signal);
    let signal = &mut params.ext.signal;
    signal.VideoFormat = 5; // unspecified (ITU-T H.264 Table E-2)
    signal.VideoFullRange = u16::from(colour.range == Range::Full);
    signal.ColourDescriptionPresent = 1;
    signal.ColourPrimaries = u16::from(colour.primaries);
    signal.TransferCharacteristics = u16::from(colour.transfer);
    signal.MatrixCoefficients = u16::from(colour.matrix);
    if colour.siting != ChromaSiting::Left && settings.codec != Codec::Av1 {
        params.attach(Ext::Chroma);
        let chroma = &mut params.ext.chroma;
        chroma.ChromaLocInfoPresentFlag = 1;
        let place = colour.siting as u16;
        (chroma.ChromaSampleLocTypeTopField, chroma.ChromaSampleLocTypeBottomField) = (place, place);
    }
}

/// Replaces tiles by as many slices; returns what is said about it. `None`: there are no tiles.
pub fn tiles_to_slices(params: &mut Params, settings: &EncoderSettings) -> Option<String> {
    if !params.has(Ext::HevcTiles) && !params.has(Ext::Av1Tiles) {
        return None;
    }
    let (columns, rows) = tiles(settings);
    params.detach(Ext::HevcTiles);
    params.detach(Ext::Av1Tiles);
    if settings.codec == Codec::Av1 {
        // AV1 has no slices.
        return Some(format!("{columns}x{rows} tiles refused, encoded without"));
    }
    let slices = (columns * rows).min(u16::from(crate::settings::MAX_SLICES));
    params.coding_mut().NumSlice = slices;
    Some(format!("{columns}x{rows} tiles refused, {slices} slices instead"))
}

/// Whether [`RateControl`] of these settings is among what the device said it has, for an error.
pub const RATE_MODES: [RateControl; 4] =
    [RateControl::Constant, RateControl::Variable, RateControl::ConstantQp, RateControl::ConstantQuality];
