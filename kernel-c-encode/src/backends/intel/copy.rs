//! One copy of a plane into memory that this CPU will not read again: non-temporal stores leave the caches to those
//! who need them, and reach write-combined device memory in whole lines.
#![expect(unsafe_code, reason = "copies pixels between raw pointers with vector stores")]

/// Rows to copy.
#[derive(Debug, Clone, Copy)]
pub struct Plane {
    /// First byte of the source.
    pub from: *const u8,
    /// Bytes from a row of the source to the next.
    pub from_stride: usize,
    /// First byte of the destination.
    pub to: *mut u8,
    /// Bytes from a row of the destination to the next.
    pub to_stride: usize,
    /// Bytes of a row.
    pub row_bytes: usize,
    /// Rows.
    pub rows: usize,
}

/// Copies a plane and returns how many bytes that were. When it returns, the bytes are visible to whoever is told
/// afterwards.
///
/// # Safety
/// `row_bytes` bytes of each of `rows` rows are mapped and readable at `from` and writable at `to`, at their strides,
/// and do not overlap; nobody else touches the destination meanwhile. Writes to the source by another process spoil
/// pixels only.
pub unsafe fn copy_plane(plane: &Plane) -> u64 {
    for row in 0..plane.rows {
        // SAFETY: the caller promises that every row is mapped.
        let (from, to) = unsafe { (plane.from.add(row * plane.from_stride), plane.to.add(row * plane.to_stride)) };
        // SAFETY: the caller promises `row_bytes` readable and writable bytes that do not overlap.
        unsafe { copy_row(from, to, plane.row_bytes) };
    }
    fence();
    (plane.rows * plane.row_bytes) as u64
}

#[cfg(target_arch = "x86_64")]
fn fence() {
    // SAFETY: SSE is part of x86-64; the fence orders the streaming stores before what follows.
    unsafe { std::arch::x86_64::_mm_sfence() };
}

/// Copies a row: up to the first aligned byte and behind the last whole line by plain stores.
///
/// # Safety
/// `len` bytes are readable at `from` and writable at `to`, and do not overlap.
#[cfg(target_arch = "x86_64")]
unsafe fn copy_row(from: *const u8, to: *mut u8, len: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    const VECTOR: usize = size_of::<__m128i>();
    // A write-combining buffer holds a line of 64 bytes: four stores in a row fill it, so that it leaves in one
    // burst. Wider vectors change nothing: the memory is the limit.
    const LINE: usize = 4 * VECTOR;
    let head = to.align_offset(LINE).min(len);
    // SAFETY: `head` is at most `len`.
    unsafe { std::ptr::copy_nonoverlapping(from, to, head) };
    let mut at = head;
    while len - at >= LINE {
        // SAFETY: 64 bytes from `at` on lie within `len`; `to + at` is a multiple of 64; loads may be unaligned.
        unsafe {
            let source = from.add(at).cast::<__m128i>();
            let target = to.add(at).cast::<__m128i>();
            let (a, b) = (_mm_loadu_si128(source), _mm_loadu_si128(source.add(1)));
            let (c, d) = (_mm_loadu_si128(source.add(2)), _mm_loadu_si128(source.add(3)));
            _mm_stream_si128(target, a);
            _mm_stream_si128(target.add(1), b);
            _mm_stream_si128(target.add(2), c);
            _mm_stream_si128(target.add(3), d);
        }
        at += LINE;
    }
    // SAFETY: what is left of `len`.
    unsafe { std::ptr::copy_nonoverlapping(from.add(at), to.add(at), len - at) };
}

#[cfg(not(target_arch = "x86_64"))]
fn fence() {
    std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
}

/// Copies a row.
///
/// # Safety
/// `len` bytes are readable at `from` and writable at `to`, and do not overlap.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn copy_row(from: *const u8, to: *mut u8, len: usize) {
    // SAFETY: promised by the caller.
    unsafe { std::ptr::copy_nonoverlapping(from, to, len) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_of_a_row_arrives_and_no_other_is_touched() {
        let source: Vec<u8> = (0..4096u32).map(|i| (i * 31 % 251) as u8).collect();
        for (row_bytes, from_at, to_at) in [(0, 0, 0), (1, 3, 5), (63, 0, 1), (64, 1, 0), (200, 7, 13), (256, 0, 64)] {
            let mut target = vec![0xee; 4096];
            let plane = Plane {
                from: source[from_at..].as_ptr(),
                from_stride: 300,
                to: target[to_at..].as_mut_ptr(),
                to_stride: 320,
                row_bytes,
                rows: 5,
            };
            // SAFETY: five rows of at most 256 bytes at 320 bytes lie within both vectors.
            assert_eq!(unsafe { copy_plane(&plane) }, 5 * row_bytes as u64);
            for (index, &byte) in target.iter().enumerate() {
                let (row, x) = (index.wrapping_sub(to_at) / 320, index.wrapping_sub(to_at) % 320);
                let inside = index >= to_at && row < 5 && x < row_bytes;
                let expected = if inside { source[from_at + row * 300 + x] } else { 0xee };
                assert_eq!(byte, expected, "{row_bytes} bytes, byte {index}");
            }
        }
    }
}
