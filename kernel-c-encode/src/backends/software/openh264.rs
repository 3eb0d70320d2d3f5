//! H.264 in software with openh264: synchronous, no delay, no B frames, 8 bit, up to level 5.2.
//!
//! Luma is read where it lies. openh264 takes planar chroma only, so the chroma of NV12 is taken apart into private
//! memory: half of the luma bytes, once.
//!
//! Where the library would exceed its bitrate by more than a tenth over a second, a guard names the quantiser
//! ([`crate::ratecontrol::guard`]); otherwise the stream is the library's own to the bit. Frames are left out only when
//! asked for ([`OpenH264::leave_frames_out`]); at bitrates a content cannot be coded at, the stream exceeds them (QP
//! ends at 51).
//!
//! Nothing is encoded for warming up: at 1080p opening takes 5 ms and the first IDR of a fresh encoder 42 ms against
//! 37 ms of later ones, so that a private frame of full size would delay a restarted encoder by eight times what its
//! touched memory saves.
//!
//! `idr_pic_id`: the library counts 1, 2, 3 … from its start, and ITU-T H.264 7.4.3 wants two consecutive IDR
//! pictures to differ. An encoder that goes on with a stream of an odd number of IDR pictures therefore begins at 2:
//! it encodes one tiny private picture first and then takes its real parameters, across which the library keeps the
//! count. From then on the parity of `idr_pic_id` follows the number of IDR pictures of the stream.
#![expect(unsafe_code, reason = "reads pixels of another process through raw pointers")]

use super::openh264_library::{Coded, LIBRARY, Library, Picture, default_params};
use super::openh264_rate::{GuardedRate, P_QP, Quantiser};
use super::planar::Planar;
use super::takes::Takes;
use crate::bitstream::h264::{DELIMITER_BYTES, delimiter, nal_type, type_of};
use crate::bitstream::h264_level::{self, Level, macroblocks};
use crate::bitstream::h264_sps::Sps;
use crate::encoder::{AccessUnitMeta, AuSink, Capabilities, EncodeInput, Encoder, LeftOut, PartKind, Parts};
use crate::error::{EncoderError, SinkError, refuse};
use crate::ratecontrol::guard::{Guard, Verdict};
use crate::settings::{EncoderSettings, Gop, H264Profile, MAX_BITRATE_KBPS, MAX_QP, Preset, RateControl};
use openh264_sys2 as sys;
use shm_protocol::error::FormatError;
use shm_protocol::frame::{ChromaSiting, Codec, PixelFormat, Range};
use std::ffi::c_int;

/// Smallest side the library takes (`EncodeFrameInternal`).
const MIN_SIDE: u32 = 16;
/// Longest side of level 5.2: ⌊√(36864 × 8)⌋ = 543 macroblocks (ITU-T H.264 A.3.1).
const MAX_SIDE: u32 = 543 * 16;
/// Largest picture, macroblocks: level 5.2, and `MAX_MBS_PER_FRAME` of the library.
const MAX_MACROBLOCKS: u32 = 36_864;
/// The library clips frame rates to this range (`MIN_FRAME_RATE`, `MAX_FRAME_RATE`) and shares out bits by it.
const RATE_CONTROL_FPS: (f64, f64) = (1.0, 60.0);
/// `MAX_THREADS_NUM` of the library.
const MAX_THREADS: u8 = 4;
/// Room a parameter set may grow by when chroma siting is added: two codes of at most 5 bits, and escapes.
const SPS_GROWTH_BYTES: usize = 16;

const TAKES: Takes = Takes {
    backend: LIBRARY,
    codec: Codec::H264,
    has: &["leave_frames_out"],
    pixel_formats: &[PixelFormat::Nv12, PixelFormat::I420],
    pixel_formats_text: "nv12 or i420 (8 bit)",
};

/// The openh264 encoder.
#[derive(Debug)]
pub struct OpenH264 {
    library: Library,
    planar: Planar,
    settings: EncoderSettings,
    level: Level,
    copied_bytes: u64,
    idr_owed: bool,
    rate: Rate,
}

