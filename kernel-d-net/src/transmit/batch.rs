//! Packets on their way out: which bytes of ours and of the access unit make up each.

#![expect(
    unsafe_code,
    reason = "raw pointers into shared memory: they change threads with the batch and are copied from"
)]

use std::marker::PhantomData;

use crate::{
    au::AuView,
    payload::{MAX_PREFIX_BYTES, PlannedPacket, RTP_HEADER_BYTES},
};

/// Packets of one batch at the most. One segmented send takes no more than 64 segments (UDP_MAX_SEGMENTS), and a
/// batch is what goes out twice when the process dies between sending and noting it.
pub const MAX_BATCH_PACKETS: usize = 64;
/// Room for our own bytes in front of each piece: the RTP header and the longest prefix of a payload format.
const HEADER_ROOM: usize = RTP_HEADER_BYTES as usize + MAX_PREFIX_BYTES;

/// Bytes of a packet that lie together.
#[derive(Debug, Clone, Copy)]
pub enum Part {
    /// The first `len` bytes of own header `index`.
    Own {
        /// Which header.
        index: usize,
        /// Its bytes.
        len: usize,
    },
    /// A range of the access unit.
    Au {
        /// Its address, valid as long as the batch.
        ptr: *const u8,
        /// Its bytes.
        len: usize,
    },
}

// SAFETY: an address and a length; nothing is read through it here. Whoever reads through it proves that itself.
unsafe impl Send for Part {}

#[derive(Debug, Clone, Copy)]
struct Entry {
    first_part: usize,
    parts: usize,
    bytes: usize,
}

/// Memory for batches, reused from one to the next.
#[derive(Debug, Default)]
pub struct BatchBuffer {
    own: Vec<[u8; HEADER_ROOM]>,
    parts: Vec<Part>,
    packets: Vec<Entry>,
}

impl BatchBuffer {
    /// An empty one, with room for a batch of fragments.
    pub fn new() -> BatchBuffer {
        BatchBuffer {
            own: Vec::with_capacity(MAX_BATCH_PACKETS * 2),
            parts: Vec::with_capacity(MAX_BATCH_PACKETS * 4),
            packets: Vec::with_capacity(MAX_BATCH_PACKETS),
        }
    }

    /// An empty batch of packets of `au`.
    pub fn batch<'b, 'a>(&'b mut self, au: AuView<'a>) -> Batch<'b, 'a> {
        self.own.clear();
        self.parts.clear();
        self.packets.clear();
        Batch { buffer: self, au, skip: 0, _au: PhantomData }
    }
}

/// Packets to send. The pointers in it live as long as the view of the access unit they came from.
#[derive(Debug)]
pub struct Batch<'b, 'a> {
    buffer: &'b mut BatchBuffer,
    au: AuView<'a>,
    skip: usize,
    _au: PhantomData<AuView<'a>>,
}

impl Batch<'_, '_> {
    /// Adds a packet: RTP header, then each piece of `packet`. False, and nothing is added, when the batch is full or
    /// a piece lies outside the access unit.
    pub fn push(&mut self, header: &[u8; RTP_HEADER_BYTES as usize], packet: &PlannedPacket<'_>) -> bool {
        let inside = packet.pieces.iter().all(|piece| self.au.part(piece.offset, piece.len).is_some());
        if self.buffer.packets.len() == MAX_BATCH_PACKETS || !inside {
            return false;
        }
        let first_part = self.buffer.parts.len();
        let mut bytes = 0;
        let mut own = [0u8; HEADER_ROOM];
        own[..header.len()].copy_from_slice(header);
        let mut own_len = header.len();
        for piece in packet.pieces {
            let prefix = piece.prefix();
            own[own_len..own_len + prefix.len()].copy_from_slice(prefix);
            own_len += prefix.len();
            if own_len > 0 {
                self.buffer.parts.push(Part::Own { index: self.buffer.own.len(), len: own_len });
                self.buffer.own.push(own);
            }
            bytes += own_len;
            own_len = 0;
            if let Some((ptr, len)) = self.au.part(piece.offset, piece.len) {
                self.buffer.parts.push(Part::Au { ptr, len: len as usize });
                bytes += len as usize;
            }
        }
        let parts = self.buffer.parts.len() - first_part;
        self.buffer.packets.push(Entry { first_part, parts, bytes });
        true
    }

    /// Packets in it.
    pub fn len(&self) -> usize {
        self.buffer.packets.len() - self.skip
    }

    /// Whether it has no packets.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of packet `index`, RTP header included; 0 behind the end.
    pub fn packet_bytes(&self, index: usize) -> usize {
        self.buffer.packets.get(self.skip + index).map_or(0, |packet| packet.bytes)
    }

    /// What packet `index` consists of, in order; nothing behind the end.
    pub fn parts(&self, index: usize) -> &[Part] {
        match self.buffer.packets.get(self.skip + index) {
            Some(packet) => &self.buffer.parts[packet.first_part..packet.first_part + packet.parts],
            None => &[],
        }
    }

    /// The bytes of an [`Part::Own`].
    pub fn own(&self, index: usize, len: usize) -> &[u8] {
        &self.buffer.own[index][..len]
    }

    /// Appends a copy of packet `index`, for transmits that need it in one piece.
    pub fn copy_packet(&self, index: usize, to: &mut Vec<u8>) {
        for part in self.parts(index) {
            match *part {
                Part::Own { index, len } => to.extend_from_slice(self.own(index, len)),
                Part::Au { ptr, len } => {
                    let at = to.len();
                    to.resize(at + len, 0);
                    // SAFETY: `part` of the view gave ptr..ptr+len, readable for 'a, which outlives this batch; the
                    // target is the `len` bytes just added to a vector of ours.
                    unsafe { std::ptr::copy_nonoverlapping(ptr, to.as_mut_ptr().add(at), len) };
                }
            }
        }
    }

    /// Takes the first `packets` packets out: they are dealt with.
    pub fn advance(&mut self, packets: usize) {
        self.skip = (self.skip + packets).min(self.buffer.packets.len());
    }
}
