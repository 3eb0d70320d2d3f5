//! What the runtime calls: Alloc, Lock, Unlock, GetHDL and Free. Whatever it hands in is checked before it is used.

use super::{Inner, MemId, SurfaceFormat, set_pitch};
use libva_sys::VA_INVALID_ID;
use onevpl_sys as vpl;
use onevpl_sys::{
    mfxFrameAllocRequest, mfxFrameAllocResponse, mfxFrameAllocator, mfxFrameData, mfxHDL, mfxMemId, mfxStatus,
};
use std::ffi::c_void;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The allocator as the session takes it.
pub fn callbacks(inner: &Arc<Inner>) -> Box<mfxFrameAllocator> {
    Box::new(mfxFrameAllocator {
        reserved: [0; 4],
        pthis: Arc::as_ptr(inner).cast_mut().cast::<c_void>(),
        Alloc: Some(alloc),
        Lock: Some(lock),
        Unlock: Some(unlock),
        GetHDL: Some(get_handle),
        Free: Some(free),
    })
}

/// # Safety
/// `this` is null, or the pointer that [`callbacks`] put in, of an allocator that lives.
unsafe fn inner<'a>(this: mfxHDL) -> Option<&'a Inner> {
    // SAFETY: by the caller; a null pointer gives none.
    unsafe { this.cast::<Inner>().as_ref() }
}

unsafe extern "C" fn alloc(
    this: mfxHDL,
    request: *mut mfxFrameAllocRequest,
    response: *mut mfxFrameAllocResponse,
) -> mfxStatus {
    // SAFETY: the runtime passes the pointer it was given, and a request and a response of its own or null.
    let (Some(inner), Some(request), Some(response)) =
        (unsafe { inner(this) }, unsafe { request.as_ref() }, unsafe { response.as_mut() })
    else {
        return vpl::MFX_ERR_NULL_PTR;
    };
    let video = vpl::MFX_MEMTYPE_VIDEO_MEMORY_DECODER_TARGET
        | vpl::MFX_MEMTYPE_VIDEO_MEMORY_PROCESSOR_TARGET
        | vpl::MFX_MEMTYPE_VIDEO_MEMORY_ENCODER_TARGET;
    let Some(format) = SurfaceFormat::of(request.Info.FourCC) else { return vpl::MFX_ERR_UNSUPPORTED };
    if u32::from(request.Type) & video == 0 {
        return vpl::MFX_ERR_UNSUPPORTED;
    }
    // SAFETY: both members of the union are plain integers.
    let size = unsafe { request.Info.__bindgen_anon_1.__bindgen_anon_1 };
    let count = request.NumFrameSuggested.max(request.NumFrameMin);
    let mut made = Vec::with_capacity(usize::from(count));
    for _ in 0..count {
        match inner.create(format, u32::from(size.Width), u32::from(size.Height), None) {
            Ok(id) => made.push(id),
            Err(error) => {
                tracing::warn!(error, count, "The runtime asked for surfaces that cannot be had");
                let mut state = inner.state();
                made.into_iter().for_each(|id| inner.destroy(&mut state, id));
                return vpl::MFX_ERR_MEMORY_ALLOC;
            }
        }
    }
    let mut mids: Box<[mfxMemId]> = made.into_iter().map(MemId::raw).collect();
    response.mids = mids.as_mut_ptr();
    response.NumFrameActual = count;
    inner.state().responses.push(mids);
    vpl::MFX_ERR_NONE
}

