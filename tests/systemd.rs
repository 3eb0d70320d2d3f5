//! The systemd units: their syntax by systemd's own judgement, and the notify contract by their own command lines.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::Write as _;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use system_tests::build::{binaries, root};
use system_tests::pipeline::{Part, Pipeline, free_rtp_port};
use system_tests::quad::Quad;
use system_tests::tools::{Owned, need, within};
use system_tests::wire::{Faults, Wire, in_order};

const PATIENCE: Duration = Duration::from_secs(20);
/// What the tests give in place of the units' WatchdogSec=, so that several signs of life come soon.
const WATCHDOG: Duration = Duration::from_secs(2);

fn units() -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join("scripts/systemd")).unwrap();
    let is_unit = |path: &PathBuf| path.extension().is_some_and(|e| e == "service" || e == "target");
    let mut units: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).filter(is_unit).collect();
    units.sort();
    units
}

/// A unit's text with the installed paths replaced by those of this build.
fn text(unit: &Path) -> String {
    let built = binaries();
    let text = std::fs::read_to_string(unit).unwrap();
    text.replace("/usr/local/bin/quad ", &format!("{} ", built.join("quadctl").display()))
        .replace("/usr/local/libexec/quad", built.to_str().unwrap())
}

fn setting<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
}

#[test]
fn systemd_finds_no_fault_in_the_units() {
    if !need("systemd: systemd-analyze verify", &["systemd-analyze"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut command = Command::new("systemd-analyze");
    command.args(["verify", "--man=no", "--generators=no"]);
    for unit in units() {
        let copy = folder.path().join(unit.file_name().unwrap());
        std::fs::write(&copy, text(&unit)).unwrap();
        command.arg(copy);
    }
    let output = command.env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display())).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !said.contains("quad"), "{said}");
}

#[test]
fn every_service_restarts_at_once_and_for_ever_but_not_after_an_end_that_means_it() {
    let services: Vec<PathBuf> = units().into_iter().filter(|unit| unit.extension().unwrap() == "service").collect();
    assert_eq!(services.len(), 5);
    for service in services {
        let text = text(&service);
        for (key, value) in [
            ("Type", "notify"),
            ("Restart", "always"),
            ("RestartSec", "0"),
            ("StartLimitIntervalSec", "0"),
            // Those of the exit codes that a supervisor does not answer with a restart either.
            ("RestartPreventExitStatus", "0 3 64 78"),
            ("RuntimeDirectoryPreserve", "yes"),
        ] {
            assert_eq!(setting(&text, key), Some(value), "{key} in {}", service.display());
        }
        assert!(setting(&text, "WatchdogSec").unwrap().parse::<u32>().unwrap() > 0);
    }
}

/// A service started as systemd starts it, and what it says.
struct Service {
    process: Owned,
    heard: Arc<Mutex<Vec<(Instant, String)>>>,
    _folder: tempfile::TempDir,
}

impl Service {
    /// The command of a unit's ExecStart= for the instance of `pipeline`.
    fn start(unit: &str, pipeline: &Pipeline, config: &Path) -> Service {
        let text = text(&root().join("scripts/systemd").join(unit));
        let line = setting(&text, "ExecStart").unwrap();
        let line = line.replace("/etc/quad/%i.toml", config.to_str().unwrap()).replace("%i", pipeline.instance());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        let heard = Arc::<Mutex<Vec<(Instant, String)>>>::default();
        let own = Arc::downgrade(&heard);
        socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        // Ends when nobody wants to know any more.
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Some(heard) = own.upgrade() {
                if let Ok(length) = socket.recv(&mut buffer) {
                    let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                    heard.lock().unwrap().extend(text.lines().map(|line| (Instant::now(), line.to_owned())));
                }
            }
        });
        let log = std::fs::File::options().create(true).append(true).open(pipeline.folder().join("units.log")).unwrap();
        // As systemd does, the variable names the process itself.
        let mut command = Command::new("sh");
        command.args(["-c", "WATCHDOG_PID=$$ exec \"$@\"", "sh"]).args(line.split(' '));
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", WATCHDOG.as_micros().to_string());
        command.env("XDG_RUNTIME_DIR", pipeline.folder()).env_remove("QUAD_LOG");
        command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        Service { process: Owned::spawn(&mut command), heard, _folder: folder }
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(self.process.0.id() as i32)
    }

    fn said(&self, line: &str) -> usize {
        self.heard.lock().unwrap().iter().filter(|(_, heard)| heard == line).count()
    }

    /// Longest time without a sign of life since it was ready.
    fn longest_silence(&self) -> Duration {
        let heard = self.heard.lock().unwrap();
        let beats = heard.iter().filter(|(_, line)| line == "READY=1" || line == "WATCHDOG=1");
        let beats: Vec<Instant> = beats.map(|(at, _)| *at).collect();
        beats.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
    }

    /// Stops it as systemd does; its code.
    fn stop(&mut self) -> Option<i32> {
        let status = self.process.end(Signal::SIGTERM, Duration::from_secs(10));
        assert!(within(Duration::from_secs(1), || self.said("STOPPING=1") == 1), "{:?}", self.heard);
        status.and_then(|status| status.code())
    }
}

