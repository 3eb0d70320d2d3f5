//! openh264 used directly, with none of the product's code between: I420 in, NAL units out.
#![expect(unsafe_code, reason = "calls a C++ library")]

use crate::bitstream::split_annex_b;
use openh264_sys2 as sys;

/// What the pipeline is set to; the rest of the settings is what it documents as its defaults.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Width, pixels.
    pub width: usize,
    /// Height, pixels.
    pub height: usize,
    /// Frames a second.
    pub fps: f32,
    /// Target, kbit/s.
    pub bitrate_kbps: i32,
    /// Frames from IDR to IDR.
    pub gop: u32,
    /// Nanoseconds of a frame.
    pub interval_ns: u64,
}

/// Encodes frames; a unit of NAL units each. Level 4.1, constrained baseline, BT.709, one slice, one thread.
pub fn encode(settings: &Settings, frames: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
    let (width, height) = (settings.width as i32, settings.height as i32);
    let bits_per_s = settings.bitrate_kbps * 1000;
    let luma = settings.width * settings.height;
    // SAFETY: used as `codec_api.h` says: made, initialised, fed planes that outlive the call (`luma` bytes of luma
    // and two planes of a quarter of that, which the assertion checks), its output read before the next call,
    // destroyed.
    unsafe {
        let mut encoder = std::ptr::null_mut();
        assert_eq!(sys::source::APILoader::WelsCreateSVCEncoder(&mut encoder), 0);
        let table = &**encoder;
        let mut level = sys::WELS_LOG_QUIET;
        let level: *mut _ = &mut level;
        assert_eq!(table.SetOption.unwrap()(encoder, sys::ENCODER_OPTION_TRACE_LEVEL, level.cast()), 0);
        let mut p = sys::SEncParamExt::default();
        assert_eq!(table.GetDefaultParams.unwrap()(encoder, &mut p), 0);
        p.iUsageType = sys::CAMERA_VIDEO_REAL_TIME;
        (p.iPicWidth, p.iPicHeight, p.fMaxFrameRate) = (width, height, settings.fps);
        (p.iTargetBitrate, p.iRCMode) = (bits_per_s, sys::RC_BITRATE_MODE);
        (p.iMinQp, p.iMaxQp, p.iNumRefFrame, p.uiIntraPeriod) = (12, 51, 1, settings.gop);
        p.eSpsPpsIdStrategy = sys::CONSTANT_ID;
        (p.bEnableFrameSkip, p.bEnableSceneChangeDetect) = (false, false);
        (p.bUseLoadBalancing, p.iMultipleThreadIdc) = (false, 1);
        let layer = &mut p.sSpatialLayers[0];
        (layer.iVideoWidth, layer.iVideoHeight, layer.fFrameRate) = (width, height, settings.fps);
        (layer.iSpatialBitrate, layer.uiProfileIdc) = (bits_per_s, sys::PRO_BASELINE);
        layer.uiLevelIdc = sys::LEVEL_4_1;
        (layer.bVideoSignalTypePresent, layer.uiVideoFormat, layer.bColorDescriptionPresent) = (true, 5, true);
        (layer.uiColorPrimaries, layer.uiTransferCharacteristics, layer.uiColorMatrix) = (1, 1, 1);
        assert_eq!(table.InitializeExt.unwrap()(encoder, &p), 0);
        let mut units = Vec::new();
        for (index, frame) in frames.iter().enumerate() {
            assert_eq!(frame.len(), luma * 3 / 2);
            let y = frame.as_ptr().cast_mut();
            let picture = sys::SSourcePicture {
                iColorFormat: sys::videoFormatI420,
                iStride: [width, width / 2, width / 2, 0],
                pData: [y, y.add(luma), y.add(luma * 5 / 4), std::ptr::null_mut()],
                iPicWidth: width,
                iPicHeight: height,
                uiTimeStamp: (index as u64 * settings.interval_ns / 1_000_000) as i64,
                ..Default::default()
            };
            let mut out = sys::SFrameBSInfo::default();
            assert_eq!(table.EncodeFrame.unwrap()(encoder, &picture, &mut out), 0);
            let mut unit = Vec::new();
            for layer in &out.sLayerInfo[..out.iLayerNum as usize] {
                let lengths = std::slice::from_raw_parts(layer.pNalLengthInByte, layer.iNalCount as usize);
                let length = lengths.iter().sum::<i32>() as usize;
                unit.extend_from_slice(std::slice::from_raw_parts(layer.pBsBuf, length));
            }
            units.push(split_annex_b(&unit));
        }
        table.Uninitialize.unwrap()(encoder);
        sys::source::APILoader::WelsDestroySVCEncoder(encoder);
        units
    }
}
