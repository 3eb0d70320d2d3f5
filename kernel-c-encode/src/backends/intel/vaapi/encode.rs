//! The encoder: frames in work, first in, first out.

use super::buffers::{Buffers, DeviceRate, Maker};
use super::call::{Failed, Va};
use super::coded::Unusable;
use super::coder::Picture;
use super::import::Imports;
use super::plan::{NAME, Plan};
use super::session::{Session, coded_bytes};
use super::upload::Way;
use crate::bitstream::assemble::hand_on;
use crate::encoder::{AuSink, Capabilities, EncodeInput, Encoder, Key, LeftOut};
use crate::error::{EncoderError, SinkError};
use crate::ratecontrol::controller::{CodedFrame, RateController};
use crate::ratecontrol::mode::RateConfig;
use crate::ratecontrol::satd::{Complexity, ComplexityMeter};
use crate::settings::{EncoderSettings, Gop, RateControl, check_bitrate};
use libva_sys as va;
use shm_protocol::frame::{Codec, PixelFormat};
use shm_protocol::pixels::PixelsRead;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// A frame that takes longer is the sign of a hung device: ten times what 8K takes at its slowest, and within what the
/// kernel driver itself waits before it resets the engine.
const FRAME_DEADLINE: Duration = Duration::from_secs(1);
/// Frames between two IDR pictures at the most: a picture order count has 32 bits, of which H.264 here uses two numbers
/// for each frame. At 240 fps that is after 25 days.
const MAX_BETWEEN_IDRS: u32 = 1 << 29;
const PIXEL_FORMATS: [PixelFormat; 2] = [PixelFormat::Nv12, PixelFormat::P010];

/// Where a frame's pixels are for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// In a surface that is the frame's own buffer.
    Imported(va::VASurfaceID),
    /// Copied into the upload surface of that index.
    Uploaded(usize),
}

/// A frame in work.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pending {
    pub(super) key: Key,
    pub(super) pts_ns: u64,
    pub(super) source: Source,
    /// An IDR by request or by the period.
    pub(super) idr: bool,
    quantiser: Quantiser,
    coded: usize,
    picture: va::VASurfaceID,
    deadline: Instant,
}

/// How a frame is quantised, and what our own rate control makes of it where it chose that.
#[derive(Debug, Clone, Copy)]
struct Quantiser {
    qp: u8,
    complexity: Complexity,
    expected_bits: f64,
}

/// Our own rate control, for devices that hold no bitrate.
#[derive(Debug)]
struct Own {
    controller: RateController,
    meter: ComplexityMeter,
}

/// Why a frame did not come out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// A call failed.
    Call(Failed),
    /// The frame is over its deadline.
    Deadline,
    /// The coded buffer was too small.
    Overflow,
    /// What came out cannot be used.
    Garbage(String),
}

/// Nothing to encode with: a reset failed half-way.
pub(super) fn no_session() -> Fault {
    Fault::Garbage("there is no session".to_owned())
}

/// The encoder.
#[derive(Debug)]
pub struct Vaapi {
    pub(super) settings: EncoderSettings,
    pub(super) plan: Plan,
    /// `None` only between the end of a display and the next.
    pub(super) session: Option<Session>,
    pub(super) va: Va,
    pub(super) imports: Imports,
    pub(super) way: Way,
    buffers: Buffers,
    scratch: Vec<u8>,
    pub(super) pending: VecDeque<Pending>,
    own: Option<Own>,
    /// Frames submitted to this session: which surface and coded buffer is next.
    submitted: usize,
    pub(super) uploaded: usize,
    last_picture: va::VASurfaceID,
    /// Frames behind the last IDR submitted; `None` before the first.
    pub(super) since_idr: Option<u32>,
    pub(super) idr_owed: bool,
    next_idr: u32,
    tell_rate: bool,
    pub(super) coded_bytes: usize,
    pub(super) copied_bytes: u64,
    pub(super) path: &'static str,
    /// Resets since a frame came out.
    pub(super) trouble: u32,
    /// Pixels of frames in work on their way from one display to the next: upload surface and bytes.
    pub(super) saved: Vec<(usize, Vec<u8>)>,
}

