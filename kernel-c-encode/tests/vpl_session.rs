//! Which oneVPL implementation is taken, what is agreed with it, and what is refused.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::vpl::{Machine, NODE, calls, ext, idrs_of_all, on, run_kept};
use common::{FPS, Keep, nv12, small};
use kernel_c_encode::encoder::Encoder;
use kernel_c_encode::error::EncoderError;
use kernel_c_encode::select::open;
use kernel_c_encode::settings::{EncoderSettings, RateControl};
use shm_protocol::frame::{Codec, Colour};
use std::path::PathBuf;

fn h264() -> EncoderSettings {
    small(Codec::H264)
}

fn vpl(settings: &EncoderSettings) -> Result<Box<dyn Encoder>, EncoderError> {
    open("vpl", settings).map(|opened| opened.encoder)
}

#[test]
fn without_a_runtime_vpl_is_unavailable_with_a_cure() {
    on(Machine::Nothing, "without_a_runtime_vpl_is_unavailable_with_a_cure", &[], |_| {
        for codec in [Codec::H264, Codec::Hevc, Codec::Av1] {
            let error = vpl(&small(codec)).err().unwrap();
            assert_eq!(error.exit_code(), 69, "{error}");
            let text = error.to_string();
            assert!(text.contains(&format!("no oneVPL implementation found for {}", codec.name())), "{text}");
            assert!(text.contains("apt install libvpl2 libmfx-gen1.2 intel-media-va-driver-non-free"), "{text}");
        }
    });
}

#[test]
fn auto_passes_over_a_runtime_on_the_cpu_that_is_taken_when_asked_for() {
    on(Machine::Software, "auto_passes_over_a_runtime_on_the_cpu_that_is_taken_when_asked_for", &[], |_| {
        let opened = open("auto", &h264()).unwrap();
        assert_ne!(opened.encoder.name(), "vpl");
        let refused = opened.considered[0].refused.as_ref().unwrap().to_string();
        assert!(refused.contains("no hardware oneVPL implementation found for h264"), "{refused}");
        assert!(refused.contains("only when it is asked for"), "{refused}");
        let encoder = vpl(&h264()).unwrap();
        assert_eq!(encoder.name(), "vpl");
        assert!(encoder.path().contains("(software): system memory"), "{}", encoder.path());
    });
}

#[test]
fn auto_takes_a_device_and_names_its_node() {
    on(Machine::Hardware, "auto_takes_a_device_and_names_its_node", &[], |_| {
        let opened = open("auto", &EncoderSettings { device: Some(NODE.into()), ..h264() }).unwrap();
        assert_eq!(opened.encoder.name(), "vpl");
        let path = opened.encoder.path().to_owned();
        assert!(path.contains("mfx-gen (hardware) on /dev/null"), "{path}");
    });
}

#[test]
fn a_runtime_that_needs_no_display_works_by_system_memory_and_says_so() {
    on(Machine::HardwareAlone, "a_runtime_that_needs_no_display_works_by_system_memory_and_says_so", &[], |_| {
        let settings = h264();
        let mut encoder = vpl(&settings).unwrap();
        let mut sink = Keep::default();
        run_kept(encoder.as_mut(), &settings.format, 5, &[], &mut sink);
        assert_eq!(idrs_of_all(&sink, 5), [0]);
        assert!(encoder.path().contains("no VA display: "), "{}", encoder.path());
    });
}

#[test]
fn a_device_that_cannot_be_opened_is_named() {
    on(Machine::HardwareAlone, "a_device_that_cannot_be_opened_is_named", &[], |_| {
        let node = PathBuf::from("/dev/dri/renderD199");
        let error = vpl(&EncoderSettings { device: Some(node), ..h264() }).err().unwrap();
        assert_eq!(error.exit_code(), 69, "{error}");
        assert!(
            error.to_string().contains("render node /dev/dri/renderD199 cannot be opened (No such file"),
            "{error}"
        );
        let error = vpl(&EncoderSettings { device: Some(NODE.into()), ..h264() }).err().unwrap();
        assert!(error.to_string().contains("/dev/null is no render node"), "{error}");
    });
}

