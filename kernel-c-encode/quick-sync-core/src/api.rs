//! The exported functions of the encoder.
#![expect(unsafe_code, reason = "exported to C under their plain names, with C's pointers")]

use crate::border::{self, Last};
use crate::codes::*;
use crate::config;
use crate::context::{Context, State};
use crate::failure::Failure;
use crate::handle::Table;
use crate::output::Callback;
use crate::types::*;
use std::ffi::{c_char, c_int, c_void};
use std::sync::atomic::Ordering;
use std::time::Duration;

/// "QE" in the top of a handle.
pub(crate) static CONTEXTS: Table<Context> = Table::new("encoder context", 0x5145);

/// Looks a context up and runs `body` with its state; an error is kept for this thread and for the context.
fn with(ctx: *const QSVEncoderContext, body: impl FnOnce(&Context, &mut State) -> Result<c_int, Failure>) -> c_int {
    let handle = ctx as usize;
    let code = border::call(|| {
        let context = CONTEXTS.get(handle)?;
        let mut state = context.state()?;
        body(&context, &mut state)
    });
    if code < 0
        && let Ok(context) = CONTEXTS.get(handle)
    {
        // In a function given to atexit the thread remembers nothing any more: then the code is all there is.
        let last = border::last();
        let last = if last.code == code { last } else { Last { code, text: String::new() } };
        context.remember(last);
    }
    code
}

/// Opens an encoder for H.264 in NV12, BT.709 limited, with constant bitrate, as the best backend of this machine makes
/// it: an Intel device, else a software encoder. `bitrate` is in bit/s. `low_latency` not 0: no frame is held back.
///
/// Returns NULL on error: qsv_last_error_code(NULL) and qsv_last_error(NULL) say which.
#[unsafe(no_mangle)]
pub extern "C" fn qsv_init_encoder(
    width: c_int,
    height: c_int,
    fps: c_int,
    bitrate: c_int,
    low_latency: c_int,
) -> *mut QSVEncoderContext {
    let opened = border::value(|| {
        let fps_num = u32::try_from(fps).map_err(|_| Failure::value("fps", fps, "more than 0"))?;
        let bitrate_bps = u64::try_from(bitrate).map_err(|_| config::no_bitrate(bitrate))?;
        // SAFETY: numbers and pointers, for which zeros are 0 and NULL.
        let zero: qsv_config = unsafe { std::mem::zeroed() };
        let config = qsv_config {
            struct_size: size_of::<qsv_config>() as u32,
            width,
            height,
            fps_num,
            bitrate_bps,
            low_latency,
            ..zero
        };
        // SAFETY: a whole structure without text.
        Context::open(unsafe { config::read(&config) }?)
    });
    keep(opened)
}

/// Opens an encoder as `config` says. Returns NULL on error: qsv_last_error_code(NULL) and qsv_last_error(NULL) say
/// which.
///
/// # Safety
/// `config` points at struct_size bytes, its text at text that ends in a NUL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qsv_init_encoder_ex(config: *const qsv_config) -> *mut QSVEncoderContext {
    // SAFETY: the caller's promise.
    keep(border::value(|| Context::open(unsafe { config::read(config) }?)))
}

fn keep(opened: Result<Context, c_int>) -> *mut QSVEncoderContext {
    match opened {
        Ok(context) => CONTEXTS.insert(context) as *mut QSVEncoderContext,
        Err(_) => std::ptr::null_mut(),
    }
}

/// Encodes a frame and gives out the oldest access unit that is ready; with low_latency that is the frame's own.
///
/// QSV_OK: `out` is filled. QSV_MORE_INPUT: the frame was taken and its access unit comes later.
/// QSV_ERR_NOT_ENOUGH_BUFFER: the frame was taken, and its access unit waits for qsv_next_access_unit. Any other error:
/// the frame was not taken. With an output callback, access units go there; `out` may be NULL and stays empty.
///
/// # Safety
/// `frame` and `out` point at such structures, the planes at as many bytes as the frame says, `out->data` at
/// max_length bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qsv_encode_frame(
    ctx: *mut QSVEncoderContext,
    frame: *const qsv_frame,
    out: *mut qsv_bitstream,
) -> c_int {
    with(ctx, |context, state| {
        // SAFETY: the caller's promise; `None` for NULL.
        let frame = unsafe { frame.as_ref() }.ok_or_else(|| Failure::null("frame"))?;
        // SAFETY: the caller's promise, for both.
        unsafe { encode(context, state, frame, out) }
    })
}

