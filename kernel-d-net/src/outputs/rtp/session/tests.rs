use super::*;
use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    rc::Rc,
};

fn constants() -> Constants {
    Constants {
        ssrc: 0xdead_beef,
        ts_offset: 0xffff_fff0,
        first_index: 0x7ffe,
        payload_type: 96,
        source_port: 40_000,
        rtcp_port: 40_001,
        cname: "abcdefghijklmnop".into(),
        key_reference: 7,
        real_minus_monotonic_ns: -5,
    }
}

fn memory() -> Vec<AtomicU64> {
    (0..SESSION_WORDS).map(|_| AtomicU64::new(0)).collect()
}

#[test]
fn constants_and_counters_survive_the_process() {
    let memory = memory();
    let (mut first, how) = Session::create_or_resume(&memory[..], constants(), 1200).unwrap();
    assert_eq!(how, Resume::Created);
    assert_eq!(first.begin((1, 0), 11, 10, 5000, 77), 0x7ffe);
    first.progress(4);
    let other = Constants { ssrc: 1, cname: "other".into(), ..constants() };
    let (mut second, how) = Session::create_or_resume(&memory[..], other, 900).unwrap();
    assert_eq!(how, Resume::Resumed);
    assert_eq!(second.constants(), &constants());
    assert_eq!(second.payload_bytes(), 1200);
    assert_eq!(second.totals(), Totals { packets: 4, octets: 2000, burned: 0 });
    assert!(!second.set_payload_bytes(900), "not in the middle of an access unit");
    assert_eq!(second.resume_point((1, 0), 11, 10), ResumePoint::Continue { first_index: 0x7ffe, sent: 4, rtp_ts: 77 });
    second.finish();
    assert_eq!(second.resume_point((1, 0), 11, 10), ResumePoint::Done);
    assert_eq!(second.resume_point((1, 1), 11, 10), ResumePoint::New);
    assert!(second.set_payload_bytes(900));
    assert_eq!(second.begin((1, 1), 1, 2, 3, 4), 0x7ffe + 10);
    assert_eq!(second.totals(), Totals { packets: 10, octets: 5000, burned: 0 });
}

#[test]
fn a_session_whose_words_were_lost_goes_on_in_others() {
    let (lost, found) = (memory(), memory());
    let (mut session, _) = Session::create_or_resume(&lost[..], constants(), 1200).unwrap();
    session.begin((1, 0), 11, 10, 5000, 77);
    session.finish();
    session.begin((2, 0), 12, 6, 3000, 78);
    session.progress(4);
    lost.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    session.move_to(&found[..]).unwrap();
    let (resumed, how) = Session::create_or_resume(&found[..], Constants { ssrc: 1, ..constants() }, 900).unwrap();
    assert_eq!(how, Resume::Resumed);
    assert_eq!((resumed.constants(), resumed.payload_bytes()), (&constants(), 1200));
    assert_eq!(resumed.totals(), session.totals());
    let point = ResumePoint::Continue { first_index: 0x7ffe + 10, sent: 4, rtp_ts: 78 };
    assert_eq!(resumed.resume_point((2, 0), 12, 6), point);
    assert_eq!(resumed.resume_point((1, 0), 11, 10), ResumePoint::Done);
    assert!(matches!(session.move_to(&found[..4]), Err(SessionError::Words { .. })));
}

#[test]
fn damaged_counts_are_no_panic() {
    let memory = memory();
    let (mut s, _) = Session::create_or_resume(&memory[..], constants(), 1200).unwrap();
    s.begin((5, 0), 11, 10, 5000, 77);
    // Everything of the record behind the key, its first index and its time stamp: counts that anybody may have written.
    for count in [5, 6, 7, 8] {
        memory[word::RECORDS[1] + count].store(u64::MAX, Ordering::Relaxed);
    }
    let (mut s, how) = Session::create_or_resume(&memory[..], constants(), 1200).unwrap();
    assert_eq!(how, Resume::Resumed);
    s.progress(1);
    assert_eq!(s.begin((6, 0), 1, 2, 3, 4), 0x7ffe + 10, "the indices are what receivers see: they go on");
    assert_eq!(s.totals().burned, 8, "and the counts wrap");
    // A generation whose successor is none is no stream.
    memory[word::GENERATION].store(u64::MAX, Ordering::Relaxed);
    let (_, how) = Session::create_or_resume(&memory[..], constants(), 1200).unwrap();
    assert!(matches!(how, Resume::Replaced { .. }), "{how:?}");
}

#[test]
fn progress_of_a_generation_that_was_never_begun_does_not_end_the_stream_when_it_is() {
    let memory = memory();
    let (mut s, _) = Session::create_or_resume(&memory[..], constants(), 1200).unwrap();
    s.begin((5, 0), 11, 10, 5000, 77);
    memory[word::PROGRESS].store(2 << 32 | 50, Ordering::Relaxed);
    let (mut s, _) = Session::create_or_resume(&memory[..], constants(), 1200).unwrap();
    s.begin((6, 0), 12, 4, 3000, 78);
    let (s, how) = Session::create_or_resume(&memory[..], constants(), 1200).unwrap();
    assert_eq!((how, s.sent()), (Resume::Resumed, 0));
}

