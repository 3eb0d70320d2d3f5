//! Bad input gets a clear error and its documented exit code, and leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use system_tests::build::binaries;
use system_tests::pipeline::{Part, Pipeline, free_rtp_port};
use system_tests::tools::{need, skip, within};
use system_tests::wire::{Faults, Wire, in_order};

/// Longest a kernel may take to refuse what it cannot do.
const REFUSED_WITHIN: Duration = Duration::from_secs(10);

/// Three grey frames of 64x32.
fn small_y4m() -> Vec<u8> {
    let mut bytes = b"YUV4MPEG2 W64 H32 F30:1 Ip A1:1 C420mpeg2\n".to_vec();
    for _ in 0..3 {
        bytes.extend_from_slice(b"FRAME\n");
        bytes.extend_from_slice(&[128; 64 * 32 * 3 / 2]);
    }
    bytes
}

/// Runs one kernel until it gives up; asserts exit code and what it says, and that removal leaves nothing.
fn assert_refused(pipeline: &mut Pipeline, part: Part, code: i32, said: &[&str]) {
    pipeline.start(part);
    let status = pipeline.wait(part, REFUSED_WITHIN);
    let log = pipeline.log(part);
    assert_eq!(status.and_then(|status| status.code()), Some(code), "{log}");
    for text in said {
        assert!(log.contains(text), "{text:?} is not in {log}");
    }
    let last = log.lines().rev().find(|line| line.contains("ERROR") || line.contains("WARN") || line.contains(": "));
    println!("{code}: {}", last.unwrap_or_default());
    assert!(!log.contains("panicked"), "{log}");
    pipeline.remove();
    assert_eq!(pipeline.objects(), Vec::<String>::new());
}

fn refused(part: Part, settings: &[(&str, &str)], code: i32, said: &[&str]) {
    let mut pipeline = Pipeline::new("bad", free_rtp_port());
    for (key, value) in settings {
        pipeline.set(key, value);
    }
    assert_refused(&mut pipeline, part, code, said);
}

/// A file of `bytes` as the source.
fn refused_file(name: &str, bytes: &[u8], settings: &[(&str, &str)], said: &[&str]) {
    let mut pipeline = Pipeline::new("bad", free_rtp_port());
    let path = pipeline.write(name, bytes);
    pipeline.set("capture.source", "file").set("capture.policy", "lossless");
    pipeline.set("capture.path", path.to_str().unwrap());
    for (key, value) in settings {
        pipeline.set(key, value);
    }
    assert_refused(&mut pipeline, Part::Capture, 78, &[said, &[name]].concat());
}

#[test]
fn a_truncated_y4m_file_names_the_frame_and_the_bytes() {
    let whole = small_y4m();
    refused_file("cut.y4m", &whole[..5000], &[], &["ends within frame 1", "needs 3072 bytes"]);
}

#[test]
fn a_y4m_header_that_lies_is_refused_where_it_shows() {
    let lying = String::from_utf8_lossy(&small_y4m()).replacen("W64", "W72", 1).into_bytes();
    let lying: Vec<u8> = lying.into_iter().filter(|byte| byte.is_ascii()).collect();
    let mut bytes = lying[..lying.iter().position(|byte| *byte == b'\n').unwrap() + 1].to_vec();
    let whole = small_y4m();
    bytes.extend_from_slice(&whole[whole.iter().position(|byte| *byte == b'\n').unwrap() + 1..]);
    refused_file("lie.y4m", &bytes, &[], &["in place of the FRAME line"]);
}

#[test]
fn a_y4m_header_with_nonsense_names_the_byte() {
    refused_file("nonsense.y4m", b"YUV4MPEG2 W64 Hx F30:1\n", &[], &["byte 14", "\"Hx\""]);
    refused_file("odd.y4m", b"YUV4MPEG2 W63 H32 F30:1 C420mpeg2\n", &[], &["even"]);
    refused_file("huge.y4m", b"YUV4MPEG2 W99999999 H32 F30:1\n", &[], &["16384"]);
    refused_file("empty.y4m", b"", &[], &[]);
}

#[test]
fn a_raw_file_that_is_no_multiple_of_its_frame_is_refused() {
    let raw = [("capture.format", "i420"), ("capture.width", "64"), ("capture.height", "32")];
    refused_file("part.raw", &[7; 10_000], &raw, &["not a multiple of the 3072 bytes"]);
    refused_file("what.raw", &[7; 10_000], &[], &["capture.format"]);
}

#[test]
fn a_file_that_is_not_there_is_refused() {
    let settings = [("capture.source", "file"), ("capture.path", "/nonexistent/film.y4m")];
    refused(Part::Capture, &settings, 78, &["/nonexistent/film.y4m", "No such file"]);
}

