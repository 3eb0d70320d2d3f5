//! What happens when somebody removes, truncates or overwrites the objects of a running instance by hand: whoever
//! has them mapped sees it, their owner makes them anew, ids go on rising, and nobody mistakes the new for the old.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod common;

use common::*;
use shm_protocol::attach::Policy;
use shm_protocol::descriptor::StreamFormat;
use shm_protocol::error::ObjectError;
use shm_protocol::input::{Consumer, FrameError};
use shm_protocol::lease::{Candidate, Lease, LeaseTable};
use shm_protocol::output::Producer;
use shm_protocol::pool::PoolKind;
use shm_protocol::stage::{Next, Stage};
use shm_protocol::words::Words;
use std::sync::Arc;

const CAPTURE: &str = "capture.main";
const PROCESS: &str = "process.main";
const ENCODE: &str = "encode.main";

fn source(i: &Instance, lease: &Lease) -> Producer {
    let ring = spec(CAPTURE, &[(PROCESS, true)], Policy::Lossless, 4);
    let (mut producer, _) = Producer::open(lease, &ring, &directory()).unwrap();
    producer.set_pool(PoolKind::PosixShm, format().frame_bytes(), &i.dir).unwrap();
    producer.set_format(&StreamFormat::Video(format())).unwrap();
    producer
}

fn stage(i: &Instance, lease: &Lease) -> Stage {
    let ring = spec(PROCESS, &[(ENCODE, true)], Policy::Lossless, 4);
    let (mut output, _) = Producer::open(lease, &ring, &directory()).unwrap();
    output.set_format(&StreamFormat::Video(format())).unwrap();
    let input = Consumer::attach(lease, PROCESS, CAPTURE, &directory(), &i.dir).unwrap();
    Stage::new(input, output, 0)
}

/// Passes everything there is on by reference.
fn pass_all(stage: &mut Stage) {
    stage.harvest().unwrap();
    while let Next::Frame(taken) = stage.next_frame().unwrap() {
        let pool = stage.input.pool(&taken).unwrap();
        stage.name_pool(pool.spec()).unwrap();
        let details = stage.input.details(&taken);
        assert!(stage.pass(&taken, &details).unwrap());
    }
}

fn drain(reader: &mut Consumer) -> Vec<u64> {
    std::iter::from_fn(|| {
        let taken = reader.acquire().unwrap()?;
        assert_eq!(pixels_id(reader, &taken), taken.head.key.id(), "somebody else's pixels");
        reader.release(&taken).unwrap();
        Some(taken.head.key.id())
    })
    .collect()
}

#[test]
fn a_ring_removed_or_truncated_is_made_anew_and_its_ids_go_on() {
    for way in ["removed", "truncated", "overwritten"] {
        let i = Instance::new(&format!("ring-{way}"));
        let (a, b, c) = (i.lease(CAPTURE), i.lease(PROCESS), i.lease(ENCODE));
        let mut producer = source(&i, &a);
        let mut stage_b = stage(&i, &b);
        let mut reader = Consumer::attach(&c, ENCODE, PROCESS, &directory(), &i.dir).unwrap();
        for id in 1..=2 {
            assert!(produce(&mut producer, id, &format()));
            pass_all(&mut stage_b);
        }
        assert_eq!(drain(&mut reader), [1, 2]);
        let uid = producer.ring_uid();
        match way {
            "removed" => std::fs::remove_file(i.path(CAPTURE)).unwrap(),
            "truncated" => std::fs::OpenOptions::new().write(true).open(i.path(CAPTURE)).unwrap().set_len(100).unwrap(),
            _ => SharedFile::map(&i.path(CAPTURE), 64).words()[0].store(1, std::sync::atomic::Ordering::SeqCst),
        }
        // The reader is not misled, and waits for the owner.
        let again = Consumer::attach(&b, PROCESS, CAPTURE, &directory(), &i.dir).map(|_| ());
        assert!(matches!(again, Err(ObjectError::Missing { .. } | ObjectError::Damaged { .. })), "{way}: {again:?}");
        drop(producer);
        a.stop();
        let a = i.lease(CAPTURE);
        let mut producer = source(&i, &a);
        assert_ne!(producer.ring_uid(), uid, "what slots say of the old ring would fit the new one");
        assert_eq!((producer.last_key().id(), producer.source_position()), (2, 20), "{way}");
        drop(stage_b);
        b.stop();
        let b = i.lease(PROCESS);
        let mut stage_b = stage(&i, &b);
        for id in 3..=9 {
            assert!(produce(&mut producer, id, &format()), "{way}: a slot is kept for a ring that is gone");
            pass_all(&mut stage_b);
            assert_eq!(drain(&mut reader), [id], "{way}");
        }
    }
}

