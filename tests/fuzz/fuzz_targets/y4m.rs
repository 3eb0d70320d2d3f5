//! Y4M and raw frames in a regular file.
//!
//! Feeds: options in the first bytes, the rest as the file.
//! Holds: no panic; no memory beyond one frame, which is only asked for when the file has it; the frame size that an
//! accepted header stands for is what each frame read takes; the pixels given are the file's bytes in their order; ids
//! and positions go on without gap, also when resumed; a header line that is understood, written and read again, is the
//! same.
#![no_main]

use kernel_a_capture::source::{Captured, FrameRequest, Source, Wait};
use kernel_a_capture::sources::file::y4m::Y4mHeader;
use kernel_a_capture::sources::file::{FileOptions, RawGeometry, open};
use quad_fuzz::Input;
use shm_protocol::frame::{PixelFormat, Rational, VideoFormat};
use shm_protocol::pixels::PixelsWrite;
use std::cell::RefCell;
use std::io::{Seek, Write};
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicBool;

static RUN: AtomicBool = AtomicBool::new(false);
/// Frames read of one input: a loop has no end.
const MOST_FRAMES: u64 = 40;

thread_local! {
    static FILE: RefCell<std::fs::File> = RefCell::new(tempfile::tempfile().expect("a file"));
}

/// The pixels of a frame without padding.
fn packed(format: &VideoFormat, pixels: &mut PixelsWrite<'_>) -> Vec<u8> {
    let planes = 0..format.pixel_format.planes();
    let rows = planes.flat_map(|plane| (0..format.pixel_format.rows(plane, format.height)).map(move |y| (plane, y)));
    rows.flat_map(|(plane, y)| pixels.row_mut(plane, y).to_vec()).collect()
}

/// The next frame's pixels and position; `None` at the end or an error.
fn next(source: &mut dyn Source, memory: &mut Vec<u8>) -> Option<(Vec<u8>, u64)> {
    let format = *source.format();
    memory.resize(format.frame_bytes() as usize, 0);
    if source.wait(&RUN).ok()? != Wait::Ready {
        return None;
    }
    let pixels = PixelsWrite::new(&format, memory).expect("room for the format");
    let mut request = FrameRequest { frame_id: 1, buffer_index: 0, buffer_fresh: true, pixels };
    match source.fill(&mut request, &RUN).ok()? {
        Captured::Frame(times) => Some((packed(&format, &mut request.pixels), times.source_pos)),
        _ => None,
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| FILE.with_borrow_mut(|file| {
    let mut input = Input(data);
    let (flags, resume) = (input.u8(), input.u8());
    let raw = RawGeometry {
        pixel_format: PixelFormat::ALL[usize::from(input.u8()) % PixelFormat::ALL.len()],
        width: u32::from(input.u8()),
        height: u32::from(input.u8()),
        fps: Rational { num: 25, den: 1 },
    };
    let content = input.0;
    file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(content)).expect("memory");
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let options = FileOptions {
        looped: flags & 1 == 1,
        raw: (flags & 2 == 2).then_some(raw),
        fps: (flags & 4 == 4).then_some(raw.fps),
        resume_pos: if flags & 8 == 8 { u64::from(resume) } else { 0 },
        ..FileOptions::default()
    };
    let line_end = content.iter().position(|byte| *byte == b'\n').unwrap_or(content.len());
    if let Ok(header) = Y4mHeader::parse("fuzz", &content[..line_end]) {
        let line = header.to_line();
        assert!(line.len() < 256);
        assert_eq!(Y4mHeader::parse("fuzz", line.as_bytes()).expect("our own line"), header);
    }
    let mut source = match open(&path, &options, &RUN) {
        Ok(source) => source.expect("a file is not waited for"),
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let mut memory = Vec::new();
    let mut position = options.resume_pos;
    let is_y4m = content.starts_with(b"YUV4MPEG2 ");
    let first = if is_y4m { line_end + 1 } else { 0 };
    // Where the frame after the last one begins, known from the start on when nothing is passed over.
    let mut at = (options.resume_pos == 0).then_some(first);
    while let Some((pixels, next_position)) = next(&mut *source, &mut memory) {
        assert!(pixels.len() <= content.len());
        if let Some(begin) = at {
            let begin = if begin >= content.len() { first } else { begin };
            let line = if is_y4m {
                content[begin..].iter().position(|byte| *byte == b'\n').expect("a FRAME line") + 1
            } else {
                0
            };
            assert_eq!(&content[begin + line..][..pixels.len()], pixels);
            at = Some(begin + line + pixels.len());
        }
        position += 1;
        assert_eq!(next_position, position);
        if position - options.resume_pos >= MOST_FRAMES {
            break;
        }
    }
}));
