//! From one process of a kernel to the next under the running stream (PROTOCOL, swap and standby).

use crate::exit::{Exit, Failure};
use crate::kernel::object;
use crate::name::KernelName;
use crate::prepare::{Prepare, Surroundings};
use crate::runtime::RuntimeDir;
use crate::signals::Stop;
use shm_protocol::lease::{Candidate, Lease, Yielded};
use shm_protocol::telemetry::TelemetryReader;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// A candidate that was ready takes the lease within microseconds; one that has not after this long is dead
/// or stuck, and the stream waits.
const TAKE_OVER_WITHIN: Duration = Duration::from_millis(50);
/// How long a successor that publishes is watched before its predecessor goes.
const PROBATION: Duration = Duration::from_secs(1);
/// How long a successor may publish nothing (the source may be silent) before its predecessor goes all the same.
const SILENCE: Duration = Duration::from_secs(10);

/// How often a candidate sees whether what it prepared is still what will be needed.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The lease as soon as its holder died or yielded. `make_ready` keeps the candidate prepared meanwhile. `Ok(None)`:
/// asked to end while waiting.
pub(crate) fn wait_for_lease(
    candidate: Candidate,
    stop: &Stop,
    mut make_ready: impl FnMut() -> Result<(), Failure>,
) -> Result<Option<Lease>, Failure> {
    let receive = activate_in_background(candidate)?;
    let mut looked = Instant::now();
    loop {
        match receive.recv_timeout(Duration::from_millis(20)) {
            Ok(lease) => return lease.map(Some),
            Err(RecvTimeoutError::Timeout) if stop.requested() => return Ok(None),
            Err(RecvTimeoutError::Timeout) if looked.elapsed() >= LOOK_AGAIN => {
                make_ready()?;
                looked = Instant::now();
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(ended()),
        }
    }
}

/// L2, for the first time or once more. What was made is said in the log.
pub(crate) fn make_ready(around: &Surroundings<'_>, prepare: &mut dyn Prepare) -> Result<(), Failure> {
    let began = Instant::now();
    if let Some(what) = prepare.prepare(around)? {
        let mapped_bytes = around.directory.total_bytes();
        let ms = began.elapsed().as_millis() as u64;
        tracing::info!(kernel = %around.name, what, mapped_bytes, ms, "Prepared");
    }
    Ok(())
}

/// Waits for the lock in the kernel of the operating system, which wakes a successor the moment its
/// predecessor is gone. The thread ends with the process when nobody listens any more.
fn activate_in_background(candidate: Candidate) -> Result<Receiver<Result<Lease, Failure>>, Failure> {
    let (send, receive) = channel();
    std::thread::Builder::new()
        .name("lease".to_owned())
        .spawn(move || {
            let _ = send.send(candidate.activate().map_err(object));
        })
        .map_err(|error| Failure::new(Exit::Internal, error))?;
    Ok(receive)
}

fn ended() -> Failure {
    Failure::new(Exit::Internal, "The thread that waits for the lease ended")
}

/// S3–S5: yields, sees that the successor takes over, and stands by for it through its probation. `Some`: the
/// successor failed and the lease is this process's again.
///
/// # Errors
/// [`Failure`] when the locks fail.
pub(crate) fn hand_over(
    lease: Lease,
    runtime: &RuntimeDir,
    name: &KernelName,
    stop: &Stop,
) -> Result<Option<Lease>, Failure> {
    let table = Arc::clone(lease.table());
    let yielded = lease.yield_to_candidate();
    let kernel = name.to_string();
    let began = Instant::now();
    while yielded.successor_epoch().is_none() {
        if began.elapsed() > TAKE_OVER_WITHIN {
            tracing::warn!(kernel, "The successor did not take the lease in time and is killed");
            yielded.kill_successor();
            break;
        }
        std::thread::sleep(Duration::from_micros(100));
    }
    // Free as soon as the successor has recovered, or has died.
    let candidate = Candidate::enter(&table, &kernel, true).map_err(object)?;
    candidate.ready();
    let receive = activate_in_background(candidate)?;
    let mut publishing_since = None;
    loop {
        match receive.recv_timeout(Duration::from_millis(10)) {
            Ok(lease) => return lease.map(Some),
            Err(RecvTimeoutError::Disconnected) => return Err(ended()),
            Err(RecvTimeoutError::Timeout) => {}
        }
        if publishing_since.is_none() && publishes(&yielded, runtime, &kernel) {
            publishing_since = Some(Instant::now());
        }
        let proven = publishing_since.is_some_and(|since: Instant| since.elapsed() > PROBATION);
        if proven || began.elapsed() > SILENCE || stop.requested() {
            return Ok(None);
        }
    }
}

fn publishes(yielded: &Yielded, runtime: &RuntimeDir, kernel: &str) -> bool {
    yielded
        .successor_epoch()
        .and_then(|epoch| TelemetryReader::open(runtime.instance(), kernel, epoch))
        .is_some_and(|page| page.snapshot().frames > 0)
}
