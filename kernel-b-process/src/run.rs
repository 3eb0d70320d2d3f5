//! The ring loop of kernel B: pass frames on by reference, or run the engine into a buffer of its own.

use crate::configured::wish;
use crate::engine::{Conversion, Engine, Plan, Wish, plan};
use crate::engines::cpu::CpuEngine;
use crate::warm::Warm;
use kernel_host::args::KernelArgs;
use kernel_host::config::{Engine as ConfiguredEngine, Memory, Process};
use kernel_host::exit::{Exit, Failure};
use kernel_host::kernel::{self, Kernel, deadline_ns};
use kernel_host::name::Kind;
use shm_protocol::clock::monotonic_ns;
use shm_protocol::descriptor::{FrameDetails, FrameHead, StageTime, StreamFormat, TombstoneReason, flag};
use shm_protocol::frame::{PixelFormat, Rational, VideoFormat};
use shm_protocol::input::{FrameError, Taken};
use shm_protocol::output::Producer;
use shm_protocol::pixels::PixelsWrite;
use shm_protocol::pool::PoolKind;
use shm_protocol::stage::{Next, Stage};
use shm_protocol::telemetry::{Counter, Measure};

/// Runs kernel B until it is asked to end.
///
/// # Errors
/// [`Failure`] with the exit code for the supervisor.
pub fn run(args: &KernelArgs) -> Result<(), Failure> {
    let mut warm = Warm::default();
    match Kernel::start(args, Kind::Process, &mut warm)? {
        Some(kernel) => kernel.serve(|kernel| process(kernel, &mut warm)),
        None => Ok(()),
    }
}

/// What is done with frames of one input format.
enum Work {
    /// They are passed on as they are.
    Pass,
    /// An engine makes others of them.
    Convert { engine: Box<dyn Engine>, output: VideoFormat },
}

struct Processor {
    config: Process,
    wish: Wish,
    /// What was made ready before the lease came.
    warm: Warm,
    work: Option<(VideoFormat, Work)>,
    /// The pool (ring, generation) that the output ring names for frames passed on.
    named: Option<(u32, u32)>,
    /// Frames that may lie by reference in the output at a time.
    depth: usize,
}

fn process(kernel: &mut Kernel, warm: &mut Warm) -> Result<(), Failure> {
    let name = kernel.name.name.clone();
    let Some(config) = kernel.config.process(&name).cloned() else { return Ok(()) };
    if matches!(config.engine, ConfiguredEngine::Vulkan | ConfiguredEngine::OpenCl) {
        let text =
            format!("process.engine = \"{}\" is not in this build; use \"auto\" or \"cpu\"", config.engine.name());
        return Err(Failure::new(Exit::Unavailable, text));
    }
    let spec = kernel.ring_spec(Rational { num: 60, den: 1 });
    let (output, _) = Producer::open(&kernel.lease, &spec, &kernel.directory).map_err(kernel::open)?;
    let Some(input) = kernel.attach(&config.input)? else { return Ok(()) };
    let depth = kernel.config.by_reference_depth(&name).unwrap_or(4).max(1) as usize;
    let mut processor =
        Processor { wish: wish(&config), config, warm: std::mem::take(warm), work: None, named: None, depth };
    let mut stage = Stage::new(input, output, 0);
    kernel.telemetry.set_backend("cpu");
    kernel.running();
    let mut interval_ns = 0;
    while kernel.turn()? {
        stage.harvest().map_err(kernel::ring)?;
        stage.output.drop_expired().map_err(kernel::ring)?;
        kernel.telemetry.set_dropped(stage.output.revoked());
        stage.pace(processor.depth);
        let full = stage.referring() >= processor.depth;
        let next = if full { Next::Empty } else { stage.next_frame().map_err(kernel::ring)? };
        match next {
            Next::Frame(taken) => {
                if let Some(passed) = processor.frame(kernel, &mut stage, &taken)? {
                    interval_ns = passed;
                }
            }
            Next::Empty => stage.wait(processor.depth, 0, deadline_ns(interval_ns)).map_err(kernel::ring)?,
        }
    }
    Ok(())
}

