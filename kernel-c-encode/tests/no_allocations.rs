//! In the steady state an encoder allocates nothing of its own. The C++ library has its own allocator, not counted.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use kernel_c_encode::encoder::{AccessUnitMeta, AuSink, EncodeInput, Key, LeftOut};
use kernel_c_encode::error::SinkError;
use kernel_c_encode::ratecontrol::controlled::Controlled;
use kernel_c_encode::select;
use kernel_c_encode::settings::{EncoderSettings, RateControl};
use shm_protocol::frame::{ChromaSiting, Codec};
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
    // With much noise the guard over openh264's bitrate takes over; without a bitrate our own rate control is tried.
    for (backend, codec, noise, ours) in [
        ("openh264", Codec::H264, 8, false),
        ("openh264", Codec::H264, 64, false),
        ("openh264", Codec::H264, 16, true),
        ("null", Codec::Null, 8, false),
    ] {
        let mut settings = common::small(codec);
        // The longest way: parameter sets are rewritten at every IDR.
        settings.format.colour.siting = ChromaSiting::TopLeft;
        let inner = match ours {
            true => EncoderSettings { rate_control: RateControl::ConstantQp, ..settings.clone() },
            false => settings.clone(),
        };
        let mut encoder = select::open(backend, &inner).unwrap().encoder;
        if ours {
            encoder = Box::new(Controlled::new(encoder, &settings).unwrap());
        }
        let mut bytes = vec![0; settings.format.frame_bytes() as usize];
        let mut sink = Fixed { buffer: vec![0; 1 << 20], units: 0 };
        let mut counted = 0;
        for index in 0..30 {
            common::fill(&settings.format, index, noise, &mut bytes);
            let frame = EncodeInput {
                pixels: PixelsRead::from_slice(&settings.format, &bytes).unwrap(),
                memory: None,
                qp: None,
                key: Key { source_id: index, sub: 0 },
                pts_ns: index * 33_000_000,
                force_idr: index % 10 == 5,
                idr_count: 0,
            };
            let before = ALLOCATIONS.load(Ordering::Relaxed);
            encoder.encode(&frame, &mut sink).unwrap();
            if index > 0 {
                counted += ALLOCATIONS.load(Ordering::Relaxed) - before;
            }
        }
        assert_eq!((counted, sink.units), (0, 30), "{backend}, noise {noise}, our rate control: {ours}");
    }
}
