//! An encoder and the frames inside it: what goes in, what comes out, and how the stream goes on when a device is lost.

use crate::backends::null;
use crate::configured::{failure, settings};
use crate::encoder::Encoder;
use crate::error::{EncoderError, SinkError};
use crate::flight::{Flight, Flights};
use crate::select;
use crate::settings::EncoderSettings;
use crate::sink::{Done, RingSink, claim};
use crate::warm::Warm;
use kernel_host::config::{Backend, Encode};
use kernel_host::exit::{Exit, Failure};
use kernel_host::kernel::{self, Kernel, deadline_ns};
use shm_protocol::clock::monotonic_ns;
use shm_protocol::control::Asked;
use shm_protocol::descriptor::{StageTime, StreamFormat, TombstoneReason, flag};
use shm_protocol::frame::{Codec, VideoFormat};
use shm_protocol::input::{FrameError, Taken};
use shm_protocol::output::{Claim, Producer};
use shm_protocol::pool::PoolKind;
use shm_protocol::stage::Stage;
use shm_protocol::telemetry::{Counter, Measure};
use std::time::Duration;

/// How long the oldest frame inside a device is waited for at a time while no other comes: the loop looks for a new
/// frame, a wish to end and its own signs of life in between.
const COLLECT_PATIENCE: Duration = Duration::from_millis(1);

/// Kernel C's encoder.
pub struct Encoding {
    config: Encode,
    /// What was made ready before the lease came.
    warm: Warm,
    open: Option<Open>,
    /// Nothing of the encoder in use is out yet: it has to begin with an IDR.
    begins: bool,
    bitrate_kbps: u32,
    flights: Flights,
    /// The slot for what comes out next.
    claim: Option<Claim>,
    /// The newest request for an IDR that a frame in flight answers.
    idr_given: Option<u64>,
}

/// The encoder in use.
struct Open {
    format: VideoFormat,
    settings: EncoderSettings,
    encoder: Box<dyn Encoder>,
    /// Bytes it had copied when that was last counted.
    copied_bytes: u64,
    /// How pixels reach it, as the status has it: the first frames show which way a driver takes.
    path: String,
}

impl Open {
    fn new(format: VideoFormat, settings: EncoderSettings, encoder: Box<dyn Encoder>) -> Open {
        let (copied_bytes, path) = (encoder.copied_bytes(), encoder.path().to_owned());
        Open { format, settings, encoder, copied_bytes, path }
    }
}

impl Encoding {
    /// No encoder yet: the first frame says which.
    pub fn new(config: Encode, warm: Warm, bitrate_kbps: u32) -> Encoding {
        Encoding {
            config,
            warm,
            open: None,
            begins: true,
            bitrate_kbps,
            flights: Flights::default(),
            claim: None,
            idr_given: None,
        }
    }

    /// Whether no frame is inside.
    pub fn is_empty(&self) -> bool {
        self.flights.is_empty()
    }

    /// Nanoseconds from one frame to the next; 0 while no frame has come.
    pub fn interval_ns(&self) -> u64 {
        self.open.as_ref().map_or(0, |open| open.format.fps.interval_ns())
    }

    /// Puts one frame in. `false`: asked to end while waiting.
    ///
    /// # Errors
    /// [`Failure`] with the exit code for the supervisor.
    pub fn frame(&mut self, kernel: &mut Kernel, stage: &mut Stage, taken: &Taken) -> Result<bool, Failure> {
        let begin_ns = monotonic_ns();
        let mut details = stage.input.details(taken);
        if let Some(since) = details.time(StageTime::ProcessDone) {
            kernel.telemetry.sample(Measure::Wait, begin_ns, begin_ns.saturating_sub(since));
        }
        details.stamp(StageTime::EncodeBegin, begin_ns);
        // Room first: a frame that was encoded must not wait with its bytes inside the library.
        if !claim(kernel, stage, &mut self.claim)? {
            return Ok(false);
        }
        let format = match stage.input.format(taken) {
            Ok(StreamFormat::Video(format)) if !taken.head.has(flag::TOMBSTONE) => format,
            other => return self.refuse(kernel, stage, taken, other.err()),
        };
        if self.open.as_ref().is_none_or(|open| open.format != format) {
            if !self.drain(kernel, stage)? {
                return Ok(false);
            }
            // Its slot belongs to the pool of the format before.
            self.close(stage)?;
            if !self.change_size(kernel, &mut stage.output, &format)? {
                self.open(kernel, &mut stage.output, &format)?;
            }
        }
        let asked = stage.output.requests().pending();
        self.follow_bitrate(kernel, &stage.output, &asked);
        let flight = Flight::new(&mut stage.input, *taken, details, begin_ns);
        let mut flight = match flight.and_then(|flight| stage.input.pixels(taken, &format).map(|_| flight)) {
            Ok(flight) => flight,
            Err(error) if error.is_transient() => return Err(Failure::new(Exit::Temporary, error)),
            Err(error) => return self.refuse(kernel, stage, taken, Some(error)),
        };
        flight.idr_asked = asked.idr.filter(|_| asked.idr != self.idr_given);
        flight.forced = flight.idr_asked.is_some() || (self.begins && self.flights.is_empty());
        if flight.idr_asked.is_some() {
            self.idr_given = flight.idr_asked;
        }
        self.flights.enter(flight);
        let last = self.flights.len() - 1;
        self.put_in(kernel, stage, last)
    }

