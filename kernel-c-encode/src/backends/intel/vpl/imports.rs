//! Frames of other kernels as VA surfaces, without a copy (DRM PRIME 2), kept by the identity of their buffer.

use super::allocator::{Allocator, MemId, SurfaceFormat};
use crate::encoder::{BufferIdentity, FrameMemory};
use libva_sys::VADRMPRIMESurfaceDescriptor;
use shm_protocol::frame::VideoFormat;
use std::os::fd::AsRawFd;

/// Imports that are kept, at the most: the slots of four rings of the usual 16.
const MOST_IMPORTS: usize = 64;
/// Pools whose memory a driver refused, that are remembered: rings in use, and their last generations.
const MOST_REFUSED: usize = 8;
/// `DRM_FORMAT_MOD_LINEAR`: rows one behind the other, as everything in the pools of this system.
const LINEAR: u64 = 0;

/// An import in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImportId(usize);

#[derive(Debug)]
struct Import {
    identity: BufferIdentity,
    layout: Layout,
    surface: MemId,
    in_flight: u32,
    last_used: u64,
}

/// What the surface was made of, apart from the memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    offset: u64,
    size: (u32, u32),
    offsets: [u32; 2],
    pitches: [u32; 2],
}

/// The imports.
#[derive(Debug)]
pub struct Imports {
    kept: Vec<Option<Import>>,
    /// Ring and generation of pools that cannot be imported.
    refused: Vec<(u32, u32)>,
    clock: u64,
    enabled: bool,
}

impl Imports {
    /// None yet; `enabled` false: there will be none.
    pub fn new(enabled: bool) -> Imports {
        let kept = (0..MOST_IMPORTS).map(|_| None).collect();
        Imports { kept, refused: Vec::with_capacity(MOST_REFUSED), clock: 0, enabled }
    }

    /// The surface over this memory, new or kept. `None`: the frame has to be copied.
    pub fn get(
        &mut self,
        allocator: &Allocator,
        memory: &FrameMemory<'_>,
        format: &VideoFormat,
        kind: SurfaceFormat,
    ) -> Option<(ImportId, MemId)> {
        let identity = memory.identity;
        if !self.enabled || self.refused.contains(&(identity.ring_uid, identity.generation)) {
            return None;
        }
        self.clock += 1;
        let layout = Layout {
            offset: memory.offset,
            size: (format.coded_width, format.coded_height),
            offsets: [0, 1].map(|plane| format.planes[plane].offset),
            pitches: [0, 1].map(|plane| format.planes[plane].stride),
        };
        let known = |import: &Import| import.identity == identity && import.layout == layout;
        if let Some(index) = self.kept.iter().position(|place| place.as_ref().is_some_and(known)) {
            let import = self.kept[index].as_mut()?;
            import.in_flight += 1;
            import.last_used = self.clock;
            return Some((ImportId(index), import.surface));
        }
        self.forget(allocator, identity);
        let index = self.place(allocator)?;
        match import(allocator, memory, &layout, kind) {
            Ok(surface) => {
                self.kept[index] = Some(Import { identity, layout, surface, in_flight: 1, last_used: self.clock });
                Some((ImportId(index), surface))
            }
            Err(reason) => {
                let what = if memory.dma_buf { "DMA-BUF" } else { "memory that is no DMA-BUF" };
                tracing::info!(
                    ring = identity.ring_uid,
                    generation = identity.generation,
                    reason,
                    "The driver does not import this {what}: frames of this pool are copied"
                );
                if self.refused.len() == MOST_REFUSED {
                    self.refused.remove(0);
                }
                self.refused.push((identity.ring_uid, identity.generation));
                None
            }
        }
    }

    /// A frame that was imported so is done.
    pub fn done(&mut self, id: ImportId) {
        if let Some(import) = self.kept.get_mut(id.0).and_then(Option::as_mut) {
            import.in_flight = import.in_flight.saturating_sub(1);
        }
    }

    /// Drops what a pool's new generation or a buffer's new layout made stale.
    fn forget(&mut self, allocator: &Allocator, now: BufferIdentity) {
        for place in &mut self.kept {
            let stale = |import: &Import| {
                let old = import.identity;
                import.in_flight == 0
                    && old.ring_uid == now.ring_uid
                    && (old.generation != now.generation || old.index == now.index)
            };
            if let Some(import) = place.take_if(|import| stale(import)) {
                allocator.destroy(import.surface);
            }
        }
    }

    /// A free place; that of the import unused for longest when there is none.
    fn place(&mut self, allocator: &Allocator) -> Option<usize> {
        if let Some(free) = self.kept.iter().position(Option::is_none) {
            return Some(free);
        }
        let idle = self.kept.iter().enumerate().filter_map(|(index, place)| {
            place.as_ref().filter(|import| import.in_flight == 0).map(|import| (import.last_used, index))
        });
        let (_, index) = idle.min()?;
        if let Some(import) = self.kept[index].take() {
            allocator.destroy(import.surface);
        }
        Some(index)
    }
}

fn import(
    allocator: &Allocator,
    memory: &FrameMemory<'_>,
    layout: &Layout,
    kind: SurfaceFormat,
) -> Result<MemId, String> {
    let short = |value: u64| u32::try_from(value).map_err(|_| format!("{value} does not fit the 32 bits of PRIME 2"));
    let (width, height) = layout.size;
    let mut prime = VADRMPRIMESurfaceDescriptor { fourcc: kind.fourcc, width, height, ..Default::default() };
    prime.num_objects = 1;
    prime.objects[0].fd = memory.fd.as_raw_fd();
    prime.objects[0].size = short(memory.size_bytes)?;
    prime.objects[0].drm_format_modifier = LINEAR;
    // One layer of both planes. DRM calls NV12 and P010 by the same four characters as VA.
    prime.num_layers = 1;
    prime.layers[0].drm_format = kind.fourcc;
    prime.layers[0].num_planes = 2;
    for plane in 0..2 {
        prime.layers[0].object_index[plane] = 0;
        prime.layers[0].offset[plane] = short(layout.offset + u64::from(layout.offsets[plane]))?;
        prime.layers[0].pitch[plane] = layout.pitches[plane];
    }
    allocator.import(kind, layout.size, &mut prime)
}
