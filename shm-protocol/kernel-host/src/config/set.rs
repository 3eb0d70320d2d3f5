//! TOML text and `KEY=VALUE` become one table before anything is typed, so that the same mistake gives the same error.

use toml::{Table, Value};

use super::error::ConfigError;
use super::keys::locate;

/// Parses a file.
pub(super) fn parse_table(text: &str, origin: &str) -> Result<Table, ConfigError> {
    text.parse::<Table>().map_err(|error| ConfigError::Syntax {
        origin: origin.to_owned(),
        line: error
            .span()
            .map(|span| text.as_bytes()[..span.start.min(text.len())].iter().filter(|b| **b == b'\n').count() + 1),
        message: error.message().to_owned(),
    })
}

/// Splits `KEY=VALUE` and parses the value: as TOML where it is TOML, else as text.
pub(super) fn parse_set(given: &str) -> Result<(String, Value), ConfigError> {
    let syntax = || ConfigError::SetSyntax { given: given.to_owned() };
    let (key, text) = given.split_once('=').ok_or_else(syntax)?;
    let (key, text) = (key.trim(), text.trim());
    if key.is_empty() {
        return Err(syntax());
    }
    let is_text = locate(key)?.info.is_text;
    let mut parsed = format!("value = {text}").parse::<Table>().unwrap_or_default();
    let value = match (parsed.len(), parsed.remove("value")) {
        (1, Some(Value::String(text))) => Value::String(text),
        // 12:00 is a time to TOML, but no key holds one.
        (1, Some(value)) if !is_text && !matches!(value, Value::Datetime(_)) => value,
        _ => Value::String(text.to_owned()),
    };
    Ok((key.to_owned(), value))
}

/// Puts a value at a dotted path, over what stands there.
pub(super) fn insert(table: &mut Table, key: &str, value: Value) -> Result<(), ConfigError> {
    let (path, leaf) = key.rsplit_once('.').map_or((None, key), |(path, leaf)| (Some(path), leaf));
    let mut at = table;
    for part in path.into_iter().flat_map(|p| p.split('.')) {
        let entry = at.entry(part).or_insert_with(|| Value::Table(Table::new()));
        if !entry.is_table() {
            return Err(super::section::not_a_table(part, entry));
        }
        let Value::Table(next) = entry else { return Ok(()) };
        at = next;
    }
    at.insert(leaf.to_owned(), value);
    Ok(())
}
