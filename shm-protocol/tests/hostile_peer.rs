//! Objects, words and sockets written by a peer that is broken or means harm: every answer is an error or a
//! skipped frame, never a panic, never an access outside a mapping. What may crash runs in a forked child,
//! so that a signal would be seen.
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]
#![allow(unsafe_code, reason = "reads mapped bytes and truncates objects")]

mod common;

use common::*;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use shm_protocol::attach::Policy;
use shm_protocol::descriptor::{FrameDetails, StreamFormat, TombstoneReason};
use shm_protocol::error::ObjectError;
use shm_protocol::input::Consumer;
use shm_protocol::lease::{Candidate, Lease, LeaseTable};
use shm_protocol::names;
use shm_protocol::observe::RingObserver;
use shm_protocol::output::Producer;
use shm_protocol::pool::{Pool, PoolKind, PoolSpec};
use shm_protocol::ring::RingError;
use shm_protocol::segment::Access;
use shm_protocol::stage::{Next, Stage};
use std::io::{Read, Write};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

const CAPTURE: &str = "capture.main";
const PROCESS: &str = "process.main";
const ENCODE: &str = "encode.main";
const SEGMENT_WORDS: usize = 0x7000 / 8;

fn capture(i: &Instance, slots: usize) -> (Lease, Producer) {
    let lease = i.lease(CAPTURE);
    let ring = spec(CAPTURE, &[(PROCESS, true)], Policy::Live, slots);
    let (mut producer, _) = Producer::open(&lease, &ring, &directory()).unwrap();
    producer.set_pool(PoolKind::PosixShm, format().frame_bytes(), &i.dir).unwrap();
    producer.set_format(&StreamFormat::Video(format())).unwrap();
    (lease, producer)
}

/// Whether an object is refused for the sake of a field: another build's, or damaged.
fn refused_for(error: &ObjectError, field: &str) -> bool {
    match error {
        ObjectError::Mismatch { field: found, .. } => *found == field,
        ObjectError::Damaged { what, .. } => what.starts_with(field),
        _ => false,
    }
}

// ---- headers ------------------------------------------------------------------------------------

#[test]
fn every_wrong_header_field_is_refused_by_its_name() {
    let i = Instance::new("header");
    let (lease, producer) = capture(&i, 4);
    drop(producer);
    lease.stop();
    let reader = i.lease(PROCESS);
    let raw = SharedFile::map(&i.path(CAPTURE), SEGMENT_WORDS * 8);
    let swapped = 0x0102_0304_0506_0708u64.swap_bytes();
    let cases: [(usize, u64, &str); 14] = [
        (0, 0, "the magic"),
        (0, u64::MAX, "the magic"),
        (1, 2 << 32, "the ABI major version"),
        (1, 0, "the ABI major version"),
        (2, 1, "the layout hash"),
        (3, swapped, "the byte order"),
        (4, 4096, "the segment size"),
        (7, 0, "the number of slots"),
        (7, 65, "the number of slots"),
        (7, u64::MAX, "the number of slots"),
        (6, 0, "the identity"),
        (6, 1 << 16, "the identity"),
        (8, 0, "the content"),
        (9, 3, "the policy"),
    ];
    for (word, value, field) in cases {
        let right = raw.words()[word].swap(value, Ordering::SeqCst);
        let Err(error) = Consumer::attach(&reader, PROCESS, CAPTURE, &directory(), &i.dir) else {
            panic!("{field} = {value:#x} was accepted")
        };
        assert!(refused_for(&error, field), "{error}");
        assert!(RingObserver::open(&i.name, CAPTURE).is_err());
        raw.words()[word].store(right, Ordering::SeqCst);
    }
    // A later minor version is no reason to refuse.
    raw.words()[1].fetch_add(5, Ordering::SeqCst);
    assert!(Consumer::attach(&reader, PROCESS, CAPTURE, &directory(), &i.dir).is_ok());
    // Another build's ring is not put away by its kernel either: a person must see that the two do not mix.
    raw.words()[2].fetch_add(1, Ordering::SeqCst);
    let lease = i.lease(CAPTURE);
    let ring = spec(CAPTURE, &[(PROCESS, true)], Policy::Live, 4);
    let Err(error) = Producer::open(&lease, &ring, &directory()) else { panic!("accepted") };
    assert!(error.to_string().contains("the layout hash"), "{error}");
}