#[cfg(feature = "crash-points")]
#[test]
fn a_ring_made_anew_begins_where_its_readers_are_wherever_its_maker_dies() {
    let i = Instance::new("anew");
    let (a, b, c) = (i.lease(CAPTURE), i.lease(PROCESS), i.lease(ENCODE));
    let mut producer = source(&i, &a);
    let mut stage_b = stage(&i, &b);
    let mut reader = Consumer::attach(&c, ENCODE, PROCESS, &directory(), &i.dir).unwrap();
    for id in 1..=2 {
        assert!(produce(&mut producer, id, &format()));
        pass_all(&mut stage_b);
    }
    assert_eq!(drain(&mut reader), [1, 2]);
    drop(producer);
    a.stop();
    for at in 0.. {
        std::fs::remove_file(i.path(CAPTURE)).unwrap();
        let maker = Child::spawn(|| {
            let lease = i.lease(CAPTURE);
            shm_protocol::crash::arm(Some(at));
            let ring = spec(CAPTURE, &[(PROCESS, true)], Policy::Lossless, 4);
            Producer::open(&lease, &ring, &directory()).unwrap();
            shm_protocol::crash::arm(None);
            lease.stop();
        });
        let ended = maker.join();
        let a = i.lease(CAPTURE);
        let producer = source(&i, &a);
        assert_eq!((producer.last_key().id(), producer.source_position()), (2, 20), "death at {at}");
        drop(producer);
        a.stop();
        if ended != End::Signal(libc::SIGKILL) {
            assert!(at > 5, "the hooks are gone: {at}");
            break;
        }
    }
}

#[test]
fn rings_made_at_the_same_time_never_get_the_same_identity() {
    let i = Instance::new("uids");
    for round in 0..20 {
        let children: Vec<Child> = [CAPTURE, PROCESS, ENCODE]
            .map(|kernel| {
                Child::spawn(|| {
                    let lease = i.lease(kernel);
                    let ring = spec(kernel, &[("net.main", true)], Policy::Lossless, 4);
                    // The lowest bits are the lease's, so that no draw can be another kernel's.
                    let (producer, _) = Producer::open(&lease, &ring, &directory()).unwrap();
                    assert_eq!(producer.ring_uid() as usize & 31, lease.index() + 1);
                    lease.stop();
                })
            })
            .into();
        for child in children {
            assert_eq!(child.join(), End::Exit(0), "round {round}");
        }
        for kernel in [CAPTURE, PROCESS, ENCODE] {
            std::fs::remove_file(i.path(kernel)).unwrap();
        }
    }
}

#[test]
fn a_pool_described_as_none_can_be_is_refused_frame_by_frame_and_ends_nobody() {
    let i = Instance::new("geometry");
    let (a, b) = (i.lease(CAPTURE), i.lease(PROCESS));
    let mut producer = source(&i, &a);
    let mut reader = Consumer::attach(&b, PROCESS, CAPTURE, &directory(), &i.dir).unwrap();
    assert!(produce(&mut producer, 1, &format()));
    let buffer_bytes = format().frame_bytes().next_multiple_of(4096);
    let ring = SharedFile::map(&i.path(CAPTURE), std::fs::metadata(i.path(CAPTURE)).unwrap().len() as usize);
    let words = ring.words().iter().filter(|word| word.load(std::sync::atomic::Ordering::SeqCst) == buffer_bytes);
    assert_ne!(words.inspect(|word| word.store(7, std::sync::atomic::Ordering::SeqCst)).count(), 0);
    let taken = reader.acquire().unwrap().unwrap();
    let error = reader.pool(&taken).err().unwrap();
    assert!(matches!(error, FrameError::Pool { lost: true, .. }) && !error.is_transient(), "{error}");
}

