//! Supervision with stand-in kernels: real processes, real signals, real leases.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod common;

use std::time::{Duration, Instant};

use common::{Instance, code, send, stderr, stdout, wait};
use nix::sys::signal::Signal;

const KERNELS: [&str; 4] = ["capture.main", "process.main", "encode.main", "net.main"];

#[test]
fn up_streams_and_down_leaves_nothing() {
    let instance = Instance::new("updown");
    let began = Instant::now();
    let up = instance.up(&["--set", "net.rtp.destination=127.0.0.1:6101"]);
    let took = began.elapsed();
    assert_eq!(code(&up), 0);
    assert!(took < Duration::from_secs(2), "{took:?}");
    let said = stdout(&up);
    for part in
        ["first frame on the wire", "rtp://127.0.0.1:6101", "net.main.sdp", "ffplay -protocol_whitelist", "Watch"]
    {
        assert!(said.contains(part), "{part} is missing in {said}");
    }
    let (status, exit) = instance.status();
    assert_eq!((exit, status["state"].as_str()), (0, Some("running")));
    for kernel in ["capture", "process", "encode", "net"] {
        assert_eq!(status["kernels"][kernel]["state"], "running");
        assert_eq!(status["kernels"][kernel]["restarts"], 0);
        assert!(!status["kernels"][kernel]["cpus"].as_array().unwrap().is_empty());
    }
    // Placed, with the settings of the start.
    for kernel in KERNELS {
        let (_, line) = &instance.starts(kernel)[0];
        let kind = kernel.trim_end_matches(".main");
        assert!(line.contains(&format!("--set {kind}.cpus=\"")) && line.contains("hang_timeout_ms=500"), "{line}");
    }
    let pids: Vec<u32> = KERNELS.iter().map(|kernel| instance.lease(kernel).unwrap().pid).collect();
    assert!(stdout(&instance.quad(&["list"])).contains(&instance.name));
    assert_eq!(code(&instance.quad(&["logs"])), 0);
    assert_eq!(code(&instance.quad(&["down"])), 0);
    instance.assert_gone();
    assert!(pids.iter().all(|pid| !std::path::Path::new(&format!("/proc/{pid}")).exists()));
    assert_eq!(code(&instance.quad(&["status"])), 2);
    assert_eq!(code(&instance.quad(&["down"])), 0, "a second time");
}

#[test]
fn a_second_up_is_refused_and_harms_nothing() {
    let instance = Instance::new("second");
    assert_eq!(code(&instance.up(&[])), 0);
    let before = instance.lease("encode.main").unwrap();
    let again = instance.up(&[]);
    assert_eq!(code(&again), 64);
    assert!(stderr(&again).contains("already running"), "{}", stderr(&again));
    assert_eq!(instance.lease("encode.main").unwrap().pid, before.pid);
    assert_eq!(instance.status().1, 0);
}

#[test]
fn a_killed_kernel_comes_back_at_once_and_the_others_stay() {
    let instance = Instance::new("kill");
    assert_eq!(code(&instance.up(&[])), 0);
    for kernel in KERNELS {
        let before = instance.lease(kernel).unwrap();
        // It has made frames: any number of deaths in a row is followed by a restart at once.
        std::thread::sleep(Duration::from_millis(30));
        let killed = Instant::now();
        send(before.pid, Signal::SIGKILL);
        let after = instance.next_epoch(kernel, before.epoch);
        assert!(killed.elapsed() < Duration::from_millis(1000), "{kernel} {:?}", killed.elapsed());
        assert_ne!(after.pid, before.pid);
    }
    let (status, exit) = instance.status();
    assert_eq!(exit, 0);
    assert!(["capture", "process", "encode", "net"].iter().all(|k| status["kernels"][k]["restarts"] == 1), "{status}");
}

