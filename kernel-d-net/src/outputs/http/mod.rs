//! The watch page: shows the stream and the four kernels in a browser, without a second encode.
//!
//! One thread with its own current-thread runtime serves everything, so that parsing what strangers send never shares
//! a thread with the publisher. [`HttpOutput::publish`] is one bounded, lock-free hand-over whatever the number of
//! viewers; each viewer has its own bounded queue and drops, alone, up to the next IDR when it is late.
//!
//! | path | |
//! |---|---|
//! | `/` | the page |
//! | `/ws` | WebSocket (RFC 6455): access units as binary messages ([`MESSAGE_VERSION`]), JSON as text messages |
//! | `/api/status` | the status as JSON |
//! | `/metrics` | the same for Prometheus |
//!
//! Text messages to the viewer: `{"type":"hello","codec","width","height","fps"}` before the first access unit and when
//! one of these changes, the codec itself included: the access unit behind it is a key frame; `{"type":"status","status":{…},"viewers":n}` every second; `{"type":"pong","t","server_us"}`.
//! From the viewer: `{"idr":true}` when its decoder lost its place, `{"ping":t}` to compare clocks.

mod au;
mod error;
mod guard;
mod hub;
mod limiter;
mod metrics;
mod queue;
mod routes;
mod server;
mod session;
mod socket;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, watch};

pub use self::au::{AuCopy, AuInfo, HEADER_BYTES, MESSAGE_VERSION, StreamFormat};
pub use self::error::HttpError;
pub use self::metrics::prometheus;

use self::au::SharedAu;
use self::hub::{Counters, count};

/// Access units between the publisher and the output's thread: a second at 60 fps. The thread does nothing that takes
/// long, so this fills only when it gets no processor; then access units are lost for all viewers up to the next IDR.
const HAND_OVER_AUS: usize = 64;

/// Where the output gets the state of the whole instance from. Called on the output's thread; what it does delays
/// viewers, not the stream.
pub trait StatusSource: Send + Sync {
    /// The status, as `quad status --json` prints it.
    fn status_json(&self) -> Value;

    /// The status as Prometheus text; the output adds its own counters.
    fn metrics(&self) -> String {
        prometheus(&self.status_json())
    }
}

/// Bounds on what clients may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpLimits {
    /// Connections at once, viewers included. Each costs some 20 KiB; the default leaves room for a page, a scraper and
    /// reloads beside every viewer.
    pub connections: usize,
    /// Viewers at once. The default at 8 Mbit/s fills a quarter of a gigabit link; more belong behind a media server.
    pub viewers: usize,
    /// Time for a client to send a whole request head, also the idle time of a kept connection.
    pub header_timeout: Duration,
    /// Time for a viewer to take one message. A viewer that takes nothing for so long is dead; without this it would
    /// hold its connection until TCP gives up, a quarter of an hour later.
    pub write_timeout: Duration,
    /// Age at which a connection that is no viewer is closed after its current response, so that slow readers of plain
    /// files cannot hold connections for ever.
    pub connection_age: Duration,
}

impl Default for HttpLimits {
    fn default() -> HttpLimits {
        HttpLimits {
            connections: 128,
            viewers: 32,
            header_timeout: Duration::from_secs(5),
            write_timeout: Duration::from_secs(10),
            connection_age: Duration::from_secs(60),
        }
    }
}

/// Configuration of the output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpConfig {
    /// Address to listen on; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Token that page, picture and numbers ask for; none: everybody who reaches the address may watch.
    pub token: Option<String>,
    /// Names the server is reached by beside localhost, loopback and the listen address.
    pub allowed_hosts: Vec<String>,
    /// Bounds on what clients may use.
    pub limits: HttpLimits,
}

impl HttpConfig {
    /// Listening on `listen`, without a token, with the default limits.
    pub fn new(listen: SocketAddr) -> HttpConfig {
        HttpConfig { listen, token: None, allowed_hosts: Vec::new(), limits: HttpLimits::default() }
    }
}

