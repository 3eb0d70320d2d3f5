//! The VA-API backend and frames that lie in memory with a descriptor, on the libva driver of tests/fixtures: a memfd
//! stands in for a DMA-BUF. Nothing here says how an Intel device behaves.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;
mod fixture;

use common::{FPS, Keep, nv12};
use fixture::{any, calls, decoded, nothing_refused, on_a_machine, open};
use kernel_c_encode::encoder::{BufferIdentity, EncodeInput, Encoder, FrameMemory, Key};
use kernel_c_encode::settings::{EncoderSettings, Gop};
use nix::sys::memfd::{MFdFlags, memfd_create};
use shm_protocol::frame::{Codec, Colour, VideoFormat};
use shm_protocol::pixels::PixelsRead;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use va_fixture::environment::need;

/// Buffers of a pool.
const BUFFERS: u64 = 4;

fn settings() -> EncoderSettings {
    let format = nv12(320, 180, FPS, Colour::BT709_LIMITED);
    EncoderSettings { gop: Gop::Infinite, ..EncoderSettings::live(Codec::H264, format, 2000) }
}

/// A pool of buffers in one memory.
struct Pool {
    memory: File,
    generation: u32,
    buffer_bytes: u64,
}

impl Pool {
    fn new(format: &VideoFormat, generation: u32) -> Pool {
        let memory = File::from(memfd_create(c"quad-test-pool", MFdFlags::MFD_CLOEXEC).unwrap());
        let buffer_bytes = format.frame_bytes().next_multiple_of(4096);
        memory.set_len(buffer_bytes * BUFFERS).unwrap();
        Pool { memory, generation, buffer_bytes }
    }

    /// Encodes frame `index` out of its buffer.
    fn encode(&self, encoder: &mut dyn Encoder, format: &VideoFormat, index: u64, sink: &mut Keep, dma_buf: bool) {
        let mut bytes = vec![0; format.frame_bytes() as usize];
        common::fill(format, index, 8, &mut bytes);
        let buffer = index % BUFFERS;
        self.memory.write_all_at(&bytes, buffer * self.buffer_bytes).unwrap();
        let memory = FrameMemory {
            fd: self.memory.as_fd(),
            dma_buf,
            offset: buffer * self.buffer_bytes,
            size_bytes: self.buffer_bytes * BUFFERS,
            identity: BufferIdentity { ring_uid: 5, generation: self.generation, index: buffer as u16 },
        };
        let frame = EncodeInput {
            pixels: PixelsRead::from_slice(format, &bytes).unwrap(),
            memory: Some(memory),
            qp: None,
            key: Key { source_id: 1000 + index, sub: 0 },
            pts_ns: format.fps.frame_time_ns(index),
            force_idr: false,
            idr_count: 0,
        };
        encoder.encode(&frame, sink).unwrap();
    }
}

/// Mean error of luma in frame `index` of a decoded stream.
fn error(raw: &[u8], format: &VideoFormat, index: usize) -> u64 {
    let (width, height) = (format.width as usize, format.height as usize);
    let mut source = vec![0; format.frame_bytes() as usize];
    common::fill(format, index as u64, 8, &mut source);
    let stride = format.planes[0].stride as usize;
    let picture = &raw[index * width * height * 3 / 2..];
    let sum: u64 =
        (0..width * height).map(|i| u64::from(picture[i].abs_diff(source[i / width * stride + i % width]))).sum();
    sum / (width * height) as u64
}

#[test]
fn frames_are_read_where_they_lie_and_each_buffer_is_imported_once() {
    let test = "frames_are_read_where_they_lie_and_each_buffer_is_imported_once";
    for dma_buf in [true, false] {
        on_a_machine(
            test,
            if dma_buf { "dma-buf" } else { "memfd" },
            &[],
            || {
                let settings = settings();
                let mut encoder = open(&settings).unwrap();
                let mut sink = Keep::default();
                let pool = Pool::new(&settings.format, 1);
                (0..30).for_each(|index| pool.encode(&mut *encoder, &settings.format, index, &mut sink, dma_buf));
                assert_eq!(encoder.copied_bytes(), 0);
                assert!(encoder.path().contains("nothing copied"), "{}", encoder.path());
                if need(test, &["ffmpeg"]) {
                    let raw = decoded(&sink.stream(), ".h264", "yuv420p");
                    assert_eq!(raw.len(), 30 * 320 * 180 * 3 / 2);
                    assert!([0, 13, 29].iter().all(|index| error(&raw, &settings.format, *index) < 12));
                }
            },
            |lines| {
                nothing_refused(lines);
                // Those of the encoder itself, and one for each buffer.
                let made = calls(lines, "vaCreateSurfaces").len() + calls(lines, "vaCreateSurfaces2").len();
                assert_eq!(made, 2 + BUFFERS as usize);
            },
        );
    }
}

#[test]
fn imports_of_an_old_generation_are_let_go() {
    let test = "imports_of_an_old_generation_are_let_go";
    on_a_machine(
        test,
        "",
        &[],
        || {
            let settings = settings();
            let mut encoder = open(&settings).unwrap();
            let mut sink = Keep::default();
            for generation in 0..20 {
                let pool = Pool::new(&settings.format, generation);
                let first = u64::from(generation) * BUFFERS;
                (first..first + BUFFERS)
                    .for_each(|index| pool.encode(&mut *encoder, &settings.format, index, &mut sink, true));
            }
            assert_eq!(encoder.copied_bytes(), 0);
            assert_eq!(sink.units().len(), 80);
            // Old pools are gone: what is open are the few of the last one, and what the process had.
            let open = std::fs::read_dir("/proc/self/fd")
                .unwrap()
                .filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
            let pools = open.filter(|path| path.to_string_lossy().contains("quad-test-pool")).count();
            assert!(pools <= 2 * BUFFERS as usize, "{pools} descriptors of pools are open");
        },
        nothing_refused,
    );
}

#[test]
fn a_driver_that_imports_nothing_gets_one_copy_and_the_path_says_so() {
    let test = "a_driver_that_imports_nothing_gets_one_copy_and_the_path_says_so";
    for machine in [("QUAD_VA_FIXTURE_IMPORT", "no"), ("QUAD_VA_FIXTURE_PITCH_ALIGN", "1024")] {
        on_a_machine(
            test,
            machine.0,
            &[machine],
            || {
                let settings = settings();
                let mut encoder = open(&settings).unwrap();
                let mut sink = Keep::default();
                let pool = Pool::new(&settings.format, 1);
                (0..10).for_each(|index| pool.encode(&mut *encoder, &settings.format, index, &mut sink, false));
                assert_eq!(encoder.copied_bytes(), 10 * 320 * 180 * 3 / 2);
                assert!(encoder.path().starts_with("copied once"), "{}", encoder.path());
                assert_eq!(sink.units().len(), 10);
            },
            any,
        );
    }
}
