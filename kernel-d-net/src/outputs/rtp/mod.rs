//! RTP: a stream over UDP whose sequence numbers, timestamps and SSRC go on across restarts.

pub mod clock;
pub mod error;
pub mod feedback;
mod keep;
mod moving;
pub mod open;
pub mod pacer;
pub mod parameters;
pub mod payload_type;
pub mod rtcp;
pub mod sdp;
pub mod sender;
pub mod session;
pub mod stream;
