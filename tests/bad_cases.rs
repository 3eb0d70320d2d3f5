//! Everything at once: two successors, deaths within hand-overs, a pid that was given to somebody else, a consumer that
//! stands still.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use nix::sys::signal::Signal;
use shm_protocol::lease::LeaseTable;
use shm_protocol::observe::RingObserver;
use std::fs::File;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use system_tests::bitstream::units;
use system_tests::pipeline::{Part, free_rtp_port};
use system_tests::processes::{go_on, is_gone, send, stop};
use system_tests::quad::{Quad, said};
use system_tests::random;
use system_tests::receiver::{assert_contiguous, decode};
use system_tests::tools::{Owned, long, need, skip, within};
use system_tests::wire::{Faults, Wire, in_order, longest_gap};

const PATIENCE: Duration = Duration::from_secs(20);
const WIDTH: usize = 640;
const HEIGHT: usize = 360;

fn quad(label: &str, port: u16, policy: &str) -> Quad {
    let mut quad = Quad::new(label, port);
    quad.pipeline.set("capture.width", "640").set("capture.height", "360").set("capture.policy", policy);
    quad
}

fn up(quad: &Quad, wire: &Wire) {
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(within(PATIENCE, || wire.units() >= 30));
}

fn flows(wire: &Wire, quad: &Quad, what: &str) {
    let at = wire.units();
    assert!(within(PATIENCE, || wire.units() >= at + 30), "{what}: {}\n{}", quad.status().1, quad.log("supervisor"));
}

/// Ids of the pictures that arrived, in order and without complaint.
fn ids(wire: &Wire) -> Vec<u64> {
    let packets = wire.packets();
    let (ordered, faults) = in_order(&packets);
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    let made = units(&ordered);
    let stream: Vec<u8> = made.iter().flat_map(|unit| unit.annex_b()).collect();
    let ids = decode(&stream, WIDTH, HEIGHT).clean();
    assert_eq!(ids.len(), made.len());
    println!("{} frames, longest gap {:?}", ids.len(), longest_gap(&packets));
    ids
}

fn assert_exactly_once(wire: &Wire) {
    let ids = ids(wire);
    assert_eq!(ids.first(), Some(&1));
    assert_contiguous(&ids);
}

fn holder(quad: &Quad, part: Part) -> u32 {
    let table = LeaseTable::observe(quad.pipeline.instance()).unwrap();
    let info = table.info(table.find(&format!("{}.main", part.short())).unwrap());
    if info.held { info.pid } else { 0 }
}

/// A kernel started by hand, beside those of the supervisor.
fn by_hand(quad: &Quad, part: Part) -> Owned {
    let log = File::create(quad.pipeline.folder().join("by-hand.log")).unwrap();
    let mut command = quad.pipeline.command(part);
    Owned::spawn(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log))
}

fn is_candidate(quad: &Quad, part: Part, pid: u32) -> bool {
    let table = LeaseTable::observe(quad.pipeline.instance()).unwrap();
    let info = table.info(table.find(&format!("{}.main", part.short())).unwrap());
    info.candidate_pid == pid && info.candidate_ready
}

