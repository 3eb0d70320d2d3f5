//! Y4M and raw frames on standard input, from a writer that sends anything and goes, also joined in the middle.
//!
//! Feeds: options in the first bytes, the rest through a pipe in the place of standard input; with a predecessor's header
//! the reader begins in the middle and searches.
//! Holds: no panic, no hang; every byte is used at most once, so that frames are no more than the bytes allow; a frame
//! whose bytes are not all there is not given; the header kept for a successor is one.
#![no_main]

use kernel_a_capture::source::{Captured, FrameRequest, Wait};
use kernel_a_capture::sources::file::y4m::Y4mHeader;
use kernel_a_capture::sources::file::{FileOptions, RawGeometry, open};
use quad_fuzz::Input;
use shm_protocol::frame::{PixelFormat, Rational};
use shm_protocol::pixels::PixelsWrite;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::atomic::AtomicBool;

static RUN: AtomicBool = AtomicBool::new(false);
/// A pipe takes so much before its writer waits.
const PIPE_BYTES: usize = 60_000;
const HEADERS: [&[u8]; 3] =
    [b"", b"YUV4MPEG2 W4 H4 F25:1 Ip C420jpeg", b"YUV4MPEG2 W16 H2 F25:1 It C420mpeg2 XCOLORRANGE=FULL"];

/// Makes `content` what standard input gives.
fn feed(content: &[u8]) {
    let mut ends = [0; 2];
    // SAFETY: fills two descriptors, owned at once; the read end replaces standard input.
    let mut writer = unsafe {
        assert_eq!(libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC), 0);
        let reader = OwnedFd::from_raw_fd(ends[0]);
        assert_eq!(libc::dup2(reader.as_raw_fd(), 0), 0);
        std::fs::File::from_raw_fd(ends[1])
    };
    writer.write_all(content).expect("the pipe takes it");
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let flags = input.u8();
    let raw = RawGeometry {
        pixel_format: PixelFormat::ALL[usize::from(input.u8()) % PixelFormat::ALL.len()],
        width: u32::from(input.u8()),
        height: u32::from(input.u8()),
        fps: Rational { num: 25, den: 1 },
    };
    let content = input.take(PIPE_BYTES);
    feed(content);
    let options = FileOptions {
        live: flags & 1 == 1,
        raw: (flags & 2 == 2).then_some(raw),
        fps: (flags & 4 == 4).then_some(raw.fps),
        known_header: HEADERS[usize::from(flags >> 4) % HEADERS.len()],
        ..FileOptions::default()
    };
    let mut source = match open("-", &options, &RUN) {
        Ok(source) => source.expect("nobody asked to stop"),
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let header = source.stream_header().to_vec();
    assert!(header.is_empty() || Y4mHeader::parse("fuzz", &header).is_ok());
    let format = *source.format();
    // A header may claim a frame that no pipe of this size can hold: then none may come.
    let room = format.frame_bytes().min(1 << 22) as usize;
    let mut memory = vec![0u8; room];
    let Ok(_) = PixelsWrite::new(&format, &mut memory) else { return };
    let mut left = content.len() as u64;
    let payload: u64 = (0..format.pixel_format.planes())
        .map(|plane| {
            u64::from(format.pixel_format.row_bytes(plane, format.width))
                * u64::from(format.pixel_format.rows(plane, format.height))
        })
        .sum();
    while let Ok(Wait::Ready) = source.wait(&RUN) {
        let pixels = PixelsWrite::new(&format, &mut memory).expect("as before");
        let mut request = FrameRequest { frame_id: 1, buffer_index: 0, buffer_fresh: true, pixels };
        match source.fill(&mut request, &RUN) {
            Ok(Captured::Frame(_)) => left = left.checked_sub(payload).expect("more frames than bytes"),
            Ok(Captured::Incomplete) => {}
            Ok(Captured::End | Captured::Stopped) | Err(_) => break,
        }
    }
});
