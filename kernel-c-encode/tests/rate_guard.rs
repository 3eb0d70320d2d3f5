//! The guard over openh264's bitrate, with the library itself.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::{FPS, Keep, Out, encode, nv12};
use kernel_c_encode::backends::software::openh264::OpenH264;
use kernel_c_encode::bitstream::annexb::nal_units;
use kernel_c_encode::bitstream::h264::{nal_type, type_of};
use kernel_c_encode::encoder::{Encoder, LeftOut};
use kernel_c_encode::settings::{EncoderSettings, Gop, RateControl};
use shm_protocol::frame::{Codec, Colour};

/// Bits of every frame; 0 for one left out.
fn sizes(sink: &Keep) -> Vec<u64> {
    sink.out
        .iter()
        .map(|out| match out {
            Out::Unit(_, bytes) => bytes.len() as u64 * 8,
            Out::Left(..) => 0,
        })
        .collect()
}

/// The fullest second, as a share of the bitrate.
fn fullest_second(sizes: &[u64], kbps: u32) -> f64 {
    let windows = sizes.windows(FPS as usize).map(|window| window.iter().sum::<u64>());
    windows.max().unwrap() as f64 / (f64::from(kbps) * 1000.0)
}

fn settings(width: u32, height: u32, kbps: u32, gop: Gop) -> EncoderSettings {
    let format = nv12(width, height, FPS, Colour::BT709_LIMITED);
    EncoderSettings { gop, ..EncoderSettings::live(Codec::H264, format, kbps) }
}

/// Encodes `count` frames with the noise that `noise` says for each; an IDR is asked for at those in `idr_at`.
fn film(
    encoder: &mut OpenH264,
    settings: &EncoderSettings,
    count: u64,
    idr_at: &[u64],
    noise: impl Fn(u64) -> u32,
) -> Keep {
    let mut sink = Keep::default();
    for index in 0..count {
        encode(encoder, &settings.format, index, idr_at.contains(&index), noise(index), &mut sink).unwrap();
    }
    sink
}

/// With and without the guard.
fn both(settings: &EncoderSettings, count: u64, idr_at: &[u64], noise: impl Fn(u64) -> u32) -> (OpenH264, Keep, Keep) {
    let mut guarded = OpenH264::open(settings).unwrap();
    let mut free = OpenH264::open(settings).unwrap().without_guard();
    let with = film(&mut guarded, settings, count, idr_at, &noise);
    let without = film(&mut free, settings, count, idr_at, &noise);
    (guarded, with, without)
}

#[test]
fn hard_content_stays_within_a_tenth_over_any_second_and_exceeds_it_without_the_guard() {
    for (width, height, kbps, gop, noise) in [
        (320, 180, 1000, Gop::Frames(25), 64),
        (320, 180, 1000, Gop::Infinite, 64),
        (320, 180, 2000, Gop::Frames(25), 24),
        (640, 360, 3000, Gop::Frames(60), 64),
        (640, 360, 1500, Gop::Frames(60), 32),
    ] {
        let settings = settings(width, height, kbps, gop);
        let (encoder, with, without) = both(&settings, 120, &[11, 70], |_| noise);
        let (held, free) = (fullest_second(&sizes(&with), kbps), fullest_second(&sizes(&without), kbps));
        println!("{width}x{height} at {kbps} kb/s, noise {noise}, {gop:?}: {held:.3} with, {free:.3} without");
        assert!(free > 1.1, "content is not hard: {free:.3}");
        assert!(held <= 1.1, "{held:.3} with the guard");
        assert!(encoder.guard().unwrap().took_over() > 0);
        // What the guard does shows in the quantiser only.
        let kinds = |sink: &Keep| sink.units().iter().map(|(meta, _)| (meta.key, meta.idr)).collect::<Vec<_>>();
        assert_eq!(kinds(&with), kinds(&without));
        let sets = |sink: &Keep| -> Vec<Vec<u8>> {
            let stream = sink.stream();
            let kind = |nal: &[u8]| [nal_type::SPS, nal_type::PPS].contains(&type_of(nal[0]));
            nal_units(&stream).filter(|unit| kind(unit.nal)).map(|unit| unit.nal.to_vec()).collect()
        };
        assert_eq!(sets(&with), sets(&without));
    }
}

#[test]
fn a_cut_from_a_calm_scene_to_noise_stays_within_a_tenth() {
    let settings = settings(640, 360, 2000, Gop::Infinite);
    let (_, with, without) = both(&settings, 150, &[], |index| if index < 75 { 2 } else { 64 });
    let (held, free) = (fullest_second(&sizes(&with), 2000), fullest_second(&sizes(&without), 2000));
    println!("{held:.3} with, {free:.3} without");
    assert!(free > 1.3 && held <= 1.1, "{held:.3} with, {free:.3} without");
}