#[test]
fn endings_that_mean_it_are_not_followed_by_a_restart() {
    for (exit, text) in [("78", "configuration error"), ("64", "command line")] {
        let instance = Instance::new(&format!("exit{exit}"));
        assert_eq!(code(&instance.up(&[])), 0);
        let before = instance.lease("encode.main").unwrap();
        instance.order("encode.main.exit", exit);
        send(before.pid, Signal::SIGKILL);
        wait(Duration::from_secs(5), || instance.log("supervisor").contains("not restarted").then_some(())).unwrap();
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(instance.starts("encode.main").len(), 2, "started once more, then left");
        assert!(instance.log("supervisor").contains(text), "{}", instance.log("supervisor"));
        assert_eq!(instance.status().1, 1);
        // A person mended it and asks for it.
        instance.withdraw("encode.main.exit");
        assert_eq!(code(&instance.quad(&["restart", "encode"])), 0);
        assert_eq!(instance.status().1, 0);
    }
}

#[test]
fn a_fenced_ending_with_nobody_at_work_is_followed_by_a_start() {
    let instance = Instance::new("fenced");
    assert_eq!(code(&instance.up(&[])), 0);
    let before = instance.lease("encode.main").unwrap();
    instance.order("encode.main.exit", "3");
    send(before.pid, Signal::SIGKILL);
    wait(Duration::from_secs(5), || (instance.starts("encode.main").len() >= 3).then_some(())).unwrap();
    instance.withdraw("encode.main.exit");
    wait(Duration::from_secs(5), || (instance.status().1 == 0).then_some(())).unwrap();
}

#[test]
fn a_kernel_that_dies_without_a_frame_is_spaced_out_from_the_third_time() {
    let instance = Instance::new("barren");
    assert_eq!(code(&instance.up(&[])), 0);
    let before = instance.lease("process.main").unwrap();
    instance.order("process.main.barren", "");
    send(before.pid, Signal::SIGKILL);
    // At once: after the kill, after the first and the second barren death; then 100, 200, 400, 800 ms.
    std::thread::sleep(Duration::from_millis(1200));
    let starts = instance.starts("process.main").len() - 1;
    assert!((5..=7).contains(&starts), "{starts} starts in 1.2 s");
    instance.withdraw("process.main.barren");
    instance.next_epoch("process.main", before.epoch + starts as u64);
    assert_eq!(instance.status().1, 0);
}

#[test]
fn a_start_that_cannot_work_says_why_and_leaves_nothing() {
    for (order, text, exit) in [("exit", "told to exit with 78", 78), ("barren", "dies before its first frame", 70)] {
        let instance = Instance::new(&format!("fail{order}"));
        instance.order(&format!("net.main.{order}"), "78");
        let up = instance.up(&[]);
        assert_eq!(code(&up), exit, "{}", stderr(&up));
        assert!(stderr(&up).contains("net.main") && stderr(&up).contains(text), "{}", stderr(&up));
        instance.assert_gone();
    }
}

#[test]
fn bad_starts_are_refused_before_anything_is_made() {
    let instance = Instance::new("bad");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = format!("net.http.listen={}", taken.local_addr().unwrap());
    for (set, exit, text) in [
        ("encode.bitrate=5", 78, "encode.bitrate_kbps"),
        ("encode.cpus=4000", 78, "cpu 4000"),
        (listen.as_str(), 69, "net.http.listen"),
        ("capture.width=16384", 78, "height"),
    ] {
        let up = instance.quad(&["up", "--set", set]);
        assert_eq!(code(&up), exit, "{set}");
        assert!(stderr(&up).contains(text), "{}", stderr(&up));
        instance.assert_gone();
    }
    let output = instance.quad(&["up", "-c", "/nonexistent/quad.toml"]);
    assert_eq!(code(&output), 78);
    assert_eq!(code(&instance.quad(&["up", "--nonsense"])), 64);
    assert_eq!(code(&instance.quad(&["restart", "encode"])), 69, "nothing runs");
    instance.assert_gone();
}