#[test]
fn odd_and_half_given_sizes_are_refused() {
    refused(Part::Capture, &[("capture.width", "641"), ("capture.height", "360")], 78, &["641x360", "even width"]);
    refused(Part::Capture, &[("capture.width", "640")], 78, &["capture.height"]);
    refused(Part::Capture, &[("capture.width", "0"), ("capture.height", "0")], 78, &["capture.width"]);
    refused(Part::Process, &[("process.width", "641"), ("process.height", "360")], 78, &["641"]);
}

#[test]
fn an_unknown_key_names_the_nearest_known_one() {
    refused(Part::Encode, &[("encode.bitrate_kbp", "3")], 78, &["encode.bitrate_kbp;", "encode.bitrate_kbps"]);
}

#[test]
fn a_wrong_command_line_is_usage() {
    let mut pipeline = Pipeline::new("bad", free_rtp_port());
    let run = |command: &mut Command| command.stdin(Stdio::null()).output().unwrap();
    for part in Part::ALL {
        let mut wrong_set = pipeline.command(part);
        let output = run(wrong_set.args(["--set", "foo"]));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{text}");
        assert!(text.contains("foo") && text.contains("KEY=VALUE"), "{text}");
        assert_eq!(run(pipeline.command(part).arg("--no-such-thing")).status.code(), Some(64));
        assert_eq!(run(pipeline.command(part).args(["--instance", "../etc"])).status.code(), Some(64));
        assert_eq!(run(pipeline.command(part).args(["--name", "nobody"])).status.code(), Some(64));
        let version = run(pipeline.command(part).arg("--version"));
        assert_eq!(version.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&version.stdout).starts_with(part.binary()));
        let check = run(pipeline.command(part).arg("--check"));
        assert_eq!(check.status.code(), Some(0));
        assert!(String::from_utf8_lossy(&check.stdout).contains("bitrate_kbps = 8000"));
    }
    pipeline.stop();
    assert_eq!(pipeline.objects(), Vec::<String>::new());
}

#[test]
fn cpus_that_do_not_exist_are_refused() {
    for (part, key) in Part::ALL.into_iter().zip(["capture.cpus", "process.cpus", "encode.cpus", "net.cpus"]) {
        refused(part, &[(key, "999")], 78, &[key, "999"]);
    }
}

#[test]
fn an_http_port_in_use_is_named() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = holder.local_addr().unwrap().to_string();
    refused(Part::Net, &[("net.http.listen", &address)], 69, &[&address, "taken", "net.http.listen"]);
}

#[test]
fn a_destination_that_cannot_be_resolved_is_refused() {
    let settings = [("net.rtp.destination", "no-such-host.invalid:5004")];
    refused(Part::Net, &settings, 78, &["net.rtp.destination", "no-such-host.invalid"]);
}

#[test]
fn a_destination_where_nobody_listens_does_no_harm() {
    let mut pipeline = Pipeline::new("nobody", free_rtp_port());
    pipeline.set("capture.width", "640").set("capture.height", "360");
    pipeline.start_all();
    pipeline.wait_for_frames(120);
    let status = pipeline.status().unwrap();
    assert_eq!(status["kernels"]["net"]["restarts"], 0, "{status}");
    pipeline.stop();
}

#[test]
fn shared_memory_that_is_too_small_is_refused_before_the_first_frame() {
    const NAME: &str = "shared_memory_that_is_too_small";
    if !need(NAME, &["unshare", "mount"]) {
        return;
    }
    let pipeline = Pipeline::new("shm", free_rtp_port());
    let private = |script: &str| {
        let mut command = Command::new("unshare");
        command.args(["-m", "--propagation", "private", "sh", "-c"]).arg(script);
        command.env("XDG_RUNTIME_DIR", pipeline.folder()).stdin(Stdio::null());
        command.output().unwrap()
    };
    if !private("mount -t tmpfs -o size=4m tmpfs /dev/shm").status.success() {
        skip(NAME, "a private mount of /dev/shm is not permitted (needs root)");
        return;
    }
    // A container's 64 MiB are enough for 720p and not for 4K.
    for (size, settings) in [("4m", ""), ("64m", "--set capture.width=3840 --set capture.height=2160")] {
        let output = private(&format!(
            "mount -t tmpfs -o size={size} tmpfs /dev/shm && exec timeout 10 {} --instance {} {settings}",
            binaries().join(Part::Capture.binary()).display(),
            pipeline.instance(),
        ));
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(78), "{text}");
        for said in ["Shared memory is too small", "--shm-size", "remount", "capture.slots"] {
            assert!(text.contains(said), "{text}");
        }
        assert!(!text.contains("Capturing"), "{text}");
    }
}

