//! A supervisor with stand-in kernels when the machine is against it: no memory for a lease table, processes that
//! stand still at the wrong moment.
#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[allow(dead_code, reason = "each test binary uses its part")]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::{Instance, code, send, stderr, stdout, wait};
use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use shm_protocol::lease::KernelState;
use shm_protocol::names;

const PATIENCE: Duration = Duration::from_secs(10);

/// Simulated: in place of a full /dev/shm a table of another ABI stands under the name, so that none can be made.
#[test]
fn who_asks_while_no_lease_table_can_be_made_is_answered_and_down_ends_in_order() {
    let instance = Instance::new("notable");
    assert_eq!(code(&instance.up(&[])), 0);
    let table = std::path::Path::new(names::SHM_DIR).join(names::leases(&instance.name));
    let mut foreign = std::fs::read(&table).unwrap();
    foreign[8..16].fill(0xee);
    let beside = table.with_extension("foreign");
    std::fs::write(&beside, foreign).unwrap();
    std::fs::rename(&beside, &table).unwrap();
    wait(PATIENCE, || instance.log("supervisor").contains("No new lease table can be made").then_some(())).unwrap();
    let began = Instant::now();
    let set = instance.quad(&["set", "encode.bitrate_kbps=3000"]);
    assert!(code(&set) == 75 && stderr(&set).contains("Kept for the next start"), "{}", stderr(&set));
    let down = instance.quad(&["down"]);
    assert_eq!(code(&down), 0);
    assert!(!stderr(&down).contains("does not answer"), "{}", stderr(&down));
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    instance.assert_gone();
}

/// Every command says whose an instance is, and not that some call was denied.
#[test]
fn another_users_instance_is_named_with_its_user() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED another_users_instance_is_named_with_its_user: only root can make one");
        return;
    }
    let instance = Instance::new("foreign");
    let table = std::path::Path::new(names::SHM_DIR).join(names::leases(&instance.name));
    std::fs::write(&table, "").unwrap();
    let (uid, name) = (Some(65534), nix::unistd::User::from_uid(65534.into()).unwrap().unwrap().name);
    std::os::unix::fs::chown(&table, uid, None).unwrap();
    for line in [vec!["status"], vec!["up"], vec!["down"], vec!["set", "encode.bitrate_kbps=9"], vec!["swap", "net"]] {
        let refused = instance.quad(&line);
        assert_eq!(code(&refused), 64, "{line:?}: {}", stderr(&refused));
        assert!(stderr(&refused).contains(&format!("belongs to user {name}")), "{line:?}: {}", stderr(&refused));
        assert!(stderr(&refused).contains("--instance"), "{line:?}: {}", stderr(&refused));
    }
    let list = instance.quad(&["list"]);
    assert!(stdout(&list).contains(&format!("of user {name}")), "{}", stdout(&list));
    std::fs::remove_file(table).unwrap();
}

/// The second process of the encoder, once it has stopped itself.
fn stands_still(instance: &Instance) -> u32 {
    let stopped = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    };
    let second = || instance.starts("encode.main").get(1).map(|(pid, _)| *pid).filter(stopped);
    wait(PATIENCE, second).unwrap()
}

/// Simulated: a stand-in that takes the lock by hand, writes nothing and stops itself.
#[test]
fn a_process_that_stands_still_between_its_lock_and_its_name_is_replaced() {
    for (tag, in_order) in [("mutedead", false), ("mutestop", true)] {
        let instance = Instance::new(tag);
        assert_eq!(code(&instance.up(&[])), 0);
        let before = instance.lease("encode.main").unwrap();
        instance.order("encode.main.mute", "");
        let began = Instant::now();
        // The record names a process that died at work, or one that said that it stopped.
        let mut restart = in_order.then(|| instance.command(&["restart", "encode"]).spawn().unwrap());
        if !in_order {
            send(before.pid, Signal::SIGKILL);
        }
        stands_still(&instance);
        instance.withdraw("encode.main.mute");
        instance.next_epoch("encode.main", before.epoch);
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
        assert_eq!(instance.starts("encode.main").len(), 3);
        let log = instance.log("supervisor");
        assert_eq!(log.matches("Has the lease and does not begin or end: killed").count(), 1, "{log}");
        assert!(restart.iter_mut().all(|restart| restart.wait().unwrap().success()));
    }
}

/// Simulated: a stand-in that says what a kernel says at its end, and stops itself.
#[test]
fn a_process_that_stands_still_between_its_last_word_and_its_end_is_replaced() {
    let instance = Instance::new("lingering");
    assert_eq!(code(&instance.up(&["--set", "encode.standby=true"])), 0);
    wait(PATIENCE, || instance.lease("encode.main").filter(|info| info.candidate_ready)).unwrap();
    let before = instance.lease("encode.main").unwrap();
    instance.order("encode.main.lingering", "");
    send(before.pid, Signal::SIGTERM);
    let still = || instance.lease("encode.main").filter(|info| info.state == KernelState::Stopped && info.held);
    wait(PATIENCE, still).unwrap();
    instance.withdraw("encode.main.lingering");
    let began = Instant::now();
    instance.next_epoch("encode.main", before.epoch);
    assert!(began.elapsed() < Duration::from_secs(8), "{:?}", began.elapsed());
}

/// A process that SIGKILL does not end, as long as this lives: a tracer stops it on its way out, before it lets go of
/// anything.
struct Undead {
    over: Arc<AtomicBool>,
    tracer: Option<JoinHandle<()>>,
}

impl Undead {
    /// `None`: tracing is not allowed here.
    fn seize(pid: u32) -> Option<Undead> {
        let over = Arc::<AtomicBool>::default();
        let (tell, told) = std::sync::mpsc::channel();
        let stop = Arc::clone(&over);
        let tracer = std::thread::spawn(move || {
            let pid = Pid::from_raw(pid as i32);
            let seized = ptrace::seize(pid, ptrace::Options::PTRACE_O_TRACEEXIT).is_ok();
            let _ = tell.send(seized);
            while seized && !stop.load(Ordering::Relaxed) {
                let _ = waitpid(pid, Some(WaitPidFlag::__WALL | WaitPidFlag::WNOHANG));
                std::thread::sleep(Duration::from_millis(1));
            }
            let _ = ptrace::detach(pid, None);
        });
        told.recv().unwrap().then_some(Undead { over, tracer: Some(tracer) })
    }
}

impl Drop for Undead {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        let _ = self.tracer.take().unwrap().join();
    }
}

/// Simulated, as above; and it does not die of being killed.
#[test]
fn a_process_that_does_not_die_between_its_lock_and_its_name_is_succeeded() {
    let instance = Instance::new("muteundead");
    assert_eq!(code(&instance.up(&[])), 0);
    let before = instance.lease("encode.main").unwrap();
    instance.order("encode.main.mute", "");
    send(before.pid, Signal::SIGKILL);
    let mute = stands_still(&instance);
    let Some(undead) = Undead::seize(mute) else {
        println!("skipped: tracing is not allowed here");
        return;
    };
    instance.withdraw("encode.main.mute");
    let after = instance.next_epoch("encode.main", before.epoch);
    assert_ne!(after.pid, mute);
    let log = instance.log("supervisor");
    assert!(log.contains("Killed and does not die: its lease is taken from it"), "{log}");
    assert!(std::path::Path::new(&format!("/proc/{mute}")).exists());
    drop(undead);
    wait(PATIENCE, || (!std::path::Path::new(&format!("/proc/{mute}")).exists()).then_some(())).unwrap();
    assert_eq!(instance.lease("encode.main").unwrap().pid, after.pid);
}
