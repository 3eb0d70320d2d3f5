//! What the three codecs have in common: the picture at hand and the stream it belongs to.

use super::av1::Av1;
use super::buffers::{Buffers, Maker, RateParameters, Refresh, add_quality};
use super::call::Answer;
use super::h264::H264;
use super::hevc::Hevc;
use libva_sys as va;

/// One picture.
#[derive(Debug, Clone, Copy)]
pub struct Picture {
    /// Whether it is an IDR.
    pub idr: bool,
    /// Its `idr_pic_id`, for H.264.
    pub idr_pic_id: u16,
    /// Frames behind the last IDR; 0 for an IDR.
    pub since_idr: u32,
    /// Quantiser.
    pub qp: u8,
    /// Surface that the device decodes into.
    pub reconstructed: va::VASurfaceID,
    /// The same of the picture before.
    pub reference: va::VASurfaceID,
    /// Where its bytes go.
    pub coded: va::VABufferID,
    /// Rate control is told anew: at every IDR, and when the bitrate changed.
    pub tell_rate: bool,
}

/// What holds for the whole stream.
#[derive(Debug, Clone)]
pub struct Stream {
    /// Packed headers that the device takes: `VA_ENC_PACKED_HEADER_…`.
    pub packed: u32,
    /// Frames from IDR to IDR, as a hint for the device's rate control.
    pub gop_frames: u32,
    /// Highest bitrate, bit/s; 0 where none is held.
    pub bits_per_s: u32,
    /// Rate control.
    pub rate: RateParameters,
    /// Quality level; 0: the driver's own.
    pub quality: u32,
    /// Moving band of intra blocks.
    pub refresh: Option<Refresh>,
}

impl Stream {
    /// Whether the device takes that kind of packed header.
    pub fn packs(&self, kind: u32) -> bool {
        self.packed & kind != 0
    }

    /// Adds the misc parameters of a picture.
    pub fn add_misc(&self, now: &Picture, buffers: &mut Buffers, maker: Maker<'_>) -> Answer<()> {
        if now.idr {
            add_quality(self.quality, buffers, maker)?;
        }
        if now.tell_rate {
            self.rate.add(buffers, maker)?;
        }
        // Also with an IDR, which is all intra anyway: some encoders take the band as a change of the stream otherwise.
        self.refresh.as_ref().map_or(Ok(()), |refresh| refresh.add(now.since_idr, buffers, maker))
    }
}

/// A codec.
#[derive(Debug, Clone)]
pub enum Coder {
    /// H.264.
    H264(H264),
    /// HEVC.
    Hevc(Hevc),
    /// AV1.
    Av1(Av1),
}

impl Coder {
    /// Adds the buffers of a picture.
    pub fn add(&self, stream: &Stream, now: &Picture, buffers: &mut Buffers, maker: Maker<'_>) -> Answer<()> {
        match self {
            Coder::H264(coder) => coder.add(stream, now, buffers, maker),
            Coder::Hevc(coder) => coder.add(stream, now, buffers, maker),
            Coder::Av1(coder) => coder.add(stream, now, buffers, maker),
        }
    }

    /// Size of the surfaces that pictures are decoded into, pixels.
    pub fn coded_size(&self) -> (u32, u32) {
        match self {
            Coder::H264(coder) => {
                let (width, height) = coder.sequence.size_mbs();
                (width * 16, height * 16)
            }
            // Whole coding tree blocks and superblocks: the device works in them.
            Coder::Hevc(coder) => {
                let (width, height) = coder.sequence.size_ctbs();
                let unit = 1 << coder.sequence.blocks.log2_ctb;
                (width * unit, height * unit)
            }
            Coder::Av1(coder) => {
                (coder.sequence.width.next_multiple_of(64), coder.sequence.height.next_multiple_of(64))
            }
        }
    }

    /// Size that the context is made for, pixels.
    pub fn context_size(&self) -> (u32, u32) {
        match self {
            Coder::H264(_) => self.coded_size(),
            Coder::Hevc(coder) => coder.sequence.coded_size(),
            Coder::Av1(coder) => (coder.sequence.width, coder.sequence.height),
        }
    }

    /// The quantiser that pictures count from.
    pub fn init_qp(&self) -> u8 {
        match self {
            Coder::H264(coder) => coder.sequence.init_qp,
            Coder::Hevc(coder) => coder.sequence.init_qp,
            Coder::Av1(coder) => coder.init_qp,
        }
    }
}
