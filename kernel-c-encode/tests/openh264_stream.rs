//! What the stream of the openh264 backend is: the library's own bytes, with what receivers need around them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::{FPS, encode, fill, nv12, run, small};
use kernel_c_encode::backends::software::openh264::OpenH264;
use kernel_c_encode::bitstream::annexb::nal_units;
use kernel_c_encode::bitstream::h264::{DELIMITER_BYTES, SliceHeader, nal_type, type_of};
use kernel_c_encode::bitstream::h264_sps::Sps;
use kernel_c_encode::encoder::{EncodeInput, Encoder, Key};
use kernel_c_encode::settings::{EncoderSettings, Gop, H264Profile, RateControl};
use kernel_c_encode::warm::{open_for_warm_up, warm_up};
use shm_protocol::frame::{ChromaSiting, Codec, Colour, PixelFormat, Range, Rational, VideoFormat};
use shm_protocol::pixels::PixelsRead;

fn first_sps(stream: &[u8]) -> Sps {
    nal_units(stream)
        .find(|n| type_of(n.nal[0]) == nal_type::SPS)
        .and_then(|n| Sps::parse(n.nal))
        .expect("the stream begins with a readable SPS")
}

fn idr_pic_ids(stream: &[u8]) -> Vec<u32> {
    let sps = first_sps(stream);
    nal_units(stream).filter_map(|n| SliceHeader::parse(n.nal, &sps)?.idr_pic_id).collect()
}

fn stream_with(settings: &EncoderSettings, count: u64, idr_at: &[u64]) -> Vec<u8> {
    run(&mut OpenH264::open(settings).unwrap(), &settings.format, count, idr_at, 8).stream()
}

#[test]
fn colour_is_signalled_as_carried() {
    let hlg = Colour { matrix: 9, primaries: 9, transfer: 18, range: Range::Full, siting: ChromaSiting::TopLeft };
    let jpeg = Colour { range: Range::Full, siting: ChromaSiting::Center, ..Colour::BT601_LIMITED };
    for colour in [Colour::BT709_LIMITED, Colour::BT601_LIMITED, jpeg, hlg] {
        let mut settings = small(Codec::H264);
        settings.format.colour = colour;
        let sps = first_sps(&stream_with(&settings, 2, &[]));
        let vui = sps.vui.unwrap();
        assert_eq!(vui.colour(), (colour.primaries, colour.transfer, colour.matrix, colour.range));
        let location = (colour.siting != ChromaSiting::Left).then_some((colour.siting as u32, colour.siting as u32));
        assert_eq!(vui.chroma_loc, location);
        assert_eq!(sps.size(), Some((320, 180)));
        let restriction = vui.restriction.unwrap();
        assert_eq!((restriction.max_num_reorder_frames, restriction.max_dec_frame_buffering), (0, 1));
    }
}

#[test]
fn our_writer_makes_the_librarys_own_parameter_set() {
    for profile in [H264Profile::ConstrainedBaseline, H264Profile::Main, H264Profile::High] {
        let mut settings = small(Codec::H264);
        settings.profile = Some(profile);
        let stream = stream_with(&settings, 1, &[]);
        let nal = nal_units(&stream).find(|n| type_of(n.nal[0]) == nal_type::SPS).unwrap().nal;
        let mut written = [0; 256];
        let len = Sps::parse(nal).unwrap().write(nal[0], &mut written).unwrap();
        assert_eq!(&written[..len], nal, "{profile:?}");
    }
}

#[test]
fn the_profile_is_the_one_asked_for() {
    for (profile, idc) in [(H264Profile::ConstrainedBaseline, 66), (H264Profile::Main, 77), (H264Profile::High, 100)] {
        let mut settings = small(Codec::H264);
        settings.profile = Some(profile);
        let sps = first_sps(&stream_with(&settings, 1, &[]));
        assert_eq!(sps.profile_idc, idc);
        if idc == 66 {
            assert_eq!(sps.constraint_flags & 0x40, 0x40, "constraint_set1_flag makes it Constrained Baseline");
        }
    }
}

