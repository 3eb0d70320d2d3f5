//! `seed`: the three tables of the document this project began with, filled on a machine that has a QuickSync device,
//! and a fourth with the software encoders of this machine.
//!
//! A figure is measured here or the cell says why not; none is taken from elsewhere.

use crate::report::Table;
use crate::stats::Summary;
use crate::test_frames::{Layout, loop_of};
use crate::{Bench, Effort, Missing};
use anyhow::{Context, Result};
use kernel_c_encode::encoder::{AccessUnitMeta, AuSink, EncodeInput, Encoder, Key, LeftOut};
use kernel_c_encode::error::{EncoderError, SinkError};
use kernel_c_encode::select;
use kernel_c_encode::settings::EncoderSettings;
use shm_protocol::clock::monotonic_ns;
use shm_protocol::frame::{Codec, Colour, PixelFormat, Rational, VideoFormat};
use shm_protocol::pixels::PixelsRead;
use std::time::Duration;

/// What a cell says on a machine without one.
const NO_DEVICE: &str = "no QuickSync device";
/// What a cell says of encoders that this product has no backend for.
const NO_BACKEND: &str = "no backend of ours";
/// Frames of the loop that is encoded: 24 of 720p, fewer of what is larger.
const LOOP_BYTES: usize = 256 << 20;
/// Backends that reach a QuickSync device.
const DEVICES: [&str; 2] = ["vpl", "vaapi"];

