//! A VA display on a render node: the device that the session works on. i915 and xe both show render nodes.
#![expect(unsafe_code, reason = "calls libva")]

use super::library::{Va, text, va};
use libva_sys::{VA_STATUS_SUCCESS, VADisplay, VAStatus};
use std::ffi::{c_char, c_void};
use std::fs::{File, OpenOptions};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

/// Where render nodes lie.
const NODES: &str = "/dev/dri";
/// Minor numbers of render nodes (drm_drv.c: 64 per type, render nodes from 128).
const MINORS: std::ops::Range<u32> = 128..192;

/// An initialised display. Whatever uses it keeps it alive: it must end after encoder and session.
#[derive(Debug)]
pub struct Display {
    va: &'static Va,
    raw: VADisplay,
    /// Declared behind nothing that uses it: closed when the display is terminated.
    _node: File,
    path: PathBuf,
    vendor: String,
}

// SAFETY: libva locks its displays inside; a display has no tie to the thread that opened it.
unsafe impl Send for Display {}
// SAFETY: as above; every call takes the handle only.
unsafe impl Sync for Display {}

/// Hands libva's messages to the log.
unsafe extern "C" fn log(_context: *mut c_void, message: *const c_char) {
    tracing::debug!(target: "libva", "{}", text(message).trim_end());
}

impl Display {
    /// The display on `node`, or on the first render node that has a driver.
    ///
    /// # Errors
    /// Which nodes were tried and what each said.
    pub fn open(node: Option<&Path>) -> Result<Display, String> {
        let va = va()?;
        let nodes: Vec<PathBuf> = match node {
            Some(node) => vec![node.to_owned()],
            None => MINORS
                .map(|minor| Path::new(NODES).join(format!("renderD{minor}")))
                .filter(|node| node.exists())
                .collect(),
        };
        if nodes.is_empty() {
            return Err(format!("there is no render node under {NODES}"));
        }
        let mut refused = Vec::new();
        for node in nodes {
            match Display::open_one(va, &node) {
                Ok(display) => return Ok(display),
                Err(reason) => refused.push(format!("{}: {reason}", node.display())),
            }
        }
        Err(refused.join(", "))
    }

    fn open_one(va: &'static Va, path: &Path) -> Result<Display, String> {
        let node = OpenOptions::new().read(true).write(true).open(path).map_err(|error| error.to_string())?;
        // SAFETY: an open descriptor, which outlives the display (`Display::_node`).
        let raw = unsafe { va.drm.vaGetDisplayDRM(node.as_raw_fd()) };
        if raw.is_null() {
            return Err("it is no render node of the DRM".to_owned());
        }
        // SAFETY: a display just made; the callbacks are functions of this module without context.
        unsafe {
            va.core.vaSetErrorCallback(raw, Some(log), std::ptr::null_mut());
            va.core.vaSetInfoCallback(raw, Some(log), std::ptr::null_mut());
        }
        let (mut major, mut minor) = (0, 0);
        // SAFETY: a display just made, and two places for the version.
        let status = unsafe { va.core.vaInitialize(raw, &mut major, &mut minor) };
        let mut display = Display { va, raw, _node: node, path: path.to_owned(), vendor: String::new() };
        // Dropped when it failed: vaTerminate is what frees a display that did not initialise, too.
        display.check("vaInitialize", status)?;
        // SAFETY: an initialised display.
        display.vendor = text(unsafe { va.core.vaQueryVendorString(raw) });
        let vendor = &display.vendor;
        tracing::debug!(node = %path.display(), vendor, "VA-API {major}.{minor}");
        Ok(display)
    }

    /// The handle.
    pub fn raw(&self) -> VADisplay {
        self.raw
    }

    /// The functions of libva.
    pub fn va(&self) -> &'static Va {
        self.va
    }

    /// The render node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the driver calls itself.
    pub fn vendor(&self) -> &str {
        &self.vendor
    }

    /// Turns a status into a result.
    ///
    /// # Errors
    /// The call and libva's text for any status but success.
    pub fn check(&self, call: &str, status: VAStatus) -> Result<(), String> {
        if status == VA_STATUS_SUCCESS as VAStatus {
            return Ok(());
        }
        // SAFETY: takes any number.
        Err(format!("{call}: {}", text(unsafe { self.va.core.vaErrorStr(status) })))
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        // SAFETY: nothing uses the display any more: whatever does holds it through an Arc.
        unsafe { self.va.core.vaTerminate(self.raw) };
    }
}
