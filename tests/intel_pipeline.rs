//! The whole pipeline on a machine that has an Intel device as far as software can tell: frames pass without a copy, a
//! lost device costs a pause and no frame, and one that stays lost is followed by the next encoder.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use serde_json::Value;
use std::time::Duration;
use system_tests::bitstream::units;
use system_tests::intel::{Intel, NODE, missing};
use system_tests::pipeline::{Part, free_rtp_port};
use system_tests::quad::{Quad, said};
use system_tests::receiver::{assert_contiguous, decode};
use system_tests::tools::{have, skip, within};
use system_tests::wire::{Faults, Wire, in_order};

const PATIENCE: Duration = Duration::from_secs(30);

/// An instance on such a machine, lossless, up and received.
fn streaming(label: &str, intel: &Intel, variables: &[(&str, &str)], settings: &[(&str, &str)]) -> (Quad, Wire) {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut quad = Quad::new(label, port);
    quad.pipeline.set("capture.policy", "lossless").set("encode.device", NODE);
    for (key, value) in settings {
        quad.pipeline.set(key, value);
    }
    intel.equip(&mut quad, variables);
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    (quad, wire)
}

fn able(test: &str) -> bool {
    let why = missing().or_else(|| (!have("ffmpeg")).then_some("ffmpeg is not installed"));
    if let Some(why) = why {
        skip(&format!("intel_pipeline: {test}"), why);
    }
    why.is_none()
}

fn wait_for(quad: &Quad, wire: &Wire, units: usize) {
    assert!(within(PATIENCE, || wire.units() >= units), "{} units; {}", wire.units(), said(&quad.run(&["logs"])));
}

/// Ends it; every frame from the first on must have arrived once, and be decoded without a fault.
fn every_frame_arrived(quad: &Quad, wire: &Wire) {
    quad.down();
    let packets = wire.packets();
    let (ordered, faults) = in_order(&packets);
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    let stream: Vec<u8> = units(&ordered).iter().flat_map(|unit| unit.annex_b()).collect();
    let ids = decode(&stream, 1280, 720).clean();
    assert_eq!(ids.first(), Some(&1));
    assert_contiguous(&ids);
}

/// Bytes of pixels that kernel C copied: a counter that is still 0 is not listed.
fn copied_bytes(encode: &Value) -> u64 {
    encode["counters"]["copied_bytes"].as_u64().unwrap_or(0)
}

fn encode(quad: &Quad) -> Value {
    quad.status().1["kernels"]["encode"].clone()
}

#[test]
fn frames_reach_a_onevpl_device_without_a_copy_and_a_killed_encoder_costs_none() {
    if !able("oneVPL") {
        return;
    }
    let intel = Intel::new();
    let settings = [("encode.backend", "vpl"), ("capture.memory", "memfd"), ("encode.async_depth", "3")];
    let (quad, wire) = streaming("vplpipe", &intel, &[], &settings);
    wait_for(&quad, &wire, 60);
    let seen = encode(&quad);
    assert_eq!((seen["backend"].as_str(), seen["codec"].as_str()), (Some("vpl"), Some("h264")), "{seen}");
    assert!(seen["path"].as_str().is_some_and(|path| path.contains("import")), "{seen}");
    assert_eq!(copied_bytes(&seen), 0, "{seen}");
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(quad.pid(Part::Encode) as i32).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let before = wire.units();
    wait_for(&quad, &wire, before + 60);
    every_frame_arrived(&quad, &wire);
}

#[test]
fn a_onevpl_device_that_is_lost_is_reset_and_no_frame_is_missing() {
    if !able("a lost oneVPL device") {
        return;
    }
    let intel = Intel::new();
    let faults = "encode:40=lost@session,sync:80=gpu_hang@reset,encode:100=busy*5,sync:120=in_execution*3";
    let variables = [("QUAD_VPL_FIXTURE_FAULTS", faults)];
    let (quad, wire) = streaming("vpllost", &intel, &variables, &[("encode.backend", "vpl")]);
    let pid = quad.pid(Part::Encode);
    wait_for(&quad, &wire, 160);
    assert_eq!(quad.pid(Part::Encode), pid, "the process stays");
    every_frame_arrived(&quad, &wire);
}

