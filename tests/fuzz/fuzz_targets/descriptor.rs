//! What a slot says of its frame: head, details, parts, side data, format and pool entries, all written by a peer.
//!
//! Feeds: words over the slot, its format entry and its pool entry of a ring with one published frame; then side data.
//! Holds: no panic; the head read is the one that lies there, bit for bit; parts lie within the frame; bytes that are
//! given lie within one buffer of the pool; a format that is accepted, entered anew, is read as the same; one that passes
//! its check against the frame's bytes has every row within them; side data that is read is no longer than its area and
//! reads the same when written again.
#![no_main]

use quad_fuzz::{Input, Instance, SharedFile, ring_words, small_format, small_ring};
use shm_protocol::descriptor::{FrameDetails, FrameHead, StageTime, StreamFormat, side};
use shm_protocol::frame::VideoFormat;
use shm_protocol::input::{Consumer, Taken};
use shm_protocol::lease::Lease;
use shm_protocol::output::Producer;
use shm_protocol::pool::{PoolDirectory, PoolKind};
use shm_protocol::slot::Key;
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const CAPTURE: &str = "capture.main";
const PROCESS: &str = "process.main";

struct World {
    instance: Instance,
    producer: Producer,
    _writer: Lease,
    reader: Lease,
    /// First word of the slot with the frame.
    slot: usize,
    raw: SharedFile,
    pristine: Vec<u64>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fn world() -> World {
    let instance = Instance::new("descriptor");
    let (writer, reader) = (instance.lease(CAPTURE), instance.lease(PROCESS));
    let pools = Arc::new(PoolDirectory::default());
    let (mut producer, _) = Producer::open(&writer, &small_ring(CAPTURE, PROCESS), &pools).expect("a new ring");
    producer.set_pool(PoolKind::PosixShm, small_format().frame_bytes(), &instance.dir).expect("a pool");
    producer.set_format(&StreamFormat::Video(small_format())).expect("a format");
    let claim = producer.claim().expect("a sound ring").expect("a free slot");
    let slot = ring_words::SLOTS + usize::from(claim.index()) * ring_words::ENTRY;
    let buffer = producer.extent(&claim, 0, small_format().frame_bytes() as u32);
    let head = FrameHead { key: Key::whole(1), buffer, ..FrameHead::default() };
    producer.publish(claim, head, &FrameDetails::default()).expect("a sound ring");
    let raw = SharedFile::map(&instance.path(CAPTURE));
    let pristine = raw.copy();
    World { instance, producer, _writer: writer, reader, slot, raw, pristine }
}

fn check_head(head: &FrameHead, slot: &[u64]) {
    assert_eq!(head.key.0, slot[2]);
    assert_eq!((u64::from(head.flags), u64::from(head.format_index)), (slot[3] & 0xffff, slot[3] >> 16 & 0xffff));
    assert_eq!((u64::from(head.buffer.index), head.capture_ns), (slot[3] >> 32 & 0xffff, slot[4]));
    assert_eq!(
        (u64::from(head.buffer.ring_uid), u64::from(head.buffer.generation)),
        (slot[5] >> 32, slot[5] & 0xffff_ffff)
    );
    assert_eq!((u64::from(head.buffer.offset), u64::from(head.buffer.len)), (slot[6] >> 32, slot[6] & 0xffff_ffff));
    assert_eq!(head.reference.is_some(), slot[7] >> 48 != 0);
}

fn check_side(area: &[u8]) {
    let items: Vec<(u16, &[u8])> = side::items(area).collect();
    let mut again = vec![0u8; area.len()];
    let mut used = 0;
    for (kind, value) in &items {
        assert_ne!(*kind, 0, "type 0 ends");
        used = side::push(&mut again, used, *kind, value).expect("what was read fits again");
    }
    assert!(used <= area.len());
    assert_eq!(side::items(&again).collect::<Vec<_>>(), items);
}

/// Every row of every plane lies within the bytes.
fn check_rows(format: &VideoFormat, bytes: u64) {
    for plane in 0..format.pixel_format.planes() {
        let layout = format.planes[plane];
        let rows = u64::from(format.pixel_format.rows(plane, format.coded_height));
        let row_bytes = u64::from(format.pixel_format.row_bytes(plane, format.width));
        if let Some(last) = rows.checked_sub(1) {
            assert!(u64::from(layout.offset) + last * u64::from(layout.stride) + row_bytes <= bytes);
        }
    }
}

fn check_frame(world: &mut World, consumer: &mut Consumer, taken: &Taken) {
    let slot: Vec<u64> = world.raw.copy()[world.slot..][..ring_words::ENTRY].to_vec();
    check_head(&taken.head, &slot);
    let details = consumer.details(taken);
    assert_eq!(details.source_position, slot[9]);
    let _ = details.time(StageTime::EncodeDone);
    let len = taken.head.buffer.len;
    assert!(
        details.parts(len).all(|part| part.len > 0 && u64::from(part.offset) + u64::from(part.len) <= u64::from(len))
    );
    let tail: Vec<u8> = details.tail.iter().flat_map(|word| word.to_le_bytes()).collect();
    check_side(&tail);
    let bytes = consumer.bytes(taken).ok();
    if let Some((base, count)) = bytes {
        let pool = consumer.pool(taken).expect("the pool of bytes that were given");
        let buffer = pool.buffer(taken.head.buffer.index).expect("its buffer");
        let offset = base.as_ptr() as usize - buffer.as_ptr() as usize;
        assert!((offset + count) as u64 <= pool.spec().buffer_bytes);
        // SAFETY: `bytes` promises that these are mapped; that is what is tested.
        count.checked_sub(1).map(|last| std::hint::black_box(unsafe { base.as_ptr().add(last).read_volatile() }));
    }
    let Ok(format) = consumer.format(taken) else { return };
    if let Some(video) = format.video() {
        let _ = (video.fps.interval_ns(), video.fps.frame_time_ns(u64::MAX), video.frame_bytes());
        if video.check(u64::from(len)).is_ok() {
            check_rows(video, u64::from(len));
        }
        assert_eq!(bytes.is_some() && video.check(u64::from(len)).is_ok(), consumer.pixels(taken, video).is_ok());
    }
    // Entered anew by an honest producer, in the place of the entry just read.
    let entry = ring_words::FORMATS + usize::from(taken.head.format_index) * ring_words::ENTRY;
    let words = world.raw.words();
    (0..16).for_each(|at| words[ring_words::FORMATS + at * ring_words::ENTRY].store(0, Ordering::SeqCst));
    words[entry].store(0, Ordering::SeqCst);
    // The producer remembers what it entered last: another format between makes it forget.
    world.producer.set_format(&StreamFormat::Data).expect("the lease is held");
    words[ring_words::FORMATS].store(0, Ordering::SeqCst);
    world.producer.set_format(&format).expect("the lease is held");
    if format != StreamFormat::Data {
        words[world.slot + 3].fetch_and(!(0xffff << 16), Ordering::SeqCst);
        let mut other = attach(world).expect("the header is sound");
        let taken = other.acquire().expect("a sound ring").expect("the frame is owed");
        assert_eq!(other.format(&taken).expect("an honest entry"), format);
    }
}

fn attach(world: &World) -> Option<Consumer> {
    let pools = Arc::new(PoolDirectory::default());
    Consumer::attach(&world.reader, PROCESS, CAPTURE, &pools, &world.instance.dir).ok()
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| WORLD.with_borrow_mut(|slot| {
    let world = slot.get_or_insert_with(world);
    world.raw.restore(&world.pristine);
    let mut input = Input(data);
    for _ in 0..input.u8() % 32 {
        let (at, value) = (usize::from(input.u8()), input.u64());
        // State and sequence number stay: the frame is owed. Pool and format entry are the first.
        let word = match at {
            0..128 => world.slot + 2 + at % 30,
            128..192 => ring_words::FORMATS + at % 32,
            _ => ring_words::POOLS + at % 32,
        };
        world.raw.words()[word].store(value, Ordering::SeqCst);
    }
    check_side(input.0);
    let Some(mut consumer) = attach(world) else { return };
    if let Ok(Some(taken)) = consumer.acquire() {
        check_frame(world, &mut consumer, &taken);
    }
}));
