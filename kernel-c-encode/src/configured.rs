//! What the configuration asks of an encoder, in the encoder's own terms, and its errors in the host's.

use crate::error::EncoderError;
use crate::settings::{EncoderSettings, Entropy, Gop, H264Profile, Preset, RateControl, X26xPreset};
use kernel_host::config::{Backend, Encode, RateControl as ConfiguredRateControl};
use kernel_host::exit::{Exit, Failure};
use shm_protocol::frame::{Codec, VideoFormat};

/// The settings for frames of `format`, at `kbps` and with so many IDR pictures before.
///
/// # Errors
/// [`Failure`] of configuration: the key, what was given and what is allowed.
pub fn settings(config: &Encode, format: &VideoFormat, kbps: u32, idr_count: u32) -> Result<EncoderSettings, Failure> {
    let refuse = |key: &str, given: &str, allowed: &str| {
        Failure::new(Exit::Config, format!("encode.{key} = \"{given}\" is not possible: allowed is {allowed}"))
    };
    let codec = if config.backend == Backend::Null { Codec::Null } else { config.codec.codec() };
    let mut settings = EncoderSettings::live(codec, *format, kbps);
    settings.gop = config.gop.frames(format.fps).map_or(Gop::Infinite, Gop::Frames);
    settings.low_latency = config.low_latency;
    settings.idr_count = idr_count;
    settings.slices = small(config.slices);
    settings.threads = match config.threads {
        Some(threads) => small(Some(threads)),
        // As many as there are cpus to run on: a thread more only waits.
        None => config.cpus.as_ref().map_or(1, |cpus| small(Some(cpus.len() as u32))),
    };
    if let Some(vbv_ms) = config.vbv_ms {
        settings.vbv_ms = vbv_ms;
    }
    settings.tile_columns = small(config.tile_columns);
    settings.tile_rows = small(config.tile_rows);
    settings.intra_refresh = config.intra_refresh;
    settings.leave_frames_out = config.leave_frames_out;
    settings.async_depth = small(config.async_depth);
    settings.device = config.device.clone();
    settings.rate_control = match config.rate_control {
        ConfiguredRateControl::Cbr => RateControl::Constant,
        ConfiguredRateControl::Vbr => RateControl::Variable,
        ConfiguredRateControl::Cqp => RateControl::ConstantQp,
        ConfiguredRateControl::Icq => RateControl::ConstantQuality,
    };
    if settings.rate_control == RateControl::Variable {
        settings.max_bitrate_kbps = config.peak_bitrate_kbps().max(kbps);
    }
    if let Some(qp) = config.qp {
        settings.qp = small(Some(qp));
    }
    profile(&mut settings, config.profile.as_deref())?;
    settings.entropy = match config.entropy.as_deref() {
        None => None,
        Some("cavlc") => Some(Entropy::Cavlc),
        Some("cabac") => Some(Entropy::Cabac),
        Some(other) => return Err(refuse("entropy", other, "cabac or cavlc")),
    };
    settings.preset = match config.preset.as_deref() {
        None | Some("fast") => Preset::Fast,
        Some("medium") => Preset::Medium,
        Some("quality") => Preset::Quality,
        // The null encoder has one choice: whether it reads the picture.
        Some("read") if codec == Codec::Null => Preset::Quality,
        Some(other) if codec == Codec::Null => return Err(refuse("preset", other, "fast or read with backend null")),
        Some(other) => match (X26xPreset::from_name(other), other.parse()) {
            (Some(named), _) => Preset::Named(named),
            (None, Ok(number)) => Preset::Number(number),
            _ => {
                let allowed = "fast, medium, quality, a preset of x264 and x265 such as superfast, or a number";
                return Err(refuse("preset", other, allowed));
            }
        },
    };
    settings.level_idc = match config.level.as_deref() {
        None => None,
        Some(text) => match text.parse::<f64>() {
            Ok(level) if (1.0..=6.2).contains(&level) => Some((level * 10.0).round() as u8),
            _ => return Err(refuse("level", text, "a level such as \"4.1\"")),
        },
    };
    Ok(settings)
}

/// A count of slices or threads; what is beyond a byte is beyond every backend and refused by its check.
fn small(count: Option<u32>) -> u8 {
    count.map_or(0, |count| u8::try_from(count).unwrap_or(u8::MAX))
}

/// Takes the profile of the codec. Those of HEVC and AV1 say no more than the bit depth, which the frames have.
fn profile(settings: &mut EncoderSettings, given: Option<&str>) -> Result<(), Failure> {
    let ten_bit = settings.bit_depth() == 10;
    let allowed = match (settings.codec, given) {
        (_, None) => return Ok(()),
        (Codec::H264 | Codec::Null, Some("baseline" | "constrained-baseline")) => {
            settings.profile = Some(H264Profile::ConstrainedBaseline);
            return Ok(());
        }
        (Codec::H264 | Codec::Null, Some("main")) => {
            settings.profile = Some(H264Profile::Main);
            return Ok(());
        }
        (Codec::H264 | Codec::Null, Some("high")) => {
            settings.profile = Some(H264Profile::High);
            return Ok(());
        }
        (Codec::Hevc, Some("main")) if !ten_bit => return Ok(()),
        (Codec::Hevc, Some("main10")) if ten_bit => return Ok(()),
        (Codec::Av1, Some("main")) => return Ok(()),
        (Codec::H264 | Codec::Null, _) => "baseline, main or high",
        (Codec::Hevc, _) if ten_bit => "main10 for these frames of 10 bit",
        (Codec::Hevc, _) => "main for these frames of 8 bit (process.format = \"p010\" makes 10 bit)",
        (Codec::Av1, _) => "main, which has 8 and 10 bit",
    };
    let given = given.unwrap_or_default();
    let text = format!("encode.profile = \"{given}\" is not possible: allowed is {allowed}");
    Err(Failure::new(Exit::Config, text))
}

/// The failure an encoder's error is: a missing library has an exit code of its own.
pub fn failure(error: EncoderError) -> Failure {
    match Exit::from_code(i32::from(error.exit_code())) {
        Some(exit) => Failure::new(exit, error),
        None => Failure::recover(error.recovery(), error),
    }
}
