//! The configuration: one TOML file, overrides kept by the supervisor, and `--set`, in that order.
//!
//! The reference with every key is docs/quad.toml. Unknown keys are errors; nothing is guessed.

mod choice;
mod error;
mod keys;
mod overrides;
mod schema;
mod section;
mod set;
mod validate;
mod value;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use shm_protocol::frame::{PixelFormat, Rational};
use toml::Table;

pub use choice::*;
pub use error::ConfigError;
pub use keys::{KeyInfo, Located, key_info, keys, locate};
pub use overrides::Overrides;
pub use schema::{Capture, Encode, Http, Log, Net, Process, Rdp, Record, Rtp, Srt};
pub use value::{Crop, Gop, HostPort, InstanceName, MAX_FPS, Secret};

use crate::name::{KernelName, Kind, check_name};
use schema::Top;
use section::{Section, dotted, not_a_table};

/// The whole configuration, typed and checked.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Milliseconds without a sign of life after which a kernel counts as hung.
    pub hang_timeout_ms: u32,
    /// What is logged.
    pub log: Log,
    captures: BTreeMap<String, Capture>,
    processes: BTreeMap<String, Process>,
    encodes: BTreeMap<String, Encode>,
    nets: BTreeMap<String, Net>,
}

impl Config {
    /// Reads a configuration: FILE, then each `KEY=VALUE`. Without a file all keys have their defaults.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that is wrong.
    pub fn load(path: Option<&Path>, sets: &[String]) -> Result<Config, ConfigError> {
        Config::load_with(path, &Overrides::default(), sets)
    }

