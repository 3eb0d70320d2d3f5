//! Our own rate control over an encoder that takes a quantiser per frame: openh264 with its own switched off.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::{FPS, Keep, encode, nv12};
use kernel_c_encode::backends::software::openh264::OpenH264;
use kernel_c_encode::encoder::Encoder;
use kernel_c_encode::ratecontrol::controlled::Controlled;
use kernel_c_encode::settings::{EncoderSettings, Gop, RateControl};
use shm_protocol::frame::{Codec, Colour};

fn controlled(settings: &EncoderSettings) -> Controlled {
    let by_quantiser = EncoderSettings { rate_control: RateControl::ConstantQp, ..settings.clone() };
    Controlled::new(Box::new(OpenH264::open(&by_quantiser).unwrap()), settings).unwrap()
}

fn kbps(units: &[(&kernel_c_encode::encoder::AccessUnitMeta, &[u8])]) -> f64 {
    units.iter().map(|(_, bytes)| bytes.len() as f64 * 8.0).sum::<f64>() / units.len() as f64 * f64::from(FPS) / 1000.0
}

fn settings(rate_control: RateControl, kbps: u32, gop: Gop) -> EncoderSettings {
    let format = nv12(640, 360, FPS, Colour::BT709_LIMITED);
    EncoderSettings { rate_control, gop, ..EncoderSettings::live(Codec::H264, format, kbps) }
}

#[test]
fn cbr_is_held_within_five_per_cent_over_two_seconds_and_the_bucket_does_not_overflow() {
    for noise in [8, 24, 48] {
        let settings = settings(RateControl::Constant, 3000, Gop::Frames(60));
        let mut encoder = controlled(&settings);
        let mut sink = Keep::default();
        for index in 0..240 {
            encode(&mut encoder, &settings.format, index, false, noise, &mut sink).unwrap();
            let bucket = encoder.controller().bucket();
            assert!(bucket.peak_bits() <= bucket.size_bits(), "frame {index}, noise {noise}");
        }
        let units = sink.units();
        // Two seconds are one period of IDRs.
        let rates: Vec<f64> = [60, 90, 120, 150, 180].map(|from| kbps(&units[from..from + 60]) / 3000.0).into();
        println!("noise {noise}: {rates:.3?}");
        assert!(rates.iter().all(|rate| (rate - 1.0).abs() <= 0.05), "noise {noise}: {rates:.3?}");
        assert_eq!(units.iter().filter(|(meta, _)| meta.idr).count(), 4);
    }
}

#[test]
fn the_bitrate_follows_its_setting_within_a_second_without_an_idr() {
    for mode in [RateControl::Constant, RateControl::Variable] {
        let settings = EncoderSettings { max_bitrate_kbps: 9000, ..settings(mode, 2000, Gop::Infinite) };
        let mut encoder = controlled(&settings);
        assert!(encoder.capabilities().live_bitrate);
        let mut sink = Keep::default();
        let mut index = 0;
        for target in [2000, 8000, 2000] {
            encoder.set_bitrate(target, 0).unwrap();
            let from = sink.out.len();
            for _ in 0..90 {
                encode(&mut encoder, &settings.format, index, false, 24, &mut sink).unwrap();
                index += 1;
            }
            let units = sink.units();
            let rates = [30, 60].map(|at| kbps(&units[from + at..from + at + 30]) / f64::from(target));
            println!("{mode:?} {target}: {rates:.3?}");
            assert!(from == 0 || rates.iter().all(|rate| (rate - 1.0).abs() < 0.1), "{mode:?} {target}: {rates:.3?}");
        }
        assert_eq!(sink.units().iter().filter(|(meta, _)| meta.idr).count(), 1);
    }
}

#[test]
fn the_quantiser_given_with_a_frame_is_the_one_it_is_coded_with() {
    let settings = EncoderSettings { qp: 30, ..settings(RateControl::ConstantQp, 3000, Gop::Infinite) };
    let mut bytes = vec![0; settings.format.frame_bytes() as usize];
    let stream = |given: &dyn Fn(u64) -> Option<u8>, bytes: &mut [u8]| {
        let mut encoder = OpenH264::open(&settings).unwrap();
        assert!(encoder.capabilities().frame_qp);
        let mut sink = Keep::default();
        for index in 0..6 {
            common::fill(&settings.format, index, 16, bytes);
            let frame = kernel_c_encode::encoder::EncodeInput {
                pixels: shm_protocol::pixels::PixelsRead::from_slice(&settings.format, bytes).unwrap(),
                memory: None,
                key: kernel_c_encode::encoder::Key { source_id: index + 1, sub: 0 },
                pts_ns: index * 33_000_000,
                force_idr: false,
                qp: given(index),
                idr_count: 0,
            };
            encoder.encode(&frame, &mut sink).unwrap();
        }
        sink.units().into_iter().map(|(_, bytes)| bytes.to_vec()).collect::<Vec<_>>()
    };
    let plain = stream(&|_| None, &mut bytes);
    assert!(plain == stream(&|_| Some(30), &mut bytes), "as opened");
    let changing = stream(&|index| Some(if index < 3 { 30 } else { 44 }), &mut bytes);
    assert!(changing[..3] == plain[..3]);
    assert!(changing[3].len() * 2 < plain[3].len(), "{} and {} bytes", changing[3].len(), plain[3].len());
}

#[test]
fn an_encoder_that_takes_no_quantiser_is_refused() {
    let settings = settings(RateControl::Constant, 3000, Gop::Infinite);
    let holds_its_own = Box::new(OpenH264::open(&settings).unwrap());
    let error = Controlled::new(holds_its_own, &settings).unwrap_err().to_string();
    assert!(error.contains("openh264") && error.contains("no quantiser per frame"), "{error}");
}
