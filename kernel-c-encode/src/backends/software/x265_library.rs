//! The x265 library behind a safe face: its table of functions for a bit depth, parameters by name, one encoder.
//!
//! `x265_api_query` gives a table of functions with the build it belongs to. Builds order that table and
//! `x265_picture` in the ways of [`LAYOUTS`], the released ones that are known; another one is refused. A picture is
//! made by the library, and where its fields lie is proven by what the library writes into it ([`Picture::new`]).
#![expect(unsafe_code, reason = "calls a C++ library through its function table")]

use super::dynamic::{Wanted, function};
use crate::error::EncoderError;
use std::ffi::{CString, c_char, c_int, c_void};
use std::sync::OnceLock;

/// Name in errors.
pub const LIBRARY: &str = "x265";

/// Where it is looked for: from the oldest to the newest build of [`LAYOUTS`].
pub const WANTED: Wanted = Wanted {
    backend: LIBRARY,
    stem: "libx265.so.",
    versions: (188, 217),
    variable: "QUAD_X265_LIBRARY",
    cure: "Install x265 (apt install libx265-199, in Debian 13 libx265-215), or set encode.codec to h264",
};

/// What differs between builds.
#[derive(Debug, Clone, Copy)]
struct Layout {
    builds: (c_int, c_int),
    /// Place of functions in the table.
    param_default_preset: usize,
    picture_alloc: usize,
    encoder_encode: usize,
    encoder_close: usize,
    /// Byte in `x265_picture` where the planes begin, how many there are, and where the bit depth lies.
    planes: usize,
    bit_depth: usize,
}

/// Releases 3.4 and 3.5; 3.6, which added a function for parameters; 4.1 and 4.2, which added one in front of
/// `encoder_encode`, a flag and a fourth plane. 4.0 (builds 210 to 212) had another way to hand out pictures.
const LAYOUTS: [Layout; 3] = [
    Layout {
        builds: (188, 199),
        param_default_preset: 5,
        picture_alloc: 6,
        encoder_encode: 14,
        encoder_close: 17,
        planes: 24,
        bit_depth: 60,
    },
    Layout {
        builds: (207, 209),
        param_default_preset: 6,
        picture_alloc: 7,
        encoder_encode: 15,
        encoder_close: 18,
        planes: 24,
        bit_depth: 60,
    },
    Layout {
        builds: (213, 217),
        param_default_preset: 6,
        picture_alloc: 7,
        encoder_encode: 16,
        encoder_close: 19,
        planes: 32,
        bit_depth: 80,
    },
];

/// Places all layouts share: `param_alloc`, `param_free`, `param_parse`, and, counted from `picture_alloc`,
/// `picture_free`, `picture_init`, `encoder_open`.
const PARAM_ALLOC: usize = 0;
const PARAM_FREE: usize = 1;
const PARAM_PARSE: usize = 3;
const PICTURE_FREE: usize = 1;
const PICTURE_INIT: usize = 2;
const ENCODER_OPEN: usize = 3;
/// Functions that are read of a table: up to `encoder_close` of the newest layout.
const FUNCTIONS: usize = 20;
/// Fields behind `bitDepth`, bytes.
const SLICE_TYPE: usize = 4;
const COLOUR_SPACE: usize = 12;
const FORCE_QP: usize = 16;
/// `X265_CSP_I420`, `X265_TYPE_AUTO`, `X265_TYPE_IDR`.
const CSP_I420: c_int = 1;
const TYPE_AUTO: c_int = 0;
const TYPE_IDR: c_int = 1;

/// Front of `x265_api`.
#[repr(C)]
struct Api {
    major: c_int,
    build: c_int,
    param_bytes: c_int,
    picture_bytes: c_int,
    sizes: [c_int; 3],
    bit_depth: c_int,
    version: *const c_char,
    build_info: *const c_char,
    functions: [*const c_void; FUNCTIONS],
}

/// `x265_nal`.
#[repr(C)]
struct Nal {
    kind: u32,
    bytes: u32,
    payload: *const u8,
}

