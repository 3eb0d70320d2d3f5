//! The structures that C fills in and reads. Everything is plain data; enumerations are numbers, because C may pass any.
#![expect(non_camel_case_types, reason = "these are names of C")]

use std::ffi::{c_char, c_int, c_void};

/// An encoder. What it holds is no address and means nothing outside this library.
pub struct QSVEncoderContext {
    _opaque: [u8; 0],
}

/// The place of kernel C between the rings of a running instance.
pub struct QSVRing {
    _opaque: [u8; 0],
}

/// Most surfaces an encoder works with, and most access units that wait in a context.
pub const QSV_MAX_SURFACES: u32 = 64;

/// H.264.
pub const QSV_CODEC_H264: u32 = 0;
/// HEVC.
pub const QSV_CODEC_HEVC: u32 = 1;
/// AV1.
pub const QSV_CODEC_AV1: u32 = 2;

/// 4:2:0, 8 bit: a plane of Y and one of Cb and Cr by turns.
pub const QSV_PIXEL_NV12: u32 = 0;
/// 4:2:0, 10 bit in the high bits of little-endian 16-bit words; planes as NV12.
pub const QSV_PIXEL_P010: u32 = 1;

/// Constant bitrate.
pub const QSV_RATE_CBR: u32 = 0;
/// Variable bitrate: bitrate_bps on average, up to max_bitrate_bps for a while.
pub const QSV_RATE_VBR: u32 = 1;
/// Constant quantiser: qp.
pub const QSV_RATE_CQP: u32 = 2;
/// Constant quality: qp is its figure.
pub const QSV_RATE_ICQ: u32 = 3;

/// As the profile has it.
pub const QSV_ENTROPY_DEFAULT: u32 = 0;
/// Variable-length codes.
pub const QSV_ENTROPY_CAVLC: u32 = 1;
/// Arithmetic coding.
pub const QSV_ENTROPY_CABAC: u32 = 2;

/// gop_frames: an IDR every two seconds.
pub const QSV_GOP_DEFAULT: i32 = 0;
/// gop_frames: an IDR only first and on request.
pub const QSV_GOP_INFINITE: i32 = -1;

/// qsv_frame.flags: this very frame becomes an IDR.
pub const QSV_FRAME_FORCE_IDR: u32 = 1;

/// qsv_bitstream.flags: decoding can begin here.
pub const QSV_UNIT_IDR: u32 = 1;
/// qsv_bitstream.flags: the parameter sets are in it.
pub const QSV_UNIT_CONFIG: u32 = 2;
/// qsv_bitstream.flags: nothing was made of this frame (rate control, or a reset after which no encoder takes it);
/// data_length is 0.
pub const QSV_UNIT_LEFT_OUT: u32 = 4;

/// qsv_ring_config.flags: where another process is kernel C, wait until it ends or yields. Without it that is
/// QSV_ERR_BUSY.
pub const QSV_ATTACH_WAIT: u32 = 1;

/// What an encoder is opened with. Set everything to 0, then struct_size, then what is wanted: 0 is the default of
/// every other field. Text is copied; NULL is the default.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct qsv_config {
    /// sizeof(qsv_config) of the program: later versions add fields at the end.
    pub struct_size: u32,
    /// QSV_CODEC_…
    pub codec: u32,
    /// Width, pixels; even.
    pub width: i32,
    /// Height, pixels; even.
    pub height: i32,
    /// Frames per second, numerator.
    pub fps_num: u32,
    /// Frames per second, denominator; 0 is 1.
    pub fps_den: u32,
    /// QSV_PIXEL_…
    pub pixel_format: u32,
    /// QSV_RATE_…
    pub rate_control: u32,
    /// Target bitrate, bit/s (not kbit/s); rounded up to whole kbit/s.
    pub bitrate_bps: u64,
    /// Largest bitrate that will be asked for, bit/s; 0: four times bitrate_bps. The level is chosen by it.
    pub max_bitrate_bps: u64,
    /// Quantiser or quality where no bitrate is held: 0 to 51, for AV1 0 to 255.
    pub qp: u32,
    /// Size of the rate control's buffer, milliseconds at the bitrate; 0: 500.
    pub vbv_ms: u32,
    /// Frames from IDR to IDR, QSV_GOP_DEFAULT, or QSV_GOP_INFINITE; 1: every frame.
    pub gop_frames: i32,
    /// Not 0: no frame is held back (no B frames, no look-ahead).
    pub low_latency: i32,
    /// Slices of a picture; 0: one for each thread.
    pub slices: u32,
    /// Threads of a software encoder; 0: one for each processor of this process, 4 at most.
    pub threads: u32,
    /// Tile columns of HEVC and AV1; 0: the encoder's choice.
    pub tile_columns: u32,
    /// Tile rows of HEVC and AV1; 0: the encoder's choice.
    pub tile_rows: u32,
    /// Not 0: a moving band of intra blocks renews the picture between IDRs.
    pub intra_refresh: u32,
    /// Frames a hardware encoder works on at a time; 0: 1.
    pub async_depth: u32,
    /// H.264: QSV_ENTROPY_…
    pub entropy: u32,
    /// IDRs that the stream had before, for one that goes on: consecutive IDRs differ in idr_pic_id.
    pub idr_count: u32,
    /// "auto" (NULL), "vpl", "vaapi", "x264", "x265", "svtav1", "openh264".
    pub backend: *const c_char,
    /// Render node, as "/dev/dri/renderD128"; NULL: the first that can.
    pub device: *const c_char,
    /// "fast" (NULL), "medium", "quality", a name of x264 and x265, or the backend's number.
    pub preset: *const c_char,
    /// H.264: "baseline", "main", "high"; NULL: the encoder's choice.
    pub profile: *const c_char,
    /// As "5.1"; NULL: the lowest that carries size, rate and bitrate.
    pub level: *const c_char,
    /// ITU-T H.273 code points of the frames; all four 0: BT.709, limited range.
    pub colour_matrix: u8,
    /// Colour primaries.
    pub colour_primaries: u8,
    /// Transfer characteristics.
    pub colour_transfer: u8,
    /// Not 0: full range.
    pub colour_full_range: u8,
    /// 0.
    pub reserved: [u32; 7],
}

