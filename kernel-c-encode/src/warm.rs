//! Encoders made ready before this process holds its lease: opened for the frames that are in the ring now and warmed
//! up on a private picture, so that the first one for the stream costs no more than any later IDR.

use crate::configured::{failure, settings};
use crate::encoder::{AccessUnitMeta, AuSink, EncodeInput, Encoder, Key, LeftOut};
use crate::error::{EncoderError, SinkError};
use crate::select;
use crate::settings::EncoderSettings;
use kernel_host::config::Encode;
use kernel_host::exit::Failure;
use kernel_host::prepare::{Prepare, Surroundings};
use shm_protocol::descriptor::StreamFormat;
use shm_protocol::frame::{Codec, VideoFormat};
use shm_protocol::pixels::PixelsRead;

/// What a candidate keeps for the time when it encodes.
#[derive(Default)]
pub struct Warm {
    /// The format that `ready` was opened for; kept when nothing could be, so that it is not tried again and again.
    prepared: Option<VideoFormat>,
    /// One for an even and one for an odd number of IDR pictures: which of the two is needed is known when the lease
    /// comes, and the library does not change its mind.
    ready: Vec<(EncoderSettings, Box<dyn Encoder>)>,
}

impl Warm {
    /// The encoder that was opened with these settings, if there is one; its bitrate is changed to what is wanted.
    pub fn take(&mut self, wanted: &EncoderSettings) -> Option<Box<dyn Encoder>> {
        self.prepared = None;
        let fits = |settings: &EncoderSettings| {
            let idr_count = wanted.idr_count % 2;
            let (bitrate_kbps, max_bitrate_kbps) = (settings.bitrate_kbps, settings.max_bitrate_kbps);
            *settings == EncoderSettings { idr_count, bitrate_kbps, max_bitrate_kbps, ..wanted.clone() }
        };
        let index = self.ready.iter().position(|(settings, _)| fits(settings))?;
        let (settings, mut encoder) = self.ready.swap_remove(index);
        let changed =
            (settings.bitrate_kbps, settings.max_bitrate_kbps) != (wanted.bitrate_kbps, wanted.max_bitrate_kbps);
        // One that its level does not allow needs an encoder of another level.
        let follows = !changed || encoder.set_bitrate(wanted.bitrate_kbps, wanted.max_bitrate_kbps).is_ok();
        follows.then_some(encoder)
    }

    /// Gives back the memory of what was not needed.
    pub fn clear(&mut self) {
        self.ready.clear();
    }

    fn open(
        &mut self,
        config: &Encode,
        around: &Surroundings<'_>,
        (format, bitrate_kbps): (&VideoFormat, u32),
        frame: &[u8],
    ) -> Result<Option<String>, Failure> {
        let Ok(picture) = PixelsRead::from_slice(format, frame) else { return Ok(None) };
        for idr_count in 0..2 {
            // Half the chance is better than a stream that waits.
            if idr_count > 0 && around.is_urgent() {
                break;
            }
            let settings = settings(config, format, bitrate_kbps, idr_count)?;
            // Opened here: threads of the library must not inherit that the warming up steps back.
            let mut encoder = open_for_warm_up(config.backend.name(), &settings).map_err(failure)?;
            let cold = encoder.as_mut();
            around.aside(move || warm_up(cold, picture))?.map_err(failure)?;
            self.ready.push((settings, encoder));
        }
        let name = self.ready.first().map_or("none", |(_, encoder)| encoder.name());
        Ok(Some(format!("{name} {}x{} at {bitrate_kbps} kb/s, encoded a private picture", format.width, format.height)))
    }
}

/// Opens an encoder that goes on with a stream as `settings` say once it was warmed up.
///
/// # Errors
/// As [`select::open`].
pub fn open_for_warm_up(backend: &str, settings: &EncoderSettings) -> Result<Box<dyn Encoder>, EncoderError> {
    // The private picture counts as an IDR in the library; the stream never sees it.
    let before = EncoderSettings { idr_count: settings.idr_count.wrapping_sub(1), ..settings.clone() };
    Ok(select::open(backend, &before)?.encoder)
}

