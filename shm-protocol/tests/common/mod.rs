//! What the tests that kill share: instances that clean up, forked children, the ledger of a sink, and a
//! checker of a ring's raw bytes.
#![allow(dead_code, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]
#![allow(unsafe_code, reason = "fork, waitpid and shared anonymous memory")]

use shm_protocol::attach::{Content, Policy, RingSpec, RoleSpec};
use shm_protocol::descriptor::{FrameDetails, FrameHead, StreamFormat};
use shm_protocol::frame::{Colour, PixelFormat, Rational, VideoFormat};
use shm_protocol::input::{Consumer, Taken};
use shm_protocol::lease::{Candidate, Lease, LeaseTable};
use shm_protocol::output::Producer;
use shm_protocol::pool::PoolDirectory;
use shm_protocol::slot::Key;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Objects of a test instance, removed at the end however the test ends.
pub struct Instance {
    pub name: String,
    pub dir: PathBuf,
}

impl Instance {
    pub fn new(test: &str) -> Instance {
        let name = format!("t{}-{test}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        Instance { name, dir }
    }

    pub fn table(&self) -> Arc<LeaseTable> {
        LeaseTable::join(&self.name).unwrap()
    }

    /// The lease of `kernel`, which nobody holds.
    pub fn lease(&self, kernel: &str) -> Lease {
        let Ok(lease) = Candidate::enter(&self.table(), kernel, true).unwrap().try_activate().unwrap() else {
            panic!("{kernel} is held")
        };
        lease.running();
        lease
    }

    pub fn path(&self, object: &str) -> PathBuf {
        PathBuf::from(format!("/dev/shm/quad.{}.{object}", self.name))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // By name, not by `remove_if_dead`: a failed test may have left children that still hold the byte.
        for name in shm_protocol::names::existing(&self.name) {
            shm_protocol::names::unlink(&name);
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub fn spec(kernel: &str, consumers: &[(&str, bool)], policy: Policy, slots: usize) -> RingSpec {
    RingSpec {
        kernel: kernel.to_owned(),
        content: Content::Pixels,
        policy,
        slots,
        max_latency_ns: 0,
        roles: consumers
            .iter()
            .map(|(k, required)| RoleSpec { kernel: (*k).to_owned(), required: *required })
            .collect(),
    }
}

pub fn format_of(width: u32) -> VideoFormat {
    VideoFormat::packed(PixelFormat::Nv12, width, 32, Rational { num: 60, den: 1 }, Colour::BT709_LIMITED).unwrap()
}

pub fn format() -> VideoFormat {
    format_of(64)
}

/// Publishes frame `id` of `format` with its id in the first pixels; `false`: no room.
pub fn produce(producer: &mut Producer, id: u64, format: &VideoFormat) -> bool {
    let Some(claim) = producer.claim().unwrap() else { return false };
    producer.buffer(&claim)[..8].copy_from_slice(&id.to_le_bytes());
    let buffer = producer.extent(&claim, 0, format.frame_bytes() as u32);
    let head = FrameHead { key: Key::whole(id), capture_ns: id, buffer, ..Default::default() };
    producer.publish(claim, head, &FrameDetails { source_position: id * 10, ..Default::default() }).unwrap();
    true
}

/// The id in a frame's pixels.
pub fn pixels_id(consumer: &mut Consumer, taken: &Taken) -> u64 {
    let StreamFormat::Video(format) = consumer.format(taken).unwrap() else { panic!("not video") };
    let mut row = [0u8; 256];
    consumer.pixels(taken, &format).unwrap().copy_row(0, 0, &mut row);
    u64::from_le_bytes(row[..8].try_into().unwrap())
}

pub fn directory() -> Arc<PoolDirectory> {
    Arc::default()
}

// ---- children ----------------------------------------------------------------------------------

/// How a child ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    Exit(i32),
    Signal(i32),
}

/// A forked child, killed and reaped when dropped.
pub struct Child {
    pub pid: i32,
    reaped: bool,
}

impl Child {
    /// Forks; the child runs `body` and ends with 0, or with 101 when it panics.
    pub fn spawn(body: impl FnOnce()) -> Child {
        // SAFETY: the child runs only the scenario and leaves with _exit; the other threads of the test
        // harness hold no lock but the allocator's, which fork takes care of.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork failed: {}", std::io::Error::last_os_error());
        if pid == 0 {
            // SAFETY: plain system calls on this process. With the parent gone the child goes too.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            let ok = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_ok();
            // SAFETY: ends the child without destructors or atexit handlers of the harness.
            unsafe { libc::_exit(if ok { 0 } else { 101 }) };
        }
        Child { pid, reaped: false }
    }

    pub fn signal(&self, signal: i32) {
        // SAFETY: the child was not reaped, so the pid is ours.
        unsafe { libc::kill(self.pid, signal) };
    }

    fn poll(&mut self, flags: i32) -> Option<End> {
        let mut status = 0;
        // SAFETY: waits for our own child.
        let got = unsafe { libc::waitpid(self.pid, &mut status, flags) };
        if got != self.pid {
            return None;
        }
        self.reaped = true;
        Some(if libc::WIFSIGNALED(status) {
            End::Signal(libc::WTERMSIG(status))
        } else {
            End::Exit(libc::WEXITSTATUS(status))
        })
    }

    /// Waits for the end; a child that outlives `limit` is killed and the test fails.
    pub fn join_within(mut self, limit: Duration) -> End {
        let end = Instant::now() + limit;
        let mut naps = 0;
        loop {
            if let Some(how) = self.poll(libc::WNOHANG) {
                return how;
            }
            assert!(Instant::now() < end, "child {} still runs after {limit:?}", self.pid);
            naps += 1;
            if naps < 20 {
                std::thread::yield_now();
            } else {
                std::thread::sleep(Duration::from_micros(200));
            }
        }
    }

    pub fn kill_and_join(self) -> End {
        self.signal(libc::SIGKILL);
        self.join()
    }

    pub fn join(self) -> End {
        self.join_within(Duration::from_secs(30))
    }

    /// How it ended, if it has. Asked once more, it would not know.
    pub fn ended(&mut self) -> Option<End> {
        self.poll(libc::WNOHANG)
    }

    pub fn is_running(&mut self) -> bool {
        self.poll(libc::WNOHANG).is_none()
    }

    /// Number of the system call the child sleeps in; `None` while it runs.
    pub fn system_call(&self) -> Option<i64> {
        std::fs::read_to_string(format!("/proc/{}/syscall", self.pid)).ok()?.split(' ').next()?.parse().ok()
    }

    /// Waits until the child (its main thread) sleeps in one of `calls`.
    pub fn wait_for_system_call(&self, calls: &[i64]) {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.system_call().is_some_and(|call| calls.contains(&call)) {
            assert!(Instant::now() < end, "child {} does not sleep in any of {calls:?}", self.pid);
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(libc::SIGKILL);
            self.poll(0);
        }
    }
}

// ---- memory shared by parent and children -------------------------------------------------------

/// Zeroed words that forked children share with their parent.
#[derive(Clone, Copy)]
pub struct SharedWords {
    base: *const AtomicU64,
    len: usize,
}

// SAFETY: the memory is atomics and is never unmapped.
unsafe impl Send for SharedWords {}

impl SharedWords {
    pub fn new(len: usize) -> SharedWords {
        // SAFETY: a new anonymous mapping; kept until the process ends, which is soon: it is a test.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len * 8,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        assert!(base != libc::MAP_FAILED);
        SharedWords { base: base.cast(), len }
    }

    /// First byte, for those who bring their own locks.
    pub fn base_ptr(&self) -> *mut u8 {
        self.base.cast_mut().cast()
    }

    pub fn all(&self) -> &[AtomicU64] {
        // SAFETY: `len` words are mapped for the life of the process.
        unsafe { std::slice::from_raw_parts(self.base, self.len) }
    }

    pub fn get(&self, index: usize) -> u64 {
        self.all()[index].load(Ordering::SeqCst)
    }

    pub fn set(&self, index: usize, value: u64) {
        self.all()[index].store(value, Ordering::SeqCst);
    }

    pub fn clear(&self) {
        self.all().iter().for_each(|word| word.store(0, Ordering::SeqCst));
    }

    /// Waits until word `index` is at least `value`.
    pub fn wait_for(&self, index: usize, value: u64) {
        let end = Instant::now() + Duration::from_secs(20);
        while self.get(index) < value {
            assert!(Instant::now() < end, "word {index} is {} and not {value}", self.get(index));
            std::thread::sleep(Duration::from_micros(100));
        }
    }
}

/// A file in `/dev/shm`, mapped for reading and for vandalism.
pub struct SharedFile(SharedWords);

impl SharedFile {
    pub fn map(path: &std::path::Path, bytes: usize) -> SharedFile {
        use std::os::fd::AsRawFd;
        let file = std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap();
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, unmapped when this goes; accessed as atomics only.
        let base =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        assert!(base != libc::MAP_FAILED);
        SharedFile(SharedWords { base: base.cast(), len: bytes / 8 })
    }

    pub fn words(&self) -> &[AtomicU64] {
        self.0.all()
    }
}

impl Drop for SharedFile {
    fn drop(&mut self) {
        // SAFETY: our own mapping; `words` borrows from `self`.
        unsafe { libc::munmap(self.0.base.cast_mut().cast(), self.0.len * 8) };
    }
}

/// What a sink finished, as a durable output keeps it: word 0 counts, the ids follow. A sink that dies
/// between noting a frame and releasing it gets it again and must know it.
#[derive(Clone, Copy)]
pub struct Ledger(pub SharedWords);

impl Ledger {
    pub fn new() -> Ledger {
        Ledger(SharedWords::new(4096))
    }

    pub fn last(&self) -> u64 {
        match self.0.get(0) {
            0 => 0,
            n => self.0.get(n as usize),
        }
    }

    /// Finishes frame `id`; one that is already finished is passed over.
    pub fn finish(&self, id: u64) {
        if id > self.last() {
            let n = self.0.get(0) + 1;
            self.0.set(n as usize, id);
            self.0.set(0, n);
        } else {
            let n = self.0.get(0);
            assert!(
                (1..=n).any(|i| self.0.get(i as usize) == id),
                "{id} comes after {} and was never seen",
                self.last()
            );
        }
    }

    pub fn ids(&self) -> Vec<u64> {
        (1..=self.0.get(0)).map(|i| self.0.get(i as usize)).collect()
    }

    /// Nothing lost, nothing twice, in order.
    pub fn check_lossless(&self, last: u64, what: &str) {
        assert_eq!(self.ids(), (1..=last).collect::<Vec<_>>(), "{what}");
    }
}

// ---- the raw bytes of a ring --------------------------------------------------------------------

/// Offsets of the control segment as docs/PROTOCOL.md draws it: the test reads bytes, not our types.
pub mod at {
    pub const SLOTS: usize = 7;
    pub const REQUIRED: usize = 10;
    pub const NEXT_SEQ: usize = 16;
    pub const LAST_KEY: usize = 17;
    pub const SLOT_0: usize = 0x2040 / 8;
    pub const SLOT_WORDS: usize = 32;
    pub const POOLS: usize = 0x840 / 8;
    pub const FORMATS: usize = 0x1040 / 8;
    pub const ROLES: usize = 0x240 / 8;
}

pub struct RawRing {
    pub words: Vec<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RawSlot {
    pub word: u64,
    pub seq: u64,
    pub key: u64,
    pub flags: u64,
    pub pool: u64,
    pub reference: u64,
}

pub const FREE: u64 = 0;
pub const WRITING: u64 = 1;
pub const READY: u64 = 2;
pub const QUARANTINED: u64 = 3;

impl RawSlot {
    pub fn state(&self) -> u64 {
        self.word >> 16 & 7
    }
    pub fn owed(&self) -> u64 {
        self.word & 0xff
    }
    pub fn held(&self) -> u64 {
        self.word >> 8 & 0xff
    }
}

impl RawRing {
    pub fn read(instance: &Instance, kernel: &str) -> RawRing {
        let bytes = std::fs::read(instance.path(kernel)).unwrap();
        RawRing { words: bytes.chunks_exact(8).map(|c| u64::from_le_bytes(c.try_into().unwrap())).collect() }
    }

    pub fn slots(&self) -> Vec<RawSlot> {
        (0..self.words[at::SLOTS] as usize)
            .map(|slot| {
                let w = &self.words[at::SLOT_0 + slot * at::SLOT_WORDS..];
                RawSlot { word: w[0], seq: w[1], key: w[2], flags: w[3], pool: w[5], reference: w[7] }
            })
            .collect()
    }

    pub fn count(&self, state: u64) -> usize {
        self.slots().iter().filter(|s| s.state() == state).count()
    }
}

/// What a ring must be at every moment at which nobody is in the middle of a step (invariants 2, 4, 9, 10).
/// `recovered`: its producer has recovered since the last death, so nothing may be WRITING.
pub fn check_ring(instance: &Instance, kernel: &str, recovered: bool, what: &str) -> RawRing {
    let ring = RawRing::read(instance, kernel);
    let slots = ring.slots();
    let (next_seq, last_key) = (ring.words[at::NEXT_SEQ], ring.words[at::LAST_KEY]);
    let dump = || format!("{what}: {kernel}: next_seq {next_seq} last_key {last_key:#x} {slots:x?}");
    for s in &slots {
        assert_eq!(s.held() & !s.owed(), 0, "held without being owed; {}", dump());
        assert_eq!(s.state() == READY, s.owed() != 0, "READY and owed disagree; {}", dump());
        assert!(s.state() <= QUARANTINED, "no state; {}", dump());
        assert!(!recovered || s.state() != WRITING, "WRITING after recovery; {}", dump());
        if s.state() == READY {
            assert_eq!(s.word >> 32, s.seq & 0xffff_ffff, "word and seq disagree; {}", dump());
            assert_ne!(s.key, 0, "READY without a key; {}", dump());
        }
        if recovered {
            assert!(s.seq < next_seq && s.word >> 32 < next_seq, "a seq was not spent; {}", dump());
            if s.state() == READY || s.state() == FREE {
                assert!(s.key <= last_key, "a key after the last one; {}", dump());
            }
            if s.state() == FREE && s.key == 0 {
                assert_eq!(s.reference, 0, "an aborted slot keeps its reference; {}", dump());
            }
        }
    }
    let mut ready: Vec<_> = slots.iter().filter(|s| s.state() == READY).collect();
    ready.sort_by_key(|s| s.seq);
    assert!(ready.windows(2).all(|w| w[0].key < w[1].key && w[0].seq < w[1].seq), "keys do not rise; {}", dump());
    ring
}

/// What an output slot refers to is still there, and held by the role of its producer (invariant 7).
/// `output`: the ring, and its producer's role on `input`.
pub fn check_references(instance: &Instance, output: (&str, u64), input: &str, what: &str) {
    let inputs = RawRing::read(instance, input).slots();
    for s in RawRing::read(instance, output.0).slots() {
        if s.state() != READY || s.reference == 0 {
            continue;
        }
        let (slot, seq_low) = ((s.reference >> 32 & 0xffff) as usize, s.reference & 0xffff_ffff);
        let i = inputs[slot];
        assert!(
            i.state() == READY && i.word >> 32 == seq_low && i.held() >> output.1 & 1 == 1,
            "{what}: {s:x?} refers to {i:x?}"
        );
    }
}

/// Quiescence: everything drained, nothing leaked (invariant 12).
pub fn check_quiet(instance: &Instance, kernel: &str, what: &str) {
    let ring = check_ring(instance, kernel, true, what);
    assert!(ring.slots().iter().all(|s| s.state() == FREE), "{what}: {kernel}: a slot leaked: {:x?}", ring.slots());
}

/// Every object of the instance belongs to one of `kernels`, and every pool is named by its ring.
pub fn check_objects(instance: &Instance, what: &str) {
    let prefix = shm_protocol::names::instance_prefix(&instance.name);
    let objects = shm_protocol::names::existing(&instance.name);
    for object in &objects {
        let short = object.strip_prefix(&prefix).unwrap();
        if let Some((kernel, _)) = short.split_once(".pool") {
            let ring = RawRing::read(instance, kernel);
            let named = (0..8).any(|entry| {
                let w = &ring.words[at::POOLS + entry * 32..at::POOLS + (entry + 1) * 32];
                let bytes: Vec<u8> = w[16..].iter().flat_map(|w| w.to_le_bytes()).collect();
                w[0] != 0 && bytes.split(|b| *b == 0).next() == Some(object.as_bytes())
            });
            assert!(named, "{what}: {object} has no owner");
        }
    }
}

/// An order in which to visit 0..n that is the same in every run: a sample cut short covers all of it.
pub fn scattered(n: usize, seed: u64) -> impl Iterator<Item = usize> {
    // Stepping by a number prime to n visits everything once.
    let gcd = |mut a: u64, mut b: u64| {
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    };
    let n64 = n.max(1) as u64;
    let step = (n64 * 618 / 1000 + 1..).find(|s| gcd(*s, n64) == 1).unwrap_or(1);
    (0..n64).take(n).map(move |i| ((i * step + seed) % n64) as usize)
}
