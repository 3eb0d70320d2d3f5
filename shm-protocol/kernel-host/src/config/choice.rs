//! The keys that are one of a few words.

use toml::Value as Toml;

use super::value::{Bounds, Value, one_of};
use shm_protocol::frame::{Codec, PixelFormat, Range};

/// Declares an enum whose values are words of the configuration.
macro_rules! choice {
    ($(#[doc = $doc:literal])+ $name:ident { $($(#[doc = $item_doc:literal])+ $item:ident = $word:literal,)+ }) => {
        $(#[doc = $doc])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[doc = $item_doc])+ $item,)+ }

        impl $name {
            /// Every value, in the order of the reference.
            pub const ALL: &'static [$name] = &[$($name::$item),+];

            /// The word in the configuration.
            pub const fn name(self) -> &'static str {
                match self { $($name::$item => $word),+ }
            }

            /// The value of that word.
            pub fn from_name(name: &str) -> Option<$name> {
                Self::ALL.iter().copied().find(|v| v.name() == name)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.name())
            }
        }

        impl Value for $name {
            const IS_TEXT: bool = true;

            fn allowed(_: &Bounds) -> String {
                one_of(Self::ALL.iter().map(|v| v.name()))
            }

            fn read(value: &Toml, _: &Bounds) -> Option<Self> {
                Self::from_name(value.as_str()?)
            }

            fn write(&self) -> Option<Toml> {
                Some(Toml::String(self.name().to_owned()))
            }
        }
    };
}

choice! {
    /// How log lines look.
    LogFormat {
        /// For people at a terminal.
        Human = "human",
        /// One JSON object a line.
        Json = "json",
    }
}

choice! {
    /// The least important log lines still written.
    LogLevel {
        /// Somebody must act: the kernel ends or output is lost.
        Error = "error",
        /// The kernel goes on, worse than asked for; the operator may want to act.
        Warn = "warn",
        /// Nobody must act: starts, stops, takeovers, formats.
        Info = "info",
        /// For the developer of one kernel: decisions taken.
        Debug = "debug",
        /// For the developer of one kernel: every frame.
        Trace = "trace",
    }
}

choice! {
    /// Where frames come from.
    Source {
        /// A moving test pattern with clock and frame number.
        Pattern = "pattern",
        /// A Y4M or raw file, a FIFO or stdin.
        File = "file",
        /// A V4L2 device.
        V4l2 = "v4l2",
        /// A screen of an X server.
        X11 = "x11",
    }
}

choice! {
    /// What happens when a consumer is slower than the source.
    Policy {
        /// Latency stays bounded: the oldest waiting frame is dropped.
        Live = "live",
        /// The source is held back.
        Lossless = "lossless",
    }
}

choice! {
    /// What a pool of buffers is made of.
    Memory {
        /// Named POSIX shared memory.
        PosixShm = "posix-shm",
        /// A sealed memfd, handed over a Unix socket.
        Memfd = "memfd",
        /// A DMA-BUF, handed over a Unix socket.
        DmaBuf = "dma-buf",
    }
}

choice! {
    /// What processes pixels.
    Engine {
        /// The fastest that this machine has.
        Auto = "auto",
        /// The processor.
        Cpu = "cpu",
        /// A Vulkan device.
        Vulkan = "vulkan",
        /// An OpenCL device.
        OpenCl = "opencl",
    }
}

choice! {
    /// A clockwise turn, written as text (`"90"`).
    Rotate {
        /// None.
        None = "0",
        /// A quarter.
        Quarter = "90",
        /// A half.
        Half = "180",
        /// Three quarters.
        ThreeQuarters = "270",
    }
}

choice! {
    /// Pixel formats that encoders take.
    OutputFormat {
        /// 8 bit 4:2:0.
        Nv12 = "nv12",
        /// 10 bit 4:2:0.
        P010 = "p010",
    }
}

impl OutputFormat {
    /// The same as a pixel format.
    pub const fn pixel_format(self) -> PixelFormat {
        match self {
            OutputFormat::Nv12 => PixelFormat::Nv12,
            OutputFormat::P010 => PixelFormat::P010,
        }
    }
}

choice! {
    /// Matrix of the output, with the primaries and transfer that belong to it.
    Matrix {
        /// ITU-R BT.601.
        Bt601 = "bt601",
        /// ITU-R BT.709.
        Bt709 = "bt709",
        /// ITU-R BT.2020, non-constant luminance.
        Bt2020 = "bt2020",
    }
}

impl Matrix {
    /// MatrixCoefficients of ITU-T H.273.
    pub const fn code(self) -> u8 {
        match self {
            Matrix::Bt601 => 6,
            Matrix::Bt709 => 1,
            Matrix::Bt2020 => 9,
        }
    }
}

choice! {
    /// Range of the output's samples.
    SampleRange {
        /// Y 16–235 in 8 bit.
        Limited = "limited",
        /// 0–255 in 8 bit.
        Full = "full",
    }
}

impl SampleRange {
    /// The same as the frame descriptor has it.
    pub const fn range(self) -> Range {
        match self {
            SampleRange::Limited => Range::Limited,
            SampleRange::Full => Range::Full,
        }
    }
}

choice! {
    /// Which encoder.
    Backend {
        /// The best that this machine has for the codec asked for, never another codec.
        Auto = "auto",
        /// Intel oneVPL.
        Vpl = "vpl",
        /// VA-API.
        Vaapi = "vaapi",
        /// OpenH264, built in.
        OpenH264 = "openh264",
        /// x264, if installed.
        X264 = "x264",
        /// x265, if installed.
        X265 = "x265",
        /// SVT-AV1, if installed.
        SvtAv1 = "svtav1",
        /// No encoder: the frame's descriptor goes on the wire.
        Null = "null",
    }
}

choice! {
    /// Codec of the stream.
    VideoCodec {
        /// ITU-T H.264.
        H264 = "h264",
        /// ITU-T H.265.
        Hevc = "hevc",
        /// AOMedia AV1.
        Av1 = "av1",
    }
}

impl VideoCodec {
    /// The same as the frame descriptor has it.
    pub const fn codec(self) -> Codec {
        match self {
            VideoCodec::H264 => Codec::H264,
            VideoCodec::Hevc => Codec::Hevc,
            VideoCodec::Av1 => Codec::Av1,
        }
    }
}

choice! {
    /// What holds the rate.
    RateControl {
        /// Constant bitrate.
        Cbr = "cbr",
        /// Variable bitrate with a maximum.
        Vbr = "vbr",
        /// Constant quantiser.
        Cqp = "cqp",
        /// Constant quality.
        Icq = "icq",
    }
}

choice! {
    /// What sends packets.
    Transmit {
        /// The kernel's UDP sockets.
        Udp = "udp",
        /// DPDK.
        Dpdk = "dpdk",
    }
}

choice! {
    /// Forward error correction of an RTP output.
    Fec {
        /// None.
        None = "none",
        /// Flexible FEC (RFC 8627).
        FlexFec = "flexfec",
    }
}
