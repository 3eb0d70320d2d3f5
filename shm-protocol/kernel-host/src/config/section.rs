//! One declaration per section makes the typed struct, its reader, its writer and its rows in the table of keys,
//! so that the four cannot disagree.

use toml::Table;

use super::error::ConfigError;
use super::keys::{KeyInfo, unknown_key};

/// A table of the configuration.
pub trait Section: Sized {
    /// Path in the reference: `encode`, `net.rtp`.
    const PATH: &'static str;
    /// Its rows of the table of keys.
    fn keys() -> Vec<KeyInfo>;
    /// Reads it. `at` is where it stands (`encode.instances.web`).
    fn read(table: &Table, at: &str) -> Result<Self, ConfigError>;
    /// Keys that are set, in the order of the reference.
    fn entries(&self) -> Vec<(&'static str, toml::Value)>;
}

/// Refuses keys that are neither keys nor tables of a section.
pub(super) fn refuse_unknown(
    table: &Table,
    at: &str,
    section: &'static str,
    known: &[&str],
    tables: &[&str],
) -> Result<(), ConfigError> {
    for (key, value) in table {
        if tables.contains(&key.as_str()) {
            if !value.is_table() {
                return Err(not_a_table(&dotted(at, key), value));
            }
        } else if !known.contains(&key.as_str()) {
            return Err(unknown_key(at, section, key));
        }
    }
    Ok(())
}

pub(super) fn not_a_table(key: &str, value: &toml::Value) -> ConfigError {
    ConfigError::Value { key: key.to_owned(), given: value.to_string(), allowed: format!("a table [{key}]") }
}

/// `at.key`, or `key` at the top.
pub(super) fn dotted(at: &str, key: &str) -> String {
    if at.is_empty() { key.to_owned() } else { format!("{at}.{key}") }
}

macro_rules! is_live {
    (live) => {
        true
    };
    (fixed) => {
        false
    };
}

macro_rules! bounds {
    () => {
        None
    };
    ($range:expr) => {
        Some($range)
    };
}

/// Declares a section: `"key" field: Type [bounds] = default, live|fixed;`.
macro_rules! section {
    (
        $(#[doc = $doc:literal])+ $name:ident at $path:literal $(with $($table:ident: $table_type:ty),+)? {
            $($(#[doc = $help:literal])+ $key:literal $field:ident: $type:ty $([$bounds:expr])? = $default:expr, $live:ident;)+
        }
    ) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $($(#[doc = $help])+ pub $field: $type,)+
            $($(#[doc = concat!("The table `", $path, ".", stringify!($table), "`; `None` when the output is off.")]
                pub $table: Option<$table_type>,)+)?
        }

        impl Default for $name {
            fn default() -> Self {
                $name { $($field: $default,)+ $($($table: None,)+)? }
            }
        }

        impl Section for $name {
            const PATH: &'static str = $path;

            fn keys() -> Vec<KeyInfo> {
                let defaults = $name::default();
                vec![$(KeyInfo {
                    path: if $path.is_empty() { $key } else { concat!($path, ".", $key) },
                    allowed: <$type as Value>::allowed(&bounds!($($bounds)?)),
                    default: Value::write(&defaults.$field).map(|v| v.to_string()),
                    live: is_live!($live),
                    is_text: <$type as Value>::IS_TEXT,
                    help: concat!($($help),+).trim_ascii_start(),
                }),+]
            }

            fn read(table: &toml::Table, at: &str) -> Result<Self, ConfigError> {
                refuse_unknown(table, at, $path, &[$($key),+], &[$($(stringify!($table)),+)?])?;
                let mut section = $name::default();
                $(if let Some(value) = table.get($key) {
                    let bounds = bounds!($($bounds)?);
                    section.$field = <$type as Value>::read(value, &bounds).ok_or_else(|| ConfigError::Value {
                        key: dotted(at, $key),
                        given: value.to_string(),
                        allowed: <$type as Value>::allowed(&bounds),
                    })?;
                })+
                Ok(section)
            }

            fn entries(&self) -> Vec<(&'static str, toml::Value)> {
                [$(($key, Value::write(&self.$field))),+].into_iter().filter_map(|(k, v)| Some((k, v?))).collect()
            }
        }
    };
}

pub(super) use {bounds, is_live, section};
