//! Rules that span several keys.

use std::net::{IpAddr, SocketAddr};

use shm_protocol::frame::{Colour, PixelFormat, Rational, VideoFormat};

use super::choice::{Backend, RateControl, Source, VideoCodec};
use super::error::ConfigError;
use super::section::dotted;
use super::{Capture, Config, Encode, Net, Process};
use crate::name::{KernelName, Kind};

/// Checks everything that one key alone cannot show.
pub(super) fn validate(config: &Config) -> Result<(), ConfigError> {
    for kernel in config.kernels() {
        let at = kernel.config_path();
        check_inputs(config, &kernel, &at)?;
        match kernel.kind {
            Kind::Capture => config.capture(&kernel.name).map_or(Ok(()), |c| check_capture(c, &at))?,
            Kind::Process => config.process(&kernel.name).map_or(Ok(()), |p| check_process(p, &at))?,
            Kind::Encode => config.encode(&kernel.name).map_or(Ok(()), |e| check_encode(e, &at))?,
            Kind::Net => check_net(config, &kernel, &at)?,
        }
    }
    check_ports(config)
}

fn check_inputs(config: &Config, kernel: &KernelName, at: &str) -> Result<(), ConfigError> {
    let input = match kernel.kind {
        Kind::Capture => None,
        Kind::Process => config.process(&kernel.name).map(|p| &p.input),
        Kind::Encode => config.encode(&kernel.name).map(|e| &e.input),
        Kind::Net => config.net(&kernel.name).map(|n| &n.input),
    };
    if let (Some(input), Some(upstream)) = (input, kernel.kind.upstream())
        && input.kind != upstream
    {
        return Err(ConfigError::conflict(
            dotted(at, "input"),
            format!("{input} is no {upstream} instance, and {} reads only those", kernel.kind),
        ));
    }
    let outputs = match kernel.kind {
        Kind::Net => config.net(&kernel.name).map(Net::encodes).unwrap_or_default(),
        _ => Vec::new(),
    };
    for (key, input) in input.map(|input| ("input", input.clone())).into_iter().chain(outputs) {
        if !config.has(&input) {
            let known: Vec<String> =
                config.instances(input.kind).map(|name| format!("{}.{name}", input.kind)).collect();
            return Err(ConfigError::conflict(
                dotted(at, key),
                format!("There is no {input}; configured are {}", known.join(", ")),
            ));
        }
    }
    Ok(())
}

/// Both sides or none, and a size that the pixel format can have.
fn check_size(
    at: &str,
    width: Option<u32>,
    height: Option<u32>,
    format: Option<PixelFormat>,
) -> Result<(), ConfigError> {
    match (width, height) {
        (Some(_), None) => {
            Err(ConfigError::conflict(dotted(at, "height"), "Is missing; give width and height, or none"))
        }
        (None, Some(_)) => {
            Err(ConfigError::conflict(dotted(at, "width"), "Is missing; give width and height, or none"))
        }
        (Some(width), Some(height)) => match format {
            Some(format) => {
                VideoFormat::packed(format, width, height, Rational { num: 1, den: 1 }, Colour::BT709_LIMITED)
                    .map(|_| ())
                    .map_err(|error| ConfigError::conflict(dotted(at, "width"), error.to_string()))
            }
            None => Ok(()),
        },
        (None, None) => Ok(()),
    }
}

fn check_capture(capture: &Capture, at: &str) -> Result<(), ConfigError> {
    check_size(at, capture.width, capture.height, capture.format)?;
    if capture.source == Source::File && capture.path.is_none() {
        return Err(ConfigError::conflict(
            dotted(at, "path"),
            "Is missing; source = \"file\" needs a path, \"-\" is stdin",
        ));
    }
    if capture.source == Source::Pattern && capture.path.is_some() {
        return Err(ConfigError::conflict(
            dotted(at, "path"),
            "Means nothing to source = \"pattern\"; for a file add source = \"file\"",
        ));
    }
    if capture.repeat && capture.source != Source::File {
        return Err(ConfigError::conflict(dotted(at, "loop"), "Only source = \"file\" has an end to begin again from"));
    }
    Ok(())
}

fn check_process(process: &Process, at: &str) -> Result<(), ConfigError> {
    check_size(at, process.width, process.height, Some(process.format.pixel_format()))?;
    if let Some(crop) = process.crop
        && (crop.x.saturating_add(crop.width) > shm_protocol::frame::MAX_SIDE
            || crop.y.saturating_add(crop.height) > shm_protocol::frame::MAX_SIDE)
    {
        return Err(ConfigError::conflict(
            dotted(at, "crop"),
            format!("{crop} reaches beyond the largest frame, 16384x16384"),
        ));
    }
    Ok(())
}

