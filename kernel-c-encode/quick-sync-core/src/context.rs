//! An encoder, what it was opened with, and what is on its way through it.
#![expect(unsafe_code, reason = "reads the planes that C points at")]

use crate::allocator::Surfaces;
use crate::border::Last;
use crate::codes::*;
use crate::config::{self, Wanted};
use crate::failure::Failure;
use crate::memory::Buffer;
use crate::output::{Callback, Unit, Units, fits};
use crate::types::*;
use kernel_c_encode::encoder::{EncodeInput, Encoder, Key};
use kernel_c_encode::select;
use shm_protocol::frame::{MAX_PLANES, MAX_SIDE, PlaneLayout, STRIDE_ALIGN, VideoFormat};
use shm_protocol::pixels::{PixelsRead, PixelsWrite};
use std::collections::VecDeque;
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

mod reset;
#[cfg(test)]
mod tests;

/// What a handle stands for.
pub(crate) struct Context {
    /// Held for the length of a call: a second thread is refused, not kept waiting.
    state: Mutex<State>,
    /// Beside the state: a runtime calls it back from within a call that encodes.
    pub(crate) surfaces: Mutex<Surfaces>,
    /// May be asked for from any thread at any time.
    pub(crate) idr_asked: AtomicBool,
    last: Mutex<Last>,
}

impl Context {
    pub(crate) fn open(wanted: Wanted) -> Result<Context, Failure> {
        let surfaces = Mutex::new(Surfaces::new(wanted.settings.device.clone()));
        let state = Mutex::new(State::open(wanted)?);
        Ok(Context { state, surfaces, idr_asked: AtomicBool::new(false), last: Mutex::default() })
    }