/// Who names the quantiser.
#[derive(Debug)]
enum Rate {
    /// The library by its bitrate, the guard beside it.
    Guarded(Box<GuardedRate>),
    /// The library by its bitrate, unguarded.
    Free,
    /// Whoever gives the frame, else what it was opened with.
    Given(Quantiser),
}

/// Refuses what openh264 cannot do.
fn check(settings: &EncoderSettings) -> Result<Level, EncoderError> {
    TAKES.check(settings)?;
    if settings.rate_control == RateControl::ConstantQuality {
        return refuse("rate_control", "icq", "cbr, vbr or cqp for backend openh264");
    }
    let format = &settings.format;
    let (width, height) = (format.width, format.height);
    if width < MIN_SIDE
        || height < MIN_SIDE
        || width.max(height) > MAX_SIDE
        || macroblocks(width, height) > MAX_MACROBLOCKS
    {
        return Err(EncoderError::Format(FormatError::Size {
            width,
            height,
            format: "openh264",
            allowed: "from 16x16, sides up to 8688 and at most 36864 macroblocks (4096x2304, H.264 level 5.2)",
        }));
    }
    if settings.threads > MAX_THREADS {
        return refuse("threads", settings.threads, "0 to 4 for backend openh264");
    }
    let constant_qp = !settings.rate_control.holds_bitrate();
    let ceiling = if constant_qp { 0 } else { settings.ceiling_kbps() };
    let level = match settings.level_idc {
        None => h264_level::lowest(width, height, format.fps.as_f64(), ceiling),
        Some(idc) => match h264_level::by_idc(idc) {
            Some(level) => level,
            None => return refuse("level", idc, "10 to 52, ten times a level of H.264 Table A-1"),
        },
    };
    if !constant_qp && settings.bitrate_kbps > level.max_kbps() {
        let allowed = format!("at most {} kb/s at level {}", level.max_kbps(), level.level_idc);
        return refuse("bitrate_kbps", settings.bitrate_kbps, allowed);
    }
    Ok(level)
}

/// What the library is told for a bitrate: beyond the frame rates it knows, bits per frame are kept right.
fn library_bits_per_s(kbps: u32, fps: f64) -> c_int {
    let scale = fps.clamp(RATE_CONTROL_FPS.0, RATE_CONTROL_FPS.1) / fps;
    (f64::from(kbps) * 1000.0 * scale).round().clamp(1.0, f64::from(c_int::MAX)) as c_int
}

