//! From what C asks for to what an encoder is opened with. Every value is checked before it is used.
#![expect(unsafe_code, reason = "reads structures and text that C points at")]

use crate::codes::{QSV_ERR_INVALID_ARGUMENT, QSV_ERR_UNSUPPORTED};
use crate::failure::Failure;
use crate::types::*;
use kernel_c_encode::settings::{
    EncoderSettings, Entropy, Gop, H264Profile, MAX_BITRATE_KBPS, Preset, RateControl, X26xPreset,
};
use shm_protocol::frame::{ChromaSiting, Codec, Colour, PixelFormat, Range, Rational, VideoFormat};
use std::ffi::{CStr, c_char};
use std::path::PathBuf;

/// Threads where none are asked for: the most that every software encoder takes (OpenH264 has four).
const MOST_THREADS: usize = 4;

/// What a context is opened with.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) backend: String,
    pub(crate) settings: EncoderSettings,
}

/// Copies a structure that says its own size in its first field: one of an older program is shorter, and what it does
/// not have is 0; one of a newer program may be longer, as long as it asks for nothing that is not known here.
///
/// # Safety
/// `from` is NULL or points at as many readable bytes as its first field says, and at four at least; every `T` made of
/// zeros is a value of it, and it is plain data.
pub(crate) unsafe fn sized<T: Copy>(from: *const T, name: &str, least_bytes: usize) -> Result<T, Failure> {
    /// A size beyond this is no size but garbage.
    const MOST_BYTES: usize = 4096;
    if from.is_null() {
        return Err(Failure::null(name));
    }
    // SAFETY: four bytes are readable; nothing is said of their alignment.
    let given = unsafe { from.cast::<u32>().read_unaligned() } as usize;
    if !(least_bytes..=MOST_BYTES).contains(&given) {
        return Err(Failure::value(
            &format!("{name}.struct_size"),
            given,
            format!("sizeof({name}), here {}", size_of::<T>()),
        ));
    }
    let known = given.min(size_of::<T>());
    // SAFETY: `given` bytes are readable.
    let unknown = unsafe { std::slice::from_raw_parts(from.cast::<u8>().add(known), given - known) };
    if unknown.iter().any(|byte| *byte != 0) {
        let text = format!("{name} has {given} bytes and asks for what this version, with {}, has not", size_of::<T>());
        return Err(Failure::new(QSV_ERR_UNSUPPORTED, text));
    }
    let mut copy = std::mem::MaybeUninit::<T>::zeroed();
    // SAFETY: `known` bytes are readable there and no more than the copy has.
    unsafe { std::ptr::copy_nonoverlapping(from.cast::<u8>(), copy.as_mut_ptr().cast(), known) };
    // SAFETY: zeros are a value of T (the caller's promise), and so is what was copied: plain data.
    Ok(unsafe { copy.assume_init() })
}

/// Text of C; `None` for NULL.
///
/// # Safety
/// `from` is NULL or points at text that ends in a NUL and stays as it is during the call.
pub(crate) unsafe fn text(from: *const c_char, name: &str) -> Result<Option<String>, Failure> {
    if from.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let text = unsafe { CStr::from_ptr(from) };
    match text.to_str() {
        Ok(text) => Ok(Some(text.to_owned())),
        Err(_) => Err(Failure::value(name, format!("{text:?}"), "text in UTF-8")),
    }
}

/// The first version of the structure: fields behind `level` came with it, so there is no shorter one yet.
const LEAST_CONFIG_BYTES: usize = size_of::<qsv_config>();