#[test]
fn consecutive_idr_pictures_differ_in_their_id_also_across_restarts() {
    let mut settings = small(Codec::H264);
    settings.gop = Gop::Infinite;
    let mut ids = Vec::new();
    // Runs with 1, 2, 3 and 1 IDR pictures, each going on where the last one ended.
    for idr_at in [&[][..], &[2], &[2, 3], &[]] {
        settings.idr_count = ids.len() as u32;
        ids.extend(idr_pic_ids(&stream_with(&settings, 5, idr_at)));
    }
    assert_eq!(ids.len(), 7);
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
    let parity: Vec<u32> = ids.iter().map(|id| id % 2).collect();
    assert_eq!(parity, [1, 0, 1, 0, 1, 0, 1], "{ids:?}");
}

#[test]
fn an_encoder_that_was_warmed_up_goes_on_as_a_new_one_would() {
    let mut settings = small(Codec::H264);
    settings.gop = Gop::Infinite;
    let mut bytes = vec![0; settings.format.frame_bytes() as usize];
    fill(&settings.format, 0, 8, &mut bytes);
    for idr_count in 0..4 {
        settings.idr_count = idr_count;
        let mut warm = open_for_warm_up("openh264", &settings).unwrap();
        warm_up(warm.as_mut(), PixelsRead::from_slice(&settings.format, &bytes).unwrap()).unwrap();
        let kept = run(warm.as_mut(), &settings.format, 5, &[0, 3], 8);
        let cold = run(&mut OpenH264::open(&settings).unwrap(), &settings.format, 5, &[3], 8);
        let kinds = |kept: &common::Keep| kept.units().iter().map(|(m, _)| (m.key, m.idr)).collect::<Vec<_>>();
        assert_eq!(kinds(&kept), kinds(&cold));
        let parity = |kept: &common::Keep| idr_pic_ids(&kept.stream()).iter().map(|id| id % 2).collect::<Vec<_>>();
        assert_eq!(parity(&kept), parity(&cold), "{idr_count} IDR pictures before");
        assert_eq!(first_sps(&kept.stream()), first_sps(&cold.stream()));
        // The rate control saw the private picture, which costs the stream nothing.
        let len = |kept: &common::Keep| kept.units()[0].1.len();
        assert!(len(&kept) < 2 * len(&cold), "{} and {} bytes", len(&kept), len(&cold));
    }
}

#[test]
fn a_stream_that_goes_on_differs_from_a_new_one_in_the_idr_id_only() {
    let mut settings = small(Codec::H264);
    let fresh = run(&mut OpenH264::open(&settings).unwrap(), &settings.format, 20, &[9], 8);
    settings.idr_count = 1;
    let later = run(&mut OpenH264::open(&settings).unwrap(), &settings.format, 20, &[9], 8);
    for ((meta, a), (_, b)) in fresh.units().into_iter().zip(later.units()) {
        if meta.idr {
            assert_ne!(a, b);
        } else {
            assert_eq!(a, b, "frame {}", meta.key.source_id);
        }
    }
}

