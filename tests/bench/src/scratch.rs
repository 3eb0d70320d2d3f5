//! A place for one benchmark's objects: an instance of its own, and a directory that goes with it.

use crate::interrupt;
use anyhow::{Context, Result, bail};
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
        if interrupt::has_come() {
            bail!("Interrupted");
        }
        static SERIAL: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let serial = SERIAL.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let instance = format!("{}{bench}{serial}", instance_prefix());
        let dir = dir_of(&instance);
        std::fs::create_dir_all(&dir).with_context(|| dir.display().to_string())?;
        Ok(Scratch { instance, dir })
    }

    /// Removes what an instance left.
    pub fn remove(instance: &str) {
        if !matches!(LeaseTable::remove_if_dead(instance), Ok(shm_protocol::lease::Removal::Removed(_))) {
            eprintln!("Objects of instance {instance} are still in use and stay");
        }
        let _ = std::fs::remove_dir_all(dir_of(instance));
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
        Scratch::remove(&self.instance);
    }
}

/// What the names of this process's instances begin with.
fn instance_prefix() -> String {
    format!("b{}-", std::process::id())
}

/// The directory of an instance.
pub fn dir_of(instance: &str) -> PathBuf {
    std::env::temp_dir().join(format!("quad-{instance}"))
}

/// Instances of this process that are there now.
pub fn living() -> Vec<String> {
    let directories = std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten();
    let names = directories.filter_map(|entry| entry.file_name().into_string().ok());
    let own = names.filter_map(|name| name.strip_prefix("quad-").map(str::to_owned));
    own.filter(|instance| instance.starts_with(&instance_prefix())).collect()
}
