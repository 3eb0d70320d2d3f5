//! A kernel's telemetry page, as anybody may find or damage it.
//!
//! Feeds: words over a page, which is then read as `quad status` does and written on as its kernel does.
//! Holds: no panic; a percentile is made of at most as many samples as a page has, and the percentiles rise; at most 64
//! cores; texts are no longer than their fields.
#![no_main]

use quad_fuzz::{Input, Instance, SharedFile};
use shm_protocol::clock::monotonic_ns;
use shm_protocol::telemetry::{Counter, Measure, Telemetry, TelemetryReader};
use std::cell::RefCell;
use std::sync::atomic::Ordering;

struct World {
    instance: Instance,
    page: Telemetry,
    raw: SharedFile,
    pristine: Vec<u64>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fn world() -> World {
    let instance = Instance::new("telemetry");
    let page = Telemetry::create(&instance.name, "encode.main", 1).expect("a page");
    page.set_backend("openh264");
    for us in 1..=50u64 {
        page.sample(Measure::Work, monotonic_ns(), us * 1000);
    }
    let raw = SharedFile::map(&instance.path("encode.main.tm1"));
    let pristine = raw.copy();
    World { instance, page, raw, pristine }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| WORLD.with_borrow_mut(|slot| {
    let w = slot.get_or_insert_with(world);
    w.raw.restore(&w.pristine);
    let mut input = Input(data);
    while !input.is_empty() {
        let at = usize::from(input.u16());
        let words = w.raw.words();
        // Half of the writes go to the head, where the fields are; the rest is samples.
        let at = if at & 1 == 0 { at / 2 % words.len().min(128) } else { at % words.len() };
        words[at].store(input.u64(), Ordering::Relaxed);
    }
    let now = monotonic_ns();
    w.page.frame(now);
    w.page.error();
    w.page.add(Counter::IdrRequests, 3);
    w.page.sample(Measure::Work, now, 5000);
    w.page.set_message("a message");
    w.page.tick(now);
    let Some(reader) = TelemetryReader::open(&w.instance.name, "encode.main", 1) else { return };
    let snapshot = reader.snapshot();
    assert!(snapshot.cpus.len() <= 64);
    for m in snapshot.measures {
        assert!(m.count <= w.raw.words().len());
        assert!(m.p50 <= m.p95 && m.p95 <= m.p99 && m.p99 <= m.max);
    }
    for text in [&snapshot.backend, &snapshot.codec, &snapshot.path, &snapshot.message] {
        // A byte that is no UTF-8 becomes three.
        assert!(text.len() <= 3 * 256);
    }
}));
