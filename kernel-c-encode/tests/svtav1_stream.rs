//! What the stream of the svtav1 backend is: the library's own bytes, with what receivers need around them.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests stop the test")]

mod common;

use common::{FPS, direct, encode, have, nv12, p010, run, small};
use kernel_c_encode::backends::software::svtav1::SvtAv1;
use kernel_c_encode::bitstream::av1::{self, obu_type};
use kernel_c_encode::encoder::{EncodeInput, Encoder, Key};
use kernel_c_encode::settings::{EncoderSettings, Gop, Preset, RateControl};
use kernel_c_encode::warm::{open_for_warm_up, warm_up};
use shm_protocol::frame::{Codec, Colour, PixelFormat, VideoFormat};
use shm_protocol::pixels::PixelsRead;

fn there() -> bool {
    have("svtav1", Codec::Av1)
}

#[test]
fn every_unit_is_the_librarys_with_8_and_10_bit() {
    if !there() {
        return;
    }
    for (bits, format) in
        [(8, nv12(320, 180, FPS, Colour::BT709_LIMITED)), (10, p010(320, 180, FPS, Colour::BT709_LIMITED))]
    {
        let settings = EncoderSettings { gop: Gop::Infinite, ..EncoderSettings::live(Codec::Av1, format, 2000) };
        let ours = run(&mut SvtAv1::open(&settings).unwrap(), &format, 30, &[11], 24);
        let Some(theirs) = alone::encode(&format, bits, 30, 11) else { return };
        assert_eq!(ours.units().len(), theirs.len());
        for ((meta, bytes), direct) in ours.units().into_iter().zip(theirs) {
            assert!(bytes == direct, "frame {}, {bits} bit", meta.key.source_id);
        }
    }
}

#[test]
fn a_key_frame_carries_its_sequence_header_and_a_unit_begins_with_its_delimiter() {
    if !there() {
        return;
    }
    let settings = EncoderSettings { gop: Gop::Frames(12), tile_columns: 2, tile_rows: 2, ..small(Codec::Av1) };
    let sink = run(&mut SvtAv1::open(&settings).unwrap(), &settings.format, 30, &[5], 8);
    let mut keys = Vec::new();
    for (meta, bytes) in sink.units() {
        let kinds: Vec<u8> = av1::obus(bytes).map(|obu| obu.kind).collect();
        let expected: &[u8] = if meta.idr {
            &[obu_type::TEMPORAL_DELIMITER, obu_type::SEQUENCE_HEADER, obu_type::FRAME]
        } else {
            &[obu_type::TEMPORAL_DELIMITER, obu_type::FRAME]
        };
        assert_eq!(kinds, expected, "frame {}", meta.key.source_id);
        assert_eq!(av1::is_key_frame(bytes), meta.idr);
        keys.extend(meta.idr.then_some(meta.key.source_id - 1000));
    }
    assert_eq!(keys, [0, 5, 17, 29]);
}

#[test]
fn eight_and_ten_bits_reach_the_decoder() {
    if !there() {
        return;
    }
    let quality = |format| EncoderSettings {
        rate_control: RateControl::ConstantQp,
        qp: 16,
        preset: Preset::Quality,
        ..EncoderSettings::live(Codec::Av1, format, 2000)
    };
    let format = p010(320, 180, FPS, Colour::BT709_LIMITED);
    let sink = run(&mut SvtAv1::open(&quality(format)).unwrap(), &format, 3, &[], 8);
    let Some(decoded) = direct::decoded("obu", &sink.stream()) else { return };
    assert_eq!(decoded.len(), 3 * 320 * 180 * 3);
    direct::same_p010_luma(&format, 2, 8, &decoded[2 * 320 * 180 * 3..]);

    let format = nv12(320, 180, FPS, Colour::BT709_LIMITED);
    let sink = run(&mut SvtAv1::open(&quality(format)).unwrap(), &format, 3, &[], 8);
    let decoded = direct::decoded("obu", &sink.stream()).unwrap();
    assert_eq!(decoded.len(), 3 * 320 * 180 * 3 / 2);
    let mut source = vec![0; format.frame_bytes() as usize];
    common::fill(&format, 2, 8, &mut source);
    let last = &decoded[2 * 320 * 180 * 3 / 2..];
    let stride = format.planes[0].stride as usize;
    let error: u64 = (0..320 * 180).map(|i| u64::from(last[i].abs_diff(source[i / 320 * stride + i % 320]))).sum();
    assert!(error / (320 * 180) < 3, "mean luma error {}", error / (320 * 180));
}

