//! A device that encoded a private picture, for a standby or to show that it can: that must not be in the stream's way.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::vpl::{Machine, NODE, Pool, calls, idrs_of_all, on, on_node, picture, run_kept};
use common::{Keep, small};
use kernel_c_encode::bitstream::annexb::nal_units;
use kernel_c_encode::bitstream::h264::{SliceHeader, nal_type, type_of};
use kernel_c_encode::bitstream::h264_sps::Sps;
use kernel_c_encode::error::EncoderError;
use kernel_c_encode::select::open;
use kernel_c_encode::settings::{EncoderSettings, Gop};
use kernel_c_encode::warm::{open_for_warm_up, warm_up};
use shm_protocol::frame::Codec;
use shm_protocol::pixels::PixelsRead;

#[test]
fn a_device_with_depth_that_was_warmed_up_begins_with_the_streams_first_frame() {
    const TEST: &str = "a_device_with_depth_that_was_warmed_up_begins_with_the_streams_first_frame";
    on(Machine::Hardware, TEST, &[], |_| {
        for backend in ["vpl", "vaapi"] {
            let gop = Gop::Infinite;
            let settings = EncoderSettings { async_depth: 4, gop, device: Some(NODE.into()), ..small(Codec::H264) };
            let mut encoder = open_for_warm_up(backend, &settings).unwrap();
            let private = picture(&settings.format, 0);
            warm_up(encoder.as_mut(), PixelsRead::from_slice(&settings.format, &private).unwrap()).unwrap();
            drop(private);
            let mut sink = Keep::default();
            run_kept(encoder.as_mut(), &settings.format, 8, &[0], &mut sink);
            assert_eq!(idrs_of_all(&sink, 8), [0], "{backend}");
        }
    });
}

#[test]
fn a_device_that_agrees_to_everything_and_cannot_encode_is_passed_over_by_auto() {
    const TEST: &str = "a_device_that_agrees_to_everything_and_cannot_encode_is_passed_over_by_auto";
    on(Machine::Hardware, TEST, &[("FAULTS", "encode:0..=failed@never")], |folder| {
        let settings = EncoderSettings { device: Some(NODE.into()), ..small(Codec::H264) };
        let opened = open("auto", &settings).unwrap();
        assert_eq!(calls(folder, "ENCODE_Init")[0]["status"], 0, "it agreed");
        let refused = opened.considered[0].refused.as_ref().unwrap();
        assert!(matches!(refused, EncoderError::DeviceLost { .. }), "{refused}");
        let (mut encoder, mut sink) = (opened.encoder, Keep::default());
        assert_ne!(encoder.name(), "vpl");
        run_kept(encoder.as_mut(), &settings.format, 4, &[], &mut sink);
        assert_eq!(idrs_of_all(&sink, 4), [0]);
    });
}

#[test]
fn a_device_that_showed_that_it_encodes_begins_as_if_it_had_not() {
    const TEST: &str = "a_device_that_showed_that_it_encodes_begins_as_if_it_had_not";
    on(Machine::Hardware, TEST, &[], |_| {
        for depth in [1, 4] {
            let settings =
                EncoderSettings { async_depth: depth, gop: Gop::Infinite, idr_count: 1, ..on_node(320, 192) };
            let (mut encoder, mut sink) = (open("auto", &settings).unwrap().encoder, Keep::default());
            assert_eq!((encoder.name(), encoder.copied_bytes()), ("vpl", 0));
            assert!(encoder.path().ends_with(": VA surfaces"), "{}", encoder.path());
            let pool = Pool::new(settings.format);
            for index in 0..8 {
                let (bytes, forced) = (&pool.pictures[index as usize % 4], index == 6);
                pool.give_forced(encoder.as_mut(), index, 1, bytes, forced, &mut sink);
            }
            encoder.flush(&mut sink).unwrap();
            assert_eq!(idrs_of_all(&sink, 8), [0, 6], "an IDR that nobody asked for, and one that was");
            assert_eq!(encoder.copied_bytes(), 0, "{}", encoder.path());
            let stream = sink.stream();
            let sps = nal_units(&stream).find(|n| type_of(n.nal[0]) == nal_type::SPS);
            let sps = sps.and_then(|n| Sps::parse(n.nal)).unwrap();
            let ids: Vec<u32> =
                nal_units(&stream).filter_map(|n| SliceHeader::parse(n.nal, &sps)?.idr_pic_id).collect();
            assert_eq!(ids, [1, 0], "the stream had one before");
        }
    });
}
