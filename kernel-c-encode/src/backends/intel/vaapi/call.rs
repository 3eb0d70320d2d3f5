//! libva's calls as methods that return results; objects are plain ids, owned by whoever made them.
#![expect(unsafe_code, reason = "calls libva")]

use super::coded::{CodedStatus, Unusable, gather};
use crate::backends::intel::display::{Display, status_text};
use libva_sys as va;
use std::ffi::c_void;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long a call that says the device is busy is made again. Several frames' time; a device that is busy longer is
/// lost.
const BUSY_PATIENCE: Duration = Duration::from_millis(250);
/// Between two tries: short against a frame, long against a call.
const BUSY_PAUSE: Duration = Duration::from_micros(500);
/// A call that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Failed {
    /// The call.
    pub call: &'static str,
    /// What it returned.
    pub status: i32,
}

/// The result of a call.
pub type Answer<T> = Result<T, Failed>;

impl Failed {
    /// Whether the device only asks for patience.
    pub fn is_busy(&self) -> bool {
        [va::VA_STATUS_ERROR_HW_BUSY, va::VA_STATUS_ERROR_SURFACE_BUSY].contains(&(self.status as u32))
    }

    /// Whether libva or the driver lacks the call.
    pub fn is_unimplemented(&self) -> bool {
        self.status as u32 == va::VA_STATUS_ERROR_UNIMPLEMENTED
    }
}

/// The calls, on one display.
#[derive(Debug, Clone)]
pub struct Va {
    display: Arc<Display>,
}

impl Va {
    /// On that display.
    pub fn new(display: Display) -> Va {
        Va { display: Arc::new(display) }
    }

    /// The display.
    pub fn display(&self) -> &Display {
        &self.display
    }

    fn f(&self) -> (&va::Functions, va::VADisplay) {
        (self.display.functions(), self.display.raw())
    }

    /// What libva calls a status.
    pub fn text(&self, failed: &Failed) -> String {
        format!("{} said {} ({})", failed.call, failed.status, status_text(self.display.functions(), failed.status))
    }

    /// Makes a call until it no longer says busy.
    fn patiently(call: &'static str, mut make: impl FnMut() -> va::VAStatus) -> Answer<()> {
        let mut since = None;
        loop {
            let status = make();
            if status == va::VA_STATUS_SUCCESS as i32 {
                return Ok(());
            }
            let failed = Failed { call, status };
            if !failed.is_busy() || since.get_or_insert_with(Instant::now).elapsed() > BUSY_PATIENCE {
                return Err(failed);
            }
            std::thread::sleep(BUSY_PAUSE);
        }
    }

    /// The profiles of the driver.
    pub fn profiles(&self) -> Answer<Vec<va::VAProfile>> {
        let (f, display) = self.f();
        // SAFETY: the display is initialised.
        let most = unsafe { f.vaMaxNumProfiles(display) }.clamp(0, 1024);
        let mut list = vec![va::VAProfileNone; most as usize];
        let mut count = 0;
        Self::patiently("vaQueryConfigProfiles", || {
            // SAFETY: the list has the room that the driver asked for.
            unsafe { f.vaQueryConfigProfiles(display, list.as_mut_ptr(), &mut count) }
        })?;
        list.truncate(count.max(0) as usize);
        Ok(list)
    }

    /// The entry points of a profile.
    pub fn entrypoints(&self, profile: va::VAProfile) -> Answer<Vec<va::VAEntrypoint>> {
        let (f, display) = self.f();
        // SAFETY: the display is initialised.
        let most = unsafe { f.vaMaxNumEntrypoints(display) }.clamp(0, 1024);
        let mut list = vec![0; most as usize];
        let mut count = 0;
        Self::patiently("vaQueryConfigEntrypoints", || {
            // SAFETY: the list has the room that the driver asked for.
            unsafe { f.vaQueryConfigEntrypoints(display, profile, list.as_mut_ptr(), &mut count) }
        })?;
        list.truncate(count.max(0) as usize);
        Ok(list)
    }

    /// Fills in the values of `attributes`.
    pub fn attributes(
        &self,
        profile: va::VAProfile,
        entrypoint: va::VAEntrypoint,
        attributes: &mut [va::VAConfigAttrib],
    ) -> Answer<()> {
        let (f, display) = self.f();
        let count = attributes.len() as i32;
        Self::patiently("vaGetConfigAttributes", || {
            // SAFETY: the list has `count` entries.
            unsafe { f.vaGetConfigAttributes(display, profile, entrypoint, attributes.as_mut_ptr(), count) }
        })
    }

