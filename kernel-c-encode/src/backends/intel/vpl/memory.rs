//! `ImportFrameSurface` of oneVPL 2.10: a VA surface of ours becomes a surface of the runtime, which counts its users
//! by references and knows from the import on what it is; nothing is copied.
#![expect(unsafe_code, reason = "calls the runtime through its structures of function pointers")]

use super::library::status_name;
use super::session::Session;
use onevpl_sys as vpl;
use onevpl_sys::import::{
    MFX_HANDLE_MEMORY_INTERFACE, MFX_SURFACE_COMPONENT_ENCODE, MFX_SURFACE_FLAG_IMPORT_SHARED, MFX_SURFACE_TYPE_VAAPI,
    SINCE, mfxMemoryInterface, mfxSurfaceHeader, mfxSurfaceVAAPI,
};
use onevpl_sys::{mfxFrameSurface1, mfxHDL};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicU16, Ordering};

/// Where the runtime imports. Belongs to a session and must not be used behind its end.
#[derive(Debug)]
pub struct MemoryInterface(NonNull<mfxMemoryInterface>);

// SAFETY: an interface has no tie to a thread; it is used by who has the session, through `&mut`.
unsafe impl Send for MemoryInterface {}

impl MemoryInterface {
    /// That of the session, where its runtime has one.
    pub fn of(session: &mut Session) -> Option<MemoryInterface> {
        if session.found.api < SINCE || session.vpl().MFXVideoCORE_GetHandle.is_err() {
            return None;
        }
        let mut handle: mfxHDL = ptr::null_mut();
        // SAFETY: an open session and a place for the handle; the function was found above.
        let status =
            unsafe { session.vpl().MFXVideoCORE_GetHandle(session.raw(), MFX_HANDLE_MEMORY_INTERFACE, &mut handle) };
        if status != vpl::MFX_ERR_NONE {
            tracing::debug!(status = status_name(status), "The runtime has no memory interface");
            return None;
        }
        NonNull::new(handle.cast()).map(MemoryInterface)
    }

    /// Makes a VA surface on `display` a surface of the runtime.
    ///
    /// # Errors
    /// What the runtime said. It refuses also what it could only copy.
    ///
    /// # Safety
    /// The session of the interface is open, its encoder is initialised, and the VA surface stays until the import is
    /// dropped.
    pub unsafe fn import(&mut self, display: mfxHDL, surface: u32) -> Result<Imported, String> {
        // SAFETY: plain integers, pointers and functions that may be absent: all zero is a value of each.
        let mut external: mfxSurfaceVAAPI = unsafe { std::mem::zeroed() };
        let header = &mut external.SurfaceInterface.Header;
        header.SurfaceType = MFX_SURFACE_TYPE_VAAPI;
        header.SurfaceFlags = MFX_SURFACE_FLAG_IMPORT_SHARED;
        header.StructSize = size_of::<mfxSurfaceVAAPI>() as u32;
        (external.vaDisplay, external.vaSurfaceID) = (display, surface);
        let mut imported: *mut mfxFrameSurface1 = ptr::null_mut();
        // SAFETY: the interface lives with its session (by the caller). The whole structure is passed by the pointer
        // to its header, which is its first field.
        let status = unsafe {
            let import = (*self.0.as_ptr()).ImportFrameSurface.ok_or("it has no ImportFrameSurface")?;
            let header: *mut mfxSurfaceHeader = (&raw mut external).cast();
            import(self.0.as_ptr(), MFX_SURFACE_COMPONENT_ENCODE, header, &mut imported)
        };
        if status < vpl::MFX_ERR_NONE {
            return Err(format!("ImportFrameSurface said {}", status_name(status)));
        }
        // SAFETY: the runtime gave it with one reference, which is ours.
        let imported = unsafe { Imported::new(imported) }.ok_or("ImportFrameSurface gave no surface")?;
        match external.SurfaceInterface.Header.SurfaceFlags {
            MFX_SURFACE_FLAG_IMPORT_SHARED => Ok(imported),
            flags => Err(format!("ImportFrameSurface shared nothing (flags {flags:#x})")),
        }
    }
}

/// A surface of the runtime over one of ours. Its reference is given back when it is dropped, which must be before the
/// session ends.
#[derive(Debug)]
pub struct Imported(NonNull<mfxFrameSurface1>);

// SAFETY: a surface has no tie to a thread; its interface may be called from any.
unsafe impl Send for Imported {}

impl Imported {
    /// `None` for a surface that is null or cannot be given back.
    ///
    /// # Safety
    /// Null, or a surface of the runtime with a reference that becomes ours.
    unsafe fn new(surface: *mut mfxFrameSurface1) -> Option<Imported> {
        let surface = NonNull::new(surface)?;
        // SAFETY: it lives (by the caller); the union holds a pointer to its interface, or null.
        let interface = unsafe { (*surface.as_ptr()).__bindgen_anon_1.FrameInterface };
        // SAFETY: null, or the interface of a surface that lives.
        unsafe { interface.as_ref() }?.Release?;
        Some(Imported(surface))
    }

    /// The surface.
    pub fn raw(&self) -> *mut mfxFrameSurface1 {
        self.0.as_ptr()
    }

    /// Whether no frame in it is at work.
    pub fn is_unlocked(&self) -> bool {
        // SAFETY: the surface lives as long as our reference; the field is aligned, and the runtime counts it atomically.
        unsafe { AtomicU16::from_ptr(&raw mut (*self.raw()).Data.Locked) }.load(Ordering::Acquire) == 0
    }
}

impl Drop for Imported {
    fn drop(&mut self) {
        // SAFETY: our one reference, given back once while the session is open; `new` found the function.
        let status = unsafe {
            let interface = (*self.raw()).__bindgen_anon_1.FrameInterface;
            (*interface).Release.map_or(vpl::MFX_ERR_NONE, |release| release(self.raw()))
        };
        if status != vpl::MFX_ERR_NONE {
            tracing::warn!(status = status_name(status), "A surface of the runtime could not be given back");
        }
    }
}
