//! NAL units in a byte stream (Rec. ITU-T H.264 and H.265, annex B).

use memchr::memmem;

use crate::au::AuView;

use super::PacketPlan;

const START_CODE: [u8; 3] = [0, 0, 1];

/// Finds the NAL units and the check sum in one pass over shared memory.
pub(super) fn scan(au: &AuView<'_>, plan: &mut PacketPlan) {
    let finder = memmem::Finder::new(&START_CODE);
    let mut crc = crc32fast::Hasher::new();
    let mut open: Option<u32> = None;
    let mut tail = [0xffu8; 2]; // the two bytes before this chunk
    let nals = &mut plan.nals;
    let mut found = |code_at: u32| {
        if let Some(start) = open {
            close_nal(au, start, code_at, nals);
        }
        open = Some(code_at + START_CODE.len() as u32);
    };
    au.for_each_chunk(|base, bytes| {
        crc.update(bytes);
        // A start code across the border: its last one or two bytes are in this chunk.
        let mut border = [0xffu8; 4];
        border[..2].copy_from_slice(&tail);
        let head = bytes.len().min(2);
        border[2..2 + head].copy_from_slice(&bytes[..head]);
        if let Some(at) = finder.find(&border) {
            found((base + at as u32).wrapping_sub(2));
        }
        for at in finder.find_iter(bytes) {
            found(base + at as u32);
        }
        match *bytes {
            [.., a, b] => tail = [a, b],
            [b] => tail = [tail[1], b],
            [] => {}
        }
    });
    if let Some(start) = open {
        close_nal(au, start, au.len(), nals);
    }
    plan.crc = crc.finalize();
}

/// Records the NAL unit `start..end` without trailing_zero_8bits (H.264 and H.265 annex B: a NAL unit never ends in 0).
fn close_nal(au: &AuView<'_>, start: u32, mut end: u32, nals: &mut Vec<(u32, u32)>) {
    while end > start && au.byte(end - 1) == Some(0) {
        end -= 1;
    }
    if end > start {
        nals.push((start, end - start));
    }
}
