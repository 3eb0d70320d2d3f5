//! Emergency reset: a new context, then a new display, then a new display with less asked of it; then the device is
//! lost. Frames in work are coded again in their order, the first of them as an IDR: none is left out.

use super::call::Va;
use super::caps;
use super::encode::{Fault, Source, Vaapi};
use super::plan::{self, NAME};
use super::session::Session;
use super::upload::download;
use crate::backends::intel::display::Display;
use crate::encoder::Key;
use crate::error::EncoderError;
use crate::settings::{EncoderSettings, Preset};
use libva_sys as va;
use shm_protocol::frame::VideoFormat;
use shm_protocol::pixels::PixelsRead;
use std::sync::Arc;

/// Coded buffers do not grow beyond this: it is more than the raw pixels of any picture there is.
const MAX_CODED_BYTES: usize = 512 << 20;

/// One try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// A new context on the same display.
    Context,
    /// A new display.
    Display,
    /// A new display, and nothing asked of the device that it could fail at and can do without.
    Modest,
}

/// The step after so many resets without a frame.
fn step(trouble: u32) -> Option<Step> {
    match trouble {
        1 => Some(Step::Context),
        2 => Some(Step::Display),
        3 => Some(Step::Modest),
        _ => None,
    }
}

/// What can be done without.
fn modest(settings: &EncoderSettings) -> EncoderSettings {
    EncoderSettings { intra_refresh: false, preset: Preset::Fast, low_latency: false, ..settings.clone() }
}

impl Vaapi {
    /// What went wrong, in words.
    fn words(&self, fault: &Fault) -> String {
        match fault {
            Fault::Call(failed) => self.va.text(failed),
            Fault::Deadline => "a frame was over its deadline".to_owned(),
            Fault::Overflow => format!("a picture did not fit {} bytes", self.coded_bytes),
            Fault::Garbage(what) => what.clone(),
        }
    }

    /// Brings the device back to work. `pixels`: those of the newest frame in work, while they are there.
    ///
    /// # Errors
    /// [`EncoderError::DeviceLost`] when nothing helps.
    pub(super) fn recover(&mut self, fault: &Fault, pixels: Option<&PixelsRead<'_>>) -> Result<(), EncoderError> {
        let mut fault = fault.clone();
        let mut said: Vec<String> = Vec::new();
        loop {
            let words = self.words(&fault);
            said.push(words.clone());
            self.trouble += 1;
            let Some(step) = step(self.trouble) else {
                return Err(EncoderError::DeviceLost { backend: NAME, reason: said.join("; after a reset ") });
            };
            if fault == Fault::Overflow {
                self.coded_bytes = self.coded_bytes.saturating_mul(2).min(MAX_CODED_BYTES);
                tracing::info!(bytes = self.coded_bytes, "A picture did not fit its buffer: buffers grow");
            } else {
                tracing::error!(
                    fault = words,
                    ?step,
                    in_work = self.pending.len(),
                    "The device failed: emergency reset"
                );
            }
            // What hangs does not become ready.
            if fault != Fault::Deadline {
                self.settle();
            }
            match self.reset(step, pixels) {
                Ok(()) => return Ok(()),
                Err(next) => fault = next,
            }
        }
    }

    /// Takes the newest frame back if it is that of `key`: whoever gave it was told of an error, and gives it again or
    /// not.
    pub(super) fn take_back(&mut self, key: Key) {
        let Some(newest) = self.pending.pop_back_if(|newest| newest.key == key) else { return };
        if matches!(newest.source, Source::Uploaded(_)) {
            // Its surface is the next one again: the others belong to frames in work.
            self.uploaded -= 1;
        }
        self.idr_owed |= newest.idr;
        // One that is lost stays as it is. Else others may refer to this frame; what becomes of that the next call says.
        if step(self.trouble.max(1)).is_some() {
            let _ = self.code_again();
        }
    }

    /// Codes the frames in work again, the first as an IDR, on a new context.
    pub(super) fn code_again(&mut self) -> Result<(), EncoderError> {
        self.settle();
        match self.reset(Step::Context, None) {
            Ok(()) => Ok(()),
            Err(fault) => self.recover(&fault, None),
        }
    }

    fn reset(&mut self, step: Step, pixels: Option<&PixelsRead<'_>>) -> Result<(), Fault> {
        match (step, &mut self.session) {
            (Step::Context, Some(session)) => {
                session.renew(&self.plan, self.coded_bytes).map_err(Fault::Call)?;
            }
            _ => self.new_display(step == Step::Modest, pixels)?,
        }
        self.begin_anew();
        for index in 0..self.pending.len() {
            self.submit(index, index == 0)?;
        }
        Ok(())
    }

