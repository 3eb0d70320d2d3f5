//! A whole run: start, attack, drain, take down, report.

use crate::attack::Attacker;
use crate::instance::{Instance, RINGS, lease};
use crate::plan::{Bounds, Event, Kind, Plan};
use crate::receiver::Receiver;
use crate::report::{Happened, Report};
use crate::stall::Stalls;
use crate::wire::Wire;
use crate::{Options, Policy, Standby};
use anyhow::{Result, bail};
use rustix::process::Signal;
use std::io::IsTerminal as _;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use system_tests::pipeline::{Part, free_http_port, free_rtp_port};
use system_tests::tools::{have, within};

/// A stream that stands still for longer hangs: no restart takes that long.
const HANG: Duration = Duration::from_secs(5);
/// By then everything that was hit works again, however slowly it starts.
const SETTLED_WITHIN: Duration = Duration::from_secs(20);
/// How often the wire is looked at while something is waited for.
const LOOK: Duration = Duration::from_millis(2);
/// Between two progress lines that are not on a terminal.
const PROGRESS: Duration = Duration::from_secs(10);
/// The last frames are decoded by then, also by two decoders on two cores.
const DRAINED_WITHIN: Duration = Duration::from_secs(20);
/// After it who sleeps for milliseconds has been awake.
const SECOND_LOOK: Duration = Duration::from_millis(200);
/// A decoder at work puts out a picture within it.
const QUIET: Duration = Duration::from_millis(500);

/// Runs it; whether everything held.
///
/// # Errors
/// When it could not be run at all.
pub fn run(options: &Options) -> Result<bool> {
    for program in options.receiver.each() {
        if !have(program.executable()) {
            bail!("{} is not installed; choose another --receiver", program.executable());
        }
    }
    let seed = options.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_nanos() as u64 % 1_000_000_000
    });
    eprintln!("soak: seed {seed}");
    let folder = tempfile::Builder::new().prefix("soak-").tempdir()?;
    let outcome = Soak::start(options, seed, folder.path()).and_then(|mut soak| {
        let ended = soak.attack();
        soak.finish(ended, folder.path())
    });
    let report = match outcome {
        Ok(report) => report,
        Err(error) => {
            eprintln!("soak: logs in {}; seed {seed}", folder.keep().display());
            return Err(error);
        }
    };
    let broken = report.broken();
    if options.json {
        println!("{:#}", report.json());
    } else {
        println!("{}", report.table());
    }
    eprint!("{}", report.findings());
    for line in &broken {
        eprintln!("soak: DOES NOT HOLD: {line}");
    }
    if !broken.is_empty() || options.keep_logs {
        eprintln!("soak: logs in {}", folder.keep().display());
    }
    eprintln!("soak: seed {seed}, {}", if broken.is_empty() { "everything holds" } else { "not everything holds" });
    Ok(broken.is_empty())
}

/// Why the attack ended.
enum Ended {
    /// As planned.
    Done,
    /// The stream stands still.
    Hang(String),
}

struct Soak<'a> {
    options: &'a Options,
    seed: u64,
    began: Instant,
    attacker: Attacker,
    receivers: Vec<Receiver>,
    wire: Wire,
    stalls: Stalls,
    events: Vec<Happened>,
    failures: Vec<String>,
    objects: usize,
    standby: bool,
    told: Instant,
    // Last: it goes down before its folder, and after those who listen.
    instance: Instance,
}