impl Processor {
    /// Makes one frame into one frame. Returns the frame interval; `None`: asked to end while waiting.
    fn frame(&mut self, kernel: &mut Kernel, stage: &mut Stage, taken: &Taken) -> Result<Option<u64>, Failure> {
        let begin_ns = monotonic_ns();
        let mut details = stage.input.details(taken);
        if let Some(waited_since) = details.time(StageTime::CaptureDone) {
            kernel.telemetry.sample(Measure::Wait, begin_ns, begin_ns.saturating_sub(waited_since));
        }
        details.stamp(StageTime::ProcessBegin, begin_ns);
        if taken.head.has(flag::TOMBSTONE) {
            return tombstone(kernel, stage, taken, TombstoneReason::BadFrame).map(|()| None);
        }
        let format = match stage.input.format(taken) {
            Ok(StreamFormat::Video(format)) => format,
            Ok(_) => return tombstone(kernel, stage, taken, TombstoneReason::BadFrame).map(|()| None),
            Err(error) => {
                tracing::warn!(%error, "A frame was refused");
                kernel.telemetry.error();
                return tombstone(kernel, stage, taken, TombstoneReason::BadFrame).map(|()| None);
            }
        };
        let interval_ns = format.fps.interval_ns();
        if self.work.as_ref().is_none_or(|(known, _)| *known != format) {
            self.plan(kernel, stage, &format)?;
        }
        let Some((_, work)) = &mut self.work else { return Ok(None) };
        let pool = (taken.head.buffer.ring_uid, taken.head.buffer.generation);
        if matches!(work, Work::Pass) && self.named != Some(pool) {
            // Mapped here too, so that this kernel can hand it on when its producer is dead.
            let mapped = match stage.input.pool(taken) {
                Ok(mapped) => mapped,
                Err(error) => return refuse(kernel, stage, taken, error).map(|()| None),
            };
            stage.name_pool(mapped.spec()).map_err(kernel::object)?;
            self.named = Some(pool);
        }
        let published = match work {
            Work::Pass => pass(kernel, stage, taken, &mut details, interval_ns)?,
            Work::Convert { engine, output } => {
                convert(kernel, stage, taken, &mut details, engine.as_mut(), (&format, &*output))?
            }
        };
        if published {
            let done_ns = monotonic_ns();
            kernel.telemetry.sample(Measure::Work, done_ns, done_ns - begin_ns);
            kernel.telemetry.frame(done_ns);
        }
        Ok(published.then_some(interval_ns))
    }

    /// Decides what to do with frames of a new format, and opens what that needs.
    fn plan(&mut self, kernel: &Kernel, stage: &mut Stage, format: &VideoFormat) -> Result<(), Failure> {
        let planned = plan(format, &self.wish).map_err(|error| Failure::recover(error.recovery(), error))?;
        let (in_wh, name) = ((format.width, format.height), format.pixel_format.name());
        let work = match planned {
            Plan::PassThrough => {
                stage.output.set_format(&StreamFormat::Video(*format)).map_err(kernel::ring)?;
                kernel.telemetry.set_path("by reference");
                Work::Pass
            }
            Plan::Convert(conversion) => {
                let conversion: Conversion = *conversion;
                let output = conversion.output;
                let kind = match self.config.memory {
                    Memory::PosixShm => PoolKind::PosixShm,
                    Memory::Memfd => PoolKind::Memfd,
                    Memory::DmaBuf => PoolKind::DmaBuf,
                };
                stage.output.set_pool(kind, output.frame_bytes(), kernel.runtime.path()).map_err(kernel::object)?;
                stage.output.set_format(&StreamFormat::Video(output)).map_err(kernel::ring)?;
                let warm = self.warm.take(&conversion);
                let engine = warm.unwrap_or_else(|| Box::new(CpuEngine::new(&conversion)));
                let to: PixelFormat = output.pixel_format;
                let path = format!(
                    "{} {}: {} {}x{} to {} {}x{}",
                    engine.name(),
                    engine.path(),
                    name,
                    in_wh.0,
                    in_wh.1,
                    to.name(),
                    output.width,
                    output.height
                );
                kernel.telemetry.set_path(&path);
                Work::Convert { engine, output }
            }
        };
        tracing::info!(
            width = in_wh.0,
            height = in_wh.1,
            format = name,
            pass = matches!(work, Work::Pass),
            "Processing"
        );
        self.work = Some((*format, work));
        Ok(())
    }
}

