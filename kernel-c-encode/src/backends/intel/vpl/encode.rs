//! The pipeline: frames go in, work on the device side by side, and come out in the order of their keys.
//!
//! Without B frames the runtime gives its access units in the order of the frames: `order` and `outputs` are two
//! queues that belong together element by element; `outputs` is the shorter one while the runtime holds frames back
//! (`MFX_ERR_MORE_DATA`).
#![expect(unsafe_code, reason = "hands pointers to the runtime")]

use super::engine::{Engine, How};
use super::idr_id::IdrIds;
use super::input::{Picture, Way};
use super::library::status_name;
use super::negotiate::{Fault, fault};
use super::tasks::{Bits, Frame, Output};
use crate::backends::intel::surfaces::{MAX_SURFACES, Slots};
use crate::encoder::{EncodeInput, FrameMemory};
use crate::error::EncoderError;
use crate::settings::{EncoderSettings, Gop};
use crate::warm::warm_up;
use onevpl_sys as vpl;
use shm_protocol::pixels::PixelsRead;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How long a frame may be on a device: forty intervals of 60 fps. A frame, the reset and the new session may each take
/// so long, and the three stay below the supervisor's `hang_timeout_ms` (2 s unless configured otherwise).
const DEVICE_PATIENCE: Duration = Duration::from_millis(600);
/// How long a frame may be on the CPU: encoders there may take seconds for a large one.
const CPU_PATIENCE: Duration = Duration::from_secs(20);
/// Pause between two tries while the device is busy: a small part of the shortest frame interval in use.
const BUSY_PAUSE: Duration = Duration::from_micros(200);
/// Longest single wait for a frame: an answer that never comes to one call costs this, not the whole patience.
const WAIT_SLICE: Duration = Duration::from_millis(10);
/// Doublings of a bitstream buffer for one frame: from the smallest in use to beyond any picture.
const MOST_GROWTHS: u32 = 12;
/// Smallest bitstream buffer, bytes: room for a P picture of any rate in use where a runtime says nothing; an IDR that
/// needs more makes it grow.
const LEAST_BITSTREAM_BYTES: usize = 256 << 10;

/// The encoder.
#[derive(Debug)]
pub struct Vpl {
    /// Declared first: it ends before the memory that the runtime writes to. `None` while there is no session.
    pub(super) engine: Option<Engine>,
    pub(super) settings: EncoderSettings,
    pub(super) how: How,
    pub(super) slots: Slots,
    pub(super) frames: Vec<Frame>,
    pub(super) bits: Vec<Bits>,
    /// First in, first out: what the runtime may still write to after a reset is used again as late as possible.
    pub(super) free_bits: VecDeque<usize>,
    pub(super) order: VecDeque<usize>,
    pub(super) outputs: VecDeque<Output>,
    pub(super) depth: usize,
    pub(super) patience: Duration,
    /// Emergency resets since an access unit came out.
    pub(super) strikes: u32,
    /// What was said since.
    pub(super) reasons: Vec<String>,
    /// The next frame has to be an IDR.
    pub(super) idr_owed: bool,
    pub(super) since_idr: u32,
    /// When a frame went in last.
    pub(super) last_in: Instant,
    /// Frames inside refer to one that did not get out: they are encoded anew first.
    pub(super) restart_owed: Option<String>,
    pub(super) rate_needs_idr: bool,
    pub(super) idr_ids: IdrIds,
    /// Bytes that bitstream buffers have at the least.
    least_bytes: usize,
    copied_bytes: u64,
    way: Option<WayKind>,
    path: String,
}

/// A way, without what it was on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum WayKind {
    Imported,
    ImportedByRuntime,
    Copied,
    CopiedByImage,
    InPlace,
}

