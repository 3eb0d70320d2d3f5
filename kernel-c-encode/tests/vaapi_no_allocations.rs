//! In the steady state the VA-API backend allocates nothing of its own. The driver of tests/fixtures is a library with
//! an allocator of its own, which is not counted.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;
mod fixture;

use fixture::{nothing_refused, on_a_machine, open};
use kernel_c_encode::encoder::{AccessUnitMeta, AuSink, EncodeInput, Key, LeftOut};
use kernel_c_encode::error::SinkError;
use kernel_c_encode::settings::{EncoderSettings, Gop};
use shm_protocol::frame::Codec;
use shm_protocol::pixels::PixelsRead;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[expect(unsafe_code, reason = "a global allocator that counts")]
// SAFETY: every call goes to the system allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static GLOBAL: Counting = Counting;

struct Fixed {
    buffer: Vec<u8>,
    units: u64,
}

impl AuSink for Fixed {
    fn buffer(&mut self, _len: usize) -> Result<&mut [u8], SinkError> {
        Ok(&mut self.buffer)
    }

    fn commit(&mut self, _len: usize, _meta: &AccessUnitMeta) -> Result<(), SinkError> {
        self.units += 1;
        Ok(())
    }

    fn left_out(&mut self, _key: Key, _reason: LeftOut) -> Result<(), SinkError> {
        Ok(())
    }
}

// One test in this binary: the counter is the whole process's.
#[test]
fn the_steady_state_allocates_nothing() {
    for (machine, segments) in [("cbr", "1"), ("cqp", "3")] {
        let environment = [("QUAD_VA_FIXTURE_RC", machine), ("QUAD_VA_FIXTURE_SEGMENTS", segments)];
        let body = || {
            let settings = EncoderSettings { gop: Gop::Frames(10), ..common::small(Codec::H264) };
            let mut encoder = open(&settings).unwrap();
            let mut sink = Fixed { buffer: vec![0; 1 << 20], units: 0 };
            let mut bytes = vec![0; settings.format.frame_bytes() as usize];
            let mut before = 0;
            for index in 0..60u64 {
                common::fill(&settings.format, index, 8, &mut bytes);
                let frame = EncodeInput {
                    pixels: PixelsRead::from_slice(&settings.format, &bytes).unwrap(),
                    memory: None,
                    qp: None,
                    key: Key { source_id: index, sub: 0 },
                    pts_ns: index,
                    force_idr: index == 45,
                    idr_count: 0,
                };
                // Thirty frames and three IDR pictures on, every buffer has found its size.
                if index == 30 {
                    before = ALLOCATIONS.load(Ordering::Relaxed);
                }
                encoder.encode(&frame, &mut sink).unwrap();
            }
            assert_eq!(ALLOCATIONS.load(Ordering::Relaxed) - before, 0, "{machine}");
            assert_eq!(sink.units, 60);
        };
        on_a_machine("the_steady_state_allocates_nothing", machine, &environment, body, nothing_refused);
    }
}