type Query = unsafe extern "C" fn(c_int, c_int, *mut c_int) -> *const Api;
type Alloc = unsafe extern "C" fn() -> *mut c_void;
type Free = unsafe extern "C" fn(*mut c_void);
type Parse = unsafe extern "C" fn(*mut c_void, *const c_char, *const c_char) -> c_int;
type PictureInit = unsafe extern "C" fn(*mut c_void, *mut c_void);
type Open = unsafe extern "C" fn(*mut c_void) -> *mut c_void;
type Encode = unsafe extern "C" fn(*mut c_void, *mut *mut Nal, *mut u32, *mut c_void, *mut c_void) -> c_int;

/// The functions for one bit depth.
#[derive(Debug, Clone, Copy)]
pub struct Functions {
    param_alloc: Alloc,
    param_free: Free,
    param_parse: Parse,
    param_default_preset: Parse,
    picture_alloc: Alloc,
    picture_free: Free,
    picture_init: PictureInit,
    open: Open,
    encode: Encode,
    close: Free,
    layout: Layout,
    bit_depth: u8,
}

impl Functions {
    /// The functions for pictures of `bit_depth` bits.
    ///
    /// # Errors
    /// [`EncoderError::Unavailable`] when the library is missing, of an unknown build, or has no such depth.
    pub fn load(bit_depth: u8) -> Result<Functions, EncoderError> {
        static QUERY: OnceLock<Result<Query, EncoderError>> = OnceLock::new();
        let query = QUERY.get_or_init(|| {
            // Never unloaded: its functions are kept.
            let library = WANTED.load_for_good()?;
            // SAFETY: declared so by x265.h; the library is leaked.
            unsafe { function::<Query>(library, "x265_api_query") }
                .ok_or_else(|| WANTED.unavailable("the library has no x265_api_query".to_owned()))
        });
        let query = query.as_ref().map_err(Clone::clone)?;
        let mut error = 0;
        // The second argument says which builds the caller can read; all from 51 on are handed out.
        let newest = LAYOUTS[LAYOUTS.len() - 1].builds.1;
        // SAFETY: the loaded function; it writes its error.
        let api = unsafe { query(c_int::from(bit_depth), newest, &mut error) };
        if api.is_null() {
            return Err(WANTED.unavailable(format!("the library that is installed was built without {bit_depth} bit")));
        }
        // SAFETY: a constant table of the library. Its first numbers lie the same in every build.
        let (major, build) = unsafe { ((*api).major, (*api).build) };
        let known = LAYOUTS.into_iter().find(|layout| (layout.builds.0..=layout.builds.1).contains(&build));
        let Some(layout) = known.filter(|_| major == 1) else {
            let builds = LAYOUTS.map(|layout| format!("{} to {}", layout.builds.0, layout.builds.1)).join(", ");
            return Err(WANTED.unavailable(format!("build {build} of the library is not among those known: {builds}")));
        };
        // SAFETY: the table of a known build has at least the functions of its layout; every one read below lies before
        // or at `encoder_close`, and is of the type x265.h declares for that place.
        unsafe {
            let at =
                |place: usize| -> *const c_void { *(&raw const (*api).functions).cast::<*const c_void>().add(place) };
            if (0..=layout.encoder_close).any(|place| at(place).is_null()) || (*api).bit_depth != c_int::from(bit_depth)
            {
                return Err(
                    WANTED.unavailable(format!("the library that is installed was built without {bit_depth} bit"))
                );
            }
            Ok(Functions {
                param_alloc: std::mem::transmute::<*const c_void, Alloc>(at(PARAM_ALLOC)),
                param_free: std::mem::transmute::<*const c_void, Free>(at(PARAM_FREE)),
                param_parse: std::mem::transmute::<*const c_void, Parse>(at(PARAM_PARSE)),
                param_default_preset: std::mem::transmute::<*const c_void, Parse>(at(layout.param_default_preset)),
                picture_alloc: std::mem::transmute::<*const c_void, Alloc>(at(layout.picture_alloc)),
                picture_free: std::mem::transmute::<*const c_void, Free>(at(layout.picture_alloc + PICTURE_FREE)),
                picture_init: std::mem::transmute::<*const c_void, PictureInit>(
                    at(layout.picture_alloc + PICTURE_INIT),
                ),
                open: std::mem::transmute::<*const c_void, Open>(at(layout.picture_alloc + ENCODER_OPEN)),
                encode: std::mem::transmute::<*const c_void, Encode>(at(layout.encoder_encode)),
                close: std::mem::transmute::<*const c_void, Free>(at(layout.encoder_close)),
                layout,
                bit_depth,
            })
        }
    }
}

