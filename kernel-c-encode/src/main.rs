//! Kernel C, the binary. What it does is in the library; here is only how it starts and ends.

use kernel_host::args::KernelArgs;
use kernel_host::exit::run_main;
use kernel_host::name::Kind;

fn main() -> std::process::ExitCode {
    // What this machine's encoders can do, for `quad doctor`: no stream and no configuration.
    if std::env::args().nth(1).as_deref() == Some("--support") {
        println!("{}", kernel_c_encode::support::json());
        return std::process::ExitCode::SUCCESS;
    }
    let args = KernelArgs::parse(Kind::Encode, env!("CARGO_PKG_VERSION"));
    run_main(|| kernel_c_encode::run::run(&args))
}
