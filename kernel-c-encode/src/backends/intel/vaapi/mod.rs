//! QuickSync through VA-API alone: configuration, surfaces, parameter buffers and packed headers are ours.
//!
//! - [`caps`]: what the device can do; [`plan`] and [`tiles`]: what is asked of it.
//! - [`call`], [`coded`]: libva's calls and what comes out of them.
//! - [`session`], [`intake`], [`import`], [`upload`]: its objects, and how frames reach it.
//! - [`coder`], [`h264`], [`hevc`], [`av1`], [`buffers`]: the parameters of a picture.
//! - [`encode`]: the frames in work; [`reset`]: what happens when the device fails.

mod av1;
mod buffers;
mod call;
mod caps;
mod coded;
mod coder;
mod encode;
mod h264;
mod hevc;
mod import;
mod intake;
mod plan;
mod reset;
mod session;
mod tiles;
mod upload;

use super::display::Display;
use crate::encoder::Encoder;
use crate::error::EncoderError;
use crate::settings::EncoderSettings;
use call::Va;

/// Opens the encoder of a render node: the one the settings name, or the first that has the codec.
///
/// # Errors
/// [`EncoderError::Setting`], [`EncoderError::PixelFormat`] or [`EncoderError::Format`] for what is not possible;
/// [`EncoderError::Unavailable`] when no device has the codec; [`EncoderError::DeviceLost`] when the device has it and
/// fails.
pub fn open(settings: &EncoderSettings) -> Result<Box<dyn Encoder>, EncoderError> {
    plan::check(settings)?;
    let found = Display::open_first(settings.device.as_deref(), |display| {
        let va = Va::new(display);
        let caps = caps::probe(&va, settings)?;
        Ok((va, caps))
    });
    let (va, caps) = found.map_err(|none| none.unavailable(plan::NAME))?;
    let plan = plan::plan(settings, &caps)?;
    tracing::info!(
        device = %va.display().path().display(),
        driver = va.display().vendor(),
        entrypoint = caps::entrypoint_name(caps.entrypoint),
        codec = settings.codec.name(),
        level = plan.level.1,
        own_rate_control = plan.own_rate,
        "VA-API encodes"
    );
    Ok(Box::new(encode::Vaapi::open(va, settings, plan)?))
}
