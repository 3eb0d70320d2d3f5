//! A viewer of the watch page while kernel D dies: a plain WebSocket client (RFC 6455).

use super::course::settings;
use crate::stats::Summary;
use crate::supervised::{PATIENCE, Supervised};
use anyhow::{Context, Result, ensure};
use shm_protocol::clock::monotonic_ns;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// When the page connects again after it lost its connection, ms; the last one repeats.
const RETRIES_MS: [u64; 4] = [100, 200, 400, 700];
/// Bit of a message's second byte: decoding can begin here.
const FLAG_IDR: u8 = 1;

/// Kills kernel D `kills` times; the time from each to an IDR at the viewer, ms.
///
/// # Errors
/// When the instance does not start or the viewer gets nothing.
pub fn run(kills: usize, seed: u64) -> Result<Summary> {
    let nobody = UdpSocket::bind("127.0.0.1:0")?;
    let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let mut settings = settings();
    settings.retain(|setting| !setting.starts_with("net.http"));
    settings.push(format!("net.http.listen=127.0.0.1:{port}"));
    settings.push("capture.max_latency_ms=2000".to_owned());
    let instance = Supervised::start("browser", &settings, nobody.local_addr()?.port())?;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut samples = Vec::new();
    let mut viewer = reconnect(port)?;
    for _ in 0..kills {
        // Until it shows the stream.
        while !next_is_idr(&mut viewer)? {}
        std::thread::sleep(Duration::from_micros(100_000 + random.u64(..400_000)));
        let at_ns = instance.kill("net")?;
        while next_is_idr(&mut viewer).is_ok() {}
        viewer = reconnect(port)?;
        while !next_is_idr(&mut viewer)? {}
        samples.push((monotonic_ns() - at_ns) as f64 / 1e6);
        std::thread::sleep(Duration::from_millis(500));
    }
    Summary::of(&samples).context("Nothing was killed")
}

fn reconnect(port: u16) -> Result<TcpStream> {
    let until = Instant::now() + PATIENCE;
    for wait_ms in RETRIES_MS.into_iter().chain(std::iter::repeat(RETRIES_MS[RETRIES_MS.len() - 1])) {
        std::thread::sleep(Duration::from_millis(wait_ms));
        if let Some(stream) = connect(port) {
            return Ok(stream);
        }
        ensure!(Instant::now() < until, "The watch page did not come back");
    }
    unreachable!("The waits repeat for ever")
}

fn connect(port: u16) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).ok()?;
    let request = format!(
        "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nOrigin: http://127.0.0.1:{port}\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).ok()?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    head.starts_with(b"HTTP/1.1 101").then_some(stream)
}

/// Whether the next message is an access unit that decoding can begin with.
fn next_is_idr(stream: &mut impl Read) -> Result<bool> {
    const BINARY: u8 = 2;
    let mut head = [0; 2];
    stream.read_exact(&mut head)?;
    // A server does not mask what it sends (RFC 6455, 5.1).
    let len = match head[1] & 127 {
        126 => {
            let mut bytes = [0; 2];
            stream.read_exact(&mut bytes)?;
            u64::from(u16::from_be_bytes(bytes))
        }
        127 => {
            let mut bytes = [0; 8];
            stream.read_exact(&mut bytes)?;
            u64::from_be_bytes(bytes)
        }
        short => u64::from(short),
    };
    let mut message = Vec::new();
    ensure!(stream.take(len).read_to_end(&mut message)? as u64 == len, "The connection ended within a message");
    Ok(head[0] & 15 == BINARY && message.get(1).is_some_and(|flags| flags & FLAG_IDR != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_every_length_form_are_read() {
        let mut bytes = vec![0x82, 3, 1, 1, 0];
        bytes.extend([0x82, 126, 1, 0]);
        bytes.extend([0; 256]);
        bytes.extend([0x81, 2, 1, 1]);
        bytes.extend([0x82, 5, 1]);
        let mut stream = &bytes[..];
        assert!(next_is_idr(&mut stream).unwrap());
        assert!(!next_is_idr(&mut stream).unwrap());
        assert!(!next_is_idr(&mut stream).unwrap(), "text is no access unit");
        assert!(next_is_idr(&mut stream).is_err(), "cut off");
    }
}
