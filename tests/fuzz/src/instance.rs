//! Shared-memory objects of a fuzz target.

use shm_protocol::attach::{Content, Policy, RingSpec, RoleSpec};
use shm_protocol::frame::{Colour, PixelFormat, Rational, VideoFormat};
use shm_protocol::lease::{Candidate, Lease, LeaseTable};
use shm_protocol::names;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The objects of one instance. libFuzzer ends a process without destructors, so what a dead run left goes when the
/// next one of the same target starts.
pub struct Instance {
    /// Its name: the target and the process.
    pub name: String,
    /// A folder for its sockets.
    pub dir: PathBuf,
}

impl Instance {
    /// Objects of target `target`.
    pub fn new(target: &str) -> Instance {
        let prefix = format!("fuzz-{target}-");
        for old in names::instances().into_iter().filter(|name| name.starts_with(&prefix)) {
            // Another run of the same target may go on beside this one: its objects are in use.
            if let Ok(shm_protocol::lease::Removal::Removed(_)) = LeaseTable::remove_if_dead(&old) {
                let _ = std::fs::remove_dir_all(std::env::temp_dir().join(&old));
            }
        }
        let name = format!("{prefix}{}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir).expect("a folder for sockets");
        Instance { name, dir }
    }

    /// The lease table, joined.
    pub fn table(&self) -> Arc<LeaseTable> {
        LeaseTable::join(&self.name).expect("the lease table")
    }

    /// The lease of `kernel`, which nobody holds.
    pub fn lease(&self, kernel: &str) -> Lease {
        let candidate = Candidate::enter(&self.table(), kernel, true).expect("a candidate");
        let Ok(Ok(lease)) = candidate.try_activate() else { panic!("{kernel} is held") };
        lease.running();
        lease
    }

    /// Where an object lies.
    pub fn path(&self, object: &str) -> PathBuf {
        PathBuf::from(format!("{}/{}{object}", names::SHM_DIR, names::instance_prefix(&self.name)))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        for name in names::existing(&self.name) {
            names::unlink(&name);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// An object of `/dev/shm`, mapped for vandalism.
pub struct SharedFile {
    base: *const AtomicU64,
    len: usize,
}

impl SharedFile {
    /// Maps the whole words of `path`.
    pub fn map(path: &Path) -> SharedFile {
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("the object");
        let bytes = file.metadata().expect("its size").len() as usize;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, unmapped when this goes; accessed as atomics only.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert!(base != libc::MAP_FAILED);
        SharedFile { base: base.cast(), len: bytes / 8 }
    }

    /// Its words.
    pub fn words(&self) -> &[AtomicU64] {
        // SAFETY: `len` words are mapped as long as `self` is there.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }

    /// A copy of its words.
    pub fn copy(&self) -> Vec<u64> {
        self.words().iter().map(|word| word.load(Ordering::Relaxed)).collect()
    }

    /// Puts a copy back.
    pub fn restore(&self, copy: &[u64]) {
        for (word, value) in self.words().iter().zip(copy) {
            word.store(*value, Ordering::Relaxed);
        }
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        // SAFETY: our own mapping; `words` borrows from `self`.
        unsafe { libc::munmap(self.base.cast_mut().cast(), self.len * 8) };
    }
}

/// A small format: a frame of it is three pages.
pub fn small_format() -> VideoFormat {
    let fps = Rational { num: 60, den: 1 };
    VideoFormat::packed(PixelFormat::Nv12, 64, 32, fps, Colour::BT709_LIMITED).expect("an even size")
}

/// A ring of four slots that `kernel` writes for `reader`.
pub fn small_ring(kernel: &str, reader: &str) -> RingSpec {
    RingSpec {
        kernel: kernel.to_owned(),
        content: Content::Pixels,
        policy: Policy::Live,
        slots: 4,
        max_latency_ns: 0,
        roles: vec![RoleSpec { kernel: reader.to_owned(), required: true }],
    }
}
