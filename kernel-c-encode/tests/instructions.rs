//! What kernel C costs beyond the library it calls, in instructions, which no other load of the machine changes.
//!
//! Both programs run under callgrind, over 4 and over 14 pictures: the difference is what 10 pictures cost, without
//! either program's start.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::direct::Direct;
use common::{FPS, fill, have, nv12, skip};
use kernel_c_encode::encoder::{AccessUnitMeta, AuSink, EncodeInput, Key, LeftOut};
use kernel_c_encode::error::SinkError;
use kernel_c_encode::select;
use kernel_c_encode::settings::{EncoderSettings, Gop};
use shm_protocol::frame::{Codec, Colour, VideoFormat};
use shm_protocol::pixels::PixelsRead;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};

/// Names the backend that this program is to run as its own child.
const CHILD: &str = "QUAD_INSTRUCTIONS_OF";
/// Pictures of the short and the long run.
const COUNTS: [u64; 2] = [4, 14];
/// What kernel C may add.
const MOST: f64 = 1.03;

fn settings(codec: Codec) -> EncoderSettings {
    let format = nv12(640, 360, FPS, Colour::BT709_LIMITED);
    // No IDR but the first: it would be a larger share of 10 pictures than of a stream.
    EncoderSettings { gop: Gop::Infinite, level_idc: Some(30), ..EncoderSettings::live(codec, format, 1000) }
}

/// Frames as the pipe carries them: rows without gaps.
fn packed(format: &VideoFormat, index: u64) -> Vec<u8> {
    let mut bytes = vec![0; format.frame_bytes() as usize];
    fill(format, index, 24, &mut bytes);
    rows(format).flat_map(|(at, len)| bytes[at..at + len].to_vec()).collect()
}

/// Where each row of a frame lies, and its bytes.
fn rows(format: &VideoFormat) -> impl Iterator<Item = (usize, usize)> + '_ {
    (0..format.pixel_format.planes()).flat_map(move |plane| {
        let (layout, len) = (format.planes[plane], format.pixel_format.row_bytes(plane, format.width));
        let row = move |y: u32| ((layout.offset + y * layout.stride) as usize, len as usize);
        (0..format.pixel_format.rows(plane, format.height)).map(row)
    })
}

/// Instructions of a program that is fed `count` frames.
fn instructions(program: &Path, arguments: &[String], child: Option<&str>, format: &VideoFormat, count: u64) -> u64 {
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(program).args(arguments);
    command.envs(child.map(|backend| (CHILD, backend)));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut stdin = process.stdin.take().unwrap();
    let format = *format;
    let feeder = std::thread::spawn(move || (0..count).try_for_each(|index| stdin.write_all(&packed(&format, index))));
    let output = process.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{text}");
    feeder.join().unwrap().unwrap();
    let line = text.lines().find(|line| line.contains("Collected :")).expect("callgrind says what it counted");
    line.rsplit(' ').next().unwrap().parse().unwrap()
}

/// Per picture.
fn per_picture(program: &Path, arguments: impl Fn(u64) -> Vec<String>, child: Option<&str>, codec: Codec) -> f64 {
    let format = settings(codec).format;
    let [short, long] = COUNTS.map(|count| instructions(program, &arguments(count), child, &format, count));
    (long - short) as f64 / (COUNTS[1] - COUNTS[0]) as f64
}

/// Keeps nothing: what a ring's buffer costs beyond the one copy is not the encoder's.
struct Drain(Vec<u8>);

impl AuSink for Drain {
    fn buffer(&mut self, len: usize) -> Result<&mut [u8], SinkError> {
        Ok(&mut self.0[..len])
    }

    fn commit(&mut self, _len: usize, _meta: &AccessUnitMeta) -> Result<(), SinkError> {
        Ok(())
    }

    fn left_out(&mut self, _key: Key, _reason: LeftOut) -> Result<(), SinkError> {
        Ok(())
    }
}

