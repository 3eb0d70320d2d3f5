//! What a device can do for a codec: profile, entry point, configuration attributes.
#![expect(unsafe_code, reason = "reads numbers out of C unions")]

use super::call::{Answer, Va};
use crate::settings::{EncoderSettings, Entropy, H264Profile};
use libva_sys as va;
use shm_protocol::frame::Codec;

/// What a device can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caps {
    /// Profile.
    pub profile: va::VAProfile,
    /// The same of H.264, for the parameter sets.
    pub h264_profile: H264Profile,
    /// Entry point.
    pub entrypoint: va::VAEntrypoint,
    /// Pixels in: `VA_RT_FORMAT_…`.
    pub rt_format: u32,
    /// Rate control modes: `VA_RC_…`.
    pub rate_modes: u32,
    /// Packed headers: `VA_ENC_PACKED_HEADER_…`.
    pub packed: u32,
    /// Most slices of a picture.
    pub max_slices: u32,
    /// How a picture may be cut into slices: `VA_ENC_SLICE_STRUCTURE_…`.
    pub slice_structure: u32,
    /// Smallest picture.
    pub min_size: (u32, u32),
    /// Largest picture.
    pub max_size: (u32, u32),
    /// Quality levels: 1 is best, this is quickest; 0: there are none.
    pub quality_levels: u32,
    /// Intra refresh: `VA_ENC_INTRA_REFRESH_…`.
    pub intra_refresh: u32,
    /// A largest frame size may be given.
    pub max_frame_size: bool,
    /// Tiles may be asked for.
    pub tiles: bool,
    /// References forwards and backwards: `VA_PREDICTION_DIRECTION_…`.
    pub prediction: u32,
    /// Tools of HEVC, two bits each; `None`: the driver does not say.
    pub hevc_features: Option<u32>,
    /// Block sizes of HEVC.
    pub hevc_blocks: Option<u32>,
    /// Tile numbers and header sizes of AV1.
    pub av1_ext2: Option<u32>,
    /// Memory that surfaces may be made of: `VA_SURFACE_ATTRIB_MEM_TYPE_…`.
    pub memory_types: u32,
}

/// Names of rate control modes, as people know them.
pub fn rate_mode_names(modes: u32) -> String {
    let known = [(va::VA_RC_CQP, "cqp"), (va::VA_RC_CBR, "cbr"), (va::VA_RC_VBR, "vbr"), (va::VA_RC_ICQ, "icq")];
    let names: Vec<&str> = known.iter().filter(|(bit, _)| modes & bit != 0).map(|(_, name)| *name).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The profiles that carry the settings, best first.
fn profiles(settings: &EncoderSettings) -> &'static [(va::VAProfile, H264Profile)] {
    use H264Profile as P;
    const HIGH: (va::VAProfile, P) = (va::VAProfileH264High, P::High);
    const MAIN: (va::VAProfile, P) = (va::VAProfileH264Main, P::Main);
    const BASE: (va::VAProfile, P) = (va::VAProfileH264ConstrainedBaseline, P::ConstrainedBaseline);
    match (settings.codec, settings.profile) {
        (Codec::H264, Some(P::High)) => &[HIGH],
        (Codec::H264, Some(P::Main)) => &[MAIN],
        (Codec::H264, Some(P::ConstrainedBaseline)) => &[BASE],
        (Codec::H264, None) if settings.entropy == Some(Entropy::Cabac) => &[HIGH, MAIN],
        (Codec::H264, None) => &[HIGH, MAIN, BASE],
        (Codec::Hevc, _) if settings.bit_depth() == 10 => &[(va::VAProfileHEVCMain10, P::High)],
        (Codec::Hevc, _) => &[(va::VAProfileHEVCMain, P::High)],
        (Codec::Av1, _) => &[(va::VAProfileAV1Profile0, P::High)],
        (Codec::Null, _) => &[],
    }
}

/// The name of an entry point.
pub fn entrypoint_name(entrypoint: va::VAEntrypoint) -> &'static str {
    if entrypoint == va::VAEntrypointEncSliceLP { "EncSliceLP" } else { "EncSlice" }
}

/// Looks for the codec of the settings on a device: its own unit for encoding (EncSliceLP) first, then the one that
/// runs on the shaders (EncSlice).
///
/// # Errors
/// A sentence saying what the device lacks.
pub fn probe(va: &Va, settings: &EncoderSettings) -> Result<Caps, String> {
    let here = va.display().path().display().to_string();
    let fail = |failed| format!("{here}: {}", va.text(&failed));
    let wanted = profiles(settings);
    let present = va.profiles().map_err(fail)?;
    let mut found = None;
    for entrypoint in [va::VAEntrypointEncSliceLP, va::VAEntrypointEncSlice] {
        for &(profile, h264_profile) in wanted.iter().filter(|(profile, _)| present.contains(profile)) {
            if found.is_none() && va.entrypoints(profile).map_err(fail)?.contains(&entrypoint) {
                found = Some((profile, h264_profile, entrypoint));
            }
        }
    }
    let Some((profile, h264_profile, entrypoint)) = found else {
        let bits = settings.bit_depth();
        let named = settings.profile.map_or(String::new(), |p| format!(" in profile {p:?}"));
        let (vendor, codec) = (va.display().vendor(), settings.codec.name());
        return Err(format!("{here} ({vendor}) cannot encode {codec} of {bits} bit{named}"));
    };
    ask(va, settings, (profile, h264_profile, entrypoint)).map_err(fail)
}

