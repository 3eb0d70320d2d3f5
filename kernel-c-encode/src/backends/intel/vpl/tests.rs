//! Parameters, without a runtime.

use super::buffers::{Ext, Params};
use super::params::{self, OFF, ON};
use super::rate;
use crate::settings::{EncoderSettings, Entropy, Gop, H264Profile, Preset, RateControl, X26xPreset};
use onevpl_sys as vpl;
use shm_protocol::frame::{ChromaSiting, Codec, Colour, PixelFormat, Rational, VideoFormat};

fn settings(codec: Codec, pixel_format: PixelFormat, width: u32, height: u32) -> EncoderSettings {
    let fps = Rational::new(60, 1).unwrap();
    let format = VideoFormat::packed(pixel_format, width, height, fps, Colour::BT709_LIMITED).unwrap();
    EncoderSettings::live(codec, format, 8_000)
}

fn h264() -> EncoderSettings {
    settings(Codec::H264, PixelFormat::Nv12, 1920, 1080)
}

fn build(settings: &EncoderSettings) -> Params {
    params::build(settings, true).unwrap()
}

fn refused(settings: &EncoderSettings) -> String {
    params::build(settings, true).unwrap_err().to_string()
}

#[test]
fn low_latency_has_one_frame_inside_no_b_frames_no_hrd_and_low_delay() {
    let params = build(&h264());
    assert_eq!((params.video.AsyncDepth, params.coding().GopRefDist, params.coding().NumRefFrame), (1, 1, 1));
    assert_eq!(u32::from(params.video.IOPattern), vpl::MFX_IOPATTERN_IN_VIDEO_MEMORY);
    assert!(params.has(Ext::Coding) && params.has(Ext::Coding2) && params.has(Ext::Coding3));
    assert_eq!((params.ext.coding.NalHrdConformance, params.ext.coding.VuiNalHrdParameters), (OFF, OFF));
    assert_eq!((params.ext.coding3.0.LowDelayBRC, params.ext.coding2.AdaptiveI), (ON, OFF));
    assert_eq!(params.ext.coding2.IntRefType, 0);
    // Half a second of 8 Mb/s.
    assert_eq!((params.rate().buffer_kb, params.rate().initial), (500, 375));
}

#[test]
fn frames_are_described_in_whole_macroblocks_and_cropped() {
    let params = build(&h264());
    let size = params.size();
    assert_eq!((size.Width, size.Height, size.CropW, size.CropH), (1920, 1088, 1920, 1080));
    assert_eq!((params.mfx().FrameInfo.FourCC, params.mfx().FrameInfo.Shift), (vpl::MFX_FOURCC_NV12, 0));
    let params = build(&settings(Codec::Hevc, PixelFormat::P010, 3840, 2160));
    assert_eq!((params.mfx().FrameInfo.FourCC, params.mfx().FrameInfo.Shift), (vpl::MFX_FOURCC_P010, 1));
    assert_eq!((params.mfx().FrameInfo.BitDepthLuma, params.mfx().CodecProfile), (10, 2));
}

#[test]
fn a_bitrate_beyond_16_bits_has_a_multiplier_and_keeps_it() {
    let mut settings = settings(Codec::Hevc, PixelFormat::Nv12, 7680, 4320);
    (settings.bitrate_kbps, settings.max_bitrate_kbps) = (240_000, 400_000);
    let mut params = build(&settings);
    let rate = params.rate();
    assert_eq!(rate.multiplier, 7);
    assert!(rate.target.abs_diff(240_000) < 7, "{rate:?}");
    assert_eq!(rate.target, rate.max);
    settings.bitrate_kbps = 20_000;
    rate::change(&mut params, &settings, true);
    let changed = params.rate();
    assert_eq!((changed.multiplier, changed.buffer_kb, changed.initial), (7, rate.buffer_kb, rate.initial));
    assert!(changed.target.abs_diff(20_000) < 7, "{changed:?}");
    rate::change(&mut params, &settings, false);
    assert!(params.rate().buffer_kb < rate.buffer_kb);
}

