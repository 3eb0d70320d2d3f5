//! The oneVPL runtime and the libva driver of tests/fixtures, each in an environment of its own.

use super::{FPS, Keep, Out, fill, nv12, skip, small};
use kernel_c_encode::encoder::{BufferIdentity, EncodeInput, Encoder, FrameMemory, Key};
use kernel_c_encode::error::EncoderError;
use kernel_c_encode::settings::EncoderSettings;
use shm_protocol::frame::{Codec, Colour, VideoFormat};
use shm_protocol::pixels::PixelsRead;
use std::ffi::OsString;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What opens as a render node with the driver preloaded.
pub const NODE: &str = "/dev/null";
const FOLDER: &str = "QUAD_VPL_TEST_FOLDER";
const CHILD: &str = "QUAD_VPL_TEST_CHILD";

/// Folder of both libraries, which are built now: tests of other packages do not make Cargo place a `cdylib`.
fn built() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap())
        .args(["build", "--locked", "-p", "vpl-fixture", "-p", "va-fixture", "--lib"])
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "The fixtures do not build");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let file = text.lines().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        let mut names = message["filenames"].as_array()?.iter().filter_map(|name| name.as_str()).map(PathBuf::from);
        names.find(|name| name.ends_with("libquadvpl.so"))
    });
    file.unwrap().parent().unwrap().to_owned()
}

/// What a child process is to meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Machine {
    /// No oneVPL runtime at all.
    Nothing,
    /// A runtime on the CPU.
    Software,
    /// A runtime that poses as a device, without a render node.
    HardwareAlone,
    /// A runtime that poses as a device, and a libva driver on [`NODE`].
    Hardware,
}

/// This program on that machine, with a scratch folder, where the runtime records its calls, and further variables.
pub fn machine(machine: Machine, scratch: &Path, variables: &[(&str, &str)]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env_remove("ONEVPL_SEARCH_PATH").env_remove("LD_LIBRARY_PATH");
    command.env("QUAD_VPL_FIXTURE_RECORD", scratch.join("calls"));
    for (name, value) in variables {
        let whole = if name.starts_with("QUAD_") { (*name).to_owned() } else { format!("QUAD_VPL_FIXTURE_{name}") };
        command.env(whole, value);
    }
    command.env("QUAD_VA_FIXTURE_RECORD", scratch.join("va"));
    if machine == Machine::Nothing {
        command.env("ONEVPL_PRIORITY_PATH", scratch);
        return command;
    }
    let folder = built();
    // Under a name that the dispatcher takes.
    std::os::unix::fs::symlink(folder.join("libquadvpl.so"), scratch.join("libvplquad.so")).unwrap();
    command.env("ONEVPL_PRIORITY_PATH", scratch);
    let kind = if machine == Machine::Software { "software" } else { "hardware" };
    command.env("QUAD_VPL_FIXTURE_IMPL", kind);
    if machine == Machine::Hardware {
        let driver = folder.join("libva_fixture.so");
        std::os::unix::fs::symlink(&driver, scratch.join("quad_drv_video.so")).unwrap();
        let preload: OsString = driver.into();
        command.env("LIBVA_DRIVER_NAME", "quad").env("LIBVA_DRIVERS_PATH", scratch).env("LD_PRELOAD", preload);
    }
    command
}

/// Runs `body` in a process of its own on that machine, with further variables (`QUAD_VPL_FIXTURE_` may be left out).
pub fn on(machine_is: Machine, test: &str, variables: &[(&str, &str)], body: impl FnOnce(&Path)) {
    if std::env::var(CHILD).is_ok_and(|name| name == test) {
        return body(&PathBuf::from(std::env::var_os(FOLDER).unwrap()));
    }
    let found = Path::new("/usr/lib").join("x86_64-linux-gnu").join(onevpl_sys::LIBRARY);
    if !found.exists() && machine_is != Machine::Nothing {
        return skip(test, &format!("{} is not installed: apt install libvpl2", onevpl_sys::LIBRARY));
    }
    let scratch = tempfile::tempdir().unwrap();
    let mut command = machine(machine_is, scratch.path(), variables);
    command.args(["--exact", test, "--nocapture", "--test-threads=1"]).env(CHILD, test).env(FOLDER, scratch.path());
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    assert!(out.contains("1 passed"), "The child ran the test: {out}");
}

/// The calls of the runtime with that name, as it recorded them.
pub fn calls(folder: &Path, name: &str) -> Vec<serde_json::Value> {
    recorded(&folder.join("calls"), name)
}

/// The calls of the libva driver with that name.
pub fn va_calls(folder: &Path, name: &str) -> Vec<serde_json::Value> {
    recorded(&folder.join("va"), name)
}

