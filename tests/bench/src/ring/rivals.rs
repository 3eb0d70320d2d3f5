//! The rivals that need no more than a shared page: raw atomics, a bare futex, raw_sync.
#![expect(unsafe_code, reason = "raw_sync works on raw memory")]

use super::hand::{Hand, Side};
use super::page::Page;
use anyhow::{Result, anyhow};
use raw_sync::Timeout;
use raw_sync::events::{BusyEvent, Event, EventImpl, EventInit, EventState};
use rustix::thread::futex;
use std::sync::atomic::Ordering;

/// First line of raw atomics: one a side.
const RAW_LINES: usize = 2;
/// First line of the futex words: one a side.
const FUTEX_LINES: usize = 4;
/// First line of the messages that go beside futex and events: one a side.
const MESSAGE_LINES: usize = 6;
/// First line of raw_sync's busy events: one a side.
const BUSY_LINES: usize = 8;
/// First line of raw_sync's sleeping events: four a side, for a mutex and a condition variable.
const EVENT_LINES: usize = 16;
const EVENT_SIZE_LINES: usize = 4;

/// The floor: one word a direction, the message is the signal.
pub struct Raw {
    page: Page,
    sent: u64,
    heard: u64,
}

impl Raw {
    /// Both words begin at zero.
    pub fn new(page: &Page) -> Raw {
        Raw { page: page.clone(), sent: 0, heard: 0 }
    }
}

impl Hand for Raw {
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    fn send(&mut self, _value: u64) -> Result<()> {
        self.sent += 1;
        self.page.word(RAW_LINES + self.page.side().index()).store(self.sent, Ordering::Release);
        Ok(())
    }

    fn receive(&mut self) -> Result<u64> {
        let word = self.page.word(RAW_LINES + self.page.side().other().index());
        loop {
            let value = word.load(Ordering::Acquire);
            if value != self.heard {
                self.heard = value;
                return Ok(value);
            }
            std::hint::spin_loop();
        }
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// The floor of sleeping: one futex word a direction, a wake for every message.
pub struct Futex {
    page: Page,
    heard: u32,
}

impl Futex {
    /// Both words begin at zero.
    pub fn new(page: &Page) -> Futex {
        Futex { page: page.clone(), heard: 0 }
    }
}

impl Hand for Futex {
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    fn send(&mut self, value: u64) -> Result<()> {
        let side = self.page.side().index();
        self.page.word(MESSAGE_LINES + side).store(value, Ordering::Relaxed);
        let word = self.page.word32(FUTEX_LINES + side);
        word.fetch_add(1, Ordering::Release);
        futex::wake(word, futex::Flags::empty(), 1)?;
        Ok(())
    }

    fn receive(&mut self) -> Result<u64> {
        let side = self.page.side().other().index();
        let word = self.page.word32(FUTEX_LINES + side);
        loop {
            let value = word.load(Ordering::Acquire);
            if value != self.heard {
                self.heard = value;
                return Ok(self.page.word(MESSAGE_LINES + side).load(Ordering::Relaxed));
            }
            // EAGAIN: it moved between the look and the sleep. EINTR: look again.
            let _ = futex::wait(word, futex::Flags::empty(), self.heard, None);
        }
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}

/// raw_sync's events: a flag to poll, or a condition variable to sleep on.
pub struct RawSync {
    page: Page,
    own: Box<dyn EventImpl>,
    other: Box<dyn EventImpl>,
}

fn failed(error: Box<dyn std::error::Error>) -> anyhow::Error {
    anyhow!("raw_sync: {error}")
}

impl RawSync {
    /// Events that are polled.
    pub fn busy(page: &Page) -> Result<RawSync> {
        RawSync::open::<BusyEvent>(page, BUSY_LINES, 1)
    }

    /// Events that are slept on.
    pub fn sleeping(page: &Page) -> Result<RawSync> {
        RawSync::open::<Event>(page, EVENT_LINES, EVENT_SIZE_LINES)
    }

    fn open<E: EventInit>(page: &Page, first: usize, lines: usize) -> Result<RawSync> {
        let own_at = page.raw(first + page.side().index() * lines);
        let other_at = page.raw(first + page.side().other().index() * lines);
        // SAFETY: the lines belong to this event alone, are mapped as long as `page`, and hold it whole.
        let (own, used) = unsafe { E::new(own_at, true) }.map_err(failed)?;
        anyhow::ensure!(used <= lines * 64, "raw_sync's event takes {used} bytes");
        page.meet();
        // SAFETY: as above; the other process made it before the two met.
        let (other, _) = unsafe { E::from_existing(other_at) }.map_err(failed)?;
        page.meet();
        Ok(RawSync { page: page.clone(), own, other })
    }
}

impl Hand for RawSync {
    fn prepare(&mut self) -> Result<()> {
        Ok(())
    }

    fn send(&mut self, value: u64) -> Result<()> {
        self.page.word(MESSAGE_LINES + self.page.side().index()).store(value, Ordering::Release);
        self.own.set(EventState::Signaled).map_err(failed)
    }

    fn receive(&mut self) -> Result<u64> {
        self.other.wait(Timeout::Infinite).map_err(failed)?;
        let side: Side = self.page.side().other();
        Ok(self.page.word(MESSAGE_LINES + side.index()).load(Ordering::Acquire))
    }

    fn finish(&mut self) -> Result<()> {
        Ok(())
    }
}
