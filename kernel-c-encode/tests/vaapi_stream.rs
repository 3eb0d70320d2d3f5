//! The VA-API backend on the libva driver of tests/fixtures, which checks every parameter and codes with a software
//! encoder. Nothing here says how an Intel device behaves.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;
mod fixture;

use common::{FPS, Keep, Out, encode, nv12, run};
use fixture::{any, calls, decoded, nothing_refused, on_a_machine, open, refused};
use kernel_c_encode::bitstream::annexb::nal_units;
use kernel_c_encode::bitstream::h264::{SliceHeader, nal_type, type_of};
use kernel_c_encode::bitstream::h264_sps::Sps;
use kernel_c_encode::encoder::{EncodeInput, Key, LeftOut, PartKind};
use kernel_c_encode::settings::{EncoderSettings, Gop, RateControl};
use shm_protocol::frame::{Codec, Colour, PixelFormat, Rational, VideoFormat};
use shm_protocol::pixels::PixelsRead;
use std::time::Duration;
use va_fixture::environment::{need, skip};

const FRAMES: u64 = 90;

/// A format with these pixels.
fn of(pixel_format: PixelFormat, width: u32, height: u32) -> VideoFormat {
    VideoFormat::packed(pixel_format, width, height, Rational::new(FPS, 1).unwrap(), Colour::BT709_LIMITED).unwrap()
}

fn idrs(sink: &Keep) -> Vec<u64> {
    sink.units().iter().filter(|(meta, _)| meta.idr).map(|(meta, _)| meta.key.source_id - 1000).collect()
}

fn keys(sink: &Keep) -> Vec<u64> {
    sink.units().iter().map(|(meta, _)| meta.key.source_id - 1000).collect()
}

/// A stream of 90 frames with IDR pictures asked for at 20 and 21, decoded.
fn ninety_frames(settings: &EncoderSettings, suffix: &str) {
    let mut encoder = open(settings).unwrap();
    let sink = run(&mut *encoder, &settings.format, FRAMES, &[20, 21], 8);
    assert_eq!(keys(&sink), (0..FRAMES).collect::<Vec<_>>());
    assert_eq!(idrs(&sink), [0, 20, 21], "{settings:?}");
    let ten_bit = settings.bit_depth() == 10;
    let raw = decoded(&sink.stream(), suffix, if ten_bit { "yuv420p10le" } else { "yuv420p" });
    let (width, height) = (settings.format.width as usize, settings.format.height as usize);
    let frame_bytes = width * height * 3 / 2 * if ten_bit { 2 } else { 1 };
    assert_eq!(raw.len(), FRAMES as usize * frame_bytes, "{settings:?}");
    // The picture itself: the mean error of luma in the last frame.
    if !ten_bit {
        let mut source = vec![0; settings.format.frame_bytes() as usize];
        common::fill(&settings.format, FRAMES - 1, 8, &mut source);
        let last = &raw[(FRAMES as usize - 1) * frame_bytes..];
        let stride = settings.format.planes[0].stride as usize;
        let error: u64 =
            (0..width * height).map(|i| u64::from(last[i].abs_diff(source[i / width * stride + i % width]))).sum();
        assert!(error / ((width * height) as u64) < 12, "mean luma error {}", error / ((width * height) as u64));
    }
    assert!(encoder.path().starts_with("copied once into a mapped surface"), "{}", encoder.path());
    assert_eq!(encoder.copied_bytes(), FRAMES * (width * height * 3 / 2 * if ten_bit { 2 } else { 1 }) as u64);
}

fn settings(codec: Codec, size: (u32, u32), rate_control: RateControl) -> EncoderSettings {
    let format = nv12(size.0, size.1, FPS, Colour::BT709_LIMITED);
    EncoderSettings { gop: Gop::Infinite, rate_control, ..EncoderSettings::live(codec, format, 2000) }
}

#[test]
fn ninety_frames_of_h264_decode_in_every_rate_mode() {
    let test = "ninety_frames_of_h264_decode_in_every_rate_mode";
    if !need(test, &["ffmpeg"]) {
        return;
    }
    for rate in [RateControl::Constant, RateControl::Variable, RateControl::ConstantQp, RateControl::ConstantQuality] {
        for size in [(320, 180), (642, 362)] {
            let case = format!("{} {size:?}", rate.name());
            on_a_machine(
                test,
                &case,
                &[],
                || ninety_frames(&settings(Codec::H264, size, rate), ".h264"),
                nothing_refused,
            );
        }
    }
}

