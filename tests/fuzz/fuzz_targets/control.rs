//! The supervisor's socket: requests of any process of the same user.
//!
//! Feeds: bytes in portions over a real socket to the supervisor's side of a conversation.
//! Holds: no panic; no request without a line of its own; what is accepted is, written out, accepted as the same; garbage
//! and lines beyond the limit end the conversation with an answer that is JSON and says 64; after the end of the input the
//! conversation ends, and nothing is understood after garbage.
#![no_main]
#![allow(dead_code, reason = "the module is whole, a target uses the listening side")]

// quadctl is a program without a library: the module is compiled in by path.
#[path = "../../../scripts/quadctl/src/supervisor/control.rs"]
mod control;

use control::{Client, Listener, Reply, Request};
use kernel_host::runtime::RuntimeDir;
use quad_fuzz::Input;
use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;

struct World {
    _folder: tempfile::TempDir,
    runtime: RuntimeDir,
    listener: Listener,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fn world() -> World {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = RuntimeDir::locate_in(folder.path(), "fuzz").expect("a runtime directory");
    runtime.create().expect("a runtime directory");
    let listener = Listener::bind(&runtime).expect("a socket");
    World { _folder: folder, runtime, listener }
}

/// Takes what is there, as the supervisor does when the socket polls readable.
fn take(client: &mut Client, requests: &mut Vec<Request>) {
    while let Some(request) = client.receive() {
        let line = serde_json::to_vec(&request).expect("a request is JSON");
        assert_eq!(serde_json::from_slice::<Request>(&line).ok().as_ref(), Some(&request));
        requests.push(request);
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| WORLD.with_borrow_mut(|slot| {
    let world = slot.get_or_insert_with(world);
    let mut asker = UnixStream::connect(world.runtime.supervisor_socket().expect("a path")).expect("it listens");
    let mut client = world.listener.accept().expect("the asker waits");
    let mut input = Input(data);
    let mut requests = Vec::new();
    let (mut sent, mut lines) = (0, 0);
    while !input.is_empty() && !client.closed {
        // Portions of up to 256 bytes, or of 64 times as many, so that the limit is reached.
        let count = usize::from(input.u8()) + 1;
        let repeat = if input.u8() == 255 { 64 } else { 1 };
        let portion = input.take(count).repeat(repeat);
        asker.write_all(&portion).expect("the socket takes it");
        sent += portion.len();
        lines += portion.iter().filter(|byte| **byte == b'\n').count();
        take(&mut client, &mut requests);
        assert!(requests.len() <= lines);
    }
    asker.shutdown(Shutdown::Write).expect("open");
    let told_off = client.closed;
    while !client.closed {
        take(&mut client, &mut requests);
    }
    assert!(requests.len() <= lines && lines <= sent);
    drop(client);
    let mut answers = Vec::new();
    // Closed with bytes unread the socket says so; what was answered before is still there.
    let _ = asker.read_to_end(&mut answers);
    for line in answers.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let reply: Reply = serde_json::from_slice(line).expect("an answer is JSON");
        assert_eq!(reply.exit, 64);
    }
    assert!(!told_off || !answers.is_empty(), "told off without a word");
}));
