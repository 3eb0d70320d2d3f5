//! What the runtime holds pointers to while it works: surfaces, controls and bitstreams, each in its place for good.
#![expect(unsafe_code, reason = "memory that a library writes to in the background")]

use super::input::{Picture, Way};
use crate::encoder::Key;
use crate::error::EncoderError;
use onevpl_sys as vpl;
use onevpl_sys::{mfxBitstream, mfxEncodeCtrl, mfxFrameSurface1, mfxSyncPoint, mfxU16};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Instant;

/// A value in memory of its own, reached by pointer only: the runtime may write to it at any time.
pub struct Stable<T>(NonNull<T>);

impl<T> std::fmt::Debug for Stable<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stable").field(&self.0).finish()
    }
}

// SAFETY: it owns its value like a Box, and the values are plain data.
unsafe impl<T> Send for Stable<T> {}

impl<T: Default> Default for Stable<T> {
    fn default() -> Stable<T> {
        Stable(NonNull::from(Box::leak(Box::default())))
    }
}

impl<T> Stable<T> {
    /// Where it is.
    pub fn get(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Drop for Stable<T> {
    fn drop(&mut self) {
        // SAFETY: made from a Box in `default`, and dropped once. The session is closed before (`encode::Vpl`).
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// A frame inside.
#[derive(Debug, Default)]
pub struct Frame {
    /// What the runtime is given.
    pub surface: Stable<mfxFrameSurface1>,
    /// What it is told about it.
    pub control: Stable<mfxEncodeCtrl>,
    /// Its identity.
    pub key: Key,
    /// Its presentation time, ns.
    pub pts_ns: u64,
    /// It is to be an IDR.
    pub idr: bool,
    /// Its own quantisation parameter.
    pub qp: Option<u8>,
    /// Its pixels, mapped until its key came out.
    pub picture: Option<Picture>,
    /// How they were brought in; `None` as long as they are not.
    pub way: Option<Way>,
    /// When it is given up, the device with it.
    pub deadline: Option<Instant>,
}

/// Ticks per second of `mfxFrameData::TimeStamp`.
const TICKS_PER_S: u128 = 90_000;
/// `MFX_FRAMEORDER_UNKNOWN`.
const UNKNOWN_ORDER: u32 = u32::MAX;

impl Frame {
    /// Whether the runtime has let go of the surface.
    pub fn is_unlocked(&self) -> bool {
        self.locked().load(Ordering::Acquire) == 0
    }

    fn locked(&self) -> &AtomicU16 {
        // SAFETY: the surface lives as long as `self`; the field is aligned, and whoever else writes it while it may be
        // read here is the runtime, which counts it atomically.
        unsafe { AtomicU16::from_ptr(&raw mut (*self.surface.get()).Data.Locked) }
    }

    /// Forgets a lock of a session that has ended.
    pub fn unlock(&self) {
        self.locked().store(0, Ordering::Release);
    }

    /// The surface, while the runtime does not have it.
    pub fn surface_mut(&mut self) -> &mut mfxFrameSurface1 {
        // SAFETY: exclusively borrowed, and the runtime has let go of it: a slot is taken only when it is unlocked.
        unsafe { &mut *self.surface.get() }
    }

    /// Writes the time also at `surface`, a surface of the runtime that the frame lies in; returns that.
    pub fn tell_at(&self, surface: *mut mfxFrameSurface1) -> *mut mfxFrameSurface1 {
        // SAFETY: our own surface lives, and the runtime does not have it.
        let (stamp, order) = unsafe { ((*self.surface.get()).Data.TimeStamp, (*self.surface.get()).Data.FrameOrder) };
        // SAFETY: a surface that we hold a reference of and that no frame was at work in when this one took it
        // (`imports::Import::taken`).
        unsafe { ((*surface).Data.TimeStamp, (*surface).Data.FrameOrder) = (stamp, order) };
        surface
    }

    /// Writes time and control; returns the control's pointer, null where there is nothing to say.
    pub fn tell(&mut self) -> *mut mfxEncodeCtrl {
        let ticks = u128::from(self.pts_ns) * TICKS_PER_S / 1_000_000_000;
        let data = &mut self.surface_mut().Data;
        (data.TimeStamp, data.FrameOrder) = (ticks as u64, UNKNOWN_ORDER);
        let idr = vpl::MFX_FRAMETYPE_I | vpl::MFX_FRAMETYPE_REF | vpl::MFX_FRAMETYPE_IDR;
        let qp = self.qp.map_or(0, |qp| mfxU16::from(qp.max(1)));
        if !self.idr && qp == 0 {
            return std::ptr::null_mut();
        }
        // SAFETY: the control lives as long as `self`; the runtime reads it during the call of EncodeFrameAsync and
        // until the frame is coded, and this slot has no frame there.
        unsafe {
            *self.control.get() = mfxEncodeCtrl::default();
            (*self.control.get()).FrameType = if self.idr { idr as mfxU16 } else { 0 };
            (*self.control.get()).QP = qp;
        }
        self.control.get()
    }
}

/// A bitstream buffer.
#[derive(Debug, Default)]
pub struct Bits {
    stream: Stable<mfxBitstream>,
    data: Vec<u8>,
}

impl Bits {
    /// Makes it empty and at least `bytes` large; returns what the runtime is given.
    pub fn empty(&mut self, bytes: usize) -> *mut mfxBitstream {
        if self.data.len() < bytes {
            self.data.resize(bytes, 0);
        }
        let mut stream = mfxBitstream { Data: self.data.as_mut_ptr(), ..mfxBitstream::default() };
        stream.MaxLength = u32::try_from(self.data.len()).unwrap_or(u32::MAX);
        // SAFETY: it lives as long as `self`, and the runtime has no task that writes to it.
        unsafe { *self.stream.get() = stream };
        self.stream.get()
    }

    /// Bytes it can hold.
    pub fn capacity(&self) -> usize {
        self.data.len()
    }

    /// What the runtime wrote.
    ///
    /// # Errors
    /// [`EncoderError::Bitstream`] when what it says lies outside the buffer.
    pub fn bytes(&self) -> Result<&[u8], EncoderError> {
        // SAFETY: its sync point was waited for: nobody writes to it.
        let stream = unsafe { *self.stream.get() };
        let (from, len) = (stream.DataOffset as usize, stream.DataLength as usize);
        self.data.get(from..).and_then(|rest| rest.get(..len)).ok_or_else(|| EncoderError::Bitstream {
            library: super::LIBRARY,
            reason: format!("{len} bytes at {from} in a buffer of {}", self.data.len()),
        })
    }
}

/// What will come, or has come, out.
#[derive(Debug, Clone, Copy)]
pub struct Output {
    /// Its bitstream.
    pub bits: usize,
    /// What to wait for.
    pub sync: mfxSyncPoint,
    /// It was waited for.
    pub done: bool,
}

// SAFETY: a sync point is a name of the session, which is used from one thread at a time.
unsafe impl Send for Output {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bitstream_that_reaches_beyond_its_buffer_is_refused() {
        let mut bits = Bits::default();
        let stream = bits.empty(100);
        // SAFETY: nobody else has the stream.
        unsafe { ((*stream).DataOffset, (*stream).DataLength) = (90, 10) };
        assert_eq!(bits.bytes().unwrap().len(), 10);
        // SAFETY: as above.
        unsafe { ((*stream).DataOffset, (*stream).DataLength) = (91, 10) };
        assert!(bits.bytes().unwrap_err().to_string().contains("10 bytes at 91 in a buffer of 100"));
        // SAFETY: as above.
        unsafe { ((*stream).DataOffset, (*stream).DataLength) = (u32::MAX, u32::MAX) };
        assert!(bits.bytes().is_err());
    }

    #[test]
    fn only_an_idr_or_a_quantiser_needs_a_control() {
        let mut frame = Frame::default();
        assert!(frame.tell().is_null());
        frame.idr = true;
        // SAFETY: the control of a frame that no runtime has.
        assert_eq!(unsafe { (*frame.tell()).FrameType }, 0x80 | 0x40 | 1);
        (frame.idr, frame.qp) = (false, Some(30));
        // SAFETY: as above.
        assert_eq!(unsafe { ((*frame.tell()).FrameType, (*frame.tell()).QP) }, (0, 30));
    }
}
