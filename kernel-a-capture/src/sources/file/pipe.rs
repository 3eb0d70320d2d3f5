//! FIFOs and pipes on standard input: frames as their writer sends them.
//!
//! A reader that joins in the middle of a frame (its predecessor was killed) skips to the next FRAME line, given
//! the stream header its predecessor left. Six bytes of a picture that happen to read `FRAME` and a newline would
//! be taken for one; the frame after that finds no FRAME line and the search begins anew, so such a picture
//! costs two frames. Reads never go beyond the current frame: a kill loses nothing else.

use super::pipe_reader::{Got, PipeReader};
use super::y4m::{self, Y4mHeader};
use super::{Container, FileOptions, NAME, rows};
use crate::clock;
use crate::error::SourceError;
use crate::source::{Captured, FrameRequest, FrameTimes, Source, Wait, check_buffer, pts};
use shm_protocol::frame::VideoFormat;
use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

/// Bytes read at a time while searching; never more than a frame has, so that what is read beyond the FRAME
/// line found belongs to that frame.
const SEARCH_BYTES: u64 = 4096;

/// Where in the stream the reader stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Anywhere: a FRAME line or a stream header must be searched.
    Lost,
    /// Between frames.
    Between,
    /// Pixels come next.
    InFrame,
}

/// A FIFO or pipe as a source.
#[derive(Debug)]
pub(super) struct PipeSource {
    reader: PipeReader,
    /// Writers come and go (a FIFO); otherwise the stream ends with its writer.
    rejoin: bool,
    live: bool,
    container: Container,
    /// The header as a line, for a successor; empty for raw.
    header_line: String,
    format: VideoFormat,
    payload_bytes: u64,
    state: State,
    /// Frames given so far, across restarts.
    position: u64,
    discontinuity: bool,
}

impl PipeSource {
    /// Opens the stream; waits for its header unless a predecessor left it. `None` when `stop` was set first.
    pub(super) fn open(
        file: File,
        path: &str,
        rejoin: bool,
        options: &FileOptions<'_>,
        stop: &AtomicBool,
    ) -> Result<Option<PipeSource>, SourceError> {
        let mut reader = PipeReader::new(file, path);
        let (container, state) = if options.known_header.is_empty() {
            let Some(container) = first_container(&mut reader, rejoin, options, stop)? else { return Ok(None) };
            (container, State::Between)
        } else {
            (Container::Y4m(Y4mHeader::parse(path, options.known_header)?), State::Lost)
        };
        let (format, header_line) = match (&container, options.raw) {
            (Container::Y4m(header), _) => (header.format(path, options.fps, options.colour)?, header.to_line()),
            (Container::Raw, Some(raw)) => (raw.format(options.colour)?, String::new()),
            (Container::Raw, None) => return Err(SourceError::UnknownContainer { path: path.to_owned() }),
        };
        let payload_bytes = rows::payload_bytes(&format);
        let live = options.live;
        let position = options.resume_pos;
        Ok(Some(PipeSource {
            reader,
            rejoin,
            live,
            container,
            header_line,
            format,
            payload_bytes,
            state,
            position,
            discontinuity: false,
        }))
    }

    /// Takes the FRAME line, if that is what comes next. `None`: look at the state again.
    fn frame_line(&mut self, stop: &AtomicBool) -> Result<Option<Wait>, SourceError> {
        let mut start = [0; y4m::FRAME.len() + 1];
        match self.reader.exact(&mut start, stop)? {
            Got::Stopped => return Ok(Some(Wait::Stopped)),
            Got::Ended(0) => return self.no_writer(stop),
            Got::Ended(have) if self.rejoin => {
                self.lose();
                tracing::warn!(bytes = have, "The writer left within a FRAME line");
            }
            Got::Ended(have) => return Err(self.bad_frame_line(&start[..have])),
            Got::Bytes(_) if start == *b"FRAME\n" => self.state = State::InFrame,
            Got::Bytes(_) if start == *b"FRAME " => {
                let mut parameters = Vec::new();
                match self.reader.line(&mut parameters, y4m::FRAME_LINE_MAX_BYTES - start.len(), stop)? {
                    (_, true) => self.state = State::InFrame,
                    (Got::Stopped, _) => {
                        self.reader.unread(&start);
                        return Ok(Some(Wait::Stopped));
                    }
                    _ if self.rejoin => self.lose(),
                    _ => return Err(self.bad_frame_line(&parameters)),
                }
            }
            Got::Bytes(_) if self.rejoin => {
                self.reader.unread(&start);
                self.state = State::Lost;
            }
            Got::Bytes(_) => return Err(self.bad_frame_line(&start)),
        }
        Ok(None)
    }