    /// As [`Config::load`], with kept overrides merged after the file and before `sets`.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that is wrong.
    pub fn load_with(path: Option<&Path>, overrides: &Overrides, sets: &[String]) -> Result<Config, ConfigError> {
        let mut table = match path {
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
                set::parse_table(&text, &path.display().to_string())?
            }
            None => Table::new(),
        };
        for (key, value) in overrides.iter() {
            set::insert(&mut table, key, value.clone())?;
        }
        for given in sets {
            let (key, value) = set::parse_set(given)?;
            set::insert(&mut table, &key, value)?;
        }
        Config::from_table(table)
    }

    /// Reads a configuration from TOML text.
    ///
    /// # Errors
    /// [`ConfigError`] for the first thing that is wrong.
    pub fn from_toml(text: &str) -> Result<Config, ConfigError> {
        Config::from_table(set::parse_table(text, "Configuration")?)
    }

    fn from_table(mut table: Table) -> Result<Config, ConfigError> {
        let log = take_table(&mut table, "", "log")?.unwrap_or_default();
        let captures = read_kind(&mut table, Kind::Capture, Capture::read)?;
        let processes = read_kind(&mut table, Kind::Process, Process::read)?;
        let encodes = read_kind(&mut table, Kind::Encode, Encode::read)?;
        let nets = read_kind(&mut table, Kind::Net, read_net)?;
        let top = Top::read(&table, "")?;
        let log = Log::read(&log, "log")?;
        let mut config = Config { hang_timeout_ms: top.hang_timeout_ms, log, captures, processes, encodes, nets };
        config.captures.values_mut().for_each(Capture::resolve);
        validate::validate(&config)?;
        Ok(config)
    }

    /// Names of the instances of a kind, `main` among them.
    pub fn instances(&self, kind: Kind) -> impl Iterator<Item = &str> {
        let names: Vec<&String> = match kind {
            Kind::Capture => self.captures.keys().collect(),
            Kind::Process => self.processes.keys().collect(),
            Kind::Encode => self.encodes.keys().collect(),
            Kind::Net => self.nets.keys().collect(),
        };
        names.into_iter().map(String::as_str)
    }

    /// Every kernel instance, upstream first, `main` before further ones.
    pub fn kernels(&self) -> Vec<KernelName> {
        let mut all: Vec<KernelName> = Kind::ALL
            .into_iter()
            .flat_map(|kind| self.instances(kind).map(move |name| KernelName { kind, name: name.to_owned() }))
            .collect();
        all.sort_by_key(|k| (k.kind, !k.is_main()));
        all
    }

    /// A capture instance.
    pub fn capture(&self, name: &str) -> Option<&Capture> {
        self.captures.get(name)
    }

    /// A process instance.
    pub fn process(&self, name: &str) -> Option<&Process> {
        self.processes.get(name)
    }

    /// An encode instance.
    pub fn encode(&self, name: &str) -> Option<&Encode> {
        self.encodes.get(name)
    }

    /// A net instance.
    pub fn net(&self, name: &str) -> Option<&Net> {
        self.nets.get(name)
    }

    /// Whether a kernel instance is configured.
    pub fn has(&self, kernel: &KernelName) -> bool {
        self.instances(kernel.kind).any(|name| name == kernel.name)
    }

    /// The kernel instances whose rings a kernel reads: none for capture, one for process and encode,
    /// one or more for net.
    pub fn inputs(&self, kernel: &KernelName) -> Vec<KernelName> {
        let name = kernel.name.as_str();
        match kernel.kind {
            Kind::Capture => Vec::new(),
            Kind::Process => self.process(name).map(|p| p.input.clone()).into_iter().collect(),
            Kind::Encode => self.encode(name).map(|e| e.input.clone()).into_iter().collect(),
            Kind::Net => {
                let named = self.net(name).map(Net::encodes).unwrap_or_default();
                let mut inputs: Vec<KernelName> = named.into_iter().map(|(_, encode)| encode).collect();
                inputs.sort();
                inputs.dedup();
                inputs
            }
        }
    }

    /// The kernel instances that read a kernel's ring, in the order of [`Config::kernels`].
    pub fn readers(&self, kernel: &KernelName) -> Vec<KernelName> {
        self.kernels().into_iter().filter(|reader| self.inputs(reader).contains(kernel)).collect()
    }

    /// The cpus a kernel is told to run on; `None` means automatic placement.
    pub fn cpus(&self, kernel: &KernelName) -> Option<&crate::pin::CpuSet> {
        let name = kernel.name.as_str();
        match kernel.kind {
            Kind::Capture => self.capture(name)?.cpus.as_ref(),
            Kind::Process => self.process(name)?.cpus.as_ref(),
            Kind::Encode => self.encode(name)?.cpus.as_ref(),
            Kind::Net => self.net(name)?.cpus.as_ref(),
        }
    }

    /// Whether a kernel keeps a standby.
    pub fn standby(&self, kernel: &KernelName) -> bool {
        let name = kernel.name.as_str();
        match kernel.kind {
            Kind::Capture => false,
            Kind::Process => self.process(name).is_some_and(|p| p.standby),
            Kind::Encode => self.encode(name).is_some_and(|e| e.standby),
            Kind::Net => self.net(name).is_some_and(|n| n.standby),
        }
    }

    /// Slots of a kernel's output ring; `None` for net, which has none.
    pub fn slots(&self, kernel: &KernelName) -> Option<u32> {
        let name = kernel.name.as_str();
        match kernel.kind {
            Kind::Capture => self.capture(name).map(|c| c.slots),
            Kind::Process => self.process(name).map(|p| p.slots),
            Kind::Encode => self.encode(name).map(|e| e.slots),
            Kind::Net => None,
        }
    }

    /// How many frames a process instance may publish by reference at a time: a quarter of its input's slots, or its
    /// waiting frames would pin every slot of the input, and `live` could then only drop newer ones.
    pub fn by_reference_depth(&self, process: &str) -> Option<u32> {
        let process = self.process(process)?;
        let capture = self.capture(&process.input.name)?;
        Some((capture.slots / 4).max(1).min(process.slots))
    }

    /// Refuses cpus that are not online on this machine.
    ///
    /// # Errors
    /// [`ConfigError::NoSuchCpu`] for the first.
    pub fn validate_cpus(&self, online: &crate::pin::CpuSet) -> Result<(), ConfigError> {
        for kernel in self.kernels() {
            if let Some(cpu) = self.cpus(&kernel).and_then(|cpus| cpus.iter().find(|cpu| !online.contains(*cpu))) {
                let key = dotted(&kernel.config_path(), "cpus");
                return Err(ConfigError::NoSuchCpu { key, cpu, online: format!("cpus {online}") });
            }
        }
        Ok(())
    }

    /// The configuration as it is in effect, as TOML; secrets are left out.
    pub fn effective_toml(&self) -> String {
        let mut out = String::new();
        let top = Top { hang_timeout_ms: self.hang_timeout_ms };
        write_entries(&mut out, None, &top.entries());
        write_entries(&mut out, Some("log"), &self.log.entries());
        for kernel in self.kernels() {
            let (at, name) = (kernel.config_path(), kernel.name.as_str());
            match kernel.kind {
                Kind::Capture => self.capture(name).map(|s| write_entries(&mut out, Some(&at), &s.entries())),
                Kind::Process => self.process(name).map(|s| write_entries(&mut out, Some(&at), &s.entries())),
                Kind::Encode => self.encode(name).map(|s| write_entries(&mut out, Some(&at), &s.entries())),
                Kind::Net => self.net(name).map(|s| write_net(&mut out, &at, kernel.is_main(), s)),
            };
        }
        out
    }
}

