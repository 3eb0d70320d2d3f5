//! The ring loop of kernel A: wait for the source, claim a slot, have it filled, publish it.

use crate::open::{Predecessor, open};
use crate::source::{Captured, FrameRequest, Source, Wait};
use crate::warm::Warm;
use kernel_host::args::KernelArgs;
use kernel_host::config::{Memory, Source as Configured};
use kernel_host::exit::{Exit, Failure};
use kernel_host::kernel::{self, Kernel, deadline_ns};
use kernel_host::name::Kind;
use kernel_host::patience::{Patience, waiting};
use shm_protocol::attach::Policy;
use shm_protocol::clock::monotonic_ns;
use shm_protocol::descriptor::{FrameDetails, FrameHead, StageTime, StreamFormat, flag};
use shm_protocol::frame::{Rational, VideoFormat};
use shm_protocol::output::{Claim, Producer};
use shm_protocol::pixels::PixelsWrite;
use shm_protocol::pool::PoolKind;
use shm_protocol::slot::Key;
use shm_protocol::telemetry::{Counter, Measure};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

/// Runs kernel A until it is asked to end or its source ends.
///
/// # Errors
/// [`Failure`] with the exit code for the supervisor.
pub fn run(args: &KernelArgs) -> Result<(), Failure> {
    match Kernel::start(args, Kind::Capture, &mut Warm::default())? {
        Some(kernel) => kernel.serve(capture),
        None => Ok(()),
    }
}

fn capture(kernel: &mut Kernel) -> Result<(), Failure> {
    let Some(config) = kernel.config.capture(&kernel.name.name).cloned() else { return Ok(()) };
    // The bound on latency needs the rate, which only the source knows; until then frames may wait.
    let fallback = Rational { num: 60, den: 1 };
    let spec = kernel.ring_spec(config.fps.unwrap_or(fallback));
    let (mut ring, _) = Producer::open(&kernel.lease, &spec, &kernel.directory).map_err(kernel::open)?;
    let predecessor = Predecessor { position: ring.source_position(), header: ring.memo() };
    let stop = kernel.stop.flag();
    // A pipe's writer may keep us waiting for as long as it likes, and so may the grid of a slow rate: that is no hang.
    let slow = config.fps.is_some_and(|fps| fps.interval_ns() > kernel::LONGEST_SLEEP_NS);
    let patience = (config.source == Configured::File || slow).then(|| kernel.patience()).flatten();
    let patience = patience.as_ref();
    // Ends waits for a frame; one that has begun is finished unless the process is to end.
    let leave = |patience: Option<&Patience>| patience.map_or_else(|| Arc::clone(&stop), Patience::leave);
    kernel.telemetry.set_backend(config.source.name());
    let mut source = loop {
        match waiting(patience, || open(&config, &predecessor, &leave(patience)))? {
            Some(source) => break source,
            // A successor that wanted to take over may have thought better of it.
            None if kernel.turn()? => {}
            None => return Ok(()),
        }
    };
    let format = *source.format();
    // A loop that hangs in any other source's frame is a hang: nothing may beat for it.
    let patient = source.waits_for_writer() || format.fps.interval_ns() > kernel::LONGEST_SLEEP_NS;
    let patience = patience.filter(|_| patient);
    let leave = leave(patience);
    if spec.policy == Policy::Live {
        ring.set_max_latency_ns(config.max_latency_ns(format.fps));
    }
    let kind = match config.memory {
        Memory::PosixShm => PoolKind::PosixShm,
        Memory::Memfd => PoolKind::Memfd,
        Memory::DmaBuf => PoolKind::DmaBuf,
    };
    let reused = ring.set_pool(kind, format.frame_bytes(), kernel.runtime.path()).map_err(kernel::object)?;
    ring.set_format(&StreamFormat::Video(format)).map_err(kernel::ring)?;
    ring.set_memo(source.stream_header());
    kernel.telemetry.set_path(&format!(
        "{} {}x{} {} {}",
        kind.name(),
        format.width,
        format.height,
        format.pixel_format.name(),
        if reused { "pool reused" } else { "new pool" }
    ));
    tracing::info!(source = source.name(), width = format.width, height = format.height, "Capturing");
    kernel.running();
    let mut frame_id = ring.last_key().id() + 1;
    while kernel.turn()? {
        if kernel.reloaded()
            && spec.policy == Policy::Live
            && let Some(config) = kernel.config.capture(&kernel.name.name)
        {
            ring.set_max_latency_ns(config.max_latency_ns(format.fps));
        }
        if config.source == Configured::File {
            ring.set_memo(source.stream_header());
        }
        // What has begun to come out of a pipe has nobody else to go to: lossless, its place is found first.
        let mut place = None;
        if spec.policy == Policy::Lossless {
            place = ring.claim().map_err(kernel::ring)?;
            if place.is_none() {
                ring.wait_for_room(deadline_ns(format.fps.interval_ns()));
                continue;
            }
        }
        let waited = waiting(patience, || source.wait(&leave));
        if !matches!(waited, Ok(Wait::Ready))
            && let Some(place) = place.take()
        {
            ring.abort(place).map_err(kernel::ring)?;
        }
        match waited.map_err(|error| Failure::recover(error.recovery(), error))? {
            Wait::Ready => {}
            // The turn says whether to leave.
            Wait::Stopped => continue,
            Wait::End => return drain(kernel, &ring),
        }
        let dropped = ring.drop_expired().map_err(kernel::ring)?;
        let claim = match place {
            Some(place) => Some(place),
            None => ring.claim().map_err(kernel::ring)?,
        };
        let Some(claim) = claim else {
            if source.is_live() {
                // Every slot is held: this frame never was. Its id shows the gap.
                frame_id += 1;
                kernel.telemetry.add(Counter::CaptureMissed, 1);
                count_drops(kernel, &ring);
            }
            continue;
        };
        match fill(kernel, &mut ring, (source.as_mut(), patience), claim, frame_id, &format, &stop)? {
            Filled::Published => frame_id += 1,
            Filled::Nothing => {}
            Filled::End => return drain(kernel, &ring),
        }
        if dropped > 0 || ring.revoked() > 0 {
            count_drops(kernel, &ring);
        }
    }
    Ok(())
}

