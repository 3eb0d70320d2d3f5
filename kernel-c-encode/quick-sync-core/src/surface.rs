//! The encoder fed with surfaces of oneVPL, as the design's own call takes them.
#![expect(unsafe_code, reason = "reads a structure of C and calls the functions it names")]

use crate::api;
use crate::codes::*;
use crate::context::State;
use crate::failure::Failure;
use crate::types::*;
use onevpl_sys as vpl;
use std::ffi::c_int;

/// Encodes a surface of oneVPL in system memory, or one that its runtime maps (FrameInterface). Otherwise as
/// qsv_encode_frame; `ctrl_flags` are QSV_FRAME_… flags. The visible part is the surface's crop rectangle. TimeStamp
/// counts 1/90000 s; MFX_TIMESTAMP_UNKNOWN: one interval after the frame before.
///
/// A surface of an external allocator, in video memory, is QSV_ERR_UNSUPPORTED: lock it first (qsv_frame_lock).
///
/// # Safety
/// `surface` and `out` point at such structures, the surface at as many bytes as it says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qsv_encode_surface(
    ctx: *mut QSVEncoderContext,
    surface: *mut qsv_mfx_surface,
    ctrl_flags: u32,
    out: *mut qsv_bitstream,
) -> c_int {
    let body = |context: &_, state: &mut State| {
        if surface.is_null() {
            return Err(Failure::null("surface"));
        }
        // SAFETY: the caller's promise.
        let mapped = unsafe { Mapped::new(surface) }?;
        // SAFETY: the surface is mapped until `mapped` ends.
        let frame = unsafe { frame(state, &*mapped.surface, ctrl_flags) }?;
        // SAFETY: the caller's promise for the surface's bytes and for `out`.
        unsafe { api::encode(context, state, &frame, out) }
    };
    // SAFETY: as above.
    unsafe { api::with_context(ctx, body) }
}

/// A surface whose pixels can be read; one that had to be mapped is unmapped at the end.
struct Mapped {
    surface: *mut vpl::mfxFrameSurface1,
    unmap: Option<unsafe extern "C" fn(*mut vpl::mfxFrameSurface1) -> vpl::mfxStatus>,
}

impl Mapped {
    /// # Safety
    /// `surface` points at a surface; the functions it names, if any, are its runtime's.
    unsafe fn new(surface: *mut vpl::mfxFrameSurface1) -> Result<Mapped, Failure> {
        // SAFETY: the caller's promise; both members of each union are plain pointers of the same size.
        let (luma, interface) =
            unsafe { ((*surface).Data.__bindgen_anon_3.Y, (*surface).__bindgen_anon_1.FrameInterface) };
        if !luma.is_null() {
            return Ok(Mapped { surface, unmap: None });
        }
        let unreachable = "The surface is in video memory and has no pixels here: lock it first with qsv_frame_lock, \
                           or give a surface of system memory";
        // SAFETY: the caller's promise.
        let functions = unsafe { interface.as_ref() }.and_then(|interface| interface.Map.zip(interface.Unmap));
        let Some((map, unmap)) = functions else { return Err(Failure::new(QSV_ERR_UNSUPPORTED, unreachable)) };
        // SAFETY: the runtime's own function for its own surface.
        match unsafe { map(surface, vpl::MFX_MAP_READ) } {
            vpl::MFX_ERR_NONE => Ok(Mapped { surface, unmap: Some(unmap) }),
            status => Err(Failure::new(QSV_ERR_LIBRARY, format!("The surface's Map failed with code {status}"))),
        }
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Some(unmap) = self.unmap {
            // SAFETY: mapped by the function's counterpart, and not unmapped since.
            unsafe { unmap(self.surface) };
        }
    }
}

/// The planes of a surface.
///
/// # Safety
/// The surface's unions hold what its FourCC says.
unsafe fn frame(state: &State, surface: &vpl::mfxFrameSurface1, flags: u32) -> Result<qsv_frame, Failure> {
    let (info, data) = (&surface.Info, &surface.Data);
    let (pixel_format, sample_bytes) = match info.FourCC {
        vpl::MFX_FOURCC_NV12 => (QSV_PIXEL_NV12, 1),
        vpl::MFX_FOURCC_P010 if info.Shift == 0 => {
            return Err(Failure::value("Info.Shift", 0, "1 for P010: samples in the high bits"));
        }
        vpl::MFX_FOURCC_P010 => (QSV_PIXEL_P010, 2),
        other => return Err(Failure::value("Info.FourCC", format!("{other:#010x}"), "MFX_FOURCC_NV12 or _P010")),
    };
    // SAFETY: sizes and crop are the members in use for pixels; all of them are plain numbers anyway.
    let size = unsafe { info.__bindgen_anon_1.__bindgen_anon_1 };
    // SAFETY: as above, plain pointers and numbers.
    let (pitch_low, luma, chroma) =
        unsafe { (data.__bindgen_anon_2.PitchLow, data.__bindgen_anon_3.Y, data.__bindgen_anon_4.UV) };
    let (width, height) = state.size();
    // A crop of 0 is the whole surface.
    let visible = |crop: u16, whole: u16| u32::from(if crop == 0 { whole } else { crop });
    let given = (visible(size.CropW, size.Width), visible(size.CropH, size.Height));
    let (right, bottom) = (u32::from(size.CropX) + given.0, u32::from(size.CropY) + given.1);
    if right > u32::from(size.Width) || bottom > u32::from(size.Height) {
        let crop = format!("{}x{}+{}+{}", given.0, given.1, size.CropX, size.CropY);
        return Err(Failure::value("The crop", crop, format!("within {}x{}", size.Width, size.Height)));
    }
    if size.CropX % 2 != 0 || size.CropY % 2 != 0 {
        return Err(Failure::value("CropX, CropY", format!("{}, {}", size.CropX, size.CropY), "even numbers"));
    }
    if given != (width, height) {
        let text = format!("The surface shows {}x{}, but the context is for {width}x{height}", given.0, given.1);
        return Err(Failure::new(QSV_ERR_FORMAT_CHANGED, text));
    }
    if chroma.is_null() {
        return Err(Failure::null("Data.UV"));
    }
    let stride = u32::from(data.PitchHigh) << 16 | u32::from(pitch_low);
    let row_bytes = u32::from(size.Width) * sample_bytes;
    if stride < row_bytes {
        return Err(Failure::value("Data.Pitch", stride, format!("at least {row_bytes} bytes")));
    }
    let (x_bytes, y) = (usize::from(size.CropX) * sample_bytes as usize, usize::from(size.CropY));
    /// mfxU64 MFX_TIMESTAMP_UNKNOWN.
    const UNKNOWN: u64 = u64::MAX;
    let pts_ns = match data.TimeStamp {
        UNKNOWN => 0,
        ticks => (u128::from(ticks) * 1_000_000_000 / 90_000) as u64,
    };
    let null = std::ptr::null();
    Ok(qsv_frame {
        data: [
            luma.wrapping_add(y * stride as usize + x_bytes),
            chroma.wrapping_add(y / 2 * stride as usize + x_bytes),
            null,
            null,
        ],
        stride: [stride, stride, 0, 0],
        width,
        height,
        pixel_format,
        flags,
        frame_id: 0,
        pts_ns,
        bitrate_bps: 0,
        reserved: [0; 4],
    })
}