    /// Makes a configuration.
    pub fn create_config(
        &self,
        profile: va::VAProfile,
        entrypoint: va::VAEntrypoint,
        attributes: &mut [va::VAConfigAttrib],
    ) -> Answer<va::VAConfigID> {
        let (f, display) = self.f();
        let (mut id, count) = (va::VA_INVALID_ID, attributes.len() as i32);
        Self::patiently("vaCreateConfig", || {
            // SAFETY: the list has `count` entries; the id is written.
            unsafe { f.vaCreateConfig(display, profile, entrypoint, attributes.as_mut_ptr(), count, &mut id) }
        })?;
        Ok(id)
    }

    /// Ends a configuration.
    pub fn destroy_config(&self, id: va::VAConfigID) {
        let (f, display) = self.f();
        // SAFETY: an id of this display; a wrong one is refused.
        log("vaDestroyConfig", unsafe { f.vaDestroyConfig(display, id) });
    }

    /// What surfaces of a configuration may be.
    pub fn surface_attributes(&self, config: va::VAConfigID) -> Answer<Vec<va::VASurfaceAttrib>> {
        let (f, display) = self.f();
        let mut count = 0;
        Self::patiently("vaQuerySurfaceAttributes", || {
            // SAFETY: without a list only the count is written.
            unsafe { f.vaQuerySurfaceAttributes(display, config, std::ptr::null_mut(), &mut count) }
        })?;
        // A driver lists a few dozen; what says more is garbage.
        count = count.min(1024);
        let mut list = vec![va::VASurfaceAttrib::default(); count as usize];
        Self::patiently("vaQuerySurfaceAttributes", || {
            // SAFETY: the list has `count` entries.
            unsafe { f.vaQuerySurfaceAttributes(display, config, list.as_mut_ptr(), &mut count) }
        })?;
        list.truncate(count as usize);
        Ok(list)
    }

    /// Makes surfaces.
    pub fn create_surfaces(
        &self,
        rt_format: u32,
        (width, height): (u32, u32),
        surfaces: &mut [va::VASurfaceID],
        attributes: &mut [va::VASurfaceAttrib],
    ) -> Answer<()> {
        let (f, display) = self.f();
        let (count, attribute_count) = (surfaces.len() as u32, attributes.len() as u32);
        Self::patiently("vaCreateSurfaces", || {
            // SAFETY: both lists have the entries said; what attributes point at lives in the caller for the call.
            unsafe {
                f.vaCreateSurfaces(
                    display,
                    rt_format,
                    width,
                    height,
                    surfaces.as_mut_ptr(),
                    count,
                    attributes.as_mut_ptr(),
                    attribute_count,
                )
            }
        })
    }

    /// Ends surfaces.
    pub fn destroy_surfaces(&self, surfaces: &mut [va::VASurfaceID]) {
        let (f, display) = self.f();
        if !surfaces.is_empty() {
            // SAFETY: the list has the entries said; wrong ids are refused.
            log("vaDestroySurfaces", unsafe {
                f.vaDestroySurfaces(display, surfaces.as_mut_ptr(), surfaces.len() as i32)
            });
        }
    }

    /// Makes a context.
    pub fn create_context(
        &self,
        config: va::VAConfigID,
        (width, height): (u32, u32),
        targets: &mut [va::VASurfaceID],
    ) -> Answer<va::VAContextID> {
        let (f, display) = self.f();
        let mut id = va::VA_INVALID_ID;
        let (flag, count) = (va::VA_PROGRESSIVE as i32, targets.len() as i32);
        Self::patiently("vaCreateContext", || {
            // SAFETY: the list has `count` entries; the id is written.
            unsafe {
                f.vaCreateContext(
                    display,
                    config,
                    width as i32,
                    height as i32,
                    flag,
                    targets.as_mut_ptr(),
                    count,
                    &mut id,
                )
            }
        })?;
        Ok(id)
    }

    /// Ends a context.
    pub fn destroy_context(&self, id: va::VAContextID) {
        let (f, display) = self.f();
        // SAFETY: an id of this display; a wrong one is refused.
        log("vaDestroyContext", unsafe { f.vaDestroyContext(display, id) });
    }

    /// Makes a buffer of `bytes` bytes that the driver fills.
    pub fn create_empty_buffer(
        &self,
        context: va::VAContextID,
        kind: va::VABufferType,
        bytes: u32,
    ) -> Answer<va::VABufferID> {
        let (f, display) = self.f();
        let mut id = va::VA_INVALID_ID;
        Self::patiently("vaCreateBuffer", || {
            // SAFETY: without data the driver reads nothing; the id is written.
            unsafe { f.vaCreateBuffer(display, context, kind, bytes, 1, std::ptr::null_mut(), &mut id) }
        })?;
        Ok(id)
    }

