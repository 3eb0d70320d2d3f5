//! What a frame is: pixel formats, colour, geometry. Plain descriptions without any pixel in them.
//!
//! Everything here travels with every frame from kernel A to the viewer, so that no stage has to guess.

use crate::error::FormatError;

/// Strides are multiples of this: wide enough for every SIMD width and for the pitch rules of GPU imports.
pub const STRIDE_ALIGN: u32 = 256;
/// Buffers begin on multiples of this: a page, which every import of host memory asks for.
pub const BUFFER_ALIGN: u64 = 4096;
/// Largest side of a frame, pixels. 16-bit room in damage rectangles, twice the largest known encoder.
pub const MAX_SIDE: u32 = 16384;
/// Planes a format has at the most (planar with alpha).
pub const MAX_PLANES: usize = 4;

/// How pixels lie in memory. The codes are part of the ABI and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PixelFormat {
    /// 4:2:0, 8 bit, a luma plane and one of interleaved Cb Cr.
    Nv12 = 1,
    /// 4:2:0, 8 bit, three planes Y, Cb, Cr.
    I420 = 2,
    /// 4:2:2 packed, Y0 Cb Y1 Cr.
    Yuyv = 3,
    /// 4:2:2 packed, Cb Y0 Cr Y1.
    Uyvy = 4,
    /// 8 bit B, G, R, A in that byte order; alpha is ignored.
    Bgra = 5,
    /// 8 bit R, G, B, A in that byte order; alpha is ignored.
    Rgba = 6,
    /// 8 bit R, G, B in that byte order.
    Rgb24 = 7,
    /// 4:2:0, 10 bit in the high bits of little-endian 16-bit words, low six bits zero, laid out as NV12.
    P010 = 8,
}

/// One plane of a pixel format: how many samples of what size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PlaneShape {
    /// log2 of horizontal subsampling.
    sub_x: u32,
    /// log2 of vertical subsampling.
    sub_y: u32,
    /// Bytes of one (subsampled) position.
    position_bytes: u32,
}

const fn shape(sub_x: u32, sub_y: u32, position_bytes: u32) -> PlaneShape {
    PlaneShape { sub_x, sub_y, position_bytes }
}

impl PixelFormat {
    /// Every format, in code order.
    pub const ALL: [PixelFormat; 8] = [
        PixelFormat::Nv12,
        PixelFormat::I420,
        PixelFormat::Yuyv,
        PixelFormat::Uyvy,
        PixelFormat::Bgra,
        PixelFormat::Rgba,
        PixelFormat::Rgb24,
        PixelFormat::P010,
    ];

    /// The name used in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            PixelFormat::Nv12 => "nv12",
            PixelFormat::I420 => "i420",
            PixelFormat::Yuyv => "yuyv",
            PixelFormat::Uyvy => "uyvy",
            PixelFormat::Bgra => "bgra",
            PixelFormat::Rgba => "rgba",
            PixelFormat::Rgb24 => "rgb24",
            PixelFormat::P010 => "p010",
        }
    }

    /// The format of that configuration name.
    pub fn from_name(name: &str) -> Option<PixelFormat> {
        Self::ALL.into_iter().find(|f| f.name() == name)
    }

    /// The format of an ABI code.
    pub fn from_code(code: u8) -> Option<PixelFormat> {
        Self::ALL.into_iter().find(|f| *f as u8 == code)
    }

    const fn shapes(self) -> &'static [PlaneShape] {
        const NV12: [PlaneShape; 2] = [shape(0, 0, 1), shape(1, 1, 2)];
        const I420: [PlaneShape; 3] = [shape(0, 0, 1), shape(1, 1, 1), shape(1, 1, 1)];
        const PACKED_422: [PlaneShape; 1] = [shape(1, 0, 4)];
        const RGB32: [PlaneShape; 1] = [shape(0, 0, 4)];
        const RGB24: [PlaneShape; 1] = [shape(0, 0, 3)];
        const P010: [PlaneShape; 2] = [shape(0, 0, 2), shape(1, 1, 4)];
        match self {
            PixelFormat::Nv12 => &NV12,
            PixelFormat::I420 => &I420,
            PixelFormat::Yuyv | PixelFormat::Uyvy => &PACKED_422,
            PixelFormat::Bgra | PixelFormat::Rgba => &RGB32,
            PixelFormat::Rgb24 => &RGB24,
            PixelFormat::P010 => &P010,
        }
    }

    /// How many planes it has.
    pub const fn planes(self) -> usize {
        self.shapes().len()
    }

    /// Bytes of one row of `plane` for a frame `width` pixels wide.
    pub const fn row_bytes(self, plane: usize, width: u32) -> u32 {
        let s = self.shapes()[plane];
        (width >> s.sub_x) * s.position_bytes
    }

    /// Rows of `plane` for a frame `height` pixels high.
    pub const fn rows(self, plane: usize, height: u32) -> u32 {
        height >> self.shapes()[plane].sub_y
    }

    /// Whether width (x) and height (y) must be even.
    pub const fn needs_even(self) -> (bool, bool) {
        match self {
            PixelFormat::Nv12 | PixelFormat::I420 | PixelFormat::P010 => (true, true),
            PixelFormat::Yuyv | PixelFormat::Uyvy => (true, false),
            PixelFormat::Bgra | PixelFormat::Rgba | PixelFormat::Rgb24 => (false, false),
        }
    }

    /// Whether the samples are R, G, B rather than Y, Cb, Cr.
    pub const fn is_rgb(self) -> bool {
        matches!(self, PixelFormat::Bgra | PixelFormat::Rgba | PixelFormat::Rgb24)
    }

    /// Significant bits of a sample.
    pub const fn bit_depth(self) -> u8 {
        match self {
            PixelFormat::P010 => 10,
            _ => 8,
        }
    }
}

