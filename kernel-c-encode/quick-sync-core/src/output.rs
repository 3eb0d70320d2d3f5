//! Access units between an encoder that makes them and a caller that takes them, one at a time.

use crate::failure::Failure;
use crate::types::*;
use kernel_c_encode::encoder::{AccessUnitMeta, AuSink, Key, LeftOut};
use kernel_c_encode::error::SinkError;
use std::collections::VecDeque;

/// One access unit, or a frame that has none.
#[derive(Debug, Default)]
pub(crate) struct Unit {
    pub(crate) bytes: Vec<u8>,
    pub(crate) frame_id: u64,
    pub(crate) pts_ns: u64,
    /// QSV_UNIT_…
    pub(crate) flags: u32,
}

/// What came out of the encoder and was not taken yet. Buffers go round: in the steady state nothing is allocated.
#[derive(Debug, Default)]
pub(crate) struct Units {
    waiting: VecDeque<Unit>,
    /// The one being written.
    open: Unit,
    spare: Vec<Unit>,
    /// Keys and times of the frames inside the encoder, oldest first.
    inside: VecDeque<(u64, u64)>,
    /// IDRs so far.
    pub(crate) idrs: u32,
}

impl Units {
    /// For a stream that had so many IDRs before.
    pub(crate) fn after(idrs: u32) -> Units {
        Units { idrs, ..Units::default() }
    }

    /// The encoder gets this frame.
    pub(crate) fn enters(&mut self, frame_id: u64, pts_ns: u64) {
        self.inside.push_back((frame_id, pts_ns));
    }

    /// The encoder refused the newest frame.
    pub(crate) fn refused(&mut self, frame_id: u64) {
        self.inside.retain(|(inside, _)| *inside != frame_id);
    }

    /// Whether a frame's access unit is not out yet.
    pub(crate) fn is_inside(&self, frame_id: u64) -> bool {
        self.inside.iter().any(|(inside, _)| *inside == frame_id)
    }

    /// The encoder is gone and what was inside with it: every such frame is reported.
    pub(crate) fn lost_inside(&mut self) {
        while let Some((frame_id, _)) = self.inside.front().copied() {
            self.left(frame_id);
        }
    }

    fn left(&mut self, frame_id: u64) {
        let pts_ns = self.inside.iter().find(|(inside, _)| *inside == frame_id).map_or(0, |(_, pts_ns)| *pts_ns);
        self.refused(frame_id);
        let mut unit = self.spare.pop().unwrap_or_default();
        unit.bytes.clear();
        (unit.frame_id, unit.pts_ns, unit.flags) = (frame_id, pts_ns, QSV_UNIT_LEFT_OUT);
        self.waiting.push_back(unit);
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes of the next one.
    pub(crate) fn next_bytes(&self) -> Option<usize> {
        self.waiting.front().map(|unit| unit.bytes.len())
    }

    /// Takes the next one.
    pub(crate) fn take(&mut self) -> Option<Unit> {
        self.waiting.pop_front()
    }

    /// Gives its memory back.
    pub(crate) fn give_back(&mut self, unit: Unit) {
        self.spare.push(unit);
    }
}

impl AuSink for Units {
    fn buffer(&mut self, len: usize) -> Result<&mut [u8], SinkError> {
        if self.open.bytes.len() < len {
            self.open.bytes.resize(len, 0);
        }
        Ok(&mut self.open.bytes)
    }

    fn commit(&mut self, len: usize, meta: &AccessUnitMeta) -> Result<(), SinkError> {
        let mut unit = std::mem::replace(&mut self.open, self.spare.pop().unwrap_or_default());
        unit.bytes.truncate(len);
        let set = |on: bool, flag: u32| if on { flag } else { 0 };
        unit.flags = set(meta.idr, QSV_UNIT_IDR) | set(meta.config, QSV_UNIT_CONFIG);
        (unit.frame_id, unit.pts_ns) = (meta.key.source_id, meta.pts_ns);
        self.idrs = self.idrs.wrapping_add(u32::from(meta.idr));
        self.refused(unit.frame_id);
        self.waiting.push_back(unit);
        Ok(())
    }

    fn left_out(&mut self, key: Key, _reason: LeftOut) -> Result<(), SinkError> {
        self.left(key.source_id);
        Ok(())
    }
}

/// Where the caller wants access units.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Callback {
    pub(crate) function: unsafe extern "C" fn(*mut std::ffi::c_void, *const qsv_bitstream),
    pub(crate) user: *mut std::ffi::c_void,
}

// SAFETY: the caller of qsv_set_output_callback promises that the function may be called, with this pointer, from
// whatever thread calls the library with this context; the library itself never looks behind the pointer.
#[expect(unsafe_code, reason = "a pointer of the caller's that only its own function uses")]
unsafe impl Send for Callback {}

/// Refuses a caller's buffer that is too small.
pub(crate) fn fits(needed: usize, max_length: usize) -> Result<(), Failure> {
    if max_length == 0 || needed <= max_length {
        return Ok(());
    }
    let text = format!("The access unit needs {needed} bytes, but the buffer holds {max_length}");
    Err(Failure::new(crate::codes::QSV_ERR_NOT_ENOUGH_BUFFER, text))
}