#[test]
fn ninety_frames_of_hevc_decode_with_eight_and_ten_bits() {
    let test = "ninety_frames_of_hevc_decode_with_eight_and_ten_bits";
    if !need(test, &["ffmpeg"]) {
        return;
    }
    for low_delay_b in ["no", "yes"] {
        for pixel_format in [PixelFormat::Nv12, PixelFormat::P010] {
            for rate in [RateControl::Constant, RateControl::ConstantQp] {
                let case = format!("{pixel_format:?} {} {low_delay_b}", rate.name());
                let machine = [("QUAD_VA_FIXTURE_LOW_DELAY_B", low_delay_b)];
                let body = || {
                    let mut settings = settings(Codec::Hevc, (642, 362), rate);
                    settings.format = of(pixel_format, 642, 362);
                    ninety_frames(&settings, ".h265");
                };
                on_a_machine(test, &case, &machine, body, nothing_refused);
            }
        }
    }
}

#[test]
fn ninety_frames_of_av1_decode_with_eight_and_ten_bits() {
    let test = "ninety_frames_of_av1_decode_with_eight_and_ten_bits";
    if !need(test, &["ffmpeg"]) {
        return;
    }
    for pixel_format in [PixelFormat::Nv12, PixelFormat::P010] {
        for rate in [RateControl::Constant, RateControl::ConstantQp] {
            let case = format!("{pixel_format:?} {}", rate.name());
            let body = || {
                let mut settings = settings(Codec::Av1, (642, 362), rate);
                settings.format = of(pixel_format, 642, 362);
                settings.qp = 120;
                match open(&settings) {
                    Ok(_) => ninety_frames(&settings, ".obu"),
                    // Debian's SVT-AV1 is older than what the driver can code with.
                    Err(error) => skip(test, &error.to_string()),
                }
            };
            on_a_machine(test, &case, &[], body, |lines| {
                assert_eq!(refused(lines), Vec::<serde_json::Value>::new());
            });
        }
    }
}

#[test]
fn hevc_tiles_are_taken_or_slices_stand_in() {
    let test = "hevc_tiles_are_taken_or_slices_stand_in";
    let body = || {
        let mut settings = settings(Codec::Hevc, (1024, 256), RateControl::Constant);
        (settings.tile_columns, settings.tile_rows) = (2, 2);
        let sink = run(&mut *open(&settings).unwrap(), &settings.format, 4, &[], 8);
        assert_eq!(keys(&sink), [0, 1, 2, 3]);
        settings.tile_columns = 5;
        let error = open(&settings).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("tile_columns = 5") && error.contains("0 to 4 for a width of 1024"), "{error}");
    };
    on_a_machine(test, "tiles", &[], body, nothing_refused);
    on_a_machine(test, "slices", &[("QUAD_VA_FIXTURE_TILES", "no")], body, nothing_refused);
}

#[test]
fn intra_refresh_is_asked_for_picture_by_picture() {
    let test = "intra_refresh_is_asked_for_picture_by_picture";
    let body = || {
        let mut settings = settings(Codec::H264, (640, 360), RateControl::Constant);
        settings.intra_refresh = true;
        let sink = run(&mut *open(&settings).unwrap(), &settings.format, 40, &[20], 8);
        assert_eq!(idrs(&sink), [0, 20]);
    };
    on_a_machine(test, "", &[], body, nothing_refused);
}

#[test]
fn a_live_bitrate_acts_without_an_idr() {
    let test = "a_live_bitrate_acts_without_an_idr";
    for rate in [RateControl::Constant, RateControl::Variable] {
        let body = || {
            let settings = EncoderSettings { max_bitrate_kbps: 8000, ..settings(Codec::H264, (640, 360), rate) };
            let mut encoder = open(&settings).unwrap();
            let mut sink = Keep::default();
            for index in 0..180 {
                match index {
                    60 => encoder.set_bitrate(8000, 0).unwrap(),
                    120 => encoder.set_bitrate(2000, 0).unwrap(),
                    _ => {}
                }
                encode(&mut *encoder, &settings.format, index, false, 48, &mut sink).unwrap();
            }
            assert_eq!(idrs(&sink), [0]);
            if rate == RateControl::Constant {
                // The second second of each part: the first is the controller's to get there. The average of the
                // software encoder behind VBR moves too slowly to be seen here.
                let units = sink.units();
                let kbps =
                    |from: usize| units[from..from + 30].iter().map(|(_, bytes)| bytes.len()).sum::<usize>() * 8 / 1000;
                let (low, high, back) = (kbps(30), kbps(90), kbps(150));
                assert!(high > low * 2 && high > back * 2, "{low}, {high}, {back} kb/s");
            }
        };
        on_a_machine(test, rate.name(), &[], body, |lines| {
            nothing_refused(lines);
            // What the driver understood, at the very picture.
            let told: Vec<&str> =
                calls(lines, "vaEndPicture").iter().map(|line| line["parameters"]["rate"].as_str().unwrap()).collect();
            let (low, high) = match rate {
                RateControl::Constant => ("Cbr(2000)", "Cbr(8000)"),
                _ => ("Vbr(2000, 8000)", "Vbr(8000, 8000)"),
            };
            assert_eq!([told[59], told[60], told[119], told[120]], [low, high, high, low]);
        });
    }
}

