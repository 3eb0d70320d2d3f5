//! The x264 library behind a safe face: parameters by name, one encoder, its output.
//!
//! Builds differ in the size and the order of `x264_param_t`. All but its front is left to the library, which fills
//! and changes it by name; the front is proven by the library itself when it is loaded ([`front_is_known`]).
//! `x264_picture_t` is laid out by hand up to the planes; a test compares it with the installed header.
#![expect(unsafe_code, reason = "calls a C library")]

use super::dynamic::{Wanted, function};
use crate::error::EncoderError;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;

/// Name in errors.
pub const LIBRARY: &str = "x264";

/// Where it is looked for. 153 is the first build whose bit depth is chosen at run time, which put `i_bitdepth` into
/// the parameters; builds count up by a few a year, and 165 was the newest when this was written.
pub const WANTED: Wanted = Wanted {
    backend: LIBRARY,
    stem: "libx264.so.",
    versions: (153, 185),
    variable: "QUAD_X264_LIBRARY",
    cure: "Install x264 (apt install libx264-164), or set encode.backend to openh264",
};

/// Pictures whose chroma is interleaved (`X264_CSP_NV12`).
pub const NV12: c_int = 4;
/// Pictures of three planes (`X264_CSP_I420`).
pub const I420: c_int = 2;
/// `X264_TYPE_AUTO`, `X264_TYPE_IDR`.
const TYPE_AUTO: c_int = 0;
const TYPE_IDR: c_int = 1;

/// Bytes kept for `x264_param_t`: eight times the 1024 of build 164, whose size has grown by a tenth in ten years.
const PARAM_BYTES: usize = 8192;
/// Words of `c_int` at the front of `x264_param_t`: `cpu`, `i_threads`, `i_lookahead_threads`, `b_sliced_threads`,
/// `b_deterministic`, `b_cpu_independent`, `i_sync_lookahead`, `i_width`, `i_height`, `i_csp`, `i_bitdepth`,
/// `i_level_idc`.
const FRONT_WORDS: usize = 12;
const THREADS: usize = 1;
const SYNC_LOOKAHEAD: usize = 6;
const WIDTH: usize = 7;
const HEIGHT: usize = 8;
const CSP: usize = 9;
const BIT_DEPTH: usize = 10;
const LEVEL: usize = 11;

/// Room for `x264_param_t` of any build, with its known front.
#[repr(C, align(64))]
struct Raw {
    front: [c_int; FRONT_WORDS],
    rest: [u8; PARAM_BYTES - 4 * FRONT_WORDS],
}

/// `x264_image_t`.
#[repr(C)]
struct Image {
    csp: c_int,
    planes: c_int,
    strides: [c_int; 4],
    pointers: [*const u8; 4],
}

/// `x264_picture_t` as far as it is used, and room for the rest: 112 bytes in build 164.
#[repr(C)]
struct RawPicture {
    kind: c_int,
    qp_plus_1: c_int,
    structure: c_int,
    keyframe: c_int,
    pts: i64,
    dts: i64,
    param: *mut c_void,
    image: Image,
    rest: [u64; 64],
}

/// `x264_nal_t`.
#[repr(C)]
struct Nal {
    ref_idc: c_int,
    kind: c_int,
    long_start_code: c_int,
    first_mb: c_int,
    last_mb: c_int,
    payload_bytes: c_int,
    payload: *const u8,
    padding: c_int,
}

type DefaultPreset = unsafe extern "C" fn(*mut Raw, *const c_char, *const c_char) -> c_int;
type Parse = unsafe extern "C" fn(*mut Raw, *const c_char, *const c_char) -> c_int;
type ApplyProfile = unsafe extern "C" fn(*mut Raw, *const c_char) -> c_int;
type Cleanup = unsafe extern "C" fn(*mut Raw);
type PictureInit = unsafe extern "C" fn(*mut RawPicture);
type Open = unsafe extern "C" fn(*mut Raw) -> *mut c_void;
type Parameters = unsafe extern "C" fn(*mut c_void, *mut Raw);
type Reconfig = unsafe extern "C" fn(*mut c_void, *mut Raw) -> c_int;
type Encode = unsafe extern "C" fn(*mut c_void, *mut *mut Nal, *mut c_int, *mut RawPicture, *mut RawPicture) -> c_int;
type Close = unsafe extern "C" fn(*mut c_void);

