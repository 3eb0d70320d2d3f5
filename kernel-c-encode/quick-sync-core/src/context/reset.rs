//! The emergency reset: in place where there is a device, else the encoder anew, and the frames that were inside with it.

use super::State;
use crate::codes::QSV_ERR_DEVICE_LOST;
use crate::failure::Failure;
use kernel_c_encode::encoder::Encoder;
use kernel_c_encode::error::EncoderError;
use kernel_c_encode::select;
use kernel_c_encode::settings::{EncoderSettings, Preset, RateControl};

impl State {
    /// Brings the encoder to work again; no frame that is inside is lost. A device is reset by its backend, which keeps
    /// them. Where that fails, and where there is no device, the encoder is closed and opened anew: with simpler settings
    /// where that fails, then as the next of the list where any would do. It gets the frames again. Says in words what
    /// was given up, if anything was.
    pub(crate) fn reset(&mut self) -> Result<Option<String>, Failure> {
        if let Some(encoder) = self.encoder.as_deref_mut()
            && encoder.emergency_reset() == Ok(true)
        {
            return Ok(None);
        }
        let given_up = self.reopen()?;
        let left_out = self.put_in_again()?;
        Ok(match (given_up, left_out) {
            (Some(given_up), Some(left_out)) => Some(format!("{given_up}; {left_out}")),
            (given_up, left_out) => given_up.or(left_out),
        })
    }

    /// Closes the encoder and opens it, or what can take its place.
    fn reopen(&mut self) -> Result<Option<String>, Failure> {
        let lost = self.encoder.as_ref().map(|encoder| encoder.name());
        self.copied_bytes += self.encoder.as_ref().map_or(0, |encoder| encoder.copied_bytes());
        // Encoder, session, display, in this order: each backend's own fields end so. A device may have room for one.
        self.encoder = None;
        let settings = EncoderSettings {
            idr_count: self.units.idrs,
            bitrate_kbps: self.bitrate_kbps,
            max_bitrate_kbps: match self.wanted.settings.max_bitrate_kbps {
                0 => 0,
                most => most.max(self.bitrate_kbps),
            },
            ..self.wanted.settings.clone()
        };
        let (encoder, given_up) = reopen(&self.wanted.backend, lost, &settings)?;
        self.encoder = Some(encoder);
        self.begins = true;
        Ok(given_up)
    }

    /// Gives the frames inside to the encoder that follows the one that had them, the first as an IDR. Says in words why
    /// the rest is left out, where it takes one of them no more than the other did.
    fn put_in_again(&mut self) -> Result<Option<String>, Failure> {
        self.recycle();
        let mut left_out = None;
        // Those that come out meanwhile are forgotten at the end: until then the places stay as they are.
        for index in 0..self.inside.len() {
            self.inside[index].idr |= self.begins;
            match self.put_in(index) {
                Ok(()) => self.begins = false,
                Err(lost) if lost.code == QSV_ERR_DEVICE_LOST => {
                    // Some are in it and some are not: the next reset begins with all of them, and with another encoder.
                    (self.encoder, self.begins) = (None, true);
                    self.recycle();
                    return Err(lost);
                }
                Err(failure) => {
                    // What follows a frame that is left out refers to nothing, and comes out in order only behind it.
                    self.begins = true;
                    // Those before it may still be in the encoder: they come out first, or it goes with them.
                    if self.encoder.as_deref_mut().is_some_and(|encoder| encoder.flush(&mut self.units).is_err()) {
                        self.encoder = None;
                    }
                    self.units.lost_inside();
                    left_out = Some(format!("frames inside are left out, because: {}", failure.text));
                    break;
                }
            }
        }
        self.recycle();
        Ok(left_out)
    }
}

/// The encoder again, and what had to be given up for it.
pub(super) fn reopen(
    backend: &str,
    lost: Option<&str>,
    settings: &EncoderSettings,
) -> Result<(Box<dyn Encoder>, Option<String>), EncoderError> {
    let same = lost.unwrap_or(backend);
    let first = match select::open(same, settings) {
        Ok(opened) => return Ok((opened.encoder, None)),
        Err(error) => error,
    };
    let simple = fallback(settings);
    let why = match select::open(same, &simple) {
        Ok(opened) => return Ok((opened.encoder, Some(format!("{same} with fallback settings, because: {first}")))),
        Err(error) => error,
    };
    if backend == "auto"
        && let Ok(opened) = select::open_after(&simple, lost)
    {
        let name = opened.encoder.name();
        return Ok((opened.encoder, Some(format!("{name} in place of {same}, because: {why}"))));
    }
    Err(why)
}

/// What every device can: constant bitrate, nothing optional.
fn fallback(settings: &EncoderSettings) -> EncoderSettings {
    let rate_control =
        if settings.rate_control.holds_bitrate() { RateControl::Constant } else { RateControl::ConstantQp };
    EncoderSettings {
        rate_control,
        preset: Preset::Fast,
        profile: None,
        entropy: None,
        level_idc: None,
        slices: 0,
        tile_columns: 0,
        tile_rows: 0,
        intra_refresh: false,
        async_depth: 0,
        ..settings.clone()
    }
}
