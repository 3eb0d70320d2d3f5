//! How the pixels of a frame reach the encoder: as imported memory, copied into a surface, or where they lie.
#![expect(unsafe_code, reason = "hands pointers of mapped frames to a library")]

use super::allocator::{Allocator, MemId, SurfaceFormat, set_pitch};
use super::imports::{ImportId, Imports};
use super::params::SIDE_ALIGN;
use super::session::Session;
use crate::backends::intel::copy::{Plane, copy_plane};
use crate::backends::intel::display::Display;
use crate::encoder::{EncodeInput, FrameMemory};
use onevpl_sys::mfxFrameSurface1;
use shm_protocol::frame::{PixelFormat, VideoFormat};
use std::ptr;
use std::sync::Arc;

/// Alignment of buffers of our own, bytes: what the facts of Intel's runtimes ask of a base.
const BUFFER_ALIGN: usize = 256;
/// Alignment of pointers and pitches that a runtime may be given as they are: its widest loads.
const IN_PLACE_ALIGN: usize = 64;

/// Where a frame's pixels lie. The caller keeps them mapped until the frame's key came out.
#[derive(Debug, Clone, Copy)]
pub struct Picture {
    planes: [*const u8; 2],
    format: VideoFormat,
}

// SAFETY: pointers for reading, into memory that is mapped by the promise of `EncodeInput::pixels`.
unsafe impl Send for Picture {}

impl Picture {
    /// The pixels of a frame.
    pub fn of(frame: &EncodeInput<'_>) -> Picture {
        Picture { planes: [0, 1].map(|plane| frame.pixels.plane(plane)), format: *frame.pixels.format() }
    }

    /// Copies the picture to `planes` with `pitches`, padded to whole macroblocks where `rows` has room.
    ///
    /// # Safety
    /// `rows` rows of luma and half as many of chroma, each of a width in whole macroblocks, are writable.
    unsafe fn copy_to(&self, planes: [*mut u8; 2], pitches: [usize; 2], rows: u32) -> u64 {
        let pixel_format = self.format.pixel_format;
        let padded_rows = self.format.height.next_multiple_of(SIDE_ALIGN).min(rows);
        let padded_width = self.format.width.next_multiple_of(SIDE_ALIGN);
        let mut copied = 0;
        for plane in 0..2 {
            let row_bytes = pixel_format.row_bytes(plane, self.format.width) as usize;
            let visible = pixel_format.rows(plane, self.format.height) as usize;
            let padded = pixel_format.rows(plane, padded_rows) as usize;
            let padded_bytes = pixel_format.row_bytes(plane, padded_width) as usize;
            let from_stride = self.format.planes[plane].stride as usize;
            let rows = Plane {
                from: self.planes[plane],
                from_stride,
                to: planes[plane],
                to_stride: pitches[plane],
                row_bytes,
                rows: visible,
            };
            // SAFETY: the visible rows lie in the mapping (`PixelsRead`) and in the target (by the caller), which is
            // ours alone.
            unsafe { copy_plane(&rows) };
            for y in visible..padded {
                // SAFETY: the last visible row of the source, and a row of the target (by the caller).
                unsafe {
                    let (from, to) = (rows.from.add((visible - 1) * from_stride), rows.to.add(y * rows.to_stride));
                    copy_plane(&Plane { from, to, rows: 1, ..rows });
                }
            }
            if padded_bytes > row_bytes && padded_bytes <= pitches[plane] {
                let pixel = pixel_bytes(pixel_format, plane);
                for y in 0..padded.max(visible) {
                    // SAFETY: a row of the target, `padded_bytes` long, of which `row_bytes` were just written.
                    unsafe { pad_row(planes[plane].add(y * pitches[plane]), row_bytes, padded_bytes, pixel) };
                }
            }
            copied += (row_bytes * visible) as u64;
        }
        copied
    }

    /// Whether a runtime that reads whole macroblocks stays within the mapped rows.
    fn fits_in_place(&self) -> bool {
        let format = &self.format;
        let width = format.width.next_multiple_of(SIDE_ALIGN);
        let rows_fit = format.coded_height >= format.height.next_multiple_of(SIDE_ALIGN);
        let pitches = [0, 1].map(|plane| format.planes[plane].stride);
        rows_fit
            && pitches[0] == pitches[1]
            && pitches[0] >= format.pixel_format.row_bytes(0, width)
            && (pitches[0] as usize).is_multiple_of(IN_PLACE_ALIGN)
            && self.planes.iter().all(|plane| plane.addr().is_multiple_of(IN_PLACE_ALIGN))
    }
}

