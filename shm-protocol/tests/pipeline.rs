//! The rings as kernels use them: real objects, real leases, one process.
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

use shm_protocol::attach::{Content, Policy, RingSpec, RoleSpec};
use shm_protocol::descriptor::{FrameDetails, FrameHead, StreamFormat};
use shm_protocol::frame::{Colour, PixelFormat, Rational, VideoFormat};
use shm_protocol::input::Consumer;
use shm_protocol::lease::{Candidate, Lease, LeaseTable, Removal};
use shm_protocol::output::Producer;
use shm_protocol::pool::{PoolDirectory, PoolKind};
use shm_protocol::slot::Key;
use shm_protocol::stage::{Next, Stage};
use std::sync::Arc;

/// Objects of a test instance, removed at the end.
struct Instance {
    name: String,
    dir: std::path::PathBuf,
}

impl Instance {
    fn new(test: &str) -> Instance {
        let name = format!("t{}-{test}", std::process::id());
        let dir = std::env::temp_dir().join(&name);
        std::fs::create_dir_all(&dir).unwrap();
        Instance { name, dir }
    }

    fn lease(&self, kernel: &str) -> Lease {
        let table = LeaseTable::join(&self.name).unwrap();
        let Ok(lease) = Candidate::enter(&table, kernel, true).unwrap().try_activate().unwrap() else {
            panic!("{kernel} is held")
        };
        lease.running();
        lease
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        assert!(matches!(LeaseTable::remove_if_dead(&self.name).unwrap(), Removal::Removed(_)));
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn spec(kernel: &str, consumer: &str, policy: Policy, slots: usize) -> RingSpec {
    RingSpec {
        kernel: kernel.to_owned(),
        content: Content::Pixels,
        policy,
        slots,
        max_latency_ns: 0,
        roles: vec![RoleSpec { kernel: consumer.to_owned(), required: true }],
    }
}

fn format() -> VideoFormat {
    VideoFormat::packed(PixelFormat::Nv12, 64, 32, Rational { num: 60, den: 1 }, Colour::BT709_LIMITED).unwrap()
}

fn produce(producer: &mut Producer, id: u64) -> bool {
    let Some(claim) = producer.claim().unwrap() else { return false };
    let len = format().frame_bytes() as u32;
    producer.buffer(&claim)[..8].copy_from_slice(&id.to_le_bytes());
    let head = FrameHead {
        key: Key::whole(id),
        capture_ns: id,
        buffer: producer.extent(&claim, 0, len),
        ..Default::default()
    };
    producer.publish(claim, head, &FrameDetails { source_position: id, ..Default::default() }).unwrap();
    true
}

fn first_eight(consumer: &mut Consumer, taken: &shm_protocol::input::Taken) -> u64 {
    let StreamFormat::Video(format) = consumer.format(taken).unwrap() else { panic!("not video") };
    let mut row = [0u8; 64];
    consumer.pixels(taken, &format).unwrap().copy_row(0, 0, &mut row);
    u64::from_le_bytes(row[..8].try_into().unwrap())
}

fn frames_go_through_by_reference(kind: PoolKind) {
    let instance = Instance::new(&format!("ref{}", kind as u64));
    let (a, b, c) = (instance.lease("capture.main"), instance.lease("process.main"), instance.lease("encode.main"));
    let (dir_a, dir_b, dir_c) =
        (<Arc<PoolDirectory>>::default(), <Arc<PoolDirectory>>::default(), <Arc<PoolDirectory>>::default());
    for (kernel, directory) in [("capture.main", &dir_a), ("process.main", &dir_b)] {
        shm_protocol::fdpass::serve(&instance.dir, kernel, Arc::clone(directory)).unwrap();
    }
    let (mut capture, _) =
        Producer::open(&a, &spec("capture.main", "process.main", Policy::Lossless, 8), &dir_a).unwrap();
    capture.set_pool(kind, format().frame_bytes(), &instance.dir).unwrap();
    capture.set_format(&StreamFormat::Video(format())).unwrap();
    let (out, _) = Producer::open(&b, &spec("process.main", "encode.main", Policy::Lossless, 8), &dir_b).unwrap();
    let input = Consumer::attach(&b, "process.main", "capture.main", &dir_b, &instance.dir).unwrap();
    let mut stage = Stage::new(input, out, 0);
    let mut encode = Consumer::attach(&c, "encode.main", "process.main", &dir_c, &instance.dir).unwrap();
    for id in 1..=100 {
        assert!(produce(&mut capture, id));
        let Next::Frame(taken) = stage.next_frame().unwrap() else { panic!("frame {id} did not arrive") };
        let format = stage.input.format(&taken).unwrap();
        stage.output.set_format(&format).unwrap();
        let pool = stage.input.pool(&taken).unwrap();
        stage.name_pool(pool.spec()).unwrap();
        let details = stage.input.details(&taken);
        assert!(stage.pass(&taken, &details).unwrap());
        assert_eq!(stage.held(), 1, "held while the encoder may read it");
        let taken = encode.acquire().unwrap().unwrap();
        assert_eq!((taken.head.key.id(), first_eight(&mut encode, &taken)), (id, id));
        encode.release(&taken).unwrap();
        stage.harvest().unwrap();
        assert_eq!(stage.held(), 0);
    }
    assert!(encode.acquire().unwrap().is_none());
}

#[test]
fn frames_pass_by_reference_through_posix_shm() {
    frames_go_through_by_reference(PoolKind::PosixShm);
}

#[test]
fn frames_pass_by_reference_through_memfd() {
    frames_go_through_by_reference(PoolKind::Memfd);
}

#[test]
fn the_dma_buf_kind_works_or_is_refused_with_the_reason() {
    use shm_protocol::pool::{Pool, PoolSpec};
    if std::path::Path::new("/dev/udmabuf").exists() {
        return frames_go_through_by_reference(PoolKind::DmaBuf);
    }
    let spec = PoolSpec {
        ring_uid: 1,
        generation: 1,
        kind: PoolKind::DmaBuf,
        buffers: 4,
        buffer_bytes: 4096,
        name: "no-dma-buf".to_owned(),
    };
    let refused = Pool::create(spec).unwrap_err().to_string();
    assert!(refused.contains("/dev/udmabuf") && refused.contains("memfd"), "{refused}");
}

#[test]
fn a_restarted_stage_resumes_at_the_first_unfinished_frame() {
    let instance = Instance::new("resume");
    let a = instance.lease("capture.main");
    let directory = <Arc<PoolDirectory>>::default();
    let (mut capture, _) =
        Producer::open(&a, &spec("capture.main", "process.main", Policy::Lossless, 8), &directory).unwrap();
    capture.set_pool(PoolKind::PosixShm, format().frame_bytes(), &instance.dir).unwrap();
    capture.set_format(&StreamFormat::Video(format())).unwrap();
    for id in 1..=4 {
        produce(&mut capture, id);
    }
    let out_spec = spec("process.main", "encode.main", Policy::Lossless, 8);
    {
        // Publishes 1 by reference, holds 2, and is gone.
        let b = instance.lease("process.main");
        let (out, _) = Producer::open(&b, &out_spec, &directory).unwrap();
        let mut stage = Stage::new(
            Consumer::attach(&b, "process.main", "capture.main", &directory, &instance.dir).unwrap(),
            out,
            0,
        );
        let Next::Frame(one) = stage.next_frame().unwrap() else { panic!() };
        assert!(stage.pass(&one, &FrameDetails::default()).unwrap());
        let Next::Frame(two) = stage.next_frame().unwrap() else { panic!() };
        assert_eq!(two.head.key.id(), 2);
        drop(stage); // says nothing to the ring, as a death does not
    }
    let b = instance.lease("process.main");
    assert_eq!(b.epoch(), 2);
    let (mut out, recovered) = Producer::open(&b, &out_spec, &directory).unwrap();
    assert_eq!(recovered.last_key, Key::whole(1));
    out.set_format(&StreamFormat::Video(format())).unwrap();
    let mut stage =
        Stage::new(Consumer::attach(&b, "process.main", "capture.main", &directory, &instance.dir).unwrap(), out, 0);
    let Next::Frame(two) = stage.next_frame().unwrap() else { panic!() };
    assert_eq!(two.head.key.id(), 2, "1 was published, 2 was not");
    assert_eq!(stage.held(), 2, "1 is still read downstream");
    assert!(stage.pass(&two, &FrameDetails::default()).unwrap());
    // The encoder reads both; then everything can be freed.
    let c = instance.lease("encode.main");
    let mut encode = Consumer::attach(&c, "encode.main", "process.main", &directory, &instance.dir).unwrap();
    for id in 1..=2 {
        let taken = encode.acquire().unwrap().unwrap();
        assert_eq!((taken.head.key.id(), first_eight(&mut encode, &taken)), (id, id));
        encode.release(&taken).unwrap();
    }
    stage.harvest().unwrap();
    assert_eq!(stage.held(), 0);
}

#[test]
fn who_asks_stopped_peers_for_a_pool_goes_on_beating() {
    let instance = Instance::new("beats");
    let directory = <Arc<PoolDirectory>>::default();
    let peers: Vec<Lease> = ["capture.main", "net.main", "net.web"].iter().map(|name| instance.lease(name)).collect();
    let listeners = ["capture.main", "net.main", "net.web"].map(|name| {
        // They take the question, and never answer.
        std::os::unix::net::UnixListener::bind(shm_protocol::fdpass::socket_path(&instance.dir, name)).unwrap()
    });
    let (mut capture, _) =
        Producer::open(&peers[0], &spec("capture.main", "process.main", Policy::Lossless, 8), &directory).unwrap();
    capture.set_pool(PoolKind::Memfd, format().frame_bytes(), &instance.dir).unwrap();
    capture.set_format(&StreamFormat::Video(format())).unwrap();
    assert!(produce(&mut capture, 1));
    let b = instance.lease("process.main");
    let own = <Arc<PoolDirectory>>::default();
    let mut input = Consumer::attach(&b, "process.main", "capture.main", &own, &instance.dir).unwrap();
    let taken = input.acquire().unwrap().unwrap();
    let over = std::sync::atomic::AtomicBool::new(false);
    let beats = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut beats = std::collections::BTreeSet::new();
            while !over.load(std::sync::atomic::Ordering::Relaxed) {
                beats.insert(b.table().info(b.index()).heartbeat_ns);
                std::thread::sleep(std::time::Duration::from_millis(1));
            }
            beats
        });
        assert!(input.pool(&taken).is_err_and(|error| error.is_transient()));
        over.store(true, std::sync::atomic::Ordering::Relaxed);
        watcher.join().unwrap()
    });
    // One before each of the three, and what was there before.
    assert!(beats.len() >= 3, "{beats:?}");
    drop(listeners);
}

