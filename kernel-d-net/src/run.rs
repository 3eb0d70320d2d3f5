//! The ring loop.
use kernel_host::args::KernelArgs;
use kernel_host::exit::Failure;
/// Runs.
/// # Errors
/// none
pub fn run(_: &KernelArgs) -> Result<(), Failure> { Ok(()) }
