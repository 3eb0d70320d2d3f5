//! The openh264 library behind a safe face: one encoder object, its options, its output.
#![expect(unsafe_code, reason = "calls a C++ library through its function table")]

use crate::error::EncoderError;
use openh264_sys2 as sys;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::time::{Duration, Instant};

/// Name in errors.
pub const LIBRARY: &str = "openh264";

/// Planes of one I420 picture in memory the library may read.
#[derive(Debug, Clone, Copy)]
pub struct Picture {
    /// First bytes of Y, Cb, Cr.
    pub planes: [*const u8; 3],
    /// Bytes from a row to the next.
    pub strides: [u32; 3],
    /// Visible width, pixels; even.
    pub width: u32,
    /// Visible height, pixels; even.
    pub height: u32,
    /// Presentation time, ms.
    pub time_ms: i64,
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coded {
    /// An IDR picture.
    Idr,
    /// A picture that refers to others.
    Inter,
    /// The rate control left it out.
    Skipped,
}

/// One encoder object. Its bitstream buffers live as long as it does.
#[derive(Debug)]
pub struct Library {
    encoder: *mut sys::ISVCEncoder,
    output: Box<sys::SFrameBSInfo>,
    coded: bool,
    /// When it encoded last.
    encoded: Option<Instant>,
}

/// How long the library's threads get to finish after a frame before what they use is freed. A thread that says "done"
/// wakes the caller first and unlocks its lock afterwards (`CWelsTaskManageBase::OnTaskMinusOne`): valgrind saw that
/// lock freed in between. The rest is a few instructions; this is time for a thread that lost its processor there.
const THREADS_FINISH_WITHIN: Duration = Duration::from_millis(10);

// SAFETY: the object has no tie to the thread that made it; its own threads synchronise inside. Every call takes
// `&mut self`, so two threads never call at once.
unsafe impl Send for Library {}

fn check(call: &'static str, code: c_int) -> Result<(), EncoderError> {
    if code == 0 { Ok(()) } else { Err(EncoderError::Library { library: LIBRARY, call, code: i64::from(code) }) }
}

fn missing(call: &'static str) -> EncoderError {
    EncoderError::Library { library: LIBRARY, call, code: -1 }
}

/// The parameters the library starts from.
pub fn default_params() -> Result<sys::SEncParamExt, EncoderError> {
    Library::create()?.default_params()
}

/// Hands the library's messages to the log.
unsafe extern "C" fn log(_context: *mut c_void, level: c_int, message: *const c_char) {
    if message.is_null() {
        return;
    }
    // SAFETY: the library passes a zero-terminated string that lives for the call.
    let message = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    if level <= sys::WELS_LOG_ERROR {
        tracing::error!(target: "openh264", "{}", message.trim_end());
    } else {
        tracing::debug!(target: "openh264", "{}", message.trim_end());
    }
}

impl Library {
    /// An encoder object that is not initialised yet and says errors through the log.
    pub fn create() -> Result<Library, EncoderError> {
        let mut encoder = std::ptr::null_mut();
        // SAFETY: writes the pointer of a new object, or leaves it null and says so.
        let code = unsafe { sys::source::APILoader::WelsCreateSVCEncoder(&mut encoder) };
        check("WelsCreateSVCEncoder", code)?;
        if encoder.is_null() {
            return Err(missing("WelsCreateSVCEncoder"));
        }
        let mut library = Library { encoder, output: Box::default(), coded: false, encoded: None };
        // Warnings are about choices made here on purpose (no frame skipping).
        let mut level: c_int = sys::WELS_LOG_ERROR;
        library.set_option(sys::ENCODER_OPTION_TRACE_LEVEL, &mut level)?;
        let mut callback: unsafe extern "C" fn(*mut c_void, c_int, *const c_char) = log;
        library.set_option(sys::ENCODER_OPTION_TRACE_CALLBACK, &mut callback)?;
        Ok(library)
    }

    fn table(&self) -> &sys::ISVCEncoderVtbl {
        // SAFETY: the object is alive until drop, and its first word points at its constant function table.
        unsafe { &**self.encoder }
    }

    /// The parameters the library starts from.
    pub fn default_params(&mut self) -> Result<sys::SEncParamExt, EncoderError> {
        let mut params = sys::SEncParamExt::default();
        let call = self.table().GetDefaultParams.ok_or_else(|| missing("GetDefaultParams"))?;
        // SAFETY: fills the structure it is given, of the type its header declares.
        check("GetDefaultParams", unsafe { call(self.encoder, &mut params) })?;
        Ok(params)
    }

    /// Makes the object ready to encode.
    pub fn initialize(&mut self, params: &sys::SEncParamExt) -> Result<(), EncoderError> {
        let call = self.table().InitializeExt.ok_or_else(|| missing("InitializeExt"))?;
        // SAFETY: reads the structure, of the type its header declares.
        check("InitializeExt", unsafe { call(self.encoder, params) })
    }

    /// Sets an option. `T` must be what `codec_app_def.h` says for it.
    fn set_option<T>(&mut self, option: sys::ENCODER_OPTION, value: &mut T) -> Result<(), EncoderError> {
        let call = self.table().SetOption.ok_or_else(|| missing("SetOption"))?;
        // SAFETY: the library reads one value of the option's type; the callers below, all in this file, pass it.
        check("SetOption", unsafe { call(self.encoder, option, std::ptr::from_mut(value).cast()) })
    }

    /// Replaces all parameters. The object starts anew when one that shapes the stream differs; `idr_pic_id` counts on.
    pub fn set_params(&mut self, params: &sys::SEncParamExt) -> Result<(), EncoderError> {
        let mut params = *params;
        self.set_option(sys::ENCODER_OPTION_SVC_ENCODE_PARAM_EXT, &mut params)
    }

