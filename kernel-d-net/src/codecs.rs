//! What a stream's own headers say of it: profile, tier, level, for session descriptions and for browsers.

pub mod av1;
pub mod avc;
mod bits;
pub mod hevc;

use shm_protocol::frame::Codec;

/// The name that a browser's decoder takes (RFC 6381 and the codecs' own registrations) of a stream whose access unit
/// begins with `head`, parameter sets included. `None` without them, and for a codec that no browser has.
///
/// Allocates: call it when the parameter sets change, not for every access unit.
pub fn web_codec_string(codec: Codec, head: &[u8]) -> Option<String> {
    match codec {
        Codec::H264 => avc::codec_string(head),
        Codec::Hevc => hevc::codec_string(head),
        Codec::Av1 => av1::codec_string(head),
        Codec::Null => None,
    }
}
