//! Slices and tiles: how a picture is cut, as far as the device does it.

use super::caps::Caps;
use crate::bitstream::av1_write::{TileGrid, TileLimits};
use crate::bitstream::hevc_write::even_start;
use crate::error::{EncoderError, refuse};
use crate::settings::EncoderSettings;
use libva_sys as va;

/// Least width and height of an HEVC tile, luma samples (ITU-T H.265 A.4.1).
const MIN_HEVC_TILE: (u32, u32) = (256, 64);

/// How an HEVC picture is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Into tile columns and rows; each tile is a slice.
    Tiles(u8, u8),
    /// Into slices.
    Slices(u32),
}

/// First row and count of rows of each slice: `wanted` slices over `rows` rows of blocks.
///
/// # Errors
/// [`EncoderError::Setting`] when there are fewer rows, or the device has fewer slices.
pub fn slice_rows(rows: u32, wanted: u32, caps: &Caps) -> Result<Vec<(u32, u32)>, EncoderError> {
    let most = caps.max_slices.min(rows);
    if wanted > most {
        let allowed = format!("0 (automatic) to {most} for this size on this device");
        return refuse("slices", wanted, allowed);
    }
    if wanted <= 1 {
        return Ok(vec![(0, rows)]);
    }
    let any_rows = va::VA_ENC_SLICE_STRUCTURE_ARBITRARY_MACROBLOCKS | va::VA_ENC_SLICE_STRUCTURE_ARBITRARY_ROWS;
    if caps.slice_structure & any_rows != 0 {
        let start = |index| even_start(rows, wanted, index);
        return Ok((0..wanted).map(|index| (start(index), start(index + 1) - start(index))).collect());
    }
    // All slices but the last have the same number of rows.
    let mut each = rows.div_ceil(wanted);
    let equal = va::VA_ENC_SLICE_STRUCTURE_EQUAL_MULTI_ROWS | va::VA_ENC_SLICE_STRUCTURE_EQUAL_ROWS;
    if caps.slice_structure & equal == 0 && caps.slice_structure & va::VA_ENC_SLICE_STRUCTURE_POWER_OF_TWO_ROWS != 0 {
        each = each.next_power_of_two();
    }
    let slices: Vec<_> = (0..rows).step_by(each as usize).map(|first| (first, each.min(rows - first))).collect();
    if slices.len() as u32 != wanted {
        tracing::info!(wanted, slices = slices.len(), "The device cuts this picture into another number of slices");
    }
    Ok(slices)
}

/// How an HEVC picture is cut.
///
/// # Errors
/// [`EncoderError::Setting`] for tiles that do not fit the picture.
pub fn hevc(settings: &EncoderSettings, caps: &Caps) -> Result<Cut, EncoderError> {
    let (columns, rows) = (settings.tile_columns.max(1), settings.tile_rows.max(1));
    if columns == 1 && rows == 1 {
        return Ok(Cut::Slices(u32::from(settings.slice_count())));
    }
    let format = &settings.format;
    let (most_columns, most_rows) = (format.width / MIN_HEVC_TILE.0, format.height / MIN_HEVC_TILE.1);
    if u32::from(columns) > most_columns.max(1) {
        let allowed = format!("0 to {} for a width of {} (256 pixels each)", most_columns.max(1), format.width);
        return refuse("tile_columns", columns, allowed);
    }
    if u32::from(rows) > most_rows.max(1) {
        let allowed = format!("0 to {} for a height of {} (64 pixels each)", most_rows.max(1), format.height);
        return refuse("tile_rows", rows, allowed);
    }
    let count = u32::from(columns) * u32::from(rows);
    if caps.tiles && count <= caps.max_slices {
        return Ok(Cut::Tiles(columns, rows));
    }
    let slices = count.min(caps.max_slices).min(most_rows.max(1));
    tracing::warn!(columns, rows, slices, "The device has no such tiles: slices take their place");
    Ok(Cut::Slices(slices))
}

/// First coding tree block (in raster order) and count of every tile, tile by tile.
pub fn tile_slices((width, height): (u32, u32), (columns, rows): (u8, u8)) -> Vec<(u32, u32)> {
    let (columns, rows) = (u32::from(columns), u32::from(rows));
    let mut slices = Vec::with_capacity((columns * rows) as usize);
    for row in 0..rows {
        let (top, bottom) = (even_start(height, rows, row), even_start(height, rows, row + 1));
        for column in 0..columns {
            let (left, right) = (even_start(width, columns, column), even_start(width, columns, column + 1));
            slices.push((top * width + left, (right - left) * (bottom - top)));
        }
    }
    slices
}

/// How an AV1 picture is cut.
///
/// # Errors
/// [`EncoderError::Setting`] for tiles that do not fit the picture or the device.
pub fn av1(settings: &EncoderSettings, caps: &Caps, limits: &TileLimits) -> Result<TileGrid, EncoderError> {
    let (columns, rows) = (settings.tile_columns.max(1), settings.tile_rows.max(1));
    let powers =
        |most: u32| -> String { (0..=most).map(|log2| (1u32 << log2).to_string()).collect::<Vec<_>>().join(", ") };
    let misfit = |columns: u8, rows: u8| -> EncoderError {
        let (width, height) = (settings.format.width, settings.format.height);
        let (setting, given, most, side) = if limits.fit(u32::from(columns), 1).is_none() {
            ("tile_columns", columns, limits.columns_log2.1, width)
        } else {
            ("tile_rows", rows, limits.max_rows_log2, height)
        };
        let allowed = format!("those of {} that cut {side} pixels into even parts of 64", powers(most));
        EncoderError::Setting { setting, given: given.to_string(), allowed }
    };
    let wanted = limits.fit(u32::from(columns), u32::from(rows)).ok_or_else(|| misfit(columns, rows))?;
    if u32::from(columns) * u32::from(rows) == 1 {
        return Ok(wanted);
    }
    // The place of the field in `VAConfigAttribValEncAV1Ext2`.
    let most = caps.av1_ext2.map_or(if caps.tiles { u32::MAX } else { 1 }, |ext2| (ext2 >> 7 & 0x1fff) + 1);
    if wanted.count.0 * wanted.count.1 <= most {
        return Ok(wanted);
    }
    tracing::warn!(columns, rows, most, "The device has no such tiles: the picture is one tile, or as few as can be");
    limits.fit(1, 1).ok_or_else(|| misfit(1, 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_the_picture_once() {
        for (size, tiles) in [((30, 17), (4, 2)), ((120, 68), (4, 4)), ((5, 3), (1, 3)), ((30, 17), (20, 1))] {
            let slices = tile_slices(size, tiles);
            assert_eq!(slices.iter().map(|(_, count)| count).sum::<u32>(), size.0 * size.1);
            assert_eq!(slices.len(), usize::from(tiles.0) * usize::from(tiles.1));
            assert_eq!(slices[0].0, 0);
            let mut starts: Vec<u32> = slices.iter().map(|(first, _)| *first).collect();
            starts.sort_unstable();
            starts.dedup();
            assert_eq!(starts.len(), slices.len());
        }
    }
}