    /// Encodes the frame at `index` of those in flight.
    fn put_in(&mut self, kernel: &mut Kernel, stage: &mut Stage, index: usize) -> Result<bool, Failure> {
        let Some(open) = &mut self.open else { return Ok(true) };
        let idr_count = (stage.output.idr_count() as u32).wrapping_add(self.flights.forced());
        let Some(flight) = self.flights.get_mut(index) else { return Ok(true) };
        // The count is of pictures before this one.
        let idr_count = idr_count.wrapping_sub(u32::from(flight.forced));
        // The entry leaves the queue in the sink while the encoder still reads what it points at: a copy of it keeps
        // the mapping.
        let flight = flight.clone();
        let input = match flight.input(&mut stage.input, &open.format, idr_count) {
            Ok(input) => input,
            Err(error) => return Err(Failure::new(Exit::Temporary, error)),
        };
        let mut sink = RingSink::new(kernel, stage, &mut self.flights, &mut self.claim);
        let encoded = open.encoder.encode(&input, &mut sink);
        let done = sink.finish();
        self.came_out(kernel, stage, encoded, done)
    }

    /// Brings out what the device has finished. `false`: asked to end while waiting.
    ///
    /// # Errors
    /// As [`Encoding::frame`].
    pub fn collect(&mut self, kernel: &mut Kernel, stage: &mut Stage) -> Result<bool, Failure> {
        let Some(open) = &mut self.open else { return Ok(true) };
        let (inside, begin_ns) = (self.flights.len(), monotonic_ns());
        let mut sink = RingSink::new(kernel, stage, &mut self.flights, &mut self.claim);
        let collected = open.encoder.collect(&mut sink, COLLECT_PATIENCE);
        let done = sink.finish();
        let until_ns = begin_ns + COLLECT_PATIENCE.as_nanos() as u64;
        if self.flights.len() == inside && monotonic_ns() < until_ns {
            // It does not wait for what it keeps until another frame comes.
            stage.input.wait(0, until_ns, None);
        }
        self.came_out(kernel, stage, collected, done)
    }

    /// Brings out every frame that is inside. `false`: asked to end while waiting.
    ///
    /// # Errors
    /// As [`Encoding::frame`].
    pub fn drain(&mut self, kernel: &mut Kernel, stage: &mut Stage) -> Result<bool, Failure> {
        while !self.flights.is_empty() {
            let Some(open) = &mut self.open else { break };
            let (inside, name) = (self.flights.len(), open.encoder.name());
            let mut sink = RingSink::new(kernel, stage, &mut self.flights, &mut self.claim);
            let flushed = open.encoder.flush(&mut sink);
            let done = sink.finish();
            if !self.came_out(kernel, stage, flushed, done)? {
                return Ok(false);
            }
            // One that follows another got all of them just now; the list of encoders ends.
            let same = self.open.as_ref().is_some_and(|open| open.encoder.name() == name);
            if same && self.flights.len() == inside {
                let text = format!("Encoder {name} keeps {inside} frames that it was asked to bring out");
                return Err(Failure::new(Exit::Internal, text));
            }
        }
        Ok(true)
    }

    /// Gives back the slot that nothing was published in.
    ///
    /// # Errors
    /// [`Failure`] of the ring.
    pub fn close(&mut self, stage: &mut Stage) -> Result<(), Failure> {
        self.claim.take().map_or(Ok(()), |claim| stage.output.abort(claim).map_err(kernel::ring))
    }