/// The codecs of an encoder that has only some.
const fn codec_of(backend: Backend) -> Option<VideoCodec> {
    match backend {
        Backend::OpenH264 | Backend::X264 => Some(VideoCodec::H264),
        Backend::X265 => Some(VideoCodec::Hevc),
        Backend::SvtAv1 => Some(VideoCodec::Av1),
        Backend::Auto | Backend::Vpl | Backend::Vaapi | Backend::Null => None,
    }
}

fn check_encode(encode: &Encode, at: &str) -> Result<(), ConfigError> {
    if let Some(only) = codec_of(encode.backend)
        && only != encode.codec
    {
        let problem = format!("{} makes only {only}, but codec is {}", encode.backend, encode.codec);
        return Err(ConfigError::conflict(dotted(at, "backend"), problem));
    }
    let by_quality = matches!(encode.rate_control, RateControl::Cqp | RateControl::Icq);
    match encode.qp {
        None if by_quality => {
            let problem = format!("Is missing; rate_control = \"{}\" needs it", encode.rate_control);
            return Err(ConfigError::conflict(dotted(at, "qp"), problem));
        }
        Some(_) if !by_quality => {
            let problem = format!("Means nothing to rate_control = \"{}\"; only to cqp and icq", encode.rate_control);
            return Err(ConfigError::conflict(dotted(at, "qp"), problem));
        }
        Some(qp) if qp > 51 && encode.codec != VideoCodec::Av1 => {
            let problem = format!("{qp} is not possible: 0 to 51 for {}", encode.codec);
            return Err(ConfigError::conflict(dotted(at, "qp"), problem));
        }
        _ => {}
    }
    if let Some(max) = encode.max_bitrate_kbps
        && max < encode.bitrate_kbps
    {
        let problem = format!("{max} is below bitrate_kbps = {}", encode.bitrate_kbps);
        return Err(ConfigError::conflict(dotted(at, "max_bitrate_kbps"), problem));
    }
    Ok(())
}

fn check_net(config: &Config, kernel: &KernelName, at: &str) -> Result<(), ConfigError> {
    let missing_path =
        config.net(&kernel.name).and_then(|n| n.record.as_ref()).is_some_and(|r| r.path.as_os_str().is_empty());
    if missing_path {
        return Err(ConfigError::conflict(dotted(at, "record.path"), "Is missing; a recording needs a file"));
    }
    Ok(())
}

/// One transport port that an output takes.
struct Port {
    key: String,
    transport: &'static str,
    address: Option<IpAddr>,
    host: String,
    port: u16,
}

impl Port {
    fn clashes(&self, other: &Port) -> bool {
        let same_host = match (self.address, other.address) {
            (Some(a), Some(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
            _ => self.host == other.host,
        };
        self.transport == other.transport && self.port == other.port && same_host
    }
}

/// No two outputs listen on one port or send to one destination.
fn check_ports(config: &Config) -> Result<(), ConfigError> {
    let mut taken: Vec<Port> = Vec::new();
    for net in config.kernels().into_iter().filter(|k| k.kind == Kind::Net) {
        for port in ports(config, &net) {
            if let Some(other) = taken.iter().find(|other| other.key != port.key && other.clashes(&port)) {
                let problem =
                    format!("{} port {} of {} is already used by {}", port.transport, port.port, port.host, other.key);
                return Err(ConfigError::conflict(port.key, problem));
            }
            taken.push(port);
        }
    }
    Ok(())
}

fn ports(config: &Config, kernel: &KernelName) -> Vec<Port> {
    let Some(net) = config.net(&kernel.name) else { return Vec::new() };
    let at = kernel.config_path();
    let listener = |key: &str, transport, address: SocketAddr| Port {
        key: dotted(&at, key),
        transport,
        address: Some(address.ip()),
        host: address.ip().to_string(),
        port: address.port(),
    };
    let mut ports = Vec::new();
    if let Some(rtp) = &net.rtp {
        // RTCP goes to the next port (RFC 3550 section 11), which therefore is taken as well.
        for port in [Some(rtp.destination.port), rtp.destination.port.checked_add(1)].into_iter().flatten() {
            let host = rtp.destination.host.clone();
            let address = host.parse().ok();
            ports.push(Port { key: dotted(&at, "rtp.destination"), transport: "RTP", address, host, port });
        }
    }
    ports.extend(net.http.as_ref().map(|o| listener("http.listen", "TCP", o.listen)));
    ports.extend(net.rdp.as_ref().map(|o| listener("rdp.listen", "TCP", o.listen)));
    ports.extend(net.srt.as_ref().filter(|o| o.destination.is_none()).map(|o| listener("srt.listen", "UDP", o.listen)));
    // Port 0 asks the operating system for any free one.
    ports.retain(|p| p.port != 0);
    ports
}
