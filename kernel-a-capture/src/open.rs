//! The source a configuration asks for.

use crate::error::SourceError;
use crate::source::Source;
use crate::sources::file::{self, FileOptions, RawGeometry};
use crate::sources::pattern::{PatternOptions, PatternSource};
use kernel_host::config::{Capture, Policy, Source as Configured};
use kernel_host::exit::{Exit, Failure};
use shm_protocol::frame::{PixelFormat, Rational};
use std::path::Path;
use std::sync::atomic::AtomicBool;

/// What a predecessor left: where it stood and what it knew of the stream.
#[derive(Debug, Clone, Default)]
pub struct Predecessor {
    /// `source_pos` of its last published frame.
    pub position: u64,
    /// [`Source::stream_header`].
    pub header: Vec<u8>,
}

/// Opens the configured source. `Ok(None)`: asked to stop before the stream's header came.
///
/// # Errors
/// [`Failure`] with the exit code of what is wrong: 69 for a source this build lacks, 78 for what a person
/// must change.
pub fn open(
    capture: &Capture,
    predecessor: &Predecessor,
    stop: &AtomicBool,
) -> Result<Option<Box<dyn Source>>, Failure> {
    let failed = |error: SourceError| Failure::recover(error.recovery(), error);
    let live = capture.policy == Policy::Live;
    let source: Box<dyn Source> = match capture.source {
        Configured::Pattern => {
            let options = PatternOptions {
                pixel_format: capture.format.unwrap_or(PixelFormat::Nv12),
                width: capture.width.unwrap_or(1280),
                height: capture.height.unwrap_or(720),
                fps: capture.fps.unwrap_or(Rational { num: 60, den: 1 }),
                live,
                // Without a rate a lossless pattern is as fast as who reads it.
                held_back: capture.fps.is_some(),
                resume_pos: predecessor.position,
            };
            return Ok(Some(Box::new(PatternSource::new(&options).map_err(failed)?)));
        }
        Configured::File => {
            let path = capture.path.as_deref().unwrap_or(Path::new("-")).to_string_lossy();
            let raw = match (capture.format, capture.width, capture.height, capture.fps) {
                (Some(pixel_format), Some(width), Some(height), fps) => {
                    Some(RawGeometry { pixel_format, width, height, fps: fps.unwrap_or(Rational { num: 60, den: 1 }) })
                }
                _ => None,
            };
            let options = FileOptions {
                live,
                looped: capture.repeat,
                raw,
                fps: capture.fps,
                colour: None,
                resume_pos: predecessor.position,
                known_header: &predecessor.header,
            };
            match file::open(&path, &options, stop).map_err(failed)? {
                Some(source) => source,
                None => return Ok(None),
            }
        }
        other => {
            let text = format!(
                "capture.source = \"{}\" is not in this build; use \"pattern\" or \"file\" (a pipe from FFmpeg into \
                 path = \"-\" captures anything)",
                other.name()
            );
            return Err(Failure::new(Exit::Unavailable, text));
        }
    };
    Ok(Some(if capture.barcode { Box::new(crate::barcode::Burned::new(source)) } else { source }))
}
