//! From working samples to the bytes of the output: colour, rounding, interleaving.

use crate::color::{Recipe, Row};
use crate::engine::Conversion;
use shm_protocol::frame::PixelFormat;

/// Columns after which the pattern of rounding repeats.
const PATTERN: usize = 8;
/// A P010 word has the code in its high ten bits.
const P010_SHIFT: u32 = 6;

/// Sum of one output sample, down to a code.
fn code(recipe: &Recipe, sum: i64) -> u16 {
    (sum >> recipe.shift).clamp(0, i64::from(recipe.max_code)) as u16
}

fn one(row: &Row, sample: u16, index: usize) -> i64 {
    row.coefficients[index] * i64::from(sample)
}

/// Computes a row of codes from the first `N` of `rows`, whose coefficients begin at `first`.
fn codes<const N: usize>(
    recipe: &Recipe,
    row: &Row,
    first: usize,
    rows: [&[u16]; N],
    y: u32,
    mut put: impl FnMut(usize, u16),
) {
    let rounding = recipe.rounding(y).map(|r| r + row.bias);
    for x in 0..rows[0].len() {
        let sum: i64 = (0..N).map(|k| one(row, rows[k][x], first + k)).sum();
        put(x, code(recipe, sum + rounding[x % PATTERN]));
    }
}

/// Calls [`codes`] with as many components as there are.
fn dispatch(recipe: &Recipe, row: &Row, first: usize, [a, b, c]: [&[u16]; 3], y: u32, put: impl FnMut(usize, u16)) {
    match (b.is_empty(), c.is_empty()) {
        (true, _) => codes(recipe, row, first, [a], y, put),
        (false, true) => codes(recipe, row, first, [a, b], y, put),
        (false, false) => codes(recipe, row, first, [a, b, c], y, put),
    }
}

/// Writes a row of luma from the components on its positions: Y' alone, Y'CbCr or R'G'B'.
pub fn luma(conversion: &Conversion, rows: [&[u16]; 3], y: u32, out: &mut [u8]) {
    let recipe = &conversion.recipe;
    if conversion.output.pixel_format == PixelFormat::P010 {
        let words = out.as_chunks_mut::<2>().0;
        dispatch(recipe, &recipe.rows[0], 0, rows, y, |x, code| words[x] = (code << P010_SHIFT).to_le_bytes());
    } else {
        dispatch(recipe, &recipe.rows[0], 0, rows, y, |x, code| out[x] = code as u8);
    }
}

/// Writes a row of interleaved chroma from the components on its positions: CbCr or R'G'B'.
pub fn chroma(conversion: &Conversion, rows: [&[u16]; 3], y: u32, out: &mut [u8]) {
    let recipe = &conversion.recipe;
    // Chroma does not depend on Y', which is not among the rows then.
    let first = if conversion.input.pixel_format.is_rgb() { 0 } else { 1 };
    for (index, row) in recipe.rows[1..].iter().enumerate() {
        if conversion.output.pixel_format == PixelFormat::P010 {
            let words = out.as_chunks_mut::<2>().0;
            let put = |x: usize, code: u16| words[2 * x + index] = (code << P010_SHIFT).to_le_bytes();
            dispatch(recipe, row, first, rows, y, put);
        } else {
            dispatch(recipe, row, first, rows, y, |x, code| out[2 * x + index] = code as u8);
        }
    }
}