    /// Makes a buffer with a copy of `bytes`.
    pub fn create_buffer(
        &self,
        context: va::VAContextID,
        kind: va::VABufferType,
        bytes: &[u8],
    ) -> Answer<va::VABufferID> {
        let (f, display) = self.f();
        let mut id = va::VA_INVALID_ID;
        let (len, data) = (bytes.len() as u32, bytes.as_ptr().cast_mut().cast::<c_void>());
        Self::patiently("vaCreateBuffer", || {
            // SAFETY: the driver reads `len` bytes of `data` within the call and writes none.
            unsafe { f.vaCreateBuffer(display, context, kind, len, 1, data, &mut id) }
        })?;
        Ok(id)
    }

    /// Makes a buffer with a copy of a structure of the interface, its padding included.
    pub fn create_structure<T: Copy>(
        &self,
        context: va::VAContextID,
        kind: va::VABufferType,
        value: &T,
    ) -> Answer<va::VABufferID> {
        let (f, display) = self.f();
        let mut id = va::VA_INVALID_ID;
        let (len, data) = (size_of::<T>() as u32, std::ptr::from_ref(value).cast_mut().cast::<c_void>());
        Self::patiently("vaCreateBuffer", || {
            // SAFETY: the driver reads the structure within the call and writes none of it.
            unsafe { f.vaCreateBuffer(display, context, kind, len, 1, data, &mut id) }
        })?;
        Ok(id)
    }

    /// Ends a buffer.
    pub fn destroy_buffer(&self, id: va::VABufferID) {
        let (f, display) = self.f();
        // SAFETY: an id of this display; a wrong one is refused.
        log("vaDestroyBuffer", unsafe { f.vaDestroyBuffer(display, id) });
    }

    /// Begins a picture.
    pub fn begin(&self, context: va::VAContextID, surface: va::VASurfaceID) -> Answer<()> {
        let (f, display) = self.f();
        // SAFETY: ids only.
        Self::patiently("vaBeginPicture", || unsafe { f.vaBeginPicture(display, context, surface) })
    }

    /// Hands over the parameters of a picture.
    pub fn render(&self, context: va::VAContextID, buffers: &mut [va::VABufferID]) -> Answer<()> {
        let (f, display) = self.f();
        let count = buffers.len() as i32;
        // SAFETY: the list has `count` entries.
        Self::patiently("vaRenderPicture", || unsafe {
            f.vaRenderPicture(display, context, buffers.as_mut_ptr(), count)
        })
    }

    /// Ends a picture: the device begins with it.
    pub fn end(&self, context: va::VAContextID) -> Answer<()> {
        let (f, display) = self.f();
        // SAFETY: an id only.
        Self::patiently("vaEndPicture", || unsafe { f.vaEndPicture(display, context) })
    }

    /// Waits for a coded picture up to `patience`; `false`: it is not ready yet.
    pub fn wait(&self, coded: va::VABufferID, surface: va::VASurfaceID, patience: Duration) -> Answer<bool> {
        let (f, display) = self.f();
        let patience_ns = patience.as_nanos().min(u128::from(u64::MAX - 1)) as u64;
        let told = |waited: Answer<()>| match waited {
            Ok(()) => Some(Ok(true)),
            Err(failed) if failed.status as u32 == va::VA_STATUS_ERROR_TIMEDOUT => Some(Ok(false)),
            Err(failed) if failed.is_unimplemented() => None,
            Err(failed) => Some(Err(failed)),
        };
        if f.vaSyncBuffer.is_ok() {
            // SAFETY: ids only.
            let waited = || unsafe { f.vaSyncBuffer(display, coded, patience_ns) };
            if let Some(answer) = told(Self::patiently("vaSyncBuffer", waited)) {
                return answer;
            }
        }
        if f.vaSyncSurface2.is_ok() {
            // SAFETY: ids only.
            let waited = || unsafe { f.vaSyncSurface2(display, surface, patience_ns) };
            if let Some(answer) = told(Self::patiently("vaSyncSurface2", waited)) {
                return answer;
            }
        }
        self.poll(surface, patience)
    }

    /// As [`Va::wait`] where only an unbounded wait exists: asks until the picture is ready.
    fn poll(&self, surface: va::VASurfaceID, patience: Duration) -> Answer<bool> {
        let (f, display) = self.f();
        let since = Instant::now();
        loop {
            let mut status: va::VASurfaceStatus = 0;
            Self::patiently("vaQuerySurfaceStatus", || {
                // SAFETY: an id; the status is written.
                unsafe { f.vaQuerySurfaceStatus(display, surface, &mut status) }
            })?;
            if status & va::VASurfaceRendering == 0 {
                // SAFETY: an id only; the picture is ready, so that it returns at once, with the errors of the picture.
                Self::patiently("vaSyncSurface", || unsafe { f.vaSyncSurface(display, surface) })?;
                return Ok(true);
            }
            if since.elapsed() >= patience {
                return Ok(false);
            }
            std::thread::sleep(BUSY_PAUSE);
        }
    }

