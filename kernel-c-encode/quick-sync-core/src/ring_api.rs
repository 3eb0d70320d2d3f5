//! The exported functions that put a C program between the rings of a running instance.
#![expect(unsafe_code, reason = "exported to C under their plain names, with C's pointers")]

use crate::border;
use crate::codes::*;
use crate::config::{sized, text};
use crate::failure::Failure;
use crate::handle::Table;
use crate::ring::Ring;
use crate::types::*;
use kernel_host::args::{DEFAULT_INSTANCE, KernelArgs};
use kernel_host::name::{KernelName, Kind};
use std::ffi::{c_char, c_int};
use std::path::PathBuf;
use std::sync::{Mutex, TryLockError};
use std::time::Duration;

/// "QR" in the top of a handle. `None` once it is detached.
static RINGS: Table<Mutex<Option<Ring>>> = Table::new("ring", 0x5152);

/// Looks a ring up and runs `body` with it.
fn with(ring: *mut QSVRing, body: impl FnOnce(&mut Ring) -> Result<c_int, Failure>) -> c_int {
    border::call(|| {
        let found = RINGS.get(ring as usize)?;
        let mut locked = found.try_lock().map_err(refused)?;
        match locked.as_mut() {
            Some(ring) => body(ring),
            None => Err(Failure::new(QSV_ERR_INVALID_HANDLE, "The ring is detached")),
        }
    })
}

fn refused<T>(error: TryLockError<T>) -> Failure {
    match error {
        TryLockError::WouldBlock => Failure::new(QSV_ERR_BUSY, "Another call with this ring has not returned"),
        TryLockError::Poisoned(_) => Failure::new(QSV_ERR_INTERNAL, "An earlier call with this ring failed inside"),
    }
}

fn patience(timeout_ms: c_int) -> Duration {
    // Negative: for ever, as far as a life goes.
    u64::try_from(timeout_ms).map_or(Duration::from_secs(u64::from(u32::MAX)), Duration::from_millis)
}

/// Makes this process kernel C of a running instance: it takes frames from the ring of kernel B, or of whatever
/// encode.input names, and gives access units to kernel D. `instance` NULL is "default"; `kernel` NULL is "encode.main",
/// another is an instance the configuration has (as "encode.web", which may miss frames). `config` NULL: all keys have
/// their defaults; it has to be the configuration that the other kernels have.
///
/// Waits for the ring upstream to appear. The process is a kernel from then on: its thread is bound to the kernel's
/// cpus, SIGTERM and SIGINT end waits with QSV_STOPPED, and it has to come back to this library at least every
/// hang_timeout_ms (2 s), or the supervisor takes it for dead.
///
/// Returns NULL on error: qsv_last_error_code(NULL) and qsv_last_error(NULL) say which. QSV_ERR_BUSY: another process
/// is this kernel.
///
/// # Safety
/// Text ends in a NUL; `config` points at struct_size bytes, its settings at settings_count texts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qsv_capture_attach(
    instance: *const c_char,
    kernel: *const c_char,
    config: *const qsv_ring_config,
) -> *mut QSVRing {
    let attached = border::value(|| {
        // SAFETY: the caller's promise.
        let (args, wait) = unsafe { arguments(instance, kernel, config) }?;
        Ring::attach(&args, wait)
    });
    match attached {
        Ok(ring) => RINGS.insert(Mutex::new(Some(ring))) as *mut QSVRing,
        Err(_) => std::ptr::null_mut(),
    }
}

