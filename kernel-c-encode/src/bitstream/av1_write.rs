//! AV1 sequence and frame headers as a hardware encoder is handed them: key frames and inter frames with one reference,
//! 4:2:0 of 8 or 10 bit, no film grain, no super-resolution (AV1 specification 5.5, 5.9).

use super::av1::{HAS_SIZE, obu_type};
use super::bits::BitWriter;
use shm_protocol::frame::{ChromaSiting, Colour, Range};

/// Bits of `order_hint`: all that AV1 has.
pub const ORDER_HINT_BITS: u32 = 8;
/// Longest header, bytes: the fields below fill at most 90 bytes.
pub const MAX_HEADER_BYTES: usize = 128;
/// log2 of a superblock of 64 × 64.
const SUPERBLOCK_LOG2: u32 = 6;
/// MAX_TILE_WIDTH and MAX_TILE_AREA, samples, MAX_TILE_COLS and MAX_TILE_ROWS (3).
const MAX_TILE_WIDTH: u32 = 4096;
const MAX_TILE_AREA: u32 = 4096 * 2304;
const MAX_TILES: u32 = 64;
/// Most bytes of a fixed-length `obu_size`.
const MAX_SIZE_BYTES: u8 = 4;

/// What a stream is described by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Sequence {
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
    /// 8 or 10.
    pub bit_depth: u8,
    /// Colour.
    pub colour: Colour,
    /// `seq_level_idx`.
    pub level_idx: u8,
    /// High tier.
    pub high_tier: bool,
    /// Constrained directional enhancement filter.
    pub cdef: bool,
    /// log2 of tile columns and rows.
    pub tiles_log2: (u8, u8),
    /// Bytes of a tile's size in a tile group, 1 to 4.
    pub tile_size_bytes: u8,
    /// Bytes of every `obu_size`, 1 to 4, so that a device can write it afterwards.
    pub obu_size_bytes: u8,
    /// Transform sizes are chosen block by block (TX_MODE_SELECT), rather than the largest.
    pub tx_select: bool,
}

/// What a frame is described by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame {
    /// Key frame; otherwise it refers to the frame in [`Frame::reference_slot`].
    pub key: bool,
    /// Frames since the key frame; the bits that are written are taken from it.
    pub order: u32,
    /// Slot of the reference, 0 to 7.
    pub reference_slot: u8,
    /// Slots that this frame goes to.
    pub refresh: u8,
    /// `base_q_idx`, 1 to 255.
    pub q_idx: u8,
    /// Levels of the loop filter: vertical and horizontal luma, U, V; 0 to 63.
    pub filter: [u8; 4],
}

/// Where a device finds what it writes itself, counted from the first byte of the OBU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Offsets {
    /// First bit of `base_q_idx`.
    pub q_idx: u32,
    /// First bit of `segmentation_enabled`.
    pub segmentation: u32,
    /// First bit of `loop_filter_params`.
    pub loop_filter: u32,
    /// First bit of `cdef_params`, and how many there are.
    pub cdef: (u32, u32),
    /// Bits of the whole OBU, its trailing bit included.
    pub bits: u32,
}

/// How far a picture may be cut into tiles (5.9.15): least and most log2 of columns, and of rows at those columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileLimits {
    /// Superblocks in a row and in a column.
    pub superblocks: (u32, u32),
    /// Least and most log2 of columns.
    pub columns_log2: (u32, u32),
    /// Most log2 of rows.
    pub max_rows_log2: u32,
    /// Least log2 of tiles altogether.
    pub min_tiles_log2: u32,
}

/// The smallest k with `unit << k` at least `target` (tile_log2).
fn log2_to_reach(unit: u32, target: u32) -> u32 {
    (0..32).find(|k| u64::from(unit) << k >= u64::from(target)).unwrap_or(31)
}

impl TileLimits {
    /// Of a picture of this size, pixels.
    pub fn of(width: u32, height: u32) -> TileLimits {
        // Counted in blocks of 8 first, as the specification does (MiCols, MiRows).
        let superblocks = |side: u32| (side.div_ceil(8) * 2).div_ceil(16);
        let (columns, rows) = (superblocks(width), superblocks(height));
        let min_columns_log2 = log2_to_reach(MAX_TILE_WIDTH >> SUPERBLOCK_LOG2, columns);
        TileLimits {
            superblocks: (columns, rows),
            columns_log2: (min_columns_log2, log2_to_reach(1, columns.min(MAX_TILES))),
            max_rows_log2: log2_to_reach(1, rows.min(MAX_TILES)),
            min_tiles_log2: min_columns_log2.max(log2_to_reach(MAX_TILE_AREA >> (2 * SUPERBLOCK_LOG2), rows * columns)),
        }
    }

