//! The emergency reset: in place, then a new session with less asked of it, then the end.
//!
//! Frames inside were not lost with the device: their pixels stay mapped until their keys came out. They are handed
//! in again, the first as an IDR, and come out in their order.

use super::encode::Vpl;
use super::engine::{Engine, How, RateChange};
use super::negotiate::Fault;
use crate::error::EncoderError;
use crate::settings::{EncoderSettings, Preset};
use std::time::Instant;

/// What a session is opened with after a device was lost: the least that makes the same stream.
fn fallback(settings: &EncoderSettings) -> EncoderSettings {
    EncoderSettings {
        async_depth: 1,
        tile_columns: 0,
        tile_rows: 0,
        slices: 1,
        intra_refresh: false,
        low_latency: false,
        preset: Preset::Fast,
        ..settings.clone()
    }
}

impl Vpl {
    /// Brings the encoder to work again after `reason`.
    ///
    /// # Errors
    /// [`EncoderError::DeviceLost`] with everything that was tried; other errors are those of frames that cannot be
    /// encoded at all.
    pub(super) fn recover(&mut self, reason: String) -> Result<(), EncoderError> {
        self.reasons.push(reason);
        loop {
            self.strikes += 1;
            let said = self.reasons.last().map_or("", String::as_str);
            let done = match self.strikes {
                1 => {
                    tracing::warn!(reason = said, inside = self.order.len(), "Emergency reset of the encoder");
                    self.reset_in_place()
                }
                2 => {
                    tracing::warn!(reason = said, inside = self.order.len(), "A new session replaces the encoder's");
                    self.new_session()
                }
                _ => {
                    self.engine = None;
                    let reason = self.reasons.join(", then ");
                    return Err(EncoderError::DeviceLost { backend: super::NAME, reason });
                }
            };
            match done.and_then(|()| self.again()) {
                Ok(()) => return Ok(()),
                Err(fault) => self.reasons.push(fault.to_string()),
            }
        }
    }

    fn reset_in_place(&mut self) -> Result<(), Fault> {
        self.drop_unfinished();
        self.engine()?.restart()
    }

    fn new_session(&mut self) -> Result<(), Fault> {
        self.drop_unfinished();
        // The old one ends first: two sessions on a device that failed are no help.
        self.engine = None;
        for frame in &mut self.frames {
            frame.way = None;
            frame.unlock();
        }
        // Imports and a deep pipeline are what drivers have most trouble with.
        self.how = How { import: false, ..self.how };
        self.depth = 1;
        let engine = Engine::open(&fallback(&self.settings), self.how)?;
        self.install(engine);
        Ok(())
    }

    /// Hands in again what was inside, the first as an IDR.
    fn again(&mut self) -> Result<(), Fault> {
        let finished = self.finished();
        if finished == self.order.len() {
            self.idr_owed = true;
            return Ok(());
        }
        for number in finished..self.order.len() {
            let slot = self.order[number];
            self.frames[slot].idr |= number == finished;
            self.submit(slot, None)?;
        }
        self.since_idr = (self.order.len() - finished) as u32;
        Ok(())
    }

    /// Begins a new sequence with the frames inside, by a reset where that is enough.
    pub(super) fn begin_anew(&mut self, reason: &str) -> Result<(), EncoderError> {
        tracing::debug!(reason, "A new sequence begins");
        match self.reset_in_place().and_then(|()| self.again()) {
            Ok(()) => Ok(()),
            Err(fault) => self.recover(fault.to_string()),
        }
    }

    /// Changes the bitrate to that of `wanted`. Frames inside are finished first, at the old one.
    pub(super) fn change_rate(&mut self, wanted: EncoderSettings) -> Result<(), EncoderError> {
        let before = self.settings.clone();
        loop {
            // Each reset is a strike, and none is taken off before an access unit came out: this ends.
            match self.finish_inside() {
                Ok(()) => {}
                Err(Fault::Lost(reason)) => {
                    self.recover(reason)?;
                    continue;
                }
                Err(Fault::Refused(error)) => return Err(error),
            }
            self.settings.clone_from(&wanted);
            let Vpl { engine: Some(engine), settings, .. } = self else { return self.no_session() };
            match engine.change_rate(settings) {
                Ok(RateChange::Seamless) => return Ok(()),
                Ok(RateChange::NewSequence) => {
                    tracing::info!("The runtime changes its bitrate with an IDR only");
                    (self.rate_needs_idr, self.idr_owed, self.restart_owed) = (true, true, None);
                    return Ok(());
                }
                Err(Fault::Lost(reason)) => self.recover(reason)?,
                Err(Fault::Refused(error)) => {
                    self.settings = before;
                    return Err(error);
                }
            }
        }
    }

    fn no_session(&mut self) -> Result<(), EncoderError> {
        match self.engine() {
            Ok(_) | Err(Fault::Lost(_)) => Ok(()),
            Err(Fault::Refused(error)) => Err(error),
        }
    }

    /// Waits for every frame inside, without handing them on.
    fn finish_inside(&mut self) -> Result<(), Fault> {
        self.drain()?;
        for number in self.finished()..self.outputs.len() {
            let until = Instant::now() + self.patience;
            if !self.settle(number, until)? {
                return Err(Fault::Lost("a frame was not done in time for a change of the bitrate".to_owned()));
            }
        }
        Ok(())
    }
}
