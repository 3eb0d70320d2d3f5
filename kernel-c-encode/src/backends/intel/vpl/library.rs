//! The dispatcher `libvpl.so.2`, opened once for the life of the process, and the names of its answers.
//!
//! It is never closed: a driver may have threads that outlive its session, above all after a hang.
#![expect(unsafe_code, reason = "opens a C library")]

use onevpl_sys as vpl;
use onevpl_sys::{Dispatcher, mfxStatus};
use std::sync::OnceLock;

/// What makes oneVPL usable.
pub const CURE: &str = "Install it (apt install libvpl2 libmfx-gen1.2 intel-media-va-driver-non-free), or set \
                        encode.backend to openh264 for H.264, x265 for HEVC or svtav1 for AV1";

/// The dispatcher's functions.
pub struct Vpl(Dispatcher);

// SAFETY: addresses of functions and constants of a library that stays loaded; they have no tie to a thread.
unsafe impl Send for Vpl {}
// SAFETY: as above.
unsafe impl Sync for Vpl {}

impl std::ops::Deref for Vpl {
    type Target = Dispatcher;

    fn deref(&self) -> &Dispatcher {
        &self.0
    }
}

impl std::fmt::Debug for Vpl {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Vpl")
    }
}

/// The dispatcher.
///
/// # Errors
/// Why it cannot be used.
pub fn dispatcher() -> Result<&'static Vpl, String> {
    static LOADED: OnceLock<Result<Vpl, String>> = OnceLock::new();
    LOADED.get_or_init(load_dispatcher).as_ref().map_err(Clone::clone)
}

fn load_dispatcher() -> Result<Vpl, String> {
    // SAFETY: loading runs the library's initialisers, which is what loading Debian's dispatcher is.
    let loaded = unsafe { Dispatcher::new(vpl::LIBRARY) };
    let library = loaded.map_err(|error| format!("{} is not installed ({error})", vpl::LIBRARY))?;
    // The generated methods panic for a function that is missing: all that are used are asked for here.
    let missing = [
        ("MFXLoad", library.MFXLoad.is_err()),
        ("MFXUnload", library.MFXUnload.is_err()),
        ("MFXCreateConfig", library.MFXCreateConfig.is_err()),
        ("MFXSetConfigFilterProperty", library.MFXSetConfigFilterProperty.is_err()),
        ("MFXEnumImplementations", library.MFXEnumImplementations.is_err()),
        ("MFXDispReleaseImplDescription", library.MFXDispReleaseImplDescription.is_err()),
        ("MFXCreateSession", library.MFXCreateSession.is_err()),
        ("MFXClose", library.MFXClose.is_err()),
        ("MFXQueryVersion", library.MFXQueryVersion.is_err()),
        ("MFXVideoCORE_SetHandle", library.MFXVideoCORE_SetHandle.is_err()),
        ("MFXVideoCORE_SetFrameAllocator", library.MFXVideoCORE_SetFrameAllocator.is_err()),
        ("MFXVideoCORE_SyncOperation", library.MFXVideoCORE_SyncOperation.is_err()),
        ("MFXVideoENCODE_Query", library.MFXVideoENCODE_Query.is_err()),
        ("MFXVideoENCODE_QueryIOSurf", library.MFXVideoENCODE_QueryIOSurf.is_err()),
        ("MFXVideoENCODE_Init", library.MFXVideoENCODE_Init.is_err()),
        ("MFXVideoENCODE_Reset", library.MFXVideoENCODE_Reset.is_err()),
        ("MFXVideoENCODE_Close", library.MFXVideoENCODE_Close.is_err()),
        ("MFXVideoENCODE_GetVideoParam", library.MFXVideoENCODE_GetVideoParam.is_err()),
        ("MFXVideoENCODE_EncodeFrameAsync", library.MFXVideoENCODE_EncodeFrameAsync.is_err()),
    ];
    match missing.into_iter().find(|(_, missing)| *missing) {
        Some((name, _)) => Err(format!("{} has no {name}: allowed is oneVPL 2.0 or newer", vpl::LIBRARY)),
        None => Ok(Vpl(library)),
    }
}

