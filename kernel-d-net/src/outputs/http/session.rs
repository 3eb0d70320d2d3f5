//! One viewer's WebSocket.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use serde_json::{Value, json};

use super::au::StreamFormat;
use super::hub::Seat;
use super::routes::App;

/// Messages a viewer may send per second; the page sends one or two. More is cut off: answering costs a wake-up each.
const MESSAGES_PER_SECOND: u32 = 20;

/// Serves a viewer until it leaves, fails, or the server stops.
pub(super) async fn run(mut socket: WebSocket, app: &App, seat: &Seat) {
    let patience = app.limits.write_timeout;
    let mut told: Option<StreamFormat> = None;
    let mut status = app.subscribe();
    let mut stopped = app.stopped.clone();
    let mut allowance = Allowance::new(Instant::now());
    if send(&mut socket, Message::Text(app.status_message()), patience).await.is_err() {
        return;
    }
    loop {
        let sent = tokio::select! {
            () = async { drop(stopped.wait_for(|stop| *stop).await) } => {
                close(&mut socket, close_code::AWAY, "The server stops", patience).await;
                return;
            }
            au = seat.next() => {
                let mut sent = Ok(());
                if told.as_ref() != Some(&au.format) {
                    sent = send(&mut socket, Message::Text(hello(&au.format)), patience).await;
                    told = Some(au.format);
                }
                if sent.is_ok() {
                    sent = send(&mut socket, Message::Binary(au.message), patience).await;
                }
                sent
            }
            changed = status.changed() => {
                if changed.is_err() {
                    return;
                }
                let message = status.borrow_and_update().clone();
                send(&mut socket, Message::Text(message), patience).await
            }
            message = socket.recv() => match message {
                Some(Ok(_)) if !allowance.take(Instant::now()) => {
                    close(&mut socket, close_code::POLICY, "Too many messages", patience).await;
                    return;
                }
                Some(Ok(Message::Text(text))) => match answer(&text, seat) {
                    Some(reply) => send(&mut socket, Message::Text(reply), patience).await,
                    None => Ok(()),
                },
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(_)) => Ok(()),
            },
        };
        if sent.is_err() {
            return;
        }
    }
}

/// The viewer is gone, or takes nothing any more.
struct Gone;

async fn send(socket: &mut WebSocket, message: Message, patience: Duration) -> Result<(), Gone> {
    match tokio::time::timeout(patience, socket.send(message)).await {
        Ok(Ok(())) => Ok(()),
        _ => Err(Gone),
    }
}

async fn close(socket: &mut WebSocket, code: u16, reason: &'static str, patience: Duration) {
    let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
    let _ = send(socket, Message::Close(Some(frame)), patience).await;
}

fn hello(format: &StreamFormat) -> Utf8Bytes {
    json!({
        "type": "hello",
        "codec": &*format.codec,
        "width": format.width,
        "height": format.height,
        "fps": format.fps.as_f64(),
    })
    .to_string()
    .into()
}

/// Acts on what a viewer says; what makes no sense is passed over.
fn answer(text: &str, seat: &Seat) -> Option<Utf8Bytes> {
    let message: Value = serde_json::from_str(text).ok()?;
    if message["idr"] == true {
        seat.needs_idr(Instant::now());
    }
    let sent_at = message["ping"].as_f64()?;
    let server_us = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_micros() as u64;
    Some(json!({ "type": "pong", "t": sent_at, "server_us": server_us }).to_string().into())
}

/// Bounds the messages of one viewer.
struct Allowance {
    second: Instant,
    left: u32,
}

impl Allowance {
    fn new(now: Instant) -> Allowance {
        Allowance { second: now, left: MESSAGES_PER_SECOND }
    }

    fn take(&mut self, now: Instant) -> bool {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            *self = Allowance::new(now);
        }
        let allowed = self.left > 0;
        self.left = self.left.saturating_sub(1);
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_messages_is_cut_off_and_a_new_second_starts_afresh() {
        let start = Instant::now();
        let mut allowance = Allowance::new(start);
        assert!((0..MESSAGES_PER_SECOND).all(|_| allowance.take(start)));
        assert!(!allowance.take(start + Duration::from_millis(999)));
        assert!(allowance.take(start + Duration::from_secs(1)));
    }
}
