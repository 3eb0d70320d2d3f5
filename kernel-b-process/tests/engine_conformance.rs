//! What every engine has to do, run against every engine there is. A new engine is one line in [`ENGINES`].
#![expect(clippy::unwrap_used, reason = "in a test helper, too, a failure fails the test")]

mod reference;

use kernel_b_process::color::Matrix;
use kernel_b_process::engine::{Conversion, Engine, Plan, Rect, Rotation, Wish, plan};
use kernel_b_process::engines::cpu::CpuEngine;
use kernel_b_process::error::EngineError;
use reference::{FPS, Frame, expected, loose};
use shm_protocol::error::Recovery;
use shm_protocol::frame::{ChromaSiting, Colour, FieldOrder, HdrStatic, PixelFormat, Range, VideoFormat};
use shm_protocol::pixels::{PixelsRead, PixelsWrite};

type Make = fn(&Conversion) -> Box<dyn Engine>;

/// Every engine.
const ENGINES: &[Make] = &[|conversion| Box::new(CpuEngine::new(conversion))];

/// What the output holds before the engine runs: to be found again in every byte that is not a visible pixel.
const UNTOUCHED: u8 = 0xa5;
/// Rounding to the nearest code, and what fixed-point coefficients and weights may add (8-bit codes).
const NEAREST: f64 = 0.5 + 0.05;

fn packed(pixel_format: PixelFormat, width: u32, height: u32, colour: Colour) -> VideoFormat {
    VideoFormat::packed(pixel_format, width, height, FPS, colour).unwrap()
}

fn own_colour(pixel_format: PixelFormat) -> Colour {
    if pixel_format.is_rgb() { Colour::SRGB } else { Colour::BT709_LIMITED }
}

/// A wish that always leaves something to do, whatever the input.
fn other_format(input: PixelFormat) -> Wish {
    let format = if input == PixelFormat::Nv12 { PixelFormat::P010 } else { PixelFormat::Nv12 };
    Wish { format: Some(format), ..Wish::default() }
}

fn planned(input: &VideoFormat, wish: &Wish) -> Conversion {
    match plan(input, wish).unwrap() {
        Plan::Convert(conversion) => *conversion,
        Plan::PassThrough => panic!("a conversion expected for {wish:?}"),
    }
}

fn run_into(engine: &mut dyn Engine, input: &Frame, output: &mut Frame) -> Result<(), EngineError> {
    let read = PixelsRead::from_slice(&input.format, &input.bytes).unwrap();
    let mut write = PixelsWrite::new(&output.format, &mut output.bytes).unwrap();
    engine.run(&read, &mut write)
}

/// Runs one frame through a fresh engine.
fn convert(make: Make, input: &Frame, wish: &Wish) -> Frame {
    let conversion = planned(&input.format, wish);
    let mut output = Frame::new(conversion.output, |_| UNTOUCHED);
    run_into(&mut *make(&conversion), input, &mut output).unwrap();
    output
}

/// Runs one frame and holds every sample against the reference.
#[track_caller]
fn holds(make: Make, input: &Frame, wish: &Wish) {
    let conversion = planned(&input.format, wish);
    let output = convert(make, input, wish);
    let depth = output.format.pixel_format.bit_depth();
    let allowed = if conversion.recipe.dither {
        1.05
    } else if depth > 8 {
        0.5 + 4.0 * (NEAREST - 0.5)
    } else {
        NEAREST
    };
    let got = [output.luma(), output.chroma(0), output.chroma(1)];
    for (name, (got, expected)) in ["Y'", "Cb", "Cr"].iter().zip(got.iter().zip(expected(&conversion, input))) {
        assert_eq!(got.len(), expected.len());
        for (index, (got, expected)) in got.iter().zip(&expected).enumerate() {
            let off = (f64::from(*got) - expected).abs();
            let format = &input.format;
            assert!(off <= allowed, "{name} {index}: {got}, not {expected:.3}; {format:?} {wish:?}");
        }
    }
}

fn for_all(test: impl Fn(Make)) {
    ENGINES.iter().for_each(|make| test(*make));
}

