//! An encoder that only takes a quantiser, driven to hold a bitrate.

use super::controller::{CodedFrame, RateController};
use super::mode::RateConfig;
use super::satd::{Complexity, ComplexityMeter};
use crate::encoder::{AccessUnitMeta, AuSink, Capabilities, EncodeInput, Encoder, Key, LeftOut};
use crate::error::{EncoderError, SinkError};
use crate::settings::{EncoderSettings, Gop, MAX_ASYNC_DEPTH};
use shm_protocol::frame::Codec;
use std::time::Duration;

/// Frames that can be in the encoder at a time: its depth, the one going in, and one on its way out.
const MAX_IN_FLIGHT: usize = MAX_ASYNC_DEPTH as usize + 2;

/// A frame in the encoder.
#[derive(Debug, Clone, Copy, Default)]
struct InFlight {
    key: Key,
    complexity: Complexity,
    qp: u8,
    expected_bits: f64,
}

/// The frames in the encoder, oldest first, without an allocation.
#[derive(Debug, Default)]
struct Queue {
    frames: [InFlight; MAX_IN_FLIGHT],
    count: usize,
}

impl Queue {
    fn push(&mut self, frame: InFlight) {
        if self.count == MAX_IN_FLIGHT {
            // An encoder that holds more than any depth has lost one: the oldest is given up.
            self.frames.rotate_left(1);
            self.count -= 1;
        }
        self.frames[self.count] = frame;
        self.count += 1;
    }

    /// Takes the frame `key` out, and all before it: they come out in order, so those are lost.
    fn take(&mut self, key: Key) -> Option<InFlight> {
        let index = self.frames[..self.count].iter().position(|frame| frame.key == key)?;
        let frame = self.frames[index];
        self.frames[..self.count].rotate_left(index + 1);
        self.count -= index + 1;
        Some(frame)
    }

    fn expected_bits(&self) -> f64 {
        self.frames[..self.count].iter().map(|frame| frame.expected_bits).sum()
    }
}

/// An encoder with [`Capabilities::frame_qp`] and a [`RateController`] that names the quantiser of every frame.
pub struct Controlled {
    inner: Box<dyn Encoder>,
    controller: RateController,
    meter: ComplexityMeter,
    queue: Queue,
    gop: Gop,
    since_idr: u32,
}

impl std::fmt::Debug for Controlled {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Controlled").field("inner", &self.inner.name()).field("controller", &self.controller).finish()
    }
}

/// Passes everything on and tells the controller.
struct Watching<'a> {
    sink: &'a mut dyn AuSink,
    controller: &'a mut RateController,
    queue: &'a mut Queue,
    since_idr: &'a mut u32,
}

impl AuSink for Watching<'_> {
    fn buffer(&mut self, len: usize) -> Result<&mut [u8], SinkError> {
        self.sink.buffer(len)
    }

    fn commit(&mut self, len: usize, meta: &AccessUnitMeta) -> Result<(), SinkError> {
        if let Some(frame) = self.queue.take(meta.key) {
            let coded = CodedFrame { bits: len as u64 * 8, qp: frame.qp, idr: meta.idr };
            self.controller.coded(frame.complexity, coded);
            if meta.idr {
                *self.since_idr = self.queue.count as u32 + 1;
            }
        }
        self.sink.commit(len, meta)
    }

    fn left_out(&mut self, key: Key, reason: LeftOut) -> Result<(), SinkError> {
        if self.queue.take(key).is_some() {
            self.controller.left_out();
        }
        self.sink.left_out(key, reason)
    }
}

