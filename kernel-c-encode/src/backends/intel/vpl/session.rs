//! Finding an implementation through the dispatcher and opening a session on it.
//!
//! Only three filters are set (kind, acceleration, codec): more of them send the dispatcher down a path that looks for
//! the system's runtime alone.
#![expect(unsafe_code, reason = "calls the dispatcher and reads the descriptions it answers")]

use super::library::{Vpl, dispatcher, status_name};
use crate::backends::intel::display::Display;
use onevpl_sys as vpl;
use onevpl_sys::{mfxImplDescription, mfxLoader, mfxSession, mfxU32, mfxVariant};
use std::ptr;

/// The largest picture side of `mfxFrameInfo` in whole macroblocks (16-bit fields).
const MFX_MAX_SIDE: u32 = 65_520;
/// Descriptions looked at, at the most: a machine has one or two runtimes; a dispatcher that never ends is garbage.
const MOST_IMPLEMENTATIONS: u32 = 32;

/// An implementation that the dispatcher found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// What it calls itself.
    pub name: String,
    /// Its API, major and minor.
    pub api: (u16, u16),
    /// Whether it works on a device.
    pub hardware: bool,
    /// Smallest width and height it says it encodes, pixels.
    pub min_size: (u32, u32),
    /// Largest width and height it says it encodes, pixels.
    pub max_size: (u32, u32),
}

/// A session and the loader it came from.
#[derive(Debug)]
pub struct Session {
    vpl: &'static Vpl,
    loader: Loader,
    raw: mfxSession,
    /// The implementation.
    pub found: Found,
}

// SAFETY: a session has no tie to the thread that opened it; every call takes it through `&mut self` of its owner.
unsafe impl Send for Session {}

#[derive(Debug)]
struct Loader {
    vpl: &'static Vpl,
    raw: mfxLoader,
}

impl Drop for Loader {
    fn drop(&mut self) {
        // SAFETY: made by MFXLoad, and its sessions are closed: `Session` closes its own before its fields go.
        unsafe { self.vpl.MFXUnload(self.raw) };
    }
}

impl Loader {
    fn new(vpl: &'static Vpl) -> Result<Loader, String> {
        // SAFETY: no conditions.
        let raw = unsafe { vpl.MFXLoad() };
        if raw.is_null() { Err("MFXLoad gave no loader".to_owned()) } else { Ok(Loader { vpl, raw }) }
    }

    fn filter(&self, property: &std::ffi::CStr, value: mfxU32) -> Result<(), String> {
        let mut variant = mfxVariant { Type: vpl::MFX_VARIANT_TYPE_U32, ..mfxVariant::default() };
        variant.Data.U32 = value;
        // SAFETY: the loader lives; the name is zero-terminated and the dispatcher copies both.
        let status = unsafe {
            let config = self.vpl.MFXCreateConfig(self.raw);
            self.vpl.MFXSetConfigFilterProperty(config, property.as_ptr().cast(), variant)
        };
        match status {
            vpl::MFX_ERR_NONE => Ok(()),
            status => Err(format!("MFXSetConfigFilterProperty({property:?}) said {}", status_name(status))),
        }
    }

    /// What the filters let through, in the dispatcher's order.
    fn found(&self, codec_id: u32) -> Vec<Found> {
        let mut found = Vec::new();
        for index in 0..MOST_IMPLEMENTATIONS {
            let mut description = ptr::null_mut();
            // SAFETY: the loader lives, and there is a place for the answer.
            let status = unsafe {
                self.vpl.MFXEnumImplementations(self.raw, index, vpl::MFX_IMPLCAPS_IMPLDESCSTRUCTURE, &mut description)
            };
            if status != vpl::MFX_ERR_NONE || description.is_null() {
                break;
            }
            // SAFETY: for this format the answer is an mfxImplDescription that lives until it is released below.
            found.push(unsafe { describe(&*description.cast(), codec_id) });
            // SAFETY: an answer of MFXEnumImplementations, released once.
            unsafe { self.vpl.MFXDispReleaseImplDescription(self.raw, description) };
        }
        found
    }
}

/// Elements of a description's array; none for what a runtime left empty.
///
/// # Safety
/// `first` is null or points at `count` elements that live as long as the description.
unsafe fn array<'a, T>(first: *mut T, count: u16) -> &'a [T] {
    if first.is_null() {
        return &[];
    }
    // SAFETY: by the caller.
    unsafe { std::slice::from_raw_parts(first, usize::from(count)) }
}

/// # Safety
/// `description` is what a runtime answered, with its arrays alive.
unsafe fn describe(description: &mfxImplDescription, codec_id: u32) -> Found {
    let (mut min, mut max) = ((u32::MAX, u32::MAX), (0, 0));
    // SAFETY: the arrays of the description live with it (by the caller), and so do those they point at.
    unsafe {
        let codecs = array(description.Enc.Codecs, description.Enc.NumCodecs);
        for codec in codecs.iter().filter(|codec| codec.CodecID == codec_id) {
            for profile in array(codec.Profiles, codec.NumProfiles) {
                for memory in array(profile.MemDesc, profile.NumMemTypes) {
                    min = (min.0.min(memory.Width.Min), min.1.min(memory.Height.Min));
                    max = (max.0.max(memory.Width.Max), max.1.max(memory.Height.Max));
                }
            }
        }
    }
    if max.0 == 0 || max.1 == 0 {
        (min, max) = ((16, 16), (MFX_MAX_SIDE, MFX_MAX_SIDE));
    }
    // SAFETY: both views of the version are plain integers.
    let api = unsafe { description.ApiVersion.__bindgen_anon_1 };
    let name: Vec<u8> = description.ImplName.iter().map(|byte| *byte as u8).take_while(|byte| *byte != 0).collect();
    Found {
        name: String::from_utf8_lossy(&name).into_owned(),
        api: (api.Major, api.Minor),
        hardware: description.Impl == vpl::MFX_IMPL_TYPE_HARDWARE,
        min_size: (min.0.max(1), min.1.max(1)),
        max_size: (max.0.min(MFX_MAX_SIDE), max.1.min(MFX_MAX_SIDE)),
    }
}

