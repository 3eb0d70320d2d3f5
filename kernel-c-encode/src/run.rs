//! The ring loop of kernel C: take a frame, encode it straight into a buffer of the bitstream ring, publish it.

use crate::encoding::Encoding;
use crate::warm::Warm;
use kernel_host::args::KernelArgs;
use kernel_host::exit::Failure;
use kernel_host::kernel::{self, Kernel, deadline_ns};
use kernel_host::name::Kind;
use shm_protocol::frame::Rational;
use shm_protocol::output::Producer;
use shm_protocol::stage::{Next, Stage};
use shm_protocol::telemetry::Counter;
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
    kernel.telemetry.set_backend(config.backend.name());
    let mut encoding = Encoding::new(config, std::mem::take(warm), bitrate_kbps);
    kernel.running();
    while kernel.turn()? {
        stage.harvest().map_err(kernel::ring)?;
        stage.pace(usize::MAX);
        if paused(&stage.output) {
            // Frames wait, or are dropped as the policy says; the stream goes on where the pause ends.
            if !encoding.drain(kernel, &mut stage)? {
                break;
            }
            kernel.stop.wait(PAUSE_LOOK);
            continue;
        }
        let more = match stage.next_frame().map_err(kernel::ring)? {
            Next::Frame(taken) => encoding.frame(kernel, &mut stage, &taken)?,
            Next::Empty if encoding.is_empty() => {
                kernel.telemetry.set(Counter::Backlog, 0);
                stage.input.wait(0, deadline_ns(encoding.interval_ns()), None);
                true
            }
            // What a device still works on comes out without a further frame.
            Next::Empty => encoding.collect(kernel, &mut stage)?,
        };
        if !more {
            break;
        }
    }
    encoding.close(&mut stage)
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
