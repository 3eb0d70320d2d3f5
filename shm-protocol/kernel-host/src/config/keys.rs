//! The table of all keys: for suggestions, for listings, and to find which kernel a key belongs to.

use std::sync::LazyLock;

use super::error::ConfigError;
use super::schema::{Capture, Encode, Http, Log, Net, Process, Rdp, Record, Rtp, Srt, Top};
use super::section::Section;
use crate::name::{KernelName, Kind, check_name};

/// What is known about one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyInfo {
    /// Dotted path in the reference, `encode.bitrate_kbps`.
    pub path: &'static str,
    /// What it may be set to, in words.
    pub allowed: String,
    /// Default as TOML; `None` when it is unset.
    pub default: Option<String>,
    /// Whether `quad set` changes it while the stream goes on.
    pub live: bool,
    /// Whether a bare word on the command line is text even where it looks like a number.
    pub is_text: bool,
    /// What it does, with its unit.
    pub help: &'static str,
}

impl KeyInfo {
    /// The part before the last dot, empty for keys at the top.
    pub fn section(&self) -> &'static str {
        self.path.rsplit_once('.').map_or("", |(section, _)| section)
    }

    /// The part after the last dot.
    pub fn leaf(&self) -> &'static str {
        self.path.rsplit_once('.').map_or(self.path, |(_, leaf)| leaf)
    }
}

static KEYS: LazyLock<Vec<KeyInfo>> = LazyLock::new(|| {
    [
        Top::keys(),
        Log::keys(),
        Capture::keys(),
        Process::keys(),
        Encode::keys(),
        Net::keys(),
        Rtp::keys(),
        Http::keys(),
        Rdp::keys(),
        Srt::keys(),
        Record::keys(),
    ]
    .concat()
});

/// Every key, in the order of the reference.
pub fn keys() -> &'static [KeyInfo] {
    &KEYS
}

/// The key of a path of the reference.
pub fn key_info(path: &str) -> Option<&'static KeyInfo> {
    keys().iter().find(|k| k.path == path)
}

/// A key as it stands in a configuration: which kernel instance it belongs to, and what is known about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located {
    /// The kernel instance; `None` for keys that concern all.
    pub kernel: Option<KernelName>,
    /// The key of the reference.
    pub info: &'static KeyInfo,
}

/// Finds a key by its path in a configuration, `encode.bitrate_kbps` or `encode.instances.web.bitrate_kbps`.
///
/// # Errors
/// [`ConfigError::UnknownKey`] with the nearest known one.
pub fn locate(path: &str) -> Result<Located, ConfigError> {
    let parts: Vec<&str> = path.split('.').collect();
    let kind = parts[0].parse::<Kind>().ok();
    let (kernel, rest) = match (kind, parts.as_slice()) {
        (Some(kind), [_, "instances", name, rest @ ..]) if check_name(name).is_ok() => {
            (Some(KernelName { kind, name: (*name).to_owned() }), rest)
        }
        (Some(kind), [_, rest @ ..]) => (Some(KernelName::main(kind)), rest),
        _ => (None, parts.as_slice()),
    };
    let reference = match &kernel {
        Some(kernel) => [&[kernel.kind.name()], rest].concat().join("."),
        None => rest.join("."),
    };
    if let Some(info) = key_info(&reference) {
        return Ok(Located { kernel, info });
    }
    let (at, leaf) = path.rsplit_once('.').unwrap_or(("", path));
    let section = reference.rsplit_once('.').map_or("", |(section, _)| section);
    Err(unknown_key(at, section, leaf))
}

/// Cost of naming a key of another section: two typing errors are likelier than a wrong section.
const OTHER_SECTION: usize = 2;

/// The error for a key that means nothing. `at` is where it stands, `section` the same in the reference.
pub(super) fn unknown_key(at: &str, section: &str, leaf: &str) -> ConfigError {
    let given = super::section::dotted(at, leaf);
    let sections = ["log", "capture", "process", "encode", "net", "rtp", "http", "rdp", "srt", "record", "instances"];
    let path = super::section::dotted(section, leaf);
    let own = |k: &&KeyInfo| if k.section() == section { 0 } else { OTHER_SECTION };
    let by_key = keys()
        .iter()
        .map(|k| {
            // A unit is left out more often than a letter is typed wrongly: bitrte is nearest to bitrate_kbps.
            let unitless = k.leaf().trim_end_matches("_kbps").trim_end_matches("_ms").trim_end_matches("_bytes");
            let typed =
                strsim::damerau_levenshtein(leaf, k.leaf()).min(1 + strsim::damerau_levenshtein(leaf, unitless));
            // A word that begins the key, or begins with it, left out or added a unit: bitrate, qp_value.
            let shared = leaf.len().min(k.leaf().len());
            let begun = shared >= 2 && (leaf.starts_with(k.leaf()) || k.leaf().starts_with(leaf));
            let leaf_distance = if begun { typed.min(1) } else { typed } + own(&k);
            // A wrong section with the right key is nearer by its whole path: encoder.codec.
            (leaf_distance.min(strsim::damerau_levenshtein(&path, k.path)), k.path.to_owned(), k.section() == section)
        })
        .min_by_key(|(distance, _, _)| *distance);
    let by_section = sections
        .iter()
        .map(|s| (strsim::damerau_levenshtein(leaf, s), *s))
        .min()
        .filter(|(distance, s)| *distance <= 2 && distance * 2 < s.len());
    let nearest = match (by_key, by_section) {
        (Some((key_distance, ..)), Some((distance, name))) if distance < key_distance => {
            let parent = keys().iter().map(KeyInfo::section).find(|s| s.rsplit('.').next() == Some(name));
            parent.map_or_else(|| super::section::dotted(at, name), |p| p.to_owned())
        }
        // In its own section the key is named where it stands, also inside [encode.instances.web].
        (Some((_, path, true)), _) => super::section::dotted(at, path.rsplit('.').next().unwrap_or(&path)),
        (Some((_, path, false)), _) => path,
        (None, _) => String::new(),
    };
    ConfigError::UnknownKey { given, nearest }
}