/// Reads a configuration.
///
/// # Safety
/// As [`sized`]; its text as [`text`].
pub(crate) unsafe fn read(config: *const qsv_config) -> Result<Wanted, Failure> {
    // SAFETY: the caller's promise; the structure is plain data, and zeros are numbers, NULL pointers.
    let config = unsafe { sized(config, "qsv_config", LEAST_CONFIG_BYTES) }?;
    // SAFETY: the caller's promise, for each.
    let (backend, device, preset, profile, level) = unsafe {
        (
            text(config.backend, "backend")?,
            text(config.device, "device")?,
            text(config.preset, "preset")?,
            text(config.profile, "profile")?,
            text(config.level, "level")?,
        )
    };
    if config.reserved != [0; 7] {
        return Err(Failure::new(QSV_ERR_INVALID_ARGUMENT, "reserved is not 0: allowed is 0"));
    }
    let codec = codec(config.codec)?;
    let mut settings = EncoderSettings::live(codec, format(&config)?, kbps("bitrate_bps", config.bitrate_bps)?);
    settings.rate_control = match config.rate_control {
        QSV_RATE_CBR => RateControl::Constant,
        QSV_RATE_VBR => RateControl::Variable,
        QSV_RATE_CQP => RateControl::ConstantQp,
        QSV_RATE_ICQ => RateControl::ConstantQuality,
        other => return Err(Failure::value("rate_control", other, "QSV_RATE_CBR (0) to QSV_RATE_ICQ (3)")),
    };
    if settings.rate_control.holds_bitrate() && config.bitrate_bps == 0 {
        return Err(no_bitrate(config.bitrate_bps));
    }
    settings.max_bitrate_kbps = kbps("max_bitrate_bps", config.max_bitrate_bps)?;
    if config.vbv_ms != 0 {
        settings.vbv_ms = config.vbv_ms;
    }
    settings.gop = match config.gop_frames {
        QSV_GOP_DEFAULT => settings.gop,
        QSV_GOP_INFINITE => Gop::Infinite,
        frames => match u32::try_from(frames) {
            Ok(frames) => Gop::Frames(frames),
            Err(_) => return Err(Failure::value("gop_frames", frames, "1 and more, 0 (two seconds) or -1 (infinite)")),
        },
    };
    settings.low_latency = config.low_latency != 0;
    settings.intra_refresh = config.intra_refresh != 0;
    settings.idr_count = config.idr_count;
    if config.qp != 0 {
        settings.qp = small("qp", config.qp)?;
    }
    settings.slices = small("slices", config.slices)?;
    settings.threads = match config.threads {
        0 => std::thread::available_parallelism().map_or(1, |n| n.get().min(MOST_THREADS)) as u8,
        threads => small("threads", threads)?,
    };
    settings.tile_columns = small("tile_columns", config.tile_columns)?;
    settings.tile_rows = small("tile_rows", config.tile_rows)?;
    settings.async_depth = small("async_depth", config.async_depth)?;
    settings.device = device.map(PathBuf::from);
    settings.entropy = match config.entropy {
        QSV_ENTROPY_DEFAULT => None,
        QSV_ENTROPY_CAVLC => Some(Entropy::Cavlc),
        QSV_ENTROPY_CABAC => Some(Entropy::Cabac),
        other => return Err(Failure::value("entropy", other, "QSV_ENTROPY_DEFAULT (0) to QSV_ENTROPY_CABAC (2)")),
    };
    settings.preset = preset.as_deref().map_or(Ok(Preset::Fast), named_preset)?;
    settings.profile = profile.as_deref().map_or(Ok(None), |name| named_profile(&settings, name))?;
    settings.level_idc = match level.as_deref().map(|text| (text, text.parse::<f64>())) {
        None => None,
        Some((_, Ok(level))) if (1.0..=6.2).contains(&level) => Some((level * 10.0).round() as u8),
        Some((text, _)) => return Err(Failure::value("level", text, "a level such as \"4.1\"")),
    };
    settings.check()?;
    Ok(Wanted { backend: backend.unwrap_or_else(|| "auto".to_owned()), settings })
}

/// Refuses a bitrate in the unit that C gave it in.
pub(crate) fn no_bitrate(bps: impl std::fmt::Display) -> Failure {
    Failure::value("The bitrate", format!("{bps} bit/s"), format!("1 to {MAX_BITRATE_KBPS}000 bit/s"))
}

/// Kilobits for bits, rounded up: 1 bit/s is no 0.
pub(crate) fn kbps(name: &str, bps: u64) -> Result<u32, Failure> {
    let kbps = bps.div_ceil(1000);
    if kbps > u64::from(MAX_BITRATE_KBPS) {
        return Err(Failure::value(name, format!("{bps} bit/s"), format!("1 to {MAX_BITRATE_KBPS}000 bit/s")));
    }
    Ok(kbps as u32)
}

fn small(name: &str, given: u32) -> Result<u8, Failure> {
    u8::try_from(given).map_err(|_| Failure::value(name, given, "0 to 255"))
}

pub(crate) fn codec(code: u32) -> Result<Codec, Failure> {
    match code {
        QSV_CODEC_H264 => Ok(Codec::H264),
        QSV_CODEC_HEVC => Ok(Codec::Hevc),
        QSV_CODEC_AV1 => Ok(Codec::Av1),
        other => Err(Failure::value("codec", other, "QSV_CODEC_H264 (0), QSV_CODEC_HEVC (1) or QSV_CODEC_AV1 (2)")),
    }
}

