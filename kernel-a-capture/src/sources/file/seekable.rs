//! Regular files, Y4M and raw: read at known offsets, so that a successor goes on exactly behind the last frame.

use super::y4m::{self, Y4mHeader};
use super::{Container, FileOptions, NAME, rows};
use crate::clock;
use crate::error::SourceError;
use crate::pacing::{PacedSlot, Pacer};
use crate::source::{Captured, FrameRequest, FrameTimes, Source, Wait, check_buffer, describe, pts};
use nix::errno::Errno;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::uio::{pread, preadv};
use shm_protocol::frame::VideoFormat;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

/// A regular file as a source.
#[derive(Debug)]
pub(super) struct FileSource {
    file: File,
    path: String,
    container: Container,
    format: VideoFormat,
    /// Bytes of a frame's pixels in the file.
    payload_bytes: u64,
    file_bytes: u64,
    /// Where the first frame (its FRAME line) begins.
    first_offset: u64,
    /// Where the next frame begins.
    offset: u64,
    /// Number of the next frame within the file.
    file_frame: u64,
    /// Frames given so far, across loops and restarts.
    position: u64,
    looped: bool,
    began_again: bool,
    pacer: Option<Pacer>,
    due: Option<PacedSlot>,
}

impl FileSource {
    pub(super) fn open(file: File, path: &str, options: &FileOptions<'_>) -> Result<FileSource, SourceError> {
        let file_bytes = file.metadata().map_err(|source| SourceError::Open { path: path.to_owned(), source })?.len();
        let mut head = [0; y4m::HEADER_MAX_BYTES];
        let head_bytes = read_at(&file, path, &mut head, 0)?;
        let head = &head[..head_bytes];
        let (container, format, first_offset) = if head.starts_with(y4m::SIGNATURE) {
            let Some(end) = head.iter().position(|byte| *byte == b'\n') else {
                return Err(SourceError::Y4mHeader {
                    path: path.to_owned(),
                    offset: head.len() as u64,
                    found: y4m::shown(head),
                    allowed: "a header that ends with a newline within 1024 bytes",
                });
            };
            let header = Y4mHeader::parse(path, &head[..end])?;
            (Container::Y4m(header), header.format(path, options.fps, options.colour)?, end as u64 + 1)
        } else {
            let raw = options.raw.ok_or_else(|| SourceError::UnknownContainer { path: path.to_owned() })?;
            (Container::Raw, raw.format(options.colour)?, 0)
        };
        let payload_bytes = rows::payload_bytes(&format);
        if matches!(container, Container::Raw) && file_bytes % payload_bytes != 0 {
            return Err(SourceError::RawSize {
                path: path.to_owned(),
                file_bytes,
                frame_bytes: payload_bytes,
                frame: describe(&format),
            });
        }
        if file_bytes == first_offset {
            return Err(SourceError::Empty { path: path.to_owned() });
        }
        // Only a hint: a file system that knows none reads as well without.
        let _ = posix_fadvise(&file, 0, 0, PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL);
        let pacer = if options.live { Some(Pacer::new(format.fps, clock::monotonic_ns()?)) } else { None };
        let mut source = FileSource {
            file,
            path: path.to_owned(),
            container,
            format,
            payload_bytes,
            file_bytes,
            first_offset,
            offset: first_offset,
            file_frame: 0,
            position: options.resume_pos,
            looped: options.looped,
            began_again: false,
            pacer,
            due: None,
        };
        // A file broken at its first frame is refused at the start, not by the ring loop.
        source.frame_pixels(first_offset, 0)?;
        source.seek(options.resume_pos)?;
        Ok(source)
    }

    /// Where the pixels of the frame begin that itself begins at `offset`, checked to be there whole.
    fn frame_pixels(&self, offset: u64, frame: u64) -> Result<u64, SourceError> {
        let pixels = match self.container {
            Container::Raw => offset,
            Container::Y4m(_) => offset + self.frame_line(offset, frame)?,
        };
        let have_bytes = self.file_bytes.saturating_sub(pixels);
        if have_bytes < self.payload_bytes {
            return Err(self.truncated(frame, pixels, have_bytes));
        }
        Ok(pixels)
    }

    fn truncated(&self, frame: u64, offset: u64, have_bytes: u64) -> SourceError {
        SourceError::Truncated { path: self.path.clone(), frame, offset, need_bytes: self.payload_bytes, have_bytes }
    }

