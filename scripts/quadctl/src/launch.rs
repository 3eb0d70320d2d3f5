//! What an instance was started with: kept beside its sockets, so that every later command sees the same configuration.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use kernel_host::config::{Config, Overrides, locate};
use kernel_host::exit::{Exit, Failure, chain};
use kernel_host::name::{KernelName, Kind};
use kernel_host::pin::online_cpus;
use kernel_host::runtime::RuntimeDir;
use serde::{Deserialize, Serialize};

/// Names the directory of the kernels' binaries when they are not beside this one.
pub const BIN_DIR_VARIABLE: &str = "QUAD_BIN_DIR";

/// The arguments of `up` that kernels are started with, also again.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Launch {
    /// Configuration file, absolute.
    pub config: Option<PathBuf>,
    /// `--set` in their order.
    pub sets: Vec<String>,
    /// Where the kernels' binaries are.
    pub bin_dir: PathBuf,
}

impl Launch {
    /// From the command line of `up`.
    pub fn new(config: Option<&Path>, sets: &[String]) -> Result<Launch, Failure> {
        let config = match config {
            Some(path) => Some(path.canonicalize().map_err(|source| {
                Failure::from(kernel_host::config::ConfigError::Read { path: path.to_owned(), source })
            })?),
            None => None,
        };
        Ok(Launch { config, sets: sets.to_vec(), bin_dir: bin_dir()? })
    }

    fn file(runtime: &RuntimeDir) -> PathBuf {
        runtime.path().join("supervisor.json")
    }

    /// What the running instance was started with; `None` when nothing was kept.
    pub fn load(runtime: &RuntimeDir) -> Option<Launch> {
        serde_json::from_slice(&fs::read(Launch::file(runtime)).ok()?).ok()
    }

    /// Keeps it, for the owner alone: a token may be among the settings.
    pub fn save(&self, runtime: &RuntimeDir) -> Result<(), Failure> {
        let path = Launch::file(runtime);
        let temporary = path.with_extension("json.new");
        let write = || -> std::io::Result<()> {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|error| {
            Failure::new(Exit::Temporary, format!("Cannot write {}: {error}; is the disk full?", path.display()))
        })
    }

    /// The configuration in effect: file, overrides of `set` and `swap` as far as they can be read, `--set`.
    pub fn configuration(&self, runtime: &RuntimeDir) -> Result<Config, Failure> {
        let (overrides, _) = kept_overrides(runtime);
        let config = Config::load_with(self.config.as_deref(), &overrides, &self.sets)?;
        config.validate_cpus(&online_cpus()?)?;
        Ok(config)
    }

    /// The binary of a kind of kernel.
    pub fn binary(&self, kind: Kind) -> PathBuf {
        self.bin_dir.join(kind.binary())
    }

    /// The command line of one kernel process, without the binary.
    pub fn arguments(&self, instance: &str, kernel: &KernelName, cpus: Option<&str>, standby: bool) -> Vec<String> {
        let mut line = Vec::new();
        if let Some(config) = &self.config {
            line.extend(["--config".to_owned(), config.display().to_string()]);
        }
        line.extend(["--instance".to_owned(), instance.to_owned(), "--name".to_owned(), kernel.name.clone()]);
        line.extend(self.sets.iter().flat_map(|set| ["--set".to_owned(), set.clone()]));
        if let Some(cpus) = cpus {
            line.extend(["--set".to_owned(), format!("{}.cpus=\"{cpus}\"", kernel.config_path())]);
        }
        if standby {
            line.push("--standby".to_owned());
        }
        line
    }

    /// Moves settings of live keys over to the overrides: on a kernel's command line they would go before every later
    /// `set`.
    ///
    /// # Errors
    /// What is wrong with a setting, or why the overrides cannot be written.
    pub fn keep_live_sets(&mut self, runtime: &RuntimeDir) -> Result<(), Failure> {
        let is_live = |set: &String| {
            set.split_once('=').is_some_and(|(key, _)| locate(key.trim()).is_ok_and(|located| located.info.live))
        };
        let (live, fixed): (Vec<String>, Vec<String>) = self.sets.drain(..).partition(is_live);
        self.sets = fixed;
        if live.is_empty() {
            return Ok(());
        }
        let mut overrides = overrides_to_change(runtime);
        for set in &live {
            overrides.set(set)?;
        }
        Ok(overrides.save(&runtime.overrides())?)
    }
}

/// The overrides that `set` and `swap` have left, or none and why they are not in effect. A damaged file must keep
/// nobody from supervising a stream that goes on: kernels start without what it held, too.
pub fn kept_overrides(runtime: &RuntimeDir) -> (Overrides, Option<String>) {
    match Overrides::load(&runtime.overrides()) {
        Ok(overrides) => (overrides, None),
        Err(error) => {
            let path = runtime.overrides();
            (Overrides::default(), Some(format!("What {} held is not in effect: {}", path.display(), chain(&error))))
        }
    }
}