/// A frame: where its planes lie. Set everything to 0 first. The pixels are read, never written, and only during
/// qsv_encode_frame; after QSV_MORE_INPUT until the frame's access unit is out, whatever other calls return meanwhile: a
/// reset reads them again.
///
/// Planes that begin on multiples of 256 bytes, with strides that are multiples of 256, one right behind the other, are
/// encoded where they lie. Others are copied once.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct qsv_frame {
    /// First byte of each plane. stride × rows bytes of each are read: rows are the height, of chroma half of it.
    pub data: [*const u8; 4],
    /// Bytes from a row to the next, of each plane.
    pub stride: [u32; 4],
    /// Width in pixels; 0: the context's.
    pub width: u32,
    /// Height in pixels; 0: the context's.
    pub height: u32,
    /// QSV_PIXEL_… of the context.
    pub pixel_format: u32,
    /// QSV_FRAME_…
    pub flags: u32,
    /// Identity, above that of the frame before; 0: one more than that.
    pub frame_id: u64,
    /// Presentation time, ns; 0: one frame interval after the frame before.
    pub pts_ns: u64,
    /// Bitrate asked for from this frame on, bit/s; 0: as it is. Where it cannot be had the old one stays, see
    /// qsv_bitstream.bitrate_bps.
    pub bitrate_bps: u64,
    /// 0.
    pub reserved: [u64; 4],
}

/// An access unit: H.264 and HEVC as Annex B with a delimiter in front, AV1 as one temporal unit of OBUs. Set
/// everything to 0 first.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct qsv_bitstream {
    /// Its bytes. With max_length 0 the library's own memory, valid until the next call with this context; else
    /// the caller's buffer of max_length bytes.
    pub data: *mut u8,
    /// How many; 0: none came out, or see QSV_UNIT_LEFT_OUT.
    pub data_length: usize,
    /// Size of the caller's buffer; 0: lend me yours.
    pub max_length: usize,
    /// The frame it was made of.
    pub frame_id: u64,
    /// Presentation time of that frame, ns.
    pub pts_ns: u64,
    /// Bitrate in force, bit/s.
    pub bitrate_bps: u64,
    /// QSV_CODEC_…
    pub codec: u32,
    /// QSV_UNIT_…
    pub flags: u32,
    /// Access units that wait behind this one: qsv_next_access_unit.
    pub pending: u32,
    /// 0.
    pub reserved: [u32; 7],
}

/// How to become kernel C of an instance. NULL in its place is all defaults.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct qsv_ring_config {
    /// sizeof(qsv_ring_config).
    pub struct_size: u32,
    /// QSV_ATTACH_…
    pub flags: u32,
    /// The instance's configuration file, the same as the other kernels have; NULL: all keys have their defaults.
    pub config_file: *const c_char,
    /// KEY=VALUE over the file, as the kernels' --set.
    pub settings: *const *const c_char,
    /// How many.
    pub settings_count: u32,
    /// 0.
    pub reserved: [u32; 7],
}

/// Gets access units as soon as they are there, in order, from within the call that brought them out. `unit` and its
/// bytes are valid until it returns. It must return, and must not call this library with the same context
/// (QSV_ERR_BUSY), qsv_request_idr excepted.
pub type qsv_output_callback = Option<unsafe extern "C" fn(user: *mut c_void, unit: *const qsv_bitstream)>;

/// mfxStatus.
pub type qsv_mfx_status = onevpl_sys::mfxStatus;
/// mfxHDL.
pub type qsv_mfx_handle = onevpl_sys::mfxHDL;
/// mfxMemId.
pub type qsv_mfx_memory = onevpl_sys::mfxMemId;
/// mfxFrameSurface1.
pub type qsv_mfx_surface = onevpl_sys::mfxFrameSurface1;
/// mfxFrameData.
pub type qsv_mfx_data = onevpl_sys::mfxFrameData;
/// mfxFrameAllocRequest.
pub type qsv_mfx_request = onevpl_sys::mfxFrameAllocRequest;
/// mfxFrameAllocResponse.
pub type qsv_mfx_response = onevpl_sys::mfxFrameAllocResponse;

const _: () = assert!(size_of::<c_int>() == 4);
// The fields have no gaps, so that "all 0" and a copy of the first bytes mean what they say.
const _: () = assert!(size_of::<qsv_config>() == 168 && size_of::<qsv_frame>() == 120);
const _: () = assert!(size_of::<qsv_bitstream>() == 88 && size_of::<qsv_ring_config>() == 56);