#[test]
fn changed_bytes_or_a_missing_access_unit_burn_the_indices() {
    for point in [((5, 0), 99, 10), ((5, 0), 11, 9), ((6, 0), 11, 10)] {
        let memory = memory();
        let (mut s, _) = Session::create_or_resume(&memory[..], constants(), 1200).unwrap();
        s.begin((5, 0), 11, 10, 5000, 77);
        s.progress(3);
        let (mut s, _) = Session::create_or_resume(&memory[..], constants(), 1200).unwrap();
        let (key, crc, n) = point;
        assert_eq!(s.resume_point(key, crc, n), ResumePoint::Burn { first_index: 0x7ffe, packets: 10, sent: 3 });
        assert_eq!(s.resume_point((4, 9), 11, 10), ResumePoint::Done, "older keys are not owed");
        assert_eq!(s.begin(key, crc, n, 1, 2), 0x7ffe + 10);
        assert_eq!(s.totals(), Totals { packets: 3, octets: 1500, burned: 7 });
    }
}

#[test]
fn another_version_or_damage_starts_a_new_stream() {
    for damage in [word::VERSION, word::CONSTANTS, word::CONSTANTS_CHECK, word::PROGRESS, word::RECORDS[1] + 3] {
        let memory = memory();
        let (mut s, _) = Session::create_or_resume(&memory[..], constants(), 1200).unwrap();
        s.begin((5, 0), 11, 10, 5000, 77);
        s.progress(3);
        memory[damage].fetch_xor(0x00f0_0000_0000_0080, Ordering::Relaxed);
        let found = memory[word::VERSION].load(Ordering::Relaxed);
        let new = Constants { ssrc: 2, ..constants() };
        let (s, how) = Session::create_or_resume(&memory[..], new.clone(), 1200).unwrap();
        if damage == word::PROGRESS {
            // Progress of another generation counts as none: the batch goes out again.
            assert_eq!((how, s.sent()), (Resume::Resumed, 0));
            continue;
        }
        assert_eq!(how, Resume::Replaced { found });
        assert_eq!((s.constants(), s.totals()), (&new, Totals::default()));
    }
}

#[test]
fn unusable_constants_and_memory_are_refused() {
    let memory = memory();
    let short = Session::create_or_resume(&memory[..SESSION_WORDS - 1], constants(), 1200);
    assert!(matches!(short, Err(SessionError::Words { .. })));
    for cname in ["", "a b", "ä", &"x".repeat(MAX_CNAME_BYTES + 1)] {
        let bad = Constants { cname: cname.into(), ..constants() };
        assert!(matches!(Session::create_or_resume(&memory[..], bad, 1200), Err(SessionError::Cname(_))), "{cname}");
    }
    let bad = Constants { payload_type: 128, ..constants() };
    assert!(matches!(Session::create_or_resume(&memory[..], bad, 1200), Err(SessionError::PayloadType(128))));
    let longest = Constants { cname: "x".repeat(MAX_CNAME_BYTES), ..constants() };
    assert_eq!(Constants::from_words(&longest.to_words()), Some(longest));
}

#[test]
fn random_constants_differ_and_leave_room_before_the_first_wrap() {
    let (a, b) = (Constants::random(96, 1, 2, 3).unwrap(), Constants::random(96, 1, 2, 3).unwrap());
    assert_ne!((a.ssrc, a.ts_offset, &a.cname), (b.ssrc, b.ts_offset, &b.cname));
    assert!(a.first_index < 1 << 15 && a.cname.len() == 16);
    a.check().unwrap();
}

#[test]
fn timestamps_are_exact_and_wrap() {
    assert_eq!(rtp_timestamp(0, 1_000_000_000), 90_000);
    assert_eq!(rtp_timestamp(u32::MAX, 11_112), 0); // 1.00008 ticks
    assert_eq!(rtp_timestamp(5, u64::MAX), 5u32.wrapping_add((u64::MAX as u128 * 9 / 100_000) as u32));
    let year_ns = 365 * 86_400 * 1_000_000_000u64;
    assert_eq!(rtp_timestamp(0, year_ns + 100_000).wrapping_sub(rtp_timestamp(0, year_ns)), 9);
}

/// The world around a sender that dies: memory, wire and ring survive, the process does not.
#[derive(Clone, Default)]
struct World {
    words: Rc<RefCell<Vec<u64>>>,
    /// Steps left until death.
    fuse: Rc<Cell<u32>>,
    /// Index, key and packet number within it: what the bytes depend on.
    wire: Rc<RefCell<Vec<(u64, u64, u32)>>>,
    released: Rc<RefCell<Vec<u64>>>,
}

struct Death;

impl World {
    fn new() -> World {
        World { words: Rc::new(RefCell::new(vec![0; SESSION_WORDS])), ..World::default() }
    }