/// Waits for room in the output. `false`: asked to end.
fn wait_for_room(kernel: &mut Kernel, stage: &mut Stage, interval_ns: u64) -> Result<bool, Failure> {
    stage.harvest().map_err(kernel::ring)?;
    stage.output.drop_expired().map_err(kernel::ring)?;
    stage.pace(usize::MAX);
    stage.output.wait_for_room(deadline_ns(interval_ns));
    kernel.turn()
}

fn pass(
    kernel: &mut Kernel,
    stage: &mut Stage,
    taken: &Taken,
    details: &mut FrameDetails,
    interval_ns: u64,
) -> Result<bool, Failure> {
    loop {
        details.stamp(StageTime::ProcessDone, monotonic_ns());
        if stage.pass(taken, details).map_err(kernel::ring)? {
            kernel.telemetry.add(Counter::ByReference, 1);
            return Ok(true);
        }
        if !wait_for_room(kernel, stage, interval_ns)? {
            return Ok(false);
        }
    }
}

fn convert(
    kernel: &mut Kernel,
    stage: &mut Stage,
    taken: &Taken,
    details: &mut FrameDetails,
    engine: &mut dyn Engine,
    (format, output): (&VideoFormat, &VideoFormat),
) -> Result<bool, Failure> {
    let claim = loop {
        match stage.output.claim().map_err(kernel::ring)? {
            Some(claim) => break claim,
            None if wait_for_room(kernel, stage, format.fps.interval_ns())? => {}
            None => return Ok(false),
        }
    };
    let input = match stage.input.pixels(taken, format) {
        Ok(input) => input,
        Err(error) => {
            stage.output.abort(claim).map_err(kernel::ring)?;
            return refuse(kernel, stage, taken, error).map(|()| false);
        }
    };
    let ran = PixelsWrite::new(output, stage.output.buffer(&claim))
        .map_err(|error| error.to_string())
        .and_then(|mut pixels| engine.run(&input, &mut pixels).map_err(|error| error.to_string()));
    if let Err(error) = ran {
        tracing::warn!(error, frame_id = taken.head.key.id(), "A frame could not be processed");
        kernel.telemetry.error();
        stage.output.abort(claim).map_err(kernel::ring)?;
        return tombstone(kernel, stage, taken, TombstoneReason::StageError).map(|()| false);
    }
    details.stamp(StageTime::ProcessDone, monotonic_ns());
    let len = output.frame_bytes() as u32;
    let head = FrameHead { buffer: stage.output.extent(&claim, 0, len), reference: None, ..taken.head };
    stage.output.publish(claim, head, details).map_err(kernel::ring)?;
    kernel.telemetry.add(Counter::CopiedBytes, u64::from(len));
    stage.harvest().map_err(kernel::ring)?;
    Ok(true)
}

/// A frame whose bytes cannot be had: said so in the ring, unless another process might reach them.
fn refuse(kernel: &mut Kernel, stage: &mut Stage, taken: &Taken, error: FrameError) -> Result<(), Failure> {
    if error.is_transient() {
        return Err(Failure::new(Exit::Temporary, error));
    }
    tracing::warn!(%error, "A frame was refused");
    kernel.telemetry.error();
    tombstone(kernel, stage, taken, TombstoneReason::BadFrame)
}

fn tombstone(kernel: &mut Kernel, stage: &mut Stage, taken: &Taken, reason: TombstoneReason) -> Result<(), Failure> {
    kernel.telemetry.add(Counter::Tombstones, 1);
    while !stage.tombstone(taken, reason).map_err(kernel::ring)? {
        if !wait_for_room(kernel, stage, 0)? {
            break;
        }
    }
    Ok(())
}
