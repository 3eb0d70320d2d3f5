//! What an engine is, and the plan it carries out.
//!
//! Order of operations: crop, then rotate, then scale, then colour and subsampling. They are planned
//! as one geometric map, so that chroma is sampled once, where it belongs.

use crate::color::{self, Coding, Matrix, Recipe};
use crate::error::EngineError;
use shm_protocol::frame::{ChromaSiting, Colour, FieldOrder, PixelFormat, Range, VideoFormat};
use shm_protocol::pixels::{PixelsRead, PixelsWrite};

/// Turns frames of one format into frames of another. Built for one [`Conversion`]: all memory it needs is
/// taken then, a frame allocates nothing.
pub trait Engine: Send {
    /// Its name in the configuration: `cpu`.
    fn name(&self) -> &'static str;

    /// How it touches pixels, for the status: `scalar`.
    fn path(&self) -> &str;

    /// Processes one frame. Writes the visible bytes of every row of `output`, and nothing else of it.
    ///
    /// # Errors
    /// [`EngineError::Mismatch`] when a frame is not what the engine was built for.
    fn run(&mut self, input: &PixelsRead<'_>, output: &mut PixelsWrite<'_>) -> Result<(), EngineError>;
}

/// A rectangle of pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Rect {
    /// Left edge, pixels.
    pub x: u32,
    /// Top edge, pixels.
    pub y: u32,
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
}

/// A turn of the picture, clockwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Rotation {
    /// As it is.
    #[default]
    None,
    /// A quarter turn clockwise.
    Clockwise90,
    /// Upside down.
    Half180,
    /// A quarter turn counter-clockwise.
    Clockwise270,
}

impl Rotation {
    /// The rotation of that many degrees clockwise: 0, 90, 180, 270.
    pub const fn from_degrees(degrees: u32) -> Option<Rotation> {
        match degrees {
            0 => Some(Rotation::None),
            90 => Some(Rotation::Clockwise90),
            180 => Some(Rotation::Half180),
            270 => Some(Rotation::Clockwise270),
            _ => None,
        }
    }

    /// Whether width and height change places.
    pub const fn swaps_sides(self) -> bool {
        matches!(self, Rotation::Clockwise90 | Rotation::Clockwise270)
    }
}

/// What the configuration asks for; what it leaves open stays as it comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wish {
    /// `nv12` or `p010`. Open: P010 stays P010, everything else becomes NV12.
    pub format: Option<PixelFormat>,
    /// Width and height of the output, pixels, after rotation. Open: the size of the crop.
    pub size: Option<(u32, u32)>,
    /// The part of the input to use, in pixels of the input. Open: all that is visible.
    pub crop: Option<Rect>,
    /// A turn of what is left.
    pub rotation: Rotation,
    /// Matrix coefficients of the output. Open: kept; for R'G'B' what players assume for the size.
    pub matrix: Option<Matrix>,
    /// Range of the output. Open: kept; for R'G'B' limited.
    pub range: Option<Range>,
    /// Chroma siting of the output. Open: kept; for R'G'B' left, top-left with BT.2020 primaries.
    pub siting: Option<ChromaSiting>,
}

/// What there is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Plan {
    /// Nothing: frames go on by reference, untouched.
    PassThrough,
    /// Pixels have to change.
    Convert(Box<Conversion>),
}

impl Plan {
    /// The format of the frames that go on.
    pub fn output<'a>(&'a self, input: &'a VideoFormat) -> &'a VideoFormat {
        match self {
            Plan::PassThrough => input,
            Plan::Convert(conversion) => &conversion.output,
        }
    }
}

/// Everything an engine needs to know before the first frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conversion {
    /// What comes in.
    pub input: VideoFormat,
    /// What goes out, laid out by the rules of the ABI; its colour is the colour of the pixels.
    pub output: VideoFormat,
    /// The part of the input to use, before rotation.
    pub crop: Rect,
    /// The turn.
    pub rotation: Rotation,
    /// From input components to Y', Cb, Cr of the output.
    pub recipe: Recipe,
}

