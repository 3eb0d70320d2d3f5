use super::*;
use crate::source::{Captured, FrameRequest, FrameTimes, Wait};
use proptest::prelude::*;
use shm_protocol::error::Recovery;
use shm_protocol::frame::{ChromaSiting, FieldOrder, Range};
use shm_protocol::pixels::PixelsWrite;
use std::io::Write;
use std::path::Path;

const FPS: Rational = Rational { num: 30000, den: 1001 };
pub(super) static RUN: AtomicBool = AtomicBool::new(false);
/// Bytes of a 64x16 frame: small enough that several fit a pipe.
pub(super) const FRAME_BYTES: usize = 64 * 16 * 3 / 2;
pub(super) const HEADER: &str = "YUV4MPEG2 W64 H16 F30000:1001 Ip A1:1 C420jpeg";

pub(super) fn raw() -> RawGeometry {
    RawGeometry { pixel_format: PixelFormat::I420, width: 64, height: 16, fps: FPS }
}

/// A frame whose every sample is `value`.
pub(super) fn frame(value: u8) -> Vec<u8> {
    [b"FRAME\n".as_slice(), &[value; FRAME_BYTES]].concat()
}

pub(super) fn y4m(frames: u8) -> Vec<u8> {
    let frames: Vec<Vec<u8>> = (1..=frames).map(frame).collect();
    [HEADER.as_bytes(), b"\n", &frames.concat()].concat()
}

fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

pub(super) fn open_path(path: &Path, options: &FileOptions<'_>) -> Result<Box<dyn Source>, SourceError> {
    open(path.to_str().unwrap(), options, &RUN).map(|source| source.unwrap())
}

fn open_bytes(bytes: &[u8], options: &FileOptions<'_>) -> Result<Box<dyn Source>, SourceError> {
    open_path(written(bytes).path(), options)
}

/// The next frame: its times and the one value all its samples must have.
pub(super) fn next(source: &mut dyn Source) -> Result<Option<(FrameTimes, u8)>, SourceError> {
    let format = *source.format();
    let mut bytes = vec![0u8; format.frame_bytes() as usize];
    loop {
        if source.wait(&RUN)? != Wait::Ready {
            return Ok(None);
        }
        let pixels = PixelsWrite::new(&format, &mut bytes).unwrap();
        let mut request = FrameRequest { frame_id: 0, buffer_index: 0, buffer_fresh: true, pixels };
        match source.fill(&mut request, &RUN)? {
            Captured::Frame(times) => {
                let value = request.pixels.row_mut(0, 0)[0];
                for plane in 0..format.pixel_format.planes() {
                    for y in 0..format.pixel_format.rows(plane, format.height) {
                        let row = request.pixels.row_mut(plane, y);
                        assert!(row.iter().all(|sample| *sample == value), "a torn frame: plane {plane} row {y}");
                    }
                }
                return Ok(Some((times, value)));
            }
            Captured::Incomplete => {}
            Captured::End | Captured::Stopped => return Ok(None),
        }
    }
}

pub(super) fn values(source: &mut dyn Source, count: usize) -> Vec<u8> {
    let frames = (0..count).map_while(|_| next(source).unwrap());
    frames.map(|(_, value)| value).collect()
}

/// The whole message, sources included, of what went wrong at any time.
fn error_of(bytes: &[u8], options: &FileOptions<'_>) -> String {
    let outcome = open_bytes(bytes, options).and_then(|mut source| {
        while next(&mut *source)?.is_some() {}
        Ok(())
    });
    let error = outcome.expect_err("this must be refused");
    assert_eq!(error.recovery(), Recovery::Fatal);
    error.to_string()
}

#[test]
fn a_y4m_file_gives_its_frames_in_order_with_exact_times() {
    let mut source = open_bytes(&y4m(3), &FileOptions::default()).unwrap();
    assert!(!source.waits_for_writer(), "nothing beats for a loop that hangs in it");
    assert_eq!((source.format().width, source.format().height, source.format().fps), (64, 16, FPS));
    assert!(!source.is_live());
    let frames: Vec<_> = (0..3).map(|_| next(&mut *source).unwrap().unwrap()).collect();
    assert_eq!(frames.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [1, 2, 3]);
    let times: Vec<_> = frames.iter().map(|(times, _)| (times.source_pts_ns, times.source_pos)).collect();
    assert_eq!(times, [(0, 1), (33_366_666, 2), (66_733_333, 3)]);
    assert!(frames.iter().all(|(times, _)| !times.discontinuity));
    assert!(next(&mut *source).unwrap().is_none());
}

