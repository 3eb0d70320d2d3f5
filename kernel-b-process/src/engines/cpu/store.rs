//! From working samples to the bytes of the output: colour, rounding, interleaving.

use crate::color::{Recipe, Row};
use shm_protocol::frame::PixelFormat;

/// Columns after which the pattern of rounding repeats.
const PATTERN: usize = 8;
/// A P010 word has the code in its high ten bits.
const P010_SHIFT: u32 = 6;

/// Computes a row of codes from the first `N` of `rows`, whose coefficients in `row` begin at `first`.
fn codes<const N: usize>(recipe: &Recipe, row: &Row, first: usize, rows: [&[u16]; N], y: u32, out: &mut [u16]) {
    let coefficients: [i64; N] = std::array::from_fn(|k| row.coefficients[first + k]);
    if recipe.keeps_codes() {
        // The same result as below, without the multiplication by one.
        let kept = coefficients.iter().position(|c| *c != 0).unwrap_or(0);
        let max = u32::from(recipe.max_code);
        let down = u16::BITS - max.count_ones();
        let half = 1 << (down - 1);
        for (out, sample) in out.iter_mut().zip(rows[kept]) {
            *out = ((u32::from(*sample) + half) >> down).min(max) as u16;
        }
        return;
    }
    let rounding = recipe.rounding(y).map(|r| r + row.bias);
    let max = i64::from(recipe.max_code);
    for (index, out) in out.chunks_mut(PATTERN).enumerate() {
        let rows = rows.map(|row| &row[index * PATTERN..][..out.len()]);
        for (x, out) in out.iter_mut().enumerate() {
            let sum: i64 = (0..N).map(|k| coefficients[k] * i64::from(rows[k][x])).sum();
            *out = ((sum + rounding[x]) >> recipe.shift).clamp(0, max) as u16;
        }
    }
}

/// Computes row `y` of output component `index` (Y', Cb, Cr) from as many components as are there: Y' alone,
/// Cb and Cr, or all three. `out` is as long as each of them.
pub fn component(recipe: &Recipe, index: usize, [a, b, c]: [&[u16]; 3], y: u32, out: &mut [u16]) {
    let row = &recipe.rows[index];
    match (b.is_empty(), c.is_empty()) {
        (true, _) => codes(recipe, row, 0, [a], y, out),
        // Chroma does not depend on Y', which is not among the rows then.
        (false, true) => codes(recipe, row, 1, [a, b], y, out),
        (false, false) => codes(recipe, row, 0, [a, b, c], y, out),
    }
}

/// Writes a row of one component.
pub fn plain(format: PixelFormat, codes: &[u16], out: &mut [u8]) {
    if format == PixelFormat::P010 {
        for (word, code) in out.as_chunks_mut::<2>().0.iter_mut().zip(codes) {
            *word = (code << P010_SHIFT).to_le_bytes();
        }
    } else {
        for (byte, code) in out.iter_mut().zip(codes) {
            *byte = *code as u8;
        }
    }
}

/// Writes a row of two components by turns.
pub fn interleaved(format: PixelFormat, first: &[u16], second: &[u16], out: &mut [u8]) {
    let pairs = first.iter().zip(second);
    if format == PixelFormat::P010 {
        for (words, (a, b)) in out.as_chunks_mut::<4>().0.iter_mut().zip(pairs) {
            let ([a0, a1], [b0, b1]) = ((a << P010_SHIFT).to_le_bytes(), (b << P010_SHIFT).to_le_bytes());
            *words = [a0, a1, b0, b1];
        }
    } else {
        for (bytes, (a, b)) in out.as_chunks_mut::<2>().0.iter_mut().zip(pairs) {
            *bytes = [*a as u8, *b as u8];
        }
    }
}