#[test]
fn i420_and_nv12_of_the_same_picture_give_the_same_stream() {
    let settings = small(Codec::H264);
    let format = settings.format;
    let planar = VideoFormat::packed(PixelFormat::I420, 320, 180, format.fps, format.colour).unwrap();
    let mut from_nv12 = OpenH264::open(&settings).unwrap();
    let mut from_i420 = OpenH264::open(&EncoderSettings { format: planar, ..settings }).unwrap();
    let (mut a, mut b) = (common::Keep::default(), common::Keep::default());
    let mut bytes = vec![0; format.frame_bytes() as usize];
    for index in 0..10 {
        fill(&format, index, 8, &mut bytes);
        let mut other = vec![0xaa; planar.frame_bytes() as usize];
        let source = PixelsRead::from_slice(&format, &bytes).unwrap();
        let mut row = [0; 320];
        for y in 0..180 {
            let len = source.copy_row(0, y, &mut row);
            let at = (y * planar.planes[0].stride) as usize;
            other[at..at + len].copy_from_slice(&row);
        }
        for y in 0..90 {
            source.copy_row(1, y, &mut row);
            for (x, pair) in row.chunks_exact(2).enumerate() {
                for (layout, sample) in planar.planes[1..].iter().zip(pair) {
                    other[(layout.offset + y * layout.stride) as usize + x] = *sample;
                }
            }
        }
        let key = Key { source_id: 1000 + index, sub: 0 };
        let input =
            |pixels| EncodeInput { pixels, memory: None, qp: None, key, pts_ns: index, force_idr: false, idr_count: 0 };
        from_nv12.encode(&input(source), &mut a).unwrap();
        from_i420.encode(&input(PixelsRead::from_slice(&planar, &other).unwrap()), &mut b).unwrap();
    }
    assert!(!a.stream().is_empty());
    assert_eq!(a.stream(), b.stream());
}

#[test]
fn the_bitrate_follows_its_setting_within_a_second() {
    let format = nv12(1280, 720, FPS, Colour::BT709_LIMITED);
    let settings = EncoderSettings {
        max_bitrate_kbps: 12_000,
        gop: Gop::Infinite,
        ..EncoderSettings::live(Codec::H264, format, 2000)
    };
    let mut encoder = OpenH264::open(&settings).unwrap();
    let mut sink = common::Keep::default();
    let mut index = 0;
    for (step, kbps) in [2000, 8000, 2000].into_iter().enumerate() {
        encoder.set_bitrate(kbps, 0).unwrap();
        for second in 0..3 {
            let from = sink.out.len();
            for _ in 0..FPS {
                encode(&mut encoder, &format, index, false, 24, &mut sink).unwrap();
                index += 1;
            }
            let bits: usize = sink.units()[from..].iter().map(|(_, bytes)| bytes.len() * 8).sum();
            let ratio = bits as f64 / (f64::from(kbps) * 1000.0);
            println!("{kbps} kb/s, second {second}: {ratio:.2} of it");
            // The first second of the stream holds its IDR, which the rate control pays back in the second one.
            let settled = step > 0 || second == 2;
            assert!(!settled || (0.75..=1.25).contains(&ratio), "{kbps} kb/s, second {second}: {ratio:.2}");
        }
    }
    assert_eq!(sink.units().iter().filter(|(meta, _)| meta.idr).count(), 1, "no restart");
}

#[test]
fn rates_above_what_the_library_knows_hold_the_bitrate_too() {
    let format = nv12(640, 360, 120, Colour::BT709_LIMITED);
    let settings = EncoderSettings::live(Codec::H264, format, 3000);
    let sink = run(&mut OpenH264::open(&settings).unwrap(), &format, 240, &[], 24);
    let bits: usize = sink.units()[120..].iter().map(|(_, bytes)| bytes.len() * 8).sum();
    assert!((2_250_000..=3_750_000).contains(&bits), "{bits} bits in a second at 3 Mb/s");
}

#[test]
fn a_bitrate_above_the_level_is_refused_with_the_limit() {
    let mut encoder = OpenH264::open(&small(Codec::H264)).unwrap();
    encoder.set_bitrate(4000, 0).unwrap();
    let error = encoder.set_bitrate(300_000, 0).unwrap_err().to_string();
    assert!(error.contains("kb/s at level"), "{error}");
    let settings = EncoderSettings { level_idc: Some(99), ..small(Codec::H264) };
    assert!(OpenH264::open(&settings).unwrap_err().to_string().contains("10 to 52"));
}

#[test]
fn constant_qp_spends_fewer_bits_at_a_higher_qp_and_has_no_bitrate() {
    let sizes = [20, 40].map(|qp| {
        let settings = EncoderSettings { rate_control: RateControl::ConstantQp, qp, ..small(Codec::H264) };
        let mut encoder = OpenH264::open(&settings).unwrap();
        assert!(!encoder.capabilities().live_bitrate);
        assert!(encoder.set_bitrate(1000, 0).is_err());
        run(&mut encoder, &settings.format, 10, &[], 24).stream().len()
    });
    assert!(sizes[0] > sizes[1] * 2, "{sizes:?}");
}

