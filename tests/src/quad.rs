//! The user's command around the real kernels.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use crate::build::{binaries, root};
use crate::pipeline::{Part, Pipeline, free_rtp_port};
use crate::tools::within;
use crate::wire::Wire;
use serde_json::Value;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

/// An instance under `scripts/quad`. Dropping it takes it down.
pub struct Quad {
    /// Its name, ports and settings.
    pub pipeline: Pipeline,
    environment: Vec<(String, String)>,
}

impl Quad {
    /// A 720p30 pattern to `port`.
    pub fn new(label: &str, port: u16) -> Quad {
        let mut pipeline = Pipeline::new(label, port);
        pipeline.set("capture.fps", "30").set("capture.max_latency_ms", "2000");
        Quad { pipeline, environment: Vec::new() }
    }

    /// A lossless 720p30 pattern that has come up with these further arguments and is received.
    pub fn streaming(label: &str, more: &[&str]) -> (Quad, Wire) {
        const PATIENCE: Duration = Duration::from_secs(20);
        let port = free_rtp_port();
        let wire = Wire::listen(port);
        let mut quad = Quad::new(label, port);
        quad.pipeline.set("capture.policy", "lossless");
        let output = quad.up(more);
        assert!(output.status.success(), "{}", said(&output));
        assert!(within(PATIENCE, || wire.units() >= 30), "{}", said(&quad.run(&["logs"])));
        (quad, wire)
    }

    /// A variable in the environment of what is started from now on.
    pub fn set_variable(&mut self, name: &str, value: &str) {
        self.environment.push((name.to_owned(), value.to_owned()));
    }

    /// `scripts/quad` with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// The same, not run yet.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(root().join("scripts/quad"));
        command.args(arguments).args(["--instance", self.pipeline.instance()]).stdin(Stdio::null());
        command.env("QUAD_BIN_DIR", binaries()).env("XDG_RUNTIME_DIR", self.pipeline.folder());
        command.env_remove("QUAD_LOG").env_remove("NOTIFY_SOCKET");
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command
    }

    /// `scripts/quad up`.
    pub fn up(&self, more: &[&str]) -> Output {
        let settings = self.pipeline.settings().iter().flat_map(|setting| ["--set", setting.as_str()]);
        let arguments: Vec<&str> = ["up"].into_iter().chain(settings).chain(more.iter().copied()).collect();
        self.run(&arguments)
    }

    /// Exit code and JSON of `scripts/quad status`.
    pub fn status(&self) -> (Option<i32>, Value) {
        let output = self.run(&["status", "--json"]);
        (output.status.code(), serde_json::from_slice(&output.stdout).unwrap_or_default())
    }

    /// Process id of a kernel as the status names it.
    pub fn pid(&self, part: Part) -> u32 {
        let status = self.status().1;
        let pid = status["kernels"][part.short()]["pid"].as_u64();
        pid.unwrap_or_else(|| panic!("{part:?} has no process: {status}")) as u32
    }

    /// Process id of the supervisor.
    pub fn supervisor(&self) -> u32 {
        let text = std::fs::read_to_string(self.pipeline.runtime().join("supervisor.pid")).unwrap();
        text.split_ascii_whitespace().next().unwrap().parse().unwrap()
    }

    /// A log of the instance: "supervisor", "encode.main".
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.pipeline.runtime().join(format!("{name}.log"))).unwrap_or_default()
    }

    /// `scripts/quad down`, which must leave nothing.
    pub fn down(&self) {
        let output = self.run(&["down"]);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(self.pipeline.objects(), Vec::<String>::new());
        assert!(!self.pipeline.runtime().exists(), "The runtime directory is removed");
    }
}

impl Drop for Quad {
    fn drop(&mut self) {
        let _ = self.run(&["down"]);
    }
}

/// Everything a command printed.
pub fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}