#[test]
fn a_jump_before_a_frame_that_nothing_is_made_of_is_said_with_the_next_also_by_a_successor() {
    use shm_protocol::descriptor::{TombstoneReason, flag};
    let instance = Instance::new("jump");
    let (a, c) = (instance.lease("capture.main"), instance.lease("encode.main"));
    let directory = <Arc<PoolDirectory>>::default();
    let (mut capture, _) =
        Producer::open(&a, &spec("capture.main", "process.main", Policy::Lossless, 8), &directory).unwrap();
    capture.set_pool(PoolKind::PosixShm, format().frame_bytes(), &instance.dir).unwrap();
    capture.set_format(&StreamFormat::Video(format())).unwrap();
    for id in 1..=6 {
        let claim = capture.claim().unwrap().unwrap();
        let flags = if id == 2 { flag::DISCONTINUITY } else { 0 };
        let buffer = capture.extent(&claim, 0, format().frame_bytes() as u32);
        let head = FrameHead { key: Key::whole(id), flags, buffer, ..FrameHead::default() };
        capture.publish(claim, head, &FrameDetails::default()).unwrap();
    }
    // Frames 2, 3 and 4 are left out; the process dies behind each of them.
    let mut seen = Vec::new();
    for left_out in [false, true, true, true, false, false] {
        let b = instance.lease("process.main");
        let (mut out, _) =
            Producer::open(&b, &spec("process.main", "encode.main", Policy::Lossless, 8), &directory).unwrap();
        out.set_format(&StreamFormat::Video(format())).unwrap();
        let input = Consumer::attach(&b, "process.main", "capture.main", &directory, &instance.dir).unwrap();
        let mut stage = Stage::new(input, out, 0);
        let Next::Frame(taken) = stage.next_frame().unwrap() else { panic!() };
        assert!(if left_out {
            stage.tombstone(&taken, TombstoneReason::RateControl).unwrap()
        } else {
            stage.pass(&taken, &FrameDetails::default()).unwrap()
        });
        let mut encode = Consumer::attach(&c, "encode.main", "process.main", &directory, &instance.dir).unwrap();
        let taken = encode.acquire().unwrap().unwrap();
        seen.push((taken.head.has(flag::TOMBSTONE), taken.head.has(flag::DISCONTINUITY)));
        encode.release(&taken).unwrap();
    }
    let (left_out, jumps): (Vec<bool>, Vec<bool>) = seen.into_iter().unzip();
    assert_eq!(left_out, [false, true, true, true, false, false]);
    assert_eq!(jumps, [false, true, true, true, true, false]);
}