#[test]
fn i420_and_nv12_of_the_same_picture_give_the_same_stream() {
    if !there() {
        return;
    }
    let settings = small(Codec::Av1);
    let format = settings.format;
    let planar = VideoFormat::packed(PixelFormat::I420, 320, 180, format.fps, format.colour).unwrap();
    let mut from_nv12 = SvtAv1::open(&settings).unwrap();
    let mut from_i420 = SvtAv1::open(&EncoderSettings { format: planar, ..settings }).unwrap();
    let (mut a, mut b) = (common::Keep::default(), common::Keep::default());
    for index in 0..6 {
        let (bytes, other) = direct::nv12_and_i420(&format, &planar, index, 8);
        let key = Key { source_id: 1000 + index, sub: 0 };
        let input =
            |pixels| EncodeInput { pixels, memory: None, qp: None, key, pts_ns: index, force_idr: false, idr_count: 0 };
        from_nv12.encode(&input(PixelsRead::from_slice(&format, &bytes).unwrap()), &mut a).unwrap();
        from_i420.encode(&input(PixelsRead::from_slice(&planar, &other).unwrap()), &mut b).unwrap();
    }
    assert!(!a.stream().is_empty());
    assert_eq!(a.stream(), b.stream());
    assert_eq!((from_nv12.copied_bytes(), from_i420.copied_bytes()), (6 * 320 * 180 / 2, 0));
}

#[test]
fn the_bitrate_follows_its_setting_within_a_second() {
    if !there() {
        return;
    }
    let format = nv12(640, 360, FPS, Colour::BT709_LIMITED);
    let settings = EncoderSettings {
        max_bitrate_kbps: 12_000,
        gop: Gop::Infinite,
        ..EncoderSettings::live(Codec::Av1, format, 2000)
    };
    let mut encoder = SvtAv1::open(&settings).unwrap();
    let restarts = !encoder.capabilities().live_bitrate;
    // Measured: 1.27 in the second after the step down, 0.94 in the next.
    direct::follows_its_bitrate(&mut encoder, &format, [2000, 8000, 2000], (restarts, 1.4));
}

#[test]
fn an_encoder_that_was_warmed_up_goes_on_as_a_new_one_would() {
    if !there() {
        return;
    }
    let settings = EncoderSettings { gop: Gop::Infinite, ..small(Codec::Av1) };
    let mut bytes = vec![0; settings.format.frame_bytes() as usize];
    common::fill(&settings.format, 0, 8, &mut bytes);
    let mut warm = open_for_warm_up("svtav1", &settings).unwrap();
    warm_up(warm.as_mut(), PixelsRead::from_slice(&settings.format, &bytes).unwrap()).unwrap();
    let kept = run(warm.as_mut(), &settings.format, 5, &[0, 3], 8);
    let cold = run(&mut SvtAv1::open(&settings).unwrap(), &settings.format, 5, &[3], 8);
    let kinds = |kept: &common::Keep| kept.units().iter().map(|(m, _)| (m.key, m.idr)).collect::<Vec<_>>();
    assert_eq!(kinds(&kept), kinds(&cold));
}

