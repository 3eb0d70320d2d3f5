//! Names of the objects in `/dev/shm`: `quad.<instance>.<kernel>.<name>[.pool<g>|.session|.tm<epoch>]`.

use crate::error::ObjectError;

/// Where POSIX shared memory lives on Linux.
pub const SHM_DIR: &str = "/dev/shm";
/// How the names of senders' sessions end.
pub const SESSION_SUFFIX: &str = ".session";
/// Longest part of a name, so that the longest whole name fits a pool entry.
pub const MAX_PART_BYTES: usize = 32;

/// Checks one part of a name.
///
/// # Errors
/// [`ObjectError::Name`] unless it is 1 to 32 of `[A-Za-z0-9_-]`.
pub fn check_part(part: &str) -> Result<(), ObjectError> {
    let fits = (1..=MAX_PART_BYTES).contains(&part.len())
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if fits { Ok(()) } else { Err(ObjectError::Name { name: part.to_owned() }) }
}

/// Checks the name of a kernel instance, as "encode.main": parts joined by dots.
///
/// # Errors
/// [`ObjectError::Name`] unless each part is allowed (see [`check_part`]).
pub fn check_kernel(kernel: &str) -> Result<(), ObjectError> {
    kernel.split('.').try_for_each(check_part).map_err(|_| ObjectError::Name { name: kernel.to_owned() })
}

/// Prefix of every object of an instance, with the final dot: no instance's prefix begins another's.
pub fn instance_prefix(instance: &str) -> String {
    format!("quad.{instance}.")
}

/// The lease table of an instance.
pub fn leases(instance: &str) -> String {
    format!("quad.{instance}.leases")
}

/// The ring that kernel `kernel` (as "encode.main") writes.
pub fn ring(instance: &str, kernel: &str) -> String {
    format!("quad.{instance}.{kernel}")
}

/// Generation `generation` of that ring's own pool.
pub fn pool(instance: &str, kernel: &str, generation: u32) -> String {
    format!("{}{generation}", pool_prefix(instance, kernel))
}

/// What the names of that ring's own pools begin with.
pub fn pool_prefix(instance: &str, kernel: &str) -> String {
    format!("quad.{instance}.{kernel}.pool")
}

/// A sender's session.
pub fn session(instance: &str, kernel: &str) -> String {
    format!("quad.{instance}.{kernel}{SESSION_SUFFIX}")
}

/// Telemetry page of one epoch of a kernel.
pub fn telemetry(instance: &str, kernel: &str, epoch: u64) -> String {
    format!("quad.{instance}.{kernel}.tm{epoch}")
}

/// Every object of an instance that exists now.
pub fn existing(instance: &str) -> Vec<String> {
    let prefix = instance_prefix(instance);
    let Ok(entries) = std::fs::read_dir(SHM_DIR) else { return Vec::new() };
    let mut names: Vec<String> =
        entries.flatten().filter_map(|e| e.file_name().into_string().ok()).filter(|n| n.starts_with(&prefix)).collect();
    names.sort();
    names
}

/// Instances that have objects on this machine.
pub fn instances() -> Vec<String> {
    let Ok(entries) = std::fs::read_dir(SHM_DIR) else { return Vec::new() };
    let mut names: Vec<String> = entries
        .flatten()
        .filter_map(|e| e.file_name().into_string().ok())
        .filter_map(|n| n.strip_prefix("quad.")?.strip_suffix(".leases").map(str::to_owned))
        .collect();
    names.sort();
    names
}

/// Number of the user that an instance belongs to, where that is another than the one of this process: its objects are
/// for that user alone.
pub fn foreign_owner(instance: &str) -> Option<u32> {
    use std::os::unix::fs::MetadataExt as _;
    let found = std::fs::symlink_metadata(format!("{SHM_DIR}/{}", leases(instance))).ok()?;
    Some(found.uid()).filter(|owner| *owner != nix::unistd::geteuid().as_raw())
}

/// Removes a name; what is mapped stays mapped. Absent is fine.
pub fn unlink(name: &str) {
    let _ = std::fs::remove_file(format!("{SHM_DIR}/{name}"));
}