#[test]
fn every_rate_mode_says_what_it_holds() {
    let mut s = h264();
    (s.rate_control, s.max_bitrate_kbps) = (RateControl::Variable, 12_000);
    let rate = build(&s).rate();
    assert_eq!((u32::from(rate.method), rate.target, rate.max), (vpl::MFX_RATECONTROL_VBR, 8_000, 12_000));
    (s.rate_control, s.qp) = (RateControl::ConstantQp, 31);
    let params = build(&s);
    let rate = params.rate();
    assert_eq!((u32::from(rate.method), rate.initial, rate.target, rate.max), (vpl::MFX_RATECONTROL_CQP, 31, 31, 31));
    assert!(!params.has(Ext::Coding3), "nothing is delayed where nothing is held");
    s.rate_control = RateControl::ConstantQuality;
    assert_eq!((build(&s).rate().target, u32::from(build(&s).rate().method)), (31, vpl::MFX_RATECONTROL_ICQ));
    let mut s = settings(Codec::Av1, PixelFormat::Nv12, 1920, 1080);
    (s.rate_control, s.qp) = (RateControl::ConstantQuality, 255);
    assert_eq!(build(&s).rate().target, 51);
    s.qp = 0;
    assert_eq!(build(&s).rate().target, 1, "0 would mean that nothing was said");
}

#[test]
fn every_i_picture_is_an_idr_in_the_terms_of_its_codec() {
    assert_eq!(build(&h264()).coding().IdrInterval, 0);
    assert_eq!(build(&settings(Codec::Hevc, PixelFormat::Nv12, 1280, 720)).coding().IdrInterval, 1);
    let mut s = h264();
    for (gop, expected) in
        [(Gop::Frames(1), 1), (Gop::Frames(120), 120), (Gop::Infinite, 65_535), (Gop::Frames(100_000), 65_535)]
    {
        s.gop = gop;
        assert_eq!(build(&s).coding().GopPicSize, expected);
    }
}

#[test]
fn intra_refresh_runs_once_a_second_with_recovery_points() {
    let mut s = h264();
    s.intra_refresh = true;
    let params = build(&s);
    assert_eq!((params.ext.coding2.IntRefType, params.ext.coding2.IntRefCycleSize), (1, 60));
    assert_eq!(params.ext.coding.RecoveryPointSEI, ON);
}

#[test]
fn entropy_and_profile_are_told_apart() {
    let mut s = h264();
    assert_eq!((u32::from(build(&s).mfx().CodecProfile), build(&s).ext.coding.CAVLC), (vpl::MFX_PROFILE_AVC_HIGH, 0));
    s.entropy = Some(Entropy::Cavlc);
    assert_eq!(build(&s).ext.coding.CAVLC, ON);
    s.entropy = Some(Entropy::Cabac);
    assert_eq!(build(&s).ext.coding.CAVLC, OFF);
    s.profile = Some(H264Profile::ConstrainedBaseline);
    assert_eq!(refused(&s), "entropy = cabac is not possible: allowed is cavlc with profile baseline");
    s.entropy = None;
    assert_eq!(u32::from(build(&s).mfx().CodecProfile), vpl::MFX_PROFILE_AVC_CONSTRAINED_BASELINE);
}

#[test]
fn presets_are_target_usages_and_names_of_x264_are_none() {
    let mut s = h264();
    for (preset, usage) in [(Preset::Fast, 7), (Preset::Medium, 4), (Preset::Quality, 1), (Preset::Number(6), 6)] {
        s.preset = preset;
        assert_eq!(build(&s).coding().TargetUsage, usage);
    }
    for preset in [Preset::Number(8), Preset::Number(0), Preset::Named(X26xPreset::Superfast)] {
        s.preset = preset;
        assert!(refused(&s).contains("1 (best) to 7 (fastest)"));
    }
}