/// The overrides, for somebody who will write them anew. A damaged file is put aside, so that a person can look at what
/// it held.
pub fn overrides_to_change(runtime: &RuntimeDir) -> Overrides {
    let (overrides, lost) = kept_overrides(runtime);
    if let Some(lost) = lost {
        let path = runtime.overrides();
        let aside = path.with_extension("toml.damaged");
        tracing::error!(aside = %aside.display(), "{lost}; the file is put aside");
        // If that fails it is written over, which is no worse.
        let _ = fs::rename(&path, &aside);
    }
    overrides
}

/// The directory of the build that this command belongs to: QUAD_BIN_DIR, else where its own program lies.
///
/// # Errors
/// [`Exit::Usage`] when QUAD_BIN_DIR names none.
pub fn bin_dir() -> Result<PathBuf, Failure> {
    if let Some(dir) = std::env::var_os(BIN_DIR_VARIABLE).filter(|dir| !dir.is_empty()) {
        let dir = PathBuf::from(dir);
        return dir.canonicalize().map_err(|error| {
            Failure::new(Exit::Usage, format!("{BIN_DIR_VARIABLE}={} cannot be used: {error}", dir.display()))
        });
    }
    let own = std::env::current_exe().map_err(|error| Failure::new(Exit::Internal, error))?;
    Ok(own.parent().map(Path::to_owned).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_gets_the_launch_then_its_own_cpus() {
        let launch = Launch {
            config: Some("/etc/quad.toml".into()),
            sets: vec!["encode.qp=3".into(), "capture.fps=30".into()],
            bin_dir: "/bin".into(),
        };
        let web: KernelName = "encode.web".parse().unwrap();
        let line = launch.arguments("demo", &web, Some("1-2"), true).join(" ");
        assert_eq!(
            line,
            "--config /etc/quad.toml --instance demo --name web --set encode.qp=3 --set capture.fps=30 \
             --set encode.instances.web.cpus=\"1-2\" --standby"
        );
        let main = KernelName::main(Kind::Net);
        let plain = Launch::default();
        assert_eq!(plain.arguments("default", &main, None, false).join(" "), "--instance default --name main");
        assert_eq!(launch.binary(Kind::Capture), Path::new("/bin/kernel-a-capture"));
    }

    #[test]
    fn placed_cpus_are_understood_by_the_kernel() {
        let set = Launch::default().arguments("d", &KernelName::main(Kind::Encode), Some("0,2-3"), false)[5].clone();
        let config = Config::load(None, &[set]).unwrap();
        assert_eq!(config.cpus(&KernelName::main(Kind::Encode)).unwrap().to_string(), "0,2-3");
    }

    #[test]
    fn settings_of_live_keys_are_kept_where_a_later_one_replaces_them() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = RuntimeDir::locate_in(folder.path(), "demo").unwrap();
        runtime.create().unwrap();
        let sets = ["encode.bitrate_kbps = 5000", "capture.fps=30", "encode.instances.web.bitrate_kbps=900"];
        let mut launch = Launch { sets: sets.map(str::to_owned).to_vec(), ..Launch::default() };
        let before = launch.configuration(&runtime).unwrap();
        launch.keep_live_sets(&runtime).unwrap();
        assert_eq!(launch.sets, ["capture.fps=30"]);
        assert_eq!(launch.configuration(&runtime).unwrap(), before);
    }

    #[test]
    fn damaged_overrides_are_left_out_and_put_aside_before_others_are_written() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = RuntimeDir::locate_in(folder.path(), "demo").unwrap();
        runtime.create().unwrap();
        for damaged in [&b"{{{{"[..], &[0xff; 9], b"\"encode.nothing\" = 1\n"] {
            fs::write(runtime.overrides(), damaged).unwrap();
            let mut launch = Launch { sets: vec!["capture.fps=30".into()], ..Launch::default() };
            let bare = Config::load(None, &launch.sets).unwrap();
            assert_eq!(launch.configuration(&runtime).unwrap(), bare);
            assert!(kept_overrides(&runtime).1.unwrap().contains("overrides.toml"));
            launch.keep_live_sets(&runtime).unwrap();
            assert_eq!(fs::read(runtime.overrides()).unwrap(), damaged, "nothing to write, nothing touched");
            launch.sets.push("encode.bitrate_kbps=5000".into());
            launch.keep_live_sets(&runtime).unwrap();
            assert_eq!(fs::read_to_string(runtime.overrides()).unwrap(), "\"encode.bitrate_kbps\" = 5000\n");
            assert_eq!(fs::read(runtime.path().join("overrides.toml.damaged")).unwrap(), damaged);
        }
    }

    #[test]
    fn what_was_kept_is_read_back() {
        let folder = tempfile::tempdir().unwrap();
        let runtime = RuntimeDir::locate_in(folder.path(), "demo").unwrap();
        runtime.create().unwrap();
        assert_eq!(Launch::load(&runtime), None);
        let launch = Launch { sets: vec!["net.http.token=x".into()], ..Launch::default() };
        launch.save(&runtime).unwrap();
        assert_eq!(Launch::load(&runtime), Some(launch));
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(Launch::file(&runtime)).unwrap());
        assert_eq!(mode & 0o777, 0o600);
    }
}