/// Encodes a private picture, so that the library's memory and threads are there. Its next picture is an IDR only if
/// that is asked for.
///
/// # Errors
/// As [`Encoder::encode`].
pub fn warm_up(encoder: &mut dyn Encoder, pixels: PixelsRead<'_>) -> Result<(), EncoderError> {
    let input =
        EncodeInput { pixels, key: Key::default(), memory: None, qp: None, pts_ns: 0, force_idr: true, idr_count: 0 };
    let mut sink = Discard::default();
    encoder.encode(&input, &mut sink)?;
    // A device may keep the picture, whose key the stream does not know and whose pixels go with this call.
    encoder.flush(&mut sink)
}

/// Where a private picture goes.
#[derive(Default)]
struct Discard(Vec<u8>);

impl AuSink for Discard {
    fn buffer(&mut self, len: usize) -> Result<&mut [u8], SinkError> {
        self.0.resize(len, 0);
        Ok(&mut self.0)
    }

    fn commit(&mut self, _len: usize, _meta: &AccessUnitMeta) -> Result<(), SinkError> {
        Ok(())
    }

    fn left_out(&mut self, _key: Key, _reason: LeftOut) -> Result<(), SinkError> {
        Ok(())
    }
}

impl Prepare for Warm {
    fn prepare(&mut self, around: &Surroundings<'_>) -> Result<Option<String>, Failure> {
        let Some(config) = around.config.encode(&around.name.name) else { return Ok(None) };
        let output = around.output()?;
        let Some(input) = around.input(&config.input)? else { return Ok(None) };
        let Some(StreamFormat::Video(format)) = input.format() else { return Ok(None) };
        let asked_kbps = output.and_then(|ring| ring.last_bitrate_kbps());
        let bitrate_kbps = asked_kbps.unwrap_or(config.bitrate_kbps);
        // A bitrate that changes meanwhile is no reason to begin again: the encoder changes it when it is needed.
        if self.prepared == Some(format) {
            return Ok(None);
        }
        let Some(frame) = input.copy_newest(around.directory) else { return Ok(None) };
        self.prepared = Some(format);
        self.ready.clear();
        if settings(config, &format, bitrate_kbps, 0)?.codec == Codec::Null {
            // It has nothing to warm up, and counts its pictures in what it sends.
            return Ok(Some("null".to_owned()));
        }
        self.open(config, around, (&format, bitrate_kbps), &frame)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm_protocol::frame::{Colour, PixelFormat, Rational};

    fn warm() -> (Warm, EncoderSettings) {
        let fps = Rational::new(30, 1).unwrap();
        let format = VideoFormat::packed(PixelFormat::Nv12, 320, 180, fps, Colour::BT709_LIMITED).unwrap();
        let settings = EncoderSettings::live(Codec::H264, format, 500);
        let open = |idr_count| {
            let settings = EncoderSettings { idr_count, ..settings.clone() };
            (settings.clone(), open_for_warm_up("openh264", &settings).unwrap())
        };
        (Warm { prepared: Some(format), ready: vec![open(0), open(1)] }, settings)
    }

    #[test]
    fn the_encoder_of_the_right_parity_is_taken_once() {
        let (mut warm, settings) = warm();
        let wanted = EncoderSettings { idr_count: 7, ..settings.clone() };
        assert!(warm.take(&wanted).is_some());
        assert!(warm.take(&wanted).is_none(), "there was one of each");
        assert!(warm.take(&EncoderSettings { idr_count: 8, ..settings.clone() }).is_some());
    }

    #[test]
    fn other_settings_need_another_encoder_and_another_bitrate_does_not() {
        let (mut warm, settings) = warm();
        assert!(warm.take(&EncoderSettings { slices: 2, ..settings.clone() }).is_none());
        assert!(warm.take(&EncoderSettings { bitrate_kbps: 700, ..settings.clone() }).is_some());
        // Far above the level that was chosen for 500 kb/s.
        assert!(warm.take(&EncoderSettings { bitrate_kbps: 100_000, idr_count: 1, ..settings.clone() }).is_none());
    }
}
