//! The shape that outside checks rely on, from real shared memory.

use std::os::fd::AsFd as _;
use std::time::Instant;

use shm_protocol::lease::{Candidate, Lease};
use shm_protocol::names;
use shm_protocol::telemetry::{Counter, Telemetry};

use super::*;

/// Removes the objects of a test's instance also when it fails.
struct Instance(String);

impl Instance {
    fn new(tag: &str) -> Instance {
        Instance(format!("st{tag}{}", std::process::id()))
    }

    fn start(&self, kernel: &str) -> Lease {
        let table = LeaseTable::join(&self.0).unwrap();
        Candidate::enter(&table, kernel, true).unwrap().try_activate().unwrap().unwrap_or_else(|_| panic!("held"))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        names::existing(&self.0).iter().for_each(|name| names::unlink(name));
    }
}

fn json(status: &Status) -> serde_json::Value {
    serde_json::from_str(&status.to_json()).unwrap()
}

#[test]
fn nothing_at_all_is_stopped_and_no_failure() {
    let status = collect("no-such-instance", None, None);
    assert_eq!((status.state.exit_code(), status.kernels.len()), (2, 0));
    let config = Config::default();
    let status = collect("no-such-instance", Some(&config), None);
    assert_eq!(status.state, Overall::Stopped);
    assert!(status.kernels.iter().all(|(_, k)| k.state == State::Stopped && k.pid == 0 && k.epoch == 0));
    let names: Vec<&str> = status.kernels.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["capture", "process", "encode", "net"]);
}

#[test]
fn the_json_has_the_names_of_the_interface() {
    let instance = Instance::new("json");
    let folder = tempfile::tempdir().unwrap();
    let runtime = RuntimeDir::locate_in(folder.path(), &instance.0).unwrap();
    runtime.create().unwrap();
    std::fs::write(
        runtime.path().join("outputs.net.main.json"),
        r#"[{"kind":"rtp","url":"rtp://127.0.0.1:5004","sdp":"/x.sdp"},{"kind":"http","url":"http://127.0.0.1:8080/"}]"#,
    )
    .unwrap();
    let config = Config::from_toml("[encode.instances.web]").unwrap();
    let leases: Vec<Lease> = ["capture.main", "process.main", "encode.main", "encode.web", "net.main"]
        .iter()
        .map(|kernel| {
            let lease = instance.start(kernel);
            let page = Telemetry::create(&instance.0, kernel, lease.epoch()).unwrap();
            page.set_backend("openh264");
            page.set_codec("h264");
            page.set_path("read in place");
            page.set_cpus(&[1]);
            page.set(Counter::Viewers, 2);
            let now = monotonic_ns();
            page.frame(now);
            page.sample(Measure::Work, now, 1_000_000);
            page.sample(Measure::Wait, now, 20_000);
            page.sample(Measure::CaptureToWire, now, 3_000_000);
            lease.beat();
            lease.running();
            lease
        })
        .collect();
    let began = Instant::now();
    let status = collect(&instance.0, Some(&config), Some(&runtime));
    let took = began.elapsed();
    let all = json(&status);
    assert_eq!(all["instance"], instance.0.as_str());
    assert_eq!((all["state"].as_str(), status.state.exit_code()), (Some("running"), 0));
    for kernel in ["capture", "process", "encode", "encode.web", "net"] {
        let k = &all["kernels"][kernel];
        assert_eq!(k["state"], "running", "{all}");
        assert_eq!(
            (k["pid"].as_u64(), k["epoch"].as_u64(), k["restarts"].as_u64()),
            (Some(std::process::id().into()), Some(1), Some(0))
        );
        assert_eq!((k["frames"].as_u64(), k["dropped"].as_u64(), k["errors"].as_u64()), (Some(1), Some(0), Some(0)));
        assert_eq!(k["cpus"], serde_json::json!([1]));
        assert!(k["fps"].is_f64() && k["cpu_percent"].is_f64() && k["backend"] == "openh264");
        let latency = &all["latency_us"][kernel];
        assert_eq!((latency["p50"].as_f64(), latency["wait_us"]["p99"].as_f64()), (Some(1000.0), Some(20.0)));
        // Only encoders have a codec.
        assert_eq!(k["codec"].is_string(), kernel.starts_with("encode"));
    }
    let wire = &all["latency_us"]["capture_to_wire"];
    assert!(["p50", "p95", "p99", "max"].iter().all(|p| wire[p] == 3000.0), "{wire}");
    assert_eq!(all["outputs"][0]["sdp"], "/x.sdp");
    assert_eq!(all["outputs"][1].get("sdp"), None);
    assert_eq!(all["rings"], serde_json::json!({}));
    // Generous: an unoptimised build on a busy machine.
    assert!(took.as_millis() < 50, "{took:?}");
    drop(leases);
    let dead = collect(&instance.0, Some(&config), None);
    assert_eq!((dead.state, dead.kernels[0].1.state), (Overall::Stopped, State::Dead));
}

#[test]
fn a_kernel_is_told_apart_by_what_it_does() {
    let instance = Instance::new("states");
    let config = Config::load(None, &["hang_timeout_ms=100".to_owned()]).unwrap();
    let look = || collect(&instance.0, Some(&config), None);
    let lease = instance.start("encode.main");
    assert_eq!(look().kernel("encode").unwrap().state, State::Recovering);
    lease.running();
    assert_eq!(look().kernel("encode").unwrap().state, State::Running);
    assert_eq!(look().state, Overall::Degraded);
    std::thread::sleep(std::time::Duration::from_millis(150));
    assert_eq!(look().kernel("encode").unwrap().state, State::Hung);
    lease.beat();
    assert_eq!(look().kernel("encode").unwrap().state, State::Running);
    lease.stop();
    let status = look();
    assert_eq!((status.kernel("encode").unwrap().state, status.state.exit_code()), (State::Stopped, 2));
    let lease = instance.start("encode.main");
    assert_eq!(look().kernel("encode").unwrap().restarts, 1);
    drop(lease);
}

#[test]
fn a_supervisor_is_known_by_its_lock_and_not_by_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("supervisor.pid");
    assert_eq!(supervisor_pid(&path), None);
    std::fs::write(&path, "1\n").unwrap();
    assert_eq!(supervisor_pid(&path), None, "process 1 lives but holds no lock");
    let file = File::options().write(true).open(&path).unwrap();
    let lock =
        libc::flock { l_type: libc::F_WRLCK as i16, l_whence: libc::SEEK_SET as i16, l_start: 0, l_len: 0, l_pid: 0 };
    fcntl(file.as_fd(), FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    assert_eq!(supervisor_pid(&path), Some(1));
    drop(file);
    assert_eq!(supervisor_pid(&path), None);
}

#[test]
fn a_listener_on_every_address_is_watched_through_loopback() {
    let url = |listen: &str| watch_url(listen.parse().unwrap());
    assert_eq!(url("0.0.0.0:8080"), "http://127.0.0.1:8080/");
    assert_eq!(url("[::]:8080"), "http://[::1]:8080/");
    assert_eq!(url("192.0.2.7:81"), "http://192.0.2.7:81/");
}