#[test]
fn a_loop_begins_again_marked_and_keeps_counting() {
    let mut source = open_bytes(&y4m(2), &FileOptions { looped: true, ..Default::default() }).unwrap();
    let frames: Vec<_> = (0..5).map(|_| next(&mut *source).unwrap().unwrap()).collect();
    assert_eq!(frames.iter().map(|(_, value)| *value).collect::<Vec<_>>(), [1, 2, 1, 2, 1]);
    assert_eq!(
        frames.iter().map(|(times, _)| times.discontinuity).collect::<Vec<_>>(),
        [false, false, true, false, true]
    );
    assert_eq!(frames[4].0.source_pos, 5);
}

#[test]
fn a_successor_goes_on_at_the_next_frame() {
    // Lines of one length, and of different lengths, where frames cannot be reached by reckoning.
    let bare = y4m(5);
    let mut mixed = [HEADER.as_bytes(), b"\n"].concat();
    for value in 1..=5u8 {
        mixed.extend_from_slice(if value % 2 == 0 { b"FRAME Ip\n" } else { b"FRAME\n" });
        mixed.extend_from_slice(&[value; FRAME_BYTES]);
    }
    let unmarked: Vec<u8> = (1..=5u8).flat_map(|value| [value; FRAME_BYTES]).collect();
    for bytes in [bare, mixed, unmarked] {
        for (looped, resume_pos, expected) in [
            (false, 0, vec![1, 2, 3]),
            (false, 3, vec![4, 5]),
            (false, 5, vec![]),
            (false, 900, vec![]),
            (true, 4, vec![5, 1, 2]),
            (true, 5, vec![1, 2, 3]),
            (true, 5_000_000_000_002, vec![3, 4, 5]),
        ] {
            let options = FileOptions { looped, resume_pos, raw: Some(raw()), ..Default::default() };
            let mut source = open_bytes(&bytes, &options).unwrap();
            assert_eq!(values(&mut *source, 3), expected, "looped {looped}, from {resume_pos}");
        }
    }
}

#[test]
fn a_live_file_keeps_to_the_grid_and_a_stop_ends_its_wait() {
    let options = FileOptions { live: true, ..Default::default() };
    let mut source = open_bytes(&y4m(3), &options).unwrap();
    assert!(source.is_live());
    let first = next(&mut *source).unwrap().unwrap().0;
    let second = next(&mut *source).unwrap().unwrap().0;
    assert!(first.capture_ns as i64 >= first.source_pts_ns);
    assert!(second.source_pts_ns - first.source_pts_ns >= 33_366_666);
    assert_eq!(source.wait(&AtomicBool::new(true)).unwrap(), Wait::Stopped);
    assert_eq!(next(&mut *source).unwrap().unwrap().1, 3, "the wait that was stopped took no frame");
}

#[test]
fn a_header_says_size_rate_fields_siting_and_range() {
    let line = b"YUV4MPEG2 W720 H576 F25:1 It A59:54 C420paldv XYSCSS=420PALDV XCOLORRANGE=FULL";
    let header = Y4mHeader::parse("x", line).unwrap();
    let format = header.format("x", None, None).unwrap();
    assert_eq!((format.width, format.height, format.fps), (720, 576, Rational { num: 25, den: 1 }));
    assert_eq!(format.field_order, FieldOrder::TopFirst);
    assert_eq!(format.colour.siting, ChromaSiting::TopLeft);
    assert_eq!((format.colour.range, format.colour.matrix), (Range::Full, 6));
    let hd = Y4mHeader::parse("x", b"YUV4MPEG2 W1280 H720 F0:0 C420mpeg2").unwrap();
    assert!(matches!(hd.format("x", None, None), Err(SourceError::NoFrameRate { .. })));
    let format = hd.format("x", Some(FPS), None).unwrap();
    assert_eq!((format.fps, format.colour), (FPS, Colour::BT709_LIMITED));
    for line in [header, hd] {
        assert_eq!(Y4mHeader::parse("x", line.to_line().as_bytes()).unwrap(), line);
        assert!(line.to_line().len() <= crate::source::STREAM_HEADER_MAX_BYTES);
    }
}

