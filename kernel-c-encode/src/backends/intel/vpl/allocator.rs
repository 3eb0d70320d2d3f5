//! The external allocator that the session is given: VA surfaces in a table, mapped when they are written. What the
//! runtime calls of it is in `callbacks`.
//!
//! A memory id is the number of a place in a table, plus one, so that whatever a runtime hands in is checked before it
//! is used; GetHDL answers where the table holds the `VASurfaceID`, which is what runtimes on VA-API expect.
#![expect(unsafe_code, reason = "callbacks of a C library, and VA surfaces")]

mod callbacks;

use crate::backends::intel::display::{Display, status_text};
use libva_sys::{
    VA_FOURCC_NV12, VA_FOURCC_P010, VA_INVALID_ID, VA_RT_FORMAT_YUV420, VA_RT_FORMAT_YUV420_10,
    VA_SURFACE_ATTRIB_MEM_TYPE_DRM_PRIME_2, VA_SURFACE_ATTRIB_SETTABLE, VADRMPRIMESurfaceDescriptor,
    VAGenericValueTypeInteger, VAGenericValueTypePointer, VAImage, VAStatus, VASurfaceAttrib,
    VASurfaceAttribExternalBufferDescriptor, VASurfaceAttribMemoryType, VASurfaceAttribPixelFormat,
    VASurfaceAttribType, VASurfaceID,
};
use onevpl_sys::{mfxFrameAllocator, mfxFrameData, mfxHDL, mfxMemId, mfxU16};
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Surfaces that are known at a time, at the most: a pool of 64, as many imports, and what a runtime asks for itself.
const MOST_SURFACES: usize = 256;

/// A place in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemId(usize);

impl MemId {
    /// The id as the runtime sees it.
    pub fn raw(self) -> mfxMemId {
        ptr::without_provenance_mut(self.0 + 1)
    }

    fn from_raw(raw: mfxMemId) -> Option<MemId> {
        raw.addr().checked_sub(1).filter(|index| *index < MOST_SURFACES).map(MemId)
    }
}

/// A pixel format of surfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SurfaceFormat {
    /// Its code, the same number for VA, DRM and oneVPL.
    pub fourcc: u32,
    /// The VA render target format.
    pub rt_format: u32,
}

impl SurfaceFormat {
    /// 8 bit.
    pub const NV12: SurfaceFormat = SurfaceFormat { fourcc: VA_FOURCC_NV12, rt_format: VA_RT_FORMAT_YUV420 };
    /// 10 bit.
    pub const P010: SurfaceFormat = SurfaceFormat { fourcc: VA_FOURCC_P010, rt_format: VA_RT_FORMAT_YUV420_10 };

    fn of(fourcc: u32) -> Option<SurfaceFormat> {
        [SurfaceFormat::NV12, SurfaceFormat::P010].into_iter().find(|format| format.fourcc == fourcc)
    }
}

/// Where the rows of a mapped surface lie.
#[derive(Debug, Clone, Copy)]
pub struct Mapped {
    /// First bytes of luma and of chroma.
    pub planes: [*mut u8; 2],
    /// Bytes from a row to the next, as the driver says.
    pub pitches: [usize; 2],
    /// Rows of luma that are there.
    pub height: u32,
}

#[derive(Debug)]
struct Lock {
    image: VAImage,
    address: *mut u8,
    holders: u32,
    /// The image is a copy, put into the surface when it is unlocked.
    put_back: bool,
}

#[derive(Debug)]
struct Entry {
    width: u32,
    height: u32,
    fourcc: u32,
    lock: Option<Lock>,
}

#[derive(Debug)]
struct State {
    entries: Vec<Option<Entry>>,
    /// What Alloc answered and Free has not taken back.
    responses: Vec<Box<[mfxMemId]>>,
}

#[derive(Debug)]
struct Inner {
    display: Arc<Display>,
    /// Read by the runtime through the pointers of GetHDL.
    surfaces: Box<[AtomicU32]>,
    state: Mutex<State>,
}

