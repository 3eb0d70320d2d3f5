//! The producer's pool: reused across restarts when kind and geometry are equal, a new generation otherwise.

use super::Producer;
use crate::attach::{Content, store_text};
use crate::error::ObjectError;
use crate::fdpass;
use crate::frame::BUFFER_ALIGN;
use crate::layout::{MAX_POOLS, POOL_WORDS, pool_word};
use crate::names;
use crate::pool::{Pool, PoolKind, PoolSpec};
use crate::ring::ControlRef;
use crate::segment::Access;
use crate::sync::{AtomicU64, Ordering};
use std::path::Path;
use std::sync::Arc;

/// A pool entry of a ring, copied out and decoded.
pub(crate) fn read_entry(entry: &[AtomicU64; POOL_WORDS]) -> Option<PoolSpec> {
    // SYNC: object-ready (acquire side): the id is written last.
    let id = entry[pool_word::ID].load(Ordering::Acquire);
    if id == 0 {
        return None;
    }
    let name = crate::attach::load_text(&entry[pool_word::NAME..]);
    // It becomes part of a path: a name with a slash would be a file elsewhere.
    names::check_kernel(&name).ok()?;
    Some(PoolSpec {
        ring_uid: (id >> 32) as u32,
        generation: id as u32,
        kind: PoolKind::from_code(entry[pool_word::KIND].load(Ordering::Relaxed))?,
        buffers: entry[pool_word::BUFFERS].load(Ordering::Relaxed) as u32,
        buffer_bytes: entry[pool_word::BUFFER_BYTES].load(Ordering::Relaxed),
        name,
    })
}

fn write_entry(entry: &[AtomicU64; POOL_WORDS], spec: &PoolSpec) {
    crate::crash::crash_point!((), "pool entry: before it is withdrawn");
    entry[pool_word::ID].store(0, Ordering::Release);
    crate::crash::crash_point!((), "pool entry: before its content");
    entry[pool_word::KIND].store(spec.kind as u64, Ordering::Relaxed);
    entry[pool_word::BUFFERS].store(u64::from(spec.buffers), Ordering::Relaxed);
    entry[pool_word::BUFFER_BYTES].store(spec.buffer_bytes, Ordering::Relaxed);
    store_text(&entry[pool_word::NAME..], &spec.name);
    crate::crash::crash_point!((), "pool entry: before its id");
    // SYNC: object-ready (release side)
    entry[pool_word::ID].store(u64::from(spec.ring_uid) << 32 | u64::from(spec.generation), Ordering::Release);
}

/// The entry for a pool in a ring's table.
pub(crate) fn find_entry(control: &ControlRef, ring_uid: u32, generation: u32) -> Option<PoolSpec> {
    control.pools.iter().filter_map(read_entry).find(|s| s.ring_uid == ring_uid && s.generation == generation)
}

impl Producer {
    /// Gives the ring a pool of its own with buffers of at least `bytes`. A predecessor's pool of the same
    /// kind and geometry is mapped again (populating a new one can cost a quarter of a second); its
    /// memfd is asked of every kernel in `runtime_dir` that may have it mapped.
    ///
    /// # Errors
    /// As [`Pool::create`].
    pub fn set_pool(&mut self, kind: PoolKind, bytes: u64, runtime_dir: &Path) -> Result<bool, ObjectError> {
        let buffer_bytes = bytes.max(1).next_multiple_of(BUFFER_ALIGN);
        let buffers = self.slots() as u32;
        if let Some(pool) = &self.pool
            && (pool.spec().kind, pool.spec().buffer_bytes) == (kind, buffer_bytes)
        {
            return Ok(true);
        }
        let own = |s: &PoolSpec| s.ring_uid == self.ring_uid;
        let newest = self.core.control.pools.iter().filter_map(read_entry).filter(own).max_by_key(|s| s.generation);
        if let Some(spec) = &newest
            && (spec.kind, spec.buffers, spec.buffer_bytes) == (kind, buffers, buffer_bytes)
            // Mapped while this process waited for its lease, if it did; always for writing, being this kernel's.
            && let Some(pool) =
                self.directory.find_current(spec).or_else(|| self.reopen(spec, runtime_dir).map(Arc::new))
        {
            self.adopt(pool);
            return Ok(true);
        }
        let generation = newest.map_or_else(|| self.after_strays(), |s| s.generation.wrapping_add(1).max(1));
        let name = names::pool(&self.instance, &self.spec.kernel, generation);
        let spec = PoolSpec { ring_uid: self.ring_uid, generation, kind, buffers, buffer_bytes, name };
        let pool = Pool::create(spec)?;
        pool.populate(Access::Write, self.spec.content);
        crate::crash::crash_point!((), "pool: before it is entered");
        self.name_pool(pool.spec())?;
        let pool = Arc::new(pool);
        if self.spec.content == Content::Pixels {
            Pool::collapse_in_background(&pool);
        }
        self.adopt(pool);
        crate::crash::crash_point!((), "pool: done");
        Ok(false)
    }

