//! `quad logs`: what the kernels wrote.

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kernel_host::exit::{Exit, Failure};
use kernel_host::name::KernelName;
use kernel_host::runtime::RuntimeDir;

use super::say;
use crate::supervisor::rotate::older;

/// As a person reads along.
const FOLLOW_EVERY: Duration = Duration::from_millis(100);

/// One log and how far it was shown.
struct Log {
    label: String,
    path: PathBuf,
    shown: u64,
}

/// Shows logs, of all kernels or of one, and goes on with `follow` until interrupted.
pub fn run(instance: &str, kernel: Option<&str>, follow: bool) -> Result<u8, Failure> {
    let runtime = super::runtime(instance)?;
    let only = match kernel {
        None => None,
        Some("supervisor") => Some("supervisor".to_owned()),
        Some(kernel) => Some(kernel.parse::<KernelName>()?.to_string()),
    };
    let mut logs = logs(&runtime, only.as_deref());
    if logs.is_empty() {
        let what = only.map_or_else(|| "No log".to_owned(), |only| format!("No log of {only}"));
        return Err(Failure::new(Exit::Unavailable, format!("{what} in {}", runtime.path().display())));
    }
    let label = logs.len() > 1;
    let mut lines: Vec<(String, String)> = Vec::new();
    for log in &mut logs {
        let before = fs::read(older(&log.path)).unwrap_or_default();
        let text = [before, log.more()].concat();
        lines.extend(String::from_utf8_lossy(&text).lines().map(|line| (log.label.clone(), line.to_owned())));
    }
    if label {
        in_order_of_time(&mut lines);
    }
    lines.iter().for_each(|(name, line)| show(label, name, line));
    // Until interrupted, or the instance's directory goes.
    while follow && runtime.path().exists() {
        std::thread::sleep(FOLLOW_EVERY);
        for log in &mut logs {
            let more = log.more();
            String::from_utf8_lossy(&more).lines().for_each(|line| show(label, &log.label, line));
        }
    }
    Ok(0)
}

fn show(label: bool, name: &str, line: &str) {
    say(&if label { format!("{name:13} {line}") } else { line.to_owned() });
}

/// Lines begin with their time in UTC, so that text order is time order; a line without belongs to the one before it.
fn in_order_of_time(lines: &mut [(String, String)]) {
    let mut time = (String::new(), String::new());
    lines.sort_by_cached_key(|(label, line)| {
        let first = line.split_ascii_whitespace().next().unwrap_or_default();
        if first.ends_with('Z') && first.contains('T') && first.starts_with(|c: char| c.is_ascii_digit()) {
            time = (label.clone(), first.to_owned());
        } else if time.0 != *label {
            time = (label.clone(), String::new());
        }
        time.1.clone()
    });
}

fn logs(runtime: &RuntimeDir, only: Option<&str>) -> Vec<Log> {
    let entries = fs::read_dir(runtime.path()).into_iter().flatten().flatten();
    let mut found: Vec<Log> = entries
        .filter_map(|entry| {
            let label = entry.file_name().to_str()?.strip_suffix(".log")?.to_owned();
            Some(Log { label, path: entry.path(), shown: 0 })
        })
        .filter(|log| only.is_none_or(|only| log.label == only))
        .collect();
    found.sort_by(|a, b| a.label.cmp(&b.label));
    found
}

impl Log {
    /// What was added since, up to the last whole line; from the start when it was rotated meanwhile.
    fn more(&mut self) -> Vec<u8> {
        let (from, mut text) = read_from(&self.path, self.shown).unwrap_or_default();
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        text.truncate(whole);
        self.shown = from + whole as u64;
        text
    }
}

fn read_from(path: &Path, offset: u64) -> Option<(u64, Vec<u8>)> {
    let mut file = fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    let mut text = Vec::new();
    let from = if length < offset { 0 } else { offset };
    file.seek(SeekFrom::Start(from)).ok()?;
    file.read_to_end(&mut text).ok()?;
    Some((from, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn logs_are_merged_by_time_and_followed_by_whole_lines() {
        let line = |label: &str, text: &str| (label.to_owned(), text.to_owned());
        let mut lines = vec![
            line("a", "2026-01-01T00:00:02.0Z INFO two"),
            line("a", "  continued"),
            line("b", "thread panicked"),
            line("b", "2026-01-01T00:00:01.0Z INFO one"),
        ];
        in_order_of_time(&mut lines);
        let order: Vec<&str> = lines.iter().map(|(_, line)| line.rsplit(' ').next().unwrap()).collect();
        assert_eq!(order, ["panicked", "one", "two", "continued"]);

        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("net.main.log");
        fs::write(&path, "one\ntw").unwrap();
        let mut log = Log { label: String::new(), path: path.clone(), shown: 0 };
        assert_eq!(log.more(), b"one\n");
        fs::write(&path, "one\ntwo\n").unwrap();
        assert_eq!(log.more(), b"two\n");
        assert_eq!(log.more(), b"");
        fs::write(&path, "new\n").unwrap();
        assert_eq!(log.more(), b"new\n", "rotated: from its start");
    }
}