/// What the binary is told by its command line.
///
/// # Safety
/// As [`qsv_capture_attach`].
unsafe fn arguments(
    instance: *const c_char,
    kernel: *const c_char,
    config: *const qsv_ring_config,
) -> Result<(KernelArgs, bool), Failure> {
    /// More keys than the configuration has.
    const MOST_SETTINGS: u32 = 1000;
    // SAFETY: the caller's promise, for both.
    let (instance, kernel) = unsafe { (text(instance, "instance")?, text(kernel, "kernel")?) };
    let name: KernelName =
        kernel.as_deref().unwrap_or("encode.main").parse().map_err(kernel_host::exit::Failure::from)?;
    if name.kind != Kind::Encode {
        return Err(Failure::value("kernel", &name, "an encode kernel, as encode.main"));
    }
    let mut args = KernelArgs {
        config: None,
        instance: instance.unwrap_or_else(|| DEFAULT_INSTANCE.to_owned()),
        name: name.name,
        set: Vec::new(),
        check: false,
        standby: false,
        version: format!("{} quick-sync-core", env!("CARGO_PKG_VERSION")),
    };
    if config.is_null() {
        return Ok((args, false));
    }
    // SAFETY: the caller's promise; the structure is plain data, and zeros are numbers and NULL pointers.
    let config = unsafe { sized(config, "qsv_ring_config", size_of::<qsv_ring_config>()) }?;
    if config.flags & !QSV_ATTACH_WAIT != 0 || config.reserved != [0; 7] {
        return Err(Failure::value("flags or reserved", config.flags, "QSV_ATTACH_WAIT, reserved 0"));
    }
    // SAFETY: the caller's promise.
    args.config = unsafe { text(config.config_file, "config_file") }?.map(PathBuf::from);
    if config.settings_count > MOST_SETTINGS {
        return Err(Failure::value("settings_count", config.settings_count, format!("0 to {MOST_SETTINGS}")));
    }
    if config.settings_count > 0 && config.settings.is_null() {
        return Err(Failure::null("settings"));
    }
    for index in 0..config.settings_count as usize {
        // SAFETY: the caller's promise: there are settings_count of them, and each is text.
        let setting = unsafe { text(config.settings.add(index).read(), "settings") }?;
        args.set.push(setting.ok_or_else(|| Failure::null(&format!("settings[{index}]")))?);
    }
    Ok((args, config.flags & QSV_ATTACH_WAIT != 0))
}

/// Fills in size, rate, pixel format and colour of the ring's frames, and the codec, bitrate, low_latency and idr_count
/// that the instance asks for; leaves the rest of `config` as it is. Waits for the first frame.
///
/// QSV_OK, QSV_TIMEOUT, QSV_STOPPED or an error.
///
/// # Safety
/// `config` points at a qsv_config of this version, with struct_size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qsv_capture_describe(ring: *mut QSVRing, config: *mut qsv_config, timeout_ms: c_int) -> c_int {
    with(ring, |ring| {
        // SAFETY: the caller's promise.
        let mut copy = unsafe { sized(config.cast_const(), "qsv_config", size_of::<qsv_config>()) }?;
        ring.describe(&mut copy, patience(timeout_ms))?;
        // SAFETY: `sized` found the pointer not to be NULL and the structure no shorter than this one.
        unsafe { config.write_unaligned(copy) };
        Ok(QSV_OK)
    })
}

/// The next frame, where it lies in shared memory: to be encoded and then answered with qsv_network_send or
/// qsv_network_skip. Until then its pixels stay as they are. Requests from downstream are in it: QSV_FRAME_FORCE_IDR, and
/// bitrate_bps where another bitrate is asked for. `timeout_ms` negative: wait for ever.
///
/// QSV_OK, QSV_TIMEOUT, QSV_STOPPED or an error.
///
/// # Safety
/// `frame` points at such a structure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qsv_capture_get_frame(ring: *mut QSVRing, frame: *mut qsv_frame, timeout_ms: c_int) -> c_int {
    with(ring, |ring| {
        if frame.is_null() {
            return Err(Failure::null("frame"));
        }
        let taken = ring.get_frame(patience(timeout_ms))?;
        // SAFETY: the caller's promise.
        unsafe { frame.write(taken) };
        Ok(QSV_OK)
    })
}

