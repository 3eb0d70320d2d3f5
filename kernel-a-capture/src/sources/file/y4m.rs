//! The Y4M container (yuv4mpeg(5) of mjpegtools): one text line for the stream, one before each frame.

use super::{NAME, default_colour};
use crate::error::SourceError;
use shm_protocol::frame::{ChromaSiting, Colour, FieldOrder, PixelFormat, Range, Rational, VideoFormat};

/// What a stream begins with.
pub const SIGNATURE: &[u8] = b"YUV4MPEG2 ";
/// What a frame begins with.
pub const FRAME: &[u8] = b"FRAME";
/// Longest stream header taken. mjpegtools ends at 256; comments of other writers may go beyond.
pub const HEADER_MAX_BYTES: usize = 1024;
/// Longest FRAME line taken: mjpegtools' own limit.
pub const FRAME_LINE_MAX_BYTES: usize = 256;
/// Characters of an offending token that an error shows.
const SHOWN: usize = 40;

/// What a stream header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Y4mHeader {
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
    /// Frame rate, when named.
    pub fps: Option<Rational>,
    /// Field order.
    pub field_order: FieldOrder,
    /// Chroma siting: C420jpeg centre, C420mpeg2 left, C420paldv top left.
    pub siting: ChromaSiting,
    /// Range, when named by XCOLORRANGE.
    pub range: Option<Range>,
}

/// The first bytes of something, for an error message.
pub(super) fn shown(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(SHOWN)].escape_ascii().to_string()
}

impl Y4mHeader {
    /// Reads a header line, without its newline. `path` is for the messages.
    ///
    /// # Errors
    /// [`SourceError::Y4mHeader`] with the token that is broken or not supported.
    pub fn parse(path: &str, line: &[u8]) -> Result<Y4mHeader, SourceError> {
        let refuse = |offset: usize, token: &[u8], allowed| {
            Err(SourceError::Y4mHeader { path: path.to_owned(), offset: offset as u64, found: shown(token), allowed })
        };
        if line.len() >= HEADER_MAX_BYTES {
            return refuse(0, line, "a header of at most 1024 bytes");
        }
        if !line.starts_with(SIGNATURE) {
            return refuse(0, line, "YUV4MPEG2 and a space");
        }
        let (mut width, mut height) = (None, None);
        let mut header = Y4mHeader {
            width: 0,
            height: 0,
            fps: None,
            field_order: FieldOrder::Progressive,
            siting: ChromaSiting::Center,
            range: None,
        };
        let mut offset = SIGNATURE.len();
        for token in line[SIGNATURE.len()..].split(|byte| *byte == b' ') {
            let at = offset;
            offset += token.len() + 1;
            let Some((tag, value)) = token.split_first() else { continue };
            match tag {
                b'W' | b'H' => match number(value) {
                    Some(side) if side > 0 && side <= shm_protocol::frame::MAX_SIDE && side % 2 == 0 => {
                        *(if *tag == b'W' { &mut width } else { &mut height }) = Some(side);
                    }
                    _ => return refuse(at, token, "an even number from 2 to 16384"),
                },
                b'F' => match ratio(value) {
                    Some((0, 0)) => header.fps = None,
                    Some((num, den)) if num > 0 && den > 0 => header.fps = Rational::new(num, den),
                    _ => return refuse(at, token, "two positive numbers, as in F30000:1001, or F0:0 for unknown"),
                },
                b'I' => match value {
                    b"p" | b"?" => header.field_order = FieldOrder::Progressive,
                    b"t" => header.field_order = FieldOrder::TopFirst,
                    b"b" => header.field_order = FieldOrder::BottomFirst,
                    _ => return refuse(at, token, "Ip, It, Ib or I? (mixed field orders are not supported)"),
                },
                b'A' => {
                    if ratio(value).is_none() {
                        return refuse(at, token, "two numbers, as in A1:1");
                    }
                }
                b'C' => match value {
                    b"420jpeg" | b"420" => header.siting = ChromaSiting::Center,
                    b"420mpeg2" => header.siting = ChromaSiting::Left,
                    b"420paldv" => header.siting = ChromaSiting::TopLeft,
                    _ => {
                        return refuse(at, token, "C420jpeg, C420mpeg2, C420paldv or C420 (8-bit 4:2:0)");
                    }
                },
                b'X' => match value {
                    b"COLORRANGE=FULL" => header.range = Some(Range::Full),
                    b"COLORRANGE=LIMITED" => header.range = Some(Range::Limited),
                    _ => {}
                },
                _ => return refuse(at, token, "the tags W, H, F, I, A, C and X"),
            }
        }
        let (Some(width), Some(height)) = (width, height) else {
            return refuse(SIGNATURE.len(), &line[SIGNATURE.len()..], "a header with both W and H");
        };
        Ok(Y4mHeader { width, height, ..header })
    }

    /// As a header line of its own, without newline, below 256 bytes: what a successor is given.
    pub fn to_line(&self) -> String {
        let fps = self.fps.map_or_else(|| "0:0".to_owned(), |fps| format!("{}:{}", fps.num, fps.den));
        let interlacing = match self.field_order {
            FieldOrder::Progressive => 'p',
            FieldOrder::TopFirst => 't',
            FieldOrder::BottomFirst => 'b',
        };
        let chroma = match self.siting {
            ChromaSiting::Center => "420jpeg",
            ChromaSiting::Left => "420mpeg2",
            ChromaSiting::TopLeft => "420paldv",
        };
        let range = match self.range {
            None => "",
            Some(Range::Limited) => " XCOLORRANGE=LIMITED",
            Some(Range::Full) => " XCOLORRANGE=FULL",
        };
        format!("YUV4MPEG2 W{} H{} F{fps} I{interlacing} C{chroma}{range}", self.width, self.height)
    }

    /// The format of its frames: i420. `fps` and `colour` serve where the header is silent.
    ///
    /// # Errors
    /// [`SourceError::NoFrameRate`], [`SourceError::Format`].
    pub fn format(
        &self,
        path: &str,
        fps: Option<Rational>,
        colour: Option<Colour>,
    ) -> Result<VideoFormat, SourceError> {
        let fps = self.fps.or(fps).ok_or_else(|| SourceError::NoFrameRate { path: path.to_owned() })?;
        let mut stated = colour.unwrap_or_else(|| default_colour(PixelFormat::I420, self.width, self.height));
        if colour.is_none() {
            stated.siting = self.siting;
        }
        if let Some(range) = self.range {
            stated.range = range;
        }
        let format = VideoFormat::packed(PixelFormat::I420, self.width, self.height, fps, stated)
            .map_err(|source| SourceError::Format { name: NAME, source })?;
        Ok(VideoFormat { field_order: self.field_order, ..format })
    }
}

/// Decimal digits only, no sign.
fn number(text: &[u8]) -> Option<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

fn ratio(text: &[u8]) -> Option<(u32, u32)> {
    let colon = text.iter().position(|byte| *byte == b':')?;
    Some((number(&text[..colon])?, number(&text[colon + 1..])?))
}
