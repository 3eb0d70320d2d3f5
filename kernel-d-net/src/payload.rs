//! How an access unit becomes RTP payloads: a plan of packets that point into the access unit, made without copying it.
//!
//! A plan is a pure function of (bytes, codec, payload size). A restarted process makes the same plan again and can
//! go on in the middle of it, with packets equal byte for byte.

mod annexb;
pub mod av1;
pub mod h264;
pub mod hevc;
pub mod null;

use shm_protocol::{error::Recovery, frame::Codec};
use thiserror::Error;

use crate::au::AuView;

/// Bytes of an RTP header without CSRC and extension (RFC 3550 section 5.1).
pub const RTP_HEADER_BYTES: u32 = 12;
/// Largest UDP payload over IPv4: 65,535 less 20 of IP and 8 of UDP. A segmented send obeys the same bound.
pub const MAX_UDP_BYTES: u32 = 65_507;
/// Longest prefix of a piece: AV1's aggregation header, a size of 3 bytes (a payload is below 2^21) and an OBU header of
/// 2 bytes with its extension. H.264 needs 3 bytes (STAP-A header and size), HEVC 4 (the same, of an aggregation packet).
pub const MAX_PREFIX_BYTES: usize = 6;

/// A payload that cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum PayloadError {
    /// The configured payload size cannot work.
    #[error("Payload size {0} bytes is not possible: {min} to {max} are allowed", min = PayloadSize::MIN, max = PayloadSize::MAX)]
    Size(u32),
    /// A null access unit is one packet, and this one does not fit.
    #[error("A null access unit of {0} bytes does not fit one packet: 1 to {max} bytes are allowed", max = PayloadSize::MAX)]
    NullSize(u32),
}

impl PayloadError {
    /// What to do about it.
    pub const fn recovery(&self) -> Recovery {
        Recovery::Fatal
    }
}

/// Most payload bytes of one RTP packet (without the RTP header), checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PayloadSize(u32);

impl PayloadSize {
    /// Smallest size accepted, bytes: below it headers outweigh the video.
    pub const MIN: u32 = 64;
    /// Largest size accepted, bytes: what one UDP datagram carries.
    pub const MAX: u32 = MAX_UDP_BYTES - RTP_HEADER_BYTES;
    /// 1200 bytes: with RTP, UDP, IPv6 and a tunnel's headers still below the 1280 bytes every IPv6 path carries.
    pub const DEFAULT: PayloadSize = PayloadSize(1200);

    /// A checked size.
    ///
    /// # Errors
    /// [`PayloadError::Size`] outside [`Self::MIN`]..=[`Self::MAX`].
    pub const fn new(bytes: u32) -> Result<PayloadSize, PayloadError> {
        if bytes < Self::MIN || bytes > Self::MAX { Err(PayloadError::Size(bytes)) } else { Ok(PayloadSize(bytes)) }
    }

    /// In bytes.
    pub const fn bytes(self) -> u32 {
        self.0
    }
}

/// A part of a packet's payload: a few bytes of our own, then a range of the access unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    prefix: [u8; MAX_PREFIX_BYTES],
    prefix_len: u8,
    /// First byte in the access unit.
    pub offset: u32,
    /// Bytes taken from there.
    pub len: u32,
}

impl Piece {
    fn new(prefix: &[u8], offset: u32, len: u32) -> Piece {
        let mut bytes = [0; MAX_PREFIX_BYTES];
        bytes[..prefix.len()].copy_from_slice(prefix);
        Piece { prefix: bytes, prefix_len: prefix.len() as u8, offset, len }
    }

    /// The bytes in front of the range: headers of the payload format and sizes; often none.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix[..usize::from(self.prefix_len)]
    }

    fn bytes(&self) -> u32 {
        u32::from(self.prefix_len) + self.len
    }
}

#[derive(Debug, Clone, Copy)]
struct Packet {
    first_piece: u32,
    pieces: u32,
    payload_bytes: u32,
}

/// One packet of a plan.
#[derive(Debug, Clone, Copy)]
pub struct PlannedPacket<'p> {
    /// What its payload consists of, in order.
    pub pieces: &'p [Piece],
    /// Bytes of the payload, without the RTP header.
    pub payload_bytes: u32,
    /// RTP marker bit: the last packet of the access unit.
    pub marker: bool,
}

/// The packets of one access unit. Its memory is reused from one access unit to the next.
#[derive(Debug, Default)]
pub struct PacketPlan {
    pieces: Vec<Piece>,
    packets: Vec<Packet>,
    nals: Vec<(u32, u32)>,
    obus: Vec<av1::Obu>,
    payload_octets: u64,
    crc: u32,
    has_idr: bool,
    dropped_nals: u32,
    vps: Option<(u32, u32)>,
    sps: Option<(u32, u32)>,
    pps: Option<(u32, u32)>,
    sequence_header: Option<(u32, u32)>,
}