fn count_drops(kernel: &Kernel, ring: &Producer) {
    kernel.telemetry.set_dropped(ring.revoked() + kernel.telemetry.get(Counter::CaptureMissed));
}

enum Filled {
    Published,
    Nothing,
    End,
}

fn fill(
    kernel: &Kernel,
    ring: &mut Producer,
    (source, patience): (&mut dyn Source, Option<&Patience>),
    claim: Claim,
    frame_id: u64,
    format: &VideoFormat,
    stop: &AtomicBool,
) -> Result<Filled, Failure> {
    let begin_ns = monotonic_ns();
    let buffer_index = claim.index();
    let pixels = PixelsWrite::new(format, ring.buffer(&claim)).map_err(|error| Failure::new(Exit::Internal, error))?;
    let mut request = FrameRequest { frame_id, buffer_index, buffer_fresh: false, pixels };
    let captured = waiting(patience, || source.fill(&mut request, stop))
        .map_err(|error| Failure::recover(error.recovery(), error));
    let times = match captured {
        Ok(Captured::Frame(times)) => times,
        other => {
            ring.abort(claim).map_err(kernel::ring)?;
            return other.map(|captured| if captured == Captured::End { Filled::End } else { Filled::Nothing });
        }
    };
    let done_ns = monotonic_ns();
    let head = FrameHead {
        key: Key::whole(frame_id),
        flags: if times.discontinuity { flag::DISCONTINUITY } else { 0 },
        capture_ns: times.capture_ns,
        buffer: ring.extent(&claim, 0, format.frame_bytes() as u32),
        ..FrameHead::default()
    };
    let mut details = FrameDetails {
        source_pts_ns: times.source_pts_ns,
        source_position: times.source_pos,
        ..FrameDetails::default()
    };
    details.stamp(StageTime::CaptureDone, done_ns);
    ring.publish(claim, head, &details).map_err(kernel::ring)?;
    kernel.telemetry.sample(Measure::Work, done_ns, done_ns - begin_ns);
    kernel.telemetry.frame(done_ns);
    Ok(Filled::Published)
}

/// The source has ended: what it gave is still on its way. Stays until nobody owes any of it, so that a
/// file's last frames reach the wire, then keeps the ring alive until it is asked to end.
fn drain(kernel: &mut Kernel, ring: &Producer) -> Result<(), Failure> {
    tracing::info!(last_frame_id = ring.last_key().id(), "The source has ended");
    kernel.telemetry.set_message("The source has ended");
    while kernel.turn()? {
        kernel.stop.wait(Duration::from_millis(20));
    }
    Ok(())
}
