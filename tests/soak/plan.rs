//! What is done to the pipeline, and when: a function of the seed alone.

use std::time::Duration;
use system_tests::pipeline::Part;

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// SIGKILL of one kernel.
    Kill,
    /// SIGKILL of two kernels at once.
    KillTwo,
    /// SIGKILL of all four at once.
    KillAll,
    /// SIGKILL of one kernel and of its successor within its recovery.
    KillAgain,
    /// SIGSTOP of one kernel for less than the watchdog's time.
    Stop,
    /// SIGSTOP of one kernel for about the watchdog's time or longer.
    Hang,
    /// SIGSTOP of a consumer for longer than the ring before it can bridge.
    FullRing,
    /// The second reader of the access units stands still, dies, or has a viewer that reads nothing.
    SlowReader,
    /// `quad swap`.
    Swap,
    /// `quad restart`.
    Restart,
    /// SIGKILL of the supervisor, at times of a kernel with it, and a new `up`.
    Supervisor,
}

impl Kind {
    /// Every kind with its weight: most events are plain kills, those that take long are rare.
    pub const WEIGHTS: [(Kind, u64); 11] = [
        (Kind::Kill, 56),
        (Kind::KillTwo, 8),
        (Kind::KillAll, 4),
        (Kind::KillAgain, 6),
        (Kind::Stop, 7),
        (Kind::Hang, 3),
        (Kind::FullRing, 4),
        (Kind::SlowReader, 5),
        (Kind::Swap, 3),
        (Kind::Restart, 2),
        (Kind::Supervisor, 2),
    ];

    /// Its name in `--kinds` and in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Kill => "kill",
            Kind::KillTwo => "kill-two",
            Kind::KillAll => "kill-all",
            Kind::KillAgain => "kill-again",
            Kind::Stop => "stop",
            Kind::Hang => "hang",
            Kind::FullRing => "full-ring",
            Kind::SlowReader => "slow-reader",
            Kind::Swap => "swap",
            Kind::Restart => "restart",
            Kind::Supervisor => "supervisor",
        }
    }
}

impl std::str::FromStr for Kind {
    type Err = String;

    fn from_str(text: &str) -> Result<Kind, String> {
        let found = Kind::WEIGHTS.iter().map(|(kind, _)| *kind).find(|kind| kind.name() == text);
        found.ok_or_else(|| {
            let names: Vec<&str> = Kind::WEIGHTS.iter().map(|(kind, _)| kind.name()).collect();
            format!("Kind \"{text}\" is not known; allowed are {}", names.join(", "))
        })
    }
}

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: Kind,
    /// To whom; empty for the supervisor and the second reader.
    pub parts: Vec<Part>,
    /// How long after the stream went on after the event before.
    pub after: Duration,
    /// How long a stop lasts, or when the second kill comes after the first.
    pub lasts: Duration,
    /// Which of several ways, for kinds that have some.
    pub variant: u64,
}

impl Event {
    /// How many processes it kills by itself.
    pub fn kills(&self) -> usize {
        match self.kind {
            Kind::Kill | Kind::KillTwo | Kind::KillAll => self.parts.len(),
            Kind::KillAgain => 2,
            _ => 0,
        }
    }

    /// Letters of the kernels concerned, as "BC".
    pub fn letters(&self) -> String {
        self.parts.iter().map(|part| letter(*part)).collect()
    }
}

/// A, B, C or D.
pub const fn letter(part: Part) -> char {
    match part {
        Part::Capture => 'A',
        Part::Process => 'B',
        Part::Encode => 'C',
        Part::Net => 'D',
    }
}

/// What the schedule depends on beside the seed.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Kinds that may happen, and to which kernels.
    pub kinds: Vec<Kind>,
    /// Kernels that may be hit.
    pub parts: Vec<Part>,
    /// The watchdog's time.
    pub hang_timeout: Duration,
    /// How long a ring bridges.
    pub ring: Duration,
    /// Shortest and longest pause before an event, milliseconds.
    pub pause_ms: (u64, u64),
}

/// Endless events.
#[derive(Debug)]
pub struct Plan {
    random: fastrand::Rng,
    bounds: Bounds,
}

impl Plan {
    /// The schedule of a seed.
    pub fn new(seed: u64, bounds: Bounds) -> Plan {
        Plan { random: fastrand::Rng::with_seed(seed), bounds }
    }

