//! Weights of a one-dimensional resampling with exact phase.
//!
//! Every output sample is the mean of the input over a box as wide as the output sample, but never narrower
//! than an input sample. Shrinking that is area averaging, enlarging it is linear interpolation, from 4:4:4 to
//! left-sited 4:2:0 it is [1 2 1]/4 across and the mean of two rows down, at 1:1 it is the identity.
//! Centres map onto centres, so nothing shifts by half a pixel. Beyond the edge of the picture the edge
//! sample goes on; a crop may look at its neighbours outside the rectangle.

/// Fraction bits of a weight: 16-bit samples times weights summing to 1 fit 30 bits.
pub const WEIGHT_BITS: u32 = 14;

/// One axis of a resampling. Positions are in luma samples of the picture, places of first samples in
/// halves of one (1 is the centre of the first luma sample).
#[derive(Debug, Clone, Copy)]
pub struct Axis {
    /// Samples of the input component.
    pub input_len: u32,
    /// Luma samples from one input sample to the next.
    pub input_step: u32,
    /// Place of the first input sample, halves of a luma sample.
    pub input_first: u32,
    /// Start of the crop, luma samples of the input.
    pub crop_start: u32,
    /// Length of the crop, luma samples of the input.
    pub crop_len: u32,
    /// Length of the output, luma samples of the output.
    pub output_size: u32,
    /// Luma samples from one output sample to the next.
    pub output_step: u32,
    /// Place of the first output sample, halves of a luma sample.
    pub output_first: u32,
}

/// Weights for every output sample of one axis, the same number of taps for each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    starts: Vec<u32>,
    weights: Vec<u16>,
    taps: usize,
}

impl Filter {
    /// The weights of `axis`.
    pub fn new(axis: &Axis) -> Filter {
        let samples = axis.output_size / axis.output_step;
        let spans: Vec<(u32, Vec<u16>)> = (0..samples).map(|i| weights_of(axis, i)).collect();
        let taps = spans.iter().map(|(_, weights)| weights.len()).max().unwrap_or(1);
        let mut filter = Filter { starts: Vec::with_capacity(spans.len()), weights: vec![0; spans.len() * taps], taps };
        for (index, (first, weights)) in spans.iter().enumerate() {
            // Shorter spans are padded with zero weights, never beyond the input.
            let start = (*first).min(axis.input_len - taps as u32);
            let at = index * taps + (first - start) as usize;
            filter.weights[at..at + weights.len()].copy_from_slice(weights);
            filter.starts.push(start);
        }
        filter
    }

    /// Output samples.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// Input samples per output sample.
    pub fn taps(&self) -> usize {
        self.taps
    }

    /// First input sample of output sample `index`, and the weights from there.
    pub fn at(&self, index: usize) -> (u32, &[u16]) {
        (self.starts[index], &self.weights[index * self.taps..(index + 1) * self.taps])
    }

    /// The input sample that becomes output sample 0, when all there is to do is to copy from there on.
    pub fn copies_from(&self) -> Option<u32> {
        let first = *self.starts.first()?;
        let in_order = self.starts.iter().zip(first..).all(|(start, expected)| *start == expected);
        (self.taps == 1 && in_order).then_some(first)
    }

    /// Resamples a row: `output[i] = Σ weight × input`, rounded.
    pub fn apply(&self, input: &[u16], output: &mut [u16]) {
        if let Some(first) = self.copies_from() {
            output.copy_from_slice(&input[first as usize..first as usize + output.len()]);
            return;
        }
        // The usual numbers of taps are known to the compiler, which unrolls them.
        match self.taps {
            2 => self.apply_taps::<2>(input, output),
            3 => self.apply_taps::<3>(input, output),
            4 => self.apply_taps::<4>(input, output),
            _ => {
                let taps = self.starts.iter().zip(self.weights.chunks_exact(self.taps));
                for (out, (start, weights)) in output.iter_mut().zip(taps) {
                    *out = weighted(&input[*start as usize..][..weights.len()], weights);
                }
            }
        }
    }

    fn apply_taps<const TAPS: usize>(&self, input: &[u16], output: &mut [u16]) {
        let taps = self.starts.iter().zip(self.weights.as_chunks::<TAPS>().0);
        for (out, (start, weights)) in output.iter_mut().zip(taps) {
            *out = weighted(&input[*start as usize..][..TAPS], weights);
        }
    }
}

/// The weighted mean of a window, rounded.
#[inline]
fn weighted(window: &[u16], weights: &[u16]) -> u16 {
    let sum: u32 = window.iter().zip(weights).map(|(s, w)| u32::from(*s) * u32::from(*w)).sum();
    ((sum + (1 << (WEIGHT_BITS - 1))) >> WEIGHT_BITS) as u16
}

