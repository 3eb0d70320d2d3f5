//! The sections of the configuration: every key with its type, default and meaning.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use shm_protocol::frame::{PixelFormat, Rational};

use super::choice::*;
use super::error::ConfigError;
use super::keys::KeyInfo;
use super::section::{Section, bounds, dotted, is_live, refuse_unknown, section};
use super::value::{Crop, Gop, HostPort, InstanceName, Secret, Value};
use crate::name::{KernelName, Kind};
use crate::pin::CpuSet;

/// Pixels of a side: 16384 is the widest that the frame descriptor carries.
const SIDE: std::ops::RangeInclusive<i64> = 1..=shm_protocol::frame::MAX_SIDE as i64;
/// Slots of a ring: below 4 a ring cannot have one being written, one ready, one held and one free; 64 are allocated.
const SLOTS: std::ops::RangeInclusive<i64> = 4..=64;
/// Anything positive that fits.
const POSITIVE: std::ops::RangeInclusive<i64> = 1..=u32::MAX as i64;

/// An address on this machine only: nothing listens elsewhere unless told to.
const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

section! {
    /// Keys that stand before the first section.
    Top at "" {
        /// Milliseconds without a sign of life after which a kernel counts as hung and is killed and restarted.
        "hang_timeout_ms" hang_timeout_ms: u32 [100..=3_600_000] = 2000, fixed;
    }
}

section! {
    /// What is logged, and how. Logs go to standard error.
    Log at "log" {
        /// human for a terminal, json for a log collector (one object a line).
        "format" format: LogFormat = LogFormat::Human, fixed;
        /// Least important lines still written: error (somebody must act), warn (the operator may want to act),
        /// info (nobody must act), debug and trace (developers). The environment variable QUAD_LOG goes before it.
        "level" level: LogLevel = LogLevel::Info, fixed;
    }
}

section! {
    /// Kernel A: where frames come from.
    Capture at "capture" {
        /// pattern: a moving test picture with clock and frame number; file: Y4M or raw pixels from a file, FIFO or
        /// stdin; v4l2: a camera or grabber; x11: a screen.
        "source" source: Source = Source::Pattern, fixed;
        /// File, FIFO or device to read; "-" is stdin, a FIFO is read live. Required for source = "file".
        "path" path: Option<PathBuf> = None, fixed;
        /// Pixel format. Unset: what the source says (Y4M header, device); nv12 for the pattern.
        "format" format: Option<PixelFormat> = None, fixed;
        /// Width in pixels, together with height. Unset: what the source says; 1280 for the pattern.
        "width" width: Option<u32> [SIDE] = None, fixed;
        /// Height in pixels, together with width. Unset: what the source says; 720 for the pattern.
        "height" height: Option<u32> [SIDE] = None, fixed;
        /// Frames per second, 60 or "60000/1001". Unset: what the source says; 60 for the pattern.
        "fps" fps: Option<Rational> = None, fixed;
        /// Begin a file again when it ends.
        "loop" repeat: bool = false, fixed;
        /// Burn time and frame id into the top left of every frame. The pattern always has them.
        "barcode" barcode: bool = false, fixed;
        /// live: latency stays bounded, the oldest waiting frame is dropped; lossless: the source is held back.
        "policy" policy: Policy = Policy::Live, fixed;
        /// Milliseconds a frame may wait at a pixel ring before it is dropped (live). Unset: three frame intervals.
        "max_latency_ms" max_latency_ms: Option<u32> [1..=3_600_000] = None, live;
        /// Slots of the ring: how many frames a restart of kernel B is bridged by. A quarter of them may be passed on
        /// by reference.
        "slots" slots: u32 [SLOTS] = 16, fixed;
        /// Cpus to run on. Unset: placed automatically.
        "cpus" cpus: Option<CpuSet> = None, fixed;
        /// What the pixel buffers are made of: posix-shm, memfd (sealed), dma-buf (needs udmabuf or a device).
        "memory" memory: Memory = Memory::PosixShm, fixed;
    }
}