    /// Least log2 of rows with that log2 of columns.
    pub fn min_rows_log2(&self, columns_log2: u32) -> u32 {
        self.min_tiles_log2.saturating_sub(columns_log2)
    }

    /// The tiles that `columns` × `rows` evenly spaced ones come to: log2 of both, and the sizes in superblocks.
    /// `None` when the picture cannot be cut just so.
    pub fn fit(&self, columns: u32, rows: u32) -> Option<TileGrid> {
        let columns_log2 = log2_to_reach(1, columns).max(self.columns_log2.0);
        let rows_log2 = log2_to_reach(1, rows).max(self.min_rows_log2(columns_log2));
        if columns_log2 > self.columns_log2.1 || rows_log2 > self.max_rows_log2 {
            return None;
        }
        let cut = |whole: u32, log2: u32| {
            let size = (whole + (1 << log2) - 1) >> log2;
            (size, whole.div_ceil(size))
        };
        let (width, real_columns) = cut(self.superblocks.0, columns_log2);
        let (height, real_rows) = cut(self.superblocks.1, rows_log2);
        let exact = real_columns == columns.max(1 << self.columns_log2.0) && real_rows >= rows;
        exact.then_some(TileGrid {
            log2: (columns_log2 as u8, rows_log2 as u8),
            count: (real_columns, real_rows),
            size: (width, height),
        })
    }
}

/// Evenly spaced tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileGrid {
    /// log2 of columns and rows.
    pub log2: (u8, u8),
    /// Columns and rows.
    pub count: (u32, u32),
    /// Width and height of all but the last, superblocks.
    pub size: (u32, u32),
}

impl Sequence {
    /// Writes the sequence header OBU; returns its bytes, `None` when `out` is too small.
    pub fn write_sequence(&self, out: &mut [u8]) -> Option<usize> {
        let mut payload = [0; MAX_HEADER_BYTES];
        let mut w = BitWriter::new(&mut payload);
        w.bits(3, 0); // seq_profile: 4:2:0 of 8 and 10 bit
        w.bits(2, 0); // still_picture, reduced_still_picture_header
        w.flag(false); // timing_info_present_flag
        w.flag(false); // initial_display_delay_present_flag
        w.bits(5, 0); // operating_points_cnt_minus_1
        w.bits(12, 0); // operating_point_idc
        w.bits(5, u32::from(self.level_idx));
        if self.level_idx > 7 {
            w.flag(self.high_tier);
        }
        let (width_bits, height_bits) = (bits_of(self.width - 1), bits_of(self.height - 1));
        w.bits(4, width_bits - 1);
        w.bits(4, height_bits - 1);
        w.bits(width_bits, self.width - 1);
        w.bits(height_bits, self.height - 1);
        w.flag(false); // frame_id_numbers_present_flag
        w.flag(false); // use_128x128_superblock
        w.bits(2, 0); // enable_filter_intra, enable_intra_edge_filter
        w.bits(2, 0); // enable_interintra_compound, enable_masked_compound
        w.bits(2, 0); // enable_warped_motion, enable_dual_filter
        w.flag(true); // enable_order_hint
        w.bits(2, 0); // enable_jnt_comp, enable_ref_frame_mvs
        w.flag(false); // seq_choose_screen_content_tools
        w.flag(false); // seq_force_screen_content_tools: none
        w.bits(3, ORDER_HINT_BITS - 1);
        w.flag(false); // enable_superres
        w.flag(self.cdef);
        w.flag(false); // enable_restoration
        self.write_colour(&mut w);
        w.flag(false); // film_grain_params_present
        let len = w.finish()?;
        self.put_obu(obu_type::SEQUENCE_HEADER, &payload[..len], out)
    }

