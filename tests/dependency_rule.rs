//! Who may depend on whom, and rules over the source that no compiler checks.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use cargo_metadata::{DependencyKind, Metadata, MetadataCommand, Package};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use system_tests::build::root;

const KERNELS: [&str; 4] = ["kernel-a-capture", "kernel-b-process", "kernel-c-encode", "kernel-d-net"];
/// Bindings of the libraries that reach Intel's media engine.
const BINDINGS: [&str; 2] = ["libva-sys", "onevpl-sys"];
/// Stand-ins for what a machine may not have: tests alone load them.
const FIXTURES: [&str; 2] = ["va-fixture", "vpl-fixture"];
/// Longest file of the product, lines: "about 500" with a tenth of tolerance.
const MOST_LINES: usize = 550;
/// Longest file of tests: tables of cases that belong together are longer.
const MOST_TEST_LINES: usize = 650;

fn metadata() -> Metadata {
    MetadataCommand::new()
        .manifest_path(root().join("Cargo.toml"))
        .other_options(vec!["--locked".into()])
        .exec()
        .unwrap()
}

fn package<'a>(metadata: &'a Metadata, name: &str) -> &'a Package {
    metadata.packages.iter().find(|package| package.name.as_str() == name).unwrap()
}

/// Names of the packages that the product code of `name` uses, directly.
fn uses(metadata: &Metadata, name: &str) -> BTreeSet<String> {
    let kinds = |kind: DependencyKind| kind != DependencyKind::Development;
    let dependencies = package(metadata, name).dependencies.iter().filter(|d| kinds(d.kind));
    dependencies.map(|dependency| dependency.name.clone()).collect()
}

/// The members of the workspace among them.
fn members_used(metadata: &Metadata, name: &str) -> BTreeSet<String> {
    let members: BTreeSet<String> = metadata.workspace_packages().iter().map(|p| p.name.to_string()).collect();
    uses(metadata, name).intersection(&members).cloned().collect()
}

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn kernels_depend_on_the_host_and_the_protocol_and_never_on_each_other() {
    let metadata = metadata();
    for kernel in KERNELS {
        let mut allowed = set(&["kernel-host", "shm-protocol"]);
        if kernel == "kernel-c-encode" {
            allowed.extend(set(&BINDINGS));
        }
        assert_eq!(members_used(&metadata, kernel), allowed, "{kernel}");
        let tests_use = package(&metadata, kernel).dependencies.iter().map(|d| d.name.as_str());
        let other = tests_use.clone().find(|name| KERNELS.contains(name));
        assert_eq!(other, None, "{kernel} must not know another kernel, in its tests neither");
    }
    assert_eq!(members_used(&metadata, "kernel-host"), set(&["shm-protocol"]));
    assert_eq!(members_used(&metadata, "shm-protocol"), set(&[]));
    let tool = members_used(&metadata, "quadctl");
    assert!(tool.is_subset(&set(&["kernel-host", "shm-protocol"])), "{tool:?}");
}

#[test]
fn only_the_intel_backends_reach_for_its_libraries() {
    let names = ["libva_sys", "onevpl_sys"];
    for file in sources() {
        let text = std::fs::read_to_string(&file).unwrap();
        let path = file.strip_prefix(root()).unwrap().to_string_lossy().into_owned();
        let intel = path.starts_with("kernel-c-encode/src/backends/intel/")
            || path.starts_with("kernel-c-encode/quick-sync-core/")
            || path.starts_with("kernel-c-encode/tests/")
            || BINDINGS.iter().any(|crate_name| path.starts_with(&format!("kernel-c-encode/{crate_name}/")))
            || path.starts_with("tests/");
        let found = names.iter().find(|name| text.contains(&format!("{name}::")));
        assert!(intel || found.is_none(), "{path} uses {found:?}");
    }
}

#[test]
fn a_fixture_may_use_the_encoders_and_nothing_of_the_product_uses_a_fixture() {
    let metadata = metadata();
    let allowed = set(&["kernel-c-encode", "shm-protocol", "onevpl-sys", "libva-sys"]);
    for fixture in FIXTURES {
        let used = members_used(&metadata, fixture);
        assert!(used.is_subset(&allowed), "{fixture} uses {used:?}");
        let product = metadata.workspace_default_packages();
        assert!(product.iter().all(|member| member.name.as_str() != fixture), "{fixture} is not built by default");
        for member in metadata.workspace_packages() {
            assert!(!uses(&metadata, &member.name).contains(fixture), "{} uses {fixture}", member.name);
        }
    }
}