/// A configuration file for `pipeline`, as /etc/quad would hold it.
fn configuration(pipeline: &Pipeline) -> PathBuf {
    let lines: Vec<String> = pipeline
        .settings()
        .iter()
        .map(|set| {
            let (key, value) = set.split_once('=').unwrap();
            if value.parse::<f64>().is_ok() { format!("{key} = {value}\n") } else { format!("{key} = \"{value}\"\n") }
        })
        .collect();
    pipeline.write("quad.toml", lines.concat().as_bytes())
}

fn pipeline(label: &str, port: u16) -> Pipeline {
    let mut pipeline = Pipeline::new(label, port);
    pipeline.set("capture.fps", "30").set("capture.max_latency_ms", "2000");
    pipeline
}

#[test]
fn the_supervisor_as_a_service_is_ready_beats_dies_without_its_kernels_and_stops_whole() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    // Taken down also when the test fails: the kernels are nobody's children here.
    let quad = Quad::new("unit", port);
    let pipeline = &quad.pipeline;
    let config = configuration(pipeline);
    let log = || std::fs::read_to_string(pipeline.folder().join("units.log")).unwrap_or_default();
    let mut service = Service::start("quad@.service", pipeline, &config);
    assert!(within(PATIENCE, || service.said("READY=1") == 1), "{}", log());
    assert!(wire.units() > 0, "ready before the first frame was on the wire");
    assert!(within(3 * WATCHDOG, || service.said("WATCHDOG=1") >= 4), "{:?}", service.heard);
    assert!(service.longest_silence() <= WATCHDOG / 2 + Duration::from_millis(500), "{:?}", service.heard);
    let pids = || {
        let status = pipeline.status().unwrap();
        Part::ALL.map(|part| status["kernels"][part.short()]["pid"].as_i64().unwrap())
    };
    let before = pids();
    // A reload: another build's program in the same process, which goes on as the service.
    let reload = setting(&text(&root().join("scripts/systemd/quad@.service")), "ExecReload").unwrap().to_owned();
    let reload = reload.replace("%i", pipeline.instance());
    let mut words = reload.split(' ');
    let mut command = Command::new(words.next().unwrap());
    let output = command.args(words).env("XDG_RUNTIME_DIR", pipeline.folder()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(service.process.0.try_wait().unwrap().is_none(), "{}", log());
    let (ready, beats) = (service.said("READY=1"), service.said("WATCHDOG=1"));
    assert!(ready >= 2 && within(3 * WATCHDOG, || service.said("WATCHDOG=1") >= beats + 4), "{:?}", service.heard);
    let swapped = pids();
    assert!(swapped.iter().zip(&before).all(|(now, then)| now != then), "Every kernel was swapped");
    // The supervisor's death, and what systemd does then.
    kill(service.pid(), Signal::SIGKILL).unwrap();
    service.process.0.wait().unwrap();
    let units = wire.units();
    assert!(within(PATIENCE, || wire.units() >= units + 10), "The kernels go on");
    let mut service = Service::start("quad@.service", pipeline, &config);
    assert!(within(PATIENCE, || service.said("READY=1") == 1), "{}", log());
    assert_eq!(pids(), swapped, "The kernels were adopted");
    assert!(log().contains("adopted 4 running kernels"), "{}", log());
    assert_eq!(service.stop(), Some(0), "{}", log());
    assert_eq!(pipeline.objects(), Vec::<String>::new());
    let (_, faults) = in_order(&wire.packets());
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
}

