//! Ctrl-C in a benchmark leaves no object, no directory and no process behind.
#![allow(clippy::unwrap_used, reason = "helpers of tests stop the test")]

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use system_tests::build::binaries;

const PATIENCE: Duration = Duration::from_secs(60);

fn within(look: impl Fn() -> bool) -> bool {
    let until = Instant::now() + PATIENCE;
    while !look() {
        if Instant::now() > until {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

fn names(folder: &std::path::Path, part: &str) -> Vec<String> {
    let entries = std::fs::read_dir(folder).unwrap().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).filter(|name| name.contains(part)).collect()
}

/// Processes that have this in their command line.
fn processes(part: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " ")).filter(|line| line.contains(part)).collect()
}

#[test]
fn an_interrupted_benchmark_leaves_nothing_behind() {
    // Two processes that spin for each other; four kernels; a supervisor, which is no child.
    for (bench, objects) in [("ring", 1), ("8k120", 4), ("recovery", 4)] {
        let mut command = Command::new(binaries().join("quad-bench"));
        command.arg(bench).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // A group of its own, as a shell gives it: Ctrl-C goes to all of it.
        let child = command.process_group(0).spawn().unwrap();
        let own = format!("b{}-", child.id());
        let shm = std::path::Path::new("/dev/shm");
        assert!(within(|| names(shm, &own).len() > objects), "{bench}: {:?}", names(shm, &own));
        killpg(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(130), "{bench}: {said}");
        assert_eq!(names(shm, &own), Vec::<String>::new(), "{bench}: {said}");
        assert_eq!(names(&std::env::temp_dir(), &own), Vec::<String>::new(), "{bench}: {said}");
        assert_eq!(processes(&own), Vec::<String>::new(), "{bench}: {said}");
    }
}
