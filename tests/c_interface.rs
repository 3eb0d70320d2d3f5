//! A program in C in the place of kernel C, beside real kernels A, B and D: the loop of the design.
#![allow(clippy::expect_used, reason = "the helpers of a test fail it")]

use shm_protocol::lease::LeaseTable;
use shm_protocol::observe::RingObserver;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use system_tests::bitstream::units;
use system_tests::build::{binaries, root};
use system_tests::pipeline::{PATIENCE, Part, Pipeline, free_rtp_port};
use system_tests::receiver::{assert_contiguous, decode};
use system_tests::tools::{Owned, need, within};
use system_tests::wire::{Faults, Wire, in_order};

const WIDTH: usize = 640;
const HEIGHT: usize = 360;
const FPS: usize = 30;

/// The design's loop, compiled as its users would, with the static library.
fn compiled(folder: &Path) -> PathBuf {
    let crate_folder = root().join("kernel-c-encode/quick-sync-core");
    let program = folder.join("seed_8k_loop");
    let library = binaries().join("libquick_sync_core.a");
    assert!(library.is_file(), "{} is not there: cargo build --release -p quick-sync-core", library.display());
    let mut command = Command::new("cc");
    command.args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1", "-g"]);
    command.arg(format!("-I{}", crate_folder.join("include").display()));
    command.arg(crate_folder.join("examples/seed_8k_loop.c")).arg("-o").arg(&program).arg(&library);
    command.args(["-lstdc++", "-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"]);
    let output = command.output().expect("A C compiler runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    program
}

/// An instance whose kernel C is the program.
struct Stand {
    pipeline: Pipeline,
    wire: Wire,
    program: PathBuf,
}

impl Stand {
    fn new(label: &str) -> Stand {
        let port = free_rtp_port();
        let wire = Wire::listen(port);
        let mut pipeline = Pipeline::new(label, port);
        pipeline.set("capture.width", &WIDTH.to_string()).set("capture.height", &HEIGHT.to_string());
        pipeline.set("capture.fps", &FPS.to_string()).set("encode.backend", "openh264");
        // A busy machine may keep a living kernel from its core for longer than three frames: that is no loss of ours.
        pipeline.set("capture.max_latency_ms", "2000");
        let program = compiled(pipeline.folder());
        Stand { pipeline, wire, program }
    }

    /// Starts the program; what it says goes to a file of its own.
    fn start_program(&self, bitrate: u32) -> Owned {
        let mut command = Command::new(&self.program);
        command.env("XDG_RUNTIME_DIR", self.pipeline.folder()).env_remove("NOTIFY_SOCKET").env_remove("QUAD_LOG");
        command.arg(self.pipeline.instance());
        command.args([WIDTH.to_string(), HEIGHT.to_string(), FPS.to_string(), bitrate.to_string(), "0".to_owned()]);
        command.args(self.pipeline.settings());
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log.expect("A log"));
        Owned::spawn(&mut command)
    }

    fn log_path(&self) -> PathBuf {
        self.pipeline.folder().join("program.log")
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Starts everything, the program in the place of kernel C.
    fn start(&mut self, bitrate: u32) -> Owned {
        self.pipeline.start(Part::Net);
        self.pipeline.start(Part::Process);
        let program = self.start_program(bitrate);
        let started = |log: String| log.contains("Started");
        assert!(within(PATIENCE, || started(self.log())), "{}", self.log());
        assert!(within(PATIENCE, || started(self.pipeline.log(Part::Process))), "{}", self.pipeline.logs());
        self.pipeline.start(Part::Capture);
        program
    }

    fn wait_for_units(&self, count: usize) {
        let came = within(PATIENCE, || self.wire.units() >= count);
        assert!(came, "{} of {count} units\n{}\n{}", self.wire.units(), self.log(), self.pipeline.logs());
    }

    /// Ids of the frames on the wire, decoded; packets that came twice are byte-equal and count once.
    fn ids(&self) -> Vec<u64> {
        let packets = self.wire.packets();
        let (ordered, faults) = in_order(&packets);
        assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
        let stream: Vec<u8> = units(&ordered).iter().flat_map(|unit| unit.annex_b()).collect();
        decode(&stream, WIDTH, HEIGHT).clean()
    }

    fn idrs(&self) -> usize {
        let packets = self.wire.packets();
        units(&in_order(&packets).0).iter().filter(|unit| unit.is_idr()).count()
    }
}

#[test]
fn the_designs_loop_in_c_carries_the_stream_in_the_place_of_kernel_c() {
    if !need("the_designs_loop_in_c_carries_the_stream_in_the_place_of_kernel_c", &["cc", "ffmpeg"]) {
        return;
    }
    let mut stand = Stand::new("cloop");
    let mut program = stand.start(1_000_000);
    stand.wait_for_units(2 * FPS);

    // Requests from downstream reach it: an IDR in between, and another bitrate, which it acknowledges.
    let ring = RingObserver::open(stand.pipeline.instance(), "encode.main").expect("The ring of kernel C");
    let before = stand.idrs();
    ring.requester().request_idr();
    assert!(within(PATIENCE, || stand.idrs() > before), "{}", stand.log());
    let serial = ring.requester().request_bitrate_kbps(700);
    assert!(within(PATIENCE, || ring.requester().bitrate_followed(serial)), "{}", stand.log());
    assert_eq!(ring.requester().bitrate_kbps(), 700);
    // One that the level does not carry is refused, and the old one stands.
    let serial = ring.requester().request_bitrate_kbps(300_000);
    assert!(within(PATIENCE, || ring.requester().bitrate_followed(serial)), "{}", stand.log());
    assert_eq!(ring.requester().bitrate_kbps(), 700);

    let status = stand.pipeline.status().expect("Kernel D answers");
    let encode = &status["kernels"]["encode"];
    assert_eq!((&encode["backend"], &encode["codec"]), (&"quick-sync-core".into(), &"h264".into()), "{status}");

    stand.wait_for_units(stand.wire.units() + FPS);
    // In order, as every kernel: upstream first.
    let patience = Duration::from_secs(5);
    assert_eq!(stand.pipeline.terminate(Part::Capture, patience).and_then(|s| s.code()), Some(0));
    let status = program.end(nix::sys::signal::Signal::SIGTERM, patience);
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{}", stand.log());
    // It encoded the frames where they lay in kernel B's memory.
    assert!(stand.log().contains("frames, 0 bytes of pixels copied"), "{}", stand.log());
    stand.pipeline.stop();
    let ids = stand.ids();
    assert_eq!(ids.first(), Some(&1));
    assert_contiguous(&ids);
    assert!(ids.len() >= 3 * FPS, "{} frames", ids.len());
}

#[test]
fn the_c_program_and_the_binary_go_on_for_each_other_after_sigkill() {
    if !need("the_c_program_and_the_binary_go_on_for_each_other_after_sigkill", &["cc", "ffmpeg"]) {
        return;
    }
    let mut stand = Stand::new("cdeath");
    let mut program = stand.start(1_000_000);
    stand.wait_for_units(FPS);
    program.0.kill().expect("It lives");
    program.0.wait().expect("It ends");
    stand.pipeline.start(Part::Encode);
    stand.wait_for_units(stand.wire.units() + FPS);
    stand.pipeline.kill(Part::Encode);
    let mut program = stand.start_program(1_000_000);
    stand.wait_for_units(stand.wire.units() + FPS);
    let patience = Duration::from_secs(5);
    assert_eq!(stand.pipeline.terminate(Part::Capture, patience).and_then(|s| s.code()), Some(0));
    let status = program.end(nix::sys::signal::Signal::SIGTERM, patience);
    assert_eq!(status.and_then(|status| status.code()), Some(0), "{}", stand.log());
    stand.pipeline.stop();
    let ids = stand.ids();
    assert_eq!(ids.first(), Some(&1));
    assert_contiguous(&ids);
}

#[test]
fn the_c_program_yields_to_a_successor_without_a_lost_frame() {
    if !need("the_c_program_yields_to_a_successor_without_a_lost_frame", &["cc", "ffmpeg"]) {
        return;
    }
    let mut stand = Stand::new("cswap");
    let mut program = stand.start(1_000_000);
    stand.wait_for_units(FPS);
    // As `quad swap` does it: a second process makes itself ready, then the holder is asked to yield to it.
    stand.pipeline.start(Part::Encode);
    let table = LeaseTable::join(stand.pipeline.instance()).expect("The leases of the instance");
    let lease = || table.find("encode.main").map(|index| table.info(index)).expect("The lease of kernel C");
    assert!(within(PATIENCE, || lease().candidate_ready), "{}", stand.pipeline.logs());
    table.wish("encode.main", lease().candidate_ticket);
    assert!(within(PATIENCE, || program.0.try_wait().is_ok_and(|status| status.is_some())), "{}", stand.log());
    assert_eq!(program.0.wait().expect("It ended").code(), Some(0), "{}", stand.log());
    assert_eq!(lease().pid, stand.pipeline.pid(Part::Encode));
    stand.wait_for_units(stand.wire.units() + FPS);
    drop(table);
    stand.pipeline.stop();
    let ids = stand.ids();
    assert_eq!(ids.first(), Some(&1));
    assert_contiguous(&ids);
}

#[test]
fn a_place_that_another_process_has_is_refused_by_name() {
    if !need("a_place_that_another_process_has_is_refused_by_name", &["cc"]) {
        return;
    }
    let mut stand = Stand::new("cbusy");
    stand.pipeline.start_all();
    stand.wait_for_units(5);
    let mut program = stand.start_program(1_000_000);
    let status = within(PATIENCE, || program.0.try_wait().is_ok_and(|status| status.is_some()));
    assert!(status, "It waits in place of refusing");
    assert_eq!(program.0.wait().expect("It ended").code(), Some(1));
    let holder = format!("is process {}", stand.pipeline.pid(Part::Encode));
    assert!(
        stand.log().contains("QSV_ERR_BUSY: encode.main of instance") && stand.log().contains(&holder),
        "{}",
        stand.log()
    );
    stand.wait_for_units(stand.wire.units() + 5);
    stand.pipeline.stop();
}
