//! Query, Init, GetVideoParam: what is asked for, what the device makes of it, and what it is asked for less.
//!
//! A runtime refuses a whole set of parameters for one it does not know. What is a wish (tiles, refresh, low delay) is
//! given up one by one, named; what is a promise (codec, size, pixel format, rate mode) is refused with the reason.
#![expect(unsafe_code, reason = "calls the runtime")]

use super::buffers::{Ext, Params};
use super::library::status_name;
use super::params::{self, ON, RATE_MODES};
use super::rate;
use super::session::Session;
use crate::error::EncoderError;
use crate::settings::{EncoderSettings, RateControl};
use onevpl_sys as vpl;
use onevpl_sys::{mfxFrameAllocRequest, mfxStatus};

/// Calls of Query or Init until the device agrees, at the most: one for each wish, and some.
const ROUNDS: usize = 16;

/// Why something of the library did not work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The device or its driver is gone, hangs or failed: a reset may help.
    Lost(String),
    /// Anything else: it would come again.
    Refused(EncoderError),
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Fault::Lost(reason) => f.write_str(reason),
            Fault::Refused(error) => error.fmt(f),
        }
    }
}

impl From<EncoderError> for Fault {
    fn from(error: EncoderError) -> Fault {
        Fault::Refused(error)
    }
}

/// What a status that is no success means.
pub fn fault(call: &'static str, status: mfxStatus) -> Fault {
    match status {
        vpl::MFX_ERR_DEVICE_LOST | vpl::MFX_ERR_DEVICE_FAILED | vpl::MFX_ERR_GPU_HANG | vpl::MFX_ERR_ABORTED => {
            Fault::Lost(format!("{call} said {}", status_name(status)))
        }
        _ => Fault::Refused(EncoderError::Library { library: super::LIBRARY, call, code: i64::from(status) }),
    }
}

/// What was agreed.
#[derive(Debug)]
pub struct Agreed {
    /// What was asked for in the end.
    pub params: Params,
    /// What the runtime works with.
    pub actual: Params,
    /// What it changed and what was given up, for people.
    pub notes: Vec<String>,
    /// Surfaces it wants, its own pipeline's depth included.
    pub surfaces: usize,
}

/// A wish that can be given up.
struct Wish {
    present: fn(&Params) -> bool,
    /// Whether the answer to Query has it taken away.
    lost: fn(&Params, &Params) -> bool,
    give_up: fn(&mut Params, &EncoderSettings) -> Option<String>,
}

fn note(text: &str) -> Option<String> {
    Some(text.to_owned())
}

/// What is given up, least missed first where the device does not say which one it is.
const WISHES: [Wish; 9] = [
    Wish { present: tiled, lost: |_, answer| tiles_lost(answer), give_up: params::tiles_to_slices },
    Wish {
        present: |p| p.has(Ext::Coding2) && p.ext.coding2.IntRefType != 0,
        lost: |asked, answer| asked.ext.coding2.IntRefType != answer.ext.coding2.IntRefType,
        give_up: |p, _| {
            (p.ext.coding2.IntRefType, p.ext.coding2.IntRefCycleSize) = (0, 0);
            note("intra refresh refused")
        },
    },
    Wish {
        present: |p| p.has(Ext::Coding3),
        lost: |asked, answer| asked.ext.coding3.0.LowDelayBRC != answer.ext.coding3.0.LowDelayBRC,
        give_up: |p, _| {
            p.detach(Ext::Coding3);
            note("LowDelayBRC refused")
        },
    },
    Wish {
        present: |p| p.has(Ext::Coding) && p.ext.coding.MaxDecFrameBuffering != 0,
        lost: |asked, answer| asked.ext.coding.MaxDecFrameBuffering != answer.ext.coding.MaxDecFrameBuffering,
        give_up: |p, _| {
            p.ext.coding.MaxDecFrameBuffering = 0;
            note("MaxDecFrameBuffering refused")
        },
    },
    Wish {
        // Newer generations encode with the fixed-function engine (VDEnc) only, and some runtimes want to be told.
        present: |p| p.mfx().LowPower == 0,
        lost: |_, _| false,
        give_up: |p, _| {
            p.mfx_mut().LowPower = ON;
            note("LowPower set")
        },
    },
    Wish {
        present: |p| p.coding().NumRefFrame != 0,
        lost: |asked, answer| asked.coding().NumRefFrame != answer.coding().NumRefFrame,
        give_up: |p, _| {
            p.coding_mut().NumRefFrame = 0;
            note("NumRefFrame left to the runtime")
        },
    },
    Wish {
        present: |p| p.has(Ext::Coding2),
        lost: |_, _| false,
        give_up: |p, _| {
            p.detach(Ext::Coding2);
            note("mfxExtCodingOption2 refused")
        },
    },
    Wish {
        present: |p| p.mfx().CodecLevel != 0,
        lost: |asked, answer| asked.mfx().CodecLevel != answer.mfx().CodecLevel,
        give_up: |p, settings| {
            // A level that was asked for is a promise.
            if settings.level_idc.is_some() {
                return None;
            }
            p.mfx_mut().CodecLevel = 0;
            note("CodecLevel left to the runtime")
        },
    },
    Wish {
        present: |p| p.has(Ext::Chroma),
        lost: |_, _| false,
        give_up: |p, _| {
            p.detach(Ext::Chroma);
            note("chroma siting cannot be signalled")
        },
    },
];