#[test]
fn what_it_cannot_encode_is_refused_in_words() {
    let refuse = |format: VideoFormat| OpenH264::open(&EncoderSettings { format, ..small(Codec::H264) }).unwrap_err();
    let fps = Rational::new(60, 1).unwrap();
    let ten_bit = VideoFormat::packed(PixelFormat::P010, 320, 180, fps, Colour::BT709_LIMITED).unwrap();
    assert_eq!(
        refuse(ten_bit).to_string(),
        "Encoder openh264 cannot take p010 frames: allowed is nv12 or i420 (8 bit)"
    );
    for (width, height) in [(7680, 4320), (8704, 16), (14, 64), (64, 14)] {
        let error = refuse(nv12(width, height, 60, Colour::BT709_LIMITED)).to_string();
        assert!(error.contains(&format!("{width}x{height}")) && error.contains("level 5.2"), "{error}");
    }
    let mut encoder = OpenH264::open(&small(Codec::H264)).unwrap();
    let other = nv12(320, 182, FPS, Colour::BT709_LIMITED);
    let error = encode(&mut encoder, &other, 0, false, 8, &mut common::Keep::default()).unwrap_err();
    assert!(error.to_string().contains("320x182") && error.to_string().contains("320x180"), "{error}");
}

#[test]
fn sizes_that_are_no_multiple_of_a_macroblock_are_cropped() {
    for (width, height) in [(16, 16), (18, 16), (322, 182), (1920, 1080), (4096, 2304)] {
        let format = nv12(width, height, FPS, Colour::BT709_LIMITED);
        let settings = EncoderSettings::live(Codec::H264, format, 4000);
        let stream = stream_with(&settings, 1, &[]);
        assert_eq!(first_sps(&stream).size(), Some((width, height)));
    }
}

#[test]
fn slices_and_threads_repeat_to_the_bit() {
    let format = nv12(640, 360, FPS, Colour::BT709_LIMITED);
    let settings = EncoderSettings { threads: 2, slices: 4, ..EncoderSettings::live(Codec::H264, format, 2000) };
    let first = stream_with(&settings, 20, &[7]);
    assert_eq!(first, stream_with(&settings, 20, &[7]));
    let slices = nal_units(&first).filter(|n| [1, 5].contains(&type_of(n.nal[0]))).count();
    assert_eq!(slices, 80);
}

#[test]
fn every_unit_is_the_librarys_behind_a_delimiter() {
    let settings = EncoderSettings { gop: Gop::Frames(25), ..small(Codec::H264) };
    let ours = run(&mut OpenH264::open(&settings).unwrap(), &settings.format, 60, &[11], 24);
    let theirs = direct::encode(&settings.format, 60, &[11], 24);
    assert_eq!(ours.units().len(), theirs.len());
    for ((meta, bytes), direct) in ours.units().into_iter().zip(theirs) {
        assert!(!direct.is_empty());
        assert_eq!(&bytes[DELIMITER_BYTES..], direct, "frame {}", meta.key.source_id);
    }
}

/// openh264 used directly, without any of our code between: I420 in, bytes out.
mod direct {
    #![expect(unsafe_code, reason = "calls a C++ library")]

    use openh264_sys2 as sys;
    use shm_protocol::frame::VideoFormat;