#[test]
fn waiting_for_a_role_costs_neither_descriptors_nor_mappings() {
    let i = Instance::new("norole");
    let (a, b) = (i.lease(CAPTURE), i.lease("encode.web"));
    let _producer = source(&i, &a);
    let own = directory();
    let open = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let try_it = || Consumer::attach(&b, "encode.web", CAPTURE, &own, &i.dir).map(|_| ()).unwrap_err();
    assert!(matches!(try_it(), ObjectError::Missing { .. }));
    let before = open();
    for _ in 0..300 {
        try_it();
    }
    // Other tests of this process open some of their own meanwhile, where they run in threads.
    assert!(open() < before + 100, "{before} descriptors became {}", open());
}

#[test]
fn the_middle_of_a_chain_goes_on_from_its_reader_and_repeats_nothing() {
    let i = Instance::new("middle");
    let (a, b, c) = (i.lease(CAPTURE), i.lease(PROCESS), i.lease(ENCODE));
    let mut producer = source(&i, &a);
    let mut stage_b = stage(&i, &b);
    // A second stage, whose ring shows how far it came.
    let ring = spec(ENCODE, &[("net.main", true)], Policy::Lossless, 4);
    let (output, _) = Producer::open(&c, &ring, &directory()).unwrap();
    let input = Consumer::attach(&c, ENCODE, PROCESS, &directory(), &i.dir).unwrap();
    let mut stage_c = Stage::new(input, output, 0);
    for id in 1..=2 {
        assert!(produce(&mut producer, id, &format()));
        pass_all(&mut stage_b);
        pass_all(&mut stage_c);
    }
    assert!(produce(&mut producer, 3, &format()));
    pass_all(&mut stage_b);
    std::fs::remove_file(i.path(PROCESS)).unwrap();
    drop((stage_b, stage_c));
    b.stop();
    c.stop();
    let (b, c) = (i.lease(PROCESS), i.lease(ENCODE));
    let mut stage_b = stage(&i, &b);
    assert_eq!(stage_b.output.last_key().id(), 2);
    let input = Consumer::attach(&c, ENCODE, PROCESS, &directory(), &i.dir).unwrap();
    let (output, _) = Producer::open(&c, &ring, &directory()).unwrap();
    let mut stage_c = Stage::new(input, output, 0);
    pass_all(&mut stage_b);
    pass_all(&mut stage_c);
    assert_eq!(stage_c.output.last_key().id(), 3, "frame 3 was still owed to the stage, and is passed again");
}

#[test]
fn a_pool_truncated_under_its_owner_is_followed_by_a_new_generation() {
    let i = Instance::new("pool");
    let (a, b) = (i.lease(CAPTURE), i.lease(PROCESS));
    let ring = spec(CAPTURE, &[(PROCESS, true)], Policy::Lossless, 4);
    let own = directory();
    let (mut producer, _) = Producer::open(&a, &ring, &own).unwrap();
    producer.set_pool(PoolKind::PosixShm, format().frame_bytes(), &i.dir).unwrap();
    producer.set_format(&StreamFormat::Video(format())).unwrap();
    assert!(own.check().is_ok());
    let mut reader = Consumer::attach(&b, PROCESS, CAPTURE, &directory(), &i.dir).unwrap();
    assert!(produce(&mut producer, 1, &format()));
    let pool = i.path("capture.main.pool1");
    std::fs::OpenOptions::new().write(true).open(&pool).unwrap().set_len(0).unwrap();
    assert!(matches!(own.check(), Err(ObjectError::Damaged { name, .. }) if name.ends_with(".pool1")));
    // A frame in it cannot be had by whoever comes to it now, and never will be.
    let taken = reader.acquire().unwrap().unwrap();
    let lost = reader.pool(&taken).unwrap_err();
    assert!(matches!(lost, FrameError::Pool { lost: true, .. }) && !lost.is_transient(), "{lost}");
    reader.release(&taken).unwrap();
    drop(producer);
    a.stop();
    let a = i.lease(CAPTURE);
    let mut producer = source(&i, &a);
    assert!(i.path("capture.main.pool2").exists());
    assert!(produce(&mut producer, 2, &format()));
    assert_eq!(drain(&mut reader), [2]);
}