fn tiled(params: &Params) -> bool {
    params.has(Ext::HevcTiles) || params.has(Ext::Av1Tiles)
}

fn tiles_lost(answer: &Params) -> bool {
    let hevc = &answer.ext.hevc_tiles;
    let av1 = &answer.ext.av1_tiles;
    (answer.has(Ext::HevcTiles) && hevc.NumTileColumns.max(1) * hevc.NumTileRows.max(1) == 1)
        || (answer.has(Ext::Av1Tiles) && av1.NumTileColumns.max(1) * av1.NumTileRows.max(1) == 1)
}

/// Gives up one wish: one that the answer took away, else the first that is left.
fn relax(params: &mut Params, answer: &Params, settings: &EncoderSettings) -> Option<String> {
    let named = WISHES.iter().filter(|wish| (wish.present)(params) && (wish.lost)(params, answer));
    let left = WISHES.iter().filter(|wish| (wish.present)(params));
    for wish in named.chain(left) {
        let mut without = *params;
        if let Some(said) = (wish.give_up)(&mut without, settings) {
            *params = without;
            return Some(said);
        }
    }
    None
}

/// Every parameter that people know by name.
fn named(params: &Params) -> Vec<(&'static str, u32)> {
    let (mfx, coding, size, rate) = (params.mfx(), params.coding(), params.size(), params.rate());
    let mut fields = vec![
        ("CodecProfile", u32::from(mfx.CodecProfile)),
        ("CodecLevel", u32::from(mfx.CodecLevel)),
        ("LowPower", u32::from(mfx.LowPower)),
        ("AsyncDepth", u32::from(params.video.AsyncDepth)),
        ("Width", u32::from(size.Width)),
        ("Height", u32::from(size.Height)),
        ("FrameRateExtN", mfx.FrameInfo.FrameRateExtN),
        ("FrameRateExtD", mfx.FrameInfo.FrameRateExtD),
        ("TargetUsage", u32::from(coding.TargetUsage)),
        ("GopPicSize", u32::from(coding.GopPicSize)),
        ("GopRefDist", u32::from(coding.GopRefDist)),
        ("IdrInterval", u32::from(coding.IdrInterval)),
        ("NumSlice", u32::from(coding.NumSlice)),
        ("NumRefFrame", u32::from(coding.NumRefFrame)),
    ];
    match RATE_MODES.into_iter().find(|mode| rate::method(*mode) == rate.method) {
        Some(RateControl::ConstantQp) => {
            fields.extend([("QPI", rate.initial), ("QPP", rate.target), ("QPB", rate.max)]);
        }
        Some(RateControl::ConstantQuality) => fields.push(("ICQQuality", rate.target)),
        _ => fields.extend([
            ("TargetKbps", rate.target),
            ("MaxKbps", rate.max),
            ("BufferSizeInKB", rate.buffer_kb),
            ("InitialDelayInKB", rate.initial),
        ]),
    }
    if params.has(Ext::Coding) {
        let coding = &params.ext.coding;
        fields.extend([
            ("NalHrdConformance", u32::from(coding.NalHrdConformance)),
            ("VuiNalHrdParameters", u32::from(coding.VuiNalHrdParameters)),
            ("CAVLC", u32::from(coding.CAVLC)),
            ("RecoveryPointSEI", u32::from(coding.RecoveryPointSEI)),
            ("MaxDecFrameBuffering", u32::from(coding.MaxDecFrameBuffering)),
        ]);
    }
    if params.has(Ext::Coding2) {
        let coding = &params.ext.coding2;
        fields.extend([
            ("IntRefType", u32::from(coding.IntRefType)),
            ("IntRefCycleSize", u32::from(coding.IntRefCycleSize)),
            ("AdaptiveI", u32::from(coding.AdaptiveI)),
            ("RepeatPPS", u32::from(coding.RepeatPPS)),
        ]);
    }
    if params.has(Ext::Coding3) {
        fields.push(("LowDelayBRC", u32::from(params.ext.coding3.0.LowDelayBRC)));
    }
    if params.has(Ext::Signal) {
        let signal = &params.ext.signal;
        fields.extend([
            ("VideoFullRange", u32::from(signal.VideoFullRange)),
            ("ColourPrimaries", u32::from(signal.ColourPrimaries)),
            ("TransferCharacteristics", u32::from(signal.TransferCharacteristics)),
            ("MatrixCoefficients", u32::from(signal.MatrixCoefficients)),
        ]);
    }
    if params.has(Ext::HevcTiles) {
        let tiles = &params.ext.hevc_tiles;
        fields.extend([("NumTileColumns", tiles.NumTileColumns.into()), ("NumTileRows", tiles.NumTileRows.into())]);
    }
    if params.has(Ext::Av1Tiles) {
        let tiles = &params.ext.av1_tiles;
        fields.extend([("NumTileColumns", tiles.NumTileColumns.into()), ("NumTileRows", tiles.NumTileRows.into())]);
    }
    fields
}

