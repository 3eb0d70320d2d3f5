//! A small named segment of 64-bit words for state that outlives its process: a sender's session.
#![expect(unsafe_code, reason = "a slice of atomics in shared memory")]

use crate::error::ObjectError;
use crate::names;
use crate::segment::{Access, Segment};
use crate::sync::{AtomicU64, Ordering};

/// The word that in every session, of whichever version, is zero until something was sent.
pub const BEGUN_WORD: usize = 16;

/// Named words, zero when made.
#[derive(Debug)]
pub struct Words {
    segment: Segment,
    count: usize,
}

/// Whether a sender of `instance` has sent anything, as far as the sessions show that still are there.
pub(crate) fn has_begun(instance: &str) -> bool {
    let begun = |name: String| {
        let words = Segment::open(&name, ((BEGUN_WORD + 1) * size_of::<u64>()) as u64, Access::Read).ok()?;
        let at = words.base().cast::<AtomicU64>();
        // SAFETY: more than BEGUN_WORD words are mapped, page-aligned, and atomics are read only.
        (unsafe { at.add(BEGUN_WORD).as_ref() }.load(Ordering::Relaxed) != 0).then_some(())
    };
    names::existing(instance)
        .into_iter()
        .filter(|name| name.ends_with(names::SESSION_SUFFIX))
        .any(|n| begun(n).is_some())
}

impl Words {
    /// Opens the object `name`, making it with `count` zero words if there is none or if somebody truncated it.
    /// Its pages are left out of core dumps: they may hold keys. Only the holder of the kernel's lease may call this.
    ///
    /// # Errors
    /// [`ObjectError::NoSpace`], [`ObjectError::Mismatch`] for an object of another user, [`ObjectError::System`].
    pub fn open(name: &str, count: usize) -> Result<Words, ObjectError> {
        let bytes = (count * size_of::<u64>()) as u64;
        let segment = match Segment::open_whole(name, bytes, Access::Write) {
            Err(ObjectError::Missing { .. }) => Self::create(name, bytes)?,
            Err(ObjectError::Damaged { .. }) => {
                names::unlink(name);
                Self::create(name, bytes)?
            }
            other => other?,
        };
        // SAFETY: advice on our own mapping; it changes no content.
        unsafe { libc::madvise(segment.base().as_ptr().cast(), segment.len(), libc::MADV_DONTDUMP) };
        Ok(Words { segment, count })
    }

    fn create(name: &str, bytes: u64) -> Result<Segment, ObjectError> {
        match Segment::create(name, bytes, |_| {})? {
            Some(segment) => Ok(segment),
            None => Segment::open_whole(name, bytes, Access::Write),
        }
    }

    /// The object's name.
    pub fn name(&self) -> &str {
        self.segment.name()
    }

    /// Whether a successor would find these words: the object still has its name and its length.
    ///
    /// # Errors
    /// [`ObjectError::Damaged`]: somebody removed or truncated it.
    pub fn check(&self) -> Result<(), ObjectError> {
        let what = match (self.segment.is_linked(), self.segment.is_whole()) {
            (true, true) => return Ok(()),
            (false, _) => "it was removed while in use",
            (true, false) => "it was truncated while in use",
        };
        Err(ObjectError::Damaged { name: self.segment.name().to_owned(), what: what.to_owned() })
    }
}

impl std::ops::Deref for Words {
    type Target = [AtomicU64];
    fn deref(&self) -> &[AtomicU64] {
        // SAFETY: `count` words are mapped (checked at open), page-aligned, and atomics.
        unsafe { std::slice::from_raw_parts(self.segment.base().as_ptr().cast::<AtomicU64>(), self.count) }
    }
}