    /// Calls `take` with the bytes of a coded picture of at most `capacity` bytes. Several pieces are put together in
    /// `scratch`, whose capacity is kept.
    pub fn with_coded<T>(
        &self,
        coded: va::VABufferID,
        capacity: usize,
        scratch: &mut Vec<u8>,
        take: impl FnOnce(&[u8], CodedStatus) -> T,
    ) -> Result<T, Unusable> {
        let (f, display) = self.f();
        let mut data: *mut c_void = std::ptr::null_mut();
        // SAFETY: the address of the mapping is written.
        let mapped = Self::patiently("vaMapBuffer", || unsafe { f.vaMapBuffer(display, coded, &mut data) });
        mapped.map_err(Unusable::Call)?;
        let taken = gather(data.cast(), capacity, scratch).map(|(piece, status)| match piece {
            Some(piece) => {
                // SAFETY: checked by `gather` against null and the capacity of the buffer; mapped until below.
                let bytes = unsafe { std::slice::from_raw_parts(piece.from, piece.len) };
                take(bytes, status)
            }
            None => take(scratch, status),
        });
        // SAFETY: mapped above; nothing of the mapping is used afterwards.
        log("vaUnmapBuffer", unsafe { f.vaUnmapBuffer(display, coded) });
        taken
    }

    /// Calls `with` with the pixels of a surface, mapped.
    pub fn with_image<T>(&self, image: &va::VAImage, with: impl FnOnce(*mut u8) -> T) -> Answer<T> {
        let (f, display) = self.f();
        let mut data: *mut c_void = std::ptr::null_mut();
        // SAFETY: the address of the mapping is written.
        Self::patiently("vaMapBuffer", || unsafe { f.vaMapBuffer(display, image.buf, &mut data) })?;
        if data.is_null() {
            return Err(Failed { call: "vaMapBuffer", status: va::VA_STATUS_ERROR_UNKNOWN as i32 });
        }
        let answer = with(data.cast());
        // SAFETY: mapped above; nothing of the mapping is used afterwards.
        Self::patiently("vaUnmapBuffer", || unsafe { f.vaUnmapBuffer(display, image.buf) })?;
        Ok(answer)
    }

    /// The image that is a surface's own memory.
    pub fn derive_image(&self, surface: va::VASurfaceID) -> Answer<va::VAImage> {
        let (f, display) = self.f();
        let mut image = va::VAImage::default();
        // SAFETY: an id; the description is written.
        Self::patiently("vaDeriveImage", || unsafe { f.vaDeriveImage(display, surface, &mut image) })?;
        Ok(image)
    }

    /// An image of its own.
    pub fn create_image(&self, fourcc: u32, (width, height): (u32, u32)) -> Answer<va::VAImage> {
        let (f, display) = self.f();
        let bits_per_pixel = if fourcc == va::VA_FOURCC_P010 { 24 } else { 12 };
        let mut format = va::VAImageFormat { fourcc, bits_per_pixel, byte_order: 1, ..Default::default() };
        let mut image = va::VAImage::default();
        Self::patiently("vaCreateImage", || {
            // SAFETY: the format is read, the description is written.
            unsafe { f.vaCreateImage(display, &mut format, width as i32, height as i32, &mut image) }
        })?;
        Ok(image)
    }

    /// Copies an image into a surface.
    pub fn put_image(&self, surface: va::VASurfaceID, image: va::VAImageID, (width, height): (u32, u32)) -> Answer<()> {
        let (f, display) = self.f();
        Self::patiently("vaPutImage", || {
            // SAFETY: ids and numbers only.
            unsafe { f.vaPutImage(display, surface, image, 0, 0, width, height, 0, 0, width, height) }
        })
    }

    /// Ends an image.
    pub fn destroy_image(&self, image: va::VAImageID) {
        let (f, display) = self.f();
        // SAFETY: an id of this display; a wrong one is refused.
        log("vaDestroyImage", unsafe { f.vaDestroyImage(display, image) });
    }
}

fn log(call: &'static str, status: va::VAStatus) {
    if status != va::VA_STATUS_SUCCESS as i32 {
        tracing::debug!(call, status, "An object of libva could not be let go");
    }
}
