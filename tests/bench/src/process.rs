//! What the operating system says of a process: CPU used, memory mapped.

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// CPU a process has used so far in all its threads, nanoseconds; 0 when it is gone.
pub fn cpu_ns(pid: u32) -> u64 {
    clock_getcpuclockid(Pid::from_raw(pid as i32))
        .and_then(clock_gettime)
        .map_or(0, |t| t.tv_sec() as u64 * 1_000_000_000 + t.tv_nsec() as u64)
}

/// Memory of a process, KiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Memory {
    /// Its share of what is mapped (PSS), pools left out.
    pub own_kib: u64,
    /// Everything resident, pools and shared libraries in full.
    pub resident_kib: u64,
    /// Private memory without a file: heap, stacks.
    pub anonymous_kib: u64,
}

/// Memory of a process now; zeros when it is gone.
pub fn memory(pid: u32) -> Memory {
    parse_smaps(&std::fs::read_to_string(format!("/proc/{pid}/smaps")).unwrap_or_default(), &pool_inodes())
}

/// Pools are known by their inodes: whoever made one mapped it before it had its name.
fn pool_inodes() -> Vec<u64> {
    use std::os::unix::fs::MetadataExt as _;
    let is_pool = |name: &str| name.starts_with("quad.") && name.contains(".pool");
    let objects = std::fs::read_dir(shm_protocol::names::SHM_DIR).into_iter().flatten().flatten();
    objects
        .filter(|e| is_pool(&e.file_name().to_string_lossy()))
        .filter_map(|e| e.metadata().ok())
        .map(|m| m.ino())
        .collect()
}

fn parse_smaps(smaps: &str, pools: &[u64]) -> Memory {
    let mut memory = Memory::default();
    let mut is_pool = false;
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let Some(first) = words.next() else { continue };
        if !first.ends_with(':') {
            // A mapping's head line: addresses, rights, offset, device, inode, path.
            is_pool = line.contains("/dev/shm/")
                && line.split_whitespace().nth(4).and_then(|w| w.parse().ok()).is_some_and(|i: u64| pools.contains(&i));
            continue;
        }
        let kib: u64 = words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
        match first {
            "Pss:" if !is_pool => memory.own_kib += kib,
            "Rss:" => memory.resident_kib += kib,
            "Anonymous:" => memory.anonymous_kib += kib,
            _ => {}
        }
    }
    memory
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pools_do_not_count_as_own_memory() {
        let smaps = "7f00-7f10 rw-s 00000000 00:1a 5 /dev/shm/#5 (deleted)\n\
                     Rss:  900 kB\nPss:  300 kB\nAnonymous: 0 kB\n\
                     7f20-7f30 rw-p 00000000 00:00 0 [heap]\nRss:  50 kB\nPss:  50 kB\nAnonymous: 40 kB\n\
                     7f40-7f50 rw-s 00000000 00:1a 6 /dev/shm/quad.x.capture.main\nRss: 28 kB\nPss: 7 kB\n";
        assert_eq!(parse_smaps(smaps, &[5]), Memory { own_kib: 57, resident_kib: 978, anonymous_kib: 40 });
    }

    #[test]
    fn a_process_that_works_has_used_cpu_and_a_dead_one_none() {
        let mut sum = 0u64;
        for i in 0..5_000_000u64 {
            sum = std::hint::black_box(sum.wrapping_add(i));
        }
        assert!(cpu_ns(std::process::id()) > 0 && memory(std::process::id()).own_kib > 0);
        let mut child = std::process::Command::new("true").spawn().unwrap();
        child.wait().unwrap();
        assert_eq!((cpu_ns(child.id()), memory(child.id())), (0, Memory::default()));
    }
}