impl Vpl {
    /// Opens the encoder.
    ///
    /// # Errors
    /// As [`Engine::open`].
    pub fn open(settings: &EncoderSettings, asked_for: bool) -> Result<Vpl, EncoderError> {
        let how = How { asked_for, import: true };
        let engine = Engine::open(settings, how)?;
        let mut encoder = Vpl {
            engine: None,
            settings: settings.clone(),
            how,
            slots: Slots::new(0),
            frames: Vec::new(),
            bits: Vec::new(),
            free_bits: VecDeque::new(),
            order: VecDeque::new(),
            outputs: VecDeque::new(),
            depth: usize::from(settings.async_depth.max(1)),
            patience: if engine.session().found.hardware { DEVICE_PATIENCE } else { CPU_PATIENCE },
            strikes: 0,
            reasons: Vec::new(),
            idr_owed: true,
            since_idr: 0,
            last_in: Instant::now(),
            restart_owed: None,
            rate_needs_idr: false,
            idr_ids: IdrIds::new(settings.idr_count),
            least_bytes: LEAST_BITSTREAM_BYTES,
            copied_bytes: 0,
            way: None,
            path: String::new(),
        };
        // One beyond what is inside at a time: the runtime may let go of a surface a little after its access unit.
        let count = (engine.surfaces() + encoder.depth + 1).min(MAX_SURFACES);
        encoder.slots = Slots::new(count);
        encoder.frames.resize_with(count, Frame::default);
        encoder.bits.resize_with(count, Bits::default);
        encoder.free_bits.extend(0..count);
        encoder.order.reserve(count);
        encoder.outputs.reserve(count);
        encoder.install(engine);
        if !asked_for {
            encoder.prove()?;
        }
        Ok(encoder)
    }

    /// Encodes a private grey picture, for who has other encoders to choose from: a device may agree to everything and
    /// then not encode. The stream begins behind it as if it had not been: with an IDR of the number that is due.
    fn prove(&mut self) -> Result<(), EncoderError> {
        let format = self.settings.format;
        // Half of the range in 8 bit, and as good as that in the high bits of P010.
        let grey = vec![0x80; format.frame_bytes() as usize];
        warm_up(self, PixelsRead::from_slice(&format, &grey).map_err(EncoderError::Format)?)?;
        self.settle_debts()?;
        self.idr_ids = IdrIds::new(self.settings.idr_count);
        (self.idr_owed, self.since_idr) = (true, 0);
        // What it was copied into may never be needed again: frames may come by import.
        if let Some(engine) = self.engine.as_mut().filter(|_| self.frames.iter().all(Frame::is_unlocked)) {
            engine.input.drop_copies();
        }
        (self.copied_bytes, self.way) = (0, None);
        self.write_path();
        Ok(())
    }

    /// Takes a session into use.
    pub(super) fn install(&mut self, mut engine: Engine) {
        engine.input.resize(self.frames.len());
        let bytes = engine.actual().bitstream_bytes().max(self.least_bytes);
        // Made large now: a frame allocates nothing.
        for bits in self.bits.iter_mut().take(self.depth + 1) {
            bits.empty(bytes);
        }
        for note in engine.notes() {
            tracing::warn!(device = engine.session().describe(), "{note}");
        }
        self.engine = Some(engine);
        self.way = None;
        self.write_path();
    }

    pub(super) fn engine(&mut self) -> Result<&mut Engine, Fault> {
        match &mut self.engine {
            Some(engine) => Ok(engine),
            None => {
                let reason = "there is no session any more".to_owned();
                Err(Fault::Refused(EncoderError::DeviceLost { backend: super::NAME, reason }))
            }
        }
    }

    /// How pixels reach the encoder, for people.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Pixel bytes copied by us.
    pub fn copied_bytes(&self) -> u64 {
        self.copied_bytes
    }

    fn write_path(&mut self) {
        let Some(engine) = &self.engine else {
            "no session".clone_into(&mut self.path);
            return;
        };
        let mut path = engine.session().describe();
        match &engine.input {
            super::input::Input::Video(video) => {
                path += &format!(" on {} ({})", video.display.path().display(), video.display.vendor());
                path += match self.way {
                    None => ": VA surfaces",
                    Some(WayKind::Imported) => ": DMA-BUF imported, nothing copied",
                    Some(WayKind::ImportedByRuntime) => ": DMA-BUF imported by ImportFrameSurface, nothing copied",
                    Some(WayKind::Copied) => ": copied once into a mapped surface",
                    Some(WayKind::CopiedByImage) => ": copied once into an image, and by the driver into a surface",
                    Some(WayKind::InPlace) => ": read in place",
                };
            }
            super::input::Input::System(system) => {
                path += match self.way {
                    None => ": system memory",
                    Some(WayKind::Copied | WayKind::CopiedByImage) => ": copied once into system memory",
                    Some(_) => ": system memory read in place, nothing copied by us",
                };
                path += &format!(" ({})", system.reason);
            }
        }
        if !engine.notes().is_empty() {
            path += &format!("; the driver: {}", engine.notes().join(", "));
        }
        self.path = path;
    }

    fn took(&mut self, way: Way) {
        let kind = match way {
            Way::Imported { by_runtime: false, .. } => WayKind::Imported,
            Way::Imported { by_runtime: true, .. } => WayKind::ImportedByRuntime,
            Way::InPlace => WayKind::InPlace,
            Way::Copied { bytes, by_image } => {
                self.copied_bytes += bytes;
                if by_image { WayKind::CopiedByImage } else { WayKind::Copied }
            }
        };
        if self.way != Some(kind) {
            self.way = Some(kind);
            self.write_path();
            tracing::info!(path = self.path, "Frames reach the encoder");
        }
    }

