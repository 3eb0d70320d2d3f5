//! What the encoders can do here: kernel C tries every one of them, in a process of its own.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use kernel_host::name::Kind;
use serde::{Deserialize, Serialize};

use super::Finding;
use crate::launch::bin_dir;
use crate::process::{Process, Signal, wait_all};

/// Every encoder is opened some dozen times; a driver that takes longer than this hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// One backend with one profile and one rate mode, as kernel C found it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Support {
    /// The backend.
    pub backend: String,
    /// Codec of its access units.
    pub codec: String,
    /// Profile, as the configuration names it.
    pub profile: String,
    /// Bits of a sample.
    pub bit_depth: u8,
    /// Rate mode, as the configuration names it.
    pub rate_control: String,
    /// Whether two pictures were encoded with it.
    pub usable: bool,
    /// How pixels reach it, or why not.
    pub why: String,
    /// The line that would make it usable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

/// Asks kernel C. `Err`: why it does not say.
pub fn ask() -> Result<Vec<Support>, String> {
    let directory = bin_dir().map_err(|failure| failure.to_string())?;
    ask_binary(&directory.join(Kind::Encode.binary()))
}

fn ask_binary(binary: &Path) -> Result<Vec<Support>, String> {
    let path = binary.display();
    // A file takes an answer of any length while nobody reads.
    let mut output = tempfile().map_err(|error| format!("No temporary file for the answer of {path}: {error}"))?;
    let copy = output.try_clone().map_err(|error| error.to_string())?;
    let mut child = Command::new(binary)
        .arg("--support")
        .stdin(Stdio::null())
        .stdout(copy)
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("{path} cannot be started: {error}"))?;
    let ended = Process::open(child.id()).is_none_or(|process| {
        let ended = wait_all(&[&process], ANSWER_WITHIN);
        if !ended {
            process.signal(Signal::KILL);
        }
        ended
    });
    let status = child.wait().map_err(|error| error.to_string())?;
    if !ended {
        return Err(format!("{path} --support hung for {} s: a driver does not answer", ANSWER_WITHIN.as_secs()));
    }
    if !status.success() {
        return Err(format!("{path} --support ended with {status}: a driver or library took it down"));
    }
    let mut text = String::new();
    output.rewind().and_then(|()| output.read_to_string(&mut text)).map_err(|error| error.to_string())?;
    serde_json::from_str(&text).map_err(|error| format!("{path} --support gave no list: {error}"))
}