    /// The next event.
    pub fn next(&mut self) -> Event {
        let kind = self.kind();
        let (low, high) = self.bounds.pause_ms;
        // Microseconds: a kill must be able to fall anywhere within a frame.
        let after = Duration::from_micros(self.random.u64(low * 1000..=high * 1000));
        let first = pick(&mut self.random, &self.bounds.parts);
        let variant = u64::from(self.random.u32(..));
        let hang_us = self.bounds.hang_timeout.as_micros() as u64;
        let (parts, lasts_us) = match kind {
            Kind::Kill | Kind::Swap | Kind::Restart => (vec![first], 0),
            Kind::KillTwo => {
                let others: Vec<Part> = Part::ALL.into_iter().filter(|part| *part != first).collect();
                (vec![first, pick(&mut self.random, &others)], 0)
            }
            Kind::KillAll => (Part::ALL.into(), 0),
            Kind::KillAgain => (vec![first], self.random.u64(0..=15_000)),
            Kind::Stop => (vec![first], self.random.u64(1000..=hang_us * 8 / 10)),
            // Many around the edge, where watchdog and waking kernel race.
            Kind::Hang => {
                let length = match variant % 3 {
                    0 => self.random.u64(hang_us * 9 / 10..=hang_us * 13 / 10),
                    1 => self.random.u64(hang_us..=hang_us + 300_000),
                    _ => self.random.u64(hang_us * 12 / 10..=hang_us * 2),
                };
                (vec![first], length)
            }
            Kind::FullRing => {
                let consumer = pick(&mut self.random, &[Part::Process, Part::Encode, Part::Net]);
                let low = (self.bounds.ring.as_micros() as u64 * 11 / 10).min(hang_us * 7 / 10);
                (vec![consumer], self.random.u64(low..=hang_us * 8 / 10))
            }
            Kind::SlowReader => (Vec::new(), self.random.u64(100_000..=hang_us * 8 / 10)),
            Kind::Supervisor => (vec![first], 0),
        };
        Event { kind, parts, after, lasts: Duration::from_micros(lasts_us), variant }
    }

    fn kind(&mut self) -> Kind {
        let bounds = &self.bounds;
        let allowed = || Kind::WEIGHTS.iter().filter(|(kind, _)| bounds.kinds.contains(kind));
        let total: u64 = allowed().map(|(_, weight)| weight).sum();
        let mut at = self.random.u64(..total);
        let chosen = allowed().find(|(_, weight)| {
            let hit = at < *weight;
            at = at.saturating_sub(*weight);
            hit
        });
        chosen.map_or(Kind::Kill, |(kind, _)| *kind)
    }
}

/// One of `parts`, which are never empty.
fn pick(random: &mut fastrand::Rng, parts: &[Part]) -> Part {
    parts[random.usize(..parts.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(seed: u64) -> Plan {
        let bounds = Bounds {
            kinds: Kind::WEIGHTS.iter().map(|(kind, _)| *kind).collect(),
            parts: Part::ALL.into(),
            hang_timeout: Duration::from_secs(1),
            ring: Duration::from_millis(266),
            pause_ms: (150, 600),
        };
        Plan::new(seed, bounds)
    }

    #[test]
    fn a_seed_gives_the_same_events_again() {
        let (mut one, mut two, mut other) = (plan(7), plan(7), plan(8));
        let events: Vec<Event> = (0..500).map(|_| one.next()).collect();
        assert_eq!(events, (0..500).map(|_| two.next()).collect::<Vec<_>>());
        assert_ne!(events, (0..500).map(|_| other.next()).collect::<Vec<_>>());
    }

    #[test]
    fn every_kind_and_kernel_comes_and_keeps_its_bounds() {
        let mut plan = plan(1);
        let events: Vec<Event> = (0..3000).map(|_| plan.next()).collect();
        for (kind, _) in Kind::WEIGHTS {
            assert!(events.iter().any(|event| event.kind == kind), "{kind:?}");
        }
        for part in Part::ALL {
            assert!(events.iter().any(|event| event.kind == Kind::Kill && event.parts == [part]));
        }
        for event in &events {
            assert!((150..=600).contains(&(event.after.as_millis() as u64)));
            let ms = event.lasts.as_millis();
            match event.kind {
                Kind::Stop | Kind::SlowReader => assert!((1..=800).contains(&ms)),
                Kind::Hang => assert!((900..=2000).contains(&ms)),
                Kind::FullRing => assert!((292..=800).contains(&ms) && event.parts != [Part::Capture]),
                Kind::KillTwo => assert!(event.parts.len() == 2 && event.parts[0] != event.parts[1]),
                _ => {}
            }
        }
    }
}
