//! What a candidate does before it waits for its lease (PROTOCOL, leases, L2): maps what it will read and write,
//! opens what can be opened twice, warms up on a private frame. Nothing of it can be seen from outside.

use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::kernel::object;
use crate::name::KernelName;
use crate::runtime::RuntimeDir;
use shm_protocol::error::ObjectError;
use shm_protocol::lease::LeaseTable;
use shm_protocol::pool::PoolDirectory;
use shm_protocol::preview::Preview;
use std::sync::Arc;

/// What a candidate may look at.
pub struct Surroundings<'a> {
    /// Which kernel it is to become.
    pub name: &'a KernelName,
    /// The configuration in effect.
    pub config: &'a Config,
    /// Sockets, logs, outputs.
    pub runtime: &'a RuntimeDir,
    /// Pools mapped here; what is entered now is found by the rings later.
    pub directory: &'a Arc<PoolDirectory>,
    pub(crate) table: &'a Arc<LeaseTable>,
}

/// A kernel's own part in preparing, and what it keeps of it for the time when it holds the lease.
pub trait Prepare {
    /// Brings what is kept up to date with the rings as they are. Called until the lease comes: before this process
    /// says that it is ready, and then ten times a second, so it must see cheaply that nothing has changed.
    /// Returns what was made anew, for the log.
    ///
    /// # Errors
    /// [`Failure`] when this process could not carry the stream either: it ends, and whoever holds the lease goes on.
    fn prepare(&mut self, around: &Surroundings<'_>) -> Result<Option<String>, Failure>;
}

impl Surroundings<'_> {
    /// The ring that `producer` writes, its pools mapped for reading. `None`: there is none yet.
    ///
    /// # Errors
    /// [`Failure`] for a ring of another ABI.
    pub fn input(&self, producer: &KernelName) -> Result<Option<Preview>, Failure> {
        self.look(producer, false)
    }

    /// The ring that this kernel is to write, its newest pool mapped for writing. `None`: there is none yet.
    ///
    /// # Errors
    /// [`Failure`] for a ring of another ABI.
    pub fn output(&self) -> Result<Option<Preview>, Failure> {
        self.look(self.name, true)
    }

    fn look(&self, kernel: &KernelName, own: bool) -> Result<Option<Preview>, Failure> {
        match Preview::open(self.runtime.instance(), &kernel.to_string()) {
            Ok(ring) => {
                ring.map_pools(own, self.table, self.directory, self.runtime.path());
                Ok(Some(ring))
            }
            Err(ObjectError::Missing { .. } | ObjectError::Damaged { .. }) => Ok(None),
            Err(error) => Err(object(error)),
        }
    }

    /// Whether the stream waits for this process: its predecessor is gone. What only makes the start smoother
    /// is then left out.
    pub fn is_urgent(&self) -> bool {
        let info = self.table.find(&self.name.to_string()).map(|index| self.table.info(index));
        // Held by ourselves: the lease came while we were still preparing.
        info.is_none_or(|info| !info.held || info.pid == std::process::id())
    }

    /// Does work that must not take the processor from the running stream: in a thread that steps back.
    ///
    /// # Errors
    /// [`Failure`] when the system gives no thread.
    pub fn aside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> Result<R, Failure> {
        /// A tenth of the share of an equal. At the very lowest, a busy processor would keep a successor waiting for
        /// longer than a swap waits for it.
        const NICE: i32 = 10;
        std::thread::scope(|scope| {
            let warm_up = || {
                // On Linux this is the thread's, and ends with it. Without it the work is done all the same.
                let _ = rustix::process::setpriority_process(None, NICE);
                work()
            };
            let thread = std::thread::Builder::new()
                .name("warm-up".to_owned())
                .spawn_scoped(scope, warm_up)
                .map_err(|error| Failure::new(Exit::Internal, error))?;
            thread.join().map_err(|panic| std::panic::resume_unwind(panic))
        })
    }
}
