//! Pipes and FIFOs, with real ones.

use super::tests::{FRAME_BYTES, HEADER, RUN, frame, next, open_path, raw, values, y4m};
use super::*;
use crate::source::{Captured, FrameRequest, Wait};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use shm_protocol::error::Recovery;
use shm_protocol::pixels::PixelsWrite;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;
use std::time::Duration;

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
    assert!(source.waits_for_writer());
    assert!(source.is_live());
    assert_eq!(values(&mut *source, 2), [1, 2]);
    fifo.send(&frame(3));
    let (times, value) = next(&mut *source).unwrap().unwrap();
    assert_eq!((value, times.source_pos, times.discontinuity), (3, 3, false));
    assert_eq!(source.wait(&AtomicBool::new(true)).unwrap(), Wait::Stopped);
}

#[test]
fn a_frame_that_has_begun_is_not_given_up_for_a_flag_nor_is_a_part_of_its_line() {
    let fifo = Fifo::new();
    fifo.send(&y4m(1));
    let mut source = fifo.open(b"");
    assert_eq!(source.wait(&RUN).unwrap(), Wait::Ready);
    assert_eq!(
        source.wait(&AtomicBool::new(true)).unwrap(),
        Wait::Ready,
        "its line is read: nobody else would find it"
    );
    assert_eq!(values(&mut *source, 1), [1]);
    for line in ["FRA", "FRAME", "FRAME Ip X"] {
        fifo.send(line.as_bytes());
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(100));
                stop.store(true, Ordering::Relaxed);
            });
            assert_eq!(source.wait(&stop).unwrap(), Wait::Stopped, "{line}");
        });
        fifo.send(&[&b"FRAME Ip Xy=z\n"[line.len()..], &frame(2)[b"FRAME\n".len()..]].concat());
        assert_eq!(next(&mut *source).unwrap().map(|(times, value)| (value, times.discontinuity)), Some((2, false)));
    }
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
    fifo.send(&frame(5));
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
        .args(["--ignored", "--exact", "--nocapture", "sources::file::pipe_tests::doomed_reader"])
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
