//! The ring loop of kernel C: take a frame, encode it straight into a buffer of the bitstream ring, publish it.

use crate::configured::{failure, settings};
use crate::encoder::{EncodeInput, Encoder, Key};
use crate::error::{EncoderError, SinkError};
use crate::select;
use crate::settings::EncoderSettings;
use crate::sink::RingSink;
use crate::warm::Warm;
use kernel_host::args::KernelArgs;
use kernel_host::config::Encode;
use kernel_host::exit::{Exit, Failure};
use kernel_host::kernel::{self, Kernel, deadline_ns};
use kernel_host::name::Kind;
use shm_protocol::clock::monotonic_ns;
use shm_protocol::control::Asked;
use shm_protocol::descriptor::{StageTime, StreamFormat, TombstoneReason, flag};
use shm_protocol::frame::{Codec, Rational, VideoFormat};
use shm_protocol::input::Taken;
use shm_protocol::output::{Claim, Producer};
use shm_protocol::pool::PoolKind;
use shm_protocol::stage::{Next, Stage};
use shm_protocol::telemetry::{Counter, Measure};
use std::time::Duration;

/// Runs kernel C until it is asked to end.
///
/// # Errors
/// [`Failure`] with the exit code for the supervisor.
pub fn run(args: &KernelArgs) -> Result<(), Failure> {
    let mut warm = Warm::default();
    match Kernel::start(args, Kind::Encode, &mut warm)? {
        Some(kernel) => kernel.serve(|kernel| encode(kernel, &mut warm)),
        None => Ok(()),
    }
}

fn encode(kernel: &mut Kernel, warm: &mut Warm) -> Result<(), Failure> {
    let Some(config) = kernel.config.encode(&kernel.name.name).cloned() else { return Ok(()) };
    let spec = kernel.ring_spec(Rational { num: 60, den: 1 });
    let (output, _) = Producer::open(&kernel.lease, &spec, &kernel.directory).map_err(kernel::open)?;
    let Some(input) = kernel.attach(&config.input)? else { return Ok(()) };
    let mut stage = Stage::new(input, output, 0);
    let bitrate_kbps = stage.output.requests().last_bitrate_kbps().unwrap_or(config.bitrate_kbps);
    let mut encoding = Encoding { config, warm: std::mem::take(warm), open: None, begins: true, bitrate_kbps };
    kernel.telemetry.set_backend(encoding.config.backend.name());
    kernel.running();
    let mut interval_ns = 0;
    while kernel.turn()? {
        stage.harvest().map_err(kernel::ring)?;
        stage.pace(usize::MAX);
        if paused(&stage.output) {
            // Frames wait, or are dropped as the policy says; the stream goes on where the pause ends.
            kernel.stop.wait(PAUSE_LOOK);
            continue;
        }
        match stage.next_frame().map_err(kernel::ring)? {
            Next::Frame(taken) => {
                if !encoding.frame(kernel, &mut stage, &taken)? {
                    break;
                }
                interval_ns = encoding.open.as_ref().map_or(0, |(format, _)| format.fps.interval_ns());
            }
            Next::Empty => {
                kernel.telemetry.set(Counter::Backlog, 0);
                stage.input.wait(0, deadline_ns(interval_ns), None);
            }
        }
    }
    Ok(())
}

/// How often a paused encoder looks whether it is to go on: within a frame interval.
const PAUSE_LOOK: Duration = Duration::from_millis(10);

/// Whether the operator asked for a pause; says that it is followed.
fn paused(output: &Producer) -> bool {
    let requests = output.requests();
    let pause = requests.pending().pause;
    requests.pause_followed();
    pause
}

struct Encoding {
    config: Encode,
    /// What was made ready before the lease came.
    warm: Warm,
    open: Option<(VideoFormat, Box<dyn Encoder>)>,
    /// Nothing of the encoder in use is out yet: it has to begin with an IDR.
    begins: bool,
    bitrate_kbps: u32,
}