impl Vaapi {
    /// An encoder on that display.
    pub(super) fn open(va: Va, settings: &EncoderSettings, plan: Plan) -> Result<Vaapi, EncoderError> {
        let own = if plan.own_rate {
            let controller = RateController::new(RateConfig::of(settings))?;
            Some(Own { controller, meter: ComplexityMeter::new(&settings.format)? })
        } else {
            None
        };
        let bytes = coded_bytes(&settings.format);
        let session = Session::open(&va, &plan, &settings.format, bytes)
            .map_err(|failed| EncoderError::DeviceLost { backend: NAME, reason: va.text(&failed) })?;
        Ok(Vaapi {
            settings: settings.clone(),
            imports: Imports::new(plan.caps.memory_types),
            way: Way::Undecided,
            buffers: Buffers::new(),
            scratch: Vec::new(),
            pending: VecDeque::with_capacity(plan.depth + 1),
            own,
            submitted: 0,
            uploaded: 0,
            last_picture: va::VA_INVALID_SURFACE,
            since_idr: None,
            idr_owed: false,
            next_idr: settings.idr_count,
            tell_rate: true,
            coded_bytes: bytes,
            copied_bytes: 0,
            path: "import of DMA-BUF, otherwise one copy into a mapped surface",
            trouble: 0,
            saved: Vec::new(),
            session: Some(session),
            va,
            plan,
        })
    }

    /// Whether the next frame is an IDR without being asked for.
    fn period_is_over(&self) -> bool {
        let Some(since_idr) = self.since_idr else { return true };
        let most = match self.settings.gop {
            Gop::Frames(frames) => frames.min(MAX_BETWEEN_IDRS),
            Gop::Infinite => MAX_BETWEEN_IDRS,
        };
        since_idr + 1 >= most
    }

    /// The quantiser of a frame.
    fn quantiser(&mut self, frame: &EncodeInput<'_>, idr: bool) -> Quantiser {
        let plain = |qp| Quantiser { qp, complexity: Complexity::default(), expected_bits: 0.0 };
        match &mut self.own {
            Some(own) => {
                let complexity = own.meter.measure(&frame.pixels).unwrap_or_default();
                // What is in work fills the bucket before this frame does, though nobody knows yet how much.
                let inside = self.pending.iter().map(|pending| pending.quantiser.expected_bits).sum();
                own.controller.set_in_flight(self.pending.len() as u32, inside);
                let qp = own.controller.next_qp(complexity, idr);
                Quantiser { qp, complexity, expected_bits: own.controller.expected_bits(complexity, idr, qp) }
            }
            None if self.settings.rate_control == RateControl::ConstantQp => {
                plain(frame.qp.unwrap_or(self.settings.qp).min(self.settings.max_qp()))
            }
            None => plain(self.plan.coder.init_qp()),
        }
    }

    /// Submits frame `index` of those in work, as an IDR where it is one or `idr` says so.
    pub(super) fn submit(&mut self, index: usize, idr: bool) -> Result<(), Fault> {
        // After a reset that failed half-way there may be a session without buffers.
        let session = self.session.as_ref().filter(|s| !s.coded.is_empty()).ok_or_else(no_session)?;
        let Some(pending) = self.pending.get_mut(index) else { return Ok(()) };
        let since_idr = self.since_idr.map(|since| since + 1).filter(|_| !idr && !pending.idr);
        pending.idr = since_idr.is_none();
        let reconstructed = session.pictures[self.submitted % session.pictures.len()];
        let coded = self.submitted % session.coded.len();
        let surface = match pending.source {
            Source::Imported(surface) => surface,
            Source::Uploaded(index) => session.uploads[index],
        };
        let picture = Picture {
            idr: pending.idr,
            idr_pic_id: self.next_idr as u16,
            since_idr: since_idr.unwrap_or(0),
            qp: pending.quantiser.qp,
            reconstructed,
            reference: self.last_picture,
            coded: session.coded[coded],
            tell_rate: pending.idr || self.tell_rate,
        };
        let maker = Maker { va: &self.va, context: session.context };
        let buffers = &mut self.buffers;
        let (stream, coder) = (&self.plan.stream, &self.plan.coder);
        let submitted = (|| {
            maker.va.begin(session.context, surface)?;
            coder.add(stream, &picture, buffers, maker)?;
            buffers.render(maker)?;
            maker.va.end(session.context)
        })();
        buffers.clear(&self.va);
        submitted.map_err(Fault::Call)?;
        pending.coded = coded;
        pending.picture = surface;
        pending.deadline = Instant::now() + FRAME_DEADLINE;
        self.submitted += 1;
        self.last_picture = reconstructed;
        self.since_idr = Some(picture.since_idr);
        self.tell_rate = false;
        self.next_idr = self.next_idr.wrapping_add(u32::from(picture.idr));
        Ok(())
    }

    /// Forgets what the device knows of the stream: the next frame is an IDR, its rate control is told anew.
    pub(super) fn begin_anew(&mut self) {
        self.submitted = 0;
        self.since_idr = None;
        self.last_picture = va::VA_INVALID_SURFACE;
        self.tell_rate = true;
    }

    /// Waits for the frames in work as far as they become ready, so that their buffers are nobody's any more.
    pub(super) fn settle(&self) {
        let Some(session) = &self.session else { return };
        for pending in &self.pending {
            let left = pending.deadline.saturating_duration_since(Instant::now());
            let coded = session.coded.get(pending.coded).filter(|_| pending.picture != va::VA_INVALID_SURFACE);
            if coded.is_none_or(|coded| self.va.wait(*coded, pending.picture, left) != Ok(true)) {
                return;
            }
        }
    }

