//! The HTTP output over real connections: request heads, and WebSocket frames of a viewer.
//!
//! Feeds: by the first byte: any bytes as a request to a server with a token; a request with that token put in front of
//! the input; frames of a viewer behind an upgrade, as they are; or text and binary messages, framed and masked as a
//! browser does.
//! Holds: no panic of the server's thread; every connection ends soon after the client's end; an answer is HTTP; nothing
//! of the status is told to a request without the token; an IDR is asked for only by a viewer or a joining one; the
//! server answers a plain request afterwards, and no viewer stays behind.
#![no_main]

use kernel_d_net::outputs::http::{HttpConfig, HttpOutput, StatusSource};
use quad_fuzz::Input;
use serde_json::{Value, json};
use std::cell::RefCell;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

const TOKEN: &str = "tok-3n";
/// Only the status says it.
const SECRET: &str = "known-to-viewers-only";
const SOON: Duration = Duration::from_secs(3);
/// A sound answer is looked for once in so many inputs.
const LOOK_EVERY: u64 = 256;

struct Fixed;

impl StatusSource for Fixed {
    fn status_json(&self) -> Value {
        json!({ "instance": SECRET })
    }
}

struct World {
    guarded: HttpOutput,
    open: HttpOutput,
    inputs: u64,
}

thread_local! {
    static WORLD: RefCell<Option<World>> = const { RefCell::new(None) };
}

fn server(token: Option<&str>) -> HttpOutput {
    let mut config = HttpConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    config.token = token.map(str::to_owned);
    HttpOutput::start(config, Arc::new(Fixed), Arc::new(|| {})).expect("a free port")
}

/// Sends, ends if `ends` says so, and reads until the server has ended. A server may leave a request without an answer
/// whose client has ended already.
fn talk(server: &HttpOutput, bytes: &[u8], ends: bool) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.local_addr()).expect("it listens");
    stream.set_read_timeout(Some(SOON)).expect("a timeout");
    stream.set_write_timeout(Some(SOON)).expect("a timeout");
    let linger = libc::linger { l_onoff: 1, l_linger: 0 };
    // SAFETY: reads one `linger`. Without it every input would hold a port for a minute after its end.
    unsafe {
        let size = size_of::<libc::linger>() as libc::socklen_t;
        libc::setsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, libc::SO_LINGER, (&raw const linger).cast(), size);
    }
    // The server may close in the middle of what it refuses.
    let _ = stream.write_all(bytes);
    if ends {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    if let Err(error) = stream.read_to_end(&mut answer) {
        let waited = matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
        assert!(!waited, "the connection goes on after its client's end");
    }
    answer
}

fn contains(bytes: &[u8], what: &str) -> bool {
    bytes.windows(what.len()).any(|window| window == what.as_bytes())
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
     Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";

/// A client's message as one frame (RFC 6455 section 5.2), masked with zeros.
fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80 | opcode];
    match payload.len() {
        len @ 0..126 => bytes.push(0x80 | len as u8),
        len => {
            bytes.push(0x80 | 126);
            bytes.extend_from_slice(&(len as u16).to_be_bytes());
        }
    }
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(payload);
    bytes
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| WORLD.with_borrow_mut(|slot| {
    let world = slot.get_or_insert_with(|| World { guarded: server(Some(TOKEN)), open: server(None), inputs: 0 });
    let mut input = Input(data);
    let answer = match input.u8() % 4 {
        0 => {
            let answer = talk(&world.guarded, input.0, true);
            // %-signs may spell it: what could be the token is left out of the rule.
            if !contains(input.0, TOKEN) && !input.0.contains(&b'%') {
                assert!(!contains(&answer, SECRET), "told to somebody without the token");
            }
            answer
        }
        1 => {
            let head = format!("GET /api/status?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\n");
            talk(&world.guarded, &[head.as_bytes(), input.0].concat(), true)
        }
        2 => talk(&world.open, &[UPGRADE.as_bytes(), input.0].concat(), true),
        _ => {
            let mut bytes = UPGRADE.as_bytes().to_vec();
            while !input.is_empty() {
                let opcode = [1, 1, 2, 8, 9, 10][usize::from(input.u8()) % 6];
                bytes.extend(frame(opcode, input.until(b"\n")));
            }
            talk(&world.open, &bytes, true)
        }
    };
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "an answer that is no HTTP");
    world.inputs += 1;
    if world.inputs.is_multiple_of(LOOK_EVERY) {
        for server in [&world.guarded, &world.open] {
            let request =
                format!("GET /metrics?token={TOKEN} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            assert!(talk(server, request.as_bytes(), false).starts_with(b"HTTP/1.1 200"), "no sound answer any more");
            let end = Instant::now() + SOON;
            while server.viewers() > 0 {
                assert!(Instant::now() < end, "{} viewers stay behind", server.viewers());
                std::thread::sleep(Duration::from_millis(1));
            }
        }
    }
}));
