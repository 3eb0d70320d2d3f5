//! libva and a display of it on a render node, for both QuickSync backends.
//!
//! A display is what libva calls a driver instance: surfaces, contexts and a oneVPL session hang on it and must be
//! gone before it is. libva may be called from any thread.
#![expect(unsafe_code, reason = "calls libva, which is opened at run time")]

use crate::error::EncoderError;
use libva_sys as va;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use thiserror::Error;

/// Where the kernel puts render nodes.
const RENDER_NODES: &str = "/dev/dri";

/// Why there is no display.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum NoDisplay {
    /// libva is not installed, or is too old.
    #[error("libva cannot be opened ({reason})")]
    Library {
        /// What the loader said, or the function that is missing.
        reason: String,
    },
    /// This machine has no render node.
    #[error("no render node (no {RENDER_NODES}/renderD*)")]
    NoNode,
    /// The render node cannot be opened.
    #[error("render node {} cannot be opened ({reason})", path.display())]
    Node {
        /// The node.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// The file is no render node that libva takes.
    #[error("{} is no render node that libva takes", path.display())]
    NotANode {
        /// The file.
        path: PathBuf,
    },
    /// No driver for the device behind the node.
    #[error("vaInitialize failed on {} with code {status} ({text})", path.display())]
    Initialize {
        /// The node.
        path: PathBuf,
        /// The status.
        status: i32,
        /// What libva calls it.
        text: String,
    },
    /// Displays could be opened, but none of them was taken.
    #[error("{reason}")]
    NoneTaken {
        /// Why each one was passed over.
        reason: String,
    },
}

impl NoDisplay {
    /// What a person can do about it.
    pub fn cure(&self) -> &'static str {
        match self {
            NoDisplay::Library { .. } => "Install libva (apt install libva2 libva-drm2)",
            NoDisplay::NoNode => "Use a machine with an Intel GPU and its i915 or xe kernel driver",
            NoDisplay::Node { .. } => "Add the user to the group render, or name another node in encode.device",
            NoDisplay::NotANode { .. } => "Name a render node in encode.device, such as /dev/dri/renderD128",
            NoDisplay::Initialize { .. } => {
                "Install the VA-API driver of the GPU (apt install intel-media-va-driver-non-free), or name another \
                 node in encode.device"
            }
            NoDisplay::NoneTaken { .. } => "Choose what a device has",
        }
    }

    /// The same as an error of the backend of that name.
    pub fn unavailable(&self, backend: &str) -> EncoderError {
        EncoderError::Unavailable {
            backend: backend.to_owned(),
            reason: self.to_string(),
            cure: format!("{}. Set encode.backend to auto for another encoder", self.cure()),
        }
    }
}

/// Opens libva and libva-drm and checks that they have every function the backends call without asking first.
///
/// # Errors
/// [`NoDisplay::Library`].
pub fn library() -> Result<Arc<va::Functions>, NoDisplay> {
    // libva-drm depends on libva, and a symbol is looked for in the dependencies of a library too: one handle
    // reaches both.
    // SAFETY: the constructors of libva and libdrm have no preconditions; the bindings are of its headers, and
    // functions keep their signatures within libva.so.2.
    let functions = unsafe { va::Functions::new(va::DRM_LIBRARY) }
        .map_err(|error| NoDisplay::Library { reason: error.to_string() })?;
    macro_rules! need {
        ($($name:ident)*) => {$(
            if functions.$name.is_err() {
                return Err(NoDisplay::Library { reason: format!("it has no {}", stringify!($name)) });
            }
        )*};
    }
    need!(
        vaGetDisplayDRM vaDisplayIsValid vaErrorStr vaSetErrorCallback vaSetInfoCallback vaInitialize vaTerminate
        vaQueryVendorString vaMaxNumProfiles vaMaxNumEntrypoints vaQueryConfigProfiles vaQueryConfigEntrypoints
        vaGetConfigAttributes vaCreateConfig vaDestroyConfig vaQuerySurfaceAttributes vaCreateSurfaces
        vaDestroySurfaces vaCreateContext vaDestroyContext vaCreateBuffer vaMapBuffer vaUnmapBuffer vaDestroyBuffer
        vaExportSurfaceHandle vaBeginPicture vaRenderPicture vaEndPicture vaSyncSurface vaQuerySurfaceStatus
        vaCreateImage vaDestroyImage vaDeriveImage vaGetImage vaPutImage
    );
    Ok(Arc::new(functions))
}