    /// Waits for the oldest frame up to `patience`; whether it is ready.
    fn wait(&self, patience: Duration) -> Result<bool, Fault> {
        let Some(oldest) = self.pending.front() else { return Ok(false) };
        // One that is lost brings nothing out, however long it is waited for.
        let session = self.session.as_ref().ok_or_else(no_session)?;
        let left = oldest.deadline.saturating_duration_since(Instant::now());
        let coded = *session.coded.get(oldest.coded).ok_or_else(no_session)?;
        let ready = self.va.wait(coded, oldest.picture, patience.min(left)).map_err(Fault::Call)?;
        if !ready && Instant::now() >= oldest.deadline {
            return Err(Fault::Deadline);
        }
        Ok(ready)
    }

    /// Hands on the oldest frame, which is ready.
    fn take_out(&mut self, sink: &mut dyn AuSink) -> Result<Result<(), EncoderError>, Fault> {
        let (Some(session), Some(&oldest)) = (&self.session, self.pending.front()) else { return Ok(Ok(())) };
        let codec = self.settings.codec;
        let mut coded_bits = 0;
        let coded = *session.coded.get(oldest.coded).ok_or_else(no_session)?;
        let handed = self.va.with_coded(coded, session.coded_bytes, &mut self.scratch, |bytes, status| {
            if status.overflow {
                return Err(Fault::Overflow);
            }
            if status.bad {
                return Err(Fault::Garbage("the driver says that the picture is damaged".to_owned()));
            }
            if status.over_budget {
                tracing::debug!(bytes = bytes.len(), "A picture exceeds what the rate control allowed");
            }
            coded_bits = bytes.len() as u64 * 8;
            Ok(hand_on(NAME, codec, bytes, (oldest.key, oldest.pts_ns), sink))
        });
        let handed = match handed {
            Ok(Ok(handed)) => handed,
            Ok(Err(fault)) => return Err(fault),
            Err(Unusable::Call(failed)) => return Err(Fault::Call(failed)),
            Err(Unusable::Garbage(what)) => return Err(Fault::Garbage(what.to_owned())),
        };
        // Nothing was handed on yet: the frame can be coded again.
        if let Err(EncoderError::Bitstream { reason, .. }) = handed {
            return Err(Fault::Garbage(reason));
        }
        self.pending.pop_front();
        self.trouble = 0;
        self.saved.clear();
        if let Some(own) = &mut self.own {
            if handed.is_ok() {
                let coded = CodedFrame { bits: coded_bits, qp: oldest.quantiser.qp, idr: oldest.idr };
                own.controller.coded(oldest.quantiser.complexity, coded);
            } else {
                own.controller.left_out();
            }
        }
        let handed = handed.and_then(|idr| {
            if idr == oldest.idr {
                return Ok(());
            }
            let reason = format!("a frame with IDR = {} came out with IDR = {idr}", oldest.idr);
            Err(EncoderError::Bitstream { library: NAME, reason })
        });
        Ok(handed.or_else(|error| self.lost(&oldest, error, sink)))
    }

    /// Looks after a frame that could not be handed on: what refers to it is coded anew, from an IDR on.
    fn lost(&mut self, frame: &Pending, error: EncoderError, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        self.idr_owed = true;
        if frame.idr && !self.pending.iter().any(|p| p.idr) {
            // The stream has one IDR less than was counted.
            self.next_idr = self.next_idr.wrapping_sub(1);
        }
        if matches!(error, EncoderError::Sink(SinkError::TooLarge { .. })) {
            sink.left_out(frame.key, LeftOut::TooLarge)?;
            if !self.pending.is_empty() {
                self.code_again()?;
                self.idr_owed = false;
            }
        }
        Err(error)
    }

    /// Brings out the oldest frame, whatever that takes. `pixels`: those of the newest frame, while they are there.
    fn deliver(&mut self, sink: &mut dyn AuSink, pixels: Option<&PixelsRead<'_>>) -> Result<(), EncoderError> {
        while !self.pending.is_empty() {
            let answer = match self.wait(FRAME_DEADLINE) {
                Ok(true) => self.take_out(sink),
                Ok(false) => continue,
                Err(fault) => Err(fault),
            };
            match answer {
                Ok(handed) => return handed,
                Err(fault) => self.recover(&fault, pixels)?,
            }
        }
        Ok(())
    }