/// What encoding a frame and encoding a surface have in common.
///
/// # Safety
/// As [`qsv_encode_frame`].
pub(crate) unsafe fn encode(
    context: &Context,
    state: &mut State,
    frame: &qsv_frame,
    out: *mut qsv_bitstream,
) -> Result<c_int, Failure> {
    // SAFETY: the caller's promise.
    unsafe { check_out(state, out) }?;
    // SAFETY: the caller's promise.
    unsafe { state.encode(frame, &context.idr_asked) }?;
    // SAFETY: the caller's promise.
    unsafe { give(state, out) }
}

/// As [`encode`], for a surface of oneVPL.
///
/// # Safety
/// As [`crate::surface::qsv_encode_surface`].
pub(crate) unsafe fn with_context(
    ctx: *mut QSVEncoderContext,
    body: impl FnOnce(&Context, &mut State) -> Result<c_int, Failure>,
) -> c_int {
    with(ctx, body)
}

/// Before a frame is taken: can what it brings be handed out?
///
/// # Safety
/// `out` is NULL or points at such a structure.
unsafe fn check_out(state: &State, out: *const qsv_bitstream) -> Result<(), Failure> {
    // SAFETY: the caller's promise.
    match unsafe { out.as_ref() } {
        None if state.callback.is_none() => Err(Failure::null("out, without an output callback,")),
        Some(out) if out.max_length > 0 && out.data.is_null() => Err(Failure::null("out.data, with a max_length,")),
        _ => Ok(()),
    }
}

/// Hands out what waits: to the callback, or the oldest to `out`.
///
/// # Safety
/// As [`qsv_encode_frame`].
unsafe fn give(state: &mut State, out: *mut qsv_bitstream) -> Result<c_int, Failure> {
    // SAFETY: the caller's promise.
    let out = unsafe { out.as_mut() };
    if state.callback.is_some() {
        state.call_back();
        if let Some(out) = out {
            (out.data_length, out.flags, out.pending) = (0, 0, 0);
        }
        return Ok(QSV_OK);
    }
    let Some(out) = out else { return Ok(QSV_OK) };
    // SAFETY: the caller's promise for `out.data`.
    unsafe { state.hand_out(out) }
}

/// Gives out the oldest access unit that waits, after a flush, a buffer that was too small, or QSV_MORE_INPUT; waits up
/// to `timeout_ms` for a device that is still at work (0 or less: not at all). QSV_OK, or QSV_MORE_INPUT when there is
/// none.
///
/// # Safety
/// `out` as for qsv_encode_frame.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qsv_next_access_unit(
    ctx: *mut QSVEncoderContext,
    out: *mut qsv_bitstream,
    timeout_ms: c_int,
) -> c_int {
    with(ctx, |_, state| {
        // SAFETY: the caller's promise.
        unsafe { check_out(state, out) }?;
        if state.units.waiting() == 0 {
            state.collect(Duration::from_millis(u64::try_from(timeout_ms).unwrap_or(0)))?;
        }
        // SAFETY: the caller's promise.
        unsafe { give(state, out) }
    })
}

/// Access units go to `callback` from now on, with `user`, also those that wait already; NULL: to `out` again.
///
/// # Safety
/// `callback` is a function of that type that may be called, with `user`, in every call with this context until it is
/// replaced or the context destroyed.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qsv_set_output_callback(
    ctx: *mut QSVEncoderContext,
    callback: qsv_output_callback,
    user: *mut c_void,
) -> c_int {
    with(ctx, |_, state| {
        state.callback = callback.map(|function| Callback { function, user });
        state.call_back();
        Ok(QSV_OK)
    })
}

/// Brings out every frame that is still inside the encoder. The access units go to the output callback; without one
/// they wait, and qsv_next_access_unit or the next qsv_encode_frame gives them out. The stream may go on afterwards.
#[unsafe(no_mangle)]
pub extern "C" fn qsv_flush_frames(ctx: *mut QSVEncoderContext) -> c_int {
    with(ctx, |_, state| {
        state.flush()?;
        state.call_back();
        Ok(QSV_OK)
    })
}

/// Closes the encoder, then its session, then its display, and frees everything that was lent. NULL does nothing. A
/// context that was destroyed already is left alone and remembered as QSV_ERR_INVALID_HANDLE. Frames still inside are
/// lost: flush first.
#[unsafe(no_mangle)]
pub extern "C" fn qsv_destroy_encoder(ctx: *mut QSVEncoderContext) {
    if ctx.is_null() {
        return;
    }
    // The last owner closes it: this call, or one of another thread that has not returned.
    border::call(|| CONTEXTS.remove(ctx as usize).map(drop).map(|()| QSV_OK));
}

