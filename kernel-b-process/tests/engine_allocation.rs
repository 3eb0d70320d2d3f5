//! A frame allocates nothing: counted by an allocator that belongs to this test binary alone.
#![expect(unsafe_code, reason = "a global allocator is unsafe by its signature")]

use kernel_b_process::color::Matrix;
use kernel_b_process::engine::{Engine, Plan, Rotation, Wish, plan};
use kernel_b_process::engines::cpu::CpuEngine;
use shm_protocol::frame::{Colour, PixelFormat, Rational, VideoFormat};
use shm_protocol::pixels::{PixelsRead, PixelsWrite};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Allocations of this thread: other threads of the test harness do not disturb.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes to the system allocator with its arguments unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: the caller keeps the contract of `alloc`, which is the system allocator's.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `alloc` above with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn no_frame_allocates_from_the_first_one_on() {
    let fps = Rational::new(60, 1).unwrap();
    for pixel_format in PixelFormat::ALL {
        let colour = if pixel_format.is_rgb() { Colour::SRGB } else { Colour::BT709_LIMITED };
        let input = VideoFormat::packed(pixel_format, 64, 48, fps, colour).unwrap();
        let base = Wish { matrix: Some(Matrix::Bt601), ..Wish::default() };
        let wishes = [base, Wish { size: Some((40, 20)), ..base }, Wish { rotation: Rotation::Clockwise90, ..base }];
        for wish in wishes {
            let Plan::Convert(conversion) = plan(&input, &wish).unwrap() else { panic!("a conversion expected") };
            let pixels = vec![7; input.frame_bytes() as usize];
            let mut out = vec![0; conversion.output.frame_bytes() as usize];
            let mut engine = CpuEngine::new(&conversion);
            let before = ALLOCATIONS.get();
            assert!(before > 0, "the counter counts");
            for _ in 0..3 {
                let read = PixelsRead::from_slice(&input, &pixels).unwrap();
                let mut write = PixelsWrite::new(&conversion.output, &mut out).unwrap();
                engine.run(&read, &mut write).unwrap();
            }
            assert_eq!(ALLOCATIONS.get(), before, "{pixel_format:?} {wish:?}");
        }
    }
}