    /// `color_config` (5.5.2).
    fn write_colour(&self, w: &mut BitWriter<'_>) {
        let Colour { matrix, primaries, transfer, range, siting } = self.colour;
        w.flag(self.bit_depth == 10); // high_bitdepth
        w.flag(false); // mono_chrome
        w.flag(true); // color_description_present_flag
        [primaries, transfer, matrix].into_iter().for_each(|code| w.bits(8, u32::from(code)));
        w.flag(range == Range::Full);
        // chroma_sample_position: 1 is left, 2 is on the top left sample; centred has no code.
        w.bits(
            2,
            match siting {
                ChromaSiting::Left => 1,
                ChromaSiting::TopLeft => 2,
                ChromaSiting::Center => 0,
            },
        );
        w.flag(false); // separate_uv_delta_q
    }

    /// Writes the frame header OBU; returns where a device finds its fields, `None` when `out` is too small.
    pub fn write_frame(&self, frame: &Frame, out: &mut [u8]) -> Option<Offsets> {
        let mut payload = [0; MAX_HEADER_BYTES];
        let mut w = BitWriter::new(&mut payload);
        w.flag(false); // show_existing_frame
        w.bits(2, u32::from(!frame.key)); // frame_type: KEY_FRAME 0, INTER_FRAME 1
        w.flag(true); // show_frame
        if !frame.key {
            w.flag(false); // error_resilient_mode; a shown key frame has it without saying so
        }
        w.flag(false); // disable_cdf_update
        w.flag(false); // frame_size_override_flag
        w.bits(ORDER_HINT_BITS, if frame.key { 0 } else { frame.order % (1 << ORDER_HINT_BITS) });
        if !frame.key {
            w.bits(3, 0); // primary_ref_frame: LAST_FRAME
            w.bits(8, u32::from(frame.refresh));
            w.flag(false); // frame_refs_short_signaling
            (0..7).for_each(|_| w.bits(3, u32::from(frame.reference_slot)));
            w.flag(false); // render_and_frame_size_different
            w.flag(false); // allow_high_precision_mv
            w.flag(false); // is_filter_switchable
            w.bits(2, 0); // interpolation_filter: EIGHTTAP
            w.flag(false); // is_motion_mode_switchable
        } else {
            w.flag(false); // render_and_frame_size_different
        }
        w.flag(false); // disable_frame_end_update_cdf
        self.write_tiles(&mut w);
        let base = self.obu_header_bytes() as u32 * 8;
        let here = |w: &BitWriter<'_>| base + w.position() as u32;
        let mut offsets = Offsets { q_idx: here(&w), ..Offsets::default() };
        w.bits(8, u32::from(frame.q_idx.max(1)));
        w.bits(3, 0); // DeltaQYDc, DeltaQUDc, DeltaQUAc
        w.flag(false); // using_qmatrix
        offsets.segmentation = here(&w);
        w.flag(false); // segmentation_enabled
        w.flag(false); // delta_q_present
        offsets.loop_filter = here(&w);
        let [vertical, horizontal, u, v] = frame.filter;
        w.bits(6, u32::from(vertical));
        w.bits(6, u32::from(horizontal));
        if vertical > 0 || horizontal > 0 {
            w.bits(6, u32::from(u));
            w.bits(6, u32::from(v));
        }
        w.bits(3, 0); // loop_filter_sharpness
        w.flag(false); // loop_filter_delta_enabled
        if self.cdef {
            let begin = here(&w);
            w.bits(2, 0); // cdef_damping_minus_3
            w.bits(2, 0); // cdef_bits
            w.bits(12, 0); // strengths of luma and chroma, primary and secondary
            offsets.cdef = (begin, here(&w) - begin);
        }
        w.flag(self.tx_select);
        if !frame.key {
            w.flag(false); // reference_select
        }
        w.flag(false); // reduced_tx_set
        if !frame.key {
            w.bits(7, 0); // is_global of each reference
        }
        let len = w.finish()?;
        let bytes = self.put_obu(obu_type::FRAME_HEADER, &payload[..len], out)?;
        // Up to the trailing bit, as the specification of the interface counts.
        let trailing_zeros = payload[len - 1].trailing_zeros();
        offsets.bits = bytes as u32 * 8 - trailing_zeros;
        Some(offsets)
    }

