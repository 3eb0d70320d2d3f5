//! The two messages of the hand-over: a u32 length, then bincode. The one place where bincode is used.

use crate::pool::PoolSpec;
use bincode::config::{Configuration, Fixint, Limit, LittleEndian};
use std::io::Read;

/// Longest message: a few integers. Also the limit bincode may allocate.
pub(super) const MAX_BYTES: usize = 256;
const PREFIX_BYTES: usize = 4;

fn config() -> Configuration<LittleEndian, Fixint, Limit<MAX_BYTES>> {
    bincode::config::standard().with_little_endian().with_fixed_int_encoding().with_limit::<MAX_BYTES>()
}

/// Wanted: a pool.
#[derive(Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub(super) struct Request {
    pub(super) ring_uid: u32,
    pub(super) generation: u32,
}

/// What the kernel asked has.
#[derive(Debug, PartialEq, Eq, bincode::Encode, bincode::Decode)]
pub(super) enum Reply {
    /// It has not mapped that pool.
    Unknown,
    /// Its geometry; the descriptors travel beside.
    Pool { kind: u64, buffers: u32, buffer_bytes: u64 },
}

impl Reply {
    pub(super) fn describe(spec: &PoolSpec) -> Reply {
        Reply::Pool { kind: spec.kind as u64, buffers: spec.buffers, buffer_bytes: spec.buffer_bytes }
    }
}

pub(super) fn encode<T: bincode::Encode>(message: &T) -> Result<Vec<u8>, String> {
    let body = bincode::encode_to_vec(message, config()).map_err(|e| e.to_string())?;
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend(body);
    Ok(bytes)
}

fn body_len(bytes: &[u8]) -> Option<usize> {
    let prefix = bytes.first_chunk::<PREFIX_BYTES>()?;
    Some(u32::from_le_bytes(*prefix) as usize)
}

/// Whether all announced bytes are there (or too many are announced, which `decode` refuses).
pub(super) fn is_whole(bytes: &[u8]) -> bool {
    body_len(bytes).is_some_and(|len| len > MAX_BYTES || bytes.len() >= PREFIX_BYTES + len)
}

pub(super) fn decode<T: bincode::Decode<()>>(bytes: &[u8]) -> Result<T, String> {
    let len = body_len(bytes).ok_or("a message without a length")?;
    let body = bytes[PREFIX_BYTES..].get(..len).ok_or(format!("a length of {len}; at most {MAX_BYTES} are allowed"))?;
    let (message, used) = bincode::decode_from_slice(body, config()).map_err(|e| e.to_string())?;
    if used == body.len() { Ok(message) } else { Err(format!("{} bytes too many", body.len() - used)) }
}

pub(super) fn read<T: bincode::Decode<()>>(from: &mut impl Read) -> Result<T, String> {
    let mut bytes = vec![0u8; PREFIX_BYTES];
    from.read_exact(&mut bytes).map_err(|e| e.to_string())?;
    let len = body_len(&bytes).unwrap_or(0);
    if len > MAX_BYTES {
        return Err(format!("a length of {len}; at most {MAX_BYTES} are allowed"));
    }
    bytes.resize(PREFIX_BYTES + len, 0);
    from.read_exact(&mut bytes[PREFIX_BYTES..]).map_err(|e| e.to_string())?;
    decode(&bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn messages_round_trip() {
        let request = Request { ring_uid: 3, generation: 9 };
        assert_eq!(decode::<Request>(&encode(&request).unwrap()).unwrap(), request);
        let reply = Reply::Pool { kind: 2, buffers: 16, buffer_bytes: 4096 };
        assert_eq!(decode::<Reply>(&encode(&reply).unwrap()).unwrap(), reply);
    }

    proptest! {
        #[test]
        fn garbage_is_refused_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = is_whole(&bytes);
            let _ = decode::<Reply>(&bytes);
            let _ = read::<Request>(&mut &bytes[..]);
        }
    }
}
