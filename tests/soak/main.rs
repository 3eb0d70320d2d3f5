//! The soak: the real pipeline under a seeded schedule of deaths, stops, swaps and restarts, with an unmodified
//! receiver at its end, and everything that may not happen counted.

mod attack;
mod continuity;
mod instance;
mod picture;
mod plan;
mod receiver;
mod report;
mod run;
mod stall;
mod wire;

use anyhow::Result;
use clap::{Parser, ValueEnum};
use plan::Kind;
use receiver::{Program, Size};
use std::process::ExitCode;
use system_tests::pipeline::Part;

/// What becomes of frames that nobody has time for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Policy {
    /// They are dropped, and counted.
    Live,
    /// Their source is held back.
    Lossless,
}

/// Which part of the run has warm standbys for process, encode and net.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Standby {
    /// None.
    None,
    /// The second half.
    Half,
    /// All.
    All,
}

/// Runs the pipeline under attack and says what was lost. Exit code 0: nothing that must not be.
#[derive(Debug, Clone, Parser)]
#[command(name = "soak")]
pub struct Options {
    /// Seed of the schedule; the same one gives the same schedule. Unset: from the clock.
    #[arg(long)]
    pub seed: Option<u64>,
    /// End after so many SIGKILLs
    #[arg(long, default_value_t = 1000)]
    pub kills: usize,
    /// End after so many events, whatever the SIGKILLs
    #[arg(long)]
    pub events: Option<usize>,
    /// Kinds of events, with commas between: kill, kill-two, kill-all, kill-again, stop, hang, full-ring, slow-reader,
    /// swap, restart, supervisor. Unset: all
    #[arg(long, value_delimiter = ',')]
    pub kinds: Vec<Kind>,
    /// Kernels that are hit by themselves, of capture, process, encode, net. Unset: all
    #[arg(long, value_delimiter = ',', value_parser = parse_part)]
    pub targets: Vec<Part>,
    /// Frames a second
    #[arg(long, default_value_t = 60)]
    pub fps: u32,
    /// Size of the picture, at least 512 pixels wide: the barcode needs them
    #[arg(long, default_value = "1920x1080", value_parser = parse_size)]
    pub size: Size,
    /// What becomes of frames that nobody has time for
    #[arg(long, value_enum, default_value_t = Policy::Lossless)]
    pub policy: Policy,
    /// Who decodes the stream
    #[arg(long, value_enum, default_value_t = Program::Ffmpeg)]
    pub receiver: Program,
    /// Which part of the run has warm standbys for process, encode and net
    #[arg(long, value_enum, default_value_t = Standby::Half)]
    pub standby: Standby,
    /// Shortest and longest pause before an event, milliseconds after the stream went on
    #[arg(long, default_value = "150-600", value_parser = parse_range)]
    pub pause_ms: (u64, u64),
    /// hang_timeout_ms of the instance
    #[arg(long, default_value_t = 1000)]
    pub hang_timeout_ms: u64,
    /// Fail when the 99th percentile of the freezes after kills of one kernel is longer than so many milliseconds
    #[arg(long)]
    pub freeze_p99_ms: Option<u64>,
    /// A further setting of the instance, KEY=VALUE
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub sets: Vec<String>,
    /// Print JSON rather than the table
    #[arg(long)]
    pub json: bool,
    /// Keep the logs also when all is well
    #[arg(long)]
    pub keep_logs: bool,
}

fn parse_size(text: &str) -> Result<Size, String> {
    let size = text
        .split_once('x')
        .and_then(|(width, height)| Some(Size { width: width.parse().ok()?, height: height.parse().ok()? }));
    match size {
        Some(size) if size.width >= 512 && size.height >= 64 && size.width % 2 == 0 && size.height % 2 == 0 => Ok(size),
        _ => Err(format!("\"{text}\" is no size; allowed are even ones from 512x64, as 1280x720")),
    }
}

fn parse_range(text: &str) -> Result<(u64, u64), String> {
    let range = text.split_once('-').and_then(|(low, high)| Some((low.parse().ok()?, high.parse().ok()?)));
    range.filter(|(low, high)| low <= high).ok_or_else(|| format!("\"{text}\" is no range, as 150-600"))
}

fn parse_part(text: &str) -> Result<Part, String> {
    let found = Part::ALL.into_iter().find(|part| part.short() == text);
    found.ok_or_else(|| format!("\"{text}\" is no kernel; allowed are capture, process, encode, net"))
}

fn main() -> ExitCode {
    match run::run(&Options::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("soak: {error:#}");
            // EX_UNAVAILABLE of sysexits.h: the run did not come to an end that says anything.
            ExitCode::from(69)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn options_are_consistent_and_mistakes_are_told() {
        Options::command().debug_assert();
        let parse = |line: &str| Options::try_parse_from(line.split(' ')).map_err(|error| error.to_string());
        let options = parse("soak --seed 7 --kinds kill,swap --size 640x360 --pause-ms 1-2 --targets encode").unwrap();
        assert_eq!((options.seed, options.kinds), (Some(7), vec![Kind::Kill, Kind::Swap]));
        assert_eq!((options.size.width, options.size.height, options.pause_ms), (640, 360, (1, 2)));
        assert!(parse("soak --kinds murder").unwrap_err().contains("slow-reader"));
        for wrong in ["--size 320x240", "--size 641x360", "--pause-ms 9-3", "--targets encoder"] {
            assert!(parse(&format!("soak {wrong}")).is_err(), "{wrong}");
        }
    }
}
