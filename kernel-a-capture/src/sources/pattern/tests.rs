use super::*;
use crate::barcode::{Barcode, read_frame};
use proptest::prelude::*;
use shm_protocol::pixels::PixelsRead;

const FPS: Rational = Rational { num: 60, den: 1 };
const START_US: u64 = 1_700_000_000_000_000;

fn format(pixel_format: PixelFormat, width: u32, height: u32, fps: Rational) -> VideoFormat {
    let options = PatternOptions { pixel_format, width, height, fps, live: false, held_back: false, resume_pos: 0 };
    *PatternSource::new(&options).unwrap().format()
}

fn paint_into(painter: &mut Painter, format: &VideoFormat, bytes: &mut [u8], index: u16, id: u64, us: u64) -> u64 {
    painter.paint(&mut PixelsWrite::new(format, bytes).unwrap(), index, false, id, us)
}

#[test]
fn a_redraw_touches_under_two_percent_of_a_4k_or_8k_frame() {
    for (width, height, rate) in [(3840, 2160, 60), (3840, 2160, 240), (7680, 4320, 120)] {
        let fps = Rational { num: rate, den: 1 };
        let format = format(PixelFormat::Nv12, width, height, fps);
        let mut painter = Painter::new(format);
        let mut buffers = vec![vec![0u8; format.frame_bytes() as usize]; 4];
        let whole = u64::from(width * height) * 3 / 2;
        let mut worst = 0;
        for id in 0..400u64 {
            let index = (id % 4) as u16;
            let time_us = START_US + fps.frame_time_ns(id) / 1000 + id * 7919 % 500;
            let written = paint_into(&mut painter, &format, &mut buffers[usize::from(index)], index, id, time_us);
            if id < 4 {
                assert!(written >= whole, "an unknown buffer gets the whole picture");
            } else {
                worst = worst.max(written);
            }
        }
        assert!(worst * 100 < 2 * whole, "{width}x{height}: {worst} of {whole} bytes");
        assert!(worst > 0);
    }
}

#[test]
fn a_picture_depends_on_id_and_time_only_in_every_format() {
    for pixel_format in PixelFormat::ALL {
        for (width, height) in [(640, 360), (64, 48), (2, 2), (720, 486)] {
            let format = format(pixel_format, width, height, FPS);
            let mut painter = Painter::new(format);
            let mut reused = vec![0u8; format.frame_bytes() as usize];
            for step in 0..12u64 {
                let (id, time_us) = (step * step * 37, START_US + step * 123_456_789);
                paint_into(&mut painter, &format, &mut reused, 0, id, time_us);
                let mut fresh = vec![0u8; format.frame_bytes() as usize];
                paint_into(&mut Painter::new(format), &format, &mut fresh, 3, id, time_us);
                assert!(fresh == reused, "{} {width}x{height} step {step}", pixel_format.name());
            }
        }
    }
}

#[test]
fn odd_sizes_of_rgb_are_painted_to_the_last_pixel() {
    let format = format(PixelFormat::Rgb24, 641, 361, FPS);
    let mut bytes = vec![1u8; format.frame_bytes() as usize];
    paint_into(&mut Painter::new(format), &format, &mut bytes, 0, 0, START_US);
    let last = format.planes[0].stride as usize * 360 + 640 * 3;
    assert_eq!(bytes[last..last + 3], [191, 191, 191], "the mirrored bars end in white");
}

#[test]
fn a_fresh_buffer_is_painted_whole_whatever_was_remembered() {
    let format = format(PixelFormat::Nv12, 768, 432, FPS);
    let mut painter = Painter::new(format);
    let mut bytes = vec![0u8; format.frame_bytes() as usize];
    paint_into(&mut painter, &format, &mut bytes, 0, 7, START_US);
    let expected = bytes.clone();
    bytes.fill(99);
    painter.paint(&mut PixelsWrite::new(&format, &mut bytes).unwrap(), 0, true, 7, START_US);
    assert!(expected == bytes);
}

#[test]
fn the_barcode_says_time_and_id_also_after_many_redraws() {
    let format = format(PixelFormat::Nv12, 1280, 720, FPS);
    let mut painter = Painter::new(format);
    let mut bytes = vec![0u8; format.frame_bytes() as usize];
    for frame_id in (0..3000u64).step_by(271) {
        let realtime_us = START_US + frame_id * 16_667;
        paint_into(&mut painter, &format, &mut bytes, 0, frame_id, realtime_us);
        let read = read_frame(&PixelsRead::from_slice(&format, &bytes).unwrap());
        assert_eq!(read, Some(Barcode { realtime_us: realtime_us & barcode::VALUE_MASK, frame_id }));
    }
}

#[test]
fn the_picture_has_bars_text_and_a_moving_square() {
    let format = format(PixelFormat::Nv12, 1280, 720, FPS);
    let mut bytes = vec![0u8; format.frame_bytes() as usize];
    let mut painter = Painter::new(format);
    paint_into(&mut painter, &format, &mut bytes, 0, 90, START_US);
    let stride = format.planes[0].stride as usize;
    // Second bar, far from the square: yellow.
    assert_eq!(bytes[300 * stride + 160 + 80], 168);
    let chroma = format.planes[1].offset as usize + 150 * stride + 240;
    assert_eq!(bytes[chroma..chroma + 2], [44, 136]);
    // The text panel: white strokes on black.
    let panel = &bytes[52 * stride..76 * stride];
    assert!(panel.contains(&235) && panel.contains(&16));
    let square = painter.scene.square_at(90);
    let inside = (square.y as usize + 2) * stride + square.x as usize + 2;
    assert_eq!(bytes[inside], square_luma());
    paint_into(&mut painter, &format, &mut bytes, 0, 120, START_US);
    assert_ne!(bytes[inside], square_luma(), "the square moved on and the bars are back");
}

