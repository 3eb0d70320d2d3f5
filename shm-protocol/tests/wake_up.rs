//! Sleeping and waking between real processes: no wake-up is lost, a killed sleeper disturbs nobody, and
//! a sleeper that nobody wakes looks again at its deadline.
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]

mod common;

use common::*;
use shm_protocol::attach::Policy;
use shm_protocol::clock::monotonic_ns;
use shm_protocol::descriptor::FrameHead;
use shm_protocol::input::Consumer;
use shm_protocol::lease::Lease;
use shm_protocol::output::Producer;
use shm_protocol::slot::Key;
use std::time::Duration;

const PING: &str = "capture.main";
const PONG: &str = "process.main";
/// No wake-up takes so long, however busy the machine: who sleeps until here was forgotten.
const FORGOTTEN_NS: u64 = 3_000_000_000;

fn ring(lease: &Lease, kernel: &str, reader: &str, slots: usize) -> Producer {
    Producer::open(lease, &spec(kernel, &[(reader, true)], Policy::Lossless, slots), &directory()).unwrap().0
}

fn publish(producer: &mut Producer, id: u64) {
    let claim = producer.claim().unwrap().unwrap();
    producer.publish_head(claim, &FrameHead { key: Key::whole(id), ..Default::default() }).unwrap();
}

fn attach(i: &Instance, lease: &Lease, kernel: &str, upstream: &str) -> Consumer {
    Consumer::attach(lease, kernel, upstream, &directory(), &i.dir).unwrap()
}

/// Takes frame `id`, asleep until it comes; how often it slept. Every sleep must end before it is forgotten.
fn take(consumer: &mut Consumer, id: u64) -> u64 {
    let mut slept = 0;
    loop {
        if let Some(taken) = consumer.acquire().unwrap() {
            assert_eq!(taken.head.key.id(), id);
            consumer.release(&taken).unwrap();
            return slept;
        }
        slept += 1;
        let begin = monotonic_ns();
        consumer.wait(0, begin + FORGOTTEN_NS, None);
        assert!(monotonic_ns() - begin < FORGOTTEN_NS, "the wake-up for {id} was lost");
    }
}

#[test]
fn no_wake_up_is_lost_in_20000_ping_pongs() {
    const ROUNDS: u64 = 20_000;
    let i = Instance::new("pingpong");
    let shared = SharedWords::new(512);
    // Both rings are there before either side attaches.
    let (ping, pong) = (i.lease(PING), i.lease(PONG));
    drop((ring(&ping, PING, PONG, 4), ring(&pong, PONG, PING, 4)));
    ping.stop();
    pong.stop();
    let other = Child::spawn(|| {
        let lease = i.lease(PONG);
        let mut out = ring(&lease, PONG, PING, 4);
        let mut input = attach(&i, &lease, PONG, PING);
        shared.set(0, 1);
        for id in 1..=ROUNDS {
            take(&mut input, id);
            publish(&mut out, id);
        }
        lease.stop();
    });
    let lease = i.lease(PING);
    let mut out = ring(&lease, PING, PONG, 4);
    let mut input = attach(&i, &lease, PING, PONG);
    shared.wait_for(0, 1);
    let begin = monotonic_ns();
    let mut slept = 0;
    for id in 1..=ROUNDS {
        publish(&mut out, id);
        slept += take(&mut input, id);
    }
    println!("{ROUNDS} ping-pongs, {slept} sleeps on this side, {} ns one way", (monotonic_ns() - begin) / ROUNDS / 2);
    assert!(slept > ROUNDS / 10, "hardly ever asleep: this showed nothing");
    assert_eq!(other.join(), End::Exit(0));
}

#[test]
fn a_sleeper_killed_in_its_sleep_disturbs_neither_the_ringer_nor_the_next_sleeper() {
    let i = Instance::new("sleeper");
    let lease = i.lease(PING);
    let mut out = ring(&lease, PING, PONG, 8);
    for round in 1..=50 {
        let sleeper = Child::spawn(|| {
            let lease = i.lease(PONG);
            let input = attach(&i, &lease, PONG, PING);
            input.wait(0, monotonic_ns() + 10 * FORGOTTEN_NS, None);
        });
        sleeper.wait_for_system_call(&[libc::SYS_futex]);
        drop(sleeper); // SIGKILL
        let begin = monotonic_ns();
        publish(&mut out, round);
        assert!(monotonic_ns() - begin < FORGOTTEN_NS, "the ringer hung");
        let lease = i.lease(PONG);
        take(&mut attach(&i, &lease, PONG, PING), round);
        lease.stop();
    }
    check_quiet(&i, PING, "after the sleepers");
}

