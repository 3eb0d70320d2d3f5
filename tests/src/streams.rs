//! Streams of every codec: made by FFmpeg, cut into access units, and put together again from RTP packets, written
//! without a look at the sender's code.

use crate::bitstream;
use crate::wire::Packet;
use shm_protocol::frame::Codec;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Name of the file with a prepared stream; its end is also FFmpeg's name of the format.
pub const fn file_name(codec: Codec) -> &'static str {
    match codec {
        Codec::H264 => "stream.h264",
        Codec::Hevc => "stream.hevc",
        Codec::Av1 => "stream.obu",
        Codec::Null => "stream.null",
    }
}

/// FFmpeg's name of the raw format of a codec.
pub fn format_name(codec: Codec) -> &'static str {
    file_name(codec).trim_start_matches("stream.")
}

/// Payload type of a codec in a stream with the default one, 96, for H.264.
pub const fn payload_type(codec: Codec) -> u8 {
    match codec {
        Codec::H264 => 96,
        Codec::Hevc => 97,
        Codec::Av1 => 98,
        Codec::Null => 99,
    }
}

/// A stream of `frames` pictures with a key frame every 60, or `None` when FFmpeg or its encoder is missing.
pub fn prepare(codec: Codec, frames: usize, folder: &Path) -> Option<PathBuf> {
    let encoder: &[&str] = match codec {
        Codec::H264 => {
            let parameters = "aud=1:repeat-headers=1";
            &["libx264", "-preset", "ultrafast", "-tune", "zerolatency", "-b:v", "4M", "-x264-params", parameters]
        }
        Codec::Hevc => {
            let parameters = "aud=1:repeat-headers=1:open-gop=0:keyint=60:min-keyint=60:scenecut=0:log-level=error";
            &["libx265", "-preset", "ultrafast", "-tune", "zerolatency", "-b:v", "4M", "-x265-params", parameters]
        }
        // Its low-delay mode has no variable bitrate.
        Codec::Av1 => &["libsvtav1", "-b:v", "0", "-crf", "30", "-preset", "10", "-svtav1-params", "pred-struct=1"],
        Codec::Null => return None,
    };
    let path = folder.join(file_name(codec));
    let made = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-y", "-f", "lavfi", "-i", "testsrc2=size=640x360:rate=30"])
        .args(["-frames:v", &frames.to_string(), "-pix_fmt", "yuv420p", "-g", "60", "-c:v"])
        .args(encoder)
        .args(["-f", format_name(codec)])
        .arg(&path)
        .stderr(Stdio::null())
        .status();
    made.is_ok_and(|status| status.success()).then_some(path)
}

/// Splits a stream at its delimiters, with which every access unit begins.
pub fn access_units(codec: Codec, stream: &[u8]) -> Vec<&[u8]> {
    let delimiter: &[u8] = if codec == Codec::H264 { &[0, 0, 0, 1, 9] } else { &[0, 0, 0, 1, 0x46] };
    let starts: Vec<usize> = match codec {
        Codec::H264 | Codec::Hevc => (0..stream.len()).filter(|at| stream[*at..].starts_with(delimiter)).collect(),
        Codec::Av1 => obus(stream).into_iter().filter(|(_, kind)| *kind == 2).map(|(at, _)| at).collect(),
        Codec::Null => Vec::new(),
    };
    let ends = starts.iter().copied().skip(1).chain([stream.len()]);
    starts.iter().zip(ends).map(|(start, end)| &stream[*start..end]).collect()
}

/// Start and type of every OBU of a stream in which all have sizes and none an extension.
fn obus(stream: &[u8]) -> Vec<(usize, u8)> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < stream.len() {
        let header = stream[at];
        assert_eq!(header & 0x87, 2, "An OBU with a size and without an extension");
        found.push((at, header >> 3));
        let (size, bytes) = leb128(&stream[at + 1..]);
        at += 1 + bytes + size;
    }
    found
}

/// Value and bytes of a leb128 number.
fn leb128(bytes: &[u8]) -> (usize, usize) {
    let mut value = 0;
    for (index, byte) in bytes.iter().enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return (value, index + 1);
        }
    }
    panic!("A length without its end");
}

/// The access units in packets of one codec, in its byte-stream format.
///
/// # Panics
/// On a payload that its payload format does not allow.
pub fn received(codec: Codec, packets: &[&Packet]) -> Vec<Vec<u8>> {
    match codec {
        Codec::H264 => bitstream::units(packets).iter().map(bitstream::Unit::annex_b).collect(),
        Codec::Hevc => per_unit(packets, hevc_unit),
        Codec::Av1 => per_unit(packets, av1_unit),
        Codec::Null => per_unit(packets, |packets| packets.iter().flat_map(|packet| packet.payload.clone()).collect()),
    }
}

