//! The descriptor hand-over over real Unix sockets, with a peer that says anything.
//!
//! Feeds: bytes and descriptors (sealed, unsealed, short, none, many) as the answer of a server that `request` asks, and
//! bytes in portions as what a client sends to the server of `serve`.
//! Holds: no panic; no hang beyond the patience; a pool is only accepted when the descriptor is sealed and long enough for
//! it, and its whole memory is readable; no descriptor is left open, whatever was sent; the server still serves.
#![no_main]

use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use quad_fuzz::{Input, open_descriptors};
use shm_protocol::descriptor::BufferRef;
use shm_protocol::pool::{Pool, PoolDirectory, PoolKind, PoolSpec};
use shm_protocol::segment::Access;
use std::cell::RefCell;
use std::io::{IoSlice, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};

const BYTES: u64 = 8192;

/// What the hostile server says to one client.
struct Answer {
    bytes: Vec<u8>,
    fds: Vec<Arc<OwnedFd>>,
}

struct World {
    _dir: tempfile::TempDir,
    hostile: PathBuf,
    honest: PathBuf,
    answers: Sender<Answer>,
    done: Receiver<()>,
    /// Sealed and long enough, sealed and short, unsealed, a plain file.
    fds: [Arc<OwnedFd>; 4],
    open: usize,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fn spec() -> PoolSpec {
    let name = "quad.fuzz.capture.main.pool1".to_owned();
    PoolSpec { ring_uid: 1, generation: 1, kind: PoolKind::Memfd, buffers: 2, buffer_bytes: BYTES / 2, name }
}

fn memfd(bytes: u64, seals: i32) -> Arc<OwnedFd> {
    // SAFETY: a new descriptor, owned at once.
    unsafe {
        let fd = libc::memfd_create(c"fuzz".as_ptr(), libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING);
        assert!(fd >= 0 && libc::ftruncate(fd, bytes as i64) == 0 && libc::fcntl(fd, libc::F_ADD_SEALS, seals) == 0);
        Arc::new(OwnedFd::from_raw_fd(fd))
    }
}

fn world() -> World {
    let dir = tempfile::tempdir().expect("a folder");
    let hostile = dir.path().join("hostile.fd");
    let listener = UnixListener::bind(&hostile).expect("a socket");
    let (answers, inbox) = channel::<Answer>();
    let (finished, done) = channel();
    std::thread::spawn(move || {
        for answer in inbox {
            let (stream, _) = listener.accept().expect("a client");
            let mut request = [0; 12];
            let _ = (&stream).read_exact(&mut request);
            let raw: Vec<i32> = answer.fds.iter().map(|fd| fd.as_raw_fd()).collect();
            let rights = [ControlMessage::ScmRights(&raw)];
            let rights: &[ControlMessage<'_>] = if raw.is_empty() { &[] } else { &rights };
            let _ =
                sendmsg::<()>(stream.as_raw_fd(), &[IoSlice::new(&answer.bytes)], rights, MsgFlags::MSG_NOSIGNAL, None);
            drop((stream, answer));
            let _ = finished.send(());
        }
    });
    let pools = Arc::new(PoolDirectory::default());
    pools.add(Pool::create(spec()).expect("a memfd").into());
    shm_protocol::fdpass::serve(dir.path(), "honest", pools).expect("a server");
    let plain = Arc::new(OwnedFd::from(tempfile::tempfile().expect("a file")));
    let sealed = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW;
    let fds = [memfd(BYTES, sealed), memfd(BYTES / 2, sealed), memfd(BYTES, 0), plain];
    let honest = shm_protocol::fdpass::socket_path(dir.path(), "honest");
    let mut world = World { _dir: dir, hostile, honest, answers, done, fds, open: 0 };
    served(&world);
    world.open = open_descriptors();
    world
}

fn served(world: &World) {
    let got = shm_protocol::fdpass::request(&world.honest, &spec(), Access::Read);
    assert!(matches!(got, Ok(Some(_))), "the server does not serve: {got:?}");
}

fn ask_hostile(world: &World, input: &mut Input<'_>) {
    let kinds: Vec<usize> = match input.u8() % 8 {
        0..=3 => vec![0],
        4 => vec![usize::from(input.u8()) % 4],
        5 => vec![0; usize::from(input.u8()) % 254],
        6 => input.block().iter().take(80).map(|kind| usize::from(*kind) % 4).collect(),
        _ => Vec::new(),
    };
    let fds = kinds.iter().map(|kind| Arc::clone(&world.fds[*kind])).collect();
    world.answers.send(Answer { bytes: input.0.to_vec(), fds }).expect("the server's thread");
    let got = shm_protocol::fdpass::request(&world.hostile, &spec(), Access::Read);
    world.done.recv().expect("the server's thread");
    if let Ok(Some(pool)) = got {
        assert_eq!(kinds.first(), Some(&0), "a descriptor that is not sealed or too short was accepted");
        for index in 0..2 {
            let at = BufferRef { ring_uid: 1, generation: 1, index, offset: 0, len: (BYTES / 2) as u32 };
            let (base, len) = pool.extent(&at).expect("within the pool");
            // SAFETY: `extent` promises that these bytes are mapped; that is what is tested.
            unsafe { std::hint::black_box((base.read_volatile(), base.add(len - 1).read_volatile())) };
        }
    }
}

fn disturb_honest(world: &World, input: &mut Input<'_>) {
    let mut stream = UnixStream::connect(&world.honest).expect("the server listens");
    while !input.is_empty() {
        if stream.write_all(input.block()).is_err() {
            break;
        }
    }
    // Without an end the server would wait for its patience.
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.len() < 64);
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| WORLD.with_borrow_mut(|slot| {
    let world = slot.get_or_insert_with(world);
    let mut input = Input(data);
    if input.u8() & 1 == 0 {
        ask_hostile(world, &mut input);
    } else {
        disturb_honest(world, &mut input);
        served(world);
    }
    // The server's thread closes its end a moment after its client has seen it.
    let mut tries = 0;
    while open_descriptors() > world.open {
        tries += 1;
        assert!(tries < 2000, "{} descriptors are open, {} were", open_descriptors(), world.open);
        std::thread::sleep(std::time::Duration::from_micros(100));
    }
}));