#[test]
fn bad_headers_are_refused_with_offset_and_what_is_allowed() {
    for (line, offset, allowed) in [
        ("YUV4MPEG2 W0 H16 F25:1", 10, "an even number"),
        ("YUV4MPEG2 W63 H16 F25:1", 10, "an even number"),
        ("YUV4MPEG2 W64 H17 F25:1", 14, "an even number"),
        ("YUV4MPEG2 W64 H-16 F25:1", 14, "an even number"),
        ("YUV4MPEG2 W4294967360 H16 F25:1", 10, "an even number"),
        ("YUV4MPEG2 W99998 H99998 F25:1", 10, "16384"),
        ("YUV4MPEG2 H16 F25:1", 10, "both W and H"),
        ("YUV4MPEG2 W64 H16 F25", 18, "two positive numbers"),
        ("YUV4MPEG2 W64 H16 F25:0", 18, "two positive numbers"),
        ("YUV4MPEG2 W64 H16 F25:1 Im", 24, "mixed"),
        ("YUV4MPEG2 W64 H16 F25:1 C422", 24, "C420jpeg"),
        ("YUV4MPEG2 W64 H16 F25:1 C444", 24, "C420jpeg"),
        ("YUV4MPEG2 W64 H16 F25:1 Cmono", 24, "C420jpeg"),
        ("YUV4MPEG2 W64 H16 F25:1 C420p10", 24, "C420jpeg"),
        ("YUV4MPEG2 W64 H16 F25:1 A1", 24, "A1:1"),
        ("YUV4MPEG2 W64 H16 F25:1 Q7", 24, "the tags"),
    ] {
        let message = error_of(&[line.as_bytes(), b"\n", &frame(1)].concat(), &FileOptions::default());
        assert!(message.contains(&format!("byte {offset}:")) && message.contains(allowed), "{line}: {message}");
    }
    let endless = [b"YUV4MPEG2 X".as_slice(), &[b'x'; 5000]].concat();
    assert!(error_of(&endless, &FileOptions::default()).contains("within 1024 bytes"));
}

#[test]
fn broken_frames_are_refused_with_offset_and_expectation() {
    let start = HEADER.len() + 1;
    let short = &y4m(2)[..start + 6 + FRAME_BYTES + 6 + 100];
    let message = error_of(short, &FileOptions::default());
    let expected = format!("frame 1: the frame begins at byte {} and needs 1536 bytes, 100", start + 12 + FRAME_BYTES);
    assert!(message.contains(&expected), "{message}");
    let mut missing = y4m(2);
    missing[start + 6 + FRAME_BYTES] = b'X';
    let message = error_of(&missing, &FileOptions::default());
    let expected =
        format!("byte {}: found \"XRAME\\\\n\" in place of the FRAME line of frame 1", start + 6 + FRAME_BYTES);
    assert!(message.contains(&expected), "{message}");
    let long_line = [HEADER.as_bytes(), b"\nFRAME ", &[b'x'; 4000]].concat();
    assert!(error_of(&long_line, &FileOptions::default()).contains("in place of the FRAME line of frame 0"));
    let lying = [b"YUV4MPEG2 W16384 H16384 F25:1\n".as_slice(), &frame(1)].concat();
    assert!(error_of(&lying, &FileOptions::default()).contains("needs 402653184 bytes, 1536"));
    assert!(error_of(&y4m(0), &FileOptions::default()).contains("holds no frame"));
    assert!(error_of(b"", &FileOptions::default()).contains("does not begin with YUV4MPEG2"));
}