fn per_unit(packets: &[&Packet], make: impl Fn(&[&Packet]) -> Vec<u8>) -> Vec<Vec<u8>> {
    packets.split_inclusive(|packet| packet.marker).filter(|unit| unit[unit.len() - 1].marker).map(make).collect()
}

/// RFC 7798 section 4.4.
fn hevc_unit(packets: &[&Packet]) -> Vec<u8> {
    let mut stream = Vec::new();
    let mut open = false;
    for packet in packets {
        let payload = &packet.payload;
        match payload[0] >> 1 & 63 {
            48 => {
                let mut rest = &payload[2..];
                while !rest.is_empty() {
                    let length = usize::from(u16::from_be_bytes([rest[0], rest[1]]));
                    stream.extend([0, 0, 0, 1]);
                    stream.extend_from_slice(&rest[2..2 + length]);
                    rest = &rest[2 + length..];
                }
            }
            49 => {
                let (start, end) = (payload[2] & 128 != 0, payload[2] & 64 != 0);
                assert_eq!(start, !open, "A fragment of packet {}", packet.sequence);
                if start {
                    stream.extend([0, 0, 0, 1, payload[0] & 0x81 | (payload[2] & 63) << 1, payload[1]]);
                }
                stream.extend_from_slice(&payload[3..]);
                open = !end;
            }
            other => {
                assert!(other < 48 && !open, "Packet {} has payload structure {other}", packet.sequence);
                stream.extend([0, 0, 0, 1]);
                stream.extend_from_slice(payload);
            }
        }
    }
    assert!(!open, "An access unit ends within a NAL unit");
    stream
}

/// "RTP Payload Format For AV1" section 4, back to the low-overhead format with a temporal delimiter.
fn av1_unit(packets: &[&Packet]) -> Vec<u8> {
    let mut whole: Vec<Vec<u8>> = Vec::new();
    let mut open = false;
    for packet in packets {
        let header = packet.payload[0];
        let (goes_on, will_go_on, count) = (header & 128 != 0, header & 64 != 0, usize::from(header >> 4 & 3));
        assert_eq!(goes_on, open, "A fragment of packet {}", packet.sequence);
        let mut rest = &packet.payload[1..];
        let mut number = 0;
        while !rest.is_empty() {
            number += 1;
            let (length, skip) = if number == count { (rest.len(), 0) } else { leb128(rest) };
            let element = &rest[skip..skip + length];
            match whole.last_mut() {
                Some(obu) if number == 1 && goes_on => obu.extend_from_slice(element),
                _ => whole.push(element.to_vec()),
            }
            rest = &rest[skip + length..];
        }
        open = will_go_on;
    }
    assert!(!open, "A temporal unit ends within an OBU");
    let mut stream = vec![0x12, 0];
    for obu in whole {
        let header = 1 + usize::from(obu[0] >> 2 & 1);
        stream.push(obu[0] | 2);
        stream.extend_from_slice(&obu[1..header]);
        let mut size = obu.len() - header;
        while size > 127 {
            stream.push(size as u8 | 128);
            size >>= 7;
        }
        stream.push(size as u8);
        stream.extend_from_slice(&obu[header..]);
    }
    stream
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(payload: &[u8], marker: bool) -> Packet {
        let at = std::time::Instant::now();
        Packet { at, sequence: 0, timestamp: 9, ssrc: 1, payload_type: 97, marker, payload: payload.to_vec() }
    }

    #[test]
    fn hevc_units_come_back_from_all_three_kinds_of_packets() {
        let packets = [
            packet(&[96, 1, 0, 3, 64, 1, 7, 0, 2, 66, 1], false),
            packet(&[98, 1, 0x80 | 19, 5, 6], false),
            packet(&[98, 1, 0x40 | 19, 7], true),
            packet(&[2, 1, 9], true),
            packet(&[2, 1, 9], false),
        ];
        let made = received(Codec::Hevc, &packets.iter().collect::<Vec<_>>());
        let first = [0, 0, 0, 1, 64, 1, 7, 0, 0, 0, 1, 66, 1, 0, 0, 0, 1, 38, 1, 5, 6, 7];
        assert_eq!(made, [&first[..], &[0, 0, 0, 1, 2, 1, 9]], "The unit without its end is left out");
    }

    #[test]
    fn av1_units_come_back_with_sizes_and_a_delimiter() {
        let packets = [packet(&[0x68, 2, 8, 5, 0x30, 1], false), packet(&[0x90, 2, 3], true)];
        let made = received(Codec::Av1, &packets.iter().collect::<Vec<_>>());
        let expected = [0x12, 0, 0x0a, 1, 5, 0x32, 3, 1, 2, 3];
        assert_eq!(made, [expected]);
        assert_eq!(access_units(Codec::Av1, &expected), [expected]);
    }
}