/// The running output.
#[derive(Debug)]
pub struct HttpOutput {
    address: SocketAddr,
    sequence: AtomicU32,
    hand_over: mpsc::Sender<SharedAu>,
    counters: Arc<Counters>,
    shutdown: watch::Sender<bool>,
    thread: Option<JoinHandle<()>>,
}

/// What serving needs beside a port: made before there is one.
#[derive(Debug)]
pub struct HttpRuntime(tokio::runtime::Runtime);

impl HttpRuntime {
    /// A new one.
    ///
    /// # Errors
    /// [`HttpError::Start`] when the system gives no descriptors.
    pub fn new() -> Result<HttpRuntime, HttpError> {
        tokio::runtime::Builder::new_current_thread().enable_all().build().map(HttpRuntime).map_err(HttpError::Start)
    }
}

impl HttpOutput {
    /// Listens and serves on a thread of its own. `request_idr` is called on that thread, at most every 500 ms.
    ///
    /// # Errors
    /// [`HttpError`]: the address cannot be listened on, the token is empty, or the system gives no thread.
    pub fn start(
        config: HttpConfig,
        status: Arc<dyn StatusSource>,
        request_idr: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<HttpOutput, HttpError> {
        HttpOutput::start_in(HttpRuntime::new()?, config, status, request_idr)
    }

    /// As [`HttpOutput::start`], in a runtime that is there already.
    ///
    /// # Errors
    /// As [`HttpOutput::start`].
    pub fn start_in(
        HttpRuntime(runtime): HttpRuntime,
        config: HttpConfig,
        status: Arc<dyn StatusSource>,
        request_idr: Arc<dyn Fn() + Send + Sync>,
    ) -> Result<HttpOutput, HttpError> {
        if config.token.as_ref().is_some_and(String::is_empty) {
            return Err(HttpError::EmptyToken);
        }
        let listener = socket::listen(config.listen)?;
        let address = listener.local_addr().map_err(HttpError::Start)?;
        let counters = Arc::new(Counters::default());
        let (hand_over, access_units) = mpsc::channel(HAND_OVER_AUS);
        let (shutdown, stopped) = watch::channel(false);
        if !address.ip().is_loopback() && config.token.is_none() {
            tracing::warn!(%address, "Everybody who reaches this address can watch: net.http.token is not set");
        }
        let server = server::Server {
            app: Arc::new(routes::App::new(config, address, status, request_idr, Arc::clone(&counters), stopped)),
            access_units,
        };
        let thread = std::thread::Builder::new()
            .name("quad-http".into())
            .spawn(move || server::run(runtime, listener, server))
            .map_err(HttpError::Start)?;
        Ok(HttpOutput { address, sequence: AtomicU32::new(0), hand_over, counters, shutdown, thread: Some(thread) })
    }

    /// The address listened on, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Hands an access unit to all viewers. Never blocks and takes no lock. To be called by one thread, in decoding
    /// order; once a viewer is there, with every access unit.
    pub fn publish(&self, au: AuCopy) {
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        count(&self.counters.published, 1);
        // A full hand-over shows as a gap in the sequence, which makes every viewer wait for an IDR.
        if self.hand_over.try_send(au.share(sequence)).is_err() {
            count(&self.counters.not_taken, 1);
        }
    }

    /// Viewers now. With none there is no need to copy and publish; the first asks for an IDR after it is counted here.
    pub fn viewers(&self) -> usize {
        self.counters.viewers.load(Ordering::SeqCst)
    }

    /// Tells the viewers that the server goes away and ends the thread; takes at most about half a second.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.shutdown.send_replace(true);
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("The HTTP output's thread panicked");
        }
    }
}

impl Drop for HttpOutput {
    fn drop(&mut self) {
        self.end();
    }
}
