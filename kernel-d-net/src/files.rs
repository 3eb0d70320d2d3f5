//! Small files that others read while we write them.

use std::io::Write;
use std::path::Path;

/// Writes `text` to `path` so that a reader finds the old or the new content, whole.
///
/// # Errors
/// Those of the file system.
pub fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}", std::process::id()));
    let written = std::fs::File::create(&name).and_then(|mut file| file.write_all(text.as_bytes()));
    written.and_then(|()| std::fs::rename(&name, path)).inspect_err(|_| {
        let _ = std::fs::remove_file(&name);
    })
}
