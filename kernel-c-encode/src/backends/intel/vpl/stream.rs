//! The encoder as the kernel sees it: frames in, access units out, bitrate.

use super::encode::Vpl;
use super::negotiate::Fault;
use super::{LIBRARY, NAME};
use crate::bitstream::assemble::hand_on;
use crate::bitstream::h264_level;
use crate::encoder::{AuSink, Capabilities, EncodeInput, Encoder, Key, LeftOut};
use crate::error::{EncoderError, SinkError};
use crate::settings::{EncoderSettings, RateControl, check_bitrate};
use shm_protocol::frame::{Codec, PixelFormat};
use std::ptr;
use std::time::{Duration, Instant};

/// What H.264 encoders of Intel take.
const EIGHT_BIT: [PixelFormat; 1] = [PixelFormat::Nv12];
/// What the others take.
const BOTH: [PixelFormat; 2] = [PixelFormat::Nv12, PixelFormat::P010];

impl Vpl {
    /// Hands on what is done.
    fn deliver(&mut self, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        while self.outputs.front().is_some_and(|output| output.done) {
            let (Some(output), Some(slot)) = (self.outputs.pop_front(), self.order.pop_front()) else { return Ok(()) };
            let frame = &mut self.frames[slot];
            let (key, pts_ns, asked_idr) = (frame.key, frame.pts_ns, frame.idr);
            if let (Some(way), Some(engine)) = (frame.way.take(), &mut self.engine) {
                engine.input.done(way);
            }
            let handed = match self.bits[output.bits].bytes() {
                // The runtime skipped the frame to hold its bitrate.
                Ok([]) => sink.left_out(key, LeftOut::RateControl).map(|()| false).map_err(EncoderError::from),
                Ok(bytes) if self.settings.codec == Codec::H264 => {
                    hand_on(LIBRARY, Codec::H264, self.idr_ids.numbered(bytes), (key, pts_ns), sink)
                }
                Ok(bytes) => hand_on(LIBRARY, self.settings.codec, bytes, (key, pts_ns), sink),
                Err(error) => Err(error),
            };
            self.free_bits.push_back(output.bits);
            if let Err(EncoderError::Bitstream { reason, .. }) = &handed {
                // No access unit: the frame is coded again, and what is behind it, which refers to it.
                let reason = format!("the runtime made {reason}");
                self.order.push_front(slot);
                self.drop_outputs();
                return self.recover(reason);
            }
            self.frames[slot].picture = None;
            self.slots.release(slot);
            match handed {
                Ok(idr) => {
                    if idr {
                        self.idr_ids.came_out();
                    }
                    (self.strikes, self.idr_owed) = (0, self.idr_owed || (asked_idr && !idr));
                    self.reasons.clear();
                    if asked_idr && !idr {
                        tracing::warn!(?key, "The runtime made no IDR of the frame that was to be one");
                    }
                }
                Err(error) => {
                    self.idr_owed = true;
                    if !self.order.is_empty() {
                        // Whatever is behind it refers to it, done or not.
                        self.drop_outputs();
                        self.restart_owed = Some("an access unit that others refer to did not get out".to_owned());
                    }
                    if let EncoderError::Sink(SinkError::TooLarge { .. }) = error {
                        sink.left_out(key, LeftOut::TooLarge)?;
                    }
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    /// Takes the youngest frame back if it is that of `key`: whoever gave it was told of an error, and its pixels may be
    /// gone.
    fn take_back(&mut self, key: Key) {
        let Some(slot) = self.order.back().copied().filter(|slot| self.frames[*slot].key == key) else { return };
        self.drop_unfinished();
        self.put_back(slot);
        // What else is inside begins anew with an IDR, whenever it does.
        self.idr_owed = self.frames[slot].idr;
        if self.engine.is_some() {
            // Until then the runtime may still be reading it. What becomes of that the next call says.
            self.restart_owed = None;
            let _ = self.begin_anew("a frame was taken back");
        }
    }

    /// Takes the youngest frame back, which the runtime refused.
    fn put_back(&mut self, slot: usize) {
        self.order.pop_back();
        let way = self.frames[slot].way.take();
        if let (Some(way), Some(engine)) = (way, &mut self.engine) {
            engine.input.done(way);
        }
        self.slots.release(slot);
        self.idr_owed = true;
    }

    /// Encodes a frame; after an error it may be inside or not.
    fn encode_frame(&mut self, frame: &EncodeInput<'_>, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        self.settle_debts()?;
        // Room first: no more than `depth` frames are inside. An older frame's trouble must not cost this one.
        let mut late = Ok(());
        while late.is_ok() && self.order.len() >= self.depth && !self.outputs.is_empty() {
            late = only_too_large(self.advance(sink, None).map(|_| ()))?;
        }
        self.settle_debts()?;
        let slot = self.take_in(frame)?;
        match self.submit(slot, frame.memory.as_ref()) {
            Ok(()) => {}
            Err(Fault::Lost(reason)) => self.recover(reason)?,
            Err(Fault::Refused(error)) => {
                self.put_back(slot);
                return Err(error);
            }
        }
        if self.depth > 1 {
            self.sweep(sink).and(late)
        } else {
            while !self.outputs.is_empty() {
                self.advance(sink, None)?;
            }
            late
        }
    }

    /// Waits for the oldest frame up to `until` (none: until it is given up) and hands on what is done. `false`: it is
    /// not there yet.
    fn advance(&mut self, sink: &mut dyn AuSink, until: Option<Instant>) -> Result<bool, EncoderError> {
        let forever = Instant::now() + self.patience + Duration::from_secs(1);
        match self.settle(0, until.unwrap_or(forever)) {
            Ok(true) => self.deliver(sink).map(|()| true),
            Ok(false) => Ok(false),
            Err(Fault::Refused(error)) => Err(error),
            Err(Fault::Lost(reason)) => {
                self.recover(reason)?;
                Ok(true)
            }
        }
    }

    /// Marks what is done, without waiting, and hands it on.
    fn sweep(&mut self, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        loop {
            let number = self.finished();
            match self.settle(number, Instant::now()) {
                Ok(true) => {}
                Ok(false) => break,
                Err(Fault::Refused(error)) => return Err(error),
                Err(Fault::Lost(reason)) => {
                    self.recover(reason)?;
                    break;
                }
            }
        }
        self.deliver(sink)
    }

    /// Asks the runtime for the frames it holds back.
    pub(super) fn drain(&mut self) -> Result<(), Fault> {
        let mut drained = false;
        while self.outputs.len() < self.order.len() {
            drained = true;
            let deadline = Instant::now() + self.patience;
            if !self.offer(ptr::null_mut(), ptr::null_mut(), deadline)? {
                return Err(Fault::Lost("the runtime kept frames for itself".to_owned()));
            }
        }
        if drained {
            // A runtime that was asked for its last frame begins anew.
            self.restart_owed = Some("the runtime was drained".to_owned());
        }
        Ok(())
    }

    /// Whether the runtime holds frames back (`MFX_ERR_MORE_DATA`) for a next one that does not come. No runtime does
    /// so of itself without B frames and look-ahead, but the API allows it, and a source that stops must not leave its
    /// last picture inside for ever.
    fn holds_back_for_nothing(&self) -> bool {
        let silence = Duration::from_nanos(self.settings.format.fps.interval_ns()) * SILENT_INTERVALS;
        self.outputs.len() < self.order.len() && self.last_in.elapsed() >= silence
    }

    /// Begins a new sequence where the last call owes one.
    pub(super) fn settle_debts(&mut self) -> Result<(), EncoderError> {
        match self.restart_owed.take() {
            Some(reason) => self.begin_anew(&reason),
            None => Ok(()),
        }
    }

    fn refuse_bitrate(kbps: u32, allowed: String) -> EncoderError {
        EncoderError::Setting { setting: "bitrate_kbps", given: kbps.to_string(), allowed }
    }

    fn check_level(&self, kbps: u32) -> Result<(), EncoderError> {
        // That of the session: a stream whose frames became smaller keeps its level.
        let level = self.engine.as_ref().map_or(0, |engine| engine.actual().mfx().CodecLevel);
        if self.settings.codec != Codec::H264 {
            return Ok(());
        }
        match u8::try_from(level).ok().and_then(h264_level::by_idc) {
            // A quarter more in High profile (ITU-T H.264 A.3.1 j) is left as it is: other profiles share this check.
            Some(level) if kbps > level.max_kbps() => {
                let (most, idc) = (level.max_kbps(), level.level_idc);
                let allowed =
                    format!("1 to {most} kb/s at level {idc}; a swap with a higher max_bitrate_kbps raises it");
                Err(Vpl::refuse_bitrate(kbps, allowed))
            }
            _ => Ok(()),
        }
    }
}

/// How long a source may be silent before the frames that a runtime holds back are asked for, in frame intervals: as
/// long as a live frame may wait anywhere (`capture.max_latency_ms`). Asking for them costs an IDR, so that a source
/// that is merely uneven must not cause it.
const SILENT_INTERVALS: u32 = 3;

/// Sets aside the error of an access unit that was too large, which is no reason to stop.
fn only_too_large(result: Result<(), EncoderError>) -> Result<Result<(), EncoderError>, EncoderError> {
    match result {
        Err(error @ EncoderError::Sink(SinkError::TooLarge { .. })) => Ok(Err(error)),
        Err(error) => Err(error),
        Ok(()) => Ok(Ok(())),
    }
}

impl Encoder for Vpl {
    fn name(&self) -> &'static str {
        NAME
    }

    fn codec(&self) -> Codec {
        self.settings.codec
    }

    fn path(&self) -> &str {
        Vpl::path(self)
    }

    fn capabilities(&self) -> Capabilities {
        let least_most = self.engine.as_ref().map_or(((16, 16), (0, 0)), |engine| {
            let found = &engine.session().found;
            (found.min_size, found.max_size)
        });
        Capabilities {
            live_bitrate: self.settings.rate_control.holds_bitrate() && !self.rate_needs_idr,
            idr_on_request: true,
            frame_qp: self.settings.rate_control == RateControl::ConstantQp,
            delay_frames: if self.depth > 1 { self.depth as u32 } else { 0 },
            pixel_formats: if self.settings.codec == Codec::H264 { &EIGHT_BIT } else { &BOTH },
            min_size: least_most.0,
            max_size: least_most.1,
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
        if !self.settings.rate_control.holds_bitrate() {
            let allowed = "nothing while rate_control holds no bitrate".to_owned();
            return Err(Vpl::refuse_bitrate(kbps, allowed));
        }
        self.check_level(kbps)?;
        self.settle_debts()?;
        let mut wanted = EncoderSettings { bitrate_kbps: kbps, ..self.settings.clone() };
        if max_kbps != 0 && wanted.rate_control == RateControl::Variable {
            wanted.max_bitrate_kbps = max_kbps;
        }
        if wanted.ceiling_kbps() < kbps {
            wanted.max_bitrate_kbps = kbps;
        }
        self.change_rate(wanted)
    }

    fn change_size(&mut self, wanted: &EncoderSettings) -> bool {
        self.take_size(wanted)
    }

    fn collect(&mut self, sink: &mut dyn AuSink, patience: Duration) -> Result<(), EncoderError> {
        // What a drained runtime still works on comes out first: a new sequence would begin with it anew.
        if self.outputs.is_empty() {
            self.settle_debts()?;
        }
        if self.holds_back_for_nothing() {
            match self.drain() {
                Ok(()) => {}
                Err(Fault::Lost(reason)) => self.recover(reason)?,
                Err(Fault::Refused(error)) => return Err(error),
            }
        }
        if !self.outputs.is_empty() {
            self.advance(sink, Some(Instant::now() + patience))?;
        }
        self.sweep(sink)
    }

    fn copied_bytes(&self) -> u64 {
        Vpl::copied_bytes(self)
    }

    fn flush(&mut self, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        let mut late = Ok(());
        while !self.order.is_empty() {
            if self.restart_owed.is_some() && self.outputs.is_empty() {
                self.settle_debts()?;
            }
            match self.drain() {
                Ok(()) => {}
                Err(Fault::Lost(reason)) => {
                    self.recover(reason)?;
                    continue;
                }
                Err(Fault::Refused(error)) => return Err(error),
            }
            late = late.and(only_too_large(self.advance(sink, None).map(|_| ()))?);
        }
        late
    }

    fn emergency_reset(&mut self) -> Result<bool, EncoderError> {
        // What was said of the loss before was handed on with it.
        self.reasons.clear();
        self.strikes = 0;
        self.recover("a reset was asked for".to_owned()).map(|()| true)
    }
}
