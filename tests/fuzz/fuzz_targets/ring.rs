//! Rings whose control segments somebody writes to while a pipeline of three kernels runs over them.
//!
//! Feeds: a program of steps: publish, pass on, take, restart an end, look, and between them words written into either
//! ring's segment, at the places that matter.
//! Holds: no panic, no hang, every answer an error or a skipped frame; what `bytes` gives lies within one buffer of the
//! pool it names, is mapped and readable; views of pixels stay within; no lease is lost by what a ring says.
#![no_main]

use quad_fuzz::{Input, Instance, SharedFile, ring_words, small_format, small_ring};
use shm_protocol::descriptor::{FrameDetails, FrameHead, StreamFormat, TombstoneReason};
use shm_protocol::input::{Consumer, Taken};
use shm_protocol::lease::Lease;
use shm_protocol::observe::RingObserver;
use shm_protocol::output::Producer;
use shm_protocol::pool::{PoolDirectory, PoolKind};
use shm_protocol::slot::Key;
use shm_protocol::stage::{Next, Stage};
use shm_protocol::{clock, names};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const CAPTURE: &str = "capture.main";
const PROCESS: &str = "process.main";
const ENCODE: &str = "encode.main";

struct World {
    instance: Instance,
    leases: [Lease; 3],
    raw: [SharedFile; 2],
    pristine: [Vec<u64>; 2],
    objects: Vec<String>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fn world() -> World {
    let instance = Instance::new("ring");
    let leases = [CAPTURE, PROCESS, ENCODE].map(|kernel| instance.lease(kernel));
    let pools = Arc::new(PoolDirectory::default());
    for (kernel, reader, lease) in [(CAPTURE, PROCESS, &leases[0]), (PROCESS, ENCODE, &leases[1])] {
        let (mut producer, _) = Producer::open(lease, &small_ring(kernel, reader), &pools).expect("a new ring");
        producer.set_pool(PoolKind::PosixShm, small_format().frame_bytes(), &instance.dir).expect("a pool");
        producer.set_format(&StreamFormat::Video(small_format())).expect("a format");
    }
    let raw = [CAPTURE, PROCESS].map(|kernel| SharedFile::map(&instance.path(kernel)));
    let pristine = [raw[0].copy(), raw[1].copy()];
    let objects = names::existing(&instance.name);
    World { instance, leases, raw, pristine, objects }
}

/// Reads every byte a frame says it has.
fn touch(consumer: &mut Consumer, taken: &Taken) {
    let details = consumer.details(taken);
    for part in details.parts(taken.head.buffer.len) {
        assert!(u64::from(part.offset) + u64::from(part.len) <= u64::from(taken.head.buffer.len));
    }
    let at = taken.head.buffer;
    if let Ok((base, len)) = consumer.bytes(taken) {
        let pool = consumer.pool(taken).expect("the pool of bytes that were given");
        let buffer = pool.buffer(at.index).expect("the buffer of bytes that were given");
        let offset = base.as_ptr() as usize - buffer.as_ptr() as usize;
        assert!(len == at.len as usize && (offset + len) as u64 <= pool.spec().buffer_bytes);
        for at in (0..len).step_by(512).chain(len.checked_sub(1)) {
            // SAFETY: `bytes` promises that these are mapped; that is what is tested.
            std::hint::black_box(unsafe { base.as_ptr().add(at).read_volatile() });
        }
    }
    let Ok(StreamFormat::Video(format)) = consumer.format(taken) else { return };
    if let Ok(pixels) = consumer.pixels(taken, &format) {
        let mut row = vec![0u8; 1 << 18];
        for plane in 0..format.pixel_format.planes() {
            let rows = format.pixel_format.rows(plane, format.coded_height);
            if rows > 0 {
                pixels.copy_row(plane, rows - 1, &mut row);
            }
        }
    }
}

struct Pipeline<'w> {
    world: &'w World,
    source: Option<Producer>,
    stage: Option<Stage>,
    sink: Option<Consumer>,
}