#[test]
fn what_it_cannot_encode_is_refused_in_words() {
    if !there() {
        return;
    }
    let refuse = |change: &dyn Fn(&mut EncoderSettings), text: &str| {
        let mut settings = small(Codec::Av1);
        change(&mut settings);
        let error = SvtAv1::open(&settings).unwrap_err();
        assert!(error.to_string().contains(text) && error.exit_code() == 78, "{error}");
    };
    refuse(&|s| s.format = nv12(62, 64, 60, Colour::BT709_LIMITED), "62x64");
    refuse(&|s| s.format = nv12(64, 8706, 60, Colour::BT709_LIMITED), "64x8706");
    refuse(&|s| s.slices = 2, "tile_columns and tile_rows");
    refuse(&|s| s.tile_columns = 3, "a power of two up to 64");
    refuse(&|s| s.preset = Preset::Number(14), "0 to 13");
    refuse(&|s| s.rate_control = RateControl::Variable, "low-delay mode has no vbr");
    refuse(&|s| s.bitrate_kbps = 100_001, "at most 100000 kb/s");
    refuse(&|s| s.intra_refresh = true, "intra_refresh = true");
    let mut encoder = SvtAv1::open(&small(Codec::Av1)).unwrap();
    let other = nv12(320, 182, FPS, Colour::BT709_LIMITED);
    let error = encode(&mut encoder, &other, 0, false, 8, &mut common::Keep::default()).unwrap_err();
    assert!(error.to_string().contains("320x182") && error.to_string().contains("320x180"), "{error}");
}

/// SVT-AV1 3.1 and newer used directly, with none of our code between: planes in, packets out.
mod alone {
    #![expect(unsafe_code, reason = "calls a C library")]

    use shm_protocol::frame::VideoFormat;
    use std::ffi::{CStr, CString, c_char, c_int, c_void};

    type Handle = *mut c_void;

    /// `EbBufferHeaderType` of 3.0 and newer.
    #[repr(C)]
    struct Buffer {
        size: u32,
        p_buffer: *mut c_void,
        n_filled_len: u32,
        n_alloc_len: u32,
        p_app_private: *mut c_void,
        wrapper_ptr: *mut c_void,
        n_tick_count: u32,
        dts: i64,
        pts: i64,
        temporal_layer_index: u8,
        qp: u32,
        avg_qp: u32,
        pic_type: u32,
        sse: [u64; 3],
        flags: u32,
        ssim: [f64; 3],
        metadata: *mut c_void,
    }