impl Conversion {
    /// Checks that two frames are what was planned. Strides and offsets may differ: they are the pool's.
    ///
    /// # Errors
    /// [`EngineError::Mismatch`] naming the side that differs.
    pub fn check_frames(&self, input: &VideoFormat, output: &VideoFormat) -> Result<(), EngineError> {
        for (side, given, planned) in [("input", input, &self.input), ("output", output, &self.output)] {
            if key(given) != key(planned) {
                let [given, planned] = [given, planned].map(describe);
                return Err(EngineError::Mismatch { side, given, planned });
            }
        }
        Ok(())
    }
}

fn key(format: &VideoFormat) -> (PixelFormat, u32, u32, Colour, FieldOrder) {
    (format.pixel_format, format.width, format.height, format.colour, format.field_order)
}

fn describe(format: &VideoFormat) -> String {
    let VideoFormat { pixel_format, width, height, colour, field_order, .. } = format;
    format!("{} {width}x{height} {colour:?} {field_order:?}", pixel_format.name())
}

/// Decides what has to be done to `input` to fulfil `wish`.
///
/// # Errors
/// [`EngineError`] when the wish cannot be fulfilled: the variant names what was given and what is allowed.
pub fn plan(input: &VideoFormat, wish: &Wish) -> Result<Plan, EngineError> {
    let pixel_format = output_format(input, wish)?;
    let crop = crop_of(input, wish)?;
    let cropped = if wish.rotation.swaps_sides() { (crop.height, crop.width) } else { (crop.width, crop.height) };
    let (width, height) = wish.size.unwrap_or(cropped);
    let colour = output_colour(input, wish, (width, height))?;
    let untouched = pixel_format == input.pixel_format
        && crop == whole(input)
        && wish.rotation == Rotation::None
        && (width, height) == (input.width, input.height)
        && colour == input.colour;
    if untouched {
        return Ok(Plan::PassThrough);
    }
    refuse_mixed_fields(input, wish, (width, height), &colour, crop)?;
    let mut output =
        VideoFormat::packed(pixel_format, width, height, input.fps, colour).map_err(EngineError::OutputSize)?;
    output.field_order = input.field_order;
    output.hdr = input.hdr;
    let recipe = recipe(input, &output)?;
    Ok(Plan::Convert(Box::new(Conversion { input: *input, output, crop, rotation: wish.rotation, recipe })))
}

fn output_format(input: &VideoFormat, wish: &Wish) -> Result<PixelFormat, EngineError> {
    match wish.format {
        None if input.pixel_format == PixelFormat::P010 => Ok(PixelFormat::P010),
        None => Ok(PixelFormat::Nv12),
        Some(format @ (PixelFormat::Nv12 | PixelFormat::P010)) => Ok(format),
        Some(other) => Err(EngineError::OutputFormat { given: other.name() }),
    }
}

fn whole(input: &VideoFormat) -> Rect {
    Rect { x: 0, y: 0, width: input.width, height: input.height }
}

fn crop_of(input: &VideoFormat, wish: &Wish) -> Result<Rect, EngineError> {
    let Some(crop) = wish.crop else { return Ok(whole(input)) };
    let fits = |start: u32, len: u32, all: u32| len > 0 && start.checked_add(len).is_some_and(|end| end <= all);
    if fits(crop.x, crop.width, input.width) && fits(crop.y, crop.height, input.height) {
        return Ok(crop);
    }
    let Rect { x, y, width, height } = crop;
    Err(EngineError::Crop { x, y, width, height, frame_width: input.width, frame_height: input.height })
}

fn output_colour(input: &VideoFormat, wish: &Wish, size: (u32, u32)) -> Result<Colour, EngineError> {
    let mut colour = input.colour;
    if input.pixel_format.is_rgb() {
        // Primaries and transfer stay: no light is changed, only how it is written down.
        let wide_gamut = colour.primaries == 9;
        colour.matrix = wish.matrix.unwrap_or(Matrix::assumed(colour.primaries, size.0, size.1)).code();
        colour.range = wish.range.unwrap_or(Range::Limited);
        colour.siting = wish.siting.unwrap_or(if wide_gamut { ChromaSiting::TopLeft } else { ChromaSiting::Left });
        return Ok(colour);
    }
    if let Some(matrix) = wish.matrix {
        // Codes 5 and 6 are the same mathematics: nothing to do, and the code stays.
        if Matrix::from_code(colour.matrix) != Some(matrix) {
            color::input_matrix(&colour, input.width, input.height)?;
            colour.matrix = matrix.code();
        }
    }
    colour.range = wish.range.unwrap_or(colour.range);
    colour.siting = wish.siting.unwrap_or(colour.siting);
    Ok(colour)
}