/// A line of the seed's first table.
struct Case {
    name: &'static str,
    size: (u32, u32),
    fps: u32,
    kbps: u32,
    /// What the seed expects: frames per second, latency, bitrate, CPU.
    expected: [&'static str; 4],
}

/// The seed, section 7.
const CASES: [Case; 3] = [
    Case { name: "4K60", size: (3840, 2160), fps: 60, kbps: 50_000, expected: ["240", "0.8 ms", "50 Mb/s", "4 %"] },
    Case { name: "8K60", size: (7680, 4320), fps: 60, kbps: 120_000, expected: ["120", "1.5 ms", "120 Mb/s", "7 %"] },
    Case {
        name: "8K120",
        size: (7680, 4320),
        fps: 120,
        kbps: 240_000,
        expected: ["120", "2.1 ms", "240 Mb/s", "12 %"],
    },
];

/// A line of the table of software encoders.
struct Software {
    backend: &'static str,
    codec: Codec,
    name: &'static str,
    size: (u32, u32),
    kbps: u32,
}

const fn software(backend: &'static str, codec: Codec, name: &'static str, size: (u32, u32), kbps: u32) -> Software {
    Software { backend, codec, name, size, kbps }
}

const HD: (u32, u32) = (1280, 720);
const FULL_HD: (u32, u32) = (1920, 1080);

/// What two cores can hold: HEVC and AV1 at 720p and below.
const SOFTWARE: [Software; 6] = [
    software("openh264", Codec::H264, "720p60", HD, 5000),
    software("openh264", Codec::H264, "1080p60", FULL_HD, 8000),
    software("x264", Codec::H264, "720p60", HD, 5000),
    software("x264", Codec::H264, "1080p60", FULL_HD, 8000),
    software("x265", Codec::Hevc, "720p60", HD, 3000),
    software("svtav1", Codec::Av1, "720p60", HD, 3000),
];

/// What one encoder did.
struct Measured {
    fps: f64,
    latency_ms: Summary,
    mbps: f64,
    /// Percent of a core at the rate of the case.
    cpu_percent: f64,
    frames_per_gigacycle: f64,
    path: String,
}

/// Measures what is there and says of the rest why it is not.
pub fn run(effort: Effort) -> Result<Bench> {
    let mut missing = Vec::new();
    let device = DEVICES.into_iter().find(|backend| match probe(backend) {
        Ok(()) => true,
        Err(error) => {
            missing.push(Missing { rival: format!("QuickSync through {backend}"), why: error.to_string() });
            false
        }
    });
    let seconds = effort.scale(5).max(1) as u64;
    let first = expected_table(device, seconds)?;
    let second = gigacycle_table(device, seconds)?;
    let third = vendor_table(device);
    let software = software_table(seconds, &mut missing)?;
    Ok(Bench { rows: Vec::new(), missing, tables: vec![first, second, third, software] })
}

/// Whether a device answers: opens the seed's smallest case.
fn probe(backend: &str) -> Result<(), EncoderError> {
    let settings = settings(Codec::Hevc, CASES[0].size, CASES[0].fps, CASES[0].kbps)?;
    select::open_hardware(backend, &settings).map(|_| ())
}

fn settings(codec: Codec, (width, height): (u32, u32), fps: u32, kbps: u32) -> Result<EncoderSettings, EncoderError> {
    let rate = Rational { num: fps, den: 1 };
    let format = VideoFormat::packed(PixelFormat::Nv12, width, height, rate, Colour::BT709_LIMITED)?;
    Ok(EncoderSettings::live(codec, format, kbps))
}

fn expected_table(device: Option<&str>, seconds: u64) -> Result<Table> {
    let columns = ["resolution", "fps", "latency p50 / p99", "bitrate", "CPU", "the seed expects"];
    let mut table = Table::new("QuickSync, HEVC (the seed, section 7)", &columns);
    for case in &CASES {
        let expected = case.expected.join(", ");
        let cells = match device {
            None => [NO_DEVICE; 4].map(str::to_owned),
            Some(backend) => cells(&measure(backend, Codec::Hevc, case.size, case.fps, case.kbps, seconds)?),
        };
        table.rows.push([vec![case.name.to_owned()], cells.to_vec(), vec![expected]].concat());
    }
    Ok(table)
}

fn cells(m: &Measured) -> [String; 4] {
    [
        format!("{:.0}", m.fps),
        format!("{:.2} / {:.2} ms", m.latency_ms.p50, m.latency_ms.p99),
        format!("{:.1} Mb/s", m.mbps),
        format!("{:.1} %", m.cpu_percent),
    ]
}

fn gigacycle_table(device: Option<&str>, seconds: u64) -> Result<Table> {
    let columns = ["codec", "4K60", "8K120", "the seed expects"];
    let title = "QuickSync, frames per gigacycle of the CPU (CPU time × clock; the seed, section 7)";
    let mut table = Table::new(title, &columns);
    for (codec, name, expected) in [(Codec::Hevc, "HEVC", "540, 320"), (Codec::Av1, "AV1", "480, 280")] {
        let mut row = vec![name.to_owned()];
        for case in [&CASES[0], &CASES[2]] {
            row.push(match device {
                None => NO_DEVICE.to_owned(),
                Some(backend) => match measure(backend, codec, case.size, case.fps, case.kbps, seconds) {
                    Ok(measured) => format!("{:.0}", measured.frames_per_gigacycle),
                    Err(error) => format!("{error:#}"),
                },
            });
        }
        row.push(expected.to_owned());
        table.rows.push(row);
    }
    Ok(table)
}

/// The seed compares three vendors; this product drives one.
fn vendor_table(device: Option<&str>) -> Table {
    let mut table = Table::new(
        "QuickSync beside NVENC and AMF (the seed, section 5)",
        &["", "Intel QSV", "NVIDIA NVENC", "AMD AMF"],
    );
    let largest = |backend: &str| {
        let settings = settings(Codec::Hevc, CASES[0].size, CASES[0].fps, CASES[0].kbps).ok()?;
        let opened = select::open_hardware(backend, &settings).ok()?;
        let (width, height) = opened.capabilities().max_size;
        Some(format!("{width}x{height}"))
    };
    let size = device.and_then(largest).unwrap_or_else(|| NO_DEVICE.to_owned());
    let measured = if device.is_some() { "see the first table" } else { NO_DEVICE };
    for (what, ours) in [("largest picture", size.as_str()), ("8K fps (HEVC)", measured), ("latency (4K)", measured)] {
        table.rows.push([what, ours, NO_BACKEND, NO_BACKEND].map(str::to_owned).to_vec());
    }
    table
}

fn software_table(seconds: u64, missing: &mut Vec<Missing>) -> Result<Table> {
    let columns =
        ["encoder", "resolution", "fps", "latency p50 / p99", "bitrate", "CPU at 60 fps", "frames/gigacycle", "path"];
    let mut table = Table::new("Software encoders on this machine, one thread", &columns);
    for Software { backend, codec, name, size, kbps } in SOFTWARE {
        eprintln!("seed: {backend} {name}");
        match measure(backend, codec, size, 60, kbps, seconds) {
            Ok(m) => {
                let front = vec![backend.to_owned(), name.to_owned()];
                let back = vec![format!("{:.1}", m.frames_per_gigacycle), m.path.clone()];
                table.rows.push([front, cells(&m).to_vec(), back].concat());
            }
            Err(error) => missing.push(Missing { rival: format!("{backend} {name}"), why: format!("{error:#}") }),
        }
    }
    Ok(table)
}

/// Encodes as fast as the encoder goes for `seconds`.
fn measure(backend: &str, codec: Codec, size: (u32, u32), fps: u32, kbps: u32, seconds: u64) -> Result<Measured> {
    let settings = settings(codec, size, fps, kbps)?;
    let format = settings.format;
    let mut encoder = select::open(backend, &settings)?.encoder;
    let frame_bytes = format.frame_bytes() as usize;
    let frames = loop_of((LOOP_BYTES / frame_bytes).clamp(4, 24), Layout::Nv12, (size.0 as usize, size.1 as usize));
    let padded: Vec<Vec<u8>> = frames.iter().map(|frame| with_strides(&format, frame)).collect();
    let mut sink = Timed { buffer: vec![0; frame_bytes], ..Timed::default() };
    let (begin_ns, cpu_before) = (monotonic_ns(), crate::process::cpu_ns(std::process::id()));
    let until_ns = begin_ns + Duration::from_secs(seconds).as_nanos() as u64;
    let mut index = 0;
    while monotonic_ns() < until_ns {
        let pixels = PixelsRead::from_slice(&format, &padded[index as usize % padded.len()])?;
        sink.began_ns.push(monotonic_ns());
        encode(encoder.as_mut(), pixels, index, &mut sink)?;
        index += 1;
    }
    encoder.flush(&mut sink)?;
    let elapsed_s = (monotonic_ns() - begin_ns) as f64 / 1e9;
    let cpu_s = (crate::process::cpu_ns(std::process::id()) - cpu_before) as f64 / 1e9;
    let frames = sink.latency_ms.len() as f64;
    let per_frame_s = cpu_s / frames;
    Ok(Measured {
        fps: frames / elapsed_s,
        latency_ms: Summary::of(&sink.latency_ms).context("No access unit came out")?,
        mbps: sink.bytes as f64 * 8.0 / 1e6 / (frames / f64::from(fps)),
        cpu_percent: per_frame_s * f64::from(fps) * 100.0,
        frames_per_gigacycle: 1.0 / (per_frame_s * clock_ghz()?),
        path: encoder.path().to_owned(),
    })
}

fn encode(encoder: &mut dyn Encoder, pixels: PixelsRead<'_>, index: u64, sink: &mut Timed) -> Result<(), EncoderError> {
    let input = EncodeInput {
        pixels,
        memory: None,
        key: Key { source_id: index, sub: 0 },
        pts_ns: pixels.format().fps.frame_time_ns(index),
        force_idr: false,
        qp: None,
        idr_count: 0,
    };
    encoder.encode(&input, sink)
}

/// A packed NV12 frame with the strides of our pools.
fn with_strides(format: &VideoFormat, packed: &[u8]) -> Vec<u8> {
    let mut out = vec![0; format.frame_bytes() as usize];
    let mut from = 0;
    for plane in 0..format.pixel_format.planes() {
        let row_bytes = format.pixel_format.row_bytes(plane, format.width) as usize;
        for y in 0..format.pixel_format.rows(plane, format.height) as usize {
            let at = format.planes[plane].offset as usize + y * format.planes[plane].stride as usize;
            out[at..at + row_bytes].copy_from_slice(&packed[from..from + row_bytes]);
            from += row_bytes;
        }
    }
    out
}

/// Clock of the first CPU, GHz, as the system names it.
fn clock_ghz() -> Result<f64> {
    let text = std::fs::read_to_string("/proc/cpuinfo")?;
    let line = text.lines().find(|line| line.starts_with("cpu MHz")).context("/proc/cpuinfo names no clock")?;
    let mhz: f64 = line.rsplit(':').next().unwrap_or_default().trim().parse()?;
    Ok(mhz / 1000.0)
}

/// Times access units.
#[derive(Default)]
struct Timed {
    buffer: Vec<u8>,
    began_ns: Vec<u64>,
    latency_ms: Vec<f64>,
    bytes: u64,
}

impl AuSink for Timed {
    fn buffer(&mut self, len: usize) -> Result<&mut [u8], SinkError> {
        if self.buffer.len() < len {
            self.buffer.resize(len, 0);
        }
        Ok(&mut self.buffer)
    }