#[test]
fn the_runtime_is_told_what_low_latency_means() {
    on(Machine::Software, "the_runtime_is_told_what_low_latency_means", &[], |folder| {
        let settings = EncoderSettings { intra_refresh: true, ..h264() };
        drop(vpl(&settings).unwrap());
        let init = calls(folder, "ENCODE_Init");
        let params = &init[0]["in"];
        assert_eq!(init.len(), 1, "{init:?}");
        assert_eq!(ext(params, "mfxExtCodingOption3", "LowDelayBRC"), Some(16), "{params}");
        assert_eq!(ext(params, "mfxExtCodingOption", "NalHrdConformance"), Some(32));
        assert_eq!(ext(params, "mfxExtCodingOption2", "IntRefType"), Some(1));
        assert_eq!(ext(params, "mfxExtVideoSignalInfo", "ColourPrimaries"), Some(1));
        assert!(params.to_string().contains("\"AsyncDepth\":1"), "{params}");
        assert!(params.to_string().contains("\"GopRefDist\":1"), "{params}");
    });
}

#[test]
fn wishes_that_a_device_does_not_grant_are_named_and_it_works_without() {
    const TEST: &str = "wishes_that_a_device_does_not_grant_are_named_and_it_works_without";
    on(Machine::Software, TEST, &[("LIMITS", "refresh=no,low_delay_brc=no")], |_| {
        let settings = EncoderSettings { intra_refresh: true, ..h264() };
        let mut encoder = vpl(&settings).unwrap();
        let path = encoder.path().to_owned();
        assert!(path.contains("LowDelayBRC"), "{path}");
        assert!(path.contains("IntRefType") || path.contains("intra refresh refused"), "{path}");
        let mut sink = Keep::default();
        run_kept(encoder.as_mut(), &settings.format, 3, &[], &mut sink);
        assert_eq!(idrs_of_all(&sink, 3), [0]);
    });
}

#[test]
fn a_rate_mode_that_a_device_has_not_is_refused_with_those_it_has() {
    const TEST: &str = "a_rate_mode_that_a_device_has_not_is_refused_with_those_it_has";
    on(Machine::Software, TEST, &[("LIMITS", "rate_modes=cqp+icq")], |_| {
        let error = vpl(&h264()).err().unwrap();
        assert_eq!(error.exit_code(), 78);
        let text = error.to_string();
        assert!(text.starts_with("rate_control = cbr is not possible: allowed is cqp, icq on oneVPL 2."), "{text}");
        let settings = EncoderSettings { rate_control: RateControl::ConstantQp, qp: 30, ..h264() };
        let encoder = vpl(&settings).unwrap();
        assert!(encoder.capabilities().frame_qp && !encoder.capabilities().live_bitrate);
    });
}

#[test]
fn a_size_beyond_the_device_is_refused_with_what_it_takes() {
    const TEST: &str = "a_size_beyond_the_device_is_refused_with_what_it_takes";
    on(Machine::Software, TEST, &[("LIMITS", "max_width=640,max_height=480")], |_| {
        let settings = EncoderSettings { format: nv12(1280, 720, FPS, Colour::BT709_LIMITED), ..h264() };
        let text = vpl(&settings).err().unwrap().to_string();
        assert!(text.starts_with("size = 1280x720 is not possible: allowed is "), "{text}");
        assert!(text.contains("to 640x480 on oneVPL"), "{text}");
    });
}

#[test]
fn a_runtime_that_fails_at_every_call_of_its_start_gives_an_error_and_no_crash() {
    for (number, fault) in
        ["session:0..=failed", "query:0..=lost", "query:0..=memory", "init:0..=memory", "init:0..=gpu_hang"]
            .into_iter()
            .enumerate()
    {
        let test = "a_runtime_that_fails_at_every_call_of_its_start_gives_an_error_and_no_crash";
        on(Machine::Software, test, &[("FAULTS", fault)], |_| {
            let error = vpl(&h264()).err().unwrap();
            assert!([69, 70, 75].contains(&error.exit_code()), "{number} {fault}: {error}");
        });
        if std::env::var("QUAD_VPL_TEST_CHILD").is_ok() {
            return;
        }
    }
}

#[test]
fn refused_tiles_become_slices_with_a_message() {
    on(Machine::Software, "refused_tiles_become_slices_with_a_message", &[("LIMITS", "tiles=no")], |_| {
        let format = nv12(512, 256, FPS, Colour::BT709_LIMITED);
        let settings = EncoderSettings { tile_columns: 2, tile_rows: 2, format, ..small(Codec::Hevc) };
        match vpl(&settings) {
            Ok(encoder) => {
                assert!(encoder.path().contains("2x2 tiles refused, 4 slices instead"), "{}", encoder.path())
            }
            Err(error) => common::skip("refused_tiles_become_slices_with_a_message", &error.to_string()),
        }
    });
}