/// Rows of two fields are half a frame time apart: what would average or move them is refused.
fn refuse_mixed_fields(
    input: &VideoFormat,
    wish: &Wish,
    size: (u32, u32),
    colour: &Colour,
    crop: Rect,
) -> Result<(), EngineError> {
    if input.field_order == FieldOrder::Progressive {
        return Ok(());
    }
    let (_, subsampled) = input.pixel_format.needs_even();
    // Chroma rows of a 4:2:0 field pair come in fours of luma rows.
    const FIELD_PAIR_ROWS: u32 = 4;
    let what = if !subsampled {
        "subsampled from 4:4:4 or 4:2:2 to 4:2:0"
    } else if wish.rotation != Rotation::None {
        "rotated"
    } else if size != (crop.width, crop.height) {
        "scaled"
    } else if !crop.y.is_multiple_of(FIELD_PAIR_ROWS) {
        "cropped at a top edge that is not a multiple of 4"
    } else if colour.siting != input.colour.siting {
        "given another chroma siting"
    } else if color::Matrix::from_code(colour.matrix) != color::Matrix::from_code(input.colour.matrix) {
        "given another matrix"
    } else {
        return Ok(());
    };
    Err(EngineError::Interlaced { what })
}

fn recipe(input: &VideoFormat, output: &VideoFormat) -> Result<Recipe, EngineError> {
    let coding = |format: &VideoFormat| Coding { range: format.colour.range, depth: format.pixel_format.bit_depth() };
    let (from, to) = (coding(input), coding(output));
    if !input.pixel_format.is_rgb() && input.colour.matrix == output.colour.matrix {
        // Range and depth do not depend on the matrix: any will do, and none has to be known.
        return Ok(Recipe::ycbcr_to_ycbcr((Matrix::Bt709, Matrix::Bt709), from, to));
    }
    let target = Matrix::from_code(output.colour.matrix).ok_or(EngineError::Matrix {
        side: "output",
        code: output.colour.matrix,
        more: "",
    })?;
    if input.pixel_format.is_rgb() {
        return Ok(Recipe::rgb_to_ycbcr(target, from, to));
    }
    let source = color::input_matrix(&input.colour, input.width, input.height)?;
    Ok(Recipe::ycbcr_to_ycbcr((source, target), from, to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm_protocol::error::Recovery;
    use shm_protocol::frame::Rational;

    fn format(pixel_format: PixelFormat, width: u32, height: u32, colour: Colour) -> VideoFormat {
        VideoFormat::packed(pixel_format, width, height, Rational::new(30, 1).unwrap(), colour).unwrap()
    }

    fn converted(input: &VideoFormat, wish: &Wish) -> Conversion {
        match plan(input, wish).unwrap() {
            Plan::Convert(conversion) => *conversion,
            Plan::PassThrough => panic!("expected a conversion"),
        }
    }

    #[test]
    fn nothing_to_do_means_pass_through() {
        for pixel_format in [PixelFormat::Nv12, PixelFormat::P010] {
            let input = format(pixel_format, 1920, 1080, Colour::BT709_LIMITED);
            assert_eq!(plan(&input, &Wish::default()), Ok(Plan::PassThrough));
            let spelled_out = Wish {
                format: Some(pixel_format),
                size: Some((1920, 1080)),
                crop: Some(Rect { x: 0, y: 0, width: 1920, height: 1080 }),
                matrix: Some(Matrix::Bt709),
                range: Some(Range::Limited),
                siting: Some(ChromaSiting::Left),
                rotation: Rotation::None,
            };
            assert_eq!(plan(&input, &spelled_out), Ok(Plan::PassThrough));
        }
        let mut pal = format(PixelFormat::Nv12, 720, 576, Colour::BT601_LIMITED);
        pal.colour.matrix = 5;
        assert_eq!(plan(&pal, &Wish { matrix: Some(Matrix::Bt601), ..Wish::default() }), Ok(Plan::PassThrough));
    }

    #[test]
    fn each_single_wish_makes_a_conversion() {
        let input = format(PixelFormat::Nv12, 1920, 1080, Colour::BT709_LIMITED);
        let base = Wish::default();
        for wish in [
            Wish { format: Some(PixelFormat::P010), ..base },
            Wish { size: Some((960, 540)), ..base },
            Wish { crop: Some(Rect { x: 0, y: 0, width: 1918, height: 1080 }), ..base },
            Wish { rotation: Rotation::Half180, ..base },
            Wish { matrix: Some(Matrix::Bt601), ..base },
            Wish { range: Some(Range::Full), ..base },
            Wish { siting: Some(ChromaSiting::Center), ..base },
        ] {
            assert!(matches!(plan(&input, &wish), Ok(Plan::Convert(_))), "{wish:?}");
        }
    }

    #[test]
    fn rgb_becomes_709_in_hd_601_in_sd_and_2020_by_primaries() {
        for (width, height, matrix) in [(1920, 1080, 1), (1280, 640, 1), (960, 720, 1), (720, 576, 6)] {
            let out = converted(&format(PixelFormat::Bgra, width, height, Colour::SRGB), &Wish::default()).output;
            assert_eq!(out.colour, Colour { matrix, range: Range::Limited, ..Colour::SRGB });
        }
        let wide = Colour { primaries: 9, transfer: 16, ..Colour::SRGB };
        let out = converted(&format(PixelFormat::Rgb24, 64, 64, wide), &Wish::default()).output;
        assert_eq!((out.colour.matrix, out.colour.siting, out.colour.transfer), (9, ChromaSiting::TopLeft, 16));
    }

    #[test]
    fn a_wished_matrix_is_computed_from_an_unspecified_one_by_size() {
        let unspecified = Colour { matrix: 2, ..Colour::BT709_LIMITED };
        let wish = Wish { matrix: Some(Matrix::Bt709), ..Wish::default() };
        let hd = converted(&format(PixelFormat::Nv12, 1280, 720, unspecified), &wish);
        assert_eq!((hd.output.colour.matrix, hd.recipe.keeps_codes()), (1, true));
        let sd = converted(&format(PixelFormat::Nv12, 640, 480, unspecified), &wish);
        assert_eq!((sd.output.colour.matrix, sd.recipe.keeps_codes()), (1, false));
    }

    #[test]
    fn impossible_wishes_are_refused_with_what_is_allowed() {
        let input = format(PixelFormat::Bgra, 641, 480, Colour::SRGB);
        let error = plan(&input, &Wish::default()).unwrap_err();
        assert_eq!(error.recovery(), Recovery::Fatal);
        assert!(error.to_string().contains("641x480") && error.to_string().contains("even"), "{error}");
        let error = plan(&input, &Wish { format: Some(PixelFormat::I420), ..Wish::default() }).unwrap_err();
        assert!(error.to_string().contains("i420") && error.to_string().contains("nv12"), "{error}");
        for (x, width) in [(0, 642), (640, 2), (u32::MAX, 2), (0, 0)] {
            let crop = Some(Rect { x, y: 0, width, height: 2 });
            assert!(matches!(plan(&input, &Wish { crop, ..Wish::default() }), Err(EngineError::Crop { .. })));
        }
        let ycgco = format(PixelFormat::Nv12, 64, 64, Colour { matrix: 8, ..Colour::BT709_LIMITED });
        let wish = Wish { matrix: Some(Matrix::Bt709), ..Wish::default() };
        assert!(matches!(plan(&ycgco, &wish), Err(EngineError::Matrix { code: 8, .. })));
        let size = Some((16386, 16));
        assert!(matches!(plan(&input, &Wish { size, ..Wish::default() }), Err(EngineError::OutputSize(_))));
    }

    #[test]
    fn fields_are_repacked_but_never_mixed() {
        let mut input = format(PixelFormat::I420, 720, 576, Colour::BT601_LIMITED);
        input.field_order = FieldOrder::TopFirst;
        assert_eq!(converted(&input, &Wish::default()).output.field_order, FieldOrder::TopFirst);
        let scale = Wish { size: Some((360, 288)), ..Wish::default() };
        assert!(matches!(plan(&input, &scale), Err(EngineError::Interlaced { what: "scaled" })));
        input.pixel_format = PixelFormat::Yuyv;
        assert!(matches!(plan(&input, &Wish::default()), Err(EngineError::Interlaced { .. })));
    }
}
