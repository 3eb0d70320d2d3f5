//! A second opinion on our streams: FFmpeg decodes them without a word and reads the signalling we meant.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::{FPS, nv12, run};
use kernel_c_encode::select;
use kernel_c_encode::settings::EncoderSettings;
use shm_protocol::frame::{ChromaSiting, Codec, Colour, Range};
use std::process::Command;

/// Whether `tool` can be started; says so when not.
fn have(tool: &str) -> bool {
    let found = Command::new(tool).arg("-version").output().is_ok_and(|o| o.status.success());
    if !found {
        println!("SKIPPED: {tool} is not installed (Debian package ffmpeg)");
    }
    found
}

fn stream_file(backend: &str, settings: &EncoderSettings, count: u64, idr_at: &[u64]) -> tempfile::NamedTempFile {
    let mut encoder = select::open(backend, settings).unwrap().encoder;
    let stream = run(encoder.as_mut(), &settings.format, count, idr_at, 16).stream();
    let suffix = match settings.codec {
        Codec::Hevc => ".hevc",
        Codec::Av1 => ".obu",
        Codec::H264 | Codec::Null => ".h264",
    };
    let file = tempfile::Builder::new().suffix(suffix).tempfile().unwrap();
    std::fs::write(file.path(), stream).unwrap();
    file
}

#[test]
fn ffmpeg_decodes_every_frame_without_a_warning() {
    if !have("ffmpeg") {
        return;
    }
    for (backend, codec, slices, siting) in [
        ("openh264", Codec::H264, 1, ChromaSiting::Left),
        ("openh264", Codec::H264, 4, ChromaSiting::Center),
        ("x264", Codec::H264, 1, ChromaSiting::Left),
        ("x264", Codec::H264, 4, ChromaSiting::Center),
        ("x265", Codec::Hevc, 1, ChromaSiting::Left),
        ("svtav1", Codec::Av1, 1, ChromaSiting::Left),
    ] {
        if !common::have(backend, codec) {
            continue;
        }
        let format = nv12(642, 362, FPS, Colour { siting, ..Colour::BT709_LIMITED });
        let settings = EncoderSettings { slices, ..EncoderSettings::live(codec, format, 2000) };
        let file = stream_file(backend, &settings, 90, &[10, 11]);
        let args = ["-hide_banner", "-nostdin", "-v", "warning", "-err_detect", "explode", "-i"];
        let raw = ["-f", "rawvideo", "-pix_fmt", "yuv420p", "-fps_mode", "passthrough", "-"];
        let output = Command::new("ffmpeg").args(args).arg(file.path()).args(raw).output().unwrap();
        assert!(output.status.success());
        assert_eq!(String::from_utf8_lossy(&output.stderr), "", "{backend}, {slices} slices");
        assert_eq!(output.stdout.len(), 90 * 642 * 362 * 3 / 2, "{backend}, {slices} slices");
        // The picture itself, not only its size: the mean error of luma in the last frame.
        let mut source = vec![0; format.frame_bytes() as usize];
        common::fill(&format, 89, 16, &mut source);
        let decoded = &output.stdout[89 * 642 * 362 * 3 / 2..];
        let error: u64 = (0..362 * 642)
            .map(|i| u64::from(decoded[i].abs_diff(source[i / 642 * format.planes[0].stride as usize + i % 642])))
            .sum();
        assert!(error / (642 * 362) < 12, "{backend}: mean luma error {}", error / (642 * 362));
    }
}

#[test]
fn ffprobe_reads_the_colour_we_carry() {
    if !have("ffprobe") {
        return;
    }
    let hlg = Colour { matrix: 9, primaries: 9, transfer: 18, range: Range::Full, siting: ChromaSiting::TopLeft };
    for (colour, expected) in [
        (Colour::BT709_LIMITED, ["tv", "bt709", "bt709", "bt709", "left"]),
        (Colour::BT601_LIMITED, ["tv", "smpte170m", "smpte170m", "smpte170m", "left"]),
        (hlg, ["pc", "bt2020nc", "arib-std-b67", "bt2020", "topleft"]),
    ] {
        let format = nv12(320, 180, FPS, colour);
        for (backend, codec, profile) in [
            ("openh264", Codec::H264, "Constrained Baseline"),
            ("x264", Codec::H264, "High"),
            ("x265", Codec::Hevc, "Main"),
            ("svtav1", Codec::Av1, "Main"),
        ] {
            if !common::have(backend, codec) {
                continue;
            }
            let file = stream_file(backend, &EncoderSettings::live(codec, format, 1000), 3, &[]);
            let entries = "stream=profile,width,height,has_b_frames,color_range,color_space,color_transfer,\
                       color_primaries,chroma_location";
            let output = Command::new("ffprobe")
                .args(["-v", "error", "-show_entries", entries, "-of", "default=noprint_wrappers=1", "-i"])
                .arg(file.path())
                .output()
                .unwrap();
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            let names = ["color_range", "color_space", "color_transfer", "color_primaries", "chroma_location"];
            for (name, value) in names.into_iter().zip(expected) {
                assert!(
                    text.lines().any(|line| line == format!("{name}={value}")),
                    "{backend}: {name}={value} in\n{text}"
                );
            }
            for line in [&format!("profile={profile}"), "width=320", "height=180", "has_b_frames=0"] {
                assert!(text.lines().any(|seen| seen == line), "{backend}: {line} in\n{text}");
            }
        }
    }
}
