//! How a frame gets to the device: imported where its memory can be, copied once otherwise.

use super::encode::{Fault, Source, Vaapi, no_session};
use super::import::NoImport;
use super::upload::{Way, upload};
use crate::encoder::EncodeInput;
use shm_protocol::pixels::PixelsRead;

impl Vaapi {
    /// Brings a frame's pixels within the device's reach.
    pub(super) fn take_in(&mut self, frame: &EncodeInput<'_>) -> Result<Source, Fault> {
        if let Some(memory) = &frame.memory {
            let pending = &self.pending;
            let in_use = |surface| pending.iter().any(|p| p.source == Source::Imported(surface));
            let rt_format = self.plan.caps.rt_format;
            match self.imports.surface(&self.va, rt_format, memory, frame.pixels.format(), in_use) {
                Ok(surface) => {
                    self.path = if memory.dma_buf {
                        "imported from DMA-BUF, nothing copied"
                    } else {
                        "imported from shared memory, nothing copied"
                    };
                    return Ok(Source::Imported(surface));
                }
                Err(NoImport::NotTried) => {}
                Err(NoImport::OutOfReach) => {
                    tracing::debug!(?memory.identity, "The buffer cannot be described to the driver and is copied");
                }
                Err(NoImport::Refused(failed)) => {
                    let said = self.va.text(&failed);
                    tracing::warn!(
                        dma_buf = memory.dma_buf,
                        said,
                        "The driver refused to import frames: they are copied"
                    );
                }
            }
        }
        let index = self.uploaded % self.plan.depth;
        self.upload(index, &frame.pixels)?;
        self.uploaded += 1;
        Ok(Source::Uploaded(index))
    }

    /// Copies pixels into an upload surface.
    pub(super) fn upload(&mut self, index: usize, pixels: &PixelsRead<'_>) -> Result<(), Fault> {
        let surface = self.session.as_ref().and_then(|s| s.uploads.get(index)).copied();
        let surface = surface.ok_or_else(no_session)?;
        self.copied_bytes += upload(&self.va, surface, pixels, &mut self.way).map_err(Fault::Call)?;
        self.path = match self.way {
            Way::Undecided | Way::Derived => "copied once into a mapped surface",
            Way::Put => "copied once into an image, and by the driver into a surface",
        };
        Ok(())
    }
}
