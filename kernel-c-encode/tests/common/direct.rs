//! An encoder library used directly, by a C program built against its own header, and what streams are compared by.

use super::{encode, fill, skip};
use kernel_c_encode::encoder::{EncodeInput, Encoder, Key};
use shm_protocol::frame::VideoFormat;
use shm_protocol::pixels::PixelsRead;
use std::io::Write as _;
use std::process::{Command, Stdio};

/// A program of `tests/direct`, built for this test.
pub struct Direct {
    folder: tempfile::TempDir,
    name: &'static str,
}

impl Direct {
    /// Builds `tests/direct/NAME.c`, linked to the library with this header, which is in that package; `None`: it opens
    /// its library by itself. Gives nothing where the compiler or the header is missing, which is said.
    pub fn build(name: &'static str, header: Option<(&str, &str)>) -> Option<Direct> {
        let missing = |what: &str| skip(&format!("the stream of {name} compared with the library used directly"), what);
        if Command::new("cc").arg("--version").output().is_err() {
            missing("cc is not installed");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        if let Some((header, package)) = header {
            let variable = format!("QUAD_{}_LIBRARY", name.to_uppercase());
            if std::env::var_os(&variable).is_some() {
                missing(&format!("{variable} names another library than the header belongs to"));
                return None;
            }
            let probe = folder.path().join("probe.c");
            std::fs::write(&probe, format!("#include <stdint.h>\n#include <{header}>\n")).unwrap();
            if !Command::new("cc").arg("-fsyntax-only").arg(&probe).output().unwrap().status.success() {
                missing(&format!("{header} is not installed (Debian package {package})"));
                return None;
            }
        }
        let source = format!("{}/tests/direct/{name}.c", env!("CARGO_MANIFEST_DIR"));
        let output = Command::new("cc")
            .args(["-O3", "-o"])
            .arg(folder.path().join(name))
            .arg(source)
            .arg(if header.is_some() { format!("-l{name}") } else { "-ldl".to_owned() })
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Some(Direct { folder, name })
    }

    /// The program.
    pub fn program(&self) -> std::path::PathBuf {
        self.folder.path().join(self.name)
    }

    /// The access units of frames 0 to `count` with the arguments in front of the options, which are `name=value`.
    pub fn encode(
        &self,
        format: &VideoFormat,
        count: u64,
        arguments: &[&str],
        options: &str,
        noise: u32,
    ) -> Vec<Vec<u8>> {
        let mut child = Command::new(self.program())
            .args([format.width.to_string(), format.height.to_string(), count.to_string()])
            .args(arguments)
            .args(options.split_whitespace())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let format = *format;
        let feeder = std::thread::spawn(move || {
            (0..count).for_each(|index| stdin.write_all(&packed(&format, index, noise)).unwrap());
        });
        let output = child.wait_with_output().unwrap();
        feeder.join().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let (mut rest, mut units) = (&output.stdout[..], Vec::new());
        while let Some((len, behind)) = rest.split_first_chunk::<4>() {
            let (unit, behind) = behind.split_at(u32::from_le_bytes(*len) as usize);
            units.push(unit.to_vec());
            rest = behind;
        }
        units
    }
}

/// Where each row of a frame lies, and its bytes.
pub fn rows(format: &VideoFormat) -> impl Iterator<Item = (usize, usize)> + '_ {
    (0..format.pixel_format.planes()).flat_map(move |plane| {
        let (layout, len) = (format.planes[plane], format.pixel_format.row_bytes(plane, format.width));
        let row = move |y: u32| ((layout.offset + y * layout.stride) as usize, len as usize);
        (0..format.pixel_format.rows(plane, format.height)).map(row)
    })
}

/// Frame `index` of the moving picture as a pipe carries it: rows without gaps.
pub fn packed(format: &VideoFormat, index: u64, noise: u32) -> Vec<u8> {
    let mut bytes = vec![0; format.frame_bytes() as usize];
    fill(format, index, noise, &mut bytes);
    rows(format).flat_map(|(at, len)| bytes[at..at + len].to_vec()).collect()
}

/// The same picture in both layouts.
pub fn nv12_and_i420(nv12: &VideoFormat, planar: &VideoFormat, index: u64, noise: u32) -> (Vec<u8>, Vec<u8>) {
    let (width, height) = (nv12.width as usize, nv12.height as usize);
    let mut bytes = vec![0; nv12.frame_bytes() as usize];
    fill(nv12, index, noise, &mut bytes);
    let mut other = vec![0xaa; planar.frame_bytes() as usize];
    let row = |format: &VideoFormat, plane: usize, y: usize| {
        (format.planes[plane].offset + y as u32 * format.planes[plane].stride) as usize
    };
    for y in 0..height {
        let (from, to) = (row(nv12, 0, y), row(planar, 0, y));
        other[to..to + width].copy_from_slice(&bytes[from..from + width]);
    }
    for y in 0..height / 2 {
        for x in 0..width / 2 {
            let from = row(nv12, 1, y) + 2 * x;
            other[row(planar, 1, y) + x] = bytes[from];
            other[row(planar, 2, y) + x] = bytes[from + 1];
        }
    }
    (bytes, other)
}

