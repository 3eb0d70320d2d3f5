//! What the configuration asks of the frames that go out.

use crate::color::Matrix;
use crate::engine::{Rect, Rotation, Wish};
use kernel_host::config::Process;

/// The wish that `config` is.
pub fn wish(config: &Process) -> Wish {
    let rotation = Rotation::from_degrees(config.rotate.name().parse().unwrap_or(0)).unwrap_or(Rotation::None);
    Wish {
        format: Some(config.format.pixel_format()),
        size: config.width.zip(config.height),
        crop: config.crop.map(|c| Rect { x: c.x, y: c.y, width: c.width, height: c.height }),
        rotation,
        matrix: config.matrix.and_then(|m| Matrix::from_code(m.code())),
        range: config.range.map(|r| r.range()),
        siting: None,
    }
}
