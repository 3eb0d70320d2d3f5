//! The SVT-AV1 library behind a safe face: parameters by name, one encoder, pictures in and packets out.
//!
//! Versions differ in `EbSvtAv1EncConfiguration`, which is left to the library: it is filled by
//! `svt_av1_enc_init_handle` and changed by name. `EbBufferHeaderType` and one signature changed with 3.0
//! ([`Library::since_3`]), and before 2.3 the library does not wait for a packet ([`Library::packet`]). Versions before
//! 2.0 are refused: their low-delay mode holds frames back and ignores key frames that are asked for (1.4.1, measured).
//! Those behind 4 are unknown. The tests ran with 2.2.0, 2.3.0, 3.0.0, 3.1.0, 3.1.2 and 4.1.0.
#![expect(unsafe_code, reason = "calls a C library")]

use super::dynamic::{Wanted, function};
use super::planar::Plane;
use crate::error::EncoderError;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::time::Duration;

/// Name in errors.
pub const LIBRARY: &str = "svtav1";

/// Where it is looked for: the number of the file is the major version. Version 1 is looked for to say that it is there
/// and too old.
pub const WANTED: Wanted = Wanted {
    backend: LIBRARY,
    stem: "libSvtAv1Enc.so.",
    versions: (1, 4),
    variable: "QUAD_SVTAV1_LIBRARY",
    cure: "Install SVT-AV1 2.0 or newer (Debian 13: apt install libsvtav1enc2), name its file in QUAD_SVTAV1_LIBRARY, \
           or set encode.codec to h264",
};

/// Major versions whose structures are known.
const KNOWN_MAJORS: std::ops::RangeInclusive<u32> = 2..=4;
/// Bytes kept for `EbSvtAv1EncConfiguration`: ten times those of any version.
const CONFIGURATION_BYTES: usize = 16_384;
/// `EB_AV1_KEY_PICTURE`, and `EB_AV1_INVALID_PICTURE`, which leaves the choice to the library.
const KEY_PICTURE: u32 = 3;
const ANY_PICTURE: u32 = 0xff;
/// `RATE_CHANGE_EVENT`.
const RATE_CHANGE_EVENT: u32 = 4;
/// `EB_YUV420`.
const YUV420: u32 = 1;
/// `EB_NoErrorEmptyQueue`.
const NOTHING_YET: c_int = 0x8000_2033_u32 as c_int;
/// Between two looks for a packet: a tenth of what the smallest picture takes, and 20 looks/ms cost next to nothing.
const LOOK_AGAIN: Duration = Duration::from_micros(50);

/// Room for `EbSvtAv1EncConfiguration` of any version.
#[repr(C, align(64))]
struct Configuration([u8; CONFIGURATION_BYTES]);

/// `EbBufferHeaderType`: what lies the same in every version, and the words behind it.
#[repr(C)]
struct Header {
    size: u32,
    buffer: *mut c_void,
    filled_bytes: u32,
    allocated_bytes: u32,
    private: *mut c_void,
    wrapper: *mut c_void,
    ticks: u32,
    dts: i64,
    pts: i64,
    /// Until 2.x `qp`, `pic_type`; since 3.0 a layer index, `qp`, `avg_qp`, `pic_type`. Then statistics, flags and more.
    tail: [u32; 32],
}

/// `EbSvtIOFormat`, which ends with the strides since 3.0.
#[repr(C)]
struct Picture {
    planes: [*const u8; 3],
    y_stride: u32,
    cr_stride: u32,
    cb_stride: u32,
    width: u32,
    height: u32,
    origin: [u32; 2],
    colour_format: u32,
    bit_depth: u32,
}

/// `EbPrivDataNode`.
#[repr(C)]
struct Node {
    kind: u32,
    data: *mut c_void,
    bytes: u32,
    next: *mut c_void,
}

/// `SvtAv1RateInfo`.
#[repr(C)]
struct Rate {
    qp: u32,
    bits_per_s: u32,
}

