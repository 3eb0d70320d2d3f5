//! The values a configuration holds: how each is read from TOML, written back, and described to people.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;

use shm_protocol::frame::{PixelFormat, Rational};
use toml::Value as Toml;

use crate::name::KernelName;
use crate::pin::CpuSet;

/// Bounds of an integer key.
pub type Bounds = Option<RangeInclusive<i64>>;

/// Something a key can be set to.
pub trait Value: Sized {
    /// Whether a bare word on the command line is taken as text even where it looks like a number.
    const IS_TEXT: bool = false;
    /// What is allowed, in words that follow "is not possible: ".
    fn allowed(bounds: &Bounds) -> String;
    /// Reads it; `None` when it is not allowed.
    fn read(value: &Toml, bounds: &Bounds) -> Option<Self>;
    /// Writes it; `None` when it is unset.
    fn write(&self) -> Option<Toml>;
}

impl<T: Value> Value for Option<T> {
    const IS_TEXT: bool = T::IS_TEXT;

    fn allowed(bounds: &Bounds) -> String {
        T::allowed(bounds)
    }

    fn read(value: &Toml, bounds: &Bounds) -> Option<Self> {
        T::read(value, bounds).map(Some)
    }

    fn write(&self) -> Option<Toml> {
        self.as_ref().and_then(T::write)
    }
}

impl Value for bool {
    fn allowed(_: &Bounds) -> String {
        "true or false".to_owned()
    }

    fn read(value: &Toml, _: &Bounds) -> Option<Self> {
        value.as_bool()
    }

    fn write(&self) -> Option<Toml> {
        Some(Toml::Boolean(*self))
    }
}

impl Value for u32 {
    fn allowed(bounds: &Bounds) -> String {
        match bounds {
            Some(b) if *b.end() >= i64::from(u32::MAX) => format!("an integer of at least {}", b.start()),
            Some(b) => format!("an integer from {} to {}", b.start(), b.end()),
            None => "an integer of at least 0".to_owned(),
        }
    }

    fn read(value: &Toml, bounds: &Bounds) -> Option<Self> {
        let given = value.as_integer()?;
        if bounds.as_ref().is_some_and(|b| !b.contains(&given)) {
            return None;
        }
        u32::try_from(given).ok()
    }

    fn write(&self) -> Option<Toml> {
        Some(Toml::Integer(i64::from(*self)))
    }
}

impl Value for String {
    const IS_TEXT: bool = true;

    fn allowed(_: &Bounds) -> String {
        "text that is not empty".to_owned()
    }

    fn read(value: &Toml, _: &Bounds) -> Option<Self> {
        value.as_str().filter(|s| !s.is_empty()).map(str::to_owned)
    }

    fn write(&self) -> Option<Toml> {
        Some(Toml::String(self.clone()))
    }
}

impl Value for PathBuf {
    const IS_TEXT: bool = true;

    fn allowed(_: &Bounds) -> String {
        "a path".to_owned()
    }

    fn read(value: &Toml, _: &Bounds) -> Option<Self> {
        value.as_str().filter(|s| !s.is_empty() && !s.contains('\0')).map(PathBuf::from)
    }

    fn write(&self) -> Option<Toml> {
        (!self.as_os_str().is_empty()).then(|| Toml::String(self.to_string_lossy().into_owned()))
    }
}

/// Reads text through `FromStr`, for every type whose TOML form is its text.
macro_rules! text_value {
    ($type:ty, $allowed:expr) => {
        impl Value for $type {
            const IS_TEXT: bool = true;

            fn allowed(_: &Bounds) -> String {
                $allowed.to_owned()
            }

            fn read(value: &Toml, _: &Bounds) -> Option<Self> {
                value.as_str()?.parse().ok()
            }

            fn write(&self) -> Option<Toml> {
                Some(Toml::String(self.to_string()))
            }
        }
    };
}

text_value!(KernelName, "a kernel instance such as \"process.main\"");
text_value!(SocketAddr, "an IP address and port such as \"127.0.0.1:8080\" or \"[::1]:8080\"");
text_value!(HostPort, "a host and port such as \"127.0.0.1:5004\", \"[::1]:5004\" or \"viewer.lan:5004\"");
text_value!(Crop, "\"WIDTHxHEIGHT+X+Y\" in pixels such as \"1280x720+0+180\"");

/// The name of an instance of a kind that the key itself names (`encode = "web"`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceName(pub String);