#[test]
fn a_pool_removed_by_hand_is_seen_by_its_owner() {
    let i = Instance::new("pool-gone");
    let a = i.lease(CAPTURE);
    let own = directory();
    let ring = spec(CAPTURE, &[(PROCESS, true)], Policy::Lossless, 4);
    let (mut producer, _) = Producer::open(&a, &ring, &own).unwrap();
    producer.set_pool(PoolKind::PosixShm, 4096, &i.dir).unwrap();
    std::fs::remove_file(i.path("capture.main.pool1")).unwrap();
    assert!(matches!(own.check(), Err(ObjectError::Damaged { .. })), "nobody who comes later could map it");
    assert!(!producer.set_pool(PoolKind::PosixShm, 8192, &i.dir).unwrap());
    assert!(own.check().is_ok());
}

#[test]
fn a_lease_table_removed_or_truncated_gives_no_lease_and_is_made_anew() {
    for way in ["removed", "truncated", "emptied"] {
        let i = Instance::new(&format!("leases-{way}"));
        let old = i.table();
        let waiting = Candidate::enter(&old, ENCODE, true).unwrap();
        match way {
            "removed" => std::fs::remove_file(i.path("leases")).unwrap(),
            "truncated" => {
                std::fs::OpenOptions::new().write(true).open(i.path("leases")).unwrap().set_len(512).unwrap()
            }
            _ => std::fs::write(i.path("leases"), b"").unwrap(),
        }
        assert!(!old.is_whole());
        let refused = waiting.try_activate().map(|_| ());
        assert!(matches!(refused, Err(ObjectError::Damaged { .. })), "{way}: {refused:?}");
        // Many come at once and meet in one table.
        let tables: Vec<Arc<LeaseTable>> = std::thread::scope(|scope| {
            let joins: Vec<_> = (0..4).map(|_| scope.spawn(|| i.table())).collect();
            joins.into_iter().map(|join| join.join().unwrap()).collect()
        });
        assert!(tables.iter().all(|table| table.is_whole()), "{way}");
        let _lease = i.lease(ENCODE);
        assert!(tables.iter().all(|table| table.kernels().iter().any(|k| k.kernel == ENCODE && k.held)), "{way}");
    }
}

#[test]
fn ids_go_on_above_those_of_a_session_that_outlived_its_rings() {
    let i = Instance::new("session");
    let session = shm_protocol::names::session(&i.name, "net.main");
    let words = Words::open(&session, 40).unwrap();
    let a = i.lease(CAPTURE);
    let fresh = source(&i, &a);
    assert_eq!(fresh.last_key().id(), 0, "nothing was sent yet");
    drop(fresh);
    a.stop();
    std::fs::remove_file(i.path(CAPTURE)).unwrap();
    words[shm_protocol::words::BEGUN_WORD].store(1, std::sync::atomic::Ordering::SeqCst);
    let a = i.lease(CAPTURE);
    let first = source(&i, &a).last_key().id();
    assert!(first > 1_600_000_000_000, "ids may have been used up to {first}");
    // A session that was truncated is no session, and no reason to refuse service.
    std::fs::OpenOptions::new().write(true).open(i.path("net.main.session")).unwrap().set_len(8).unwrap();
    assert!(words.check().is_err());
    let words = Words::open(&session, 40).unwrap();
    assert!(words.check().is_ok());
    std::fs::remove_file(i.path("net.main.session")).unwrap();
    assert!(words.check().is_err());
}

#[test]
fn memory_that_never_suffices_is_a_matter_of_configuration_and_a_full_one_is_not() {
    use shm_protocol::error::Recovery;
    let short = |needed_mib, total_mib| {
        ObjectError::NoSpace { name: "x".to_owned(), needed_mib, free_mib: 0, total_mib }.recovery()
    };
    assert_eq!((short(64, 64), short(65, 64)), (Recovery::Restart, Recovery::Fatal));
}
