//! What would make a start fail is said before anything is started, with the key to change.

use std::fs::File;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::Path;

use kernel_host::config::{Backend, Capture, Config, Memory, Process, Source};
use kernel_host::exit::{Exit, Failure};
use kernel_host::name::{KernelName, Kind};
use shm_protocol::frame::{BUFFER_ALIGN, Colour, PixelFormat, Rational, VideoFormat};
use shm_protocol::lease::LeaseTable;
use shm_protocol::names::SHM_DIR;

use crate::commands::list;
use crate::launch::Launch;

/// Control segments, leases, telemetry pages and access units of one instance, generously.
const SMALL_OBJECTS_BYTES: u64 = 4 << 20;

/// Checks binaries, ports and shared memory. Of an instance of which kernels live, only what is missing.
pub fn check(instance: &str, config: &Config, launch: &Launch) -> Result<(), Failure> {
    let alive: Vec<String> = LeaseTable::observe(instance)
        .map(|table| table.kernels().into_iter().filter(|info| info.held).map(|info| info.kernel).collect())
        .unwrap_or_default();
    for kernel in config.kernels() {
        let binary = launch.binary(kernel.kind);
        if !binary.is_file() {
            let text = format!("{} is missing; build it with `cargo build --release`", binary.display());
            return Err(Failure::new(Exit::Unavailable, text));
        }
        if kernel.kind == Kind::Net && !alive.contains(&kernel.to_string()) {
            check_ports(config, &kernel)?;
            check_destination(instance, config, &kernel)?;
        }
    }
    if alive.is_empty() {
        let free = free_bytes(Path::new(SHM_DIR));
        // What a killed run left goes before the start.
        let own: u64 = shm_protocol::names::existing(instance)
            .iter()
            .filter_map(|name| std::fs::metadata(Path::new(SHM_DIR).join(name)).ok())
            .map(|found| std::os::unix::fs::MetadataExt::blocks(&found) * 512)
            .sum();
        if let Some(free) = free {
            check_space(needed_bytes(config), free + own)?;
        }
    }
    Ok(())
}

fn check_space(needed: u64, free: u64) -> Result<(), Failure> {
    if needed <= free {
        return Ok(());
    }
    let (needed_mib, free_mib) = (needed.div_ceil(1 << 20), free >> 20);
    let size_gib = needed.div_ceil(1 << 30) + 1;
    let text = format!(
        "Shared memory is too small: the pools need {needed_mib} MiB and {SHM_DIR} has {free_mib} MiB free; enlarge it \
         (mount -o remount,size={size_gib}G {SHM_DIR}; in a container --shm-size={size_gib}g), lower capture.slots, or \
         set capture.memory = \"memfd\""
    );
    Err(Failure::new(Exit::Unavailable, text))
}

/// Bytes a file system has left for us.
pub fn free_bytes(path: &Path) -> Option<u64> {
    let found = nix::sys::statvfs::statvfs(path).ok()?;
    Some(found.blocks_available() * found.fragment_size())
}

/// Bytes of `/dev/shm` that the pools of a configuration take, as far as it says; a device tells its size later, and
/// then the kernel itself refuses.
fn needed_bytes(config: &Config) -> u64 {
    let mut bytes = SMALL_OBJECTS_BYTES;
    for name in config.instances(Kind::Capture) {
        let Some(capture) = config.capture(name) else { continue };
        let frame = source_frame(capture);
        if capture.memory == Memory::PosixShm {
            bytes += pool(capture.slots, frame.map(|frame| frame.frame_bytes()));
        }
        for process in config.instances(Kind::Process).filter_map(|name| config.process(name)) {
            if process.input.name == name && process.memory == Memory::PosixShm {
                bytes += pool(process.slots, frame.and_then(|frame| processed_bytes(process, &frame)));
            }
            if process.input.name == name {
                bytes += access_unit_bytes(config, frame.as_ref());
            }
        }
    }
    bytes
}