fn failed(call: &'static str, code: c_int) -> EncoderError {
    EncoderError::Library { library: LIBRARY, call, code: i64::from(code) }
}

/// The parameters of an encoder.
#[derive(Debug)]
pub struct Param {
    raw: *mut c_void,
    functions: Functions,
}

// SAFETY: plain values in memory of the library, without a tie to a thread; changed through `&mut self` only.
unsafe impl Send for Param {}

impl Drop for Param {
    fn drop(&mut self) {
        // SAFETY: allocated by the library, freed once.
        unsafe { (self.functions.param_free)(self.raw) };
    }
}

impl Param {
    /// The parameters of a preset with no delay (tune "zerolatency").
    ///
    /// # Errors
    /// [`EncoderError::Library`] when the library knows no such preset.
    pub fn preset(functions: &Functions, name: &str) -> Result<Param, EncoderError> {
        // SAFETY: allocates, or returns null.
        let raw = unsafe { (functions.param_alloc)() };
        if raw.is_null() {
            return Err(failed("x265_param_alloc", -1));
        }
        let param = Param { raw, functions: *functions };
        let name = CString::new(name).map_err(|_| failed("x265_param_default_preset", -1))?;
        // SAFETY: fills the structure the library allocated; both strings end in zero.
        let code = unsafe { (functions.param_default_preset)(raw, name.as_ptr(), c"zerolatency".as_ptr()) };
        if code < 0 { Err(failed("x265_param_default_preset", code)) } else { Ok(param) }
    }

    /// Sets a parameter by its name on x265's command line.
    ///
    /// # Errors
    /// [`EncoderError::Library`] when the name or the value is unknown.
    pub fn set(&mut self, name: &'static str, value: &str) -> Result<(), EncoderError> {
        let (Ok(c_name), Ok(value)) = (CString::new(name), CString::new(value)) else {
            return Err(failed("x265_param_parse", -2));
        };
        // SAFETY: the structure was filled by the library; both strings end in zero and are read during the call.
        let code = unsafe { (self.functions.param_parse)(self.raw, c_name.as_ptr(), value.as_ptr()) };
        if code < 0 {
            tracing::warn!(name, value = %value.to_string_lossy(), "x265 knows no such parameter");
            return Err(failed("x265_param_parse", code));
        }
        Ok(())
    }
}

/// One picture as it is handed in.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    /// First bytes of Y, Cb and Cr.
    pub planes: [*const u8; 3],
    /// Bytes from a row to the next.
    pub strides: [u32; 3],
    /// Bits of a sample: 8, or 16 for samples whose highest bits count.
    pub bits: u8,
    /// Number of the picture; rises.
    pub number: i64,
    /// Makes it an IDR.
    pub idr: bool,
    /// Its quantisation parameter instead of the rate control's.
    pub qp: Option<u8>,
}

/// An `x265_picture` of the library.
#[derive(Debug)]
struct Picture {
    raw: *mut c_void,
    functions: Functions,
}

impl Drop for Picture {
    fn drop(&mut self) {
        // SAFETY: allocated by the library, freed once; it frees nothing of the planes.
        unsafe { (self.functions.picture_free)(self.raw) };
    }
}