    fn commit(&mut self, len: usize, meta: &AccessUnitMeta) -> Result<(), SinkError> {
        let began_ns = self.began_ns.get(meta.key.source_id as usize).copied().unwrap_or_default();
        self.latency_ms.push((monotonic_ns() - began_ns) as f64 / 1e6);
        self.bytes += len as u64;
        Ok(())
    }

    fn left_out(&mut self, _key: Key, _reason: LeftOut) -> Result<(), SinkError> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_device_every_cell_of_the_seeds_tables_says_so() {
        let first = expected_table(None, 1).unwrap();
        assert_eq!(first.rows.len(), 3);
        assert!(first.rows.iter().all(|row| row[1..5].iter().all(|cell| cell == NO_DEVICE)), "{first:?}");
        let second = gigacycle_table(None, 1).unwrap();
        assert!(second.rows.iter().all(|row| row[1..3].iter().all(|cell| cell == NO_DEVICE)), "{second:?}");
        let third = vendor_table(None);
        assert!(third.rows.iter().all(|row| row[1] == NO_DEVICE && row[2] == NO_BACKEND), "{third:?}");
    }

    #[test]
    fn a_software_encoder_is_measured() {
        let m = measure("openh264", Codec::H264, (320, 180), 60, 500, 1).unwrap();
        assert!(m.fps > 1.0 && m.cpu_percent > 0.0 && m.frames_per_gigacycle > 0.0 && m.mbps > 0.0);
    }
}