fn recorded(file: &Path, name: &str) -> Vec<serde_json::Value> {
    // No record: nothing was called yet.
    let text = if file.exists() { std::fs::read_to_string(file).unwrap() } else { String::new() };
    let lines = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    lines.filter(|call| call["call"].as_str().is_some_and(|call| call.ends_with(name))).collect()
}

/// A field of a recorded ext buffer.
pub fn ext(params: &serde_json::Value, buffer: &str, field: &str) -> Option<u64> {
    let list = params["ext"].as_array()?;
    list.iter().find(|ext| ext["name"] == buffer)?["fields"][field].as_u64()
}

/// Encodes `count` frames whose pixels stay where they are until all keys came out.
pub fn run_kept(encoder: &mut dyn Encoder, format: &VideoFormat, count: u64, idr_at: &[u64], sink: &mut Keep) {
    let frames: Vec<Vec<u8>> = (0..count).map(|index| picture(format, index)).collect();
    for index in 0..count {
        give(encoder, format, index, &frames[index as usize], None, idr_at.contains(&index), sink).unwrap();
    }
    encoder.flush(sink).unwrap();
}

/// The moving picture at `index`.
pub fn picture(format: &VideoFormat, index: u64) -> Vec<u8> {
    let mut bytes = vec![0; format.frame_bytes() as usize];
    fill(format, index, 8, &mut bytes);
    bytes
}

/// Encodes one frame that lies in `bytes`.
pub fn give(
    encoder: &mut dyn Encoder,
    format: &VideoFormat,
    index: u64,
    bytes: &[u8],
    memory: Option<FrameMemory<'_>>,
    force_idr: bool,
    sink: &mut Keep,
) -> Result<(), EncoderError> {
    let frame = EncodeInput {
        pixels: PixelsRead::from_slice(format, bytes).unwrap(),
        memory,
        qp: None,
        key: Key { source_id: 1000 + index, sub: 0 },
        pts_ns: format.fps.frame_time_ns(index),
        force_idr,
        idr_count: 0,
    };
    encoder.encode(&frame, sink)
}

/// The buffers of a pool in one file, as a memfd pool has them, and what each holds.
pub struct Pool {
    file: std::fs::File,
    format: VideoFormat,
    /// Bytes of a buffer.
    pub frame_bytes: usize,
    /// What each buffer holds.
    pub pictures: Vec<Vec<u8>>,
}

impl Pool {
    /// Four buffers with the first four pictures.
    pub fn new(format: VideoFormat) -> Pool {
        let frame_bytes = (format.frame_bytes() as usize).next_multiple_of(4096);
        let mut file = tempfile::tempfile().unwrap();
        let pictures: Vec<Vec<u8>> = (0..4)
            .map(|index| {
                let mut bytes = picture(&format, index);
                bytes.resize(frame_bytes, 0);
                file.write_all(&bytes).unwrap();
                bytes
            })
            .collect();
        Pool { file, format, frame_bytes, pictures }
    }

    /// Encodes frame `index` out of its buffer. Our own mapping holds `bytes`.
    pub fn give(&self, encoder: &mut dyn Encoder, index: u64, generation: u32, bytes: &[u8], sink: &mut Keep) {
        self.give_forced(encoder, index, generation, bytes, false, sink);
    }

    /// As [`Pool::give`], with an IDR asked for.
    pub fn give_forced(
        &self,
        encoder: &mut dyn Encoder,
        index: u64,
        generation: u32,
        bytes: &[u8],
        forced: bool,
        sink: &mut Keep,
    ) {
        let buffer = index as usize % 4;
        let memory = FrameMemory {
            fd: self.file.as_fd(),
            dma_buf: true,
            offset: (buffer * self.frame_bytes) as u64,
            size_bytes: (4 * self.frame_bytes) as u64,
            identity: BufferIdentity { ring_uid: 5, generation, index: buffer as u16 },
        };
        give(encoder, &self.format, index, bytes, Some(memory), forced, sink).unwrap();
    }
}

/// Settings for H.264 of that size on [`NODE`].
pub fn on_node(width: u32, height: u32) -> EncoderSettings {
    let format = nv12(width, height, FPS, Colour::BT709_LIMITED);
    EncoderSettings { device: Some(NODE.into()), format, ..small(Codec::H264) }
}

/// Asserts that `count` frames came out, each once and in order, each with its access unit; returns where the IDRs are.
pub fn idrs_of_all(sink: &Keep, count: u64) -> Vec<u64> {
    let keys: Vec<u64> = sink
        .out
        .iter()
        .map(|out| match out {
            Out::Unit(meta, _) => meta.key.source_id - 1000,
            Out::Left(key, reason) => panic!("{key:?} was left out: {reason:?}"),
        })
        .collect();
    assert_eq!(keys, (0..count).collect::<Vec<_>>());
    let units = sink.units();
    units.iter().filter(|(meta, _)| meta.idr).map(|(meta, _)| meta.key.source_id - 1000).collect()
}