    fn bad_frame_line(&self, found: &[u8]) -> SourceError {
        SourceError::Y4mFrameLine {
            path: self.reader.path().to_owned(),
            offset: self.reader.offset() - found.len() as u64,
            frame: self.position,
            found: y4m::shown(found),
        }
    }

    fn lose(&mut self) {
        self.state = if matches!(self.container, Container::Raw) { State::Between } else { State::Lost };
        self.discontinuity = true;
    }

    /// The stream's end, or a pause until there may be another writer.
    fn no_writer(&self, stop: &AtomicBool) -> Result<Option<Wait>, SourceError> {
        if !self.rejoin {
            return Ok(Some(Wait::End));
        }
        self.reader.pause(stop)?;
        Ok(None)
    }

    /// Searches one portion of the stream for a FRAME line or a stream header.
    fn search(&mut self, stop: &AtomicBool) -> Result<Option<Wait>, SourceError> {
        let pending = self.reader.pending();
        let frame = find(pending, b"FRAME\n").into_iter().chain(find(pending, b"FRAME ")).min();
        let header = find(pending, y4m::SIGNATURE);
        let found = frame.into_iter().chain(header).min();
        if let Some(at) = found {
            if at > 0 {
                self.discontinuity = true;
            }
            self.reader.skip(at);
            if header == Some(at) {
                return self.new_header(stop);
            }
            self.state = State::Between;
            return Ok(None);
        }
        // What may be the beginning of either stays.
        let done = pending.len().saturating_sub(y4m::SIGNATURE.len() - 1);
        if done > 0 {
            self.discontinuity = true;
        }
        self.reader.skip(done);
        match self.reader.read_ahead(self.payload_bytes.min(SEARCH_BYTES) as usize, stop)? {
            Got::Bytes(_) => Ok(None),
            Got::Stopped => Ok(Some(Wait::Stopped)),
            Got::Ended(_) => {
                self.reader.skip(usize::MAX);
                self.no_writer(stop)
            }
        }
    }

    /// A new writer's header: the same picture goes on, another one needs another ring.
    fn new_header(&mut self, stop: &AtomicBool) -> Result<Option<Wait>, SourceError> {
        let mut line = Vec::new();
        match self.reader.line(&mut line, y4m::HEADER_MAX_BYTES, stop)? {
            (Got::Stopped, _) => return Ok(Some(Wait::Stopped)),
            (Got::Ended(_), _) => return self.no_writer(stop),
            (Got::Bytes(_), _) => {}
        }
        let header = Y4mHeader::parse(self.reader.path(), &line)?;
        let now = header.to_line();
        if now != self.header_line {
            let before = std::mem::replace(&mut self.header_line, now.clone());
            return Err(SourceError::FormatChanged { path: self.reader.path().to_owned(), before, now });
        }
        self.discontinuity = true;
        self.state = State::Between;
        Ok(None)
    }
}