#[test]
fn a_ringer_killed_before_it_rings_delays_the_sleeper_until_its_deadline_only() {
    let i = Instance::new("deadline");
    let lease = i.lease(PING);
    let _out = ring(&lease, PING, PONG, 4);
    let reader = i.lease(PONG);
    let input = attach(&i, &reader, PONG, PING);
    for wanted_ms in [1u64, 5, 20, 50] {
        let begin = monotonic_ns();
        let deadline = begin + wanted_ms * 1_000_000;
        input.wait(0, deadline, None);
        let now = monotonic_ns();
        assert!(now >= deadline, "woken {} ns before its time by nobody", deadline - now);
        assert!(now - deadline < FORGOTTEN_NS);
    }
    // A deadline that has passed does not sleep.
    let begin = monotonic_ns();
    input.wait(0, begin, None);
    assert!(monotonic_ns() - begin < FORGOTTEN_NS);
}

#[test]
fn either_of_two_bells_ends_a_stages_sleep() {
    let i = Instance::new("two");
    let (a, c) = (i.lease(PING), i.lease("encode.main"));
    let mut upstream = ring(&a, PING, PONG, 8);
    let shared = SharedWords::new(512);
    let stage = Child::spawn(|| {
        let lease = i.lease(PONG);
        let mut out = ring(&lease, PONG, "encode.main", 2);
        let mut input = attach(&i, &lease, PONG, PING);
        publish(&mut out, 1);
        publish(&mut out, 2);
        for round in 1..=200u64 {
            shared.set(0, round);
            let begin = monotonic_ns();
            // Odd rounds end with a frame upstream, even ones with room downstream.
            loop {
                if round % 2 == 1 && input.has_next() {
                    let taken = input.acquire().unwrap().unwrap();
                    input.release(&taken).unwrap();
                    break;
                }
                if round % 2 == 0 && out.has_room() {
                    let next = out.last_key().id() + 1;
                    publish(&mut out, next);
                    break;
                }
                input.wait(0, begin + FORGOTTEN_NS, Some(&out));
                assert!(monotonic_ns() - begin < FORGOTTEN_NS, "round {round}: the bell was not heard");
            }
        }
        lease.stop();
    });
    shared.wait_for(0, 1);
    let mut downstream = attach(&i, &c, "encode.main", PONG);
    for round in 1..=200u64 {
        shared.wait_for(0, round);
        stage.wait_for_system_call(&[libc::SYS_futex_waitv, libc::SYS_futex]);
        if round % 2 == 1 {
            publish(&mut upstream, round);
        } else {
            let taken = downstream.acquire().unwrap().unwrap();
            downstream.release(&taken).unwrap();
        }
    }
    assert_eq!(stage.join_within(Duration::from_secs(60)), End::Exit(0));
}

#[test]
fn a_producer_waits_for_room_and_is_woken_by_a_release() {
    let i = Instance::new("room");
    let lease = i.lease(PONG);
    let shared = SharedWords::new(512);
    let producer = Child::spawn(|| {
        let lease = i.lease(PING);
        let mut out = ring(&lease, PING, PONG, 2);
        shared.set(0, 1);
        for id in 1..=500 {
            while !out.has_room() {
                let begin = monotonic_ns();
                out.wait_for_room(begin + FORGOTTEN_NS);
                assert!(monotonic_ns() - begin < FORGOTTEN_NS, "the release before {id} was not heard");
            }
            publish(&mut out, id);
        }
        lease.stop();
    });
    shared.wait_for(0, 1);
    let mut input = attach(&i, &lease, PONG, PING);
    for id in 1..=500 {
        if id % 50 == 0 && id < 490 {
            producer.wait_for_system_call(&[libc::SYS_futex]);
        }
        take(&mut input, id);
    }
    assert_eq!(producer.join(), End::Exit(0));
}