#[test]
fn a_full_live_ring_gives_up_the_oldest_and_a_lossless_one_nothing() {
    for (policy, kept) in [(Policy::Live, vec![3, 4, 5, 6]), (Policy::Lossless, vec![1, 2, 3, 4])] {
        let instance = Instance::new(&format!("full{}", policy as u64));
        let (a, b) = (instance.lease("capture.main"), instance.lease("process.main"));
        let directory = <Arc<PoolDirectory>>::default();
        let (mut capture, _) =
            Producer::open(&a, &spec("capture.main", "process.main", policy, 4), &directory).unwrap();
        capture.set_pool(PoolKind::PosixShm, format().frame_bytes(), &instance.dir).unwrap();
        capture.set_format(&StreamFormat::Video(format())).unwrap();
        for id in 1..=6 {
            assert_eq!(produce(&mut capture, id), policy == Policy::Live || id <= 4);
        }
        let mut process = Consumer::attach(&b, "process.main", "capture.main", &directory, &instance.dir).unwrap();
        let mut got = Vec::new();
        while let Some(taken) = process.acquire().unwrap() {
            got.push(taken.head.key.id());
            process.release(&taken).unwrap();
        }
        assert_eq!(got, kept);
    }
}

#[test]
fn a_lease_has_one_holder_and_its_epoch_rises() {
    let instance = Instance::new("lease");
    let first = instance.lease("net.main");
    assert_eq!((first.epoch(), first.bridged_death()), (1, false));
    let table = LeaseTable::join(&instance.name).unwrap();
    let candidate = Candidate::enter(&table, "net.main", true).unwrap();
    assert!(Candidate::enter(&table, "net.main", false).is_err(), "one candidate at a time");
    let Err(candidate) = candidate.try_activate().unwrap() else { panic!("two holders") };
    let waiting = std::thread::spawn(move || candidate.activate().unwrap());
    first.stop();
    let second = waiting.join().unwrap();
    assert_eq!((second.epoch(), second.bridged_death()), (2, false));
}