    pub fn encode(format: &VideoFormat, count: u64, idr_at: &[u64], noise: u32) -> Vec<Vec<u8>> {
        let (width, height) = (format.width as usize, format.height as usize);
        let mut nv12 = vec![0; format.frame_bytes() as usize];
        // SAFETY: used as `codec_api.h` says: made, initialised, fed planes that outlive the call, destroyed.
        unsafe {
            let mut encoder = std::ptr::null_mut();
            assert_eq!(sys::source::APILoader::WelsCreateSVCEncoder(&mut encoder), 0);
            let table = &**encoder;
            let mut level = sys::WELS_LOG_QUIET;
            let level: *mut _ = &mut level;
            assert_eq!(table.SetOption.unwrap()(encoder, sys::ENCODER_OPTION_TRACE_LEVEL, level.cast()), 0);
            let mut p = sys::SEncParamExt::default();
            assert_eq!(table.GetDefaultParams.unwrap()(encoder, &mut p), 0);
            (p.iPicWidth, p.iPicHeight, p.fMaxFrameRate) = (width as i32, height as i32, 30.0);
            (p.iTargetBitrate, p.iRCMode) = (1_000_000, sys::RC_BITRATE_MODE);
            (p.iMinQp, p.iMaxQp, p.iNumRefFrame, p.uiIntraPeriod) = (12, 51, 1, 25);
            p.eSpsPpsIdStrategy = sys::CONSTANT_ID;
            (p.bEnableFrameSkip, p.bEnableSceneChangeDetect) = (false, false);
            (p.bUseLoadBalancing, p.iMultipleThreadIdc) = (false, 1);
            let layer = &mut p.sSpatialLayers[0];
            (layer.iVideoWidth, layer.iVideoHeight, layer.fFrameRate) = (width as i32, height as i32, 30.0);
            (layer.iSpatialBitrate, layer.uiProfileIdc) = (1_000_000, sys::PRO_BASELINE);
            // 320x180 at 30/s is level 1.3 by size and 2.1 by the 4 Mb/s it may be raised to.
            layer.uiLevelIdc = sys::LEVEL_2_1;
            (layer.bVideoSignalTypePresent, layer.uiVideoFormat, layer.bColorDescriptionPresent) = (true, 5, true);
            (layer.uiColorPrimaries, layer.uiTransferCharacteristics, layer.uiColorMatrix) = (1, 1, 1);
            assert_eq!(table.InitializeExt.unwrap()(encoder, &p), 0);
            let mut units = Vec::new();
            for index in 0..count {
                super::fill(format, index, noise, &mut nv12);
                let mut i420 = Vec::new();
                for y in 0..height {
                    i420.extend_from_slice(&nv12[y * format.planes[0].stride as usize..][..width]);
                }
                for component in 0..2 {
                    for y in 0..height / 2 {
                        let at = (format.planes[1].offset + y as u32 * format.planes[1].stride) as usize;
                        i420.extend(nv12[at..at + width].iter().skip(component).step_by(2));
                    }
                }
                if idr_at.contains(&index) {
                    assert_eq!(table.ForceIntraFrame.unwrap()(encoder, true), 0);
                }
                let y = i420.as_mut_ptr();
                let picture = sys::SSourcePicture {
                    iColorFormat: sys::videoFormatI420,
                    iStride: [width as i32, width as i32 / 2, width as i32 / 2, 0],
                    pData: [y, y.add(width * height), y.add(width * height * 5 / 4), std::ptr::null_mut()],
                    iPicWidth: width as i32,
                    iPicHeight: height as i32,
                    uiTimeStamp: (format.fps.frame_time_ns(index) / 1_000_000) as i64,
                    ..Default::default()
                };
                let mut out = sys::SFrameBSInfo::default();
                assert_eq!(table.EncodeFrame.unwrap()(encoder, &picture, &mut out), 0);
                let mut unit = Vec::new();
                for layer in &out.sLayerInfo[..out.iLayerNum as usize] {
                    let lengths = std::slice::from_raw_parts(layer.pNalLengthInByte, layer.iNalCount as usize);
                    let len = lengths.iter().sum::<i32>() as usize;
                    unit.extend_from_slice(std::slice::from_raw_parts(layer.pBsBuf, len));
                }
                units.push(unit);
            }
            table.Uninitialize.unwrap()(encoder);
            sys::source::APILoader::WelsDestroySVCEncoder(encoder);
            units
        }
    }
}
