//! `mfxVideoParam` and its ext buffers in one piece.
#![expect(unsafe_code, reason = "mfxVideoParam is made of unions of plain integers")]

use super::rate::{self, Rate};
use onevpl_sys as vpl;
use onevpl_sys::{
    mfxExtAV1BitstreamParam, mfxExtAV1TileParam, mfxExtBuffer, mfxExtChromaLocInfo, mfxExtCodingOption,
    mfxExtCodingOption2, mfxExtCodingOption3, mfxExtEncoderResetOption, mfxExtHEVCTiles, mfxExtVideoSignalInfo,
    mfxFrameInfo__bindgen_ty_1__bindgen_ty_1 as FrameSize, mfxInfoMFX,
    mfxInfoMFX__bindgen_ty_1__bindgen_ty_1 as Coding, mfxU16, mfxVideoParam,
};
use std::ptr;

/// An ext buffer that may be attached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ext {
    /// `mfxExtCodingOption`.
    Coding,
    /// `mfxExtCodingOption2`.
    Coding2,
    /// `mfxExtCodingOption3`.
    Coding3,
    /// `mfxExtVideoSignalInfo`.
    Signal,
    /// `mfxExtChromaLocInfo`.
    Chroma,
    /// `mfxExtHEVCTiles`.
    HevcTiles,
    /// `mfxExtAV1TileParam`.
    Av1Tiles,
    /// `mfxExtAV1BitstreamParam`.
    Av1Bitstream,
    /// `mfxExtEncoderResetOption`, at a reset only.
    Reset,
}

/// Every one of them.
const ALL: [Ext; 9] = [
    Ext::Coding,
    Ext::Coding2,
    Ext::Coding3,
    Ext::Signal,
    Ext::Chroma,
    Ext::HevcTiles,
    Ext::Av1Tiles,
    Ext::Av1Bitstream,
    Ext::Reset,
];

/// The ext buffers, all of them; which are attached says [`Params::has`].
#[derive(Debug, Clone, Copy)]
pub struct Buffers {
    pub coding: mfxExtCodingOption,
    pub coding2: mfxExtCodingOption2,
    pub coding3: mfxExtCodingOption3Copy,
    pub signal: mfxExtVideoSignalInfo,
    pub chroma: mfxExtChromaLocInfo,
    pub hevc_tiles: mfxExtHEVCTiles,
    pub av1_tiles: mfxExtAV1TileParam,
    pub av1_bitstream: mfxExtAV1BitstreamParam,
    pub reset: mfxExtEncoderResetOption,
}

/// `mfxExtCodingOption3` with a shape for logs, which bindgen cannot give it (it has a union inside).
#[derive(Clone, Copy)]
#[repr(transparent)]
#[expect(non_camel_case_types, reason = "the name of the structure it is")]
pub struct mfxExtCodingOption3Copy(pub mfxExtCodingOption3);

impl std::fmt::Debug for mfxExtCodingOption3Copy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("mfxExtCodingOption3").field("LowDelayBRC", &self.0.LowDelayBRC).finish_non_exhaustive()
    }
}

/// Parameters and their ext buffers in one piece. The pointers between them are made when they are needed, so that it
/// may be copied and moved.
#[derive(Clone, Copy)]
pub struct Params {
    /// The parameters. `ExtParam` means nothing outside [`Params::raw`].
    pub video: mfxVideoParam,
    /// The ext buffers.
    pub ext: Buffers,
    attached: u16,
    list: [*mut mfxExtBuffer; ALL.len()],
}

// SAFETY: the pointers in it are written anew by `raw` before anybody follows them.
unsafe impl Send for Params {}

impl std::fmt::Debug for Params {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Params").field("coding", &self.rate()).field("attached", &self.attached).finish()
    }
}

fn header<T>(id: u32) -> mfxExtBuffer {
    mfxExtBuffer { BufferId: id, BufferSz: size_of::<T>() as u32 }
}