impl Picture {
    fn new(param: &Param) -> Result<Picture, EncoderError> {
        let functions = param.functions;
        // SAFETY: allocates, or returns null.
        let raw = unsafe { (functions.picture_alloc)() };
        if raw.is_null() {
            return Err(failed("x265_picture_alloc", -1));
        }
        let picture = Picture { raw, functions };
        // SAFETY: fills the picture by the parameters, both made by the library.
        unsafe { (functions.picture_init)(param.raw, raw) };
        // The library wrote the depth and the colour space of the parameters, and nothing else that is not 0.
        let base = functions.layout.bit_depth;
        let front = (0..base).step_by(4).all(|at| picture.get(at) == 0);
        let seen = (picture.get(base), picture.get(base + SLICE_TYPE), picture.get(base + COLOUR_SPACE));
        if !front || seen != (c_int::from(functions.bit_depth), TYPE_AUTO, CSP_I420) {
            return Err(WANTED.unavailable("the library lays its pictures out in another way".to_owned()));
        }
        Ok(picture)
    }

    fn get(&self, at: usize) -> c_int {
        // SAFETY: an aligned word within the first 100 bytes of a picture, which has thousands; initialised.
        unsafe { self.raw.cast::<u8>().add(at).cast::<c_int>().read() }
    }

    fn put<T>(&mut self, at: usize, value: T) {
        // SAFETY: callers write fields of the layout with their own type, at their alignment.
        unsafe { self.raw.cast::<u8>().add(at).cast::<T>().write(value) };
    }

    fn fill(&mut self, input: &Input) {
        let Layout { planes, bit_depth, .. } = self.functions.layout;
        let count = (bit_depth - planes) / (size_of::<*const u8>() + size_of::<c_int>());
        let strides = planes + count * size_of::<*const u8>();
        self.put(0, input.number);
        for plane in 0..3 {
            self.put(planes + plane * size_of::<*const u8>(), input.planes[plane]);
            self.put(strides + plane * size_of::<c_int>(), input.strides[plane] as c_int);
        }
        self.put(bit_depth, c_int::from(input.bits));
        self.put(bit_depth + SLICE_TYPE, if input.idr { TYPE_IDR } else { TYPE_AUTO });
        self.put(bit_depth + FORCE_QP, input.qp.map_or(0, |qp| c_int::from(qp) + 1));
    }
}

/// One open encoder. Its output lives until the next picture.
#[derive(Debug)]
pub struct Library {
    encoder: *mut c_void,
    functions: Functions,
    picture: Picture,
}

// SAFETY: the encoder has no tie to the thread that opened it; its own threads synchronise inside. Every call takes
// `&mut self`, so two threads never call at once.
unsafe impl Send for Library {}

impl Library {
    /// Opens an encoder.
    ///
    /// # Errors
    /// [`EncoderError::Library`] when the library refuses the parameters; it says why on standard error.
    pub fn open(param: &Param) -> Result<Library, EncoderError> {
        let functions = param.functions;
        let picture = Picture::new(param)?;
        // SAFETY: the structure was filled by the library, which copies it.
        let encoder = unsafe { (functions.open)(param.raw) };
        if encoder.is_null() {
            return Err(failed("x265_encoder_open", -1));
        }
        Ok(Library { encoder, functions, picture })
    }