#[test]
fn the_kernels_as_services_of_their_own_need_no_supervisor() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let pipeline = pipeline("units", port);
    let config = configuration(&pipeline);
    let log = || std::fs::read_to_string(pipeline.folder().join("units.log")).unwrap_or_default();
    let unit = |part: Part| format!("quad-{}@.service", part.binary());
    let mut services = Part::ALL.map(|part| Service::start(&unit(part), &pipeline, &config));
    for service in &mut services {
        assert!(within(PATIENCE, || service.said("READY=1") == 1), "{}", log());
    }
    assert!(within(PATIENCE, || wire.units() >= 30), "{}", log());
    for service in &mut services {
        assert!(within(3 * WATCHDOG, || service.said("WATCHDOG=1") >= 3), "{:?}", service.heard);
        // What the units allow; systemd would have killed it by then.
        assert!(service.longest_silence() < WATCHDOG, "{:?}", service.heard);
    }
    for part in [Part::Encode, Part::Net] {
        let service = &mut services[part as usize];
        kill(service.pid(), Signal::SIGKILL).unwrap();
        service.process.0.wait().unwrap();
        *service = Service::start(&unit(part), &pipeline, &config);
        assert!(within(PATIENCE, || service.said("READY=1") == 1), "{part:?}: {}", log());
        let units = wire.units();
        assert!(within(PATIENCE, || wire.units() >= units + 30), "{part:?}: {}", log());
    }
    for service in &mut services {
        assert_eq!(service.stop(), Some(0), "{}", log());
    }
    pipeline.remove();
    let (_, faults) = in_order(&wire.packets());
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
}

/// A source that is slower than the units' watchdog, or a writer that pauses for longer, is no hang.
#[test]
fn the_capture_unit_shows_signs_of_life_however_seldom_its_source_gives_a_frame() {
    let fifo_of = |pipeline: &mut Pipeline| {
        let path = pipeline.folder().join("frames.y4m");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        pipeline.set("capture.source", "file").set("capture.path", path.to_str().unwrap());
        path
    };
    for rate in ["1", "1/5", "fifo"] {
        let mut pipeline = Pipeline::new("seldomunit", free_rtp_port());
        let fifo = (rate == "fifo").then(|| fifo_of(&mut pipeline));
        if fifo.is_none() {
            pipeline.set("capture.fps", rate);
        }
        let config = configuration(&pipeline);
        let log = || std::fs::read_to_string(pipeline.folder().join("units.log")).unwrap_or_default();
        let mut service = Service::start("quad-kernel-a-capture@.service", &pipeline, &config);
        // Its header and one frame come, and then nothing for as long as it lives.
        let writer = fifo.map(|path| {
            let mut writer = std::fs::File::options().read(true).write(true).open(path).unwrap();
            writer.write_all(b"YUV4MPEG2 W64 H64 F30:1 Ip C420\nFRAME\n").unwrap();
            writer.write_all(&[90; 64 * 64 * 3 / 2]).unwrap();
            writer
        });
        assert!(within(PATIENCE, || service.said("READY=1") == 1), "{rate}: {}", log());
        std::thread::sleep(3 * WATCHDOG);
        let silence = service.longest_silence();
        println!("{rate}: {} signs of life, longest silence {silence:?}", service.said("WATCHDOG=1"));
        // A turn of its loop a second apart leaves no room for another second.
        assert!(silence < WATCHDOG * 3 / 4, "{rate}: {:?}", service.heard);
        assert!(service.said("WATCHDOG=1") >= 6, "{rate}: {:?}", service.heard);
        assert_eq!(service.stop(), Some(0), "{rate}: {}", log());
        drop(writer);
        pipeline.remove();
    }
}
