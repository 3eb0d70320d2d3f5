//! From a library's bytes to an access unit of this system: the delimiter first, parameter sets as one part, then
//! slices; written once, into the buffer of the ring.

use super::annexb::nal_units;
use super::{av1, h264, hevc};
use crate::encoder::{AccessUnitMeta, AuSink, Key, PartKind, Parts};
use crate::error::EncoderError;
use shm_protocol::frame::Codec;

/// What a run of bytes of the library is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unit {
    Delimiter,
    ParameterSets,
    Sei,
    Slice { idr: bool },
    Other,
}

fn h264_unit(nal: &[u8]) -> Unit {
    match nal.first().map(|header| h264::type_of(*header)) {
        Some(h264::nal_type::DELIMITER) => Unit::Delimiter,
        Some(h264::nal_type::SPS | h264::nal_type::PPS) => Unit::ParameterSets,
        Some(h264::nal_type::SEI) => Unit::Sei,
        Some(h264::nal_type::IDR_SLICE) => Unit::Slice { idr: true },
        Some(1..=4) => Unit::Slice { idr: false },
        _ => Unit::Other,
    }
}

fn hevc_unit(nal: &[u8]) -> Unit {
    use hevc::nal_type as t;
    match nal.first().map(|header| hevc::type_of(*header)) {
        Some(t::DELIMITER) => Unit::Delimiter,
        Some(t::VPS | t::SPS | t::PPS) => Unit::ParameterSets,
        Some(t::PREFIX_SEI | t::SUFFIX_SEI) => Unit::Sei,
        Some(kind) if kind <= t::LAST_SLICE => Unit::Slice { idr: hevc::is_idr(kind) },
        _ => Unit::Other,
    }
}

fn av1_unit(obu: &av1::Obu<'_>) -> Unit {
    use av1::obu_type as t;
    match obu.kind {
        t::TEMPORAL_DELIMITER => Unit::Delimiter,
        t::SEQUENCE_HEADER => Unit::ParameterSets,
        t::METADATA => Unit::Sei,
        // Whether it begins a key frame is asked of the whole temporal unit.
        t::FRAME | t::FRAME_HEADER | t::TILE_GROUP => Unit::Slice { idr: false },
        _ => Unit::Other,
    }
}

/// Calls `each` with the bytes and the kind of every unit, in order.
fn walk<'a>(codec: Codec, bytes: &'a [u8], mut each: impl FnMut(&'a [u8], Unit)) {
    match codec {
        Codec::H264 => nal_units(bytes).for_each(|unit| each(unit.with_start_code, h264_unit(unit.nal))),
        Codec::Hevc => nal_units(bytes).for_each(|unit| each(unit.with_start_code, hevc_unit(unit.nal))),
        Codec::Av1 => av1::obus(bytes).for_each(|obu| each(obu.bytes, av1_unit(&obu))),
        Codec::Null => {}
    }
}

fn delimiter(codec: Codec, idr: bool, out: &mut [u8; hevc::DELIMITER_BYTES]) -> usize {
    let mut put = |bytes: &[u8]| {
        out[..bytes.len()].copy_from_slice(bytes);
        bytes.len()
    };
    match codec {
        Codec::H264 => put(&h264::delimiter(idr)),
        Codec::Hevc => put(&hevc::delimiter(idr)),
        Codec::Av1 => put(&av1::TEMPORAL_DELIMITER),
        Codec::Null => 0,
    }
}

/// Hands on the access unit of the frame `key` that a library left in `bytes`: an Annex B stream, or OBUs of one
/// temporal unit with size fields. Delimiters of the library are replaced by ours; units that mean nothing to a
/// decoder (filler, padding, end of sequence) are left out. Returns whether it is an IDR (key frame).
///
/// # Errors
/// [`EncoderError::Bitstream`] when `bytes` hold no picture, or an IDR without parameter sets;
/// [`EncoderError::Sink`] as [`AuSink::buffer`] and [`AuSink::commit`].
pub fn hand_on(
    library: &'static str,
    codec: Codec,
    bytes: &[u8],
    (key, pts_ns): (Key, u64),
    sink: &mut dyn AuSink,
) -> Result<bool, EncoderError> {
    let broken = |reason: &str| EncoderError::Bitstream { library, reason: reason.to_owned() };
    let (mut picture, mut idr, mut config, mut kept_bytes) = (false, false, false, 0);
    walk(codec, bytes, |unit, kind| {
        match kind {
            Unit::Slice { idr: this } => (picture, idr) = (true, idr | this),
            Unit::ParameterSets => config = true,
            Unit::Delimiter | Unit::Other => return,
            Unit::Sei => {}
        }
        kept_bytes += unit.len();
    });
    idr |= codec == Codec::Av1 && av1::is_key_frame(bytes);
    if !picture {
        return Err(broken("an access unit without a picture"));
    }
    if idr && !config {
        return Err(broken("an IDR came without parameter sets"));
    }
    let mut first = [0; hevc::DELIMITER_BYTES];
    let first_bytes = delimiter(codec, idr, &mut first);
    let buffer = sink.buffer(first_bytes + kept_bytes)?;
    let mut meta = AccessUnitMeta { key, pts_ns, idr, config, parts: Parts::new() };
    let mut at = 0;
    let mut put = |unit: &[u8], kind: PartKind| {
        buffer[at..at + unit.len()].copy_from_slice(unit);
        meta.parts.push(unit.len() as u32, kind);
        at += unit.len();
    };
    put(&first[..first_bytes], PartKind::Delimiter);
    walk(codec, bytes, |unit, kind| match kind {
        Unit::Slice { .. } => put(unit, PartKind::Slice),
        Unit::ParameterSets => put(unit, PartKind::ParameterSets),
        Unit::Sei => put(unit, PartKind::Sei),
        Unit::Delimiter | Unit::Other => {}
    });
    sink.commit(at, &meta)?;
    Ok(idr)
}
