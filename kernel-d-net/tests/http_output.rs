//! The HTTP output against real clients on loopback: what strangers may ask, and that viewers never disturb each other.

#![expect(clippy::expect_used, reason = "in a test a failed expectation is the result")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use kernel_d_net::outputs::http::{
    AuCopy, AuInfo, HEADER_BYTES, HttpConfig, HttpError, HttpOutput, StatusSource, StreamFormat,
};
use serde_json::{Value, json};
use shm_protocol::error::Recovery;
use shm_protocol::frame::Rational;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

type Client = tokio_tungstenite::WebSocketStream<tokio_tungstenite::MaybeTlsStream<tokio::net::TcpStream>>;

const SOON: Duration = Duration::from_secs(10);

struct Fixed;

impl StatusSource for Fixed {
    fn status_json(&self) -> Value {
        json!({ "instance": "test", "kernels": { "net": { "state": "running", "epoch": 4 } } })
    }
}

struct Bench {
    output: HttpOutput,
    asked: Arc<AtomicUsize>,
}

fn bench(change: impl FnOnce(&mut HttpConfig)) -> Bench {
    let mut config = HttpConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    change(&mut config);
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    let request = Arc::new(move || {
        counter.fetch_add(1, Ordering::SeqCst);
    });
    let output = HttpOutput::start(config, Arc::new(Fixed), request).expect("a free port");
    Bench { output, asked }
}

impl Bench {
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn publish(&self, frame_id: u64, idr: bool, bytes: usize) {
        let fps = Rational::new(60, 1).expect("a rate");
        let format = StreamFormat { codec: "avc1.42C01F".into(), width: 64, height: 32, fps };
        let info = AuInfo { frame_id, idr, config: idr, capture_realtime_us: frame_id * 1000, format };
        self.output.publish(AuCopy::new(info, &vec![frame_id as u8; bytes]));
    }

    /// Sends raw bytes, gives all that comes back until the server closes.
    fn raw(&self, request: &[u8]) -> String {
        let mut stream = TcpStream::connect(self.output.local_addr()).expect("connects");
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        // The server may close in the middle of what it refuses.
        let _ = stream.write_all(request);
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        String::from_utf8_lossy(&answer).into_owned()
    }

    fn get(&self, path: &str, headers: &str) -> String {
        self.raw(format!("GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n").as_bytes())
    }

    async fn watch(&self) -> Client {
        let url = format!("ws://{}/ws", self.output.local_addr());
        let before = self.output.viewers();
        let (client, _) = tokio_tungstenite::connect_async(url).await.expect("a WebSocket");
        until(|| self.output.viewers() > before).await;
        client
    }
}

