//! What no encoder of this build shows: frames that stay inside, a device that is lost, settings that must be given up.

use super::*;
use kernel_c_encode::encoder::{AccessUnitMeta, AuSink, Capabilities, PartKind, Parts};
use kernel_c_encode::error::EncoderError;
use kernel_c_encode::settings::{EncoderSettings, Gop};
use shm_protocol::frame::{Codec, Colour, PixelFormat, Rational};
use std::collections::VecDeque;

/// Keeps two frames inside, as a device does, and looks at their pixels only when they come out.
#[derive(Default)]
struct Late {
    inside: VecDeque<(Key, u64, *const u8, bool)>,
    lose_at: Option<u64>,
    /// What an emergency reset ends with; `None`: as an encoder without a device.
    resets: Option<Result<bool, EncoderError>>,
}

// SAFETY: the pointers are only followed while their frames are inside, as the trait promises them to be readable.
unsafe impl Send for Late {}

impl Late {
    fn out(&mut self, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        let Some((key, pts_ns, luma, idr)) = self.inside.pop_front() else { return Ok(()) };
        // SAFETY: the frame is inside until its unit is committed below.
        let first = unsafe { luma.read() };
        sink.buffer(2)?[..2].copy_from_slice(&[first, key.source_id as u8]);
        let mut parts = Parts::new();
        parts.push(2, PartKind::Slice);
        Ok(sink.commit(2, &AccessUnitMeta { key, pts_ns, idr, config: idr, parts })?)
    }
}

impl Encoder for Late {
    fn name(&self) -> &'static str {
        "late"
    }

    fn codec(&self) -> Codec {
        Codec::H264
    }

    fn path(&self) -> &str {
        "read late"
    }

    fn capabilities(&self) -> Capabilities {
        Capabilities {
            live_bitrate: true,
            idr_on_request: true,
            frame_qp: false,
            delay_frames: 2,
            pixel_formats: &[PixelFormat::Nv12],
            min_size: (2, 2),
            max_size: (64, 64),
            max_macroblocks: u32::MAX,
        }
    }

    fn encode(&mut self, frame: &EncodeInput<'_>, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        if self.lose_at == Some(frame.key.source_id) {
            return Err(EncoderError::DeviceLost { backend: "late", reason: "a test".to_owned() });
        }
        self.inside.push_back((frame.key, frame.pts_ns, frame.pixels.plane(0), frame.force_idr));
        if self.inside.len() > 2 { self.out(sink) } else { Ok(()) }
    }

    fn emergency_reset(&mut self) -> Result<bool, EncoderError> {
        self.resets.clone().unwrap_or(Ok(false))
    }

    fn set_bitrate(&mut self, _kbps: u32, _max_kbps: u32) -> Result<(), EncoderError> {
        Ok(())
    }

    fn collect(&mut self, sink: &mut dyn AuSink, _patience: Duration) -> Result<(), EncoderError> {
        self.out(sink)
    }

    fn flush(&mut self, sink: &mut dyn AuSink) -> Result<(), EncoderError> {
        while !self.inside.is_empty() {
            self.out(sink)?;
        }
        Ok(())
    }
}

fn wanted(backend: &str) -> Wanted {
    let fps = Rational::new(30, 1).unwrap();
    let format = VideoFormat::packed(PixelFormat::Nv12, 64, 64, fps, Colour::BT709_LIMITED).unwrap();
    let settings = EncoderSettings { gop: Gop::Infinite, ..EncoderSettings::live(Codec::H264, format, 500) };
    Wanted { backend: backend.to_owned(), settings }
}

fn late(lose_at: Option<u64>) -> State {
    let mut state = State::open(wanted("auto")).unwrap();
    state.encoder = Some(Box::new(Late { lose_at, ..Late::default() }));
    state
}

/// A frame of 64 × 64 whose planes are apart from each other, so that it is copied, with this first luma byte.
struct Planes(Vec<u8>, Vec<u8>);

impl Planes {
    fn new(first: u8) -> Planes {
        Planes(vec![first; 64 * 64], vec![128; 64 * 32])
    }