    /// Length of the FRAME line at `offset`, its newline included.
    fn frame_line(&self, offset: u64, frame: u64) -> Result<u64, SourceError> {
        let mut line = [0; y4m::FRAME_LINE_MAX_BYTES];
        // Nearly every line is bare; parameters are worth a second read.
        let mut have = read_at(&self.file, &self.path, &mut line[..y4m::FRAME.len() + 1], offset)?;
        if line[..have].starts_with(y4m::FRAME) && line[..have].ends_with(b" ") {
            have = read_at(&self.file, &self.path, &mut line, offset)?;
        }
        let line = &line[..have];
        let end = line.iter().position(|byte| *byte == b'\n');
        match (line.strip_prefix(y4m::FRAME), end) {
            (Some([b'\n' | b' ', ..]), Some(end)) => Ok(end as u64 + 1),
            _ => Err(SourceError::Y4mFrameLine { path: self.path.clone(), offset, frame, found: y4m::shown(line) }),
        }
    }

    /// Goes to the frame that follows `position` given frames.
    fn seek(&mut self, position: u64) -> Result<(), SourceError> {
        // Frames with bare FRAME lines are all of one length: go there and look whether that holds.
        let line_bytes = match self.container {
            Container::Raw => 0,
            Container::Y4m(_) => y4m::FRAME.len() as u64 + 1,
        };
        let step = line_bytes + self.payload_bytes;
        let frames_bytes = self.file_bytes - self.first_offset;
        if frames_bytes.is_multiple_of(step) {
            let frames = frames_bytes / step;
            let frame = if self.looped { position % frames } else { position.min(frames) };
            let offset = self.first_offset + frame * step;
            if frame == frames || self.frame_pixels(offset, frame).is_ok_and(|pixels| pixels == offset + line_bytes) {
                (self.offset, self.file_frame) = (offset, frame);
                return Ok(());
            }
        }
        let mut left = position;
        loop {
            (self.offset, self.file_frame) = (self.first_offset, 0);
            while left > 0 && self.offset < self.file_bytes {
                self.offset = self.frame_pixels(self.offset, self.file_frame)? + self.payload_bytes;
                self.file_frame += 1;
                left -= 1;
            }
            if left == 0 || !self.looped {
                return Ok(());
            }
            // One round taught how many frames there are; open() made sure there is one.
            left %= self.file_frame;
        }
    }
}

/// Reads until `buffer` is full or the file ends.
fn read_at(file: &File, path: &str, buffer: &mut [u8], offset: u64) -> Result<usize, SourceError> {
    let mut done = 0;
    while done < buffer.len() {
        match pread(file, &mut buffer[done..], (offset + done as u64) as i64) {
            Ok(0) => break,
            Ok(bytes) => done += bytes,
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(read_error(path, offset + done as u64, errno)),
        }
    }
    Ok(done)
}

fn read_error(path: &str, offset: u64, errno: Errno) -> SourceError {
    SourceError::Read { path: path.to_owned(), offset, source: io::Error::from(errno) }
}

impl Source for FileSource {
    fn format(&self) -> &VideoFormat {
        &self.format
    }

    fn is_live(&self) -> bool {
        self.pacer.is_some()
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn wait(&mut self, stop: &AtomicBool) -> Result<Wait, SourceError> {
        if stop.load(Ordering::Relaxed) {
            return Ok(Wait::Stopped);
        }
        if self.offset >= self.file_bytes {
            if !self.looped {
                return Ok(Wait::End);
            }
            (self.offset, self.file_frame, self.began_again) = (self.first_offset, 0, true);
        }
        if let Some(pacer) = &mut self.pacer {
            self.due = pacer.wait(stop)?;
            if self.due.is_none() {
                return Ok(Wait::Stopped);
            }
        }
        Ok(Wait::Ready)
    }

    fn fill(&mut self, request: &mut FrameRequest<'_>, _stop: &AtomicBool) -> Result<Captured, SourceError> {
        check_buffer(&self.format, request)?;
        if self.offset >= self.file_bytes {
            return Ok(Captured::End);
        }
        let capture_ns = clock::monotonic_ns()?;
        let pixels = self.frame_pixels(self.offset, self.file_frame)?;
        let mut done = 0;
        while done < self.payload_bytes {
            let read =
                rows::with_rows(&mut request.pixels, done, |places| preadv(&self.file, places, (pixels + done) as i64));
            match read {
                // Cut off since it was opened.
                Ok(0) => return Err(self.truncated(self.file_frame, pixels, done)),
                Ok(bytes) => done += bytes as u64,
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(read_error(&self.path, pixels + done, errno)),
            }
        }
        let source_pts_ns = match &mut self.pacer {
            Some(pacer) => self.due.take().unwrap_or_else(|| pacer.take(capture_ns)).deadline_ns,
            None => self.format.fps.frame_time_ns(self.position),
        };
        self.offset = pixels + self.payload_bytes;
        self.file_frame += 1;
        self.position += 1;
        Ok(Captured::Frame(FrameTimes {
            capture_ns,
            source_pts_ns: pts(source_pts_ns),
            source_pos: self.position,
            discontinuity: std::mem::take(&mut self.began_again),
        }))
    }
}