#[test]
fn the_c_interface_is_over_kernel_c_alone_and_nothing_of_the_product_is_over_it() {
    let metadata = metadata();
    let allowed = set(&["kernel-c-encode", "kernel-host", "shm-protocol", "onevpl-sys", "libva-sys"]);
    let used = members_used(&metadata, "quick-sync-core");
    assert!(used.is_subset(&allowed), "{used:?}");
    for member in metadata.workspace_default_packages() {
        let used = members_used(&metadata, &member.name);
        let own = ["kernel-c-encode", "quick-sync-core"].contains(&member.name.as_str());
        assert!(!used.contains("quick-sync-core"), "{} uses quick-sync-core", member.name);
        let bindings = used.contains("onevpl-sys") || used.contains("libva-sys");
        assert!(own || !bindings, "{} uses the bindings of kernel C", member.name);
    }
}

#[test]
fn the_protocol_has_no_runtime_no_codec_and_no_anyhow() {
    let metadata = metadata();
    let direct = uses(&metadata, "shm-protocol");
    for banned in ["anyhow", "tokio", "futures", "openh264", "openh264-sys2", "h264-reader", "raw_sync", "serde_json"] {
        assert!(!direct.contains(banned), "shm-protocol uses {banned}");
    }
    assert!(!uses(&metadata, "kernel-host").iter().any(|name| name.starts_with("openh264") || name == "tokio"));
}

#[test]
fn libraries_use_error_enums_and_not_anyhow() {
    let metadata = metadata();
    for library in ["shm-protocol", "kernel-host"] {
        assert!(!uses(&metadata, library).contains("anyhow"), "{library}");
    }
    for file in sources().iter().filter(|path| !path.starts_with(root().join("tests"))) {
        let name = file.file_name().unwrap().to_str().unwrap();
        let text = std::fs::read_to_string(file).unwrap();
        // What the operator's tool, examples and tests do with errors is to show them.
        let shows = ["scripts", "examples", "tests"].iter().any(|f| file.components().any(|c| c.as_os_str() == *f));
        assert!(name == "main.rs" || shows || !text.contains("anyhow::"), "{}: anyhow outside main.rs", file.display());
    }
}

#[test]
fn nothing_is_published_and_everything_is_dual_licensed() {
    for member in metadata().workspace_packages() {
        assert_eq!(member.publish, Some(Vec::new()), "{} says publish = false", member.name);
        assert_eq!(member.license.as_deref(), Some("MIT OR Apache-2.0"), "{}", member.name);
        let manifest = std::fs::read_to_string(&member.manifest_path).unwrap();
        let lints = manifest.split("[lints]").nth(1).unwrap_or_default();
        assert!(lints.trim_start().starts_with("workspace = true"), "{} takes the workspace's lints", member.name);
    }
}

#[test]
fn what_is_not_crash_safe_stays_out_of_the_product() {
    let metadata = metadata();
    for member in metadata.workspace_default_packages() {
        assert!(!uses(&metadata, &member.name).contains("raw_sync"), "{} uses raw_sync", member.name);
    }
}

/// Every Rust file of the repository, except what is built.
fn sources() -> Vec<PathBuf> {
    fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).unwrap().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let built = name.starts_with('.') || name.starts_with("target") || name == "node_modules";
            if entry.file_type().unwrap().is_dir() {
                if !built {
                    walk(&path, found);
                }
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(root(), &mut found);
    assert!(found.len() > 50, "The sources are found");
    found
}

#[test]
fn files_stay_short() {
    let written = |path: &&PathBuf| path.file_name().is_none_or(|name| name != "bindings.rs");
    let long: Vec<String> = sources()
        .iter()
        .filter(written)
        .map(|path| (path, std::fs::read_to_string(path).unwrap().lines().count()))
        .filter(|(path, lines)| {
            let test = path.components().any(|part| part.as_os_str() == "tests");
            *lines > if test { MOST_TEST_LINES } else { MOST_LINES }
        })
        .map(|(path, lines)| format!("{}: {lines} lines", path.strip_prefix(root()).unwrap().display()))
        .collect();
    assert_eq!(long, Vec::<String>::new());
}

#[test]
fn unsafe_code_stands_only_in_modules_that_give_a_reason() {
    for file in sources() {
        let text = std::fs::read_to_string(&file).unwrap();
        for line in text.lines().map(str::trim).filter(|line| line.starts_with("#")) {
            // Test crates whose helpers are not all used in each of them allow; the product expects.
            let in_tests = file.components().any(|part| part.as_os_str() == "tests");
            let allows = line.contains("allow(unsafe_code") && !in_tests;
            assert!(!allows, "{}: unsafe code is expected with a reason, not allowed", file.display());
            if line.contains("(unsafe_code") && line.ends_with(")]") {
                assert!(line.contains("reason = \""), "{}: {line}", file.display());
            }
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    // Spelled apart, so that this file does not find itself.
    let marks = [["TO", "DO"], ["FIX", "ME"], ["XX", "X:"]].map(|parts| parts.concat());
    for file in sources() {
        let text = std::fs::read_to_string(&file).unwrap();
        let found = marks.iter().find(|mark| text.contains(mark.as_str()));
        assert_eq!(found, None, "{}", file.display());
    }
}
