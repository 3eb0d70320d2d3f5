//! Frames that went into the encoder and whose access units did not come out yet, in key order.
//!
//! With a software encoder there is one, for as long as a call takes. A device works on several at a time; each keeps
//! its slot of the input ring and the mapping its pixels lie in until its access unit is published.

use crate::encoder::{BufferIdentity, EncodeInput, FrameMemory, Key};
use crate::settings::MAX_ASYNC_DEPTH;
use shm_protocol::descriptor::FrameDetails;
use shm_protocol::frame::VideoFormat;
use shm_protocol::input::{Consumer, FrameError, Taken};
use shm_protocol::pool::{Pool, PoolKind};
use std::collections::VecDeque;
use std::sync::Arc;

/// A frame inside the encoder.
#[derive(Debug, Clone)]
pub struct Flight {
    /// Its slot of the input ring.
    pub taken: Taken,
    /// What travels with it.
    pub details: FrameDetails,
    /// CLOCK_MONOTONIC when work on it began, ns.
    pub begin_ns: u64,
    /// The request for an IDR that it answers.
    pub idr_asked: Option<u64>,
    /// It was put in as an IDR.
    pub forced: bool,
    pool: Arc<Pool>,
}

impl Flight {
    /// A frame about to go in.
    ///
    /// # Errors
    /// [`FrameError`] when its pool cannot be mapped.
    pub fn new(input: &mut Consumer, taken: Taken, details: FrameDetails, begin_ns: u64) -> Result<Flight, FrameError> {
        let pool = input.pool(&taken)?;
        Ok(Flight { taken, details, begin_ns, idr_asked: None, forced: false, pool })
    }

    /// Its identity.
    pub fn key(&self) -> Key {
        Key { source_id: self.taken.head.key.id(), sub: self.taken.head.key.sub() }
    }

    /// It as the encoder takes it.
    ///
    /// # Errors
    /// [`FrameError`] when its bytes cannot be reached.
    pub fn input<'a>(
        &'a self,
        input: &mut Consumer,
        format: &'a VideoFormat,
        idr_count: u32,
    ) -> Result<EncodeInput<'a>, FrameError> {
        Ok(EncodeInput {
            pixels: input.pixels(&self.taken, format)?,
            memory: self.memory(),
            key: self.key(),
            pts_ns: u64::try_from(self.details.source_pts_ns).unwrap_or(0),
            force_idr: self.forced,
            qp: None,
            idr_count,
        })
    }

    /// The descriptor of its memory: its own DMA-BUF, or the memfd of its pool. Named memory has none that a device
    /// would take.
    fn memory(&self) -> Option<FrameMemory<'_>> {
        let (spec, at) = (self.pool.spec(), self.taken.head.buffer);
        let identity = BufferIdentity { ring_uid: at.ring_uid, generation: at.generation, index: at.index };
        let in_buffer = u64::from(at.offset);
        match spec.kind {
            PoolKind::DmaBuf => self.pool.dma_buf(at.index).map(|fd| FrameMemory {
                fd,
                dma_buf: true,
                offset: in_buffer,
                size_bytes: spec.buffer_bytes,
                identity,
            }),
            PoolKind::Memfd => Some(FrameMemory {
                fd: self.pool.memory(),
                dma_buf: false,
                offset: u64::from(at.index) * spec.buffer_bytes + in_buffer,
                size_bytes: spec.total_bytes(),
                identity,
            }),
            PoolKind::PosixShm => None,
        }
    }
}

/// The frames inside the encoder.
#[derive(Debug)]
pub struct Flights(VecDeque<Flight>);

impl Default for Flights {
    fn default() -> Flights {
        Flights(VecDeque::with_capacity(usize::from(MAX_ASYNC_DEPTH) + 1))
    }
}

impl Flights {
    /// Whether the encoder is empty.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many are inside.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Enters one; behind all others.
    pub fn enter(&mut self, flight: Flight) {
        self.0.push_back(flight);
    }

    /// The one that comes out next.
    pub fn oldest(&mut self) -> Option<&mut Flight> {
        self.0.front_mut()
    }

    /// Takes out the oldest.
    pub fn leave(&mut self) -> Option<Flight> {
        self.0.pop_front()
    }

    /// The one that went in last.
    pub fn newest(&self) -> Option<&Flight> {
        self.0.back()
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Flight> {
        self.0.iter()
    }

    /// Frame number `index` from the oldest on.
    pub fn get_mut(&mut self, index: usize) -> Option<&mut Flight> {
        self.0.get_mut(index)
    }

    /// IDRs among them that were asked for.
    pub fn forced(&self) -> u32 {
        self.0.iter().filter(|flight| flight.forced).count() as u32
    }
}