#[test]
fn every_wrong_field_of_the_lease_table_is_refused_by_its_name() {
    let i = Instance::new("table");
    let table = i.table();
    let raw = SharedFile::map(&i.path("leases"), 4096);
    for (word, field) in [(0, "the magic"), (1, "the ABI"), (2, "the byte order"), (3, "the record size")] {
        let right = raw.words()[word].swap(0x1234_5678, Ordering::SeqCst);
        let error = LeaseTable::observe(&i.name).unwrap_err();
        assert!(refused_for(&error, field), "{error}");
        if field != "the magic" {
            let error = LeaseTable::join(&i.name).unwrap_err();
            assert!(refused_for(&error, field), "{error}");
        }
        raw.words()[word].store(right, Ordering::SeqCst);
    }
    drop(table);
}

#[test]
fn short_objects_and_those_of_other_users_are_refused() {
    let i = Instance::new("short");
    let (lease, producer) = capture(&i, 4);
    drop(producer);
    lease.stop();
    let reader = i.lease(PROCESS);
    let attach = || Consumer::attach(&reader, PROCESS, CAPTURE, &directory(), &i.dir).map(|_| ());
    let file = std::fs::OpenOptions::new().write(true).open(i.path(CAPTURE)).unwrap();
    let whole = std::fs::read(i.path(CAPTURE)).unwrap();
    for bytes in [0, 1, 4096, whole.len() as u64 - 1, whole.len() as u64 + 4096] {
        file.set_len(bytes).unwrap();
        let error = attach().unwrap_err();
        assert!(matches!(error, ObjectError::Damaged { .. }), "{bytes} bytes: {error}");
    }
    std::fs::write(i.path(CAPTURE), &whole).unwrap();
    attach().unwrap();
    // SAFETY: asks for a number.
    if unsafe { libc::geteuid() } == 0 {
        std::os::unix::fs::chown(i.path(CAPTURE), Some(12345), None).unwrap();
        assert!(refused_for(&attach().unwrap_err(), "the owner"));
        std::os::unix::fs::chown(i.path("leases"), Some(12345), None).unwrap();
        assert!(refused_for(&LeaseTable::join(&i.name).unwrap_err(), "the owner"));
        std::os::unix::fs::chown(i.path("leases"), Some(0), None).unwrap();
    } else {
        println!("objects of other users: SKIPPED, only root can make one");
    }
    // A link in the place of an object is not followed.
    std::fs::rename(i.path(CAPTURE), i.path("elsewhere")).unwrap();
    std::os::unix::fs::symlink(i.path("elsewhere"), i.path(CAPTURE)).unwrap();
    assert!(attach().is_err());
}

#[test]
fn names_that_leave_the_directory_or_do_not_fit_are_refused() {
    let long = "x".repeat(33);
    for bad in ["", ".", "..", "a/b", "../x", "a b", "a.b", "ä", "a\0b", long.as_str()] {
        assert!(matches!(LeaseTable::join(bad), Err(ObjectError::Name { .. })), "{bad:?}");
        assert!(matches!(LeaseTable::observe(bad), Err(ObjectError::Name { .. })), "{bad:?}");
        assert!(matches!(LeaseTable::remove_if_dead(bad), Err(ObjectError::Name { .. })), "{bad:?}");
    }
    assert!(names::check_part(&"x".repeat(32)).is_ok());
    let i = Instance::new("names");
    let long_kernel = format!("encode.{long}");
    let longer = format!("{}.{}", "x".repeat(32), "y".repeat(32));
    for bad in ["", ".", "encode.", ".main", "encode..main", "encode/main", "../../etc/x", &long_kernel, &longer] {
        let entered = Candidate::enter(&i.table(), bad, false);
        assert!(matches!(entered, Err(ObjectError::Name { .. })), "{bad:?}");
    }
    assert!(i.table().kernels().is_empty(), "a refused name was entered");
    // A role's name has 31 bytes.
    let lease = i.lease(CAPTURE);
    let ring = spec(CAPTURE, &[(&format!("encode.{}", "x".repeat(25)), true)], Policy::Live, 4);
    assert!(Producer::open(&lease, &ring, &directory()).is_err());
}