fn square_luma() -> u8 {
    scene::square_tone().ycbcr[0]
}

#[test]
fn an_unpaced_pattern_counts_on_from_where_its_predecessor_stood() {
    let options = PatternOptions {
        pixel_format: PixelFormat::I420,
        width: 64,
        height: 64,
        fps: FPS,
        live: false,
        held_back: false,
        resume_pos: 60,
    };
    let mut source = PatternSource::new(&options).unwrap();
    let format = *source.format();
    let mut bytes = vec![0u8; format.frame_bytes() as usize];
    let stop = AtomicBool::new(false);
    assert_eq!(source.wait(&stop).unwrap(), Wait::Ready);
    let pixels = PixelsWrite::new(&format, &mut bytes).unwrap();
    let mut request = FrameRequest { frame_id: 1, buffer_index: 0, buffer_fresh: true, pixels };
    let Captured::Frame(times) = source.fill(&mut request, &stop).unwrap() else { panic!("no frame") };
    assert_eq!((times.source_pts_ns, times.source_pos), (1_000_000_000, 61));
    stop.store(true, Ordering::Relaxed);
    assert_eq!(source.wait(&stop).unwrap(), Wait::Stopped);
}

#[test]
fn a_paced_pattern_keeps_to_the_grid_of_the_machine() {
    let fps = Rational { num: 200, den: 1 };
    let options = PatternOptions {
        pixel_format: PixelFormat::Nv12,
        width: 64,
        height: 64,
        fps,
        live: true,
        held_back: false,
        resume_pos: 0,
    };
    let mut source = PatternSource::new(&options).unwrap();
    let format = *source.format();
    let mut bytes = vec![0u8; format.frame_bytes() as usize];
    let stop = AtomicBool::new(false);
    let mut last = 0;
    for frame_id in 0..4 {
        assert_eq!(source.wait(&stop).unwrap(), Wait::Ready);
        let pixels = PixelsWrite::new(&format, &mut bytes).unwrap();
        let mut request = FrameRequest { frame_id, buffer_index: 0, buffer_fresh: false, pixels };
        let Captured::Frame(times) = source.fill(&mut request, &stop).unwrap() else { panic!("no frame") };
        assert_eq!(times.source_pts_ns % 5_000_000, 0);
        assert!(times.capture_ns as i64 >= times.source_pts_ns && times.source_pos > last);
        last = times.source_pos;
    }
}

#[test]
fn a_buffer_of_another_format_is_refused() {
    let options = PatternOptions {
        pixel_format: PixelFormat::I420,
        width: 64,
        height: 64,
        fps: FPS,
        live: false,
        held_back: false,
        resume_pos: 0,
    };
    let mut source = PatternSource::new(&options).unwrap();
    let other = format(PixelFormat::Nv12, 64, 64, FPS);
    let mut bytes = vec![0u8; other.frame_bytes() as usize];
    let pixels = PixelsWrite::new(&other, &mut bytes).unwrap();
    let mut request = FrameRequest { frame_id: 1, buffer_index: 0, buffer_fresh: true, pixels };
    let error = source.fill(&mut request, &AtomicBool::new(false)).unwrap_err();
    assert_eq!(error.to_string(), "The buffer is for 64x64 nv12 frames, but the source makes 64x64 i420");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_size_and_history_paints_without_panic_and_deterministically(
        code in 0usize..8, half_width in 1u32..600, half_height in 1u32..300,
        history in proptest::collection::vec((any::<u64>(), any::<u64>()), 1..5),
    ) {
        let format = format(PixelFormat::ALL[code], half_width * 2, half_height * 2, FPS);
        let mut painter = Painter::new(format);
        let mut reused = vec![0u8; format.frame_bytes() as usize];
        for (id, time_us) in &history {
            paint_into(&mut painter, &format, &mut reused, 0, *id, *time_us);
        }
        let (id, time_us) = history[history.len() - 1];
        let mut fresh = vec![0u8; format.frame_bytes() as usize];
        paint_into(&mut Painter::new(format), &format, &mut fresh, 0, id, time_us);
        prop_assert!(fresh == reused);
    }
}

#[test]
fn a_lossless_pattern_with_a_rate_makes_no_frame_early_and_skips_none() {
    let options = PatternOptions {
        pixel_format: PixelFormat::I420,
        width: 64,
        height: 64,
        fps: Rational { num: 100, den: 1 },
        live: false,
        held_back: true,
        resume_pos: 7,
    };
    let mut source = PatternSource::new(&options).unwrap();
    let format = *source.format();
    let mut bytes = vec![0u8; format.frame_bytes() as usize];
    let stop = AtomicBool::new(false);
    let began = std::time::Instant::now();
    for frame in 0..10u64 {
        if frame == 4 {
            // Held back: neither made up for nor skipped.
            std::thread::sleep(std::time::Duration::from_millis(35));
        }
        assert_eq!(source.wait(&stop).unwrap(), Wait::Ready);
        let pixels = PixelsWrite::new(&format, &mut bytes).unwrap();
        let mut request = FrameRequest { frame_id: frame, buffer_index: 0, buffer_fresh: true, pixels };
        let Captured::Frame(times) = source.fill(&mut request, &stop).unwrap() else { panic!("No frame") };
        assert_eq!(times.source_pos, 8 + frame);
        assert_eq!(times.source_pts_ns, pts((7 + frame) * 10_000_000));
    }
    // Eight intervals, one of them cut in half after the stall, and the stall: no burst.
    assert!(began.elapsed().as_millis() >= 105, "{:?}", began.elapsed());
}
