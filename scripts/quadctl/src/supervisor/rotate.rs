//! Logs are capped: a kernel writes to its file directly, so that it goes on without a supervisor, and the supervisor
//! moves a file that grew too long aside.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Bytes a log may have; one older file of that size is kept beside it. Two of them for four kernels are 32 MiB of
/// the runtime directory, which often is memory.
pub const MAX_LOG_BYTES: u64 = 4 << 20;

/// Opens a log to append to, for the owner alone.
pub fn open_log(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// The older part of a log.
pub fn older(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    name.into()
}

/// Moves a log aside that is longer than `limit`: copied, then cut, since its writer holds it open. What is written
/// between the two calls is lost, a line at the most.
pub fn rotate(path: &Path, limit: u64) -> io::Result<bool> {
    if !fs::metadata(path).is_ok_and(|found| found.len() > limit) {
        return Ok(false);
    }
    fs::copy(path, older(path))?;
    OpenOptions::new().write(true).open(path)?.set_len(0)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_long_log_moves_aside_under_its_writer() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("encode.main.log");
        let mut writer = open_log(&path).unwrap();
        writer.write_all(&[b'a'; 100]).unwrap();
        assert!(!rotate(&path, 100).unwrap());
        writer.write_all(b"b").unwrap();
        assert!(rotate(&path, 100).unwrap());
        writer.write_all(b"after").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"after");
        assert_eq!(fs::read(older(&path)).unwrap().len(), 101);
        assert!(!rotate(&folder.path().join("none"), 0).unwrap());
    }
}
