//! A ring as a candidate sees it before it holds its lease: enough to make ready for what will come, without
//! taking part. Nothing here writes to the ring, and all that is read is a hint until the lease is held.
#![expect(unsafe_code, reason = "copies a frame that its producer may still write")]

use crate::attach::{Content, attach};
use crate::control::Requests;
use crate::descriptor::{FrameHead, StreamFormat, decode_format, decode_head};
use crate::error::ObjectError;
use crate::fdpass;
use crate::layout::FORMAT_WORDS;
use crate::lease::LeaseTable;
use crate::names;
use crate::output::read_pool_entry;
use crate::pool::{Pool, PoolDirectory, PoolKind, PoolSpec};
use crate::ring::ControlRef;
use crate::segment::Access;
use crate::slot::Key;
use crate::sync::Ordering;
use std::path::Path;
use std::sync::Arc;

/// A ring looked at.
pub struct Preview {
    control: ControlRef,
    ring_uid: u32,
}

impl Preview {
    /// Looks at the ring that `kernel` (as "process.main") writes.
    ///
    /// # Errors
    /// [`ObjectError::Missing`] while there is none, [`ObjectError::Mismatch`] for a ring of another ABI.
    pub fn open(instance: &str, kernel: &str) -> Result<Preview, ObjectError> {
        let control = attach(&names::ring(instance, kernel))?.control;
        let ring_uid = control.identity.ring_uid.load(Ordering::Relaxed) as u32;
        Ok(Preview { control, ring_uid })
    }

    /// The frame published last, by its key; `None` before the first.
    pub fn newest(&self) -> Option<FrameHead> {
        let last = self.control.last_key();
        let slots = 0..self.control.slot_count();
        let slot = slots.into_iter().find(|slot| last != Key::NONE && self.control.key(*slot) == last)?;
        Some(decode_head(&std::array::from_fn(|word| self.control.word(slot, word))))
    }

    /// The format of the frame published last.
    pub fn format(&self) -> Option<StreamFormat> {
        let entry = self.control.formats.get(usize::from(self.newest()?.format_index))?;
        let words: [u64; FORMAT_WORDS] = std::array::from_fn(|word| entry[word].load(Ordering::Relaxed));
        decode_format(&words).ok()
    }

    /// The bitrate asked for last of the encoder that writes this ring, kbit/s.
    pub fn last_bitrate_kbps(&self) -> Option<u32> {
        Requests::new(&self.control.control).last_bitrate_kbps()
    }

    /// Maps every pool that this ring names into `directory`, all pages, and forgets those that are
    /// gone or that it names no more. The kernel that is to write the ring (`own`) maps its newest pool for writing; a
    /// consumer maps all for reading. A pool that cannot be had now is had later, when a frame lies in it.
    pub fn map_pools(&self, own: bool, table: &LeaseTable, directory: &PoolDirectory, runtime_dir: &Path) {
        let mut named: Vec<PoolSpec> = self.control.pools.iter().filter_map(read_pool_entry).collect();
        if own {
            named.retain(|spec| spec.ring_uid == self.ring_uid);
            named.sort_by_key(|spec| spec.generation);
            named.drain(..named.len().saturating_sub(1));
        }
        let access = if own { Access::Write } else { Access::Read };
        let pixels = self.control.identity.content.load(Ordering::Relaxed) == Content::Pixels as u64;
        let content = if pixels { Content::Pixels } else { Content::AccessUnits };
        let foreign = |pool: &Pool| pool.spec().ring_uid != self.ring_uid;
        directory.retain(|pool| pool.is_current() && (foreign(pool) || named.contains(pool.spec())));
        for spec in named.iter().filter(|spec| directory.find_current(spec).is_none()) {
            directory.remove(spec.ring_uid, spec.generation);
            if let Some(pool) = map(spec, access, table, runtime_dir) {
                pool.populate(access, content);
                directory.add(Arc::new(pool));
            }
        }
    }

    /// A private copy of the bytes of the frame published last. Its producer may be writing the next one into
    /// the same buffer: good for warming up and for nothing that anybody is to see.
    pub fn copy_newest(&self, directory: &PoolDirectory) -> Option<Vec<u8>> {
        let at = self.newest()?.buffer;
        let pool = directory.find(at.ring_uid, at.generation)?;
        let (base, len) = pool.extent(&at)?;
        let mut bytes = vec![0u8; len];
        // SAFETY: `extent` checked that the bytes lie within the mapping, which `pool` keeps; the copy is ours and
        // cannot overlap it. A concurrent write spoils pixels of a private frame only.
        unsafe { std::ptr::copy_nonoverlapping(base.as_ptr().cast_const(), bytes.as_mut_ptr(), len) };
        Some(bytes)
    }
}

fn map(spec: &PoolSpec, access: Access, table: &LeaseTable, runtime_dir: &Path) -> Option<Pool> {
    if spec.kind == PoolKind::PosixShm {
        return Pool::open(spec.clone(), access).ok();
    }
    table
        .kernels()
        .iter()
        .filter(|kernel| kernel.held)
        .find_map(|peer| fdpass::request(&fdpass::socket_path(runtime_dir, &peer.kernel), spec, access).ok().flatten())
}
