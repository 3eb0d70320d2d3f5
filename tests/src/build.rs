//! The binaries under test, built once by the tests themselves.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

/// Root of the repository.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// Folder of the four release binaries (and of quadctl and quad-bench): `QUAD_BIN_DIR`, or what `cargo build` makes now.
pub fn binaries() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| match std::env::var_os("QUAD_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => build(),
    })
}

fn build() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let packages = [
        "kernel-a-capture",
        "kernel-b-process",
        "kernel-c-encode",
        "quick-sync-core",
        "kernel-d-net",
        "quadctl",
        "quad-bench",
    ];
    let output = Command::new(cargo)
        .current_dir(root())
        .args(["build", "--release", "--locked", "--message-format=json-render-diagnostics"])
        .args(packages.iter().flat_map(|package| ["-p", package]))
        .stderr(Stdio::inherit())
        .output()
        .expect("Cargo must run");
    assert!(output.status.success(), "The binaries under test do not build");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let executable = text.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let path = PathBuf::from(message["executable"].as_str()?);
        path.ends_with("kernel-a-capture").then_some(path)
    });
    executable.expect("Cargo names the executables it made").parent().unwrap().to_owned()
}
