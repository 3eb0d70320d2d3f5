//! What a run found, as a table and as JSON.

use crate::continuity::Faults;
use crate::picture::Verdict;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// One event that happened.
#[derive(Debug, Clone)]
pub struct Happened {
    /// Row of the table, as "kill C".
    pub label: String,
    /// When it began.
    pub at: Instant,
    /// Processes that the soak killed in it.
    pub kills: usize,
    /// Longest time without a frame on the wire until the stream went on.
    pub freeze: Duration,
    /// Until everything that was hit worked again.
    pub recovery: Duration,
    /// Whether the machine itself stood still meanwhile: then the times say nothing.
    pub stalled: bool,
    /// Number and what exactly was done, for people.
    pub text: String,
}

/// A row of the table.
#[derive(Debug, Default, Clone)]
pub struct Row {
    label: String,
    events: usize,
    kills: usize,
    found: usize,
    freeze_ms: Vec<f64>,
    recovery_ms: Vec<f64>,
}

/// Everything about a run.
#[derive(Debug)]
pub struct Report {
    /// To replay it.
    pub seed: u64,
    /// What was run, for people.
    pub setting: String,
    /// In the order in which they happened.
    pub events: Vec<Happened>,
    /// Duration of the run.
    pub lasted: Duration,
    /// Access units on the wire.
    pub units: usize,
    /// Packets on the wire.
    pub packets: u64,
    /// What was wrong with them.
    pub faults: Faults,
    /// Receivers, what they saw, and how often they complained. What they say of packets that came again after a death
    /// of kernel D is no complaint.
    pub receivers: Vec<(String, Verdict, usize)>,
    /// Id of the last frame that was captured.
    pub last_captured: u64,
    /// Frames that the pipeline itself says it dropped.
    pub counted_drops: u64,
    /// Whether the source is held back rather than frames dropped.
    pub lossless: bool,
    /// Slots that are not free although nothing is on its way.
    pub leaked_slots: usize,
    /// Whether the run got to where that can be told.
    pub drained: bool,
    /// Objects, processes and files that outlived `down`.
    pub left: Vec<String>,
    /// Objects in shared memory at the start and before `down`.
    pub objects: (usize, usize),
    /// Times the stream stood still for too long.
    pub hangs: usize,
    /// Times in which the machine itself stood still.
    pub stalls: Vec<Duration>,
    /// Everything that was found, with the time.
    pub found: Vec<(Instant, String)>,
    /// Commands that failed, and other things that are wrong with the attack or the defence.
    pub failures: Vec<String>,
    /// Bound on the 99th percentile of freezes after kills, if one was given.
    pub freeze_limit: Option<Duration>,
}

fn percentile(values: &[f64], percent: f64) -> f64 {
    // Nearest rank, over values in order.
    let rank = (percent / 100.0 * values.len() as f64).ceil() as usize;
    values.get(rank.max(1) - 1).copied().unwrap_or_default()
}

impl Report {
    fn rows(&self) -> Vec<Row> {
        let mut rows: Vec<Row> = Vec::new();
        let mut events = self.events.iter().peekable();
        while let Some(event) = events.next() {
            let until = events.peek().map(|next| next.at);
            let found =
                self.found.iter().filter(|(at, _)| *at >= event.at && until.is_none_or(|end| *at < end)).count();
            let at = rows.iter().position(|row| row.label == event.label).unwrap_or_else(|| {
                rows.push(Row { label: event.label.clone(), ..Row::default() });
                rows.len() - 1
            });
            let row = &mut rows[at];
            row.events += 1;
            row.kills += event.kills;
            row.found += found;
            if !event.stalled {
                row.freeze_ms.push(event.freeze.as_secs_f64() * 1e3);
                row.recovery_ms.push(event.recovery.as_secs_f64() * 1e3);
            }
        }
        for row in &mut rows {
            row.freeze_ms.sort_by(f64::total_cmp);
            row.recovery_ms.sort_by(f64::total_cmp);
        }
        rows.sort_by(|a, b| a.label.cmp(&b.label));
        rows
    }