impl Value for InstanceName {
    const IS_TEXT: bool = true;

    fn allowed(_: &Bounds) -> String {
        "the name of an encode instance such as \"main\"".to_owned()
    }

    fn read(value: &Toml, _: &Bounds) -> Option<Self> {
        let text = value.as_str()?;
        crate::name::check_name(text).ok().map(|()| InstanceName(text.to_owned()))
    }

    fn write(&self) -> Option<Toml> {
        Some(Toml::String(self.0.clone()))
    }
}

/// A secret: read from the configuration, never written to logs or by `--check`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// The secret itself.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

impl Value for Secret {
    const IS_TEXT: bool = true;

    fn allowed(_: &Bounds) -> String {
        "text that is not empty".to_owned()
    }

    fn read(value: &Toml, bounds: &Bounds) -> Option<Self> {
        String::read(value, bounds).map(Secret)
    }

    fn write(&self) -> Option<Toml> {
        // Left out wherever a configuration is shown.
        None
    }
}

impl Value for PixelFormat {
    const IS_TEXT: bool = true;

    fn allowed(_: &Bounds) -> String {
        one_of(PixelFormat::ALL.into_iter().map(PixelFormat::name))
    }

    fn read(value: &Toml, _: &Bounds) -> Option<Self> {
        PixelFormat::from_name(value.as_str()?)
    }

    fn write(&self) -> Option<Toml> {
        Some(Toml::String(self.name().to_owned()))
    }
}

impl Value for Rational {
    fn allowed(_: &Bounds) -> String {
        format!("frames per second, an integer or \"60000/1001\", above 0 and at most {MAX_FPS}")
    }

    fn read(value: &Toml, _: &Bounds) -> Option<Self> {
        let rational = match value {
            Toml::Integer(whole) => Rational::new(u32::try_from(*whole).ok()?, 1)?,
            Toml::String(text) => match text.split_once('/') {
                Some((num, den)) => Rational::new(num.trim().parse().ok()?, den.trim().parse().ok()?)?,
                None => Rational::new(text.trim().parse().ok()?, 1)?,
            },
            _ => return None,
        };
        (rational.as_f64() <= MAX_FPS).then_some(rational)
    }

    fn write(&self) -> Option<Toml> {
        Some(match self.den {
            1 => Toml::Integer(i64::from(self.num)),
            den => Toml::String(format!("{}/{den}", self.num)),
        })
    }
}

/// Largest frame rate, frames per second: above it an interval is shorter than a waking thread takes to run (50 µs).
pub const MAX_FPS: f64 = 20_000.0;

/// Distance between two IDR pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gop {
    /// A time, milliseconds, written `"2s"` or `"500ms"`.
    Millis(u32),
    /// That many frames; 1 makes every picture an IDR.
    Frames(u32),
    /// Only when somebody asks for one.
    Infinite,
}

impl Gop {
    /// Frames from one IDR to the next at a frame rate, at least 1; `None` for infinite.
    pub fn frames(self, fps: Rational) -> Option<u32> {
        match self {
            Gop::Infinite => None,
            Gop::Frames(frames) => Some(frames.max(1)),
            Gop::Millis(millis) => {
                let den = 1000 * u64::from(fps.den);
                let frames = (u64::from(millis) * u64::from(fps.num) + den / 2) / den;
                Some(u32::try_from(frames).unwrap_or(u32::MAX).max(1))
            }
        }
    }
}

impl Value for Gop {
    fn allowed(_: &Bounds) -> String {
        "a time such as \"2s\" or \"500ms\", a number of frames of at least 1, or \"infinite\"".to_owned()
    }

    fn read(value: &Toml, _: &Bounds) -> Option<Self> {
        match value {
            Toml::Integer(frames) => u32::try_from(*frames).ok().filter(|f| *f > 0).map(Gop::Frames),
            Toml::String(text) if text == "infinite" => Some(Gop::Infinite),
            Toml::String(text) => {
                let millis = match text.strip_suffix("ms") {
                    Some(millis) => f64::from(millis.trim().parse::<u32>().ok()?),
                    None => text.strip_suffix('s')?.trim().parse::<f64>().ok()? * 1000.0,
                };
                // One day is the largest: it keeps the product with any frame rate far inside 64 bits.
                (1.0..=86_400_000.0).contains(&millis).then_some(Gop::Millis(millis.round() as u32))
            }
            _ => None,
        }
    }