#[test]
fn white_black_and_greys_are_exact_in_every_rgb_format() {
    for_all(|make| {
        for pixel_format in [PixelFormat::Bgra, PixelFormat::Rgba, PixelFormat::Rgb24] {
            for (height, matrix) in [(4, 6), (720, 1)] {
                for (range, black, white) in [(Range::Limited, 16, 235), (Range::Full, 0, 255)] {
                    // 256 grey columns, each two pixels wide and four apart in the row above the next.
                    let bytes = pixel_format.row_bytes(0, 1) as usize;
                    let format = packed(pixel_format, 512, height, Colour::SRGB);
                    let stride = format.planes[0].stride as usize;
                    let input = Frame::new(format, |at| (at % stride / bytes / 2) as u8);
                    let out = convert(make, &input, &Wish { range: Some(range), ..Wish::default() });
                    assert_eq!(out.format.colour.matrix, matrix);
                    let luma = out.luma();
                    assert_eq!((luma[0], luma[511]), (black, white));
                    assert!(luma[..512].windows(2).all(|pair| pair[0] <= pair[1]));
                    assert!(out.chroma(0).iter().chain(&out.chroma(1)).all(|c| *c == 128));
                }
            }
        }
    });
}

#[test]
fn bt709_primaries_have_the_published_codes() {
    for_all(|make| {
        // BT.709 bars of full amplitude: R'G'B' and Y'CbCr in 8 bit, limited.
        for (rgb, codes) in [
            ([255, 0, 0], [63, 102, 240]),
            ([0, 255, 0], [173, 42, 26]),
            ([0, 0, 255], [32, 240, 118]),
            ([255, 255, 0], [219, 16, 138]),
            ([0, 255, 255], [188, 154, 16]),
            ([255, 0, 255], [78, 214, 230]),
        ] {
            let format = packed(PixelFormat::Rgb24, 256, 2, Colour::SRGB);
            let input = Frame::new(format, |at| rgb[at % 768 % 3]);
            let out = convert(make, &input, &Wish { matrix: Some(Matrix::Bt709), ..Wish::default() });
            assert_eq!([out.luma()[9], out.chroma(0)[9], out.chroma(1)[9]], codes, "{rgb:?}");
        }
    });
}

