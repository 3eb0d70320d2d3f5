//! Not built yet.

use crate::encoder::Encoder;
use crate::error::EncoderError;
use crate::settings::EncoderSettings;

/// Opens it.
///
/// # Errors
/// [`EncoderError::Unavailable`].
pub fn open(_settings: &EncoderSettings) -> Result<Box<dyn Encoder>, EncoderError> {
    Err(EncoderError::Unavailable {
        backend: "svtav1".to_owned(),
        reason: "not in this build".to_owned(),
        cure: "Set encode.backend to openh264 for H.264, or to null".to_owned(),
    })
}