impl PacketPlan {
    /// An empty plan.
    pub fn new() -> PacketPlan {
        PacketPlan::default()
    }

    /// Plans `au` by the payload format of `codec`.
    ///
    /// # Errors
    /// [`PayloadError::NullSize`]; the payload formats of pictures take any bytes.
    pub fn make(&mut self, au: &AuView<'_>, codec: Codec, size: PayloadSize) -> Result<(), PayloadError> {
        match codec {
            Codec::H264 => h264::plan(au, size, self),
            Codec::Hevc => hevc::plan(au, size, self),
            Codec::Av1 => av1::plan(au, size, self),
            Codec::Null => null::plan(au, self)?,
        }
        Ok(())
    }

    /// How many packets.
    pub fn len(&self) -> u32 {
        self.packets.len() as u32
    }

    /// Whether nothing is to be sent.
    pub fn is_empty(&self) -> bool {
        self.packets.is_empty()
    }

    /// Packet `index` of the access unit.
    pub fn packet(&self, index: u32) -> Option<PlannedPacket<'_>> {
        let packet = self.packets.get(index as usize)?;
        let first = packet.first_piece as usize;
        Some(PlannedPacket {
            pieces: &self.pieces[first..first + packet.pieces as usize],
            payload_bytes: packet.payload_bytes,
            marker: index as usize + 1 == self.packets.len(),
        })
    }

    /// Every packet from `first` on.
    pub fn packets_from(&self, first: u32) -> impl Iterator<Item = PlannedPacket<'_>> {
        (first..self.len()).filter_map(|index| self.packet(index))
    }

    /// Payload bytes of the first `count` packets: what a sender report calls octets (RFC 3550 section 6.4.1).
    pub fn octets_before(&self, count: u32) -> u64 {
        self.packets.iter().take(count as usize).map(|p| u64::from(p.payload_bytes)).sum()
    }

    /// Payload bytes of all packets.
    pub fn payload_octets(&self) -> u64 {
        self.payload_octets
    }

    /// CRC-32 of the whole access unit.
    pub fn crc(&self) -> u32 {
        self.crc
    }

    /// Whether decoding can begin here: an IDR picture, an IRAP picture of HEVC, a key frame of AV1.
    pub fn has_idr(&self) -> bool {
        self.has_idr
    }

    /// NAL units and OBUs that no packet can carry (of a type RTP uses for itself, or broken) and were left out.
    pub fn dropped_nals(&self) -> u32 {
        self.dropped_nals
    }

    /// Range (offset, bytes) of the last video parameter set, if there is one (HEVC).
    pub fn vps(&self) -> Option<(u32, u32)> {
        self.vps
    }

    /// Range (offset, bytes) of the last sequence parameter set, if there is one.
    pub fn sps(&self) -> Option<(u32, u32)> {
        self.sps
    }

    /// Range (offset, bytes) of the last picture parameter set, if there is one.
    pub fn pps(&self) -> Option<(u32, u32)> {
        self.pps
    }

    /// Range (offset, bytes) of the payload of the last sequence header OBU, if there is one (AV1).
    pub fn sequence_header(&self) -> Option<(u32, u32)> {
        self.sequence_header
    }

    fn clear(&mut self) {
        // The vectors keep their memory; everything else is as in a new plan.
        let mut fresh = PacketPlan {
            pieces: std::mem::take(&mut self.pieces),
            packets: std::mem::take(&mut self.packets),
            nals: std::mem::take(&mut self.nals),
            obus: std::mem::take(&mut self.obus),
            ..PacketPlan::default()
        };
        fresh.pieces.clear();
        fresh.packets.clear();
        fresh.nals.clear();
        fresh.obus.clear();
        *self = fresh;
    }

    /// Makes the pieces from `first_piece` on into a packet.
    fn close_packet(&mut self, first_piece: usize) {
        let payload_bytes = self.pieces[first_piece..].iter().map(Piece::bytes).sum();
        self.packets.push(Packet {
            first_piece: first_piece as u32,
            pieces: (self.pieces.len() - first_piece) as u32,
            payload_bytes,
        });
        self.payload_octets += u64::from(payload_bytes);
    }

    fn push_single(&mut self, prefix: &[u8], offset: u32, len: u32) {
        let first = self.pieces.len();
        self.pieces.push(Piece::new(prefix, offset, len));
        self.close_packet(first);
    }
}

/// A piece without prefix, for tests of other modules.
#[cfg(test)]
pub fn test_piece(offset: u32, len: u32) -> Piece {
    Piece::new(&[], offset, len)
}