#[test]
fn a_new_up_adopts_what_a_killed_supervisor_left() {
    let instance = Instance::new("adopt");
    assert_eq!(code(&instance.up(&[])), 0);
    send(instance.supervisor().unwrap(), Signal::SIGKILL);
    wait(Duration::from_secs(5), || instance.supervisor().is_none().then_some(())).unwrap();
    let before: Vec<u32> = KERNELS.iter().map(|kernel| instance.lease(kernel).unwrap().pid).collect();
    assert_eq!(instance.status().1, 0, "kernels do not notice");
    // One dies meanwhile: the new supervisor starts that one alone.
    send(before[2], Signal::SIGKILL);
    wait(Duration::from_secs(5), || (!instance.lease("encode.main").unwrap().held).then_some(())).unwrap();
    let up = instance.up(&[]);
    assert_eq!(code(&up), 0);
    assert!(stdout(&up).contains("adopted 3 running kernels, started 1 more"), "{}", stdout(&up));
    // The one that is new has the lock a moment before the record is its own.
    let epoch = |kernel: &str| u64::from(kernel == "encode.main");
    let after: Vec<u32> = KERNELS.iter().map(|kernel| instance.next_epoch(kernel, epoch(kernel)).pid).collect();
    assert_eq!((after[0], after[1], after[3]), (before[0], before[1], before[3]));
    assert_ne!(after[2], before[2]);
    // Adopted ones are watched as its own are.
    let net = instance.lease("net.main").unwrap();
    send(net.pid, Signal::SIGKILL);
    instance.next_epoch("net.main", net.epoch);
    assert_eq!(code(&instance.quad(&["restart", "process"])), 0, "an adopted one ends on request");
    assert_eq!(code(&instance.quad(&["down"])), 0);
    instance.assert_gone();
}

#[test]
fn an_adopting_up_takes_nothing_down_for_what_is_silent_or_does_not_start() {
    let instance = Instance::new("silent");
    assert_eq!(code(&instance.up(&[])), 0);
    // Kernel D's next process puts nothing on the wire: its source has a pause.
    instance.order("net.main.silent", "");
    let net = instance.lease("net.main").unwrap();
    send(net.pid, Signal::SIGKILL);
    instance.next_epoch("net.main", net.epoch);
    let orphan = || {
        send(instance.supervisor().unwrap(), Signal::SIGKILL);
        wait(Duration::from_secs(5), || instance.supervisor().is_none().then_some(())).unwrap();
    };
    orphan();
    let began = Instant::now();
    let up = instance.up(&[]);
    assert_eq!(code(&up), 0);
    assert!(stdout(&up).contains("adopted 4 running kernels"), "{}", stdout(&up));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
    // And one that cannot start any more costs the others nothing.
    orphan();
    let before = instance.lease("capture.main").unwrap();
    instance.order("encode.main.exit", "78");
    send(instance.lease("encode.main").unwrap().pid, Signal::SIGKILL);
    let up = instance.up(&[]);
    assert_eq!(code(&up), 0, "{}", stderr(&up));
    assert!(stdout(&up).contains("Adopted 3 running kernels. encode.main does not start"), "{}", stdout(&up));
    assert_eq!((instance.lease("capture.main").unwrap().pid, instance.status().1), (before.pid, 1));
    instance.withdraw("encode.main.exit");
    assert_eq!(code(&instance.quad(&["restart", "encode"])), 0);
    assert_eq!(code(&instance.quad(&["down"])), 0);
    instance.assert_gone();
}

#[test]
fn down_after_the_death_of_the_supervisor_leaves_nothing() {
    let instance = Instance::new("orphan");
    assert_eq!(code(&instance.up(&["--set", "encode.standby=true"])), 0);
    wait(Duration::from_secs(5), || (instance.starts("encode.main").len() == 2).then_some(())).unwrap();
    send(instance.supervisor().unwrap(), Signal::SIGKILL);
    wait(Duration::from_secs(5), || instance.supervisor().is_none().then_some(())).unwrap();
    assert_eq!(code(&instance.quad(&["down"])), 0);
    instance.assert_gone();
}

#[test]
fn down_ends_also_a_supervisor_and_kernels_that_are_stopped() {
    let instance = Instance::new("stopped");
    assert_eq!(code(&instance.up(&["--set", "hang_timeout_ms=60000"])), 0);
    send(instance.lease("capture.main").unwrap().pid, Signal::SIGSTOP);
    send(instance.supervisor().unwrap(), Signal::SIGSTOP);
    let began = Instant::now();
    assert_eq!(code(&instance.quad(&["down"])), 0);
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    instance.assert_gone();
}

