//! `quad list`: instances on this machine.

use std::collections::BTreeSet;
use std::path::PathBuf;

use kernel_host::exit::Failure;
use kernel_host::name::check_name;
use kernel_host::runtime::{RuntimeDir, foreign_owner};
use kernel_host::status::{Status, collect};
use shm_protocol::names;

use super::say;
use crate::launch::Launch;

/// Every instance that has a process, an object or a runtime directory.
pub fn instances() -> Vec<String> {
    let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let directories = std::fs::read_dir(RuntimeDir::base(xdg.as_deref())).into_iter().flatten().flatten();
    let named =
        directories.filter(|entry| entry.path().is_dir()).filter_map(|entry| entry.file_name().into_string().ok());
    let all: BTreeSet<String> = named.filter(|name| check_name(name).is_ok()).chain(names::instances()).collect();
    all.into_iter().collect()
}

/// How an instance is.
pub fn status_of(instance: &str) -> Status {
    let runtime = RuntimeDir::locate(instance).ok();
    let config = runtime.as_ref().and_then(|r| Launch::load(r)?.configuration(r).ok());
    collect(instance, config.as_ref(), runtime.as_ref())
}

/// Lists them.
pub fn run(json: bool) -> Result<u8, Failure> {
    let all: Vec<Status> = instances().iter().map(|name| status_of(name)).collect();
    if json {
        let rows: Vec<serde_json::Value> = all
            .iter()
            .map(|s| {
                serde_json::json!({
                    "instance": s.instance,
                    "state": s.state,
                    "supervisor": s.supervisor,
                    "outputs": s.outputs,
                    "foreign_user": foreign_owner(&s.instance),
                })
            })
            .collect();
        say(&serde_json::Value::Array(rows).to_string());
        return Ok(0);
    }
    if all.is_empty() {
        say("No instance is running; `quad up` starts one");
    }
    for status in all {
        if let Some(owner) = foreign_owner(&status.instance) {
            say(&format!("{:20} of user {owner}, who alone may look at it", status.instance));
            continue;
        }
        let state = serde_json::to_string(&status.state).unwrap_or_default();
        let urls: Vec<&str> = status.outputs.iter().map(|output| output.url.as_str()).collect();
        say(&format!("{:20} {:9} {}", status.instance, state.trim_matches('"'), urls.join(" ")));
    }
    Ok(0)
}