/// The next frame becomes an IDR. May be called from any thread at any time.
#[unsafe(no_mangle)]
pub extern "C" fn qsv_request_idr(ctx: *mut QSVEncoderContext) -> c_int {
    border::call(|| {
        CONTEXTS.get(ctx as usize)?.idr_asked.store(true, Ordering::Release);
        Ok(QSV_OK)
    })
}

/// Changes the target bitrate from the next frame on, in bit/s, without an IDR where the encoder can.
#[unsafe(no_mangle)]
pub extern "C" fn qsv_set_bitrate(ctx: *mut QSVEncoderContext, bitrate_bps: u64) -> c_int {
    with(ctx, |_, state| state.set_bitrate(bitrate_bps).map(|()| QSV_OK))
}

/// After QSV_ERR_DEVICE_LOST, or when the encoder hangs in the application's eyes: resets the device. Where that fails, and
/// for an encoder without a device, closes the encoder and opens it anew. The stream goes on with an IDR. Frames that
/// were inside stay inside and come out in their order, the first as that IDR: with the next calls, or into the callback.
///
/// QSV_OK: as it was. QSV_FALLBACK: with simpler settings, with another backend where that was left to choose, or with
/// frames that no encoder takes as QSV_UNIT_LEFT_OUT; qsv_last_error says which. An error: nothing could be opened, and
/// the frames inside wait; it may be called again.
#[unsafe(no_mangle)]
pub extern "C" fn qsv_emergency_reset(ctx: *mut QSVEncoderContext) -> c_int {
    with(ctx, |context, state| {
        let given_up = state.reset();
        state.call_back();
        match given_up? {
            None => Ok(QSV_OK),
            Some(text) => {
                border::remember(QSV_FALLBACK, &text);
                context.remember(Last { code: QSV_FALLBACK, text });
                Ok(QSV_FALLBACK)
            }
        }
    })
}

/// Text of the last error: of this context, or with NULL of this thread (after an init that failed, or for a ring). ""
/// when there was none. Valid until this thread has called qsv_last_error, qsv_backend or qsv_path eight times more.
#[unsafe(no_mangle)]
pub extern "C" fn qsv_last_error(ctx: *const QSVEncoderContext) -> *const c_char {
    border::value(|| Ok(border::show(&last(ctx).text))).unwrap_or(c"".as_ptr())
}

/// Code of that error; QSV_OK when there was none.
#[unsafe(no_mangle)]
pub extern "C" fn qsv_last_error_code(ctx: *const QSVEncoderContext) -> c_int {
    border::call(|| Ok(last(ctx).code))
}

fn last(ctx: *const QSVEncoderContext) -> Last {
    match CONTEXTS.get(ctx as usize) {
        Ok(context) => context.last(),
        Err(_) if ctx.is_null() => border::last(),
        Err(failure) => Last { code: failure.code, text: failure.text },
    }
}

/// Name of the backend in use, as "openh264"; "" without one. Valid as qsv_last_error's text.
#[unsafe(no_mangle)]
pub extern "C" fn qsv_backend(ctx: *const QSVEncoderContext) -> *const c_char {
    text_of(ctx, |state| state.encoder().map_or("", |encoder| encoder.name()).to_owned())
}

/// How pixels reach the encoder, for people. Valid as qsv_last_error's text.
#[unsafe(no_mangle)]
pub extern "C" fn qsv_path(ctx: *const QSVEncoderContext) -> *const c_char {
    text_of(ctx, |state| state.encoder().map_or(String::new(), |encoder| encoder.path().to_owned()))
}

fn text_of(ctx: *const QSVEncoderContext, text: impl FnOnce(&mut State) -> String) -> *const c_char {
    let mut shown = c"".as_ptr();
    with(ctx, |_, state| {
        shown = border::show(&text(state));
        Ok(QSV_OK)
    });
    shown
}

/// Bytes of pixels that were copied since the context was opened: 0 when every frame was encoded where it lay and the
/// encoder reads it there.
#[unsafe(no_mangle)]
pub extern "C" fn qsv_copied_bytes(ctx: *const QSVEncoderContext) -> u64 {
    let mut bytes = 0;
    with(ctx, |_, state| {
        bytes = state.copied_bytes();
        Ok(QSV_OK)
    });
    bytes
}