    /// What does not hold; empty: everything does.
    pub fn broken(&self) -> Vec<String> {
        let mut broken = self.failures.clone();
        let mut expect = |holds: bool, text: String| {
            if !holds {
                broken.push(text);
            }
        };
        expect(self.hangs == 0, format!("{} hangs", self.hangs));
        expect(self.faults.total() == 0, format!("RTP: {}", self.faults));
        for (name, verdict, complaints) in &self.receivers {
            expect(*complaints == 0, format!("{name}: {complaints} complaints of the decoder"));
            expect(verdict.duplicated == 0, format!("{name}: {} frames duplicated", verdict.duplicated));
            expect(verdict.unreadable == 0, format!("{name}: {} pictures unreadable", verdict.unreadable));
            expect(verdict.wrong == 0, format!("{name}: {} pictures wrong", verdict.wrong));
            let lost = self.lost(verdict);
            if self.lossless {
                expect(lost == 0, format!("{name}: {lost} frames lost"));
            } else {
                let text = format!("{name}: {lost} frames lost, {} counted as dropped", self.counted_drops);
                expect(lost == self.counted_drops, text);
            }
        }
        expect(self.drained || self.hangs > 0, "The rings did not drain at the end".to_owned());
        expect(self.leaked_slots == 0, format!("{} slots leaked", self.leaked_slots));
        expect(self.left.is_empty(), format!("Left after down: {}", self.left.join(", ")));
        if let Some(limit) = self.freeze_limit {
            for row in self.rows().iter().filter(|row| row.label.starts_with("kill ") && row.label.len() == 6) {
                let p99 = percentile(&row.freeze_ms, 99.0);
                let text = format!("{}: freeze p99 {p99:.0} ms, at most {} wanted", row.label, limit.as_millis());
                expect(p99 <= limit.as_secs_f64() * 1e3, text);
            }
        }
        broken
    }

    /// Frames lost, those before the first and after the last picture included.
    fn lost(&self, verdict: &Verdict) -> u64 {
        let before = verdict.first_id.map_or(0, |first| first - 1);
        let behind = self.last_captured.saturating_sub(verdict.last_id.unwrap_or(0));
        verdict.lost + before + if self.drained { behind } else { 0 }
    }

    /// The table.
    pub fn table(&self) -> String {
        let mut text = format!(
            "seed {}  {}\n{:.0} s, {} events, {} SIGKILLs, {} frames in {} packets on the wire\n\n",
            self.seed,
            self.setting,
            self.lasted.as_secs_f64(),
            self.events.len(),
            self.events.iter().map(|event| event.kills).sum::<usize>(),
            self.units,
            self.packets,
        );
        let _ = writeln!(
            text,
            "{:<22} {:>6} {:>6} {:>6}  {:>8} {:>8} {:>8}  {:>8} {:>8}",
            "event", "count", "kills", "faults", "freeze", "p99", "max ms", "recovery", "p99 ms"
        );
        for row in self.rows() {
            let (freeze, recovery) = (&row.freeze_ms, &row.recovery_ms);
            let _ = writeln!(
                text,
                "{:<22} {:>6} {:>6} {:>6}  {:>8.0} {:>8.0} {:>8.0}  {:>8.0} {:>8.0}",
                row.label,
                row.events,
                row.kills,
                row.found,
                percentile(freeze, 50.0),
                percentile(freeze, 99.0),
                percentile(freeze, 100.0),
                percentile(recovery, 50.0),
                percentile(recovery, 99.0),
            );
        }
        let _ = writeln!(text, "\nRTP        {}", self.faults);
        for (name, verdict, complaints) in &self.receivers {
            let _ = writeln!(
                text,
                "{name:<10} {} pictures, {} lost, {} duplicated, {} unreadable, {} of {} wrong (largest difference \
                 {}), {complaints} complaints",
                verdict.pictures,
                self.lost(verdict),
                verdict.duplicated,
                verdict.unreadable,
                verdict.wrong,
                verdict.compared,
                verdict.worst_block,
            );
        }
        let (start, end) = self.objects;
        let _ = writeln!(
            text,
            "pipeline   {} frames captured, {} counted as dropped, {} slots leaked, {} hangs, objects {start} at the \
             start, {end} at the end, {} left after down",
            self.last_captured,
            self.counted_drops,
            self.leaked_slots,
            self.hangs,
            self.left.len(),
        );
        let stalled = self.events.iter().filter(|event| event.stalled).count();
        let _ = writeln!(
            text,
            "machine    stood still {} times, for {:.2} s at the most; {stalled} events with their times left out for it",
            self.stalls.len(),
            self.stalls.iter().max().copied().unwrap_or_default().as_secs_f64(),
        );
        text
    }

    /// What was found, each with the event it followed.
    pub fn findings(&self) -> String {
        let mut text = String::new();
        for (at, what) in &self.found {
            let event = self.events.iter().rev().find(|event| event.at <= *at);
            let after = event.map_or_else(String::new, |event| {
                format!(" {:.0} ms after {}", (*at - event.at).as_secs_f64() * 1e3, event.text)
            });
            let _ = writeln!(text, "{what}{after}");
        }
        text
    }