/// Bytes of what repeats along a row: a sample of luma, a pair of chroma.
const fn pixel_bytes(format: PixelFormat, plane: usize) -> usize {
    let sample = if matches!(format, PixelFormat::P010) { 2 } else { 1 };
    if plane == 0 { sample } else { 2 * sample }
}

/// Repeats the last pixel of a row up to `padded_bytes`.
///
/// # Safety
/// `padded_bytes` are writable at `row`, the first `row_bytes` written, at least `pixel` of them.
unsafe fn pad_row(row: *mut u8, row_bytes: usize, padded_bytes: usize, pixel: usize) {
    for at in row_bytes..padded_bytes {
        // SAFETY: `at - pixel` is at least 0 and written before `at` is.
        unsafe { row.add(at).write(row.add(at - pixel).read()) };
    }
}

/// Which way a frame took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Its memory became a surface; nothing was copied.
    Imported {
        /// The import.
        id: ImportId,
        /// It is the runtime's own surface (`ImportFrameSurface`).
        by_runtime: bool,
    },
    /// Copied into a surface or a buffer.
    Copied {
        /// Pixel bytes.
        bytes: u64,
        /// Into an image, which the driver copied into the surface.
        by_image: bool,
    },
    /// The runtime reads it where it lies.
    InPlace,
}

/// The input of a session.
#[derive(Debug)]
pub enum Input {
    /// VA surfaces.
    Video(Box<Video>),
    /// Pointers.
    System(System),
}

/// The input by VA surfaces.
#[derive(Debug)]
pub struct Video {
    /// Surfaces to copy into, by slot, made when first needed: none as long as imports work. Declared, like
    /// `imports`, before the allocator that owns them all.
    pool: Vec<Option<Place>>,
    imports: Imports,
    /// The allocator the session has.
    pub allocator: Allocator,
    /// The device.
    pub display: Arc<Display>,
}

/// A surface to copy into.
#[derive(Debug, Clone, Copy)]
struct Place {
    id: MemId,
    width: u32,
    height: u32,
}

/// The input by pointers.
#[derive(Debug)]
pub struct System {
    /// Buffers to copy into, by slot, made when first needed.
    pool: Vec<Vec<u8>>,
    /// Why no surfaces are used, for people.
    pub reason: String,
    /// The device, where the session was given one: it ends behind the session.
    _display: Option<Arc<Display>>,
}

impl Input {
    /// Input by surfaces on `display`; `import`: frames with a descriptor are imported.
    pub fn video(display: Arc<Display>, import: bool) -> Input {
        let allocator = Allocator::new(Arc::clone(&display));
        Input::Video(Box::new(Video { pool: Vec::new(), imports: Imports::new(import), allocator, display }))
    }

    /// Input by pointers.
    pub fn system(reason: String) -> Input {
        Input::System(System { pool: Vec::new(), reason, _display: None })
    }

    /// Input by pointers for a session that works on `display`.
    pub fn system_on(display: Arc<Display>, reason: String) -> Input {
        Input::System(System { pool: Vec::new(), reason, _display: Some(display) })
    }

    /// Whether frames go in as surfaces.
    pub fn is_video(&self) -> bool {
        matches!(self, Input::Video(_))
    }

    /// Makes room for `count` slots.
    pub fn resize(&mut self, count: usize) {
        match self {
            Input::Video(video) => video.pool.resize(count, None),
            Input::System(system) => system.pool.resize_with(count, Vec::new),
        }
    }

    /// Fills the data part of `surface` for the picture.
    ///
    /// # Errors
    /// Why the pixels cannot be brought in.
    pub fn prepare(
        &mut self,
        slot: usize,
        picture: &Picture,
        memory: Option<&FrameMemory<'_>>,
        surface: &mut mfxFrameSurface1,
    ) -> Result<Way, String> {
        match self {
            Input::Video(video) => video.prepare(slot, picture, memory, surface),
            Input::System(system) => Ok(system.prepare(slot, picture, surface)),
        }
    }

    /// The encoder is done with a frame that went this way.
    pub fn done(&mut self, way: Way) {
        if let (Input::Video(video), Way::Imported { id, .. }) = (self, way) {
            video.imports.done(id);
        }
    }

    /// The surface of the runtime that a frame that went this way lies in, if it is one of those.
    pub fn runtime_surface(&self, way: Way) -> Option<*mut mfxFrameSurface1> {
        match (self, way) {
            (Input::Video(video), Way::Imported { id, by_runtime: true }) => video.imports.runtime_surface(id),
            _ => None,
        }
    }

    /// Looks what the runtime of the session, whose encoder is ready, can do for it.
    pub fn meet(&mut self, session: &mut Session) {
        if let Input::Video(video) = self {
            video.imports.meet(session);
        }
    }