/// What was asked for and is otherwise in the answer; what was left open is no change.
pub fn changes(asked: &Params, answer: &Params) -> Vec<String> {
    let said = named(asked).into_iter().filter(|(_, value)| *value != 0);
    let answered = named(answer);
    said.filter_map(|(name, value)| {
        let (_, other) = answered.iter().find(|(other, _)| *other == name)?;
        (*other != value).then(|| format!("{name} {value} became {other}"))
    })
    .collect()
}

/// Asks the runtime what it makes of parameters.
pub fn query(session: &mut Session, asked: &mut Params) -> (mfxStatus, Params) {
    let mut answer = *asked;
    // SAFETY: an open session; both sets of parameters have the same ext buffers and live during the call.
    let status = unsafe { session.vpl().MFXVideoENCODE_Query(session.raw(), asked.raw(), answer.raw()) };
    (status, answer)
}

/// The rate modes that the device says it has.
fn rate_modes(session: &mut Session, settings: &EncoderSettings, video_memory: bool) -> Vec<&'static str> {
    let has = |mode: &RateControl| {
        let settings = EncoderSettings {
            rate_control: *mode,
            low_latency: false,
            intra_refresh: false,
            tile_columns: 0,
            tile_rows: 0,
            bitrate_kbps: settings.bitrate_kbps.max(1000),
            max_bitrate_kbps: 0,
            ..settings.clone()
        };
        let Ok(mut params) = params::build(&settings, video_memory) else { return false };
        let (status, answer) = query(session, &mut params);
        status >= vpl::MFX_ERR_NONE && answer.rate().method == rate::method(*mode)
    };
    let mut modes = RATE_MODES.to_vec();
    let mut has = has;
    modes.retain(|mode| has(mode));
    modes.into_iter().map(RateControl::name).collect()
}

/// The error for a promise that the answer to Query broke, if it did.
fn promise_broken(
    session: &mut Session,
    settings: &EncoderSettings,
    asked: &Params,
    answer: &Params,
) -> Option<EncoderError> {
    let video_memory = u32::from(asked.video.IOPattern) == vpl::MFX_IOPATTERN_IN_VIDEO_MEMORY;
    let refused =
        |setting: &'static str, given: String, allowed: String| Some(EncoderError::Setting { setting, given, allowed });
    let device = session.describe();
    let (format, size, asked_size) = (&settings.format, answer.size(), asked.size());
    if answer.mfx().CodecId != asked.mfx().CodecId {
        return Some(EncoderError::Unavailable {
            backend: super::NAME.to_owned(),
            reason: format!("{device} does not encode {}", settings.codec.name()),
            cure: super::library::CURE.to_owned(),
        });
    }
    if answer.mfx().FrameInfo.FourCC != asked.mfx().FrameInfo.FourCC {
        let given = format.pixel_format.name().to_owned();
        return refused("format", given, format!("another pixel format: {device} does not take it for this codec"));
    }
    if (size.Width, size.Height) != (asked_size.Width, asked_size.Height) {
        let (least, most) = (session.found.min_size, session.found.max_size);
        let given = format!("{}x{}", format.width, format.height);
        return refused("size", given, format!("{}x{} to {}x{} on {device}", least.0, least.1, most.0, most.1));
    }
    if answer.rate().method != asked.rate().method {
        let modes = rate_modes(session, settings, video_memory);
        let modes = if modes.is_empty() { "none".to_owned() } else { modes.join(", ") };
        return refused("rate_control", settings.rate_control.name().to_owned(), format!("{modes} on {device}"));
    }
    if settings.level_idc.is_some() && answer.mfx().CodecLevel == 0 && asked.mfx().CodecLevel != 0 {
        return refused("level", asked.mfx().CodecLevel.to_string(), format!("a level that {device} has"));
    }
    None
}