    /// Draws the conclusions of a call of the encoder.
    fn came_out(
        &mut self,
        kernel: &mut Kernel,
        stage: &mut Stage,
        result: Result<(), EncoderError>,
        done: Done,
    ) -> Result<bool, Failure> {
        if let Some(failure) = done.failed {
            return Err(failure);
        }
        if let Some(open) = &mut self.open {
            let copied_bytes = open.encoder.copied_bytes();
            kernel.telemetry.add(Counter::CopiedBytes, copied_bytes.saturating_sub(open.copied_bytes));
            open.copied_bytes = copied_bytes;
            if open.encoder.path() != open.path {
                open.path.clear();
                open.path.push_str(open.encoder.path());
                kernel.telemetry.set_path(&open.path);
            }
        }
        if done.idr {
            self.begins = false;
            self.warm.clear();
        }
        if done.idr_missed {
            // Who asked for it still waits.
            self.idr_given = None;
        }
        match result {
            _ if done.stopped => Ok(false),
            Ok(()) => Ok(true),
            Err(EncoderError::Sink(SinkError::TooLarge { needed_bytes, buffer_bytes })) => {
                tracing::warn!(needed_bytes, buffer_bytes, "An access unit was too large and is left out");
                kernel.telemetry.error();
                Ok(true)
            }
            Err(error @ EncoderError::DeviceLost { .. }) if self.config.backend == Backend::Auto => {
                self.next_encoder(kernel, stage, &error)
            }
            Err(error) => Err(Failure::recover(error.recovery(), error)),
        }
    }

