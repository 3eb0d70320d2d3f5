//! The CPU engine, scalar: plain loops over rows that were copied out of the peer's memory.
//!
//! The output is defined by integer mathematics alone (see [`crate::color`] and `filter.rs`), so that every
//! faster engine can be held to bit-identical results.

mod filter;
mod resample;
mod source;
mod store;

use crate::color::Recipe;
use crate::engine::{Conversion, Engine};
use crate::error::EngineError;
use filter::{Axis, Filter};
use resample::Resampler;
use shm_protocol::frame::{ChromaSiting, PixelFormat};
use shm_protocol::pixels::{PixelsRead, PixelsWrite};
use source::{Group, Source};

/// Components a grid can need at the most.
const COMPONENTS: usize = 3;

/// The output positions of one kind of sample, and what is needed to compute them.
#[derive(Debug)]
struct Grid {
    resamplers: Vec<Resampler>,
    /// One row of every component, on the positions of this grid.
    rows: [Vec<u16>; COMPONENTS],
    /// A row of codes of each output component: Y', or Cb and Cr.
    codes: [Vec<u16>; 2],
}

impl Grid {
    /// Fills `rows` with output row `y`.
    fn fill(&mut self, source: &mut Source, pixels: &PixelsRead<'_>, y: u32) {
        let mut first = 0;
        for resampler in &mut self.resamplers {
            let count = resampler.components();
            resampler.row(source, pixels, y, &mut self.rows[first..first + count]);
            first += count;
        }
    }

    /// Computes row `y` of output component `index` (Y', Cb, Cr) from `rows`; the codes go to `codes[slot]`.
    fn encode(&mut self, recipe: &Recipe, index: usize, y: u32, slot: usize) {
        let [a, b, c] = &self.rows;
        store::component(recipe, index, [a, b, c], y, &mut self.codes[slot]);
    }
}

/// Processes frames on the CPU with scalar code.
#[derive(Debug)]
pub struct CpuEngine {
    conversion: Conversion,
    source: Source,
    luma: Grid,
    chroma: Grid,
    /// Luma rows are the input's bytes: copied straight into the output.
    copies_luma: bool,
}

/// Where samples of the output lie along one axis: distance between samples and place of the first, in halves
/// of a luma sample.
const LUMA_AXIS: (u32, u32) = (1, 1);

fn chroma_axes(siting: ChromaSiting) -> [(u32, u32); 2] {
    let (x, y) = source::first_chroma(siting);
    [(2, x), (2, y)]
}

impl CpuEngine {
    /// An engine for one conversion; takes all the memory it will need.
    pub fn new(conversion: &Conversion) -> CpuEngine {
        let source = Source::new(conversion);
        let output = &conversion.output;
        let crop = source.crop();
        let resampler = |group: Group, axes: [(u32, u32); 2]| {
            let component = source.component(group);
            let [x, y] = axes;
            let along = |len, size, origin, span, (step, first): (u32, u32), (sub, at): (u32, u32)| {
                Filter::new(&Axis {
                    input_len: len,
                    input_step: sub,
                    input_first: at,
                    crop_start: origin,
                    crop_len: span,
                    output_size: size,
                    output_step: step,
                    output_first: first,
                })
            };
            let horizontal = along(component.width, output.width, crop.x, crop.width, x, component.x);
            let vertical = along(component.height, output.height, crop.y, crop.height, y, component.y);
            Resampler::new(group, horizontal, vertical, component.width as usize)
        };
        let recipe = &conversion.recipe;
        let chroma_at = chroma_axes(output.colour.siting);
        let luma_at = [LUMA_AXIS; 2];
        let (luma, chroma) = if conversion.input.pixel_format.is_rgb() {
            (vec![resampler(Group::Rgb, luma_at)], vec![resampler(Group::Rgb, chroma_at)])
        } else if recipe.luma_needs_chroma() {
            (
                vec![resampler(Group::Luma, luma_at), resampler(Group::Chroma, luma_at)],
                vec![resampler(Group::Chroma, chroma_at)],
            )
        } else {
            (vec![resampler(Group::Luma, luma_at)], vec![resampler(Group::Chroma, chroma_at)])
        };
        let grid = |resamplers: Vec<Resampler>, width: u32| {
            let components: usize = resamplers.iter().map(Resampler::components).sum();
            let mut rows = [const { Vec::new() }; COMPONENTS];
            rows.iter_mut().take(components).for_each(|row| *row = vec![0; width as usize]);
            Grid { resamplers, rows, codes: [(); 2].map(|()| vec![0; width as usize]) }
        };
        let planar_8_bit = matches!(conversion.input.pixel_format, PixelFormat::Nv12 | PixelFormat::I420);
        let copies_luma = planar_8_bit
            && output.pixel_format == PixelFormat::Nv12
            && recipe.keeps_codes()
            && !source.is_turned()
            && luma.iter().all(|resampler| resampler.is_identity(output.width));
        CpuEngine {
            luma: grid(luma, output.width),
            chroma: grid(chroma, output.width / 2),
            conversion: conversion.clone(),
            source,
            copies_luma,
        }
    }

    fn luma_row(&mut self, input: &PixelsRead<'_>, output: &mut PixelsWrite<'_>, y: u32) {
        if self.copies_luma {
            input.copy_row(0, self.conversion.crop.y + y, output.row_mut(0, y));
            return;
        }
        self.luma.fill(&mut self.source, input, y);
        self.luma.encode(&self.conversion.recipe, 0, y, 0);
        store::plain(self.conversion.output.pixel_format, &self.luma.codes[0], output.row_mut(0, y));
    }
}

impl Engine for CpuEngine {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn path(&self) -> &str {
        "scalar"
    }

    fn run(&mut self, input: &PixelsRead<'_>, output: &mut PixelsWrite<'_>) -> Result<(), EngineError> {
        self.conversion.check_frames(input.format(), output.format())?;
        self.source.begin(input);
        for resampler in self.luma.resamplers.iter_mut().chain(&mut self.chroma.resamplers) {
            resampler.begin();
        }
        // Two rows of luma, then the row of chroma they share: input rows are still warm.
        for pair in 0..self.conversion.output.height / 2 {
            self.luma_row(input, output, 2 * pair);
            self.luma_row(input, output, 2 * pair + 1);
            self.chroma.fill(&mut self.source, input, pair);
            self.chroma.encode(&self.conversion.recipe, 1, pair, 0);
            self.chroma.encode(&self.conversion.recipe, 2, pair, 1);
            let [cb, cr] = &self.chroma.codes;
            store::interleaved(self.conversion.output.pixel_format, cb, cr, output.row_mut(1, pair));
        }
        Ok(())
    }
}