impl<'a> Soak<'a> {
    fn start(options: &'a Options, seed: u64, folder: &Path) -> Result<Soak<'a>> {
        let (rtp_port, http_port, second_port) = (free_rtp_port(), free_http_port(), free_http_port());
        let receivers: Result<Vec<Receiver>> = options
            .receiver
            .each()
            .into_iter()
            .map(|program| Receiver::start(program, options.size, options.fps, folder))
            .collect();
        let receivers = receivers?;
        let outlets: Vec<_> = receivers.iter().map(|receiver| receiver.outlet.clone()).collect();
        let wire = Wire::listen(rtp_port, &outlets)?;
        let policy = if options.policy == Policy::Live { "live" } else { "lossless" };
        let mut sets = vec![
            format!("hang_timeout_ms={}", options.hang_timeout_ms),
            format!("capture.policy={policy}"),
            format!("capture.width={}", options.size.width),
            format!("capture.height={}", options.size.height),
            format!("capture.fps={}", options.fps),
            "encode.backend=openh264".to_owned(),
            format!("net.rtp.destination=127.0.0.1:{rtp_port}"),
            format!("net.http.listen=127.0.0.1:{http_port}"),
            format!("net.instances.web.http.listen=127.0.0.1:{second_port}"),
        ];
        sets.extend(options.sets.iter().cloned());
        let name = format!("soak-{}", std::process::id());
        let mut instance = Instance::new(name, folder, sets);
        if options.standby == Standby::All {
            set_standbys(&mut instance);
        }
        instance.up()?;
        let attacker = Attacker {
            http_port: second_port,
            hang_timeout: Duration::from_millis(options.hang_timeout_ms),
            viewers: Vec::new(),
        };
        let objects = instance.objects().len();
        let now = Instant::now();
        let standby = options.standby == Standby::All;
        let (events, failures) = (Vec::new(), Vec::new());
        Ok(Soak {
            options,
            seed,
            began: now,
            attacker,
            receivers,
            wire,
            stalls: Stalls::watch(),
            events,
            failures,
            objects,
            standby,
            told: now,
            instance,
        })
    }

    fn kills(&self) -> usize {
        self.events.iter().map(|event| event.kills).sum()
    }

    /// How far the run is, from 0 to 1.
    fn progress(&self) -> f64 {
        match self.options.events {
            Some(events) => self.events.len() as f64 / events.max(1) as f64,
            None => self.kills() as f64 / self.options.kills.max(1) as f64,
        }
    }

    fn attack(&mut self) -> Result<Ended> {
        let options = self.options;
        let all = || Kind::WEIGHTS.iter().map(|(kind, _)| *kind).collect();
        let bounds = Bounds {
            kinds: if options.kinds.is_empty() { all() } else { options.kinds.clone() },
            parts: if options.targets.is_empty() { Part::ALL.into() } else { options.targets.clone() },
            hang_timeout: Duration::from_millis(options.hang_timeout_ms),
            // All rings have as many slots by default.
            ring: Duration::from_secs(16) / options.fps,
            pause_ms: options.pause_ms,
        };
        if options.events.is_none() && !bounds.kinds.iter().any(|kind| kind.name().starts_with("kill")) {
            bail!("None of these kinds kills; give --events rather than --kills");
        }
        let mut plan = Plan::new(self.seed, bounds);
        // The receivers are at work before the first blow: what they need to begin is no subject here.
        let patience = Instant::now();
        while self.receivers.iter().any(|receiver| receiver.verdict().pictures == 0) {
            if patience.elapsed() > SETTLED_WITHIN {
                return Ok(Ended::Hang("A receiver decodes nothing".to_owned()));
            }
            std::thread::sleep(LOOK);
        }
        while self.progress() < 1.0 {
            let event = plan.next();
            if let Some(hang) = self.pass(event.after) {
                return Ok(Ended::Hang(hang));
            }
            if options.standby == Standby::Half && !self.standby && self.progress() >= 0.5 {
                self.begin_standbys()?;
            }
            // What cannot even be hit does not work: as bad as a stream that stands still, and as much to be told of.
            if let Some(hang) = self.happen(&event).unwrap_or_else(|error| Some(format!("{event:?}: {error:#}"))) {
                return Ok(Ended::Hang(hang));
            }
            self.instance.dropped();
            self.tell(false);
        }
        Ok(Ended::Done)
    }

    /// A new supervisor that keeps standbys from now on.
    fn begin_standbys(&mut self) -> Result<()> {
        self.standby = true;
        set_standbys(&mut self.instance);
        if let Some(supervisor) = self.instance.supervisor() {
            supervisor.end();
        }
        self.instance.up()?;
        let parts = [Part::Process, Part::Encode, Part::Net];
        if !within(SETTLED_WITHIN, || parts.iter().all(|part| self.instance.has_standby(*part))) {
            self.failures.push("Standbys were asked for and do not come".to_owned());
        }
        Ok(())
    }

    /// Lets time pass. `Some`: the stream stands still.
    fn pass(&self, time: Duration) -> Option<String> {
        let until = Instant::now() + time;
        while Instant::now() < until {
            std::thread::sleep(LOOK.min(until.saturating_duration_since(Instant::now())));
            if let Some(hang) = self.hangs() {
                return Some(hang);
            }
        }
        None
    }

    fn hangs(&self) -> Option<String> {
        // Found only by one who looks again after whoever watches the machine has had time to say so.
        self.silence()?;
        std::thread::sleep(SECOND_LOOK);
        self.silence()
    }

    fn silence(&self) -> Option<String> {
        let (last, now) = (self.wire.last().unwrap_or(self.began), Instant::now());
        let silent = (now - last).saturating_sub(self.stalls.within(last, now));
        (silent > HANG).then(|| format!("No frame on the wire for {:.1} s", silent.as_secs_f64()))
    }

    /// Does one event and waits until the stream goes on. `Some`: it does not.
    fn happen(&mut self, event: &Event) -> Result<Option<String>> {
        let hit = self.attacker.hit(&mut self.instance, event, &self.stalls)?;
        let number = self.events.len() + 1;
        let text = format!("event {number}: {}", hit.text);
        if let Some(complaint) = hit.complaint {
            self.failures.push(format!("event {number}: {complaint}"));
        }
        let waits = Instant::now();
        let mut hang = None;
        loop {
            let instance = &self.instance;
            let hit_work = hit.epochs.iter().all(|(part, epoch)| instance.works(&lease(*part), *epoch));
            if hit_work && Part::ALL.iter().all(|part| instance.works(&lease(*part), 0)) {
                break;
            }
            hang = self.hangs();
            if hang.is_some() {
                break;
            }
            if waits.elapsed().saturating_sub(self.stalls.within(waits, Instant::now())) > SETTLED_WITHIN {
                hang = Some(format!("Not at work again within {} s", SETTLED_WITHIN.as_secs()));
                break;
            }
            std::thread::sleep(LOOK);
        }
        let settled = Instant::now();
        // One frame may have been on its way all the time; the one after it was not.
        while hang.is_none() && self.wire.units_since(settled) < 2 {
            hang = self.hangs();
            std::thread::sleep(LOOK);
        }
        self.events.push(Happened {
            label: self.label(event),
            at: hit.at,
            kills: event.kills(),
            freeze: self.wire.longest_gap(hit.at, Instant::now()),
            recovery: settled - hit.at,
            stalled: !self.stalls.within(hit.at, Instant::now()).is_zero(),
            text,
        });
        Ok(hang)
    }

    fn label(&self, event: &Event) -> String {
        let name = event.kind.name();
        let label = match event.kind {
            Kind::Kill | Kind::KillAgain | Kind::Hang | Kind::FullRing => format!("{name} {}", event.letters()),
            _ => name.to_owned(),
        };
        if self.standby && event.parts != [Part::Capture] { format!("{label} (standby)") } else { label }
    }

    fn tell(&mut self, at_end: bool) {
        let terminal = std::io::stderr().is_terminal();
        if !at_end && self.told.elapsed() < if terminal { Duration::from_millis(500) } else { PROGRESS } {
            return;
        }
        self.told = Instant::now();
        let longest = self.events.iter().max_by_key(|event| event.freeze);
        let longest = longest.map_or_else(String::new, |event| {
            format!(", longest freeze {} ms ({})", event.freeze.as_millis(), event.label)
        });
        let sum = |count: fn(&crate::picture::Verdict) -> u64| -> u64 {
            self.receivers.iter().map(|receiver| count(&receiver.verdict())).sum()
        };
        let complaints: usize = {
            let repeated = self.wire.faults().repeated;
            self.receivers.iter().map(|receiver| receiver.serious(repeated).len()).sum()
        };
        let line = format!(
            "soak: {:3.0} s, {} of {} kills, {} events, {} frames, {} decoded, {} lost, {} duplicated, {} wrong, {} RTP \
             faults, {complaints} complaints{longest}",
            self.began.elapsed().as_secs_f64(),
            self.kills(),
            self.options.kills,
            self.events.len(),
            self.wire.units(),
            sum(|verdict| verdict.pictures),
            sum(|verdict| verdict.lost),
            sum(|verdict| verdict.duplicated),
            sum(|verdict| verdict.wrong + verdict.unreadable),
            self.wire.faults().total(),
        );
        if terminal {
            eprint!("\r\x1b[K{line}{}", if at_end { "\n" } else { "" });
        } else {
            eprintln!("{line}");
        }
    }

    /// Ends the source, lets the stream drain, takes the instance down and adds everything up.
    fn finish(mut self, ended: Result<Ended>, folder: &Path) -> Result<Report> {
        self.tell(true);
        let hang = match ended {
            Ok(Ended::Done) => None,
            Ok(Ended::Hang(hang)) => Some(hang),
            Err(error) => Some(format!("{error:#}")),
        };
        let lasted = self.began.elapsed();
        if let Some(hang) = &hang {
            let autopsy = format!("{hang}\n{}", self.instance.autopsy());
            std::fs::write(folder.join("autopsy.txt"), &autopsy)?;
            self.failures.push(format!("{hang}; see autopsy.txt beside the logs"));
        }
        self.attacker.viewers.clear();
        let drained = hang.is_none()
            && self.drain().unwrap_or_else(|error| {
                self.failures.push(format!("{error:#}"));
                false
            });
        let counted_drops = self.instance.dropped();
        let last_captured = self.instance.ring(RINGS[0]).map_or(0, |ring| ring.last_frame_id);
        let mut leaked_slots = 0;
        if hang.is_none() {
            for name in RINGS {
                let ring = match self.instance.ring(name) {
                    Ok(ring) => ring,
                    Err(error) => {
                        self.failures.push(format!("{name}: {error:#}"));
                        continue;
                    }
                };
                let busy = ring.ready + ring.writing + ring.quarantined;
                if busy > 0 {
                    self.failures.push(format!("{name}: {ring:?}\n{}", self.instance.slots(name).join("\n")));
                }
                leaked_slots += busy;
            }
        }
        let objects = (self.objects, self.instance.objects().len());
        // `down` removes the runtime directory and the logs with it.
        copy_logs(&self.instance, folder)?;
        if let Err(error) = self.instance.command(&["down"]) {
            self.failures.push(format!("{error:#}"));
        }
        self.wire.goodbye();
        self.receivers.iter_mut().for_each(Receiver::finish);
        let mut left = self.instance.objects();
        left.extend(self.instance.processes());
        let runtime = self.instance.runtime()?;
        if runtime.path().exists() {
            left.push(runtime.path().display().to_string());
        }
        let mut found = self.wire.found();
        let mut receivers = Vec::new();
        for receiver in &self.receivers {
            let (verdict, complaints) = (receiver.verdict(), receiver.serious(self.wire.faults().repeated));
            let name = receiver.program.name();
            found.extend(verdict.found.iter().map(|(at, text)| (*at, format!("{name}: {text}"))));
            found.extend(complaints.iter().map(|(at, text)| (*at, format!("{name} says: {text}"))));
            receivers.push((name.to_owned(), verdict, complaints.len()));
        }
        found.sort_by_key(|(at, _)| *at);
        let setting = format!(
            "{}x{} at {} fps, openh264, {:?}, watchdog {} ms, standbys {:?}",
            self.options.size.width,
            self.options.size.height,
            self.options.fps,
            self.options.policy,
            self.options.hang_timeout_ms,
            self.options.standby,
        );
        let report = Report {
            seed: self.seed,
            setting: setting.to_lowercase(),
            lasted,
            units: self.wire.units(),
            packets: self.wire.packets(),
            faults: self.wire.faults(),
            receivers,
            last_captured,
            counted_drops,
            lossless: self.options.policy == Policy::Lossless,
            leaked_slots,
            drained,
            left,
            objects,
            hangs: usize::from(hang.is_some()),
            stalls: self.stalls.spans().iter().map(|(begin, end)| *end - *begin).collect(),
            found,
            failures: std::mem::take(&mut self.failures),
            events: std::mem::take(&mut self.events),
            freeze_limit: self.options.freeze_p99_ms.map(Duration::from_millis),
        };
        let events: Vec<String> = report
            .events
            .iter()
            .map(|event| {
                let at_s = (event.at - self.began).as_secs_f64();
                format!("{at_s:9.3} s  freeze {:5} ms  {}\n", event.freeze.as_millis(), event.text)
            })
            .collect();
        std::fs::write(folder.join("events.txt"), events.concat())?;
        Ok(report)
    }

    /// Ends kernel A in order and waits until nothing is on its way any more and all of it is decoded.
    fn drain(&self) -> Result<bool> {
        self.instance.wait_for_holder(&lease(Part::Capture), 0)?.signal(Signal::TERM);
        let stopped = within(DRAINED_WITHIN, || self.instance.info(&lease(Part::Capture)).is_some_and(|i| !i.held));
        let busy = |name: &&str| {
            let ring = self.instance.ring(name);
            ring.is_ok_and(|ring| ring.ready + ring.writing + ring.quarantined > 0)
        };
        let empty = within(DRAINED_WITHIN, || !RINGS.iter().any(busy));
        if !stopped || !empty {
            return Ok(false);
        }
        let pictures = || -> u64 { self.receivers.iter().map(|receiver| receiver.verdict().pictures).sum() };
        let mut before = (pictures(), Instant::now());
        // Decoders keep some pictures until the stream ends: all is decoded when no more come.
        within(DRAINED_WITHIN, || {
            if self.receivers.iter().any(|receiver| receiver.outlet.waiting() > 0) || pictures() != before.0 {
                before = (pictures(), Instant::now());
            }
            before.1.elapsed() > QUIET
        });
        Ok(true)
    }
}

fn set_standbys(instance: &mut Instance) {
    for part in [Part::Process, Part::Encode, Part::Net] {
        instance.set(&format!("{}.standby=true", part.short()));
    }
}

fn copy_logs(instance: &Instance, folder: &Path) -> Result<()> {
    let logs = folder.join("logs");
    std::fs::create_dir_all(&logs)?;
    for entry in std::fs::read_dir(instance.runtime()?.path()).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_string_lossy().contains("log") && entry.path().is_file() {
            std::fs::copy(entry.path(), logs.join(name))?;
        }
    }
    Ok(())
}
