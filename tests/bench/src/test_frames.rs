//! Frames that are neither easy nor impossible to encode: a texture that moves.

/// How a raw frame lies in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Three planes.
    I420,
    /// Luma, then interleaved chroma.
    Nv12,
}

impl Layout {
    /// Its name in our configuration.
    pub fn name(self) -> &'static str {
        match self {
            Layout::I420 => "i420",
            Layout::Nv12 => "nv12",
        }
    }

    /// Its name in FFmpeg's.
    pub fn ffmpeg_name(self) -> &'static str {
        match self {
            Layout::I420 => "yuv420p",
            Layout::Nv12 => "nv12",
        }
    }
}

/// Frames of the loop.
const FRAMES: usize = 24;
/// Pixels the picture moves from one frame to the next: about what a slow camera pan does at 60 fps.
const STEP: usize = 4;

/// A loop of frames without a jump: the texture moves forth, then back.
pub fn frames(layout: Layout, size: (usize, usize)) -> Vec<Vec<u8>> {
    loop_of(FRAMES, layout, size)
}

/// As [`frames`], of `count` frames: fewer of large ones.
pub fn loop_of(count: usize, layout: Layout, (width, height): (usize, usize)) -> Vec<Vec<u8>> {
    let wide = width + STEP * count;
    let texture = texture(wide, height);
    (0..count)
        .map(|index| {
            let shift = STEP * index.min(count - index);
            let mut frame = Vec::with_capacity(width * height * 3 / 2);
            for row in texture.chunks(wide) {
                frame.extend_from_slice(&row[shift..shift + width]);
            }
            // Chroma follows luma at half contrast, so that it moves too.
            let chroma = |x: usize, y: usize, flip: bool| {
                let value = texture[2 * y * wide + 2 * x + shift] / 2 + 64;
                if flip { 255 - value } else { value }
            };
            let sites = (0..height / 2).flat_map(|y| (0..width / 2).map(move |x| (x, y)));
            match layout {
                Layout::Nv12 => frame.extend(sites.flat_map(|(x, y)| [chroma(x, y, false), chroma(x, y, true)])),
                Layout::I420 => {
                    frame.extend(sites.clone().map(|(x, y)| chroma(x, y, false)));
                    frame.extend(sites.map(|(x, y)| chroma(x, y, true)));
                }
            }
            frame
        })
        .collect()
}

/// Smooth noise at three scales.
fn texture(width: usize, height: usize) -> Vec<u8> {
    let mut pixels = vec![0u8; width * height];
    for (at, pixel) in pixels.iter_mut().enumerate() {
        let (x, y) = (at % width, at / width);
        let value = noise(x, y, 64) * 0.5 + noise(x, y, 16) * 0.3 + noise(x, y, 4) * 0.2;
        *pixel = 32 + (value * 190.0) as u8;
    }
    pixels
}

/// Values at the corners of a grid, mixed between: 0 to 1.
fn noise(x: usize, y: usize, cell: usize) -> f32 {
    let corner = |dx: usize, dy: usize| {
        let mut hash =
            ((x / cell + dx) as u32).wrapping_mul(0x9e37_79b9) ^ ((y / cell + dy) as u32).wrapping_mul(0x85eb_ca6b);
        hash ^= hash >> 15;
        hash = hash.wrapping_mul(0x2c1b_3c6d) ^ cell as u32;
        hash ^= hash >> 13;
        (hash & 0xffff) as f32 / 65535.0
    };
    let (fx, fy) = ((x % cell) as f32 / cell as f32, (y % cell) as f32 / cell as f32);
    let top = corner(0, 0) * (1.0 - fx) + corner(1, 0) * fx;
    let bottom = corner(0, 1) * (1.0 - fx) + corner(1, 1) * fx;
    top * (1.0 - fy) + bottom * fy
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_layouts_carry_the_same_picture_and_it_moves() {
        let (planar, packed) = (frames(Layout::I420, (64, 32)), frames(Layout::Nv12, (64, 32)));
        assert_eq!((planar.len(), planar[0].len()), (FRAMES, 64 * 32 * 3 / 2));
        let luma = 64 * 32;
        assert_eq!(planar[3][..luma], packed[3][..luma]);
        assert_eq!(planar[3][luma + 5], packed[3][luma + 10]);
        assert_eq!(planar[3][luma + luma / 4 + 5], packed[3][luma + 11]);
        assert_eq!(planar[0][STEP], planar[1][0]);
        assert_ne!(planar[0], planar[1]);
    }
}