// ---- truncation ---------------------------------------------------------------------------------

#[test]
fn a_ring_truncated_while_mapped_is_an_error_and_not_a_signal() {
    for bytes in [0, 4096, 0x3000] {
        let i = Instance::new(&format!("trunc{bytes}"));
        let end = Child::spawn(|| {
            let (_lease, mut producer) = capture(&i, 8);
            produce(&mut producer, 1, &format());
            let reader = i.lease(PROCESS);
            let mut consumer = Consumer::attach(&reader, PROCESS, CAPTURE, &directory(), &i.dir).unwrap();
            let file = std::fs::OpenOptions::new().write(true).open(i.path(CAPTURE)).unwrap();
            file.set_len(bytes).unwrap();
            let broken =
                |result: Result<(), RingError>| matches!(result, Err(RingError::Truncated | RingError::Corrupt { .. }));
            // The first call may find the hole in its middle; from then on it is known.
            let first = consumer.acquire().map(|_| ());
            let second = consumer.acquire().map(|_| ());
            assert!(broken(first) || broken(second) || bytes == 0x3000, "{first:?} {second:?}");
            for _ in 0..10 {
                let _ = producer.claim();
            }
            assert!(broken(producer.claim().map(|_| ())) || bytes == 0x3000);
            consumer.wait(0, shm_protocol::clock::monotonic_ns() + 1_000_000, Some(&producer));
        })
        .join();
        assert_eq!(end, End::Exit(0), "truncated to {bytes}");
    }
}

#[test]
fn a_pool_truncated_while_mapped_reads_as_zeros_and_says_so() {
    let i = Instance::new("truncpool");
    let end = Child::spawn(|| {
        let (_lease, mut producer) = capture(&i, 4);
        let reader = i.lease(PROCESS);
        let mut consumer = Consumer::attach(&reader, PROCESS, CAPTURE, &directory(), &i.dir).unwrap();
        produce(&mut producer, 7, &format());
        let taken = consumer.acquire().unwrap().unwrap();
        assert_eq!(pixels_id(&mut consumer, &taken), 7);
        let file = std::fs::OpenOptions::new().write(true).open(i.path("capture.main.pool1")).unwrap();
        file.set_len(0).unwrap();
        assert_eq!(pixels_id(&mut consumer, &taken), 0);
        assert!(consumer.pool(&taken).unwrap().is_broken());
        // Its writer notices too, and does not die.
        produce(&mut producer, 8, &format());
    })
    .join();
    assert_eq!(end, End::Exit(0));
}

// ---- garbage in the control segment -------------------------------------------------------------

/// Reads every byte a frame says it has: an extent outside its mapping would be a signal.
fn touch(consumer: &mut Consumer, taken: &shm_protocol::input::Taken) {
    let details = consumer.details(taken);
    let _ = details.parts(taken.head.buffer.len).count();
    if let Ok((base, len)) = consumer.bytes(taken) {
        for at in (0..len).step_by(512).chain(len.checked_sub(1)) {
            // SAFETY: `bytes` promises that these are mapped; that is what is tested.
            std::hint::black_box(unsafe { base.as_ptr().add(at).read_volatile() });
        }
    }
    let Ok(StreamFormat::Video(format)) = consumer.format(taken) else { return };
    if let Ok(pixels) = consumer.pixels(taken, &format) {
        let mut row = vec![0u8; 1 << 20];
        for plane in 0..format.pixel_format.planes() {
            let rows = format.pixel_format.rows(plane, format.coded_height);
            if rows > 0 && format.pixel_format.row_bytes(plane, format.width) as usize <= row.len() {
                pixels.copy_row(plane, rows - 1, &mut row);
            }
        }
    }
}