/// The functions of a loaded library.
#[derive(Debug, Clone, Copy)]
struct Functions {
    default_preset: DefaultPreset,
    parse: Parse,
    apply_profile: ApplyProfile,
    /// Missing before build 160; nothing is allocated by those.
    cleanup: Option<Cleanup>,
    picture_init: PictureInit,
    open: Open,
    parameters: Parameters,
    reconfig: Reconfig,
    encode: Encode,
    close: Close,
    build: u32,
}

fn functions() -> Result<&'static Functions, EncoderError> {
    static LOADED: OnceLock<Result<Functions, EncoderError>> = OnceLock::new();
    LOADED.get_or_init(load).as_ref().map_err(Clone::clone)
}

fn load() -> Result<Functions, EncoderError> {
    // Never unloaded: its functions are kept.
    let library = WANTED.load_for_good()?;
    let missing = |name: &str| WANTED.unavailable(format!("the library has no {name}"));
    let opened = WANTED.versions().rev().find_map(|build| {
        // SAFETY: declared so by x264.h; the library is leaked. The build is part of the name.
        unsafe { function::<Open>(library, &format!("x264_encoder_open_{build}")) }.map(|open| (open, build))
    });
    let (oldest, newest) = WANTED.versions;
    let (open, build) = opened.ok_or_else(|| missing(&format!("x264_encoder_open_{oldest} to {newest}")))?;
    // SAFETY: every type is the one x264.h declares for the name, unchanged through the builds looked for; the library
    // is leaked.
    let functions = unsafe {
        Functions {
            default_preset: function(library, "x264_param_default_preset")
                .ok_or_else(|| missing("x264_param_default_preset"))?,
            parse: function(library, "x264_param_parse").ok_or_else(|| missing("x264_param_parse"))?,
            apply_profile: function(library, "x264_param_apply_profile")
                .ok_or_else(|| missing("x264_param_apply_profile"))?,
            cleanup: function(library, "x264_param_cleanup"),
            picture_init: function(library, "x264_picture_init").ok_or_else(|| missing("x264_picture_init"))?,
            open,
            parameters: function(library, "x264_encoder_parameters")
                .ok_or_else(|| missing("x264_encoder_parameters"))?,
            reconfig: function(library, "x264_encoder_reconfig").ok_or_else(|| missing("x264_encoder_reconfig"))?,
            encode: function(library, "x264_encoder_encode").ok_or_else(|| missing("x264_encoder_encode"))?,
            close: function(library, "x264_encoder_close").ok_or_else(|| missing("x264_encoder_close"))?,
            build,
        }
    };
    if front_is_known(&functions)? { Ok(functions) } else { Err(WANTED.unavailable(unknown_front(build))) }
}

fn unknown_front(build: u32) -> String {
    format!("build {build} lays its parameters out in another way")
}

/// Whether the library keeps width, height, colour space and bit depth where [`Raw`] has them: names on both sides of
/// them change the words expected, and the four between have the defaults of the header.
fn front_is_known(functions: &Functions) -> Result<bool, EncoderError> {
    let mut param = Param::of(functions, "ultrafast")?;
    let between = [param.raw.front[WIDTH], param.raw.front[HEIGHT], param.raw.front[CSP], param.raw.front[BIT_DEPTH]];
    param.set("threads", "7")?;
    param.set("sync-lookahead", "5")?;
    param.set("level", "41")?;
    let front = &param.raw.front;
    Ok((front[THREADS], front[SYNC_LOOKAHEAD], front[LEVEL]) == (7, 5, 41)
        && (between == [0, 0, I420, 8])
        && param.raw.rest[PARAM_BYTES / 2..].iter().all(|byte| *byte == 0))
}