fn ask(
    va: &Va,
    settings: &EncoderSettings,
    (profile, h264_profile, entrypoint): (va::VAProfile, H264Profile, va::VAEntrypoint),
) -> Answer<Caps> {
    let kinds = [
        va::VAConfigAttribRTFormat,
        va::VAConfigAttribRateControl,
        va::VAConfigAttribEncPackedHeaders,
        va::VAConfigAttribEncMaxSlices,
        va::VAConfigAttribEncSliceStructure,
        va::VAConfigAttribMaxPictureWidth,
        va::VAConfigAttribMaxPictureHeight,
        va::VAConfigAttribEncQualityRange,
        va::VAConfigAttribEncIntraRefresh,
        va::VAConfigAttribMaxFrameSize,
        va::VAConfigAttribEncTileSupport,
        va::VAConfigAttribPredictionDirection,
        va::VAConfigAttribEncHEVCFeatures,
        va::VAConfigAttribEncHEVCBlockSizes,
        va::VAConfigAttribEncAV1Ext2,
    ];
    let mut attributes = kinds.map(|type_| va::VAConfigAttrib { type_, value: va::VA_ATTRIB_NOT_SUPPORTED });
    va.attributes(profile, entrypoint, &mut attributes)?;
    let value = |kind| {
        let found = attributes.iter().find(|a| a.type_ == kind).map(|a| a.value);
        found.filter(|value| *value != va::VA_ATTRIB_NOT_SUPPORTED)
    };
    let ten_bit = settings.bit_depth() == 10;
    let mut caps = Caps {
        profile,
        h264_profile,
        entrypoint,
        rt_format: if ten_bit { va::VA_RT_FORMAT_YUV420_10 } else { va::VA_RT_FORMAT_YUV420 },
        rate_modes: value(va::VAConfigAttribRateControl).unwrap_or(va::VA_RC_CQP),
        packed: value(va::VAConfigAttribEncPackedHeaders).unwrap_or(0),
        max_slices: value(va::VAConfigAttribEncMaxSlices).unwrap_or(1).max(1),
        slice_structure: value(va::VAConfigAttribEncSliceStructure).unwrap_or(0),
        min_size: (1, 1),
        max_size: (
            value(va::VAConfigAttribMaxPictureWidth).unwrap_or(u32::MAX),
            value(va::VAConfigAttribMaxPictureHeight).unwrap_or(u32::MAX),
        ),
        quality_levels: value(va::VAConfigAttribEncQualityRange).unwrap_or(0),
        intra_refresh: value(va::VAConfigAttribEncIntraRefresh).unwrap_or(0),
        max_frame_size: value(va::VAConfigAttribMaxFrameSize).unwrap_or(0) & 1 != 0,
        tiles: value(va::VAConfigAttribEncTileSupport).unwrap_or(0) != 0,
        prediction: value(va::VAConfigAttribPredictionDirection).unwrap_or(0),
        hevc_features: value(va::VAConfigAttribEncHEVCFeatures),
        hevc_blocks: value(va::VAConfigAttribEncHEVCBlockSizes),
        av1_ext2: value(va::VAConfigAttribEncAV1Ext2),
        memory_types: 0,
    };
    // Surfaces are asked about on a configuration, with its defaults.
    let config = va.create_config(profile, entrypoint, &mut [])?;
    let listed = va.surface_attributes(config);
    va.destroy_config(config);
    for attribute in listed.unwrap_or_default() {
        if attribute.value.type_ != va::VAGenericValueTypeInteger {
            continue;
        }
        // SAFETY: the type says that the value is an integer; every bit pattern is one.
        let number = unsafe { attribute.value.value.i };
        let size = u32::try_from(number).unwrap_or(0);
        match attribute.type_ {
            va::VASurfaceAttribMinWidth => caps.min_size.0 = caps.min_size.0.max(size),
            va::VASurfaceAttribMinHeight => caps.min_size.1 = caps.min_size.1.max(size),
            va::VASurfaceAttribMaxWidth if size > 0 => caps.max_size.0 = caps.max_size.0.min(size),
            va::VASurfaceAttribMaxHeight if size > 0 => caps.max_size.1 = caps.max_size.1.min(size),
            va::VASurfaceAttribMemoryType => caps.memory_types |= number as u32,
            _ => {}
        }
    }
    Ok(caps)
}