#[test]
fn frames_reach_a_va_device_without_a_copy_and_a_lost_one_costs_none() {
    if !able("VA-API") {
        return;
    }
    let intel = Intel::new();
    let variables = [("QUAD_VA_FIXTURE_FAULTS", "end:30=busy*3,sync:60=failed,sync:90=lost")];
    let settings = [("encode.backend", "vaapi"), ("capture.memory", "memfd")];
    let (quad, wire) = streaming("vapipe", &intel, &variables, &settings);
    wait_for(&quad, &wire, 150);
    let seen = encode(&quad);
    assert_eq!(seen["backend"].as_str(), Some("vaapi"), "{seen}");
    assert!(seen["path"].as_str().is_some_and(|path| path.contains("import")), "{seen}");
    assert_eq!(copied_bytes(&seen), 0, "{seen}");
    every_frame_arrived(&quad, &wire);
}

#[test]
fn a_device_that_stays_lost_is_followed_by_the_next_encoder_and_no_frame_is_missing() {
    if !able("the next encoder") {
        return;
    }
    let intel = Intel::new();
    let variables = [
        ("QUAD_VPL_FIXTURE_FAULTS", "encode:40..=lost@never"),
        // The driver alone works, but a machine whose device is gone has none.
        ("QUAD_VA_FIXTURE_FAULTS", "sync:70=lost/never"),
    ];
    let (quad, wire) = streaming("nextenc", &intel, &variables, &[("encode.backend", "auto")]);
    let pid = quad.pid(Part::Encode);
    wait_for(&quad, &wire, 150);
    let seen = encode(&quad);
    assert!(["x264", "openh264", "vaapi"].contains(&seen["backend"].as_str().unwrap_or_default()), "{seen}");
    assert_eq!(quad.pid(Part::Encode), pid, "the process stays");
    every_frame_arrived(&quad, &wire);
}

#[test]
fn frames_of_another_size_pass_through_the_session_that_is_there_and_none_is_missing() {
    if !able("another size") {
        return;
    }
    let intel = Intel::new();
    let record = intel.record("calls");
    let variables = [("QUAD_VPL_FIXTURE_RECORD", record.to_str().unwrap())];
    let settings = [("encode.backend", "vpl"), ("encode.gop", "infinite")];
    let (quad, wire) = streaming("vplsize", &intel, &variables, &settings);
    wait_for(&quad, &wire, 30);
    let output = quad.run(&["swap", "capture", "--set", "capture.width=640", "--set", "capture.height=360"]);
    assert!(output.status.success(), "{}", said(&output));
    let before = wire.units();
    wait_for(&quad, &wire, before + 60);
    quad.down();
    let calls = std::fs::read_to_string(&record).unwrap();
    let calls: Vec<Value> = calls.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let of = |name: &str| calls.iter().filter(|call| call["call"] == name).collect::<Vec<_>>();
    assert_eq!(of("MFXVideoENCODE_Init").len(), 1, "one session for both sizes");
    let resets = of("MFXVideoENCODE_Reset");
    assert_eq!(resets.iter().map(|call| &call["in"]["CropW"]).collect::<Vec<_>>(), [640], "{resets:?}");
    let packets = wire.packets();
    let (ordered, faults) = in_order(&packets);
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    let units = units(&ordered);
    let idrs: Vec<usize> = (0..units.len()).filter(|index| units[*index].is_idr()).collect();
    assert_eq!(idrs.len(), 2, "one for each size");
    let (large, small) = units.split_at(idrs[1]);
    let ids = [(large, 1280, 720), (small, 640, 360)].map(|(units, width, height)| {
        let stream: Vec<u8> = units.iter().flat_map(|unit| unit.annex_b()).collect();
        decode(&stream, width, height).clean()
    });
    assert_eq!(ids[0].first(), Some(&1));
    assert_contiguous(&ids.concat());
}

#[test]
fn the_bitrate_of_a_device_changes_live_and_no_idr_comes_of_it() {
    if !able("live bitrate") {
        return;
    }
    let intel = Intel::new();
    let settings = [("encode.backend", "vpl"), ("encode.gop", "infinite")];
    let (quad, wire) = streaming("vplrate", &intel, &[], &settings);
    wait_for(&quad, &wire, 30);
    for kbps in ["2000", "8000", "2000"] {
        let output = quad.run(&["set", &format!("encode.bitrate_kbps={kbps}")]);
        assert!(output.status.success(), "{}", said(&output));
        let before = wire.units();
        wait_for(&quad, &wire, before + 30);
    }
    let seen = encode(&quad);
    assert_eq!(seen["counters"]["idrs"], 1, "{seen}");
    every_frame_arrived(&quad, &wire);
}