// SAFETY: the raw pointers inside are mappings that are touched under the mutex only, or by who holds the lock of it.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

/// The allocator; its surfaces are destroyed with it.
#[derive(Debug)]
pub struct Allocator {
    inner: Arc<Inner>,
    /// What the session was given a pointer to.
    callbacks: Box<mfxFrameAllocator>,
}

// SAFETY: the pointer in `callbacks` is that of `inner`, which is Send and Sync.
unsafe impl Send for Allocator {}

impl Allocator {
    /// An allocator without surfaces.
    pub fn new(display: Arc<Display>) -> Allocator {
        let surfaces = (0..MOST_SURFACES).map(|_| AtomicU32::new(VA_INVALID_ID)).collect();
        let entries = (0..MOST_SURFACES).map(|_| None).collect();
        let inner = Arc::new(Inner { display, surfaces, state: Mutex::new(State { entries, responses: Vec::new() }) });
        let callbacks = callbacks::callbacks(&inner);
        Allocator { inner, callbacks }
    }

    /// What MFXVideoCORE_SetFrameAllocator takes; valid as long as the allocator.
    pub fn callbacks(&mut self) -> *mut mfxFrameAllocator {
        &raw mut *self.callbacks
    }

    /// A new surface.
    ///
    /// # Errors
    /// What libva said, or that the table is full.
    pub fn create(&self, format: SurfaceFormat, width: u32, height: u32) -> Result<MemId, String> {
        self.inner.create(format, width, height, None)
    }

    /// A surface over memory of somebody else (DRM PRIME 2).
    ///
    /// # Errors
    /// As [`Allocator::create`].
    pub fn import(
        &self,
        format: SurfaceFormat,
        (width, height): (u32, u32),
        memory: &mut VADRMPRIMESurfaceDescriptor,
    ) -> Result<MemId, String> {
        self.inner.create(format, width, height, Some(memory))
    }

    /// Destroys a surface.
    pub fn destroy(&self, id: MemId) {
        self.inner.destroy(&mut self.inner.state(), id);
    }

    /// The display and the id of a surface, for the runtime.
    pub fn native(&self, id: MemId) -> (mfxHDL, VASurfaceID) {
        (self.inner.display.raw(), self.inner.surfaces[id.0].load(Ordering::Acquire))
    }

    /// Maps a surface for writing, calls `write` and unmaps it. Returns whether what was written was an image apart from
    /// the surface, which the driver copied into it: not every surface can be mapped.
    ///
    /// # Errors
    /// What libva said.
    pub fn write(&self, id: MemId, write: impl FnOnce(Mapped)) -> Result<bool, String> {
        let mapped = self.inner.lock(id, true)?;
        write(mapped);
        self.inner.unlock(id)
    }
}

impl Drop for Allocator {
    fn drop(&mut self) {
        let mut state = self.inner.state();
        for index in 0..MOST_SURFACES {
            self.inner.destroy(&mut state, MemId(index));
        }
    }
}

fn integer(type_: VASurfaceAttribType, value: u32) -> VASurfaceAttrib {
    let mut attribute = VASurfaceAttrib { type_, flags: VA_SURFACE_ATTRIB_SETTABLE, ..VASurfaceAttrib::default() };
    attribute.value.type_ = VAGenericValueTypeInteger;
    attribute.value.value.i = value.cast_signed();
    attribute
}

