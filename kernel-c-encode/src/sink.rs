//! The bitstream ring as the place where an encoder's access unit goes.

use crate::encoder::{AccessUnitMeta, AuSink, Key, LeftOut};
use crate::error::SinkError;
use shm_protocol::clock::monotonic_ns;
use shm_protocol::descriptor::{FrameDetails, FrameHead, Part, StageTime, TombstoneReason, flag};
use shm_protocol::input::Taken;
use shm_protocol::output::{Claim, Producer};
use shm_protocol::ring::RingError;

/// Publishes what is made of one input frame, in the slot claimed before it was encoded.
pub struct RingSink<'a> {
    output: &'a mut Producer,
    claim: Option<Claim>,
    taken: &'a Taken,
    details: FrameDetails,
    done: Done,
    failed: Option<RingError>,
}

/// What was made of the frame.
#[derive(Debug, Clone, Copy, Default)]
pub struct Done {
    /// Bytes of its access unit.
    pub bytes: u64,
    /// Whether it is an IDR.
    pub idr: bool,
    /// Whether it was left out.
    pub left_out: bool,
}

impl<'a> RingSink<'a> {
    /// A sink for the access unit of `taken`.
    pub fn new(output: &'a mut Producer, claim: Claim, taken: &'a Taken, details: FrameDetails) -> RingSink<'a> {
        RingSink { output, claim: Some(claim), taken, details, done: Done::default(), failed: None }
    }

    /// Gives back a slot that nothing was published in, and says what came of the frame.
    ///
    /// # Errors
    /// The [`RingError`] that a publication met.
    pub fn finish(mut self) -> Result<Done, RingError> {
        if let Some(error) = self.failed {
            return Err(error);
        }
        if let Some(claim) = self.claim.take() {
            self.output.abort(claim)?;
        }
        Ok(self.done)
    }

    fn publish(&mut self, head: FrameHead) -> Result<(), SinkError> {
        let Some(claim) = self.claim.take() else {
            return Err(SinkError::Refused("a frame has one access unit".to_owned()));
        };
        self.details.stamp(StageTime::EncodeDone, monotonic_ns());
        self.output.publish(claim, head, &self.details).map(|_| ()).map_err(|error| {
            self.failed = Some(error);
            SinkError::Refused(error.to_string())
        })
    }
}

impl AuSink for RingSink<'_> {
    fn buffer(&mut self, len: usize) -> Result<&mut [u8], SinkError> {
        let Some(claim) = &self.claim else {
            return Err(SinkError::Refused("a frame has one access unit".to_owned()));
        };
        let buffer = self.output.buffer(claim);
        if buffer.len() < len {
            return Err(SinkError::TooLarge { needed_bytes: len, buffer_bytes: buffer.len() });
        }
        Ok(buffer)
    }

    fn commit(&mut self, len: usize, meta: &AccessUnitMeta) -> Result<(), SinkError> {
        let Some(claim) = &self.claim else {
            return Err(SinkError::Refused("a frame has one access unit".to_owned()));
        };
        let buffer = self.output.extent(claim, 0, len as u32);
        let set = |on: bool, flag: u16| if on { flag } else { 0 };
        let flags =
            set(meta.idr, flag::IDR) | set(meta.config, flag::CONFIG) | (self.taken.head.flags & flag::DISCONTINUITY);
        let parts = meta.parts.as_slice();
        let mut listed = [Part::default(); crate::encoder::MAX_PARTS];
        for (to, from) in listed.iter_mut().zip(parts) {
            *to = Part { kind: from.kind as u8, offset: from.offset, len: from.len };
        }
        self.details.set_parts(&listed[..parts.len()]);
        self.done = Done { bytes: len as u64, idr: meta.idr, left_out: false };
        self.publish(FrameHead { flags, buffer, reference: None, ..self.taken.head })
    }

    fn left_out(&mut self, _key: Key, reason: LeftOut) -> Result<(), SinkError> {
        let reason = match reason {
            LeftOut::RateControl => TombstoneReason::RateControl,
            LeftOut::TooLarge => TombstoneReason::TooLarge,
        };
        let mut head = FrameHead { flags: flag::TOMBSTONE, reference: None, ..self.taken.head };
        head.buffer.len = reason as u32;
        self.done = Done { left_out: true, ..Done::default() };
        self.publish(head)
    }
}