type Version = unsafe extern "C" fn() -> *const c_char;
type InitHandleOld = unsafe extern "C" fn(*mut *mut c_void, *mut c_void, *mut Configuration) -> c_int;
type InitHandle = unsafe extern "C" fn(*mut *mut c_void, *mut Configuration) -> c_int;
type Parse = unsafe extern "C" fn(*mut Configuration, *const c_char, *const c_char) -> c_int;
type SetParameter = unsafe extern "C" fn(*mut c_void, *mut Configuration) -> c_int;
type OnHandle = unsafe extern "C" fn(*mut c_void) -> c_int;
type Send = unsafe extern "C" fn(*mut c_void, *mut Header) -> c_int;
type GetPacket = unsafe extern "C" fn(*mut c_void, *mut *mut Header, u8) -> c_int;
type Release = unsafe extern "C" fn(*mut *mut Header);
/// The last argument is a `va_list`, which is passed in one register and left alone.
type Log = unsafe extern "C" fn(*mut c_void, c_int, *const c_char, *const c_char, *mut c_void);
type SetLog = unsafe extern "C" fn(Log, *mut c_void);

/// The functions of a loaded library.
#[derive(Debug, Clone, Copy)]
struct Functions {
    init_handle: *const c_void,
    parse: Parse,
    set_parameter: SetParameter,
    init: OnHandle,
    send: Send,
    get_packet: GetPacket,
    release: Release,
    deinit: OnHandle,
    deinit_handle: OnHandle,
    version: (u32, u32),
}

// SAFETY: pointers to functions of a library that is never unloaded.
unsafe impl std::marker::Send for Functions {}
// SAFETY: as above.
unsafe impl Sync for Functions {}

/// Major and minor version in a text such as "v2.3.0".
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim_start_matches(['v', 'V']).split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next().and_then(|minor| minor.parse().ok()).unwrap_or(0)))
}

/// Refuses versions that cannot be used.
fn check_version(text: &str) -> Result<(u32, u32), EncoderError> {
    let version = parse_version(text)
        .ok_or_else(|| WANTED.unavailable(format!("the library found says \"{text}\" for its version")))?;
    if version.0 < *KNOWN_MAJORS.start() {
        let reason = "below 2.0 frames are held back and key frames come at other frames than asked for";
        return Err(WANTED.unavailable(format!("the library found is version {text}: {reason}")));
    }
    if !KNOWN_MAJORS.contains(&version.0) {
        return Err(WANTED.unavailable(format!("the library found is version {text}; known are 2.0 to 4.x")));
    }
    Ok(version)
}

unsafe extern "C" fn log(
    _context: *mut c_void,
    level: c_int,
    _tag: *const c_char,
    format: *const c_char,
    _arguments: *mut c_void,
) {
    const SVT_AV1_LOG_ERROR: c_int = 1;
    if format.is_null() {
        return;
    }
    // SAFETY: the library passes a zero-terminated string that lives for the call.
    let format = unsafe { CStr::from_ptr(format) }.to_string_lossy();
    // The values are the arguments', which only C can read; the text says what is wrong.
    if level <= SVT_AV1_LOG_ERROR {
        tracing::warn!(target: "svtav1", "{}", format.trim_end());
    } else {
        tracing::debug!(target: "svtav1", "{}", format.trim_end());
    }
}

fn functions() -> Result<&'static Functions, EncoderError> {
    static LOADED: OnceLock<Result<Functions, EncoderError>> = OnceLock::new();
    LOADED.get_or_init(load).as_ref().map_err(Clone::clone)
}

