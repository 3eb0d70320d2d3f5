//! Benchmarks, each with its rival in the same run. `quad-bench NAME --json`; without a name all that can run.

mod byref;
mod ffmpeg;
mod glass;
mod interrupt;
mod machine;
mod memory;
mod process;
mod recovery;
mod report;
mod ring;
mod scratch;
mod seed;
mod stand;
mod startup;
mod stats;
mod supervised;
mod swap;
mod test_frames;
mod wire;

use anyhow::{Result, bail};
use clap::Parser;
use report::{Missing, Report, Row, Table};

/// What one benchmark found.
#[derive(Default)]
struct Bench {
    rows: Vec<Row>,
    missing: Vec<Missing>,
    tables: Vec<Table>,
}

/// How long to measure.
#[derive(Debug, Clone, Copy)]
struct Effort {
    /// Times that the rivals take turns.
    rounds: usize,
    /// Hundredths of the usual length of a turn.
    percent: u32,
}

impl Effort {
    /// A count or length, scaled.
    fn scale(self, usual: usize) -> usize {
        (usual * self.percent as usize / 100).max(1)
    }
}

/// A benchmark that can be asked for.
type Run = fn(Effort) -> Result<Bench>;

const BENCHES: [(&str, Run); 8] = [
    ("ring", ring::run),
    ("pipeline", glass::run),
    ("8k120", byref::run),
    ("memory", memory::run),
    ("startup", startup::run),
    ("recovery", recovery::run),
    ("swap", swap::run),
    ("seed", seed::run),
];

/// All there are.
fn names() -> String {
    BENCHES.map(|(name, _)| name).join(", ")
}

/// Benchmarks of the quad-kernel streaming system, each with its rival in the same run
#[derive(Debug, Parser)]
#[command(name = "quad-bench", version)]
struct Args {
    #[arg(help = format!("Which one: {}; none runs all", names()))]
    name: Option<String>,
    /// JSON on standard output in place of the table
    #[arg(long)]
    json: bool,
    /// Times that the rivals take turns
    #[arg(long, value_name = "N", default_value_t = 5)]
    rounds: usize,
    /// Length of a turn, percent of the usual one; short runs only show that it works
    #[arg(long, value_name = "N", default_value_t = 100)]
    percent: u32,
}

fn main() -> Result<()> {
    // A process of the ring benchmark is this binary again.
    let mut line = std::env::args().skip(1);
    if line.next().as_deref() == Some(ring::CHILD) {
        return ring::child(&line.next().unwrap_or_default());
    }
    let args = Args::parse();
    let effort = Effort { rounds: args.rounds.max(1), percent: args.percent.max(1) };
    let chosen: Vec<&(&'static str, Run)> =
        BENCHES.iter().filter(|(name, _)| args.name.as_deref().is_none_or(|asked| asked == *name)).collect();
    if chosen.is_empty() {
        let asked = args.name.unwrap_or_default();
        eprintln!("There is no benchmark \"{asked}\"; there are {}", names());
        std::process::exit(64);
    }
    interrupt::watch()?;
    let (mut reports, mut failures) = (Vec::new(), Vec::new());
    for (name, run) in chosen {
        eprintln!("{name} …");
        let machine = machine::machine();
        let found = run(effort);
        interrupt::await_end();
        match found {
            Ok(Bench { rows, missing, tables }) => reports.push(Report { name, machine, rows, missing, tables }),
            Err(error) => failures.push(format!("{name}: {error:#}")),
        }
    }
    match (args.json, args.name.is_some(), reports.first()) {
        (true, true, Some(report)) => println!("{}", serde_json::to_string_pretty(report)?),
        (true, false, _) => println!("{}", serde_json::to_string_pretty(&reports)?),
        _ => reports.iter().for_each(|report| println!("{}", report.table())),
    }
    if failures.is_empty() { Ok(()) } else { bail!("{}", failures.join("; ")) }
}