    /// The state, for the length of a call.
    pub(crate) fn state(&self) -> Result<MutexGuard<'_, State>, Failure> {
        self.state.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => Failure::new(QSV_ERR_BUSY, "Another call with this context has not returned"),
            TryLockError::Poisoned(_) => {
                Failure::new(QSV_ERR_INTERNAL, "An earlier call with this context failed inside; destroy it")
            }
        })
    }

    /// Keeps an error for qsv_last_error of this context.
    pub(crate) fn remember(&self, last: Last) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = last;
    }

    /// The last error of a call with this context.
    pub(crate) fn last(&self) -> Last {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A frame inside the encoder: all that is needed to give it to another.
struct Inside {
    key: Key,
    pts_ns: u64,
    /// It was asked to be an IDR.
    idr: bool,
    layout: VideoFormat,
    /// First byte of its first plane.
    base: *const u8,
    /// The memory that `base` points into, where it is not the caller's.
    copy: Option<Buffer>,
}

// SAFETY: what `base` points at is read only, and may be from any thread: the caller's, which is promised to stay as it is
// until the frame is out, or that of `copy`.
unsafe impl Send for Inside {}

/// The part of a context that one call at a time changes.
pub(crate) struct State {
    wanted: Wanted,
    /// `None` after a reset that failed.
    encoder: Option<Box<dyn Encoder>>,
    /// Layout that frames have for the encoder; what comes otherwise is copied.
    layout: VideoFormat,
    pub(crate) units: Units,
    /// The access unit whose bytes the caller reads.
    lent: Option<Unit>,
    pub(crate) callback: Option<Callback>,
    /// The frames inside the encoder, oldest first.
    inside: VecDeque<Inside>,
    /// Memory for copies of frames, which none needs now.
    free: Vec<Buffer>,
    copied_bytes: u64,
    last_frame_id: u64,
    /// The last time that the caller gave, and how many frames followed it without one.
    base_pts_ns: u64,
    since_base: u64,
    bitrate_kbps: u32,
    /// Nothing of the encoder in use is out yet: it has to begin with an IDR.
    begins: bool,
}

impl State {
    fn open(wanted: Wanted) -> Result<State, Failure> {
        let encoder = select::open(&wanted.backend, &wanted.settings)?.encoder;
        let (layout, bitrate_kbps, idrs) =
            (wanted.settings.format, wanted.settings.bitrate_kbps, wanted.settings.idr_count);
        Ok(State {
            wanted,
            encoder: Some(encoder),
            layout,
            units: Units::after(idrs),
            lent: None,
            callback: None,
            inside: VecDeque::new(),
            free: Vec::new(),
            copied_bytes: 0,
            last_frame_id: 0,
            base_pts_ns: 0,
            since_base: 0,
            bitrate_kbps,
            begins: true,
        })
    }

    pub(crate) fn encoder(&mut self) -> Result<&mut dyn Encoder, Failure> {
        match self.encoder.as_deref_mut() {
            Some(encoder) => Ok(encoder),
            None => Err(Failure::new(QSV_ERR_DEVICE_LOST, "The encoder is lost; qsv_emergency_reset tries again")),
        }
    }

    /// Size of the frames, pixels.
    pub(crate) fn size(&self) -> (u32, u32) {
        (self.layout.width, self.layout.height)
    }

    /// Bytes of pixels copied, here and by the encoder for its device.
    pub(crate) fn copied_bytes(&self) -> u64 {
        self.copied_bytes + self.encoder.as_ref().map_or(0, |encoder| encoder.copied_bytes())
    }

    /// Encodes a frame; what comes out waits in `units`.
    ///
    /// # Safety
    /// The planes of `frame` are readable as its documentation says.
    pub(crate) unsafe fn encode(&mut self, frame: &qsv_frame, idr_asked: &AtomicBool) -> Result<(), Failure> {
        self.encoder()?;
        let planes = self.check(frame)?;
        if self.units.waiting() >= QSV_MAX_SURFACES as usize {
            let text = format!("{} access units wait: take them with qsv_next_access_unit", self.units.waiting());
            return Err(Failure::new(QSV_ERR_PENDING, text));
        }
        let frame_id = match frame.frame_id {
            0 => self.last_frame_id.checked_add(1).ok_or_else(|| {
                Failure::value("frame_id", 0, format!("nothing more: the frame before was {}", self.last_frame_id))
            })?,
            id if id > self.last_frame_id => id,
            id => return Err(Failure::value("frame_id", id, format!("0 or above {}", self.last_frame_id))),
        };
        let pts_ns = match frame.pts_ns {
            // Counted from the last time given: rounded intervals that are added drift.
            0 => self.base_pts_ns.saturating_add(self.layout.fps.frame_time_ns(self.since_base)),
            given => given,
        };
        if frame.bitrate_bps != 0 && frame.bitrate_bps != self.bitrate_bps() {
            // What cannot be had is no reason to lose the frame; the access unit says what is in force.
            let _ = self.set_bitrate(frame.bitrate_bps);
        }
        let key = Key { source_id: frame_id, sub: 0 };
        // SAFETY: the caller's promise for the planes, which `check` found to be there and wide enough.
        let mut inside = unsafe { self.reachable(frame, planes, (key, pts_ns)) };
        let idr = idr_asked.swap(false, Ordering::AcqRel) || self.begins || frame.flags & QSV_FRAME_FORCE_IDR != 0;
        inside.idr = idr;
        self.units.enters(frame_id, pts_ns);
        self.inside.push_back(inside);
        let encoded = self.put_in(self.inside.len() - 1);
        if let Err(failure) = encoded {
            self.units.refused(frame_id);
            self.recycle();
            // The wish is not served: it stands for the next frame.
            idr_asked.fetch_or(idr, Ordering::AcqRel);
            return Err(failure);
        }
        self.recycle();
        self.begins = false;
        self.last_frame_id = frame_id;
        if frame.pts_ns != 0 {
            (self.base_pts_ns, self.since_base) = (pts_ns, 0);
        }
        self.since_base += 1;
        Ok(())
    }

    /// Checks all that can be known of a frame without a look at its pixels.
    fn check(&self, frame: &qsv_frame) -> Result<[PlaneLayout; MAX_PLANES], Failure> {
        let (width, height) = self.size();
        let given = (or(frame.width, width), or(frame.height, height));
        let pixel_format = config::pixel_format(frame.pixel_format)?;
        if given != (width, height) || pixel_format != self.layout.pixel_format {
            let opened = format!("{width}x{height} {}", self.layout.pixel_format.name());
            let text = format!(
                "The frame is {}x{} {}, but the context is for {opened}",
                given.0,
                given.1,
                pixel_format.name()
            );
            return Err(Failure::new(QSV_ERR_FORMAT_CHANGED, text));
        }
        if frame.reserved != [0; 4] || frame.flags & !QSV_FRAME_FORCE_IDR != 0 {
            return Err(Failure::value(
                "frame.flags or frame.reserved",
                frame.flags,
                "QSV_FRAME_FORCE_IDR, reserved 0",
            ));
        }
        let mut planes = [PlaneLayout::default(); MAX_PLANES];
        for (plane, layout) in planes.iter_mut().enumerate().take(pixel_format.planes()) {
            if frame.data[plane].is_null() {
                return Err(Failure::null(&format!("frame.data[{plane}]")));
            }
            let (stride, row_bytes) = (frame.stride[plane], pixel_format.row_bytes(plane, width));
            // Four bytes a pixel are more than any plane here has; beyond it offsets would not fit 32 bits.
            let most = MAX_SIDE * 4;
            if !(row_bytes..=most).contains(&stride) {
                return Err(Failure::value(
                    &format!("frame.stride[{plane}]"),
                    stride,
                    format!("{row_bytes} to {most} bytes"),
                ));
            }
            if (frame.data[plane] as usize).checked_add(stride as usize * height as usize).is_none() {
                return Err(Failure::value(
                    &format!("frame.data[{plane}]"),
                    format!("{:?}", frame.data[plane]),
                    "memory",
                ));
            }
            layout.stride = stride;
        }
        Ok(planes)
    }

    /// The frame as one run of bytes: where it lies if that is as encoders take it, else a copy.
    ///
    /// # Safety
    /// As [`State::encode`]; `planes` are those of `check`.
    unsafe fn reachable(
        &mut self,
        frame: &qsv_frame,
        mut planes: [PlaneLayout; MAX_PLANES],
        (key, pts_ns): (Key, u64),
    ) -> Inside {
        let pixel_format = self.layout.pixel_format;
        let (base, count) = (frame.data[0], pixel_format.planes());
        let mut in_place = true;
        let mut end = base as usize;
        for (plane, layout) in planes.iter_mut().enumerate().take(count) {
            let start = frame.data[plane] as usize;
            // A gap of less than a page has no whole page within it: every page it touches has bytes of a plane, so
            // that the whole run is mapped when the planes are.
            let near = start.checked_sub(end).is_some_and(|gap| gap < 4096);
            let aligned = start.is_multiple_of(STRIDE_ALIGN as usize) && layout.stride.is_multiple_of(STRIDE_ALIGN);
            let offset = u32::try_from(start.wrapping_sub(base as usize));
            in_place &= near && aligned && offset.is_ok();
            layout.offset = offset.unwrap_or(0);
            end = start + layout.stride as usize * pixel_format.rows(plane, self.layout.height) as usize;
        }
        if in_place {
            // SAFETY of what follows from it: from the first plane to the end of the last, all is mapped.
            let layout = VideoFormat { planes, ..self.layout };
            return Inside { key, pts_ns, idr: false, layout, base, copy: None };
        }
        let mut buffer = self.free.pop().unwrap_or_else(|| Buffer::new(self.layout.frame_bytes()));
        let layout = self.layout;
        if let Ok(mut pixels) = PixelsWrite::new(&layout, buffer.bytes_mut()) {
            for plane in 0..count {
                for y in 0..pixel_format.rows(plane, layout.height) {
                    let row = pixels.row_mut(plane, y);
                    // SAFETY: the caller's plane has stride × rows bytes and the stride is at least a row; the row of
                    // the copy is ours alone.
                    unsafe {
                        let from = frame.data[plane].add(frame.stride[plane] as usize * y as usize);
                        std::ptr::copy_nonoverlapping(from, row.as_mut_ptr(), row.len());
                    }
                    self.copied_bytes += row.len() as u64;
                }
            }
        }
        Inside { key, pts_ns, idr: false, layout, base: buffer.bytes().as_ptr(), copy: Some(buffer) }
    }

    /// Gives the encoder the frame at `index` of those inside.
    fn put_in(&mut self, index: usize) -> Result<(), Failure> {
        let (Some(frame), Some(encoder)) = (self.inside.get(index), self.encoder.as_deref_mut()) else { return Ok(()) };
        let bytes = frame.layout.frame_bytes() as usize;
        // SAFETY: base..base + bytes are readable while the frame is inside: proven in `reachable` for the caller's
        // memory, which stays as it is until then, or our own.
        let pixels = unsafe { PixelsRead::new(&frame.layout, frame.base, bytes) }
            .map_err(|error| Failure::new(QSV_ERR_INVALID_ARGUMENT, error.to_string()))?;
        let input = EncodeInput {
            pixels,
            memory: None,
            qp: None,
            key: frame.key,
            pts_ns: frame.pts_ns,
            force_idr: frame.idr,
            idr_count: self.units.idrs,
        };
        Ok(encoder.encode(&input, &mut self.units)?)
    }

    /// Forgets the frames that are out; their copies are free again.
    fn recycle(&mut self) {
        let units = &self.units;
        while let Some(at) = self.inside.iter().position(|frame| !units.is_inside(frame.key.source_id)) {
            self.free.extend(self.inside.remove(at).and_then(|frame| frame.copy));
        }
    }

    /// Brings out what is ready, waiting up to `patience`.
    pub(crate) fn collect(&mut self, patience: Duration) -> Result<(), Failure> {
        let collected = match self.encoder.as_deref_mut() {
            Some(encoder) => encoder.collect(&mut self.units, patience),
            None => Ok(()),
        };
        // Also when it failed: what came out before is out, and its memory the caller's again.
        self.recycle();
        Ok(collected?)
    }

    /// Brings out every frame still inside.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.encoder()?;
        let flushed = match self.encoder.as_deref_mut() {
            Some(encoder) => encoder.flush(&mut self.units),
            None => Ok(()),
        };
        self.recycle();
        Ok(flushed?)
    }

    /// Bitrate in force, bit/s.
    pub(crate) fn bitrate_bps(&self) -> u64 {
        u64::from(self.bitrate_kbps) * 1000
    }

    /// Changes the bitrate from the next frame on.
    pub(crate) fn set_bitrate(&mut self, bps: u64) -> Result<(), Failure> {
        if bps == 0 {
            return Err(config::no_bitrate(bps));
        }
        let kbps = config::kbps("The bitrate", bps)?;
        self.encoder()?.set_bitrate(kbps, 0)?;
        self.bitrate_kbps = kbps;
        Ok(())
    }

    /// Gives the next access unit to the caller, or says that none is there.
    ///
    /// # Safety
    /// `out.data` has room for `out.max_length` bytes.
    pub(crate) unsafe fn hand_out(&mut self, out: &mut qsv_bitstream) -> Result<c_int, Failure> {
        self.units_back();
        (out.data_length, out.flags) = (0, 0);
        (out.codec, out.bitrate_bps) = (self.codec_code(), self.bitrate_bps());
        out.pending = self.units.waiting().saturating_sub(1) as u32;
        if out.max_length == 0 {
            out.data = std::ptr::null_mut();
        }
        if let Some(needed) = self.units.next_bytes() {
            out.data_length = needed;
            fits(needed, out.max_length)?;
        }
        let Some(unit) = self.units.take() else { return Ok(QSV_MORE_INPUT) };
        (out.frame_id, out.pts_ns, out.flags) = (unit.frame_id, unit.pts_ns, unit.flags);
        if out.max_length == 0 {
            let unit = self.lent.insert(unit);
            out.data = if unit.bytes.is_empty() { std::ptr::null_mut() } else { unit.bytes.as_mut_ptr() };
        } else {
            // SAFETY: the caller's buffer holds max_length bytes, which `fits` compared; it is not ours.
            unsafe { std::ptr::copy_nonoverlapping(unit.bytes.as_ptr(), out.data, unit.bytes.len()) };
            self.units.give_back(unit);
        }
        Ok(QSV_OK)
    }

    /// Gives everything that waits to the callback.
    pub(crate) fn call_back(&mut self) {
        let Some(callback) = self.callback else { return };
        self.units_back();
        while let Some(mut unit) = self.units.take() {
            let told = qsv_bitstream {
                data: if unit.bytes.is_empty() { std::ptr::null_mut() } else { unit.bytes.as_mut_ptr() },
                data_length: unit.bytes.len(),
                max_length: 0,
                frame_id: unit.frame_id,
                pts_ns: unit.pts_ns,
                bitrate_bps: self.bitrate_bps(),
                codec: self.codec_code(),
                flags: unit.flags,
                pending: self.units.waiting() as u32,
                reserved: [0; 7],
            };
            // SAFETY: the caller of qsv_set_output_callback promised a function of this type; `told` and the bytes
            // live until it returns.
            unsafe { (callback.function)(callback.user, &told) };
            self.units.give_back(unit);
        }
    }

    fn units_back(&mut self) {
        if let Some(unit) = self.lent.take() {
            self.units.give_back(unit);
        }
    }

    fn codec_code(&self) -> u32 {
        config::codec_code(self.wanted.settings.codec)
    }
}

/// A number of C, where 0 is a default.
fn or(given: u32, default: u32) -> u32 {
    if given == 0 { default } else { given }
}