impl Default for Config {
    fn default() -> Self {
        let main = || KernelName::MAIN.to_owned();
        let mut capture = Capture::default();
        capture.resolve();
        let mut net = Net { rtp: Some(Rtp::default()), http: Some(Http::default()), ..Net::default() };
        net.resolve();
        Config {
            hang_timeout_ms: Top::default().hang_timeout_ms,
            log: Log::default(),
            captures: BTreeMap::from([(main(), capture)]),
            processes: BTreeMap::from([(main(), Process::default())]),
            encodes: BTreeMap::from([(main(), Encode::default())]),
            nets: BTreeMap::from([(main(), net)]),
        }
    }
}

impl Capture {
    /// Fills in what the pattern source has when nothing is said; other sources know their own format.
    fn resolve(&mut self) {
        if self.source == Source::Pattern {
            self.format.get_or_insert(PixelFormat::Nv12);
            // One side alone stays alone: the check of the whole says that the other is missing.
            if self.width.is_none() && self.height.is_none() {
                (self.width, self.height) = (Some(1280), Some(720));
            }
            self.fps.get_or_insert(Rational { num: 60, den: 1 });
            self.barcode = true;
        }
    }

    /// Nanoseconds a frame may wait at a pixel ring in `live`: as configured, else three frame intervals.
    pub fn max_latency_ns(&self, fps: Rational) -> u64 {
        self.max_latency_ms.map_or_else(|| fps.frame_time_ns(3), |ms| u64::from(ms) * 1_000_000)
    }
}

impl Encode {
    /// The largest bitrate of vbr, kilobit per second: as configured, else one and a half times the target.
    pub fn peak_bitrate_kbps(&self) -> u32 {
        self.max_bitrate_kbps.unwrap_or(self.bitrate_kbps.saturating_add(self.bitrate_kbps / 2))
    }
}

impl Net {
    /// Each output's key that names its encode instance, with that instance, in the order of the reference.
    fn encodes(&self) -> Vec<(&'static str, KernelName)> {
        let named = [
            ("rtp.encode", self.rtp.as_ref().map(Rtp::encode_name)),
            ("http.encode", self.http.as_ref().map(Http::encode_name)),
            ("rdp.encode", self.rdp.as_ref().map(Rdp::encode_name)),
            ("srt.encode", self.srt.as_ref().map(Srt::encode_name)),
            ("record.encode", self.record.as_ref().map(Record::encode_name)),
        ];
        let kernel = |name: &str| KernelName { kind: Kind::Encode, name: name.to_owned() };
        named.into_iter().filter_map(|(key, name)| Some((key, kernel(name?)))).collect()
    }

    /// Gives every output that names no encoder the one of `input`.
    fn resolve(&mut self) {
        let input = InstanceName(self.input.name.clone());
        let encodes = [
            self.rtp.as_mut().map(|o| &mut o.encode),
            self.http.as_mut().map(|o| &mut o.encode),
            self.rdp.as_mut().map(|o| &mut o.encode),
            self.srt.as_mut().map(|o| &mut o.encode),
            self.record.as_mut().map(|o| &mut o.encode),
        ];
        for encode in encodes.into_iter().flatten() {
            encode.get_or_insert_with(|| input.clone());
        }
    }
}

