//! Structures of oneVPL 2.10 by which a runtime takes surfaces of others (`mfxmemory.h`, `mfxstructures.h` there),
//! written by hand: the headers that the bindings are made of are older. Experimental in the API itself.

use crate::{
    mfxExtBuffer, mfxFrameSurface1, mfxHDL, mfxHandleType, mfxStatus, mfxStructVersion, mfxU16, mfxU32,
};
use std::os::raw::c_uint;

/// First API version that has them, major and minor.
pub const SINCE: (u16, u16) = (2, 10);

/// Handle by which `MFXVideoCORE_GetHandle` answers an [`mfxMemoryInterface`].
pub const MFX_HANDLE_MEMORY_INTERFACE: mfxHandleType = 1001;

/// What a surface is of.
pub type mfxSurfaceType = c_uint;
/// A VA-API surface: [`mfxSurfaceVAAPI`].
pub const MFX_SURFACE_TYPE_VAAPI: mfxSurfaceType = 3;

/// Which pool an import comes from.
pub type mfxSurfaceComponent = c_uint;
/// Input of an encoder.
pub const MFX_SURFACE_COMPONENT_ENCODE: mfxSurfaceComponent = 1;

/// The import shares the memory; without it the runtime may copy.
pub const MFX_SURFACE_FLAG_IMPORT_SHARED: mfxU32 = 0x10;
/// The runtime copies.
pub const MFX_SURFACE_FLAG_IMPORT_COPY: mfxU32 = 0x20;

/// Begins every description of a surface.
#[repr(C)]
#[derive(Debug, Copy, Clone)]
pub struct mfxSurfaceHeader {
    pub SurfaceType: mfxSurfaceType,
    pub SurfaceFlags: mfxU32,
    pub StructSize: mfxU32,
    pub NumExtParam: mfxU16,
    pub ExtParam: *mut *mut mfxExtBuffer,
    pub reserved: [mfxU32; 6],
}

/// A header with functions, which an import leaves empty.
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mfxSurfaceInterface {
    pub Header: mfxSurfaceHeader,
    pub Version: mfxStructVersion,
    pub Context: mfxHDL,
    pub AddRef: Option<unsafe extern "C" fn(surface: *mut mfxSurfaceInterface) -> mfxStatus>,
    pub Release: Option<unsafe extern "C" fn(surface: *mut mfxSurfaceInterface) -> mfxStatus>,
    pub GetRefCounter:
        Option<unsafe extern "C" fn(surface: *mut mfxSurfaceInterface, counter: *mut mfxU32) -> mfxStatus>,
    pub Synchronize: Option<unsafe extern "C" fn(surface: *mut mfxSurfaceInterface, wait: mfxU32) -> mfxStatus>,
    pub reserved: [mfxHDL; 11],
}

/// A VA-API surface to import.
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mfxSurfaceVAAPI {
    pub SurfaceInterface: mfxSurfaceInterface,
    pub vaDisplay: mfxHDL,
    pub vaSurfaceID: mfxU32,
    pub reserved1: mfxU32,
    pub reserved: [mfxHDL; 6],
}

/// Where the runtime imports.
#[repr(C)]
#[derive(Copy, Clone)]
pub struct mfxMemoryInterface {
    pub Context: mfxHDL,
    pub Version: mfxStructVersion,
    pub ImportFrameSurface: Option<
        unsafe extern "C" fn(
            memory_interface: *mut mfxMemoryInterface,
            surf_component: mfxSurfaceComponent,
            external_surface: *mut mfxSurfaceHeader,
            imported_surface: *mut *mut mfxFrameSurface1,
        ) -> mfxStatus,
    >,
    pub reserved: [mfxHDL; 16],
}

// The sizes and places of the C structures on a 64-bit machine, counted from the header.
#[cfg(target_pointer_width = "64")]
const _: () = {
    assert!(size_of::<mfxSurfaceHeader>() == 48);
    assert!(std::mem::offset_of!(mfxSurfaceHeader, ExtParam) == 16);
    assert!(std::mem::offset_of!(mfxSurfaceInterface, Version) == 48);
    assert!(std::mem::offset_of!(mfxSurfaceInterface, Context) == 56);
    assert!(std::mem::offset_of!(mfxSurfaceInterface, AddRef) == 64);
    assert!(size_of::<mfxSurfaceInterface>() == 184);
    assert!(std::mem::offset_of!(mfxSurfaceVAAPI, vaDisplay) == 184);
    assert!(std::mem::offset_of!(mfxSurfaceVAAPI, vaSurfaceID) == 192);
    assert!(size_of::<mfxSurfaceVAAPI>() == 248);
    assert!(std::mem::offset_of!(mfxMemoryInterface, ImportFrameSurface) == 16);
    assert!(size_of::<mfxMemoryInterface>() == 152);
};