async fn until(mut reached: impl FnMut() -> bool) {
    let start = Instant::now();
    while !reached() {
        assert!(start.elapsed() < SOON, "not reached in time");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Frame id and IDR flag of the next access unit; text messages go to `texts`.
async fn next_au(client: &mut Client, texts: &mut Vec<Value>) -> (u64, bool) {
    loop {
        let message = tokio::time::timeout(SOON, client.next()).await.expect("in time").expect("open").expect("valid");
        match message {
            Message::Binary(bytes) => {
                let id = u64::from_be_bytes(bytes[8..16].try_into().expect("eight bytes"));
                assert!(bytes[HEADER_BYTES..].iter().all(|byte| *byte == id as u8), "bytes of another access unit");
                return (id, bytes[1] & 1 == 1);
            }
            Message::Text(text) => texts.push(serde_json::from_str(&text).expect("JSON")),
            other => panic!("unexpected {other:?}"),
        }
    }
}

fn status_of(answer: &str) -> u16 {
    answer.get(9..12).and_then(|code| code.parse().ok()).unwrap_or_else(|| panic!("no status in {answer:?}"))
}

#[test]
fn the_paths_answer_with_what_they_promise() {
    let bench = bench(|_| {});
    let host = "Host: localhost\r\n";
    let page = bench.get("/", host);
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("<canvas"), "{page}");
    let head = page.split("\r\n\r\n").next().unwrap_or("").to_ascii_lowercase();
    assert!(head.contains("content-security-policy: default-src 'none'"), "{head}");
    assert!(head.contains("x-content-type-options: nosniff"), "{head}");
    assert!(!head.contains("access-control-"), "no CORS header: {head}");
    for asset in ["/watch.js", "/panel.js", "/charts.js", "/watch.css"] {
        assert_eq!(status_of(&bench.get(asset, host)), 200, "{asset}");
    }
    let status = bench.get("/api/status", host);
    assert!(status.contains("application/json") && status.contains(r#""instance":"test""#), "{status}");
    let metrics = bench.get("/metrics", host);
    assert!(metrics.contains("text/plain; version=0.0.4"), "{metrics}");
    assert!(metrics.contains("quad_kernel_epoch{kernel=\"net\"} 4\n") && metrics.contains("quad_http_viewers 0\n"));
    assert_eq!(status_of(&bench.get("/nothing", host)), 404);
    assert_eq!(status_of(&bench.get("/../etc/passwd", host)), 404);
    let post = bench.raw(b"POST /api/status HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(status_of(&post), 405);
    assert_eq!(status_of(&bench.get("/ws", host)), 400, "not an upgrade");
    bench.output.stop();
}

#[test]
fn strangers_are_refused_by_host_origin_and_token() {
    let bench = bench(|config| {
        config.token = Some("correct horse".into());
        config.allowed_hosts = vec!["studio.example".into()];
    });
    let bearer = "Authorization: Bearer correct horse\r\n";
    let table = [
        ("/api/status", "Host: localhost\r\n", bearer, 200),
        ("/api/status", "Host: studio.example\r\n", bearer, 200),
        ("/api/status?token=correct%20horse", "Host: localhost\r\n", "", 200),
        ("/api/status", "Host: localhost\r\n", "", 401),
        ("/", "Host: localhost\r\n", "", 401),
        ("/metrics", "Host: localhost\r\n", "Authorization: Bearer wrong\r\n", 401),
        ("/api/status", "Host: rebound.example\r\n", bearer, 421),
        ("/", "Host: rebound.example\r\n", bearer, 421),
        ("/watch.js", "Host: rebound.example\r\n", bearer, 421),
        ("/api/status", "", bearer, 400),
        ("/api/status", "Host: localhost\r\nOrigin: http://rebound.example\r\n", bearer, 403),
        ("/api/status", "Host: localhost\r\nOrigin: http://localhost\r\n", bearer, 200),
    ];
    for (path, host, token, expected) in table {
        let answer = bench.get(path, &format!("{host}{token}"));
        assert_eq!(status_of(&answer), expected, "{path} {host:?} {token:?}");
    }
    let gate = bench.get("/", "Host: localhost\r\n");
    assert!(gate.to_ascii_lowercase().contains("www-authenticate: bearer") && gate.contains("<form"), "{gate}");
}

#[tokio::test]
async fn a_page_that_rebinds_its_name_gets_no_picture() {
    let bench = bench(|_| {});
    let address = bench.output.local_addr();
    for (host, origin, expected) in [
        (format!("rebound.example:{}", address.port()), format!("http://rebound.example:{}", address.port()), 421),
        (address.to_string(), "http://rebound.example".into(), 403),
        (address.to_string(), "null".into(), 403),
    ] {
        let mut request = format!("ws://{address}/ws").into_client_request().expect("a request");
        request.headers_mut().insert("host", host.parse().expect("a value"));
        request.headers_mut().insert("origin", origin.parse().expect("a value"));
        match tokio_tungstenite::connect_async(request).await {
            Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => assert_eq!(answer.status(), expected),
            other => panic!("{host} {origin}: {other:?}"),
        }
    }
    assert_eq!(bench.output.viewers(), 0);
}

#[tokio::test]
async fn a_late_joiner_gets_the_format_and_then_an_idr_first() {
    let bench = bench(|_| {});
    let mut client = bench.watch().await;
    assert_eq!(bench.asked(), 1, "joining asks for an IDR");
    for id in 10..20 {
        bench.publish(id, id == 15, 100);
    }
    let mut texts = Vec::new();
    assert_eq!(next_au(&mut client, &mut texts).await, (15, true));
    let hello = json!({ "type": "hello", "codec": "avc1.42C01F", "width": 64, "height": 32, "fps": 60.0 });
    assert!(texts.contains(&hello), "{texts:?}");
    assert!(texts.iter().any(|text| text["type"] == "status" && text["status"]["instance"] == "test"), "{texts:?}");
    for id in 16..20 {
        assert_eq!(next_au(&mut client, &mut texts).await, (id, false));
    }
    client.close(None).await.expect("closes");
    until(|| bench.output.viewers() == 0).await;
}

#[tokio::test]
async fn a_viewer_that_never_reads_disturbs_neither_the_publisher_nor_another_viewer() {
    let bench = bench(|_| {});
    let _sleeper = bench.watch().await;
    let mut reader = bench.watch().await;
    let mut texts = Vec::new();
    let mut longest = Duration::ZERO;
    // Far more than two socket buffers and the viewer's queue hold.
    for id in 0..400 {
        let before = Instant::now();
        bench.publish(id, id == 0, 100_000);
        longest = longest.max(before.elapsed());
        assert_eq!(next_au(&mut reader, &mut texts).await, (id, id == 0));
    }
    assert!(longest < Duration::from_millis(100), "publishing took {longest:?}");
    let metrics = bench.get("/metrics", "Host: localhost\r\n");
    assert!(metrics.contains("quad_http_overflows_total 1\n"), "{metrics}");
}

#[tokio::test]
async fn an_overflow_skips_to_the_next_idr_and_asks_once() {
    let bench = bench(|_| {});
    let mut client = bench.watch().await;
    let asked = bench.asked();
    tokio::time::sleep(Duration::from_millis(600)).await;
    // The client does not read: its socket and its queue fill.
    let mut id = 0;
    while bench.asked() == asked {
        bench.publish(id, id == 0, 200_000);
        id += 1;
        assert!(id < 1000, "no overflow");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    for _ in 0..20 {
        bench.publish(id, false, 100);
        id += 1;
    }
    assert_eq!(bench.asked(), asked + 1, "one request, however long it waits");
    let resumed = id;
    bench.publish(resumed, true, 100);
    bench.publish(resumed + 1, false, 100);
    let mut texts = Vec::new();
    let mut last = next_au(&mut client, &mut texts).await;
    assert_eq!(last, (0, true));
    let mut jumped = false;
    while last.0 < resumed + 1 {
        let next = next_au(&mut client, &mut texts).await;
        if next.0 != last.0 + 1 {
            assert!(next.1, "after a gap comes an IDR, not frame {}", next.0);
            assert_eq!(next.0, resumed);
            jumped = true;
        }
        last = next;
    }
    assert!(jumped);
}

#[tokio::test]
async fn a_decoder_that_lost_its_place_is_heard_and_clocks_are_compared() {
    let bench = bench(|_| {});
    let mut client = bench.watch().await;
    bench.publish(0, true, 10);
    let mut texts = Vec::new();
    next_au(&mut client, &mut texts).await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    let asked = bench.asked();
    client.send(Message::text(r#"{"idr":true}"#)).await.expect("sends");
    until(|| bench.asked() == asked + 1).await;
    for garbage in ["", "nonsense", "[1,2", "{\"idr\":7}", "{\"ping\":\"x\"}"] {
        client.send(Message::text(garbage)).await.expect("sends");
    }
    client.send(Message::text(r#"{"ping":12.5}"#)).await.expect("sends");
    bench.publish(1, false, 10);
    bench.publish(2, true, 10);
    assert_eq!(next_au(&mut client, &mut texts).await, (2, true));
    while !texts.iter().any(|text| text["type"] == "pong" && text["t"] == 12.5) {
        bench.publish(3, true, 10);
        next_au(&mut client, &mut texts).await;
    }
    assert_eq!(bench.asked(), asked + 1);
}

#[tokio::test]
async fn viewers_beyond_the_limit_and_those_that_flood_are_turned_away() {
    let bench = bench(|config| config.limits.viewers = 1);
    let mut first = bench.watch().await;
    let url = format!("ws://{}/ws", bench.output.local_addr());
    match tokio_tungstenite::connect_async(&url).await {
        Err(tokio_tungstenite::tungstenite::Error::Http(answer)) => assert_eq!(answer.status(), 503),
        other => panic!("{other:?}"),
    }
    first.send(Message::text("x".repeat(5000))).await.expect("sends");
    until(|| bench.output.viewers() == 0).await;
    let mut second = bench.watch().await;
    for _ in 0..100 {
        if second.send(Message::text("{}")).await.is_err() {
            break;
        }
    }
    until(|| bench.output.viewers() == 0).await;
}

#[tokio::test]
async fn a_viewer_that_takes_nothing_is_dropped_in_the_end() {
    let bench = bench(|config| config.limits.write_timeout = Duration::from_millis(300));
    let _sleeper = bench.watch().await;
    let mut id = 0;
    until(|| {
        bench.publish(id, true, 500_000);
        id += 1;
        bench.output.viewers() == 0
    })
    .await;
}

#[test]
fn garbage_and_oversize_are_answered_or_cut_off_and_do_no_harm() {
    let bench = bench(|config| config.limits.header_timeout = Duration::from_millis(300));
    let long_path = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(100_000));
    let long_header = format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {}\r\n\r\n", "a".repeat(100_000));
    let many = format!("GET / HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X: y\r\n".repeat(1000));
    let body = "GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999\r\n\r\nxx";
    for (what, request, expected) in [
        ("long path", long_path.as_bytes(), &["431", "414"][..]),
        ("long header", long_header.as_bytes(), &["431"]),
        ("many headers", many.as_bytes(), &["431"]),
        ("a body", body.as_bytes(), &["413"]),
        ("TLS", &[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &["400"]),
        ("zeros", &[0; 4096], &["400"]),
        ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &["400", "505"]),
    ] {
        let answer = bench.raw(request);
        let code = answer.get(9..12).unwrap_or("");
        assert!(answer.is_empty() || expected.contains(&code), "{what}: {answer:?}");
    }
    assert_eq!(status_of(&bench.get("/", "Host: localhost\r\n")), 200);
}

#[test]
fn slow_and_idle_connections_are_closed_and_too_many_are_turned_away() {
    let bench = bench(|config| {
        config.limits.header_timeout = Duration::from_millis(300);
        config.limits.connections = 2;
    });
    let start = Instant::now();
    let idle: Vec<_> = (0..2).map(|_| TcpStream::connect(bench.output.local_addr()).expect("connects")).collect();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(status_of(&bench.raw(b"")), 503, "no place is left");
    for mut stream in idle {
        stream.set_read_timeout(Some(SOON)).expect("a timeout");
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
    }
    assert!(start.elapsed() < Duration::from_secs(3), "silent connections held for {:?}", start.elapsed());
    assert_eq!(status_of(&bench.get("/", "Host: localhost\r\n")), 200);
}

#[test]
fn a_port_in_use_is_named_with_its_cure() {
    let bench = bench(|_| {});
    let address = bench.output.local_addr();
    let error = HttpOutput::start(HttpConfig::new(address), Arc::new(Fixed), Arc::new(|| {})).expect_err("taken");
    assert!(matches!(error, HttpError::AddressInUse { address: named } if named == address), "{error:?}");
    let message = error.to_string();
    assert!(message.contains(&address.to_string()) && message.contains("net.http.listen"), "{message}");
    assert_eq!(error.recovery(), Recovery::Fatal);
}

#[test]
fn an_address_of_another_machine_and_an_empty_token_are_refused() {
    let start = |config| HttpOutput::start(config, Arc::new(Fixed), Arc::new(|| {}));
    let elsewhere = HttpConfig::new(SocketAddr::from(([192, 0, 2, 1], 0)));
    assert!(matches!(start(elsewhere), Err(HttpError::AddressNotHere { .. })));
    let mut open = HttpConfig::new(SocketAddr::from(([127, 0, 0, 1], 0)));
    open.token = Some(String::new());
    assert!(matches!(start(open), Err(HttpError::EmptyToken)));
}

#[tokio::test]
async fn stopping_tells_the_viewers_and_frees_the_port_for_a_successor() {
    let bench = bench(|_| {});
    let address = bench.output.local_addr();
    let mut client = bench.watch().await;
    let start = Instant::now();
    tokio::task::spawn_blocking(move || bench.output.stop()).await.expect("stops");
    assert!(start.elapsed() < Duration::from_secs(2));
    let mut closed = false;
    while let Some(Ok(message)) = tokio::time::timeout(SOON, client.next()).await.expect("in time") {
        closed |= matches!(&message, Message::Close(Some(frame)) if u16::from(frame.code) == 1001);
    }
    assert!(closed, "the viewer is told that the server goes away");
    let successor = HttpOutput::start(HttpConfig::new(address), Arc::new(Fixed), Arc::new(|| {})).expect("the port");
    assert_eq!(successor.local_addr(), address);
}
