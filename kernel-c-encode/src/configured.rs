//! What the configuration asks of an encoder, in the encoder's own terms, and its errors in the host's.

use crate::error::EncoderError;
use crate::settings::{EncoderSettings, Gop, H264Profile, Preset, RateControl};
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
    refuse_absent(config)?;
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
    match config.rate_control {
        ConfiguredRateControl::Cqp => {
            settings.rate_control = RateControl::ConstantQp;
            settings.qp = u8::try_from(config.qp.unwrap_or(26)).unwrap_or(u8::MAX);
        }
        ConfiguredRateControl::Icq => {
            return Err(refuse("rate_control", "icq", "cbr, vbr or cqp with the encoders of this build"));
        }
        ConfiguredRateControl::Vbr => settings.max_bitrate_kbps = config.peak_bitrate_kbps().max(kbps),
        ConfiguredRateControl::Cbr => {}
    }
    settings.profile = match config.profile.as_deref() {
        None | Some("baseline" | "constrained-baseline") => H264Profile::ConstrainedBaseline,
        Some("main") => H264Profile::Main,
        Some("high") => H264Profile::High,
        Some(other) => return Err(refuse("profile", other, "baseline, main or high")),
    };
    settings.preset = match config.preset.as_deref() {
        None | Some("fast") => Preset::Fast,
        Some("medium") => Preset::Medium,
        Some("quality") => Preset::Quality,
        // The null encoder has one choice: whether it reads the picture.
        Some("read") if codec == Codec::Null => Preset::Quality,
        Some(other) if codec == Codec::Null => return Err(refuse("preset", other, "fast or read with backend null")),
        Some(other) => return Err(refuse("preset", other, "fast, medium or quality")),
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

/// Refuses what no encoder of this build has: a key that is accepted and changes nothing is a trap.
fn refuse_absent(config: &Encode) -> Result<(), Failure> {
    let absent = [
        ("device", config.device.is_some()),
        ("tile_columns", config.tile_columns.is_some()),
        ("tile_rows", config.tile_rows.is_some()),
        ("intra_refresh", config.intra_refresh),
        ("async_depth", config.async_depth.is_some()),
    ];
    match absent.iter().find(|(_, wanted)| *wanted) {
        Some((key, _)) => {
            let text = format!("encode.{key} is not in this build: its encoders run in software, and none has it");
            Err(Failure::new(Exit::Unavailable, text))
        }
        None => Ok(()),
    }
}

/// The failure an encoder's error is: a missing library has an exit code of its own.
pub fn failure(error: EncoderError) -> Failure {
    match Exit::from_code(i32::from(error.exit_code())) {
        Some(exit) => Failure::new(exit, error),
        None => Failure::recover(error.recovery(), error),
    }
}
