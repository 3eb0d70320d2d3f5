//! The DMA callbacks: frames in video memory, for a oneVPL session of the application's own or of this library.
//!
//! The functions have the signatures of mfxFrameAllocator, with the context as `pthis`. What allocates is behind
//! [`SurfaceAllocator`]; [`open`] is the one place that knows where such a thing comes from.
#![expect(unsafe_code, reason = "callbacks of C")]

use crate::api::CONTEXTS;
use crate::border;
use crate::codes::*;
use crate::failure::Failure;
use crate::types::*;
use kernel_c_encode::backends::intel::display::Display;
use kernel_c_encode::backends::intel::vpl::allocator::Allocator;
use onevpl_sys as vpl;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

/// Allocates surfaces of a device. Statuses are those of oneVPL.
pub trait SurfaceAllocator: Send {
    /// Makes the surfaces of a request.
    fn alloc(&mut self, request: &mut qsv_mfx_request, response: &mut qsv_mfx_response) -> qsv_mfx_status;
    /// Maps a surface: fills in pointers and pitch.
    fn lock(&mut self, surface: qsv_mfx_memory, data: &mut qsv_mfx_data) -> qsv_mfx_status;
    /// Ends a mapping.
    fn unlock(&mut self, surface: qsv_mfx_memory, data: &mut qsv_mfx_data) -> qsv_mfx_status;
    /// The device's own handle of a surface (a VASurfaceID).
    fn handle(&mut self, surface: qsv_mfx_memory, handle: &mut qsv_mfx_handle) -> qsv_mfx_status;
    /// Frees the surfaces of a response.
    fn free(&mut self, response: &mut qsv_mfx_response) -> qsv_mfx_status;
}

/// The allocator of a context, opened when it is first needed.
pub(crate) struct Surfaces {
    device: Option<PathBuf>,
    allocator: Option<Box<dyn SurfaceAllocator>>,
}

impl Surfaces {
    pub(crate) fn new(device: Option<PathBuf>) -> Surfaces {
        Surfaces { device, allocator: None }
    }
}

/// Surfaces of a device through VA-API: the allocator that the backend `vpl` gives its own sessions.
struct DeviceSurfaces(Allocator);

impl DeviceSurfaces {
    /// The table of callbacks; valid as long as `self`.
    fn table(&mut self) -> vpl::mfxFrameAllocator {
        // SAFETY: points at the table that the allocator owns, which is copied here.
        unsafe { *self.0.callbacks() }
    }
}

/// What a table without an entry answers; this one has all of them.
const NO_ENTRY: qsv_mfx_status = vpl::MFX_ERR_UNSUPPORTED;

impl SurfaceAllocator for DeviceSurfaces {
    fn alloc(&mut self, request: &mut qsv_mfx_request, response: &mut qsv_mfx_response) -> qsv_mfx_status {
        let table = self.table();
        // SAFETY: `pthis` is the table's own; both structures are the caller's, for the call.
        table.Alloc.map_or(NO_ENTRY, |call| unsafe { call(table.pthis, request, response) })
    }

    fn lock(&mut self, surface: qsv_mfx_memory, data: &mut qsv_mfx_data) -> qsv_mfx_status {
        let table = self.table();
        // SAFETY: as above; a surface that is none of this allocator's is refused by its number.
        table.Lock.map_or(NO_ENTRY, |call| unsafe { call(table.pthis, surface, data) })
    }

    fn unlock(&mut self, surface: qsv_mfx_memory, data: &mut qsv_mfx_data) -> qsv_mfx_status {
        let table = self.table();
        // SAFETY: as above.
        table.Unlock.map_or(NO_ENTRY, |call| unsafe { call(table.pthis, surface, data) })
    }

    fn handle(&mut self, surface: qsv_mfx_memory, handle: &mut qsv_mfx_handle) -> qsv_mfx_status {
        let table = self.table();
        // SAFETY: as above.
        table.GetHDL.map_or(NO_ENTRY, |call| unsafe { call(table.pthis, surface, handle) })
    }

    fn free(&mut self, response: &mut qsv_mfx_response) -> qsv_mfx_status {
        let table = self.table();
        // SAFETY: as above.
        table.Free.map_or(NO_ENTRY, |call| unsafe { call(table.pthis, response) })
    }
}

