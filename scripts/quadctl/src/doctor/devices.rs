//! Engines, sources, and the ways onto the wire.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};

use super::Finding;

/// Everything here.
pub fn findings() -> Vec<Finding> {
    /// What kernels A to D are built with; the configuration knows more names than that.
    const BUILT_IN: [&str; 5] = ["cpu", "pattern", "file", "udp", "UDP GSO"];
    let mut all = engines();
    all.extend([
        Finding::usable("source", "pattern", "always there"),
        Finding::usable("source", "file", "Y4M and raw pixels from files, FIFOs and standard input"),
        v4l2(),
        x11(),
        Finding::usable("transmit", "udp", "always there"),
        gso(),
        dpdk(),
    ]);
    let instead = |area: &str| match area {
        "engine" => "process.engine = \"auto\" or \"cpu\"",
        "source" => "capture.source = \"file\" with a FIFO that ffmpeg writes",
        _ => "net.transmit = \"udp\"",
    };
    all.into_iter()
        .map(|found| {
            if BUILT_IN.contains(&found.name.as_str()) {
                found
            } else {
                let cure = instead(found.area);
                found.not_in_this_version(cure)
            }
        })
        .collect()
}

/// Whether a library can be loaded, and under which of its names.
#[expect(unsafe_code, reason = "loading a library runs its initialisers")]
fn loadable(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| {
        // SAFETY: these are system libraries by their own names, whose initialisers are meant to run in any process;
        // no symbol is taken from them.
        unsafe { libloading::Library::new(*name) }.ok().map(|_| (*name).to_owned())
    })
}

fn engines() -> Vec<Finding> {
    let mut all = vec![Finding::usable("engine", "cpu", "always there")];
    for (name, libraries, cure) in [
        ("vulkan", &["libvulkan.so.1"][..], "apt install libvulkan1 mesa-vulkan-drivers"),
        ("opencl", &["libOpenCL.so.1"][..], "apt install ocl-icd-libopencl1 intel-opencl-icd"),
    ] {
        all.push(match loadable(libraries) {
            Some(library) => Finding::usable("engine", name, format!("{library} can be loaded")),
            None => Finding::missing("engine", name, format!("{} is not installed", libraries[0]), cure),
        });
    }
    all
}

fn v4l2() -> Finding {
    let entries = std::fs::read_dir("/dev").into_iter().flatten().flatten();
    let devices: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            name.strip_prefix("video").is_some_and(|number| number.parse::<u32>().is_ok())
        })
        .collect();
    match devices.first() {
        None => Finding::missing(
            "source",
            "v4l2",
            "no /dev/video*",
            "A camera or grabber; modprobe vivid makes a virtual one",
        ),
        Some(first)
            if nix::unistd::access(first, nix::unistd::AccessFlags::R_OK | nix::unistd::AccessFlags::W_OK).is_err() =>
        {
            Finding::missing(
                "source",
                "v4l2",
                format!("{} may not be opened", first.display()),
                "usermod -aG video $USER, then log in again",
            )
        }
        Some(_) => {
            let names: Vec<String> = devices.iter().map(|path| path.display().to_string()).collect();
            Finding::usable("source", "v4l2", names.join(" "))
        }
    }
}

fn x11() -> Finding {
    match std::env::var("DISPLAY").ok().filter(|display| !display.is_empty()) {
        Some(display) => Finding::usable("source", "x11", format!("DISPLAY is {display}")),
        None => Finding::missing(
            "source",
            "x11",
            "DISPLAY is not set",
            "export DISPLAY=:0, or Xvfb :99 & export DISPLAY=:99",
        ),
    }
}

/// Segmentation offload: one system call for many packets (UDP_SEGMENT, udp(7), Linux 4.18).
fn gso() -> Finding {
    const SEGMENT_BYTES: i32 = 1200;
    let tried = UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string()).and_then(|socket| {
        nix::sys::socket::setsockopt(&socket, nix::sys::socket::sockopt::UdpGsoSegment, &SEGMENT_BYTES)
            .map_err(|error| error.to_string())
    });
    match tried {
        Ok(()) => Finding::usable("transmit", "UDP GSO", "one system call sends many packets"),
        Err(error) => Finding::missing(
            "transmit",
            "UDP GSO",
            format!("refused ({error}); packets go by sendmmsg"),
            "Linux 4.18 or newer",
        ),
    }
}

fn dpdk() -> Finding {
    let Some(library) =
        loadable(&["librte_ethdev.so.25", "librte_ethdev.so.24", "librte_ethdev.so.23", "librte_ethdev.so"])
    else {
        return Finding::missing("transmit", "dpdk", "librte_ethdev is not installed", "apt install libdpdk-dev");
    };
    let pages = std::fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages").unwrap_or_default();
    if pages.trim().parse::<u64>().unwrap_or(0) == 0 {
        let why = format!("{library}, but no 2 MiB pages are set aside");
        return Finding::missing(
            "transmit",
            "dpdk",
            why,
            "echo 256 > /sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
        );
    }
    if !Path::new("/dev/vfio/vfio").exists() {
        return Finding::missing("transmit", "dpdk", format!("{library}, but no /dev/vfio/vfio"), "modprobe vfio-pci");
    }
    Finding::usable("transmit", "dpdk", library)
}