#[test]
fn a_revoked_holder_is_fenced_and_changes_nothing() {
    let instance = Instance::new("fence");
    let directory = <Arc<PoolDirectory>>::default();
    let old = instance.lease("capture.main");
    let ring = spec("capture.main", "process.main", Policy::Lossless, 4);
    let (mut capture, _) = Producer::open(&old, &ring, &directory).unwrap();
    capture.set_pool(PoolKind::PosixShm, 4096, &instance.dir).unwrap();
    let claim = capture.claim().unwrap().unwrap();
    drop(old); // the lock goes, as with a yield; the handle stays
    let _new = instance.lease("capture.main");
    let path = format!("/dev/shm/quad.{}.capture.main", instance.name);
    let before = std::fs::read(&path).unwrap();
    let head = FrameHead { key: Key::whole(1), ..Default::default() };
    assert!(matches!(
        capture.publish(claim, head, &FrameDetails::default()),
        Err(shm_protocol::ring::RingError::Fenced { .. })
    ));
    assert!(capture.claim().is_err());
    assert!(before == std::fs::read(&path).unwrap(), "a fenced handle changed the ring");
}

#[test]
fn a_pool_of_equal_kind_and_geometry_is_used_again() {
    let instance = Instance::new("reuse");
    let directory = <Arc<PoolDirectory>>::default();
    let ring = spec("capture.main", "process.main", Policy::Lossless, 4);
    for (bytes, reused, pools) in [(8192, false, 1), (8192, true, 1), (12288, false, 2)] {
        let lease = instance.lease("capture.main");
        let (mut capture, _) = Producer::open(&lease, &ring, &directory).unwrap();
        assert_eq!(capture.set_pool(PoolKind::PosixShm, bytes, &instance.dir).unwrap(), reused);
        let count = shm_protocol::names::existing(&instance.name).iter().filter(|n| n.contains(".pool")).count();
        assert_eq!(count, pools);
    }
}
