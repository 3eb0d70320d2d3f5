//! What every way of handing a message to another process looks like to the benchmark.

use anyhow::Result;

/// One end of a two-way connection: it sends on one channel and receives on the other.
pub trait Hand {
    /// Gets ready to send, before it is known what: claims a slot, takes a loan.
    fn prepare(&mut self) -> Result<()>;
    /// Sends eight bytes, waiting for room if there is none.
    fn send(&mut self, value: u64) -> Result<()>;
    /// Waits for the next eight bytes. What they came in is held until `finish`.
    fn receive(&mut self) -> Result<u64>;
    /// Gives back what the last message came in.
    fn finish(&mut self) -> Result<()>;
}

/// Which of the two processes this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// Begins, and measures.
    Ping,
    /// Answers.
    Pong,
}

impl Side {
    /// The other one.
    pub fn other(self) -> Side {
        match self {
            Side::Ping => Side::Pong,
            Side::Pong => Side::Ping,
        }
    }

    /// 0 or 1.
    pub fn index(self) -> usize {
        self as usize
    }
}
