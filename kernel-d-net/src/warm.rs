//! What kernel D makes ready before it holds its lease: everything but its session and its ports, which its
//! predecessor still uses.

use crate::configured::{inputs, refuse_absent};
use crate::outputs::http::HttpRuntime;
use kernel_host::exit::Failure;
use kernel_host::name::{KernelName, Kind};
use kernel_host::prepare::{Prepare, Surroundings};

/// What a candidate keeps for the time when it sends.
#[derive(Default)]
pub struct Warm {
    /// For the watch page.
    pub runtime: Option<HttpRuntime>,
    prepared: bool,
}

impl Prepare for Warm {
    fn prepare(&mut self, around: &Surroundings<'_>) -> Result<Option<String>, Failure> {
        let Some(net) = around.config.net(&around.name.name) else { return Ok(None) };
        refuse_absent(net)?;
        let mut all_there = true;
        for name in inputs(net) {
            all_there &= around.input(&KernelName::new(Kind::Encode, &name).map_err(Failure::from)?)?.is_some();
        }
        if self.runtime.is_none() && net.http.as_ref().is_some_and(|o| o.enabled) {
            self.runtime = Some(HttpRuntime::new().map_err(|error| Failure::recover(error.recovery(), error))?);
        }
        let had = std::mem::replace(&mut self.prepared, all_there);
        Ok((self.prepared && !had).then(|| "all but session and ports".to_owned()))
    }
}