    fn frame(&self) -> qsv_frame {
        let null = std::ptr::null();
        qsv_frame {
            data: [self.0.as_ptr(), self.1.as_ptr(), null, null],
            stride: [64, 64, 0, 0],
            width: 0,
            height: 0,
            pixel_format: QSV_PIXEL_NV12,
            flags: 0,
            frame_id: 0,
            pts_ns: 0,
            bitrate_bps: 0,
            reserved: [0; 4],
        }
    }
}

fn encode(state: &mut State, first: u8) -> Result<(), Failure> {
    let planes = Planes::new(first);
    // SAFETY: the planes live for the call, and being copied they are not looked at afterwards.
    unsafe { state.encode(&planes.frame(), &AtomicBool::new(false)) }
}

/// The next unit: its bytes, frame and flags.
fn next(state: &mut State) -> Option<(Vec<u8>, u64, u32)> {
    let unit = state.units.take()?;
    let seen = (unit.bytes.clone(), unit.frame_id, unit.flags);
    state.units.give_back(unit);
    Some(seen)
}

#[test]
fn frames_that_stay_inside_come_out_in_order_with_their_own_pixels() {
    let mut state = late(None);
    for first in [10, 20] {
        encode(&mut state, first).unwrap();
        assert_eq!(state.units.waiting(), 0);
    }
    assert_eq!((state.inside.len(), state.free.len()), (2, 0), "their copies are in use");
    encode(&mut state, 30).unwrap();
    assert_eq!(next(&mut state), Some((vec![10, 1], 1, QSV_UNIT_IDR | QSV_UNIT_CONFIG)));
    state.collect(Duration::ZERO).unwrap();
    assert_eq!(next(&mut state), Some((vec![20, 2], 2, 0)));
    state.flush().unwrap();
    assert_eq!(next(&mut state), Some((vec![30, 3], 3, 0)));
    assert_eq!((state.inside.len(), state.free.len()), (0, 3), "and free when they are out");
    // The stream goes on after a flush, in the same memory.
    for first in [40, 50, 60] {
        encode(&mut state, first).unwrap();
    }
    assert_eq!(next(&mut state), Some((vec![40, 4], 4, 0)));
    assert_eq!(state.inside.len() + state.free.len(), 3);
}

#[test]
fn a_lost_device_is_said_and_after_the_reset_no_frame_is_missing_and_an_idr_begins() {
    let mut state = late(Some(3));
    encode(&mut state, 10).unwrap();
    encode(&mut state, 20).unwrap();
    assert_eq!(encode(&mut state, 30).unwrap_err().code, QSV_ERR_DEVICE_LOST);
    // The name of what was lost is none that can be opened; "auto" takes what there is.
    let given_up = state.reset().unwrap();
    assert!(given_up.unwrap().contains("in place of late"));
    encode(&mut state, 30).unwrap();
    for frame in 1..=3 {
        let (bytes, frame_id, flags) = next(&mut state).unwrap();
        assert!(bytes.starts_with(&[0, 0, 0, 1, 9]) && bytes.len() > 20, "a picture of a real encoder");
        assert_eq!((frame_id, flags & QSV_UNIT_IDR != 0), (frame, frame == 1));
    }
    assert_eq!(next(&mut state), None);
    assert!(state.inside.is_empty());
}

#[test]
fn a_device_that_its_backend_resets_keeps_its_frames_and_nothing_is_opened_anew() {
    let mut state = late(None);
    state.encoder = Some(Box::new(Late { resets: Some(Ok(true)), ..Late::default() }));
    encode(&mut state, 10).unwrap();
    encode(&mut state, 20).unwrap();
    assert_eq!(state.reset(), Ok(None));
    assert_eq!(state.encoder().unwrap().name(), "late");
    state.flush().unwrap();
    assert_eq!(next(&mut state), Some((vec![10, 1], 1, QSV_UNIT_IDR | QSV_UNIT_CONFIG)));
    assert_eq!(next(&mut state), Some((vec![20, 2], 2, 0)));
}