impl Pipeline<'_> {
    fn start_source(&mut self) {
        self.source = None;
        let pools = Arc::new(PoolDirectory::default());
        let lease = &self.world.leases[0];
        let Ok((mut source, _)) = Producer::open(lease, &small_ring(CAPTURE, PROCESS), &pools) else { return };
        let bytes = small_format().frame_bytes();
        if source.set_pool(PoolKind::PosixShm, bytes, &self.world.instance.dir).is_ok()
            && source.set_format(&StreamFormat::Video(small_format())).is_ok()
        {
            self.source = Some(source);
        }
    }

    fn start_stage(&mut self) {
        self.stage = None;
        let (pools, lease) = (Arc::new(PoolDirectory::default()), &self.world.leases[1]);
        let Ok((output, _)) = Producer::open(lease, &small_ring(PROCESS, ENCODE), &pools) else { return };
        self.stage = Consumer::attach(lease, PROCESS, CAPTURE, &pools, &self.world.instance.dir)
            .ok()
            .map(|input| Stage::new(input, output, 0));
    }

    fn start_sink(&mut self) {
        let (pools, lease) = (Arc::new(PoolDirectory::default()), &self.world.leases[2]);
        self.sink = Consumer::attach(lease, ENCODE, PROCESS, &pools, &self.world.instance.dir).ok();
    }

    fn publish(&mut self) {
        let Some(source) = &mut self.source else { return };
        if let Ok(Some(claim)) = source.claim() {
            source.buffer(&claim)[..8].fill(0xaa);
            let key = Key::whole(source.last_key().id().saturating_add(1));
            let buffer = source.extent(&claim, 0, small_format().frame_bytes() as u32);
            let head = FrameHead { key, buffer, capture_ns: clock::monotonic_ns(), ..FrameHead::default() };
            let _ = source.publish(claim, head, &FrameDetails::default());
        }
        let _ = source.drop_expired();
        let _ = (source.memo(), source.requests().pending(), source.outstanding());
    }

    fn pass_on(&mut self, tombstone: bool) {
        let Some(stage) = &mut self.stage else { return };
        if let Ok(Next::Frame(taken)) = stage.next_frame() {
            touch(&mut stage.input, &taken);
            if let Ok(format) = stage.input.format(&taken) {
                let _ = stage.output.set_format(&format);
            }
            if let Ok(pool) = stage.input.pool(&taken) {
                let _ = stage.name_pool(pool.spec());
            }
            let details = stage.input.details(&taken);
            let _ = if tombstone {
                stage.tombstone(&taken, TombstoneReason::BadFrame)
            } else {
                stage.pass(&taken, &details)
            };
        }
        let _ = stage.harvest();
        stage.pace(2);
    }

    fn take(&mut self) {
        let Some(sink) = &mut self.sink else { return };
        if let Ok(Some(taken)) = sink.acquire() {
            touch(sink, &taken);
            let _ = sink.release(&taken);
        }
        let _ = (sink.backlog(), sink.waiting(), sink.is_bridging());
    }

    fn look(&self) {
        for kernel in [CAPTURE, PROCESS] {
            if let Ok(observer) = RingObserver::open(&self.world.instance.name, kernel) {
                let status = observer.status();
                assert!(status.slots <= 64 && status.roles.len() <= 8 && observer.slots().len() == status.slots);
            }
        }
    }

    fn wait(&self) {
        let deadline = clock::monotonic_ns() + 1000;
        if let (Some(sink), Some(stage)) = (&self.sink, &self.stage) {
            sink.wait(0, deadline, Some(&stage.output));
            stage.output.wait_for_room(deadline);
        }
    }

    fn damage(&self, input: &mut Input<'_>, flip: bool) {
        let which = input.u8();
        let word = &self.world.raw[usize::from(which >> 7)].words()[ring_words::pick(which, input.u8())];
        if flip {
            word.fetch_xor(1 << (input.u8() % 64), Ordering::SeqCst);
        } else {
            word.store(input.u64(), Ordering::SeqCst);
        }
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| WORLD.with_borrow_mut(|slot| {
    let world = slot.get_or_insert_with(world);
    for (raw, pristine) in world.raw.iter().zip(&world.pristine) {
        raw.restore(pristine);
    }
    let mut pipeline = Pipeline { world, source: None, stage: None, sink: None };
    pipeline.start_source();
    pipeline.start_stage();
    pipeline.start_sink();
    let mut input = Input(data);
    while !input.is_empty() {
        match input.u8() % 16 {
            0..=2 => pipeline.publish(),
            3 | 4 => pipeline.pass_on(false),
            5 => pipeline.pass_on(true),
            6 | 7 => pipeline.take(),
            8 => pipeline.start_source(),
            9 => pipeline.start_stage(),
            10 => pipeline.start_sink(),
            11 => pipeline.look(),
            12 => pipeline.wait(),
            13 => pipeline.damage(&mut input, true),
            _ => pipeline.damage(&mut input, false),
        }
    }
    drop(pipeline);
    assert!(world.leases.iter().all(Lease::is_current));
    // A damaged pool table makes new generations: they go, and a world whose own pool went is made anew.
    let objects = names::existing(&world.instance.name);
    objects.iter().filter(|name| !world.objects.contains(name)).for_each(|name| names::unlink(name));
    if !world.objects.iter().all(|name| objects.contains(name)) {
        *slot = None;
    }
}));