    /// The packets, with a key frame asked for at `key`. `None`: the library is older, or not where this looks.
    pub fn encode(format: &VideoFormat, bits: u32, count: u64, key: u64) -> Option<Vec<Vec<u8>>> {
        let (width, height) = (format.width as usize, format.height as usize);
        let name = std::env::var_os("QUAD_SVTAV1_LIBRARY").unwrap_or_else(|| "libSvtAv1Enc.so.4".into());
        let wide = bits > 8;
        // SAFETY: used as EbSvtAv1Enc.h says: made, given parameters, initialised, fed planes that outlive each call,
        // asked for one packet per picture, ended.
        unsafe {
            let library = libloading::Library::new(name).ok()?;
            let version =
                CStr::from_ptr(library.get::<unsafe extern "C" fn() -> *const c_char>("svt_av1_get_version").ok()?());
            let version = version.to_str().unwrap().trim_start_matches('v').to_owned();
            if version.split('.').next().unwrap().parse::<u32>().unwrap() < 4 {
                super::common::skip("SVT-AV1 used directly", &format!("this test knows 4.0 and newer, not {version}"));
                return None;
            }
            let init_handle =
                library.get::<unsafe extern "C" fn(*mut Handle, *mut u64) -> c_int>("svt_av1_enc_init_handle").unwrap();
            let parse = library
                .get::<unsafe extern "C" fn(*mut u64, *const c_char, *const c_char) -> c_int>(
                    "svt_av1_enc_parse_parameter",
                )
                .unwrap();
            let set =
                library.get::<unsafe extern "C" fn(Handle, *mut u64) -> c_int>("svt_av1_enc_set_parameter").unwrap();
            let call = |name: &str, handle: Handle| {
                library.get::<unsafe extern "C" fn(Handle) -> c_int>(name).unwrap()(handle)
            };
            let send =
                library.get::<unsafe extern "C" fn(Handle, *mut Buffer) -> c_int>("svt_av1_enc_send_picture").unwrap();
            let receive = library
                .get::<unsafe extern "C" fn(Handle, *mut *mut Buffer, u8) -> c_int>("svt_av1_enc_get_packet")
                .unwrap();
            let release =
                library.get::<unsafe extern "C" fn(*mut *mut Buffer)>("svt_av1_enc_release_out_buffer").unwrap();
            let mut configuration = vec![0u64; 4096];
            let mut handle = std::ptr::null_mut();
            assert_eq!(init_handle(&mut handle, configuration.as_mut_ptr()), 0);
            let text = format!(
                "width={width} height={height} fps-num=30 fps-denom=1 input-depth={bits} preset=12 pred-struct=1 rtc=1 \
                 lookahead=0 scd=0 intra-period=1073741824 rc=2 tbr=600k buf-sz=500 buf-initial-sz=300 \
                 buf-optimal-sz=300 lp=1 color-primaries=1 transfer-characteristics=1 matrix-coefficients=1 \
                 color-range=0 chroma-sample-position=1"
            );
            for (name, value) in text.split_whitespace().map(|option| option.split_once('=').unwrap()) {
                let (name, value) = (CString::new(name).unwrap(), CString::new(value).unwrap());
                assert_eq!(parse(configuration.as_mut_ptr(), name.as_ptr(), value.as_ptr()), 0, "{name:?}");
            }
            assert_eq!(set(handle, configuration.as_mut_ptr()), 0);
            assert_eq!(call("svt_av1_enc_init", handle), 0);
            let mut frame = vec![0; format.frame_bytes() as usize];
            let mut units = Vec::new();
            for index in 0..count {
                super::common::fill(format, index, 24, &mut frame);
                let bytes = if wide { 2 } else { 1 };
                let sample = |plane: usize, x: usize, y: usize| {
                    let at =
                        format.planes[plane].offset as usize + y * format.planes[plane].stride as usize + x * bytes;
                    if wide { u16::from_le_bytes([frame[at], frame[at + 1]]) >> 6 } else { u16::from(frame[at]) }
                };
                let mut planes: [Vec<u8>; 3] = Default::default();
                let mut put = |plane: usize, value: u16| {
                    planes[plane].extend_from_slice(&value.to_le_bytes()[..bytes]);
                };
                for y in 0..height {
                    (0..width).for_each(|x| put(0, sample(0, x, y)));
                }
                for y in 0..height / 2 {
                    for x in 0..width / 2 {
                        put(1, sample(1, 2 * x, y));
                        put(2, sample(1, 2 * x + 1, y));
                    }
                }
                // `EbSvtIOFormat` of 3.0 and newer: three pointers, then the strides of Y, Cr and Cb in samples.
                let strides = [width as u32, width as u32 / 2, width as u32 / 2, 0];
                let mut picture = Picture { planes: planes.each_ref().map(Vec::as_ptr), strides };
                let mut header: Buffer = std::mem::zeroed();
                header.size = size_of::<Buffer>() as u32;
                header.p_buffer = (&raw mut picture).cast();
                header.n_filled_len = planes.iter().map(Vec::len).sum::<usize>() as u32;
                header.n_alloc_len = header.n_filled_len;
                header.pts = index as i64;
                header.pic_type = if index == 0 || index == key { 3 } else { 0xff };
                assert_eq!(send(handle, &mut header), 0);
                let mut packet = std::ptr::null_mut::<Buffer>();
                assert_eq!(receive(handle, &mut packet, 0), 0);
                let unit = std::slice::from_raw_parts((*packet).p_buffer.cast::<u8>(), (*packet).n_filled_len as usize);
                units.push(unit.to_vec());
                release(&mut packet);
            }
            call("svt_av1_enc_deinit", handle);
            call("svt_av1_enc_deinit_handle", handle);
            // Its threads may still be ending.
            std::mem::forget(library);
            Some(units)
        }
    }

    #[repr(C)]
    struct Picture {
        planes: [*const u8; 3],
        strides: [u32; 4],
    }
}
