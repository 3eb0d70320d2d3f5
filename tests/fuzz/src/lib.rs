//! What the fuzz targets share: an input cut into numbers, and instances of the shared-memory objects that
//! clean up behind themselves.

mod instance;
pub mod ring_words;

pub use instance::{Instance, SharedFile, small_format, small_ring};

/// A fuzz input, eaten from the front. Where it ends everything reads as zero, so that every input means something.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next `count` bytes, fewer at the end.
    pub fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A block behind its length in one byte.
    pub fn block(&mut self) -> &'a [u8] {
        let count = usize::from(self.u8());
        self.take(count)
    }

    /// Up to the next occurrence of `end`, which is dropped; everything when there is none.
    pub fn until(&mut self, end: &[u8]) -> &'a [u8] {
        let at = self.0.windows(end.len()).position(|window| window == end);
        let taken = self.take(at.unwrap_or(self.0.len()));
        self.take(end.len());
        taken
    }

    fn number<const BYTES: usize>(&mut self) -> [u8; BYTES] {
        let mut bytes = [0; BYTES];
        let taken = self.take(BYTES);
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.number())
    }

    /// Two bytes, little endian.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.number())
    }

    /// Four bytes, little endian.
    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.number())
    }

    /// Eight bytes, little endian.
    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.number())
    }
}

/// Open descriptors of this process.
pub fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count)
}
