//! Kernel D, the binary. What it does is in the library; here is only how it starts and ends.

use kernel_host::args::KernelArgs;
use kernel_host::exit::run_main;
use kernel_host::name::Kind;

fn main() -> std::process::ExitCode {
    let args = KernelArgs::parse(Kind::Net, env!("CARGO_PKG_VERSION"));
    run_main(|| kernel_d_net::run::run(&args))
}
