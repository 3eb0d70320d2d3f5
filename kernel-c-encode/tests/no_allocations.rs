//! In the steady state an encoder allocates nothing of its own. The C++ library has its own allocator, not counted.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::vpl::{Machine, NODE, on};
use kernel_c_encode::encoder::{AccessUnitMeta, AuSink, EncodeInput, Key, LeftOut};
use kernel_c_encode::error::SinkError;
use kernel_c_encode::ratecontrol::controlled::Controlled;
use kernel_c_encode::select;
use kernel_c_encode::settings::{EncoderSettings, RateControl};
use shm_protocol::frame::{ChromaSiting, Codec, Colour, VideoFormat};
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

/// An encoder to watch.
struct Case {
    backend: &'static str,
    codec: Codec,
    /// Other frames than NV12.
    format: Option<VideoFormat>,
    noise: u32,
    /// Under our own rate control.
    ours: bool,
    /// The first frame of the steady state.
    first: u64,
}

// One test in this binary: the counter is the whole process's.
#[test]
fn the_steady_state_allocates_nothing() {
    // The runtime of the fixture allocates with an allocator of its own, as Intel's does.
    let on_a_runtime = std::env::var("QUAD_VPL_TEST_CHILD").is_ok();
    let case = |backend, codec| Case { backend, codec, format: None, noise: 8, ours: false, first: 1 };
    let ten_bit = Some(common::p010(320, 180, common::FPS, Colour::BT709_LIMITED));
    let direct = [
        case("openh264", Codec::H264),
        // With much noise the guard over openh264's bitrate takes over.
        Case { noise: 64, ..case("openh264", Codec::H264) },
        // Without a bitrate of its own our rate control is at work.
        Case { noise: 16, ours: true, ..case("openh264", Codec::H264) },
        case("x264", Codec::H264),
        case("x265", Codec::Hevc),
        Case { format: ten_bit, ..case("x265", Codec::Hevc) },
        case("svtav1", Codec::Av1),
        Case { format: ten_bit, ..case("svtav1", Codec::Av1) },
        case("null", Codec::Null),
    ];
    // Surfaces and bitstreams are made when they are first needed, within the first frames.
    let by_vpl = [Case { first: 6, ..case("vpl", Codec::H264) }];
    let cases = if on_a_runtime { &by_vpl[..] } else { &direct[..] };
    for &Case { backend, codec, format, noise, ours, first } in cases {
        if !on_a_runtime && !common::have(backend, codec) {
            continue;
        }
        let mut settings = common::small(codec);
        settings.format = format.unwrap_or(settings.format);
        // The longest way of x264: IDR slices are rewritten.
        settings.idr_count = 1;
        // The longest way: parameter sets are rewritten at every IDR.
        settings.format.colour.siting = ChromaSiting::TopLeft;
        if std::env::var("LIBVA_DRIVER_NAME").is_ok() {
            settings.device = Some(NODE.into());
        }
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
            if index >= first {
                counted += ALLOCATIONS.load(Ordering::Relaxed) - before;
            }
        }
        assert_eq!((counted, sink.units), (0, 30), "{backend}, noise {noise}, our rate control: {ours}");
    }
    if !on_a_runtime {
        for machine in [Machine::Software, Machine::Hardware] {
            on(machine, "the_steady_state_allocates_nothing", &[], |_| {});
        }
    }
}