section! {
    /// Kernel B: scales, crops and converts pixels; passes frames on by reference when nothing needs doing.
    Process at "process" {
        /// The capture instance it reads.
        "input" input: KernelName = KernelName::main(Kind::Capture), fixed;
        /// auto: the fastest engine that this machine has; cpu, vulkan, opencl: that one or none.
        "engine" engine: Engine = Engine::Auto, fixed;
        /// Width to scale to in pixels, together with height. Unset: as cropped and turned.
        "width" width: Option<u32> [SIDE] = None, fixed;
        /// Height to scale to in pixels, together with width. Unset: as cropped and turned.
        "height" height: Option<u32> [SIDE] = None, fixed;
        /// Rectangle of the input that is kept, "WIDTHxHEIGHT+X+Y" in pixels. Unset: all.
        "crop" crop: Option<Crop> = None, fixed;
        /// Clockwise turn after cropping, in degrees.
        "rotate" rotate: Rotate = Rotate::None, fixed;
        /// Pixel format of the output: nv12 (8 bit) or p010 (10 bit).
        "format" format: OutputFormat = OutputFormat::Nv12, fixed;
        /// Matrix of the output. Unset: as the input; bt709 for RGB.
        "matrix" matrix: Option<Matrix> = None, fixed;
        /// Sample range of the output. Unset: as the input; limited for RGB.
        "range" range: Option<SampleRange> = None, fixed;
        /// Keep a second process warm that takes over when this one dies.
        "standby" standby: bool = false, fixed;
        /// Slots of the ring: how many frames a restart of kernel C is bridged by.
        "slots" slots: u32 [SLOTS] = 16, fixed;
        /// Cpus to run on. Unset: placed automatically.
        "cpus" cpus: Option<CpuSet> = None, fixed;
        /// What the pixel buffers are made of: posix-shm, memfd (sealed), dma-buf (needs udmabuf or a device).
        "memory" memory: Memory = Memory::PosixShm, fixed;
    }
}

section! {
    /// Kernel C: makes access units of pixels.
    Encode at "encode" {
        /// The process instance it reads.
        "input" input: KernelName = KernelName::main(Kind::Process), fixed;
        /// auto: the best encoder for the codec that this machine has, never another codec; else that one or none.
        /// null sends each frame's descriptor in place of a picture.
        "backend" backend: Backend = Backend::Auto, fixed;
        /// Codec of the stream.
        "codec" codec: VideoCodec = VideoCodec::H264, fixed;
        /// Render node for hardware encoders. Unset: the first that can.
        "device" device: Option<PathBuf> = None, fixed;
        /// Target bitrate, kilobit (1000 bit) per second.
        "bitrate_kbps" bitrate_kbps: u32 [POSITIVE] = 8000, live;
        /// Largest bitrate of vbr, kilobit per second. Unset: one and a half times bitrate_kbps.
        "max_bitrate_kbps" max_bitrate_kbps: Option<u32> [POSITIVE] = None, fixed;
        /// Size of the rate control's buffer, milliseconds at the target bitrate. Unset: the backend's choice.
        "vbv_ms" vbv_ms: Option<u32> [1..=60_000] = None, fixed;
        /// cbr: constant bitrate; vbr: variable; cqp: constant quantiser; icq: constant quality. The last two need qp.
        "rate_control" rate_control: RateControl = RateControl::Cbr, fixed;
        /// Quantiser (cqp) or quality (icq), in the codec's scale: 0 to 51 for h264 and hevc, 0 to 255 for av1.
        "qp" qp: Option<u32> [0..=255] = None, fixed;
        /// Frames that fit the bitrate at no quantiser are left out (openh264). Off: the stream exceeds its bitrate.
        "leave_frames_out" leave_frames_out: bool = false, fixed;
        /// From one IDR picture to the next: "2s", a number of frames, "infinite" (only on request), 1 (every picture).
        "gop" gop: Gop = Gop::Millis(2000), fixed;
        /// No frame is held back: no B pictures, no look-ahead.
        "low_latency" low_latency: bool = true, fixed;
        /// The backend's own name or number of a speed. Unset: the backend's low-latency choice.
        "preset" preset: Option<String> = None, fixed;
        /// The codec's profile, for example "high". Unset: the backend's choice.
        "profile" profile: Option<String> = None, fixed;
        /// H.264: "cabac" or "cavlc". Unset: as the profile has it.
        "entropy" entropy: Option<String> = None, fixed;
        /// The codec's level, for example "4.1". Unset: by size and rate.
        "level" level: Option<String> = None, fixed;
        /// Slices a picture is cut into. Unset: the backend's choice.
        "slices" slices: Option<u32> [1..=600] = None, fixed;
        /// Tile columns (hevc, av1). Unset: the backend's choice.
        "tile_columns" tile_columns: Option<u32> [1..=64] = None, fixed;
        /// Tile rows (hevc, av1). Unset: the backend's choice.
        "tile_rows" tile_rows: Option<u32> [1..=64] = None, fixed;
        /// Renew the picture by a moving band of intra blocks between IDR pictures.
        "intra_refresh" intra_refresh: bool = false, fixed;
        /// Frames a hardware encoder works on at a time. Unset: 1.
        "async_depth" async_depth: Option<u32> [1..=16] = None, fixed;
        /// Threads of a software encoder. Unset: as many as it has cpus.
        "threads" threads: Option<u32> [1..=1024] = None, fixed;
        /// Keep a second process warm that takes over when this one dies.
        "standby" standby: bool = false, fixed;
        /// Slots of the ring: how many access units a restart of kernel D is bridged by.
        "slots" slots: u32 [SLOTS] = 16, fixed;
        /// Cpus to run on. Unset: placed automatically.
        "cpus" cpus: Option<CpuSet> = None, fixed;
    }
}

