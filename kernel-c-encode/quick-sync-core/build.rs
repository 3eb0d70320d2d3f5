//! The library stays where it is until the process ends: encoder libraries that it opened have threads and callbacks
//! that outlive an encoder, and whoever loaded it may unload it at any time.

fn main() {
    println!("cargo::rustc-link-arg-cdylib=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
