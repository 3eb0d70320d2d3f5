//! Private frames: memory that begins on a page, with the layout that every encoder takes.
#![expect(unsafe_code, reason = "a run of pages as the bytes it consists of")]

use shm_protocol::frame::BUFFER_ALIGN;

/// One page. Its alignment is that of every frame in the rings.
#[derive(Clone, Copy)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

/// A buffer for one frame.
pub(crate) struct Buffer(Vec<Page>);

impl Buffer {
    /// Zeros, at least `bytes` of them.
    pub(crate) fn new(bytes: u64) -> Buffer {
        Buffer(vec![Page([0; 4096]); bytes.div_ceil(BUFFER_ALIGN) as usize])
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        // SAFETY: pages are arrays of bytes without gaps, one behind the other in the vector.
        unsafe { std::slice::from_raw_parts(self.0.as_ptr().cast(), size_of_val(self.0.as_slice())) }
    }

    pub(crate) fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above, and `&mut self` makes the view the only one.
        unsafe { std::slice::from_raw_parts_mut(self.0.as_mut_ptr().cast(), size_of_val(self.0.as_slice())) }
    }
}

const _: () = assert!(size_of::<Page>() as u64 == BUFFER_ALIGN && align_of::<Page>() as u64 == BUFFER_ALIGN);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_begins_on_a_page_and_holds_whole_ones() {
        let mut buffer = Buffer::new(4097);
        assert_eq!(buffer.bytes().as_ptr() as usize % 4096, 0);
        assert_eq!(buffer.bytes().len(), 8192);
        buffer.bytes_mut()[8191] = 7;
        assert_eq!(buffer.bytes()[8191], 7);
        assert_eq!(Buffer::new(0).bytes().len(), 0);
    }
}