#[test]
fn idr_pic_id_differs_from_one_idr_to_the_next_and_goes_on_after_a_restart() {
    let test = "idr_pic_id_differs_from_one_idr_to_the_next_and_goes_on_after_a_restart";
    on_a_machine(
        test,
        "",
        &[],
        || {
            let mut settings = settings(Codec::H264, (320, 180), RateControl::Constant);
            settings.idr_count = 7;
            let sink = run(&mut *open(&settings).unwrap(), &settings.format, 12, &[4, 5, 9], 8);
            let mut sps = None;
            let mut ids = Vec::new();
            for (_, bytes) in sink.units() {
                for unit in nal_units(bytes) {
                    match type_of(unit.nal[0]) {
                        nal_type::SPS => sps = Sps::parse(unit.nal),
                        nal_type::IDR_SLICE => {
                            ids.push(SliceHeader::parse(unit.nal, &sps.unwrap()).unwrap().idr_pic_id.unwrap());
                        }
                        _ => {}
                    }
                }
            }
            assert_eq!(ids.len(), 4);
            assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
            assert_eq!(ids[0] % 2, 1, "seven IDR pictures came before: {ids:?}");
        },
        any,
    );
}

#[test]
fn several_frames_in_work_come_out_in_order_and_with_their_idrs() {
    let test = "several_frames_in_work_come_out_in_order_and_with_their_idrs";
    on_a_machine(
        test,
        "",
        &[("QUAD_VA_FIXTURE_DELAY_MS", "3")],
        || {
            let settings =
                EncoderSettings { async_depth: 4, ..settings(Codec::H264, (320, 180), RateControl::Constant) };
            let mut encoder = open(&settings).unwrap();
            assert_eq!(encoder.capabilities().delay_frames, 3);
            let mut sink = Keep::default();
            for index in 0..40u64 {
                encode(&mut *encoder, &settings.format, index, [17, 18].contains(&index), 8, &mut sink).unwrap();
                assert_eq!(sink.out.len() as u64, (index + 1).saturating_sub(3));
            }
            encoder.collect(&mut sink, Duration::from_secs(5)).unwrap();
            assert_eq!(sink.out.len(), 40, "collect brings out what is ready");
            encoder.flush(&mut sink).unwrap();
            assert_eq!((keys(&sink), idrs(&sink)), ((0..40).collect(), vec![0, 17, 18]));
            if need(test, &["ffmpeg"]) {
                assert_eq!(decoded(&sink.stream(), ".h264", "yuv420p").len(), 40 * 320 * 180 * 3 / 2);
            }
        },
        nothing_refused,
    );
}

#[test]
fn slices_are_as_many_as_asked_for() {
    let test = "slices_are_as_many_as_asked_for";
    on_a_machine(
        test,
        "",
        &[],
        || {
            for slices in [1, 2, 4, 7] {
                let mut settings = settings(Codec::H264, (640, 360), RateControl::Constant);
                settings.slices = slices;
                let sink = run(&mut *open(&settings).unwrap(), &settings.format, 5, &[3], 8);
                for (meta, bytes) in sink.units() {
                    let parts = meta.parts.as_slice();
                    let count = parts.iter().filter(|p| p.kind == PartKind::Slice).count();
                    // The last part holds all slices that have no place of their own.
                    assert_eq!(count, usize::from(slices).min(8 - (parts.len() - count)), "{slices} slices");
                    let nals = nal_units(bytes).filter(|n| matches!(type_of(n.nal[0]), 1 | 5)).count();
                    assert_eq!(nals, usize::from(slices));
                }
            }
        },
        nothing_refused,
    );
}

#[test]
fn a_device_without_bitrate_modes_is_held_to_the_bitrate_by_our_own_rate_control() {
    let test = "a_device_without_bitrate_modes_is_held_to_the_bitrate_by_our_own_rate_control";
    for depth in [1, 4] {
        // Pictures that take a while stay in work as on a device.
        let machine = [
            ("QUAD_VA_FIXTURE_RC", "cqp"),
            ("QUAD_VA_FIXTURE_ENTRYPOINTS", "slice"),
            ("QUAD_VA_FIXTURE_DELAY_MS", "5"),
        ];
        let body = || {
            let settings =
                EncoderSettings { async_depth: depth, ..settings(Codec::H264, (640, 360), RateControl::Constant) };
            let mut encoder = open(&settings).unwrap();
            assert_eq!(encoder.capabilities().delay_frames, u32::from(depth) - 1);
            let sink = run(&mut *encoder, &settings.format, 120, &[], 48);
            let units = sink.units();
            // From the third second on: the first pays for the IDR, the second is paid back.
            let kbps = units[60..].iter().map(|(_, bytes)| bytes.len()).sum::<usize>() * 8 / 2000;
            assert!((1600..2400).contains(&kbps), "{kbps} kb/s of 2000 at depth {depth}");
            let mut other = settings.clone();
            other.rate_control = RateControl::ConstantQuality;
            other.async_depth = 1;
            assert!(open(&other).is_ok(), "constant quality too");
        };
        on_a_machine(test, &depth.to_string(), &machine, body, nothing_refused);
    }
}

