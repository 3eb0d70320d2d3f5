//! Configuration: a TOML file, `KEY=VALUE` of the command line, and the file of kept overrides.
//!
//! Feeds: text up to a line of `----` as the file, then a line for each `--set`.
//! Holds: no panic; what is refused is refused in words; what is accepted, written out by `effective_toml`, is accepted
//! again, is equal but for secrets (which are left out), and is written out as the same text; overrides that were accepted
//! are read back from their file as the same.
#![no_main]

use kernel_host::config::{Config, Overrides, key_info, keys, locate};
use quad_fuzz::Input;
use std::cell::RefCell;
use std::path::PathBuf;

thread_local! {
    static FOLDER: RefCell<Option<tempfile::TempDir>> = const { RefCell::new(None) };
}

fn file() -> PathBuf {
    FOLDER.with_borrow_mut(|folder| {
        // scripts/fuzz puts temporary files in memory: kept overrides are synced to their medium.
        let folder = folder.get_or_insert_with(|| tempfile::tempdir().expect("a folder"));
        folder.path().join("overrides.toml")
    })
}

fn check_effective(config: &Config) {
    let text = config.effective_toml();
    let again = match Config::from_toml(&text) {
        Ok(again) => again,
        Err(error) => panic!("What is in effect is refused: {error}\n{text}"),
    };
    assert_eq!(again.effective_toml(), text);
    for kernel in config.kernels() {
        assert!(again.has(&kernel) && !config.inputs(&kernel).iter().any(|input| !config.has(input)));
        let _ = (config.readers(&kernel), config.slots(&kernel), config.cpus(&kernel), config.standby(&kernel));
        let _ = config.by_reference_depth(&kernel.name);
    }
}

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut input = Input(data);
    let Ok(text) = std::str::from_utf8(input.until(b"----\n")) else { return };
    let Ok(rest) = std::str::from_utf8(input.0) else { return };
    let sets: Vec<String> = rest.lines().map(str::to_owned).collect();
    match Config::from_toml(text) {
        Ok(config) => check_effective(&config),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    let mut overrides = Overrides::default();
    for set in &sets {
        if let Err(error) = overrides.set(set) {
            assert!(!error.to_string().is_empty());
        }
        if let Some((key, _)) = set.split_once('=') {
            let _ = (locate(key), key_info(key));
        }
    }
    match Config::load(None, &sets) {
        Ok(config) => check_effective(&config),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    assert!(!keys().is_empty());
    if !overrides.is_empty() {
        let path = file();
        overrides.save(&path).expect("a writable folder");
        match Overrides::load(&path) {
            // NaN is not equal to itself; the text is.
            Ok(again) => assert_eq!(format!("{again:?}"), format!("{overrides:?}")),
            Err(error) => {
                panic!("What was kept is refused: {error}\n{}", std::fs::read_to_string(&path).unwrap_or_default())
            }
        }
    }
});
