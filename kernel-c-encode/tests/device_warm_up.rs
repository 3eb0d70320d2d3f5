//! A device that a standby warmed up: its private picture must not be in the stream's way.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::vpl::{Machine, NODE, idrs_of_all, on, picture, run_kept};
use common::{Keep, small};
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