    fn write(&self) -> Option<Toml> {
        Some(match self {
            Gop::Infinite => Toml::String("infinite".to_owned()),
            Gop::Frames(frames) => Toml::Integer(i64::from(*frames)),
            Gop::Millis(millis) if millis % 1000 == 0 => Toml::String(format!("{}s", millis / 1000)),
            Gop::Millis(millis) => Toml::String(format!("{millis}ms")),
        })
    }
}

impl Value for CpuSet {
    fn allowed(_: &Bounds) -> String {
        "a list of cpu numbers such as [0, 1], or text such as \"0-3,6\"".to_owned()
    }

    fn read(value: &Toml, _: &Bounds) -> Option<Self> {
        let number = |cpu: i64| usize::try_from(cpu).ok().filter(|cpu| *cpu < crate::pin::MAX_CPUS);
        let set = match value {
            Toml::Integer(cpu) => CpuSet::from_iter([number(*cpu)?]),
            Toml::String(text) => text.parse().ok()?,
            Toml::Array(list) => {
                let cpus: Option<Vec<usize>> = list.iter().map(|v| v.as_integer().and_then(number)).collect();
                CpuSet::from_iter(cpus?)
            }
            _ => return None,
        };
        (!set.is_empty()).then_some(set)
    }

    fn write(&self) -> Option<Toml> {
        Some(Toml::Array(self.iter().filter_map(|cpu| i64::try_from(cpu).ok()).map(Toml::Integer).collect()))
    }
}

/// A host, by address or name, and a port.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// IP address without brackets, or a host name.
    pub host: String,
    /// Port, never 0.
    pub port: u16,
}

impl HostPort {
    /// The first address the host has; names are asked of the system's resolver.
    ///
    /// # Errors
    /// What the resolver says, or `NotFound` when the name has no address.
    pub fn resolve(&self) -> std::io::Result<SocketAddr> {
        let mut addresses = (self.host.as_str(), self.port).to_socket_addrs()?;
        addresses.next().ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "The host has no address"))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = ();

    fn from_str(text: &str) -> Result<HostPort, ()> {
        let (host, port) = text.rsplit_once(':').ok_or(())?;
        let port: u16 = port.parse().map_err(|_| ())?;
        let bracketed = host.strip_prefix('[').and_then(|h| h.strip_suffix(']'));
        let host = match bracketed {
            Some(v6) if v6.parse::<std::net::Ipv6Addr>().is_ok() => v6,
            Some(_) => return Err(()),
            None => host,
        };
        let name = |h: &str| h.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        // Digits and dots alone are an address: a malformed one must not go to the resolver, which reads 1.2.3 its way.
        let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        let possible = host.parse::<IpAddr>().is_ok() && (bracketed.is_some() || !host.contains(':'))
            || (bracketed.is_none() && !numeric && name(host) && host.len() <= 253);
        if port == 0 || host.is_empty() || !possible {
            return Err(());
        }
        Ok(HostPort { host: host.to_owned(), port })
    }
}

/// A rectangle cut out of the input, pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Crop {
    /// Left edge.
    pub x: u32,
    /// Top edge.
    pub y: u32,
    /// Width, never 0.
    pub width: u32,
    /// Height, never 0.
    pub height: u32,
}

impl fmt::Display for Crop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}+{}+{}", self.width, self.height, self.x, self.y)
    }
}

impl FromStr for Crop {
    type Err = ();

    fn from_str(text: &str) -> Result<Crop, ()> {
        let number = |t: &str| t.parse::<u32>().ok().filter(|n| *n <= shm_protocol::frame::MAX_SIDE).ok_or(());
        let mut parts = text.split('+');
        let (size, x, y) = (parts.next().ok_or(())?, parts.next().ok_or(())?, parts.next().ok_or(())?);
        let (width, height) = size.split_once('x').ok_or(())?;
        let crop = Crop { x: number(x)?, y: number(y)?, width: number(width)?, height: number(height)? };
        if parts.next().is_some() || crop.width == 0 || crop.height == 0 {
            return Err(());
        }
        Ok(crop)
    }
}

/// `"a", "b" or "c"`.
pub(super) fn one_of<'a>(names: impl Iterator<Item = &'a str>) -> String {
    let quoted: Vec<String> = names.map(|n| format!("{n:?}")).collect();
    match quoted.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        Some((last, _)) => last.clone(),
        None => String::new(),
    }
}
