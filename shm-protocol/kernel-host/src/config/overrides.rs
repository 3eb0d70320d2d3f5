//! Overrides that `set` and `swap` leave behind: they survive restarts of kernels and of the supervisor.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use toml::{Table, Value};

use super::error::ConfigError;
use super::keys::locate;
use super::set::{parse_set, parse_table};

/// Keys with the values that go over the file's.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Overrides {
    entries: BTreeMap<String, Value>,
}

impl Overrides {
    /// Reads the file; a missing one is no overrides.
    ///
    /// # Errors
    /// [`ConfigError`] when it cannot be read, is not TOML, or holds an unknown key.
    pub fn load(path: &Path) -> Result<Overrides, ConfigError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Overrides::default()),
            Err(source) => return Err(ConfigError::Read { path: path.to_owned(), source }),
        };
        let table = parse_table(&text, &path.display().to_string())?;
        for key in table.keys() {
            locate(key)?;
        }
        Ok(Overrides { entries: table.into_iter().collect() })
    }

    /// Adds `KEY=VALUE`, in place of an earlier value of that key.
    ///
    /// # Errors
    /// [`ConfigError`] when it is not KEY=VALUE or the key is unknown.
    pub fn set(&mut self, given: &str) -> Result<(), ConfigError> {
        let (key, value) = parse_set(given)?;
        self.entries.insert(key, value);
        Ok(())
    }

    /// Takes a key away; says whether it was there.
    pub fn remove(&mut self, key: &str) -> bool {
        self.entries.remove(key).is_some()
    }

    /// Every key with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Writes the file under a temporary name beside it and renames it: a reader sees the old or the new one, whole.
    ///
    /// # Errors
    /// [`ConfigError::Write`] with what the operating system says.
    pub fn save(&self, path: &Path) -> Result<(), ConfigError> {
        // For the owner alone: a token may be among them. One key per line under its whole dotted path, quoted: the order of keys cannot clash with tables.
        let table: Table = self.entries.clone().into_iter().collect();
        let text: String = table.iter().map(|(key, value)| format!("{key:?} = {value}\n")).collect();
        let temporary = path.with_extension(format!("toml.{}", std::process::id()));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            fs::rename(&temporary, path)
        };
        write().map_err(|source| {
            // The temporary file may not exist; the first error is the one that tells.
            let _ = fs::remove_file(&temporary);
            ConfigError::Write { path: path.to_owned(), source }
        })
    }
}