fn load() -> Result<Functions, EncoderError> {
    // Never unloaded: its functions are kept.
    let library = WANTED.load_for_good()?;
    let missing = |name: &str| WANTED.unavailable(format!("the library has no {name}"));
    // SAFETY: declared so by EbSvtAv1Enc.h; returns a constant string.
    let text = unsafe {
        let version = function::<Version>(library, "svt_av1_get_version");
        let version = version.ok_or_else(|| missing("svt_av1_get_version"))?();
        if version.is_null() { String::new() } else { CStr::from_ptr(version).to_string_lossy().into_owned() }
    };
    let version = check_version(&text)?;
    // SAFETY: every type is the one EbSvtAv1Enc.h declares for the name in the versions let through; the library is
    // leaked. The first one is kept without its type, which depends on the version.
    unsafe {
        // Only in 4.0 and newer; before, the library writes to standard error what its variable SVT_LOG asks for.
        if let Some(set_log) = function::<SetLog>(library, "svt_av1_set_log_callback") {
            set_log(log, std::ptr::null_mut());
        }
        macro_rules! get {
            ($name:literal) => {
                function(library, $name).ok_or_else(|| missing($name))?
            };
        }
        Ok(Functions {
            init_handle: get!("svt_av1_enc_init_handle"),
            parse: get!("svt_av1_enc_parse_parameter"),
            set_parameter: get!("svt_av1_enc_set_parameter"),
            init: get!("svt_av1_enc_init"),
            send: get!("svt_av1_enc_send_picture"),
            get_packet: get!("svt_av1_enc_get_packet"),
            release: get!("svt_av1_enc_release_out_buffer"),
            deinit: get!("svt_av1_enc_deinit"),
            deinit_handle: get!("svt_av1_enc_deinit_handle"),
            version,
        })
    }
}

fn check(call: &'static str, code: c_int) -> Result<(), EncoderError> {
    if code == 0 { Ok(()) } else { Err(EncoderError::Library { library: LIBRARY, call, code: i64::from(code) }) }
}

/// Version of the library that is loaded, or why there is none.
///
/// # Errors
/// [`EncoderError::Unavailable`].
pub fn version() -> Result<(u32, u32), EncoderError> {
    Ok(functions()?.version)
}

/// One picture as it is handed in.
#[derive(Debug, Clone, Copy)]
pub struct Input {
    /// Y, Cb and Cr; samples of 10 bit in the low bits of 16.
    pub planes: [Plane; 3],
    /// Number of the picture; rises.
    pub number: i64,
    /// Makes it a key frame.
    pub key: bool,
    /// The bitrate from this picture on, bit/s.
    pub bits_per_s: Option<u32>,
}

/// One encoder.
#[derive(Debug)]
pub struct Library {
    handle: *mut c_void,
    functions: &'static Functions,
    size: (u32, u32),
    bit_depth: u8,
    /// Whether it was initialised.
    ready: bool,
}

// SAFETY: the encoder has no tie to the thread that opened it; its own threads synchronise inside. Every call takes
// `&mut self`, so two threads never call at once.
unsafe impl std::marker::Send for Library {}