impl Controlled {
    /// Drives `inner`, which was opened to hold a quantiser, as `settings` ask.
    ///
    /// # Errors
    /// [`EncoderError::Setting`] when `inner` takes no quantiser per frame or a setting is out of range;
    /// [`EncoderError::PixelFormat`] for frames without a luma plane.
    pub fn new(inner: Box<dyn Encoder>, settings: &EncoderSettings) -> Result<Controlled, EncoderError> {
        if !inner.capabilities().frame_qp {
            return Err(EncoderError::Setting {
                setting: "rate_control",
                given: settings.rate_control.name().to_owned(),
                allowed: format!("what backend {} has itself: it takes no quantiser per frame", inner.name()),
            });
        }
        let controller = RateController::new(RateConfig::of(settings))?;
        let meter = ComplexityMeter::new(&settings.format)?;
        Ok(Controlled { inner, controller, meter, queue: Queue::default(), gop: settings.gop, since_idr: 0 })
    }

    /// The controller, to look at.
    pub fn controller(&self) -> &RateController {
        &self.controller
    }

    /// Calls the encoder with a sink that watches what comes out.
    fn watched<T>(&mut self, sink: &mut dyn AuSink, call: impl FnOnce(&mut dyn Encoder, &mut dyn AuSink) -> T) -> T {
        let mut watching =
            Watching { sink, controller: &mut self.controller, queue: &mut self.queue, since_idr: &mut self.since_idr };
        call(self.inner.as_mut(), &mut watching)
    }
}

impl Encoder for Controlled {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn codec(&self) -> Codec {
        self.inner.codec()
    }

    fn path(&self) -> &str {
        self.inner.path()
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities { live_bitrate: self.controller.config().mode.has_bitrate(), ..self.inner.capabilities() }
    }

    fn encode(&mut self, frame: &EncodeInput<'_>, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        let due = matches!(self.gop, Gop::Frames(frames) if self.since_idr >= frames);
        let is_idr = frame.force_idr || due || self.since_idr == 0;
        // A frame of another format is the encoder's to refuse.
        let complexity = self.meter.measure(&frame.pixels).unwrap_or_default();
        self.controller.set_in_flight(self.queue.count as u32, self.queue.expected_bits());
        let qp = self.controller.next_qp(complexity, is_idr);
        let expected_bits = self.controller.expected_bits(complexity, is_idr, qp);
        self.queue.push(InFlight { key: frame.key, complexity, qp, expected_bits });
        self.since_idr = self.since_idr.saturating_add(1);
        let frame = EncodeInput { qp: Some(qp), ..*frame };
        self.watched(sink, |inner, sink| inner.encode(&frame, sink))
    }

    fn set_bitrate(&mut self, kbps: u32, max_kbps: u32) -> Result<(), EncoderError> {
        self.controller.set_bitrate(kbps, max_kbps)
    }

    fn collect(&mut self, sink: &mut dyn AuSink, patience: Duration) -> Result<(), EncoderError> {
        self.watched(sink, |inner, sink| inner.collect(sink, patience))
    }

    fn emergency_reset(&mut self) -> Result<bool, EncoderError> {
        self.inner.emergency_reset()
    }

    fn copied_bytes(&self) -> u64 {
        self.inner.copied_bytes()
    }

    fn flush(&mut self, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        self.watched(sink, |inner, sink| inner.flush(sink))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(id: u64) -> InFlight {
        InFlight { key: Key { source_id: id, sub: 0 }, qp: id as u8, expected_bits: 1.0, ..InFlight::default() }
    }

    #[test]
    fn frames_in_flight_come_out_by_their_key_and_the_lost_before_them_are_forgotten() {
        let mut queue = Queue::default();
        (1..=4).for_each(|id| queue.push(frame(id)));
        assert_eq!(queue.take(Key { source_id: 1, sub: 0 }).unwrap().qp, 1);
        assert_eq!(queue.take(Key { source_id: 3, sub: 0 }).unwrap().qp, 3);
        assert_eq!((queue.count, queue.expected_bits()), (1, 1.0));
        assert!(queue.take(Key { source_id: 2, sub: 0 }).is_none());
        (5..40).for_each(|id| queue.push(frame(id)));
        assert_eq!(queue.count, MAX_IN_FLIGHT);
        assert_eq!(queue.take(Key { source_id: 39, sub: 0 }).unwrap().qp, 39);
        assert_eq!(queue.count, 0);
    }
}
