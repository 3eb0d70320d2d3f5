//! The objects of a stream on a display: configuration, context, surfaces, coded buffers. Let go in the order in which
//! they hang on each other.

use super::call::{Answer, Va};
use super::plan::Plan;
use libva_sys as va;
use shm_protocol::frame::{PixelFormat, VideoFormat};

/// Surfaces for decoded pictures beyond the frames in work: the reference of the oldest, and the one being made.
const SPARE_PICTURES: usize = 2;
/// Bytes of a coded buffer beyond the pixels: headers of small pictures.
const HEADER_ROOM_BYTES: usize = 1 << 16;

/// The objects of a stream.
#[derive(Debug)]
pub struct Session {
    va: Va,
    config: va::VAConfigID,
    /// The context.
    pub context: va::VAContextID,
    /// Surfaces for decoded pictures, used in turn.
    pub pictures: Vec<va::VASurfaceID>,
    /// Surfaces for frames that are copied.
    pub uploads: Vec<va::VASurfaceID>,
    /// Coded buffers, used in turn.
    pub coded: Vec<va::VABufferID>,
    /// Bytes of a coded buffer.
    pub coded_bytes: usize,
}

/// The fourcc of pixels that go in.
pub fn fourcc(format: PixelFormat) -> u32 {
    if format == PixelFormat::P010 { va::VA_FOURCC_P010 } else { va::VA_FOURCC_NV12 }
}

/// Bytes that a coded picture may take: as many as its pixels, which no picture worth coding reaches.
pub fn coded_bytes(format: &VideoFormat) -> usize {
    let sample_bytes = if format.pixel_format == PixelFormat::P010 { 2 } else { 1 };
    format.width as usize * format.height as usize * 3 / 2 * sample_bytes + HEADER_ROOM_BYTES
}

fn pixel_format_attribute(format: PixelFormat) -> va::VASurfaceAttrib {
    let mut value = va::VAGenericValue { type_: va::VAGenericValueTypeInteger, ..Default::default() };
    value.value.i = fourcc(format) as i32;
    va::VASurfaceAttrib { type_: va::VASurfaceAttribPixelFormat, flags: va::VA_SURFACE_ATTRIB_SETTABLE, value }
}

impl Session {
    /// Makes everything.
    pub fn open(va: &Va, plan: &Plan, format: &VideoFormat, coded_bytes: usize) -> Answer<Session> {
        let caps = &plan.caps;
        let mut attributes = vec![
            va::VAConfigAttrib { type_: va::VAConfigAttribRTFormat, value: caps.rt_format },
            va::VAConfigAttrib { type_: va::VAConfigAttribRateControl, value: plan.rate_mode },
        ];
        if caps.packed != 0 {
            let value = plan.stream.packed;
            attributes.push(va::VAConfigAttrib { type_: va::VAConfigAttribEncPackedHeaders, value });
        }
        let config = va.create_config(caps.profile, caps.entrypoint, &mut attributes)?;
        // From here on what was made is let go when a later step fails.
        let mut session = Session {
            va: va.clone(),
            config,
            context: va::VA_INVALID_ID,
            pictures: Vec::new(),
            uploads: Vec::new(),
            coded: Vec::new(),
            coded_bytes,
        };
        let surfaces = |count: usize, size| -> Answer<Vec<va::VASurfaceID>> {
            let mut surfaces = vec![va::VA_INVALID_SURFACE; count];
            let mut attributes = [pixel_format_attribute(format.pixel_format)];
            va.create_surfaces(caps.rt_format, size, &mut surfaces, &mut attributes)?;
            Ok(surfaces)
        };
        session.pictures = surfaces(plan.depth + SPARE_PICTURES, plan.coder.coded_size())?;
        session.uploads = surfaces(plan.depth, (format.width, format.height))?;
        session.begin(plan)?;
        Ok(session)
    }

    /// Makes the context and its coded buffers.
    fn begin(&mut self, plan: &Plan) -> Answer<()> {
        self.context = self.va.create_context(self.config, plan.coder.context_size(), &mut self.pictures)?;
        for _ in 0..plan.depth {
            let bytes = self.coded_bytes as u32;
            self.coded.push(self.va.create_empty_buffer(self.context, va::VAEncCodedBufferType, bytes)?);
        }
        Ok(())
    }

    fn end(&mut self) {
        self.coded.drain(..).for_each(|id| self.va.destroy_buffer(id));
        if self.context != va::VA_INVALID_ID {
            self.va.destroy_context(self.context);
            self.context = va::VA_INVALID_ID;
        }
    }

    /// Makes context and coded buffers anew; surfaces and what they hold stay.
    pub fn renew(&mut self, plan: &Plan, coded_bytes: usize) -> Answer<()> {
        self.end();
        self.coded_bytes = coded_bytes;
        self.begin(plan)
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end();
        self.va.destroy_surfaces(&mut self.pictures);
        self.va.destroy_surfaces(&mut self.uploads);
        self.va.destroy_config(self.config);
    }
}
