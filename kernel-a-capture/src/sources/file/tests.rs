use super::*;
use crate::source::{Captured, FrameRequest, FrameTimes, Wait};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use proptest::prelude::*;
use shm_protocol::error::Recovery;
use shm_protocol::frame::{ChromaSiting, FieldOrder, Range};
use shm_protocol::pixels::PixelsWrite;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

const FPS: Rational = Rational { num: 30000, den: 1001 };
const RUN: AtomicBool = AtomicBool::new(false);
/// Bytes of a 64x16 frame: small enough that several fit a pipe.
const FRAME_BYTES: usize = 64 * 16 * 3 / 2;
const HEADER: &str = "YUV4MPEG2 W64 H16 F30000:1001 Ip A1:1 C420jpeg";

fn raw() -> RawGeometry {
    RawGeometry { pixel_format: PixelFormat::I420, width: 64, height: 16, fps: FPS }
}

/// A frame whose every sample is `value`.
fn frame(value: u8) -> Vec<u8> {
    [b"FRAME\n".as_slice(), &[value; FRAME_BYTES]].concat()
}

fn y4m(frames: u8) -> Vec<u8> {
    let frames: Vec<Vec<u8>> = (1..=frames).map(frame).collect();
    [HEADER.as_bytes(), b"\n", &frames.concat()].concat()
}

fn written(bytes: &[u8]) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

fn open_path(path: &Path, options: &FileOptions<'_>) -> Result<Box<dyn Source>, SourceError> {
    open(path.to_str().unwrap(), options, &RUN).map(|source| source.unwrap())
}

fn open_bytes(bytes: &[u8], options: &FileOptions<'_>) -> Result<Box<dyn Source>, SourceError> {
    open_path(written(bytes).path(), options)
}