/// What the stream begins with, and so what it is. `None` when `stop` was set first.
fn first_container(
    reader: &mut PipeReader,
    rejoin: bool,
    options: &FileOptions<'_>,
    stop: &AtomicBool,
) -> Result<Option<Container>, SourceError> {
    loop {
        let mut start = [0; y4m::SIGNATURE.len()];
        let mut line = match reader.exact(&mut start, stop)? {
            Got::Stopped => return Ok(None),
            Got::Ended(_) if rejoin => {
                reader.pause(stop)?;
                continue;
            }
            Got::Ended(0) => return Err(SourceError::Empty { path: reader.path().to_owned() }),
            Got::Ended(have) => start[..have].to_vec(),
            Got::Bytes(_) => start.to_vec(),
        };
        if line != y4m::SIGNATURE {
            if options.raw.is_none() {
                return Err(SourceError::UnknownContainer { path: reader.path().to_owned() });
            }
            reader.unread(&line);
            return Ok(Some(Container::Raw));
        }
        match reader.line(&mut line, y4m::HEADER_MAX_BYTES, stop)? {
            (Got::Stopped, _) => return Ok(None),
            (Got::Ended(_), _) if rejoin => reader.pause(stop)?,
            // A line cut off is parsed all the same: too long or incomplete, it says so.
            _ => return Ok(Some(Container::Y4m(Y4mHeader::parse(reader.path(), &line)?))),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

impl Source for PipeSource {
    fn format(&self) -> &VideoFormat {
        &self.format
    }

    fn is_live(&self) -> bool {
        self.live
    }

    fn waits_for_writer(&self) -> bool {
        true
    }

    fn name(&self) -> &'static str {
        NAME
    }

    fn wait(&mut self, stop: &AtomicBool) -> Result<Wait, SourceError> {
        // A frame that has begun comes before the flag: whoever reads next would not find its beginning.
        while self.state != State::InFrame {
            if stop.load(Ordering::Relaxed) {
                return Ok(Wait::Stopped);
            }
            let ended = match (self.state, &self.container) {
                (State::InFrame, _) => None,
                (State::Lost, _) => self.search(stop)?,
                (State::Between, Container::Y4m(_)) => self.frame_line(stop)?,
                (State::Between, Container::Raw) => match self.reader.ready(stop)? {
                    Got::Bytes(_) => {
                        self.state = State::InFrame;
                        None
                    }
                    Got::Ended(_) => self.no_writer(stop)?,
                    Got::Stopped => Some(Wait::Stopped),
                },
            };
            if let Some(ended) = ended {
                return Ok(ended);
            }
        }
        Ok(Wait::Ready)
    }

    fn fill(&mut self, request: &mut FrameRequest<'_>, stop: &AtomicBool) -> Result<Captured, SourceError> {
        check_buffer(&self.format, request)?;
        if self.state != State::InFrame {
            return Ok(Captured::Incomplete);
        }
        let capture_ns = clock::monotonic_ns()?;
        let begin = self.reader.offset();
        let mut done = 0;
        while done < self.payload_bytes {
            match rows::with_rows(&mut request.pixels, done, |places| self.reader.read(places, stop))? {
                Got::Bytes(bytes) => done += bytes as u64,
                Got::Stopped => {
                    self.lose();
                    return Ok(Captured::Stopped);
                }
                // The pipe was readable, and what was to read was its end.
                Got::Ended(_) if done == 0 && matches!(self.container, Container::Raw) => {
                    self.state = State::Between;
                    return Ok(if self.rejoin { Captured::Incomplete } else { Captured::End });
                }
                Got::Ended(_) if self.rejoin => {
                    self.lose();
                    return Ok(Captured::Incomplete);
                }
                Got::Ended(_) => {
                    return Err(SourceError::Truncated {
                        path: self.reader.path().to_owned(),
                        frame: self.position,
                        offset: begin,
                        need_bytes: self.payload_bytes,
                        have_bytes: done,
                    });
                }
            }
        }
        self.state = State::Between;
        let source_pts_ns = if self.live { capture_ns } else { self.format.fps.frame_time_ns(self.position) };
        self.position += 1;
        Ok(Captured::Frame(FrameTimes {
            capture_ns,
            source_pts_ns: pts(source_pts_ns),
            source_pos: self.position,
            discontinuity: std::mem::take(&mut self.discontinuity),
        }))
    }

    fn stream_header(&self) -> &[u8] {
        self.header_line.as_bytes()
    }
}