/// The number C knows a codec by; H.264 for the null encoder, which C cannot ask for.
pub(crate) fn codec_code(codec: Codec) -> u32 {
    match codec {
        Codec::Hevc => QSV_CODEC_HEVC,
        Codec::Av1 => QSV_CODEC_AV1,
        Codec::H264 | Codec::Null => QSV_CODEC_H264,
    }
}

pub(crate) fn pixel_format(code: u32) -> Result<PixelFormat, Failure> {
    match code {
        QSV_PIXEL_NV12 => Ok(PixelFormat::Nv12),
        QSV_PIXEL_P010 => Ok(PixelFormat::P010),
        other => Err(Failure::value("pixel_format", other, "QSV_PIXEL_NV12 (0) or QSV_PIXEL_P010 (1)")),
    }
}

fn format(config: &qsv_config) -> Result<VideoFormat, Failure> {
    let side = |name: &str, given: i32| {
        u32::try_from(given)
            .ok()
            .filter(|side| *side > 0)
            .ok_or_else(|| Failure::value(name, given, "an even number from 2 to 16384"))
    };
    let fps = Rational::new(config.fps_num, config.fps_den.max(1)).ok_or_else(|| {
        Failure::value("The frame rate", format!("{}/{}", config.fps_num, config.fps_den.max(1)), "more than 0")
    })?;
    // Twice what the fastest displays show; a rate beyond it is a rate in other units.
    const MOST_FPS: f64 = 1000.0;
    if fps.as_f64() > MOST_FPS {
        return Err(Failure::value("The frame rate", fps.as_f64(), format!("up to {MOST_FPS} frames per second")));
    }
    let colour = match (config.colour_matrix, config.colour_primaries, config.colour_transfer) {
        (0, 0, 0) if config.colour_full_range == 0 => Colour::BT709_LIMITED,
        (0, 0, 0) => Colour { range: Range::Full, ..Colour::BT709_LIMITED },
        (matrix, primaries, transfer) => Colour {
            matrix,
            primaries,
            transfer,
            range: if config.colour_full_range == 0 { Range::Limited } else { Range::Full },
            // BT.2020 and BT.2100 have their own siting (ITU-T H.273, chroma sample location type).
            siting: if matrix == 9 { ChromaSiting::TopLeft } else { ChromaSiting::Left },
        },
    };
    let (width, height) = (side("width", config.width)?, side("height", config.height)?);
    VideoFormat::packed(pixel_format(config.pixel_format)?, width, height, fps, colour)
        .map_err(|error| Failure::new(QSV_ERR_INVALID_ARGUMENT, error.to_string()))
}

fn named_preset(name: &str) -> Result<Preset, Failure> {
    match (name, X26xPreset::from_name(name), name.parse()) {
        ("fast", ..) => Ok(Preset::Fast),
        ("medium", ..) => Ok(Preset::Medium),
        ("quality", ..) => Ok(Preset::Quality),
        (_, Some(named), _) => Ok(Preset::Named(named)),
        (_, None, Ok(number)) => Ok(Preset::Number(number)),
        _ => Err(Failure::value("preset", name, "fast, medium, quality, a preset such as superfast, or a number")),
    }
}

