//! A ring seen by a candidate: what it maps, that it follows changes, that it writes nothing.
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

mod common;

use common::{Instance, format_of, spec};
use shm_protocol::attach::Policy;
use shm_protocol::descriptor::{FrameDetails, FrameHead, StreamFormat};
use shm_protocol::error::ObjectError;
use shm_protocol::output::Producer;
use shm_protocol::pool::{PoolDirectory, PoolKind};
use shm_protocol::preview::Preview;
use shm_protocol::slot::Key;
use std::sync::Arc;

const KERNEL: &str = "capture.main";

/// Publishes a frame of `width` pixels whose bytes are all `value`.
fn publish(ring: &mut Producer, instance: &Instance, width: u32, (id, value): (u64, u8)) {
    let format = format_of(width);
    ring.set_pool(PoolKind::PosixShm, format.frame_bytes(), &instance.dir).unwrap();
    ring.set_format(&StreamFormat::Video(format)).unwrap();
    let claim = ring.claim().unwrap().unwrap();
    ring.buffer(&claim).fill(value);
    let buffer = ring.extent(&claim, 0, format.frame_bytes() as u32);
    let head = FrameHead { key: Key::whole(id), buffer, ..FrameHead::default() };
    ring.publish(claim, head, &FrameDetails::default()).unwrap();
}

fn open(instance: &Instance, kernel: &str) -> (Producer, Arc<PoolDirectory>) {
    let directory = Arc::<PoolDirectory>::default();
    let ring_spec = spec(kernel, &[("process.main", true)], Policy::Lossless, 8);
    let ring = Producer::open(&instance.lease(kernel), &ring_spec, &directory).unwrap().0;
    (ring, directory)
}

#[test]
fn a_candidate_sees_the_newest_frame_and_writes_nothing() {
    let instance = Instance::new("preview");
    assert!(matches!(Preview::open(&instance.name, KERNEL), Err(ObjectError::Missing { .. })));
    let (mut ring, _own) = open(&instance, KERNEL);
    let seen = Preview::open(&instance.name, KERNEL).unwrap();
    assert_eq!((seen.newest(), seen.format()), (None, None), "nothing was published");
    publish(&mut ring, &instance, 64, (1, 10));
    publish(&mut ring, &instance, 64, (2, 20));
    let before = std::fs::read(instance.path(KERNEL)).unwrap();
    let (table, directory) = (instance.table(), PoolDirectory::default());
    assert_eq!(seen.copy_newest(&directory), None, "its pool is not mapped yet");
    seen.map_pools(false, &table, &directory, &instance.dir);
    assert_eq!(seen.newest().unwrap().key, Key::whole(2));
    assert_eq!(seen.format(), Some(StreamFormat::Video(format_of(64))));
    let copy = seen.copy_newest(&directory).unwrap();
    assert!(copy.len() == format_of(64).frame_bytes() as usize && copy.iter().all(|byte| *byte == 20));
    assert_eq!(std::fs::read(instance.path(KERNEL)).unwrap(), before, "no byte of the ring changed");
}

#[test]
fn pools_follow_their_ring_and_are_mapped_once() {
    let instance = Instance::new("follow");
    let (mut ring, _own) = open(&instance, KERNEL);
    publish(&mut ring, &instance, 64, (1, 1));
    let (table, directory) = (instance.table(), PoolDirectory::default());
    let look = || Preview::open(&instance.name, KERNEL).unwrap().map_pools(true, &table, &directory, &instance.dir);
    look();
    let newest = Preview::open(&instance.name, KERNEL).unwrap().newest().unwrap().buffer;
    let first = directory.find(newest.ring_uid, newest.generation).unwrap();
    look();
    assert!(Arc::ptr_eq(&first, &directory.find(newest.ring_uid, newest.generation).unwrap()), "mapped once");
    // A larger frame needs a pool of another generation.
    publish(&mut ring, &instance, 512, (2, 2));
    look();
    assert!(directory.find(newest.ring_uid, newest.generation).is_none(), "only the newest pool is one's own");
    let bytes = directory.total_bytes();
    assert!(bytes >= 8 * format_of(512).frame_bytes());
    // Removed by hand: what was mapped is not what will be there.
    let newest = Preview::open(&instance.name, KERNEL).unwrap().newest().unwrap().buffer;
    shm_protocol::names::unlink(&shm_protocol::names::pool(&instance.name, KERNEL, newest.generation));
    look();
    assert_eq!(directory.total_bytes(), 0);
}

#[test]
fn a_successor_takes_the_pool_that_it_mapped_while_it_waited() {
    let instance = Instance::new("adopt");
    let (mut ring, _own) = open(&instance, KERNEL);
    publish(&mut ring, &instance, 64, (1, 7));
    let directory = Arc::<PoolDirectory>::default();
    let seen = Preview::open(&instance.name, KERNEL).unwrap();
    seen.map_pools(true, &instance.table(), &directory, &instance.dir);
    let at = seen.newest().unwrap().buffer;
    let mapped = directory.find(at.ring_uid, at.generation).unwrap();
    drop(ring);
    let ring_spec = spec(KERNEL, &[("process.main", true)], Policy::Lossless, 8);
    let mut successor = Producer::open(&instance.lease(KERNEL), &ring_spec, &directory).unwrap().0;
    assert!(successor.set_pool(PoolKind::PosixShm, format_of(64).frame_bytes(), &instance.dir).unwrap(), "reused");
    assert!(Arc::ptr_eq(&mapped, &directory.find(at.ring_uid, at.generation).unwrap()), "not mapped anew");
    publish(&mut successor, &instance, 64, (2, 8));
    // Another size: the pool that was mapped is of no use, and nothing breaks.
    publish(&mut successor, &instance, 512, (3, 9));
}