#[test]
fn frames_before_the_broken_one_are_given() {
    let mut source = open_bytes(&y4m(3)[..HEADER.len() + 1 + 2 * (6 + FRAME_BYTES) + 50], &Default::default()).unwrap();
    assert_eq!(next(&mut *source).unwrap().unwrap().1, 1);
    assert_eq!(next(&mut *source).unwrap().unwrap().1, 2);
    assert!(matches!(next(&mut *source), Err(SourceError::Truncated { frame: 2, .. })));
}

#[test]
fn raw_frames_of_every_format_are_read_and_a_broken_size_is_refused_with_both_numbers() {
    for pixel_format in PixelFormat::ALL {
        let raw = RawGeometry { pixel_format, ..raw() };
        let bytes = rows::payload_bytes(&raw.format(None).unwrap()) as usize;
        let content = [vec![5u8; bytes], vec![6u8; bytes]].concat();
        let options = FileOptions { raw: Some(raw), ..Default::default() };
        let mut source = open_bytes(&content, &options).unwrap();
        assert_eq!(source.format().pixel_format, pixel_format);
        assert_eq!(values(&mut *source, 9), [5, 6], "{}", pixel_format.name());
    }
    let message = error_of(&[0; 4000], &FileOptions { raw: Some(raw()), ..Default::default() });
    assert!(message.ends_with("has 4000 bytes, which is not a multiple of the 1536 bytes of one 64x16 i420 frame"));
    let odd = FileOptions { raw: Some(RawGeometry { width: 63, ..raw() }), ..Default::default() };
    assert!(error_of(&[0; 4000], &odd).contains("not possible"));
}

#[test]
fn what_is_no_file_is_refused() {
    let missing = open("/nonexistent/video.y4m", &Default::default(), &RUN).err().unwrap();
    assert!(missing.to_string().contains("/nonexistent/video.y4m"));
    assert_eq!(missing.recovery(), Recovery::Fatal);
    for (path, kind) in [("/", "a directory"), ("/dev/null", "a character device")] {
        let error = open(path, &Default::default(), &RUN).err().unwrap();
        assert!(error.to_string().contains(kind), "{error}");
    }
}

#[test]
fn a_file_cut_off_while_it_is_read_is_an_error() {
    let file = written(&y4m(3));
    let mut source = open_path(file.path(), &FileOptions::default()).unwrap();
    next(&mut *source).unwrap();
    file.as_file().set_len(HEADER.len() as u64 + 1 + 6 + FRAME_BYTES as u64 + 200).unwrap();
    assert!(matches!(next(&mut *source), Err(SourceError::Truncated { frame: 1, have_bytes: 193.., .. })));
}

proptest! {
    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600), with_signature in any::<bool>()) {
        let bytes = if with_signature { [y4m::SIGNATURE, &bytes].concat() } else { bytes };
        let _ = Y4mHeader::parse("x", &bytes);
        if let Ok(mut source) = open_bytes(&bytes, &FileOptions::default()) {
            while let Ok(Some(_)) = next(&mut *source) {}
        }
    }

    #[test]
    fn headers_of_random_tokens_never_panic(
        tokens in proptest::collection::vec("[WHFIACX][0-9:pbtm?a-z=]{0,12}", 0..12),
        cut in 0usize..4000, resume_pos in any::<u64>(), looped in any::<bool>(),
    ) {
        let mut bytes = [format!("YUV4MPEG2 W2 H2 F1:1 {}\n", tokens.join(" ")).as_bytes(), &b"FRAME\n......"
            .repeat(20)].concat();
        bytes.truncate(cut);
        let options = FileOptions { resume_pos, looped, ..Default::default() };
        if let Ok(mut source) = open_bytes(&bytes, &options) {
            for _ in 0..30 {
                let format = *source.format();
                let mut buffer = vec![0u8; format.frame_bytes() as usize];
                let pixels = PixelsWrite::new(&format, &mut buffer).unwrap();
                let mut request = FrameRequest { frame_id: 0, buffer_index: 0, buffer_fresh: true, pixels };
                if source.wait(&RUN).is_err() || source.fill(&mut request, &RUN).is_err() {
                    break;
                }
            }
        }
    }
}