/// The render nodes of this machine in the order of their numbers.
pub fn render_nodes() -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(RENDER_NODES) else { return Vec::new() };
    let mut nodes: Vec<(u32, PathBuf)> = entries
        .filter_map(|entry| {
            let entry = entry.ok()?;
            let number = entry.file_name().to_str()?.strip_prefix("renderD")?.parse().ok()?;
            Some((number, entry.path()))
        })
        .collect();
    nodes.sort();
    nodes.into_iter().map(|(_, path)| path).collect()
}

/// An initialised display on a render node. Closed when dropped.
pub struct Display {
    functions: Arc<va::Functions>,
    raw: va::VADisplay,
    /// Kept open: libva does not duplicate it.
    _node: File,
    path: PathBuf,
    vendor: String,
    version: (i32, i32),
}

impl std::fmt::Debug for Display {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Display").field("path", &self.path).field("vendor", &self.vendor).finish_non_exhaustive()
    }
}

// SAFETY: libva guards the display by locks of its own and lets any thread call; nothing in it is bound to the thread
// that opened it.
unsafe impl Send for Display {}
// SAFETY: as above: the calls take a shared display.
unsafe impl Sync for Display {}

/// Hands a message of libva to the log.
///
/// # Safety
/// `message` is null or a zero-terminated string that lives for the call.
unsafe fn log(level: tracing::Level, message: *const c_char) {
    if message.is_null() {
        return;
    }
    // SAFETY: promised by the caller.
    let text = unsafe { CStr::from_ptr(message) }.to_string_lossy();
    if level == tracing::Level::WARN {
        tracing::warn!(target: "libva", "{}", text.trim_end());
    } else {
        tracing::debug!(target: "libva", "{}", text.trim_end());
    }
}

unsafe extern "C" fn log_error(_context: *mut c_void, message: *const c_char) {
    // SAFETY: libva passes a zero-terminated string that lives for the call.
    unsafe { log(tracing::Level::WARN, message) };
}

unsafe extern "C" fn log_info(_context: *mut c_void, message: *const c_char) {
    // SAFETY: as in `log_error`.
    unsafe { log(tracing::Level::DEBUG, message) };
}

