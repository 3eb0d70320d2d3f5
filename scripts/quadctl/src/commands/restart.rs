//! `quad restart KERNEL[.NAME]`.

use std::time::Duration;

use kernel_host::exit::Failure;
use kernel_host::name::KernelName;

use super::{ask_supervisor, say};
use crate::supervisor::control::Request;

/// Longer than the supervisor takes to give up, twice: a swap before may have its probation first.
const LIMIT: Duration = Duration::from_secs(40);

/// Replaces a kernel's process and returns when the next epoch runs.
pub fn run(instance: &str, kernel: &str) -> Result<u8, Failure> {
    let kernel: KernelName = kernel.parse()?;
    let runtime = super::runtime(instance)?;
    let reply = ask_supervisor(&runtime, &Request::Restart { kernel: kernel.to_string() }, LIMIT)?;
    say(&reply.message);
    Ok(0)
}