fn failed(call: &'static str, code: c_int) -> EncoderError {
    EncoderError::Library { library: LIBRARY, call, code: i64::from(code) }
}

/// Build of the library that is loaded, or why there is none.
///
/// # Errors
/// [`EncoderError::Unavailable`].
pub fn build() -> Result<u32, EncoderError> {
    Ok(functions()?.build)
}

/// The parameters of an encoder to be.
pub struct Param {
    raw: Box<Raw>,
    functions: Functions,
}

// SAFETY: plain values and pointers to the library's own constant or allocated memory, without a tie to a thread.
unsafe impl Send for Param {}

impl Drop for Param {
    fn drop(&mut self) {
        if let Some(cleanup) = self.functions.cleanup {
            // SAFETY: frees what the library allocated by itself in this structure, once.
            unsafe { cleanup(&mut *self.raw) };
        }
    }
}

impl Param {
    /// The parameters of a preset with no delay (tune "zerolatency").
    ///
    /// # Errors
    /// [`EncoderError::Unavailable`] without a library, [`EncoderError::Library`] when it knows no such preset.
    pub fn preset(name: &str) -> Result<Param, EncoderError> {
        Param::of(functions()?, name)
    }

    fn of(functions: &Functions, name: &str) -> Result<Param, EncoderError> {
        let raw = Box::new(Raw { front: [0; FRONT_WORDS], rest: [0; PARAM_BYTES - 4 * FRONT_WORDS] });
        let mut param = Param { raw, functions: *functions };
        let name = CString::new(name).map_err(|_| failed("x264_param_default_preset", -1))?;
        // SAFETY: fills a structure that is no larger than `Raw`; both strings end in zero.
        let code = unsafe { (functions.default_preset)(&mut *param.raw, name.as_ptr(), c"zerolatency".as_ptr()) };
        if code < 0 { Err(failed("x264_param_default_preset", code)) } else { Ok(param) }
    }

    /// Sets a parameter by its name on x264's command line.
    ///
    /// # Errors
    /// [`EncoderError::Library`] when the name or the value is unknown.
    pub fn set(&mut self, name: &'static str, value: &str) -> Result<(), EncoderError> {
        let (Ok(c_name), Ok(value)) = (CString::new(name), CString::new(value)) else {
            return Err(failed("x264_param_parse", -2));
        };
        // SAFETY: the structure was filled by the library; both strings end in zero and are read during the call.
        let code = unsafe { (self.functions.parse)(&mut *self.raw, c_name.as_ptr(), value.as_ptr()) };
        if code < 0 {
            tracing::warn!(name, value = %value.to_string_lossy(), "x264 knows no such parameter");
            return Err(failed("x264_param_parse", code));
        }
        Ok(())
    }

    /// Sets the size, pixels, and the layout of the pictures ([`NV12`] or [`I420`]).
    pub fn set_pictures(&mut self, width: u32, height: u32, csp: c_int) {
        let front = &mut self.raw.front;
        (front[WIDTH], front[HEIGHT], front[CSP]) = (width as c_int, height as c_int, csp);
        front[BIT_DEPTH] = 8;
    }

    /// Takes away what a profile does not have.
    ///
    /// # Errors
    /// [`EncoderError::Library`] when the library knows no such profile.
    pub fn apply_profile(&mut self, profile: &CStr) -> Result<(), EncoderError> {
        // SAFETY: the structure was filled by the library; the string ends in zero.
        let code = unsafe { (self.functions.apply_profile)(&mut *self.raw, profile.as_ptr()) };
        if code < 0 { Err(failed("x264_param_apply_profile", code)) } else { Ok(()) }
    }
}