#[test]
fn a_kernel_that_hangs_is_replaced() {
    let instance = Instance::new("hang");
    assert_eq!(code(&instance.up(&[])), 0);
    let before = instance.lease("encode.main").unwrap();
    send(before.pid, Signal::SIGSTOP);
    let hung = Instant::now();
    instance.next_epoch("encode.main", before.epoch);
    let took = hung.elapsed();
    assert!((Duration::from_millis(450)..Duration::from_millis(2000)).contains(&took), "{took:?}");
    assert!(instance.log("supervisor").contains("No sign of life"));
    assert_eq!(instance.status().1, 0);
}

#[test]
fn a_standby_takes_over_and_gets_a_successor() {
    let instance = Instance::new("standby");
    assert_eq!(code(&instance.up(&["--set", "encode.standby=true"])), 0);
    wait(Duration::from_secs(5), || instance.lease("encode.main").filter(|info| info.candidate_ready)).unwrap();
    let before = instance.lease("encode.main").unwrap();
    assert_eq!(instance.status().0["kernels"]["encode"]["standby_pid"], before.candidate_pid);
    send(before.pid, Signal::SIGKILL);
    assert_eq!(instance.next_epoch("encode.main", before.epoch).pid, before.candidate_pid);
    let third = wait(Duration::from_secs(5), || {
        instance.lease("encode.main").filter(|info| info.candidate_ready && info.candidate_pid != before.candidate_pid)
    });
    assert!(third.is_some());
    let starts = instance.starts("encode.main");
    assert_eq!(starts.len(), 3);
    assert!(!starts[0].1.contains("--standby") && starts[1].1.contains("--standby"));
}

#[test]
fn a_standby_that_took_over_while_nobody_watched_is_the_one_in_the_pid_file() {
    let instance = Instance::new("pidfile");
    assert_eq!(code(&instance.up(&["--set", "encode.standby=true"])), 0);
    wait(Duration::from_secs(5), || instance.lease("encode.main").filter(|info| info.candidate_ready)).unwrap();
    send(instance.supervisor().unwrap(), Signal::SIGKILL);
    wait(Duration::from_secs(5), || instance.supervisor().is_none().then_some(())).unwrap();
    let before = instance.lease("encode.main").unwrap();
    send(before.pid, Signal::SIGKILL);
    assert_eq!(instance.next_epoch("encode.main", before.epoch).pid, before.candidate_pid);
    assert_eq!(code(&instance.up(&["--set", "encode.standby=true"])), 0);
    let file = |name: &str| std::fs::read_to_string(instance.runtime().path().join(name)).unwrap_or_default();
    assert_eq!(file("encode.main.pid").lines().next(), Some(before.candidate_pid.to_string().as_str()));
    // And it gets a standby of its own.
    let third = wait(Duration::from_secs(5), || {
        instance.lease("encode.main").filter(|info| info.candidate_ready && info.candidate_pid != before.candidate_pid)
    });
    let third = third.unwrap().candidate_pid.to_string();
    assert_eq!(file("encode.main.standby.pid").lines().next(), Some(third.as_str()));
}