    /// Changes the target bitrate of the next frames, bit/s.
    pub fn set_bitrate(&mut self, bits_per_s: c_int) -> Result<(), EncoderError> {
        let mut info = sys::SBitrateInfo { iLayer: sys::SPATIAL_LAYER_ALL, iBitrate: bits_per_s };
        self.set_option(sys::ENCODER_OPTION_BITRATE, &mut info)
    }

    /// Names the rate control of the next frames.
    pub fn set_rate_control(&mut self, mut mode: sys::RC_MODES) -> Result<(), EncoderError> {
        self.set_option(sys::ENCODER_OPTION_RC_MODE, &mut mode)
    }

    /// The mean quantisation parameter of the last frame.
    pub fn last_qp(&mut self) -> Result<u8, EncoderError> {
        let call = self.table().GetOption.ok_or_else(|| missing("GetOption"))?;
        let mut statistics = sys::SEncoderStatistics::default();
        let into = std::ptr::from_mut(&mut statistics).cast();
        // SAFETY: the library fills the structure that its header declares for this option.
        check("GetOption", unsafe { call(self.encoder, sys::ENCODER_OPTION_GET_STATISTICS, into) })?;
        Ok(u8::try_from(statistics.uiAverageFrameQP).unwrap_or(u8::MAX).min(51))
    }

    /// Makes the next frame an IDR.
    pub fn force_idr(&mut self) -> Result<(), EncoderError> {
        let call = self.table().ForceIntraFrame.ok_or_else(|| missing("ForceIntraFrame"))?;
        // `codec_api.h` declares a second parameter, the layer, which the bindings left out.
        type ForceIntraFrame = unsafe extern "C" fn(*mut sys::ISVCEncoder, bool, c_int) -> c_int;
        const ALL_LAYERS: c_int = -1;
        // SAFETY: both are C function pointers of the same table entry; this is the type the header declares.
        let call = unsafe {
            std::mem::transmute::<unsafe extern "C" fn(*mut sys::ISVCEncoder, bool) -> c_int, ForceIntraFrame>(call)
        };
        // SAFETY: the object is alive and initialised.
        check("ForceIntraFrame", unsafe { call(self.encoder, true, ALL_LAYERS) })
    }

    /// Encodes one picture; its NAL units are then in [`Library::nal_units`].
    ///
    /// # Safety
    /// `width` bytes of `height` rows of the first plane, and half of each of the other two, are mapped and readable
    /// at the strides given until this returns. The library copies exactly those (`WelsMoveMemory_c`), nothing around.
    pub unsafe fn encode(&mut self, picture: &Picture) -> Result<Coded, EncoderError> {
        let call = self.table().EncodeFrame.ok_or_else(|| missing("EncodeFrame"))?;
        let source = sys::SSourcePicture {
            iColorFormat: sys::videoFormatI420,
            iStride: [picture.strides[0] as c_int, picture.strides[1] as c_int, picture.strides[2] as c_int, 0],
            pData: [
                picture.planes[0].cast_mut(),
                picture.planes[1].cast_mut(),
                picture.planes[2].cast_mut(),
                std::ptr::null_mut(),
            ],
            iPicWidth: picture.width as c_int,
            iPicHeight: picture.height as c_int,
            uiTimeStamp: picture.time_ms,
            ..Default::default()
        };
        self.coded = false;
        // SAFETY: the caller vouches for the planes, which the library only reads; the output structure is ours.
        let code = unsafe { call(self.encoder, &source, &mut *self.output) };
        self.encoded = Some(Instant::now());
        check("EncodeFrame", code)?;
        match self.output.eFrameType {
            sys::videoFrameTypeIDR => {
                self.coded = true;
                Ok(Coded::Idr)
            }
            sys::videoFrameTypeP | sys::videoFrameTypeI | sys::videoFrameTypeIPMixed => {
                self.coded = true;
                Ok(Coded::Inter)
            }
            sys::videoFrameTypeSkip => Ok(Coded::Skipped),
            other => {
                Err(EncoderError::Library { library: LIBRARY, call: "EncodeFrame: frame type", code: other.into() })
            }
        }
    }

    /// The NAL units of the last frame in order, each with its four-byte start code.
    pub fn nal_units(&self) -> impl Iterator<Item = &[u8]> + '_ {
        let layers = if self.coded { self.output.iLayerNum.max(0) as usize } else { 0 };
        self.output.sLayerInfo.iter().take(layers).flat_map(|layer| {
            let mut begin = 0;
            (0..layer.iNalCount.max(0) as usize).map(move |index| {
                // SAFETY: the library filled `iNalCount` lengths, and the NAL units lie one behind the other in a
                // buffer of its own that stays untouched until the next call, which needs `&mut self`.
                unsafe {
                    let len = (*layer.pNalLengthInByte.add(index)).max(0) as usize;
                    let nal = std::slice::from_raw_parts(layer.pBsBuf.add(begin), len);
                    begin += len;
                    nal
                }
            })
        })
    }
}

impl Drop for Library {
    fn drop(&mut self) {
        if let Some(encoded) = self.encoded {
            std::thread::sleep(THREADS_FINISH_WITHIN.saturating_sub(encoded.elapsed()));
        }
        if let Some(uninitialize) = self.table().Uninitialize {
            // SAFETY: the object is alive; an uninitialised one is left as it is.
            unsafe { uninitialize(self.encoder) };
        }
        // SAFETY: made by WelsCreateSVCEncoder, destroyed once.
        unsafe { sys::source::APILoader::WelsDestroySVCEncoder(self.encoder) };
    }
}