/// What libva calls a status.
pub fn status_text(functions: &va::Functions, status: i32) -> String {
    // SAFETY: returns a constant string for every status; presence of the function was checked in `library`.
    let text = unsafe { functions.vaErrorStr(status) };
    if text.is_null() {
        return "unknown".to_owned();
    }
    // SAFETY: a zero-terminated constant of the library.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

impl Display {
    /// Opens the render node `path` and initialises its driver.
    ///
    /// # Errors
    /// [`NoDisplay`] saying what is missing.
    pub fn open(functions: &Arc<va::Functions>, path: &Path) -> Result<Display, NoDisplay> {
        let node = File::options().read(true).write(true).open(path);
        let node = node.map_err(|error| NoDisplay::Node { path: path.to_owned(), reason: error.to_string() })?;
        // SAFETY: the descriptor is open and stays so as long as the display.
        let raw = unsafe { functions.vaGetDisplayDRM(node.as_raw_fd()) };
        // SAFETY: takes any pointer and only looks whether it is one of libva's.
        if raw.is_null() || unsafe { functions.vaDisplayIsValid(raw) } == 0 {
            return Err(NoDisplay::NotANode { path: path.to_owned() });
        }
        // SAFETY: the display is valid; the callbacks are functions of this program that need no context.
        unsafe {
            functions.vaSetErrorCallback(raw, Some(log_error), std::ptr::null_mut());
            functions.vaSetInfoCallback(raw, Some(log_info), std::ptr::null_mut());
        }
        let (mut major, mut minor): (c_int, c_int) = (0, 0);
        // SAFETY: the display is valid; both numbers are written.
        let status = unsafe { functions.vaInitialize(raw, &mut major, &mut minor) };
        if status != va::VA_STATUS_SUCCESS as i32 {
            let text = status_text(functions, status);
            // SAFETY: the display is valid; ending one that was not initialised frees it.
            unsafe { functions.vaTerminate(raw) };
            return Err(NoDisplay::Initialize { path: path.to_owned(), status, text });
        }
        // SAFETY: the display is initialised; the string belongs to the driver and is copied here.
        let vendor = unsafe {
            let vendor = functions.vaQueryVendorString(raw);
            if vendor.is_null() { String::new() } else { CStr::from_ptr(vendor).to_string_lossy().into_owned() }
        };
        let functions = Arc::clone(functions);
        Ok(Display { functions, raw, _node: node, path: path.to_owned(), vendor, version: (major, minor) })
    }

    /// Opens `device`, or for `None` the first render node that `take` takes; returns what `take` made of it.
    ///
    /// # Errors
    /// [`NoDisplay`]: of the one device, or of all together.
    pub fn open_first<T>(
        device: Option<&Path>,
        mut take: impl FnMut(Display) -> Result<T, String>,
    ) -> Result<T, NoDisplay> {
        let functions = library()?;
        let nodes = device.map_or_else(render_nodes, |path| vec![path.to_owned()]);
        let mut refused: Vec<NoDisplay> = Vec::new();
        for path in &nodes {
            match Display::open(&functions, path) {
                Ok(display) => match take(display) {
                    Ok(taken) => return Ok(taken),
                    Err(reason) => refused.push(NoDisplay::NoneTaken { reason }),
                },
                Err(error) => refused.push(error),
            }
        }
        match refused.len() {
            0 => Err(NoDisplay::NoNode),
            1 => Err(refused.remove(0)),
            _ => {
                let reasons: Vec<String> = refused.iter().map(ToString::to_string).collect();
                Err(NoDisplay::NoneTaken { reason: reasons.join("; ") })
            }
        }
    }

    /// The functions of libva.
    pub fn functions(&self) -> &va::Functions {
        &self.functions
    }

    /// The same, to be kept beyond the display.
    pub fn shared_functions(&self) -> &Arc<va::Functions> {
        &self.functions
    }

    /// The display as libva's functions and a oneVPL session take it; valid as long as `self`.
    pub fn raw(&self) -> va::VADisplay {
        self.raw
    }

    /// The render node.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the driver says of itself.
    pub fn vendor(&self) -> &str {
        &self.vendor
    }

    /// Version of VA-API that library and driver speak.
    pub fn version(&self) -> (i32, i32) {
        self.version
    }
}

impl Drop for Display {
    fn drop(&mut self) {
        // SAFETY: initialised in `open` and ended nowhere else; what hangs on it holds an `Arc` or a borrow of it.
        let status = unsafe { self.functions.vaTerminate(self.raw) };
        if status != va::VA_STATUS_SUCCESS as i32 {
            tracing::warn!(status, text = status_text(&self.functions, status), "vaTerminate failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_no_render_node_is_named_with_its_cure() {
        let Ok(functions) = library() else {
            println!("SKIPPED: libva is not installed (Debian package libva-drm2)");
            return;
        };
        let error = Display::open(&functions, Path::new("/dev/zero")).unwrap_err();
        assert!(error.to_string().contains("/dev/zero is no render node"), "{error}");
        let error = Display::open(&functions, Path::new("/nowhere/renderD128")).unwrap_err().unavailable("vaapi");
        assert_eq!(error.exit_code(), 69);
        assert!(error.to_string().contains("/nowhere/renderD128 cannot be opened"), "{error}");
        assert!(error.to_string().contains("encode.device"), "{error}");
    }

    #[test]
    fn without_a_render_node_the_reason_is_told() {
        if !render_nodes().is_empty() || library().is_err() {
            println!("SKIPPED: this machine has a render node, or no libva");
            return;
        }
        let error = Display::open_first(None, |_| Ok(())).unwrap_err();
        assert_eq!(error, NoDisplay::NoNode);
    }
}