macro_rules! encode_name {
    ($($output:ident),+) => {
        $(impl $output {
            /// The name of the encode instance that feeds this output.
            pub fn encode_name(&self) -> &str {
                self.encode.as_ref().map_or(KernelName::MAIN, |name| name.0.as_str())
            }
        })+
    };
}
encode_name!(Rtp, Http, Rdp, Srt, Record);

/// Takes a table out of its parent.
fn take_table(parent: &mut Table, at: &str, key: &str) -> Result<Option<Table>, ConfigError> {
    match parent.remove(key) {
        None => Ok(None),
        Some(toml::Value::Table(table)) => Ok(Some(table)),
        Some(other) => Err(not_a_table(&dotted(at, key), &other)),
    }
}

/// Reads `[kind]` and `[kind.instances.NAME]`.
fn read_kind<T>(
    top: &mut Table,
    kind: Kind,
    read: impl Fn(&Table, &str) -> Result<T, ConfigError>,
) -> Result<BTreeMap<String, T>, ConfigError> {
    let mut main = take_table(top, "", kind.name())?.unwrap_or_default();
    let instances = take_table(&mut main, kind.name(), "instances")?.unwrap_or_default();
    let mut all = BTreeMap::from([(KernelName::MAIN.to_owned(), read(&main, kind.name())?)]);
    for (name, value) in instances {
        let at = format!("{kind}.instances.{name}");
        if let Err(error) = check_name(&name) {
            return Err(ConfigError::conflict(at, error.to_string()));
        }
        if name == KernelName::MAIN {
            return Err(ConfigError::conflict(at, format!("The instance main is [{kind}] itself")));
        }
        let toml::Value::Table(table) = value else { return Err(not_a_table(&at, &value)) };
        all.insert(name, read(&table, &at)?);
    }
    Ok(all)
}

/// Reads `[net]` or a further instance with its outputs. In the first RTP and HTTP are on without being named.
fn read_net(table: &Table, at: &str) -> Result<Net, ConfigError> {
    fn output<T: Section + Default>(
        table: &Table,
        at: &str,
        key: &str,
        by_itself: bool,
    ) -> Result<Option<T>, ConfigError> {
        match table.get(key) {
            None => Ok(by_itself.then(T::default)),
            Some(toml::Value::Table(output)) => {
                let read = T::read(output, &dotted(at, key))?;
                let on = output.get("enabled").and_then(toml::Value::as_bool).unwrap_or(true);
                Ok(on.then_some(read))
            }
            Some(other) => Err(not_a_table(&dotted(at, key), other)),
        }
    }
    let mut net = Net::read(table, at)?;
    let first = at == Net::PATH;
    net.rtp = output(table, at, "rtp", first)?;
    net.http = output(table, at, "http", first)?;
    net.rdp = output(table, at, "rdp", false)?;
    net.srt = output(table, at, "srt", false)?;
    net.record = output(table, at, "record", false)?;
    net.resolve();
    Ok(net)
}

fn write_entries(out: &mut String, at: Option<&str>, entries: &[(&'static str, toml::Value)]) {
    // Writing to a String cannot fail.
    if let Some(at) = at {
        let _ = writeln!(out, "\n[{at}]");
    }
    for (key, value) in entries {
        let _ = writeln!(out, "{key} = {value}");
    }
}

fn write_net(out: &mut String, at: &str, first: bool, net: &Net) {
    fn output<T: Section>(out: &mut String, at: &str, key: &str, output: Option<&T>, by_itself: bool) {
        let at = dotted(at, key);
        match output {
            Some(output) => {
                write_entries(out, Some(&at), &output.entries());
            }
            None if by_itself => write_entries(out, Some(&at), &[("enabled", toml::Value::Boolean(false))]),
            None => {}
        }
    }
    write_entries(out, Some(at), &net.entries());
    output(out, at, "rtp", net.rtp.as_ref(), first);
    output(out, at, "http", net.http.as_ref(), first);
    output(out, at, "rdp", net.rdp.as_ref(), false);
    output(out, at, "srt", net.srt.as_ref(), false);
    output(out, at, "record", net.record.as_ref(), false);
}

#[cfg(test)]
mod tests;