/// A loader whose filters let only implementations of this kind through that encode the codec.
fn loader(vpl: &'static Vpl, hardware: bool, codec_id: u32) -> Result<Loader, String> {
    let loader = Loader::new(vpl)?;
    let kind = if hardware { vpl::MFX_IMPL_TYPE_HARDWARE } else { vpl::MFX_IMPL_TYPE_SOFTWARE };
    loader.filter(c"mfxImplDescription.Impl", kind)?;
    if hardware {
        loader.filter(c"mfxImplDescription.AccelerationMode", vpl::MFX_ACCEL_MODE_VIA_VAAPI)?;
    }
    loader.filter(c"mfxImplDescription.mfxEncoderDescription.encoder.CodecID", codec_id)?;
    Ok(loader)
}

impl Session {
    /// A session on the first hardware implementation for the codec; with `software_too` else on the first one that
    /// works on the CPU.
    ///
    /// # Errors
    /// Why there is none.
    pub fn open(codec_id: u32, codec_name: &str, software_too: bool) -> Result<Session, String> {
        let vpl = dispatcher()?;
        let mut said = Vec::new();
        for hardware in [true, false] {
            let loader = loader(vpl, hardware, codec_id)?;
            let found = loader.found(codec_id);
            let kind = if hardware { "hardware" } else { "software" };
            for (index, found) in found.into_iter().enumerate() {
                let (name, (major, minor)) = (&found.name, found.api);
                if !hardware && !software_too {
                    said.push(format!(
                        "a software one ({name}) is taken only when it is asked for by backend = \"vpl\""
                    ));
                    continue;
                }
                tracing::debug!(name, kind, "A oneVPL {major}.{minor} implementation was found");
                let mut raw = ptr::null_mut();
                // SAFETY: the loader lives, `index` is one it enumerated, and there is a place for the session.
                let status = unsafe { vpl.MFXCreateSession(loader.raw, index as mfxU32, &mut raw) };
                if status == vpl::MFX_ERR_NONE && !raw.is_null() {
                    let found = Found { hardware, ..found };
                    return Ok(Session { vpl, loader, raw, found });
                }
                said.push(format!("{name} {major}.{minor} ({kind}): MFXCreateSession said {}", status_name(status)));
            }
        }
        let which = if software_too { "" } else { "hardware " };
        let mut reason = format!("no {which}oneVPL implementation found for {codec_name}");
        if !said.is_empty() {
            reason = format!("{reason}: {}", said.join(", "));
        }
        Err(reason)
    }

    /// The functions.
    pub fn vpl(&self) -> &'static Vpl {
        self.vpl
    }

    /// The handle.
    pub fn raw(&self) -> mfxSession {
        self.raw
    }

    /// Gives the session the VA display it is to work on.
    ///
    /// # Errors
    /// What the runtime said.
    pub fn set_display(&mut self, display: &Display) -> Result<(), String> {
        // SAFETY: an open session and an initialised display, which its owner keeps until the session is closed.
        let status = unsafe { self.vpl.MFXVideoCORE_SetHandle(self.raw, vpl::MFX_HANDLE_VA_DISPLAY, display.raw()) };
        match status {
            vpl::MFX_ERR_NONE => Ok(()),
            status => Err(format!("MFXVideoCORE_SetHandle said {}", status_name(status))),
        }
    }

    /// For people: name and API.
    pub fn describe(&self) -> String {
        let (major, minor) = self.found.api;
        let kind = if self.found.hardware { "hardware" } else { "software" };
        format!("oneVPL {major}.{minor} {} ({kind})", self.found.name)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = &self.loader;
        // SAFETY: an open session, closed once; the encoder in it first, which does nothing when there is none. The
        // surfaces, the allocator and the display it was given are dropped after it (`engine::Engine`).
        unsafe {
            self.vpl.MFXVideoENCODE_Close(self.raw);
            self.vpl.MFXClose(self.raw);
        }
    }
}

/// What the dispatcher finds without any filter, for people.
///
/// # Errors
/// Why the dispatcher cannot be asked.
pub fn implementations(codec_id: u32) -> Result<Vec<Found>, String> {
    Ok(Loader::new(dispatcher()?)?.found(codec_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_without_arrays_or_with_null_pointers_is_borne() {
        let mut description = mfxImplDescription::default();
        description.Enc.NumCodecs = 7;
        // SAFETY: null pointers are what is tested.
        let found = unsafe { describe(&description, vpl::MFX_CODEC_AVC) };
        assert_eq!((found.min_size, found.max_size), ((16, 16), (MFX_MAX_SIDE, MFX_MAX_SIDE)));
        assert_eq!((found.name.as_str(), found.hardware), ("", false));
    }
}
