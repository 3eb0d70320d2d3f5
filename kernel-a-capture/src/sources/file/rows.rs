//! Packed frame bytes straight into the rows of a buffer, by vectored reads.

use shm_protocol::frame::VideoFormat;
use shm_protocol::pixels::PixelsWrite;
use std::io::IoSliceMut;

/// Rows of one vectored read. A quarter of IOV_MAX: 4 KiB of stack, and a 1080p frame in nine calls.
pub(super) const ROWS: usize = 256;

/// Bytes of a frame without padding.
pub(super) fn payload_bytes(format: &VideoFormat) -> u64 {
    let plane = |plane| {
        let row_bytes = format.pixel_format.row_bytes(plane, format.width);
        u64::from(row_bytes) * u64::from(format.pixel_format.rows(plane, format.height))
    };
    (0..format.pixel_format.planes()).map(plane).sum()
}

/// Calls `read` with the places where the packed bytes from `done` on belong, at most [`ROWS`] of them.
pub(super) fn with_rows<T>(
    pixels: &mut PixelsWrite<'_>,
    done: u64,
    read: impl FnOnce(&mut [IoSliceMut<'_>]) -> T,
) -> T {
    let format = *pixels.format();
    let pixel_format = format.pixel_format;
    let mut places: [IoSliceMut<'_>; ROWS] = std::array::from_fn(|_| IoSliceMut::new(&mut []));
    let mut used = 0;
    let mut skip = done as usize;
    let mut rest = pixels.bytes_mut();
    let mut rest_start = 0;
    'planes: for plane in 0..pixel_format.planes() {
        let mut row_bytes = pixel_format.row_bytes(plane, format.width) as usize;
        let mut rows = pixel_format.rows(plane, format.height) as usize;
        let (offset, stride) = (format.planes[plane].offset as usize, format.planes[plane].stride as usize);
        if skip >= row_bytes * rows {
            skip -= row_bytes * rows;
            continue;
        }
        if row_bytes == stride {
            // Rows without padding between them are one place.
            (row_bytes, rows) = (row_bytes * rows, 1);
        }
        for row in skip / row_bytes..rows {
            let within = skip % row_bytes;
            skip = 0;
            let start = offset + row * stride + within;
            let (_, tail) = rest.split_at_mut(start - rest_start);
            let (place, tail) = tail.split_at_mut(row_bytes - within);
            (rest, rest_start) = (tail, start + row_bytes - within);
            places[used] = IoSliceMut::new(place);
            used += 1;
            if used == ROWS {
                break 'planes;
            }
        }
    }
    read(&mut places[..used])
}

/// Copies the front of `bytes` into `places`; returns how many.
pub(super) fn scatter(bytes: &[u8], places: &mut [IoSliceMut<'_>]) -> usize {
    let mut done = 0;
    for place in places {
        let len = place.len().min(bytes.len() - done);
        place[..len].copy_from_slice(&bytes[done..done + len]);
        done += len;
    }
    done
}

#[cfg(test)]
mod tests {
    use super::*;
    use shm_protocol::frame::{Colour, PixelFormat, Rational};

    #[test]
    fn bytes_in_any_portions_land_in_their_rows_and_nowhere_else() {
        for pixel_format in PixelFormat::ALL {
            for width in [20, 256, 512] {
                let fps = Rational { num: 25, den: 1 };
                let format = VideoFormat::packed(pixel_format, width, 600, fps, Colour::BT709_LIMITED).unwrap();
                let packed: Vec<u8> = (0..payload_bytes(&format)).map(|index| (index % 251) as u8 + 1).collect();
                let mut bytes = vec![0u8; format.frame_bytes() as usize];
                let mut pixels = PixelsWrite::new(&format, &mut bytes).unwrap();
                let mut done = 0;
                while done < packed.len() {
                    let portion = &packed[done..(done + 7001).min(packed.len())];
                    done += with_rows(&mut pixels, done as u64, |places| scatter(portion, places));
                }
                let mut rest = &packed[..];
                for plane in 0..pixel_format.planes() {
                    for y in 0..pixel_format.rows(plane, 600) {
                        let row = pixels.row_mut(plane, y);
                        assert_eq!(row, &rest[..row.len()], "{} {width} plane {plane} row {y}", pixel_format.name());
                        rest = &rest[row.len()..];
                    }
                }
                assert_eq!(bytes.iter().filter(|byte| **byte != 0).count(), packed.len(), "padding stays");
            }
        }
    }
}