    /// Encodes one picture and returns its access unit, an Annex B stream; empty when nothing came out.
    ///
    /// # Safety
    /// All rows of the planes, at the strides given, are mapped and readable until this returns; the library copies
    /// them.
    ///
    /// # Errors
    /// [`EncoderError::Library`] when the library fails.
    pub unsafe fn encode(&mut self, input: &Input) -> Result<&[u8], EncoderError> {
        self.picture.fill(input);
        let (mut nals, mut count) = (std::ptr::null_mut::<Nal>(), 0);
        let encode = self.functions.encode;
        // SAFETY: the encoder is open; the caller vouches for the planes, which are only read; no output picture is
        // asked for.
        let code = unsafe { encode(self.encoder, &mut nals, &mut count, self.picture.raw, std::ptr::null_mut()) };
        if code < 0 {
            return Err(failed("x265_encoder_encode", code));
        }
        if code == 0 || count == 0 || nals.is_null() {
            return Ok(&[]);
        }
        // SAFETY: x265.h: `count` NAL units, whose payloads lie one behind the other, stay until the next call, which
        // needs `&mut self`.
        unsafe {
            let nals = std::slice::from_raw_parts(nals, count as usize);
            let bytes = nals.iter().map(|nal| nal.bytes as usize).sum();
            Ok(std::slice::from_raw_parts(nals[0].payload, bytes))
        }
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
    use std::process::Command;

    #[test]
    fn the_layout_of_its_build_is_that_of_the_installed_header() {
        let folder = tempfile::tempdir().unwrap();
        let probe = folder.path().join("build.c");
        std::fs::write(&probe, "#include <x265.h>\nBUILD=X265_BUILD\n").unwrap();
        let output = Command::new("cc").args(["-E", "-P"]).arg(&probe).output();
        let Some(text) = output.ok().filter(|o| o.status.success()).map(|o| String::from_utf8(o.stdout).unwrap())
        else {
            println!("SKIPPED: the layouts of x265: x265.h (Debian package libx265-dev) or cc is not installed");
            return;
        };
        let build = text.lines().find_map(|line| line.strip_prefix("BUILD=")?.trim().parse().ok()).unwrap();
        let known = LAYOUTS.into_iter().find(|layout| (layout.builds.0..=layout.builds.1).contains(&build)).unwrap();
        let place = |place: usize| std::mem::offset_of!(Api, functions) + place * size_of::<*const c_void>();
        let source = format!(
            "#include <stddef.h>\n#include <x265.h>\n#define SAME(a, b) _Static_assert((a) == (b), #a)\n\
             SAME(offsetof(x265_api, param_alloc), {});\n\
             SAME(offsetof(x265_api, param_free), {});\n\
             SAME(offsetof(x265_api, param_parse), {});\n\
             SAME(offsetof(x265_api, param_default_preset), {});\n\
             SAME(offsetof(x265_api, picture_alloc), {});\n\
             SAME(offsetof(x265_api, picture_free), {});\n\
             SAME(offsetof(x265_api, picture_init), {});\n\
             SAME(offsetof(x265_api, encoder_open), {});\n\
             SAME(offsetof(x265_api, encoder_encode), {});\n\
             SAME(offsetof(x265_api, encoder_close), {});\n\
             SAME(offsetof(x265_picture, planes), {planes});\n\
             SAME(offsetof(x265_picture, bitDepth), {depth});\n\
             SAME(offsetof(x265_picture, sliceType), {depth} + {SLICE_TYPE});\n\
             SAME(offsetof(x265_picture, colorSpace), {depth} + {COLOUR_SPACE});\n\
             SAME(offsetof(x265_picture, forceqp), {depth} + {FORCE_QP});\n\
             SAME(sizeof(x265_nal), {}); SAME(offsetof(x265_nal, payload), {});\n\
             SAME(X265_TYPE_IDR, {TYPE_IDR}); SAME(X265_CSP_I420, {CSP_I420});\n",
            place(PARAM_ALLOC),
            place(PARAM_FREE),
            place(PARAM_PARSE),
            place(known.param_default_preset),
            place(known.picture_alloc),
            place(known.picture_alloc + PICTURE_FREE),
            place(known.picture_alloc + PICTURE_INIT),
            place(known.picture_alloc + ENCODER_OPEN),
            place(known.encoder_encode),
            place(known.encoder_close),
            size_of::<Nal>(),
            std::mem::offset_of!(Nal, payload),
            planes = known.planes,
            depth = known.bit_depth,
        );
        let file = folder.path().join("layout.c");
        std::fs::write(&file, source).unwrap();
        let output = Command::new("cc").arg("-fsyntax-only").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
}