#[test]
fn tiles_are_attached_and_become_slices_when_they_are_refused() {
    let mut s = settings(Codec::Hevc, PixelFormat::Nv12, 7680, 4320);
    (s.tile_columns, s.tile_rows) = (4, 4);
    let mut params = build(&s);
    assert_eq!((params.ext.hevc_tiles.NumTileColumns, params.ext.hevc_tiles.NumTileRows), (4, 4));
    assert_eq!((params.has(Ext::HevcTiles), params.coding().NumSlice), (true, 0));
    let said = params::tiles_to_slices(&mut params, &s).unwrap();
    assert_eq!(said, "4x4 tiles refused, 16 slices instead");
    assert_eq!((params.has(Ext::HevcTiles), params.coding().NumSlice), (false, 16));
    assert_eq!(params::tiles_to_slices(&mut params, &s), None);
    s.codec = Codec::Av1;
    let params = build(&s);
    assert_eq!((params.ext.av1_tiles.NumTileColumns, params.ext.av1_bitstream.WriteIVFHeaders), (4, OFF));
}

#[test]
fn tiles_that_do_not_fit_are_named_with_what_does() {
    let mut s = settings(Codec::Hevc, PixelFormat::Nv12, 640, 360);
    s.tile_columns = 4;
    assert_eq!(refused(&s), "tile_columns = 4 is not possible: allowed is 1 to 2 for hevc at 640x360");
    (s.tile_columns, s.tile_rows) = (2, 7);
    assert_eq!(refused(&s), "tile_rows = 7 is not possible: allowed is 1 to 6 for hevc at 640x360");
}

#[test]
fn ten_bits_are_refused_for_h264_and_other_formats_for_all() {
    let error = refused(&settings(Codec::H264, PixelFormat::P010, 640, 360));
    assert_eq!(error, "Encoder vpl cannot take p010 frames: allowed is nv12");
    let error = refused(&settings(Codec::Av1, PixelFormat::I420, 640, 360));
    assert!(error.ends_with("allowed is nv12 or p010"), "{error}");
}

#[test]
fn colour_is_told_as_it_is_carried() {
    let mut s = settings(Codec::Hevc, PixelFormat::P010, 640, 360);
    s.format.colour =
        Colour { matrix: 9, primaries: 9, transfer: 16, siting: ChromaSiting::TopLeft, ..s.format.colour };
    let params = build(&s);
    let signal = &params.ext.signal;
    assert_eq!((signal.ColourPrimaries, signal.TransferCharacteristics, signal.MatrixCoefficients), (9, 16, 9));
    assert_eq!((signal.VideoFullRange, signal.ColourDescriptionPresent), (0, 1));
    assert_eq!((params.has(Ext::Chroma), params.ext.chroma.ChromaSampleLocTypeTopField), (true, 2));
    assert!(!build(&h264()).has(Ext::Chroma));
}

#[test]
fn the_level_is_that_of_the_ceiling_and_open_beyond_the_table() {
    let mut s = h264();
    assert_eq!(params::level(&s), 42);
    s.level_idc = Some(51);
    assert_eq!(build(&s).mfx().CodecLevel, 51);
    assert_eq!(params::level(&settings(Codec::H264, PixelFormat::Nv12, 7680, 4320)), 0);
}

#[test]
fn pointers_are_made_for_the_call_and_follow_a_copy() {
    let mut params = build(&h264());
    let mut copy = params;
    for params in [&mut params, &mut copy] {
        let count =
            [Ext::Coding, Ext::Coding2, Ext::Coding3, Ext::Signal].into_iter().filter(|e| params.has(*e)).count();
        let first = (&raw const params.ext.coding).addr();
        params.raw();
        assert_eq!(usize::from(params.video.NumExtParam), count);
        assert_eq!(params.first_ext(), first);
    }
}
