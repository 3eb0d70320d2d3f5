//! Views of a frame's pixels: raw where another process may write, exclusive where only we may.
//!
//! No Rust reference is ever made over memory that a peer may write: a reader gets bounds-checked
//! raw pointers, or a copy of a row.
#![expect(unsafe_code, reason = "pixels of other processes are reached through raw pointers")]

use crate::error::FormatError;
use crate::frame::VideoFormat;
use std::marker::PhantomData;

/// A frame's pixels for reading. Another process may change them at any time, so no slice is handed out.
#[derive(Debug, Clone, Copy)]
pub struct PixelsRead<'a> {
    format: &'a VideoFormat,
    base: *const u8,
    bytes: PhantomData<&'a u8>,
}

// SAFETY: a read-only view; reading the same bytes from two threads is no more than reading them from
// two processes, which is what the view exists for.
unsafe impl Send for PixelsRead<'_> {}

impl<'a> PixelsRead<'a> {
    /// A view of `len` bytes at `base`, checked against `format`.
    ///
    /// # Safety
    /// `base..base + len` is mapped and readable for `'a`.
    ///
    /// # Errors
    /// [`FormatError`] when a plane of `format` does not lie within `len` bytes.
    pub unsafe fn new(format: &'a VideoFormat, base: *const u8, len: usize) -> Result<Self, FormatError> {
        format.check(len as u64)?;
        Ok(PixelsRead { format, base, bytes: PhantomData })
    }

    /// A view of bytes this process owns (tests, private frames).
    ///
    /// # Errors
    /// [`FormatError`] when a plane of `format` does not lie within `bytes`.
    pub fn from_slice(format: &'a VideoFormat, bytes: &'a [u8]) -> Result<Self, FormatError> {
        // SAFETY: a slice is mapped and readable for its lifetime.
        unsafe { Self::new(format, bytes.as_ptr(), bytes.len()) }
    }

    /// The description of these pixels.
    pub fn format(&self) -> &'a VideoFormat {
        self.format
    }

    /// First byte of `plane`; `planes[plane].stride × rows(plane, coded_height)` bytes from here are mapped.
    ///
    /// # Panics
    /// When the format has no such plane.
    pub fn plane(&self, plane: usize) -> *const u8 {
        assert!(plane < self.format.pixel_format.planes(), "The format has no plane {plane}");
        // SAFETY: checked in `new` to lie within the mapped bytes.
        unsafe { self.base.add(self.format.planes[plane].offset as usize) }
    }

    /// Copies the visible bytes of row `y` of `plane` to the front of `row`; returns how many.
    ///
    /// # Panics
    /// When the plane has no such row or `row` is shorter than it.
    pub fn copy_row(&self, plane: usize, y: u32, row: &mut [u8]) -> usize {
        let pixel_format = self.format.pixel_format;
        assert!(y < pixel_format.rows(plane, self.format.coded_height), "Plane {plane} has no row {y}");
        let len = pixel_format.row_bytes(plane, self.format.width) as usize;
        assert!(row.len() >= len, "A row of plane {plane} has {len} bytes");
        let stride = self.format.planes[plane].stride as usize;
        // SAFETY: the row lies within the plane, the plane within the mapping (checked in `new`); `row`
        // is ours and cannot overlap it. A concurrent write by a misbehaving peer spoils pixels only.
        unsafe { std::ptr::copy_nonoverlapping(self.plane(plane).add(y as usize * stride), row.as_mut_ptr(), len) };
        len
    }
}

/// A frame's pixels for writing: a claimed buffer, which by the protocol only its claimer touches.
#[derive(Debug)]
pub struct PixelsWrite<'a> {
    format: &'a VideoFormat,
    bytes: &'a mut [u8],
}

impl<'a> PixelsWrite<'a> {
    /// A view of `bytes`, checked against `format`.
    ///
    /// # Errors
    /// [`FormatError`] when a plane of `format` does not lie within `bytes`.
    pub fn new(format: &'a VideoFormat, bytes: &'a mut [u8]) -> Result<Self, FormatError> {
        format.check(bytes.len() as u64)?;
        Ok(PixelsWrite { format, bytes })
    }

    /// The description of these pixels.
    pub fn format(&self) -> &'a VideoFormat {
        self.format
    }

    /// All bytes of the frame, from its first plane on.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        self.bytes
    }

    /// The visible bytes of row `y` of `plane`.
    ///
    /// # Panics
    /// When the format has no such plane or row.
    pub fn row_mut(&mut self, plane: usize, y: u32) -> &mut [u8] {
        let pixel_format = self.format.pixel_format;
        assert!(y < pixel_format.rows(plane, self.format.coded_height), "Plane {plane} has no row {y}");
        let layout = self.format.planes[plane];
        let start = layout.offset as usize + y as usize * layout.stride as usize;
        &mut self.bytes[start..start + pixel_format.row_bytes(plane, self.format.width) as usize]
    }

    /// Rows `y` and `y + 1` of `plane`, for formats that make two rows at a time.
    ///
    /// # Panics
    /// When the format has no such plane or rows.
    pub fn two_rows_mut(&mut self, plane: usize, y: u32) -> (&mut [u8], &mut [u8]) {
        let pixel_format = self.format.pixel_format;
        assert!(y + 1 < pixel_format.rows(plane, self.format.coded_height), "Plane {plane} has no row {}", y + 1);
        let layout = self.format.planes[plane];
        let start = layout.offset as usize + y as usize * layout.stride as usize;
        let row_bytes = pixel_format.row_bytes(plane, self.format.width) as usize;
        let (first, second) =
            self.bytes[start..start + layout.stride as usize + row_bytes].split_at_mut(layout.stride as usize);
        (&mut first[..row_bytes], second)
    }
}