fn params(settings: &EncoderSettings, level: Level) -> Result<sys::SEncParamExt, EncoderError> {
    let format = &settings.format;
    let fps = format.fps.as_f64();
    let mut p = default_params()?;
    p.iUsageType = sys::CAMERA_VIDEO_REAL_TIME;
    (p.iPicWidth, p.iPicHeight) = (format.width as c_int, format.height as c_int);
    p.fMaxFrameRate = fps.clamp(RATE_CONTROL_FPS.0, RATE_CONTROL_FPS.1) as f32;
    p.iTargetBitrate = library_bits_per_s(settings.bitrate_kbps.max(1), fps);
    p.iRCMode = match settings.rate_control {
        RateControl::Constant | RateControl::Variable => sys::RC_BITRATE_MODE,
        RateControl::ConstantQp | RateControl::ConstantQuality => sys::RC_OFF_MODE,
    };
    // Left at 0 the library would end at QP 42 and overshoot hard content; it clips the lower end to 12 itself.
    (p.iMinQp, p.iMaxQp) = (c_int::from(P_QP.0), c_int::from(P_QP.1));
    p.iTemporalLayerNum = 1;
    p.iSpatialLayerNum = 1;
    p.iNumRefFrame = 1;
    p.uiIntraPeriod = match settings.gop {
        Gop::Frames(frames) => frames,
        Gop::Infinite => 0,
    };
    // A new SPS id at every IDR would make receivers keep a growing set of them.
    p.eSpsPpsIdStrategy = sys::CONSTANT_ID;
    p.bEnableFrameSkip = false;
    p.bEnableSceneChangeDetect = !settings.low_latency;
    p.bEnableDenoise = false;
    p.iComplexityMode = match settings.preset {
        Preset::Fast => sys::LOW_COMPLEXITY,
        Preset::Medium => sys::MEDIUM_COMPLEXITY,
        Preset::Quality => sys::HIGH_COMPLEXITY,
        Preset::Number(_) | Preset::Named(_) => {
            return refuse("preset", format!("{:?}", settings.preset), "fast, medium or quality for backend openh264");
        }
    };
    let profile = match settings.profile {
        None | Some(H264Profile::ConstrainedBaseline) => sys::PRO_BASELINE,
        Some(H264Profile::Main) => sys::PRO_MAIN,
        Some(H264Profile::High) => sys::PRO_HIGH,
    };
    p.iEntropyCodingModeFlag = c_int::from(profile != sys::PRO_BASELINE);
    p.iMultipleThreadIdc = u16::from(settings.threads.max(1));
    // Moves slice borders by measured time: the same frames would give another stream.
    p.bUseLoadBalancing = false;
    let layer = &mut p.sSpatialLayers[0];
    (layer.iVideoWidth, layer.iVideoHeight) = (p.iPicWidth, p.iPicHeight);
    layer.fFrameRate = p.fMaxFrameRate;
    layer.iSpatialBitrate = p.iTargetBitrate;
    layer.uiProfileIdc = profile;
    layer.uiLevelIdc = sys::ELevelIdc::from(level.level_idc);
    layer.iDLayerQp = c_int::from(settings.qp);
    let slices = settings.slice_count();
    layer.sSliceArgument.uiSliceMode = if slices > 1 { sys::SM_FIXEDSLCNUM_SLICE } else { sys::SM_SINGLE_SLICE };
    layer.sSliceArgument.uiSliceNum = u32::from(slices);
    layer.bVideoSignalTypePresent = true;
    layer.uiVideoFormat = 5; // unspecified (Table E-2)
    layer.bFullRange = format.colour.range == Range::Full;
    layer.bColorDescriptionPresent = true;
    layer.uiColorPrimaries = format.colour.primaries;
    layer.uiTransferCharacteristics = format.colour.transfer;
    layer.uiColorMatrix = format.colour.matrix;
    Ok(p)
}

/// An initialised library whose next IDR has an `idr_pic_id` of the other parity than `idr_count`.
fn open_library(params: &sys::SEncParamExt, idr_count: u32) -> Result<Library, EncoderError> {
    let mut library = Library::create()?;
    if idr_count.is_multiple_of(2) {
        library.initialize(params)?;
        return Ok(library);
    }
    const SIDE: u32 = MIN_SIDE;
    let mut tiny = *params;
    (tiny.iPicWidth, tiny.iPicHeight) = (SIDE as c_int, SIDE as c_int);
    let layer = &mut tiny.sSpatialLayers[0];
    (layer.iVideoWidth, layer.iVideoHeight) = (SIDE as c_int, SIDE as c_int);
    layer.sSliceArgument.uiSliceMode = sys::SM_SINGLE_SLICE;
    layer.sSliceArgument.uiSliceNum = 1;
    library.initialize(&tiny)?;
    let grey = [128u8; (SIDE * SIDE) as usize];
    let picture = Picture { planes: [grey.as_ptr(); 3], strides: [SIDE; 3], width: SIDE, height: SIDE, time_ms: 0 };
    // SAFETY: every plane points at 16 × 16 bytes with a stride of 16.
    unsafe { library.encode(&picture)? };
    library.set_params(params)?;
    Ok(library)
}

