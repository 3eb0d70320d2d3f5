//! The messages of the descriptor hand-over, as bytes of a peer.
//!
//! Feeds: any bytes to the decoders of request and reply, whole and as a stream.
//! Holds: no panic; no more than 260 bytes are ever read or held; what is accepted is what its encoding says, byte for
//! byte; `is_whole` never waits for more than the limit.
#![no_main]
#![allow(dead_code, reason = "the module is whole, a target uses its decoders")]

// The module is private to its crate: it is compiled in by path and finds its one foreign type here.
#[path = "../../../shm-protocol/src/fdpass/message.rs"]
mod message;
mod pool {
    pub use shm_protocol::pool::PoolSpec;
}

use message::{Reply, Request, decode, encode, is_whole, read};

fn check<T: bincode::Encode + bincode::Decode<()> + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    let whole = decode::<T>(bytes);
    if let Ok(value) = &whole {
        assert!(is_whole(bytes));
        let encoded = encode(value).expect("what was read can be written");
        assert_eq!(bytes[..encoded.len()], encoded[..], "one encoding a value");
    }
    let mut rest = bytes;
    let streamed = read::<T>(&mut rest);
    assert!(bytes.len() - rest.len() <= 4 + message::MAX_BYTES);
    assert_eq!(streamed.is_ok(), whole.is_ok());
    if let (Ok(a), Ok(b)) = (streamed, whole) {
        assert_eq!(a, b);
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    check::<Request>(bytes);
    check::<Reply>(bytes);
    assert!(bytes.len() < 4 + message::MAX_BYTES || is_whole(bytes), "more is asked for than ever comes");
});