    /// Replaces the display and everything on it.
    fn new_display(&mut self, modestly: bool, pixels: Option<&PixelsRead<'_>>) -> Result<(), Fault> {
        let opened = &self.settings.format;
        let packed = VideoFormat::packed(opened.pixel_format, opened.width, opened.height, opened.fps, opened.colour)
            .map_err(|error| Fault::Garbage(error.to_string()))?;
        self.save_copies(&packed, pixels.is_some());
        self.session = None;
        self.imports.release(&self.va);
        let (functions, path) = (Arc::clone(self.va.display().shared_functions()), self.va.display().path().to_owned());
        let display = Display::open(&functions, &path).map_err(|error| Fault::Garbage(error.to_string()))?;
        // The old display ends here: nothing hangs on it any more.
        self.va = Va::new(display);
        let caps = caps::probe(&self.va, &self.settings).map_err(Fault::Garbage)?;
        let settings = if modestly { modest(&self.settings) } else { self.settings.clone() };
        let mut plan = plan::plan(&settings, &caps).map_err(|error| Fault::Garbage(error.to_string()))?;
        if plan.own_rate != self.plan.own_rate {
            return Err(Fault::Garbage("the device came back with other rate control modes".to_owned()));
        }
        plan.stream.rate.rate = self.plan.stream.rate.rate;
        plan.stream.bits_per_s = self.plan.stream.bits_per_s;
        self.plan = plan;
        let session = Session::open(&self.va, &self.plan, &self.settings.format, self.coded_bytes);
        self.session = Some(session.map_err(Fault::Call)?);
        self.bring_back_imports()?;
        self.bring_back_copies(&packed, pixels)
    }

    /// Copies out of the old display what exists nowhere else: frames in work that were copied in, but the newest one
    /// where its pixels are at hand. What was saved at an earlier step stays.
    fn save_copies(&mut self, packed: &VideoFormat, newest_at_hand: bool) {
        let Some(session) = &self.session else { return };
        let last = self.pending.len().saturating_sub(1);
        for (index, pending) in self.pending.iter().enumerate() {
            let Source::Uploaded(upload) = pending.source else { continue };
            let known = self.saved.iter().any(|(saved, _)| *saved == upload);
            if known || (newest_at_hand && index == last) {
                continue;
            }
            match download(&self.va, session.uploads[upload], packed) {
                Ok(bytes) => self.saved.push((upload, bytes)),
                Err(failed) => tracing::warn!(fault = self.va.text(&failed), "A frame in work could not be saved"),
            }
        }
    }

    fn bring_back_imports(&mut self) -> Result<(), Fault> {
        let mut renamed: Vec<(va::VASurfaceID, va::VASurfaceID)> = Vec::new();
        let pending = &self.pending;
        let needed = |surface| pending.iter().any(|p| p.source == Source::Imported(surface));
        let rt_format = self.plan.caps.rt_format;
        let imported = self.imports.import_again(&self.va, rt_format, &self.settings.format, needed, |old, new| {
            renamed.push((old, new));
        });
        imported.map_err(|error| Fault::Garbage(format!("a frame in work cannot be imported again: {error:?}")))?;
        for pending in &mut self.pending {
            if let Source::Imported(surface) = &mut pending.source
                && let Some((_, new)) = renamed.iter().find(|(old, _)| old == surface)
            {
                *surface = *new;
            }
        }
        Ok(())
    }

    fn bring_back_copies(&mut self, packed: &VideoFormat, pixels: Option<&PixelsRead<'_>>) -> Result<(), Fault> {
        let last = self.pending.len().saturating_sub(1);
        for index in 0..self.pending.len() {
            let Source::Uploaded(upload) = self.pending[index].source else { continue };
            if let Some(pixels) = pixels.filter(|_| index == last) {
                self.upload(upload, pixels)?;
                continue;
            }
            let Some(at) = self.saved.iter().position(|(saved, _)| *saved == upload) else {
                return Err(Fault::Garbage("the pixels of a frame in work are gone with the display".to_owned()));
            };
            let bytes = std::mem::take(&mut self.saved[at].1);
            let brought = PixelsRead::from_slice(packed, &bytes)
                .map_err(|error| Fault::Garbage(error.to_string()))
                .and_then(|pixels| self.upload(upload, &pixels));
            // Kept for a further step.
            self.saved[at].1 = bytes;
            brought?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_end() {
        assert_eq!(step(1), Some(Step::Context));
        assert_eq!(step(2), Some(Step::Display));
        assert_eq!(step(3), Some(Step::Modest));
        assert_eq!(step(4), None);
    }
}