/// The name of a status, as in the headers.
pub const fn status_name(status: mfxStatus) -> &'static str {
    match status {
        vpl::MFX_ERR_NONE => "MFX_ERR_NONE",
        vpl::MFX_ERR_UNKNOWN => "MFX_ERR_UNKNOWN",
        vpl::MFX_ERR_NULL_PTR => "MFX_ERR_NULL_PTR",
        vpl::MFX_ERR_UNSUPPORTED => "MFX_ERR_UNSUPPORTED",
        vpl::MFX_ERR_MEMORY_ALLOC => "MFX_ERR_MEMORY_ALLOC",
        vpl::MFX_ERR_NOT_ENOUGH_BUFFER => "MFX_ERR_NOT_ENOUGH_BUFFER",
        vpl::MFX_ERR_INVALID_HANDLE => "MFX_ERR_INVALID_HANDLE",
        vpl::MFX_ERR_LOCK_MEMORY => "MFX_ERR_LOCK_MEMORY",
        vpl::MFX_ERR_NOT_INITIALIZED => "MFX_ERR_NOT_INITIALIZED",
        vpl::MFX_ERR_NOT_FOUND => "MFX_ERR_NOT_FOUND",
        vpl::MFX_ERR_MORE_DATA => "MFX_ERR_MORE_DATA",
        vpl::MFX_ERR_MORE_SURFACE => "MFX_ERR_MORE_SURFACE",
        vpl::MFX_ERR_ABORTED => "MFX_ERR_ABORTED",
        vpl::MFX_ERR_DEVICE_LOST => "MFX_ERR_DEVICE_LOST",
        vpl::MFX_ERR_INCOMPATIBLE_VIDEO_PARAM => "MFX_ERR_INCOMPATIBLE_VIDEO_PARAM",
        vpl::MFX_ERR_INVALID_VIDEO_PARAM => "MFX_ERR_INVALID_VIDEO_PARAM",
        vpl::MFX_ERR_UNDEFINED_BEHAVIOR => "MFX_ERR_UNDEFINED_BEHAVIOR",
        vpl::MFX_ERR_DEVICE_FAILED => "MFX_ERR_DEVICE_FAILED",
        vpl::MFX_ERR_MORE_BITSTREAM => "MFX_ERR_MORE_BITSTREAM",
        vpl::MFX_ERR_GPU_HANG => "MFX_ERR_GPU_HANG",
        vpl::MFX_ERR_REALLOC_SURFACE => "MFX_ERR_REALLOC_SURFACE",
        vpl::MFX_ERR_NOT_IMPLEMENTED => "MFX_ERR_NOT_IMPLEMENTED",
        vpl::MFX_WRN_IN_EXECUTION => "MFX_WRN_IN_EXECUTION",
        vpl::MFX_WRN_DEVICE_BUSY => "MFX_WRN_DEVICE_BUSY",
        vpl::MFX_WRN_VIDEO_PARAM_CHANGED => "MFX_WRN_VIDEO_PARAM_CHANGED",
        vpl::MFX_WRN_PARTIAL_ACCELERATION => "MFX_WRN_PARTIAL_ACCELERATION",
        vpl::MFX_WRN_INCOMPATIBLE_VIDEO_PARAM => "MFX_WRN_INCOMPATIBLE_VIDEO_PARAM",
        vpl::MFX_WRN_OUT_OF_RANGE => "MFX_WRN_OUT_OF_RANGE",
        _ => "an unknown status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_has_the_name_of_the_headers() {
        assert_eq!(status_name(-21), "MFX_ERR_GPU_HANG");
        assert_eq!(status_name(-777), "an unknown status");
    }
}