/// The next frame: its times and the one value all its samples must have.
fn next(source: &mut dyn Source) -> Result<Option<(FrameTimes, u8)>, SourceError> {
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

fn values(source: &mut dyn Source, count: usize) -> Vec<u8> {
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

/// A FIFO held open for reading and writing, as the supervisor does.
struct Fifo {
    _directory: tempfile::TempDir,
    path: std::path::PathBuf,
    held: File,
}

impl Fifo {
    fn new() -> Fifo {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("fifo");
        mkfifo(&path, Mode::S_IRWXU).unwrap();
        let held = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        Fifo { _directory: directory, path, held }
    }

    fn send(&self, bytes: &[u8]) {
        (&self.held).write_all(bytes).unwrap();
    }

    fn open(&self, known_header: &[u8]) -> Box<dyn Source> {
        open_path(&self.path, &FileOptions { live: true, known_header, ..Default::default() }).unwrap()
    }
}

#[test]
fn a_fifo_gives_frames_as_they_come() {
    let fifo = Fifo::new();
    fifo.send(&y4m(2));
    let mut source = fifo.open(b"");
    assert!(source.is_live());
    assert_eq!(values(&mut *source, 2), [1, 2]);
    fifo.send(&frame(3));
    let (times, value) = next(&mut *source).unwrap().unwrap();
    assert_eq!((value, times.source_pos, times.discontinuity), (3, 3, false));
    assert_eq!(source.wait(&AtomicBool::new(true)).unwrap(), Wait::Stopped);
}

#[test]
fn a_reader_that_joins_within_a_frame_goes_on_with_the_next() {
    let fifo = Fifo::new();
    fifo.send(&y4m(1));
    let mut first = fifo.open(b"");
    assert_eq!(values(&mut *first, 1), [1]);
    let header = first.stream_header().to_vec();
    drop(first);
    // What is left of a frame whose first part the dead reader took, then whole ones.
    fifo.send(&[&frame(2)[700..], &frame(3), &frame(4)].concat());
    let mut successor = fifo.open(&header);
    assert_eq!(successor.stream_header(), header);
    let (times, value) = next(&mut *successor).unwrap().unwrap();
    assert_eq!((value, times.discontinuity), (3, true));
    assert_eq!(next(&mut *successor).unwrap().map(|(times, value)| (value, times.discontinuity)), Some((4, false)));
}

#[test]
fn a_search_takes_nothing_of_the_frame_after_the_one_it_found() {
    let fifo = Fifo::new();
    fifo.send(&[&frame(2)[3..], &frame(3), &frame(4)].concat());
    let header = Y4mHeader::parse("x", HEADER.as_bytes()).unwrap().to_line();
    let mut second = fifo.open(header.as_bytes());
    assert_eq!(second.wait(&RUN).unwrap(), Wait::Ready);
    drop(second);
    let mut third = fifo.open(header.as_bytes());
    assert_eq!(values(&mut *third, 1), [4], "only the frame being read was lost");
}

#[test]
fn a_new_writer_with_the_same_picture_goes_on_and_with_another_is_reported() {
    let fifo = Fifo::new();
    fifo.send(&y4m(1));
    let mut source = fifo.open(b"");
    assert_eq!(values(&mut *source, 1), [1]);
    fifo.send(&y4m(2));
    let (times, value) = next(&mut *source).unwrap().unwrap();
    assert_eq!((value, times.discontinuity), (1, true));
    assert_eq!(values(&mut *source, 1), [2]);
    fifo.send(b"YUV4MPEG2 W32 H16 F25:1 Ip C420jpeg\n");
    let error = next(&mut *source).unwrap_err();
    assert!(matches!(&error, SourceError::FormatChanged { now, .. } if now.contains("W32")), "{error}");
    assert_eq!(error.recovery(), Recovery::Restart);
    let successor = fifo.open(source.stream_header());
    assert_eq!(successor.format().width, 32, "the header the source ended with opens the successor");
}

#[test]
fn a_writer_that_leaves_within_a_frame_costs_that_frame_only() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    let writers = std::thread::spawn({
        let path = path.clone();
        move || {
            let broken = [y4m(1), frame(2)[..900].to_vec()].concat();
            OpenOptions::new().write(true).open(&path).unwrap().write_all(&broken).unwrap();
            std::thread::sleep(Duration::from_millis(60));
            let again = [HEADER.as_bytes(), b"\n", &frame(7)].concat();
            let mut second = OpenOptions::new().write(true).open(&path).unwrap();
            second.write_all(&again).unwrap();
            std::thread::sleep(Duration::from_millis(30));
        }
    });
    let mut source = open_path(&path, &FileOptions { live: true, ..Default::default() }).unwrap();
    let frames: Vec<_> = (0..2).map(|_| next(&mut *source).unwrap().unwrap()).collect();
    writers.join().unwrap();
    assert_eq!(
        frames.iter().map(|(times, value)| (*value, times.discontinuity)).collect::<Vec<_>>(),
        [(1, false), (7, true)]
    );
}

#[test]
fn a_raw_fifo_is_read_and_a_stop_before_the_first_byte_opens_nothing() {
    let fifo = Fifo::new();
    let path = fifo.path.to_str().unwrap();
    let options = FileOptions { live: true, raw: Some(raw()), ..Default::default() };
    assert!(open(path, &options, &AtomicBool::new(true)).unwrap().is_none());
    fifo.send(&[vec![8u8; FRAME_BYTES], vec![9u8; FRAME_BYTES]].concat());
    let mut source = open_path(&fifo.path, &options).unwrap();
    assert!(source.stream_header().is_empty());
    assert_eq!(values(&mut *source, 2), [8, 9]);
}

#[test]
fn garbage_between_frames_of_a_fifo_is_skipped() {
    let fifo = Fifo::new();
    fifo.send(&[y4m(1), b"FRAM FRAMED YUV4MPEG3 garbage".to_vec(), frame(2)].concat());
    let mut source = fifo.open(b"");
    assert_eq!(values(&mut *source, 2), [1, 2]);
}

/// Not a test: the reader that [`a_killed_reader_loses_at_most_the_frame_it_was_reading`] kills.
#[test]
#[ignore = "run as a child process by the kill test"]
fn doomed_reader() {
    let Ok(path) = std::env::var("DOOMED_READER_FIFO") else { return };
    let mut source = open_path(Path::new(&path), &FileOptions { live: true, ..Default::default() }).unwrap();
    while let Some((_, value)) = next(&mut *source).unwrap() {
        println!("\nread {value} {}", String::from_utf8_lossy(source.stream_header()));
    }
}

#[test]
fn a_killed_reader_loses_at_most_the_frame_it_was_reading() {
    let fifo = Fifo::new();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", "sources::file::tests::doomed_reader"])
        .env("DOOMED_READER_FIFO", &fifo.path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    fifo.send(&[y4m(2), frame(3)[..800].to_vec()].concat());
    let mut output = BufReader::new(child.stdout.take().unwrap()).lines();
    let said = output.find_map(|line| line.unwrap().strip_prefix("read 2 ").map(str::to_owned)).unwrap();
    std::thread::sleep(Duration::from_millis(50));
    child.kill().unwrap();
    child.wait().unwrap();
    fifo.send(&[&frame(3)[800..], &frame(4), &frame(5)].concat());
    let mut successor = fifo.open(said.as_bytes());
    let mut read = values(&mut *successor, 2);
    if read == [3, 4] {
        // Slow machine: the child died before it had touched frame 3, so nothing was lost at all.
        read = [&read[1..], &values(&mut *successor, 1)].concat();
    }
    assert_eq!(read, [4, 5]);
}

#[test]
fn a_slow_stop_is_seen_within_a_frame_too() {
    let fifo = Fifo::new();
    fifo.send(&[y4m(0), frame(1)[..300].to_vec()].concat());
    let mut source = fifo.open(b"");
    assert_eq!(source.wait(&RUN).unwrap(), Wait::Ready);
    let format = *source.format();
    let mut bytes = vec![0u8; format.frame_bytes() as usize];
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let filler = scope.spawn(|| {
            let pixels = PixelsWrite::new(&format, &mut bytes).unwrap();
            let mut request = FrameRequest { frame_id: 0, buffer_index: 0, buffer_fresh: true, pixels };
            source.fill(&mut request, &stop).unwrap()
        });
        std::thread::sleep(Duration::from_millis(20));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(filler.join().unwrap(), Captured::Stopped);
    });
}