#[test]
fn every_format_matrix_range_and_siting_is_within_rounding_of_the_reference() {
    for_all(|make| {
        for (seed, pixel_format) in PixelFormat::ALL.into_iter().enumerate() {
            for range_in in [Range::Limited, Range::Full] {
                for siting_in in [ChromaSiting::Left, ChromaSiting::Center, ChromaSiting::TopLeft] {
                    let colour = Colour { range: range_in, siting: siting_in, ..own_colour(pixel_format) };
                    let input = Frame::noise(loose(pixel_format, 38, 22, colour), seed as u64);
                    holds(make, &input, &other_format(pixel_format));
                    for (matrix, range, siting) in [
                        (Matrix::Bt601, Range::Full, ChromaSiting::Center),
                        (Matrix::Bt709, Range::Limited, ChromaSiting::TopLeft),
                        (Matrix::Bt2020, Range::Limited, ChromaSiting::Left),
                    ] {
                        for format in [PixelFormat::Nv12, PixelFormat::P010] {
                            let (matrix, range, siting) = (Some(matrix), Some(range), Some(siting));
                            let wish = Wish { format: Some(format), matrix, range, siting, ..Wish::default() };
                            if plan(&input.format, &wish).unwrap() != Plan::PassThrough {
                                holds(make, &input, &wish);
                            }
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn packed_422_rows_are_averaged_in_pairs() {
    for_all(|make| {
        for (pixel_format, cb, cr) in [(PixelFormat::Yuyv, 1, 3), (PixelFormat::Uyvy, 0, 2)] {
            let input = Frame::noise(packed(pixel_format, 64, 6, Colour::BT709_LIMITED), 5);
            let out = convert(make, &input, &Wish::default());
            for (which, offset) in [(0, cb), (1, cr)] {
                for (index, got) in out.chroma(which).into_iter().enumerate() {
                    let (x, y) = (index % 32, index / 32);
                    let pair = input.sample(0, 2 * y, 4 * x + offset) + input.sample(0, 2 * y + 1, 4 * x + offset);
                    assert_eq!(got, pair.div_ceil(2));
                }
            }
        }
    });
}

#[test]
fn planar_420_is_repacked_bit_by_bit() {
    for_all(|make| {
        let input = Frame::noise(loose(PixelFormat::I420, 50, 34, Colour::BT601_LIMITED), 8);
        let out = convert(make, &input, &Wish::default());
        assert!(out.luma().into_iter().enumerate().all(|(i, got)| got == input.sample(0, i / 50, i % 50)));
        for plane in [1, 2] {
            let got = out.chroma(plane - 1).into_iter().enumerate();
            assert!({ got }.all(|(i, got)| got == input.sample(plane, i / 25, i % 25)));
        }
    });
}

#[test]
fn only_visible_pixels_are_written_and_only_visible_pixels_are_read() {
    for_all(|make| {
        for pixel_format in PixelFormat::ALL {
            let input = Frame::noise(loose(pixel_format, 34, 18, own_colour(pixel_format)), 21);
            let wish = other_format(pixel_format);
            let conversion = planned(&input.format, &wish);
            let mut output =
                Frame::new(loose(conversion.output.pixel_format, 34, 18, conversion.output.colour), |_| UNTOUCHED);
            run_into(&mut *make(&conversion), &input, &mut output).unwrap();
            // The same pixels in frames without padding.
            let tight = packed(pixel_format, 34, 18, input.format.colour);
            let mut close = Frame::new(tight, |_| 0);
            let mut visible = vec![false; output.bytes.len()];
            for plane in 0..pixel_format.planes() {
                for y in 0..pixel_format.rows(plane, 18) as usize {
                    let len = pixel_format.row_bytes(plane, 34) as usize;
                    let start = |f: &VideoFormat| (f.planes[plane].offset + f.planes[plane].stride * y as u32) as usize;
                    let (to, from) = (start(&tight), start(&input.format));
                    close.bytes[to..to + len].copy_from_slice(&input.bytes[from..from + len]);
                }
            }
            let written = output.format.pixel_format;
            for plane in 0..2 {
                for y in 0..written.rows(plane, 18) {
                    let at = (output.format.planes[plane].offset + output.format.planes[plane].stride * y) as usize;
                    visible[at..at + written.row_bytes(plane, 34) as usize].fill(true);
                }
            }
            let other = convert(make, &close, &wish);
            assert_eq!((other.luma(), other.chroma(0)), (output.luma(), output.chroma(0)), "{pixel_format:?}");
            let padding = output.bytes.iter().zip(&visible).filter(|(_, visible)| !**visible);
            assert!({ padding }.all(|(byte, _)| *byte == UNTOUCHED), "{pixel_format:?}");
        }
    });
}

#[test]
fn the_same_frame_gives_the_same_bits_and_no_frame_leaves_a_trace() {
    for_all(|make| {
        let large = (70, 38, Some((52, 64)));
        // So few rows that all of them are still held in every cache when the next frame comes.
        let small = (16, 2, None);
        let shrunk = (16, 16, Some((8, 2)));
        for ((width, height, size), rotation) in [
            (large, Rotation::None),
            (large, Rotation::Clockwise90),
            (small, Rotation::None),
            (shrunk, Rotation::None),
            (shrunk, Rotation::Half180),
        ] {
            let format = packed(PixelFormat::Bgra, width, height, Colour::SRGB);
            let (first, second) = (Frame::noise(format, 1), Frame::noise(format, 2));
            let wish = Wish { size, rotation, ..Wish::default() };
            let conversion = planned(&format, &wish);
            let mut engine = make(&conversion);
            let mut outputs = [&first, &second, &first].map(|input| {
                let mut output = Frame::new(conversion.output, |_| UNTOUCHED);
                run_into(&mut *engine, input, &mut output).unwrap();
                output
            });
            assert_eq!(outputs[0], outputs[2]);
            assert_ne!(outputs[0], outputs[1]);
            outputs[1] = convert(make, &second, &wish);
            run_into(&mut *engine, &second, &mut outputs[2]).unwrap();
            assert_eq!(outputs[1], outputs[2]);
        }
    });
}

/// The output is defined to the bit: whoever changes it on purpose changes this number and says so.
#[test]
fn noise_through_every_format_gives_the_pinned_bits() {
    for_all(|make| {
        // FNV-1a, 64 bit, over the whole output.
        let mut hash = 0xcbf2_9ce4_8422_2325u64;
        for pixel_format in PixelFormat::ALL {
            let input = Frame::noise(packed(pixel_format, 46, 34, own_colour(pixel_format)), 99);
            for size in [None, Some((28, 50))] {
                let out = convert(make, &input, &Wish { size, ..other_format(pixel_format) });
                out.bytes.iter().for_each(|byte| hash = (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3));
            }
        }
        assert_eq!(hash, 0xe936_4bdf_ce9b_11c1, "{hash:#x}");
    });
}

#[test]
fn cropping_first_or_last_gives_the_same_pixels() {
    for_all(|make| {
        for pixel_format in PixelFormat::ALL {
            let input = Frame::noise(packed(pixel_format, 64, 48, own_colour(pixel_format)), 3);
            let whole = convert(make, &input, &other_format(pixel_format));
            // Multiples of 8: the pattern of rounding stays where it is.
            let crop = Some(Rect { x: 16, y: 8, width: 40, height: 32 });
            let part = convert(make, &input, &Wish { crop, ..other_format(pixel_format) });
            let cut = |all: &[u16], width: usize, scale: usize| -> Vec<u16> {
                (8 / scale..40 / scale).flat_map(|y| all[y * width + 16 / scale..][..40 / scale].to_vec()).collect()
            };
            // Chroma rows sit on even luma rows; patterns repeat every 8 of their own rows.
            assert_eq!(cut(&whole.luma(), 64, 1), part.luma(), "{pixel_format:?}");
            if pixel_format != PixelFormat::P010 {
                assert_eq!(cut(&whole.chroma(0), 32, 2), part.chroma(0), "{pixel_format:?}");
                assert_eq!(cut(&whole.chroma(1), 32, 2), part.chroma(1), "{pixel_format:?}");
            }
        }
    });
}

#[test]
fn odd_crops_keep_chroma_in_its_place() {
    for_all(|make| {
        for pixel_format in PixelFormat::ALL {
            let input = Frame::noise(packed(pixel_format, 40, 30, own_colour(pixel_format)), 4);
            for (x, y) in [(1, 0), (0, 1), (5, 7), (2, 3)] {
                let crop = Some(Rect { x, y, width: 18, height: 14 });
                holds(make, &input, &Wish { crop, ..other_format(pixel_format) });
            }
        }
        for pixel_format in PixelFormat::ALL {
            let input = Frame::noise(packed(pixel_format, 40, 30, own_colour(pixel_format)), 5);
            for y in [3, 4] {
                let crop = Some(Rect { x: 0, y, width: 40, height: 20 });
                holds(make, &input, &Wish { crop, ..Wish::default() });
            }
        }
        let odd = Frame::noise(packed(PixelFormat::Rgb24, 41, 31, Colour::SRGB), 4);
        holds(make, &odd, &Wish { crop: Some(Rect { x: 1, y: 1, width: 40, height: 30 }), ..Wish::default() });
    });
}

#[test]
fn scaling_up_and_down_follows_the_reference() {
    for_all(|make| {
        for pixel_format in PixelFormat::ALL {
            let input = Frame::noise(packed(pixel_format, 48, 36, own_colour(pixel_format)), 6);
            for size in [(24, 18), (32, 24), (16, 34), (96, 72), (50, 38), (2, 2), (48, 18)] {
                holds(make, &input, &Wish { size: Some(size), ..Wish::default() });
            }
            let crop = Some(Rect { x: 3, y: 5, width: 31, height: 23 });
            let matrix = Some(Matrix::Bt601);
            holds(make, &input, &Wish { crop, size: Some((20, 40)), matrix, ..Wish::default() });
        }
    });
}

#[test]
fn rotation_follows_the_reference_with_scale_and_odd_crop() {
    for_all(|make| {
        for pixel_format in PixelFormat::ALL {
            for siting in [ChromaSiting::Left, ChromaSiting::TopLeft] {
                let colour = Colour { siting, ..own_colour(pixel_format) };
                let input = Frame::noise(packed(pixel_format, 40, 28, colour), 7);
                for rotation in [Rotation::Clockwise90, Rotation::Half180, Rotation::Clockwise270] {
                    holds(make, &input, &Wish { rotation, ..Wish::default() });
                    let crop = Some(Rect { x: 3, y: 1, width: 21, height: 17 });
                    holds(make, &input, &Wish { rotation, crop, size: Some((24, 12)), ..Wish::default() });
                }
            }
        }
    });
}

#[test]
fn a_scale_to_the_same_size_is_the_identity_and_a_constant_stays_constant() {
    for_all(|make| {
        let input = Frame::noise(packed(PixelFormat::I420, 32, 16, Colour::BT709_LIMITED), 9);
        let same = convert(make, &input, &Wish { size: Some((32, 16)), ..Wish::default() });
        assert_eq!(same, convert(make, &input, &Wish::default()));
        for code in [0, 1, 77, 128, 254, 255] {
            let flat = Frame::new(packed(PixelFormat::Nv12, 62, 46, Colour::BT709_LIMITED), |_| code);
            for size in [(30, 22), (64, 48), (200, 2), (2, 200), (62, 44)] {
                let out = convert(make, &flat, &Wish { size: Some(size), ..Wish::default() });
                assert!([out.luma(), out.chroma(0), out.chroma(1)].concat().iter().all(|c| *c == u16::from(code)));
            }
        }
    });
}

#[test]
fn half_of_a_gradient_is_the_gradient_between_its_pixels() {
    for_all(|make| {
        let format = packed(PixelFormat::Nv12, 256, 8, Colour::BT709_LIMITED);
        let input = Frame::new(format, |at| (at % 256) as u8);
        let out = convert(make, &input, &Wish { size: Some((128, 4)), ..Wish::default() });
        // Pixel i covers 2 i and 2 i + 1: the mean is 2 i + 0.5, a shift of half a pixel would make it 2 i + 1.5.
        assert!(out.luma().iter().enumerate().all(|(i, got)| got.abs_diff(2 * (i as u16 % 128)) <= 1));
        let sum: i64 = out.luma()[..128].iter().enumerate().map(|(i, got)| i64::from(*got) - 2 * i as i64).sum();
        assert!((0..=128).contains(&sum));
    });
}

#[test]
fn the_smallest_and_the_crooked_sizes_work() {
    for_all(|make| {
        for pixel_format in PixelFormat::ALL {
            for (width, height) in [(2, 2), (16, 2), (2, 16), (6, 4), (18, 2), (30, 6), (130, 4)] {
                let input = Frame::noise(packed(pixel_format, width, height, own_colour(pixel_format)), 11);
                holds(make, &input, &other_format(pixel_format));
                holds(
                    make,
                    &input,
                    &Wish { size: Some((4, 2)), crop: None, range: Some(Range::Full), ..Wish::default() },
                );
            }
        }
        for pixel_format in [PixelFormat::Bgra, PixelFormat::Rgb24] {
            let dot = Frame::noise(packed(pixel_format, 1, 1, Colour::SRGB), 12);
            holds(make, &dot, &Wish { size: Some((2, 2)), ..Wish::default() });
        }
    });
}

#[test]
fn p010_words_have_empty_low_bits_and_dirty_ones_are_ignored() {
    for_all(|make| {
        let input = Frame::noise(packed(PixelFormat::P010, 32, 8, Colour::BT709_LIMITED), 13);
        let mut clean = input.clone();
        clean.bytes.iter_mut().step_by(2).for_each(|low| *low &= 0xc0);
        let wish = Wish { size: Some((24, 6)), ..Wish::default() };
        let out = convert(make, &input, &wish);
        assert_eq!(out.format.pixel_format, PixelFormat::P010);
        assert_eq!(out, convert(make, &clean, &wish));
        let VideoFormat { planes, .. } = out.format;
        for (plane, rows) in [(0, 6), (1, 3)] {
            for y in 0..rows {
                let at = (planes[plane].offset + planes[plane].stride * y) as usize;
                assert!(out.bytes[at..at + 48].iter().step_by(2).all(|low| low & 0x3f == 0));
            }
        }
        let white = Frame::new(packed(PixelFormat::Bgra, 4, 4, Colour::SRGB), |_| 255);
        let wish = |range| Wish { format: Some(PixelFormat::P010), range: Some(range), ..Wish::default() };
        let codes = |out: Frame| [out.luma()[0], out.chroma(0)[0], out.chroma(1)[0]];
        assert_eq!(codes(convert(make, &white, &wish(Range::Limited))), [940, 512, 512]);
        assert_eq!(codes(convert(make, &white, &wish(Range::Full))), [1023, 512, 512]);
    });
}

#[test]
fn ten_bits_to_eight_keep_their_mean() {
    for_all(|make| {
        for code in [400u16, 401, 402, 403] {
            let [low, high] = (code << 6).to_le_bytes();
            let format = packed(PixelFormat::P010, 32, 32, Colour::BT709_LIMITED);
            let input = Frame::new(format, |at| if at % 2 == 0 { low } else { high });
            let out = convert(make, &input, &Wish { format: Some(PixelFormat::Nv12), ..Wish::default() });
            let sum: u32 = out.luma().iter().map(|c| u32::from(*c)).sum();
            assert_eq!(sum, u32::from(code) * 1024 / 4);
            assert!(out.luma().iter().all(|c| c.abs_diff(code / 4) <= 1));
        }
    });
}

#[test]
fn everything_known_about_the_light_travels_on() {
    let mut input = packed(
        PixelFormat::I420,
        64,
        32,
        Colour { matrix: 9, primaries: 9, transfer: 16, range: Range::Limited, siting: ChromaSiting::TopLeft },
    );
    input.hdr = Some(HdrStatic { max_content_light: 1000, ..HdrStatic::default() });
    input.field_order = FieldOrder::BottomFirst;
    let output = planned(&input, &Wish::default()).output;
    assert_eq!((output.colour, output.hdr, output.fps), (input.colour, input.hdr, input.fps));
    assert_eq!(output.field_order, input.field_order);
    input.field_order = FieldOrder::Progressive;
    let wish = Wish { matrix: Some(Matrix::Bt709), range: Some(Range::Full), ..Wish::default() };
    let output = planned(&input, &wish).output;
    assert_eq!(output.colour, Colour { matrix: 1, range: Range::Full, ..input.colour });
}

#[test]
fn a_frame_of_another_format_is_refused_and_nothing_is_written() {
    for_all(|make| {
        let format = packed(PixelFormat::Bgra, 32, 16, Colour::SRGB);
        let conversion = planned(&format, &Wish::default());
        let mut engine = make(&conversion);
        let mut output = Frame::new(conversion.output, |_| UNTOUCHED);
        let wrong = [
            packed(PixelFormat::Rgba, 32, 16, Colour::SRGB),
            packed(PixelFormat::Bgra, 30, 16, Colour::SRGB),
            packed(PixelFormat::Bgra, 32, 16, Colour { range: Range::Limited, ..Colour::SRGB }),
        ];
        for format in wrong {
            let error = run_into(&mut *engine, &Frame::noise(format, 1), &mut output).unwrap_err();
            assert!(matches!(error, EngineError::Mismatch { side: "input", .. }));
            assert_eq!(error.recovery(), Recovery::Reattach);
        }
        let mut small = Frame::new(packed(PixelFormat::Nv12, 16, 16, conversion.output.colour), |_| UNTOUCHED);
        let error = run_into(&mut *engine, &Frame::noise(format, 1), &mut small).unwrap_err();
        assert!(matches!(error, EngineError::Mismatch { side: "output", .. }), "{error}");
        assert!(output.bytes.iter().chain(&small.bytes).all(|byte| *byte == UNTOUCHED));
    });
}

#[test]
fn every_engine_says_who_it_is() {
    let conversion = planned(&packed(PixelFormat::I420, 16, 16, Colour::BT709_LIMITED), &Wish::default());
    let names: Vec<_> = ENGINES.iter().map(|make| make(&conversion).name()).collect();
    assert_eq!(names, ["cpu"]);
    assert!(ENGINES.iter().all(|make| !make(&conversion).path().is_empty()));
}
