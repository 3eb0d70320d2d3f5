//! Programs and files that not every machine has.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus};
use std::time::{Duration, Instant};

/// Whether a program is on the path.
pub fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Says that `test` did not run and why: on standard error and in the file named by `QUAD_SKIP_FILE`.
pub fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED {test}: {why}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("QUAD_SKIP_FILE") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        writeln!(file.unwrap(), "{line}").unwrap();
    }
}

/// Whether all of `programs` are there; says so when not.
pub fn need(test: &str, programs: &[&str]) -> bool {
    match programs.iter().find(|program| !have(program)) {
        Some(missing) => {
            skip(test, &format!("{missing} is not installed"));
            false
        }
        None => true,
    }
}

/// The clip of real film named by `QUAD_CLIP`.
pub fn clip(test: &str) -> Option<PathBuf> {
    let path = std::env::var_os("QUAD_CLIP").map(PathBuf::from).filter(|path| path.is_file());
    if path.is_none() {
        skip(test, "QUAD_CLIP names no clip (scripts/test fetches bigbuckbunny.mp4)");
    }
    path
}

/// The folder whose node_modules holds the browser's driver, when it, the browser and FFmpeg are there.
pub fn browser_driver(test: &str) -> Option<PathBuf> {
    if !need(test, &["node", "ffmpeg", "chromium"]) {
        return None;
    }
    let given = std::env::var_os("QUAD_NODE_MODULES").map(PathBuf::from);
    let modules = given.unwrap_or_else(|| crate::build::root().join(".cache/node/node_modules"));
    if modules.join("playwright-core").is_dir() {
        return modules.parent().map(PathBuf::from);
    }
    skip(test, "playwright-core is not there (scripts/test fetches it; QUAD_NODE_MODULES names it)");
    None
}

/// Waits until `done` holds; false when it does not within `patience`.
pub fn within(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let since = Instant::now();
    loop {
        if done() {
            return true;
        }
        if since.elapsed() > patience {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Waits for the end of a child for `patience`, then kills it. `None`: it had to be killed.
pub fn finish(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let mut status = None;
    if within(patience, || {
        status = child.try_wait().unwrap();
        status.is_some()
    }) {
        return status;
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// A child process that does not outlive its test.
#[derive(Debug)]
pub struct Owned(pub Child);

impl Owned {
    /// Starts it.
    pub fn spawn(command: &mut Command) -> Owned {
        Owned(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// Asks it to end with `signal` and waits.
    pub fn end(&mut self, signal: nix::sys::signal::Signal, patience: Duration) -> Option<ExitStatus> {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        if self.0.try_wait().unwrap().is_none() {
            let _ = nix::sys::signal::kill(pid, signal);
        }
        finish(&mut self.0, patience)
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whether the long versions of tests are asked for: QUAD_LONG=1.
pub fn long() -> bool {
    std::env::var_os("QUAD_LONG").is_some_and(|value| value == "1")
}
