//! Errors of planning and running an engine. Each says what was given and what is allowed.

use shm_protocol::error::{FormatError, Recovery};
use thiserror::Error;

/// Why pixels cannot be processed as wished.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EngineError {
    /// A size or layout that the pixel format cannot have.
    #[error("{0}; the output of the processing stage is 4:2:0, set crop or size to even numbers")]
    OutputSize(FormatError),
    /// An output pixel format no engine makes.
    #[error("Output format {given} is not possible: allowed are nv12 and p010")]
    OutputFormat {
        /// Name of the format wished.
        given: &'static str,
    },
    /// A crop rectangle that is empty or reaches outside the frame.
    #[error(
        "Crop {width}x{height} at {x},{y} does not lie in the frame: allowed is any rectangle of at least 1x1 within {frame_width}x{frame_height}"
    )]
    Crop {
        /// Left edge, pixels.
        x: u32,
        /// Top edge, pixels.
        y: u32,
        /// Width, pixels.
        width: u32,
        /// Height, pixels.
        height: u32,
        /// Visible width of the input, pixels.
        frame_width: u32,
        /// Visible height of the input, pixels.
        frame_height: u32,
    },
    /// Matrix coefficients that cannot be computed with.
    #[error(
        "Matrix coefficients {code} of the {side} cannot be converted: allowed are 1 (BT.709), 5 and 6 (BT.601), 9 (BT.2020 non-constant luminance){more}"
    )]
    Matrix {
        /// `input` or `output`.
        side: &'static str,
        /// ITU-T H.273 MatrixCoefficients found.
        code: u8,
        /// Further codes allowed on this side.
        more: &'static str,
    },
    /// Rows of two fields would be mixed.
    #[error(
        "Interlaced frames cannot be {what}: allowed are progressive frames, or interlaced ones whose rows stay as they are"
    )]
    Interlaced {
        /// What was asked for.
        what: &'static str,
    },
    /// A frame that is not the one the engine was built for.
    #[error("The {side} frame is {given}, but the engine was built for {planned}")]
    Mismatch {
        /// `input` or `output`.
        side: &'static str,
        /// Format, size and colour of the frame given.
        given: String,
        /// Format, size and colour planned.
        planned: String,
    },
}

impl EngineError {
    /// What the caller can do about it.
    pub fn recovery(&self) -> Recovery {
        match self {
            // The producer changed its format: look at the new one and plan again.
            EngineError::Mismatch { .. } => Recovery::Reattach,
            EngineError::OutputSize(_)
            | EngineError::OutputFormat { .. }
            | EngineError::Crop { .. }
            | EngineError::Matrix { .. }
            | EngineError::Interlaced { .. } => Recovery::Fatal,
        }
    }
}