impl Encoding {
    /// Encodes one frame. `false`: asked to end while waiting.
    fn frame(&mut self, kernel: &mut Kernel, stage: &mut Stage, taken: &Taken) -> Result<bool, Failure> {
        let begin_ns = monotonic_ns();
        let mut details = stage.input.details(taken);
        if let Some(since) = details.time(StageTime::ProcessDone) {
            kernel.telemetry.sample(Measure::Wait, begin_ns, begin_ns.saturating_sub(since));
        }
        details.stamp(StageTime::EncodeBegin, begin_ns);
        // Room first: a frame that was encoded must not wait with its bytes inside the library.
        let Some(claim) = claim(kernel, stage)? else { return Ok(false) };
        let format = match stage.input.format(taken) {
            Ok(StreamFormat::Video(format)) if !taken.head.has(flag::TOMBSTONE) => format,
            other => {
                if let Err(error) = other {
                    tracing::warn!(%error, "A frame was refused");
                    kernel.telemetry.error();
                }
                return give_up(kernel, stage, claim, taken, TombstoneReason::BadFrame);
            }
        };
        if self.open.as_ref().is_none_or(|(known, _)| *known != format) {
            self.open(kernel, &mut stage.output, &format)?;
        }
        let Some((_, encoder)) = &mut self.open else { return Ok(true) };
        let asked = stage.output.requests().pending();
        follow_bitrate(kernel, &stage.output, encoder.as_mut(), &asked, &mut self.bitrate_kbps);
        let pixels = match stage.input.pixels(taken, &format) {
            Ok(pixels) => pixels,
            Err(error) if error.is_transient() => return Err(Failure::new(Exit::Temporary, error)),
            Err(error) => {
                tracing::warn!(%error, "A frame was refused");
                kernel.telemetry.error();
                return give_up(kernel, stage, claim, taken, TombstoneReason::BadFrame);
            }
        };
        let input = EncodeInput {
            pixels,
            memory: None,
            qp: None,
            key: Key { source_id: taken.head.key.id(), sub: taken.head.key.sub() },
            pts_ns: u64::try_from(details.source_pts_ns).unwrap_or(0),
            force_idr: asked.idr.is_some() || self.begins,
            idr_count: stage.output.idr_count() as u32,
        };
        let mut sink = RingSink::new(&mut stage.output, claim, taken, details);
        let encoded = encoder.encode(&input, &mut sink);
        let done = sink.finish().map_err(kernel::ring)?;
        match encoded {
            Ok(()) => {}
            Err(EncoderError::Sink(SinkError::TooLarge { needed_bytes, buffer_bytes })) => {
                tracing::warn!(needed_bytes, buffer_bytes, "An access unit was too large and is left out");
                kernel.telemetry.error();
            }
            Err(error) => return Err(Failure::recover(error.recovery(), error)),
        }
        let done_ns = monotonic_ns();
        if done.idr {
            self.begins = false;
            self.warm.clear();
            kernel.telemetry.add(Counter::Idrs, 1);
            if let Some(serial) = asked.idr {
                stage.output.requests().idr_served(serial);
            }
        }
        kernel.telemetry.add(Counter::Bytes, done.bytes);
        kernel.telemetry.add(Counter::Tombstones, u64::from(done.left_out));
        kernel.telemetry.sample(Measure::Work, done_ns, done_ns - begin_ns);
        kernel.telemetry.frame(done_ns);
        stage.harvest().map_err(kernel::ring)?;
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
        self.begins = true;
        let bytes = au_buffer_bytes(encoder.codec(), format);
        output.set_pool(PoolKind::PosixShm, bytes, kernel.runtime.path()).map_err(kernel::object)?;
        output.set_format(&StreamFormat::Coded(encoder.codec(), *format)).map_err(kernel::ring)?;
        kernel.telemetry.set_backend(encoder.name());
        kernel.telemetry.set_codec(encoder.codec().name());
        kernel.telemetry.set_path(encoder.path());
        kernel.telemetry.set(Counter::TargetKbps, u64::from(self.bitrate_kbps));
        tracing::info!(
            backend = encoder.name(),
            codec = encoder.codec().name(),
            width = format.width,
            height = format.height,
            bitrate_kbps = self.bitrate_kbps,
            prepared,
            "Encoding"
        );
        self.open = Some((*format, encoder));
        Ok(())
    }
}

fn open_cold(backend: &str, settings: &EncoderSettings) -> Result<Box<dyn Encoder>, Failure> {
    let opened = select::open(backend, settings).map_err(failure)?;
    for passed in opened.considered.iter().filter(|c| c.refused.is_some()) {
        let reason = passed.refused.as_ref().map(ToString::to_string).unwrap_or_default();
        tracing::debug!(backend = passed.backend, reason, "An encoder was passed over");
    }
    Ok(opened.encoder)
}

/// A slot of the bitstream ring, waited for. `None`: asked to end.
fn claim(kernel: &mut Kernel, stage: &mut Stage) -> Result<Option<Claim>, Failure> {
    loop {
        if let Some(claim) = stage.output.claim().map_err(kernel::ring)? {
            return Ok(Some(claim));
        }
        kernel.telemetry.set(Counter::Backlog, stage.input.backlog() as u64);
        stage.pace(usize::MAX);
        stage.output.wait_for_room(deadline_ns(0));
        if !kernel.turn()? {
            return Ok(None);
        }
    }
}

fn give_up(
    kernel: &mut Kernel,
    stage: &mut Stage,
    claim: Claim,
    taken: &Taken,
    reason: TombstoneReason,
) -> Result<bool, Failure> {
    stage.output.abort(claim).map_err(kernel::ring)?;
    kernel.telemetry.add(Counter::Tombstones, 1);
    // The slot just given back is there; should another be gone meanwhile, the frame stays owed.
    while !stage.tombstone(taken, reason).map_err(kernel::ring)? {
        stage.output.wait_for_room(deadline_ns(0));
        if !kernel.turn()? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn follow_bitrate(kernel: &Kernel, output: &Producer, encoder: &mut dyn Encoder, asked: &Asked, current: &mut u32) {
    let Some((kbps, serial)) = asked.bitrate_kbps else { return };
    match encoder.set_bitrate(kbps, 0) {
        Ok(()) => {
            *current = kbps;
            kernel.telemetry.set(Counter::TargetKbps, u64::from(kbps));
            kernel.telemetry.set_message("");
            tracing::info!(kbps, "The bitrate was changed");
            output.requests().bitrate_set(serial);
        }
        Err(error) => {
            tracing::warn!(kbps, %error, "The bitrate was not changed");
            kernel.telemetry.set_message(&format!("bitrate not changed: {error}"));
            // What cannot be had now cannot be had by a successor either, for which it would be the end.
            output.requests().bitrate_refused(serial, kbps, *current);
        }
    }
}

/// Bytes kept for an access unit: a byte for each pixel is more than any setting in use spends on an IDR,
/// and at small sizes headers count.
pub fn au_buffer_bytes(codec: Codec, format: &VideoFormat) -> u64 {
    const LEAST_BYTES: u64 = 256 << 10;
    match codec {
        Codec::Null => crate::backends::null::PAYLOAD_BYTES as u64,
        _ => (u64::from(format.width) * u64::from(format.height)).max(LEAST_BYTES),
    }
}
