//! What calls return: 0 for done, above 0 for done with something to know, below 0 for an error.
#![expect(unsafe_code, reason = "exported to C under its plain name")]

use std::ffi::{CStr, c_char, c_int};

/// Done.
pub const QSV_OK: c_int = 0;
/// The frame was taken; its access unit comes out with a later call. The memory of the frame has to stay as it is
/// until then.
pub const QSV_MORE_INPUT: c_int = 1;
/// Done, but with simpler settings or another encoder than asked for: qsv_last_error says which.
pub const QSV_FALLBACK: c_int = 2;
/// Nothing came within the time given.
pub const QSV_TIMEOUT: c_int = 3;
/// The process was asked to end (SIGTERM, SIGINT) or a successor is ready to take its place: detach.
pub const QSV_STOPPED: c_int = 4;

/// A pointer that is needed is NULL.
pub const QSV_ERR_NULL_POINTER: c_int = -1;
/// The context was destroyed, detached, or never was.
pub const QSV_ERR_INVALID_HANDLE: c_int = -2;
/// A value is out of its range; the text names it and what is allowed.
pub const QSV_ERR_INVALID_ARGUMENT: c_int = -3;
/// What is asked for does not exist here: an encoder without this feature, a surface in video memory.
pub const QSV_ERR_UNSUPPORTED: c_int = -4;
/// A device or library is missing; the text says which and how to get it.
pub const QSV_ERR_UNAVAILABLE: c_int = -5;
/// The caller's buffer is too small: data_length says what is needed. The access unit is kept for the next call.
pub const QSV_ERR_NOT_ENOUGH_BUFFER: c_int = -6;
/// Another thread is within a call with this context, or the place in the ring is another process's.
pub const QSV_ERR_BUSY: c_int = -7;
/// Too much waits to be taken out: fetch access units, or send those of the frames taken from the ring.
pub const QSV_ERR_PENDING: c_int = -8;
/// The frame is of another size or pixel format than the context: make a new context.
pub const QSV_ERR_FORMAT_CHANGED: c_int = -9;
/// The encoder's library failed, or made a stream that cannot be handed on.
pub const QSV_ERR_LIBRARY: c_int = -10;
/// The device or its driver is lost: call qsv_emergency_reset, then give the frame again that was refused.
pub const QSV_ERR_DEVICE_LOST: c_int = -11;
/// A ring or a shared object cannot be used; the text says which and why.
pub const QSV_ERR_RING: c_int = -12;
/// A successor has taken the place of this process: detach, and do not come back.
pub const QSV_ERR_FENCED: c_int = -13;
/// The access unit does not fit a buffer of the ring; the next one has to be an IDR.
pub const QSV_ERR_TOO_LARGE: c_int = -14;
/// A defect of this library. Destroy the context; the text says what happened.
pub const QSV_ERR_INTERNAL: c_int = -99;

/// The name of a code as it stands in this header; "unknown" for any other number. Never NULL, never freed.
#[unsafe(no_mangle)]
pub extern "C" fn qsv_error_name(code: c_int) -> *const c_char {
    name(code).as_ptr()
}

/// Version of this library, "MAJOR.MINOR.PATCH". Never NULL, never freed.
#[unsafe(no_mangle)]
pub extern "C" fn qsv_version() -> *const c_char {
    const VERSION: &CStr = match CStr::from_bytes_with_nul(concat!(env!("CARGO_PKG_VERSION"), "\0").as_bytes()) {
        Ok(version) => version,
        Err(_) => c"unknown",
    };
    VERSION.as_ptr()
}

pub(crate) fn name(code: c_int) -> &'static CStr {
    match code {
        QSV_OK => c"QSV_OK",
        QSV_MORE_INPUT => c"QSV_MORE_INPUT",
        QSV_FALLBACK => c"QSV_FALLBACK",
        QSV_TIMEOUT => c"QSV_TIMEOUT",
        QSV_STOPPED => c"QSV_STOPPED",
        QSV_ERR_NULL_POINTER => c"QSV_ERR_NULL_POINTER",
        QSV_ERR_INVALID_HANDLE => c"QSV_ERR_INVALID_HANDLE",
        QSV_ERR_INVALID_ARGUMENT => c"QSV_ERR_INVALID_ARGUMENT",
        QSV_ERR_UNSUPPORTED => c"QSV_ERR_UNSUPPORTED",
        QSV_ERR_UNAVAILABLE => c"QSV_ERR_UNAVAILABLE",
        QSV_ERR_NOT_ENOUGH_BUFFER => c"QSV_ERR_NOT_ENOUGH_BUFFER",
        QSV_ERR_BUSY => c"QSV_ERR_BUSY",
        QSV_ERR_PENDING => c"QSV_ERR_PENDING",
        QSV_ERR_FORMAT_CHANGED => c"QSV_ERR_FORMAT_CHANGED",
        QSV_ERR_LIBRARY => c"QSV_ERR_LIBRARY",
        QSV_ERR_DEVICE_LOST => c"QSV_ERR_DEVICE_LOST",
        QSV_ERR_RING => c"QSV_ERR_RING",
        QSV_ERR_FENCED => c"QSV_ERR_FENCED",
        QSV_ERR_TOO_LARGE => c"QSV_ERR_TOO_LARGE",
        QSV_ERR_INTERNAL => c"QSV_ERR_INTERNAL",
        _ => c"unknown",
    }
}
