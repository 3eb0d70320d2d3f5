//! `ring`: what it costs to hand eight bytes to another process, against iceoryx2, raw_sync and the floors of
//! the machine.

mod child;
mod hand;
mod iceoryx;
mod ours;
mod page;
mod rivals;
mod ticks;

use crate::report::{Missing, Row};
use crate::scratch::Scratch;
use crate::stats::Summary;
use crate::{Bench, Effort, machine};
use anyhow::{Context, Result, anyhow, bail};
use child::{Found, Job};
use std::process::{Child, Command, Stdio};

/// The hidden command that one of the two processes is.
pub const CHILD: &str = "@ring";

/// Runs as one of the two processes.
pub fn child(job: &str) -> Result<()> {
    let job: Job = serde_json::from_str(job)?;
    let found = child::run(&job)?;
    if job.side == 0 {
        println!("{}", serde_json::to_string(&found)?);
    }
    Ok(())
}

fn spawn(job: &Job) -> Result<Child> {
    Command::new(std::env::current_exe()?)
        .arg(CHILD)
        .arg(serde_json::to_string(job)?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("The benchmark's own binary")
}

/// Measures and compares.
pub fn run(effort: Effort) -> Result<Bench> {
    if machine::cores() < 2 {
        let why = "the two processes need a core each; this machine has one".to_owned();
        return Ok(Bench { missing: vec![Missing { rival: "every row".to_owned(), why }], ..Bench::default() });
    }
    let scratch = Scratch::new("ring")?;
    let job = |side: usize| Job {
        instance: scratch.instance().to_owned(),
        dir: scratch.dir().to_owned(),
        side,
        core: side,
        rounds: effort.rounds.max(5),
        polled: effort.scale(20_000),
        slept: effort.scale(1_000),
        streamed: effort.scale(200_000),
    };
    let mut pong = spawn(&job(1))?;
    let ping = spawn(&job(0))?.wait_with_output();
    let failed = !matches!(&ping, Ok(output) if output.status.success());
    if failed {
        // It would spin for a partner that is gone.
        let _ = pong.kill();
    }
    let status = pong.wait()?;
    iceoryx_leftovers(scratch.instance());
    let ping = ping?;
    if failed || !status.success() {
        bail!("The pinned processes ended with {} and {status}", ping.status);
    }
    let found: Vec<Found> = serde_json::from_slice(&ping.stdout)?;
    rows(&found).map(|rows| Bench { rows, ..Bench::default() })
}

/// Shared memory that a killed iceoryx2 process leaves; its other files lie in the scratch directory.
pub fn iceoryx_leftovers(instance: &str) {
    let prefix = iceoryx::file_prefix(instance);
    for entry in std::fs::read_dir(shm_protocol::names::SHM_DIR).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(&prefix) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn rows(found: &[Found]) -> Result<Vec<Row>> {
    let of = |way: &str| {
        let samples = found.iter().find(|f| f.way == way).map(|f| f.samples.as_slice()).unwrap_or_default();
        Summary::of(samples).ok_or_else(|| anyhow!("{way} was not measured"))
    };
    let against = |case: &str, ours: &str, rival: &str, theirs: &str| -> Result<Row> {
        Ok(Row::against(case, rival, "ns", of(ours)?, of(theirs)?))
    };
    const PATH: &str = "8 bytes in a pool buffer, real leases; slot or loan taken beforehand, given back after the \
                        answer, on both sides alike";
    const IN_LINE: &str = "claim, publish, acquire and release all within the time measured";
    Ok(vec![
        against("hand-off polling", "ours", "iceoryx2 0.10", "iceoryx2")?.ratio_at_most(0.6).note(PATH),
        against("hand-off polling, all in line", "ours in line", "iceoryx2 0.10", "iceoryx2 in line")?
            .ratio_at_most(0.6)
            .note(IN_LINE),
        against("hand-off polling", "ours", "raw atomics (floor)", "raw")?,
        against("hand-off polling", "ours", "raw_sync 0.1.5 BusyEvent", "raw_sync")?,
        against("hand-off waiting, spin off", "ours waiting", "bare futex", "futex waiting")?.ratio_at_most(1.1),
        against("hand-off waiting, spin off", "ours waiting", "raw_sync 0.1.5 Event", "raw_sync waiting")?,
        against("hand-off waiting, spin off", "ours waiting", "iceoryx2 0.10 event + sample", "iceoryx2 waiting")?,
        Row::alone("stream through 16 slots, time of a message", "ns", of("ours stream")?),
    ])
}
