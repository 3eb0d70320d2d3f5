//! scripts/fuzz, with stand-ins for the compiler and for the targets that it builds.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output};
use system_tests::build::root;
use system_tests::quad::said;

const TARGETS: [&str; 2] = ["y4m", "http"];

fn program(path: &Path, body: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, format!("#!/bin/sh\n{body}\n")).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// Runs it over both targets in `folder`, which are programs that do `body`.
fn fuzz(folder: &Path, body: &str) -> Output {
    program(&folder.join("bin/rustc"), "echo host: here");
    program(&folder.join("bin/cargo"), "exit 0");
    for target in TARGETS {
        program(&folder.join("fuzz/here/release").join(target), body);
    }
    let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap());
    let mut command = Command::new(root().join("scripts/fuzz"));
    command.args(TARGETS).args(["--seconds", "1"]).env("CARGO_TARGET_DIR", folder).env("PATH", path);
    command.output().unwrap()
}

#[test]
fn a_fuzz_target_that_did_not_come_to_its_end_is_no_success() {
    let folder = tempfile::tempdir().unwrap();
    let runs = "echo stat::number_of_executed_units: 5";
    let output = fuzz(folder.path(), runs);
    assert!(output.status.success() && said(&output).contains("fuzz: 2 targets, 0 findings"), "{}", said(&output));
    // What it finds is said and fails it.
    let output = fuzz(folder.path(), "echo panicked at here; exit 77");
    assert!(!output.status.success() && said(&output).contains("fuzz: 2 targets, 2 findings"), "{}", said(&output));
    assert!(!said(&output).contains("did not come to their end"), "{}", said(&output));
    // Where one keeps what it learns there is no room.
    std::fs::remove_dir_all(folder.path().join("fuzz/corpus/http")).unwrap();
    std::fs::write(folder.path().join("fuzz/corpus/http"), "").unwrap();
    let output = fuzz(folder.path(), runs);
    assert!(!output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("1 of 2 targets did not come to their end: http"), "{}", said(&output));
}