/// The allocator of a device, or of the first that there is.
fn open(device: Option<&Path>) -> Result<Box<dyn SurfaceAllocator>, Failure> {
    Display::open_first(device, |display| Ok(DeviceSurfaces(Allocator::new(Arc::new(display)))))
        .map(|surfaces| Box::new(surfaces) as Box<dyn SurfaceAllocator>)
        .map_err(|error| {
            let text = format!("Surfaces in video memory are not available: {error}. {}", error.cure());
            Failure::new(QSV_ERR_UNAVAILABLE, text)
        })
}

/// Runs `body` with the allocator of the context that `pthis` is.
fn with(pthis: qsv_mfx_handle, body: impl FnOnce(&mut dyn SurfaceAllocator) -> qsv_mfx_status) -> qsv_mfx_status {
    let done = border::value(|| {
        let context = CONTEXTS.get(pthis as usize)?;
        let run = || {
            let mut surfaces = context.surfaces.lock().unwrap_or_else(PoisonError::into_inner);
            let Surfaces { device, allocator } = &mut *surfaces;
            let allocator = match allocator {
                Some(allocator) => allocator,
                None => allocator.insert(open(device.as_deref())?),
            };
            Ok(body(allocator.as_mut()))
        };
        run().inspect_err(|failure: &Failure| {
            context.remember(border::Last { code: failure.code, text: failure.text.clone() });
        })
    });
    done.unwrap_or_else(|code| match code {
        QSV_ERR_NULL_POINTER => vpl::MFX_ERR_NULL_PTR,
        QSV_ERR_INVALID_HANDLE => vpl::MFX_ERR_INVALID_HANDLE,
        QSV_ERR_UNAVAILABLE | QSV_ERR_UNSUPPORTED => vpl::MFX_ERR_UNSUPPORTED,
        _ => vpl::MFX_ERR_UNKNOWN,
    })
}

/// A pointer that must not be NULL.
fn missing(what: &str) -> qsv_mfx_status {
    border::remember(QSV_ERR_NULL_POINTER, &format!("{what} is NULL"));
    vpl::MFX_ERR_NULL_PTR
}

/// mfxFrameAllocator.Alloc, with the context as `pthis`. Without a device: MFX_ERR_UNSUPPORTED, and qsv_last_error
/// says why.
///
/// # Safety
/// `request` and `response` point at such structures.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qsv_frame_alloc(
    pthis: qsv_mfx_handle,
    request: *mut qsv_mfx_request,
    response: *mut qsv_mfx_response,
) -> qsv_mfx_status {
    // SAFETY: the caller's promise.
    match unsafe { (request.as_mut(), response.as_mut()) } {
        (Some(request), Some(response)) => with(pthis, |allocator| allocator.alloc(request, response)),
        _ => missing("request or response"),
    }
}

/// mfxFrameAllocator.Lock.
///
/// # Safety
/// `ptr` points at such a structure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qsv_frame_lock(
    pthis: qsv_mfx_handle,
    mid: qsv_mfx_memory,
    ptr: *mut qsv_mfx_data,
) -> qsv_mfx_status {
    // SAFETY: the caller's promise.
    match unsafe { ptr.as_mut() } {
        Some(data) => with(pthis, |allocator| allocator.lock(mid, data)),
        None => missing("ptr"),
    }
}

/// mfxFrameAllocator.Unlock.
///
/// # Safety
/// `ptr` points at such a structure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qsv_frame_unlock(
    pthis: qsv_mfx_handle,
    mid: qsv_mfx_memory,
    ptr: *mut qsv_mfx_data,
) -> qsv_mfx_status {
    // SAFETY: the caller's promise.
    match unsafe { ptr.as_mut() } {
        Some(data) => with(pthis, |allocator| allocator.unlock(mid, data)),
        None => missing("ptr"),
    }
}

/// mfxFrameAllocator.GetHDL.
///
/// # Safety
/// `handle` points at a mfxHDL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qsv_frame_get_handle(
    pthis: qsv_mfx_handle,
    mid: qsv_mfx_memory,
    handle: *mut qsv_mfx_handle,
) -> qsv_mfx_status {
    // SAFETY: the caller's promise.
    match unsafe { handle.as_mut() } {
        Some(handle) => with(pthis, |allocator| allocator.handle(mid, handle)),
        None => missing("handle"),
    }
}

