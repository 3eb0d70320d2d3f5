//! The lease table of an instance, every word of which any process of the user can write.
//!
//! Feeds: words over header and records, between looks at the table, takeovers, wishes and renewals.
//! Holds: no panic; a table whose header is not ours is refused; nobody is held whom the locks do not say so, whatever the
//! words say; a lease that is taken has the epoch after the one that lay there; names are found where they stand.
//! Nothing here kills: the pids are the fuzzer's.
#![no_main]

use quad_fuzz::{Input, Instance, SharedFile};
use shm_protocol::lease::{Candidate, LeaseTable, MAX_KERNELS};
use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// Words of a record; the header takes the place of one.
const RECORD: usize = 32;
/// Words of a record that name a process: a living one with the right start time would be waited for.
const PIDS: [usize; 2] = [9, 18];

struct World {
    instance: Instance,
    table: Arc<LeaseTable>,
    raw: SharedFile,
    pristine: Vec<u64>,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fn world() -> World {
    let instance = Instance::new("lease_table");
    let table = instance.table();
    for kernel in ["capture.main", "encode.main"] {
        instance.lease(kernel).stop();
    }
    let raw = SharedFile::map(&instance.path("leases"));
    let pristine = raw.copy();
    assert_eq!(pristine.len(), (MAX_KERNELS + 1) * RECORD);
    World { instance, table, raw, pristine }
}

fn look(world: &World, table: &LeaseTable) {
    let kernels = table.kernels();
    assert!(kernels.len() <= MAX_KERNELS);
    for info in &kernels {
        assert!(!info.held, "{info:?} is held by nobody");
        assert!(!info.kernel.is_empty());
        let index = table.find(&info.kernel).expect("a name that was just read");
        assert_eq!(table.name_of(index), info.kernel);
        assert!(table.verified_pidfd(&info.kernel).is_none());
        let _ = table.heartbeat_ns(index);
    }
    assert_eq!(table.find(""), None);
    assert!(LeaseTable::observe(&world.instance.name).is_err() == LeaseTable::join(&world.instance.name).is_err());
}

fn take(world: &World, kernel: &str, input: &mut Input<'_>) {
    let Ok(candidate) = Candidate::enter(&world.table, kernel, false) else { return };
    let ticket = candidate.ready();
    let index = world.table.find(kernel).expect("it was just entered");
    let before = world.table.info(index).epoch;
    let Ok(Ok(lease)) = candidate.try_activate() else { panic!("nobody holds {kernel}") };
    assert_eq!((lease.index(), lease.epoch()), (index, before.wrapping_add(1)));
    assert!(lease.is_current());
    lease.running();
    world.table.wish(kernel, ticket);
    assert_eq!(lease.wanted_successor(), None, "there is no candidate");
    lease.beat();
    if input.u8() & 1 == 1 {
        lease.stop();
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| WORLD.with_borrow_mut(|slot| {
    let world = slot.get_or_insert_with(world);
    world.raw.restore(&world.pristine);
    let mut input = Input(data);
    while !input.is_empty() {
        match input.u8() % 8 {
            0 => look(world, &world.table),
            1 => take(world, "encode.main", &mut input),
            2 => take(world, "net.main", &mut input),
            3 => {
                let epoch = world.table.find("encode.main").map_or(0, |index| world.table.info(index).epoch);
                let forced = world.table.force_takeover("encode.main", epoch).expect("the locks work");
                assert!(!forced, "nobody holds it");
            }
            4 => {
                let name = String::from_utf8_lossy(input.block()).into_owned();
                let entered = world.table.index_of(&name, true);
                assert!(entered.is_err() || world.table.find(&name).is_some());
            }
            _ => {
                let at = usize::from(input.u16()) % world.pristine.len();
                // Mostly the records in use.
                let at = if input.u8() % 4 == 0 { at } else { at % (4 * RECORD) };
                let value = input.u64();
                // A table without its magic is put away by whoever joins, and this one is to stay.
                if at != 0 && !PIDS.contains(&(at % RECORD)) {
                    world.raw.words()[at].store(value, Ordering::SeqCst);
                }
            }
        }
    }
    look(world, &world.table);
}));
