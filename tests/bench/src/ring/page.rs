//! The shared page of the two processes: where they meet, and what the plainest rivals hand over on.
#![expect(unsafe_code, reason = "32-bit words and raw memory for rivals within a shared page")]

use super::hand::Side;
use anyhow::Result;
use shm_protocol::words::Words;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

/// Words of a cache line.
const LINE: usize = 8;
/// Lines of the page: two to meet on, then those of the rivals.
const LINES: usize = 64;

/// A page that both processes map.
#[derive(Clone)]
pub struct Page {
    words: Arc<Words>,
    side: Side,
}

impl Page {
    /// Opens the page of `instance`, making it if it is not there.
    pub fn open(instance: &str, side: Side) -> Result<Page> {
        let words = Words::open(&format!("quad.{instance}.bench"), LINE * LINES)?;
        Ok(Page { words: Arc::new(words), side })
    }

    /// Which process this is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The first word of a line.
    pub fn word(&self, line: usize) -> &AtomicU64 {
        &self.words[line * LINE]
    }

    /// A 32-bit word alone on a line, for futexes.
    pub fn word32(&self, line: usize) -> &AtomicU32 {
        // SAFETY: the word is mapped as long as `self`, aligned to 8 and only ever used as 32 bits.
        unsafe { AtomicU32::from_ptr(self.word(line).as_ptr().cast()) }
    }

    /// Memory from a line on, for rivals that bring their own types.
    pub fn raw(&self, line: usize) -> *mut u8 {
        self.word(line).as_ptr().cast()
    }

    /// Waits until the other process calls this as often. Gives the core away meanwhile: nothing is
    /// measured here.
    pub fn meet(&self) {
        let own = self.word(self.side.index()).fetch_add(1, Ordering::AcqRel) + 1;
        let other = self.word(self.side.other().index());
        let mut looks = 0u32;
        while other.load(Ordering::Acquire) < own {
            looks += 1;
            if looks > 10_000 {
                std::thread::yield_now();
            }
            std::hint::spin_loop();
        }
    }
}
