//! The parameter buffers of one picture, and those every codec has: packed headers, rate control and its companions.

use super::call::{Answer, Va};
use libva_sys as va;
use shm_protocol::frame::Rational;

/// Most buffers of a picture: three for each of 440 tiles (20 × 22), and twenty others.
const MAX_BUFFERS: usize = 3 * 440 + 20;

/// A misc parameter as the interface wants it: its kind, then its structure.
#[repr(C)]
#[derive(Clone, Copy)]
struct Misc<T> {
    kind: va::VAEncMiscParameterType,
    data: T,
}

/// The buffers of a picture, in the order they are handed over.
pub struct Buffers {
    ids: Vec<va::VABufferID>,
}

impl std::fmt::Debug for Buffers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.ids).finish()
    }
}

/// Where buffers are made.
#[derive(Debug, Clone, Copy)]
pub struct Maker<'a> {
    /// The calls.
    pub va: &'a Va,
    /// The context.
    pub context: va::VAContextID,
}

impl Buffers {
    /// None yet, with room for all.
    pub fn new() -> Buffers {
        Buffers { ids: Vec::with_capacity(MAX_BUFFERS) }
    }

    /// Adds a parameter structure.
    pub fn structure<T: Copy>(&mut self, maker: Maker<'_>, kind: va::VABufferType, value: &T) -> Answer<()> {
        let id = maker.va.create_structure(maker.context, kind, value)?;
        self.ids.push(id);
        Ok(())
    }

    /// Adds a misc parameter.
    pub fn misc<T: Copy>(&mut self, maker: Maker<'_>, kind: va::VAEncMiscParameterType, data: T) -> Answer<()> {
        self.structure(maker, va::VAEncMiscParameterBufferType, &Misc { kind, data })
    }

    /// Adds a packed header of `bits` bits, which has its emulation prevention already.
    pub fn packed(
        &mut self,
        maker: Maker<'_>,
        kind: va::VAEncPackedHeaderType,
        header: &[u8],
        bits: usize,
    ) -> Answer<()> {
        let parameter = va::VAEncPackedHeaderParameterBuffer {
            type_: kind,
            bit_length: bits as u32,
            has_emulation_bytes: 1,
            ..Default::default()
        };
        self.structure(maker, va::VAEncPackedHeaderParameterBufferType, &parameter)?;
        let data = &header[..bits.div_ceil(8)];
        let id = maker.va.create_buffer(maker.context, va::VAEncPackedHeaderDataBufferType, data)?;
        self.ids.push(id);
        Ok(())
    }

    /// Hands all over.
    pub fn render(&mut self, maker: Maker<'_>) -> Answer<()> {
        maker.va.render(maker.context, &mut self.ids)
    }

    /// Lets all go: since VA-API 1.0 they are the application's also after the picture has begun.
    pub fn clear(&mut self, va: &Va) {
        self.ids.drain(..).for_each(|id| va.destroy_buffer(id));
    }
}

/// How the device spends bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceRate {
    /// It takes the quantiser of each picture.
    Quantiser,
    /// It holds a bitrate.
    Bitrate {
        /// On average, kb/s.
        kbps: u32,
        /// At the most, kb/s; the same for a constant bitrate.
        peak_kbps: u32,
    },
    /// It holds a quality, 1 (best) to 51.
    Quality(u8),
}

impl DeviceRate {
    /// The highest bitrate, bit/s, and how much of it is the aim, per cent. The percentage is whole, and what it leaves
    /// is taken up by the maximum, so that the aim is met exactly.
    pub fn bits_and_percentage(self) -> (u32, u32) {
        match self {
            DeviceRate::Bitrate { kbps, peak_kbps } => {
                let percentage = (u64::from(kbps) * 100 / u64::from(peak_kbps.max(1))).clamp(1, 100);
                let bits = u64::from(kbps) * 1000 * 100 / percentage;
                (u32::try_from(bits).unwrap_or(u32::MAX), percentage as u32)
            }
            _ => (0, 0),
        }
    }
}

/// What a rate control buffer and its companions say.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateParameters {
    /// How bits are spent.
    pub rate: DeviceRate,
    /// Receive buffer, ms of the highest bitrate; 0: none is modelled.
    pub vbv_ms: u32,
    /// Frames per second.
    pub fps: Rational,
    /// A largest frame size may be given.
    pub max_frame_size: bool,
}

/// A frame rate in the two halves of a word: numerator below, denominator above.
pub fn frame_rate_word(fps: Rational) -> u32 {
    const MOST: u32 = 0xffff;
    if fps.num <= MOST && fps.den <= MOST {
        return fps.num | fps.den << 16;
    }
    // A thousandth of a frame per second is more than any rate control needs; up to 65 fps it fits.
    let thousandths = (fps.as_f64() * 1000.0).round();
    if thousandths <= f64::from(MOST) {
        return thousandths.max(1.0) as u32 | 1000 << 16;
    }
    (fps.as_f64().round().min(f64::from(MOST)) as u32) | 1 << 16
}

