//! The paths, and what every response carries.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::ws::{Utf8Bytes, WebSocketUpgrade, rejection::WebSocketUpgradeRejection};
use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Json, Router};
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::guard::{Guard, Refusal};
use super::hub::{Counters, Hub, count};
use super::{HttpConfig, HttpLimits, StatusSource, metrics, session};

/// How often viewers are told the status.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Bytes of a message from a viewer; the longest it has reason to send is a ping of 40.
const VIEWER_MESSAGE_BYTES: usize = 1 << 10;

/// Only our own files, and nobody may frame the page: a framed one could be covered and clicked.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
     img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; \
     require-trusted-types-for 'script'; trusted-types 'none'";

/// Local address a connection came in on.
#[derive(Debug, Clone, Copy)]
pub(super) struct LocalIp(pub(super) IpAddr);

/// What all handlers share.
pub(super) struct App {
    pub(super) hub: Arc<Hub>,
    pub(super) limits: HttpLimits,
    pub(super) stopped: watch::Receiver<bool>,
    viewer_places: Arc<Semaphore>,
    guard: Guard,
    source: Arc<dyn StatusSource>,
    status: watch::Sender<Utf8Bytes>,
}

impl App {
    pub(super) fn new(
        config: HttpConfig,
        address: SocketAddr,
        source: Arc<dyn StatusSource>,
        request_idr: Arc<dyn Fn() + Send + Sync>,
        counters: Arc<Counters>,
        stopped: watch::Receiver<bool>,
    ) -> App {
        App {
            hub: Arc::new(Hub::new(request_idr, counters)),
            viewer_places: Arc::new(Semaphore::new(config.limits.viewers)),
            limits: config.limits,
            stopped,
            guard: Guard::new(address, &config.allowed_hosts, config.token),
            source,
            status: watch::channel(Utf8Bytes::default()).0,
        }
    }

    /// The status message of now.
    pub(super) fn status_message(&self) -> Utf8Bytes {
        let status = self.source.status_json();
        json!({ "type": "status", "status": status, "viewers": self.hub.viewers() }).to_string().into()
    }

    /// Status messages, one per second while somebody watches.
    pub(super) fn subscribe(&self) -> watch::Receiver<Utf8Bytes> {
        self.status.subscribe()
    }

    /// Makes the status once per second for all viewers; never returns.
    pub(super) async fn tick_status(self: Arc<App>) {
        let mut interval = tokio::time::interval(STATUS_INTERVAL);
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        loop {
            interval.tick().await;
            if self.hub.viewers() > 0 {
                self.status.send_replace(self.status_message());
            }
        }
    }
}

/// All paths, guarded.
pub(super) fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/", get(async || Html(include_str!("page/index.html"))))
        .route("/watch.css", get(async || text("text/css", include_str!("page/watch.css"))))
        .route("/watch.js", get(async || text("text/javascript", include_str!("page/watch.js"))))
        .route("/panel.js", get(async || text("text/javascript", include_str!("page/panel.js"))))
        .route("/charts.js", get(async || text("text/javascript", include_str!("page/charts.js"))))
        .route("/ws", get(watch))
        .route("/api/status", get(async |State(app): State<Arc<App>>| Json(app.source.status_json())))
        .route("/metrics", get(metrics_text))
        .fallback(async || (StatusCode::NOT_FOUND, "Nothing is served under this path; the page is at /.\n"))
        .layer(middleware::from_fn_with_state(Arc::clone(&app), admit))
        .with_state(app)
}

fn text(kind: &str, body: impl IntoResponse) -> Response {
    ([(header::CONTENT_TYPE, format!("{kind}; charset=utf-8"))], body).into_response()
}

async fn metrics_text(State(app): State<Arc<App>>) -> Response {
    let body = app.source.metrics() + &metrics::own(&app.hub.counters);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], body).into_response()
}

async fn watch(
    State(app): State<Arc<App>>,
    Extension(place): Extension<Arc<OwnedSemaphorePermit>>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Response {
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return rejection.into_response(),
    };
    let Ok(viewer_place) = Arc::clone(&app.viewer_places).try_acquire_owned() else {
        count(&app.hub.counters.turned_away, 1);
        return (StatusCode::SERVICE_UNAVAILABLE, "As many viewers as allowed are watching already.\n").into_response();
    };
    upgrade
        .max_message_size(VIEWER_MESSAGE_BYTES)
        .max_frame_size(VIEWER_MESSAGE_BYTES)
        // Each message leaves at once.
        .write_buffer_size(0)
        .on_upgrade(async move |socket| {
            let seat = app.hub.join(Instant::now());
            session::run(socket, &app, &seat).await;
            // Both places are held until here; the connection's outlives the upgrade.
            drop((place, viewer_place));
        })
}

/// Refuses what the guard refuses and what carries a body; adds the headers of every response.
async fn admit(
    State(app): State<Arc<App>>,
    Extension(LocalIp(local)): Extension<LocalIp>,
    request: Request,
    next: Next,
) -> Response {
    let has_body = request.headers().contains_key(header::TRANSFER_ENCODING)
        || request.headers().get(header::CONTENT_LENGTH).is_some_and(|length| length != "0");
    let mut response = match app.guard.check(request.uri(), request.headers(), local) {
        Err(refusal) => {
            count(&app.hub.counters.refused, 1);
            refuse(refusal, request.uri().path())
        }
        Ok(()) if has_body => {
            let refused = (StatusCode::PAYLOAD_TOO_LARGE, "Requests carry no body here.\n");
            ([(header::CONNECTION, "close")], refused).into_response()
        }
        Ok(()) => next.run(request).await,
    };
    const HEADERS: [(HeaderName, &str); 6] = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn refuse(refusal: Refusal, path: &str) -> Response {
    let status = refusal.status();
    match refusal {
        Refusal::Token => {
            let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
            if path == "/" {
                return (status, challenge, Html(include_str!("page/token.html"))).into_response();
            }
            (status, challenge, refusal.message()).into_response()
        }
        _ => (status, refusal.message()).into_response(),
    }
}