/// First input sample and weights of output sample `index`. Whole numbers throughout: one input sample is
/// `unit` long, so no rounding can move a centre.
fn weights_of(axis: &Axis, index: u32) -> (u32, Vec<u16>) {
    let [size, step, crop] = [axis.output_size, axis.input_step, axis.crop_len].map(i64::from);
    let unit = 2 * step * size;
    let place = 2 * i64::from(axis.output_step) * i64::from(index) + i64::from(axis.output_first);
    let centre =
        2 * i64::from(axis.crop_start) * size + place * crop - i64::from(axis.input_first) * size + step * size;
    let half = (crop * i64::from(axis.output_step)).max(step * size);
    let (from, to) = (centre - half, centre + half);
    let last = i64::from(axis.input_len) - 1;
    let clamp = |position: i64| position.div_euclid(unit).clamp(0, last);
    let (first, end) = (clamp(from), clamp(to - 1));
    // Rounding the running sum instead of each weight makes them sum to exactly one.
    let running = |edge: i64| (((edge - from) << (WEIGHT_BITS + 1)) / (to - from) + 1) >> 1;
    let mut before = 0;
    let mut weights: Vec<u16> = (first..=end)
        .map(|sample| {
            let upto = if sample == end { running(to) } else { running(((sample + 1) * unit).clamp(from, to)) };
            let weight = upto - before;
            before = upto;
            weight as u16
        })
        .collect();
    let mut start = first as u32;
    while weights.len() > 1 && weights.last() == Some(&0) {
        weights.pop();
    }
    while weights.len() > 1 && weights.first() == Some(&0) {
        weights.remove(0);
        start += 1;
    }
    (start, weights)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A luma axis from `input` to `output` samples, all of the picture.
    fn luma(input: u32, output: u32) -> Axis {
        Axis {
            input_len: input,
            input_step: 1,
            input_first: 1,
            crop_start: 0,
            crop_len: input,
            output_size: output,
            output_step: 1,
            output_first: 1,
        }
    }

    #[test]
    fn one_to_one_copies_and_a_crop_starts_later() {
        assert_eq!(Filter::new(&luma(100, 100)).copies_from(), Some(0));
        let cropped = Axis { crop_start: 7, crop_len: 30, output_size: 30, ..luma(100, 30) };
        assert_eq!(Filter::new(&cropped).copies_from(), Some(7));
    }

    #[test]
    fn left_sited_chroma_is_one_two_one_and_centred_chroma_the_mean_of_two() {
        let left = Filter::new(&Axis { output_step: 2, ..luma(8, 8) });
        assert_eq!(left.len(), 4);
        assert_eq!(left.at(1), (1, &[4096, 8192, 4096][..]));
        // At the edge the first sample stands for the one outside.
        assert_eq!(left.at(0), (0, &[12288, 4096, 0][..]));
        let centre = Filter::new(&Axis { output_step: 2, output_first: 2, ..luma(8, 8) });
        assert_eq!((centre.taps(), centre.at(3)), (2, (6, &[8192, 8192][..])));
    }

    #[test]
    fn weights_sum_to_one_for_any_pair_of_sizes() {
        for input in [1, 2, 3, 5, 16, 255, 1080] {
            for output in [1, 2, 3, 7, 16, 720, 1081] {
                for (step, first) in [(1, 1), (2, 1), (2, 2)] {
                    let filter = Filter::new(&Axis { output_step: step, output_first: first, ..luma(input, output) });
                    for i in 0..filter.len() {
                        let (start, weights) = filter.at(i);
                        assert_eq!(weights.iter().map(|w| u32::from(*w)).sum::<u32>(), 1 << WEIGHT_BITS);
                        assert!(start as usize + weights.len() <= input as usize);
                    }
                }
            }
        }
    }

    #[test]
    fn the_largest_shrink_still_weighs_every_sample() {
        let filter = Filter::new(&luma(16384, 2));
        assert!(filter.at(1).1.iter().all(|w| *w == 2));
        assert_eq!(filter.taps(), 8192);
    }

    #[test]
    fn a_mirrored_picture_has_mirrored_weights() {
        let filter = Filter::new(&luma(10, 4));
        let mirrored: Vec<(u32, Vec<u16>)> = (0..4)
            .rev()
            .map(|i| {
                let (start, weights) = filter.at(i);
                (10 - start - weights.len() as u32, weights.iter().rev().copied().collect())
            })
            .collect();
        for (i, (start, weights)) in mirrored.iter().enumerate() {
            let dense = |start: u32, weights: &[u16]| {
                let mut all = [0i32; 10];
                weights.iter().enumerate().for_each(|(k, w)| all[start as usize + k] = i32::from(*w));
                all
            };
            let (s, w) = filter.at(i);
            let pairs = dense(s, w).into_iter().zip(dense(*start, weights));
            assert!(pairs.into_iter().all(|(a, b)| (a - b).abs() <= 1));
        }
    }
}
