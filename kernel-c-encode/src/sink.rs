//! The bitstream ring as the place where an encoder's access units go.

use crate::encoder::{AccessUnitMeta, AuSink, Key, LeftOut};
use crate::error::SinkError;
use crate::flight::{Flight, Flights};
use kernel_host::exit::Failure;
use kernel_host::kernel::{self, Kernel, deadline_ns};
use shm_protocol::clock::monotonic_ns;
use shm_protocol::descriptor::{FrameHead, Part, StageTime, TombstoneReason, flag};
use shm_protocol::output::Claim;
use shm_protocol::ring::RingError;
use shm_protocol::stage::Stage;
use shm_protocol::telemetry::{Counter, Measure};

/// Publishes access units of the frames in flight, each in a slot of the output ring.
pub struct RingSink<'a> {
    kernel: &'a mut Kernel,
    stage: &'a mut Stage,
    flights: &'a mut Flights,
    claim: &'a mut Option<Claim>,
    done: Done,
}

/// What came out.
#[derive(Debug, Default)]
pub struct Done {
    /// Whether an IDR was among it.
    pub idr: bool,
    /// Whether a frame that was to be an IDR was left out.
    pub idr_missed: bool,
    /// Asked to end while a slot was waited for.
    pub stopped: bool,
    /// What ends the kernel.
    pub failed: Option<Failure>,
}

impl<'a> RingSink<'a> {
    /// A sink for what comes out of the encoder next.
    pub fn new(
        kernel: &'a mut Kernel,
        stage: &'a mut Stage,
        flights: &'a mut Flights,
        claim: &'a mut Option<Claim>,
    ) -> RingSink<'a> {
        RingSink { kernel, stage, flights, claim, done: Done::default() }
    }

    /// What came out through it.
    pub fn finish(self) -> Done {
        self.done
    }

    /// A slot of the ring, waited for if need be.
    fn claimed(&mut self) -> Result<(), SinkError> {
        match claim(self.kernel, self.stage, self.claim) {
            Ok(true) => Ok(()),
            Ok(false) => {
                self.done.stopped = true;
                Err(SinkError::Refused("this process is to end".to_owned()))
            }
            Err(failure) => {
                let text = failure.to_string();
                self.done.failed = Some(failure);
                Err(SinkError::Refused(text))
            }
        }
    }

    fn refused(&mut self, error: RingError) -> SinkError {
        let failure = kernel::ring(error);
        let text = failure.to_string();
        self.done.failed = Some(failure);
        SinkError::Refused(text)
    }

    /// The frame that comes out: access units come in the order of their frames.
    fn leaving(&mut self, key: Key) -> Result<&mut Flight, SinkError> {
        let oldest = self.flights.oldest().filter(|flight| flight.key() == key);
        oldest.ok_or_else(|| {
            let text = format!("frame {}.{} is not the one whose access unit is due", key.source_id, key.sub);
            SinkError::Refused(text)
        })
    }

    /// Publishes the oldest frame's slot.
    fn publish(&mut self, head: FrameHead) -> Result<Option<Flight>, SinkError> {
        let (Some(claim), Some(mut flight)) = (self.claim.take(), self.flights.leave()) else { return Ok(None) };
        let done_ns = monotonic_ns();
        flight.details.stamp(StageTime::EncodeDone, done_ns);
        if let Err(error) = self.stage.output.publish(claim, head, &flight.details) {
            return Err(self.refused(error));
        }
        self.kernel.telemetry.sample(Measure::Work, done_ns, done_ns.saturating_sub(flight.begin_ns));
        self.kernel.telemetry.frame(done_ns);
        // An input is given back as soon as nothing needs it, also while more of them come out.
        if let Err(error) = self.stage.harvest() {
            return Err(self.refused(error));
        }
        Ok(Some(flight))
    }
}

/// Makes sure of a slot of the bitstream ring. `false`: asked to end while waiting.
///
/// # Errors
/// [`Failure`] of the ring.
pub fn claim(kernel: &mut Kernel, stage: &mut Stage, claim: &mut Option<Claim>) -> Result<bool, Failure> {
    while claim.is_none() {
        *claim = stage.output.claim().map_err(kernel::ring)?;
        if claim.is_some() {
            break;
        }
        kernel.telemetry.set(Counter::Backlog, stage.input.backlog() as u64);
        stage.pace(usize::MAX);
        stage.output.wait_for_room(deadline_ns(0));
        if !kernel.turn()? {
            return Ok(false);
        }
    }
    Ok(true)
}

impl AuSink for RingSink<'_> {
    fn buffer(&mut self, len: usize) -> Result<&mut [u8], SinkError> {
        self.claimed()?;
        let Some(claim) = self.claim.as_ref() else { return Err(SinkError::Refused("no slot".to_owned())) };
        let buffer = self.stage.output.buffer(claim);
        if buffer.len() < len {
            return Err(SinkError::TooLarge { needed_bytes: len, buffer_bytes: buffer.len() });
        }
        Ok(buffer)
    }

    fn commit(&mut self, len: usize, meta: &AccessUnitMeta) -> Result<(), SinkError> {
        let Some(claim) = self.claim.as_ref() else {
            return Err(SinkError::Refused("an access unit without a buffer".to_owned()));
        };
        let buffer = self.stage.output.extent(claim, 0, len as u32);
        let flight = self.leaving(meta.key)?;
        let set = |on: bool, flag: u16| if on { flag } else { 0 };
        let flags =
            set(meta.idr, flag::IDR) | set(meta.config, flag::CONFIG) | (flight.taken.head.flags & flag::DISCONTINUITY);
        let parts = meta.parts.as_slice();
        let mut listed = [Part::default(); crate::encoder::MAX_PARTS];
        for (to, from) in listed.iter_mut().zip(parts) {
            *to = Part { kind: from.kind as u8, offset: from.offset, len: from.len };
        }
        flight.details.set_parts(&listed[..parts.len()]);
        let head = FrameHead { flags, buffer, reference: None, ..flight.taken.head };
        let flight = self.publish(head)?;
        self.kernel.telemetry.add(Counter::Bytes, len as u64);
        if meta.idr {
            self.done.idr = true;
            self.kernel.telemetry.add(Counter::Idrs, 1);
            if let Some(serial) = flight.and_then(|flight| flight.idr_asked) {
                self.stage.output.requests().idr_served(serial);
            }
        } else {
            // Asked for and not made: the next frame is to be one.
            self.done.idr_missed |= flight.is_some_and(|flight| flight.forced);
        }
        Ok(())
    }

    fn left_out(&mut self, key: Key, reason: LeftOut) -> Result<(), SinkError> {
        self.claimed()?;
        let reason = match reason {
            LeftOut::RateControl => TombstoneReason::RateControl,
            LeftOut::TooLarge => TombstoneReason::TooLarge,
        };
        let flight = self.leaving(key)?;
        let head = flight.taken.head.tombstone(reason);
        let flight = self.publish(head)?;
        self.done.idr_missed |= flight.is_some_and(|flight| flight.forced);
        self.kernel.telemetry.add(Counter::Tombstones, 1);
        Ok(())
    }
}
