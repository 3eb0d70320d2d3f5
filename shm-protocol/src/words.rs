//! A small named segment of 64-bit words for state that outlives its process: a sender's session.
#![expect(unsafe_code, reason = "a slice of atomics in shared memory")]

use crate::error::ObjectError;
use crate::segment::{Access, Segment};
use crate::sync::AtomicU64;

/// Named words, zero when made.
#[derive(Debug)]
pub struct Words {
    segment: Segment,
    count: usize,
}

impl Words {
    /// Opens the object `name`, making it with `count` zero words if there is none. Its pages are left out
    /// of core dumps: they may hold keys.
    ///
    /// # Errors
    /// [`ObjectError::Mismatch`] when it exists and is shorter; [`ObjectError::NoSpace`], [`ObjectError::System`].
    pub fn open(name: &str, count: usize) -> Result<Words, ObjectError> {
        let bytes = (count * size_of::<u64>()) as u64;
        let segment = match Segment::open(name, bytes, Access::Write) {
            Err(ObjectError::Missing { .. }) => match Segment::create(name, bytes, |_| {})? {
                Some(segment) => segment,
                None => Segment::open(name, bytes, Access::Write)?,
            },
            other => other?,
        };
        // SAFETY: advice on our own mapping; it changes no content.
        unsafe { libc::madvise(segment.base().as_ptr().cast(), segment.len(), libc::MADV_DONTDUMP) };
        Ok(Words { segment, count })
    }

    /// Whether the object was truncated behind our back.
    pub fn is_broken(&self) -> bool {
        self.segment.is_broken()
    }
}

impl std::ops::Deref for Words {
    type Target = [AtomicU64];
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `count` words are mapped (checked at open), page-aligned, and atomics.
        unsafe { std::slice::from_raw_parts(self.segment.base().as_ptr().cast::<AtomicU64>(), self.count) }
    }
}
