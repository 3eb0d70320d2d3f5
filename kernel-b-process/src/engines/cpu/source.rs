//! Rows of the input as components: copied out of the peer's memory once, then taken apart.

use crate::engine::{Conversion, Rect, Rotation};
use shm_protocol::frame::{ChromaSiting, MAX_PLANES, PixelFormat};
use shm_protocol::pixels::PixelsRead;

/// Components that lie on the same positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Group {
    /// Y'.
    Luma,
    /// Cb, Cr.
    Chroma,
    /// R', G', B'.
    Rgb,
}

impl Group {
    /// How many components.
    pub const fn components(self) -> usize {
        match self {
            Group::Luma => 1,
            Group::Chroma => 2,
            Group::Rgb => 3,
        }
    }
}

/// Place of the first chroma sample across and down, halves of a luma sample, where chroma is halved.
pub const fn first_chroma(siting: ChromaSiting) -> (u32, u32) {
    match siting {
        ChromaSiting::Left => (1, 2),
        ChromaSiting::Center => (2, 2),
        ChromaSiting::TopLeft => (1, 1),
    }
}

/// Size and places of the samples of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Component {
    /// Samples across.
    pub width: u32,
    /// Samples down.
    pub height: u32,
    /// Across: luma samples from one to the next, place of the first in halves of a luma sample.
    pub x: (u32, u32),
    /// Down: the same.
    pub y: (u32, u32),
}

/// The same axis seen from its other end.
const fn reversed((step, first): (u32, u32)) -> (u32, u32) {
    (step, 2 * step - first)
}

impl Component {
    fn turned(self, rotation: Rotation) -> Component {
        let Component { width, height, x, y } = self;
        match rotation {
            Rotation::None => self,
            Rotation::Clockwise90 => Component { width: height, height: width, x: reversed(y), y: x },
            Rotation::Half180 => Component { width, height, x: reversed(x), y: reversed(y) },
            Rotation::Clockwise270 => Component { width: height, height: width, x: y, y: reversed(x) },
        }
    }
}

/// A whole group, turned: rotation by a quarter needs columns, so the frame is kept.
#[derive(Debug)]
struct Turned {
    group: Group,
    component: Component,
    planes: Vec<Vec<u16>>,
}

/// Raw rows kept for each plane: the two of a chroma row and the two beside them, so that luma and chroma
/// of a packed format read the peer's memory once.
const KEPT_ROWS: u32 = 4;
/// A row number no picture has.
const NO_ROW: u32 = u32::MAX;

/// Reads rows of one input format.
#[derive(Debug)]
pub struct Source {
    format: PixelFormat,
    width: u32,
    height: u32,
    siting: ChromaSiting,
    rotation: Rotation,
    crop: Rect,
    raw: [Vec<u8>; MAX_PLANES],
    kept: [[u32; KEPT_ROWS as usize]; MAX_PLANES],
    turned: Vec<Turned>,
    scratch: [Vec<u16>; 3],
}

impl Source {
    /// A source for the input of `conversion`.
    pub fn new(conversion: &Conversion) -> Source {
        let input = &conversion.input;
        let format = input.pixel_format;
        let mut source = Source {
            format,
            width: input.width,
            height: input.height,
            siting: input.colour.siting,
            rotation: conversion.rotation,
            crop: conversion.crop,
            raw: std::array::from_fn(|plane| {
                let planes = format.planes();
                let bytes = if plane < planes { format.row_bytes(plane, input.width) } else { 0 };
                vec![0; (bytes * KEPT_ROWS) as usize]
            }),
            kept: [[NO_ROW; KEPT_ROWS as usize]; MAX_PLANES],
            turned: Vec::new(),
            scratch: [const { Vec::new() }; 3],
        };
        if source.is_turned() {
            let groups: &[Group] = if format.is_rgb() { &[Group::Rgb] } else { &[Group::Luma, Group::Chroma] };
            for group in groups {
                let component = source.component(*group);
                let samples = component.width as usize * component.height as usize;
                let planes = vec![vec![0; samples]; group.components()];
                source.turned.push(Turned { group: *group, component, planes });
            }
            source.scratch = [const { Vec::new() }; 3].map(|_: Vec<u16>| vec![0; input.width as usize]);
        }
        source
    }

    /// Whether the picture is turned, so that its rows are not the input's.
    pub fn is_turned(&self) -> bool {
        self.rotation != Rotation::None
    }

    /// Size and places of `group` after rotation.
    pub fn component(&self, group: Group) -> Component {
        self.unturned(group).turned(self.rotation)
    }

    fn unturned(&self, group: Group) -> Component {
        const WHOLE: (u32, u32) = (1, 1);
        let (halved_x, halved_y) = match (group, self.format.needs_even()) {
            (Group::Chroma, halved) => halved,
            (Group::Luma | Group::Rgb, _) => (false, false),
        };
        let (x, y) = first_chroma(self.siting);
        Component {
            width: self.width >> u32::from(halved_x),
            height: self.height >> u32::from(halved_y),
            x: if halved_x { (2, x) } else { WHOLE },
            y: if halved_y { (2, y) } else { WHOLE },
        }
    }

    /// The crop rectangle after rotation.
    pub fn crop(&self) -> Rect {
        let Rect { x, y, width, height } = self.crop;
        let (from_right, from_bottom) = (self.width - x - width, self.height - y - height);
        match self.rotation {
            Rotation::None => self.crop,
            Rotation::Clockwise90 => Rect { x: from_bottom, y: x, width: height, height: width },
            Rotation::Half180 => Rect { x: from_right, y: from_bottom, width, height },
            Rotation::Clockwise270 => Rect { x: y, y: from_right, width: height, height: width },
        }
    }