impl Params {
    /// Nothing said, nothing attached.
    pub fn empty() -> Params {
        let coding3 = mfxExtCodingOption3 {
            Header: header::<mfxExtCodingOption3>(vpl::MFX_EXTBUFF_CODING_OPTION3),
            ..Default::default()
        };
        let ext = Buffers {
            coding: mfxExtCodingOption {
                Header: header::<mfxExtCodingOption>(vpl::MFX_EXTBUFF_CODING_OPTION),
                ..Default::default()
            },
            coding2: mfxExtCodingOption2 {
                Header: header::<mfxExtCodingOption2>(vpl::MFX_EXTBUFF_CODING_OPTION2),
                ..Default::default()
            },
            coding3: mfxExtCodingOption3Copy(coding3),
            signal: mfxExtVideoSignalInfo {
                Header: header::<mfxExtVideoSignalInfo>(vpl::MFX_EXTBUFF_VIDEO_SIGNAL_INFO),
                ..Default::default()
            },
            chroma: mfxExtChromaLocInfo {
                Header: header::<mfxExtChromaLocInfo>(vpl::MFX_EXTBUFF_CHROMA_LOC_INFO),
                ..Default::default()
            },
            hevc_tiles: mfxExtHEVCTiles {
                Header: header::<mfxExtHEVCTiles>(vpl::MFX_EXTBUFF_HEVC_TILES),
                ..Default::default()
            },
            av1_tiles: mfxExtAV1TileParam {
                Header: header::<mfxExtAV1TileParam>(vpl::MFX_EXTBUFF_AV1_TILE_PARAM),
                ..Default::default()
            },
            av1_bitstream: mfxExtAV1BitstreamParam {
                Header: header::<mfxExtAV1BitstreamParam>(vpl::MFX_EXTBUFF_AV1_BITSTREAM_PARAM),
                ..Default::default()
            },
            reset: mfxExtEncoderResetOption {
                Header: header::<mfxExtEncoderResetOption>(vpl::MFX_EXTBUFF_ENCODER_RESET_OPTION),
                ..Default::default()
            },
        };
        Params { video: mfxVideoParam::default(), ext, attached: 0, list: [ptr::null_mut(); ALL.len()] }
    }

    /// Attaches an ext buffer.
    pub fn attach(&mut self, ext: Ext) {
        self.attached |= 1 << ext as u16;
    }

    /// Takes an ext buffer off.
    pub fn detach(&mut self, ext: Ext) {
        self.attached &= !(1 << ext as u16);
    }

    /// Whether an ext buffer is attached.
    pub fn has(&self, ext: Ext) -> bool {
        self.attached & 1 << ext as u16 != 0
    }

    /// The parameters with their ext buffers attached, for one call of the library.
    pub fn raw(&mut self) -> *mut mfxVideoParam {
        let mut count = 0;
        for ext in ALL {
            if self.has(ext) {
                self.list[count] = self.ext.header(ext);
                count += 1;
            }
        }
        self.video.ExtParam = self.list.as_mut_ptr();
        self.video.NumExtParam = count as mfxU16;
        &raw mut self.video
    }

    /// Where the first attached ext buffer is, as of the last call of [`Params::raw`].
    #[cfg(test)]
    pub fn first_ext(&self) -> usize {
        self.list[0].addr()
    }

    /// The codec part.
    pub fn mfx(&self) -> &mfxInfoMFX {
        // SAFETY: an encoder's parameters are always this member, and all of it is integers.
        unsafe { &self.video.__bindgen_anon_1.mfx }
    }

    /// The codec part, to write.
    pub fn mfx_mut(&mut self) -> &mut mfxInfoMFX {
        // SAFETY: as in `mfx`.
        unsafe { &mut self.video.__bindgen_anon_1.mfx }
    }

    /// What is said of encoding.
    pub fn coding(&self) -> &Coding {
        // SAFETY: an encoder's parameters are always this member, and all of it is integers.
        unsafe { &self.mfx().__bindgen_anon_1.__bindgen_anon_1 }
    }

    /// What is said of encoding, to write.
    pub fn coding_mut(&mut self) -> &mut Coding {
        // SAFETY: as in `coding`.
        unsafe { &mut self.mfx_mut().__bindgen_anon_1.__bindgen_anon_1 }
    }

    /// The size of the frames.
    pub fn size(&self) -> FrameSize {
        // SAFETY: both members of the union are integers, and frames always have a size.
        unsafe { self.mfx().FrameInfo.__bindgen_anon_1.__bindgen_anon_1 }
    }

    /// Sets the size of the frames.
    pub fn set_size(&mut self, size: FrameSize) {
        self.mfx_mut().FrameInfo.__bindgen_anon_1.__bindgen_anon_1 = size;
    }

    /// The rate part.
    pub fn rate(&self) -> Rate {
        rate::read(self)
    }

    /// Bytes that an access unit may have, as the runtime says.
    pub fn bitstream_bytes(&self) -> usize {
        let multiplier = usize::from(self.mfx().BRCParamMultiplier.max(1));
        usize::from(self.coding().BufferSizeInKB) * multiplier * 1000
    }
}

impl Buffers {
    fn header(&mut self, ext: Ext) -> *mut mfxExtBuffer {
        // Pointers to the whole structures: the library writes beyond their headers.
        match ext {
            Ext::Coding => (&raw mut self.coding).cast(),
            Ext::Coding2 => (&raw mut self.coding2).cast(),
            Ext::Coding3 => (&raw mut self.coding3).cast(),
            Ext::Signal => (&raw mut self.signal).cast(),
            Ext::Chroma => (&raw mut self.chroma).cast(),
            Ext::HevcTiles => (&raw mut self.hevc_tiles).cast(),
            Ext::Av1Tiles => (&raw mut self.av1_tiles).cast(),
            Ext::Av1Bitstream => (&raw mut self.av1_bitstream).cast(),
            Ext::Reset => (&raw mut self.reset).cast(),
        }
    }
}