    /// Frames that are out already, whose access units are left to hand on: the first so many of `order`.
    pub(super) fn finished(&self) -> usize {
        self.outputs.iter().take_while(|output| output.done).count()
    }

    /// Forgets what the runtime was at: its bitstreams are free again.
    pub(super) fn drop_unfinished(&mut self) {
        let finished = self.finished();
        for output in self.outputs.drain(finished..) {
            self.free_bits.push_back(output.bits);
        }
    }

    /// Forgets every output; the frames stay inside.
    pub(super) fn drop_outputs(&mut self) {
        self.free_bits.extend(self.outputs.drain(..).map(|output| output.bits));
    }

    fn due_idr(&self) -> bool {
        matches!(self.settings.gop, Gop::Frames(frames) if self.since_idr >= frames)
    }

    /// Puts a frame into a free slot.
    pub(super) fn take_in(&mut self, input: &EncodeInput<'_>) -> Result<usize, EncoderError> {
        let free = |slots: &Slots, frames: &[Frame], patience| {
            slots.acquire(|index| frames.get(index).is_some_and(Frame::is_unlocked), patience)
        };
        let mut slot = free(&self.slots, &self.frames, self.patience);
        if slot.is_none() {
            // A new session has none of the surfaces.
            self.strikes = self.strikes.max(1);
            self.recover("the runtime gives no surface back".to_owned())?;
            slot = free(&self.slots, &self.frames, Duration::ZERO);
        }
        let Some(slot) = slot else {
            let reason = format!("all {} surfaces are in use", self.slots.len());
            return Err(EncoderError::DeviceLost { backend: super::NAME, reason });
        };
        let idr = input.force_idr || self.idr_owed || self.due_idr();
        let holds_bitrate = self.settings.rate_control.holds_bitrate();
        let frame = &mut self.frames[slot];
        (frame.key, frame.pts_ns, frame.idr) = (input.key, input.pts_ns, idr);
        frame.qp = input.qp.filter(|_| !holds_bitrate);
        (frame.picture, frame.way) = (Some(Picture::of(input)), None);
        (self.idr_owed, self.since_idr) = (false, if idr { 1 } else { self.since_idr.saturating_add(1) });
        self.order.push_back(slot);
        self.last_in = Instant::now();
        Ok(slot)
    }

    /// Hands the frame in a slot to the runtime.
    pub(super) fn submit(&mut self, slot: usize, memory: Option<&FrameMemory<'_>>) -> Result<(), Fault> {
        self.bring_in(slot, memory)?;
        let deadline = Instant::now() + self.patience;
        let Vpl { engine, frames, .. } = self;
        let frame = &mut frames[slot];
        frame.deadline = Some(deadline);
        let control = frame.tell();
        let by_runtime = engine.as_ref().zip(frame.way).and_then(|(engine, way)| engine.input.runtime_surface(way));
        let surface = match by_runtime {
            Some(surface) => frame.tell_at(surface),
            None => frame.surface.get(),
        };
        self.offer(control, surface, deadline).map(|_| ())
    }

    /// Brings a frame's pixels to where the runtime reads them, if they are not there.
    fn bring_in(&mut self, slot: usize, memory: Option<&FrameMemory<'_>>) -> Result<(), Fault> {
        let Vpl { engine, frames, .. } = self;
        let (Some(engine), frame) = (engine, &mut frames[slot]) else { return self.engine().map(|_| ()) };
        let (None, Some(picture)) = (frame.way, frame.picture) else { return Ok(()) };
        let info = engine.actual().mfx().FrameInfo;
        let surface = frame.surface_mut();
        surface.Info = info;
        let way = engine.input.prepare(slot, &picture, memory, surface);
        let way = way.map_err(|reason| Fault::Lost(format!("a frame cannot be brought in: {reason}")))?;
        frame.way = Some(way);
        self.took(way);
        Ok(())
    }

