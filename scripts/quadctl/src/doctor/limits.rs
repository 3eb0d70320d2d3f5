//! The machine: cpus, memory, limits, permissions.

use std::path::Path;

use kernel_host::pin::{allowed_cpus, online_cpus, request_fifo};
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit};

use super::Finding;
use crate::preflight::free_bytes;

/// Sixteen slots of 1080p NV12 for kernel A and as many for a converting kernel B, with room for the rest.
const COMFORTABLE_SHM_BYTES: u64 = 256 << 20;

/// Everything here.
pub fn findings() -> Vec<Finding> {
    vec![cpus(), features(), realtime(), files(), memlock(), runtime_dir(), shm(), huge_pages(), udmabuf()]
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

fn cpus() -> Finding {
    let allowed = allowed_cpus();
    let online = online_cpus().map(|cpus| cpus.to_string()).unwrap_or_else(|_| "unknown".to_owned());
    let found = Finding::usable("machine", "cpus", format!("online {online}, this process may use {allowed}"));
    match allowed.len() {
        0..4 => found.better("Four or more cpus give the encoder two of its own"),
        _ => found,
    }
}

fn features() -> Finding {
    #[cfg(target_arch = "x86_64")]
    let has = [
        ("avx2", is_x86_feature_detected!("avx2")),
        ("avx512bw", is_x86_feature_detected!("avx512bw")),
        ("avx512vbmi", is_x86_feature_detected!("avx512vbmi")),
        ("avx512vnni", is_x86_feature_detected!("avx512vnni")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let has: [(&str, bool); 0] = [];
    let names: Vec<&str> = has.iter().filter(|(_, there)| *there).map(|(name, _)| *name).collect();
    let why = if names.is_empty() {
        "no vector extension that kernel B uses; it runs portable code".to_owned()
    } else {
        names.join(" ")
    };
    Finding::usable("machine", "cpu features", why)
}

fn realtime() -> Finding {
    // In a thread of its own: the policy must not stay with this one.
    let granted = std::thread::spawn(|| request_fifo(1)).join().unwrap_or(false);
    if granted {
        Finding::usable("machine", "real-time scheduling", "permitted")
    } else {
        let cure =
            "ulimit -r 99 (limits.conf: `@video - rtprio 99`), or setcap cap_sys_nice+ep on the kernels' binaries";
        Finding::missing("machine", "real-time scheduling", "not permitted; kernels run without", cure)
    }
}

/// Descriptors one kernel D may need: each viewer one, beside pools and sockets.
const COMFORTABLE_FILES: u64 = 1024;

fn files() -> Finding {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((0, 0));
    let why = format!("{soft} (at most {hard})");
    if soft >= COMFORTABLE_FILES {
        Finding::usable("machine", "open files", why)
    } else {
        Finding::missing("machine", "open files", why, format!("ulimit -n {COMFORTABLE_FILES}"))
    }
}

fn memlock() -> Finding {
    let (soft, _) = getrlimit(Resource::RLIMIT_MEMLOCK).unwrap_or((0, 0));
    let found = if soft == RLIM_INFINITY { "unlimited".to_owned() } else { format!("{} KiB", soft >> 10) };
    if soft >= COMFORTABLE_SHM_BYTES {
        Finding::usable("machine", "locked memory", found)
    } else {
        let why = format!("{found}; only DPDK and udmabuf lock memory");
        Finding::usable("machine", "locked memory", why).better("ulimit -l unlimited")
    }
}

fn shm() -> Finding {
    let path = Path::new("/dev/shm");
    let Ok(found) = nix::sys::statvfs::statvfs(path) else {
        return Finding::missing("memory", "/dev/shm", "is not there", "mount -t tmpfs -o size=4G tmpfs /dev/shm");
    };
    let total = found.blocks() * found.fragment_size();
    let free = free_bytes(path).unwrap_or(0);
    let why = format!("{} MiB, {} MiB free", total >> 20, free >> 20);
    let cure = "mount -o remount,size=4G /dev/shm; in a container --shm-size=4g";
    if free >= COMFORTABLE_SHM_BYTES {
        Finding::usable("memory", "/dev/shm", why)
    } else {
        Finding::missing("memory", "/dev/shm", format!("{why}; 1080p wants {} MiB", COMFORTABLE_SHM_BYTES >> 20), cure)
    }
}

fn huge_pages() -> Finding {
    const SHMEM: &str = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let Some(text) = read(SHMEM) else {
        let why = "this operating system was built without transparent huge pages";
        return Finding::missing("memory", "huge pages", why, "A kernel with CONFIG_TRANSPARENT_HUGEPAGE");
    };
    let chosen = text.split(['[', ']']).nth(1).unwrap_or(&text).to_owned();
    let found = Finding::usable(
        "memory",
        "huge pages",
        format!("shmem_enabled is {chosen}; pools can be collapsed either way"),
    );
    if chosen == "never" || chosen == "deny" { found.better(format!("echo advise > {SHMEM}")) } else { found }
}

fn udmabuf() -> Finding {
    let path = "/dev/udmabuf";
    match std::fs::OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => Finding::usable("memory", path, "memory = \"dma-buf\" can be used"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Finding::missing(
            "memory",
            path,
            "is not there; memory = \"dma-buf\" is refused",
            "modprobe udmabuf (CONFIG_UDMABUF)",
        ),
        Err(error) => {
            Finding::missing("memory", path, error.to_string(), "usermod -aG kvm $USER, or a udev rule for udmabuf")
        }
    }
}

fn runtime_dir() -> Finding {
    let xdg = std::env::var_os("XDG_RUNTIME_DIR").map(std::path::PathBuf::from);
    let base = kernel_host::runtime::RuntimeDir::base(xdg.as_deref());
    let above = base.parent().unwrap_or(Path::new("/"));
    let name = "runtime directory";
    match nix::unistd::access(if base.exists() { base.as_path() } else { above }, nix::unistd::AccessFlags::W_OK) {
        Ok(()) => Finding::usable("machine", name, base.display().to_string()),
        Err(error) => Finding::missing(
            "machine",
            name,
            format!("{} cannot be written: {error}", base.display()),
            "export XDG_RUNTIME_DIR=/run/user/$(id -u), or any directory of your own",
        ),
    }
}
