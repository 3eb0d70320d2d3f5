//! Programs in C against the header and the libraries: plain, under AddressSanitizer and under valgrind.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of a test fail it")]

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;
use va_fixture::environment::Installed;

const CRATE: &str = env!("CARGO_MANIFEST_DIR");
/// What the static library needs beside it: the same as in quick_sync_core.pc.in.
const STATIC_NEEDS: [&str; 7] = ["-lstdc++", "-lgcc_s", "-lutil", "-lrt", "-lpthread", "-lm", "-ldl"];
/// All that a compiler can say against a program.
const STRICT: [&str; 6] = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic", "-O1"];

fn have(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

/// Says that a check did not run and why, where the closing summary of scripts/test finds it.
fn skip(test: &str, why: &str) {
    let line = format!("SKIPPED {test}: {why}");
    eprintln!("{line}");
    if let Some(path) = std::env::var_os("QUAD_SKIP_FILE") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(path);
        writeln!(file.unwrap(), "{line}").unwrap();
    }
}

fn need(test: &str, programs: &[&str]) -> bool {
    match programs.iter().find(|program| !have(program)) {
        Some(missing) => {
            skip(test, &format!("{missing} is not installed"));
            false
        }
        None => true,
    }
}

fn have_vpl_headers(test: &str) -> bool {
    let there = Path::new("/usr/include/vpl/mfxvideo.h").is_file();
    if !there {
        skip(test, "the headers of oneVPL are not installed (apt install libvpl-dev)");
    }
    there
}

/// Folder of the libraries, which were built with this test.
fn libraries() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    let folder = [folder.clone(), folder.parent().unwrap().to_owned()]
        .into_iter()
        .find(|folder| folder.join("libquick_sync_core.a").is_file() && folder.join("libquick_sync_core.so").is_file());
    folder.expect("Cargo builds the libraries with their tests")
}

