//! Separable resampling of a group of components: across on the way in, down on the way out.

use super::filter::{Filter, WEIGHT_BITS};
use super::source::{Group, Source};
use shm_protocol::pixels::PixelsRead;

/// A row number no picture has: the slot holds nothing of this frame.
const NO_ROW: u32 = u32::MAX;

/// Brings the components of one group to the positions of one grid.
#[derive(Debug)]
pub struct Resampler {
    group: Group,
    horizontal: Filter,
    vertical: Filter,
    /// One input row of every component.
    unpacked: [Vec<u16>; 3],
    /// Rows already resampled across: `vertical.taps()` slots of `components` rows each.
    ring: Vec<u16>,
    /// Which input row each slot holds.
    held: Vec<u32>,
    sums: Vec<u32>,
}

impl Resampler {
    /// A resampler of `group`, whose input rows have `input_width` samples.
    pub fn new(group: Group, horizontal: Filter, vertical: Filter, input_width: usize) -> Resampler {
        let components = group.components();
        let mut unpacked = [const { Vec::new() }; 3];
        unpacked.iter_mut().take(components).for_each(|row| *row = vec![0; input_width]);
        Resampler {
            group,
            ring: vec![0; vertical.taps() * components * horizontal.len()],
            held: vec![NO_ROW; vertical.taps()],
            sums: vec![0; horizontal.len()],
            unpacked,
            horizontal,
            vertical,
        }
    }

    /// How many rows [`Resampler::row`] fills.
    pub fn components(&self) -> usize {
        self.group.components()
    }

    /// Whether rows of `width` samples come out as they went in, from the first column on.
    pub fn is_identity(&self, width: u32) -> bool {
        self.horizontal.copies_from() == Some(0)
            && self.vertical.copies_from().is_some()
            && self.unpacked[0].len() == width as usize
    }

    /// Forgets the rows of the frame before.
    pub fn begin(&mut self) {
        self.held.fill(NO_ROW);
    }

    /// Computes output row `y` of every component.
    pub fn row(&mut self, source: &mut Source, pixels: &PixelsRead<'_>, y: u32, output: &mut [Vec<u16>]) {
        let components = self.components();
        let width = self.horizontal.len();
        let slots = self.held.len();
        let (first, weights) = self.vertical.at(y as usize);
        for (row, _) in (first..).zip(weights).filter(|(_, weight)| **weight != 0) {
            let slot = row as usize % slots;
            if self.held[slot] == row {
                continue;
            }
            source.load(pixels, self.group, row, &mut self.unpacked);
            let rows = self.ring[slot * components * width..].chunks_exact_mut(width);
            for (across, unpacked) in rows.zip(&self.unpacked).take(components) {
                self.horizontal.apply(unpacked, across);
            }
            self.held[slot] = row;
        }
        for (component, out) in output.iter_mut().enumerate().take(components) {
            let held = |row: u32| {
                let at = (row as usize % slots * components + component) * width;
                &self.ring[at..at + width]
            };
            if slots == 1 {
                out.copy_from_slice(held(first));
                continue;
            }
            self.sums.fill(1 << (WEIGHT_BITS - 1));
            for (row, weight) in (first..).zip(weights).filter(|(_, weight)| **weight != 0) {
                for (sum, sample) in self.sums.iter_mut().zip(held(row)) {
                    *sum += u32::from(*sample) * u32::from(*weight);
                }
            }
            for (out, sum) in out.iter_mut().zip(&self.sums) {
                *out = (sum >> WEIGHT_BITS) as u16;
            }
        }
    }
}
