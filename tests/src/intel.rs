//! A machine that has an Intel device as far as software can tell: our oneVPL runtime and our libva driver in place of
//! Intel's, over software encoders.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use crate::build::root;
use crate::quad::Quad;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use tempfile::TempDir;

/// What stands in for a render node: with the driver's library preloaded any file will do.
pub const NODE: &str = "/dev/null";

/// Folder of both libraries as cargo builds them.
fn libraries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .current_dir(root())
            .args(["build", "--release", "--locked", "--lib", "-p", "vpl-fixture", "-p", "va-fixture"])
            .arg("--message-format=json-render-diagnostics")
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success(), "The fixtures do not build");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let messages = text.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let files = messages.filter_map(|m| m["filenames"].as_array().cloned()).flatten();
        let mut paths = files.filter_map(|file| file.as_str().map(PathBuf::from));
        let runtime = paths.find(|path| path.ends_with("libquadvpl.so") || path.ends_with("libva_fixture.so"));
        runtime.unwrap().parent().unwrap().to_owned()
    })
}

/// The two libraries under the names that dispatcher and libva look for.
pub struct Intel {
    folder: TempDir,
}

impl Intel {
    /// Builds and places them.
    pub fn new() -> Intel {
        let folder = tempfile::tempdir().unwrap();
        let link = |name: &str, place: &str| {
            std::os::unix::fs::symlink(libraries().join(name), folder.path().join(place)).unwrap();
        };
        link("libquadvpl.so", "libvplquad.so");
        link("libva_fixture.so", "quad_drv_video.so");
        Intel { folder }
    }

    /// Gives an instance that is not up yet this machine, with these variables of the fixtures.
    pub fn equip(&self, quad: &mut Quad, variables: &[(&str, &str)]) {
        let folder = self.folder.path().to_str().unwrap();
        quad.set_variable("ONEVPL_PRIORITY_PATH", folder);
        quad.set_variable("LIBVA_DRIVERS_PATH", folder);
        quad.set_variable("LIBVA_DRIVER_NAME", "quad");
        quad.set_variable("LD_PRELOAD", &format!("{folder}/quad_drv_video.so"));
        variables.iter().for_each(|(name, value)| quad.set_variable(name, value));
    }

    /// Where a fixture may write its record.
    pub fn record(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

impl Default for Intel {
    fn default() -> Intel {
        Intel::new()
    }
}

/// What is missing for a stream through it, if anything is.
pub fn missing() -> Option<&'static str> {
    let library = |name: &str| Path::new("/usr/lib/x86_64-linux-gnu").join(name).exists();
    if !library("libvpl.so.2") {
        Some("libvpl2 is not installed")
    } else if !library("libva-drm.so.2") {
        Some("libva-drm2 is not installed")
    } else {
        None
    }
}
