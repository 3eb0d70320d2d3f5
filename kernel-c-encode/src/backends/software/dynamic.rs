//! Encoder libraries that are there or not: found by file name when an encoder is opened, never linked.
//!
//! A library stays loaded until the process ends: its own threads and exit handlers may outlive an encoder.
#![expect(unsafe_code, reason = "loads libraries")]

use crate::error::EncoderError;
use libloading::Library;
use std::ops::RangeInclusive;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// A library as it is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Backend that needs it.
    pub backend: &'static str,
    /// File name up to the number, for example `libx264.so.`.
    pub stem: &'static str,
    /// Numbers behind the stem that are tried, newest first.
    pub versions: (u32, u32),
    /// Environment variable that names the file instead.
    pub variable: &'static str,
    /// What to install, as a sentence.
    pub cure: &'static str,
}

impl Wanted {
    /// The numbers behind the stem.
    pub fn versions(&self) -> RangeInclusive<u32> {
        self.versions.0..=self.versions.1
    }

    /// That it cannot be used, and why.
    pub fn unavailable(&self, reason: String) -> EncoderError {
        EncoderError::Unavailable { backend: self.backend.to_owned(), reason, cure: self.cure.to_owned() }
    }

    /// Loads it as [`Wanted::load`] does and never unloads it, so that its functions may be kept.
    ///
    /// # Errors
    /// As [`Wanted::load`].
    pub fn load_for_good(&self) -> Result<&'static Library, EncoderError> {
        /// What was loaded can still be reached, so that it is no leak.
        static LOADED: Mutex<Vec<&'static Library>> = Mutex::new(Vec::new());
        let library: &'static Library = Box::leak(Box::new(self.load()?));
        LOADED.lock().unwrap_or_else(PoisonError::into_inner).push(library);
        Ok(library)
    }

    /// Loads it: the file that the variable names, otherwise the newest version that the system's loader finds.
    ///
    /// # Errors
    /// [`EncoderError::Unavailable`] with what was looked for.
    pub fn load(&self) -> Result<Library, EncoderError> {
        if let Some(file) = std::env::var_os(self.variable).filter(|file| !file.is_empty()) {
            return load(Path::new(&file)).map_err(|error| {
                self.unavailable(format!("{} names {}, which cannot be loaded: {error}", self.variable, file.display()))
            });
        }
        let found = self.versions().rev().find_map(|number| load(Path::new(&format!("{}{number}", self.stem))).ok());
        found.ok_or_else(|| {
            let (stem, (oldest, newest)) = (self.stem, self.versions);
            self.unavailable(format!("no {stem}{oldest} to {stem}{newest} was found"))
        })
    }
}

fn load(file: &Path) -> Result<Library, String> {
    // SAFETY: loading runs the library's initialisers. The files are the encoder libraries of the system, or the one
    // that the user of this process chose, which could as well be preloaded.
    unsafe { Library::new(file) }.map_err(|error| {
        // The loader's own words are the source of the error.
        std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
    })
}

/// The function `name` of `library`.
///
/// # Safety
/// `T` is the function pointer type that the library's header declares for `name`, and the library is never unloaded.
pub unsafe fn function<T: Copy>(library: &Library, name: &str) -> Option<T> {
    // SAFETY: the caller vouches for the type.
    unsafe { library.get::<T>(name) }.ok().map(|symbol| *symbol)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Wanted = Wanted {
        backend: "x264",
        stem: "libquad-no-such-encoder.so.",
        versions: (3, 5),
        variable: "QUAD_NO_SUCH_VARIABLE",
        cure: "Install it (apt install libx264-164), or set encode.backend to openh264",
    };

    #[test]
    fn a_library_that_is_not_there_is_named_with_its_cure_and_ends_with_exit_code_69() {
        let error = NONE.load().unwrap_err();
        assert_eq!(
            error.to_string(),
            "Encoder x264 is not available: no libquad-no-such-encoder.so.3 to libquad-no-such-encoder.so.5 was found. \
             Install it (apt install libx264-164), or set encode.backend to openh264"
        );
        assert_eq!(error.exit_code(), 69);
    }

    #[test]
    fn a_file_that_the_environment_names_and_that_is_no_library_is_refused_by_its_name() {
        // PATH is set everywhere and names no library.
        let error = Wanted { variable: "PATH", ..NONE }.load().unwrap_err();
        assert!(error.to_string().contains("PATH names ") && error.exit_code() == 69, "{error}");
    }
}