    /// Gives back what is the runtime's: its session ends.
    pub fn part(&mut self) {
        if let Input::Video(video) = self {
            video.imports.part();
        }
    }

    /// Gives back the memory of copies; no frame may be in it.
    pub fn drop_copies(&mut self) {
        match self {
            Input::Video(video) => {
                let Video { pool, allocator, .. } = video.as_mut();
                pool.iter_mut().filter_map(Option::take).for_each(|place| allocator.destroy(place.id));
            }
            Input::System(system) => system.pool.iter_mut().for_each(|buffer| *buffer = Vec::new()),
        }
    }
}

fn surface_format(format: PixelFormat) -> SurfaceFormat {
    if format == PixelFormat::P010 { SurfaceFormat::P010 } else { SurfaceFormat::NV12 }
}

impl Video {
    fn prepare(
        &mut self,
        slot: usize,
        picture: &Picture,
        memory: Option<&FrameMemory<'_>>,
        surface: &mut mfxFrameSurface1,
    ) -> Result<Way, String> {
        let kind = surface_format(picture.format.pixel_format);
        set_pitch(&mut surface.Data, 0);
        surface.Data.__bindgen_anon_3.Y = ptr::null_mut();
        surface.Data.__bindgen_anon_4.UV = ptr::null_mut();
        if let Some(memory) = memory
            && let Some(taken) = self.imports.get(&self.allocator, memory, &picture.format, kind)
        {
            surface.Data.MemId = taken.surface.raw();
            return Ok(Way::Imported { id: taken.id, by_runtime: taken.by_runtime });
        }
        let format = &picture.format;
        let id = self.place(slot, format, kind)?;
        let mut bytes = 0;
        let by_image = self.allocator.write(id, |mapped| {
            // SAFETY: the allocator checked that `mapped.height` rows of both planes are mapped at these pitches; the
            // surface was made at least as wide and high as whole macroblocks.
            bytes = unsafe { picture.copy_to(mapped.planes, mapped.pitches, mapped.height) };
        })?;
        surface.Data.MemId = id.raw();
        Ok(Way::Copied { bytes, by_image })
    }
}

impl Video {
    /// The surface of a slot for frames of this format: another one where the size has changed.
    fn place(&mut self, slot: usize, format: &VideoFormat, kind: SurfaceFormat) -> Result<MemId, String> {
        let (width, height) = (format.width.next_multiple_of(SIDE_ALIGN), format.height.next_multiple_of(SIDE_ALIGN));
        if let Some(place) = self.pool[slot] {
            if (place.width, place.height) == (width, height) {
                return Ok(place.id);
            }
            self.allocator.destroy(place.id);
            self.pool[slot] = None;
        }
        let id = self.allocator.create(kind, width, height)?;
        self.pool[slot] = Some(Place { id, width, height });
        Ok(id)
    }
}

impl System {
    fn prepare(&mut self, slot: usize, picture: &Picture, surface: &mut mfxFrameSurface1) -> Way {
        surface.Data.MemId = ptr::null_mut();
        if picture.fits_in_place() {
            set_pitch(&mut surface.Data, picture.format.planes[0].stride as usize);
            // The runtime only reads its input; the type of the structure has no const.
            surface.Data.__bindgen_anon_3.Y = picture.planes[0].cast_mut();
            surface.Data.__bindgen_anon_4.UV = picture.planes[1].cast_mut();
            return Way::InPlace;
        }
        let format = &picture.format;
        let side = |pixels: u32| pixels.next_multiple_of(SIDE_ALIGN);
        let pitch = (format.pixel_format.row_bytes(0, side(format.width)) as usize).next_multiple_of(BUFFER_ALIGN);
        let (luma, chroma) = (side(format.height) as usize, side(format.height) as usize / 2);
        let buffer = &mut self.pool[slot];
        let needed = pitch * (luma + chroma) + BUFFER_ALIGN;
        if buffer.len() < needed {
            buffer.resize(needed, 0);
        }
        let shift = buffer.as_ptr().align_offset(BUFFER_ALIGN).min(BUFFER_ALIGN);
        // SAFETY: `needed` has room for both planes behind the shift.
        let planes = unsafe {
            let first = buffer.as_mut_ptr().add(shift);
            [first, first.add(pitch * luma)]
        };
        // SAFETY: both planes have these rows at this pitch, as just laid out.
        let bytes = unsafe { picture.copy_to(planes, [pitch, pitch], side(format.height)) };
        set_pitch(&mut surface.Data, pitch);
        surface.Data.__bindgen_anon_3.Y = planes[0];
        surface.Data.__bindgen_anon_4.UV = planes[1];
        Way::Copied { bytes, by_image: false }
    }
}