impl Library {
    /// Opens an encoder for pictures of `size` pixels and `bit_depth` bits with these parameters, by their names on
    /// SVT-AV1's command line.
    ///
    /// # Errors
    /// [`EncoderError::Unavailable`] without a library; [`EncoderError::Library`] when it knows a name not or refuses
    /// the values.
    pub fn open(size: (u32, u32), bit_depth: u8, values: &[(&'static str, String)]) -> Result<Library, EncoderError> {
        let functions = functions()?;
        let mut configuration = Box::new(Configuration([0; CONFIGURATION_BYTES]));
        let mut handle = std::ptr::null_mut();
        // SAFETY: the function of this version with the type its header declares; both write what they are given, and
        // the configuration is larger than any version's.
        let code = unsafe {
            if functions.version.0 >= 3 {
                let init = std::mem::transmute::<*const c_void, InitHandle>(functions.init_handle);
                init(&mut handle, &mut *configuration)
            } else {
                let init = std::mem::transmute::<*const c_void, InitHandleOld>(functions.init_handle);
                init(&mut handle, std::ptr::null_mut(), &mut *configuration)
            }
        };
        check("svt_av1_enc_init_handle", code)?;
        let mut library = Library { handle, functions, size, bit_depth, ready: false };
        for (name, value) in values {
            let (Ok(c_name), Ok(c_value)) = (CString::new(*name), CString::new(value.as_str())) else {
                return check("svt_av1_enc_parse_parameter", -1).map(|()| library);
            };
            // SAFETY: the library filled the configuration; both strings end in zero and are read during the call.
            let code = unsafe { (functions.parse)(&mut *configuration, c_name.as_ptr(), c_value.as_ptr()) };
            if code != 0 {
                tracing::warn!(name, value, "SVT-AV1 knows no such parameter");
            }
            check("svt_av1_enc_parse_parameter", code)?;
        }
        // SAFETY: the handle is alive; the configuration is copied.
        check("svt_av1_enc_set_parameter", unsafe { (functions.set_parameter)(handle, &mut *configuration) })?;
        // SAFETY: the handle is alive and has its parameters.
        check("svt_av1_enc_init", unsafe { (functions.init)(handle) })?;
        library.ready = true;
        Ok(library)
    }

    /// Whether the structures are those of 3.0 and newer.
    fn since_3(&self) -> bool {
        self.functions.version.0 >= 3
    }

    fn picture(&self, planes: &[Plane; 3]) -> Picture {
        // Strides count samples.
        let stride = |plane: usize| planes[plane].stride as u32 / if self.bit_depth > 8 { 2 } else { 1 };
        Picture {
            planes: planes.map(|plane| plane.pointer),
            y_stride: stride(0),
            cr_stride: stride(2),
            cb_stride: stride(1),
            width: self.size.0,
            height: self.size.1,
            origin: [0; 2],
            colour_format: YUV420,
            bit_depth: u32::from(self.bit_depth),
        }
    }

    /// The packet of the picture that is outstanding. Since 2.3 the library waits for it; before it says that there is
    /// none yet. The last argument would make those wait too, and is for the end of the stream: builds with assertions
    /// abort.
    fn packet(&mut self) -> Result<*mut Header, EncoderError> {
        let mut packet = std::ptr::null_mut::<Header>();
        loop {
            // SAFETY: the handle is initialised and a picture is outstanding, so that this ends; it writes the packet.
            let code = unsafe { (self.functions.get_packet)(self.handle, &mut packet, 0) };
            if code != NOTHING_YET {
                return check("svt_av1_enc_get_packet", code).map(|()| packet);
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// Encodes one picture and passes its temporal unit to `take`; waits for it. The library has low delay only in
    /// name if it gave nothing: it gives one packet for every picture, and is asked for no more.
    ///
    /// # Safety
    /// All rows of the planes, at their strides, are mapped and readable until this returns; the library copies them
    /// in `svt_av1_enc_send_picture`.
    ///
    /// # Errors
    /// [`EncoderError::Library`] when the library fails; what `take` returns.
    pub unsafe fn encode<T>(
        &mut self,
        input: &Input,
        take: impl FnOnce(&[u8]) -> Result<T, EncoderError>,
    ) -> Result<T, EncoderError> {
        let mut picture = self.picture(&input.planes);
        let mut rate = Rate { qp: 0, bits_per_s: input.bits_per_s.unwrap_or(0) };
        let mut node = Node {
            kind: RATE_CHANGE_EVENT,
            data: (&raw mut rate).cast(),
            bytes: size_of::<Rate>() as u32,
            next: std::ptr::null_mut(),
        };
        let frame_bytes = self.size.0 * self.size.1 / 2 * 3 * if self.bit_depth > 8 { 2 } else { 1 };
        let mut tail = [0; 32];
        tail[if self.since_3() { 3 } else { 1 }] = if input.key { KEY_PICTURE } else { ANY_PICTURE };
        let mut header = Header {
            size: size_of::<Header>() as u32,
            buffer: (&raw mut picture).cast(),
            filled_bytes: frame_bytes,
            allocated_bytes: frame_bytes,
            private: if input.bits_per_s.is_some() { (&raw mut node).cast() } else { std::ptr::null_mut() },
            wrapper: std::ptr::null_mut(),
            ticks: 0,
            dts: 0,
            pts: input.number,
            tail,
        };
        // SAFETY: the handle is initialised; the header and all it points at are ours and live through the call, which
        // copies them; the caller vouches for the planes.
        check("svt_av1_enc_send_picture", unsafe { (self.functions.send)(self.handle, &mut header) })?;
        let packet = self.packet()?;
        if packet.is_null() {
            return take(&[]);
        }
        // SAFETY: a packet of the library holds so many bytes until it is released below.
        let taken =
            take(unsafe { std::slice::from_raw_parts((*packet).buffer.cast::<u8>(), (*packet).filled_bytes as usize) });
        // SAFETY: got from the library, given back once.
        unsafe { (self.functions.release)(&mut { packet }) };
        taken
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        // SAFETY: made by the library, ended once; pictures that are inside are given up.
        unsafe {
            if self.ready {
                (self.functions.deinit)(self.handle);
            }
            (self.functions.deinit_handle)(self.handle);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::mem::{offset_of, size_of};

    #[test]
    fn versions_below_2_and_unknown_ones_are_refused_with_what_is_needed() {
        assert_eq!(check_version("v2.3.0"), Ok((2, 3)));
        assert_eq!(check_version("4.1.0-rc1"), Ok((4, 1)));
        let error = check_version("v1.4.1").unwrap_err();
        assert_eq!(
            error.to_string(),
            "Encoder svtav1 is not available: the library found is version v1.4.1: below 2.0 frames are held back and \
             key frames come at other frames than asked for. Install SVT-AV1 2.0 or newer (Debian 13: apt install \
             libsvtav1enc2), name its file in QUAD_SVTAV1_LIBRARY, or set encode.codec to h264"
        );
        assert_eq!(error.exit_code(), 69);
        for text in ["v5.0.0", "0.8.7", "", "unknown"] {
            assert_eq!(check_version(text).unwrap_err().exit_code(), 69, "{text}");
        }
    }

    #[test]
    fn an_old_library_that_is_installed_is_refused_by_its_version() {
        // SAFETY: loads a library of the system and asks its version, as the header declares it.
        let text = unsafe {
            let Ok(library) = libloading::Library::new("libSvtAv1Enc.so.1") else {
                println!("SKIPPED: an old SVT-AV1: libSvtAv1Enc.so.1 is not installed (Debian 12: libsvtav1enc1)");
                return;
            };
            CStr::from_ptr(function::<Version>(&library, "svt_av1_get_version").unwrap()()).to_str().unwrap().to_owned()
        };
        assert!(text.trim_start_matches('v').starts_with("1."), "{text}");
        let error = check_version(&text).unwrap_err();
        assert!(error.to_string().contains(&text) && error.exit_code() == 69, "{error}");
    }

    /// From the headers of 2.0, 2.3, 3.0, 3.1, 4.0, 4.1 and 4.2 on a 64-bit machine.
    #[test]
    fn the_layouts_are_those_of_the_headers() {
        assert_eq!(offset_of!(Header, buffer), 8);
        assert_eq!(offset_of!(Header, filled_bytes), 16);
        assert_eq!(offset_of!(Header, private), 24);
        assert_eq!(offset_of!(Header, pts), 56);
        assert_eq!(offset_of!(Header, tail), 64);
        assert!(size_of::<Header>() >= 144);
        assert_eq!((offset_of!(Picture, y_stride), offset_of!(Picture, cb_stride)), (24, 32));
        assert_eq!((offset_of!(Picture, width), offset_of!(Picture, bit_depth)), (36, 56));
        assert_eq!((size_of::<Node>(), size_of::<Rate>()), (32, 8));
    }
}
