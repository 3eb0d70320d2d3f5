//! What a driver hands out as a coded picture: a list of segments, which is followed with care.
#![expect(unsafe_code, reason = "follows pointers of a C library")]

use super::call::Failed;
use libva_sys as va;

/// Most segments of a coded picture that are followed: one per slice and one for each header is far below.
const MAX_SEGMENTS: usize = 256;

/// Bytes of a coded picture, in pieces.
#[derive(Debug, Clone, Copy)]
pub struct Piece {
    /// First byte.
    pub from: *const u8,
    /// Bytes.
    pub len: usize,
}

/// What became of a coded picture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CodedStatus {
    /// The buffer was too small: the picture is not whole.
    pub overflow: bool,
    /// The driver says that the bytes are not to be used.
    pub bad: bool,
    /// It exceeds the bitrate or the size asked for.
    pub over_budget: bool,
}

/// Why a coded picture cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unusable {
    /// A call failed.
    Call(Failed),
    /// What the driver handed out makes no sense.
    Garbage(&'static str),
}

/// Follows the list of segments: either the only one, or `None` and all of them in `scratch`.
pub fn gather(
    first: *const va::VACodedBufferSegment,
    capacity: usize,
    scratch: &mut Vec<u8>,
) -> Result<(Option<Piece>, CodedStatus), Unusable> {
    let mut status = CodedStatus::default();
    let (mut at, mut total, mut only) = (first, 0usize, None);
    scratch.clear();
    for count in 0.. {
        if at.is_null() && count > 0 {
            break;
        }
        if at.is_null() {
            return Err(Unusable::Garbage("a mapped coded buffer at address 0"));
        }
        if count == MAX_SEGMENTS {
            return Err(Unusable::Garbage("a coded buffer whose list of segments does not end"));
        }
        if !at.is_aligned() {
            return Err(Unusable::Garbage("a segment of a coded buffer at an odd address"));
        }
        // SAFETY: not null, aligned; the driver keeps the list until the buffer is unmapped.
        let segment = unsafe { at.read() };
        let len = segment.size as usize;
        total = total.saturating_add(len);
        if total > capacity {
            return Err(Unusable::Garbage("a coded buffer that says it holds more than its size"));
        }
        if segment.buf.is_null() && len > 0 {
            return Err(Unusable::Garbage("a segment of a coded buffer at address 0"));
        }
        status.overflow |= segment.status & va::VA_CODED_BUF_STATUS_SLICE_OVERFLOW_MASK != 0;
        status.bad |= segment.status & va::VA_CODED_BUF_STATUS_BAD_BITSTREAM != 0;
        let budget = va::VA_CODED_BUF_STATUS_BITRATE_OVERFLOW | va::VA_CODED_BUF_STATUS_FRAME_SIZE_OVERFLOW;
        status.over_budget |= segment.status & budget != 0;
        let piece = Piece { from: segment.buf.cast(), len };
        at = segment.next.cast();
        match only.take() {
            None if total == len => only = Some(piece),
            before => {
                // Once and for all: what is not touched takes no memory.
                scratch.reserve(capacity - scratch.len());
                if let Some(Piece { from, len }) = before
                    && len > 0
                {
                    // SAFETY: not null, within the capacity, mapped.
                    scratch.extend_from_slice(unsafe { std::slice::from_raw_parts(from, len) });
                }
                if len > 0 {
                    // SAFETY: as above.
                    scratch.extend_from_slice(unsafe { std::slice::from_raw_parts(piece.from, len) });
                }
            }
        }
    }
    Ok((only.filter(|piece| piece.len > 0), status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(bytes: &[u8], status: u32, next: *mut va::VACodedBufferSegment) -> va::VACodedBufferSegment {
        va::VACodedBufferSegment {
            size: bytes.len() as u32,
            status,
            buf: bytes.as_ptr().cast_mut().cast(),
            next: next.cast(),
            ..Default::default()
        }
    }

    #[test]
    fn segments_are_put_together_in_order() {
        let mut scratch = Vec::new();
        let mut third = segment(b"gh", va::VA_CODED_BUF_STATUS_BITRATE_OVERFLOW, std::ptr::null_mut());
        let mut second = segment(b"def", 0, &mut third);
        let first = segment(b"abc", 0, &mut second);
        let (piece, status) = gather(&first, 8, &mut scratch).unwrap();
        assert!(piece.is_none() && status.over_budget && !status.overflow);
        assert_eq!(scratch, b"abcdefgh");
        let alone = segment(b"abc", va::VA_CODED_BUF_STATUS_SLICE_OVERFLOW_MASK, std::ptr::null_mut());
        let (piece, status) = gather(&alone, 8, &mut scratch).unwrap();
        assert_eq!((piece.unwrap().len, status.overflow), (3, true));
        let mut second = segment(b"abc", 0, std::ptr::null_mut());
        let empty = segment(b"", 0, &mut second);
        let (piece, _) = gather(&empty, 8, &mut scratch).unwrap();
        assert_eq!(piece.map_or_else(|| scratch.clone(), |_| Vec::new()), b"abc");
    }

    #[test]
    fn garbage_in_the_list_is_told_and_not_followed() {
        let mut scratch = Vec::new();
        let garbage = |first: *const va::VACodedBufferSegment, scratch: &mut Vec<u8>| {
            assert!(matches!(gather(first, 8, scratch), Err(Unusable::Garbage(_))));
        };
        garbage(std::ptr::null(), &mut scratch);
        let too_long = segment(&[0; 9], 0, std::ptr::null_mut());
        garbage(&too_long, &mut scratch);
        let nowhere = va::VACodedBufferSegment { size: 3, ..Default::default() };
        garbage(&nowhere, &mut scratch);
        let odd = segment(b"a", 0, std::ptr::without_provenance_mut(0x1001));
        garbage(&odd, &mut scratch);
        let itself = Box::into_raw(Box::new(segment(b"", 0, std::ptr::null_mut())));
        // SAFETY: the box is ours; it points at itself now, and is let go below.
        unsafe { (*itself).next = itself.cast() };
        garbage(itself, &mut scratch);
        // SAFETY: made by `Box::into_raw` above.
        drop(unsafe { Box::from_raw(itself) });
    }
}
