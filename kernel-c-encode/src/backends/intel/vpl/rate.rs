//! The rate-control part of `mfxVideoParam`: 16-bit fields of kb/s and kilobytes with a common multiplier.
#![expect(unsafe_code, reason = "the fields share places in unions of integers")]

use super::buffers::Params;
use crate::settings::{EncoderSettings, MAX_AV1_QP, MAX_QP, RateControl};
use onevpl_sys as vpl;
use onevpl_sys::mfxU16;
use shm_protocol::frame::Codec;

/// The rate part, in whole units.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// `RateControlMethod`.
    pub method: u16,
    /// `BRCParamMultiplier`, at least 1.
    pub multiplier: u32,
    /// `TargetKbps`, multiplied; QPP or the quality for the modes without a bitrate.
    pub target: u32,
    /// `MaxKbps`, multiplied; QPB for constant QP.
    pub max: u32,
    /// `BufferSizeInKB`, multiplied.
    pub buffer_kb: u32,
    /// `InitialDelayInKB`, multiplied; QPI for constant QP.
    pub initial: u32,
}

/// `RateControlMethod` of a mode.
pub const fn method(mode: RateControl) -> u16 {
    (match mode {
        RateControl::Constant => vpl::MFX_RATECONTROL_CBR,
        RateControl::Variable => vpl::MFX_RATECONTROL_VBR,
        RateControl::ConstantQp => vpl::MFX_RATECONTROL_CQP,
        RateControl::ConstantQuality => vpl::MFX_RATECONTROL_ICQ,
    }) as u16
}

/// Kilobytes of a buffer of `vbv_ms` at `kbps`; at least 1.
fn buffer_kb(kbps: u32, vbv_ms: u32) -> u32 {
    (u64::from(kbps) * u64::from(vbv_ms) / 8_000).clamp(1, u64::from(u32::MAX)) as u32
}

/// The multiplier that lets every value up to `most` fit its 16 bits.
fn multiplier(most: u32) -> u32 {
    most.div_ceil(u32::from(u16::MAX)).max(1)
}

/// Writes the rate part for these settings. The multiplier follows from the highest bitrate that will be asked for:
/// changing it later would need a new sequence (runtimes answer -14).
pub fn write(params: &mut Params, settings: &EncoderSettings) {
    let mode = settings.rate_control;
    params.coding_mut().RateControlMethod = method(mode);
    let coding = params.coding_mut();
    match mode {
        RateControl::ConstantQp => {
            let qp = u16::from(settings.qp);
            coding.__bindgen_anon_1.QPI = qp;
            coding.__bindgen_anon_2.QPP = qp;
            coding.__bindgen_anon_3.QPB = qp;
        }
        RateControl::ConstantQuality => {
            // 1 is best, 51 worst for every codec; the quantiser index of AV1 is brought to that scale.
            let most = u32::from(if settings.codec == Codec::Av1 { MAX_AV1_QP } else { MAX_QP });
            let quality = u32::from(settings.qp) * u32::from(MAX_QP) / most;
            coding.__bindgen_anon_2.ICQQuality = quality.clamp(1, u32::from(MAX_QP)) as mfxU16;
        }
        RateControl::Constant | RateControl::Variable => {
            let most = settings.ceiling_kbps().max(settings.bitrate_kbps);
            let factor = multiplier(most.max(buffer_kb(most, settings.vbv_ms)));
            set_bitrate(params, settings, factor);
        }
    }
}

fn set_bitrate(params: &mut Params, settings: &EncoderSettings, factor: u32) {
    // To the nearest: at most half the multiplier off.
    let scaled = |value: u32| ((value + factor / 2) / factor).clamp(1, u32::from(u16::MAX)) as mfxU16;
    let max_kbps = match settings.rate_control {
        RateControl::Variable => settings.ceiling_kbps().max(settings.bitrate_kbps),
        _ => settings.bitrate_kbps,
    };
    let buffer = buffer_kb(settings.bitrate_kbps, settings.vbv_ms);
    params.mfx_mut().BRCParamMultiplier = factor as mfxU16;
    let coding = params.coding_mut();
    coding.__bindgen_anon_2.TargetKbps = scaled(settings.bitrate_kbps);
    coding.__bindgen_anon_3.MaxKbps = scaled(max_kbps);
    coding.BufferSizeInKB = scaled(buffer);
    // A stream that begins with an IDR needs most of the buffer at once.
    coding.__bindgen_anon_1.InitialDelayInKB = scaled(buffer * 3 / 4);
}

/// Changes the bitrate, keeping the multiplier where it carries the new one. `keep_buffer`: the size of the buffer
/// stays as it is.
pub fn change(params: &mut Params, settings: &EncoderSettings, keep_buffer: bool) {
    let before = params.rate();
    let needed = multiplier(settings.bitrate_kbps.max(settings.ceiling_kbps().min(settings.bitrate_kbps * 4)));
    let (buffer, initial) = (params.coding().BufferSizeInKB, before.initial / before.multiplier);
    set_bitrate(params, settings, before.multiplier.max(needed));
    if keep_buffer {
        params.coding_mut().BufferSizeInKB = buffer;
        params.coding_mut().__bindgen_anon_1.InitialDelayInKB = initial as mfxU16;
    }
}

/// Reads the rate part.
pub fn read(params: &Params) -> Rate {
    let factor = u32::from(params.mfx().BRCParamMultiplier.max(1));
    let coding = params.coding();
    // SAFETY: every member of the three unions is a 16-bit integer.
    let (initial, target, max) = unsafe {
        (coding.__bindgen_anon_1.InitialDelayInKB, coding.__bindgen_anon_2.TargetKbps, coding.__bindgen_anon_3.MaxKbps)
    };
    let holds = matches!(
        u32::from(coding.RateControlMethod),
        vpl::MFX_RATECONTROL_CBR | vpl::MFX_RATECONTROL_VBR | vpl::MFX_RATECONTROL_QVBR
    );
    let factor_of = |value: u16| u32::from(value) * if holds { factor } else { 1 };
    Rate {
        method: coding.RateControlMethod,
        multiplier: factor,
        target: factor_of(target),
        max: factor_of(max),
        buffer_kb: u32::from(coding.BufferSizeInKB) * factor,
        initial: factor_of(initial),
    }
}
