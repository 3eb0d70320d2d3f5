//! What a software encoder takes, and the refusals they share.

use crate::error::{EncoderError, refuse};
use crate::settings::EncoderSettings;
use shm_protocol::frame::{Codec, FieldOrder, PixelFormat};

/// What a backend takes.
#[derive(Debug, Clone, Copy)]
pub struct Takes {
    /// Its name.
    pub backend: &'static str,
    /// What it makes.
    pub codec: Codec,
    /// Settings it has among those that not every backend has ([`EncoderSettings::refuse_all_but`]).
    pub has: &'static [&'static str],
    /// Frames it takes.
    pub pixel_formats: &'static [PixelFormat],
    /// The same in words.
    pub pixel_formats_text: &'static str,
}

impl Takes {
    /// Refuses what the backend cannot take, sizes apart.
    ///
    /// # Errors
    /// [`EncoderError::Setting`], [`EncoderError::Format`] or [`EncoderError::PixelFormat`].
    pub fn check(&self, settings: &EncoderSettings) -> Result<(), EncoderError> {
        settings.check()?;
        settings.refuse_all_but(self.backend, self.has)?;
        if settings.codec != self.codec {
            let allowed = format!("{} for backend {}", self.codec.name(), self.backend);
            return refuse("codec", settings.codec.name(), allowed);
        }
        let format = &settings.format;
        if !self.pixel_formats.contains(&format.pixel_format) {
            return Err(EncoderError::PixelFormat {
                backend: self.backend,
                given: format.pixel_format.name(),
                allowed: self.pixel_formats_text,
            });
        }
        if format.field_order != FieldOrder::Progressive {
            return refuse("field_order", "interlaced", "progressive: kernel B deinterlaces");
        }
        Ok(())
    }
}