impl Inner {
    /// Turns a status into a result.
    fn check(&self, call: &str, status: VAStatus) -> Result<(), String> {
        match status {
            0 => Ok(()),
            status => Err(format!("{call}: {}", status_text(self.display.functions(), status))),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic under the lock leaves a table that is whole: every change of it is one assignment.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn create(
        &self,
        format: SurfaceFormat,
        width: u32,
        height: u32,
        memory: Option<&mut VADRMPRIMESurfaceDescriptor>,
    ) -> Result<MemId, String> {
        let mut state = self.state();
        let Some(index) = state.entries.iter().position(Option::is_none) else {
            return Err(format!("{MOST_SURFACES} surfaces are in use, which is the most"));
        };
        let mut attributes = [integer(VASurfaceAttribPixelFormat, format.fourcc); 3];
        let mut used = 1;
        if let Some(memory) = memory {
            attributes[1] = integer(VASurfaceAttribMemoryType, VA_SURFACE_ATTRIB_MEM_TYPE_DRM_PRIME_2);
            attributes[2] = integer(VASurfaceAttribExternalBufferDescriptor, 0);
            attributes[2].value.type_ = VAGenericValueTypePointer;
            attributes[2].value.value.p = ptr::from_mut(memory).cast();
            used = 3;
        }
        let mut surface: VASurfaceID = VA_INVALID_ID;
        // SAFETY: an initialised display, one place for one surface, `used` attributes; the descriptor they point at
        // is borrowed until the call returns.
        let status = unsafe {
            self.display.functions().vaCreateSurfaces(
                self.display.raw(),
                format.rt_format,
                width,
                height,
                &mut surface,
                1,
                attributes.as_mut_ptr(),
                used,
            )
        };
        self.check("vaCreateSurfaces", status)?;
        self.surfaces[index].store(surface, Ordering::Release);
        state.entries[index] = Some(Entry { width, height, fourcc: format.fourcc, lock: None });
        Ok(MemId(index))
    }

    fn destroy(&self, state: &mut State, id: MemId) {
        let Some(entry) = state.entries[id.0].take() else { return };
        if let Some(lock) = entry.lock {
            let _ = self.end_lock(&lock);
        }
        let mut surface = self.surfaces[id.0].swap(VA_INVALID_ID, Ordering::AcqRel);
        // SAFETY: a surface of this display that nothing uses any more: it left the table.
        unsafe { self.display.functions().vaDestroySurfaces(self.display.raw(), &mut surface, 1) };
    }

    fn end_lock(&self, lock: &Lock) -> Result<(), String> {
        let (va, display) = (self.display.functions(), self.display.raw());
        // SAFETY: the image and its buffer are those of the lock, mapped once.
        let (unmapped, destroyed) =
            unsafe { (va.vaUnmapBuffer(display, lock.image.buf), va.vaDestroyImage(display, lock.image.image_id)) };
        self.check("vaUnmapBuffer", unmapped)?;
        self.check("vaDestroyImage", destroyed)
    }

    /// Maps a surface; `create` allows an image apart from it, put into it at the end, where it has none of its own.
    fn lock(&self, id: MemId, create: bool) -> Result<Mapped, String> {
        let mut state = self.state();
        let entry = state.entries[id.0].as_mut().ok_or("there is no such surface")?;
        if let Some(lock) = &mut entry.lock {
            lock.holders += 1;
            return mapped(lock, entry.height);
        }
        let (va, display) = (self.display.functions(), self.display.raw());
        let surface = self.surfaces[id.0].load(Ordering::Acquire);
        let mut image = VAImage::default();
        // SAFETY: a surface of this display and a place for the image.
        let mut status = unsafe { va.vaDeriveImage(display, surface, &mut image) };
        let mut put_back = false;
        if status != 0 && create {
            put_back = true;
            let mut format = libva_sys::VAImageFormat {
                fourcc: entry.fourcc,
                byte_order: libva_sys::VA_LSB_FIRST,
                bits_per_pixel: if entry.fourcc == VA_FOURCC_P010 { 24 } else { 12 },
                ..libva_sys::VAImageFormat::default()
            };
            let (width, height) = (entry.width.cast_signed(), entry.height.cast_signed());
            // SAFETY: an initialised display, a format and a place for the image.
            status = unsafe { va.vaCreateImage(display, &mut format, width, height, &mut image) };
        }
        self.check(if put_back { "vaCreateImage" } else { "vaDeriveImage" }, status)?;
        let mut address = ptr::null_mut();
        // SAFETY: the buffer of an image just made.
        let status = unsafe { va.vaMapBuffer(display, image.buf, &mut address) };
        let lock = Lock { image, address: address.cast(), holders: 1, put_back };
        let checked = self.check("vaMapBuffer", status).and_then(|()| mapped(&lock, entry.height));
        match checked {
            Ok(mapped) => {
                entry.lock = Some(lock);
                Ok(mapped)
            }
            Err(reason) => {
                let _ = self.end_lock(&lock);
                Err(reason)
            }
        }
    }

    /// Ends a lock; returns whether the surface was written by an image.
    fn unlock(&self, id: MemId) -> Result<bool, String> {
        let mut state = self.state();
        let entry = state.entries[id.0].as_mut().ok_or("there is no such surface")?;
        let Some(mut lock) = entry.lock.take() else { return Err("the surface is not locked".to_owned()) };
        lock.holders -= 1;
        if lock.holders > 0 {
            let put_back = lock.put_back;
            entry.lock = Some(lock);
            return Ok(put_back);
        }
        if lock.put_back {
            let (va, display) = (self.display.functions(), self.display.raw());
            let surface = self.surfaces[id.0].load(Ordering::Acquire);
            // SAFETY: image and surface are of this display and of the same size; an image is unmapped before it is put.
            let status = unsafe {
                va.vaUnmapBuffer(display, lock.image.buf);
                let (width, height) = (entry.width, entry.height);
                let put =
                    va.vaPutImage(display, surface, lock.image.image_id, 0, 0, width, height, 0, 0, width, height);
                va.vaDestroyImage(display, lock.image.image_id);
                put
            };
            return self.check("vaPutImage", status).map(|()| true);
        }
        self.end_lock(&lock).map(|()| false)
    }
}

/// Where the rows of a locked surface lie. What a driver says is checked against the bytes it says there are.
fn mapped(lock: &Lock, height: u32) -> Result<Mapped, String> {
    let image = &lock.image;
    let luma = u64::from(image.offsets[0]) + u64::from(image.pitches[0]) * u64::from(height);
    let chroma = u64::from(image.offsets[1]) + u64::from(image.pitches[1]) * u64::from(height / 2);
    if lock.address.is_null() || image.num_planes != 2 || luma.max(chroma) > u64::from(image.data_size) {
        return Err(format!(
            "the driver maps {} planes in {} bytes, which hold no {height} rows",
            image.num_planes, image.data_size
        ));
    }
    // SAFETY: both offsets lie within the `data_size` bytes that are mapped.
    let planes = unsafe { [0, 1].map(|plane| lock.address.add(image.offsets[plane] as usize)) };
    Ok(Mapped { planes, pitches: [0, 1].map(|plane| image.pitches[plane] as usize), height })
}

/// Writes a pitch into its two halves.
pub fn set_pitch(data: &mut mfxFrameData, pitch: usize) {
    data.PitchHigh = (pitch >> 16) as mfxU16;
    data.__bindgen_anon_2.PitchLow = (pitch & 0xffff) as mfxU16;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_memory_id_that_was_never_given_out_is_no_surface() {
        assert_eq!(MemId::from_raw(MemId(7).raw()), Some(MemId(7)));
        assert_eq!(MemId::from_raw(ptr::null_mut()), None);
        assert_eq!(MemId::from_raw(ptr::without_provenance_mut(MOST_SURFACES + 1)), None);
        assert_eq!(MemId::from_raw(ptr::without_provenance_mut(usize::MAX)), None);
    }

    #[test]
    fn a_mapping_that_is_smaller_than_its_rows_is_refused() {
        let mut bytes = [0u8; 96];
        let mut image = VAImage { num_planes: 2, data_size: 96, ..VAImage::default() };
        (image.pitches, image.offsets) = ([16, 16, 0], [0, 64, 0]);
        let lock = Lock { image, address: bytes.as_mut_ptr(), holders: 1, put_back: false };
        assert!(mapped(&lock, 4).is_ok());
        assert!(mapped(&lock, 8).unwrap_err().contains("96 bytes"));
    }
}
