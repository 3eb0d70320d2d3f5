//! Frames that the device reads where they lie: each buffer of a pool becomes a surface once and is found again.

use super::call::{Answer, Failed, Va};
use super::session::fourcc;
use crate::encoder::{BufferIdentity, FrameMemory};
use libva_sys as va;
use shm_protocol::frame::{PixelFormat, PlaneLayout, VideoFormat};
use std::os::fd::{AsRawFd, OwnedFd};

/// Buffers kept at the most: the slots of a ring and those on their way, several times.
const MAX_IMPORTS: usize = 64;
/// DMA-BUFs that may be refused before no further one is tried: one may be odd, three are a driver that takes none.
const DMA_BUF_TRIES: u32 = 3;
/// `DRM_FORMAT_MOD_LINEAR`: rows one behind the other.
const LINEAR: u64 = 0;

const fn drm_fourcc(name: [u8; 4]) -> u32 {
    u32::from_le_bytes(name)
}

/// DRM names of the planes on their own: 8 and 16 bit, one and two samples (`drm_fourcc.h`).
const R8: u32 = drm_fourcc(*b"R8  ");
const GR88: u32 = drm_fourcc(*b"GR88");
const R16: u32 = drm_fourcc(*b"R16 ");
const GR1616: u32 = drm_fourcc(*b"GR32");
/// DRM names of both planes together.
const NV12: u32 = drm_fourcc(*b"NV12");
const P010: u32 = drm_fourcc(*b"P010");

#[derive(Debug)]
struct Import {
    identity: BufferIdentity,
    dma_buf: bool,
    /// Our own descriptor: the memory can be imported again on another display.
    fd: OwnedFd,
    offset: u64,
    size_bytes: u64,
    planes: [PlaneLayout; 2],
    surface: va::VASurfaceID,
    used: u64,
}

/// The buffers that are surfaces.
#[derive(Debug)]
pub struct Imports {
    entries: Vec<Import>,
    clock: u64,
    memfd_refused: bool,
    dma_bufs_refused: u32,
    layers: Option<bool>,
}

/// Why a buffer is not imported.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoImport {
    /// Such memory is not tried (any more).
    NotTried,
    /// The driver refused it.
    Refused(Failed),
    /// The descriptor could not be duplicated, or the buffer lies beyond what the interface can say.
    OutOfReach,
}

impl Imports {
    /// None yet. `memory_types`: what the driver says it takes; 0: nothing said.
    pub fn new(memory_types: u32) -> Imports {
        let none = memory_types != 0 && memory_types & va::VA_SURFACE_ATTRIB_MEM_TYPE_DRM_PRIME_2 == 0;
        Imports {
            entries: Vec::with_capacity(MAX_IMPORTS),
            clock: 0,
            memfd_refused: none,
            dma_bufs_refused: if none { DMA_BUF_TRIES } else { 0 },
            layers: None,
        }
    }

    /// The surface of a frame's buffer. `in_use`: surfaces of frames in work, which stay.
    ///
    /// # Errors
    /// [`NoImport`]; the frame is to be copied then.
    pub fn surface(
        &mut self,
        va: &Va,
        rt_format: u32,
        memory: &FrameMemory<'_>,
        format: &VideoFormat,
        in_use: impl Fn(va::VASurfaceID) -> bool,
    ) -> Result<va::VASurfaceID, NoImport> {
        self.clock += 1;
        let planes = [format.planes[0], format.planes[1]];
        if let Some(known) = self.entries.iter_mut().find(|e| e.identity == memory.identity) {
            if known.planes == planes && known.offset == memory.offset {
                known.used = self.clock;
                return Ok(known.surface);
            }
        } else if (memory.dma_buf && self.dma_bufs_refused >= DMA_BUF_TRIES) || (!memory.dma_buf && self.memfd_refused)
        {
            return Err(NoImport::NotTried);
        }
        self.forget(va, |e| {
            let replaced = e.identity.ring_uid == memory.identity.ring_uid
                && (e.identity.generation != memory.identity.generation || e.identity == memory.identity);
            replaced && !in_use(e.surface)
        });
        if self.entries.len() == MAX_IMPORTS {
            let free = self.entries.iter().filter(|e| !in_use(e.surface));
            let oldest = free.min_by_key(|e| e.used).map(|e| e.surface);
            self.forget(va, |e| Some(e.surface) == oldest);
        }
        if self.entries.len() == MAX_IMPORTS {
            return Err(NoImport::OutOfReach);
        }
        let fd = memory.fd.try_clone_to_owned().map_err(|_| NoImport::OutOfReach)?;
        let mut entry = Import {
            identity: memory.identity,
            dma_buf: memory.dma_buf,
            fd,
            offset: memory.offset,
            size_bytes: memory.size_bytes,
            planes,
            surface: va::VA_INVALID_SURFACE,
            used: self.clock,
        };
        entry.surface = self.import(va, rt_format, &entry, format)?;
        let surface = entry.surface;
        self.entries.push(entry);
        Ok(surface)
    }

