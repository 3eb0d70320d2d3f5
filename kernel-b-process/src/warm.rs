//! What kernel B makes ready before it holds its lease: the engine for the frames that are in the ring now, run once
//! on a private copy of one of them.

use crate::configured::wish;
use crate::engine::{Conversion, Engine, Plan, plan};
use crate::engines::cpu::CpuEngine;
use kernel_host::exit::{Exit, Failure};
use kernel_host::prepare::{Prepare, Surroundings};
use shm_protocol::descriptor::StreamFormat;
use shm_protocol::frame::VideoFormat;
use shm_protocol::pixels::{PixelsRead, PixelsWrite};

/// What a candidate keeps for the time when it processes.
#[derive(Default)]
pub struct Warm {
    /// The format it was made for; kept when nothing is to be done with it.
    prepared: Option<VideoFormat>,
    engine: Option<(Box<Conversion>, Box<dyn Engine>)>,
}

impl Warm {
    /// The engine that was built for this very conversion, if there is one.
    pub fn take(&mut self, wanted: &Conversion) -> Option<Box<dyn Engine>> {
        self.prepared = None;
        self.engine.take().filter(|(conversion, _)| **conversion == *wanted).map(|(_, engine)| engine)
    }
}

impl Prepare for Warm {
    fn prepare(&mut self, around: &Surroundings<'_>) -> Result<Option<String>, Failure> {
        let Some(config) = around.config.process(&around.name.name) else { return Ok(None) };
        around.output()?;
        let Some(input) = around.input(&config.input)? else { return Ok(None) };
        let Some(StreamFormat::Video(format)) = input.format() else { return Ok(None) };
        if self.prepared == Some(format) {
            return Ok(None);
        }
        self.engine = None;
        let planned = plan(&format, &wish(config)).map_err(|error| Failure::recover(error.recovery(), error))?;
        let Plan::Convert(conversion) = planned else {
            self.prepared = Some(format);
            return Ok(Some("by reference".to_owned()));
        };
        let Some(frame) = input.copy_newest(around.directory) else { return Ok(None) };
        let mut engine: Box<dyn Engine> = Box::new(CpuEngine::new(&conversion));
        let ran = around.aside(|| run_once(engine.as_mut(), &conversion, &frame))?;
        ran.map_err(|error| Failure::new(Exit::Temporary, error))?;
        let what = format!("{} {}, ran on a private frame", engine.name(), engine.path());
        self.prepared = Some(format);
        self.engine = Some((conversion, engine));
        Ok(Some(what))
    }
}

fn run_once(engine: &mut dyn Engine, conversion: &Conversion, frame: &[u8]) -> Result<(), String> {
    let mut bytes = vec![0; conversion.output.frame_bytes() as usize];
    let input = PixelsRead::from_slice(&conversion.input, frame).map_err(|error| error.to_string())?;
    let mut output = PixelsWrite::new(&conversion.output, &mut bytes).map_err(|error| error.to_string())?;
    engine.run(&input, &mut output).map_err(|error| error.to_string())
}