/// Codecs of access units. The codes are part of the ABI and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Codec {
    /// The null encoder: the payload is the frame's descriptor.
    Null = 1,
    /// H.264 (ITU-T H.264), Annex B.
    H264 = 2,
    /// HEVC (ITU-T H.265), Annex B.
    Hevc = 3,
    /// AV1, low-overhead OBU stream with temporal delimiters.
    Av1 = 4,
}

impl Codec {
    /// Every codec, in code order.
    pub const ALL: [Codec; 4] = [Codec::Null, Codec::H264, Codec::Hevc, Codec::Av1];

    /// The name used in the configuration.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::Null => "null",
            Codec::H264 => "h264",
            Codec::Hevc => "hevc",
            Codec::Av1 => "av1",
        }
    }

    /// The codec of an ABI code.
    pub fn from_code(code: u8) -> Option<Codec> {
        Self::ALL.into_iter().find(|c| *c as u8 == code)
    }
}

/// A rational number, for frame rates: 60000/1001 stays exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rational {
    /// Numerator.
    pub num: u32,
    /// Denominator, never 0.
    pub den: u32,
}

impl Rational {
    /// `num/den`; `None` when either is 0.
    pub const fn new(num: u32, den: u32) -> Option<Rational> {
        if num == 0 || den == 0 { None } else { Some(Rational { num, den }) }
    }

    /// As a floating-point number.
    pub fn as_f64(self) -> f64 {
        f64::from(self.num) / f64::from(self.den)
    }

    /// Nanoseconds from the first frame to frame `index`, without the drift that adding rounded intervals has.
    pub const fn frame_time_ns(self, index: u64) -> u64 {
        (index as u128 * 1_000_000_000 * self.den as u128 / self.num as u128) as u64
    }

    /// Nanoseconds between two frames, rounded down.
    pub const fn interval_ns(self) -> u64 {
        self.frame_time_ns(1)
    }
}

/// Whether luma uses 16–235 or the full scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Range {
    /// Y 16–235, C 16–240 (8 bit).
    Limited = 0,
    /// 0–255 (8 bit).
    Full = 1,
}

/// Where chroma samples sit between luma samples (H.273 chroma sample location types).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ChromaSiting {
    /// Type 0: left, vertically centred. H.264 and HEVC SDR.
    Left = 0,
    /// Type 1: centred both ways. JPEG.
    Center = 1,
    /// Type 2: on the top left luma sample. BT.2020, BT.2100.
    TopLeft = 2,
}

/// Colour of a frame: ITU-T H.273 code points, unchanged from source to VUI.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Colour {
    /// MatrixCoefficients: 1 BT.709, 6 BT.601, 9 BT.2020 non-constant, 0 RGB, 2 unspecified.
    pub matrix: u8,
    /// ColourPrimaries: 1 BT.709, 5/6 BT.601, 9 BT.2020, 2 unspecified.
    pub primaries: u8,
    /// TransferCharacteristics: 1 BT.709, 13 sRGB, 16 PQ, 18 HLG, 2 unspecified.
    pub transfer: u8,
    /// Limited or full.
    pub range: Range,
    /// Chroma siting.
    pub siting: ChromaSiting,
}

impl Colour {
    /// BT.709 limited, left-sited: what HD video is when nobody says otherwise.
    pub const BT709_LIMITED: Colour =
        Colour { matrix: 1, primaries: 1, transfer: 1, range: Range::Limited, siting: ChromaSiting::Left };
    /// sRGB, full range: what screens and RGB sources are.
    pub const SRGB: Colour =
        Colour { matrix: 0, primaries: 1, transfer: 13, range: Range::Full, siting: ChromaSiting::Left };
    /// BT.601 limited: SD video.
    pub const BT601_LIMITED: Colour =
        Colour { matrix: 6, primaries: 6, transfer: 6, range: Range::Limited, siting: ChromaSiting::Left };
}

/// Which lines a frame carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FieldOrder {
    /// Whole frames.
    Progressive = 0,
    /// Interleaved, top field first.
    TopFirst = 1,
    /// Interleaved, bottom field first.
    BottomFirst = 2,
}