/// A word of the control segment and what a vandal writes there.
#[derive(Debug, Clone, Copy)]
enum Damage {
    /// Any value.
    Set(usize, u64),
    /// One bit.
    Flip(usize, u32),
}

/// Words that matter: header, masks, roles, pools, formats, slots in use.
fn any_word() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => 0usize..16,
        2 => 16usize..32,
        1 => 32usize..0x840 / 8,
        2 => at::POOLS..at::POOLS + 3 * 32,
        2 => at::FORMATS..at::FORMATS + 3 * 32,
        6 => at::SLOT_0..at::SLOT_0 + 4 * at::SLOT_WORDS,
    ]
}

/// Numbers at which arithmetic breaks, and words that look right.
fn any_value() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(u64::MAX - 1),
        Just(1 << 63),
        Just(0xffff_ffff),
        Just(2 << 16 | 0xffff),
        Just(7 << 16),
        (0u64..70, 0u64..8, 0u64..256, 0u64..256).prop_map(|(s, st, h, o)| s << 32 | st << 16 | h << 8 | o),
        (0u64..4, 0u64..4).prop_map(|(ring, generation)| ring << 32 | generation),
        (any::<u32>(), any::<u32>()).prop_map(|(offset, len)| u64::from(offset) << 32 | u64::from(len)),
        0u64..100_000,
        any::<u64>(),
    ]
}

fn any_damage() -> impl Strategy<Value = Vec<Damage>> {
    let one = prop_oneof![
        (any_word(), any_value()).prop_map(|(w, v)| Damage::Set(w, v)),
        (any_word(), 0u32..64).prop_map(|(w, b)| Damage::Flip(w, b)),
    ];
    prop::collection::vec(one, 1..12)
}

fn vandalise(raw: &SharedFile, damage: Damage) {
    match damage {
        Damage::Set(word, value) => raw.words()[word].store(value, Ordering::SeqCst),
        Damage::Flip(word, bit) => {
            raw.words()[word].fetch_xor(1 << bit, Ordering::SeqCst);
        }
    }
}