/// Asks for three bitrates, kb/s, for three seconds each at 30 frames/s, and wants each within a quarter from its
/// first second on, or from its second one on where the first has an IDR: the one that begins the stream, and with
/// `restarts` one at each change. No other IDR may come of it. `first_most`: how much of its bitrate the first second
/// after a change may take, for libraries that spend what their buffer saved up before.
pub fn follows_its_bitrate(
    encoder: &mut dyn Encoder,
    format: &VideoFormat,
    rates: [u32; 3],
    (restarts, first_most): (bool, f64),
) {
    let mut sink = super::Keep::default();
    let mut index = 0;
    for (step, kbps) in rates.into_iter().enumerate() {
        encoder.set_bitrate(kbps, 0).unwrap();
        for second in 0..3 {
            let from = sink.out.len();
            for _ in 0..super::FPS {
                encode(encoder, format, index, false, 24, &mut sink).unwrap();
                index += 1;
            }
            let bits: usize = sink.units()[from..].iter().map(|(_, bytes)| bytes.len() * 8).sum();
            let ratio = bits as f64 / (f64::from(kbps) * 1000.0);
            println!("{kbps} kb/s, second {second}: {ratio:.2} of it");
            let settled = second > 0 || (step > 0 && !restarts);
            let most = if second == 0 { first_most } else { 1.25 };
            assert!(!settled || (0.75..=most).contains(&ratio), "{kbps} kb/s, second {second}: {ratio:.2}");
        }
    }
    let idrs: Vec<u64> = sink.units().iter().filter(|(m, _)| m.idr).map(|(m, _)| m.key.source_id - 1000).collect();
    assert_eq!(idrs, if restarts { vec![0, 90, 180] } else { vec![0] });
}

/// Bytes of IDR pictures of the same frame at these quantisers.
pub fn sizes_by_quantiser(encoder: &mut dyn Encoder, format: &VideoFormat, quantisers: &[Option<u8>]) -> Vec<usize> {
    let mut bytes = vec![0; format.frame_bytes() as usize];
    let mut sink = super::Keep::default();
    fill(format, 0, 24, &mut bytes);
    for (index, qp) in quantisers.iter().enumerate() {
        let frame = EncodeInput {
            pixels: PixelsRead::from_slice(format, &bytes).unwrap(),
            memory: None,
            qp: *qp,
            key: Key { source_id: 1000 + index as u64, sub: 0 },
            pts_ns: index as u64,
            force_idr: true,
            idr_count: 0,
        };
        encoder.encode(&frame, &mut sink).unwrap();
    }
    sink.units().iter().map(|(_, bytes)| bytes.len()).collect()
}

/// Compares luma of 10 bit in the low bits with frame `index` of the moving picture: their mean difference is below
/// two of its 1024 levels, and the low bits are not those of 8 bit moved up.
pub fn same_p010_luma(format: &VideoFormat, index: u64, noise: u32, decoded: &[u8]) {
    let mut source = vec![0; format.frame_bytes() as usize];
    fill(format, index, noise, &mut source);
    let (width, height) = (format.width as usize, format.height as usize);
    let sample = |bytes: &[u8], at: usize| u16::from_le_bytes([bytes[at], bytes[at + 1]]);
    let (mut error, mut low) = (0, 0);
    for y in 0..height {
        for x in 0..width {
            let seen = sample(decoded, 2 * (y * width + x));
            let meant = sample(&source, y * format.planes[0].stride as usize + 2 * x) >> 6;
            error += u64::from(seen.abs_diff(meant));
            low += usize::from(seen % 4 != 0);
        }
    }
    let mean = error as f64 / (width * height) as f64;
    assert!(mean < 2.0, "mean luma error {mean:.2} of 1024 levels");
    assert!(low > width * height / 2, "{low} samples use their low bits");
}

/// The pictures of a stream as FFmpeg decodes them without a word (`h264`, `hevc`, `obu` as `kind`), planar; 8 bit or,
/// for streams of 10 bit, 16. `None`: FFmpeg is not installed, which is said.
pub fn decoded(kind: &str, stream: &[u8]) -> Option<Vec<u8>> {
    if Command::new("ffmpeg").arg("-version").output().is_err() {
        skip("the stream decoded by FFmpeg", "ffmpeg is not installed");
        return None;
    }
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), stream).unwrap();
    let output = Command::new("ffmpeg")
        .args(["-hide_banner", "-nostdin", "-v", "warning", "-err_detect", "explode", "-f", kind, "-i"])
        .arg(file.path())
        .args(["-f", "rawvideo", "-fps_mode", "passthrough", "-"])
        .output()
        .unwrap();
    assert!(output.status.success());
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    Some(output.stdout)
}
