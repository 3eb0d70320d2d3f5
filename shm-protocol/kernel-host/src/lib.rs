//! What every kernel binary needs and no media: configuration, logging, pinning, signals, readiness, exit codes.
//!
//! A kernel's `main` is this:
//!
//! ```no_run
//! use kernel_host::exit::{Failure, run_main};
//! use kernel_host::{args::KernelArgs, log, name::Kind, pin, place, ready::Notifier, signals::Stop};
//!
//! fn main() -> std::process::ExitCode {
//!     let args = KernelArgs::parse(Kind::Encode, env!("CARGO_PKG_VERSION"));
//!     run_main(|| -> Result<(), Failure> {
//!         let start = args.start(Kind::Encode)?;
//!         if args.check {
//!             print!("{}", start.config.effective_toml());
//!             return Ok(());
//!         }
//!         log::init(&start.config.log)?;
//!         // Before any thread starts: threads inherit the cpus.
//!         match start.config.cpus(&start.kernel) {
//!             Some(cpus) => pin::pin(cpus)?,
//!             None => {
//!                 let placed = place::place(&pin::online_cpus()?, &place::demands(&start.config), &[]);
//!                 placed.get(&start.kernel).into_iter().for_each(pin::pin_if_possible);
//!             }
//!         }
//!         // … run until `Stop` asks to stop, `Notifier::ready` once it works
//!         Ok(())
//!     })
//! }
//! ```

pub mod args;
pub mod config;
pub mod exit;
mod handover;
pub mod identity;
pub mod kernel;
pub mod log;
pub mod name;
pub mod patience;
pub mod pin;
pub mod place;
pub mod prepare;
pub mod ready;
pub mod runtime;
pub mod signals;
pub mod status;
pub mod swaps;