impl OpenH264 {
    /// Opens an encoder.
    ///
    /// # Errors
    /// [`EncoderError::Setting`], [`EncoderError::Format`] or [`EncoderError::PixelFormat`] when something cannot be
    /// done; [`EncoderError::Library`] when the library refuses.
    pub fn open(settings: &EncoderSettings) -> Result<OpenH264, EncoderError> {
        let level = check(settings)?;
        let params = params(settings, level)?;
        let library = open_library(&params, settings.idr_count)?;
        let rate = match settings.rate_control.holds_bitrate() {
            true => Rate::Guarded(Box::new(GuardedRate::new(settings, &params)?)),
            false => Rate::Given(Quantiser::new(&params)),
        };
        let format = &settings.format;
        let planar = Planar::new(format.pixel_format, format.width, format.height, false);
        let settings = settings.clone();
        let leave_out = settings.leave_frames_out;
        let mut encoder = OpenH264 { library, planar, settings, level, copied_bytes: 0, idr_owed: false, rate };
        encoder.leave_frames_out(leave_out);
        Ok(encoder)
    }

    /// Whether frames that fit the bitrate at no quantiser are left out, each as a tombstone with
    /// [`LeftOut::RateControl`]. Off when opened; without a bitrate it changes nothing. IDR pictures are never left out.
    pub fn leave_frames_out(&mut self, leave_out: bool) {
        if let Rate::Guarded(rate) = &mut self.rate {
            rate.leave_frames_out(leave_out);
        }
    }

    /// Lets the library exceed its bitrate as it likes; for comparison.
    pub fn without_guard(mut self) -> OpenH264 {
        if let Rate::Guarded(_) = self.rate {
            self.rate = Rate::Free;
        }
        self
    }

    /// The guard over the bitrate, to look at.
    pub fn guard(&self) -> Option<&Guard> {
        match &self.rate {
            Rate::Guarded(rate) => Some(rate.guard()),
            Rate::Free | Rate::Given(_) => None,
        }
    }

    fn picture(&mut self, frame: &EncodeInput<'_>) -> Picture {
        let planes = self.planar.planes(&frame.pixels);
        self.copied_bytes += self.planar.copied_bytes();
        let format = frame.pixels.format();
        Picture {
            planes: planes.map(|plane| plane.pointer),
            strides: planes.map(|plane| plane.stride as u32),
            width: format.width,
            height: format.height,
            time_ms: (frame.pts_ns / 1_000_000) as i64,
        }
    }

    /// Writes the access unit of the frame just coded: delimiter, then the library's NAL units.
    fn write(&self, frame: &EncodeInput<'_>, idr: bool, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        let siting = self.settings.format.colour.siting;
        let room = if idr && siting != ChromaSiting::Left { SPS_GROWTH_BYTES } else { 0 };
        let bytes = self.library.nal_units().map(<[u8]>::len).sum::<usize>() + DELIMITER_BYTES + room;
        let buffer = sink.buffer(bytes)?;
        let mut meta = AccessUnitMeta { key: frame.key, pts_ns: frame.pts_ns, idr, config: false, parts: Parts::new() };
        buffer[..DELIMITER_BYTES].copy_from_slice(&delimiter(idr));
        meta.parts.push(DELIMITER_BYTES as u32, PartKind::Delimiter);
        let mut at = DELIMITER_BYTES;
        for nal in self.library.nal_units() {
            let header = *nal.get(4).ok_or_else(|| broken("a NAL unit is empty"))?;
            let len = if type_of(header) == nal_type::SPS && siting != ChromaSiting::Left {
                rewrite_sps(nal, siting, &mut buffer[at..])?
            } else {
                buffer[at..at + nal.len()].copy_from_slice(nal);
                nal.len()
            };
            let kind = match type_of(header) {
                nal_type::SPS | nal_type::PPS => PartKind::ParameterSets,
                nal_type::SEI => PartKind::Sei,
                _ => PartKind::Slice,
            };
            meta.config |= kind == PartKind::ParameterSets;
            meta.parts.push(len as u32, kind);
            at += len;
        }
        if idr && !meta.config {
            return Err(broken("an IDR came without parameter sets"));
        }
        Ok(sink.commit(at, &meta)?)
    }
}

