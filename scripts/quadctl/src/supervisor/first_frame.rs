//! The start: it has worked when the first frame is on the wire, and otherwise there is a reason.

use std::time::{Duration, Instant};

use kernel_host::config::{Config, Source};
use kernel_host::exit::Exit;
use kernel_host::name::{KernelName, Kind};
use serde::{Deserialize, Serialize};
use shm_protocol::lease::KernelState;
use shm_protocol::observe::RingObserver;
use shm_protocol::telemetry::{Counter, TelemetryReader};

use super::backoff::{BARREN_DEATHS, Ending};
use super::unit::{Context, Unit};

/// A start that has shown nothing by then has a fault: devices and encoders open within seconds.
const LONGEST_START: Duration = Duration::from_secs(15);
/// A source that waits for its writer may wait for ever; `up` does not.
const WRITER_PATIENCE: Duration = Duration::from_secs(2);

/// What became of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "kebab-case")]
pub enum Outcome {
    /// The first frame is on the wire.
    Running {
        /// Milliseconds since the kernels were started.
        after_ms: u64,
        /// Kernels that ran already and were adopted.
        #[serde(default)]
        adopted: usize,
        /// Kernels that were started.
        #[serde(default)]
        started: usize,
    },
    /// Everything runs and waits for the source's writer.
    Waiting {
        /// What it waits for.
        message: String,
    },
    /// It does not work.
    Failed {
        /// Why.
        message: String,
        /// Exit code of `up`.
        exit: u8,
    },
}

/// Watches a start.
#[derive(Debug)]
pub struct FirstFrame {
    began: Instant,
    /// Instances whose first frame on the wire counts; none when nothing is sent before a viewer comes.
    senders: Vec<KernelName>,
    waits_for_writer: Option<String>,
    adopted: usize,
}

impl FirstFrame {
    /// For a start that begins now, with `adopted` kernels that run already.
    pub fn new(config: &Config, adopted: usize) -> FirstFrame {
        let sends = |kernel: &KernelName| {
            config
                .net(&kernel.name)
                .is_some_and(|net| net.rtp.is_some() || net.srt.as_ref().is_some_and(|srt| srt.destination.is_some()))
        };
        let waits_for_writer = config.instances(Kind::Capture).find_map(|name| {
            let capture = config.capture(name)?;
            let path = capture.path.as_ref().filter(|_| capture.source == Source::File)?;
            (path.as_os_str() == "-" || super::fifo::is_fifo(path)).then(|| path.display().to_string())
        });
        FirstFrame {
            began: Instant::now(),
            senders: config.kernels().into_iter().filter(|k| k.kind == Kind::Net && sends(k)).collect(),
            waits_for_writer,
            adopted,
        }
    }

    /// What is known by now. Where kernels were adopted nothing is a failed start: a stream that may go on is not
    /// taken down for what is missing.
    pub fn look(&self, units: &[Unit], context: &Context<'_>, now: Instant) -> Option<Outcome> {
        match self.judge(units, context, now)? {
            Outcome::Failed { message, .. } if self.adopted > 0 => {
                let kernels = if self.adopted == 1 { "kernel" } else { "kernels" };
                Some(Outcome::Waiting { message: format!("Adopted {} running {kernels}. {message}", self.adopted) })
            }
            outcome => Some(outcome),
        }
    }

    fn judge(&self, units: &[Unit], context: &Context<'_>, now: Instant) -> Option<Outcome> {
        // What runs is not kept waiting for a frame: its source may be silent for as long as it likes.
        let all_run = self.adopted == units.len() && units.iter().all(|unit| runs(unit, context));
        if all_run || self.on_the_wire(context) {
            let after_ms = (now - self.began).as_millis() as u64;
            let started = units.len().saturating_sub(self.adopted);
            return Some(Outcome::Running { after_ms, adopted: self.adopted, started });
        }
        if let Some(unit) = units.iter().find(|unit| has_failed(unit)) {
            let ending = unit.last_ending.map(|ending| format!(" ({ending})")).unwrap_or_default();
            let exit = unit.last_ending.map_or(Exit::Unavailable, Ending::exit);
            let message = format!("{} does not start{ending}: {}", unit.kernel, unit.last_words());
            return Some(Outcome::Failed { message, exit: exit.code() });
        }
        let waited = now - self.began;
        if let Some(path) = &self.waits_for_writer
            && waited > WRITER_PATIENCE
            && units.iter().all(|unit| stands(unit, context))
        {
            let from = if path == "-" { "standard input" } else { path };
            return Some(Outcome::Waiting { message: format!("Everything runs and waits for frames from {from}") });
        }
        (waited > LONGEST_START).then(|| {
            let states: Vec<String> = units.iter().map(|unit| describe(unit, context)).collect();
            let seconds = LONGEST_START.as_secs();
            let message = format!("No frame reached the wire within {seconds} s: {}", states.join("; "));
            Outcome::Failed { message, exit: Exit::Temporary.code() }
        })
    }

    fn on_the_wire(&self, context: &Context<'_>) -> bool {
        if self.senders.is_empty() {
            let encoder = KernelName::main(Kind::Encode).to_string();
            return RingObserver::open(context.instance, &encoder).is_ok_and(|ring| ring.status().published > 0);
        }
        self.senders.iter().any(|net| {
            let lease = net.to_string();
            let epoch = context.info(&lease).map_or(0, |info| info.epoch);
            TelemetryReader::open(context.instance, &lease, epoch)
                .is_some_and(|page| page.snapshot().counter(Counter::FirstOnWireNs) != 0)
        })
    }
}

/// Whether it will not come up by itself. A source that ended in order may have its frames still under way.
fn has_failed(unit: &Unit) -> bool {
    unit.left.is_some_and(|ending| !matches!(ending, Ending::Code(0) | Ending::Unknown { in_order: true }))
        || unit.barren() >= BARREN_DEATHS
}

/// Whether it has done what it can before the first frame: kernel A reads the stream's header before it says that it runs.
fn stands(unit: &Unit, context: &Context<'_>) -> bool {
    unit.kernel.kind == Kind::Capture && context.info(&unit.lease).is_some_and(|info| info.held) || runs(unit, context)
}

fn runs(unit: &Unit, context: &Context<'_>) -> bool {
    context.info(&unit.lease).is_some_and(|info| info.held && info.state == KernelState::Running)
}

fn describe(unit: &Unit, context: &Context<'_>) -> String {
    let state = match (&unit.left, runs(unit, context)) {
        (Some(ending), _) => ending.to_string(),
        (None, true) => "running".to_owned(),
        (None, false) => "not running".to_owned(),
    };
    format!("{} {state}, {}", unit.kernel.short(), unit.last_words())
}