/// A pipeline that runs while its rings are vandalised, and again after restarts over what is left.
fn run_under(i: &Instance, damages: &[Damage]) {
    let pools = directory();
    let mut first = true;
    // Every restart adopts the damage.
    for _ in 0..2 {
        let (a, b, c) = (i.lease(CAPTURE), i.lease(PROCESS), i.lease(ENCODE));
        let in_spec = spec(CAPTURE, &[(PROCESS, true)], Policy::Live, 4);
        let out_spec = spec(PROCESS, &[(ENCODE, true)], Policy::Live, 4);
        let stop = || {
            for lease in [&a, &b, &c] {
                assert!(lease.is_current());
            }
        };
        let Ok((mut source, _)) = Producer::open(&a, &in_spec, &pools) else { return stop() };
        if source.set_pool(PoolKind::PosixShm, format().frame_bytes(), &i.dir).is_err()
            || source.set_format(&StreamFormat::Video(format())).is_err()
        {
            return stop();
        }
        let Ok((output, _)) = Producer::open(&b, &out_spec, &pools) else { return stop() };
        let Ok(input) = Consumer::attach(&b, PROCESS, CAPTURE, &directory(), &i.dir) else { return stop() };
        let mut stage = Stage::new(input, output, 0);
        let Ok(mut sink) = Consumer::attach(&c, ENCODE, PROCESS, &directory(), &i.dir) else { return stop() };
        let rings = [
            SharedFile::map(&i.path(CAPTURE), SEGMENT_WORDS * 8),
            SharedFile::map(&i.path(PROCESS), SEGMENT_WORDS * 8),
        ];
        let mut damages = damages.iter().enumerate();
        for turn in 0..12u64 {
            if first
                && turn > 1
                && let Some((n, damage)) = damages.next()
            {
                vandalise(&rings[n % 2], *damage);
            }
            let id = source.last_key().id().saturating_add(1);
            let key = shm_protocol::slot::Key::whole(id);
            if let Ok(Some(claim)) = source.claim() {
                let _ = source.buffer(&claim).len();
                let buffer = source.extent(&claim, 0, format().frame_bytes() as u32);
                let head = shm_protocol::descriptor::FrameHead { key, buffer, ..Default::default() };
                let _ = source.publish(claim, head, &FrameDetails::default());
            }
            let _ = source.drop_expired();
            if let Ok(Next::Frame(taken)) = stage.next_frame() {
                touch(&mut stage.input, &taken);
                if let Ok(format) = stage.input.format(&taken) {
                    let _ = stage.output.set_format(&format);
                }
                if let Ok(pool) = stage.input.pool(&taken) {
                    let _ = stage.name_pool(pool.spec());
                }
                let details = stage.input.details(&taken);
                let _ = if turn % 3 == 0 {
                    stage.tombstone(&taken, TombstoneReason::BadFrame)
                } else {
                    stage.pass(&taken, &details)
                };
            }
            let _ = stage.harvest();
            stage.pace(usize::MAX);
            let _ = (stage.referring(), stage.output.memo(), stage.output.requests().pending());
            if let Ok(Some(taken)) = sink.acquire() {
                touch(&mut sink, &taken);
                let _ = sink.release(&taken);
            }
            if turn == 6 {
                let now = shm_protocol::clock::monotonic_ns();
                sink.wait(1000, now + 1000, Some(&stage.output));
                stage.output.wait_for_room(now + 1000);
                if let Ok(observer) = RingObserver::open(&i.name, CAPTURE) {
                    let _ = (observer.status(), observer.slots());
                }
            }
        }
        first = false;
        for lease in [a, b, c] {
            lease.stop();
        }
    }
}

#[test]
fn no_garbage_in_a_ring_makes_anybody_panic_or_read_outside() {
    let cases = std::env::var("QUAD_HOSTILE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(600);
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let number = std::cell::Cell::new(0);
    runner
        .run(&any_damage(), |damages| {
            number.set(number.get() + 1);
            let i = Instance::new(&format!("wild{}", number.get()));
            let end = Child::spawn(|| run_under(&i, &damages)).join_within(Duration::from_secs(20));
            prop_assert_eq!(end, End::Exit(0));
            Ok(())
        })
        .unwrap();
}

// ---- the descriptor socket ----------------------------------------------------------------------

fn pool_spec(i: &Instance) -> PoolSpec {
    PoolSpec {
        ring_uid: 1,
        generation: 1,
        kind: PoolKind::Memfd,
        buffers: 2,
        buffer_bytes: 4096,
        name: format!("quad.{}.capture.main.pool1", i.name),
    }
}

/// A message of the hand-over: a u32 length, then bincode with fixed little-endian integers.
fn framed(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32).to_le_bytes()[..], body].concat()
}

fn reply_pool(kind: u64, buffers: u32, buffer_bytes: u64) -> Vec<u8> {
    framed(
        &[&1u32.to_le_bytes()[..], &kind.to_le_bytes(), &buffers.to_le_bytes(), &buffer_bytes.to_le_bytes()].concat(),
    )
}

fn request_of(ring_uid: u32, generation: u32) -> Vec<u8> {
    framed(&[ring_uid.to_le_bytes(), generation.to_le_bytes()].concat())
}