section! {
    /// Kernel D: puts access units on the wire.
    Net at "net" with rtp: Rtp, http: Http, rdp: Rdp, srt: Srt, record: Record {
        /// The encode instance that outputs send which name none.
        "input" input: KernelName = KernelName::main(Kind::Encode), fixed;
        /// udp: the operating system's sockets; dpdk: a network card driven directly.
        "transmit" transmit: Transmit = Transmit::Udp, fixed;
        /// Network interface to send from. Unset: by the routing table.
        "interface" interface: Option<String> = None, fixed;
        /// Keep a second process warm that takes over when this one dies.
        "standby" standby: bool = false, fixed;
        /// Cpus to run on. Unset: placed automatically.
        "cpus" cpus: Option<CpuSet> = None, fixed;
    }
}

section! {
    /// RTP over UDP. On in the first net instance; in further ones when the table is there.
    Rtp at "net.rtp" {
        /// Whether this output is on.
        "enabled" enabled: bool = true, fixed;
        /// Where packets go, host and port; RTCP goes to the next port.
        "destination" destination: HostPort = HostPort { host: "127.0.0.1".to_owned(), port: 5004 }, live;
        /// Largest RTP payload in bytes, without IP, UDP and RTP headers. 1200 passes every path of the Internet.
        "payload_bytes" payload_bytes: u32 [64..=8900] = 1200, fixed;
        /// RTP payload type of H.264, a dynamic one. Each codec has its own, so that receivers see a change: HEVC the
        /// next one, AV1 the one after it, the null encoder the third (after 127 comes 96). A stream keeps the one it
        /// began with.
        "payload_type" payload_type: u32 [96..=127] = 96, fixed;
        /// The encode instance that feeds it. Unset: the one of net.input.
        "encode" encode: Option<InstanceName> = None, fixed;
        /// Forward error correction.
        "fec" fec: Fec = Fec::None, fixed;
        /// Spread the packets of a frame over its interval rather than send them at once.
        "pacing" pacing: bool = true, fixed;
    }
}

section! {
    /// Watch page, metrics and status over HTTP. On in the first net instance; in further ones when the table is there.
    Http at "net.http" {
        /// Whether this output is on.
        "enabled" enabled: bool = true, fixed;
        /// Address and port to listen on. Browsers decode only on a secure origin: loopback, or TLS before it.
        "listen" listen: SocketAddr = loopback(8080), fixed;
        /// Secret that viewers must give. Unset: none is asked for.
        "token" token: Option<Secret> = None, fixed;
        /// Names beside localhost and the listen address under which the page is reached (a proxy's), with commas
        /// between. Unset: none; a page of another name must not read the screen through this one.
        "allowed_hosts" allowed_hosts: Option<String> = None, fixed;
        /// The encode instance that feeds it. Unset: the one of net.input.
        "encode" encode: Option<InstanceName> = None, fixed;
    }
}

section! {
    /// Remote desktop (RDP). On when the table is there.
    Rdp at "net.rdp" {
        /// Whether this output is on.
        "enabled" enabled: bool = true, fixed;
        /// Address and port to listen on.
        "listen" listen: SocketAddr = loopback(3389), fixed;
        /// User that viewers log in as. Unset: any.
        "user" user: Option<String> = None, fixed;
        /// File with the password in its first line, readable by its owner only. Unset: no password.
        "password_file" password_file: Option<PathBuf> = None, fixed;
        /// The encode instance that feeds it. Unset: the one of net.input.
        "encode" encode: Option<InstanceName> = None, fixed;
    }
}

section! {
    /// SRT with an MPEG transport stream. On when the table is there.
    Srt at "net.srt" {
        /// Whether this output is on.
        "enabled" enabled: bool = true, fixed;
        /// Address and port to wait for callers on.
        "listen" listen: SocketAddr = loopback(8890), fixed;
        /// Receiver to call, host and port. Unset: wait for callers.
        "destination" destination: Option<HostPort> = None, fixed;
        /// Milliseconds in which lost packets may be sent again.
        "latency_ms" latency_ms: u32 [0..=60_000] = 120, fixed;
        /// File with the passphrase in its first line, readable by its owner only. Unset: not encrypted.
        "passphrase_file" passphrase_file: Option<PathBuf> = None, fixed;
        /// The encode instance that feeds it. Unset: the one of net.input.
        "encode" encode: Option<InstanceName> = None, fixed;
    }
}

section! {
    /// Recording to a file. On when the table is there.
    Record at "net.record" {
        /// Whether this output is on.
        "enabled" enabled: bool = true, fixed;
        /// File to write. Required.
        "path" path: PathBuf = PathBuf::new(), fixed;
        /// The encode instance that feeds it. Unset: the one of net.input.
        "encode" encode: Option<InstanceName> = None, fixed;
    }
}
