//! openh264 used directly, without any of our code between: NV12 in, bytes out. It is the very library that the backend
//! is linked with, so that no header of the system and no program has to be looked for.
#![expect(unsafe_code, reason = "calls a C++ library")]

use openh264_sys2 as sys;
use shm_protocol::frame::VideoFormat;

/// An encoder told to do what the backend does with a live stream of BT.709.
pub struct Alone {
    encoder: *mut sys::ISVCEncoder,
    format: VideoFormat,
    /// Chroma taken apart.
    chroma: Vec<u8>,
}

impl Alone {
    /// One for this format, which is at 30 frames/s; `gop` 0: no IDR but those asked for.
    pub fn open(format: &VideoFormat, kbps: i32, level: sys::ELevelIdc, gop: u32) -> Alone {
        let (width, height) = (format.width as i32, format.height as i32);
        // SAFETY: used as `codec_api.h` says: made, told its parameters, initialised.
        let encoder = unsafe {
            let mut encoder = std::ptr::null_mut();
            assert_eq!(sys::source::APILoader::WelsCreateSVCEncoder(&mut encoder), 0);
            let table = &**encoder;
            let mut quiet = sys::WELS_LOG_QUIET;
            let quiet: *mut _ = &mut quiet;
            assert_eq!(table.SetOption.unwrap()(encoder, sys::ENCODER_OPTION_TRACE_LEVEL, quiet.cast()), 0);
            let mut p = sys::SEncParamExt::default();
            assert_eq!(table.GetDefaultParams.unwrap()(encoder, &mut p), 0);
            (p.iPicWidth, p.iPicHeight, p.fMaxFrameRate) = (width, height, 30.0);
            (p.iTargetBitrate, p.iRCMode) = (kbps * 1000, sys::RC_BITRATE_MODE);
            (p.iMinQp, p.iMaxQp, p.iNumRefFrame, p.uiIntraPeriod) = (12, 51, 1, gop);
            p.eSpsPpsIdStrategy = sys::CONSTANT_ID;
            (p.bEnableFrameSkip, p.bEnableSceneChangeDetect) = (false, false);
            (p.bUseLoadBalancing, p.iMultipleThreadIdc) = (false, 1);
            let layer = &mut p.sSpatialLayers[0];
            (layer.iVideoWidth, layer.iVideoHeight, layer.fFrameRate) = (width, height, 30.0);
            (layer.iSpatialBitrate, layer.uiProfileIdc, layer.uiLevelIdc) = (kbps * 1000, sys::PRO_BASELINE, level);
            (layer.bVideoSignalTypePresent, layer.uiVideoFormat, layer.bColorDescriptionPresent) = (true, 5, true);
            (layer.uiColorPrimaries, layer.uiTransferCharacteristics, layer.uiColorMatrix) = (1, 1, 1);
            assert_eq!(table.InitializeExt.unwrap()(encoder, &p), 0);
            encoder
        };
        Alone { encoder, format: *format, chroma: vec![0; format.width as usize * format.height as usize / 2] }
    }

    /// The access unit of a frame without gaps between its rows; `None`: the library left it out.
    pub fn encode(&mut self, index: u64, frame: &mut [u8], idr: bool) -> Option<Vec<u8>> {
        let (width, height) = (self.format.width as usize, self.format.height as usize);
        let (luma, pairs) = frame.split_at_mut(width * height);
        let (cb, cr) = self.chroma.split_at_mut(width * height / 4);
        // In blocks that the compiler makes vectors of, as a program that cares would do.
        const BLOCK: usize = 32;
        assert_eq!(cb.len() % BLOCK, 0, "whole blocks");
        let blocks = cb.as_chunks_mut::<BLOCK>().0.iter_mut().zip(cr.as_chunks_mut::<BLOCK>().0);
        for ((cb, cr), pairs) in blocks.zip(pairs.as_chunks::<{ 2 * BLOCK }>().0) {
            *cb = std::array::from_fn(|i| pairs[2 * i]);
            *cr = std::array::from_fn(|i| pairs[2 * i + 1]);
        }
        let picture = sys::SSourcePicture {
            iColorFormat: sys::videoFormatI420,
            iStride: [width as i32, width as i32 / 2, width as i32 / 2, 0],
            pData: [luma.as_mut_ptr(), cb.as_mut_ptr(), cr.as_mut_ptr(), std::ptr::null_mut()],
            iPicWidth: width as i32,
            iPicHeight: height as i32,
            uiTimeStamp: (self.format.fps.frame_time_ns(index) / 1_000_000) as i64,
            ..Default::default()
        };
        let mut out = sys::SFrameBSInfo::default();
        // SAFETY: the encoder is initialised, the planes outlive the call, and what it gives is read before the next.
        unsafe {
            let table = &**self.encoder;
            if idr {
                assert_eq!(table.ForceIntraFrame.unwrap()(self.encoder, true), 0);
            }
            assert_eq!(table.EncodeFrame.unwrap()(self.encoder, &picture, &mut out), 0);
            let mut unit = Vec::new();
            for layer in &out.sLayerInfo[..out.iLayerNum as usize] {
                let lengths = std::slice::from_raw_parts(layer.pNalLengthInByte, layer.iNalCount as usize);
                let len = lengths.iter().sum::<i32>() as usize;
                unit.extend_from_slice(std::slice::from_raw_parts(layer.pBsBuf, len));
            }
            (out.eFrameType != sys::videoFrameTypeSkip).then_some(unit)
        }
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        // SAFETY: made by WelsCreateSVCEncoder, ended once.
        unsafe {
            (**self.encoder).Uninitialize.unwrap()(self.encoder);
            sys::source::APILoader::WelsDestroySVCEncoder(self.encoder);
        }
    }
}
