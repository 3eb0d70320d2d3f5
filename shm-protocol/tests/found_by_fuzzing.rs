//! What fuzzing found in what a peer writes or does: each case as it was, small.
#![allow(clippy::unwrap_used, reason = "a test's panic is its report")]
#![allow(unsafe_code, reason = "signals and a bare memfd")]

mod common;

use common::*;
use shm_protocol::attach::Policy;
use shm_protocol::descriptor::StreamFormat;
use shm_protocol::input::Consumer;
use shm_protocol::output::Producer;
use shm_protocol::pool::{PoolKind, PoolSpec};
use shm_protocol::segment::Access;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::Duration;

const CAPTURE: &str = "capture.main";
const PROCESS: &str = "process.main";

/// Fills the whole pool table of a ring with entries of one name.
fn name_every_pool(raw: &SharedFile, name: &str, ring_uid: u64, buffers: u64, buffer_bytes: u64) {
    let mut text = [0u8; 128];
    text[..name.len()].copy_from_slice(name.as_bytes());
    for entry in 0..8usize {
        let words = &raw.words()[at::POOLS + entry * 32..][..32];
        for (word, bytes) in words[16..].iter().zip(text.chunks_exact(8)) {
            word.store(u64::from_le_bytes(bytes.try_into().unwrap()), Ordering::SeqCst);
        }
        for (word, value) in [(1, 1), (2, buffers), (3, buffer_bytes), (0, ring_uid << 32 | (entry as u64 + 1))] {
            words[word].store(value, Ordering::SeqCst);
        }
    }
}

#[test]
fn a_pool_table_that_names_other_files_opens_and_removes_none_of_them() {
    let i = Instance::new("poolnames");
    let lease = i.lease(CAPTURE);
    let ring = spec(CAPTURE, &[(PROCESS, true)], Policy::Live, 4);
    let (mut producer, _) = Producer::open(&lease, &ring, &directory()).unwrap();
    producer.set_pool(PoolKind::PosixShm, format().frame_bytes(), &i.dir).unwrap();
    producer.set_format(&StreamFormat::Video(format())).unwrap();
    produce(&mut producer, 1, &format());
    let raw = SharedFile::map(&i.path(CAPTURE), 0x7000);
    let elsewhere = i.dir.join("victim");
    let neighbour = i.path("encode.main.session");
    for path in [&elsewhere, &neighbour] {
        std::fs::write(path, vec![7u8; 1 << 20]).unwrap();
    }
    let relative = format!("../..{}", elsewhere.display());
    assert!(Path::new("/dev/shm").join(&relative).exists(), "the test names a file that is there");
    let own = u64::from(producer.ring_uid());
    for (name, leaves) in [(relative.as_str(), true), (&format!("quad.{}.encode.main.session", i.name), false)] {
        name_every_pool(&raw, name, own, 4, 65536);
        let reader = i.lease(PROCESS);
        let mut consumer = Consumer::attach(&reader, PROCESS, CAPTURE, &directory(), &i.dir).unwrap();
        let taken = consumer.acquire().unwrap().unwrap();
        assert!(!leaves || consumer.bytes(&taken).is_err(), "{name} was opened as a pool");
        drop(consumer);
        reader.stop();
        // Another geometry: a new generation takes the place of an old one.
        producer.set_pool(PoolKind::PosixShm, 1 << 16, &i.dir).unwrap();
        producer.set_pool(PoolKind::PosixShm, 1 << 14, &i.dir).unwrap();
        assert!(elsewhere.exists() && neighbour.exists(), "{name} was removed");
    }
}

/// Sends bytes with a sealed memory of 8192 bytes beside them.
fn send_with_memory(stream: &UnixStream, bytes: &[u8]) {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    // SAFETY: a new descriptor, owned at once.
    let memory = unsafe {
        let fd = libc::memfd_create(c"test".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        assert!(libc::ftruncate(fd, 8192) == 0 && libc::fcntl(fd, libc::F_ADD_SEALS, libc::F_SEAL_SHRINK) == 0);
        OwnedFd::from_raw_fd(fd)
    };
    let raw = [memory.as_raw_fd()];
    let io = [std::io::IoSlice::new(bytes)];
    sendmsg::<()>(stream.as_raw_fd(), &io, &[ControlMessage::ScmRights(&raw)], MsgFlags::MSG_NOSIGNAL, None).unwrap();
}

#[test]
fn a_signal_during_the_hand_over_is_no_failure() {
    extern "C" fn nothing(_signal: i32) {}
    let i = Instance::new("signal");
    let end = Child::spawn(|| {
        // SAFETY: the handler does nothing, and a plain signal(2) restarts what can be restarted.
        assert_ne!(unsafe { libc::signal(libc::SIGUSR1, nothing as *const () as usize) }, libc::SIG_ERR);
        // SAFETY: names this thread.
        let asker = unsafe { libc::pthread_self() };
        let path = i.dir.join("slow.fd");
        let listener = UnixListener::bind(&path).unwrap();
        let interrupt = move || {
            for _ in 0..5 {
                std::thread::sleep(Duration::from_millis(20));
                // SAFETY: the asker waits for this thread's answer, so it is there.
                unsafe { libc::pthread_kill(asker, libc::SIGUSR1) };
            }
        };
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // Length, variant, kind, buffers, bytes of a buffer.
            let body = [&[1u8, 0, 0, 0, 2][..], &[0; 7], &2u32.to_le_bytes(), &4096u64.to_le_bytes()].concat();
            let reply = [&(body.len() as u32).to_le_bytes()[..], &body].concat();
            // The asker sleeps in its receive, then in the middle of the message.
            interrupt();
            send_with_memory(&stream, &reply[..7]);
            interrupt();
            stream.write_all(&reply[7..]).unwrap();
        });
        let name = format!("quad.{}.capture.main.pool1", i.name);
        let wanted =
            PoolSpec { ring_uid: 1, generation: 1, kind: PoolKind::Memfd, buffers: 2, buffer_bytes: 4096, name };
        let got = shm_protocol::fdpass::request(&path, &wanted, Access::Read);
        assert!(matches!(got, Ok(Some(_))), "{got:?}");
        server.join().unwrap();
    })
    .join();
    assert_eq!(end, End::Exit(0));
}