#[test]
fn a_pipe_that_ends_gives_end_or_says_what_is_missing() {
    // As on standard input: a pipe whose end is the end of the stream.
    for (bytes, frames, error) in [
        (y4m(2), 2, None),
        (y4m(2)[..y4m(2).len() - 1].to_vec(), 1, Some("needs 1536 bytes, 1535 are there")),
        ([y4m(1), b"FRA".to_vec()].concat(), 1, Some("in place of the FRAME line of frame 1")),
        ([y4m(1), vec![7; 900]].concat(), 1, Some("in place of the FRAME line of frame 1")),
        (Vec::new(), 0, Some("holds no frame")),
    ] {
        let (reader, mut writer) = std::io::pipe().unwrap();
        writer.write_all(&bytes).unwrap();
        drop(writer);
        let file = File::from(std::os::fd::OwnedFd::from(reader));
        let opened = PipeSource::open(file, "-", false, &FileOptions::default(), &RUN);
        let mut given = 0;
        let outcome = opened.and_then(|source| {
            let mut source = source.unwrap();
            while next(&mut source)?.is_some() {
                given += 1;
            }
            Ok(())
        });
        assert_eq!(given, frames);
        match error {
            None => outcome.unwrap(),
            Some(text) => {
                let message = outcome.unwrap_err().to_string();
                assert!(message.contains(text), "{message}");
            }
        }
    }
}

#[test]
fn a_pipe_takes_the_frame_line_with_parameters_and_leaves_the_rest() {
    let fifo = Fifo::new();
    let line = [b"FRAME Ip XQ=1\n".as_slice(), &[4; FRAME_BYTES]].concat();
    fifo.send(&[y4m(1), line, b"tail".to_vec()].concat());
    let mut source = fifo.open(b"");
    assert_eq!(values(&mut *source, 2), [1, 4]);
    drop(source);
    let mut rest = [0; 4];
    (&fifo.held).read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"tail", "nothing beyond the frame was read");
}
