//! Every row of the table of support: what is usable keeps the promises of an encoder, what is not says why.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::direct::decoded;
use common::vpl::{Machine, NODE, on};
use common::{FPS, Keep, Out, encode};
use kernel_c_encode::error::EncoderError;
use kernel_c_encode::select;
use kernel_c_encode::settings::Gop;
use kernel_c_encode::support::{Row, rows};
use shm_protocol::frame::{Codec, Colour};
use std::process::Command;

/// Pictures of a row: enough for two IDRs that were asked for and pictures between.
const FRAMES: u64 = 24;
/// Where an IDR is asked for.
const IDR_AT: [u64; 2] = [5, 17];
const SIZE: (u32, u32) = (640, 368);

fn name(row: &Row) -> String {
    let profile = row.profile;
    let codec = profile.codec.name();
    format!("{} {codec} {} {} bit {}", row.backend, profile.name, profile.bit_depth, row.rate_control.name())
}

/// What FFmpeg calls a raw stream of the codec.
fn raw_format(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 => "h264",
        Codec::Hevc => "hevc",
        Codec::Av1 | Codec::Null => "obu",
    }
}

/// The stream of a row, or why there is none.
fn stream(row: &Row) -> Result<Keep, EncoderError> {
    let mut settings = row.settings(SIZE.0, SIZE.1, FPS)?;
    settings.gop = Gop::Infinite;
    if std::env::var("LIBVA_DRIVER_NAME").is_ok() && ["vpl", "vaapi"].contains(&row.backend) {
        settings.device = Some(NODE.into());
    }
    let mut encoder = select::open(row.backend, &settings)?.encoder;
    let mut sink = Keep::default();
    for index in 0..FRAMES {
        encode(encoder.as_mut(), &settings.format, index, IDR_AT.contains(&index), 8, &mut sink)?;
    }
    encoder.flush(&mut sink)?;
    Ok(sink)
}

fn check(row: &Row, sink: &Keep) {
    let name = name(row);
    let keys: Vec<u64> = sink
        .out
        .iter()
        .map(|out| match out {
            Out::Unit(meta, _) => meta.key.source_id,
            Out::Left(key, _) => key.source_id,
        })
        .collect();
    assert_eq!(keys, (1000..1000 + FRAMES).collect::<Vec<_>>(), "{name}: every frame once, in order");
    let idrs: Vec<u64> = sink.units().iter().filter(|(m, _)| m.idr).map(|(m, _)| m.key.source_id - 1000).collect();
    assert_eq!(idrs, [0, 5, 17], "{name}: an IDR first and where it is asked for");
    assert!(sink.units().iter().all(|(meta, _)| !meta.idr || meta.config), "{name}: IDRs carry parameter sets");
    let sample_bytes = if row.profile.bit_depth == 10 { 2 } else { 1 };
    if let Some(pictures) = decoded(raw_format(row.profile.codec), &sink.stream()) {
        let picture_bytes = (SIZE.0 * SIZE.1) as usize * 3 / 2 * sample_bytes;
        assert_eq!(pictures.len(), picture_bytes * FRAMES as usize, "{name}: FFmpeg decodes every picture");
        check_colour(row, sink);
    }
}

/// FFmpeg reads the colour that was carried.
fn check_colour(row: &Row, sink: &Keep) {
    let suffix = format!(".{}", raw_format(row.profile.codec));
    let file = tempfile::Builder::new().suffix(&suffix).tempfile().unwrap();
    std::fs::write(file.path(), sink.stream()).unwrap();
    let entries = "stream=color_range,color_space,color_transfer,color_primaries";
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-f", raw_format(row.profile.codec), "-show_entries", entries])
        .args(["-of", "default=noprint_wrappers=1", "-i"])
        .arg(file.path())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(row.settings(SIZE.0, SIZE.1, FPS).unwrap().format.colour, Colour::BT709_LIMITED);
    for line in ["color_range=tv", "color_space=bt709", "color_transfer=bt709", "color_primaries=bt709"] {
        assert!(text.lines().any(|seen| seen == line), "{}: {line} in\n{text}", name(row));
    }
}

/// Tries these rows; how many are usable.
fn try_rows(rows: impl Iterator<Item = Row>) -> usize {
    let mut usable = 0;
    for row in rows {
        match stream(&row) {
            Ok(sink) => {
                check(&row, &sink);
                usable += 1;
                println!("ok   {}", name(&row));
            }
            Err(EncoderError::Unavailable { reason, cure, .. }) => {
                assert!(!reason.is_empty() && !cure.is_empty(), "{}", name(&row));
                println!("none {}: {reason}", name(&row));
            }
            Err(error @ (EncoderError::Setting { .. } | EncoderError::PixelFormat { .. })) => {
                assert!(error.to_string().contains("allowed is"), "{}: {error}", name(&row));
                println!("no   {}: {error}", name(&row));
            }
            Err(other) => panic!("{}: {other}", name(&row)),
        }
    }
    usable
}

#[test]
fn every_row_that_is_usable_keeps_its_promises_and_every_other_says_why() {
    let usable = try_rows(rows().into_iter());
    assert!(usable >= 12, "openh264 has twelve rows, {usable} are usable");
}

#[test]
fn every_row_of_a_device_keeps_its_promises_or_says_why() {
    on(Machine::Hardware, "every_row_of_a_device_keeps_its_promises_or_says_why", &[], |_| {
        let usable = try_rows(rows().into_iter().filter(|row| ["vpl", "vaapi"].contains(&row.backend)));
        // H.264 alone has twelve rows by each way, whatever else is installed behind the stand-ins.
        assert!(usable >= 24, "{usable} rows are usable");
    });
}
