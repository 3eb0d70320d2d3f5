//! The output's thread: accepts connections, bounds them, and runs everything.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Extension;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::au::SharedAu;
use super::hub::count;
use super::routes::{App, LocalIp, router};
use super::socket;

/// Bytes of a request head: room for a long cookie and a token, little to hold for a stranger.
const HEAD_BYTES: usize = 16 << 10;

/// Header fields of a request; a browser sends about twenty.
const HEAD_FIELDS: usize = 64;

/// Time after `connection_age` for the response under way.
const LAST_RESPONSE: Duration = Duration::from_secs(10);

/// Time for viewers to be told that the server goes away.
const FAREWELL: Duration = Duration::from_millis(500);

/// Wait after a failed accept: out of descriptors, which only time cures.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

const TOO_MANY: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";

pub(super) struct Server {
    pub(super) app: Arc<App>,
    pub(super) access_units: mpsc::Receiver<SharedAu>,
}

/// Serves until the app's stop signal.
pub(super) fn run(runtime: tokio::runtime::Runtime, listener: TcpListener, server: Server) {
    runtime.block_on(async {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::error!(%error, "The HTTP output cannot watch its socket");
                return;
            }
        };
        let Server { app, mut access_units } = server;
        let hub = Arc::clone(&app.hub);
        tokio::spawn(async move {
            while let Some(au) = access_units.recv().await {
                hub.deliver(&au, Instant::now());
            }
        });
        let hub = Arc::clone(&app.hub);
        tokio::spawn(async move { hub.send_merged_requests().await });
        tokio::spawn(Arc::clone(&app).tick_status());
        let mut stopped = app.stopped.clone();
        tokio::select! {
            _ = stopped.wait_for(|stop| *stop) => {}
            () = accept(&listener, &app) => {}
        }
        drop(listener);
        let farewell = async {
            while app.hub.viewers() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        // A viewer that does not read cannot be told; it sees its connection end.
        let _ = tokio::time::timeout(FAREWELL, farewell).await;
    });
    runtime.shutdown_background();
}

async fn accept(listener: &tokio::net::TcpListener, app: &Arc<App>) {
    let places = Arc::new(Semaphore::new(app.limits.connections));
    loop {
        match listener.accept().await {
            Ok((stream, peer)) => match Arc::clone(&places).try_acquire_owned() {
                Ok(place) => {
                    tokio::spawn(serve(stream, peer, Arc::clone(app), place));
                }
                Err(_) => {
                    count(&app.hub.counters.turned_away, 1);
                    let _ = stream.try_write(TOO_MANY);
                }
            },
            Err(error) => {
                tracing::warn!(%error, "Cannot accept a connection");
                tokio::time::sleep(ACCEPT_RETRY).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, app: Arc<App>, place: OwnedSemaphorePermit) {
    let Ok(local) = stream.local_addr() else { return };
    let _ = stream.set_nodelay(true);
    socket::bound_unsent_bytes(&stream);
    let limits = app.limits.clone();
    let connection_place = Arc::new(place);
    let service = router(app).layer(Extension(LocalIp(local.ip()))).layer(Extension(connection_place));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEAD_FIELDS)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service))
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = tokio::time::sleep(limits.connection_age) => {
            connection.as_mut().graceful_shutdown();
            match tokio::time::timeout(LAST_RESPONSE, connection).await {
                Ok(ended) => ended,
                Err(_) => return,
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%peer, %error, "An HTTP connection ended badly");
    }
}
