//! Frames to encode and a sink that keeps what comes out.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod direct;
pub mod h264;
pub mod openh264;
pub mod stream;
pub mod vpl;

use kernel_c_encode::encoder::{AccessUnitMeta, AuSink, EncodeInput, Encoder, Key, LeftOut};
use kernel_c_encode::error::{EncoderError, SinkError};
use kernel_c_encode::select;
use kernel_c_encode::settings::EncoderSettings;
use shm_protocol::frame::{Codec, Colour, PixelFormat, Rational, VideoFormat};
use shm_protocol::pixels::PixelsRead;
use std::io::Write as _;

/// Frames per second of most tests.
pub const FPS: u32 = 30;

/// An NV12 format.
pub fn nv12(width: u32, height: u32, fps: u32, colour: Colour) -> VideoFormat {
    VideoFormat::packed(PixelFormat::Nv12, width, height, Rational::new(fps, 1).unwrap(), colour).unwrap()
}

/// A P010 format.
pub fn p010(width: u32, height: u32, fps: u32, colour: Colour) -> VideoFormat {
    VideoFormat::packed(PixelFormat::P010, width, height, Rational::new(fps, 1).unwrap(), colour).unwrap()
}

/// Settings for a small stream of either codec.
pub fn small(codec: Codec) -> EncoderSettings {
    EncoderSettings::live(codec, nv12(320, 180, FPS, Colour::BT709_LIMITED), 1000)
}

/// A moving picture with texture: gradients that travel, and noise of `noise` levels that travels too. In P010 the
/// levels are those of 10 bit: the texture has four times as many.
pub fn fill(format: &VideoFormat, index: u64, noise: u32, bytes: &mut [u8]) {
    let wide = format.pixel_format == PixelFormat::P010;
    for plane in 0..format.pixel_format.planes() {
        let layout = format.planes[plane];
        let row_bytes = format.pixel_format.row_bytes(plane, format.width) as usize;
        for y in 0..format.pixel_format.rows(plane, format.height) as usize {
            let start = layout.offset as usize + y * layout.stride as usize;
            let row = &mut bytes[start..start + row_bytes];
            let sample = |x: usize, scale: u32| {
                let hash =
                    (x as u32 ^ (y as u32) << 12 ^ (index as u32).wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b);
                let travelling = (x as u32 + y as u32 * 2 + index as u32 * 3) / (plane as u32 + 1);
                scale * 40 + travelling % (scale * 150) + (hash >> 16) % (scale * noise).max(1)
            };
            if wide {
                for (x, pair) in row.chunks_exact_mut(2).enumerate() {
                    pair.copy_from_slice(&((sample(x, 4) << 6) as u16).to_le_bytes());
                }
            } else {
                for (x, byte) in row.iter_mut().enumerate() {
                    *byte = sample(x, 1) as u8;
                }
            }
        }
    }
}

/// What came out for a frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Out {
    /// An access unit and its bytes.
    Unit(AccessUnitMeta, Vec<u8>),
    /// A tombstone.
    Left(Key, LeftOut),
}

/// Keeps everything.
#[derive(Debug)]
pub struct Keep {
    /// What came out, in order.
    pub out: Vec<Out>,
    /// Bytes of the buffer on loan.
    pub buffer: Vec<u8>,
    /// Largest access unit it takes.
    pub limit: usize,
}

impl Default for Keep {
    fn default() -> Keep {
        Keep { out: Vec::new(), buffer: Vec::new(), limit: usize::MAX }
    }
}

impl Keep {
    /// The access units in order.
    pub fn units(&self) -> Vec<(&AccessUnitMeta, &[u8])> {
        self.out
            .iter()
            .filter_map(|out| match out {
                Out::Unit(meta, bytes) => Some((meta, &bytes[..])),
                Out::Left(..) => None,
            })
            .collect()
    }

    /// The whole stream.
    pub fn stream(&self) -> Vec<u8> {
        self.units().into_iter().flat_map(|(_, bytes)| bytes.to_vec()).collect()
    }
}

impl AuSink for Keep {
    fn buffer(&mut self, len: usize) -> Result<&mut [u8], SinkError> {
        if len > self.limit {
            return Err(SinkError::TooLarge { needed_bytes: len, buffer_bytes: self.limit });
        }
        self.buffer.clear();
        // Old contents mean nothing: a byte the encoder leaves unwritten shows up.
        self.buffer.resize(len + 64, 0xee);
        Ok(&mut self.buffer)
    }

    fn commit(&mut self, len: usize, meta: &AccessUnitMeta) -> Result<(), SinkError> {
        self.out.push(Out::Unit(*meta, self.buffer[..len].to_vec()));
        Ok(())
    }

    fn left_out(&mut self, key: Key, reason: LeftOut) -> Result<(), SinkError> {
        self.out.push(Out::Left(key, reason));
        Ok(())
    }
}

/// Encodes frame `index` of the moving picture.
pub fn encode(
    encoder: &mut dyn Encoder,
    format: &VideoFormat,
    index: u64,
    force_idr: bool,
    noise: u32,
    sink: &mut dyn AuSink,
) -> Result<(), EncoderError> {
    let mut bytes = vec![0; format.frame_bytes() as usize];
    fill(format, index, noise, &mut bytes);
    let frame = EncodeInput {
        pixels: PixelsRead::from_slice(format, &bytes).unwrap(),
        memory: None,
        qp: None,
        key: Key { source_id: 1000 + index, sub: 0 },
        pts_ns: format.fps.frame_time_ns(index),
        force_idr,
        idr_count: 0,
    };
    encoder.encode(&frame, sink)
}

/// Encodes frames 0 to `count`, with an IDR asked for at those in `idr_at`.
pub fn run(encoder: &mut dyn Encoder, format: &VideoFormat, count: u64, idr_at: &[u64], noise: u32) -> Keep {
    let mut sink = Keep::default();
    for index in 0..count {
        encode(encoder, format, index, idr_at.contains(&index), noise, &mut sink).unwrap();
    }
    encoder.flush(&mut sink).unwrap();
    sink
}

/// Says that `what` was not tested and why: on standard output and in the file named by `QUAD_SKIP_FILE`.
pub fn skip(what: &str, why: &str) {
    let line = format!("SKIPPED {what}: {why}");
    println!("{line}");
    if let Some(path) = std::env::var_os("QUAD_SKIP_FILE") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        writeln!(file.unwrap(), "{line}").unwrap();
    }
}

/// Whether the library of a backend is on this machine; says so when not.
pub fn have(backend: &str, codec: Codec) -> bool {
    match select::open(backend, &small(codec)) {
        Err(error @ EncoderError::Unavailable { .. }) => {
            skip(&format!("encoder {backend}"), &error.to_string());
            false
        }
        _ => true,
    }
}