fn memfd(bytes: u64, seals: i32) -> OwnedFd {
    // SAFETY: a new descriptor, owned at once.
    unsafe {
        let fd = libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        libc::ftruncate(fd, bytes as i64);
        assert_eq!(libc::fcntl(fd, libc::F_ADD_SEALS, seals), 0);
        OwnedFd::from_raw_fd(fd)
    }
}

fn send_with(stream: &UnixStream, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    let rights = [ControlMessage::ScmRights(&raw)];
    let rights: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
    let io = [std::io::IoSlice::new(bytes)];
    let _ = sendmsg::<()>(stream.as_raw_fd(), &io, rights, MsgFlags::MSG_NOSIGNAL, None);
}

/// Asks a server that answers as `answer` does.
fn ask(i: &Instance, answer: impl FnOnce(UnixStream) + Send + 'static) -> Result<Option<Pool>, ObjectError> {
    let path = i.dir.join("hostile.fd");
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path).unwrap();
    let server = std::thread::spawn(move || answer(listener.accept().unwrap().0));
    let got = shm_protocol::fdpass::request(&path, &pool_spec(i), Access::Read);
    server.join().unwrap();
    got
}

fn open_descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}

const SEALED: i32 = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;

#[test]
fn a_hostile_server_is_an_error_and_leaves_no_descriptor_behind() {
    let i = Instance::new("server");
    let good = reply_pool(2, 2, 4096);
    assert!(
        matches!(
            ask(&i, {
                let good = good.clone();
                move |s| send_with(&s, &good, &[std::os::fd::AsFd::as_fd(&memfd(8192, SEALED))])
            }),
            Ok(Some(_))
        ),
        "the honest answer"
    );
    let before = open_descriptors();
    type Answer = Box<dyn FnOnce(UnixStream) + Send>;
    let one = |bytes: Vec<u8>, size: u64, seals: i32| -> Answer {
        Box::new(move |s| send_with(&s, &bytes, &[std::os::fd::AsFd::as_fd(&memfd(size, seals))]))
    };
    let many = |count: usize| -> Answer {
        let bytes = good.clone();
        Box::new(move |s| {
            let fd = memfd(8192, SEALED);
            send_with(&s, &bytes, &vec![std::os::fd::AsFd::as_fd(&fd); count]);
        })
    };
    let plain = |bytes: Vec<u8>| -> Answer { Box::new(move |s| send_with(&s, &bytes, &[])) };
    let answers: Vec<(&str, Answer)> = vec![
        ("an early end", Box::new(drop)),
        ("garbage", plain(vec![0xff; 64])),
        ("a length beyond the limit", plain(vec![0xff, 0xff, 0xff, 0x7f, 1, 2, 3])),
        ("half a message", plain(good[..9].to_vec())),
        ("half a length", plain(good[..2].to_vec())),
        ("a flood", plain(vec![0x41; 100_000])),
        ("bytes too many", plain(framed(&[1; 60]))),
        ("no descriptor", plain(good.clone())),
        ("an unsealed memory", one(good.clone(), 8192, 0)),
        ("a short memory", one(good.clone(), 4096, SEALED)),
        ("another kind", one(reply_pool(1, 2, 4096), 8192, SEALED)),
        ("another geometry", one(reply_pool(2, 64, 1 << 40), 8192, SEALED)),
        ("a file", {
            let (bytes, path) = (good.clone(), i.dir.join("plain"));
            std::fs::write(&path, vec![0; 8192]).unwrap();
            Box::new(move |s| send_with(&s, &bytes, &[std::os::fd::AsFd::as_fd(&std::fs::File::open(path).unwrap())]))
        }),
        ("66 descriptors", many(66)),
        ("253 descriptors", many(253)),
        ("253 descriptors in the middle of a message", {
            let bytes = good[..6].to_vec();
            Box::new(move |s| {
                let fd = memfd(8192, SEALED);
                send_with(&s, &bytes, &vec![std::os::fd::AsFd::as_fd(&fd); 253]);
            })
        }),
    ];
    for (what, answer) in answers {
        let got = ask(&i, answer);
        assert!(matches!(got, Err(ObjectError::Peer { .. } | ObjectError::Mismatch { .. })), "{what}: {got:?}");
        drop(got);
        assert_eq!(open_descriptors(), before, "{what}: descriptors were left open");
    }
    // One that takes the request and says nothing.
    let begin = Instant::now();
    let got = ask(&i, |mut s| {
        let mut request = [0u8; 12];
        s.read_exact(&mut request).unwrap();
        assert_eq!(request[..], request_of(1, 1)[..]);
        let _ = s.read(&mut [0u8; 1]);
    });
    assert!(matches!(got, Err(ObjectError::Peer { .. })), "{got:?}");
    assert!(begin.elapsed() < Duration::from_secs(3), "waited {:?}", begin.elapsed());
    assert!(matches!(ask(&i, |s| send_with(&s, &framed(&[0; 4]), &[])), Ok(None)), "it does not have it");
    let nobody = shm_protocol::fdpass::request(Path::new("/nonexistent.fd"), &pool_spec(&i), Access::Read);
    assert!(matches!(nobody, Err(ObjectError::Missing { .. })));
}