#[test]
fn of_two_swaps_at_once_each_is_done_or_refused_and_no_frame_is_lost() {
    if !need("two swaps", &["ffmpeg"]) {
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = quad("twoswaps", port, "lossless");
    up(&quad, &wire);
    for round in 0..3 {
        let before = quad.status().1["kernels"]["encode"]["epoch"].as_u64().unwrap();
        let swap = |gop: &str| -> Child {
            let mut command = quad.command(&["swap", "encode", "--set", gop]);
            command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
        };
        let both = [swap("encode.gop=40"), swap("encode.gop=50")];
        let ended = both.map(|child| child.wait_with_output().unwrap());
        let codes = ended.each_ref().map(|output| output.status.code());
        let done = codes.iter().filter(|code| **code == Some(0)).count() as u64;
        assert!(done >= 1 && codes.iter().all(|code| [Some(0), Some(75)].contains(code)), "round {round}: {codes:?}");
        for refused in ended.iter().filter(|output| output.status.code() == Some(75)) {
            assert!(said(refused).contains("already running"), "{}", said(refused));
        }
        let after = quad.status().1["kernels"]["encode"]["epoch"].as_u64().unwrap();
        assert_eq!(after, before + done, "as many epochs as swaps");
        flows(&wire, &quad, "after two swaps");
    }
    quad.down();
    assert_exactly_once(&wire);
}

#[test]
fn a_swap_beside_an_encoder_started_by_hand_is_done_or_fails_with_its_reason_and_the_stream_goes_on() {
    if !need("a swap beside one started by hand", &["ffmpeg"]) {
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = quad("handswap", port, "live");
    up(&quad, &wire);
    let old = holder(&quad, Part::Encode);
    let stranger = by_hand(&quad, Part::Encode);
    let pid = stranger.0.id();
    assert!(within(PATIENCE, || is_candidate(&quad, Part::Encode, pid)));
    // It has the candidacy: the swap's successor waits behind it, in vain.
    let output = quad.run(&["swap", "encode"]);
    assert_eq!(output.status.code(), Some(75), "{}", said(&output));
    assert!(said(&output).contains(&format!("process {pid}, which was not started here")), "{}", said(&output));
    assert_eq!(holder(&quad, Part::Encode), old, "The old one goes on");
    flows(&wire, &quad, "beside a stranger");
    drop(stranger);
    assert!(within(PATIENCE, || is_gone(pid)));
    let output = quad.run(&["swap", "encode"]);
    assert!(output.status.success(), "{}", said(&output));
    flows(&wire, &quad, "after the swap");
    quad.down();
    assert_exactly_once(&wire);
}

/// The supervisor restarts what died, and a process that it does not know of is there already.
#[test]
fn a_dead_kernel_that_is_replaced_from_two_sides_has_one_successor_and_the_other_stands_by() {
    if !need("two successors", &["ffmpeg"]) {
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let quad = quad("twosides", port, "lossless");
    up(&quad, &wire);
    for part in [Part::Encode, Part::Process, Part::Net, Part::Capture] {
        let stranger = by_hand(&quad, part);
        let pid = stranger.0.id();
        assert!(within(PATIENCE, || is_candidate(&quad, part, pid)), "{part:?}");
        send(holder(&quad, part), Signal::SIGKILL);
        assert!(within(PATIENCE, || holder(&quad, part) == pid), "{part:?}: the one that waited has it");
        flows(&wire, &quad, "carried by a stranger");
        // The supervisor's own waits behind it, and has it when the stranger dies.
        let own = || quad.log("supervisor").matches("Died, restarting").count() > 0;
        assert!(within(PATIENCE, own), "{}", quad.log("supervisor"));
        drop(stranger);
        assert!(within(PATIENCE, || ![0, pid].contains(&holder(&quad, part))), "{part:?}");
        flows(&wire, &quad, "carried by the supervisor's own");
        assert!(within(PATIENCE, || quad.status().0 == Some(0)), "{}", quad.status().1);
    }
    quad.down();
    assert_exactly_once(&wire);
}

/// With a standby, the supervisor must not start a third.
#[test]
fn standby_and_supervisor_never_both_replace_the_same_dead_kernel() {
    if !need("standby and supervisor", &["ffmpeg"]) {
        return;
    }
    let mut random = random::from_environment();
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut quad = quad("standbys", port, "lossless");
    quad.pipeline.set("encode.standby", "true");
    up(&quad, &wire);
    let instance = quad.pipeline.instance().to_owned();
    let encoders = || {
        let is_ours = |line: &str| line.contains("kernel-c-encode") && line.contains(&instance);
        let read = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
        std::fs::read_dir("/proc").unwrap().flatten().map(read).filter(|line| is_ours(line)).count()
    };
    let rounds = if long() { 40 } else { 8 };
    for round in 0..rounds {
        assert!(within(PATIENCE, || quad.status().1["kernels"]["encode"]["standby_pid"].is_number()), "{round}");
        std::thread::sleep(Duration::from_micros(random.u64(..30_000)));
        let (old, standby) = (holder(&quad, Part::Encode), quad.status().1["kernels"]["encode"]["standby_pid"].clone());
        send(old, Signal::SIGKILL);
        assert!(within(PATIENCE, || holder(&quad, Part::Encode) == standby), "round {round}");
        flows(&wire, &quad, "carried by the standby");
        assert!(encoders() <= 2, "{} encoders", encoders());
    }
    quad.down();
    assert_exactly_once(&wire);
}

/// Pools without a name go from process to process: encoder and source die while the one asks the other for them.
#[test]
fn deaths_within_the_hand_over_of_descriptors_cost_no_frame() {
    if !need("deaths within descriptor hand-over", &["ffmpeg"]) {
        return;
    }
    let mut random = random::from_environment();
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut quad = quad("fds", port, "lossless");
    quad.pipeline.set("capture.memory", "memfd");
    up(&quad, &wire);
    let rounds = if long() { 100 } else { 12 };
    for round in 0..rounds {
        let (capture, encode) = (quad.pid(Part::Capture), quad.pid(Part::Encode));
        send(encode, Signal::SIGKILL);
        // The successor starts within some milliseconds and asks for the pool.
        std::thread::sleep(Duration::from_micros(random.u64(..25_000)));
        send(capture, Signal::SIGKILL);
        std::thread::sleep(Duration::from_micros(random.u64(..25_000)));
        if round % 3 == 0 {
            let again = holder(&quad, Part::Encode);
            if again != 0 && again != encode {
                send(again, Signal::SIGKILL);
            }
        }
        flows(&wire, &quad, &format!("round {round}"));
    }
    assert!(within(PATIENCE, || quad.status().0 == Some(0)), "{}", quad.status().1);
    quad.down();
    assert_exactly_once(&wire);
}

/// Starts processes until one has the number `pid`, which is free. `None`: this system gives no say in it.
fn reuse(pid: u32) -> Option<Owned> {
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        // The next process of this namespace gets the next number; others start some meanwhile, too.
        std::fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).ok()?;
        let child = Owned::spawn(Command::new("sleep").arg("600").stdin(Stdio::null()).stdout(Stdio::null()));
        if child.0.id() == pid {
            return Some(child);
        }
    }
    None
}

#[test]
fn a_stranger_with_the_number_of_a_dead_kernel_is_neither_killed_nor_adopted_nor_waited_for() {
    if !need("pid reuse", &["ffmpeg"]) {
        return;
    }
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut quad = quad("pids", port, "lossless");
    quad.pipeline.set("hang_timeout_ms", "500");
    up(&quad, &wire);
    // Without a supervisor, whose unburied child would keep the number.
    let (supervisor, dead) = (quad.supervisor(), holder(&quad, Part::Encode));
    send(supervisor, Signal::SIGKILL);
    assert!(within(PATIENCE, || is_gone(supervisor)));
    send(dead, Signal::SIGKILL);
    let stranger = reuse(dead);
    let since = Instant::now();
    let output = quad.up(&[]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(within(PATIENCE, || ![0, dead].contains(&holder(&quad, Part::Encode))), "{}", quad.log("supervisor"));
    let took = since.elapsed();
    flows(&wire, &quad, "restarted");
    // Longer than a hang: the watchdog has had its look.
    std::thread::sleep(Duration::from_millis(800));
    assert_eq!(quad.status().0, Some(0), "{}", quad.status().1);
    assert!(quad.status().1["kernels"]["encode"]["pid"] != dead);
    quad.down();
    assert_exactly_once(&wire);
    match stranger {
        Some(mut stranger) => {
            println!("{dead} was a stranger's number; succeeded after {took:?}");
            // A second is what a successor waits for a predecessor that does not go.
            assert!(took < Duration::from_secs(1), "{took:?}: waited for");
            assert!(stranger.0.try_wait().unwrap().is_none(), "A stranger was killed");
        }
        None => skip("pid reuse", "/proc/sys/kernel/ns_last_pid cannot be written, or the number was taken"),
    }
}

/// What there is of an instance, and whether its rings have run dry.
fn objects(quad: &Quad) -> usize {
    quad.pipeline.objects().len()
}

fn slots_in_use(quad: &Quad) -> usize {
    let ring = |kernel| RingObserver::open(quad.pipeline.instance(), kernel).unwrap().status();
    ["capture.main", "process.main", "encode.main"].map(ring).iter().map(|ring| ring.ready + ring.writing).sum()
}

/// For ten seconds, or for a minute with QUAD_LONG=1, and not hung: nobody has been told to wait for less.
#[test]
fn a_consumer_that_stands_still_holds_a_lossless_stream_back_and_costs_a_live_one_what_is_counted() {
    if !need("a consumer that stands still", &["ffmpeg"]) {
        return;
    }
    let absence = Duration::from_secs(if long() { 60 } else { 10 });
    let ports = [free_rtp_port(), free_rtp_port()];
    let wires = ports.map(Wire::listen);
    let quads = [("standlive", "live"), ("standloss", "lossless")].map(|(label, policy)| {
        let port = ports[usize::from(policy == "lossless")];
        let mut quad = quad(label, port, policy);
        quad.pipeline.set("hang_timeout_ms", "120000");
        quad
    });
    for (quad, wire) in quads.iter().zip(&wires) {
        up(quad, wire);
    }
    for part in [Part::Net, Part::Encode] {
        let before = quads.each_ref().map(objects);
        let pids = quads.each_ref().map(|quad| quad.pid(part));
        pids.iter().for_each(|pid| stop(*pid));
        std::thread::sleep(absence / 2);
        let standing = wires.each_ref().map(Wire::units);
        std::thread::sleep(absence / 2);
        assert_eq!(wires.each_ref().map(Wire::units), standing, "{part:?}: nothing goes past it");
        // Nobody died of it.
        assert!(quads.iter().all(|quad| quad.status().0 == Some(0)), "{}", quads[0].status().1);
        pids.iter().for_each(|pid| go_on(*pid));
        for (quad, wire) in quads.iter().zip(&wires) {
            flows(wire, quad, "on its feet again");
        }
        assert_eq!(quads.each_ref().map(objects), before, "{part:?}: no object more than before");
        // The live one has caught up: nothing lies about.
        assert!(within(PATIENCE, || slots_in_use(&quads[0]) <= 3), "{part:?}: {}", slots_in_use(&quads[0]));
    }
    let [live, lossless] = quads;
    // The last drops are counted with the frame that follows them.
    flows(&wires[0], &live, "before the end");
    let status = live.status().1;
    let counted: u64 = ["capture", "process"].map(|k| status["kernels"][k]["dropped"].as_u64().unwrap()).iter().sum();
    live.down();
    lossless.down();
    let ids = ids(&wires[0]);
    assert!(ids.windows(2).all(|pair| pair[1] > pair[0]));
    let lost = ids.last().unwrap() - ids.first().unwrap() + 1 - ids.len() as u64;
    println!("live: {lost} lost in two times {absence:?}, {counted} counted");
    assert_eq!(lost, counted, "{status}");
    assert_exactly_once(&wires[1]);
}