#[test]
fn frames_wait_for_a_reset_that_works_and_the_idr_asked_for_is_one() {
    let mut state = late(None);
    let device = || EncoderError::DeviceLost { backend: "late", reason: "a test".to_owned() };
    state.encoder = Some(Box::new(Late { resets: Some(Err(device())), ..Late::default() }));
    state.wanted.backend = "late".to_owned();
    let planes: Vec<Planes> = (1..=2).map(|number| Planes::new(number * 10)).collect();
    for (planes, flags) in planes.iter().zip([0, QSV_FRAME_FORCE_IDR]) {
        // SAFETY: the planes live until the end of the test.
        unsafe { state.encode(&qsv_frame { flags, ..planes.frame() }, &AtomicBool::new(false)) }.unwrap();
    }
    // There is none of that name.
    assert_eq!(state.reset().unwrap_err().code, QSV_ERR_INVALID_ARGUMENT);
    assert_eq!((state.inside.len(), state.units.waiting()), (2, 0));
    assert_eq!(encode(&mut state, 30).unwrap_err().code, QSV_ERR_DEVICE_LOST);
    state.wanted.backend = "openh264".to_owned();
    assert_eq!(state.reset(), Ok(None));
    for frame in 1..=2 {
        let (bytes, frame_id, flags) = next(&mut state).unwrap();
        assert_eq!((bytes.len() > 20, frame_id, flags & QSV_UNIT_IDR), (true, frame, QSV_UNIT_IDR));
    }
}

#[test]
fn frame_ids_that_have_come_to_their_end_are_refused() {
    let mut state = late(None);
    let planes = Planes::new(1);
    let mut encode = |frame_id| {
        // SAFETY: the planes live until the end of the test.
        unsafe { state.encode(&qsv_frame { frame_id, ..planes.frame() }, &AtomicBool::new(false)) }
    };
    encode(u64::MAX).unwrap();
    for id in [0, 1, u64::MAX] {
        assert_eq!(encode(id).unwrap_err().code, QSV_ERR_INVALID_ARGUMENT, "{id}");
    }
}

#[test]
fn a_wish_for_an_idr_outlives_a_frame_that_was_refused() {
    let mut state = late(Some(2));
    let (planes, asked) = (Planes::new(1), AtomicBool::new(false));
    // SAFETY: the planes live for the call, and being copied they are not looked at afterwards.
    let encode = |state: &mut State| unsafe { state.encode(&planes.frame(), &asked) };
    encode(&mut state).unwrap();
    asked.store(true, Ordering::Relaxed);
    assert!(encode(&mut state).is_err());
    assert!(asked.load(Ordering::Relaxed));
    state.encoder = Some(Box::new(Late::default()));
    encode(&mut state).unwrap();
    assert!(!asked.load(Ordering::Relaxed));
    state.flush().unwrap();
    // The first went with its encoder; this one is the second, with the wish.
    assert_eq!(next(&mut state), Some((vec![1, 2], 2, QSV_UNIT_IDR | QSV_UNIT_CONFIG)));
}

#[test]
fn a_reset_gives_up_settings_before_the_backend_and_neither_where_one_was_asked_for() {
    let plain = wanted("openh264").settings;
    let (encoder, given_up) = reset::reopen("openh264", Some("openh264"), &plain).unwrap();
    assert_eq!((encoder.name(), given_up), ("openh264", None));
    // Which openh264 has not.
    let refresh = EncoderSettings { intra_refresh: true, ..plain.clone() };
    let (encoder, given_up) = reset::reopen("auto", Some("openh264"), &refresh).unwrap();
    let given_up = given_up.unwrap();
    assert_eq!(encoder.name(), "openh264");
    assert!(given_up.starts_with("openh264 with fallback settings, because: intra_refresh = true"), "{given_up}");
    // Which never makes H.264.
    let (_, given_up) = reset::reopen("auto", Some("svtav1"), &plain).unwrap();
    assert!(given_up.unwrap().contains("in place of svtav1, because: "));
    assert!(reset::reopen("svtav1", Some("svtav1"), &plain).is_err());
}

#[test]
fn a_context_without_an_encoder_says_how_to_get_one() {
    let mut state = State::open(wanted("openh264")).unwrap();
    state.encoder = None;
    let failure = encode(&mut state, 1).unwrap_err();
    assert_eq!(failure.code, QSV_ERR_DEVICE_LOST);
    assert!(failure.text.contains("qsv_emergency_reset"));
    assert_eq!(state.reset(), Ok(None));
    encode(&mut state, 1).unwrap();
    assert_eq!(state.units.waiting(), 1);
}