    /// Encodes a frame; after an error it may be among those in work or not.
    fn encode_frame(&mut self, frame: &EncodeInput<'_>, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        while self.pending.len() >= self.plan.depth {
            self.deliver(sink, None)?;
        }
        let source = loop {
            match self.take_in(frame) {
                Ok(source) => break source,
                Err(fault) => self.recover(&fault, None)?,
            }
        };
        // Frames in work may hold IDR pictures that the ring does not count yet.
        self.next_idr = self.next_idr.max(frame.idr_count);
        let idr = frame.force_idr || self.idr_owed || self.period_is_over();
        let quantiser = self.quantiser(frame, idr);
        self.pending.push_back(Pending {
            key: frame.key,
            pts_ns: frame.pts_ns,
            source,
            idr,
            quantiser,
            coded: 0,
            picture: va::VA_INVALID_SURFACE,
            deadline: Instant::now(),
        });
        self.idr_owed = false;
        if let Err(fault) = self.submit(self.pending.len() - 1, false) {
            self.recover(&fault, Some(&frame.pixels))?;
        }
        while self.pending.len() >= self.plan.depth {
            self.deliver(sink, Some(&frame.pixels))?;
        }
        Ok(())
    }
}

impl Encoder for Vaapi {
    fn name(&self) -> &'static str {
        NAME
    }

    fn codec(&self) -> Codec {
        self.settings.codec
    }

    fn path(&self) -> &str {
        self.path
    }

    fn capabilities(&self) -> Capabilities {
        let pixel_formats = if self.settings.codec == Codec::H264 { &PIXEL_FORMATS[..1] } else { &PIXEL_FORMATS };
        Capabilities {
            live_bitrate: self.settings.rate_control.holds_bitrate(),
            idr_on_request: true,
            frame_qp: self.settings.rate_control == RateControl::ConstantQp,
            delay_frames: self.plan.depth as u32 - 1,
            pixel_formats,
            min_size: self.plan.caps.min_size,
            max_size: self.plan.caps.max_size,
            max_macroblocks: u32::MAX,
        }
    }

    fn encode(&mut self, frame: &EncodeInput<'_>, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        self.settings.check_format(frame.pixels.format())?;
        let encoded = self.encode_frame(frame, sink);
        if !matches!(encoded, Ok(()) | Err(EncoderError::Sink(SinkError::TooLarge { .. }))) {
            self.take_back(frame.key);
        }
        encoded
    }

    fn set_bitrate(&mut self, kbps: u32, max_kbps: u32) -> Result<(), EncoderError> {
        check_bitrate("bitrate_kbps", kbps)?;
        let refuse =
            |allowed: String| Err(EncoderError::Setting { setting: "bitrate_kbps", given: kbps.to_string(), allowed });
        if !self.settings.rate_control.holds_bitrate() {
            let name = self.settings.rate_control.name();
            return refuse(format!("nothing while rate_control is {name}"));
        }
        let (most, level) = self.plan.level;
        if kbps > most {
            return refuse(format!(
                "1 to {most} kb/s at level {level}; a swap with a higher max_bitrate_kbps raises it"
            ));
        }
        let peak_kbps = match self.settings.rate_control {
            RateControl::Variable if max_kbps > 0 => max_kbps.max(kbps),
            RateControl::Variable => self.settings.ceiling_kbps().max(kbps),
            _ => kbps,
        };
        if let Some(own) = &mut self.own {
            own.controller.set_bitrate(kbps, peak_kbps)?;
        } else {
            self.plan.stream.rate.rate = DeviceRate::Bitrate { kbps, peak_kbps };
            self.plan.stream.bits_per_s = self.plan.stream.rate.rate.bits_and_percentage().0;
            self.tell_rate = true;
        }
        // The ceiling stays what it was: the level was chosen by it.
        self.settings.max_bitrate_kbps = self.settings.ceiling_kbps().max(kbps);
        self.settings.bitrate_kbps = kbps;
        Ok(())
    }

    fn collect(&mut self, sink: &mut dyn AuSink, patience: Duration) -> Result<(), EncoderError> {
        let until = Instant::now() + patience;
        while !self.pending.is_empty() {
            let answer = match self.wait(until.saturating_duration_since(Instant::now())) {
                Ok(true) => self.take_out(sink),
                Ok(false) => return Ok(()),
                Err(fault) => Err(fault),
            };
            match answer {
                Ok(handed) => handed?,
                Err(fault) => self.recover(&fault, None)?,
            }
        }
        Ok(())
    }

    fn emergency_reset(&mut self) -> Result<bool, EncoderError> {
        self.trouble = 0;
        self.recover(&Fault::Garbage("a reset was asked for".to_owned()), None).map(|()| true)
    }

    fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }

    fn flush(&mut self, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        while !self.pending.is_empty() {
            self.deliver(sink, None)?;
        }
        Ok(())
    }
}

impl Drop for Vaapi {
    fn drop(&mut self) {
        // Surfaces before the context they may be used by, all before the display: `va` goes last of its holders.
        self.session = None;
        self.imports.clear(&self.va);
    }
}
