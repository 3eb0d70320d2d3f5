//! `quad bench`: the benchmarks are a program of their own, which `scripts/quad` builds when they are asked for.

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use kernel_host::exit::{Exit, Failure};

/// Becomes the benchmarks beside this program.
pub fn run(arguments: &[String]) -> Result<u8, Failure> {
    let own = std::env::current_exe().map_err(|error| Failure::new(Exit::Internal, error))?;
    let program = own.with_file_name("quad-bench");
    let error = Command::new(&program).args(arguments).exec();
    let text = format!(
        "The benchmarks cannot be started ({}: {error}); `scripts/quad bench` builds them, or `cargo build --release -p \
         quad-bench`",
        program.display()
    );
    Err(Failure::new(Exit::Unavailable, text))
}