/// Profiles of HEVC and AV1 say no more than the bit depth, which the frames have.
fn named_profile(settings: &EncoderSettings, name: &str) -> Result<Option<H264Profile>, Failure> {
    match (settings.codec, name, settings.bit_depth()) {
        (Codec::H264, "baseline" | "constrained-baseline", _) => Ok(Some(H264Profile::ConstrainedBaseline)),
        (Codec::H264, "main", _) => Ok(Some(H264Profile::Main)),
        (Codec::H264, "high", _) => Ok(Some(H264Profile::High)),
        (Codec::Hevc, "main", 8) | (Codec::Hevc, "main10", 10) | (Codec::Av1, "main", _) => Ok(None),
        (Codec::H264, ..) => Err(Failure::value("profile", name, "baseline, main or high")),
        (Codec::Hevc, _, 10) => Err(Failure::value("profile", name, "main10 for 10 bit")),
        _ => Err(Failure::value("profile", name, "main")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codes::QSV_ERR_NULL_POINTER;

    fn config() -> qsv_config {
        // SAFETY: numbers, and pointers that may be NULL.
        let zero: qsv_config = unsafe { std::mem::zeroed() };
        qsv_config {
            struct_size: size_of::<qsv_config>() as u32,
            width: 320,
            height: 180,
            fps_num: 60,
            bitrate_bps: 1_000_000,
            ..zero
        }
    }

    fn wanted(change: impl FnOnce(&mut qsv_config)) -> Result<Wanted, Failure> {
        let mut config = config();
        change(&mut config);
        // SAFETY: a whole structure whose text is NULL or ends in a NUL.
        unsafe { read(&config) }
    }

    #[test]
    fn bits_per_second_become_kilobits_rounded_up() {
        assert_eq!(wanted(|c| c.bitrate_bps = 240_000_000).unwrap().settings.bitrate_kbps, 240_000);
        assert_eq!(wanted(|c| c.bitrate_bps = 1).unwrap().settings.bitrate_kbps, 1);
        let error = wanted(|c| c.bitrate_bps = 400_000_001).unwrap_err();
        assert_eq!(error.text, "bitrate_bps = 400000001 bit/s is not possible: allowed is 1 to 400000000 bit/s");
        assert!(wanted(|c| c.bitrate_bps = 0).unwrap_err().text.starts_with("The bitrate = 0 bit/s is not possible"));
        assert!(wanted(|c| (c.bitrate_bps, c.rate_control, c.qp) = (0, QSV_RATE_CQP, 30)).is_ok());
    }

    #[test]
    fn every_value_out_of_range_is_named_with_what_is_allowed() {
        type Change = fn(&mut qsv_config);
        let cases: [(Change, &str); 15] = [
            (|c| c.codec = 3, "codec = 3"),
            (|c| c.pixel_format = 9, "pixel_format = 9"),
            (|c| c.width = -2, "width = -2"),
            (|c| c.height = 0, "height = 0"),
            (|c| c.width = 321, "an even width"),
            (|c| c.width = 20_000, "sides from 1 to 16384"),
            (|c| c.fps_num = 0, "The frame rate = 0/1"),
            (|c| c.fps_num = 60_000, "The frame rate = 60000"),
            (|c| c.rate_control = 4, "rate_control = 4"),
            (|c| c.gop_frames = -2, "gop_frames = -2"),
            (|c| c.qp = 52, "qp = 52"),
            (|c| c.entropy = 3, "entropy = 3"),
            (|c| c.slices = 300, "slices = 300"),
            (|c| c.tile_columns = 4, "4x0 is not possible: allowed is 1x1 for h264"),
            (|c| c.reserved[6] = 1, "reserved is not 0"),
        ];
        for (change, text) in cases {
            let error = wanted(change).unwrap_err();
            assert_eq!(error.code, QSV_ERR_INVALID_ARGUMENT, "{error:?}");
            assert!(error.text.contains(text), "{error:?} has no {text:?}");
        }
    }

    #[test]
    fn text_is_read_and_refused_by_name() {
        let open = |preset: &CStr, profile: &CStr, level: &CStr| {
            wanted(|c| (c.preset, c.profile, c.level) = (preset.as_ptr(), profile.as_ptr(), level.as_ptr()))
        };
        let settings = open(c"superfast", c"high", c"4.1").unwrap().settings;
        assert_eq!(settings.preset, Preset::Named(X26xPreset::Superfast));
        assert_eq!((settings.profile, settings.level_idc), (Some(H264Profile::High), Some(41)));
        assert!(open(c"7", c"main", c"5").is_ok());
        for (error, text) in [
            (open(c"slowest", c"high", c"4.1"), "preset = slowest"),
            (open(c"fast", c"main10", c"4.1"), "profile = main10"),
            (open(c"fast", c"high", c"41"), "level = 41"),
            (open(c"\xff", c"high", c"4.1"), "preset = \"\\xff\""),
        ] {
            assert!(error.as_ref().is_err_and(|e| e.text.contains(text)), "{error:?}");
        }
    }

    #[test]
    fn a_longer_structure_may_ask_for_nothing_unknown_and_a_wrong_size_is_refused() {
        #[repr(C)]
        struct Longer(qsv_config, u64);
        let mut longer = Longer(config(), 0);
        longer.0.struct_size = size_of::<Longer>() as u32;
        // SAFETY: as many bytes as the structure says.
        assert!(unsafe { read(std::ptr::from_ref(&longer).cast()) }.is_ok());
        longer.1 = 1;
        // SAFETY: as above.
        assert_eq!(unsafe { read(std::ptr::from_ref(&longer).cast()) }.unwrap_err().code, QSV_ERR_UNSUPPORTED);
        for size in [0, 4, 167, 1 << 20] {
            assert!(wanted(|c| c.struct_size = size).unwrap_err().text.contains("struct_size"), "{size}");
        }
        // SAFETY: NULL is allowed.
        assert_eq!(unsafe { read(std::ptr::null()) }.unwrap_err().code, QSV_ERR_NULL_POINTER);
    }
}