    /// Starts a frame.
    pub fn begin(&mut self, pixels: &PixelsRead<'_>) {
        self.kept = [[NO_ROW; KEPT_ROWS as usize]; MAX_PLANES];
        let mut turned = std::mem::take(&mut self.turned);
        let mut scratch = std::mem::take(&mut self.scratch);
        for Turned { group, component, planes } in &mut turned {
            let across = self.unturned(*group).width as usize;
            let (width, height) = (component.width as usize, component.height as usize);
            for row in 0..self.unturned(*group).height {
                self.unpack(pixels, *group, row, &mut scratch);
                let row = row as usize;
                for (plane, line) in planes.iter_mut().zip(&scratch) {
                    for (column, sample) in line[..across].iter().enumerate() {
                        let at = match self.rotation {
                            Rotation::None => row * width + column,
                            Rotation::Clockwise90 => column * width + (width - 1 - row),
                            Rotation::Half180 => (height - 1 - row) * width + (width - 1 - column),
                            Rotation::Clockwise270 => (height - 1 - column) * width + row,
                        };
                        plane[at] = *sample;
                    }
                }
            }
        }
        self.turned = turned;
        self.scratch = scratch;
    }

    /// Puts row `y` of `group`, after rotation, into the first rows of `out` as working samples.
    pub fn load(&mut self, pixels: &PixelsRead<'_>, group: Group, y: u32, out: &mut [Vec<u16>; 3]) {
        let Some(turned) = self.turned.iter().find(|turned| turned.group == group) else {
            return self.unpack(pixels, group, y, out);
        };
        let width = turned.component.width as usize;
        for (plane, row) in turned.planes.iter().zip(out) {
            row.copy_from_slice(&plane[y as usize * width..][..width]);
        }
    }

    /// The bytes of row `y` of `plane`, copied when they are not here yet.
    fn raw_row(&mut self, pixels: &PixelsRead<'_>, plane: usize, y: u32) -> &[u8] {
        let bytes = self.raw[plane].len() / KEPT_ROWS as usize;
        let slot = (y % KEPT_ROWS) as usize;
        let row = &mut self.raw[plane][slot * bytes..(slot + 1) * bytes];
        if self.kept[plane][slot] != y {
            pixels.copy_row(plane, y, row);
            self.kept[plane][slot] = y;
        }
        row
    }

    fn unpack(&mut self, pixels: &PixelsRead<'_>, group: Group, y: u32, out: &mut [Vec<u16>; 3]) {
        let [a, b, c] = out;
        match (self.format, group) {
            (PixelFormat::Nv12 | PixelFormat::I420, Group::Luma) => pick::<1, 1>(self.raw_row(pixels, 0, y), [(0, a)]),
            (PixelFormat::Nv12, _) => pick::<2, 2>(self.raw_row(pixels, 1, y), [(0, a), (1, b)]),
            (PixelFormat::I420, _) => {
                pick::<1, 1>(self.raw_row(pixels, 1, y), [(0, a)]);
                pick::<1, 1>(self.raw_row(pixels, 2, y), [(0, b)]);
            }
            (PixelFormat::Yuyv, Group::Luma) => pick::<2, 1>(self.raw_row(pixels, 0, y), [(0, a)]),
            (PixelFormat::Yuyv, _) => pick::<4, 2>(self.raw_row(pixels, 0, y), [(1, a), (3, b)]),
            (PixelFormat::Uyvy, Group::Luma) => pick::<2, 1>(self.raw_row(pixels, 0, y), [(1, a)]),
            (PixelFormat::Uyvy, _) => pick::<4, 2>(self.raw_row(pixels, 0, y), [(0, a), (2, b)]),
            (PixelFormat::Bgra, _) => pick::<4, 3>(self.raw_row(pixels, 0, y), [(2, a), (1, b), (0, c)]),
            (PixelFormat::Rgba, _) => pick::<4, 3>(self.raw_row(pixels, 0, y), [(0, a), (1, b), (2, c)]),
            (PixelFormat::Rgb24, _) => pick::<3, 3>(self.raw_row(pixels, 0, y), [(0, a), (1, b), (2, c)]),
            (PixelFormat::P010, Group::Luma) => pick_words::<2, 1>(self.raw_row(pixels, 0, y), [(0, a)]),
            (PixelFormat::P010, _) => pick_words::<4, 2>(self.raw_row(pixels, 1, y), [(0, a), (2, b)]),
        }
    }
}

/// Takes bytes at fixed offsets out of groups of `BYTES`, as working samples.
fn pick<const BYTES: usize, const COMPONENTS: usize>(row: &[u8], into: [(usize, &mut Vec<u16>); COMPONENTS]) {
    for (offset, out) in into {
        for (sample, bytes) in out.iter_mut().zip(row.as_chunks::<BYTES>().0) {
            *sample = u16::from(bytes[offset]) << 8;
        }
    }
}

/// The same for little-endian 16-bit words. The low six bits are not the producer's to use: they are cut off.
fn pick_words<const BYTES: usize, const COMPONENTS: usize>(row: &[u8], into: [(usize, &mut Vec<u16>); COMPONENTS]) {
    const HIGH_TEN_BITS: u16 = 0xffc0;
    for (offset, out) in into {
        for (sample, bytes) in out.iter_mut().zip(row.as_chunks::<BYTES>().0) {
            *sample = u16::from_le_bytes([bytes[offset], bytes[offset + 1]]) & HIGH_TEN_BITS;
        }
    }
}
