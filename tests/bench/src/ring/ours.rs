//! This product's rings: real objects, real leases, the whole crash-safe path.
#![expect(unsafe_code, reason = "reads the message where it lies")]

use super::hand::{Hand, Side};
use super::page::Page;
use anyhow::{Result, anyhow};
use shm_protocol::attach::{Content, Policy, RingSpec, RoleSpec};
use shm_protocol::clock::monotonic_ns;
use shm_protocol::descriptor::FrameHead;
use shm_protocol::input::{Consumer, Taken};
use shm_protocol::lease::{Candidate, Lease, LeaseTable};
use shm_protocol::output::{Claim, Producer};
use shm_protocol::pool::{PoolDirectory, PoolKind};
use shm_protocol::slot::Key;
use std::path::Path;
use std::sync::Arc;

/// Slots of each ring: the default of the configuration.
const SLOTS: usize = 16;
/// Bytes of a buffer: the least there is.
const BUFFER_BYTES: u64 = 4096;
/// A sleeper looks again after this, so that a partner that died does not hold us for ever.
const LONGEST_SLEEP_NS: u64 = 1_000_000_000;

/// How a reader waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Waiting {
    /// Looks at the slot until something is there.
    Polling,
    /// Sleeps on the bell, without spinning first.
    Sleeping,
}

/// One end of two rings.
pub struct Ours {
    producer: Producer,
    consumer: Consumer,
    claim: Option<Claim>,
    taken: Option<Taken>,
    next_id: u64,
    waiting: Waiting,
    #[expect(dead_code, reason = "its end would fence both handles")]
    lease: Lease,
}

fn name(side: Side, waiting: Waiting) -> &'static str {
    match (side, waiting) {
        (Side::Ping, Waiting::Polling) => "capture.polling",
        (Side::Pong, Waiting::Polling) => "process.polling",
        (Side::Ping, Waiting::Sleeping) => "capture.sleeping",
        (Side::Pong, Waiting::Sleeping) => "process.sleeping",
    }
}

impl Ours {
    /// Opens both rings; the two processes meet on the way.
    pub fn open(instance: &str, dir: &Path, page: &Page, waiting: Waiting) -> Result<Ours> {
        let (own, other) = (name(page.side(), waiting), name(page.side().other(), waiting));
        let table = LeaseTable::join(instance)?;
        let lease = Candidate::enter(&table, own, true)?.try_activate()?.map_err(|_| anyhow!("{own} is held"))?;
        lease.running();
        let directory = Arc::<PoolDirectory>::default();
        let spec = RingSpec {
            kernel: own.to_owned(),
            content: Content::Pixels,
            policy: Policy::Lossless,
            slots: SLOTS,
            max_latency_ns: 0,
            roles: vec![RoleSpec { kernel: other.to_owned(), required: true }],
        };
        let (mut producer, _) = Producer::open(&lease, &spec, &directory)?;
        producer.set_pool(PoolKind::PosixShm, BUFFER_BYTES, dir)?;
        page.meet();
        let consumer = Consumer::attach(&lease, own, other, &directory, dir)?;
        page.meet();
        Ok(Ours { producer, consumer, claim: None, taken: None, next_id: 1, waiting, lease })
    }
}

/// Looks at the slot that is expected before the whole ring is looked at: some microseconds.
const LOOKS: usize = 1000;

impl Hand for Ours {
    fn prepare(&mut self) -> Result<()> {
        while self.claim.is_none() {
            self.claim = self.producer.claim()?;
        }
        Ok(())
    }

    fn send(&mut self, value: u64) -> Result<()> {
        self.prepare()?;
        let Some(claim) = self.claim.take() else { return Ok(()) };
        self.producer.buffer(&claim)[..8].copy_from_slice(&value.to_ne_bytes());
        let head = FrameHead {
            key: Key::whole(self.next_id),
            buffer: self.producer.extent(&claim, 0, 8),
            ..FrameHead::default()
        };
        self.next_id += 1;
        self.producer.publish_head(claim, &head)?;
        Ok(())
    }

    fn receive(&mut self) -> Result<u64> {
        let taken = loop {
            if self.waiting == Waiting::Polling {
                // A full ring is filled wherever a slot is free, not where the next frame is expected.
                for _ in 0..LOOKS {
                    if self.consumer.looks_ready() {
                        break;
                    }
                    std::hint::spin_loop();
                }
            }
            if let Some(taken) = self.consumer.acquire()? {
                break taken;
            }
            if self.waiting == Waiting::Sleeping {
                self.consumer.wait(0, monotonic_ns() + LONGEST_SLEEP_NS, None);
            }
        };
        let (base, _) = self.consumer.bytes(&taken)?;
        self.taken = Some(taken);
        // SAFETY: eight bytes of a page-aligned buffer that stays mapped and ours until `finish`.
        Ok(unsafe { base.cast::<u64>().read_volatile() })
    }

    fn finish(&mut self) -> Result<()> {
        match self.taken.take() {
            Some(taken) => Ok(self.consumer.release(&taken)?),
            None => Ok(()),
        }
    }
}