#[test]
fn a_lease_table_damaged_by_hand_is_replaced_and_every_kernel_begins_anew() {
    for (tag, word) in [("unlink", "was removed"), ("cut", "was truncated")] {
        let instance = Instance::new(tag);
        assert_eq!(code(&instance.up(&["--set", "encode.standby=true"])), 0);
        wait(Duration::from_secs(5), || (instance.starts("encode.main").len() == 2).then_some(())).unwrap();
        let table =
            std::path::Path::new(shm_protocol::names::SHM_DIR).join(shm_protocol::names::leases(&instance.name));
        let before: Vec<u32> = KERNELS.iter().map(|kernel| instance.lease(kernel).unwrap().pid).collect();
        let damaged = Instant::now();
        match tag {
            "unlink" => std::fs::remove_file(&table).unwrap(),
            _ => std::fs::OpenOptions::new().write(true).open(&table).unwrap().set_len(0).unwrap(),
        }
        for (kernel, before) in KERNELS.iter().zip(&before) {
            assert_ne!(instance.next_epoch(kernel, 0).pid, *before, "{kernel}");
        }
        assert!(damaged.elapsed() < Duration::from_secs(2), "{:?}", damaged.elapsed());
        let log = instance.log("supervisor");
        assert_eq!(log.matches(word).count(), 1, "{log}");
        assert_eq!(instance.status().1, 0);
        // Supervision is what it was.
        let encode = instance.lease("encode.main").unwrap();
        send(encode.pid, Signal::SIGKILL);
        instance.next_epoch("encode.main", encode.epoch);
        assert_eq!(code(&instance.quad(&["down"])), 0);
        instance.assert_gone();
    }
}

#[test]
fn restart_returns_when_the_next_epoch_runs() {
    let instance = Instance::new("restart");
    assert_eq!(code(&instance.up(&[])), 0);
    let before = instance.lease("capture.main").unwrap();
    let output = instance.quad(&["restart", "capture"]);
    assert_eq!(code(&output), 0);
    let after = instance.lease("capture.main").unwrap();
    assert!(after.epoch == before.epoch + 1 && after.pid != before.pid && after.held);
    assert!(stdout(&output).contains("epoch 2"), "{}", stdout(&output));
    for (wrong, exit) in [("encoder", 64), ("encode.web", 64)] {
        assert_eq!(code(&instance.quad(&["restart", wrong])), exit, "{wrong}");
    }
}

#[test]
fn only_live_keys_are_set() {
    let instance = Instance::new("set");
    assert!(stdout(&instance.quad(&["set"])).contains("encode.bitrate_kbps"));
    assert_eq!(code(&instance.quad(&["set", "encode.bitrate_kbps=3000"])), 69, "not running");
    assert_eq!(code(&instance.up(&["--set", "capture.max_latency_ms=50"])), 0);
    let fixed = instance.quad(&["set", "encode.gop=1s"]);
    assert_eq!(code(&fixed), 64);
    assert!(stderr(&fixed).contains("quad restart encode"), "{}", stderr(&fixed));
    assert_eq!(code(&instance.quad(&["set", "encode.bitrate_kbps=none"])), 78);
    assert_eq!(code(&instance.quad(&["set", "encode.bitrate=3000"])), 78);
    // The stand-in catches no SIGHUP: it is not sent one, and the setting waits for its restart.
    assert_eq!(code(&instance.quad(&["set", "capture.max_latency_ms=20"])), 75);
    assert_eq!(code(&instance.quad(&["restart", "capture"])), 0);
    let (_, line) = instance.starts("capture.main").pop().unwrap();
    assert!(!line.contains("max_latency_ms"), "the start's setting would go before it: {line}");
    let kept = std::fs::read_to_string(instance.runtime().overrides()).unwrap();
    assert_eq!(kept, "\"capture.max_latency_ms\" = 20\n");
}

#[test]
fn in_the_foreground_an_interrupt_ends_all() {
    let instance = Instance::new("front");
    let line = [&instance.up_line()[..], &["--foreground"]].concat();
    let mut front = instance.command(&line).stdout(std::process::Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(front.stdout.as_mut().unwrap()), &mut said).unwrap();
    assert!(said.contains("first frame on the wire"), "{said}");
    assert_eq!(instance.supervisor(), Some(front.id()));
    send(front.id(), Signal::SIGINT);
    assert_eq!(front.wait().unwrap().code(), Some(0));
    instance.assert_gone();
}

#[test]
fn doctor_answers_in_json() {
    let instance = Instance::new("doctor");
    let output = instance.quad(&["doctor", "--json"]);
    assert_eq!(code(&output), 0);
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(found["findings"].as_array().unwrap().iter().any(|f| f["name"] == "openh264" && f["usable"] == true));
    assert_eq!(found["encoders"][0]["why"], "as a stand-in says", "{found}");
}
