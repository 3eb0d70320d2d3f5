//! A view of an access unit that lies in memory another process may still write.
#![expect(unsafe_code, reason = "reads shared memory by raw pointer: a Rust slice over it would be unsound")]

use std::marker::PhantomData;

/// Bytes copied at a time when a whole access unit is read. Half of a 32 KiB first-level cache, so that the copy is
/// still there when the check sum and the start-code search read it.
const CHUNK_BYTES: usize = 16 * 1024;

/// The bytes of one access unit, readable for `'a`. They are only ever copied out or handed on as raw pointers:
/// a dishonest producer can spoil what is read, never what memory is read.
#[derive(Debug, Clone, Copy)]
pub struct AuView<'a> {
    ptr: *const u8,
    len: u32,
    _memory: PhantomData<&'a [std::cell::Cell<u8>]>,
}

impl<'a> AuView<'a> {
    /// A view of `len` bytes at `ptr`.
    ///
    /// # Safety
    /// `ptr..ptr + len` must stay mapped and readable for `'a`. Other processes may write there.
    pub const unsafe fn new(ptr: *const u8, len: u32) -> AuView<'a> {
        AuView { ptr, len, _memory: PhantomData }
    }

    /// A view of memory that nobody else writes.
    ///
    /// # Panics
    /// When the slice is longer than 4 GiB - 1.
    pub fn of(bytes: &'a [u8]) -> AuView<'a> {
        assert!(bytes.len() <= u32::MAX as usize, "An access unit has at most 2^32 - 1 bytes");
        AuView { ptr: bytes.as_ptr(), len: bytes.len() as u32, _memory: PhantomData }
    }

    /// Length, bytes.
    pub const fn len(&self) -> u32 {
        self.len
    }

    /// Whether it has no bytes.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The byte at `offset`, or `None` behind the end.
    pub fn byte(&self, offset: u32) -> Option<u8> {
        if offset >= self.len {
            return None;
        }
        // SAFETY: offset < len, and the constructor's caller keeps ptr..ptr+len readable. Volatile: the byte may
        // change under us and must be read once.
        Some(unsafe { self.ptr.add(offset as usize).read_volatile() })
    }

    /// Copies from `offset` into `to`; returns how many bytes there were (fewer than `to.len()` at the end).
    pub fn copy_to(&self, offset: u32, to: &mut [u8]) -> usize {
        let left = self.len.saturating_sub(offset) as usize;
        let count = left.min(to.len());
        if count > 0 {
            // SAFETY: offset + count <= len (count <= len - offset), the source is readable by the constructor's
            // contract, and `to` is our own exclusive memory, so the two do not overlap.
            unsafe { std::ptr::copy_nonoverlapping(self.ptr.add(offset as usize), to.as_mut_ptr(), count) };
        }
        count
    }

    /// Address and length of a part, for the system call that reads it; `None` when it reaches behind the end.
    pub fn part(&self, offset: u32, len: u32) -> Option<(*const u8, u32)> {
        let end = offset.checked_add(len)?;
        if end > self.len {
            return None;
        }
        // `wrapping_add` needs no proof; the result lies inside the view, as checked above.
        Some((self.ptr.wrapping_add(offset as usize), len))
    }

    /// Calls `each(offset, bytes)` for private copies of consecutive parts of the whole access unit. Every byte of
    /// shared memory is read once.
    pub fn for_each_chunk(&self, mut each: impl FnMut(u32, &[u8])) {
        let mut chunk = [0u8; CHUNK_BYTES];
        let mut offset = 0;
        while offset < self.len {
            let count = self.copy_to(offset, &mut chunk);
            each(offset, &chunk[..count]);
            offset += count as u32;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stay_inside_the_view() {
        let bytes = [1u8, 2, 3];
        let au = AuView::of(&bytes);
        assert_eq!(au.byte(2), Some(3));
        assert_eq!(au.byte(3), None);
        assert_eq!(au.byte(u32::MAX), None);
        let mut to = [0u8; 8];
        assert_eq!(au.copy_to(1, &mut to), 2);
        assert_eq!(to[..3], [2, 3, 0]);
        assert_eq!(au.copy_to(u32::MAX, &mut to), 0);
        assert!(au.part(1, 2).is_some());
        assert!(au.part(1, 3).is_none());
        assert!(au.part(u32::MAX, 2).is_none());
    }

    #[test]
    fn chunks_cover_every_byte_once_in_order() {
        let bytes: Vec<u8> = (0..CHUNK_BYTES * 2 + 7).map(|i| (i * 31) as u8).collect();
        let mut seen = Vec::new();
        AuView::of(&bytes).for_each_chunk(|offset, part| {
            assert_eq!(offset as usize, seen.len());
            seen.extend_from_slice(part);
        });
        assert_eq!(seen, bytes);
    }
}