#[test]
fn a_frame_may_carry_its_own_quantiser() {
    let test = "a_frame_may_carry_its_own_quantiser";
    on_a_machine(
        test,
        "",
        &[],
        || {
            let settings = settings(Codec::H264, (320, 180), RateControl::ConstantQp);
            let mut encoder = open(&settings).unwrap();
            assert!(encoder.capabilities().frame_qp && !encoder.capabilities().live_bitrate);
            assert!(encoder.set_bitrate(1000, 0).unwrap_err().to_string().contains("cqp"));
            let mut sink = Keep::default();
            let mut bytes = vec![0; settings.format.frame_bytes() as usize];
            for index in 0..40u64 {
                common::fill(&settings.format, index, 32, &mut bytes);
                let frame = EncodeInput {
                    pixels: PixelsRead::from_slice(&settings.format, &bytes).unwrap(),
                    memory: None,
                    qp: Some(if index < 20 { 20 } else { 44 }),
                    key: Key { source_id: 1000 + index, sub: 0 },
                    pts_ns: index,
                    force_idr: false,
                    idr_count: 0,
                };
                encoder.encode(&frame, &mut sink).unwrap();
            }
            let size = |index: usize| sink.units()[index].1.len();
            assert!(size(15) > size(35) * 4, "{} and {} bytes", size(15), size(35));
        },
        any,
    );
}

#[test]
fn segments_are_joined_and_images_stand_in_where_no_surface_can_be_mapped() {
    let test = "segments_are_joined_and_images_stand_in_where_no_surface_can_be_mapped";
    let machine = [("QUAD_VA_FIXTURE_SEGMENTS", "3"), ("QUAD_VA_FIXTURE_DERIVE", "no")];
    on_a_machine(
        test,
        "",
        &machine,
        || {
            let settings = settings(Codec::H264, (322, 182), RateControl::Constant);
            let mut encoder = open(&settings).unwrap();
            let sink = run(&mut *encoder, &settings.format, 30, &[], 8);
            assert!(encoder.path().contains("image"), "{}", encoder.path());
            if need(test, &["ffmpeg"]) {
                assert_eq!(decoded(&sink.stream(), ".h264", "yuv420p").len(), 30 * 322 * 182 * 3 / 2);
            }
        },
        |lines| assert_eq!(calls(lines, "vaDeriveImage").len(), 1, "asked once"),
    );
}

#[test]
fn a_unit_the_ring_cannot_hold_is_told_and_the_stream_goes_on_with_an_idr() {
    let test = "a_unit_the_ring_cannot_hold_is_told_and_the_stream_goes_on_with_an_idr";
    for depth in [1, 4] {
        let body = || {
            let settings =
                EncoderSettings { async_depth: depth, ..settings(Codec::H264, (320, 180), RateControl::Constant) };
            let mut encoder = open(&settings).unwrap();
            let mut sink = Keep::default();
            let mut refused = 0;
            for index in 0..20 {
                // The frame that comes out with frame 9 does not fit.
                sink.limit = if index == 9 { 10 } else { usize::MAX };
                let encoded = encode(&mut *encoder, &settings.format, index, false, 8, &mut sink);
                refused += u32::from(encoded.is_err());
            }
            encoder.flush(&mut sink).unwrap();
            assert_eq!(refused, 1);
            let out: Vec<(u64, bool)> = sink
                .out
                .iter()
                .map(|out| match out {
                    Out::Unit(meta, _) => (meta.key.source_id - 1000, true),
                    Out::Left(key, LeftOut::TooLarge) => (key.source_id - 1000, false),
                    Out::Left(key, reason) => panic!("{key:?} was left out: {reason:?}"),
                })
                .collect();
            let lost = 9 - (u64::from(depth) - 1);
            assert_eq!(
                out,
                (0..20).map(|index| (index, index != lost)).collect::<Vec<_>>(),
                "each frame once, in order"
            );
            assert_eq!(idrs(&sink), [0, lost + 1], "what referred to the lost frame was coded anew");
            if need(test, &["ffmpeg"]) {
                assert_eq!(decoded(&sink.stream(), ".h264", "yuv420p").len(), 19 * 320 * 180 * 3 / 2);
            }
        };
        on_a_machine(test, &depth.to_string(), &[], body, nothing_refused);
    }
}