    /// Imports on a new display what is still needed there; the rest is forgotten. Returns the new surface of each old
    /// one through `renamed`.
    ///
    /// # Errors
    /// [`NoImport`] for the first buffer that the new display refuses.
    pub fn import_again(
        &mut self,
        va: &Va,
        rt_format: u32,
        format: &VideoFormat,
        needed: impl Fn(va::VASurfaceID) -> bool,
        mut renamed: impl FnMut(va::VASurfaceID, va::VASurfaceID),
    ) -> Result<(), NoImport> {
        self.entries.retain(|e| needed(e.surface));
        let mut entries = std::mem::take(&mut self.entries);
        let mut imported = Ok(());
        for entry in &mut entries {
            match self.import(va, rt_format, entry, format) {
                Ok(new) => renamed(std::mem::replace(&mut entry.surface, new), new),
                Err(refused) => {
                    entry.surface = va::VA_INVALID_SURFACE;
                    imported = Err(refused);
                }
            }
        }
        self.entries = entries;
        imported
    }

    /// Lets the surfaces of those entries go.
    fn forget(&mut self, va: &Va, which: impl Fn(&Import) -> bool) {
        self.entries.retain_mut(|entry| {
            let gone = which(entry);
            if gone && entry.surface != va::VA_INVALID_SURFACE {
                va.destroy_surfaces(std::slice::from_mut(&mut entry.surface));
            }
            !gone
        });
    }

    /// Lets all surfaces go, and keeps the memory they were made of.
    pub fn release(&mut self, va: &Va) {
        for entry in self.entries.iter().filter(|e| e.surface != va::VA_INVALID_SURFACE) {
            va.destroy_surfaces(&mut [entry.surface]);
        }
    }

    /// Lets all surfaces and their memory go.
    pub fn clear(&mut self, va: &Va) {
        self.release(va);
        self.entries.clear();
    }

    fn import(
        &mut self,
        va: &Va,
        rt_format: u32,
        entry: &Import,
        format: &VideoFormat,
    ) -> Result<va::VASurfaceID, NoImport> {
        // Drivers differ in whether they take one layer of two planes or two layers of one: what worked is kept.
        let ways: &[bool] = match self.layers {
            Some(true) => &[true],
            Some(false) => &[false],
            None => &[false, true],
        };
        let mut refused = None;
        for &apart in ways {
            let descriptor = describe(entry, format, apart).ok_or(NoImport::OutOfReach)?;
            match make_surface(va, rt_format, descriptor) {
                Ok(surface) => {
                    self.layers = Some(apart);
                    return Ok(surface);
                }
                Err(failed) => refused = Some(failed),
            }
        }
        if entry.dma_buf {
            self.dma_bufs_refused += 1;
        } else {
            self.memfd_refused = true;
        }
        Err(refused.map_or(NoImport::OutOfReach, NoImport::Refused))
    }
}

/// One object, both planes in it, rows one behind the other. `None` beyond 32 bits.
fn describe(entry: &Import, format: &VideoFormat, apart: bool) -> Option<va::VADRMPRIMESurfaceDescriptor> {
    let mut descriptor = va::VADRMPRIMESurfaceDescriptor {
        fourcc: fourcc(format.pixel_format),
        width: format.width,
        height: format.height,
        num_objects: 1,
        ..Default::default()
    };
    descriptor.objects[0].fd = entry.fd.as_raw_fd();
    descriptor.objects[0].size = u32::try_from(entry.size_bytes).ok()?;
    descriptor.objects[0].drm_format_modifier = LINEAR;
    let ten_bit = format.pixel_format == PixelFormat::P010;
    let alone = if ten_bit { [R16, GR1616] } else { [R8, GR88] };
    descriptor.num_layers = if apart { 2 } else { 1 };
    descriptor.layers[0].drm_format = if ten_bit { P010 } else { NV12 };
    for (plane, layout) in entry.planes.iter().enumerate() {
        let (layer, at) = if apart { (plane, 0) } else { (0, plane) };
        let layer = &mut descriptor.layers[layer];
        if apart {
            layer.drm_format = alone[plane];
        }
        layer.num_planes = at as u32 + 1;
        layer.offset[at] = u32::try_from(entry.offset + u64::from(layout.offset)).ok()?;
        layer.pitch[at] = layout.stride;
    }
    Some(descriptor)
}

fn make_surface(va: &Va, rt_format: u32, mut descriptor: va::VADRMPRIMESurfaceDescriptor) -> Answer<va::VASurfaceID> {
    let size = (descriptor.width, descriptor.height);
    let attribute = |type_, value| va::VASurfaceAttrib { type_, flags: va::VA_SURFACE_ATTRIB_SETTABLE, value };
    let mut memory = va::VAGenericValue { type_: va::VAGenericValueTypeInteger, ..Default::default() };
    memory.value.i = va::VA_SURFACE_ATTRIB_MEM_TYPE_DRM_PRIME_2 as i32;
    let mut external = va::VAGenericValue { type_: va::VAGenericValueTypePointer, ..Default::default() };
    external.value.p = std::ptr::from_mut(&mut descriptor).cast();
    let mut attributes = [
        attribute(va::VASurfaceAttribMemoryType, memory),
        attribute(va::VASurfaceAttribExternalBufferDescriptor, external),
    ];
    let mut surface = [va::VA_INVALID_SURFACE];
    va.create_surfaces(rt_format, size, &mut surface, &mut attributes)?;
    Ok(surface[0])
}