unsafe extern "C" fn lock(this: mfxHDL, mid: mfxMemId, data: *mut mfxFrameData) -> mfxStatus {
    // SAFETY: as in `alloc`.
    let (Some(inner), Some(data)) = (unsafe { inner(this) }, unsafe { data.as_mut() }) else {
        return vpl::MFX_ERR_NULL_PTR;
    };
    let Some(id) = MemId::from_raw(mid) else { return vpl::MFX_ERR_INVALID_HANDLE };
    match inner.lock(id, false) {
        Ok(mapped) if mapped.pitches[0] == mapped.pitches[1] => {
            set_pitch(data, mapped.pitches[0]);
            data.__bindgen_anon_3.Y = mapped.planes[0];
            data.__bindgen_anon_4.UV = mapped.planes[1];
            vpl::MFX_ERR_NONE
        }
        Ok(_) => {
            let _ = inner.unlock(id);
            vpl::MFX_ERR_LOCK_MEMORY
        }
        Err(error) => {
            tracing::debug!(error, "A surface could not be locked for the runtime");
            vpl::MFX_ERR_LOCK_MEMORY
        }
    }
}

unsafe extern "C" fn unlock(this: mfxHDL, mid: mfxMemId, data: *mut mfxFrameData) -> mfxStatus {
    // SAFETY: as in `alloc`.
    let (Some(inner), data) = (unsafe { inner(this) }, unsafe { data.as_mut() }) else {
        return vpl::MFX_ERR_NULL_PTR;
    };
    let Some(id) = MemId::from_raw(mid) else { return vpl::MFX_ERR_INVALID_HANDLE };
    if let Some(data) = data {
        data.__bindgen_anon_3.Y = ptr::null_mut();
        data.__bindgen_anon_4.UV = ptr::null_mut();
        set_pitch(data, 0);
    }
    if inner.unlock(id).is_ok() { vpl::MFX_ERR_NONE } else { vpl::MFX_ERR_LOCK_MEMORY }
}

unsafe extern "C" fn get_handle(this: mfxHDL, mid: mfxMemId, handle: *mut mfxHDL) -> mfxStatus {
    // SAFETY: as in `alloc`.
    let (Some(inner), Some(handle)) = (unsafe { inner(this) }, unsafe { handle.as_mut() }) else {
        return vpl::MFX_ERR_NULL_PTR;
    };
    match MemId::from_raw(mid) {
        Some(id) if inner.surfaces[id.0].load(Ordering::Acquire) != VA_INVALID_ID => {
            *handle = inner.surfaces[id.0].as_ptr().cast();
            vpl::MFX_ERR_NONE
        }
        _ => vpl::MFX_ERR_INVALID_HANDLE,
    }
}

unsafe extern "C" fn free(this: mfxHDL, response: *mut mfxFrameAllocResponse) -> mfxStatus {
    // SAFETY: as in `alloc`.
    let (Some(inner), Some(response)) = (unsafe { inner(this) }, unsafe { response.as_mut() }) else {
        return vpl::MFX_ERR_NULL_PTR;
    };
    let mut state = inner.state();
    let Some(known) = state.responses.iter().position(|mids| mids.as_ptr() == response.mids.cast_const()) else {
        return vpl::MFX_ERR_INVALID_HANDLE;
    };
    let mids = state.responses.swap_remove(known);
    for id in mids.iter().filter_map(|mid| MemId::from_raw(*mid)) {
        inner.destroy(&mut state, id);
    }
    (response.mids, response.NumFrameActual) = (ptr::null_mut(), 0);
    vpl::MFX_ERR_NONE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callbacks_without_an_allocator_answer_a_null_pointer() {
        let (none, mid) = (ptr::null_mut(), MemId(0).raw());
        // SAFETY: null pointers are what is tested.
        unsafe {
            assert_eq!(alloc(none, ptr::null_mut(), ptr::null_mut()), vpl::MFX_ERR_NULL_PTR);
            assert_eq!(lock(none, mid, ptr::null_mut()), vpl::MFX_ERR_NULL_PTR);
            assert_eq!(unlock(none, mid, ptr::null_mut()), vpl::MFX_ERR_NULL_PTR);
            assert_eq!(get_handle(none, mid, ptr::null_mut()), vpl::MFX_ERR_NULL_PTR);
            assert_eq!(free(none, ptr::null_mut()), vpl::MFX_ERR_NULL_PTR);
        }
    }
}