/// Bytes of the bitstream pools: kernel C keeps a byte for each pixel of an access unit.
fn access_unit_bytes(config: &Config, frame: Option<&VideoFormat>) -> u64 {
    let pixels = frame.map(|frame| u64::from(frame.width) * u64::from(frame.height));
    let encoders = config.instances(Kind::Encode).filter_map(|name| config.encode(name));
    encoders.filter(|encode| encode.backend != Backend::Null).map(|encode| pool(encode.slots, pixels)).sum()
}

fn pool(slots: u32, frame_bytes: Option<u64>) -> u64 {
    u64::from(slots) * frame_bytes.unwrap_or(0).next_multiple_of(BUFFER_ALIGN)
}

/// Bytes of a frame that kernel B makes; `None` where it passes frames on by reference.
fn processed_bytes(process: &Process, input: &VideoFormat) -> Option<u64> {
    let format = process.format.pixel_format();
    let crop = process.crop.map(|crop| (crop.width, crop.height));
    let (width, height) = match (process.width, process.height) {
        (Some(width), Some(height)) => (width, height),
        _ => crop.unwrap_or((input.width, input.height)),
    };
    let untouched = format == input.pixel_format
        && (width, height) == (input.width, input.height)
        && process.rotate == kernel_host::config::Rotate::None
        && process.matrix.is_none()
        && process.range.is_none();
    let packed = VideoFormat::packed(format, width, height, input.fps, Colour::BT709_LIMITED).ok()?;
    (!untouched).then(|| packed.frame_bytes())
}

fn source_frame(capture: &Capture) -> Option<VideoFormat> {
    let fps = Rational { num: 1, den: 1 };
    let said =
        || VideoFormat::packed(capture.format?, capture.width?, capture.height?, fps, Colour::BT709_LIMITED).ok();
    said().or_else(|| {
        let path = capture.path.as_ref().filter(|_| capture.source == Source::File)?;
        // A FIFO is not read here: what is taken from it would be missing there.
        if !std::fs::metadata(path).ok()?.file_type().is_file() {
            return None;
        }
        let mut head = Vec::new();
        File::open(path).ok()?.take(256).read_to_end(&mut head).ok()?;
        y4m_frame(&head)
    })
}

