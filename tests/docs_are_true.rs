//! What the documents refer to is there: files they link, tests they name.
#![allow(clippy::unwrap_used, reason = "the helpers of a test fail it")]

use std::path::{Path, PathBuf};
use system_tests::build::root;

/// Every Markdown file of the repository's root and docs.
fn documents() -> Vec<PathBuf> {
    fn walk(folder: &Path, deep: bool, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() && deep {
                walk(&path, true, found);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                found.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(root(), false, &mut found);
    walk(&root().join("docs"), true, &mut found);
    found
}

/// Text without fenced code.
fn prose(text: &str) -> String {
    text.split("```").step_by(2).collect()
}

/// Targets of `[text](target)`.
fn links(text: &str) -> Vec<String> {
    let pieces = text.split("](").skip(1);
    pieces.filter_map(|piece| piece.split_once(')')).map(|(target, _)| target.trim().to_owned()).collect()
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let kept = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = kept.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_relative_link_leads_somewhere() {
    let mut dead = Vec::new();
    for document in documents() {
        let text = prose(&std::fs::read_to_string(&document).unwrap());
        for link in links(&text) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (path, wanted) = link.split_once('#').unwrap_or((&link, ""));
            let target = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            let there = target.exists();
            let is_document = target.extension().is_some_and(|extension| extension == "md");
            let section = !there || wanted.is_empty() || !is_document || {
                let text = prose(&std::fs::read_to_string(&target).unwrap());
                text.lines().any(|line| line.starts_with('#') && anchor(line) == wanted)
            };
            if !there || !section {
                dead.push(format!("{}: {link}", document.strip_prefix(root()).unwrap().display()));
            }
        }
    }
    assert_eq!(dead, Vec::<String>::new());
}

/// All Rust sources in one text each.
fn sources(folder: &Path, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        if path.is_dir() && !name.starts_with('.') && !name.starts_with("target") && name != "node_modules" {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            found.push(std::fs::read_to_string(&path).unwrap());
        }
    }
}

/// Words in backticks.
fn quoted(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[test]
fn every_test_and_file_that_the_specification_names_exists() {
    let specification = root().join("docs/SPECIFICATION.md");
    let Ok(text) = std::fs::read_to_string(specification) else {
        println!("There is no docs/SPECIFICATION.md");
        return;
    };
    let mut code = Vec::new();
    sources(root(), &mut code);
    let mut missing = Vec::new();
    for name in prose(&text).lines().flat_map(quoted) {
        let plain = |text: &str| text.chars().all(|c| c.is_ascii_alphanumeric() || "_-./:".contains(c));
        if !plain(&name) {
            continue;
        }
        let there = if let Some((_, test)) = name.rsplit_once("::") {
            let function = format!("fn {test}(");
            let module = format!("mod {test}");
            // Where a macro makes a row of tests of a table.
            let row = format!("    {test}: ");
            code.iter().any(|text| [&function, &module, &row].iter().any(|form| text.contains(form.as_str())))
        } else if name.contains('/') && [".rs", ".toml", ".md", ".mjs"].iter().any(|end| name.ends_with(end)) {
            // Nested crates are also named by their own folder.
            ["", "shm-protocol", "scripts", "tests"].iter().any(|folder| root().join(folder).join(&name).exists())
        } else {
            true
        };
        if !there {
            missing.push(name);
        }
    }
    assert_eq!(missing, Vec::<String>::new());
}