    /// Goes on with the next encoder of the codec's list: the frames that were inside go into it again, the first as
    /// an IDR.
    fn next_encoder(&mut self, kernel: &mut Kernel, stage: &mut Stage, error: &EncoderError) -> Result<bool, Failure> {
        let Some(lost) = self.open.take() else { return Ok(true) };
        kernel.telemetry.error();
        let settings = EncoderSettings {
            bitrate_kbps: self.bitrate_kbps,
            idr_count: stage.output.idr_count() as u32,
            max_bitrate_kbps: match lost.settings.max_bitrate_kbps {
                0 => 0,
                most => most.max(self.bitrate_kbps),
            },
            ..lost.settings
        };
        let opened = select::open_after(&settings, Some(lost.encoder.name())).map_err(|next| {
            // Whatever the others refuse: a new process may find the device again.
            Failure::new(Exit::Temporary, format!("{error}, and no other encoder can go on: {next}"))
        })?;
        tracing::error!(%error, next = opened.encoder.name(), "The device is lost; the next encoder goes on");
        kernel.telemetry.set_message(&format!("{error}; {} goes on", opened.encoder.name()));
        self.take_up(kernel, Open::new(lost.format, settings, opened.encoder), false);
        // Kept until now: what is inside still reads its pixels.
        drop(lost.encoder);
        let inside = self.flights.len();
        let name = self.open.as_ref().map(|open| open.encoder.name());
        for index in 0..inside {
            // One that lost its device too has already been followed by another, which got all of them.
            if self.open.as_ref().map(|open| open.encoder.name()) != name {
                break;
            }
            // Every one that comes out makes the others move up.
            let Some(at) = (index + self.flights.len()).checked_sub(inside) else { break };
            if let Some(flight) = self.flights.get_mut(at) {
                flight.forced |= index == 0;
            }
            if !self.put_in(kernel, stage, at)? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Takes frames of a new size into the encoder in use. `false`: another one has to be opened for them.
    fn change_size(&mut self, kernel: &Kernel, output: &mut Producer, format: &VideoFormat) -> Result<bool, Failure> {
        let Some(open) = &mut self.open else { return Ok(false) };
        let settings = settings(&self.config, format, self.bitrate_kbps, output.idr_count() as u32)?;
        if !open.encoder.change_size(&settings) {
            return Ok(false);
        }
        announce(kernel, output, open.encoder.codec(), format)?;
        let (backend, width, height) = (open.encoder.name(), format.width, format.height);
        tracing::info!(backend, width, height, "The encoder goes on with frames of another size");
        (open.format, open.settings, self.begins) = (*format, settings, true);
        Ok(true)
    }

    /// Opens the encoder for frames of a new format.
    fn open(&mut self, kernel: &Kernel, output: &mut Producer, format: &VideoFormat) -> Result<(), Failure> {
        let settings = settings(&self.config, format, self.bitrate_kbps, output.idr_count() as u32)?;
        let warm = self.warm.take(&settings);
        let prepared = warm.is_some();
        let encoder = match warm {
            Some(encoder) => encoder,
            None => open_cold(self.config.backend.name(), &settings)?,
        };
        announce(kernel, output, encoder.codec(), format)?;
        self.take_up(kernel, Open::new(*format, settings, encoder), prepared);
        Ok(())
    }

    fn take_up(&mut self, kernel: &Kernel, open: Open, prepared: bool) {
        let encoder = &open.encoder;
        self.begins = true;
        kernel.telemetry.set_backend(encoder.name());
        kernel.telemetry.set_codec(encoder.codec().name());
        kernel.telemetry.set_path(encoder.path());
        kernel.telemetry.set(Counter::TargetKbps, u64::from(self.bitrate_kbps));
        tracing::info!(
            backend = encoder.name(),
            codec = encoder.codec().name(),
            path = encoder.path(),
            width = open.format.width,
            height = open.format.height,
            bitrate_kbps = self.bitrate_kbps,
            prepared,
            "Encoding"
        );
        self.open = Some(open);
    }

    /// Publishes that nothing is made of a frame, behind those that went in before it.
    fn refuse(
        &mut self,
        kernel: &mut Kernel,
        stage: &mut Stage,
        taken: &Taken,
        error: Option<FrameError>,
    ) -> Result<bool, Failure> {
        if let Some(error) = error {
            tracing::warn!(%error, "A frame was refused");
            kernel.telemetry.error();
        }
        if !self.drain(kernel, stage)? {
            return Ok(false);
        }
        self.close(stage)?;
        kernel.telemetry.add(Counter::Tombstones, 1);
        // The slot just given back is there; should another be gone meanwhile, the frame stays owed.
        while !stage.tombstone(taken, TombstoneReason::BadFrame).map_err(kernel::ring)? {
            stage.output.wait_for_room(deadline_ns(0));
            if !kernel.turn()? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn follow_bitrate(&mut self, kernel: &Kernel, output: &Producer, asked: &Asked) {
        let (Some((kbps, serial)), Some(open)) = (asked.bitrate_kbps, &mut self.open) else { return };
        match open.encoder.set_bitrate(kbps, 0) {
            Ok(()) => {
                self.bitrate_kbps = kbps;
                kernel.telemetry.set(Counter::TargetKbps, u64::from(kbps));
                kernel.telemetry.set_message("");
                tracing::info!(kbps, "The bitrate was changed");
                output.requests().bitrate_set(serial);
            }
            // The wish stays: the next call for a frame says the same, and whoever goes on is asked.
            Err(EncoderError::DeviceLost { .. }) => {}
            Err(error) => {
                tracing::warn!(kbps, %error, "The bitrate was not changed");
                kernel.telemetry.set_message(&format!("bitrate not changed: {error}"));
                // What cannot be had now cannot be had by a successor either, for which it would be the end.
                output.requests().bitrate_refused(serial, kbps, self.bitrate_kbps);
            }
        }
    }
}

/// Makes the ring ready for access units of frames of `format`, and says so to its readers.
fn announce(kernel: &Kernel, output: &mut Producer, codec: Codec, format: &VideoFormat) -> Result<(), Failure> {
    let bytes = au_buffer_bytes(codec, format);
    output.set_pool(PoolKind::PosixShm, bytes, kernel.runtime.path()).map_err(kernel::object)?;
    output.set_format(&StreamFormat::Coded(codec, *format)).map_err(kernel::ring)
}

fn open_cold(backend: &str, settings: &EncoderSettings) -> Result<Box<dyn Encoder>, Failure> {
    let opened = select::open(backend, settings).map_err(failure)?;
    for passed in opened.considered.iter().filter(|c| c.refused.is_some()) {
        let reason = passed.refused.as_ref().map(ToString::to_string).unwrap_or_default();
        tracing::debug!(backend = passed.backend, reason, "An encoder was passed over");
    }
    Ok(opened.encoder)
}

/// Bytes kept for an access unit: a byte for each pixel is more than any setting in use spends on an IDR,
/// and at small sizes headers count.
pub fn au_buffer_bytes(codec: Codec, format: &VideoFormat) -> u64 {
    const LEAST_BYTES: u64 = 256 << 10;
    match codec {
        Codec::Null => null::PAYLOAD_BYTES as u64,
        _ => (u64::from(format.width) * u64::from(format.height)).max(LEAST_BYTES),
    }
}
