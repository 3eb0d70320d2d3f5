//! Frames that the device cannot read where they lie: one copy into a surface.
#![expect(unsafe_code, reason = "copies pixels into mapped surfaces")]

use super::call::{Failed, Va};
use super::session::fourcc;
use crate::backends::intel::copy::{Plane, copy_plane};
use libva_sys as va;
use shm_protocol::frame::VideoFormat;
use shm_protocol::pixels::PixelsRead;

/// Planes of NV12 and P010.
const PLANES: usize = 2;

/// How frames are copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// Not known before the first frame: an image is derived if the driver does that.
    Undecided,
    /// Straight into the surface's memory.
    Derived,
    /// Into an image of its own, which the driver copies on.
    Put,
}

fn garbage(call: &'static str) -> Failed {
    Failed { call, status: va::VA_STATUS_ERROR_INVALID_IMAGE as i32 }
}

/// Whether the planes of an image have the place for the format's visible pixels.
fn holds(image: &va::VAImage, format: &VideoFormat) -> bool {
    image.format.fourcc == fourcc(format.pixel_format)
        && image.num_planes as usize == PLANES
        && (0..PLANES).all(|plane| {
            let row_bytes = u64::from(format.pixel_format.row_bytes(plane, format.width));
            let rows = u64::from(format.pixel_format.rows(plane, format.height));
            let pitch = u64::from(image.pitches[plane]);
            let end = u64::from(image.offsets[plane]) + pitch * rows.saturating_sub(1) + row_bytes;
            pitch >= row_bytes && end <= u64::from(image.data_size)
        })
}

/// Copies the pixels of a frame into an image; returns the bytes.
fn fill(va: &Va, image: &va::VAImage, pixels: &PixelsRead<'_>) -> Result<u64, Failed> {
    let format = pixels.format();
    if !holds(image, format) {
        return Err(garbage("vaDeriveImage"));
    }
    va.with_image(image, |to| {
        let copied = (0..PLANES).map(|plane| {
            let plane = Plane {
                from: pixels.plane(plane),
                from_stride: format.planes[plane].stride as usize,
                // SAFETY: the offset lies within the mapping (`holds`).
                to: unsafe { to.add(image.offsets[plane] as usize) },
                to_stride: image.pitches[plane] as usize,
                row_bytes: format.pixel_format.row_bytes(plane, format.width) as usize,
                rows: format.pixel_format.rows(plane, format.height) as usize,
            };
            // SAFETY: the source rows are mapped (`PixelsRead`), the target rows lie within the mapping (`holds`), which
            // is the driver's and ours alone until it is unmapped.
            unsafe { copy_plane(&plane) }
        });
        copied.sum()
    })
}

/// Copies a frame into `surface`; returns the bytes. A driver that derives no image makes `way` the other one.
///
/// # Errors
/// The call that failed.
pub fn upload(va: &Va, surface: va::VASurfaceID, pixels: &PixelsRead<'_>, way: &mut Way) -> Result<u64, Failed> {
    let format = pixels.format();
    if *way != Way::Put {
        match va.derive_image(surface) {
            Ok(image) => {
                let copied = fill(va, &image, pixels);
                va.destroy_image(image.image_id);
                // An image that does not hold the frame lies in memory in a way we do not know: one of its own does not.
                if copied != Err(garbage("vaDeriveImage")) {
                    *way = Way::Derived;
                    return copied;
                }
            }
            // A driver that never derived an image cannot; one that did has failed.
            Err(failed) if *way == Way::Derived => return Err(failed),
            Err(_) => {}
        }
        *way = Way::Put;
    }
    let size = (format.width, format.height);
    let image = va.create_image(fourcc(format.pixel_format), size)?;
    let copied = fill(va, &image, pixels).and_then(|bytes| {
        va.put_image(surface, image.image_id, size)?;
        Ok(bytes)
    });
    va.destroy_image(image.image_id);
    copied
}

/// Copies a surface's pixels back, for another display: laid out as `format`, which is packed.
///
/// # Errors
/// The call that failed.
pub fn download(va: &Va, surface: va::VASurfaceID, format: &VideoFormat) -> Result<Vec<u8>, Failed> {
    let image = va.derive_image(surface)?;
    if !holds(&image, format) {
        va.destroy_image(image.image_id);
        return Err(garbage("vaDeriveImage"));
    }
    let mut bytes = vec![0; format.frame_bytes() as usize];
    let mapped = va.with_image(&image, |from| {
        for plane in 0..PLANES {
            let layout = format.planes[plane];
            let row_bytes = format.pixel_format.row_bytes(plane, format.width) as usize;
            for row in 0..format.pixel_format.rows(plane, format.height) as usize {
                let to = layout.offset as usize + row * layout.stride as usize;
                let at = image.offsets[plane] as usize + row * image.pitches[plane] as usize;
                // SAFETY: the row lies within the mapping (`holds`); the target is a slice of that length.
                unsafe {
                    let target = bytes[to..to + row_bytes].as_mut_ptr();
                    std::ptr::copy_nonoverlapping(from.add(at), target, row_bytes);
                }
            }
        }
    });
    va.destroy_image(image.image_id);
    mapped.map(|()| bytes)
}