    /// Calls EncodeFrameAsync until the runtime takes the surface (none: until it gives what it holds back). Returns
    /// whether an output came of it.
    pub(super) fn offer(
        &mut self,
        control: *mut vpl::mfxEncodeCtrl,
        surface: *mut vpl::mfxFrameSurface1,
        deadline: Instant,
    ) -> Result<bool, Fault> {
        const CALL: &str = "MFXVideoENCODE_EncodeFrameAsync";
        // Before a bitstream is taken, which would be gone with the error.
        let mut bytes = self.engine()?.actual().bitstream_bytes();
        bytes = bytes.max(self.least_bytes);
        let bits = match self.free_bits.pop_front() {
            Some(bits) => bits,
            None => {
                self.bits.push(Bits::default());
                self.bits.len() - 1
            }
        };
        let mut growths = 0;
        let outcome = loop {
            let stream = self.bits[bits].empty(bytes);
            // SAFETY: control, surface and bitstream lie in memory that stays where it is, and live until the session
            // has ended (`Vpl::engine` is dropped first).
            let (status, sync) = unsafe { self.engine()?.submit(control, surface, stream) };
            match status {
                status if status >= vpl::MFX_ERR_NONE && !sync.is_null() => {
                    self.outputs.push_back(Output { bits, sync, done: false });
                    return Ok(true);
                }
                vpl::MFX_ERR_NONE => {
                    let reason = "EncodeFrameAsync took a frame and gave nothing to wait for".to_owned();
                    break Err(EncoderError::Bitstream { library: super::LIBRARY, reason }.into());
                }
                vpl::MFX_ERR_MORE_DATA => break Ok(false),
                // WRN_DEVICE_BUSY, and whatever else is no error and took nothing.
                status if status > vpl::MFX_ERR_NONE => {
                    if Instant::now() >= deadline {
                        break Err(Fault::Lost(format!("{CALL} said {} for too long", status_name(status))));
                    }
                    if let Err(fault) = self.breathe(deadline) {
                        break Err(fault);
                    }
                }
                vpl::MFX_ERR_NOT_ENOUGH_BUFFER | vpl::MFX_ERR_MORE_BITSTREAM if growths < MOST_GROWTHS => {
                    growths += 1;
                    bytes = self.bits[bits].capacity().max(bytes) * 2;
                    tracing::debug!(bytes, "A bitstream buffer grows");
                }
                status => break Err(fault(CALL, status)),
            }
        };
        self.free_bits.push_front(bits);
        outcome
    }

    /// Lets a busy device get on: waits for its oldest frame, or a little.
    fn breathe(&mut self, deadline: Instant) -> Result<(), Fault> {
        let oldest = self.finished();
        if oldest < self.outputs.len() {
            let until = (Instant::now() + BUSY_PAUSE).min(deadline);
            self.settle(oldest, until)?;
        }
        std::thread::sleep(BUSY_PAUSE);
        Ok(())
    }

    /// Waits for an output until `until`, or until its frame is given up. `false`: it is not there yet.
    pub(super) fn settle(&mut self, number: usize, until: Instant) -> Result<bool, Fault> {
        const CALL: &str = "MFXVideoCORE_SyncOperation";
        let Some(output) = self.outputs.get(number).copied() else { return Ok(false) };
        if output.done {
            return Ok(true);
        }
        let frame = self.order.get(number).and_then(|slot| self.frames.get(*slot));
        let deadline = frame.and_then(|frame| frame.deadline).unwrap_or(until);
        loop {
            let asked = Instant::now();
            let left = until.min(deadline).saturating_duration_since(asked).min(WAIT_SLICE);
            let wait_ms = left.as_micros().div_ceil(1000) as u32;
            let status = self.engine()?.sync(output.sync, wait_ms);
            match status {
                vpl::MFX_WRN_IN_EXECUTION | vpl::MFX_WRN_DEVICE_BUSY => {
                    let now = Instant::now();
                    if now >= deadline {
                        let patience = self.patience;
                        return Err(Fault::Lost(format!(
                            "a frame was not done within {patience:?} ({CALL} said {})",
                            status_name(status)
                        )));
                    }
                    if now >= until {
                        return Ok(false);
                    }
                    // One that answers at once must not make a loop that burns the CPU.
                    if now - asked < BUSY_PAUSE {
                        std::thread::sleep(BUSY_PAUSE);
                    }
                }
                status if status >= vpl::MFX_ERR_NONE => {
                    self.outputs[number].done = true;
                    return Ok(true);
                }
                vpl::MFX_ERR_NOT_ENOUGH_BUFFER | vpl::MFX_ERR_MORE_BITSTREAM => {
                    // What did not fit is gone with its frame: all are encoded anew, into larger buffers.
                    self.least_bytes = self.bits[output.bits].capacity() * 2;
                    return Err(Fault::Lost(format!("{CALL} said {}", status_name(status))));
                }
                status => return Err(fault(CALL, status)),
            }
        }
    }
}
