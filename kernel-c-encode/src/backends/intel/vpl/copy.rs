//! Rows of pixels into memory that the CPU only writes: non-temporal stores, which go past the caches.
#![expect(unsafe_code, reason = "copies between mapped buffers through raw pointers")]

/// Copies `rows` rows of `row_bytes` bytes and repeats the last one until `padded_rows` are written.
///
/// # Safety
/// `rows` rows of `row_bytes` bytes, `from_stride` apart, are readable at `from`, and `padded_rows` rows, `to_stride`
/// apart, writable at `to`; both regions are apart from each other. `rows` is at least 1.
pub unsafe fn rows(
    (from, from_stride): (*const u8, usize),
    (to, to_stride): (*mut u8, usize),
    row_bytes: usize,
    rows: usize,
    padded_rows: usize,
) {
    for y in 0..padded_rows.max(rows) {
        let source = y.min(rows - 1);
        // SAFETY: both rows lie in their regions (by the caller).
        unsafe { row(from.add(source * from_stride), to.add(y * to_stride), row_bytes) };
    }
    fence();
}

/// Bytes of one streaming store.
#[cfg(target_arch = "x86_64")]
const STORE_BYTES: usize = 16;

/// # Safety
/// `bytes` bytes are readable at `from` and writable at `to`.
#[cfg(target_arch = "x86_64")]
unsafe fn row(from: *const u8, to: *mut u8, bytes: usize) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_stream_si128};
    // A streaming store needs an aligned place: the bytes before it are copied plainly.
    let head = to.align_offset(STORE_BYTES).min(bytes);
    let stores = (bytes - head) / STORE_BYTES;
    let tail = head + stores * STORE_BYTES;
    // SAFETY: head + stores × 16 + rest = bytes, all within both rows; the stores are aligned by `head`. SSE2 is part
    // of every x86-64.
    unsafe {
        std::ptr::copy_nonoverlapping(from, to, head);
        for index in 0..stores {
            let at = head + index * STORE_BYTES;
            let value = _mm_loadu_si128(from.add(at).cast::<__m128i>());
            _mm_stream_si128(to.add(at).cast::<__m128i>(), value);
        }
        std::ptr::copy_nonoverlapping(from.add(tail), to.add(tail), bytes - tail);
    }
}

/// # Safety
/// `bytes` bytes are readable at `from` and writable at `to`.
#[cfg(not(target_arch = "x86_64"))]
unsafe fn row(from: *const u8, to: *mut u8, bytes: usize) {
    // SAFETY: by the caller.
    unsafe { std::ptr::copy_nonoverlapping(from, to, bytes) };
}

/// Streaming stores are weakly ordered: they are made visible before the device is told.
fn fence() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: SSE is part of every x86-64.
    unsafe {
        std::arch::x86_64::_mm_sfence();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_copied_whole_at_every_alignment_and_the_last_is_repeated() {
        let source: Vec<u8> = (0..200 * 8).map(|i| (i % 251) as u8).collect();
        for (shift, row_bytes) in [(0, 128), (1, 77), (15, 16), (7, 3)] {
            let mut target = vec![0xee; 200 * 8 + 16];
            // SAFETY: 5 rows 200 apart lie in the source, 7 in the target.
            unsafe { rows((source.as_ptr(), 200), (target.as_mut_ptr().add(shift), 200), row_bytes, 5, 7) };
            for y in 0..7 {
                let from = y.min(4) * 200;
                let to = shift + y * 200;
                assert_eq!(target[to..to + row_bytes], source[from..from + row_bytes], "row {y} at {shift}");
                assert_eq!(target[to + row_bytes], 0xee, "nothing beyond the row is written");
            }
        }
    }
}