/// mfxFrameAllocator.Free.
///
/// # Safety
/// `response` points at such a structure, filled in by qsv_frame_alloc.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qsv_frame_free(pthis: qsv_mfx_handle, response: *mut qsv_mfx_response) -> qsv_mfx_status {
    // SAFETY: the caller's promise.
    match unsafe { response.as_mut() } {
        Some(response) => with(pthis, |allocator| allocator.free(response)),
        None => missing("response"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::{qsv_destroy_encoder, qsv_init_encoder, qsv_last_error};
    use std::ffi::CStr;
    use std::ptr::null_mut;

    /// One surface in plain memory.
    struct Plain(Box<[u8; 64]>);

    impl SurfaceAllocator for Plain {
        fn alloc(&mut self, request: &mut qsv_mfx_request, response: &mut qsv_mfx_response) -> qsv_mfx_status {
            response.NumFrameActual = request.NumFrameSuggested;
            vpl::MFX_ERR_NONE
        }

        fn lock(&mut self, _surface: qsv_mfx_memory, data: &mut qsv_mfx_data) -> qsv_mfx_status {
            data.__bindgen_anon_3.Y = self.0.as_mut_ptr();
            vpl::MFX_ERR_NONE
        }

        fn unlock(&mut self, _surface: qsv_mfx_memory, data: &mut qsv_mfx_data) -> qsv_mfx_status {
            data.__bindgen_anon_3.Y = null_mut();
            vpl::MFX_ERR_NONE
        }

        fn handle(&mut self, surface: qsv_mfx_memory, handle: &mut qsv_mfx_handle) -> qsv_mfx_status {
            *handle = surface;
            vpl::MFX_ERR_NONE
        }

        fn free(&mut self, _response: &mut qsv_mfx_response) -> qsv_mfx_status {
            panic!("a driver that falls over")
        }
    }

    #[test]
    fn the_callbacks_reach_the_allocator_of_the_context_and_a_panic_of_it_is_a_status() {
        let ctx = qsv_init_encoder(64, 64, 30, 500_000, 1);
        assert!(!ctx.is_null());
        let pthis: qsv_mfx_handle = ctx.cast();
        let surfaces = CONTEXTS.get(ctx as usize).unwrap();
        surfaces.surfaces.lock().unwrap().allocator = Some(Box::new(Plain(Box::new([7; 64]))));
        let (mut request, mut response) = (qsv_mfx_request::default(), qsv_mfx_response::default());
        let (mut data, mut handle) = (qsv_mfx_data::default(), null_mut());
        request.NumFrameSuggested = 5;
        let mid = std::ptr::without_provenance_mut(9);
        // SAFETY: structures of this function.
        unsafe {
            assert_eq!(qsv_frame_alloc(pthis, &mut request, &mut response), vpl::MFX_ERR_NONE);
            assert_eq!(response.NumFrameActual, 5);
            assert_eq!(qsv_frame_lock(pthis, mid, &mut data), vpl::MFX_ERR_NONE);
            assert_eq!(*data.__bindgen_anon_3.Y, 7);
            assert_eq!(qsv_frame_unlock(pthis, mid, &mut data), vpl::MFX_ERR_NONE);
            assert!(data.__bindgen_anon_3.Y.is_null());
            assert_eq!(qsv_frame_get_handle(pthis, mid, &mut handle), vpl::MFX_ERR_NONE);
            assert_eq!(handle, mid);
            assert_eq!(qsv_frame_free(pthis, &mut response), vpl::MFX_ERR_UNKNOWN);
            qsv_destroy_encoder(ctx);
            assert_eq!(qsv_frame_lock(pthis, mid, &mut data), vpl::MFX_ERR_INVALID_HANDLE);
            assert_eq!(qsv_frame_lock(null_mut(), mid, &mut data), vpl::MFX_ERR_NULL_PTR);
            assert_eq!(qsv_frame_lock(pthis, mid, null_mut()), vpl::MFX_ERR_NULL_PTR);
        }
    }

    #[test]
    fn without_an_allocator_the_callbacks_are_unsupported_and_say_why() {
        let ctx = qsv_init_encoder(64, 64, 30, 500_000, 1);
        let (mut request, mut response) = (qsv_mfx_request::default(), qsv_mfx_response::default());
        // SAFETY: structures of this function; the text is read at once.
        let (status, text) = unsafe {
            let status = qsv_frame_alloc(ctx.cast(), &mut request, &mut response);
            (status, CStr::from_ptr(qsv_last_error(ctx)).to_str().unwrap().to_owned())
        };
        assert_eq!(status, vpl::MFX_ERR_UNSUPPORTED);
        assert!(text.starts_with("Surfaces "), "{text}");
        qsv_destroy_encoder(ctx);
    }
}