    /// `tile_info` with evenly spaced tiles (5.9.15).
    fn write_tiles(&self, w: &mut BitWriter<'_>) {
        let limits = TileLimits::of(self.width, self.height);
        let (columns, rows) = (u32::from(self.tiles_log2.0), u32::from(self.tiles_log2.1));
        w.flag(true); // uniform_tile_spacing_flag
        let mut increments = |least: u32, chosen: u32, most: u32| {
            (least..chosen).for_each(|_| w.flag(true));
            if chosen < most {
                w.flag(false);
            }
        };
        increments(limits.columns_log2.0, columns, limits.columns_log2.1);
        increments(limits.min_rows_log2(columns), rows, limits.max_rows_log2);
        if columns + rows > 0 {
            w.bits(columns + rows, 0); // context_update_tile_id
            w.bits(2, u32::from(self.tile_size_bytes.clamp(1, MAX_SIZE_BYTES)) - 1);
        }
    }

    /// Bytes of an OBU before its payload.
    pub fn obu_header_bytes(&self) -> usize {
        1 + usize::from(self.obu_size_bytes.clamp(1, MAX_SIZE_BYTES))
    }

    fn put_obu(&self, kind: u8, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        let header = self.obu_header_bytes();
        let target = out.get_mut(..header + payload.len())?;
        target[0] = kind << 3 | HAS_SIZE;
        let mut size = payload.len();
        for (index, byte) in target[1..header].iter_mut().enumerate() {
            // Every byte but the last says that one follows, also where the number is finished (4.10.5).
            let more = if index + 2 < header { 0x80 } else { 0 };
            *byte = (size & 0x7f) as u8 | more;
            size >>= 7;
        }
        target[header..].copy_from_slice(payload);
        (size == 0).then_some(header + payload.len())
    }
}

/// Bits that a number needs, at least 1.
fn bits_of(value: u32) -> u32 {
    value.checked_ilog2().unwrap_or(0) + 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bitstream::av1::obus;

    #[test]
    fn tiles_fit_or_are_refused() {
        let limits = TileLimits::of(1920, 1080);
        assert_eq!((limits.superblocks, limits.columns_log2), ((30, 17), (0, 5)));
        let grid = limits.fit(2, 2).unwrap();
        assert_eq!((grid.log2, grid.count, grid.size), ((1, 1), (2, 2), (15, 9)));
        assert_eq!(limits.fit(3, 1), None, "evenly spaced tiles come in powers of two");
        assert_eq!(TileLimits::of(320, 180).fit(8, 1), None, "five superblocks make no eight columns");
        let wide = TileLimits::of(7680, 4320).fit(1, 1).unwrap();
        assert_eq!(wide.count, (2, 2), "a tile is at most 4096 wide and 4096 × 2304 large");
    }

    #[test]
    fn offsets_point_at_their_fields() {
        for (cdef, obu_size_bytes, tiles_log2) in [(false, 1, (0, 0)), (true, 4, (1, 1))] {
            let sequence = Sequence {
                width: 1920,
                height: 1080,
                bit_depth: 10,
                colour: Colour::BT709_LIMITED,
                level_idx: 9,
                high_tier: false,
                cdef,
                tiles_log2,
                tile_size_bytes: 4,
                obu_size_bytes,
                tx_select: true,
            };
            for key in [true, false] {
                let frame =
                    Frame { key, order: 259, reference_slot: 1, refresh: 1, q_idx: 0xa5, filter: [0x2a, 0x15, 1, 2] };
                let mut out = [0xee; 256];
                let offsets = sequence.write_frame(&frame, &mut out).unwrap();
                let read = |at: u32, count: u32| {
                    (at..at + count).fold(0, |v, i| v << 1 | u32::from(out[i as usize / 8] >> (7 - i % 8) & 1))
                };
                assert_eq!(read(offsets.q_idx, 8), 0xa5);
                assert_eq!(read(offsets.segmentation, 1), 0);
                assert_eq!(read(offsets.loop_filter, 12), 0x2a << 6 | 0x15);
                assert_eq!(offsets.cdef.1, if cdef { 16 } else { 0 });
                assert_eq!(read(offsets.bits - 1, 1), 1, "the trailing bit");
                let obu = obus(&out).next().unwrap();
                assert_eq!(obu.bytes.len(), offsets.bits.div_ceil(8) as usize);
                assert_eq!(obu.payload[0] & 0xf0, if key { 0x10 } else { 0x30 });
            }
            let mut out = [0xee; 256];
            let len = sequence.write_sequence(&mut out).unwrap();
            assert_eq!(obus(&out[..len]).map(|o| (o.kind, o.bytes.len())).collect::<Vec<_>>(), [(1, len)]);
        }
    }
}
