//! Reading and writing the syntax around coded pictures: NAL units, delimiters, parameter sets.

pub mod annexb;
pub mod assemble;
pub mod av1;
pub mod av1_write;
pub mod bits;
pub mod h264;
pub mod h264_idr_id;
pub mod h264_level;
pub mod h264_sps;
pub mod h264_write;
pub mod hevc;
pub mod hevc_level;
pub mod hevc_write;
pub mod levels;