/// Publishes an access unit for kernel D, as qsv_encode_frame gave it out, or of an encoder of the program's own:
/// data, data_length, codec and frame_id (0: the oldest frame not answered) are read, and bitrate_bps answers a wish for
/// another bitrate. data_length 0 means that nothing was made of the frame. Older frames that were not answered are
/// published as left out. Waits for room in the ring.
///
/// QSV_OK, QSV_STOPPED or an error. QSV_ERR_TOO_LARGE: it was left out; the next frame asks for an IDR.
///
/// # Safety
/// `unit` points at such a structure, its data at data_length bytes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn qsv_network_send(ring: *mut QSVRing, unit: *const qsv_bitstream) -> c_int {
    with(ring, |ring| {
        // SAFETY: the caller's promise.
        let unit = unsafe { unit.as_ref() }.ok_or_else(|| Failure::null("unit"))?;
        let bytes = match unit.data_length {
            0 => &[][..],
            _ if unit.data.is_null() => return Err(Failure::null("unit.data")),
            length if length > isize::MAX as usize => {
                return Err(Failure::value("unit.data_length", length, "what memory holds"));
            }
            // SAFETY: the caller's promise; not NULL, and no longer than an object can be.
            length => unsafe { std::slice::from_raw_parts(unit.data, length) },
        };
        ring.send(unit, bytes)?;
        Ok(QSV_OK)
    })
}

/// Publishes that nothing is made of a frame (0: of the oldest not answered), so that no id is missing downstream.
#[unsafe(no_mangle)]
pub extern "C" fn qsv_network_skip(ring: *mut QSVRing, frame_id: u64) -> c_int {
    with(ring, |ring| ring.skip(frame_id).map(|()| QSV_OK))
}

/// Leaves the place of kernel C. Frames not answered stay owed to a successor; one that waits takes over, and this call
/// returns when it is at work. NULL does nothing. QSV_ERR_BUSY: another thread is in a call with this ring, which stays.
#[unsafe(no_mangle)]
pub extern "C" fn qsv_capture_detach(ring: *mut QSVRing) -> c_int {
    if ring.is_null() {
        return QSV_OK;
    }
    border::call(|| {
        let found = RINGS.get(ring as usize)?;
        // A ring in use stays what it is, for another try; one whose call failed inside goes like any other.
        let taken = match found.try_lock() {
            Ok(mut locked) => locked.take(),
            Err(TryLockError::Poisoned(locked)) => locked.into_inner().take(),
            Err(busy @ TryLockError::WouldBlock) => return Err(refused(busy)),
        };
        // Of two that detach at once, the one that has the ring leaves in order, whoever removes the handle.
        let removed = RINGS.remove(ring as usize);
        match taken {
            Some(ring) => ring.detach()?,
            None => removed.map(|_| ())?,
        }
        Ok(QSV_OK)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ring_in_use_is_not_detached_and_one_that_is_detached_is_no_ring() {
        let handle = RINGS.insert(Mutex::new(None));
        let ring = handle as *mut QSVRing;
        let in_use = RINGS.get(handle).unwrap();
        let call = in_use.lock().unwrap();
        assert_eq!(qsv_capture_detach(ring), QSV_ERR_BUSY);
        assert_eq!(qsv_network_skip(ring, 0), QSV_ERR_BUSY);
        drop(call);
        assert_eq!(qsv_capture_detach(ring), QSV_OK);
        assert_eq!(qsv_capture_detach(ring), QSV_ERR_INVALID_HANDLE);
        assert_eq!(border::last().code, QSV_ERR_INVALID_HANDLE);
    }

    #[test]
    fn a_ring_whose_call_failed_inside_can_still_be_left() {
        let handle = RINGS.insert(Mutex::new(None));
        let ring = RINGS.get(handle).unwrap();
        let poisoned = std::panic::catch_unwind(|| {
            let _call = ring.lock().unwrap();
            panic!("a defect");
        });
        assert!(poisoned.is_err());
        assert_eq!(qsv_network_skip(handle as *mut QSVRing, 0), QSV_ERR_INTERNAL);
        assert_eq!(qsv_capture_detach(handle as *mut QSVRing), QSV_OK);
    }
}
