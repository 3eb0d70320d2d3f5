//! Encoders, engines, sources, and the ways onto the wire.

use std::net::UdpSocket;
use std::path::{Path, PathBuf};

use super::Finding;

/// Everything here.
pub fn findings() -> Vec<Finding> {
    /// What kernels A to D are built with; the configuration knows more names than that.
    const BUILT_IN: [&str; 7] = ["openh264", "null", "cpu", "pattern", "file", "udp", "UDP GSO"];
    let mut all = encoders();
    all.extend(engines());
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
        "encoder" => "encode.backend = \"auto\" or \"openh264\"",
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

fn render_nodes() -> Vec<PathBuf> {
    let entries = std::fs::read_dir("/dev/dri").into_iter().flatten().flatten();
    let mut nodes: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("renderD")))
        .collect();
    nodes.sort();
    nodes
}

/// The render node that this process may use, or why there is none, with the cure.
fn usable_node() -> Result<PathBuf, (String, String)> {
    let nodes = render_nodes();
    let Some(first) = nodes.first() else {
        return Err((
            "no /dev/dri/renderD*".to_owned(),
            "A GPU with its driver; in a container --device /dev/dri".to_owned(),
        ));
    };
    let open = |path: &&PathBuf| std::fs::OpenOptions::new().read(true).write(true).open(path).is_ok();
    nodes.iter().find(open).cloned().ok_or_else(|| {
        (format!("{} may not be opened", first.display()), "usermod -aG render $USER, then log in again".to_owned())
    })
}

fn encoders() -> Vec<Finding> {
    let mut all = Vec::new();
    let hardware = [
        ("vpl", &["libvpl.so.2"][..], "apt install libvpl2 libmfx-gen1.2"),
        ("vaapi", &["libva-drm.so.2"][..], "apt install libva-drm2 intel-media-va-driver-non-free"),
    ];
    for (name, libraries, cure) in hardware {
        all.push(match (loadable(libraries), usable_node()) {
            (None, _) => Finding::missing("encoder", name, format!("{} is not installed", libraries[0]), cure),
            (Some(_), Err((why, cure))) => Finding::missing("encoder", name, why, cure),
            (Some(library), Ok(node)) => Finding::usable("encoder", name, format!("{library}, {}", node.display())),
        });
    }
    let software = [
        ("x264", "libx264.so", 120..=200, "h264", "apt install libx264-164"),
        ("x265", "libx265.so", 150..=250, "hevc", "apt install libx265-215"),
        ("svtav1", "libSvtAv1Enc.so", 0..=9, "av1", "apt install libsvtav1enc2"),
    ];
    for (name, library, versions, codec, cure) in software {
        // The number of a shared object rises with its interface; whichever is installed is looked for.
        let names: Vec<String> = versions.rev().map(|version| format!("{library}.{version}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).chain([library]).collect();
        all.push(match loadable(&names) {
            Some(found) => Finding::usable("encoder", name, format!("{codec} by {found}")),
            None => Finding::missing("encoder", name, format!("{library} is not installed"), cure),
        });
    }
    all.push(openh264());
    all.push(Finding::usable("encoder", "null", "no picture: each frame's descriptor goes on the wire"));
    all
}

/// Built in; how fast depends on whether an assembler was there then.
fn openh264() -> Finding {
    let found = "h264, built in";
    if super::tools::in_path("nasm").is_some() {
        return Finding::usable(
            "encoder",
            "openh264",
            format!("{found}; nasm is here, so a build uses its assembler code"),
        );
    }
    let why = format!(
        "{found}; no nasm here: a build made on this machine has no assembler code and is several times slower"
    );
    Finding::usable("encoder", "openh264", why)
        .better("apt install nasm && cargo clean -p openh264-sys2 --release, then `quad up`")
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
