//! `quad doctor`: what this machine can do, and what would let it do more.

mod devices;
mod encoders;
mod limits;
mod tools;

use kernel_host::exit::Failure;
use serde::Serialize;

use crate::commands::say;

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it belongs to: "machine", "memory", "encoder", "engine", "source", "transmit", "tool".
    pub area: &'static str,
    /// What it is.
    pub name: String,
    /// Whether it can be used now.
    pub usable: bool,
    /// What was found.
    pub why: String,
    /// The line that would make it usable, or better.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cure: Option<String>,
}

impl Finding {
    /// It can be used.
    pub fn usable(area: &'static str, name: impl Into<String>, why: impl Into<String>) -> Finding {
        Finding { area, name: name.into(), usable: true, why: why.into(), cure: None }
    }

    /// It cannot.
    pub fn missing(
        area: &'static str,
        name: impl Into<String>,
        why: impl Into<String>,
        cure: impl Into<String>,
    ) -> Finding {
        Finding { area, name: name.into(), usable: false, why: why.into(), cure: Some(cure.into()) }
    }

    /// What the machine could do and this version cannot: found or not, it cannot be used.
    pub fn not_in_this_version(mut self, instead: &str) -> Finding {
        let here = if self.usable { "it is here" } else { "nor is it here" };
        self.why = format!("not in this version; {here}: {}", self.why);
        self.usable = false;
        self.cure = Some(instead.to_owned());
        self
    }

    /// The same with what would make it better.
    pub fn better(mut self, cure: impl Into<String>) -> Finding {
        self.cure = Some(cure.into());
        self
    }
}

/// Looks at everything. Exit code 0: what is missing here is no failure of the command.
pub fn run(json: bool) -> Result<u8, Failure> {
    let support = encoders::ask();
    let encoders = encoders::findings(&support);
    let findings: Vec<Finding> = [limits::findings(), encoders, devices::findings(), tools::findings()].concat();
    if json {
        let all = serde_json::json!({ "findings": findings, "encoders": support.unwrap_or_default() });
        say(&serde_json::to_string_pretty(&all).unwrap_or_default());
        return Ok(0);
    }
    let mut area = "";
    for finding in &findings {
        if finding.area != area {
            area = finding.area;
            say(&area.to_uppercase());
        }
        let mark = if finding.usable { "ok" } else { "no" };
        say(&format!("  {mark}  {:22} {}", finding.name, finding.why));
        finding.cure.iter().for_each(|cure| say(&format!("      {:22} → {cure}", "")));
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_cannot_be_used_says_why_and_what_would_help() {
        let findings: Vec<Finding> = [limits::findings(), devices::findings(), tools::findings()].concat();
        for finding in &findings {
            assert!(!finding.why.is_empty() && !finding.name.is_empty(), "{finding:?}");
            assert!(finding.usable || finding.cure.as_ref().is_some_and(|cure| !cure.is_empty()), "{finding:?}");
        }
        for name in ["/dev/shm", "UDP GSO", "/dev/udmabuf", "ffmpeg"] {
            assert_eq!(findings.iter().filter(|f| f.name == name).count(), 1, "{name}");
        }
    }
}
