//! A short soak: two hundred SIGKILLs spread over all four kernels, and everything else that may befall them.

use std::process::{Command, Stdio};
use system_tests::build::binaries;
use system_tests::tools::{have, need, skip};

/// Runs the soak under `seed`; it must end with everything held.
fn soak(seed: u64, more: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_quad-soak"))
        .args(["--seed", &seed.to_string(), "--size", "640x360"])
        .args(more)
        .env("QUAD_BIN_DIR", binaries())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output();
    let output = match output {
        Ok(output) => output,
        Err(error) => panic!("The soak does not start: {error}"),
    };
    let table = String::from_utf8_lossy(&output.stdout);
    println!("{table}");
    assert!(output.status.success(), "Seed {seed}: {}\n{table}", output.status);
}

#[test]
fn two_hundred_kills_lose_nothing_of_a_lossless_stream() {
    if !need("soak: two hundred kills", &["ffmpeg"]) {
        return;
    }
    let receiver = if have("gst-launch-1.0") {
        "both"
    } else {
        skip("soak: rtpbin", "gst-launch-1.0 is not installed");
        "ffmpeg"
    };
    soak(3, &["--kills", "200", "--receiver", receiver]);
}

#[test]
fn a_live_stream_under_attack_loses_what_it_says_it_dropped() {
    if need("soak: live", &["ffmpeg"]) {
        soak(4, &["--kills", "40", "--policy", "live"]);
    }
}
