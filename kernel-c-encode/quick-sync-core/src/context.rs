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
use kernel_c_encode::error::EncoderError;
use kernel_c_encode::select;
use kernel_c_encode::settings::{EncoderSettings, Preset, RateControl};
use shm_protocol::frame::{MAX_PLANES, MAX_SIDE, PlaneLayout, STRIDE_ALIGN, VideoFormat};
use shm_protocol::pixels::{PixelsRead, PixelsWrite};
use std::ffi::c_int;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

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
    /// Copies of frames: those that the encoder still reads, with their frame, and those that are free.
    copies: Vec<(u64, Buffer)>,
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
            copies: Vec::new(),
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
            0 => self.last_frame_id.saturating_add(1),
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
        // SAFETY: the caller's promise for the planes, which `check` found to be there and wide enough.
        let (view, copy) = unsafe { self.reachable(frame, planes) };
        let force_idr =
            idr_asked.swap(false, Ordering::AcqRel) || self.begins || frame.flags & QSV_FRAME_FORCE_IDR != 0;
        let (layout, base) = view;
        let bytes = layout.frame_bytes() as usize;
        // SAFETY: base..base + bytes are readable: proven in `reachable`.
        let pixels = unsafe { PixelsRead::new(&layout, base, bytes) }
            .map_err(|error| Failure::new(QSV_ERR_INVALID_ARGUMENT, error.to_string()));
        let encoded = pixels.and_then(|pixels| {
            let input = EncodeInput {
                pixels,
                memory: None,
                qp: None,
                key: Key { source_id: frame_id, sub: 0 },
                pts_ns,
                force_idr,
                idr_count: self.units.idrs,
            };
            self.units.enters(frame_id, pts_ns);
            let Some(encoder) = self.encoder.as_deref_mut() else { return Ok(()) };
            encoder.encode(&input, &mut self.units).map_err(Failure::from)
        });
        self.copies.extend(copy.map(|buffer| (frame_id, buffer)));
        self.recycle();
        if let Err(failure) = encoded {
            self.units.refused(frame_id);
            self.recycle();
            // The wish is not served: it stands for the next frame.
            idr_asked.fetch_or(force_idr, Ordering::AcqRel);
            return Err(failure);
        }
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
    ) -> ((VideoFormat, *const u8), Option<Buffer>) {
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
            return ((VideoFormat { planes, ..self.layout }, base), None);
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
        ((layout, buffer.bytes().as_ptr()), Some(buffer))
    }

    /// Copies whose frames are out are free again.
    fn recycle(&mut self) {
        let units = &self.units;
        while let Some(at) = self.copies.iter().position(|(frame_id, _)| !units.is_inside(*frame_id)) {
            self.free.push(self.copies.swap_remove(at).1);
        }
    }

    /// Brings out what is ready, waiting up to `patience`.
    pub(crate) fn collect(&mut self, patience: Duration) -> Result<(), Failure> {
        if let Some(encoder) = self.encoder.as_deref_mut() {
            encoder.collect(&mut self.units, patience)?;
        }
        self.recycle();
        Ok(())
    }

    /// Brings out every frame still inside.
    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.encoder()?;
        if let Some(encoder) = self.encoder.as_deref_mut() {
            encoder.flush(&mut self.units)?;
        }
        self.recycle();
        Ok(())
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

    /// Closes the encoder and opens it anew; with simpler settings where that fails, then with the next encoder of the
    /// list where any would do. Says in words what was given up, if anything was.
    pub(crate) fn reset(&mut self) -> Result<Option<String>, Failure> {
        let lost = self.encoder.as_ref().map(|encoder| encoder.name());
        // Encoder, session, display, in this order: each backend's own fields end so. A device may have room for one.
        self.encoder = None;
        self.units.lost_inside();
        self.recycle();
        let settings = EncoderSettings {
            idr_count: self.units.idrs,
            bitrate_kbps: self.bitrate_kbps,
            max_bitrate_kbps: match self.wanted.settings.max_bitrate_kbps {
                0 => 0,
                most => most.max(self.bitrate_kbps),
            },
            ..self.wanted.settings.clone()
        };
        let (encoder, given_up) = reopen(&self.wanted.backend, lost, &settings)?;
        self.encoder = Some(encoder);
        self.begins = true;
        Ok(given_up)
    }
}

/// The encoder again, and what had to be given up for it.
fn reopen(
    backend: &str,
    lost: Option<&str>,
    settings: &EncoderSettings,
) -> Result<(Box<dyn Encoder>, Option<String>), EncoderError> {
    let same = lost.unwrap_or(backend);
    let first = match select::open(same, settings) {
        Ok(opened) => return Ok((opened.encoder, None)),
        Err(error) => error,
    };
    let simple = fallback(settings);
    let why = match select::open(same, &simple) {
        Ok(opened) => return Ok((opened.encoder, Some(format!("{same} with fallback settings, because: {first}")))),
        Err(error) => error,
    };
    if backend == "auto"
        && let Ok(opened) = select::open_after(&simple, lost)
    {
        let name = opened.encoder.name();
        return Ok((opened.encoder, Some(format!("{name} in place of {same}, because: {why}"))));
    }
    Err(why)
}

/// What every device can: constant bitrate, nothing optional.
fn fallback(settings: &EncoderSettings) -> EncoderSettings {
    let rate_control =
        if settings.rate_control.holds_bitrate() { RateControl::Constant } else { RateControl::ConstantQp };
    EncoderSettings {
        rate_control,
        preset: Preset::Fast,
        profile: None,
        entropy: None,
        level_idc: None,
        slices: 0,
        tile_columns: 0,
        tile_rows: 0,
        intra_refresh: false,
        async_depth: 0,
        ..settings.clone()
    }
}

/// A number of C, where 0 is a default.
fn or(given: u32, default: u32) -> u32 {
    if given == 0 { default } else { given }
}
