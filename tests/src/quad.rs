//! The user's command around the real kernels.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use crate::build::{binaries, root};
use crate::pipeline::Pipeline;
use serde_json::Value;
use std::process::{Command, Output, Stdio};

/// An instance under `scripts/quad`. Dropping it takes it down.
pub struct Quad {
    /// Its name, ports and settings.
    pub pipeline: Pipeline,
}

impl Quad {
    /// A 720p30 pattern to `port`.
    pub fn new(label: &str, port: u16) -> Quad {
        let mut pipeline = Pipeline::new(label, port);
        pipeline.set("capture.fps", "30").set("capture.max_latency_ms", "2000");
        Quad { pipeline }
    }

    /// `scripts/quad` with these arguments.
    pub fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(root().join("scripts/quad"));
        command.args(arguments).args(["--instance", self.pipeline.instance()]).stdin(Stdio::null());
        command.env("QUAD_BIN_DIR", binaries()).env("XDG_RUNTIME_DIR", self.pipeline.folder());
        command.env_remove("QUAD_LOG").env_remove("NOTIFY_SOCKET");
        command.output().unwrap()
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
