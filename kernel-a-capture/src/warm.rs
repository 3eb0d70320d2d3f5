//! What kernel A makes ready before it holds its lease: its pool. The source itself is opened with the lease, for it
//! begins where the predecessor ended, and a device or a pipe has one reader.

use kernel_host::exit::Failure;
use kernel_host::prepare::{Prepare, Surroundings};

/// Whether the pool was mapped.
#[derive(Default)]
pub struct Warm {
    mapped: bool,
}

impl Prepare for Warm {
    fn prepare(&mut self, around: &Surroundings<'_>) -> Result<Option<String>, Failure> {
        around.output()?;
        let had = std::mem::replace(&mut self.mapped, around.directory.total_bytes() > 0);
        Ok((self.mapped && !had).then(|| "pool".to_owned()))
    }
}
