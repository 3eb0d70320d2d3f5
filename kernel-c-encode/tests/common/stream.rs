//! What every software encoder promises of its stream beyond the conformance suite, tried on one of them. What is
//! special about each stands in its own test file.

use super::direct::{nv12_and_i420, sizes_by_quantiser};
use super::{FPS, Keep, encode, fill, have, nv12, run, small};
use kernel_c_encode::encoder::{EncodeInput, Encoder, Key};
use kernel_c_encode::error::EncoderError;
use kernel_c_encode::settings::{EncoderSettings, Gop, RateControl};
use kernel_c_encode::warm::{open_for_warm_up, warm_up};
use shm_protocol::frame::{Codec, Colour, PixelFormat, VideoFormat};
use shm_protocol::pixels::PixelsRead;

/// A change of settings and a part of the words it is refused with.
pub type Refusal<'a> = (&'a dyn Fn(&mut EncoderSettings), &'a str);

/// A software encoder.
pub struct Backend {
    /// Its name in the configuration.
    pub name: &'static str,
    /// What it makes.
    pub codec: Codec,
    /// Opens it.
    pub open: fn(&EncoderSettings) -> Result<Box<dyn Encoder>, EncoderError>,
}

impl Backend {
    /// Whether its library is on this machine; says so when not.
    pub fn there(&self) -> bool {
        have(self.name, self.codec)
    }

    /// Opens it.
    pub fn open(&self, settings: &EncoderSettings) -> Box<dyn Encoder> {
        (self.open)(settings).unwrap()
    }

    /// What a new one makes of frames 0 to `count`, with an IDR asked for at those in `idr_at`.
    pub fn run(&self, settings: &EncoderSettings, count: u64, idr_at: &[u64], noise: u32) -> Keep {
        run(self.open(settings).as_mut(), &settings.format, count, idr_at, noise)
    }

    /// Its units of that many frames, an IDR asked for at 11, are those of the library used directly behind `front`
    /// bytes of ours.
    pub fn gives_the_librarys_own(&self, settings: &EncoderSettings, front: usize, theirs: &[Vec<u8>], what: &str) {
        let ours = self.run(settings, theirs.len() as u64, &[11], 24);
        assert_eq!(ours.units().len(), theirs.len());
        for ((meta, bytes), direct) in ours.units().into_iter().zip(theirs) {
            assert!(!direct.is_empty());
            assert!(bytes[front..] == *direct, "frame {}: {what}", meta.key.source_id);
        }
    }

    /// The same picture gives the same stream in both layouts, and so many bytes of each are copied for the library.
    pub fn does_not_care_whether_chroma_is_interleaved(&self, copied_bytes: (u64, u64)) {
        const COUNT: u64 = 10;
        let settings = small(self.codec);
        let format = settings.format;
        let planar =
            VideoFormat::packed(PixelFormat::I420, format.width, format.height, format.fps, format.colour).unwrap();
        let mut from_nv12 = self.open(&settings);
        let mut from_i420 = self.open(&EncoderSettings { format: planar, ..settings });
        let (mut a, mut b) = (Keep::default(), Keep::default());
        for index in 0..COUNT {
            let (bytes, other) = nv12_and_i420(&format, &planar, index, 8);
            let key = Key { source_id: 1000 + index, sub: 0 };
            let input = |pixels| EncodeInput {
                pixels,
                memory: None,
                qp: None,
                key,
                pts_ns: index,
                force_idr: false,
                idr_count: 0,
            };
            from_nv12.encode(&input(PixelsRead::from_slice(&format, &bytes).unwrap()), &mut a).unwrap();
            from_i420.encode(&input(PixelsRead::from_slice(&planar, &other).unwrap()), &mut b).unwrap();
        }
        assert!(!a.stream().is_empty());
        assert_eq!(a.stream(), b.stream());
        let copied = (from_nv12.copied_bytes() / COUNT, from_i420.copied_bytes() / COUNT);
        assert_eq!(copied, copied_bytes);
    }