/// Size and format of a YUV4MPEG2 header, as far as space depends on it.
fn y4m_frame(head: &[u8]) -> Option<VideoFormat> {
    let line = head.split(|byte| *byte == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split(' ');
    if words.next()? != "YUV4MPEG2" {
        return None;
    }
    let words: Vec<&str> = words.collect();
    let number = |tag: char| words.iter().find_map(|word| word.strip_prefix(tag)?.parse::<u32>().ok());
    let (width, height) = (number('W')?, number('H')?);
    VideoFormat::packed(PixelFormat::I420, width, height, Rational { num: 1, den: 1 }, Colour::BT709_LIMITED).ok()
}

/// Every port that a net instance listens on must be free.
fn check_ports(config: &Config, kernel: &KernelName) -> Result<(), Failure> {
    let Some(net) = config.net(&kernel.name) else { return Ok(()) };
    let at = kernel.config_path();
    let tcp = [
        ("http.listen", net.http.as_ref().filter(|o| o.enabled).map(|o| o.listen)),
        ("rdp.listen", net.rdp.as_ref().filter(|o| o.enabled).map(|o| o.listen)),
    ];
    for (key, address) in tcp.into_iter().filter_map(|(key, address)| Some((key, address?))) {
        TcpListener::bind(address).map_err(|error| cannot_listen(&at, key, address, &error))?;
    }
    if let Some(address) = net.srt.as_ref().filter(|srt| srt.enabled && srt.destination.is_none()).map(|srt| srt.listen)
    {
        UdpSocket::bind(address).map_err(|error| cannot_listen(&at, "srt.listen", address, &error))?;
    }
    Ok(())
}

fn cannot_listen(at: &str, key: &str, address: SocketAddr, error: &std::io::Error) -> Failure {
    let why = match error.kind() {
        std::io::ErrorKind::AddrInUse => "the port is in use; end its user or choose another".to_owned(),
        std::io::ErrorKind::AddrNotAvailable => "this machine has no such address".to_owned(),
        std::io::ErrorKind::PermissionDenied => {
            "ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one".to_owned()
        }
        _ => error.to_string(),
    };
    Failure::new(Exit::Unavailable, format!("{at}.{key} = \"{address}\" cannot be listened on: {why}"))
}

/// Two instances that send to one receiver would spoil both streams.
fn check_destination(instance: &str, config: &Config, kernel: &KernelName) -> Result<(), Failure> {
    let Some(rtp) = config.net(&kernel.name).and_then(|net| net.rtp.as_ref().filter(|rtp| rtp.enabled)) else {
        return Ok(());
    };
    let url = format!("rtp://{}", rtp.destination);
    for other in list::instances().into_iter().filter(|name| name != instance) {
        let status = list::status_of(&other);
        if status.kernels.iter().any(|(_, k)| k.heartbeat_age_ms.is_some())
            && status.outputs.iter().any(|o| o.url == url)
        {
            let text = format!(
                "{}.rtp.destination = \"{}\" cannot be sent to: instance {other} sends there already; choose another port",
                kernel.config_path(),
                rtp.destination
            );
            return Err(Failure::new(Exit::Unavailable, text));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn needed_mib(sets: &[&str]) -> u64 {
        let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
        (needed_bytes(&Config::load(None, &sets).unwrap()) - SMALL_OBJECTS_BYTES) >> 20
    }

    #[test]
    fn pools_are_counted_where_they_lie_and_where_pixels_are_touched() {
        // 1280x720 NV12 is 1.32 MiB, sixteen of them; B passes them on; C keeps a byte for each pixel.
        assert_eq!(needed_mib(&[]), 21 + 14);
        assert_eq!(needed_mib(&["encode.backend=null"]), 21);
        assert_eq!(needed_mib(&["capture.memory=memfd"]), 14);
        assert_eq!(
            needed_mib(&["capture.format=i420"]),
            43 + 14,
            "i420 rows are padded, and B converts into a pool of its own"
        );
        assert_eq!(needed_mib(&["process.width=640", "process.height=360"]), 21 + 6 + 14);
        assert_eq!(
            needed_mib(&["capture.source=v4l2", "capture.path=/dev/video0"]),
            0,
            "unknown before the device says"
        );
    }

    #[test]
    fn too_little_memory_is_refused_with_the_cure() {
        check_space(64 << 20, 64 << 20).unwrap();
        let failure = check_space(100 << 20, 64 << 20).unwrap_err();
        let text = failure.to_string();
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(text.contains("100 MiB") && text.contains("--shm-size=2g") && text.contains("capture.slots"), "{text}");
    }

    #[test]
    fn a_y4m_header_tells_its_size() {
        let frame = y4m_frame(b"YUV4MPEG2 W1920 H1080 F60:1 C420jpeg\nFRAME\n").unwrap();
        assert_eq!((frame.width, frame.height), (1920, 1080));
        assert!(y4m_frame(b"YUV4MPEG2 W0 H1080\n").is_none() && y4m_frame(b"RIFF\xff").is_none());
    }

    #[test]
    fn a_port_in_use_names_its_key() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let set = format!("net.http.listen={}", taken.local_addr().unwrap());
        let config = Config::load(None, &[set]).unwrap();
        let failure = check_ports(&config, &KernelName::main(Kind::Net)).unwrap_err();
        assert_eq!(failure.exit, Exit::Unavailable);
        assert!(
            failure.to_string().starts_with("net.http.listen = ") && failure.to_string().contains("in use"),
            "{failure}"
        );
        drop(taken);
        check_ports(&config, &KernelName::main(Kind::Net)).unwrap();
    }
}
