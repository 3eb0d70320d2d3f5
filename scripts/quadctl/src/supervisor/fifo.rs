//! FIFOs that frames are read from: held open here, so that their writers meet no closed pipe while kernel A is
//! replaced.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _};
use std::path::Path;

use kernel_host::config::{Config, Source};
use kernel_host::name::Kind;

/// Whether a path is a FIFO now.
pub fn is_fifo(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|found| found.file_type().is_fifo())
}

/// Opens every FIFO of a configuration, for reading and writing: so it neither waits for a writer nor ever ends.
pub fn hold(config: &Config) -> Vec<File> {
    let captures = config.instances(Kind::Capture).filter_map(|name| config.capture(name));
    let paths = captures.filter(|c| c.source == Source::File).filter_map(|c| c.path.as_ref());
    paths
        .filter(|path| is_fifo(path))
        .filter_map(|path| {
            let opened = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open(path);
            opened.inspect_err(|error| tracing::warn!(%error, path = %path.display(), "Cannot hold the FIFO open")).ok()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_held_fifo_outlives_its_reader() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("frames");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let sets = ["capture.source=file".to_owned(), format!("capture.path={}", path.display())];
        let held = hold(&Config::load(None, &sets).unwrap());
        assert_eq!(held.len(), 1);
        let reader = File::open(&path).unwrap();
        let mut writer = OpenOptions::new().write(true).open(&path).unwrap();
        drop(reader);
        writer.write_all(b"FRAME\n").unwrap();
        drop(held);
        assert!(writer.write_all(b"FRAME\n").is_err(), "nobody holds it any more");
    }
}
