//! Names the version of the C interface in the shared library, so that programs find the one they were linked with.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Rises when a program that was linked before would go wrong: the ABI is that of the header's structures.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libquick_sync_core.so.0");
}
