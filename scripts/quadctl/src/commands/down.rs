//! `quad down`: ends an instance whole. Asked twice, or of an instance that never was, it has nothing to do.

use std::time::Duration;

use kernel_host::exit::Failure;
use kernel_host::runtime::RuntimeDir;
use kernel_host::status::supervisor_pid;
use shm_protocol::names;

use super::{say, warn};
use crate::process::{Process, Signal, wait_all};
use crate::supervisor::control::{Request, ask};
use crate::supervisor::refuse_beside_another;
use crate::teardown::{remove_everything, stop_kernels};

/// Four kernels, each with its time to end in order and to die, and the supervisor's own.
const LONGEST_STOP: Duration = Duration::from_secs(20);

/// Ends an instance.
pub fn run(instance: &str) -> Result<u8, Failure> {
    let runtime = super::runtime(instance)?;
    if !runtime.path().exists() && names::existing(instance).is_empty() {
        say(&format!("Instance {instance} is not running"));
        return Ok(0);
    }
    if !end_supervisor(&runtime) {
        refuse_beside_another(instance)?;
    }
    // Also after the supervisor did it: what was left by an earlier one has an end here.
    stop_kernels(instance, &runtime)?;
    remove_everything(instance, &runtime)?;
    say(&format!("Instance {instance} is down"));
    Ok(0)
}

/// Ends the supervisor first, or it would start anew what is ended. `false`: there is none, in this directory at least.
fn end_supervisor(runtime: &RuntimeDir) -> bool {
    // One whose number cannot be read answers all the same.
    let pid = supervisor_pid(&runtime.supervisor_pid());
    let process = pid.and_then(Process::open);
    // A stopped one answers once it goes on.
    process.iter().for_each(|process| process.signal(Signal::CONT));
    let asked = runtime.supervisor_socket().ok().and_then(|socket| ask(&socket, &Request::Stop, LONGEST_STOP));
    if let Some(Ok(reply)) = asked {
        if reply.exit != 0 {
            warn(&format!("quad: {}", reply.message));
        }
        // Answered just before its end.
        let _ = process.map(|process| wait_all(&[&process], Duration::from_secs(2)));
        return true;
    }
    // The number is its own as long as the lock is held, and the descriptor was opened under it.
    let Some(process) = process.filter(|_| supervisor_pid(&runtime.supervisor_pid()) == pid) else { return false };
    warn("quad: The supervisor does not answer and is killed");
    process.signal(Signal::KILL);
    wait_all(&[&process], Duration::from_secs(2));
    true
}
