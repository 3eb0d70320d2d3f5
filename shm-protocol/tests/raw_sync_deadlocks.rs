//! Why raw_sync is not in the product (docs/adr/0002): a process that is killed while it waits for a
//! raw_sync event takes the one that sets it down with it. The same death on our bell is in `wake_up.rs`.
#![cfg(all(target_os = "linux", target_env = "gnu"))]
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]
#![allow(unsafe_code, reason = "raw_sync works on raw memory")]

mod common;

use common::*;
use raw_sync::Timeout;
use raw_sync::events::{Event, EventInit, EventState};
use std::time::{Duration, Instant};

/// Sets the event `times` times in one child while another, alive, waits for it again and again; the calls
/// that returned within `limit`. Children that hang are killed, each by its pid, as they go.
fn sets_that_return(memory: SharedWords, count: SharedWords, times: u64, limit: Duration) -> u64 {
    count.set(0, 0);
    let _waiter = waiter(memory);
    let mut setter = Child::spawn(|| {
        // SAFETY: the memory holds an event that the parent made; it outlives the child.
        let (event, _) = unsafe { Event::from_existing(memory.base_ptr()) }.unwrap();
        for _ in 0..times {
            // So that the waiter sleeps again.
            std::thread::sleep(Duration::from_millis(5));
            event.set(EventState::Signaled).unwrap();
            count.set(0, count.get(0) + 1);
        }
    });
    let end = Instant::now() + limit;
    while setter.is_running() && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(2));
    }
    count.get(0)
}

/// A child that waits for the event for ever, and sleeps in that.
fn waiter(memory: SharedWords) -> Child {
    let child = Child::spawn(|| {
        // SAFETY: as above.
        let (event, _) = unsafe { Event::from_existing(memory.base_ptr()) }.unwrap();
        loop {
            event.wait(Timeout::Infinite).unwrap();
        }
    });
    child.wait_for_system_call(&[libc::SYS_futex]);
    child
}

#[test]
fn a_waiter_killed_in_raw_sync_hangs_the_setter() {
    const TIMES: u64 = 16;
    const LIMIT: Duration = Duration::from_secs(2);
    let count = SharedWords::new(512);
    let new_event = || {
        let memory = SharedWords::new(512);
        // SAFETY: 4 KiB of zeroed memory that is never unmapped.
        unsafe { Event::new(memory.base_ptr(), true) }.unwrap();
        memory
    };
    assert_eq!(sets_that_return(new_event(), count, TIMES, LIMIT), TIMES, "without a death every call returns");
    let mut hung = 0;
    for _ in 0..3 {
        let memory = new_event();
        drop(waiter(memory)); // SIGKILL in its sleep
        hung += u32::from(sets_that_return(memory, count, TIMES, LIMIT) < TIMES);
    }
    println!("raw_sync: the setter hung after {hung} of 3 deaths");
    // glibc rewrote its condition variables in 2.41; what hung until then may not hang there.
    // SAFETY: returns a static string.
    let version = unsafe { std::ffi::CStr::from_ptr(libc::gnu_get_libc_version()) }.to_string_lossy().into_owned();
    let minor: u32 = version.split('.').nth(1).and_then(|m| m.parse().ok()).unwrap_or(0);
    assert!(hung > 0 || minor >= 41, "raw_sync survived: docs/adr/0002 may be out of date");
}
