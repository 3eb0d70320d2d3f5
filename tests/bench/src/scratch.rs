//! A place for one benchmark's objects: an instance of its own, and a directory that goes with it.

use anyhow::{Context, Result};
use shm_protocol::lease::LeaseTable;
use std::path::{Path, PathBuf};

/// Removed whole at the end, whatever became of the benchmark.
#[derive(Debug)]
pub struct Scratch {
    instance: String,
    dir: PathBuf,
}

impl Scratch {
    /// A new one.
    ///
    /// # Errors
    /// When the temporary directory cannot be written.
    pub fn new(bench: &str) -> Result<Scratch> {
        static SERIAL: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let instance = format!("b{}-{bench}{serial}", std::process::id());
        let dir = std::env::temp_dir().join(format!("quad-{instance}"));
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(Scratch { instance, dir })
    }

    /// Name of the instance.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if !matches!(LeaseTable::remove_if_dead(&self.instance), Ok(shm_protocol::lease::Removal::Removed(_))) {
            eprintln!("Objects of instance {} are still in use and stay", self.instance);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