    /// The first generation of a new ring. Pools of the ring that had its name before (it was damaged from outside,
    /// and its table with it) lose their names: nobody can look them up any more. Theirs are not used again, for who
    /// still reads a frame by reference has them mapped as what they were.
    fn after_strays(&self) -> u32 {
        let prefix = names::pool_prefix(&self.instance, &self.spec.kernel);
        let strays = names::existing(&self.instance).into_iter();
        let strays = strays.filter_map(|name| Some((name.strip_prefix(&prefix)?.parse::<u32>().ok()?, name)));
        strays.inspect(|(_, name)| names::unlink(name)).map(|(generation, _)| generation).max().map_or(1, |g| g + 1)
    }

    fn adopt(&mut self, pool: Arc<Pool>) {
        self.directory.remove(pool.spec().ring_uid, pool.spec().generation);
        self.directory.add_own(Arc::clone(&pool));
        self.pool = Some(pool);
    }

    fn reopen(&self, spec: &PoolSpec, runtime_dir: &Path) -> Option<Pool> {
        if spec.kind == PoolKind::PosixShm {
            return Pool::open(spec.clone(), Access::Write).ok();
        }
        self.table.kernels().iter().filter(|k| k.held && k.kernel != self.spec.kernel).find_map(|peer| {
            // As in `Consumer::pool`: stopped ones take their time.
            self.pulse.beat();
            fdpass::request(&fdpass::socket_path(runtime_dir, &peer.kernel), spec, Access::Write).ok().flatten()
        })
    }

    /// Enters a pool in the ring's table: its own, or one of another ring whose buffers it passes on.
    ///
    /// # Errors
    /// [`ObjectError::TableFull`] when every entry is still mentioned by a slot.
    pub fn name_pool(&mut self, spec: &PoolSpec) -> Result<(), ObjectError> {
        let table = &self.core.control.pools;
        if find_entry(&self.core.control, spec.ring_uid, spec.generation).is_some_and(|known| known == *spec) {
            return Ok(());
        }
        // The pool in use is not always mentioned by a slot, and generations are counted on from it.
        let own = |s: &PoolSpec| s.ring_uid == self.ring_uid;
        let newest_own = table.iter().filter_map(read_entry).filter(own).map(|s| s.generation).max();
        let mentioned = |s: &PoolSpec| {
            let id = u64::from(s.ring_uid) << 32 | u64::from(s.generation);
            newest_own == Some(s.generation) && s.ring_uid == self.ring_uid
                || (0..self.slots()).any(|slot| {
                    self.core.control.load_state(slot).is_ready()
                        && self.core.control.word(slot, crate::layout::slot_word::POOL) == id
                })
        };
        let same = |s: &PoolSpec| (s.ring_uid, s.generation) == (spec.ring_uid, spec.generation);
        let index = (0..MAX_POOLS)
            .find(|i| read_entry(&table[*i]).is_none_or(|s| same(&s)))
            .or_else(|| (0..MAX_POOLS).find(|i| read_entry(&table[*i]).is_none_or(|s| !mentioned(&s))))
            .ok_or_else(|| ObjectError::TableFull {
                table: "The pool table",
                name: spec.name.clone(),
                limit: MAX_POOLS,
            })?;
        // An old generation of our own goes with its entry: no slot speaks of it any more.
        if let Some(old) = read_entry(&table[index])
            && old.ring_uid == self.ring_uid
            && old.kind == PoolKind::PosixShm
            && !same(&old)
            // The table is memory that others write: only our own object may go by what it says.
            && old.name == names::pool(&self.instance, &self.spec.kernel, old.generation)
        {
            crate::crash::crash_point!((), "pool: before an old generation is unlinked");
            names::unlink(&old.name);
            self.directory.remove(old.ring_uid, old.generation);
        }
        write_entry(&table[index], spec);
        Ok(())
    }
}
