//! What swaps leave behind: how many a kernel has had, and the binary it was swapped to. Kept beside the overrides, so
//! that both survive restarts of kernels and of the supervisor.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::name::KernelName;

/// Of one kernel instance.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Swapped {
    /// Swaps since the instance was started: epochs that are no restarts.
    #[serde(default)]
    pub count: u64,
    /// Epochs of swaps that failed, which are no restarts either: of the successors, and with which the one before went on.
    #[serde(default)]
    pub failed_epochs: u64,
    /// The binary that later starts use; `None`: that of the build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub binary: Option<PathBuf>,
}

/// Of every kernel instance that was swapped.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Swaps {
    kernels: BTreeMap<String, Swapped>,
}

impl Swaps {
    /// Reads them; there are none where there is no file or none of ours.
    pub fn load(path: &Path) -> Swaps {
        fs::read(path).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default()
    }

    /// Those of a kernel.
    pub fn of(&self, kernel: &KernelName) -> Swapped {
        self.kernels.get(&kernel.to_string()).cloned().unwrap_or_default()
    }

    /// One more swap of a kernel.
    pub fn count(&mut self, kernel: &KernelName) {
        self.kernels.entry(kernel.to_string()).or_default().count += 1;
    }

    /// So many more epochs of a swap that failed.
    pub fn count_failed(&mut self, kernel: &KernelName, epochs: u64) {
        self.kernels.entry(kernel.to_string()).or_default().failed_epochs += epochs;
    }

    /// The binary of a kernel's later starts; `None`: that of the build.
    pub fn set_binary(&mut self, kernel: &KernelName, binary: Option<PathBuf>) {
        self.kernels.entry(kernel.to_string()).or_default().binary = binary;
    }

    /// Epochs begin anew: so do the counts. Binaries stay.
    pub fn forget_counts(&mut self) {
        self.kernels.values_mut().for_each(|entry| (entry.count, entry.failed_epochs) = (0, 0));
    }

    /// Writes the file under a temporary name beside it and renames it.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn save(&self, path: &Path) -> io::Result<()> {
        let temporary = path.with_extension(format!("json.{}", std::process::id()));
        let write = || -> io::Result<()> {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            fs::rename(&temporary, path)
        };
        write().inspect_err(|_| {
            // It may not be there; the first error is the one that tells.
            let _ = fs::remove_file(&temporary);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Kind;

    #[test]
    fn what_was_kept_is_read_back_and_garbage_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("swaps.json");
        assert_eq!(Swaps::load(&path), Swaps::default());
        let encode = KernelName::main(Kind::Encode);
        let mut swaps = Swaps::default();
        swaps.count(&encode);
        swaps.count(&encode);
        swaps.count_failed(&encode, 3);
        swaps.set_binary(&encode, Some("/opt/acme".into()));
        swaps.save(&path).unwrap();
        let mut back = Swaps::load(&path);
        assert_eq!(back.of(&encode), Swapped { count: 2, failed_epochs: 3, binary: Some("/opt/acme".into()) });
        assert_eq!(back.of(&KernelName::main(Kind::Net)), Swapped::default());
        back.forget_counts();
        back.set_binary(&encode, None);
        assert_eq!(back.of(&encode), Swapped::default());
        fs::write(&path, "{\"encode.main\": 7").unwrap();
        assert_eq!(Swaps::load(&path), Swaps::default());
    }
}