/// This program under callgrind: encodes what comes on standard input.
fn encode_standard_input(backend: &str, codec: Codec) {
    let settings = settings(codec);
    let format = settings.format;
    let mut encoder = select::open(backend, &settings).unwrap().encoder;
    let mut bytes = vec![0; format.frame_bytes() as usize];
    let mut sink = Drain(vec![0; bytes.len()]);
    let mut input = std::io::stdin().lock();
    for index in 0.. {
        for (at, len) in rows(&format) {
            if input.read_exact(&mut bytes[at..at + len]).is_err() {
                return;
            }
        }
        let frame = EncodeInput {
            pixels: PixelsRead::from_slice(&format, &bytes).unwrap(),
            memory: None,
            qp: None,
            key: Key { source_id: index, sub: 0 },
            pts_ns: format.fps.frame_time_ns(index),
            force_idr: false,
            idr_count: 0,
        };
        encoder.encode(&frame, &mut sink).unwrap();
    }
}

/// What a library used directly is, and how it is told to do the same as kernel C.
struct Rival {
    backend: &'static str,
    codec: Codec,
    /// Its header and the package that has it; `None` where the program opens the library by itself.
    header: Option<(&'static str, &'static str)>,
    /// Behind width, height and count.
    options: &'static str,
}

/// Compares in the test of that name, which runs itself again under callgrind.
fn costs_no_more(test: &str, rival: &Rival) {
    if std::env::var(CHILD).is_ok_and(|backend| backend == rival.backend) {
        return encode_standard_input(rival.backend, rival.codec);
    }
    if Command::new("valgrind").arg("--version").output().is_err() {
        return skip(test, "valgrind is not installed");
    }
    if !have(rival.backend, rival.codec) {
        return;
    }
    let Some(direct) = Direct::build(rival.backend, rival.header) else { return };
    let line = |count: u64| {
        let front = ["640".to_owned(), "360".to_owned(), count.to_string()];
        front.into_iter().chain(rival.options.split_whitespace().map(str::to_owned)).collect()
    };
    let theirs = per_picture(&direct.program(), line, None, rival.codec);
    let own = ["--exact", test].map(str::to_owned);
    let this = std::env::current_exe().unwrap();
    let ours = per_picture(&this, |_| own.to_vec(), Some(rival.backend), rival.codec);
    let ratio = ours / theirs;
    println!("{}: {ours:.0} instructions a picture, used directly {theirs:.0}: {ratio:.3}", rival.backend);
    assert!(ratio <= MOST, "{ratio:.3}");
}

#[test]
fn x264_costs_within_three_percent_of_the_library_used_directly() {
    let options = "superfast , fps=30/1 keyint=1073741824 scenecut=0 videoformat=undef fullrange=off colorprim=bt709 \
                   transfer=bt709 colormatrix=bt709 level=3.0 threads=1 bitrate=1000 vbv-maxrate=1000 vbv-bufsize=500";
    costs_no_more(
        "x264_costs_within_three_percent_of_the_library_used_directly",
        &Rival { backend: "x264", codec: Codec::H264, header: Some(("x264.h", "libx264-dev")), options },
    );
}

#[test]
fn x265_costs_within_three_percent_of_the_library_used_directly() {
    let options = "8 ultrafast , fps=30/1 keyint=-1 videoformat=unknown range=limited colorprim=bt709 transfer=bt709 \
                   colormatrix=bt709 chromaloc=0 high-tier=0 frame-threads=1 repeat-headers=1 annexb=1 info=0 open-gop=0 \
                   wpp=0 pools=none level-idc=3.0 bitrate=1000 vbv-maxrate=1000 vbv-bufsize=500";
    costs_no_more(
        "x265_costs_within_three_percent_of_the_library_used_directly",
        &Rival { backend: "x265", codec: Codec::Hevc, header: Some(("x265.h", "libx265-dev")), options },
    );
}