impl RateParameters {
    /// Adds the buffers: rate control, frame rate, receive buffer, largest frame.
    pub fn add(&self, buffers: &mut Buffers, maker: Maker<'_>) -> Answer<()> {
        let (bits_per_second, target_percentage) = self.rate.bits_and_percentage();
        let mut control =
            va::VAEncMiscParameterRateControl { bits_per_second, target_percentage, ..Default::default() };
        match self.rate {
            DeviceRate::Quantiser => return Ok(()),
            DeviceRate::Bitrate { .. } => control.window_size = self.vbv_ms.max(1),
            DeviceRate::Quality(quality) => {
                control.ICQ_quality_factor = u32::from(quality);
                control.quality_factor = u32::from(quality);
            }
        }
        // Frames are never left out by the device: what is left out is told (tombstones), and a device cannot tell.
        let mut flags = va::_VAEncMiscParameterRateControl__bindgen_ty_1__bindgen_ty_1::default();
        flags.set_disable_frame_skip(1);
        control.rc_flags = va::_VAEncMiscParameterRateControl__bindgen_ty_1 { bits: flags };
        buffers.misc(maker, va::VAEncMiscParameterTypeRateControl, control)?;
        let rate = va::VAEncMiscParameterFrameRate { framerate: frame_rate_word(self.fps), ..Default::default() };
        buffers.misc(maker, va::VAEncMiscParameterTypeFrameRate, rate)?;
        let size = (u64::from(bits_per_second) * u64::from(self.vbv_ms) / 1000).min(u64::from(u32::MAX)) as u32;
        if size > 0 {
            // Three quarters full before the first frame: room for it, and a reserve for what follows.
            let hrd = va::VAEncMiscParameterHRD {
                buffer_size: size,
                initial_buffer_fullness: size / 4 * 3,
                ..Default::default()
            };
            buffers.misc(maker, va::VAEncMiscParameterTypeHRD, hrd)?;
            if self.max_frame_size {
                // A frame larger than the receive buffer could not arrive in time.
                let largest = va::VAEncMiscParameterBufferMaxFrameSize {
                    type_: va::VAEncMiscParameterTypeMaxFrameSize,
                    max_frame_size: size,
                    ..Default::default()
                };
                buffers.misc(maker, va::VAEncMiscParameterTypeMaxFrameSize, largest)?;
            }
        }
        Ok(())
    }
}

/// A moving band of intra blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refresh {
    /// Columns rather than rows.
    pub column: bool,
    /// Columns or rows of the picture, blocks.
    pub units: u32,
    /// Width of the band, blocks.
    pub size: u32,
}

impl Refresh {
    /// A band that crosses the picture within `frames` frames.
    pub fn within(column: bool, units: u32, frames: u32) -> Refresh {
        Refresh { column, units, size: units.div_ceil(frames.max(1)).max(1) }
    }

    /// Adds the band's place in the picture `since_idr` frames behind the last IDR.
    pub fn add(&self, since_idr: u32, buffers: &mut Buffers, maker: Maker<'_>) -> Answer<()> {
        let steps = self.units.div_ceil(self.size);
        let at = (since_idr.saturating_sub(1) % steps) * self.size;
        let mut flags = va::_VAEncMiscParameterRIR__bindgen_ty_1__bindgen_ty_1::default();
        if self.column {
            flags.set_enable_rir_column(1);
        } else {
            flags.set_enable_rir_row(1);
        }
        let band = va::VAEncMiscParameterRIR {
            rir_flags: va::_VAEncMiscParameterRIR__bindgen_ty_1 { bits: flags },
            intra_insertion_location: at as u16,
            intra_insert_size: self.size.min(self.units - at) as u16,
            ..Default::default()
        };
        buffers.misc(maker, va::VAEncMiscParameterTypeRIR, band)
    }
}

/// Adds the quality level; 0: the driver's own.
pub fn add_quality(level: u32, buffers: &mut Buffers, maker: Maker<'_>) -> Answer<()> {
    if level == 0 {
        return Ok(());
    }
    let quality = va::VAEncMiscParameterBufferQualityLevel { quality_level: level, ..Default::default() };
    buffers.misc(maker, va::VAEncMiscParameterTypeQualityLevel, quality)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_aim_is_met_exactly_whatever_the_ceiling() {
        for (kbps, peak_kbps) in [(1000, 4000), (2000, 3000), (2500, 2500), (777, 100_000), (1, 400_000)] {
            let (bits, percentage) = DeviceRate::Bitrate { kbps, peak_kbps }.bits_and_percentage();
            let aim = u64::from(bits) * u64::from(percentage) / 100;
            assert!(aim.abs_diff(u64::from(kbps) * 1000) <= 1, "{kbps} of {peak_kbps}: {bits} × {percentage} %");
            assert!((1..=100).contains(&percentage));
        }
    }

    #[test]
    fn frame_rates_fit_their_halves() {
        let word = |num, den| frame_rate_word(Rational { num, den });
        assert_eq!(word(60_000, 1001), 60_000 | 1001 << 16);
        assert_eq!(word(30, 1), 30 | 1 << 16);
        assert_eq!(word(30_000_000, 1_000_000), 30_000 | 1000 << 16);
        assert_eq!(word(240_000_000, 1_000_000), 240 | 1 << 16);
    }

    #[test]
    fn the_band_crosses_the_picture_and_begins_again() {
        let refresh = Refresh::within(true, 120, 30);
        assert_eq!((refresh.size, refresh.units.div_ceil(refresh.size)), (4, 30));
        assert_eq!(Refresh::within(false, 5, 30).size, 1);
    }
}