fn check_frame_qp(qp: u8) -> Result<(), EncoderError> {
    if qp > MAX_QP {
        return refuse("qp", qp, format!("0 to {MAX_QP}"));
    }
    Ok(())
}

fn broken(reason: &str) -> EncoderError {
    EncoderError::Bitstream { library: LIBRARY, reason: reason.to_owned() }
}

/// Writes `nal` (with start code) with chroma siting added to the front of `out`; returns its length.
fn rewrite_sps(nal: &[u8], siting: ChromaSiting, out: &mut [u8]) -> Result<usize, EncoderError> {
    let mut sps = Sps::parse(&nal[4..]).ok_or_else(|| broken("its SPS cannot be read"))?;
    sps.set_chroma_siting(siting);
    out[..4].copy_from_slice(&nal[..4]);
    let len = sps.write(nal[4], &mut out[4..]).ok_or_else(|| broken("its SPS cannot be written"))?;
    Ok(4 + len)
}

impl Encoder for OpenH264 {
    fn name(&self) -> &'static str {
        LIBRARY
    }

    fn codec(&self) -> Codec {
        Codec::H264
    }

    fn path(&self) -> &str {
        self.planar.path()
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
        let asked_idr = frame.force_idr || self.idr_owed;
        let verdict = match &mut self.rate {
            Rate::Guarded(rate) => rate.begin(&mut self.library, &frame.pixels, asked_idr)?,
            Rate::Free => Verdict::Library,
            Rate::Given(quantiser) => {
                let qp = frame.qp.unwrap_or(self.settings.qp);
                check_frame_qp(qp)?;
                quantiser.tell(&mut self.library, qp)?;
                Verdict::Qp(qp)
            }
        };
        if verdict == Verdict::LeaveOut {
            if let Rate::Guarded(rate) = &mut self.rate {
                rate.left_out();
            }
            return Ok(sink.left_out(frame.key, LeftOut::RateControl)?);
        }
        if asked_idr {
            self.library.force_idr()?;
        }
        let picture = self.picture(frame);
        // SAFETY: the planes lie in the mapping `PixelsRead` proved or in `self.planar`, both untouched till then.
        let coded = unsafe { self.library.encode(&picture)? };
        if let Rate::Guarded(rate) = &mut self.rate {
            let bits = self.library.nal_units().map(|nal| nal.len() as u64 * 8).sum();
            match coded {
                Coded::Skipped => rate.left_out(),
                _ => rate.coded(&mut self.library, bits, coded == Coded::Idr, verdict)?,
            }
        }
        if coded == Coded::Skipped {
            self.idr_owed |= frame.force_idr;
            return Ok(sink.left_out(frame.key, LeftOut::RateControl)?);
        }
        let written = self.write(frame, coded == Coded::Idr, sink);
        // What did not get out is missing as a reference.
        self.idr_owed = written.is_err();
        if let Err(EncoderError::Sink(SinkError::TooLarge { .. })) = written {
            sink.left_out(frame.key, LeftOut::TooLarge)?;
        }
        written
    }

    fn set_bitrate(&mut self, kbps: u32, max_kbps: u32) -> Result<(), EncoderError> {
        self.settings.check_live_bitrate(kbps, Some((self.level.max_kbps(), self.level.level_idc)))?;
        let bits_per_s = library_bits_per_s(kbps, self.settings.format.fps.as_f64());
        self.library.set_bitrate(bits_per_s)?;
        self.settings.bitrate_kbps = kbps;
        if self.settings.max_bitrate_kbps.max(max_kbps) > 0 {
            // A peak below the new bitrate is no peak.
            let peak = if max_kbps == 0 { self.settings.max_bitrate_kbps } else { max_kbps };
            self.settings.max_bitrate_kbps = peak.max(kbps).min(MAX_BITRATE_KBPS);
        }
        if let Rate::Guarded(rate) = &mut self.rate {
            rate.set_bitrate(&self.settings, bits_per_s)?;
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