/// A file without a name.
fn tempfile() -> std::io::Result<std::fs::File> {
    let name = std::ffi::CString::from(c"quad doctor");
    Ok(nix::sys::memfd::memfd_create(name.as_c_str(), nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?.into())
}

/// The findings, one a backend: what can be used, and of the rest why not.
pub fn findings(asked: &Result<Vec<Support>, String>) -> Vec<Finding> {
    let rows = match asked {
        Ok(rows) => rows,
        Err(why) => {
            return vec![Finding::missing(
                "encoder",
                "all",
                why.clone(),
                "scripts/quad up, which builds what is missing",
            )];
        }
    };
    let mut backends: Vec<&str> = rows.iter().map(|row| row.backend.as_str()).collect();
    backends.dedup();
    let mut all: Vec<Finding> = backends.iter().map(|backend| finding(backend, rows)).collect();
    all.push(Finding::usable("encoder", "null", "no picture: each frame's descriptor goes on the wire"));
    all
}

/// Rows of one codec, profile and depth: "h264 high 8 bit".
fn profile_of(row: &Support) -> String {
    format!("{} {} {} bit", row.codec, row.profile, row.bit_depth)
}

fn finding(backend: &str, rows: &[Support]) -> Finding {
    let rows: Vec<&Support> = rows.iter().filter(|row| row.backend == backend).collect();
    let usable: Vec<&&Support> = rows.iter().filter(|row| row.usable).collect();
    // What is refused, by its reason: one line says it for all.
    let mut refused: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for row in rows.iter().filter(|row| !row.usable) {
        let what = format!("{} {}", profile_of(row), row.rate_control);
        refused.entry(row.why.as_str()).or_default().push(what);
    }
    if usable.is_empty() {
        // Nothing works: the reasons alone, one for each codec at the most in practice, without the rows they stand for.
        let why = refused.keys().copied().collect::<Vec<_>>().join("; ");
        let cure = rows.iter().find_map(|row| row.cure.clone());
        let other = "encode.backend = \"auto\", which takes the best there is".to_owned();
        return Finding::missing("encoder", backend, why, cure.unwrap_or(other));
    }
    let mut modes: BTreeMap<String, Vec<&str>> = BTreeMap::new();
    for row in &usable {
        modes.entry(profile_of(row)).or_default().push(&row.rate_control);
    }
    let can: Vec<String> = modes.iter().map(|(profile, modes)| format!("{profile}: {}", modes.join(" "))).collect();
    let cannot: Vec<String> = refused.iter().map(|(why, what)| format!("not {}: {why}", what.join(", "))).collect();
    let path = usable.first().map(|row| row.why.as_str()).unwrap_or_default();
    let found =
        Finding::usable("encoder", backend, [vec![can.join("; ")], cannot, vec![path.to_owned()]].concat().join("; "));
    if backend == "openh264" { assembler(found) } else { found }
}

/// openh264 is built in; how fast it is depends on whether an assembler was there then.
fn assembler(found: Finding) -> Finding {
    if super::tools::in_path("nasm").is_some() {
        return found;
    }
    let why = format!(
        "{}; no nasm here: a build made on this machine has no assembler code and is several times slower",
        found.why
    );
    Finding { why, ..found }.better("apt install nasm && cargo clean -p openh264-sys2 --release, then `quad up`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(backend: &str, profile: &str, rate_control: &str, refused: Option<&str>) -> Support {
        Support {
            backend: backend.to_owned(),
            codec: "h264".to_owned(),
            profile: profile.to_owned(),
            bit_depth: 8,
            rate_control: rate_control.to_owned(),
            usable: refused.is_none(),
            why: refused.unwrap_or("read in place").to_owned(),
            cure: refused.map(|_| "apt install it".to_owned()),
        }
    }

    #[test]
    fn a_backend_says_what_it_can_do_and_of_the_rest_why_not() {
        let rows = vec![
            row("x264", "high", "cbr", None),
            row("x264", "high", "icq", Some("rate_control = icq is not possible")),
            row("vpl", "high", "cbr", Some("no runtime")),
            row("vpl", "high", "icq", Some("no runtime")),
            row("vaapi", "high", "cbr", Some("no node for h264")),
            row("vaapi", "main", "cbr", Some("no node for hevc")),
        ];
        let found = findings(&Ok(rows));
        assert_eq!(found[0].name, "x264");
        assert!(found[0].usable && found[0].why.starts_with("h264 high 8 bit: cbr; not h264 high 8 bit icq: rate"));
        assert!(!found[1].usable);
        assert_eq!((found[1].why.as_str(), found[1].cure.as_deref()), ("no runtime", Some("apt install it")));
        assert_eq!(found[2].why, "no node for h264; no node for hevc");
    }

    #[test]
    fn an_encoder_that_hangs_crashes_or_is_not_there_is_told() {
        let missing = ask_binary(Path::new("/nonexistent/kernel-c-encode")).unwrap_err();
        assert!(missing.contains("cannot be started"), "{missing}");
        let failed = ask_binary(Path::new("/bin/false")).unwrap_err();
        assert!(failed.contains("took it down"), "{failed}");
        let silent = ask_binary(Path::new("/bin/true")).unwrap_err();
        assert!(silent.contains("gave no list"), "{silent}");
        assert!(findings(&Err(missing))[0].cure.is_some());
    }
}
