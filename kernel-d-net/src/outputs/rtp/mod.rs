//! RTP: an RTP/AVPF stream over UDP whose sequence numbers, timestamps and SSRC go on across restarts.

pub mod error;
pub mod session;