    /// A step has just been done; the process may die after it.
    fn step(&self) {
        match self.fuse.get() {
            0 => resume_unwind(Box::new(Death)),
            left => self.fuse.set(left - 1),
        }
    }

    /// Runs a process until it is done (true) or dies after `fuse` steps.
    fn run(&self, fuse: u32, access_units: &[(u64, u32)], batch: u32) -> bool {
        self.fuse.set(fuse);
        catch_unwind(AssertUnwindSafe(|| self.process(access_units, batch))).is_ok()
    }

    fn process(&self, access_units: &[(u64, u32)], batch: u32) {
        let (mut session, _) = Session::create_or_resume(self.clone(), constants(), 1200).unwrap();
        for &(id, n) in access_units {
            if self.released.borrow().contains(&id) {
                continue;
            }
            let key = (id, 0);
            let (first, mut sent) = match session.resume_point(key, id as u32, n) {
                ResumePoint::New => (session.begin(key, id as u32, n, u64::from(n) * 10, 0), 0),
                ResumePoint::Continue { first_index, sent, .. } => (first_index, sent),
                ResumePoint::Done => (0, n),
                burn @ ResumePoint::Burn { .. } => panic!("nothing changed, so nothing burns: {burn:?}"),
            };
            while sent < n {
                let until = (sent + batch).min(n);
                self.wire.borrow_mut().extend((sent..until).map(|i| (first + u64::from(i), id, i)));
                self.step();
                sent = until;
                session.progress(sent);
            }
            session.finish();
            self.released.borrow_mut().push(id);
            self.step();
        }
    }

    fn check(&self, access_units: &[(u64, u32)], batch: u32, deaths: usize) {
        let wire = self.wire.borrow();
        let mut meaning = HashMap::new();
        for &(index, key, packet) in wire.iter() {
            let old = meaning.insert(index, (key, packet));
            assert!(old.is_none_or(|old| old == (key, packet)), "index {index} with two contents");
        }
        let total: u64 = access_units.iter().map(|x| u64::from(x.1)).sum();
        assert_eq!(meaning.len() as u64, total, "every packet of every key");
        let first = constants().first_index;
        assert!((first..first + total).all(|index| meaning.contains_key(&index)), "indices are contiguous");
        assert!(wire.len() as u64 - total <= u64::from(batch) * deaths as u64, "at most one batch twice per death");
        let ids: Vec<u64> = access_units.iter().map(|x| x.0).collect();
        assert_eq!(*self.released.borrow(), ids, "each key once, in order");
    }
}

impl Words for World {
    fn count(&self) -> usize {
        SESSION_WORDS
    }
    fn load(&self, index: usize) -> u64 {
        self.words.borrow()[index]
    }
    fn store(&mut self, index: usize, value: u64) {
        self.words.borrow_mut()[index] = value;
        self.step();
    }
}

const ACCESS_UNITS: [(u64, u32); 5] = [(10, 3), (11, 0), (12, 7), (20, 1), (21, 6)];
const BATCH: u32 = 2;

#[test]
fn death_after_any_step_costs_at_most_one_batch_twice() {
    let steps = (0..).find(|&fuse| World::new().run(fuse, &ACCESS_UNITS, BATCH)).unwrap();
    assert!(steps > 80, "the model has {steps} steps");
    for fuse in 0..steps {
        let world = World::new();
        assert!(!world.run(fuse, &ACCESS_UNITS, BATCH));
        assert!(world.run(u32::MAX, &ACCESS_UNITS, BATCH));
        world.check(&ACCESS_UNITS, BATCH, 1);
    }
}

#[test]
fn two_deaths_in_a_row_are_survived_too() {
    for first in 0..120 {
        for second in 0..120 {
            let world = World::new();
            let mut deaths = usize::from(!world.run(first, &ACCESS_UNITS, BATCH));
            deaths += usize::from(!world.run(second, &ACCESS_UNITS, BATCH));
            assert!(world.run(u32::MAX, &ACCESS_UNITS, BATCH));
            world.check(&ACCESS_UNITS, BATCH, deaths);
        }
    }
}

#[test]
fn the_model_notices_a_generation_stored_before_its_record() {
    // The same steps with D2 in the wrong order must break the wire, else the tests above prove nothing.
    let broken = (0..40).any(|fuse| {
        let world = World::new();
        assert!(world.run(u32::MAX, &ACCESS_UNITS[..1], BATCH));
        world.fuse.set(fuse);
        let died = catch_unwind(AssertUnwindSafe(|| {
            let (mut s, _) = Session::create_or_resume(world.clone(), constants(), 1200).unwrap();
            let record = Record { key: (12, 0), crc: 12, packets: 7, first_index: s.next_index(), ..s.record };
            s.words.store(word::GENERATION, s.generation + 1);
            s.store_record(s.generation + 1, record);
        }));
        died.is_err()
            && catch_unwind(AssertUnwindSafe(|| {
                world.run(u32::MAX, &ACCESS_UNITS, BATCH);
                world.check(&ACCESS_UNITS, BATCH, 1);
            }))
            .is_err()
    });
    assert!(broken);
}