    /// One that was warmed up gives the units a new one would, of the same kinds; `compare` looks at both streams. Tried
    /// behind each of these numbers of IDR pictures.
    pub fn goes_on_after_warming_up(&self, idr_counts: std::ops::Range<u32>, compare: impl Fn(&Keep, &Keep)) {
        for idr_count in idr_counts {
            let settings = EncoderSettings { gop: Gop::Infinite, idr_count, ..small(self.codec) };
            let mut bytes = vec![0; settings.format.frame_bytes() as usize];
            fill(&settings.format, 0, 8, &mut bytes);
            let mut warm = open_for_warm_up(self.name, &settings).unwrap();
            warm_up(warm.as_mut(), PixelsRead::from_slice(&settings.format, &bytes).unwrap()).unwrap();
            let kept = run(warm.as_mut(), &settings.format, 5, &[0, 3], 8);
            let cold = self.run(&settings, 5, &[3], 8);
            let kinds = |kept: &Keep| kept.units().iter().map(|(m, _)| (m.key, m.idr)).collect::<Vec<_>>();
            assert_eq!(kinds(&kept), kinds(&cold), "{idr_count} IDR pictures before");
            compare(&kept, &cold);
        }
    }

    /// A frame's own quantiser is followed while no bitrate is held.
    pub fn follows_a_frames_own_quantiser(&self) {
        let settings = EncoderSettings { rate_control: RateControl::ConstantQp, qp: 30, ..small(self.codec) };
        let mut encoder = self.open(&settings);
        assert!(encoder.capabilities().frame_qp && !encoder.capabilities().live_bitrate);
        let qps = [None, Some(30), Some(45), Some(12), None];
        let len = sizes_by_quantiser(encoder.as_mut(), &settings.format, &qps);
        // x264's arithmetic coder starts from another idr_pic_id: a byte more or less.
        assert!(len[0].abs_diff(len[1]) <= 2 && len[0].abs_diff(len[4]) <= 2, "{len:?}");
        assert!(len[2] * 2 < len[0] && len[0] * 2 < len[3], "{len:?}");
    }

    /// Each of these changes is refused in these words when it is opened, as an error of the configuration, and so is a
    /// frame of another size later.
    pub fn refuses(&self, refusals: &[Refusal<'_>]) {
        for (change, text) in refusals {
            let mut settings = small(self.codec);
            change(&mut settings);
            let error = (self.open)(&settings).err().unwrap_or_else(|| panic!("{text}: opened"));
            assert!(error.to_string().contains(text) && error.exit_code() == 78, "{error}");
        }
        let mut encoder = self.open(&small(self.codec));
        let other = nv12(320, 182, FPS, Colour::BT709_LIMITED);
        let error = encode(encoder.as_mut(), &other, 0, false, 8, &mut Keep::default()).unwrap_err();
        assert!(error.to_string().contains("320x182") && error.to_string().contains("320x180"), "{error}");
    }

    /// Live bitrates of 0, above what any backend takes, and above `most` are refused with what is allowed, and so is
    /// any while a quality is held; the encoder goes on.
    pub fn refuses_bitrates_that_cannot_be(&self, most_kbps: u32, most: &str) {
        let mut encoder = self.open(&small(self.codec));
        let refused = |encoder: &mut dyn Encoder, kbps: u32, text: &str| {
            let error = encoder.set_bitrate(kbps, 0).unwrap_err();
            let begin = format!("bitrate_kbps = {kbps} is not possible: allowed is ");
            assert!(error.to_string().starts_with(&begin) && error.to_string().contains(text), "{error}");
        };
        refused(encoder.as_mut(), 0, "1 to ");
        refused(encoder.as_mut(), u32::MAX, "1 to ");
        refused(encoder.as_mut(), most_kbps + 1, most);
        encoder.set_bitrate(most_kbps, 0).unwrap();
        encode(encoder.as_mut(), &small(self.codec).format, 0, false, 8, &mut Keep::default()).unwrap();
        let quality = EncoderSettings { rate_control: RateControl::ConstantQp, ..small(self.codec) };
        refused(self.open(&quality).as_mut(), 1000, "nothing while rate_control is cqp");
    }
}