/// In no field of any header, in neither half of a word.
const FOREIGN: u64 = 0xDEAD_0000_DEAD;

/// Makes a ring and a lease table, then changes one word of an object's header.
fn foreign(object: &str, word: u64, said: &[&str]) {
    let mut pipeline = Pipeline::new("abi", free_rtp_port());
    pipeline.start(Part::Capture);
    assert!(within(REFUSED_WITHIN, || pipeline.log(Part::Capture).contains("Capturing")));
    pipeline.kill(Part::Capture);
    let path = format!("/dev/shm/quad.{}.{object}", pipeline.instance());
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&FOREIGN.to_le_bytes(), 8 * word).unwrap();
    assert_refused(&mut pipeline, Part::Capture, 78, said);
}

#[test]
fn objects_of_another_abi_are_refused_with_the_field() {
    // docs/PROTOCOL.md: the words of the header are magic, ABI version, layout hash, byte order.
    foreign("capture.main", 1, &["capture.main", "ABI", "dead"]);
    foreign("capture.main", 2, &["capture.main", "layout", "dead"]);
    foreign("leases", 1, &["leases", "ABI", "dead"]);
}

#[test]
fn a_consumer_refuses_a_ring_of_another_abi() {
    let mut pipeline = Pipeline::new("abi", free_rtp_port());
    pipeline.start(Part::Capture);
    assert!(within(REFUSED_WITHIN, || pipeline.log(Part::Capture).contains("Capturing")));
    let path = format!("/dev/shm/quad.{}.capture.main", pipeline.instance());
    OpenOptions::new().write(true).open(path).unwrap().write_all_at(&FOREIGN.to_le_bytes(), 8).unwrap();
    pipeline.start(Part::Process);
    let status = pipeline.wait(Part::Process, REFUSED_WITHIN);
    let log = pipeline.log(Part::Process);
    assert_eq!(status.and_then(|status| status.code()), Some(78), "{log}");
    assert!(log.contains("capture.main") && log.contains("dead"), "{log}");
}

#[test]
fn what_a_killed_run_left_is_taken_over_or_removed() {
    let port = free_rtp_port();
    let wire = Wire::listen(port);
    let mut pipeline = Pipeline::new("left", port);
    pipeline.set("capture.width", "640").set("capture.height", "360");
    pipeline.start_all();
    assert!(within(REFUSED_WITHIN, || wire.units() >= 30), "{}", pipeline.logs());
    Part::ALL.into_iter().for_each(|part| pipeline.kill(part));
    assert!(pipeline.objects().len() >= 5, "{:?}", pipeline.objects());
    // Taken over: the same RTP stream goes on.
    let before = wire.units();
    pipeline.start_all();
    assert!(within(REFUSED_WITHIN, || wire.units() >= before + 60), "{}", pipeline.logs());
    let (_, faults) = in_order(&wire.packets());
    assert_eq!(faults, Faults { repeated: faults.repeated, ..Faults::default() });
    Part::ALL.into_iter().for_each(|part| pipeline.kill(part));
    pipeline.remove();
    assert_eq!(pipeline.objects(), Vec::<String>::new());
}

#[test]
fn sigterm_ends_each_kernel_within_a_second_and_leaves_nothing() {
    let mut pipeline = Pipeline::new("term", free_rtp_port());
    pipeline.set("capture.width", "640").set("capture.height", "360");
    pipeline.start_all();
    pipeline.wait_for_frames(30);
    for part in Part::ALL {
        let since = Instant::now();
        let status = pipeline.terminate(part, Duration::from_secs(1));
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{part:?}: {}", pipeline.log(part));
        println!("{part:?} ended in {:?}", since.elapsed());
    }
    pipeline.stop();
    assert!(!system_tests::receiver::is_bound(pipeline.http_port));
}

#[test]
fn a_kernel_that_waits_for_its_producer_ends_on_sigterm_too() {
    let mut pipeline = Pipeline::new("wait", free_rtp_port());
    for part in [Part::Process, Part::Encode, Part::Net] {
        pipeline.start(part);
    }
    for part in [Part::Process, Part::Encode, Part::Net] {
        assert!(within(REFUSED_WITHIN, || pipeline.log(part).contains("Started")));
        let status = pipeline.terminate(part, Duration::from_secs(1));
        assert_eq!(status.and_then(|status| status.code()), Some(0), "{part:?}: {}", pipeline.log(part));
    }
    pipeline.stop();
}