#[test]
fn a_library_that_keeps_its_bitrate_is_left_alone_to_the_bit() {
    // The second one fills its first second to 1.084 of the bitrate.
    for (noise, kbps, gop) in [(8, 1000, Gop::Frames(25)), (24, 1000, Gop::Frames(25)), (8, 1000, Gop::Frames(60))] {
        let settings = settings(320, 180, kbps, gop);
        let (encoder, with, without) = both(&settings, 60, &[11], |_| noise);
        let fullest = fullest_second(&sizes(&without), kbps);
        assert!(fullest < 1.09, "{fullest:.3} with noise {noise} at {kbps} kb/s");
        assert_eq!(encoder.guard().unwrap().took_over(), 0);
        assert!(with.stream() == without.stream(), "noise {noise} at {kbps} kb/s");
    }
}

#[test]
fn the_guard_gives_way_again_when_the_content_is_easy() {
    let settings = settings(320, 180, 2000, Gop::Frames(25));
    let mut encoder = OpenH264::open(&settings).unwrap();
    film(&mut encoder, &settings, 60, &[11], |_| 24);
    assert!(encoder.guard().unwrap().took_over() > 0);
    film(&mut encoder, &settings, 150, &[], |_| 4);
    assert!(!encoder.guard().unwrap().in_charge());
}

#[test]
fn frames_are_left_out_only_when_asked_for_and_then_as_tombstones() {
    // Noise in all planes over the whole range: at QP 51 a frame still takes three times its worth.
    let settings = settings(320, 180, 1000, Gop::Infinite);
    for leave_out in [false, true] {
        let mut encoder = OpenH264::open(&settings).unwrap();
        encoder.leave_frames_out(leave_out);
        let sink = film(&mut encoder, &settings, 120, &[40], |_| 200);
        let left: Vec<u64> = sink
            .out
            .iter()
            .filter_map(|out| match out {
                Out::Left(key, LeftOut::RateControl) => Some(key.source_id - 1000),
                Out::Left(_, other) => panic!("{other:?}"),
                Out::Unit(..) => None,
            })
            .collect();
        assert_eq!(sink.out.len(), 120, "a unit or a tombstone for every frame");
        let idr: Vec<_> = sink.units().iter().filter(|(m, _)| m.idr).map(|(m, _)| m.key.source_id - 1000).collect();
        assert_eq!(idr, [0, 40]);
        // The first IDR alone takes more than half of its second at QP 51: from the second one on it must fit.
        let fullest = fullest_second(&sizes(&sink)[30..], 1000);
        println!("leaving out {leave_out}: {} of 120, fullest second {fullest:.3}", left.len());
        if leave_out {
            assert!(left.len() > 50 && fullest <= 1.1, "{} left out, {fullest:.3}", left.len());
        } else {
            assert!(left.is_empty() && fullest > 2.0, "{} left out, {fullest:.3}", left.len());
        }
    }
}

#[test]
fn the_bitrate_follows_its_setting_within_a_second_on_hard_content_without_an_idr() {
    let settings = EncoderSettings { max_bitrate_kbps: 8000, ..settings(640, 360, 2000, Gop::Infinite) };
    let mut encoder = OpenH264::open(&settings).unwrap();
    let mut sink = Keep::default();
    let mut index = 0;
    for (step, kbps) in [2000, 8000, 2000].into_iter().enumerate() {
        encoder.set_bitrate(kbps, 0).unwrap();
        let from = sink.out.len();
        for _ in 0..90 {
            encode(&mut encoder, &settings.format, index, false, 48, &mut sink).unwrap();
            index += 1;
        }
        let sizes = &sizes(&sink)[from..];
        let seconds: Vec<f64> =
            sizes.chunks(30).map(|s| s.iter().sum::<u64>() as f64 / f64::from(kbps) / 1000.0).collect();
        println!("{kbps} kb/s: {seconds:.2?}");
        // The very first second holds the first IDR.
        assert!(step == 0 || seconds[1..].iter().all(|rate| (0.9..=1.1).contains(rate)), "{kbps}: {seconds:.2?}");
    }
    assert_eq!(sink.units().iter().filter(|(meta, _)| meta.idr).count(), 1);
    assert!(encoder.guard().unwrap().took_over() > 0);
}

#[test]
fn vbr_is_held_to_its_peak_only() {
    let base = settings(320, 180, 1000, Gop::Infinite);
    let settings = EncoderSettings { rate_control: RateControl::Variable, max_bitrate_kbps: 1200, ..base };
    let (encoder, with, without) = both(&settings, 90, &[], |_| 64);
    let (held, free) = (fullest_second(&sizes(&with), 1200), fullest_second(&sizes(&without), 1200));
    println!("of the peak: {held:.3} with, {free:.3} without");
    assert!(free > 1.1 && held <= 1.1, "{held:.3} with, {free:.3} without");
    assert!(fullest_second(&sizes(&with), 1000) > 1.1);
    assert_eq!(encoder.guard().unwrap().controller().frame_bits(), 40_000.0);
}
