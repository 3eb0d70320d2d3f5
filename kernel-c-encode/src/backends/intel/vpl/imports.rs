//! Frames of other kernels as VA surfaces, without a copy (DRM PRIME 2), kept by the identity of their buffer; where the
//! runtime imports itself, as surfaces of the runtime.
#![expect(unsafe_code, reason = "lends VA surfaces to the runtime")]

use super::allocator::{Allocator, MemId, SurfaceFormat};
use super::memory::{Imported, MemoryInterface};
use super::session::Session;
use crate::encoder::{BufferIdentity, FrameMemory};
use libva_sys::VADRMPRIMESurfaceDescriptor;
use onevpl_sys::mfxFrameSurface1;
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
    /// The runtime's surface over `surface`, given back before that is destroyed.
    by_runtime: Option<Imported>,
    surface: MemId,
    in_flight: u32,
    last_used: u64,
}

impl Import {
    /// Takes it into use for a frame. The runtime's surface has room for one frame's time: it is used by one at a time.
    fn taken(&mut self, index: usize, now: u64) -> Taken {
        let by_runtime = self.in_flight == 0 && self.by_runtime.as_ref().is_some_and(Imported::is_unlocked);
        (self.in_flight, self.last_used) = (self.in_flight + 1, now);
        Taken { id: ImportId(index), surface: self.surface, by_runtime }
    }

    /// Gives back what the runtime has of it, and destroys the surface.
    fn end(self, allocator: &Allocator) {
        drop(self.by_runtime);
        allocator.destroy(self.surface);
    }
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
    /// Where the runtime imports. `None`: it does not, or refused to.
    memory: Option<MemoryInterface>,
}

/// An import for one frame.
#[derive(Debug, Clone, Copy)]
pub struct Taken {
    /// The import.
    pub id: ImportId,
    /// Its surface, for the allocator.
    pub surface: MemId,
    /// The frame goes in as the runtime's own surface ([`Imports::runtime_surface`]).
    pub by_runtime: bool,
}

impl Imports {
    /// None yet; `enabled` false: there will be none.
    pub fn new(enabled: bool) -> Imports {
        let kept = (0..MOST_IMPORTS).map(|_| None).collect();
        Imports { kept, refused: Vec::with_capacity(MOST_REFUSED), clock: 0, enabled, memory: None }
    }

    /// Lets the runtime import, where it can.
    pub fn meet(&mut self, session: &mut Session) {
        self.memory = MemoryInterface::of(session).filter(|_| self.enabled);
    }

    /// Gives every surface of the runtime back: it ends.
    pub fn part(&mut self) {
        self.memory = None;
        self.kept.iter_mut().flatten().for_each(|import| import.by_runtime = None);
    }

    /// The runtime's surface of an import.
    pub fn runtime_surface(&self, id: ImportId) -> Option<*mut mfxFrameSurface1> {
        let import = self.kept.get(id.0)?.as_ref()?;
        import.by_runtime.as_ref().map(Imported::raw)
    }

    /// The surface over this memory, new or kept. `None`: the frame has to be copied.
    pub fn get(
        &mut self,
        allocator: &Allocator,
        memory: &FrameMemory<'_>,
        format: &VideoFormat,
        kind: SurfaceFormat,
    ) -> Option<Taken> {
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
            return self.kept[index].as_mut().map(|import| import.taken(index, self.clock));
        }
        self.forget(allocator, identity);
        let index = self.place(allocator)?;
        match import(allocator, memory, &layout, kind) {
            Ok(surface) => {
                let by_runtime = self.runtime_import(allocator, surface);
                let import = Import { identity, layout, by_runtime, surface, in_flight: 0, last_used: 0 };
                Some(self.kept[index].insert(import).taken(index, self.clock))
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

    /// Makes a surface one of the runtime too, where the runtime does that; after one that it refused no other is tried.
    fn runtime_import(&mut self, allocator: &Allocator, surface: MemId) -> Option<Imported> {
        let memory = self.memory.as_mut()?;
        let (display, surface) = allocator.native(surface);
        // SAFETY: the session and its encoder live until `part` took the interface; the surface outlives its import,
        // which is the field before it.
        match unsafe { memory.import(display, surface) } {
            Ok(imported) => Some(imported),
            Err(reason) => {
                tracing::info!(reason, "The runtime does not import: frames go in through the allocator");
                self.memory = None;
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
                import.end(allocator);
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
            import.end(allocator);
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