/// Brings the encoder of `session` to work with these settings.
///
/// # Errors
/// [`Fault::Refused`] naming what the device does not do, [`Fault::Lost`] when it is gone.
pub fn negotiate(session: &mut Session, settings: &EncoderSettings, video_memory: bool) -> Result<Agreed, Fault> {
    let mut params = params::build(settings, video_memory)?;
    let mut notes = Vec::new();
    for _ in 0..ROUNDS {
        let (status, answer) = query(session, &mut params);
        let agreed = status >= vpl::MFX_ERR_NONE;
        if !agreed
            && !matches!(
                status,
                vpl::MFX_ERR_UNSUPPORTED
                    | vpl::MFX_ERR_INVALID_VIDEO_PARAM
                    | vpl::MFX_ERR_INCOMPATIBLE_VIDEO_PARAM
                    | vpl::MFX_ERR_NOT_IMPLEMENTED
            )
        {
            return Err(fault("MFXVideoENCODE_Query", status));
        }
        if let Some(error) = promise_broken(session, settings, &params, &answer) {
            return Err(Fault::Refused(error));
        }
        if !agreed || (tiled(&params) && tiles_lost(&answer)) {
            match relax(&mut params, &answer, settings) {
                Some(said) => notes.push(said),
                None => return Err(fault("MFXVideoENCODE_Query", status)),
            }
            continue;
        }
        if status == vpl::MFX_WRN_PARTIAL_ACCELERATION {
            notes.push("only partly on the device".to_owned());
        }
        notes.extend(changes(&params, &answer));
        params = answer;
        let surfaces = surfaces(session, &mut params)?;
        // SAFETY: an open session, and parameters that live during the call.
        let status = unsafe { session.vpl().MFXVideoENCODE_Init(session.raw(), params.raw()) };
        match status {
            vpl::MFX_ERR_UNSUPPORTED | vpl::MFX_ERR_INVALID_VIDEO_PARAM | vpl::MFX_ERR_INCOMPATIBLE_VIDEO_PARAM => {
                let same = params;
                match relax(&mut params, &same, settings) {
                    Some(said) => notes.push(said),
                    None => return Err(fault("MFXVideoENCODE_Init", status)),
                }
            }
            status if status < vpl::MFX_ERR_NONE => return Err(fault("MFXVideoENCODE_Init", status)),
            _ => {
                let actual = actual(session, &params)?;
                notes.extend(changes(&params, &actual));
                notes.dedup();
                return Ok(Agreed { params, actual, notes, surfaces });
            }
        }
    }
    Err(fault("MFXVideoENCODE_Query", vpl::MFX_ERR_UNSUPPORTED))
}

fn surfaces(session: &mut Session, params: &mut Params) -> Result<usize, Fault> {
    let mut request = mfxFrameAllocRequest::default();
    // SAFETY: an open session, parameters that live during the call, and a place for the answer.
    let status = unsafe { session.vpl().MFXVideoENCODE_QueryIOSurf(session.raw(), params.raw(), &mut request) };
    if status < vpl::MFX_ERR_NONE {
        return Err(fault("MFXVideoENCODE_QueryIOSurf", status));
    }
    Ok(usize::from(request.NumFrameSuggested.max(request.NumFrameMin)))
}

/// What the runtime works with after Init or Reset.
///
/// # Errors
/// As [`negotiate`].
pub fn actual(session: &mut Session, params: &Params) -> Result<Params, Fault> {
    let mut actual = *params;
    actual.detach(Ext::Reset);
    // SAFETY: an open session, and parameters that live during the call.
    let status = unsafe { session.vpl().MFXVideoENCODE_GetVideoParam(session.raw(), actual.raw()) };
    if status < vpl::MFX_ERR_NONE { Err(fault("MFXVideoENCODE_GetVideoParam", status)) } else { Ok(actual) }
}
