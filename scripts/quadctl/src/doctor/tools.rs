//! Programs that tests and viewers use; the product needs none of them.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::Finding;

/// Everything here.
pub fn findings() -> Vec<Finding> {
    [
        ("ffmpeg", &["ffmpeg"][..], "plays and checks streams", "apt install ffmpeg"),
        (
            "gstreamer",
            &["gst-launch-1.0"],
            "checks streams",
            "apt install gstreamer1.0-tools gstreamer1.0-plugins-good gstreamer1.0-libav",
        ),
        (
            "chromium",
            &["chromium", "chromium-browser", "google-chrome"],
            "shows the watch page",
            "apt install chromium",
        ),
        ("nasm", &["nasm"], "gives openh264 its assembler code when it is built", "apt install nasm"),
    ]
    .into_iter()
    .map(|(name, programs, purpose, cure)| match programs.iter().find_map(|program| in_path(program)) {
        Some(path) => Finding::usable("tool", name, format!("{}; {purpose}", path.display())),
        None => Finding::missing("tool", name, format!("is not installed; {purpose}"), cure),
    })
    .collect()
}

/// A program as the shell would find it.
pub fn in_path(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| {
        std::fs::metadata(candidate).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    })
}