/// Static HDR metadata: SMPTE ST 2086 mastering display and CTA-861.3 content light level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct HdrStatic {
    /// Chromaticity of green, blue, red (x, y), unit 0.00002.
    pub primaries_xy: [[u16; 2]; 3],
    /// Chromaticity of the white point (x, y), unit 0.00002.
    pub white_xy: [u16; 2],
    /// Largest luminance of the mastering display, unit 0.0001 cd/m².
    pub max_luminance: u32,
    /// Smallest luminance of the mastering display, unit 0.0001 cd/m².
    pub min_luminance: u32,
    /// MaxCLL, cd/m².
    pub max_content_light: u16,
    /// MaxFALL, cd/m².
    pub max_frame_average_light: u16,
}

/// Where a plane lies in its buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct PlaneLayout {
    /// First byte, from the start of the frame's bytes.
    pub offset: u32,
    /// Bytes from a row to the next.
    pub stride: u32,
}

/// Everything about a stream of pixels but the pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct VideoFormat {
    /// How pixels lie in memory.
    pub pixel_format: PixelFormat,
    /// Visible width, pixels.
    pub width: u32,
    /// Visible height, pixels.
    pub height: u32,
    /// Stored width: at least the visible one.
    pub coded_width: u32,
    /// Stored height: at least the visible one.
    pub coded_height: u32,
    /// Planes in use come first; the rest are zero.
    pub planes: [PlaneLayout; MAX_PLANES],
    /// Frames per second.
    pub fps: Rational,
    /// Colour.
    pub colour: Colour,
    /// Field order.
    pub field_order: FieldOrder,
    /// HDR metadata, when the source has it.
    pub hdr: Option<HdrStatic>,
}

impl VideoFormat {
    /// A progressive format laid out by the rules of the ABI: strides multiples of [`STRIDE_ALIGN`],
    /// planes one behind the other.
    ///
    /// # Errors
    /// [`FormatError::Size`] when a side is 0, above [`MAX_SIDE`], or odd where the format needs it even.
    pub fn packed(
        pixel_format: PixelFormat,
        width: u32,
        height: u32,
        fps: Rational,
        colour: Colour,
    ) -> Result<VideoFormat, FormatError> {
        let mut planes = [PlaneLayout::default(); MAX_PLANES];
        let mut format = VideoFormat {
            pixel_format,
            width,
            height,
            coded_width: width,
            coded_height: height,
            planes,
            fps,
            colour,
            field_order: FieldOrder::Progressive,
            hdr: None,
        };
        format.check_size()?;
        let mut offset = 0u32;
        for (index, plane) in planes.iter_mut().enumerate().take(pixel_format.planes()) {
            let stride = pixel_format.row_bytes(index, width).next_multiple_of(STRIDE_ALIGN);
            *plane = PlaneLayout { offset, stride };
            offset += stride * pixel_format.rows(index, height);
        }
        format.planes = planes;
        Ok(format)
    }

    fn check_size(&self) -> Result<(), FormatError> {
        let (even_x, even_y) = self.pixel_format.needs_even();
        let refuse = |allowed| {
            Err(FormatError::Size { width: self.width, height: self.height, format: self.pixel_format.name(), allowed })
        };
        if self.width == 0 || self.height == 0 || self.width > MAX_SIDE || self.height > MAX_SIDE {
            return refuse("sides from 1 to 16384");
        }
        if even_x && !self.width.is_multiple_of(2) {
            return refuse("an even width");
        }
        if even_y && !self.height.is_multiple_of(2) {
            return refuse("an even height");
        }
        Ok(())
    }

    /// Bytes from the start of the frame to the end of its last plane.
    pub fn frame_bytes(&self) -> u64 {
        (0..self.pixel_format.planes()).map(|p| self.plane_end(p)).max().unwrap_or(0)
    }

    fn plane_end(&self, plane: usize) -> u64 {
        let layout = self.planes[plane];
        u64::from(layout.offset)
            + u64::from(layout.stride) * u64::from(self.pixel_format.rows(plane, self.coded_height))
    }

    /// Checks a description that came from somebody else against the bytes it is said to describe.
    ///
    /// # Errors
    /// [`FormatError`] naming the first field that does not fit.
    pub fn check(&self, buffer_bytes: u64) -> Result<(), FormatError> {
        self.check_size()?;
        if self.coded_width < self.width
            || self.coded_height < self.height
            || self.coded_width > MAX_SIDE
            || self.coded_height > MAX_SIDE
        {
            return Err(FormatError::Size {
                width: self.coded_width,
                height: self.coded_height,
                format: self.pixel_format.name(),
                allowed: "a coded size at least the visible one and at most 16384",
            });
        }
        for plane in 0..self.pixel_format.planes() {
            let row_bytes = self.pixel_format.row_bytes(plane, self.coded_width);
            let stride = self.planes[plane].stride;
            if stride < row_bytes {
                return Err(FormatError::Stride { plane, stride, row_bytes });
            }
            let end = self.plane_end(plane);
            if end > buffer_bytes {
                return Err(FormatError::PlaneOutside { plane, end, buffer_bytes });
            }
        }
        Ok(())
    }
}
