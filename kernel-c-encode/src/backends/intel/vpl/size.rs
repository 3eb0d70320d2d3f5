//! Another size of frame in the session that is there: no runtime is looked for, no device opened and no surface of the
//! runtime allocated anew.

use super::encode::Vpl;
use crate::settings::EncoderSettings;
use shm_protocol::frame::VideoFormat;

/// Whether `wanted` differs from `now` in the size of the frames alone. A bitrate has its own way in, and the count of
/// IDR pictures is where a stream begins.
fn only_size_differs(now: &EncoderSettings, wanted: &EncoderSettings) -> bool {
    let VideoFormat { width, height, coded_width, coded_height, planes, .. } = now.format;
    let format = VideoFormat { width, height, coded_width, coded_height, planes, ..wanted.format };
    let &EncoderSettings { bitrate_kbps, max_bitrate_kbps, idr_count, .. } = now;
    EncoderSettings { format, bitrate_kbps, max_bitrate_kbps, idr_count, ..wanted.clone() } == *now
}

impl Vpl {
    /// Goes on with frames of the size in `wanted`, from an IDR on. `false`: a new session has to be opened for it.
    pub(super) fn take_size(&mut self, wanted: &EncoderSettings) -> bool {
        if !self.order.is_empty() || !only_size_differs(&self.settings, wanted) {
            return false;
        }
        let settings = EncoderSettings { format: wanted.format, ..self.settings.clone() };
        let Some(engine) = &mut self.engine else { return false };
        if let Err(reason) = engine.change_size(&settings) {
            tracing::info!(reason, "The session does not take the new size: another one is opened");
            return false;
        }
        self.settings = settings;
        // The reset began a sequence, whatever the last frames left owed.
        (self.idr_owed, self.restart_owed) = (true, None);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm_protocol::frame::{Codec, Colour, PixelFormat, Rational};

    #[test]
    fn a_size_is_the_only_thing_that_may_differ() {
        let live = |width, height, fps, colour| {
            let fps = Rational::new(fps, 1).unwrap();
            let format = VideoFormat::packed(PixelFormat::Nv12, width, height, fps, colour).unwrap();
            EncoderSettings::live(Codec::H264, format, 1000)
        };
        let now = live(640, 360, 30, Colour::BT709_LIMITED);
        let smaller = live(320, 180, 30, Colour::BT709_LIMITED);
        assert!(only_size_differs(&now, &smaller));
        assert!(only_size_differs(&now, &EncoderSettings { bitrate_kbps: 700, idr_count: 9, ..smaller.clone() }));
        assert!(!only_size_differs(&now, &EncoderSettings { slices: 2, ..smaller }));
        assert!(!only_size_differs(&now, &live(320, 180, 60, Colour::BT709_LIMITED)));
        let other = Colour { matrix: 9, ..Colour::BT709_LIMITED };
        assert!(!only_size_differs(&now, &live(320, 180, 30, other)));
    }
}
