//! A destination whose name has no address: an error of whoever begins a stream, a passing trouble of one that runs.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use kernel_d_net::outputs::rtp::session::{Constants, SESSION_WORDS, Session};
use shm_protocol::names;
use shm_protocol::words::Words;
use std::process::{Command, Output};
use std::sync::atomic::AtomicU64;

struct Instance(String, tempfile::TempDir);

impl Instance {
    fn run(&self) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_kernel-d-net"));
        command.args(["--instance", &self.0, "--set", "net.rtp.destination=no-such-host.invalid:5004"]);
        command.args(["--set", "net.http.enabled=false"]);
        command.env("XDG_RUNTIME_DIR", self.1.path()).env_remove("QUAD_LOG").output().unwrap()
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        names::existing(&self.0).iter().for_each(|name| names::unlink(name));
    }
}

#[test]
fn a_running_stream_whose_destination_has_no_address_for_now_is_tried_again() {
    let instance = Instance(format!("unresolved-{}", std::process::id()), tempfile::tempdir().unwrap());
    let output = instance.run();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(78), "nothing runs yet: {said}");
    assert!(said.contains("no-such-host.invalid"), "{said}");
    // A predecessor has begun a stream, and its name server went away since.
    let words = Words::open(&names::session(&instance.0, "net.main"), SESSION_WORDS).unwrap();
    let atomics: &[AtomicU64] = &words;
    Session::create_or_resume(atomics, Constants::random(96, 40_000, 40_001, 0).unwrap(), 1200).unwrap();
    let output = instance.run();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(75), "{said}");
    assert!(said.contains("no-such-host.invalid"), "{said}");
}
