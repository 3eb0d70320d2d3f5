//! Intel's oneVPL: a session on a hardware implementation through the dispatcher; on one that works on the CPU only
//! when the backend is asked for by name.
//!
//! Layers, from the bottom: `library` opens what is there; `session` finds an implementation;
//! `buffers`, `params`, `rate` and `negotiate` agree with it on parameters; `allocator`, `memory`, `imports` and `input` bring pixels in;
//! `engine` is one session at work; `encode` is the pipeline on it, `reset` its recovery, `size` a change of its frames,
//! `stream` its face.

pub mod allocator;
mod buffers;
mod encode;
mod engine;
mod idr_id;
mod imports;
mod input;
mod library;
mod memory;
mod negotiate;
mod params;
mod rate;
mod reset;
mod session;
mod size;
mod stream;
mod tasks;
#[cfg(test)]
mod tests;

use crate::encoder::Encoder;
use crate::error::EncoderError;
use crate::settings::EncoderSettings;
use shm_protocol::frame::{Codec, FieldOrder};

pub use session::Found;

/// The name used in the configuration.
pub const NAME: &str = "vpl";
/// Name of the library in errors.
pub const LIBRARY: &str = "oneVPL";

/// What the dispatcher finds without any filter, for people; sizes are those for `codec`.
///
/// # Errors
/// Why the dispatcher cannot be asked.
pub fn implementations(codec: Codec) -> Result<Vec<Found>, String> {
    session::implementations(params::codec_id(codec).map_err(|error| error.to_string())?)
}

/// Opens the encoder. `asked_for`: by its name, so that an implementation that works on the CPU is taken too.
///
/// # Errors
/// [`EncoderError::Unavailable`] where no implementation or no device is found; [`EncoderError::Setting`],
/// [`EncoderError::PixelFormat`] for what the codec or the device does not do; [`EncoderError::DeviceLost`] when the
/// device fails while it is opened.
pub fn open(settings: &EncoderSettings, asked_for: bool) -> Result<Box<dyn Encoder>, EncoderError> {
    settings.check()?;
    let has = ["device", "tile_columns", "tile_rows", "intra_refresh", "async_depth", "entropy"];
    settings.refuse_all_but(NAME, &has)?;
    if settings.format.field_order != FieldOrder::Progressive {
        return Err(EncoderError::Setting {
            setting: "field_order",
            given: "interlaced".to_owned(),
            allowed: "progressive: kernel B deinterlaces".to_owned(),
        });
    }
    Ok(Box::new(encode::Vpl::open(settings, asked_for)?))
}