/// Planes of one picture in memory the library may read.
#[derive(Debug, Clone, Copy)]
pub struct Picture {
    /// [`NV12`] or [`I420`].
    pub csp: c_int,
    /// First bytes of Y and of CbCr, or of Y, Cb and Cr.
    pub planes: [*const u8; 3],
    /// Bytes from a row to the next.
    pub strides: [u32; 3],
    /// Number of the picture; rises.
    pub number: i64,
    /// Makes it an IDR.
    pub idr: bool,
    /// Its quantisation parameter instead of the rate control's.
    pub qp: Option<u8>,
}

/// One open encoder. Its output lives until the next picture.
pub struct Library {
    encoder: *mut c_void,
    functions: Functions,
    input: Box<RawPicture>,
    output: Box<RawPicture>,
}

// SAFETY: the encoder has no tie to the thread that opened it; its own threads synchronise inside. Every call takes
// `&mut self`, so two threads never call at once. The pointers in both pictures are used only during a call.
unsafe impl Send for Library {}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library").field("build", &self.functions.build).finish_non_exhaustive()
    }
}

fn picture() -> Box<RawPicture> {
    let image = Image { csp: 0, planes: 0, strides: [0; 4], pointers: [std::ptr::null(); 4] };
    Box::new(RawPicture {
        kind: 0,
        qp_plus_1: 0,
        structure: 0,
        keyframe: 0,
        pts: 0,
        dts: 0,
        param: std::ptr::null_mut(),
        image,
        rest: [0; 64],
    })
}

impl Library {
    /// Opens an encoder.
    ///
    /// # Errors
    /// [`EncoderError::Library`] when the library refuses the parameters; it says why on standard error.
    pub fn open(param: &mut Param) -> Result<Library, EncoderError> {
        let functions = param.functions;
        // SAFETY: the structure was filled by the library, which copies it.
        let encoder = unsafe { (functions.open)(&mut *param.raw) };
        if encoder.is_null() {
            return Err(failed("x264_encoder_open", -1));
        }
        let mut library = Library { encoder, functions, input: picture(), output: picture() };
        // SAFETY: fills a structure that is no larger than `RawPicture`.
        unsafe { (functions.picture_init)(&mut *library.input) };
        Ok(library)
    }