#[test]
fn a_server_outlives_its_hostile_clients() {
    let i = Instance::new("client");
    let pools = directory();
    pools.add(Pool::create(pool_spec(&i)).unwrap().into());
    shm_protocol::fdpass::serve(&i.dir, CAPTURE, pools).unwrap();
    let path = shm_protocol::fdpass::socket_path(&i.dir, CAPTURE);
    let connect = || UnixStream::connect(&path).unwrap();
    let is_served = |what: &str| {
        let begin = Instant::now();
        let got = shm_protocol::fdpass::request(&path, &pool_spec(&i), Access::Read);
        assert!(matches!(got, Ok(Some(_))), "{what}: {got:?}");
        assert!(begin.elapsed() < Duration::from_secs(2));
    };
    is_served("at first");
    let before = open_descriptors();
    for bytes in [&b""[..], b"x", &[0xff; 400], &request_of(1, 1)[..7], &framed(&[9; 200])] {
        connect().write_all(bytes).unwrap(); // and gone
        is_served("after garbage");
    }
    // Descriptors sent with a request are nobody's.
    let fd = memfd(4096, 0);
    send_with(&connect(), &request_of(1, 1), &vec![std::os::fd::AsFd::as_fd(&fd); 100]);
    drop(fd);
    is_served("after unwanted descriptors");
    // A client that asks for what is not there.
    let mut unknown = pool_spec(&i);
    unknown.generation = 9;
    let got = shm_protocol::fdpass::request(&path, &unknown, Access::Read);
    assert!(matches!(got, Ok(None)), "{got:?}");
    // A client that connects and says nothing is dropped; the next one waits no longer than that.
    let silent = connect();
    std::thread::sleep(Duration::from_millis(600));
    is_served("after a silent client");
    drop(silent);
    // Clients that die in the middle.
    for _ in 0..10 {
        let client = Child::spawn(|| {
            let mut stream = UnixStream::connect(&path).unwrap();
            stream.write_all(&request_of(1, 1)[..5]).unwrap();
            // SAFETY: ends this child as a kill does.
            unsafe { libc::kill(libc::getpid(), libc::SIGKILL) };
        });
        assert_eq!(client.join(), End::Signal(libc::SIGKILL));
    }
    is_served("after clients that died");
    let end = Instant::now() + Duration::from_secs(2);
    while open_descriptors() > before && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(10));
    }
    // Fewer is fine: the server may not have closed the first connection when they were counted.
    assert!(open_descriptors() <= before, "descriptors were left open");
}