fn run(command: &mut Command) -> Output {
    command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// Runs a command that must succeed; what it wrote to standard output.
fn must(command: &mut Command) -> String {
    let output = run(command);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {}\n{said}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// How a program is linked.
#[derive(Clone, Copy, PartialEq)]
enum Link {
    Shared,
    Static,
}

/// Compiles `source` (below the crate) into `folder`.
fn compile(folder: &TempDir, source: &str, link: Link, options: &[&str]) -> PathBuf {
    let program = folder.path().join(Path::new(source).file_stem().unwrap());
    let mut command = Command::new("cc");
    command.args(STRICT).args(options).arg("-g").arg(format!("-I{CRATE}/include")).arg(format!("-I{CRATE}/tests/c"));
    command.arg(format!("{CRATE}/{source}")).arg("-o").arg(&program);
    match link {
        Link::Shared => {
            let library = libraries().join("libquick_sync_core.so");
            let name = folder.path().join("libquick_sync_core.so.0");
            if !name.exists() {
                std::os::unix::fs::symlink(&library, name).unwrap();
            }
            command.arg(library).arg(format!("-Wl,-rpath,{}", folder.path().display())).arg("-lpthread");
        }
        Link::Static => {
            command.arg(libraries().join("libquick_sync_core.a")).args(STATIC_NEEDS);
        }
    }
    must(&mut command);
    program
}

fn folder() -> TempDir {
    tempfile::Builder::new().prefix("qsv-").tempdir().unwrap()
}

/// How many frames FFmpeg decodes of a stream, without a complaint.
fn decoded(stream: &Path) -> usize {
    raw_frames(stream).len()
}

/// The frames of a stream as FFmpeg decodes them, without a complaint.
fn raw_frames(stream: &Path) -> Vec<Vec<u8>> {
    let mut command = Command::new("ffmpeg");
    command.args(["-v", "warning", "-nostdin", "-f", "h264", "-i"]).arg(stream);
    command.args(["-fps_mode", "passthrough", "-pix_fmt", "nv12", "-f", "rawvideo", "-"]);
    let output = run(&mut command);
    let log = String::from_utf8_lossy(&output.stderr);
    let complaints: Vec<&str> =
        log.lines().filter(|line| !line.contains("not enough frames to estimate rate") && !line.is_empty()).collect();
    assert_eq!(complaints, Vec::<&str>::new());
    let frames = output.stdout.chunks_exact(320 * 180 * 3 / 2);
    assert!(frames.remainder().is_empty(), "A part of a frame");
    frames.map(<[u8]>::to_vec).collect()
}

#[test]
fn sixty_frames_of_a_c_program_are_sixty_frames_for_ffmpeg() {
    let test = "sixty_frames_of_a_c_program_are_sixty_frames_for_ffmpeg";
    if !need(test, &["cc", "ffmpeg"]) {
        return;
    }
    for link in [Link::Shared, Link::Static] {
        let folder = folder();
        let program = compile(&folder, "tests/c/stream.c", link, &[]);
        let mut streams = Vec::new();
        for way in ["in-place", "copied", "callback"] {
            let stream = folder.path().join(way);
            must(Command::new(&program).arg(&stream).arg(way));
            assert_eq!(decoded(&stream), 60, "{way}");
            streams.push(std::fs::read(stream).unwrap());
        }
        assert!(streams[0] == streams[1], "where a frame lies makes no difference to the stream");
        assert!(streams[0] == streams[2], "nor how access units are taken");
    }
}

#[test]
fn whatever_a_c_program_does_wrong_is_a_code_and_a_text() {
    if !need("whatever_a_c_program_does_wrong_is_a_code_and_a_text", &["cc"]) {
        return;
    }
    let folder = folder();
    must(&mut Command::new(compile(&folder, "tests/c/misuse.c", Link::Shared, &[])));
}

#[test]
fn surfaces_of_onevpl_are_encoded_and_the_dma_callbacks_fit_its_allocator() {
    let test = "surfaces_of_onevpl_are_encoded_and_the_dma_callbacks_fit_its_allocator";
    if !need(test, &["cc"]) || !have_vpl_headers(test) {
        return;
    }
    let folder = folder();
    must(&mut Command::new(compile(&folder, "tests/c/surface.c", Link::Shared, &[])));
}

#[test]
fn the_dma_callbacks_give_surfaces_of_a_device_that_are_mapped_encoded_and_freed() {
    let test = "the_dma_callbacks_give_surfaces_of_a_device_that_are_mapped_encoded_and_freed";
    if !need(test, &["cc"]) || !have_vpl_headers(test) {
        return;
    }
    if !Path::new("/usr/lib/x86_64-linux-gnu").join(libva_sys::DRM_LIBRARY).exists() {
        return skip(test, "libva-drm2 is not installed");
    }
    let folder = folder();
    let program = compile(&folder, "tests/c/video_memory.c", Link::Shared, &[]);
    // Without a oneVPL runtime, so that it is VA-API that encodes.
    let driver = Installed::new();
    let mut command = driver.command(program);
    must(command.env("ONEVPL_PRIORITY_PATH", folder.path()));
}

/// A oneVPL runtime that poses as a device, in `folder` under a name that the dispatcher takes. Built now: tests of other
/// packages do not make Cargo place a `cdylib`.
fn install_vpl_runtime(folder: &TempDir) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(Path::new(CRATE).ancestors().nth(2).unwrap());
    build.args(["build", "--locked", "-p", "vpl-fixture", "--lib", "--message-format=json-render-diagnostics"]);
    let messages = must(&mut build);
    let file = messages.split('"').find(|text| text.ends_with("/libquadvpl.so")).expect("Cargo names what it made");
    std::os::unix::fs::symlink(file, folder.path().join("libvplquad.so")).unwrap();
}

#[test]
fn frames_inside_a_device_survive_its_reset_and_its_loss() {
    let test = "frames_inside_a_device_survive_its_reset_and_its_loss";
    if !need(test, &["cc", "ffmpeg"]) {
        return;
    }
    if !Path::new("/usr/lib/x86_64-linux-gnu").join(onevpl_sys::LIBRARY).exists() {
        return skip(test, &format!("{} is not installed: apt install libvpl2", onevpl_sys::LIBRARY));
    }
    let folder = folder();
    let program = compile(&folder, "tests/c/reset.c", Link::Shared, &[]);
    install_vpl_runtime(&folder);
    let driver = Installed::new();
    for (name, why, faults, answer) in [
        ("asked", "asked", "", "QSV_OK"),
        // Its own new session failed; the one of the reset works.
        ("session", "lost", "encode:9=lost@session,init:1=failed", "QSV_OK"),
        ("frame", "lost", "sync:6=gpu_hang@session,init:1=failed", "QSV_OK"),
        // The reset's failed too; the encoder that is opened anew works, and gets the frames.
        ("anew", "lost", "encode:9=lost@session,init:1..=2=failed", "QSV_OK"),
        // That has to do with less than was asked for.
        ("modest", "lost", "encode:9=lost@session,init:1..=3=failed", "QSV_FALLBACK"),
    ] {
        let stream = folder.path().join(name);
        let mut command = driver.command(&program);
        command.arg(&stream).args([why, answer]);
        command.env("ONEVPL_PRIORITY_PATH", folder.path()).env("QUAD_VPL_FIXTURE_IMPL", "hardware");
        // Slow, so that several are inside when it happens.
        command.env("QUAD_VPL_FIXTURE_FAULTS", [faults, "encode:0..=slow_20"].join(",").trim_start_matches(','));
        let said = must(&mut command);
        let numbers: Vec<u32> = said.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect();
        let [idr, inside] = numbers[..] else { panic!("{said}") };
        eprintln!("{name}: {said}");
        let raw = raw_frames(&stream);
        assert_eq!(raw.len(), 20, "{name}");
        // Each picture is the one it says it is: they have one shade each.
        for (index, picture) in raw.iter().enumerate() {
            assert!(picture[picture.len() / 3].abs_diff(40 + 8 * index as u8) <= 3, "{name}: picture {index}");
        }
        // An IDR begins what was inside; the frame that was refused came after that.
        assert!(inside >= 2 && idr > 1, "{name}: {said}");
    }
}

/// Every program, run by `start`, which gets the program and its arguments.
fn every_program(test: &str, options: &[&str], start: impl Fn(&Path) -> Command) {
    let folder = folder();
    let stream = compile(&folder, "tests/c/stream.c", Link::Static, options);
    for way in ["in-place", "copied", "callback"] {
        must(start(&stream).arg(folder.path().join(way)).arg(way));
    }
    must(&mut start(&compile(&folder, "tests/c/misuse.c", Link::Static, options)));
    let example = compile(&folder, "examples/encode_to_file.c", Link::Static, options);
    must(start(&example).arg(folder.path().join("example")).arg("5"));
    if have_vpl_headers(test) {
        must(&mut start(&compile(&folder, "tests/c/surface.c", Link::Static, options)));
    }
}

#[test]
fn address_sanitizer_finds_nothing_and_no_leak() {
    let test = "address_sanitizer_finds_nothing_and_no_leak";
    if !need(test, &["cc"]) {
        return;
    }
    let folder = folder();
    let probe = folder.path().join("probe.c");
    std::fs::write(&probe, "int main(void) { return 0; }\n").unwrap();
    let built = run(Command::new("cc").args(["-fsanitize=address", "-o"]).arg(folder.path().join("probe")).arg(&probe));
    if !built.status.success() {
        return skip(test, "cc has no AddressSanitizer (apt install libasan8, or gcc's own)");
    }
    every_program(test, &["-fsanitize=address,undefined", "-fno-sanitize-recover=all"], |program| {
        let mut command = Command::new(program);
        command.env("ASAN_OPTIONS", "detect_leaks=1:detect_stack_use_after_return=1");
        command
    });
}

#[test]
fn valgrind_finds_nothing_and_no_leak() {
    let test = "valgrind_finds_nothing_and_no_leak";
    if !need(test, &["cc", "valgrind"]) {
        return;
    }
    every_program(test, &[], |program| {
        let mut command = Command::new("valgrind");
        command.args([
            "--quiet",
            "--error-exitcode=99",
            "--leak-check=full",
            "--errors-for-leak-kinds=definite,indirect",
        ]);
        command.arg(format!("--suppressions={CRATE}/tests/c/valgrind.supp")).arg(program);
        command
    });
}

#[test]
fn the_header_compiles_as_c_and_cpp_with_and_without_onevpl() {
    let test = "the_header_compiles_as_c_and_cpp_with_and_without_onevpl";
    if !need(test, &["cc", "c++"]) {
        return;
    }
    let folder = folder();
    let vpl = have_vpl_headers(test);
    let sources = [
        ("plain", "#include <quick_sync_core.h>\n", false),
        ("option", "#define QSV_WITH_VPL\n#include <quick_sync_core.h>\n", true),
        ("before", "#include <vpl/mfxvideo.h>\n#include <quick_sync_core.h>\n", true),
        ("behind", "#include <quick_sync_core.h>\n#include <vpl/mfxvideo.h>\n", true),
    ];
    for (name, text, needs_vpl) in sources {
        if needs_vpl && !vpl {
            continue;
        }
        for (compiler, language, standard) in [("cc", "c", "-std=c11"), ("c++", "c++", "-std=c++11")] {
            let source = folder.path().join(name);
            let body = "int f(QSVEncoderContext *c) { return qsv_flush_frames(c) == QSV_ERR_INTERNAL; }\n";
            std::fs::write(&source, format!("{text}{body}")).unwrap();
            let mut command = Command::new(compiler);
            command.args(["-x", language, standard, "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]);
            must(command.arg(format!("-I{CRATE}/include")).arg(&source));
        }
    }
}

#[test]
fn a_program_is_built_with_what_pkg_config_says_and_runs() {
    let test = "a_program_is_built_with_what_pkg_config_says_and_runs";
    if !need(test, &["cc", "pkg-config"]) {
        return;
    }
    let folder = folder();
    let prefix = folder.path().join("usr");
    let root = Path::new(CRATE).parent().unwrap().parent().unwrap();
    must(Command::new(root.join("scripts/install-quick-sync-core")).arg(&prefix).arg(libraries()));
    let pkg_config = |options: &[&str]| {
        let mut command = Command::new("pkg-config");
        command.env("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig")).args(options).arg("quick_sync_core");
        must(&mut command).split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(pkg_config(&["--modversion"]), [env!("CARGO_PKG_VERSION")]);
    let flags = pkg_config(&["--cflags", "--libs"]);
    assert_eq!(flags[0], format!("-I{}", prefix.join("include").display()));
    assert!(flags.contains(&"-lquick_sync_core".to_owned()), "{flags:?}");
    let source = format!("{CRATE}/examples/encode_to_file.c");
    let (program, stream) = (folder.path().join("encode_to_file"), folder.path().join("out.h264"));
    must(Command::new("cc").args(STRICT).arg(&source).arg("-o").arg(&program).args(&flags));
    let said = must(Command::new(&program).arg(&stream).env("LD_LIBRARY_PATH", prefix.join("lib")));
    assert!(said.contains("access units"), "{said}");
    assert!(std::fs::metadata(&stream).unwrap().len() > 1000);
    // The static library, with what it says it needs.
    let private = pkg_config(&["--libs", "--static"]);
    let ours = format!("{}/lib/libquick_sync_core.a", prefix.display());
    let others = private.into_iter().filter(|flag| flag != "-lquick_sync_core");
    let mut command = Command::new("cc");
    command.args(STRICT).arg(format!("-I{}/include", prefix.display())).arg(&source).arg("-o").arg(&program);
    must(command.arg(ours).args(others));
    must(Command::new(&program).arg(&stream));
}

#[test]
fn the_header_is_what_the_source_says() {
    let test = "the_header_is_what_the_source_says";
    let root = Path::new(CRATE).parent().unwrap().parent().unwrap();
    if !root.join(".cache/cbindgen/bin/cbindgen").is_file() {
        return skip(test, "cbindgen is not there (scripts/cbindgen installs it)");
    }
    must(Command::new(root.join("scripts/cbindgen")).arg("--check"));
}
