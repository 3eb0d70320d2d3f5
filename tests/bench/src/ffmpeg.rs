//! FFmpeg as a rival: a build of it that has the encoder library we use.

use crate::glass::{FPS, SIZE};
use crate::test_frames::Layout;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// Target of both, kb/s.
pub const BITRATE_KBPS: u32 = 8000;
/// Slices and threads of both.
pub const SLICES: u32 = 2;
/// Frames from IDR to IDR of both: 2 s.
pub const GOP: u32 = 120;

/// Where a build with libopenh264 may be: named by the environment, on the path, or as the PyPI package
/// imageio-ffmpeg brings it.
fn candidates() -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = std::env::var_os("QUAD_BENCH_FFMPEG").map(PathBuf::from).into_iter().collect();
    all.push(PathBuf::from("ffmpeg"));
    let here = std::env::current_dir().unwrap_or_default();
    for root in here.ancestors() {
        for python in entries(&root.join(".cache/venv/lib")) {
            all.extend(
                entries(&python.join("site-packages/imageio_ffmpeg/binaries"))
                    .into_iter()
                    .filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("ffmpeg-"))),
            );
        }
    }
    all
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
}

fn output(binary: &Path, args: &[&str]) -> Option<String> {
    let output = Command::new(binary).args(args).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn find() -> Result<PathBuf> {
    let has = |path: &PathBuf| {
        output(path, &["-hide_banner", "-encoders"]).is_some_and(|encoders| encoders.contains("libopenh264"))
    };
    match candidates().into_iter().find(has) {
        Some(path) => Ok(path),
        None => bail!(
            "No FFmpeg with libopenh264 (Debian's has none); python3 -m venv .cache/venv && .cache/venv/bin/pip install imageio-ffmpeg brings one, or name it in QUAD_BENCH_FFMPEG"
        ),
    }
}

/// Name and version of the build that is used.
///
/// # Errors
/// When there is none.
pub fn version() -> Result<String> {
    let text = output(&find()?, &["-version"]).context("ffmpeg -version")?;
    // "ffmpeg version 9.0.2-static … Copyright …"
    let version = text.split_whitespace().nth(2).unwrap_or("?");
    Ok(format!("FFmpeg {version}"))
}

/// Whether our encoder was built with nasm cannot be asked of the library; whether nasm is here now can.
pub fn nasm_remark() -> &'static str {
    let found =
        std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("nasm").exists()));
    if found { "no (nasm is on the path)" } else { "likely (no nasm on the path)" }
}

/// A running FFmpeg.
pub struct Ffmpeg {
    child: Child,
}

impl Ffmpeg {
    /// Reads raw frames from `fifo`, sends RTP to `port`, holding nothing back.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn start(layout: Layout, fifo: &Path, port: u16) -> Result<Ffmpeg> {
        let mut command = Command::new(find()?);
        command.args(["-hide_banner", "-loglevel", "error", "-nostdin"]);
        command.args(["-fflags", "nobuffer", "-probesize", "32", "-analyzeduration", "0"]);
        command.args(["-f", "rawvideo", "-pixel_format", layout.ffmpeg_name()]);
        command.args(["-video_size", &format!("{}x{}", SIZE.0, SIZE.1), "-framerate", &FPS.to_string()]);
        command.arg("-i").arg(fifo).args(["-an", "-c:v", "libopenh264", "-pix_fmt", "yuv420p"]);
        command.args(["-b:v", &format!("{BITRATE_KBPS}k"), "-rc_mode", "bitrate", "-allow_skip_frames", "0"]);
        command.args(["-profile:v", "constrained_baseline", "-g", &GOP.to_string()]);
        command.args(["-slices", &SLICES.to_string(), "-threads", &SLICES.to_string()]);
        command.args(["-flags", "+low_delay", "-flush_packets", "1", "-max_delay", "0", "-muxdelay", "0"]);
        command.args(["-f", "rtp", "-payload_type", "96"]);
        // 1200 bytes of payload as ours, and FFmpeg counts the RTP header.
        command.arg(format!("rtp://127.0.0.1:{port}?pkt_size=1212"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("ffmpeg")?;
        Ok(Ffmpeg { child })
    }

    /// Sends a 1080p60 pattern of its own to `port`, with the best build there is; what it is called.
    ///
    /// # Errors
    /// When no build encodes H.264.
    pub fn pattern(port: u16) -> Result<(Ffmpeg, String)> {
        let (binary, encoder) = match find() {
            Ok(binary) => (binary, "libopenh264"),
            Err(_) => {
                let plain = PathBuf::from("ffmpeg");
                let encoders = output(&plain, &["-hide_banner", "-encoders"]).context("There is no FFmpeg")?;
                ensure!(encoders.contains("libx264"), "FFmpeg has neither libopenh264 nor libx264");
                (plain, "libx264")
            }
        };
        let text = output(&binary, &["-version"]).context("ffmpeg -version")?;
        let name = format!("FFmpeg {} {encoder}", text.split_whitespace().nth(2).unwrap_or("?"));
        let mut command = Command::new(binary);
        command.args(["-hide_banner", "-loglevel", "error", "-nostdin", "-re", "-f", "lavfi"]);
        command.args(["-i", &format!("testsrc2=size={}x{}:rate={FPS}", SIZE.0, SIZE.1)]);
        command.args(["-an", "-pix_fmt", "yuv420p", "-c:v", encoder, "-b:v", &format!("{BITRATE_KBPS}k")]);
        command.args(["-g", &GOP.to_string(), "-flags", "+low_delay", "-flush_packets", "1"]);
        if encoder == "libx264" {
            command.args(["-preset", "ultrafast", "-tune", "zerolatency"]);
        }
        command.args(["-f", "rtp", "-payload_type", "96"]).arg(format!("rtp://127.0.0.1:{port}?pkt_size=1212"));
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("ffmpeg")?;
        Ok((Ffmpeg { child }, name))
    }

    /// Process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails when it has ended.
    ///
    /// # Errors
    /// With its exit.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("FFmpeg ended with {status}"),
            None => Ok(()),
        }
    }
}

impl Drop for Ffmpeg {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