    /// Changes parameters by name, from the next picture on.
    ///
    /// # Errors
    /// [`EncoderError::Library`] when the library refuses.
    pub fn reconfigure(&mut self, values: &[(&'static str, u32)]) -> Result<(), EncoderError> {
        // What it copies there belongs to the encoder and is not cleaned up with this structure.
        let functions = Functions { cleanup: None, ..self.functions };
        let mut param = Param::of(&functions, "ultrafast")?;
        // SAFETY: the encoder is open and fills a structure that is no larger than `Raw`.
        unsafe { (functions.parameters)(self.encoder, &mut *param.raw) };
        for (name, value) in values {
            param.set(name, &value.to_string())?;
        }
        // SAFETY: the encoder is open and copies what may change.
        let code = unsafe { (functions.reconfig)(self.encoder, &mut *param.raw) };
        if code < 0 { Err(failed("x264_encoder_reconfig", code)) } else { Ok(()) }
    }

    /// Encodes one picture and returns its access unit, an Annex B stream, and whether it is an IDR; empty when nothing
    /// came out.
    ///
    /// # Safety
    /// All rows of the planes, at the strides given, are mapped and readable until this returns. The library copies
    /// them, whole rows at a time: it reads no further than the last row's visible bytes.
    ///
    /// # Errors
    /// [`EncoderError::Library`] when the library fails.
    pub unsafe fn encode(&mut self, picture: &Picture) -> Result<(&[u8], bool), EncoderError> {
        let input = &mut *self.input;
        input.kind = if picture.idr { TYPE_IDR } else { TYPE_AUTO };
        input.qp_plus_1 = picture.qp.map_or(0, |qp| c_int::from(qp) + 1);
        input.pts = picture.number;
        input.image.csp = picture.csp;
        input.image.planes = if picture.csp == NV12 { 2 } else { 3 };
        for plane in 0..3 {
            input.image.strides[plane] = picture.strides[plane] as c_int;
            input.image.pointers[plane] = picture.planes[plane];
        }
        let (mut nals, mut count) = (std::ptr::null_mut::<Nal>(), 0);
        // SAFETY: the encoder is open; the caller vouches for the planes, which are only read; both pictures are ours
        // and as large as the library's.
        let bytes = unsafe { (self.functions.encode)(self.encoder, &mut nals, &mut count, input, &mut *self.output) };
        if bytes < 0 {
            return Err(failed("x264_encoder_encode", bytes));
        }
        if bytes == 0 || count <= 0 || nals.is_null() {
            return Ok((&[], false));
        }
        // SAFETY: x264.h: the payloads of all NAL units lie one behind the other, `bytes` in all, and stay until the
        // next call, which needs `&mut self`.
        let unit = unsafe { std::slice::from_raw_parts((*nals).payload, bytes as usize) };
        Ok((unit, self.output.kind == TYPE_IDR))
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: opened once, closed once.
        unsafe { (self.functions.close)(self.encoder) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};
    use std::process::Command;

    #[test]
    fn the_layouts_are_those_of_the_installed_header() {
        let header =
            ["/usr/include/x264.h", "/usr/local/include/x264.h"].into_iter().any(|f| std::fs::exists(f).unwrap());
        if !header || Command::new("cc").arg("--version").output().is_err() {
            println!("SKIPPED: the layouts of x264: x264.h (Debian package libx264-dev) or cc is not installed");
            return;
        }
        let source = format!(
            "#include <stdint.h>\n#include <stddef.h>\n#include <x264.h>\n\
             #define SAME(a, b) _Static_assert((a) == (b), #a)\n\
             SAME(offsetof(x264_picture_t, i_type), {});\n\
             SAME(offsetof(x264_picture_t, i_qpplus1), {});\n\
             SAME(offsetof(x264_picture_t, i_pts), {});\n\
             SAME(offsetof(x264_picture_t, param), {});\n\
             SAME(offsetof(x264_picture_t, img), {});\n\
             SAME(sizeof(x264_image_t), {});\n\
             SAME(offsetof(x264_image_t, plane), {});\n\
             SAME(sizeof(x264_nal_t), {});\n\
             SAME(offsetof(x264_nal_t, p_payload), {});\n\
             SAME(offsetof(x264_param_t, i_width), {});\n\
             SAME(offsetof(x264_param_t, i_bitdepth), {});\n\
             _Static_assert(sizeof(x264_picture_t) <= {}, \"picture\");\n\
             _Static_assert(sizeof(x264_param_t) <= {} / 2, \"param\");\n\
             SAME(X264_CSP_NV12, {NV12}); SAME(X264_CSP_I420, {I420}); SAME(X264_TYPE_IDR, {TYPE_IDR});\n",
            offset_of!(RawPicture, kind),
            offset_of!(RawPicture, qp_plus_1),
            offset_of!(RawPicture, pts),
            offset_of!(RawPicture, param),
            offset_of!(RawPicture, image),
            size_of::<Image>(),
            offset_of!(Image, pointers),
            size_of::<Nal>(),
            offset_of!(Nal, payload),
            4 * WIDTH,
            4 * BIT_DEPTH,
            size_of::<RawPicture>(),
            size_of::<Raw>(),
        );
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("layout.c");
        std::fs::write(&file, source).unwrap();
        let output = Command::new("cc").arg("-fsyntax-only").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn a_parameter_no_build_knows_is_refused() {
        let Ok(mut param) = Param::preset("superfast") else {
            println!("SKIPPED: parameters of x264: the library is not installed (Debian package libx264-164)");
            return;
        };
        assert!(param.set("no-such-thing", "1").is_err());
        assert!(param.set("bitrate", "much").is_err());
        assert!(Param::preset("no-such-preset").is_err());
    }
}