    /// The same as JSON.
    pub fn json(&self) -> Value {
        let spread = |values: &[f64]| json!({ "p50": percentile(values, 50.0), "p99": percentile(values, 99.0), "max": percentile(values, 100.0) });
        let rows: Vec<Value> = self
            .rows()
            .iter()
            .map(|row| {
                json!({ "event": row.label, "count": row.events, "kills": row.kills, "faults": row.found,
                    "freeze_ms": spread(&row.freeze_ms), "recovery_ms": spread(&row.recovery_ms) })
            })
            .collect();
        let receivers: Vec<Value> = self
            .receivers
            .iter()
            .map(|(name, verdict, complaints)| {
                json!({ "name": name, "pictures": verdict.pictures, "lost": self.lost(verdict),
                    "duplicated": verdict.duplicated, "unreadable": verdict.unreadable, "wrong": verdict.wrong,
                    "compared": verdict.compared, "largest_difference": verdict.worst_block, "complaints": complaints })
            })
            .collect();
        json!({
            "name": "soak", "seed": self.seed, "setting": self.setting, "seconds": self.lasted.as_secs_f64(),
            "kills": self.events.iter().map(|event| event.kills).sum::<usize>(), "rows": rows,
            "frames": self.units, "packets": self.packets, "captured": self.last_captured,
            "rtp": { "missing": self.faults.missing, "repeated": self.faults.repeated, "changed": self.faults.changed,
                "foreign": self.faults.foreign, "timestamps": self.faults.timestamps },
            "receivers": receivers, "counted_drops": self.counted_drops, "leaked_slots": self.leaked_slots,
            "hangs": self.hangs, "machine_stalls_ms": self.stalls.iter().map(Duration::as_millis).collect::<Vec<_>>(), "left": self.left, "objects": { "start": self.objects.0, "end": self.objects.1 },
            "broken": self.broken(), "met": self.broken().is_empty(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let at = Instant::now();
        let event = |label: &str, ms: u64, freeze_ms: u64| Happened {
            label: label.to_owned(),
            at: at + Duration::from_millis(ms),
            kills: 1,
            freeze: Duration::from_millis(freeze_ms),
            recovery: Duration::from_millis(30),
            stalled: false,
            text: label.to_owned(),
        };
        let verdict = Verdict { pictures: 90, first_id: Some(1), last_id: Some(90), ..Verdict::default() };
        Report {
            seed: 1,
            setting: String::new(),
            events: vec![event("kill C", 0, 40), event("kill D", 100, 20), event("kill C", 200, 80)],
            lasted: Duration::from_secs(1),
            units: 90,
            packets: 90,
            faults: Faults { repeated: 3, ..Faults::default() },
            receivers: vec![("ffmpeg".to_owned(), verdict, 0)],
            last_captured: 90,
            counted_drops: 0,
            lossless: true,
            leaked_slots: 0,
            drained: true,
            left: Vec::new(),
            objects: (9, 9),
            hangs: 0,
            stalls: Vec::new(),
            found: vec![(at + Duration::from_millis(130), "oops".to_owned())],
            failures: Vec::new(),
            freeze_limit: None,
        }
    }

    #[test]
    fn freezes_and_findings_are_counted_at_the_event_they_follow() {
        let rows = report().rows();
        assert_eq!((rows[0].label.as_str(), rows[0].events, rows[0].found), ("kill C", 2, 0));
        assert_eq!(rows[0].freeze_ms, [40.0, 80.0]);
        assert_eq!((rows[1].label.as_str(), rows[1].found), ("kill D", 1));
        assert!(report().findings().contains("oops 30 ms after kill D"), "{}", report().findings());
    }

    #[test]
    fn every_goal_that_does_not_hold_is_named() {
        assert_eq!(report().broken(), Vec::<String>::new());
        let spoil: [fn(&mut Report); 12] = [
            |r| r.hangs = 1,
            |r| r.faults.missing = 1,
            |r| r.faults.changed = 1,
            |r| r.receivers[0].2 = 1,
            |r| r.receivers[0].1.lost = 1,
            |r| r.receivers[0].1.wrong = 1,
            |r| r.last_captured = 91,
            |r| r.drained = false,
            |r| r.leaked_slots = 1,
            |r| r.left.push("quad.x.leases".to_owned()),
            |r| r.failures.push("no".to_owned()),
            |r| r.freeze_limit = Some(Duration::from_millis(79)),
        ];
        for (index, spoil) in spoil.iter().enumerate() {
            let mut report = report();
            spoil(&mut report);
            assert_eq!(report.broken().len(), 1, "{index}: {:?}", report.broken());
        }
        let mut live = report();
        (live.lossless, live.receivers[0].1.lost, live.counted_drops) = (false, 4, 4);
        assert_eq!(live.broken(), Vec::<String>::new());
        live.counted_drops = 5;
        assert_eq!(live.broken().len(), 1);
    }

    #[test]
    fn percentiles_are_those_of_the_nearest_rank() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        assert_eq!([50.0, 99.0, 100.0].map(|percent| percentile(&values, percent)), [100.0, 198.0, 200.0]);
        assert_eq!(percentile(&[7.0], 50.0), 7.0);
        assert_eq!(percentile(&[], 50.0), 0.0);
    }
}
