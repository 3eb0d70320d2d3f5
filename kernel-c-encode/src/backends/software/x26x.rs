//! What x264 and x265 take in the same way: colour by names, bitrate and buffer in kb/s and kbit.

use crate::error::{EncoderError, refuse};
use crate::settings::{EncoderSettings, RateControl};
use shm_protocol::frame::Colour;

/// Which of the two spells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Library {
    /// x264.
    X264,
    /// x265.
    X265,
}

/// Names of the code points of ITU-T H.273 by their number, as x265 spells them; empty: neither library has one.
const PRIMARIES: [&str; 13] = [
    "reserved",
    "bt709",
    "unknown",
    "",
    "bt470m",
    "bt470bg",
    "smpte170m",
    "smpte240m",
    "film",
    "bt2020",
    "smpte428",
    "smpte431",
    "smpte432",
];
const TRANSFERS: [&str; 19] = [
    "reserved",
    "bt709",
    "unknown",
    "",
    "bt470m",
    "bt470bg",
    "smpte170m",
    "smpte240m",
    "linear",
    "log100",
    "log316",
    "iec61966-2-4",
    "bt1361e",
    "iec61966-2-1",
    "bt2020-10",
    "bt2020-12",
    "smpte2084",
    "smpte428",
    "arib-std-b67",
];
const MATRICES: [&str; 15] = [
    "gbr",
    "bt709",
    "unknown",
    "",
    "fcc",
    "bt470bg",
    "smpte170m",
    "smpte240m",
    "ycgco",
    "bt2020nc",
    "bt2020c",
    "smpte2085",
    "chroma-derived-nc",
    "chroma-derived-c",
    "ictcp",
];

impl Library {
    fn name(self) -> &'static str {
        match self {
            Library::X264 => "x264",
            Library::X265 => "x265",
        }
    }

    /// Its spelling of what x265 calls `name`; `None`: it has no name for it.
    fn spells(self, name: &'static str) -> Option<&'static str> {
        match (self, name) {
            (_, "") | (Library::X264, "reserved") => None,
            (Library::X264, "unknown") => Some("undef"),
            (Library::X264, "gbr") => Some("GBR"),
            (Library::X264, "ycgco") => Some("YCgCo"),
            (Library::X264, "ictcp") => Some("ICtCp"),
            (_, same) => Some(same),
        }
    }

    /// The parameters that signal `colour`, but for its range and siting.
    ///
    /// # Errors
    /// [`EncoderError::Setting`] for a code point that the library has no name for.
    pub fn colour(self, colour: Colour) -> Result<[(&'static str, &'static str); 3], EncoderError> {
        let name = |setting, code: u8, names: &'static [&'static str]| match names
            .get(usize::from(code))
            .and_then(|name| self.spells(name))
        {
            Some(name) => Ok(name),
            None => {
                let known = (0..).zip(names).filter(|(_, name)| self.spells(name).is_some());
                let codes: Vec<String> = known.map(|(code, _): (u32, _)| code.to_string()).collect();
                let library = self.name();
                refuse(setting, code, format!("{}, which {library} has a name for", codes.join(", ")))
            }
        };
        Ok([
            ("colorprim", name("colour.primaries", colour.primaries, &PRIMARIES)?),
            ("transfer", name("colour.transfer", colour.transfer, &TRANSFERS)?),
            ("colormatrix", name("colour.matrix", colour.matrix, &MATRICES)?),
        ])
    }
}

/// Bits of the virtual buffer at a rate of `kbps`, kbit.
pub fn buffer_kbit(settings: &EncoderSettings, kbps: u32) -> u32 {
    let kbit = u64::from(kbps) * u64::from(settings.vbv_ms) / 1000;
    u32::try_from(kbit).unwrap_or(u32::MAX).clamp(1, i32::MAX as u32)
}

/// Bitrate and buffer, the buffer a `divisor`th of what it is to be: kb/s and kbit.
pub fn rate(settings: &EncoderSettings, divisor: u32) -> [(&'static str, u32); 3] {
    let peak_kbps = match settings.rate_control {
        RateControl::Variable => settings.ceiling_kbps().max(settings.bitrate_kbps),
        _ => settings.bitrate_kbps,
    };
    let buffer_kbit = (buffer_kbit(settings, peak_kbps) / divisor).max(1);
    [("bitrate", settings.bitrate_kbps), ("vbv-maxrate", peak_kbps), ("vbv-bufsize", buffer_kbit)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_library_gets_its_own_spelling_and_a_code_without_a_name_is_refused() {
        let unspecified = Colour { primaries: 2, transfer: 2, matrix: 0, ..Colour::BT709_LIMITED };
        let names = |library: Library, colour| library.colour(colour).map(|names| names.map(|(_, name)| name));
        assert_eq!(names(Library::X264, unspecified), Ok(["undef", "undef", "GBR"]));
        assert_eq!(names(Library::X265, unspecified), Ok(["unknown", "unknown", "gbr"]));
        let pq = Colour { primaries: 9, transfer: 16, matrix: 9, ..Colour::BT709_LIMITED };
        for library in [Library::X264, Library::X265] {
            assert_eq!(names(library, pq), Ok(["bt2020", "smpte2084", "bt2020nc"]));
            for code in [3, 13, 255] {
                assert!(names(library, Colour { primaries: code, ..pq }).is_err());
            }
        }
        let error = names(Library::X264, Colour { primaries: 0, ..pq }).unwrap_err().to_string();
        assert_eq!(
            error,
            "colour.primaries = 0 is not possible: allowed is 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, which x264 has a name for"
        );
    }
}
